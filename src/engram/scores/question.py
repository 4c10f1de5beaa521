"""The question of an experiment put to others: the same rows, folds and score, by subject."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from engram import splits
from engram.measures.inference import interval, jackknife, mean_defined, t_test, train_each_other

MOST_FOLDS = 20  # more are merged: whoever answers is fitted once a fold
INNER = 3  # groups of subjects among which a penalty is chosen


@dataclass(frozen=True)
class Question:
    """What an experiment asks, and how an answer is scored.

    Attributes:
        table: n rows of facts, with the `fold` that tests each.
        y: int (n,), the class of each row, or float (n,), its number.
        classes: how many there are; 0 of numbers.
        metric: name of the score; limits: lowest and highest value of it.
        each: of an answer, float (n, runs, classes or 1), the score of every subject, sorted by
            name, NaN where it has none.
        of_all: where scores are not taken within subjects: of an answer and the positions of some
            subjects, the score of these together; else None.
        confidence: of intervals.
        normal, back: to a scale on which a score of all is nearly normal, and from it.
    """

    table: pd.DataFrame
    y: np.ndarray
    classes: int
    metric: str
    limits: tuple[float, float]
    each: Callable
    of_all: Callable | None
    confidence: float
    normal: Callable = float
    back: Callable = float

    @property
    def subjects(self) -> np.ndarray:
        """Subject of each row, str (n,)."""
        return self.table["subject"].to_numpy(str)

    @property
    def folds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(rows that train, rows that are tested) of each fold, at most `MOST_FOLDS`.

        Rows of other folds train, without those that share seconds of a scan with a tested row.
        None where there are fewer than two folds: nothing was trained here.
        """
        of_row, names = pd.factorize(self.table["fold"], sort=True)
        of_row = of_row % MOST_FOLDS
        sides = [(np.flatnonzero(of_row != f), np.flatnonzero(of_row == f)) for f in set(of_row)]
        sides = [(splits.purged(self.table, train, test), test) for train, test in sides]
        return sides if len(names) > 1 and all(len(train) for train, _ in sides) else []

    @property
    def varies(self) -> bool:
        """Whether some subject has rows of different classes or numbers."""
        return bool((self.table.assign(y=self.y).groupby("subject")["y"].nunique() > 1).any())

    @property
    def known_scans(self) -> bool:
        """Whether rows of one scan are tested by several folds."""
        return bool((self.table.groupby(["subject", "scan"])["fold"].nunique() > 1).any())

    def inner(self, rows) -> list[tuple[np.ndarray, np.ndarray]]:
        """Parts of `rows`, (fitted, held out), by subject, among which a penalty is chosen."""
        groups = self.subjects[rows]
        n = min(INNER, len(set(groups)))
        parts = GroupKFold(n).split(rows, groups=groups) if n > 1 else ()
        return [(rows[fitted], rows[held]) for fitted, held in parts]


def weights(question, rows) -> np.ndarray:
    """Weight of each of `rows`, 1 on average: every class counts the same, or every subject."""
    of = question.y if question.classes else question.subjects
    _, of_row, counts = np.unique(of[rows], return_inverse=True, return_counts=True)
    return len(rows) / (len(counts) * counts[of_row])


def line(question, answer, than=None) -> dict:
    """The score of an answer, and what another one has more, paired by subject.

    Args:
        question: Question.
        answer: float (n, runs, classes or 1).
        than: the other answer, likewise; or None.

    Returns:
        metric, value, low, high and subjects; with `than` difference, difference_low,
        difference_high and difference_p.
    """
    found = {"metric": question.metric}
    if question.of_all:
        return found | _of_all(question, answer, than)
    shared, names = train_each_other(question.table), np.unique(question.subjects)
    each = question.each(answer)
    low, high = _interval(each, question.limits, question, shared)
    found |= {"value": mean_defined(each), "low": low, "high": high}
    found |= {"subjects": dict(zip(names, each, strict=True))}
    if than is None:
        return found
    more = question.each(than) - each
    low, high = _interval(more, (-np.inf, np.inf), question, shared)
    p = t_test(more[~np.isnan(more)], shared)
    return found | _difference(mean_defined(more), low, high, p)


def _interval(values, limits, question, shared):
    return interval(values[~np.isnan(values)], limits, question.confidence, shared)


def _of_all(question, answer, than):
    """As `line`, of a score of all subjects together, by leaving out each of them in turn."""
    every, shared = len(np.unique(question.subjects)), train_each_other(question.table)

    def normal(at):
        return question.normal(question.of_all(answer, at))

    value, low, high, _ = jackknife(normal, every, question.confidence, shared)
    low, high = np.clip([question.back(low), question.back(high)], *question.limits)
    found = {"value": question.back(value), "low": low, "high": high, "subjects": {}}
    if than is None:
        return found

    def more(at):
        return question.of_all(than, at) - question.of_all(answer, at)

    return found | _difference(*jackknife(more, every, question.confidence, shared))


def _difference(value, low, high, p):
    return {"difference": value, "difference_low": low, "difference_high": high, "difference_p": p}
