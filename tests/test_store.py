"""The on-disk format: what goes in comes out, or nothing is there."""

import contextlib
import fcntl
import json
import re
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from engram import store
from engram.errors import InputError
from engram.store import Rows, json_file
from engram.store.overlap import Overlap


def rows(n=7, shape=(3,), dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "subject": [f"sub-{i % 2:02d}" for i in range(n)],
            "onset": np.arange(n) * 1.5,
            "window": np.arange(n),
            "valid": np.arange(n) % 3 == 0,
            "note": ["", "α–β", *["x"] * (n - 2)],
        },
        index=[f"row-{i:03d}" for i in range(n)],
    )
    return Rows((rng.random((n, *shape)) * 100).astype(dtype), table, {"what": "test", "β": [1, 2]})


@pytest.fixture(params=[".h5", ".zarr"])
def path(request, tmp_path):
    """Where a store of either format goes."""
    return tmp_path / f"a{request.param}"


# ---- the contract of both formats -----------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5, 4)])
def test_what_goes_in_comes_out(path, shape, dtype):
    given = rows(shape=shape, dtype=dtype)
    store.write(path, given)
    found = store.open(path)
    assert (found.shape, found.dtype, found.header) == (given.array.shape, dtype, given.header)
    pd.testing.assert_frame_equal(found.table, given.table)
    np.testing.assert_array_equal(found[2:5], given.array[2:5])
    np.testing.assert_array_equal(found.load().array, given.array)
    assert found[:].dtype == dtype
    assert found.verify() == []
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def cut(given, *edges):
    """The same rows in pieces."""
    pieces = zip([0, *edges], [*edges, len(given.array)], strict=True)
    return [Rows(given.array[a:b], given.table.iloc[a:b], given.header) for a, b in pieces]


def test_rows_in_pieces_make_the_same_bytes(path, monkeypatch):
    """Blocks of two rows, which the pieces do not respect."""
    monkeypatch.setattr(store.layout, "CHUNK_BYTES", 24)
    monkeypatch.setattr(store.layout, "BLOCK_BYTES", 24)
    given = rows(11)
    store.write(path, given)
    whole = path.read_bytes()
    store.write(path, *cut(given, 1, 6, 6, 9))
    assert path.read_bytes() == whole
    np.testing.assert_array_equal(store.open(path)[:], given.array)


def test_pieces_are_not_put_together_in_memory(path):
    given = rows(400, (1 << 16,))  # 100 MiB
    pieces = cut(given, 1)
    tracemalloc.start()
    store.write(path, *pieces)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < given.array.nbytes / 2


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 5)])
def test_no_rows_come_out_as_no_rows(path, shape):
    given = rows()
    none = Rows(np.zeros((0, *shape), np.float16), given.table.iloc[:0], given.header)
    store.write(path, none)
    found = store.open(path)
    assert (found.shape, found.dtype, len(found)) == (none.array.shape, np.float16, 0)
    pd.testing.assert_frame_equal(found.table, none.table)
    assert found[:].shape == found[[]].shape == none.array.shape
    assert found.verify() == []


def test_odd_texts_and_long_headers(path):
    names = ["a", "β" * 200, "c/d e#'\"", "\t"]
    table = pd.DataFrame({"one": ["", "", "", ""], "deux é": ["x", "", "ü", " "]}, index=names)
    header = {"curves": list(range(40_000)), "": None, "nested": {"β": [0.1, True, "x"]}}
    store.write(path, Rows(np.zeros((4, 2), "f4"), table, header))
    found = store.open(path)
    pd.testing.assert_frame_equal(found.table, table)
    assert found.header == header
    assert (found[:] == 0).all()
    assert found.verify() == []


def test_a_table_without_columns(path):
    table = pd.DataFrame(index=["x", "y"])
    store.write(path, Rows(np.ones((2, 1), "f2"), table, {}))
    assert store.open(path).table.index.tolist() == ["x", "y"]
    assert store.open(path).table.shape == (2, 0)


