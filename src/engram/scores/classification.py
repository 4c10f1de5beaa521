"""Scores of predicted class probabilities, for many label arrangements at once.

Every score but the calibration error is a function of sums over rows that are linear in the
one-hot labels, so one matrix product gives it for the true labels and for every permuted
series of them: observed values and null distributions come from the same lines.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from engram import store
from engram.errors import InputError
from engram.measures import inference
from engram.measures.inference import mean_defined

#: Range that each score can take.
LIMITS = {
    "balanced_accuracy": (0.0, 1.0),
    "auc": (0.0, 1.0),
    "macro_f1": (0.0, 1.0),
    "kappa": (-1.0, 1.0),
    "accuracy": (0.0, 1.0),
    "brier": (0.0, 1.0),
    "ece": (0.0, 1.0),
}

#: Scores that say nothing where the labels show a single class.
NEED_TWO_CLASSES = ("balanced_accuracy", "auc", "macro_f1", "kappa")

#: Scores that are better when lower.
LOWER_IS_BETTER = ("brier", "ece")

BINS = 10
BLOCK = 1 << 24  # values of the one-hot labels held in memory at once


@dataclass(frozen=True)
class Null:
    """What models say that were trained on moved labels; see `engram.tasks.null`.

    Attributes:
        probabilities: float64 (n, series, classes).
        labels: int (series, n), what each was trained on and is scored against.
    """

    probabilities: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold predictions of one experiment.

    Attributes:
        probabilities: float64 (n, runs, classes).
        y: int (n,), the class of each row.
        moved: int (n,), the class that the control was trained on and is scored against.
        table: n rows of facts, indexed by row name.
        header: of the store.
        real: bool (runs,), False for the control trained on moved labels.
        null: Null of the same rows, or None where the head was not trained again.
    """

    probabilities: np.ndarray
    y: np.ndarray
    moved: np.ndarray
    table: pd.DataFrame
    header: dict
    real: np.ndarray
    null: Null | None = None

    def rows(self, positions) -> "Predictions":
        """Some rows of these predictions."""
        return Predictions(
            self.probabilities[positions],
            self.y[positions],
            self.moved[positions],
            self.table.iloc[positions],
            self.header,
            self.real,
            self.null and Null(self.null.probabilities[positions], self.null.labels[:, positions]),
        )

    @property
    def shared(self) -> bool:
        """See `inference.train_each_other`."""
        return inference.train_each_other(self.table)

    @property
    def of_subjects(self) -> bool:
        """Whether the class belongs to the subject: no subject has rows of two."""
        return bool((self.table.assign(y=self.y).groupby("subject")["y"].nunique() == 1).all())

    def by_subject(self) -> "Predictions":
        """One row a subject, whose probabilities are the means over its rows."""
        subjects = self.table["subject"].to_numpy(str)
        _, first, of_row = np.unique(subjects, return_index=True, return_inverse=True)

        def mean(values):
            sums = np.zeros((len(first), *values.shape[1:]))
            np.add.at(sums, of_row, values)
            return sums / np.bincount(of_row)[:, None, None]

        found = replace(self.rows(first), probabilities=mean(self.probabilities))
        if self.null:
            null = replace(found.null, probabilities=mean(self.null.probabilities))
            found = replace(found, null=null)
        return found


def read(path, null=None) -> Predictions:
    """The predictions store at `path`, and the null at `null`, if there is one.

    Raises:
        InputError: a row was not predicted, its label is no class, every run is a control, or the
            null is of other rows.
    """
    rows = store.open(path).load()
    y = rows.table["y"].to_numpy().astype(int)
    real = np.array([not run.get("shuffled") for run in rows.header["runs"]])
    if not np.isfinite(rows.array).all():
        raise InputError(f"{path}: rows without a prediction; delete it so that it is made again")
    if len(y) == 0 or y.min() < 0 or y.max() >= rows.array.shape[2]:
        raise InputError(f"{path}: `y` must be 0 to {rows.array.shape[2] - 1} in every row")
    if not real.any():
        raise InputError(f"{path}: every run was trained on shuffled labels, none to score")
    moved = y if real.all() else rows.table["y_shuffled"].to_numpy().astype(int)
    series = _null(null, rows) if null else None
    return Predictions(rows.array.astype(float), y, moved, rows.table, rows.header, real, series)


