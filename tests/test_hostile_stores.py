"""Stores and HDF5 files that mean harm: nothing of another file is shown, nothing is made up."""

import json
import shutil
import zipfile

import h5py
import hostile
import numpy as np
import pandas as pd
import pytest

from engram import store
from engram.datasets import roi_cohort
from engram.errors import InputError
from engram.readers import nsd, roi_series
from engram.readers.picture_stacks import Stack

SECRET = b"PRIVATE-KEY-0123"
ELSEWHERE = "another file|other files|never written"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sound stores, and beside them files that are nobody's business."""
    folder = tmp_path_factory.mktemp("made")
    table = pd.DataFrame(
        {"label": list("abcd"), "onset": np.arange(4.0)}, index=[f"row-{i}" for i in range(4)]
    )
    rows = store.Rows(np.arange(16, dtype="f4").reshape(4, 4), table, {"what": "test"})
    for name in ("a.h5", "a.zarr"):
        store.write(folder / name, rows)
        shutil.copy(folder / name, folder / name.replace("a", "b", 1))
    (folder / "secret").write_bytes(SECRET * 16)
    with h5py.File(folder / "secret.hdf5", "w") as file:
        file["rows"] = np.frombuffer(SECRET, "u1").reshape(4, 4)
        file["label"] = np.array([SECRET] * 4)
    return folder


