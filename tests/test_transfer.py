"""Downloads against a real server that misbehaves, and real processes that are killed."""

import dataclasses
import gzip
import hashlib
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from types import SimpleNamespace

import pytest
from server import PAGE, Server

from engram.errors import InputError
from engram.web.addresses import check_hop
from engram.web.client import Limits
from engram.web.client import read as read_document
from engram.web.safe_files import clean_name, safe_name, unzip
from engram.web.transfer import fetch, fetch_all

QUICK = Limits(connect=2, read=0.3, retries=3, backoff=0.001, longest_wait=0.2)
DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
SUMS = {"sha256": SHA256}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Loopback is reached directly, whatever this machine is set up for."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture
def publish(server, request):
    """Publish DATA under a name of this test's own; returns its URL and the requests for it."""

    def one(fault=None, data=DATA, name="eeg.npy"):
        name = f"{request.node.name}/{name}".replace("[", "/").replace("]", "")
        url = server.publish(name, data, fault)
        return url, lambda: server.asked(f"/data/{url.partition('/data/')[2]}")

    return one


def left(path):
    return sorted(found.name for found in path.parent.iterdir())


# The 12 faults that clients are measured by


def good(path, **options):
    fetch(**options, path=path, limits=QUICK)
    assert path.read_bytes() == DATA
    assert left(path) == [path.name]


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        fetch(**options, path=path, limits=QUICK)
    assert not path.exists()
    assert "\n" not in str(error.value)


def test_fault_none(publish, tmp_path):
    url, asked = publish()
    good(tmp_path / "eeg.npy", url=url, size=len(DATA), checksums=SUMS)
    assert len(asked()) == 1


def test_fault_500_twice(publish, tmp_path):
    url, asked = publish("status 500 2")
    good(tmp_path / "eeg.npy", url=url, checksums=SUMS)
    assert len(asked()) == 3


@pytest.mark.parametrize("kind", ["seconds 1", "date 2"])
def test_fault_429_with_retry_after(publish, tmp_path, kind):
    url, asked = publish(f"busy {kind} 1")
    began = time.monotonic()
    fetch(url, tmp_path / "eeg.npy", checksums=SUMS, limits=Limits(read=5, backoff=0))
    assert time.monotonic() - began >= 0.9  # a date has whole seconds
    assert len(asked()) == 2


def test_fault_429_waits_no_longer_than_the_cap(publish, tmp_path):
    url, _ = publish("busy seconds 3600 2")
    good(tmp_path / "eeg.npy", url=url, checksums=SUMS)


def test_fault_429_always(publish, tmp_path):
    url, asked = publish("busy seconds 3600 99")
    refused(tmp_path / "eeg.npy", r"too many requests \(429\).* 3600 s", url=url)
    assert len(asked()) == 1 + QUICK.retries


def test_fault_body_cut_once(publish, tmp_path):
    url, asked = publish("cut once")
    good(tmp_path / "eeg.npy", url=url, checksums=SUMS)
    assert asked()[1]["Range"] == f"bytes={len(DATA) // 3}-"
    assert asked()[1]["If-Range"]


