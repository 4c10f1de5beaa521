"""HDF5 files that show another file's bytes, or zeros where nothing was written."""

import h5py
import numpy as np
import pandas as pd
import pytest

from engram import store
from engram.cli import main
from engram.datasets import roi_cohort
from engram.errors import InputError
from engram.readers import nsd, roi_series
from engram.readers.picture_stacks import Stack
from engram.store import Rows

SECRET = b"the key of somebody else"
ELSEWHERE = "another file|other files|never written"


@pytest.fixture
def secret(tmp_path):
    """A file that nobody asked for, as raw bytes and as HDF5."""
    (tmp_path / "secret.bin").write_bytes(SECRET)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.frombuffer(SECRET, np.uint8)
    return tmp_path


def external_link(group, name, shape, dtype, folder):
    group[name] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def external_storage(group, name, shape, dtype, folder):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    group.create_dataset(name, shape, dtype, external=[(str(folder / "secret.bin"), 0, size)])


def virtual(group, name, shape, dtype, folder):
    layout = h5py.VirtualLayout(shape, dtype)
    layout[(0,) * (len(shape) - 1)] = h5py.VirtualSource(
        str(folder / "secret.h5"), "x", (len(SECRET),)
    )[: shape[-1]]
    group.create_virtual_dataset(name, layout)


FOREIGN = (external_link, external_storage, virtual)


def never_written(group, name, shape, dtype, folder):
    made = group.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), fletcher32=True)
    made[0] = 1


def without_checksums(group, name, shape, dtype, folder):
    group.create_dataset(name, data=np.ones(shape, dtype))


def a_store(path):
    table = pd.DataFrame({"onset": np.arange(4.0)}, index=[f"r{i}" for i in range(4)])
    store.write(path, Rows(np.arange(12, dtype=np.float32).reshape(4, 3), table, {}))
    return path


@pytest.mark.parametrize("put", [*FOREIGN, never_written, without_checksums])
@pytest.mark.parametrize(
    ("name", "shape", "dtype"), [("rows", (4, 3), "f4"), ("onset", (4,), "f8")]
)
def test_a_store_shows_nothing_but_itself(secret, capsys, put, name, shape, dtype):
    path = a_store(secret / "a.h5")
    with h5py.File(path, "r+") as file:
        del file[name]
        put(file, name, shape, dtype, secret)
    assert main(["show", str(path)]) == 1
    told = capsys.readouterr()
    assert SECRET.decode() not in told.out
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert f"{name} " in told.err or f"/{name}" in told.err


def test_one_store_that_cannot_be_read_does_not_hide_the_others(secret, capsys):
    a_store(secret / "good.h5")
    for number, header in enumerate(["{", "[1, 2]", "null", '"text"', '{"what": {}}', "{}" * 2]):
        path = a_store(secret / f"bad{number}.h5")
        with h5py.File(path, "r+") as file:
            file.attrs["header"] = header
    with h5py.File(a_store(secret / "worse.h5"), "r+") as file:
        del file.attrs["columns"]
    assert not main(["stores", str(secret)])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "good.h5" in line and "4 x 3 float32" in line]
    assert sum("unreadable" in line for line in lines) >= 6


@pytest.mark.parametrize("put", [*FOREIGN, never_written])
def test_series_of_regions_come_from_their_own_file(secret, put):
    with h5py.File(secret / "series.h5", "w") as file:
        put(file, "series", (4, 24), "f4", secret)
    with pytest.raises(InputError, match=f"series.h5: .*({ELSEWHERE}|no array)"):
        roi_series.load(secret / "series.h5", names=[f"r{i}" for i in range(4)])


@pytest.mark.parametrize("put", [*FOREIGN, never_written])
def test_pictures_come_from_their_own_file(secret, put):
    with h5py.File(secret / "pictures.h5", "w") as file:
        put(file.create_group("of"), "pictures", (2, 2, 2, 3), "u1", secret)
    says = f"pictures.h5: .*({ELSEWHERE})"
    with pytest.raises(InputError, match=says), Stack(secret / "pictures.h5") as stack:
        stack.picture("of/pictures/1", "a picture")


@pytest.mark.parametrize("put", [*FOREIGN, never_written])
def test_published_pictures_come_from_their_own_file(secret, put):
    with h5py.File(secret / "stimuli.hdf5", "w") as file:
        put(file, "imgBrick", (2, 2, 2, 3), "u1", secret)
    with pytest.raises(InputError, match=f"stimuli.hdf5: .*({ELSEWHERE})"):
        nsd.read_stimuli(secret / "stimuli.hdf5", [1], shape=(2, 2, 2, 3))


def test_a_cohort_comes_from_its_own_file(secret):
    with h5py.File(secret / "cohort.h5", "w") as file:
        file["atlas"] = np.ones((2, 3, 24), "f4")
        file["subject"] = h5py.ExternalLink(str(secret / "secret.h5"), "/x")
    options = roi_cohort.Options(atlases=["atlas"], tr=2.0)
    with pytest.raises(InputError, match="cohort.h5: .*another file"):
        roi_cohort.read("sub-01", [{"path": str(secret / "cohort.h5")}], options)


def test_a_link_within_a_file_is_followed(secret):
    with h5py.File(secret / "series.h5", "w") as file:
        file["kept/series"] = np.arange(96, dtype="f4").reshape(4, 24)
        file["alias"] = h5py.SoftLink("/kept/series")
    found = roi_series.load(
        secret / "series.h5", names=[*"abcd"], axes=["roi", "time"], entry="kept/series"
    )
    assert found.values.shape == (4, 24)
