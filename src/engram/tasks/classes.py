"""Which class has each row? Rows are windows in memory, labels a view of classes."""

from dataclasses import replace

import numpy as np

from engram import splits, store
from engram.errors import InputError
from engram.store import Rows
from engram.tasks import rows
from engram.training import Run, Task

#: What the plan reads without importing this module; see `engram.tasks`.
TARGETS = "labels"
FOLDS = {
    "leave_one_subject_out": "new subjects",
    "group_kfold": "new subjects",
    "blocked": "new time blocks of known subjects, purged",
    "random_windows": "LEAKS: random windows of known scans",
}
FIGURES = {
    "subjects": "subjects.svg",
    "confusion": "confusion.svg",
    "curves": "curves.svg",
    "examples": "examples.svg",
}
SHOWS = "x"
PROBED = "x"
MAPPED = True
COMPARED = True
OCCLUDED = False
LEARNING = ("leave_one_subject_out", "group_kfold")
MEMORY_MB = 8_000
RUNTIME = "4h"


def load(x, y, experiment) -> tuple[Task, dict]:
    """The usable rows of all stores, side by side by name and sorted by name, in folds.

    Rows that a store excludes or lacks are left out and counted. Runs are the seeds of the
    experiment and one control, whose labels are shifted in time away from their rows
    (`engram.splits.control`).

    Args:
        x: {source: [path, ...]}.
        y: the label stores, likewise; one source.
        experiment: dict with folds, see `engram.splits.make`, and seeds.

    Returns:
        Task, and {reason: rows left out}.

    Raises:
        InputError: stores share no row, hold values that are not finite, rows without class
            or rows of one class only, or the folds are not possible or leak.
    """
    task, excluded = usable(x, y)
    how = experiment.get("folds", next(iter(FOLDS)))
    folds = splits.make(task.table, strata(task.y, task.table), how, seed=0)
    splits.check(folds, task.table, task.y, how, task.classes)
    return replace(task, folds=folds, runs=_runs(task, experiment.get("seeds", 3))), excluded


def predictions(outputs, task, header) -> list[Rows]:
    """Out-of-fold probabilities (n, runs, classes).

    The table says of each row its class, its class in the control run, if there is one, and its
    fold.

    Args:
        outputs: (tested, runs, classes), as `engram.training.Fit` has them.
        task: from `load`.
        header: what all tasks write.
    """
    facts = task.table.assign(y=task.y)
    for moved in (run.y for run in task.runs if run.shuffled):
        facts = facts.assign(y_shuffled=moved)
    facts = facts.iloc[task.tested].assign(fold=task.tested_by)
    return [Rows(outputs, facts, header | {"classes": task.classes})]


def null(outputs, task) -> np.ndarray:
    """Probabilities of models of moved labels and, last, these labels: (n, runs, classes + 1)."""
    labels = np.stack([run.y for run in task.runs], 1)[task.tested]
    return np.concatenate([outputs, labels[..., None].astype(outputs.dtype)], axis=2)


def strata(y, table) -> np.ndarray:
    """By what subjects are dealt out to folds, int (n,): the class of each row."""
    return y


def _runs(task, seeds):
    control = splits.control(task.y, task.table, np.random.default_rng(0))
    return [*(Run(seed, False, task.y) for seed in range(seeds)), Run(0, True, control)]


def usable(x, y) -> tuple[Task, dict]:
    """The usable rows of all stores, without folds and runs; see `load`."""
    y = [path for paths in y.values() for path in paths]
    labels, sources, table, excluded = rows.joined(x, _labels(y), y[0])
    bad = labels.table.index[(labels.array < 0) | (labels.array >= len(labels.header["classes"]))]
    if len(bad):
        raise InputError(f"{y[0]}: row {bad[0]} has no class and gives no reason to exclude it")
    if (labels.array == labels.array[0]).all():
        only = labels.header["classes"][int(labels.array[0])]
        raise InputError(f"{y[0]}: every usable row is {only!r}; there is nothing to tell apart")
    task = Task(
        x=[one.array for one in sources.values()],
        sources=list(sources),
        headers=[one.header for one in sources.values()],
        y=labels.array.astype(int),
        classes=labels.header["classes"],
        table=table,
        folds=[],
        runs=[],
    )
    return task, excluded


def applied(task, facts, known) -> Task:
    """The rows of another data set as a model knows them: with its classes.

    Args:
        task: from `usable`.
        facts: of the model, see `engram.trained`.
        known: the rows that the model was fitted on, from `usable`.

    Raises:
        InputError: a row is of a class that the model cannot name.
    """
    names = facts["classes"]
    unknown = [name for i, name in enumerate(task.classes) if name not in names and i in task.y]
    if unknown:
        raise InputError(
            f"{(task.y == task.classes.index(unknown[0])).sum()} rows are of class "
            f"{unknown[0]!r}, which the model was not trained on: it knows {', '.join(names)}; "
            "leave these rows out, or apply a model of all classes"
        )
    number = np.array([names.index(name) if name in names else -1 for name in task.classes])
    return replace(task, y=number[task.y], classes=names)


def _labels(paths):
    labels = store.load(paths)
    for path in paths:
        header = store.open(path).header
        if header.get("what") != "labels":
            raise InputError(f"{path}: holds {header.get('what')!r}, expected labels")
        if header["classes"] != labels.header["classes"]:
            raise InputError(
                f"{path}: classes {header['classes']}, but {paths[0]} has "
                f"{labels.header['classes']}; render both again with one configuration"
            )
    return labels
