"""Writing: parts that survive a killed job, one writer at a time, absent or complete."""

import contextlib
import errno
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from engram import disk
from engram.errors import InputError
from engram.store import audit, formats, layout
from engram.store.rows import Rows

CODE_VERSION = 2  # raise when stores written before must be written again


def write(path, *rows: Rows):
    """Write a whole store at once: absent or complete, never between.

    Args:
        path: ends in .h5 or .zarr, which is the format; what lies there is replaced.
        rows: array (n, ...), a table of n uniquely named rows, a header.  Several are written one
            after the other, with the header of the first, and not put together in memory.

    Raises:
        InputError: row names are not unique, or the disk is full.
    """
    arrays = [np.asarray(one.array) for one in rows]
    table = pd.concat([one.table for one in rows]) if len(rows) > 1 else rows[0].table
    shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
    parts = Parts(Path(path), table, shape, arrays[0].dtype, rows[0].header)
    with parts.room(parts.size, "make room and run again"), disk.held(parts.path):
        try:
            parts.prepare()
            parts.publish(arrays)
        finally:
            shutil.rmtree(parts.folder, ignore_errors=True)


@contextlib.contextmanager
def resume(path, table, shape, dtype, header, part_rows=None):
    """Write a store part by part; parts finished by an earlier, killed run are kept.

    Within the block, fill every range that `Parts.missing` yields.  Leaving it without an
    error assembles the store; an error leaves the finished parts for the next run, which
    uses those whose lines of the table are the same, if dtype, header and the shape of a row
    are.  A finished store of the same
    table, shape, dtype and header has nothing missing and stays as it is.

    One process writes a store at a time: a second one says so, waits, and finds what the
    first has finished.

    Args:
        path: the store to write; ends in .h5 or .zarr, which is the format.
        table: DataFrame of n rows, indexed by unique row names.
        shape: of the whole array, (n, ...).
        dtype: of the array.
        header: JSON-able dict of everything that the values depend on.
        part_rows: rows in one part; by default the whole array is one.

    Raises:
        InputError: row names are not unique, a range was left unfilled, or the disk is full.
    """
    parts = Parts(Path(path), table, tuple(shape), np.dtype(dtype), header, part_rows)
    with contextlib.ExitStack() as stack:
        with parts.room(parts.size):
            stack.enter_context(disk.held(parts.path))
            parts.prepare()
            parts.finished = parts.is_published()
        yield parts
        with parts.room(parts.size):
            parts.assemble()