def _null(path, predictions):
    array = refitted(path, predictions)
    return Null(array[..., :-1].astype(float), array[..., -1].T.astype(int))


def refitted(path, predictions) -> np.ndarray:
    """What models of moved labels say of the rows of predictions, (n, series, k).

    Raises:
        InputError: it is of other rows, or not finite.
    """
    rows = store.open(path).load()
    if list(rows.table.index) != list(predictions.table.index):
        raise InputError(f"{path}: of other rows than the predictions; delete it, to train again")
    if not np.isfinite(rows.array).all():
        raise InputError(f"{path}: rows without a prediction; delete it so that it is made again")
    return rows.array


def scores(labels, probabilities) -> dict[str, np.ndarray]:
    """Scores of one group of rows under several arrangements of its labels.

    The predicted class is the first of the most probable ones.  With the definitions of
    scikit-learn: balanced accuracy is the mean recall of the classes that occur; macro F1 the
    mean over the classes that occur or are predicted; AUC the Mann-Whitney statistic of the
    second of two classes, or the mean of one class against the rest over the classes that
    occur; the Brier score is halved, so that it lies in 0..1 for any number of classes.

    Args:
        labels: int (m, n), m arrangements of the class of n rows.
        probabilities: float (n, runs, classes).

    Returns:
        float (m, runs) by name; NaN for `NEED_TWO_CLASSES` where an arrangement has one class.
    """
    n, runs, k = probabilities.shape
    truth = _one_hot(labels, k)
    sums = truth.reshape(-1, n) @ _columns(probabilities).reshape(n, -1)
    squares = (probabilities**2).sum((0, 2))
    return _of_sums(sums.reshape(len(labels), k, 3, runs, k), truth.sum(2)[:, None], squares, n)


def own_scores(labels, probabilities) -> dict[str, np.ndarray]:
    """`scores` of each run under labels of its own.

    Args:
        labels: int (m, n).
        probabilities: float (n, m, classes).

    Returns:
        float (m, 1) by name.
    """
    n, m, k = probabilities.shape
    truth = _one_hot(labels, k)
    columns = _columns(probabilities).transpose(2, 0, 1, 3).reshape(m, n, -1)
    squares = (probabilities**2).sum((0, 2))[:, None]
    return _of_sums((truth @ columns).reshape(m, k, 3, 1, k), truth.sum(2)[:, None], squares, n)


def _one_hot(labels, k):
    return (labels[:, None] == np.arange(k)[:, None]).astype(float)


def _columns(probabilities):
    """What is summed over the rows of a class: calls, ranks and probabilities, (n, 3, runs, k)."""
    predicted = probabilities.argmax(2)[..., None] == np.arange(probabilities.shape[2])
    return np.stack([predicted, rankdata(probabilities, axis=0), probabilities], axis=1)