def test_rows_are_read_in_any_order(path, monkeypatch):
    monkeypatch.setattr(store.layout, "CHUNK_BYTES", 64)  # several rows a chunk, several chunks
    given = rows(50)
    store.write(path, given)
    found, rng = store.open(path), np.random.default_rng(0)
    for at in (rng.integers(0, 50, 40), rng.permutation(50), [49], [7, 7, -1, 0], range(9, 20)):
        np.testing.assert_array_equal(found[at], given.array[at])
    mask = rng.random(50) < 0.3
    for at in (mask, slice(30, 10), slice(40, 5, -3), slice(-5, None), slice(45, 90), -2, 3):
        np.testing.assert_array_equal(found[at], given.array[at])
    assert found[[]].shape == (0, 3)
    for beyond in (50, [3, 50], -51):
        with pytest.raises(IndexError):
            found[beyond]


def test_equal_content_is_equal_bytes(path):
    made = []
    for _ in range(2):
        store.write(path, rows(300))
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_the_date_does_not_matter(path, monkeypatch):
    store.write(path, rows())
    before = path.read_bytes()
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    store.write(path, rows())
    assert path.read_bytes() == before


def test_nothing_in_an_hdf5_file_has_a_date(tmp_path):
    """HDF5 takes the time from the system, to the second."""
    store.write(tmp_path / "a.h5", rows())
    with h5py.File(tmp_path / "a.h5") as file:
        for dataset in file.values():
            assert not dataset.id.get_create_plist().get_obj_track_times()


def test_a_reader_takes_no_lock(path):
    store.write(path, rows())
    with path.open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert len(store.open(path)[:]) == 7


def test_a_flipped_bit_is_noticed(path):
    given = rows(200)
    store.write(path, given)
    damaged = bytearray(path.read_bytes())
    at = damaged.find(given.array[100].tobytes())
    assert at > 0
    damaged[at] ^= 1
    path.write_bytes(damaged)
    for read in (slice(None), [100], slice(100, 101)):
        with pytest.raises(InputError, match=rf"{path.name}: damaged"):
            store.open(path)[read]
    problems = store.open(path).verify()
    assert len(problems) == 1
    assert "rows 0 to 200 are damaged" in problems[0]


def test_no_flipped_byte_anywhere_changes_what_is_read(path):
    """Wherever a byte is flipped, the store is refused or reads as it was written."""
    given = rows(40)
    store.write(path, given)
    whole, refused = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    for at in rng.choice(len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            found = store.open(path).load()
        except InputError:
            refused += 1
        else:
            np.testing.assert_array_equal(found.array, given.array)
            pd.testing.assert_frame_equal(found.table, given.table)
            assert found.header == given.header
    assert refused > 20


def test_a_truncated_store_is_refused(path):
    store.write(path, rows(100))
    whole = path.read_bytes()
    for kept in np.linspace(0, len(whole) - 1, 20).astype(int):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=rf"{path.name}: "):
            store.open(path).load()


def test_what_is_not_a_store_is_refused(path):
    with pytest.raises(InputError, match=rf"{path.name}: no such store"):
        store.open(path)
    path.write_text("hello")
    with pytest.raises(InputError, match=rf"{path.name}: not a readable store"):
        store.open(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=rf"{path.name}: not a readable store"):
        store.open(path)
    with pytest.raises(InputError, match=r"a\.npz: the name of a store ends in \.h5 or \.zarr"):
        store.open(path.with_name("a.npz"))


def test_another_layout_is_refused(path, monkeypatch):
    monkeypatch.setattr(store.layout, "LAYOUT", 1)
    store.write(path, rows())
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"layout 1, expected 2; delete the file so that it is w"):
        store.open(path)


def test_files_of_the_format_that_are_no_store_are_refused(tmp_path):
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = [1]
    with zarr.storage.ZipStore(tmp_path / "b.zarr", mode="w") as members:
        zarr.create_group(members)
    for name in ("b.h5", "b.zarr"):
        with pytest.raises(InputError, match=rf"{name}: store layout none, expected 2"):
            store.open(tmp_path / name)


def test_a_chunk_that_is_missing_is_not_read_as_zeros(tmp_path):
    given = rows(10)
    store.write(tmp_path / "a.zarr", given)
    with (
        zipfile.ZipFile(tmp_path / "a.zarr") as whole,
        zipfile.ZipFile(tmp_path / "b.zarr", "w") as partial,
    ):
        for name in whole.namelist():
            if not name.startswith("rows/c/"):
                partial.writestr(name, whole.read(name))
    with pytest.raises(InputError, match=r"b.zarr: damaged \(chunk rows/c/0/0 is missing\)"):
        store.open(tmp_path / "b.zarr")[:]