def test_fault_body_cut_always(publish, tmp_path):
    path = tmp_path / "eeg.npy"
    url, asked = publish("cut always")
    refused(path, "cut, 4 times in a row; run again to continue", url=url)
    assert path.with_name("eeg.npy.part").read_bytes() == DATA[: len(DATA) // 3]
    assert len(asked()) == 1 + QUICK.retries


def test_fault_cut_without_content_length(publish, tmp_path):
    url, _ = publish("unlimited once", name="a")
    good(tmp_path / "checksum", url=url, checksums=SUMS)
    url, asked = publish("unlimited once", name="b")
    path = tmp_path / "size" / "eeg.npy"
    good(path, url=url, size=len(DATA))
    assert "Range" in asked()[1]


def test_fault_chunked_body_cut(publish, tmp_path):
    url, _ = publish("chunked")
    good(tmp_path / "eeg.npy", url=url)


def test_fault_wrong_checksum(publish, tmp_path):
    path = tmp_path / "eeg.npy"
    url, asked = publish("wrong")
    refused(path, f"sha256 is .* instead of {SHA256}", url=url, checksums=SUMS)
    assert left(path) == []
    assert len(asked()) == 1


@pytest.mark.parametrize("kind", ["", "application/octet-stream"])
def test_fault_page_instead_of_data(publish, tmp_path, kind):
    path = tmp_path / "eeg.npy"
    url, _ = publish(f"page {kind}")
    refused(path, "a web page came instead of the file", url=url)
    assert left(path) == []


def test_fault_redirect_loop(publish, tmp_path):
    url, asked = publish("loop")
    refused(tmp_path / "eeg.npy", "more than 5 redirects", url=url)
    assert len(asked()) == 6


def test_fault_server_stalls(publish, tmp_path):
    url, asked = publish("stall once", name="a")
    good(tmp_path / "eeg.npy", url=url, checksums=SUMS)
    assert asked()[1]["Range"] == f"bytes={len(DATA) // 2}-"
    url, _ = publish("stall always", name="b")
    refused(tmp_path / "other", "stalled", url=url)


@pytest.mark.parametrize("name", ["/../../x", "//abs/x", "../x", "a/../../x"])
def test_fault_hostile_name(publish, tmp_path, name):
    url, asked = publish()
    file = SimpleNamespace(path=name, url=url, size=None, checksums=None)
    with pytest.raises(InputError, match="refused"):
        fetch_all([file], tmp_path / "data", limits=QUICK)
    assert not asked()
    assert list(tmp_path.iterdir()) == []


CHILD = """
import os, signal, sys
from engram.web.transfer import fetch
from engram.web.client import Limits
replace, when = os.replace, sys.argv[5:]
def killed(*paths):
    if when == ["after"]:
        replace(*paths)
    os.kill(os.getpid(), signal.SIGKILL)
if when:  # the file gets its name
    os.replace = killed
fetch(sys.argv[1], sys.argv[2], size=int(sys.argv[3]), checksums={"sha256": sys.argv[4]},
      limits=Limits(read=5, backoff=0.01))
"""


def child(url, path, data, *killed):
    sha256 = hashlib.sha256(data).hexdigest()
    command = [sys.executable, "-c", CHILD, url, str(path), str(len(data)), sha256, *killed]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def grown(part, size, process):
    while process.poll() is None:
        try:
            if part.stat().st_size >= size:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.002)
    raise AssertionError(f"ended early: {process.stderr.read()}")


def test_fault_kill_and_resume(publish, tmp_path):
    data = random.Random(1).randbytes(1_000_000)
    path, part = tmp_path / "eeg.npy", tmp_path / "eeg.npy.part"
    url, asked = publish("slow 2000", data)
    for kill in range(6):
        process = child(url, path, data)
        grown(part, 60_000 * (kill + 1), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not path.exists()
        kept = part.stat().st_size
        assert part.read_bytes() == data[:kept]
    process = child(url, path, data)
    process.communicate()
    assert process.returncode == 0
    assert path.read_bytes() == data
    assert left(path) == ["eeg.npy"]
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in asked()]
    assert len(starts) == 7
    assert starts == sorted(set(starts))
    assert starts[-1] == kept


@pytest.mark.parametrize("when", ["before", "after"])
def test_fault_kill_at_the_end(publish, tmp_path, when):
    path = tmp_path / "eeg.npy"
    url, asked = publish()
    assert child(url, path, DATA, when).wait() == -signal.SIGKILL
    assert path.exists() == (when == "after")
    assert child(url, path, DATA).wait() == 0
    assert path.read_bytes() == DATA
    assert left(path) == ["eeg.npy"]
    assert len(asked()) == 1


def test_two_processes_fetch_the_same_file_once(publish, tmp_path):
    data = random.Random(2).randbytes(200_000)
    path = tmp_path / "eeg.npy"
    url, asked = publish("slow 2000", data)
    first = child(url, path, data)
    grown(tmp_path / "eeg.npy.part", 1, first)
    second = child(url, path, data)
    for process in (first, second):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert path.read_bytes() == data
    assert left(path) == ["eeg.npy"]
    assert len(asked()) == 1


