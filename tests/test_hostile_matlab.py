"""Files of MATLAB, EEGLAB and tables that lie or inflate: one line each, in bounded memory."""

import gzip
import struct
import zlib
from pathlib import Path

import h5py
import hostile
import numpy as np
import pytest
from eeglab73 import write_set73
from scipy.io import savemat
from scipy.sparse import csc_array
from test_hostile_nifti import bold, nifti, scan

from engram.datasets import eeg_recordings
from engram.readers import nsd, roi_series

NAMES, RATE = ["Fp1", "Cz", "Oz"], 100


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def eeg(path="x.set"):
    row = {"subject": "s", "scan": "a", "file": str(path), "path": str(path)}
    options = eeg_recordings.Options()
    eeg_recordings.outline("s", [row], options)
    return eeg_recordings.read("s", [row], options)[0]


def samples():
    return np.random.default_rng(0).normal(0, 15, (3, 20 * RATE)).astype("f4")


def eeglab(path="x.set", apart=False, **said):
    """A recording of 20 s, whose facts `said` overwrites; its samples in a file apart, or not."""
    places = np.array([(name,) for name in NAMES], [("labels", "O")])
    facts = {
        "setname": "x", "nbchan": 3.0, "trials": 1.0, "pnts": 20.0 * RATE, "srate": float(RATE),
        "xmin": 0.0, "xmax": 20 - 1 / RATE, "data": "x.fdt" if apart else samples(),
        "chanlocs": places, "event": np.array([]), "icawinv": [],
    } | said  # fmt: skip
    Path("x.fdt").write_bytes(samples().T.tobytes())
    savemat(path, {"EEG": facts}, appendmat=False)


APART = {
    "samples above": {"data": "../other.fdt"},
    "samples by absolute name": {"data": "ABOVE/other.fdt"},
    "samples below": {"data": "a/other.fdt"},
    "samples not there": {"data": "none.set"},
    "samples of a device": {"data": "/dev/zero"},
    "no name of samples": {"data": ""},
    "a billion samples": {"pnts": 1e9},
    "10^300 samples": {"pnts": 1e300},
    "negative samples": {"pnts": -100.0},
    "NaN samples": {"pnts": np.nan},
}
WITHIN = {
    "other channels": {"nbchan": 5.0, "chanlocs": np.array([])},
    "a billion channels": {"nbchan": 1e8, "chanlocs": np.array([])},
    "negative channels": {"nbchan": -1.0},
    "NaN channels": {"nbchan": np.nan},
    "NaN rate": {"srate": np.nan},
    "rate 0": {"srate": 0.0},
    "negative rate": {"srate": -100.0},
    "infinite rate": {"srate": np.inf},
    "rate of text": {"srate": "fast"},
    "a million trials": {"trials": 1e6},
    "samples that are text": {"data": "a" * 100},
    "samples of one axis": {"data": np.arange(10.0)},
    "samples of three axes": {"data": np.zeros((3, 4, 5))},
    "NaN samples": {"data": np.full((3, 2000), np.nan)},
    "complex samples": {"data": np.full((3, 2000), 1j)},
    "fewer names": {"chanlocs": np.array([("Cz",)], [("labels", "O")])},
    "names that are numbers": {"chanlocs": np.array([(1,), (2,), (3,)], [("labels", "O")])},
}


@pytest.mark.parametrize("lie", APART)
def test_a_set_file_whose_samples_lie_apart_and_lies(lie, tmp_path):
    (tmp_path / "a").mkdir()
    for path in (tmp_path.parent, tmp_path / "a"):
        (path / "other.fdt").write_bytes(samples().T.tobytes())
    said = dict(APART[lie])
    if "ABOVE" in str(said.get("data")):
        said["data"] = str(tmp_path.parent / "other.fdt")
    eeglab(apart=True, **said)
    if lie == "samples not there":
        Path("x.fdt").unlink()
    hostile.one_line(hostile.tried(eeg, seconds=10), "x.set")


