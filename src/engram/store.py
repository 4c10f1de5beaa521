"""The one on-disk format: an array with named rows, a table of facts about them, a header.

Layout of an HDF5 store (version 1):

- ``/rows``: the array (n, ...), chunked by rows, one fletcher32 checksum a chunk;
- ``/names``: the row names, UTF-8;
- ``/table/<column>``: one dataset of n values a column;
- attribute ``header``: canonical JSON, what made the store; attribute ``layout``: 1.

Others only ever see a store that is absent or complete: it is assembled under another
name, synced and renamed.  Stores are opened read-only and without locks.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.recording import Rows

CODE_VERSION = 1  # raise when stores written before must be written again

LAYOUT = 1
CHUNK_BYTES = 1 << 20


class Store:
    """A finished store, open for reading.

    Attributes:
        path: where it lies.
        header: dict, what made it.
        table: DataFrame of n rows, indexed by row name.
        shape, dtype: of the array.
    """

    def __init__(self, path):
        self.path = Path(path)
        with self._file() as file:
            layout = int(file.attrs.get("layout", 0))
            if layout != LAYOUT:
                raise InputError(
                    f"{path}: store layout {layout}, expected {LAYOUT}; "
                    "delete the file so that it is written again"
                )
            self.header = json.loads(file.attrs["header"])
            self.shape, self.dtype = file["rows"].shape, file["rows"].dtype
            columns = {name: _decoded(file["table"][name]) for name in file["table"].attrs["order"]}
            self.table = pd.DataFrame(columns, index=_decoded(file["names"]))

    def _file(self):
        try:
            return h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise InputError(f"{self.path}: not a readable store ({error})") from None

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Values of a range of rows, checksums verified.

        Raises:
            InputError: a chunk does not match its checksum.
        """
        with self._file() as file:
            try:
                return file["rows"][rows]
            except OSError as error:
                raise InputError(
                    f"{self.path}: damaged ({error}); delete it so that it is written again"
                ) from None

    def load(self) -> Rows:
        """All rows in memory."""
        return Rows(self[:], self.table, self.header)


def open(path) -> Store:
    """The finished store at `path`.

    Raises:
        InputError: the file is missing, not a store, or of another layout.
    """
    return Store(path)


def load(paths) -> Rows:
    """The rows of several stores of one kind, one after the other, in memory.

    Raises:
        InputError: their rows differ in shape, or their headers in anything but `made_by`
            (frequencies, classes, weights, ...).
    """
    parts = [open(path).load() for path in paths]
    first = _facts(parts[0])
    for path, part in zip(paths, parts, strict=True):
        facts = _facts(part)
        for key in first | facts:
            if first.get(key) != facts.get(key):
                raise InputError(
                    f"{paths[0]} and {path} differ in `{key}` ({_short(first.get(key))} and "
                    f"{_short(facts.get(key))}); rows of one kind must agree: make both alike"
                )
    return Rows.stack(parts)


def _facts(rows):
    header = {key: value for key, value in rows.header.items() if key != "made_by"}
    return header | {"shape of a row": list(rows.array.shape[1:])}


def _short(value):
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write(path, rows: Rows):
    """Write a whole store at once: absent or complete, never between."""
    with resume(path, rows.table, rows.array.shape, rows.array.dtype, rows.header) as parts:
        parts.clear()
        parts[0 : len(rows.array)] = rows.array


@contextlib.contextmanager
def resume(path, table, shape, dtype, header, part_rows=None):
    """Write a store part by part; parts finished by an earlier, killed run are kept.

    Within the block, fill every range that `Parts.missing` yields.  Leaving it without an
    error assembles the store; an error leaves the finished parts for the next run, which
    uses them if table, shape, dtype and header are the same.

    Args:
        path: the store to write.
        table: DataFrame of n rows, indexed by unique row names.
        shape: of the whole array, (n, ...).
        dtype: of the array.
        header: JSON-able dict.
        part_rows: rows in one part; by default the whole array is one.

    Raises:
        InputError: row names are not unique, or a range was left unfilled.
    """
    parts = Parts(Path(path), table, tuple(shape), np.dtype(dtype), header, part_rows)
    yield parts
    parts.assemble()