# What continues and what begins anew


@pytest.mark.parametrize("fault", ["rigid", "anonymous"])
def test_without_ranges_or_tags_the_bytes_are_right(publish, tmp_path, fault):
    url, _ = publish(fault)
    good(tmp_path / "eeg.npy", url=url, checksums=SUMS)


@pytest.mark.parametrize("declared", [{}, {"size": len(DATA)}])
def test_an_answer_about_another_range_is_not_appended(publish, tmp_path, declared):
    url, asked = publish("misplaced")
    good(tmp_path / "eeg.npy", url=url, **declared)
    assert [("Range" in headers) for headers in asked()] == [False, True, False]


@pytest.mark.parametrize("fault", ["changes", "changes deaf"])
def test_a_file_that_changed_meanwhile_is_not_mixed(publish, tmp_path, fault):
    url, _ = publish(fault)
    fetch(url, tmp_path / "eeg.npy", limits=QUICK)
    assert (tmp_path / "eeg.npy").read_bytes() == DATA[::-1]


@pytest.mark.parametrize(
    ("before", "after", "more"),
    [
        ({"Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}, {"Last-Modified": "today"}, b""),
        ({"ETag": '"1"'}, {"ETag": '"2"'}, b""),
        ({}, {}, b"!"),
    ],
)
def test_the_rest_of_another_file_is_not_appended(server, tmp_path, before, after, more):
    """The server answers the range, but of a file that differs in tag, date or size."""
    new, seen = DATA[::-1] + more, []

    def answer(query, headers):
        seen.append(headers.get("Range"))
        if len(seen) == 1:
            cut = {"Content-Length": str(len(DATA)), "Connection": "close"}
            return 200, before | cut, DATA[:1000]
        if seen[-1]:
            span = f"bytes 1000-{len(new) - 1}/{len(new)}"
            return 206, after | {"Content-Range": span}, new[1000:]
        return 200, after, new

    server.routes["/changing"] = answer
    fetch(f"{server.url}/changing", tmp_path / "eeg.npy", limits=QUICK)
    assert (tmp_path / "eeg.npy").read_bytes() == new
    # Without tag and date nobody could tell, and the rest is not even asked for.
    assert seen == [None, "bytes=1000-", None] if before else [None, None]


def test_a_weak_tag_recognises_nothing(server, tmp_path):
    seen = []

    def answer(query, headers):
        seen.append(headers)
        cut = {"Content-Length": str(len(DATA)), "Connection": "close"} if len(seen) == 1 else {}
        return 200, {"ETag": 'W/"1"'} | cut, DATA[:1000] if cut else DATA

    server.routes["/weak"] = answer
    good(tmp_path / "eeg.npy", url=f"{server.url}/weak")
    assert [headers.get("If-Range") for headers in seen] == [None, None]


def test_a_part_that_is_complete_is_not_asked_for_again(publish, tmp_path):
    url, _ = publish("cut always")
    path = tmp_path / "eeg.npy"
    refused(path, "cut", url=url)
    path.with_name("eeg.npy.part").write_bytes(DATA)
    url, asked = publish()
    before = len(asked())
    good(path, url=url, checksums=SUMS)
    assert len(asked()) == before


def test_a_damaged_part_is_found_and_fetched_anew(publish, tmp_path):
    url, asked = publish("cut always")
    path = tmp_path / "eeg.npy"
    refused(path, "cut", url=url, checksums=SUMS)
    part = tmp_path / "eeg.npy.part"
    part.write_bytes(b"x" + part.read_bytes()[1:])
    url, asked = publish()
    good(path, url=url, checksums=SUMS)
    assert [("Range" in headers) for headers in asked()[-2:]] == [True, False]


@pytest.mark.parametrize("notes", ["", "{}", "[]", '{"size": 5}', '{"url": 1, "etag": "x"}'])
def test_a_part_of_unknown_origin_is_not_continued(publish, tmp_path, notes):
    (tmp_path / "eeg.npy.part").write_bytes(b"abc")
    (tmp_path / "eeg.npy.part.json").write_text(notes)
    url, asked = publish()
    good(tmp_path / "eeg.npy", url=url)
    assert "Range" not in asked()[0]


def test_a_download_cut_often_goes_on_while_it_grows(publish, tmp_path):
    data = random.Random(3).randbytes(12 << 20)
    url, asked = publish(f"drips {(1 << 20) + 5}", data)
    fetch(url, tmp_path / "eeg.npy", limits=QUICK)
    assert (tmp_path / "eeg.npy").read_bytes() == data
    assert len(asked()) == 12 > 1 + QUICK.retries


def test_an_empty_file_is_a_file(publish, tmp_path):
    url, _ = publish(data=b"")
    fetch(url, tmp_path / "eeg.npy", size=0, checksums={"md5": hashlib.md5(b"").hexdigest()})
    assert (tmp_path / "eeg.npy").read_bytes() == b""
    assert left(tmp_path / "eeg.npy") == ["eeg.npy"]


def test_a_part_that_vanishes_is_said(server, tmp_path):
    def answer(query, headers):
        (tmp_path / "eeg.npy.part").unlink()
        return 200, {}, DATA

    server.routes["/vanish"] = answer
    refused(tmp_path / "eeg.npy", "cannot be written", url=f"{server.url}/vanish")


# Files that are there, and files that do not fit


def test_a_file_that_fits_is_left_alone(publish, tmp_path):
    url, asked = publish()
    path = tmp_path / "eeg.npy"
    path.write_bytes(DATA)
    os.utime(path, (1, 1))
    for checksums in (None, SUMS, {"sha256": SHA256[:8].upper()}):
        fetch(url, path, checksums=checksums)
    assert path.stat().st_mtime == 1
    assert not asked()


@pytest.mark.parametrize("declared", [{"checksums": SUMS}, {"size": 5}])
def test_another_file_in_its_place_is_an_error(publish, tmp_path, declared):
    url, asked = publish()
    path = tmp_path / "eeg.npy"
    path.write_bytes(b"other!")
    with pytest.raises(InputError, match="eeg.npy: .* instead of .*; delete the file or correct"):
        fetch(url, path, **declared)
    assert path.read_bytes() == b"other!"
    assert not asked()


def test_all_checksums_count(publish, tmp_path):
    url, _ = publish()
    md5 = hashlib.md5(DATA).hexdigest()
    refused(tmp_path / "a", "md5", url=url, checksums=SUMS | {"md5": md5[::-1]})
    refused(tmp_path / "a", "sha256", url=url, checksums={"sha256": "01234567", "md5": md5})
    nearly = SHA256[:-1] + ("0" if SHA256[-1] != "0" else "1")
    refused(tmp_path / "a", "sha256", url=url, checksums={"sha256": nearly})
    good(tmp_path / "b", url=url, checksums={"sha256": SHA256[:8], "md5": md5})


@pytest.mark.parametrize(
    "checksums", [{"sha256": "1234567"}, {"md5": "12345678"}, {"crc": "1"}, {"sha256": "x" * 64}]
)
def test_a_checksum_that_is_none_is_refused(publish, tmp_path, checksums):
    url, asked = publish()
    refused(tmp_path / "eeg.npy", "eeg.npy", url=url, checksums=checksums)
    assert not asked()


def test_the_file_is_as_old_as_its_download(publish, tmp_path):
    url, _ = publish()
    before = time.time()
    fetch(url, tmp_path / "eeg.npy")
    assert before - 2 <= (tmp_path / "eeg.npy").stat().st_mtime <= time.time() + 2


@pytest.mark.parametrize("fault", ["longer", "longer silently"])
def test_more_than_declared_is_refused(publish, tmp_path, fault):
    url, _ = publish(fault)
    path = tmp_path / "eeg.npy"
    refused(path, "bytes", url=url, size=len(DATA))
    with pytest.raises(InputError, match=f"{len(DATA)}"):
        fetch(url, path, size=len(DATA), limits=Limits(max_bytes=10**9))
    assert left(path) == []
    silent = "does not say where the file ends"
    said = silent if "silently" in fault else "300004 bytes, more than the 1000"
    with pytest.raises(InputError, match=said):
        fetch(url, path, limits=Limits(max_bytes=1000))
    assert left(path) == []


def test_a_page_may_be_fetched_as_a_page(publish, tmp_path):
    url, _ = publish("page")
    fetch(url, tmp_path / "index.html", limits=QUICK)
    assert (tmp_path / "index.html").read_bytes() == PAGE


@pytest.mark.parametrize(
    ("status", "advice"),
    [(400, "region"), (401, "token"), (403, "terms"), (404, "no such file"), (503, "later")],
)
def test_a_status_has_its_advice(publish, tmp_path, status, advice):
    url, asked = publish(f"status {status} 99")
    refused(tmp_path / "eeg.npy", f"status {status}: .*{advice}", url=url)
    assert len(asked()) == (1 + QUICK.retries if status == 503 else 1)


def test_nobody_listens(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/eeg.npy"
    refused(tmp_path / "eeg.npy", "no connection, or dropped, 4 times", url=url)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/x", "eeg.npy", "http://[x/", ""])
def test_only_http(tmp_path, url):
    refused(tmp_path / "eeg.npy", "not an http or https address|URL", url=url)


def test_a_place_that_cannot_be_written(publish, tmp_path):
    url, _ = publish()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"file/eeg.npy: cannot be written \(.*\); make room"):
        fetch(url, tmp_path / "file" / "eeg.npy", limits=QUICK)
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "eeg.npy.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="cannot be written"):
        fetch(url, tmp_path / "eeg.npy", limits=QUICK)
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


def test_a_full_disk_is_said_and_keeps_what_came(publish, tmp_path):
    url, _ = publish()
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from engram.web.transfer import fetch; fetch(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, url, str(tmp_path / "eeg.npy")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert "eeg.npy: cannot be written (File too large)" in found.stderr
    assert 0 < (tmp_path / "eeg.npy.part").stat().st_size <= 100_000
    good(tmp_path / "eeg.npy", url=url, checksums=SUMS)


# Where a download may lead, and who learns the token

SECRET = "s3cr3t-token"


def test_a_redirect_is_followed_and_the_token_stays(publish, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG")
    with Server() as storage:
        stored = storage.publish("blob", DATA, "cut once")
        url, asked = publish(f"redirect {stored}?signature={SECRET}")
        headers = {"Authorization": f"Bearer {SECRET}"}
        fetch(url, tmp_path / "a", headers=headers, checksums=SUMS, limits=QUICK)
        assert asked()[0]["Authorization"] == f"Bearer {SECRET}"
        assert len(storage.requests) == 2
        assert not any("Authorization" in headers for _, headers in storage.requests)
        storage.faults["blob"] = "wrong"
        with pytest.raises(InputError) as error:
            fetch(url, tmp_path / "b", headers=headers, checksums=SUMS, limits=QUICK)
    notes = [path.read_text() for path in tmp_path.glob("*.json")]
    said = [str(error.value), *capfd.readouterr(), *notes]
    assert not any(SECRET in text for text in said)
    logged = [record.getMessage() for record in caplog.records]
    assert any("/data/blob" in text for text in logged)
    assert not any(SECRET in text for text in logged)


@pytest.mark.parametrize("target", ["http://[x/", "http://h:port/", "\xff", "mailto:me@h"])
def test_a_redirect_to_nowhere_is_refused(publish, tmp_path, target):
    url, _ = publish(f"redirect {target}")
    refused(tmp_path / "eeg.npy", "an address that is none|not an http|status 404", url=url)


def test_the_body_of_a_redirect_is_not_waited_for(publish, tmp_path):
    stored, _ = publish(name="stored")
    url, asked = publish(f"heavy {stored}")
    good(tmp_path / "eeg.npy", url=url, checksums=SUMS)
    assert len(asked()) == 1


def test_headers_may_depend_on_the_address(publish, tmp_path):
    with Server() as storage:
        stored = storage.publish("blob", DATA)
        url, asked = publish(f"redirect {stored}")
        fetch(url, tmp_path / "a", headers=lambda asked: {"X-Signed": asked}, limits=QUICK)
        assert asked()[0]["X-Signed"] == url
        assert storage.requests[0][1]["X-Signed"] == stored


def test_netrc_is_not_asked(publish, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    url, asked = publish()
    fetch(url, tmp_path / "eeg.npy")
    assert "Authorization" not in asked()[0]


def test_an_address_with_a_password_is_refused_and_not_shown(server, tmp_path):
    url = server.url.replace("http://", "http://me:secret@") + "/data/x?key=secret"
    with pytest.raises(InputError, match="holds a user or password") as error:
        fetch(url, tmp_path / "eeg.npy")
    assert "secret" not in str(error.value)


@pytest.fixture
def proxy(server, monkeypatch):
    """The server as a proxy: it answers for any host, and the client resolves none of them."""
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    return server


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("http://127.0.0.1:9/x", "loopback"),
        ("http://[::1]/x", "loopback"),
        ("http://[::ffff:127.0.0.1]/x", "loopback"),
        ("http://localhost/x", "loopback"),
        ("http://2130706433/x", "loopback"),
        ("http://10.1.2.3/x", "private"),
        ("http://192.168.0.1/x", "private"),
        ("http://[fd00::1]/x", "private"),
        ("http://0.0.0.0/x", "loopback"),
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("file:///etc/passwd", "not an http"),
        ("http://me:secret@93.184.216.34/x", "holds a user"),
    ],
)
def test_a_public_server_cannot_send_us_into_the_house(proxy, tmp_path, target, kind):
    proxy.routes["/paper"] = lambda query, headers: (302, {"Location": target}, b"")
    refused(tmp_path / "eeg.npy", kind, url="http://93.184.216.34/paper")


def test_a_proxy_of_the_environment_is_used(proxy, tmp_path):
    proxy.routes["/elsewhere"] = lambda query, headers: (200, {}, DATA)
    proxy.routes["/paper"] = lambda query, headers: (
        302,
        {"Location": "http://93.184.216.35/elsewhere"},
        b"",
    )
    good(tmp_path / "eeg.npy", url="http://93.184.216.34/paper", checksums=SUMS)
    assert ("http://93.184.216.35/elsewhere") in [path for path, _ in proxy.requests]


def test_encryption_is_not_given_up():
    with pytest.raises(InputError, match="not encrypted"):
        check_hop("https://93.184.216.34/a", "http://93.184.216.34/a")
    check_hop("http://93.184.216.34/a", "https://93.184.216.35/a")


# Offline


def test_offline_opens_no_socket(publish, tmp_path, monkeypatch):
    url, _ = publish()

    def opened(*args, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", opened)
    monkeypatch.setattr(socket, "getaddrinfo", opened)
    offline = Limits(offline=True)
    (tmp_path / "there").write_bytes(DATA)
    fetch(url, tmp_path / "there", checksums=SUMS, limits=offline)
    with pytest.raises(InputError, match=f"missing, .*put the file from http.* {SHA256}.* there"):
        fetch(url + "?key=secret", tmp_path / "new", checksums=SUMS, limits=offline)
    with pytest.raises(InputError, match="offline"):
        read_document(url, limits=offline)
    assert left(tmp_path / "there") == ["there"]


# Several files


def many(server, name, number, fault=None):
    return [
        SimpleNamespace(
            path=f"sub-{i:02}/eeg.npy",
            url=server.publish(f"{name}/{i}", DATA + bytes([i]), fault),
            size=len(DATA) + 1,
            checksums={"sha256": hashlib.sha256(DATA + bytes([i])).hexdigest()},
        )
        for i in range(number)
    ]


def test_several_files_and_no_more_at_once_than_a_host_allows(tmp_path):
    with Server() as server:
        files = many(server, "all", 8, "slow 30000")
        paths = fetch_all(files, tmp_path, parallel=4, limits=QUICK)
        assert [p.relative_to(tmp_path).as_posix() for p in paths] == [f.path for f in files]
        assert [p.read_bytes()[-1] for p in paths] == list(range(8))
        assert server.together <= QUICK.per_host
        assert len(server.requests) == 8
        fetch_all(files, tmp_path, limits=QUICK)
        assert len(server.requests) == 8


def test_every_failure_is_listed_and_the_others_stay(server, tmp_path):
    files = many(server, "some", 5)
    server.faults["some/1"] = "status 404 99"
    server.faults["some/3"] = "page"
    with pytest.raises(InputError, match="2 of 5 files .*some/1: status 404.*some/3: a web page"):
        fetch_all(files, tmp_path, limits=QUICK)
    assert sorted(p.name for p in tmp_path.iterdir() if list(p.iterdir())) == [
        "sub-00",
        "sub-02",
        "sub-04",
    ]


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a.part"), ("a.part.json", "a")])
def test_files_must_not_meet(server, tmp_path, names):
    files = [SimpleNamespace(path=n, url=server.url, size=None, checksums=None) for n in names]
    with pytest.raises(InputError, match="same name"):
        fetch_all(files, tmp_path)


def test_an_interrupt_stops_all_files(tmp_path):
    code = (
        "import signal, sys, types; from engram.web.transfer import fetch_all;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell may have it ignored
        "fetch_all([types.SimpleNamespace(path=str(i), url=url, size=None, checksums=None)"
        " for i, url in enumerate(sys.argv[2:])], sys.argv[1])"
    )
    with Server() as server:
        urls = [file.url for file in many(server, "long", 6, "slow 200")]
        command = [sys.executable, "-c", code, str(tmp_path), *urls]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        grown(tmp_path / "0.part", 1, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert "KeyboardInterrupt" in errors
        assert len(server.requests) < 6
    assert not [path for path in tmp_path.iterdir() if path.suffix == ""]


def test_a_document_is_read_and_its_encoding_undone(server):
    body = b"[" + b" " * 100_000 + b"]"
    packed = gzip.compress(body)
    server.routes["/list"] = lambda query, headers: (200, {"Content-Encoding": "gzip"}, packed)
    found, headers = read_document(f"{server.url}/list", limits=QUICK)
    assert (found, headers["Content-Length"]) == (body, str(len(packed)))
    assert server.asked("/list")[0]["Accept-Encoding"] == "identity"
    with pytest.raises(InputError, match="the answer exceeds 50000 bytes"):
        read_document(f"{server.url}/list", limits=dataclasses.replace(QUICK, page_bytes=50_000))
    server.routes["/list"] = lambda query, headers: (
        200,
        {"Content-Length": "10", "Connection": "close"},
        b"short",
    )
    with pytest.raises(InputError, match="/list: the connection was cut, 4 times"):
        read_document(f"{server.url}/list", limits=QUICK)


def test_a_file_that_is_packed_stays_packed(server, tmp_path):
    packed = gzip.compress(DATA)
    server.routes["/brain.nii.gz"] = lambda query, headers: (
        200,
        {"Content-Encoding": "gzip"},
        packed,
    )
    fetch(f"{server.url}/brain.nii.gz", tmp_path / "brain.nii.gz", size=len(packed))
    assert (tmp_path / "brain.nii.gz").read_bytes() == packed


# Names


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "//host/x",
        "a//b",
        "a/",
        "../x",
        "a/../../x",
        "a/./b",
        "C:/x",
        "c:x",
        "a\\..\\b",
        "a\nb",
        "a\x00b",
        "a\x7fb",
        "abc\u202egnp.exe",
        "a\u2066b",
        "a\u200bb",
        "a\u2044b",
        "a\u2215b",
        "a\uff0fb",
        "a\uff3cb",
        "\uff0e\uff0e/x",
        "\u2025/x",
        "\u2100",
        "a\ud800b",
        "ä" * 128,
        "x/" + "a" * 256,
    ],
)
def test_a_harmful_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"^file name '[ -~]*' has .*; refused$"):
        safe_name(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["a", "sub-01/eeg.npy", "ä b/#x'", "-rf", "...", "a..b", "日本/脳.npy", "ä" * 127]
)
def test_a_harmless_name_is_kept(tmp_path, name):
    assert safe_name(tmp_path, name) == tmp_path / name


def test_names_are_normalised():
    assert clean_name("a\u0308") == "ä"


def test_a_link_that_leads_out_is_refused(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    (folder / "dangling").symlink_to(tmp_path / "new")
    (folder / "in").symlink_to(folder)
    for name in ("out/x", "out", "dangling"):
        with pytest.raises(InputError, match="symbolic link leads out"):
            safe_name(folder, name)
    assert safe_name(folder, "in/x") == folder / "in/x"


# Archives


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for member, data in members:
            file.writestr(member, data)
    return path


def test_an_archive_is_unpacked(tmp_path):
    members = [("a/", b""), ("a/b.npy", DATA), ("ä.txt", b"x"), ("empty", b"")]
    path = archive(tmp_path / "x.zip", members)
    folder = unzip(path, tmp_path / "out")
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    assert found == {"a/b.npy": DATA, "ä.txt": b"x", "empty": b""}
    assert left(folder) == ["out", "x.zip"]
    with pytest.raises(InputError, match="exists; delete it"):
        unzip(path, folder)


def kind(mode):
    member = zipfile.ZipInfo("link")
    member.external_attr = mode << 16
    return member


ZEROS = bytes(10_000_000)


@pytest.mark.parametrize(
    ("members", "limits", "match"),
    [
        ([("good", b"x"), ("../evil", b"x")], {}, "'../evil' has"),
        ([("good", b"x"), ("/evil", b"x")], {}, "absolute"),
        ([("a\\..\\..\\evil", b"x")], {}, "backslash"),
        ([("good", b"x"), (kind(stat.S_IFLNK | 0o777), b"/etc")], {}, "a link or a device"),
        ([(kind(stat.S_IFCHR), b"")], {}, "a link or a device"),
        ([(kind(stat.S_IFIFO), b"")], {}, "a link or a device"),
        ([("bomb", ZEROS)], {}, "zip bomb"),
        ([("large", DATA)], {"max_bytes": len(DATA) - 1}, "zip bomb"),
        ([(str(i), b"") for i in range(101)], {"max_members": 100}, "101 members"),
        ([("ä", b"1"), ("a\u0308", b"2")], {}, "two members"),
        ([("a", b"1"), ("a/b", b"2")], {}, "cannot be unpacked"),
    ],
)
def test_a_hostile_archive_leaves_nothing(tmp_path, members, limits, match):
    path = archive(tmp_path / "x.zip", members)
    with pytest.raises(InputError, match=match):
        unzip(path, tmp_path / "out", **limits)
    assert left(path) == ["x.zip"]


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path):
    path = archive(tmp_path / "x.zip", [("bomb", ZEROS)])
    data = path.read_bytes()
    assert data.count(struct.pack("<L", len(ZEROS))) == 2
    path.write_bytes(data.replace(struct.pack("<L", len(ZEROS)), struct.pack("<L", 10)))
    with pytest.raises(InputError, match="damaged"):
        unzip(path, tmp_path / "out")
    assert left(path) == ["x.zip"]


def test_a_damaged_archive_leaves_nothing(tmp_path):
    path = archive(tmp_path / "x.zip", [("a", DATA), ("b", DATA)])
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="x.zip: damaged"):
            unzip(path, tmp_path / "out")
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    with pytest.raises(InputError, match="x.zip: damaged"):
        unzip(path, tmp_path / "out")
    assert left(path) == ["x.zip"]


def test_threads_of_one_process_take_turns(publish, tmp_path):
    url, asked = publish("slow 20000")
    threads = [
        threading.Thread(target=fetch, args=(url, tmp_path / "eeg.npy"), kwargs={"checksums": SUMS})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "eeg.npy").read_bytes() == DATA
    assert len(asked()) == 1