@pytest.fixture
def sound(made, tmp_path, monkeypatch):
    """A copy of these, in which the test runs."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- HDF5 -----------------------------------------------------------------------------


def linked(group, name, shape, dtype):
    group[name] = h5py.ExternalLink("secret.hdf5", "/rows")


def linked_by_its_path(group, name, shape, dtype):
    group[name] = h5py.ExternalLink(group.file.filename.replace("b.h5", "secret.hdf5"), "/rows")


def stored_elsewhere(group, name, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    group.create_dataset(name, shape, dtype, external=[("secret", 0, size)])


def virtual(group, name, shape, dtype):
    layout = h5py.VirtualLayout(shape, dtype)
    width = min(shape[-1], 4)
    source = h5py.VirtualSource("secret.hdf5", "rows", (4, 4))
    layout[(*(0,) * (len(shape) - 1), slice(width))] = source[0, :width]
    group.create_virtual_dataset(name, layout)


def never_written(group, name, shape, dtype):
    made = group.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), fletcher32=True)
    made[0] = 1


def without_checksums(group, name, shape, dtype):
    group.create_dataset(name, data=np.ones(shape, dtype))


def without_checksums_in_chunks(group, name, shape, dtype):
    group.create_dataset(name, data=np.ones(shape, dtype), chunks=shape)


#: What may stand where an array is expected.
ARRAYS = {
    linked: "link to another file",
    linked_by_its_path: "link to another file",
    stored_elsewhere: "in another file",
    virtual: "virtual dataset",
    never_written: "never written",
    without_checksums: "no checksums",
    without_checksums_in_chunks: "no checksums",
}
FOREIGN = (linked, stored_elsewhere, virtual, never_written)


def linked_texts(file):
    del file["label"]
    file["label"] = h5py.ExternalLink("secret.hdf5", "/label")


def packed(file):
    del file["rows"]
    file.create_dataset(
        "rows", (1 << 30, 4), "f4", chunks=(1 << 20, 4), compression="gzip", fletcher32=True
    )


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
    linked_texts: "link to another file",
    packed: "no checksums, or is packed",
    never_written_at_all: "never written",
    a_group: "a group where an array is expected",
    a_list: "no JSON object",
    deep: "not a readable store",
}


def refused(says):
    """`b.h5` is refused in one line by every command, and hides no other store."""
    shown = hostile.command("show", "b.h5")
    assert shown.startswith("error: b.h5: not a readable store (")
    assert says in shown
    assert len(shown.splitlines()) == 1
    assert f"NOT SOUND: {shown.removeprefix('error: ')}" == hostile.command("verify", "b.h5")
    listed = hostile.command("stores", ".")
    assert "80, 82" not in shown + listed
    assert SECRET.decode() not in shown + listed
    assert listed.count("4 x 4 float32") == 3
    return shown


@pytest.mark.parametrize("put", ARRAYS, ids=lambda put: put.__name__)
@pytest.mark.parametrize(
    ("name", "shape", "dtype"), [("rows", (4, 4), "f4"), ("onset", (4,), "f8")]
)
def test_a_store_shows_nothing_but_itself(sound, put, name, shape, dtype):
    with h5py.File("b.h5", "r+") as file:
        del file[name]
        put(file, name, shape, dtype)
    shown = refused(ARRAYS[put])
    assert f"{name} " in shown or f"/{name}" in shown


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_hdf5_that_lies_is_one_line_and_the_others_are_listed(sound, fault):
    with h5py.File("b.h5", "r+") as file:
        fault(file)
    refused(FAULTS[fault])


def test_stores_that_cannot_be_read_do_not_hide_the_others(sound):
    headers = ["{", "[1, 2]", "null", '"text"', '{"what": {}}', "{}" * 2]
    for number, header in enumerate(headers):
        with h5py.File(shutil.copy("a.h5", f"bad{number}.h5"), "r+") as file:
            file.attrs["header"] = header
    with h5py.File("b.h5", "r+") as file:
        del file.attrs["columns"]
    lines = hostile.command("stores", ".").splitlines()
    assert [line for line in lines if "a.h5" in line and "4 x 4 float32" in line]
    assert sum("unreadable" in line for line in lines) >= 6


@pytest.mark.parametrize("put", FOREIGN, ids=lambda put: put.__name__)
def test_series_of_regions_come_from_their_own_file(sound, put):
    with h5py.File(sound / "series.h5", "w") as file:
        put(file, "series", (4, 24), "f4")
    with pytest.raises(InputError, match=f"series.h5: .*({ELSEWHERE}|no array)"):
        roi_series.load(sound / "series.h5", names=[f"r{i}" for i in range(4)])


@pytest.mark.parametrize("put", FOREIGN, ids=lambda put: put.__name__)
def test_pictures_come_from_their_own_file(sound, put):
    with h5py.File(sound / "pictures.h5", "w") as file:
        put(file.create_group("of"), "pictures", (2, 2, 2, 3), "u1")
    says = f"pictures.h5: .*({ELSEWHERE})"
    with pytest.raises(InputError, match=says), Stack(sound / "pictures.h5") as stack:
        stack.picture("of/pictures/1", "a picture")


@pytest.mark.parametrize("put", FOREIGN, ids=lambda put: put.__name__)
def test_published_pictures_come_from_their_own_file(sound, put):
    with h5py.File(sound / "stimuli.hdf5", "w") as file:
        put(file, "imgBrick", (2, 2, 2, 3), "u1")
    with pytest.raises(InputError, match=f"stimuli.hdf5: .*({ELSEWHERE})"):
        nsd.read_stimuli(sound / "stimuli.hdf5", [1], shape=(2, 2, 2, 3))


def test_a_cohort_comes_from_its_own_file(sound):
    with h5py.File(sound / "cohort.h5", "w") as file:
        file["atlas"] = np.ones((2, 3, 24), "f4")
        file["subject"] = h5py.ExternalLink("secret.hdf5", "/label")
    options = roi_cohort.Options(atlases=["atlas"], tr=2.0)
    with pytest.raises(InputError, match="cohort.h5: .*another file"):
        roi_cohort.read("sub-01", [{"path": str(sound / "cohort.h5")}], options)


def test_a_link_within_a_file_is_followed(sound):
    with h5py.File(sound / "series.h5", "w") as file:
        file["kept/series"] = np.arange(96, dtype="f4").reshape(4, 24)
        file["alias"] = h5py.SoftLink("/kept/series")
    found = roi_series.load(
        sound / "series.h5", names=[*"abcd"], axes=["roi", "time"], entry="kept/series"
    )
    assert found.values.shape == (4, 24)


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
def test_zarr_that_lies_is_one_line_and_the_others_are_listed(sound, fault):
    fault(sound / "b.zarr")
    shown = hostile.command("show", "b.zarr")
    last = shown.splitlines()[-1]
    assert last.startswith("error: b.zarr: ")
    assert ZARR[fault] in last
    assert "Traceback" not in shown
    assert "\n[" not in shown
    listed = hostile.command("stores", ".")
    assert listed.count("4 x 4 float32") >= 3


def test_odd_names_in_a_zip_reach_no_other_file(sound):
    again(sound / "b.zarr", more=[("../out", b"x"), ("/tmp/h5-out", b"x"), ("link", b"/etc")])
    assert "row-3" in hostile.command("show", "b.zarr")
    assert not (sound.parent / "out").exists()
