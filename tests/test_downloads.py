"""What was recorded at a first download, as long as it can be true."""

import hashlib
import io
import itertools
import signal
import subprocess
import zipfile
from pathlib import Path

import forked
import pytest
from server import Server

from engram import downloads
from engram.cli import main
from engram.errors import InputError
from engram.sources import File, http, read_lock, write_lock

SHA256 = "ab" * 32
KNOWN = File("a.npy", "http://h/a", 5, {"sha256": SHA256}, "1")
LISTED = {"path": "a.npy", "url": "http://h/a", "size": 5, "version": "1"}


def listed(folder, **changes):
    """The files after the publisher lists `LISTED` with some changes, and another one."""
    entry = {key: value for key, value in (LISTED | changes).items() if value is not None}
    lock = folder / "lock.csv"
    write_lock(downloads.recorded(lock), [KNOWN])
    downloads.listing(lock, {"source": {"http": [entry, {"url": "http://h/b.npy"}]}})
    found = {file.path: file for file in downloads.listed(lock)}
    assert found.pop("b.npy") == File("b.npy", "http://h/b.npy")
    (file,) = found.values()
    return file


@pytest.mark.parametrize("changes", [{}, {"size": None}])
def test_a_recorded_checksum_stays_with_the_same_file(tmp_path, changes):
    assert listed(tmp_path, **changes) == KNOWN


@pytest.mark.parametrize(
    "changes", [{"url": "http://h/c"}, {"size": 6}, {"version": "2"}, {"path": "c.npy"}]
)
def test_a_recorded_checksum_is_not_that_of_another_file(tmp_path, changes):
    (file,) = http.list_files([LISTED | changes])
    assert listed(tmp_path, **changes) == file


def test_a_published_checksum_counts_more_than_a_recorded_one(tmp_path):
    assert listed(tmp_path, md5="cd" * 16).checksums == {"md5": "cd" * 16}


# ---- files, from a server on loopback -----------------------------------------------------


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A function that publishes files, lists them and downloads one; gives its bytes."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "ENGRAM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    lock = tmp_path / "locks/x.csv"

    def fetched(file, files, archive=None, listed=(), **facts):
        entries = [
            {"path": path, "url": server.publish(f"{tmp_path.name}/{path}", data)}
            for path, data in files.items()
        ]
        for entry in entries:
            entry |= facts if entry["path"] in listed else {}
        source = {"http": entries} | ({"archive": archive} if archive else {})
        downloads.listing(lock, {"source": source})
        spec = {"dataset": {"kind": "x"}, "row": {"file": file, "unit": "s1"}, "source": source}
        path = tmp_path / "raw" / file
        path.unlink(missing_ok=True)
        downloads.download(path, spec, lock)
        return path.read_bytes()

    fetched.lock = lock
    return fetched


def beside(path):
    return sorted(one.name for one in path.parent.iterdir())


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def test_a_published_checksum_is_held_against_what_comes(published):
    sha256 = hashlib.sha256(b"right").hexdigest()
    assert published("a", {"a": b"right"}, listed="a", sha256=sha256) == b"right"
    assert not downloads.recorded(published.lock).exists()
    with pytest.raises(InputError, match="sha256 is .* instead of"):
        published("a", {"a": b"wrong"}, listed="a", sha256=sha256)


def test_what_came_first_is_recorded_for_each_file_and_must_come_again(published):
    for name in ("a", "b"):
        assert published(name, {"a": b"one", "b": b"two"}) in (b"one", b"two")
    known = {file.path: file.checksums for file in read_lock(downloads.recorded(published.lock))}
    assert known == {
        name: {"sha256": hashlib.sha256(data).hexdigest()}
        for name, data in (("a", b"one"), ("b", b"two"))
    }
    assert beside(published.lock) == ["x.csv", "x.recorded.csv"]
    with pytest.raises(InputError, match="sha256 is .* instead of"):
        published("a", {"a": b"other"[:3], "b": b"two"})