@pytest.mark.parametrize("lie", WITHIN)
def test_a_set_file_that_lies(lie):
    eeglab(**WITHIN[lie])
    hostile.one_line(hostile.tried(eeg, seconds=10), "x.set")


def test_set_files_as_they_should_be_linked_as_datalad_does(tmp_path):
    kept = tmp_path.parent / "kept"
    kept.mkdir(exist_ok=True)
    eeglab("y.set")
    eeglab("x.set", apart=True)
    for name in ("x.set", "x.fdt"):
        Path(name).rename(kept / f"{name}-1234")
        Path(name).symlink_to(kept / f"{name}-1234")
    eeglab("z.set", pnts=4000.0)  # what is there is read, as EEGLAB itself does
    for name in ("x.set", "y.set", "z.set"):
        np.testing.assert_allclose(eeg(name).signals["eeg"].data, samples()[[0, 1, 2]], rtol=1e-5)


# ---- MATLAB's formats -----------------------------------------------------------------


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(shape, values, of=6, name=b"EEG"):
    """A matrix of doubles; `of` is its class."""
    parts = (
        element(6, struct.pack("<II", of, 0)),
        element(5, struct.pack(f"<{len(shape)}i", *shape)),
    )
    return b"".join((*parts, element(1, name), values))


def cells(depth):
    found = matrix((1, 1), element(9, bytes(8)))
    for _ in range(depth):
        found = matrix((1, 1), element(14, found), of=1)
    return found


def mat(path, *elements):
    """A file of version 5."""
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    Path(path).write_bytes(head + b"".join(elements))


