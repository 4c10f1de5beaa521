"""What was recorded at a first download, as long as it can be true."""

import pytest

from engram import downloads
from engram.sources import File, http, write_lock

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
