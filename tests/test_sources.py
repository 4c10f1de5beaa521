"""Listings of publishers, each against a server that speaks like it."""

import ast
import json

import pytest
from server import MODIFIED, PAGE, Osf, Server, sums

from engram.errors import InputError
from engram.planning import provenance
from engram.sources import (
    File,
    chosen,
    github,
    google_drive,
    http,
    huggingface,
    may_hold,
    osf,
    read_lock,
    write_lock,
)
from engram.web.client import Limits
from engram.web.transfer import fetch_all

QUICK = Limits(connect=2, read=1, retries=2, backoff=0.001, longest_wait=0.05)
TOKEN = "t0ken-of-a-person"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Loopback is reached directly, whatever this machine is set up for."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def api():
    with Server() as running:
        yield running


@pytest.fixture
def storage():
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch):
    for name in ("OSF_TOKEN", "HF_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_sources_stand_on_transfer_alone():
    allowed = {"transfer", "web", "safe_files", "disk", "errors", "progress", "sources", "__init__"}
    for path in (provenance.ROOT / "sources").glob("*.py"):
        reached = {p.relative_to(provenance.ROOT).parts[0] for p in provenance.imports(path)}
        assert {name.removesuffix(".py") for name in reached} <= allowed


def test_sources_have_one_interface():
    for path in (provenance.ROOT / "sources").glob("[!_]*.py"):
        functions = {n.name for n in ast.parse(path.read_text()).body if hasattr(n, "args")}
        assert {"list_files", "access"} <= functions


# OSF

TREE = {
    "README.md": b"read me",
    "sub-01": {"eeg": {"a.npy": b"1a", "b.npy": b"1b", "c.npy": b"1c"}, "notes.txt": b"1"},
    "sub-02": {"eeg": {"a.npy": b"2a"}, "notes.txt": b"2"},
    "images": {"train": {"x.png": b"x"}},
}
FLAT = {
    "README.md": b"read me",
    "images/train/x.png": b"x",
    "sub-01/eeg/a.npy": b"1a",
    "sub-01/eeg/b.npy": b"1b",
    "sub-01/eeg/c.npy": b"1c",
    "sub-01/notes.txt": b"1",
    "sub-02/eeg/a.npy": b"2a",
    "sub-02/notes.txt": b"2",
}


def test_a_project_is_listed_and_fetched(api, storage, tmp_path):
    project = Osf(api, storage)
    project.node("abcde", TREE)
    files = osf.list_files("abcde", base=project.base, limits=QUICK)
    assert [file.path for file in files] == list(FLAT)
    for file in files:
        assert file.checksums == sums(FLAT[file.path])
        assert (file.size, file.version) == (len(FLAT[file.path]), "3")
    fetch_all(files, tmp_path, limits=QUICK, **osf.access(project.base))
    assert contents(tmp_path) == FLAT
    asked = [path for path, _ in api.requests if path.startswith("/v2")]
    assert all("page%5Bsize%5D=" in path for path in asked)
    assert "page%5Bsize%5D=100" in asked[0]


def test_one_subject_costs_no_requests_for_the_others(api, storage):
    project = Osf(api, storage, page_size=100)
    project.node("abcde", TREE)
    files = osf.list_files(
        "abcde", include=["sub-01/eeg/*.npy"], exclude=["**/b.npy"], base=project.base, limits=QUICK
    )
    assert [file.path for file in files] == ["sub-01/eeg/a.npy", "sub-01/eeg/c.npy"]
    assert len(api.requests) == 4  # the storages, its root, sub-01, eeg


def test_components_lie_under_their_ids(api, storage):
    project = Osf(api, storage)
    project.node("abcde", {"a": b"a"}, children=["fghij", "klmno"])
    project.node("fghij", {"b": b"b"}, children=["pqrst"])
    project.node("klmno", {"c": b"c"})
    project.node("pqrst", {"d": b"d"})
    paths = [
        file.path
        for file in osf.list_files("abcde", components=True, base=project.base, limits=QUICK)
    ]
    assert paths == ["a", "fghij/b", "fghij/pqrst/d", "klmno/c"]
    assert [f.path for f in osf.list_files("abcde", base=project.base, limits=QUICK)] == ["a"]


def test_the_token_goes_to_the_api_and_never_to_the_storage(
    api, storage, tmp_path, monkeypatch, capfd, caplog
):
    caplog.set_level("DEBUG")
    project = Osf(api, storage, token=TOKEN)
    project.node("abcde", TREE)
    with pytest.raises(InputError, match="status 401: a token is missing or wrong"):
        osf.list_files("abcde", base=project.base, limits=QUICK)
    monkeypatch.setenv("OSF_TOKEN", TOKEN)
    files = osf.list_files("abcde", base=project.base, limits=QUICK)
    fetch_all(files, tmp_path / "data", limits=QUICK, **osf.access(project.base))
    assert contents(tmp_path / "data") == FLAT
    assert len(storage.requests) == len(FLAT)
    assert TOKEN not in str(storage.requests)
    storage.faults = dict.fromkeys(storage.files, "wrong")
    with pytest.raises(InputError) as error:
        fetch_all(files, tmp_path / "again", limits=QUICK, **osf.access(project.base))
    write_lock(tmp_path / "lock.csv", files)
    said = [str(error.value), *capfd.readouterr(), (tmp_path / "lock.csv").read_text()]
    assert not any(TOKEN in text or "signature=secret" in text for text in [*said, caplog.text])


def test_the_real_download_addresses_get_the_token(monkeypatch):
    monkeypatch.setenv("OSF_TOKEN", TOKEN)
    headers = osf.access()["headers"]
    for url in ("https://api.osf.io/v2/x", "https://osf.io/download/x", "https://files.osf.io/v1"):
        assert headers(url) == {"Authorization": f"Bearer {TOKEN}"}
    for url in (
        "http://osf.io/download/x",
        "https://osf.io.evil.org/",
        "https://evil.osf.io/",
        "https://osf.io:8443/",
        "https://osf.io@evil.org/",
        "https://storage.googleapis.com/x",
    ):
        assert headers(url) == {}


def test_used_up_requests_are_one_clear_error(api, storage):
    project = Osf(api, storage)
    project.node("abcde", TREE)
    api.routes["/v2/nodes/abcde/files/osfstorage/"] = lambda query, headers: (
        429,
        {"Retry-After": "2400"},
        b"{}",
    )
    match = r"429.*asks to wait 2400 s.*made 2 requests.*100 an hour.*set OSF_TOKEN"
    with pytest.raises(InputError, match=match) as error:
        osf.list_files("abcde", base=project.base, limits=QUICK)
    assert "\n" not in str(error.value)
    assert len(api.requests) == 1 + 1 + QUICK.retries


def entry(name, **changes):
    attributes = {"kind": "file", "name": name, "size": 1, "extra": {"hashes": {}}}
    return {"attributes": attributes | changes, "links": {"download": "http://127.0.0.1:9/x"}}


def answer(data, following=None):
    body = json.dumps({"data": data, "links": {"next": following}}).encode()
    return 200, {"Content-Type": "application/vnd.api+json"}, body


@pytest.fixture
def root(api, storage):
    """A project whose root folder a test answers for: root(function of (query, headers))."""
    project = Osf(api, storage)
    project.node("abcde", {})

    def listed(respond, **options):
        api.routes["/v2/nodes/abcde/files/osfstorage/"] = respond
        return osf.list_files("abcde", base=project.base, limits=QUICK, **options)

    return listed


def test_a_listing_that_never_ends_is_refused(api, root):
    def respond(query, headers):
        number = int(query.get("page", ["1"])[0])
        url = f"{api.url}/v2/nodes/abcde/files/osfstorage/?page={number + 1}"
        return answer([entry(f"{number}.npy")], url)

    with pytest.raises(InputError, match="does not end within 20 requests"):
        root(respond, max_requests=20)
    assert len(api.requests) == 20


def test_a_listing_that_repeats_itself_is_refused(api, root):
    url = f"{api.url}/v2/nodes/abcde/files/osfstorage/?page=1"
    with pytest.raises(InputError, match="repeats itself"):
        root(lambda query, headers: answer([], url))
    with pytest.raises(InputError, match="lists 'a' twice"):
        root(lambda query, headers: answer([entry("a"), entry("a")]))


def test_a_folder_that_holds_itself_is_refused(api, storage):
    project = Osf(api, storage)
    project.node("abcde", {"deep": {}})
    below = next(path for path in api.routes if path.endswith("1/"))
    related = project.related(below)
    api.routes[below] = lambda query, headers: answer(
        [{"attributes": {"kind": "folder", "name": "deep"}, "relationships": related}]
    )
    with pytest.raises(InputError, match="repeats itself"):
        osf.list_files("abcde", base=project.base, limits=QUICK)


@pytest.mark.parametrize(
    "name", ["/../../x", "//abs/x", "..", "a/b", "a\u202eb", "a\\b", "", "C:x"]
)
def test_a_hostile_name_is_refused(root, name):
    with pytest.raises(InputError, match="refused"):
        root(lambda query, headers: answer([entry(name)]))


@pytest.mark.parametrize(
    ("respond", "match"),
    [
        (lambda q, h: (200, {"Content-Type": "text/html"}, PAGE), "not a listing; is it the API"),
        (lambda q, h: (200, {}, b'{"data": {}}'), "not a listing"),
        (lambda q, h: (200, {}, b"[1]"), "not a listing"),
        (lambda q, h: answer([{"attributes": {"name": "x"}}]), "another form .'kind'"),
        (lambda q, h: answer([{"attributes": {"name": "x", "kind": "file"}}]), "'links'"),
        (lambda q, h: answer([entry("x", size=-1)]), "not a size"),
        (lambda q, h: answer([entry("x", extra={"hashes": {"md5": "0"}})]), "not a md5"),
        (lambda q, h: answer([], "http://169.254.169.254/x"), "leads to .*169.254.*refused"),
        (lambda q, h: answer([]), "no file to fetch"),
        (lambda q, h: (404, {}, b"{}"), "status 404"),
    ],
)
def test_an_api_that_changed_is_said(root, respond, match):
    with pytest.raises(InputError, match=match):
        root(respond)


def test_missing_sizes_and_hashes_are_none(root):
    (file,) = root(lambda q, h: answer([entry("a\u0308.npy", size=None, extra=None)]))
    assert (file.path, file.size, file.checksums) == ("ä.npy", None, {})


def test_a_download_link_into_the_house_is_refused(api, storage, monkeypatch):
    monkeypatch.setenv("http_proxy", api.url)
    monkeypatch.delenv("no_proxy", raising=False)
    api.url = "http://93.184.216.34"  # what the listing says it is, through the proxy
    project = Osf(api, storage)
    project.node("abcde", {})
    listing = "/v2/nodes/abcde/files/osfstorage/"
    api.routes[listing] = lambda query, headers: answer([entry("x")])
    with pytest.raises(InputError, match="leads to http://127.0.0.1:9/x, a loopback address"):
        osf.list_files("abcde", base=project.base, limits=QUICK)


def test_a_storage_and_a_pattern_must_exist(api, storage):
    project = Osf(api, storage)
    project.node("abcde", TREE)
    with pytest.raises(InputError, match="no storage 'box'; there is osfstorage"):
        osf.list_files("abcde", providers=["box"], base=project.base, limits=QUICK)
    with pytest.raises(InputError, match="no file fits the pattern 'sub-99'"):
        osf.list_files("abcde", include=["sub-01", "sub-99"], base=project.base, limits=QUICK)
    for node in ("../x", "a b", ""):
        with pytest.raises(InputError, match="an id has letters"):
            osf.list_files(node, base=project.base, limits=QUICK)


# Patterns


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("sub-01", "sub-01/eeg/a.npy", True),
        ("sub-0?", "sub-01/eeg/a.npy", True),
        ("sub-01", "sub-011/a.npy", False),
        ("*.npy", "a.npy", True),
        ("*.npy", "sub-01/a.npy", False),
        ("**/*.npy", "a.npy", True),
        ("**/*.npy", "sub-01/eeg/a.npy", True),
        ("**/eeg/*.npy", "sub-01/eeg/a.txt", False),
        ("sub-01/**/a.npy", "sub-01/x/y/a.npy", True),
        ("sub-[12]/*", "sub-1/a", True),
        ("*/a", "x/y/a", False),
    ],
)
def test_patterns_match_part_by_part(pattern, path, fits):
    assert chosen(path, [pattern]) is fits
    assert chosen(path, (), [pattern]) is not fits
    if fits:  # no folder on the way may be left out
        parts = path.split("/")
        assert all(may_hold("/".join(parts[:n]), [pattern]) for n in range(1, len(parts)))


