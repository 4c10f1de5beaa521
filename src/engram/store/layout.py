"""What both formats of a store share: version, names, chunks, columns, fingerprint."""

import hashlib
import json

import numpy as np
import pandas as pd

from engram.errors import InputError

CODE_VERSION = 2  # raise when stores written before must be written again

LAYOUT = 2
#: benchmarks/store.py: whole stores are read as fast as with 1 MiB, random rows of HDF5 take half
#: the time; 64 KiB halves that again but makes Zarr write and read a third slower.
CHUNK_BYTES = 1 << 18
BLOCK_BYTES = 1 << 24  # in memory at once while all rows are written or verified


def canonical(header) -> str:
    """JSON with sorted keys, so that equal headers are equal bytes."""
    return json.dumps(header, sort_keys=True, ensure_ascii=False, default=_plain)


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in a store header")


def chunk_rows(shape, dtype) -> int:
    """Rows in one chunk of an array, at least 1 and at most all."""
    row = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    return max(min(CHUNK_BYTES // max(row, 1), shape[0]), 1)


def block_rows(shape, dtype) -> int:
    """Rows in one block of whole chunks, about `BLOCK_BYTES`."""
    rows = chunk_rows(shape, dtype)
    row = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    return rows * max(BLOCK_BYTES // max(rows * row, 1), 1)


def axes(shape) -> list[str]:
    """Names of the axes of the array: row, axis_1, axis_2, ..."""
    return ["row", *(f"axis_{i}" for i in range(1, len(shape)))]


def column(values) -> np.ndarray | list[str]:
    """Values of a column as they are stored: numbers and booleans as an array, or texts."""
    values = np.asarray(values)
    return values if values.dtype.kind in "biuf" else [str(value) for value in values]


def table(names, columns) -> pd.DataFrame:
    """The table of a store from its row names and its columns {name: array or texts}.

    Raises:
        ValueError: a column and the row names differ in length.
    """
    for name, values in columns.items():
        if len(values) != len(names):
            raise ValueError(f"column {name} has {len(values)} values for {len(names)} rows")
    # Without rows nothing else says that a column holds texts.
    series = {
        name: pd.array(values, dtype="str") if isinstance(values, list) else values
        for name, values in columns.items()
    }
    index = pd.Index(names, dtype="str") if isinstance(names, list) else names
    return pd.DataFrame(series, index=index)


def fingerprint(header, table, shape, dtype) -> str:
    """Digest of all that a store holds beside its values; `header` is canonical JSON."""
    facts = [header, [*shape], np.dtype(dtype).str]
    for name, values in {"row": table.index, **table}.items():
        stored = column(values)
        facts.append([name, stored if isinstance(stored, list) else _digest(stored)])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _digest(values):
    return [values.dtype.str, hashlib.sha256(values.tobytes()).hexdigest()]


def check(path, table, shape):
    """Refuse a table that the layout cannot hold.

    Raises:
        InputError: row names are not unique or not as many as rows, or a column has a name
            that the array or an axis has, or that no file format takes.
    """
    if not table.index.is_unique:
        raise InputError(f"{path}: row names are not unique: {repeated(table.index)}")
    if len(table) != shape[0]:
        raise InputError(f"{path}: {shape[0]} rows, but {len(table)} names")
    if not table.columns.is_unique:
        raise InputError(f"{path}: column names are not unique: {repeated(table.columns)}")
    taken = {"rows", "zarr.json", *axes(shape)}
    for name in table.columns:
        odd = not isinstance(name, str) or not name.strip(".") or name.startswith("__")
        if odd or name in taken or "/" in name or "\0" in name:
            raise InputError(f"{path}: a column cannot be called {name!r}; rename it")


def repeated(index) -> str:
    """The first three labels that stand in `index` more than once."""
    return ", ".join(map(str, index[index.duplicated()].unique()[:3]))
