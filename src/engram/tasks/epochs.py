"""Epochs of stimuli and the pictures that were shown: rows that are read when asked for."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError
from engram.measures.ranking import repetition_counts

ORDER = 0  # seed of the order in which repetitions are taken


@dataclass(frozen=True)
class Pictures:
    """Image features by name.

    Attributes:
        features: one array (m, d) an image encoder.
        table: m rows with columns split and concept.
    """

    features: list
    table: pd.DataFrame

    @property
    def shown(self) -> np.ndarray:
        """Rows of the test pictures, among which test rows are told apart."""
        return np.flatnonzero((self.table["split"] == "test").to_numpy())


def pictures(y) -> Pictures:
    """Features of every source in `y`, {source: paths}, side by side by name."""
    loaded = [store.load(paths) for paths in y.values()]
    at = store.align(*(rows.table for rows in loaded))
    features = [
        rows.array[i].reshape(len(i), -1).astype(np.float32)
        for rows, i in zip(loaded, at, strict=True)
    ]
    return Pictures(features, loaded[0].table.iloc[at[0]])


class Epochs:
    """Rows of epoch stores: those that train, then averages of the test repetitions.

    Nothing is read before it is asked for: the trials of many subjects do not fit in memory.

    Attributes:
        header: of the stores.
        shape: (n, channel, time).
        table: n rows with subject, split, concept and stimulus. Training rows are trials, or
            what a trial was averaged to when it was rendered. Test rows are called
            subject/stimulus and `fewer` is 0; behind them stand averages of fewer repetitions,
            `fewer` of them, called subject/stimulus@fewer and taken in a fixed random order,
            since the first come from one session.
        counts: numbers of repetitions that are averaged, the last being all that every picture
            has; where all have as many, no rows stand behind for the last.
        excluded: {reason: rows that are left out}.

    Raises:
        InputError: there is no usable row of one of the splits.
    """

    def __init__(self, paths):
        self.source = store.Stacked(paths)
        self.header = self.source.header
        table, used = self.source.table, (self.source.table["exclude"] == "").to_numpy()
        self.excluded = {str(k): int(n) for k, n in table["exclude"][~used].value_counts().items()}
        split = table["split"].to_numpy(str)
        own = {part: np.flatnonzero(used & (split == part)) for part in ("train", "test")}
        for part, rows in own.items():
            if not len(rows):
                raise InputError(f"{paths[0]}: no usable row of split {part!r}")
        averaged, self.counts = _averaged(table.iloc[own["test"]], own["test"])
        self._single, self._averaged = own["train"], [rows for rows, _, _ in averaged]
        self.shape = (len(self._single) + len(averaged), *self.source.shape[1:])
        columns = ["subject", "split", "concept", "stimulus"]
        first = np.concatenate([self._single, [rows[0] for rows in self._averaged]])
        fewer = [0] * len(self._single) + [count for _, count, _ in averaged]
        names = [*table.index[self._single], *(name for _, _, name in averaged)]
        self.table = table.iloc[first][columns].assign(fewer=fewer).set_axis(names)

    def __getitem__(self, rows) -> np.ndarray:
        """Epochs (m, channel, time) at positions (m,)."""
        rows, n = np.asarray(rows), len(self._single)
        if (rows < n).all():
            return self.source[self._single[rows]]
        values = np.empty((len(rows), *self.shape[1:]), np.float32)
        values[rows < n] = self.source[self._single[rows[rows < n]]]
        for i in np.flatnonzero(rows >= n):
            trials = self.source[np.sort(self._averaged[rows[i] - n])]
            values[i] = trials.astype(np.float64).mean(0)
        return values


def _averaged(table, at):
    """Every test average as (rows, how many of these if not all, name), and the numbers asked for.

    Args:
        table: test rows.
        at: their positions in the stores.
    """
    groups = table.groupby(["subject", "stimulus"], sort=False, observed=True).indices
    sizes = {len(rows) for rows in groups.values()}
    counts = repetition_counts(min(sizes))
    whole, parts, drawn = [], [], {}
    for (subject, stimulus), rows in groups.items():
        rng = drawn.setdefault(subject, np.random.default_rng(ORDER))
        name, order = f"{subject}/{stimulus}", rng.permutation(len(rows))
        whole.append((at[rows], 0, name))
        for count in counts if len(sizes) > 1 else counts[:-1]:
            parts.append((at[np.sort(rows)[order[:count]]], count, f"{name}@{count}"))
    return whole + parts, counts