def test_a_file_goes_by_its_whole_name(published):
    assert published("a", {"deep/a": b"1", "deep/ba": b"2"}) == b"1"
    with pytest.raises(InputError, match=r"lists 0 files called 'a'"):
        published("a", {"ba": b"2"})
    with pytest.raises(InputError, match=r"lists 2 files called 'a'"):
        published("a", {"deep/a": b"1", "other/a": b"2"})


def test_a_member_of_an_archive_goes_by_its_folder_too(published):
    content = zipped({"top/s1/x": b"1", "top/s2/x": b"2", "top/s2/y": b"3"})
    assert published("s2/x", {"s1.zip": content}, "{unit}.zip") == b"2"
    assert published("elsewhere/y", {"s1.zip": content}, "{unit}.zip") == b"3"
    unpacked = published.lock.parents[1] / "raw/s1.zip"
    assert beside(unpacked) == [".s1.zip.unpacked", "elsewhere", "s1.zip", "s2"]
    for name, count in (("x", 2), ("z", 0)):
        with pytest.raises(InputError, match=f"holds {count} files called '{name}'; expected one"):
            published(name, {"s1.zip": content}, "{unit}.zip")


def test_weights_of_no_known_checksum_are_those_of_the_first_download(server, tmp_path):
    path, lock = tmp_path / "clip/w.pt", tmp_path / "weights.csv"
    spec = {"checkpoint": {"url": server.publish("w.pt", b"one")}}
    downloads.download(path, spec, lock)
    (known,) = read_lock(lock)
    assert (known.path, known.size) == ("clip/w.pt", 3)
    server.publish("w.pt", b"two")
    path.unlink()
    with pytest.raises(InputError, match="sha256 is .* instead of"):
        downloads.download(path, spec, lock)
    wrong = {"checkpoint": {**spec["checkpoint"], "sha256": "0" * 64}}
    with pytest.raises(InputError, match="instead of 0000"):
        downloads.download(tmp_path / "other/w.pt", wrong, lock)


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("yes", True), ("0", False), ("", False)]
)
def test_offline_is_what_the_environment_says(monkeypatch, value, offline):
    monkeypatch.setenv("ENGRAM_OFFLINE", value)
    assert downloads.limits().offline == offline


KILLED = """
import os, signal, sys
from engram import downloads
from engram.cli import main
here, changes = os.getcwd(), int(sys.argv[1])
def hook(event, given):
    global changes
    if event in ("os.remove", "os.rename"):
        changes -= os.path.abspath(given[0]).startswith(here)
        if changes < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
exec(sys.argv[2])
"""
STUDY = "datasets: {{x: {{kind: osf_vigilance, units: [s1], files: [a], source: {source}}}}}"
FETCH = "main(['data', 'fetch', 'x', '--parallel', '1', '--configfile', '../study.yaml'])"
DOWNLOAD = "downloads.download('raw/s1/a', {spec}, 'config/locks/x.csv')"


@pytest.mark.parametrize("door", ["fetch", "download"])
def test_killed_before_any_file_is_moved_or_removed_it_ends_in_the_same_files(
    server, published, tmp_path, monkeypatch, door
):
    """Right bytes, and nothing beside them: no part, note or lock of the run that was killed."""
    name, content = {"fetch": ("a", b"1"), "download": ("s1.zip", zipped({"s1/a": b"1"}))}[door]
    source = {"http": [{"url": server.publish(name, content)}], "archive": "{unit}.zip"}
    (tmp_path / "study.yaml").write_text(STUDY.format(source=source))
    spec = {"dataset": {"kind": "x"}, "row": {"file": "s1/a", "unit": "s1"}, "source": source}
    code = FETCH if door == "fetch" else DOWNLOAD.format(spec=spec)

    def begin(name):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        downloads.listing("config/locks/x.csv", {"source": source})

    def ended():
        exec(code, {"main": main, "downloads": downloads})
        return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    begin("undisturbed")
    wanted = ended()
    assert content in wanted.values()
    for changes in itertools.count():
        begin(str(changes))
        command = [forked.python(), "-c", KILLED, str(changes), code]
        if subprocess.run(command, check=False).returncode != -signal.SIGKILL:
            break
        assert ended() == wanted, changes
    assert changes >= 6