def test_folders_that_cannot_match_are_known():
    assert not may_hold("sub-02", ["sub-01/*"])
    assert not may_hold("sub-01/fmri", ["sub-01/eeg/**"])
    assert not may_hold("sub-01", (), ["sub-01"])
    assert may_hold("sub-01", (), ["sub-01/eeg"])


# Lock files

FILES = [
    File('b, with "quotes".npy', "http://h/b?id=1", None, {}, ""),
    File("ä/a.npy", "http://h/a", 2, {"sha256": "ab" * 32, "md5": "cd" * 16}, "3"),
]


def test_a_lock_file_says_everything_in_the_same_bytes(tmp_path):
    write_lock(tmp_path / "one.csv", FILES)
    write_lock(tmp_path / "two.csv", FILES[::-1])
    assert read_lock(tmp_path / "one.csv") == FILES
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    lines = (tmp_path / "one.csv").read_text().splitlines()
    assert lines[2] == f"ä/a.npy,2,md5:{'cd' * 16} sha256:{'ab' * 32},3,http://h/a"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "its first line must be"),
        ("a,b\n", "its first line must be"),
        ("../x,1,,,http://h\n", "line 2: file name"),
        ("x,1,,http://h\n", "line 2: expected path"),
        ("x,one,,,http://h\n", "line 2: expected"),
        ("x,1,sha256:zz,,http://h\n", "line 2: x: 'zz' is not a sha256"),
        ("x,1,sha256,,http://h\n", "line 2: expected"),
        ("x,1,,,u\nx,1,,,u\n", "lists 'x' twice"),
        ('x,1,,,"u\n', "not a readable lock file"),
    ],
)
def test_a_lock_file_that_is_none_is_refused(tmp_path, text, match):
    path = tmp_path / "lock.csv"
    path.write_text("path,size,checksums,version,url\n" * (text not in ("", "a,b\n")) + text)
    with pytest.raises(InputError, match=match):
        read_lock(path)
    with pytest.raises(InputError, match="not a readable lock file"):
        read_lock(tmp_path / "missing.csv")