def inflating(size=2 << 30):
    """A compressed matrix of zeros, as long as it says."""
    made = zlib.compressobj(1)
    values = struct.pack("<II", 9, size)
    content = element(14, b"")[:4] + struct.pack("<I", size + 56) + matrix((1, size // 8), values)
    packed = made.compress(content) + made.flush(zlib.Z_FULL_FLUSH)
    piece = made.compress(bytes(64 << 20)) + made.flush(zlib.Z_FULL_FLUSH)
    return element(15, packed + (size >> 26) * piece)


def inflating73(path, written=True):
    """The same in version 7.3, or all chunks but the first missing."""
    write_set73(path, samples(), RATE, NAMES, [])
    with h5py.File(path, "a") as file:
        del file["EEG/data"]
        chunk = (4 << 20, 3)
        data = file["EEG"].create_dataset(
            "data", (20 * chunk[0], 3), "f8", chunks=chunk, compression="gzip"
        )
        packed = zlib.compress(bytes(8 * chunk[0] * 3), 1)
        for i in range(20 if written else 1):
            data.id.write_direct_chunk((i * chunk[0], 0), packed)


FILES = {
    "inflating": lambda path: mat(path, inflating()),
    "inflating 7.3": inflating73,
    "never written 7.3": lambda path: inflating73(path, written=False),
    "10^18 values": lambda path: mat(
        path, element(14, matrix((2**30, 2**30), element(9, bytes(80))))
    ),
    "negative axes": lambda path: mat(path, element(14, matrix((-3, 4), element(9, bytes(80))))),
    "a billion cells": lambda path: mat(path, element(14, matrix((1, 10**9), b"", of=1))),
    "cells within cells": lambda path: mat(path, element(14, cells(4000))),
    "an element of 4 GiB": lambda path: mat(path, struct.pack("<II", 14, 2**32 - 1)),
    "an element of no kind": lambda path: mat(path, element(99, bytes(64))),
    "an element of no kind within": lambda path: mat(
        path, element(14, matrix((1, 10), element(200, bytes(80))))
    ),
    "an element of no kind that is compressed": lambda path: mat(
        path, element(15, zlib.compress(element(14, matrix((1, 10), element(10, bytes(80))))))
    ),
    "compressed noise": lambda path: mat(path, element(15, b"no zlib" * 20)),
    "cut off": lambda path: mat(path, inflating(64 << 20)[:100]),
    "a head alone": lambda path: mat(path),
    "no MATLAB": lambda path: Path(path).write_bytes(b"text\n" * 200),
    "empty": lambda path: Path(path).write_bytes(b""),
}  # fmt: skip
READERS = {
    "x.set": lambda: eeg(),
    "x.mat": lambda: roi_series.load("x.mat", names=("a", "b"), axes=["roi", "time"]),
    "nsd_expdesign.mat": lambda: nsd.read_design("nsd_expdesign.mat"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("lie", FILES)
def test_a_file_of_matlab_that_lies(lie, name):
    FILES[lie](name)
    hostile.one_line(hostile.tried(READERS[name], seconds=10), name)


@pytest.mark.parametrize("how", [{"format": "4"}, {"format": "5"}, {"do_compression": True}])
def test_files_of_matlab_as_they_should_be(how):
    values = np.random.default_rng(0).normal(size=(2, 50))
    other = {"t": "text", "c": 1 + 2j, "e": np.zeros((0, 3))}
    if how != {"format": "4"}:
        other |= {"s": {"a": [1, 2], "b": "x"}, "o": np.array([1, "b", [2]], object)}
    savemat("x.mat", {"x": values} | other | {"sparse": csc_array(np.eye(3))}, **how)
    found = roi_series.load("x.mat", names=("a", "b"), axes=["roi", "time"], entry="x")
    np.testing.assert_allclose(found.values, values, rtol=1e-6)


def test_series_of_hdf5_that_inflate():
    with h5py.File("x.h5", "w") as file:
        data = file.create_dataset(
            "a", (20, 8 << 20), "f8", chunks=(1, 8 << 20), compression="gzip"
        )
        packed = zlib.compress(bytes(64 << 20), 1)
        for i in range(20):
            data.id.write_direct_chunk((i, 0), packed)
    call = lambda: roi_series.load("x.h5", axes=["roi", "time"])  # noqa: E731
    hostile.one_line(hostile.tried(call), "x.h5")


# ---- tables ---------------------------------------------------------------------------


def repeated(path, line, size):
    """A gzipped text of one line again and again."""
    piece = gzip.compress(line * ((64 << 20) // len(line)), 1)
    Path(path).write_bytes(gzip.compress(b"a,b\n", 1) + (size >> 26) * piece)


TABLES = {
    "inflating": lambda path: repeated(path, b"1,2\n", 2 << 30),
    "one endless line": lambda path: hostile.zeros(path, b"a,b\n1,", 2 << 30),
    "cut off": lambda path: Path(path).write_bytes(gzip.compress(b"a,b\n1,2\n" * 99)[:-20]),
    "not compressed": lambda path: Path(path).write_bytes(b"a,b\n1,2\n3,4\n"),
    "bytes": lambda path: Path(path).write_bytes(gzip.compress(bytes(range(256)) * 9)),
    "numbers of 10^4 digits": lambda path: Path(path).write_bytes(
        gzip.compress(b"a,b\n1,2\n" + b"9" * 10_000 + b",1\n")
    ),
}


@pytest.mark.parametrize("lie", TABLES)
def test_a_compressed_table_of_series_that_lies(lie):
    TABLES[lie]("x.csv.gz")
    hostile.one_line(hostile.tried(lambda: roi_series.load("x.csv.gz")), "x.csv.gz")


@pytest.mark.parametrize("lie", TABLES)
def test_a_compressed_table_of_confounds_that_lies(lie):
    TABLES[lie]("x.csv.gz")
    Path("bold.nii").write_bytes(nifti(scan()))
    call = lambda: bold(confounds=["b"], beside="x.csv.gz")  # noqa: E731
    hostile.one_line(hostile.tried(call), "x.csv.gz")
