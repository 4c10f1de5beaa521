"""Stores that mean harm, by the commands that look at them: nothing of another file is shown."""

import json
import shutil
import zipfile

import h5py
import hostile
import numpy as np
import pandas as pd
import pytest

from engram import store

SECRET = b"PRIVATE-KEY-0123"


@pytest.fixture
def sound(tmp_path):
    """Two sound stores, and beside them a file that is nobody's business."""
    table = pd.DataFrame({"label": list("abcd")}, index=[f"row-{i}" for i in range(4)])
    rows = store.Rows(np.arange(16, dtype="f4").reshape(4, 4), table, {"what": "test"})
    for name in ("a.h5", "b.h5", "a.zarr", "b.zarr"):
        store.write(tmp_path / name, rows)
    (tmp_path / "secret").write_bytes(SECRET)
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["rows"] = np.frombuffer(SECRET, "u1").reshape(4, 4)
        file["label"] = np.array([SECRET] * 4)
    return tmp_path


# ---- HDF5 -----------------------------------------------------------------------------


def linked(file):
    del file["rows"]
    file["rows"] = h5py.ExternalLink("secret.hdf5", "/rows")


def linked_column(file):
    del file["label"]
    file["label"] = h5py.ExternalLink("secret.hdf5", "/label")


def stored_elsewhere(file):
    del file["rows"]
    file.create_dataset("rows", (4, 4), "u1", external=[("secret", 0, 16)])


def virtual(file):
    del file["rows"]
    layout = h5py.VirtualLayout((4, 4), "u1")
    layout[:] = h5py.VirtualSource("secret.hdf5", "rows", (4, 4))
    file.create_virtual_dataset("rows", layout)


def without_checksums(file):
    del file["rows"]
    file.create_dataset("rows", data=np.zeros((4, 4), "f4"), chunks=(4, 4))


def packed(file):
    del file["rows"]
    file.create_dataset(
        "rows", (1 << 30, 4), "f4", chunks=(1 << 20, 4), compression="gzip", fletcher32=True
    )


def never_written(file):
    del file["rows"]
    file.create_dataset("rows", (4, 4), "f4", chunks=(2, 4), fletcher32=True)
    file["rows"][:2] = 1


def never_written_at_all(file):
    del file["rows"]
    file.create_dataset("rows", (1 << 40, 4), "f4", chunks=(1 << 16, 4), fletcher32=True)


def a_group(file):
    del file["rows"]
    file.create_group("rows")


def a_list(file):
    file.attrs["header"] = "[]"


def deep(file):
    del file.attrs["header"]
    file.attrs["header"] = np.bytes_(b"[" * 60_000)


