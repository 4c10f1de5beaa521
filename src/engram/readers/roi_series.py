"""Tables of ROI series: CSV, TSV (either gzipped), NumPy, MATLAB, entries of HDF5 files, pickles.

A table has two axes, regions and time, and which is which is stated or stands in the table: a
header line of names means that columns are regions, names in the first column that rows are.
Names and their order are stated or read too; nothing is guessed, and what does not fit is refused.
"""

import re
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
from scipy.io import loadmat

from engram import hdf5_files
from engram.errors import InputError
from engram.readers import array_pickles, arrays, claims
from engram.readers.atlases import same

AXES = (["roi", "time"], ["time", "roi"])
SEPARATORS = {".csv": ",", ".tsv": "\t"}
HDF5 = (".h5", ".hdf5")
SUFFIXES = (*SEPARATORS, *(f"{one}.gz" for one in SEPARATORS), ".npy", ".mat", *HDF5, ".pkl")


class Series(NamedTuple):
    """Series of the regions of one scan.

    Attributes:
        values: float32 (roi, time).
        names: one a region.
    """

    values: np.ndarray
    names: tuple[str, ...]


class Table(NamedTuple):
    """A table as it lies in its file.

    Attributes:
        values: array of 2 axes.
        rows, columns: names that stand in the file, or None.
    """

    values: np.ndarray
    rows: list[str] | None = None
    columns: list[str] | None = None


def load(path, *, names=None, axes=None, entry=None, index=None) -> Series:
    """The series of one scan.

    Args:
        path: of the file.
        names: of the regions, in the order of the table; None takes those in the file.
        axes: `["roi", "time"]` (a row is a region) or `["time", "roi"]`; None takes what the
            names in the file say.
        entry: name of a variable of a MATLAB file or of a dataset of an HDF5 file; may be None
            where there is but one.
        index: scan along the first axis of an array of three, counted from 0.

    Returns:
        Series, without the frames at its end in which every region is NaN.

    Raises:
        InputError: the file is unreadable, its axes or names are unknown, contradictory or look
            exchanged, or a series has NaN or never changes.
    """
    table = _table(path, entry, index)
    values, found = _turned(path, table, axes, names)
    given = tuple(names or found or ())
    if not given:
        raise InputError(
            f"{path}: the names of its {len(values)} regions are unknown; state `names` or `atlas` "
            "of the dataset"
        )
    if found and names and [*map(same, names)] != [*map(same, found)]:
        raise InputError(
            f"{path}: names its regions {_few(found)}, but the dataset states {_few(names)}; "
            "take out `names` or `atlas`, or correct them"
        )
    return Series(checked(path, values, given), given)


def checked(where, values, names) -> np.ndarray:
    """Values (roi, time) as float32, without padding at the end, if they can be used.

    Args:
        where: names the file or scan, for messages.
        values: (roi, time); frames at the end that are NaN in every region are padding.
        names: one a region.

    Raises:
        InputError: names do not fit, a value is NaN or infinite, a region never changes, or no
            frame is left.
    """
    if len(values) != len(names):
        hint = ""
        if values.shape[1] == len(names):
            hint = "; the axes look exchanged: correct them, or `axes` of the dataset"
        raise InputError(
            f"{where}: {len(values)} regions of {values.shape[1]} frames, but {len(names)} "
            f"names{hint or '; correct `names`, `atlas` or the file'}"
        )
    twice = pd.Index(names)[pd.Index(names).duplicated()]
    if len(twice):
        raise InputError(f"{where}: region {twice[0]!r} comes twice; name each once")
    values = np.asarray(values, np.float32)
    if values.shape[1] and np.isnan(values[:, -1]).all():
        known = np.flatnonzero(~np.isnan(values).all(axis=0))
        values = values[:, : known[-1] + 1 if len(known) else 0]
    if values.shape[1] < 2:
        raise InputError(f"{where}: holds {values.shape[1]} frames of data; leave the scan out")
    bad = ~np.isfinite(values)
    if bad.any():
        region = int(np.argmax(bad.any(axis=1)))
        raise InputError(
            f"{where}: {bad[region].sum()} of {values.shape[1]} values of region "
            f"{names[region]!r} are NaN or infinite, first at frame {int(np.argmax(bad[region]))}; "
            "leave out the region or the scan: only padding at the end of all regions is cut"
        )
    constant = np.flatnonzero(values.min(axis=1) == values.max(axis=1))
    if len(constant):
        raise InputError(
            f"{where}: region {names[constant[0]]!r} never changes (every value is "
            f"{values[constant[0], 0]:g}; {len(constant)} such regions); leave out the region or "
            "the scan"
        )
    return values


