"""The one on-disk format: an array with named rows, a table of facts about them, a header.

A store is one file, in HDF5 (`.h5`) or Zarr (`.zarr`); docs/stores.md describes both.
Others only ever see a store that is absent or complete: it is assembled under another
name, synced and renamed.  Stores are opened read-only and without locks, and every chunk
carries a checksum that is verified on reading.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from engram.disk import replaced
from engram.errors import InputError
from engram.store import differences, formats
from engram.store.audit import Audit
from engram.store.layout import block_rows, canonical, repeated
from engram.store.parts import Parts, resume, write
from engram.store.rows import Rows

CODE_VERSION = 2  # raise when stores written before must be written again

__all__ = [
    "Parts",
    "Rows",
    "Stacked",
    "Store",
    "align",
    "canonical",
    "load",
    "open",
    "refuse_different",
    "replaced",
    "resume",
    "stated",
    "write",
]

#: Facts of a header that differ between stores of a kind: how one was made, and recorded, and
#: which of its subjects weights have seen.
OWN = ("made_by", "recorded", "seen")


class Store:
    """A finished store, open for reading.

    Attributes:
        path: where it lies.
        header: dict, what made it.
        table: DataFrame of n rows, indexed by row name.
        shape, dtype: of the array.
        audit: what is odd about the rows of a float array of at least 2 dimensions, for each
            of "not_finite", "constant" and "duplicate" (of an earlier row, byte by byte) a
            dict of `rows`, how many, and `first`, the names of at most 3; rows that the table
            excludes are not counted.  Empty for other arrays.
    """

    def __init__(self, path):
        self.path = Path(path)
        facts = formats.facts(self.path)
        self.header, self.table = json.loads(facts.header), facts.table
        self.shape, self.dtype, self.audit = facts.shape, facts.dtype, facts.audit

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        """Values of some rows, checksums verified.

        Args:
            rows: a slice, which is read at once; or positions (m,), in any order, or one bool
                a row, which are read chunk by chunk; or one position.

        Returns:
            (m, ...) values, or (...) for one position.

        Raises:
            InputError: a chunk does not match its checksum.
            IndexError: there is no such row.
        """
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            with formats.opened(self.path) as file:
                return file.read(start, max(start, stop))
        at = np.arange(len(self))[rows if np.size(rows) else slice(0)]
        values = self._rows(np.atleast_1d(at))
        return values if at.ndim else values[0]

    def _rows(self, at):
        values = np.empty((len(at), *self.shape[1:]), self.dtype)
        order = np.argsort(at, kind="stable")
        with formats.opened(self.path) as file:
            chunks = at[order] // file.chunk_rows
            for group in np.split(order, np.flatnonzero(np.diff(chunks)) + 1):
                if len(group):
                    first, last = at[group[0]], at[group[-1]]
                    values[group] = file.read(first, last + 1)[at[group] - first]
        return values

    def load(self) -> Rows:
        """All rows in memory."""
        return Rows(self[:], self.table, self.header)

    def verify(self) -> list[str]:
        """Read everything again and say what is wrong, one line a problem; empty if sound.

        Checks the checksum of every chunk, that row names are unique and as many as values,
        that rows which the table does not exclude are finite, and that the audit finds what it
        found when the store was written.  Rows are read in blocks of bounded size.
        """
        try:
            facts = formats.facts(self.path)
        except InputError as error:
            return [str(error)]
        problems, audit = [], Audit(facts.table, facts.shape, facts.dtype)
        if not facts.table.index.is_unique:
            problems.append(f"{self.path}: row names are not unique: {repeated(facts.table.index)}")
        step = block_rows(facts.shape, facts.dtype)
        for start in range(0, facts.shape[0], step):
            stop = min(start + step, facts.shape[0])
            try:
                with formats.opened(self.path, f"rows {start} to {stop} are damaged") as file:
                    audit.add(start, file.read(start, stop))
            except InputError as error:
                problems.append(str(error))
        if problems:
            return problems
        found = audit.result()
        if found != facts.audit:
            problems.append(f"{self.path}: the audit differs from the one that is stored")
        if found.get("not_finite", {}).get("rows"):
            bad = found["not_finite"]
            problems.append(
                f"{self.path}: {bad['rows']} rows are not finite, first {', '.join(bad['first'])}"
            )
        return problems


def open(path) -> Store:
    """The finished store at `path`.

    Raises:
        InputError: the file is missing, not a store, or of another layout.
    """
    return Store(path)


class Stacked:
    """Several stores of one kind, one after the other, whose values are read when asked for.

    Attributes:
        stores: list of `Store`.
        header: of the first.
        table: DataFrame of all n rows.
        shape, dtype: as if they were one array.

    Raises:
        InputError: their rows differ in shape, or their headers in what is stated of all rows
            (frequencies, unit, classes, weights, ...).
    """

    def __init__(self, paths):
        self.stores = [open(path) for path in paths]
        refuse_different(self.stores)
        first = self.stores[0]
        self.header, self.dtype = first.header, first.dtype
        self.starts = np.cumsum([0, *map(len, self.stores)])
        self.shape = (int(self.starts[-1]), *first.shape[1:])
        tables = [one.table for one in self.stores]
        self.table = tables[0] if len(tables) == 1 else pd.concat(tables)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        """Values (m, ...) at positions (m,) in any order, checksums verified; see `Store`."""
        rows = np.asarray(rows)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for i in np.unique(which):
            values[which == i] = self.stores[i][rows[which == i] - self.starts[i]]
        return values

    def load(self) -> Rows:
        """All rows in memory."""
        return Rows(np.concatenate([one[:] for one in self.stores]), self.table, self.header)


def load(paths) -> Rows:
    """The rows of several stores of one kind, one after the other, in memory; see `Stacked`."""
    return Stacked(paths).load()


def refuse_different(stores):
    """Refuse stores that are not of one kind.

    Args:
        stores: list of `Store`, or of others with path, header and shape.

    Raises:
        InputError: their rows differ in shape, or their headers in what is stated of all rows.
    """
    first = stores[0]
    for other in stores[1:]:
        found = differences.said(_facts(first), _facts(other))
        if found:
            raise InputError(f"{first.path} and {other.path} differ in {found}")


def _facts(store):
    return stated(store.header) | {"shape of a row": list(store.shape[1:])}


def stated(header) -> dict:
    """What a header says of all rows of its kind, without the facts of the one store (`OWN`)."""
    return {key: value for key, value in header.items() if key not in OWN}


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
            raise InputError(f"row named twice: {repeated(table.index)}")
    names = pd.Index(first[link]) if link else first.index
    found = [table.index.get_indexer(names) for table in others]
    shared = np.logical_and.reduce([np.ones(len(names), bool), *(p >= 0 for p in found)])
    if not shared.any():
        raise InputError(
            "the stores share no row name: "
            + " / ".join(str(table.index[0]) if len(table) else "(empty)" for table in tables)
        )
    return [np.flatnonzero(shared), *(positions[shared] for positions in found)]