def test_a_list_of_addresses(api, tmp_path):
    url = api.publish("my file.npy", b"x")
    spec = [{"url": url}, {"url": url, "path": "a/b.npy", "size": 1, "md5": sums(b"x")["md5"]}]
    files = http.list_files(spec)
    assert [(f.path, f.size) for f in files] == [("a/b.npy", 1), ("my file.npy", None)]
    fetch_all(files, tmp_path, limits=QUICK, **http.access())
    assert contents(tmp_path) == {"a/b.npy": b"x", "my file.npy": b"x"}


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"url": "http://h/x", "sha": "1"}, "unknown key 'sha'"),
        ({"path": "x"}, "needs `url`"),
        ({"url": "http://h/"}, "empty part"),
        ({"url": "http://h/%2e%2e"}, "a part `.`"),
        ({"url": "http://h/x", "size": "5"}, "not a size"),
    ],
)
def test_an_entry_must_be_complete(spec, match):
    with pytest.raises(InputError, match=match):
        http.list_files([spec])


# The Hugging Face hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(api, storage):
    """A hub with one model; its weights lie on another host."""
    weights, config = b"weights" * 1000, b"{}"
    large = {"size": len(weights), "sha256": sums(weights)["sha256"], "pointerSize": 130}
    info = {
        "id": "owner/model",
        "sha": COMMIT,
        "siblings": [
            {"rfilename": "config.json", "size": 2, "blobId": "b" * 40},
            {"rfilename": "vae/w.safetensors", "size": len(weights), "blobId": "c", "lfs": large},
        ],
    }

    def described(query, headers):
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"}, b"{}"
        assert query == {"blobs": ["true"]}
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()

    resolved = f"/owner/model/resolve/{COMMIT}"
    stored = storage.publish("weights", weights)
    api.routes["/api/models/owner/model/revision/v1"] = described
    api.routes[f"{resolved}/config.json"] = lambda query, headers: (200, {}, config)
    api.routes[f"{resolved}/vae/w.safetensors"] = lambda query, headers: (
        302,
        {"Location": f"{stored}?signature=secret"},
        b"",
    )
    return {"config.json": config, "vae/w.safetensors": weights}


