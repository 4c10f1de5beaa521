"""Which number has each row? Rows are windows or scans in memory, y a view of numbers.

Subjects are left out whole. Where a number is a fact of a subject or scan, all rows of a subject
are one observation: they weigh as much as those of any other subject, and scores average what is
predicted for them.
"""

from dataclasses import replace

import numpy as np

from engram import splits, store
from engram.errors import InputError
from engram.store import Rows
from engram.tasks import rows
from engram.training import Run, Task, subject_weights

#: What the plan reads without importing this module; see `engram.tasks`.
TARGETS = "numbers"
FOLDS = {
    "group_kfold": "new subjects",
    "leave_one_subject_out": "new subjects",
}
FIGURES = {"predicted": "predicted.svg", "residuals": "residuals.svg"}
SHOWS = None
PROBED = "x"
MAPPED = False
COMPARED = True
OCCLUDED = False
LEARNING = ("leave_one_subject_out", "group_kfold")
MEMORY_MB = 8_000
RUNTIME = "4h"

MOST_STRATA = 5
SUBJECTS_A_STRATUM = 5
DRAWS = 100  # arrangements among which the control is the one least related to the truth


def load(x, y, experiment) -> tuple[Task, dict]:
    """The usable rows of all stores, side by side by name and sorted by name, in folds.

    Every fold tests, and validates on, subjects from the whole range of the numbers: subjects are
    grouped by quantiles of their mean. Runs are the seeds of the experiment and one control,
    whose numbers belong to other subjects, or are shifted in time where they vary within a scan.

    Args:
        x: {source: [path, ...]}.
        y: stores of numbers, float64 (n,), likewise; one source.
        experiment: dict with folds, a name of `FOLDS` or {"kind": name, "n": groups (5)}, and
            seeds.

    Returns:
        Task without classes, and {reason: rows left out}.

    Raises:
        InputError: stores share no row, hold values that are not finite, all numbers are the
            same, or the folds are not possible.
    """
    task, excluded = usable(x, y)
    table, how = task.table, experiment.get("folds", next(iter(FOLDS)))
    folds = splits.make(table, strata(task.y, table), how, seed=0)
    splits.check(folds, table, np.zeros(len(table), int), how)
    runs = _runs(task.y, table, experiment.get("seeds", 3))
    return replace(task, folds=folds, runs=runs), excluded


def usable(x, y) -> tuple[Task, dict]:
    """The usable rows of all stores, without folds and runs; see `load`."""
    if len(y) > 1:
        raise InputError(f"y: {', '.join(y)}: predict one view of numbers in an experiment")
    paths = next(iter(y.values()))
    numbers, sources, table, excluded = rows.joined(x, _numbers(paths), paths[0])
    _check_numbers(numbers, paths[0])
    task = Task(
        x=[one.array for one in sources.values()],
        sources=list(sources),
        headers=[one.header for one in sources.values()],
        y=numbers.array.astype(float),
        classes=[],
        table=table,
        folds=[],
        runs=[],
        facts={key: numbers.header.get(key) for key in ("column", "unit")},
    )
    return task, excluded


def predictions(outputs, task, header) -> list[Rows]:
    """Out-of-fold numbers, float64 (n, runs, 1).

    The table says of each row its number and its fold, and the mean of the fold's training and
    validation rows, each subject counting once: what is predicted by who sees no input. Where no
    fold trains, that is `expected` of the task's facts. Of a control run likewise.

    Args:
        outputs: (tested, runs, 1), as `engram.training.Fit` has them.
        task: from `load`.
        header: what all tasks write.
    """
    facts = task.table.assign(y=task.y, expected=_expected(task, task.y))
    for moved in (run.y for run in task.runs if run.shuffled):
        facts = facts.assign(y_shuffled=moved, expected_shuffled=_expected(task, moved))
    return [Rows(outputs, facts.iloc[task.tested].assign(fold=task.tested_by), header)]


def null(outputs, task) -> np.ndarray:
    """Numbers predicted by models of moved ones, the mean of their training rows and the moved.

    Returns:
        float64 (n, runs, 3).
    """
    facts = [np.stack([_expected(task, run.y), run.y], 1) for run in task.runs]
    return np.concatenate([outputs, np.stack(facts, 1)[task.tested]], axis=2)


def _expected(task, y):
    """Mean of the rows that train and validate, by the fold that tests a row, float (n,)."""
    expected = np.full(len(y), task.facts.get("expected", np.nan))
    for fold in task.folds:
        if len(fold.known):
            expected[fold.test] = mean(y[fold.known], task.table.iloc[fold.known])
    return expected


def mean(y, table) -> float:
    """Mean of the numbers of rows, each subject counting once.

    Args:
        y: float (n,).
        table: n rows of facts.
    """
    return float(np.average(y, weights=subject_weights(table["subject"].to_numpy(str))))


def applied(task, facts, known) -> Task:
    """The rows of another data set as a model knows them: beside the mean of its training rows.

    Args: as of `engram.tasks.classes.applied`.

    Raises:
        InputError: the numbers are of another unit.
    """
    units = task.facts["unit"], facts.get("unit")
    if units[0] != units[1]:
        raise InputError(
            f"the numbers are in {units[0]}, but the model was trained on {units[1]}; state both "
            "in one unit"
        )
    return replace(task, facts=task.facts | {"expected": mean(known.y, known.table)})


def _numbers(paths):
    for path in paths:
        what = store.open(path).header.get("what")
        if what != "values":
            raise InputError(f"{path}: holds {what!r}, expected numbers")
    return store.load(paths)


def _check_numbers(numbers, path):
    bad = numbers.table.index[~np.isfinite(numbers.array)]
    if len(bad):
        raise InputError(f"{path}: row {bad[0]} has no number and gives no reason to exclude it")
    if (numbers.array == numbers.array[0]).all():
        raise InputError(
            f"{path}: every usable row has the number {numbers.array[0]:g}; there is nothing to "
            "predict"
        )


def strata(y, table) -> np.ndarray:
    """Quantile of the mean of each row's subject, int (n,): five at most, of five or more."""
    subjects, of_row = np.unique(table["subject"].to_numpy(str), return_inverse=True)
    means = np.bincount(of_row, y) / np.bincount(of_row)
    strata = min(MOST_STRATA, max(1, len(subjects) // SUBJECTS_A_STRATUM))
    rank = np.empty(len(subjects), int)
    rank[np.argsort(means, kind="stable")] = np.arange(len(subjects))
    return (rank * strata // len(subjects))[of_row]


def _runs(y, table, seeds):
    return [*(Run(seed, False, y) for seed in range(seeds)), Run(0, True, _moved(y, table))]


def _moved(y, table):
    """Numbers moved away from their rows, of 100 draws the one that correlates least with them."""
    rng = np.random.default_rng(0)
    drawn = [splits.circular_shift(y, table, rng) for _ in range(DRAWS)]
    weights = subject_weights(table["subject"].to_numpy(str))
    return min(drawn, key=lambda moved: abs(_covariance(y, moved, weights)))


def _covariance(one, other, weights):
    centred = [values - np.average(values, weights=weights) for values in (one, other)]
    return np.average(centred[0] * centred[1], weights=weights)
