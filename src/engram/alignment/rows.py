"""What is aligned: epochs of stores, read when they are asked for, and features of pictures."""

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
        random_weights: whether an encoder knows nothing.
    """

    features: list
    table: pd.DataFrame
    random_weights: bool

    @property
    def shown(self) -> np.ndarray:
        """Rows of the test pictures, in the order of the columns of every similarity."""
        return np.flatnonzero((self.table["split"] == "test").to_numpy())

    @property
    def candidates(self) -> list[str]:
        """Names of the test pictures."""
        return [str(name) for name in self.table.index[self.shown]]


def pictures(y) -> Pictures:
    """Features of every source in `y`, {source: paths}, side by side by name."""
    loaded = [store.load(paths) for paths in y.values()]
    at = store.align(*(rows.table for rows in loaded))
    features = [
        rows.array[i].reshape(len(i), -1).astype(np.float32)
        for rows, i in zip(loaded, at, strict=True)
    ]
    random = any(rows.header.get("weights") == "random" for rows in loaded)
    return Pictures(features, loaded[0].table.iloc[at[0]], random)


@dataclass(frozen=True)
class Epochs:
    """Rows of epoch stores that are used; values are read from the files when asked for.

    Attributes:
        source: `engram.store.Stacked`.
        at: int (n,), or (n, repetition): positions in it.
        table: n rows with subject, concept, stimulus and picture, a row of the features.
    """

    source: store.Stacked
    at: np.ndarray
    table: pd.DataFrame

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, channel, time), or (n, repetition, channel, time)."""
        return (*self.at.shape, *self.source.shape[1:])

    def __getitem__(self, rows) -> np.ndarray:
        """Epochs at positions (m,)."""
        at = self.at[rows]
        return self.source[at.ravel()].reshape(*at.shape, *self.source.shape[1:])


def usable(paths, split, pictures) -> Epochs:
    """Epochs of one split that are not excluded, each with its picture.

    Raises:
        InputError: there is none, or one shows a picture without features.
    """
    source = store.Stacked(paths)
    used = (source.table["split"] == split) & (source.table["exclude"] == "")
    table = source.table[used]
    if not len(table):
        raise InputError(f"{paths[0]}: no usable row of split {split!r}")
    picture = pictures.table.index.get_indexer(table["stimulus"])
    if (picture < 0).any():
        lost = table["stimulus"][picture < 0].iloc[0]
        raise InputError(
            f"{paths[0]}: {(picture < 0).sum()} rows show pictures without features, first "
            f"{lost}; extract the features of every picture"
        )
    return Epochs(source, np.flatnonzero(used), table.assign(picture=picture))


def with_repetitions(epochs) -> Epochs:
    """One row a subject and picture, (n, repetition, channel, time).

    Raises:
        InputError: pictures have different numbers of repetitions.
    """
    groups = _groups(epochs.table)
    counts = {len(rows) for rows in groups}
    if len(counts) > 1:
        raise InputError(
            f"{epochs.source.stores[0].path}: pictures have {min(counts)} to {max(counts)} "
            "repetitions; `sub_average` needs the same number of each"
        )
    table = epochs.table.iloc[[rows[0] for rows in groups]]
    return Epochs(epochs.source, epochs.at[np.stack(groups)], table)


@dataclass(frozen=True)
class Averages:
    """Test epochs averaged over their repetitions, one row a subject and picture.

    Attributes:
        array: float32 (n, channel, time), the mean of all repetitions.
        table: n rows, called subject/stimulus.
        counts: numbers of repetitions, the last being all that every picture has.
        of_count: float32 (counts, n, channel, time), means of fewer.
    """

    array: np.ndarray
    table: pd.DataFrame
    counts: list[int]
    of_count: np.ndarray


def averages(epochs) -> Averages:
    """Means over repetitions that are rows of their own, of all and of a few of them.

    Fewer are taken in a fixed random order, since the first come from one session. An epoch
    that was averaged when it was rendered counts as one.
    """
    groups = _groups(epochs.table)
    counts = repetition_counts(min(map(len, groups)))
    rng = np.random.default_rng(ORDER)
    of_count = np.empty((len(counts), len(groups), *epochs.shape[1:]), np.float32)
    array = np.empty(of_count.shape[1:], np.float32)
    for i, rows in enumerate(groups):
        values = epochs[np.sort(rows)].astype(np.float64)
        array[i] = values.mean(0)
        sums = values[rng.permutation(len(rows))].cumsum(0)
        for j, count in enumerate(counts):
            of_count[j, i] = sums[count - 1] / count
    table = epochs.table.iloc[[rows[0] for rows in groups]]
    names = table["subject"].astype(str) + "/" + table["stimulus"].astype(str)
    return Averages(array, table.set_axis(names.to_numpy()), counts, of_count)


def _groups(table) -> list[np.ndarray]:
    """Rows of each subject and picture, in the order of their first."""
    return list(table.groupby(["subject", "stimulus"], sort=False, observed=True).indices.values())


@dataclass(frozen=True)
class Joined:
    """Epochs and, behind them, an array of the same shape of a row."""

    first: Epochs
    second: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.first.table) + len(self.second), *self.first.shape[1:])

    def __getitem__(self, rows) -> np.ndarray:
        """Epochs at positions (m,), sorted."""
        n = len(self.first.table)
        own, behind = rows[rows < n], rows[rows >= n] - n
        return np.concatenate([self.first[own], self.second[behind]])
