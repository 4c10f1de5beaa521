"""Publishers that cut, drip, lie or send something else, over real sockets on loopback."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import socket
import threading
import urllib.parse

import pytest
from server import Server

from engram import credentials, sources
from engram.errors import InputError
from engram.sources import File, github, http, huggingface, osf, read_lock, s3, write_lock
from engram.web import addresses
from engram.web.client import Limits, read
from engram.web.transfer import fetch

QUICK = Limits(
    connect=2, read=1, headers=0.5, page=0.5, rate=1000, window=0.3, retries=1, backoff=0.01,
    longest_wait=0.05,
)  # fmt: skip
DATA = os.urandom(50_000)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def server():
    with Server() as this:
        yield this


@contextlib.contextmanager
def saying(answer):
    """The address of a server that does `answer(connection, closing)` with every request."""
    closing, listening = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection):
        with connection, contextlib.suppress(OSError):
            while b"\r\n\r\n" not in connection.recv(65536):
                pass
            answer(connection, closing)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/file.bin"
    finally:
        closing.set()
        listening.close()


def dripping(first, drop):
    """An answer that begins with `first` and then sends `drop` again and again."""

    def answer(connection, closing):
        connection.sendall(first)
        while not closing.wait(0.02):
            connection.sendall(drop)

    return answer


def flooding(first, drop):
    """An answer that begins with `first` and then sends `drop` as fast as it can."""

    def answer(connection, closing):
        connection.sendall(first)
        while not closing.is_set():
            connection.sendall(drop * (1 + 65536 // len(drop)))

    return answer


def once(said):
    return lambda connection, closing: connection.sendall(said)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- what is no whole file -------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["unlimited once", "unlimited never"])
def test_a_body_that_only_the_connection_ends_is_no_file(server, tmp_path, fault):
    url = server.publish("a.bin", DATA, fault)
    with pytest.raises(InputError, match="does not say where the file ends"):
        fetch(url, tmp_path / "a.bin", limits=QUICK)
    assert left(tmp_path) == []
    fetch(server.publish("a.bin", DATA), tmp_path / "a.bin", limits=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked ", "identity\r\nX: y", "gzip"])
def test_a_coding_that_would_be_kept_in_the_file_is_refused(tmp_path, coding):
    body = b"5\r\nhello\r\n0\r\n\r\n"
    length = b"Content-Length: %d\r\n" % len(body)
    head = HEAD + length + b"Transfer-Encoding: " + coding.encode() + b"\r\n\r\n"
    with saying(once(head + body)) as url, pytest.raises(InputError, match="in the coding"):
        fetch(url, tmp_path / "a.bin", limits=QUICK)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "body",
    [
        b"<!-- who -->\n<!-- are you -->\n<!DOCTYPE html><html>no</html>",
        "<!doctype html><html>no</html>".encode("utf-16"),
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        b'{"error": {"code": 404, "message": "gone"}}',
    ],
)
def test_an_error_document_is_no_file(server, tmp_path, body):
    url = server.publish("a.bin", body)
    with pytest.raises(InputError, match="came instead of the file"):
        fetch(url, tmp_path / "a.bin", limits=QUICK)
    assert left(tmp_path) == []


def test_what_is_kept_of_an_earlier_attempt_is_read_again(server, tmp_path):
    url = server.publish("a.bin", DATA, "cut always")
    with pytest.raises(InputError, match="cut"):
        fetch(url, tmp_path / "a.bin", limits=QUICK)
    part, notes = (tmp_path / name for name in left(tmp_path))
    part, notes = (part, notes) if part.suffix == ".part" else (notes, part)
    assert json.loads(notes.read_text())["came"] == part.stat().st_size > 0
    broken = bytearray(part.read_bytes())
    broken[5] ^= 1
    part.write_bytes(broken)
    server.publish("a.bin", DATA)
    fetch(url, tmp_path / "a.bin", limits=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    "broken", [{"came": "x"}, {"came": -5}, {"came": None}, {"size": [1]}, {"size": 1.5}]
)
def test_notes_that_are_broken_are_not_used(server, tmp_path, broken):
    url = server.publish("a.bin", DATA, "cut always")
    with pytest.raises(InputError, match="cut"):
        fetch(url, tmp_path / "a.bin", limits=QUICK)
    notes = tmp_path / "a.bin.part.json"
    notes.write_text(json.dumps(json.loads(notes.read_text()) | broken))
    server.publish("a.bin", DATA)
    fetch(url, tmp_path / "a.bin", limits=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_part_whose_rest_is_refused_is_fetched_anew(server, tmp_path):
    """All bytes came in chunks, but not the end: the server has nothing behind them."""
    sums = {"sha256": hashlib.sha256(DATA).hexdigest()}
    tag = {"ETag": '"x"', "Transfer-Encoding": "chunked", "Content-Length": None}
    chunks = b"%x\r\n%b\r\n" % (len(DATA), DATA)

    def answer(query, headers):
        if "Range" in headers:
            return 416, {}, b""
        if len(server.requests) > 1:
            return 200, tag, chunks + b"0\r\n\r\n"
        return 200, tag | {"Connection": "close"}, chunks

    server.routes["/a.bin"] = answer
    again = dataclasses.replace(QUICK, retries=2)
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", checksums=sums, limits=again)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert len(server.requests) == 3


def test_an_error_says_where_the_expectation_stands(server, tmp_path):
    files = [File("a.bin", server.publish("a.bin", DATA), len(DATA) + 5)]
    write_lock(tmp_path / "there.recorded.csv", files)
    (file,) = read_lock(tmp_path / "there.recorded.csv")
    with pytest.raises(InputError, match=r"50005 \(.*there\.recorded\.csv, line 2\)"):
        fetch(file.url, tmp_path / "a.bin", size=file.size, stated=file.stated, limits=QUICK)


# ---- what never ends -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (HEAD + b"X-Long: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD, b""),
    ],
    ids=["body", "chunks", "header", "continue", "silence"],
)
def test_drips_end(first, drop, tmp_path):
    with saying(dripping(first, drop)) as url:
        with pytest.raises(InputError, match="times in a row"):
            fetch(url, tmp_path / "a.bin", limits=QUICK)
        with pytest.raises(InputError):
            read(url, limits=QUICK)


LISTINGS = {
    "osf": lambda base: osf.list_files("abcde", base=base, limits=QUICK),
    "github": lambda base: github.list_files("owner/name@v1", base=base, limits=QUICK),
    "hub": lambda base: huggingface.list_files("owner/name", endpoint=base, limits=QUICK),
    "s3": lambda base: s3.list_files("bucket", endpoint=base, limits=QUICK),
}


@pytest.mark.parametrize("door", LISTINGS)
@pytest.mark.parametrize(
    "answer",
    [
        dripping(HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
        dripping(HEAD + b"X-Long: ", b"y"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        flooding(HEAD + b"\r\n", b"[" * 1000),
    ],
    ids=["body", "header", "continue", "endless"],
)
def test_every_listing_ends(door, answer):
    with saying(answer) as url, pytest.raises(InputError, match="answer|connection|stalled"):
        LISTINGS[door](url.removesuffix("/file.bin"))


def test_a_listing_has_no_more_files_than_a_person_can_mean(monkeypatch):
    monkeypatch.setattr(sources, "MOST", 10)
    endless = (File(f"{number}.bin", "https://there.example/a") for number in itertools.count())
    with pytest.raises(InputError, match="more than 10 files; narrow `include`"):
        sources.selected(endless, (), (), "there")


FLOODS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 60_000 + b"\r\n\r\n"),
    "trailers": (CHUNKS + b"5\r\nhello\r\n0\r\n", b"X: y\r\n"),
    "extensions": (CHUNKS, b"1;" + b"e" * 60_000 + b"\r\nx\r\n"),
}


@pytest.mark.parametrize(("first", "drop"), FLOODS.values(), ids=FLOODS)
def test_what_is_not_the_body_ends(first, drop, tmp_path):
    patient = dataclasses.replace(QUICK, headers=60, page=60, window=60, retries=0)
    with saying(flooding(first, drop)) as url:
        with pytest.raises(InputError, match="no whole answer|stalled"):
            fetch(url, tmp_path / "a.bin", limits=patient)
        with pytest.raises(InputError, match="no whole answer|stalled"):
            read(url, limits=patient)


def test_small_chunks_are_a_body(tmp_path):
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in DATA)
    with saying(once(CHUNKS + chunks + b"0\r\nTrailer: x\r\n\r\n")) as url:
        fetch(url, tmp_path / "a.bin", limits=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_body_of_no_stated_size_has_a_cap(tmp_path):
    def endless(connection, closing):
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        while not closing.is_set():
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    limits = Limits(retries=0, backoff=0.01, undeclared=1 << 20)
    with saying(endless) as url, pytest.raises(InputError, match=r"more than the .* bytes allowed"):
        fetch(url, tmp_path / "a.bin", limits=limits)
    assert left(tmp_path) == []


def test_room_on_the_disk_is_looked_at_first(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    url = server.publish("a.bin", DATA)
    with pytest.raises(InputError, match="MiB are free"):
        fetch(url, tmp_path / "a.bin", limits=QUICK)
    assert not (tmp_path / "a.bin").exists()


# ---- what is said of addresses ---------------------------------------------------------------


SIGNED = "https://there.example/a.bin?versionId=3&X-Amz-Signature=abcd1234&X-Amz-Date=2026"


def test_a_signature_is_neither_kept_nor_shown(tmp_path):
    write_lock(tmp_path / "lock.csv", [File("a.bin", SIGNED, 5)])
    text = (tmp_path / "lock.csv").read_text()
    assert "versionId=3" in text
    assert "abcd1234" not in text
    assert credentials.shown(SIGNED) == "https://there.example/a.bin"
    with pytest.raises(InputError, match="X-Amz-Signature=.NAME") as error:
        http.list_files([{"url": SIGNED, "path": "a.bin"}])
    assert "abcd1234" not in str(error.value)


def test_a_signature_comes_from_the_environment(server, tmp_path, monkeypatch):
    url = server.publish("a.bin", DATA) + "?sig=$MY_SIGNATURE"
    (file,) = http.list_files([{"url": url, "path": "a.bin"}])
    assert "$MY_SIGNATURE" in file.url
    with pytest.raises(InputError, match="needs the environment variable MY_SIGNATURE"):
        fetch(file.url, tmp_path / "a.bin", limits=QUICK, **http.access())
    monkeypatch.setenv("MY_SIGNATURE", "s3cr3t")
    fetch(file.url, tmp_path / "a.bin", limits=QUICK, **http.access())
    (asked, _) = server.requests[-1]
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(asked).query) == {"sig": ["s3cr3t"]}
    assert "s3cr3t" not in "".join(p.read_text("latin-1") for p in tmp_path.iterdir())


def test_a_parameter_may_be_called_like_a_variable(monkeypatch):
    monkeypatch.setenv("SAS", "?sig=x")
    address = "https://there.example/a?$format=json&"
    assert credentials.filled(address + "$SAS") == address + "sig=x"


@pytest.mark.parametrize("bad", ["http://[::1", "http://there.example:99999/x", 5, None, ["x"]])
def test_an_odd_next_page_is_one_line(server, bad):
    page = {"data": [], "links": {"next": bad if bad is not None else 7}}
    answer = lambda query, headers: (200, {}, json.dumps(page).encode())  # noqa: E731
    for path in ("/v2/nodes/abcde/files/", "/v2/nodes/abcde/children/"):
        server.routes[path] = answer
    with pytest.raises(InputError) as error:
        osf.list_files("abcde", base=f"{server.url}/v2", limits=QUICK)
    assert "\n" not in str(error.value)


def test_an_odd_address_in_a_lock_file_is_one_line(tmp_path):
    lock = tmp_path / "lock.csv"
    lock.write_text("path,size,checksums,version,url\na.bin,5,,,http://[::1\n")
    with pytest.raises(InputError, match=r"lock.csv, line 2: 'http://\[::1': not an http"):
        read_lock(lock)


def test_deep_json_is_one_line(server):
    deep = b"[" * 200_000 + b"]" * 200_000
    server.routes["/v2/nodes/abcde/files/"] = lambda query, headers: (200, {}, deep)
    with pytest.raises(InputError, match="form|JSON|answer"):
        osf.list_files("abcde", base=f"{server.url}/v2", limits=QUICK)


def test_a_publisher_forges_no_line(server, tmp_path):
    url = server.publish("a.bin", DATA, "redirect http://127.0.0.1:1/\x1b[2Jerased%0Aerror: fine")
    with pytest.raises(InputError) as error:
        fetch(url, tmp_path / "a.bin", limits=QUICK)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", str(error.value))


@pytest.mark.parametrize(
    "host",
    ["[64:ff9b::7f00:1]", "[64:ff9b:1:7f00:0:108:808:808]", "[2002:7f00:1::1]",
     "[::ffff:127.0.0.1]", "[fe80::1%25lo]", "127.0.0.1.", "10.0.0.1", "0.0.0.0", "[::]"],
)  # fmt: skip
def test_no_publisher_leads_into_a_local_network(host):
    with pytest.raises(InputError, match="refused|not an http"):
        addresses.check_hop("https://93.184.215.14/a", f"https://{host}/b")


def test_this_machine_has_another_address():
    for host in ("0.0.0.0", "[::]"):
        with pytest.raises(InputError, match="a loopback address; refused"):
            addresses.check_hop("http://10.0.0.1/a", f"http://{host}/b")


def test_a_host_is_written_in_ascii():
    """IDNA 2003, which resolves, and 2008, which connects, read this as two hosts."""
    with pytest.raises(InputError, match="write its host in ASCII"):
        addresses.check_hop("https://93.184.215.14/a", "https://fa\u00df.example/b")


@pytest.mark.parametrize("publisher", [osf, github])
def test_an_address_that_a_publisher_gave_stays_out_of_the_house(
    server, tmp_path, monkeypatch, publisher
):
    """It was public when it was listed, and is not when a later process fetches it."""
    real, homes = socket.getaddrinfo, ("api.osf.io", "api.github.com")

    def now(host, *args, **options):
        return real("93.184.215.14" if host in homes else "127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", now)
    addresses._first_seen.cache_clear()
    port = urllib.parse.urlsplit(server.publish("a.bin", DATA)).port
    with pytest.raises(InputError, match="leads to https://there.example.*loopback address"):
        fetch(f"https://there.example:{port}/data/a.bin", tmp_path / "a", **publisher.access())
    addresses._first_seen.cache_clear()
    assert not server.requests


def test_a_name_that_becomes_local_between_two_looks_is_refused(monkeypatch):
    looked, real = [], socket.getaddrinfo

    def rebinding(host, *args, **options):
        looked.append(host)
        return real("93.184.215.14" if len(looked) == 1 else "127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    addresses.check_hop("https://93.184.215.14/a", "https://rebinding.example/b")
    with pytest.raises(InputError, match="has become a loopback address; refused"):
        addresses.resolved("rebinding.example", 443)