def joined(paths, tables) -> Series:
    """Several tables of one scan, one below the other.

    Raises:
        InputError: they differ in their frames, or a region comes twice.
    """
    if len(tables) == 1:
        return tables[0]
    lengths = [one.values.shape[1] for one in tables]
    if len(set(lengths)) > 1:
        raise InputError(
            "tables of one scan differ in their frames: "
            + ", ".join(f"{path} has {n}" for path, n in zip(paths, lengths, strict=True))
        )
    names = tuple(name for one in tables for name in one.names)
    values = np.concatenate([one.values for one in tables])
    return Series(checked(paths[0], values, names), names)


# ---- which axis is which --------------------------------------------------------------


def _turned(path, table, axes, names):
    """(values (roi, time), names in the file or None)."""
    if axes is not None and list(axes) not in AXES:
        raise InputError(f"axes: {axes} is neither [roi, time] nor [time, roi]")
    if table.values.ndim != 2:
        raise InputError(
            f"{path}: an array of {table.values.ndim} axes {table.values.shape}; a scan has two, "
            "regions and time: name the scan by `entry` and `index`"
        )
    said = _said(path, table, axes)
    if said is None:
        raise InputError(
            f"{path}: {table.values.shape[0]} rows and {table.values.shape[1]} columns: which are "
            "the regions? state `axes` of the dataset, [roi, time] or [time, roi]"
        )
    values, found = (
        (table.values, table.rows) if said == AXES[0] else (table.values.T, table.columns)
    )
    if names is None and found is None and values.shape[0] > values.shape[1]:
        raise InputError(
            f"{path}: {values.shape[0]} regions of {values.shape[1]} frames under axes "
            f"{_brackets(said)}: the axes look exchanged; state `names` or `atlas` of the dataset, "
            "or correct `axes`"
        )
    return values, found


def _said(path, table, axes):
    """The axes that names in the file and the dataset agree on, or None."""
    read = [one for one, named in zip(AXES, (table.rows, table.columns), strict=True) if named]
    if axes is None:
        return read[0] if len(read) == 1 else None
    if read and list(axes) not in read:
        where = "first column" if read[0] == AXES[0] else "first line"
        raise InputError(
            f"{path}: its {where} names the regions, so that its axes are {_brackets(read[0])}, "
            f"but `axes` of the dataset is {_brackets(axes)}; correct it"
        )
    return list(axes)


def _brackets(axes):
    return f"[{', '.join(axes)}]"


def _few(names):
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


# ---- files ------------------------------------------------------------------------------


def _table(path, entry, index):
    suffix = "".join(Path(path).suffixes[-2:]).lower()
    suffix = suffix if suffix in SUFFIXES else Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: not a table of ROI series; these end in {', '.join(SUFFIXES)}; BOLD images "
            "are read by the kind `bold_images`"
        )
    try:
        if suffix not in HDF5:  # of these the chosen entry alone
            claims.refuse(path)
        if suffix.removesuffix(".gz") in SEPARATORS:
            return _text(path, SEPARATORS[suffix.removesuffix(".gz")])
        if suffix == ".pkl":
            return _pickled(path)
        if suffix == ".npy":
            values = _scan(arrays.numbers(path), index)
        else:
            values = (_hdf5 if suffix in HDF5 else _matlab)(path, entry, index)
        return Table(np.asarray(values, np.float64))
    except InputError:
        raise
    except Exception as error:  # what damaged bytes lead to has no common type
        told = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: not a readable table of numbers ({told}); correct the file or take it off "
            "the manifest"
        ) from None