FAULTS = {
    linked: "link to another file",
    linked_column: "link to another file",
    stored_elsewhere: "in another file",
    virtual: "virtual dataset",
    without_checksums: "no checksums",
    packed: "no checksums, or is packed",
    never_written: "never written",
    never_written_at_all: "never written",
    a_group: "a group where an array is expected",
    a_list: "no JSON object",
    deep: "not a readable store",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_hdf5_that_lies_is_one_line_and_the_others_are_listed(sound, fault, monkeypatch):
    monkeypatch.chdir(sound)
    with h5py.File("b.h5", "r+") as file:
        fault(file)
    shown = hostile.command("show", "b.h5")
    assert shown.startswith("error: b.h5: not a readable store (")
    assert FAULTS[fault] in shown
    assert len(shown.splitlines()) == 1
    assert f"NOT SOUND: {shown.removeprefix('error: ')}" == hostile.command("verify", "b.h5")
    listed = hostile.command("stores", ".")
    assert "80, 82" not in shown + listed
    assert SECRET.decode() not in shown + listed
    assert listed.count("4 x 4 float32") == 3


# ---- Zarr -----------------------------------------------------------------------------


def again(path, change=lambda name, content: content, kind=zipfile.ZIP_STORED, more=()):
    """Write the zip again, with other content."""
    whole = path.with_suffix(".before")
    shutil.move(path, whole)
    with zipfile.ZipFile(whole) as before, zipfile.ZipFile(path, "w", kind) as after:
        for name in before.namelist():
            content = change(name, before.read(name))
            if content is not None:
                after.writestr(name, content)
        for name, content in more:
            after.writestr(name, content)
    whole.unlink()


def facts(change, of="rows"):
    """A change of the facts of an array."""

    def changed(name, content):
        if name != f"{of}/zarr.json":
            return content
        said = json.loads(content)
        change(said)
        return json.dumps(said).encode()

    return changed


def bomb(path):
    again(path, kind=zipfile.ZIP_DEFLATED, more=[("rows/c/9/0", bytes(1 << 24))])


def twice(path):
    with pytest.warns(UserWarning, match="Duplicate"):
        again(path, more=[("rows/c/0/0", b"other")])


def a_lying_shape(path):
    again(path, facts(lambda said: said.update(shape=[4, 1 << 40])))


def many_rows(path):
    again(path, facts(lambda said: said.update(shape=[1 << 40, 4])))


def many_texts(path):
    again(path, facts(lambda said: said.update(shape=[1 << 40]), of="label"))


def other_names_of_chunks(path):
    encoding = {"name": "v2", "configuration": {"separator": "."}}
    again(path, facts(lambda said: said.update(chunk_key_encoding=encoding)))


def absent(path):
    again(path, lambda name, content: None if name.startswith("rows/c/") else content)


def unchecked(path):
    again(path, facts(lambda said: said.update(codecs=said["codecs"][:1])))


def packed_chunks(path):
    packing = {"name": "gzip", "configuration": {"level": 9}}
    again(path, facts(lambda said: said.update(codecs=[said["codecs"][0], packing])))


def no_array(path):
    again(path, lambda name, content: None if name == "rows/zarr.json" else content)


def a_list_for_a_header(path):
    def changed(name, content):
        if name != "zarr.json":
            return content
        said = json.loads(content)
        said["attributes"]["header"] = "[]"
        return json.dumps(said).encode()

    again(path, changed)


def counted(path):
    """A chunk of texts that says it holds four billion, with the checksum of that."""
    import google_crc32c

    def changed(name, content):
        if name != "label/c/0":
            return content
        body = b"\xff\xff\xff\xff" + content[4:-4]
        return body + google_crc32c.value(body).to_bytes(4, "little")

    again(path, changed)


ZARR = {
    bomb: "members are packed",
    twice: "holds a member twice",
    a_lying_shape: "more than the file holds",
    many_rows: "more than the file holds",
    many_texts: "more than the file holds",
    other_names_of_chunks: "is missing",
    absent: "is missing",
    unchecked: "no checksums",
    packed_chunks: "no checksums, or is packed",
    no_array: "not a readable store",
    a_list_for_a_header: "no JSON object",
    counted: "not a readable store",
}


@pytest.mark.parametrize("fault", ZARR, ids=lambda fault: fault.__name__)
def test_zarr_that_lies_is_one_line_and_the_others_are_listed(sound, fault, monkeypatch):
    monkeypatch.chdir(sound)
    fault(sound / "b.zarr")
    shown = hostile.command("show", "b.zarr")
    last = shown.splitlines()[-1]
    assert last.startswith("error: b.zarr: ")
    assert ZARR[fault] in last
    assert "Traceback" not in shown
    assert "\n[" not in shown
    listed = hostile.command("stores", ".")
    assert listed.count("4 x 4 float32") >= 3


def test_odd_names_in_a_zip_reach_no_other_file(sound, monkeypatch):
    monkeypatch.chdir(sound)
    again(sound / "b.zarr", more=[("../out", b"x"), ("/tmp/h5-out", b"x"), ("link", b"/etc")])
    assert "row-3" in hostile.command("show", "b.zarr")
    assert not (sound.parent / "out").exists()
