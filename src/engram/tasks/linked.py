"""Rows of responses and of what was shown, side by side by the name of the stimulus."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError

#: Why a row of responses is left out that is the pattern of a region.
PATTERN = "region"

#: What a header has to state alike for all subjects.
ALIKE = ("what", "kind", "unit", "protocol", "zscore", "average")


@dataclass(frozen=True)
class Linked:
    """Rows of several stores, those of one at a time: widths may differ. Nothing is read yet.

    Attributes:
        stores: list of `store.Store`.
        which, at: int (n,), store of each row and its position there.
    """

    stores: list
    which: np.ndarray
    at: np.ndarray

    def of(self, rows) -> "Some":
        """Some rows, all of one store, with a `shape`."""
        (which,) = set(self.which[rows].tolist())
        return Some(self.stores[which], self.at[rows])

    def beside(self, rows) -> tuple["Some", pd.DataFrame]:
        """Some rows, all of one store, and behind them its patterns of regions, with their table.

        Those are no responses (see view `betas`): `sides` leaves them out.
        """
        found = self.of(rows)
        table = found.source.table
        patterns = np.flatnonzero(table["exclude"] == PATTERN) if "exclude" in table else []
        patterns = np.asarray(patterns, int)
        return Some(found.source, np.concatenate([found.at, patterns])), table.iloc[patterns]

    def rows(self, rows) -> "Linked":
        """Some rows, of any stores."""
        return Linked(self.stores, self.which[rows], self.at[rows])

    @property
    def widths(self) -> list[int]:
        """Numbers in a row of each store."""
        return [int(np.prod(one.shape[1:], dtype=int)) for one in self.stores]


@dataclass(frozen=True)
class Some:
    """Some rows of a store as if they were all."""

    source: store.Store
    at: np.ndarray

    @property
    def shape(self):
        return (len(self.at), *self.source.shape[1:])

    @property
    def path(self):
        return self.source.path

    def __getitem__(self, rows) -> np.ndarray:
        at = self.at[rows]
        if (np.diff(at) == 1).all() and len(at):  # one after the other: read at once
            return self.source[at[0] : at[-1] + 1]
        return self.source[at]


@dataclass(frozen=True)
class Sides:
    """Both sides of an experiment on stimuli, one row a response.

    Attributes:
        table: n rows of the responses: subject, split, stimulus and what else they state.
        responses: their stores, one a subject.
        x: {source: Linked}, n rows each.
        y: Linked, the targets; target: int (n,), which of them belongs to each row.
        headers: {source: header}, of x and of y.
        excluded: {reason: responses that are left out}.
    """

    table: pd.DataFrame
    responses: list
    x: dict
    y: Linked
    target: np.ndarray
    headers: dict
    excluded: dict

    @property
    def decodes(self) -> bool:
        """Whether x is the responses."""
        return self.responses is not self.y.stores


def sides(x, y) -> Sides:
    """The usable responses, and what was shown in each.

    Responses are rows with the columns `subject` and `stimulus`, the latter naming a row of the
    other side.

    Args:
        x, y: {source: [path, ...]}, either of them the responses; y has one source.

    Raises:
        InputError: neither side or both are responses, subjects differ in what their stores state,
            sources of x have other rows, or what was shown is no usable row of the other side.
    """
    if len(y) > 1:
        raise InputError(f"y: {', '.join(y)}: predict one source of vectors in an experiment")
    (target,) = y
    opened = {name: _opened(paths) for name, paths in {**x, **y}.items()}
    decodes = not _are_responses(opened[target])
    for name in x:
        if _are_responses(opened[name]) != decodes:
            raise InputError(
                f"{name} → {target}: one side has to be responses, whose rows name the stimulus "
                "that was shown, and the other what is known of stimuli"
            )
    responses = next(iter(x)) if decodes else target
    for name in x if decodes else ():
        _refuse_other_rows(opened[name], opened[responses], name, responses)
    which, at, table, excluded = _usable(opened[responses])
    linked = {}
    for name, stores in opened.items():
        if _are_responses(stores):
            linked[name] = Linked(stores, which, at)
        else:
            linked[name] = Linked(stores, *_every(stores))
    shown = {name: _shown(opened[name], table, responses) for name in (y if decodes else x)}
    headers = {name: stores[0].header for name, stores in opened.items()}
    target_of = shown[target] if decodes else np.arange(len(table))
    return Sides(
        table,
        opened[responses],
        {name: linked[name] if decodes else linked[name].rows(shown[name]) for name in x},
        linked[target],
        target_of,
        headers,
        excluded,
    )


def _refuse_other_rows(stores, others, name, other):
    if [[*one.table.index] for one in stores] != [[*one.table.index] for one in others]:
        raise InputError(f"{name}: has other rows than {other}; render both again")


def _opened(paths):
    stores = [store.open(path) for path in paths]
    for other in stores[1:]:
        for key in ALIKE:
            one, two = (found.header.get(key) for found in (stores[0], other))
            if one != two:
                raise InputError(
                    f"{stores[0].path} and {other.path} differ in {key}: {one} and {two}; make "
                    "both with the same configuration"
                )
    return stores


def _are_responses(stores):
    return {"subject", "stimulus"} <= {*stores[0].table.columns}


def _every(stores):
    """(store, position) of all rows of several stores."""
    lengths = [len(one) for one in stores]
    return np.repeat(np.arange(len(stores)), lengths), np.concatenate([*map(np.arange, lengths)])


def _usable(stores):
    which, at = _every(stores)
    table = pd.concat([one.table for one in stores])
    reason = table["exclude"].to_numpy(str)
    used = reason == ""
    reason = reason[reason != PATTERN]
    if not used.any():
        raise InputError(f"{stores[0].path}: no usable row; all are left out: {reason[0]}")
    reasons, counts = np.unique(reason[reason != ""], return_counts=True)
    excluded = {str(name): int(count) for name, count in zip(reasons, counts, strict=True)}
    return which[used], at[used], table[used], excluded


def _shown(stores, table, of):
    """Which row of several stores shows the stimulus of each response, int (n,)."""
    known = pd.concat([one.table for one in stores])
    usable = known.index.where(known["exclude"] == "") if "exclude" in known else known.index
    at = usable.get_indexer(table["stimulus"])
    if (at < 0).any():
        raise InputError(
            f"{stores[0].path}: lacks a usable row of {table['stimulus'][at < 0].iloc[0]}, which "
            f"{(at < 0).sum()} responses of {of} are to; make it of every stimulus that was shown"
        )
    return at