def _of_sums(sums, count, squares, n):
    """Scores (m, runs) of sums (m, k, 3, runs, k) over the rows of each class, (m, 1, k) rows."""
    confusion = sums[:, :, 0].transpose(0, 2, 1, 3)
    hits = np.einsum("mrkk->mrk", confusion)
    calls = confusion.sum(2)
    accuracy = hits.sum(2) / n
    agreement = (count * calls).sum(2) / n**2
    own = np.einsum("mkrk->mr", sums[:, :, 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "balanced_accuracy": mean_defined(hits / count, 2),
            "auc": _auc(np.einsum("mkrk->mrk", sums[:, :, 1]), count, n),
            "macro_f1": mean_defined(2 * hits / (count + calls), 2),
            "kappa": (accuracy - agreement) / (1 - agreement),
            "accuracy": accuracy,
            # half the mean squared distance to the one-hot label: sum p^2 - 2 p[y] + 1
            "brier": (squares - 2 * own + n) / (2 * n),
        }
    one_class = (count > 0).sum(2) < 2
    for name in NEED_TWO_CLASSES:
        found[name] = np.where(one_class, np.nan, found[name])
    return found


def _auc(rank_sums, count, n):
    each = (rank_sums - count * (count + 1) / 2) / (count * (n - count))
    return each[..., 1] if each.shape[2] == 2 else mean_defined(each, 2)


def scores_by_group(labels, probabilities, groups) -> dict[str, np.ndarray]:
    """`scores` of each group of rows, e.g. each subject.

    Args:
        labels: int (m, n).
        probabilities: float (n, runs, classes).
        groups: int (n,), 0 to the number of groups - 1.

    Returns:
        float (groups, m, runs) by name.
    """
    rows = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    step = max(1, BLOCK // (max(map(len, rows)) * probabilities.shape[2]))
    starts = range(0, len(labels), step)
    parts = [
        [scores(labels[start : start + step, at], probabilities[at]) for start in starts]
        for at in rows
    ]
    return {
        name: np.stack([np.concatenate([part[name] for part in group]) for group in parts])
        for name in parts[0][0]
    }


def observed(y, probabilities, groups) -> dict[str, np.ndarray]:
    """All scores of the true labels, float (groups, runs) by name."""
    found = scores_by_group(y[None], probabilities, groups)
    found = {name: values[:, 0] for name, values in found.items()}
    runs = range(probabilities.shape[1])
    found["ece"] = np.array(
        [
            [calibration_error(calibration(y[at], probabilities[at, run])) for run in runs]
            for at in (groups == group for group in range(groups.max() + 1))
        ]
    )
    return found


def calibration(y, probabilities) -> pd.DataFrame:
    """Confidence against accuracy in ten bins of equal width.

    Confidence is the probability of the predicted class; a bin holds low <= confidence < high,
    the last one 1 as well.

    Args:
        y: int (n,).
        probabilities: float (n, classes).

    Returns:
        One row a bin: low, high, n, confidence and accuracy (means, NaN in an empty bin).
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == y
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    n = np.bincount(which, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(
            {
                "low": np.arange(BINS) / BINS,
                "high": np.arange(1, BINS + 1) / BINS,
                "n": n,
                "confidence": np.bincount(which, confidence, BINS) / n,
                "accuracy": np.bincount(which, right, BINS) / n,
            }
        )


def calibration_error(bins) -> float:
    """Expected calibration error: mean |accuracy - confidence| of the bins, weighted by n.

    Naeini et al., AAAI 2015; in the form of Guo et al., ICML 2017, eq. 3.  It is biased
    upwards where bins hold few rows.
    """
    return float(
        (bins["n"] * (bins["accuracy"] - bins["confidence"]).abs()).sum() / bins["n"].sum()
    )


def confusion(y, probabilities) -> np.ndarray:
    """Rows by true class (first axis) and predicted class, mean over runs, float (k, k)."""
    runs, k = probabilities.shape[1:]
    table = np.zeros((k, k))
    np.add.at(table, (y[:, None], probabilities.argmax(2)), 1 / runs)
    return table


def prior(y, folds, classes) -> np.ndarray:
    """Probabilities of the majority baseline: class frequencies of the other folds' rows.

    Args:
        y: int (n,).
        folds: (n,), name of the fold that tests each row.
        classes: number of classes.

    Returns:
        float (n, 1, classes), shaped as one run.
    """
    codes = pd.factorize(folds)[0]
    counts = np.zeros((codes.max() + 1, classes))
    np.add.at(counts, (codes, y), 1)
    others = counts.sum(0) - counts if len(counts) > 1 else counts
    return (others / others.sum(1, keepdims=True))[codes][:, None]


def null_scores(labels, probabilities, groups) -> dict[str, np.ndarray]:
    """Mean over groups of every score under each arrangement, float (m, runs) by name.

    Predictions stay as they are; training is not repeated.  Where subjects train each other's
    folds, their scores move together more than this null knows; see `inference.WIDENED`.
    """
    found = scores_by_group(labels, probabilities, groups)
    return {name: mean_defined(values, 0) for name, values in found.items()}


def refitted_scores(null, groups) -> dict[str, np.ndarray]:
    """Mean over groups of the scores of each series by its own models, float (series, 1) by name.

    Args:
        null: Null.
        groups: int (n,), 0 to the number of groups - 1.
    """
    rows = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    each = [own_scores(null.labels[:, at], null.probabilities[at]) for at in rows]
    return {name: mean_defined(np.stack([one[name] for one in each]), 0) for name in each[0]}


def permutation_p(name, value, null, shared) -> float:
    """`inference.permutation_p` of a score, of which less may be better.

    Args:
        name: of the score, which says whether lower is better.
        value: observed.
        null: float (m,).
        shared: whether models of subjects were trained on each other's data; the null is
            widened then.
    """
    sign = -1 if name in LOWER_IS_BETTER else 1
    widened = inference.WIDENED if shared else 1.0
    return inference.permutation_p(sign * value, sign * null, widened)