def _text(path, separator):
    """A text table; cells that are empty or say NaN, NA or n/a are NaN.

    A first line or column that only counts, as pandas writes them, is no data.
    """
    head = pd.read_csv(path, sep=separator, header=None, nrows=2, dtype=str).fillna("")
    if head.shape[0] < 2 or head.shape[1] < 2:
        raise InputError(f"{path}: no table of regions and time; correct the file")
    first = [cell.strip() for cell in head.iloc[0]]
    with_rows = not _number(head.iloc[1, 0])
    with_header = not all(map(_number, first[1:] if with_rows else first))
    counting = with_header or _counts(first) or _counts(first[1:])
    table = pd.read_csv(
        path,
        sep=separator,
        header=0 if counting else None,
        index_col=0 if with_rows else None,
        na_values=["n/a"],
    )
    if not with_rows and _counts(table.iloc[:, 0]):
        table = table.iloc[:, 1:]
    rows = [str(name).strip() for name in table.index] if with_rows else None
    columns = first[-table.shape[1] :] if with_header else None
    if rows and columns and _numbered(columns):
        columns = None  # t_0, t_1, ... are no regions
    return Table(table.to_numpy(np.float64), rows, columns)


def _pickled(path):
    """A table of pandas, whose columns are regions."""
    table = array_pickles.load(path)
    if not isinstance(table, pd.DataFrame):
        raise ValueError("it holds no table of pandas")
    return Table(table.to_numpy(np.float64), None, list(map(str, table.columns)))


def _counts(cells):
    """Whether cells are 0, 1, 2, ... or 1, 2, 3, ..."""
    return _running(pd.to_numeric(pd.Series(cells), errors="coerce").tolist())


def _running(numbers):
    return list(numbers) in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))


def _number(cell):
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in ("na", "n/a", "")
    return True


def _numbered(names):
    """Whether names are one word with running numbers, e.g. frame_0, frame_1."""
    found = [re.fullmatch(r"(\D*?)(\d+)", name) for name in names]
    if not all(found) or len({match[1] for match in found}) > 1:
        return False
    return _running([int(match[2]) for match in found])


def _matlab(path, entry, index):
    try:
        content = loadmat(path)
    except NotImplementedError:  # version 7.3 is HDF5, its axes the other way round
        return _hdf5(path, entry, index, turned=True)
    known = {
        name: value
        for name, value in content.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and min(value.shape) > 1
    }
    return _scan(_chosen(path, known, entry), index)


def _hdf5(path, entry, index, turned=False):
    with hdf5_files.opened(path) as file:
        known = {}

        def visit(name, item):
            if isinstance(item, h5py.Dataset) and item.ndim > 1 and item.dtype.kind in "fiu":
                known[name] = item

        file.visititems(visit)
        found = hdf5_files.whole(_chosen(path, known, entry))
        claims.refuse_values(found.size, [Path(path)])
        return _scan(np.asarray(found).T if turned else found, index)


def _scan(values, index):
    if index is None:
        return values[()]
    if not 0 <= index < len(values):
        raise IndexError(f"no scan {index}; there are {len(values)}")
    return values[index]


def _chosen(path, known, entry):
    if entry is None and len(known) == 1:
        return next(iter(known.values()))
    if entry in known:
        return known[entry]
    what = f"no entry {entry!r}" if entry else "several entries"
    raise InputError(
        f"{path}: {what if known else 'no array of numbers'}; there is "
        f"{', '.join(sorted(known)) or 'nothing'}; correct `entry` of the dataset"
    )