class Parts:
    """The parts of a store that is being written; see `resume`."""

    def __init__(self, path, table, shape, dtype, header, part_rows=None):
        layout.check(path, table, shape)
        self.path, self.table, self.shape, self.dtype = path, table, shape, dtype
        self.format = formats.of(path)
        self.header = layout.canonical(header)
        self.part_rows = part_rows or max(shape[0], 1)
        self.folder = path.with_name(path.name + ".parts")
        self.fingerprint = layout.fingerprint(self.header, table, shape, dtype)
        self.finished = False  # such a store was published before

    @property
    def size(self) -> int:
        """Bytes that the store takes, somewhat more rather than less."""
        values = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        texts = self.table.memory_usage(index=True, deep=True).sum()
        chunks = self.shape[0] // layout.chunk_rows(self.shape, self.dtype) + 1
        return values + 2 * int(texts) + 300 * chunks + 2 * len(self.header) + (1 << 16)

    def prepare(self):
        """Make the folder of parts; remove what another header, ... or a kill left."""
        alike = layout.fingerprint(self.header, self.table[:0], self.shape[1:], self.dtype)
        key = self.folder / f"{alike[:32]}-{self.part_rows}.key"
        if self.folder.exists() and not key.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        disk.sync(self.folder.parent)
        key.touch()
        for left in self.folder.glob("*.partial"):
            left.unlink()

    def is_published(self) -> bool:
        """Whether a finished store of this table, shape, dtype and header lies there."""
        try:
            found = formats.facts(self.path)
        except InputError:
            return False
        return found.fingerprint() == self.fingerprint

    def ranges(self):
        n = self.shape[0]
        return [(start, min(start + self.part_rows, n)) for start in range(0, n, self.part_rows)]

    def missing(self):
        """Row ranges (start, stop) that no finished part holds, in order."""
        if self.finished:
            return []
        return [span for span in self.ranges() if self._part(*span) is None]

    def clear(self):
        """Forget finished parts, and a finished store."""
        self.finished = False
        for part in self.folder.glob("*.npy"):
            part.unlink()

    def __setitem__(self, rows: slice, values: np.ndarray):
        """Finish the part of `rows`, one of the ranges that `missing` lists.

        Raises:
            InputError: the disk is full.
        """
        if (rows.start, rows.stop) not in self.ranges():
            raise IndexError(f"{rows} is not a part of {self.path}")
        values = np.ascontiguousarray(values, self.dtype)
        if values.shape != (rows.stop - rows.start, *self.shape[1:]):
            raise ValueError(f"{self.path}: part of shape {values.shape} at {rows}")
        name = f"{self._name(rows.start, rows.stop)}.{_sha256(values)}.npy"
        with self.room(values.nbytes), disk.written(self.folder / name) as temporary:
            _save(temporary, values)

    def _name(self, start, stop):
        """A part is that of its rows: of their names and of all that the table says of them."""
        rows = layout.fingerprint("", self.table[start:stop], (), self.dtype)
        return f"{start:09d}-{rows[:16]}"

    def _part(self, start, stop):
        """Values of a finished part, or None; a part that is damaged counts as missing."""
        for part in self.folder.glob(f"{start:09d}-*.npy"):
            name, digest, _ = part.name.split(".")
            if name == self._name(start, stop):
                with contextlib.suppress(ValueError, OSError, EOFError):
                    values = np.load(part, allow_pickle=False)
                    if len(values) == stop - start and _sha256(values) == digest:
                        return values
            part.unlink()
        return None

    def _parts(self):
        for start, stop in self.ranges():
            values = self._part(start, stop)
            if values is None:
                raise InputError(f"{self.path}: rows {start} to {stop} were never written")
            yield values

    def assemble(self):
        """Publish the store; all parts must be finished."""
        if self.finished:
            shutil.rmtree(self.folder)
        else:
            self.publish(self._parts())

    def publish(self, arrays):
        """Write the store from arrays (m, ...) that together are its rows; remove the parts."""
        usage = shutil.disk_usage(self.folder)
        if usage.total and usage.free < self.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        looked_at = audit.Audit(self.table, self.shape, self.dtype)

        def blocks():
            start = 0
            for values in _in_blocks(arrays, layout.block_rows(self.shape, self.dtype)):
                looked_at.add(start, values)
                yield start, values
                start += len(values)

        def attributes():
            return {
                "layout": layout.LAYOUT,
                "header": self.header,
                "audit": layout.canonical(looked_at.result()),
                "columns": layout.canonical([*self.table.columns]),
            }

        with disk.written(self.path, self.folder) as temporary:
            self.format.write(temporary, self.table, self.shape, self.dtype, blocks(), attributes)
        shutil.rmtree(self.folder)
        audit.warn(self.path, looked_at.result())

    def room(self, needed, advice="finished parts are kept: make room and run again"):
        """Turn a full disk into an error that says how much is needed and what to do."""
        return disk.room(self.path, needed, advice)


def _save(path, values):
    """`numpy.save`, except that a full disk is told from other failures by its errno."""
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.reshape(-1).view(np.uint8))


def _in_blocks(arrays, rows):
    """The same values, cut anew into arrays of `rows` rows; the last may be shorter."""
    held, n = [], 0
    for values in arrays:
        while n + len(values) >= rows:
            block, values = values[: rows - n], values[rows - n :]
            yield np.concatenate([*held, block]) if held else block
            held, n = [], 0
        if len(values):
            held.append(values)
            n += len(values)
    if n:
        yield np.concatenate(held)


def _sha256(values):
    return hashlib.sha256(values.reshape(-1).view(np.uint8)).hexdigest()
