"""Scores of predicted numbers, for many arrangements of them at once."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from engram import store
from engram.errors import InputError
from engram.measures.inference import mean_defined
from engram.scores import classification

FEWEST = 3  # observations that a score can be taken of


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold numbers, and where each score is taken.

    Attributes:
        predicted: float64 (n, runs).
        y: float64 (n,); moved: what the control was trained on and is scored against.
        expected, expected_moved: float64 (n,), the mean of the training rows of either.
        table: n rows of facts; header: of the store.
        real: bool (runs,), False for the control.
        null: float64 (n, series, 3), what models of moved numbers predict, what they expect and
            what they were trained on, see `engram.tasks.values.null`; None where there are none.
    """

    predicted: np.ndarray
    y: np.ndarray
    moved: np.ndarray
    expected: np.ndarray
    expected_moved: np.ndarray
    table: pd.DataFrame
    header: dict
    real: np.ndarray
    null: np.ndarray | None = None

    def rows(self, positions) -> "Predictions":
        """Some rows of these predictions."""
        return self._each(lambda values: values[positions], positions)

    def _each(self, change, rows):
        arrays = (self.predicted, self.y, self.moved, self.expected, self.expected_moved)
        null = None if self.null is None else change(self.null)
        table = self.table.iloc[rows]
        return Predictions(*map(change, arrays), table, self.header, self.real, null)

    def by_subject(self) -> "Predictions":
        """One row a subject: means of what its rows are and of what is predicted for them."""
        subjects = self.table["subject"].to_numpy(str)
        _, first, of_row, rows = np.unique(
            subjects, return_index=True, return_inverse=True, return_counts=True
        )

        def mean(values):
            sums = np.zeros((len(first), *values.shape[1:]))
            np.add.at(sums, of_row, values)
            return sums / rows.reshape(-1, *[1] * (values.ndim - 1))

        return self._each(mean, first)

    @property
    def of_control(self) -> "Predictions":
        """The control run alone, beside the numbers that it was trained on."""
        return dataclasses.replace(
            self,
            predicted=self.predicted[:, ~self.real],
            y=self.moved,
            expected=self.expected_moved,
            real=np.ones((~self.real).sum(), bool),
        )

    @property
    def seeds(self) -> np.ndarray:
        """What the runs that are no control predict, (n, runs)."""
        return self.predicted[:, self.real]


def r2(y, predicted, expected) -> np.ndarray:
    """Share of the squared distance to the training mean that predictions explain, (m, runs).

    1 - sum (y - predicted)^2 / sum (y - expected)^2, `expected` being the mean of the rows that
    the fold was trained on, not that of the tested rows, which nobody knows beforehand (the
    out-of-sample R^2 of Campbell & Thompson 2008). At most 1; below 0 the training mean is nearer.

    Args:
        y: float (m, n), m arrangements of the numbers of n rows.
        predicted: float (n, runs).
        expected: float (n,).
    """
    around = ((y - expected) ** 2).sum(1)[:, None]
    squares = np.stack([((y - one) ** 2).sum(1) for one in predicted.T], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(around > 0, 1 - squares / around, np.nan)


def pearson_r(y, predicted, expected) -> np.ndarray:
    """Pearson's correlation, (m, runs); NaN where either does not vary. Args: as of `r2`."""
    return _standard(y) @ _standard(predicted.T).T / y.shape[1]


def spearman_r(y, predicted, expected) -> np.ndarray:
    """Spearman's rank correlation, ties sharing their mean rank, (m, runs). Args: as of `r2`."""
    return pearson_r(rankdata(y, axis=1), rankdata(predicted, axis=0), expected)


def mae(y, predicted, expected) -> np.ndarray:
    """Mean absolute error, in the unit of the numbers, (m, runs). Args: as of `r2`."""
    return np.stack([np.abs(y - one).mean(1) for one in predicted.T], 1)


def _standard(values):
    """Rows with mean 0 and variance 1; NaN where a row does not vary but by rounding."""
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    noise = 1e-12 * np.abs(values).max(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > noise, centred / spread, np.nan)


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        of: function of (y, predicted, expected).
        limits: lowest and highest value possible.
        normal: to a scale on which the score of few subjects is nearly normal; back: from it.
        less: whether less is better.
    """

    of: object
    limits: tuple[float, float]
    normal: object = staticmethod(lambda value: value)
    back: object = staticmethod(lambda value: value)
    less: bool = False


def _fisher(r):
    return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))


def _unexplained(value):
    return -np.log(np.maximum(1 - value, 1e-12))


SCORES = {
    "r2": Score(r2, (-np.inf, 1.0), _unexplained, lambda value: 1 - np.exp(-value)),
    "pearson_r": Score(pearson_r, (-1.0, 1.0), _fisher, np.tanh),
    "spearman_r": Score(spearman_r, (-1.0, 1.0), _fisher, np.tanh),
    "mae": Score(mae, (0.0, np.inf), less=True),
}


def read(path, null=None) -> Predictions:
    """The predictions store at `path`, and the null at `null`, if there is one.

    Raises:
        InputError: a row was not predicted, every run is a control, or the null is of other rows.
    """
    rows = store.open(path).load()
    real = np.array([not run["shuffled"] for run in rows.header["runs"]])
    if not np.isfinite(rows.array).all():
        raise InputError(f"{path}: rows without a prediction; delete it so that it is made again")
    if not real.any():
        raise InputError(f"{path}: every run was trained on moved numbers, none to score")
    moved = "" if real.all() else "_shuffled"
    columns = ("y", f"y{moved}", "expected", f"expected{moved}")
    facts = (rows.table[column].to_numpy(float) for column in columns)
    series = classification.refitted(null, rows).astype(float) if null else None
    predicted = rows.array[..., 0].astype(float)
    return Predictions(predicted, *facts, rows.table, rows.header, real, series)


def scores_by_group(score, labels, this, within, predicted=None):
    """Score of each group of rows under each arrangement and run, float (groups, m, runs).

    Groups are the subjects, or all rows together.
    """
    predicted = this.seeds if predicted is None else predicted
    groups = list(this.table.groupby("subject").indices.values())
    groups = groups if within else [np.arange(len(this.y))]
    undefined = np.full((len(labels), predicted.shape[1]), np.nan)
    return np.stack(
        [
            score.of(labels[:, at], predicted[at], this.expected[at])
            if len(at) >= FEWEST
            else undefined
            for at in groups
        ]
    )


def null_scores(score, labels, this, within):
    """The score under the null, float (m,): by models of each series, or by predictions as are."""
    if this.null is None:
        return mean_defined(scores_by_group(score, labels, this, within).mean(2), 0)
    found = []
    for predicted, expected, y in this.null.transpose(1, 2, 0):
        of = dataclasses.replace(this, expected=expected)
        found.append(
            mean_defined(scores_by_group(score, y[None], of, within, predicted[:, None])[:, 0, 0])
        )
    return np.array(found)