@pytest.mark.parametrize("name", ["rows", "row", "axis_1", "a/b", "", "..", "__x", 3])
def test_columns_that_no_layout_holds_are_refused(path, name):
    given = rows()
    table = given.table.rename(columns={"onset": name})
    with pytest.raises(InputError, match=rf"a column cannot be called {name!r}"):
        store.write(path, Rows(given.array, table, {}))
    assert list(path.parent.iterdir()) == []


def test_tables_that_do_not_fit_the_rows_are_refused(path):
    given = rows()
    with pytest.raises(InputError, match=rf"{path.name}: 6 rows, but 7 names"):
        store.write(path, Rows(given.array[:6], given.table, {}))
    twice = given.table.set_axis(["a", "b", "a", "c", "b"], axis=1)
    with pytest.raises(InputError, match="column names are not unique: a, b"):
        store.write(path, Rows(given.array, twice, {}))
    assert list(path.parent.iterdir()) == []


def test_hdf5_alone_does_not_import_zarr(tmp_path):
    code = f"""
import sys, numpy as np, pandas as pd
from engram import store
from engram.store import Rows
path = {str(tmp_path / "a.h5")!r}
store.write(path, Rows(np.zeros((2, 3), "f4"), pd.DataFrame(index=["a", "b"]), {{}}))
store.open(path).load()
print("zarr" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# ---- the audit ------------------------------------------------------------------------


def odd(dtype="float32", shape=(4,)):
    """20 rows, of which 2 and 5 are not finite, 7 and 8 constant, 8, 12, 13, 14 duplicates."""
    given = rows(20, shape, dtype)
    given.array[2, ..., 1], given.array[5] = np.nan, np.inf
    given.array[7] = given.array[8] = 3
    given.array[12:15] = given.array[0]
    return given


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_the_audit_names_odd_rows(path, shape, dtype, capsys):
    store.write(path, odd(dtype, shape))
    found = store.open(path)
    assert found.audit == {
        "not_finite": {"rows": 2, "first": ["row-002", "row-005"]},
        "constant": {"rows": 2, "first": ["row-007", "row-008"]},
        "duplicate": {"rows": 4, "first": ["row-008", "row-012", "row-013"]},
    }
    assert "audit" not in found.header
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {path}: 2 rows are not finite, first row-002, row-005",
        f"warning: {path}: 2 rows are constant, first row-007, row-008",
        f"warning: {path}: 4 rows are duplicates of others, first row-008, row-012, row-013",
    ]
    assert found.verify() == [f"{path}: 2 rows are not finite, first row-002, row-005"]


def test_the_audit_is_the_same_whatever_the_blocks(path, monkeypatch):
    store.write(path, odd())
    whole = store.open(path).audit
    monkeypatch.setattr(store.layout, "CHUNK_BYTES", 40)
    monkeypatch.setattr(store.layout, "BLOCK_BYTES", 40)
    fill(path, odd(), part_rows=3, header={"what": "other"})
    assert store.open(path).audit == whole
    assert store.open(path).verify() == [f"{path}: 2 rows are not finite, first row-002, row-005"]
    reason = np.where(np.arange(20) < 10, "artefact", "")
    fill(path, Rows(odd().array, odd().table.assign(exclude=reason), {}), part_rows=3)
    assert store.open(path).audit["duplicate"] == {"rows": 2, "first": ["row-013", "row-014"]}
    assert store.open(path).audit["constant"]["rows"] == 0


def test_rows_that_are_excluded_are_not_audited(path, capsys):
    given = odd()
    reason = np.where(np.isin(np.arange(20), [2, 5, 7, 8, 12, 13, 14]), "artefact", "")
    store.write(path, Rows(given.array, given.table.assign(exclude=reason), {}))
    assert {kind["rows"] for kind in store.open(path).audit.values()} == {0}
    assert store.open(path).verify() == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("dtype", "shape"), [("float32", ()), ("uint8", (3,)), ("int8", ())])
def test_labels_and_pictures_are_not_audited(path, dtype, shape, capsys):
    given = rows(dtype=dtype, shape=shape)
    given.array[:] = 1
    store.write(path, given)
    assert store.open(path).audit == {}
    assert capsys.readouterr().err == ""


def test_a_single_value_is_not_constant(path):
    store.write(path, rows(shape=(1,)))
    assert store.open(path).audit["constant"]["rows"] == 0


# ---- verification: files as only other programs would write them ----------------------


def test_names_that_repeat_are_a_problem(path, monkeypatch):
    given = rows()
    twice = given.table.set_axis(["same", "same", *given.table.index[2:]])
    monkeypatch.setattr(store.layout, "check", lambda *_: None)
    store.write(path, Rows(given.array, twice, {}))
    monkeypatch.undo()
    assert store.open(path).verify() == [f"{path}: row names are not unique: same"]


def test_a_column_that_is_too_short_is_a_problem(tmp_path):
    store.write(tmp_path / "a.h5", rows())
    found = store.open(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["onset"]
        file.create_dataset("onset", data=np.zeros(3), fletcher32=True)
    message = "column onset has 3 values for 7 rows"
    assert message in found.verify()[0]
    with pytest.raises(InputError, match=message):
        store.open(tmp_path / "a.h5")


def test_fewer_names_than_rows_are_a_problem(tmp_path):
    given = rows()
    store.write(tmp_path / "a.h5", Rows(given.array, given.table[[]], {}))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        names = file["row"][:5]
        del file["row"]
        file.create_dataset("row", data=names, fletcher32=True)
    with pytest.raises(InputError, match="7 rows, but 5 names"):
        store.open(tmp_path / "a.h5")


def test_values_changed_behind_the_checksums_are_a_problem(tmp_path):
    store.write(tmp_path / "a.h5", rows())
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["rows"][3] = file["rows"][2]
    path = tmp_path / "a.h5"
    assert store.open(path).verify() == [f"{path}: the audit differs from the one that is stored"]


# ---- parts ----------------------------------------------------------------------------


def fill(path, given, stop_after=None, header=None, part_rows=2):
    """Write `given` in parts of two rows; return the ranges that had to be written."""
    written = []
    args = (given.table, given.array.shape, given.array.dtype, header or given.header)
    with store.resume(path, *args, part_rows=part_rows) as parts:
        for start, stop in parts.missing():
            if len(written) == stop_after:
                raise KeyboardInterrupt
            parts[start:stop] = given.array[start:stop]
            written.append((start, stop))
    return written


def test_an_interrupted_store_is_absent_and_resumes_to_the_same_bytes(path):
    given, whole = rows(), path.with_name(f"whole{path.suffix}")
    fill(whole, given)
    with pytest.raises(KeyboardInterrupt):
        fill(path, given, stop_after=2)
    assert not path.exists()
    assert fill(path, given) == [(4, 6), (6, 7)]
    assert path.read_bytes() == whole.read_bytes()
    assert {*path.parent.iterdir()} == {path, whole}


@pytest.mark.parametrize("change", ["header", "parts", "table"])
def test_parts_of_something_else_are_not_used(path, change):
    given = rows()
    with pytest.raises(KeyboardInterrupt):
        fill(path, given, stop_after=2)
    if change == "header":
        written = fill(path, given, header={"what": "other"})
    elif change == "parts":
        written = fill(path, given, part_rows=3)
    else:
        other = Rows(given.array, given.table.assign(onset=0.0), given.header)
        written = fill(path, other)
    assert written[0][0] == 0


def test_a_damaged_part_is_written_again(path):
    given = rows()
    with pytest.raises(KeyboardInterrupt):
        fill(path, given, stop_after=3)
    part = sorted(path.with_name(path.name + ".parts").glob("*.npy"))[1]
    part.write_bytes(part.read_bytes()[:-5])
    assert fill(path, given) == [(2, 4), (6, 7)]
    np.testing.assert_array_equal(store.open(path)[:], given.array)


def test_kill_minus_nine_loses_only_the_part_in_flight(path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
from test_store import fill, rows
from engram import store
original, count = store.Parts.__setitem__, [0]
def counted(self, *args):
    count[0] += 1
    if count[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, *args)
store.Parts.__setitem__ = counted
fill({str(path)!r}, rows())
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not path.exists()
    assert fill(path, rows()) == [(4, 6), (6, 7)]


def test_a_range_left_out_is_an_error(path):
    given = rows()
    args = (given.table, given.array.shape, given.array.dtype, given.header)
    with (
        pytest.raises(InputError, match="rows 2 to 4 were never written"),
        store.resume(path, *args, part_rows=2) as parts,
    ):
        parts[0:2] = given.array[:2]
    assert not path.exists()


def test_a_range_that_is_no_part_or_does_not_fit_is_refused(path):
    given = rows()
    args = (given.table, given.array.shape, given.array.dtype, given.header)
    with pytest.raises(IndexError, match="is not a part"), store.resume(path, *args, 2) as parts:
        parts[1:3] = given.array[1:3]
    with pytest.raises(ValueError, match="part of shape"), store.resume(path, *args, 2) as parts:
        parts[0:2] = given.array[:1]
    assert not path.exists()


def test_row_names_must_be_unique(path):
    given = rows()
    twice = given.table.set_axis(["same", "same", *given.table.index[2:]])
    with pytest.raises(InputError, match="not unique: same"):
        store.write(path, Rows(given.array, twice, {}))


def test_align_joins_by_name_whatever_the_order():
    left, right = rows(8).table, rows(8).table.iloc[[5, 1, 7, 3]]
    i, j = store.align(left, right)
    assert left.index[i].tolist() == ["row-001", "row-003", "row-005", "row-007"]
    assert left.index[i].tolist() == right.index[j].tolist()


def test_align_links_many_rows_to_one():
    trials = pd.DataFrame({"stimulus": ["b", "a", "b", "z"]}, index=["t0", "t1", "t2", "t3"])
    stimuli = pd.DataFrame(index=["a", "b", "c"])
    i, j = store.align(trials, stimuli, link="stimulus")
    assert (i.tolist(), j.tolist()) == ([0, 1, 2], [1, 0, 1])


def test_align_keeps_what_all_of_several_tables_share():
    every = rows(6).table
    tables = every, every.iloc[[4, 3, 2, 0]], every.iloc[[1, 2, 4, 5]]
    found = store.align(*tables)
    for table, at in zip(tables, found, strict=True):
        assert table.index[at].tolist() == ["row-002", "row-004"]


def test_linked_rows_may_have_any_names():
    trials = pd.DataFrame({"stimulus": ["b", "a"]}, index=["t", "t"])
    _, at = store.align(trials, pd.DataFrame(index=["a", "b"]), link="stimulus")
    assert at.tolist() == [1, 0]
    with pytest.raises(InputError, match="row named twice: a"):
        store.align(trials, pd.DataFrame(index=["a", "a"]), link="stimulus")


def test_align_refuses_strangers_and_twins():
    with pytest.raises(InputError, match="row named twice: row-000"):
        store.align(pd.concat([rows().table] * 2), rows().table)
    with pytest.raises(InputError, match="share no row name"):
        store.align(rows().table, rows().table.add_prefix("x", axis=0))
    with pytest.raises(InputError, match="row named twice: row-000"):
        store.align(rows().table, pd.concat([rows().table] * 2))


def test_stores_of_one_kind_are_stacked_and_others_refused(tmp_path):
    given = rows()
    other = Rows(given.array, given.table.add_prefix("other-", axis=0), given.header)
    store.write(tmp_path / "a.h5", given)
    store.write(tmp_path / "b.h5", other)
    both = store.load([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert both.table.index.tolist() == [*given.table.index, *other.table.index]
    np.testing.assert_array_equal(both.array, np.concatenate([given.array, given.array]))
    store.write(tmp_path / "b.h5", Rows(other.array, other.table, {**other.header, "β": [3]}))
    with pytest.raises(InputError, match=r"b.h5 differ in `β` \(\[1, 2\] and \[3\]\)"):
        store.load([tmp_path / "a.h5", tmp_path / "b.h5"])
    store.write(tmp_path / "b.h5", Rows(other.array, other.table, {**other.header, "unit": "V"}))
    with pytest.raises(InputError, match=r"b.h5 differ in `unit` \(None and V\)"):
        store.load([tmp_path / "a.h5", tmp_path / "b.h5"])
    store.write(tmp_path / "b.h5", Rows(other.array[:, :2], other.table, other.header))
    with pytest.raises(InputError, match=r"differ in `shape of a row` \(\[3\] and \[2\]\)"):
        store.load([tmp_path / "a.h5", tmp_path / "b.h5"])


FINE, COARSE = ([30.0 - i * step for i in range(119)] for step in (0.25, 0.2))


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (
            {"view": {"settings": {"sfreq": 128.0}, "frequencies": FINE}},
            {"view": {"settings": {"sfreq": 50.0}, "frequencies": COARSE}},
            r"`view.settings.sfreq` \(128.0 and 50.0\), `view.frequencies` \(29.75 at position 1 "
            r"and 29.8 at position 1\); set `sfreq` of the dataset",
        ),
        (
            {"frequencies": FINE},
            {"frequencies": FINE[::2]},
            r"`frequencies` \(119, 30 to 0.5 and 60, 30 to 0.5\); set `sfreq`",
        ),
        (
            {"channels": [f"E{i}" for i in range(64)]},
            {"channels": [f"E{i}" for i in range(62)] + ["E63", "E62"]},
            r"`channels` \(E62 at position 62 and E63 at position 62\); name those that all have",
        ),
        ({"channels": ["Oz", "Pz"]}, {"channels": ["Oz"]}, r"\(\['Oz', 'Pz'\] and \['Oz'\]\)"),
        ({"unit": "uV", "a": 1}, {"unit": "V", "a": 2}, r"`unit` \(uV and V\), `a` \(1 and 2\)"),
        (dict.fromkeys("bcdef", 1), {}, r"`e` \(1 and None\) and 1 more; make both alike"),
    ],
)
def test_what_differs_between_stores_is_named_by_keys_and_values(tmp_path, one, other, words):
    given = rows()
    for name, header in (("a", one), ("b", other)):
        own = {"made_by": {"unit": name}, "recorded": {name: "as it was"}}
        table = given.table.add_prefix(f"{name}-", axis=0)
        store.write(tmp_path / f"{name}.h5", Rows(given.array, table, header | own))
    with pytest.raises(InputError, match=rf"a\.h5 and .*b\.h5 differ in .*{words}"):
        store.load([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert len(store.load([tmp_path / "a.h5"]).array) == len(given.array)


# ---- reading, working and writing at once ----------------------------------------------


def test_reading_ahead_and_writing_behind_keep_the_order():
    written = []
    with Overlap() as overlap:
        for span, value in overlap.ahead(lambda span: span * 10, [1, 2, 3, 4]):
            overlap.behind(written.append, (span, value))
    assert written == [(1, 10), (2, 20), (3, 30), (4, 40)]


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_an_error_of_the_reader_or_the_writer_reaches_the_loop(fails):
    def checked(number):
        if number == fails:
            raise OSError(f"number {number}")
        return number

    def read_all():
        with Overlap() as overlap:
            return list(overlap.ahead(checked, [1, 2, 3]))

    def write_all():
        with Overlap() as overlap:
            for number in (1, 2, 3):
                overlap.behind(checked, number)

    for work in (read_all, write_all):
        with pytest.raises(OSError, match=f"number {fails}"):
            work()


def test_json_files_hold_null_for_what_is_no_number(tmp_path):
    data = {"a": np.nan, "b": np.array([1.5, np.nan]), "c": [np.float32(2)], "d": pd.Series([3])}
    json_file.write(data, tmp_path / "a.json")

    def refuse(name):
        raise AssertionError(name)

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None], "c": [2.0], "d": [3]}


# ---- docs/stores.md -------------------------------------------------------------------


PAGE = (Path(__file__).parents[1] / "docs/stores.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def features(tmp_path, monkeypatch):
    """The two files that the page reads, in the current folder; their content."""
    names = [f"sub-{s:02d}/scan-01/window-{w:04d}" for s in (1, 2) for w in range(12)]
    table = pd.DataFrame(
        {
            "subject": [name.partition("/")[0] for name in names],
            "onset": np.arange(24) * 1.5,
            "valid": np.arange(24) % 2 == 0,
            "sex": [*"fm" * 11, "", "é"],
            "hand": [*"lr" * 12],
        },
        index=names,
    )
    array = np.random.default_rng(0).random((24, 3, 4)).astype(np.float16)
    monkeypatch.chdir(tmp_path)
    given = Rows(array, table, {"what": "features"})
    store.write("features.h5", given)
    store.write("features.zarr", given)
    return given


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_page_on_stores_runs_and_reads_the_same(features, number):
    found = {}
    exec(SNIPPETS[number], found)
    if "dataset" in found:
        dataset = found["dataset"]
        assert dataset["rows"].dims == ("row", "axis_1", "axis_2")
        assert dataset["rows"].dtype == np.float16
        assert dataset["row"].values.tolist() == features.table.index.tolist()
        for name in features.table:
            assert dataset[name].dims == ("row",)
            assert dataset[name].values.tolist() == features.table[name].tolist()
        assert json.loads(dataset.attrs["header"]) == features.header
        np.testing.assert_array_equal(found["one"], features.array[3])
        np.testing.assert_array_equal(found["of_subject"], features.array[:12])
        dataset.close()
    elif "everything" in found:
        np.testing.assert_array_equal(found["everything"].array, features.array)
    elif "names" in found and "root" not in found and "file" not in found:
        for path in ("whole.zarr", "parts.h5"):
            np.testing.assert_array_equal(store.open(path)[:], found["array"])
    else:
        np.testing.assert_array_equal(found["array"], features.array)
        assert found["names"].tolist() == features.table.index.tolist()
        assert found["subject"].tolist() == features.table["subject"].tolist()
        assert found["header"] == features.header


def test_the_page_shows_every_way_to_read():
    assert len(SNIPPETS) == 6
    for word in ("store.open", "open_dataset", "open_zarr", "h5py.File", "open_group", "resume"):
        assert sum(word in snippet for snippet in SNIPPETS) == 1
    assert f"Layout, version {store.layout.LAYOUT}" in PAGE
    assert f"about {store.layout.CHUNK_BYTES >> 10} KiB" in PAGE


def test_a_part_is_kept_as_long_as_its_own_rows_are_the_same(path):
    given = rows(n=9)

    def missing(table):
        with (
            contextlib.suppress(KeyboardInterrupt),
            store.resume(path, table, (9, 3), "f4", given.header, part_rows=3) as parts,
        ):
            found = parts.missing()
            for start, stop in found:
                parts[start:stop] = given.array[start:stop]
            raise KeyboardInterrupt
        return found

    assert missing(given.table) == [(0, 3), (3, 6), (6, 9)]
    assert missing(given.table) == []
    changed = given.table.copy()
    changed.iloc[4, changed.columns.get_loc("onset")] = 99.0
    assert missing(changed) == [(3, 6)]
    renamed = changed.rename(index={"row-008": "row-800"})
    assert missing(renamed) == [(6, 9)]


@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_stacked_stores_are_one_array_whose_rows_are_read_when_asked_for(tmp_path, suffix):
    rng = np.random.default_rng(0)
    paths, arrays = [], []
    for i, n in enumerate((5, 1, 70)):
        array = rng.normal(size=(n, 3, 1000)).astype(np.float32)
        names = [f"{i}/{j}" for j in range(n)]
        paths.append(tmp_path / f"{i}.{suffix}")
        table = pd.DataFrame({"n": range(n)}, index=names)
        store.write(paths[-1], Rows(array, table, {"made_by": i, "unit": "uV"}))
        arrays.append(array)
    stacked, whole = store.Stacked(paths), np.concatenate(arrays)
    assert stacked.shape == whole.shape
    assert [*stacked.table.index[[0, 4, 5, 6, 75]]] == ["0/0", "0/4", "1/0", "2/0", "2/69"]
    for at in (rng.permutation(76), np.array([75, 0, 5, 5, 4]), np.array([], int)):
        np.testing.assert_array_equal(stacked[at], whole[at])
    np.testing.assert_array_equal(stacked.load().array, whole)