def test_a_model_is_listed_at_its_commit_and_verified(api, storage, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", api.url)
    with pytest.raises(InputError, match="terms must be accepted first; HF_TOKEN is not set"):
        huggingface.list_files("owner/model", revision="v1", limits=QUICK)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    files = huggingface.list_files("owner/model", revision="v1", limits=QUICK)
    assert [(file.path, file.size, file.version) for file in files] == [
        ("config.json", 2, COMMIT),
        ("vae/w.safetensors", 7000, COMMIT),
    ]
    assert files[1].checksums == {"sha256": sums(hub["vae/w.safetensors"])["sha256"]}
    fetch_all(files, tmp_path / "a", limits=QUICK, **huggingface.access())
    assert contents(tmp_path / "a") == hub
    assert TOKEN not in str(storage.requests)
    storage.faults["weights"] = "wrong"
    with pytest.raises(InputError, match="1 of 2 files .*sha256 is"):
        fetch_all(files, tmp_path / "b", limits=QUICK, **huggingface.access())


def test_a_hub_that_has_no_answer(api, hub):
    def listed(spec="owner/model", **options):
        return huggingface.list_files(spec, endpoint=api.url, limits=QUICK, **options)

    with pytest.raises(InputError, match=r"127.0.0.1.* model owner/model at v2: .*status 404"):
        listed(revision="v2")
    with pytest.raises(InputError, match="write owner/name"):
        listed("../x")
    api.routes["/api/models/owner/model/revision/v3"] = lambda query, headers: (200, {}, PAGE)
    with pytest.raises(InputError, match="no usable answer"):
        listed(revision="v3")
    with pytest.raises(InputError, match="no connection"):
        huggingface.list_files("o/m", endpoint="http://127.0.0.1:9", limits=QUICK)
    with pytest.raises(InputError, match="not an http or https address"):
        huggingface.list_files("o/m", endpoint="hub.example", limits=QUICK)
    with pytest.raises(InputError, match="the hub has model and dataset"):
        listed(kind="space")
    with pytest.raises(InputError, match="offline"):
        huggingface.list_files("o/m", endpoint=api.url, limits=Limits(offline=True))


# GitHub


@pytest.fixture
def release(api, storage):
    """A release of 101 files, which makes two pages."""
    assets = []
    for number in range(101):
        data = b"%d" % number
        asset = {
            "name": f"w{number:03}.pth",
            "size": len(data),
            "browser_download_url": storage.publish(f"asset{number}", data),
        }
        if number:
            asset["digest"] = f"sha256:{sums(data)['sha256']}"
        assets.append(asset)

    def page(query, headers):
        at = (int(query["page"][0]) - 1) * 100
        assert query["per_page"] == ["100"]
        return 200, {}, json.dumps(assets[at : at + 100]).encode()

    api.routes["/repos/o/r/releases/tags/v1.0"] = lambda query, headers: (200, {}, b'{"id": 7}')
    api.routes["/repos/o/r/releases/7/assets"] = page


def test_a_release_is_listed_and_fetched(api, storage, release, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    files = github.list_files("o/r@v1.0", base=api.url, limits=QUICK)
    assert len(files) == 101
    assert (files[0].checksums, files[1].checksums) == ({}, {"sha256": sums(b"1")["sha256"]})
    files = github.list_files("o/r@v1.0", include=["w00[01].pth"], base=api.url, limits=QUICK)
    fetch_all(files, tmp_path, limits=QUICK, **github.access(base=api.url))
    assert contents(tmp_path) == {"w000.pth": b"0", "w001.pth": b"1"}
    assert all(headers["Authorization"] == f"Bearer {TOKEN}" for _, headers in api.requests)
    assert TOKEN not in str(storage.requests)


def test_a_release_or_an_address_must_be_one(api, release):
    for spec in ("o/r", "o@v1", "o/../x@v1", "https://github.com/o/r/archive/x.zip"):
        with pytest.raises(InputError, match="write owner/name@tag|not the address"):
            github.list_files(spec, base=api.url, limits=QUICK)
    with pytest.raises(InputError, match="404"):
        github.list_files("o/r@v2", base=api.url, limits=QUICK)
    for body in (PAGE, b"{}", b'{"id": "x"}', b"[]"):
        api.routes["/repos/o/r/releases/tags/v3"] = lambda q, h, body=body: (200, {}, body)
        with pytest.raises(InputError, match="not JSON|another form"):
            github.list_files("o/r@v3", base=api.url, limits=QUICK)


def test_an_address_of_a_release_costs_no_request():
    url = "https://github.com/o/r/releases/download/v1.0/w%20a.pth"
    (file,) = github.list_files(url, size=3, sha256="ab" * 32)
    assert file == File("w a.pth", url, 3, {"sha256": "ab" * 32}, "v1.0")


# Google Drive

FORM = """<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>
<form id="search"></form><form id="download-form" action="{action}" method="get">
<input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="{id}"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="u-1">
</form></html>"""


@pytest.fixture
def drive(api):
    """Answers like the service: small files come at once, large ones after a confirmation."""
    data = {"small-1": b"small", "large_2": b"large" * 50_000, "cut": b"cut" * 50_000}
    html = {"Content-Type": "text/html; charset=utf-8"}
    api.action = f"{api.url}/download"

    def download(query, headers):
        name = query["id"][0]
        if name not in data:
            return 200, html, b"<html>Sorry, the owner hasn't given you permission</html>"
        if name != "small-1" and (query.get("confirm"), query.get("uuid")) != (["t"], ["u-1"]):
            return 200, html, FORM.format(action=api.action, id=name).encode()
        start = int(headers.get("Range", "bytes=0-")[6:-1])
        size = len(data[name])
        about = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        about |= {"Last-Modified": MODIFIED}
        length = {"Content-Length": str(size - start)}
        body = data[name][start:]
        if name == "cut" and not start:
            return 200, about | length | {"Connection": "close"}, body[:1000]
        return 206 if start else 200, about | length, body

    api.routes["/download"] = download
    return data


def test_files_of_drive_small_and_large(api, drive, tmp_path):
    spec = [{"id": name, "path": f"w/{name}", "size": len(drive[name])} for name in drive]
    files = google_drive.list_files(spec, base=api.url)
    fetch_all(files, tmp_path, limits=QUICK, **google_drive.access())
    assert contents(tmp_path / "w") == drive


def test_other_pages_of_drive_are_refused(api, drive, tmp_path):
    def fetched(name):
        files = google_drive.list_files([{"id": name, "path": "x"}], base=api.url)
        fetch_all(files, tmp_path, limits=QUICK, **google_drive.access())

    with pytest.raises(InputError, match="not public, does not exist, or too many"):
        fetched("private")
    api.action = "https://evil.example/download"
    with pytest.raises(InputError, match="leads elsewhere"):
        fetched("large_2")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "entry",
    [{"id": "a"}, {"path": "x"}, {"id": "a&b", "path": "x"}, {"id": "a", "path": "x", "k": 1}],
)
def test_an_entry_of_drive_must_be_complete(entry):
    with pytest.raises(InputError, match="needs id, path|not an id"):
        google_drive.list_files([entry])
