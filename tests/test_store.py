"""The on-disk format: what goes in comes out, or nothing is there."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest

from engram import store
from engram.errors import InputError
from engram.recording import Rows


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


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5, 4)])
def test_what_goes_in_comes_out(tmp_path, shape, dtype):
    given = rows(shape=shape, dtype=dtype)
    store.write(tmp_path / "a.h5", given)
    found = store.open(tmp_path / "a.h5")
    assert (found.shape, found.dtype, found.header) == (given.array.shape, dtype, given.header)
    pd.testing.assert_frame_equal(found.table, given.table)
    np.testing.assert_array_equal(found[2:5], given.array[2:5])
    np.testing.assert_array_equal(found.load().array, given.array)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_plain_h5py_reads_it(tmp_path):
    given = rows()
    store.write(tmp_path / "a.h5", given)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["rows"][()], given.array)
        assert file["row"].asstr()[()].tolist() == given.table.index.tolist()
        assert file["note"].asstr()[1] == "α–β"
        assert json.loads(file.attrs["header"])["β"] == [1, 2]


def test_equal_content_is_equal_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        store.write(tmp_path / name, rows())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_flipped_bit_is_noticed(tmp_path):
    given = rows(200)
    store.write(tmp_path / "a.h5", given)
    damaged = bytearray((tmp_path / "a.h5").read_bytes())
    damaged[damaged.find(given.array[100].tobytes())] ^= 1
    (tmp_path / "a.h5").write_bytes(damaged)
    with pytest.raises(InputError, match="a.h5: damaged"):
        store.open(tmp_path / "a.h5")[:]


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


def test_an_interrupted_store_is_absent_and_resumes_to_the_same_bytes(tmp_path):
    given = rows()
    fill(tmp_path / "whole.h5", given)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "a.h5", given, stop_after=2)
    assert not (tmp_path / "a.h5").exists()
    assert fill(tmp_path / "a.h5", given) == [(4, 6), (6, 7)]
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "whole.h5"]


@pytest.mark.parametrize("change", ["header", "parts", "table"])
def test_parts_of_something_else_are_not_used(tmp_path, change):
    given = rows()
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "a.h5", given, stop_after=2)
    if change == "header":
        written = fill(tmp_path / "a.h5", given, header={"what": "other"})
    elif change == "parts":
        written = fill(tmp_path / "a.h5", given, part_rows=3)
    else:
        other = Rows(given.array, given.table.assign(onset=0.0), given.header)
        written = fill(tmp_path / "a.h5", other)
    assert written[0][0] == 0


def test_a_damaged_part_is_written_again(tmp_path):
    given = rows()
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "a.h5", given, stop_after=3)
    part = sorted((tmp_path / "a.h5.parts").glob("*.npy"))[1]
    part.write_bytes(part.read_bytes()[:-5])
    assert fill(tmp_path / "a.h5", given) == [(2, 4), (6, 7)]
    np.testing.assert_array_equal(store.open(tmp_path / "a.h5")[:], given.array)


def test_kill_minus_nine_loses_only_the_part_in_flight(tmp_path):
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
fill({str(tmp_path / "a.h5")!r}, rows())
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not (tmp_path / "a.h5").exists()
    assert fill(tmp_path / "a.h5", rows()) == [(4, 6), (6, 7)]


def test_a_range_left_out_is_an_error(tmp_path):
    given = rows()
    args = (given.table, given.array.shape, given.array.dtype, given.header)
    with (
        pytest.raises(InputError, match="rows 2 to 4 were never written"),
        store.resume(tmp_path / "a.h5", *args, part_rows=2) as parts,
    ):
        parts[0:2] = given.array[:2]
    assert not (tmp_path / "a.h5").exists()


def test_row_names_must_be_unique(tmp_path):
    given = rows()
    twice = given.table.set_axis(["same", "same", *given.table.index[2:]])
    with pytest.raises(InputError, match="not unique: same"):
        store.write(tmp_path / "a.h5", Rows(given.array, twice, {}))


def test_what_is_not_a_store_is_refused(tmp_path):
    (tmp_path / "a.h5").write_text("hello")
    with pytest.raises(InputError, match="a.h5: not a readable store"):
        store.open(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.attrs["layout"] = 99
    with pytest.raises(InputError, match="layout 99, expected 2"):
        store.open(tmp_path / "b.h5")


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


def test_align_refuses_strangers_and_twins():
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