class Parts:
    """The parts of a store that is being written; see `resume`."""

    def __init__(self, path, table, shape, dtype, header, part_rows):
        if not table.index.is_unique:
            raise InputError(f"{path}: row names are not unique: {_repeated(table.index)}")
        if len(table) != shape[0]:
            raise InputError(f"{path}: {shape[0]} rows, but {len(table)} names")
        self.path, self.table, self.shape, self.dtype = path, table, shape, dtype
        self.header = canonical(header)
        self.part_rows = part_rows or max(shape[0], 1)
        self.folder = path.with_name(path.name + ".parts")
        self._keep_or_clear()

    def _keep_or_clear(self):
        facts = hashlib.sha256(self.header.encode())
        facts.update(repr((self.shape, self.dtype.str, self.part_rows)).encode())
        facts.update(self.table.to_csv().encode())
        key = self.folder / f"{facts.hexdigest()[:32]}.key"
        if self.folder.exists() and not key.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        key.touch()

    def ranges(self):
        n = self.shape[0]
        return [(start, min(start + self.part_rows, n)) for start in range(0, n, self.part_rows)]

    def missing(self):
        """Row ranges (start, stop) that no finished part holds, in order."""
        return [span for span in self.ranges() if self._finished(*span) is None]

    def clear(self):
        """Forget finished parts."""
        for part in self.folder.glob("*.npy"):
            part.unlink()

    def __setitem__(self, rows: slice, values: np.ndarray):
        """Finish the part of `rows`, one of the ranges that `missing` lists."""
        if (rows.start, rows.stop) not in self.ranges():
            raise IndexError(f"{rows} is not a part of {self.path}")
        values = np.ascontiguousarray(values, self.dtype)
        if values.shape != (rows.stop - rows.start, *self.shape[1:]):
            raise ValueError(f"{self.path}: part of shape {values.shape} at {rows}")
        name = f"{rows.start:09d}.{_sha256(values)}.npy"
        with replaced(self.folder / name) as temporary, temporary.open("wb") as file:
            np.save(file, values)

    def _finished(self, start, stop):
        """Values of a finished part, or None; a part that is damaged counts as missing."""
        for part in self.folder.glob(f"{start:09d}.*.npy"):
            with contextlib.suppress(ValueError, OSError, EOFError):
                values = np.load(part, allow_pickle=False)
                if len(values) == stop - start and _sha256(values) == part.name.split(".")[1]:
                    return values
            part.unlink()
        return None

    def assemble(self):
        with (
            replaced(self.path) as temporary,
            h5py.File(temporary, "w", libver="v110") as file,
        ):
            self._write(file)
        shutil.rmtree(self.folder)

    def _write(self, file):
        file.attrs["layout"] = LAYOUT
        file.attrs["header"] = self.header
        array = _checked(file, "rows", self.shape, self.dtype)
        for start, stop in self.ranges():
            values = self._finished(start, stop)
            if values is None:
                raise InputError(f"{self.path}: rows {start} to {stop} were never written")
            array[start:stop] = values
        _write_column(file, "names", self.table.index)
        group = file.create_group("table", track_order=True)
        group.attrs["order"] = np.array([*self.table.columns], dtype=h5py.string_dtype())
        for column in self.table.columns:
            _write_column(group, column, self.table[column])


def align(*tables: pd.DataFrame, link: str | None = None) -> list[np.ndarray]:
    """Positions that put the rows of several tables side by side, by name.

    Args:
        tables: indexed by unique row names; only names that all share are kept, in the
            order of the first table.
        link: a column of the first table that holds the names to look up in the others
            (many trials to one stimulus); by default the row names themselves.

    Returns:
        One int array a table, all of the same length.

    Raises:
        InputError: a table names a row twice, or no name is shared.
    """
    first, *others = tables
    for table in others if link else tables:
        if not table.index.is_unique:
            raise InputError(f"row named twice: {_repeated(table.index)}")
    names = pd.Index(first[link]) if link else first.index
    found = [table.index.get_indexer(names) for table in others]
    shared = np.logical_and.reduce([np.ones(len(names), bool), *(p >= 0 for p in found)])
    if not shared.any():
        raise InputError(
            "the stores share no row name: "
            + " / ".join(str(table.index[0]) if len(table) else "(empty)" for table in tables)
        )
    return [np.flatnonzero(shared), *(positions[shared] for positions in found)]


def canonical(header) -> str:
    """JSON with sorted keys, so that equal headers are equal bytes."""
    return json.dumps(header, sort_keys=True, ensure_ascii=False, default=_plain)


@contextlib.contextmanager
def replaced(path):
    """A temporary path beside `path`; leaving the block without an error syncs and renames it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in a store header")


def _sha256(values):
    return hashlib.sha256(values.tobytes()).hexdigest()


def _repeated(index):
    return ", ".join(map(str, index[index.duplicated()].unique()[:3]))


def _checked(group, name, shape, dtype):
    """A dataset with one checksum a chunk of about a megabyte."""
    if not all(shape):
        return group.create_dataset(name, shape, dtype, track_times=False)
    row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    chunk = (min(max(CHUNK_BYTES // max(row, 1), 1), shape[0]), *shape[1:])
    return group.create_dataset(
        name, shape, dtype, chunks=chunk, fletcher32=True, track_times=False
    )


def _write_column(group, name, values):
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        encoded = [str(value).encode() for value in values]
        length = max(map(len, encoded), default=0) or 1
        values = np.array(encoded, h5py.string_dtype("utf-8", length))
    _checked(group, name, values.shape, values.dtype)[...] = values


def _decoded(dataset):
    if h5py.check_string_dtype(dataset.dtype):
        return [value.decode() for value in dataset[()]]
    return dataset[()]
