"""Which class has each row? Rows are windows in memory, labels a view of classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from engram import splits, store
from engram.errors import InputError
from engram.store import Rows
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
PROBED = True
MAPPED = True
OCCLUDED = False
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
        InputError: stores share no row, hold values that are not finite or rows without
            class, or the folds are not possible or leak.
    """
    task, excluded = _rows(x, [path for paths in y.values() for path in paths])
    how = experiment.get("folds", next(iter(FOLDS)))
    folds = splits.make(task.table, task.y, how, seed=0)
    splits.check(folds, task.table, task.y, how, task.classes)
    return replace(task, folds=folds, runs=_runs(task, experiment.get("seeds", 3))), excluded


def predictions(outputs, task, header) -> Rows:
    """Out-of-fold probabilities (n, runs, classes).

    The table says of each row its class, its class in the control run, and its fold.

    Args:
        outputs: (tested, runs, classes), as `engram.training.Fit` has them.
        task: from `load`.
        header: what all tasks write.
    """
    moved = next(run.y for run in task.runs if run.shuffled)
    facts = task.table.assign(y=task.y, y_shuffled=moved).iloc[task.tested]
    return Rows(outputs, facts.assign(fold=task.tested_by), header | {"classes": task.classes})


def _runs(task, seeds):
    control = splits.control(task.y, task.table, np.random.default_rng(0))
    return [*(Run(seed, False, task.y) for seed in range(seeds)), Run(0, True, control)]


def _rows(x, y):
    for source, paths in x.items():
        for path in paths:
            if not Path(path).with_suffix("").as_posix().endswith(f"/{source}"):
                raise InputError(f"{path}: the path says that this is no store of {source}")
    labels = _labels(y)
    sources = {source: store.load(paths) for source, paths in x.items()}
    labels = _taken(labels, np.argsort(labels.table.index.to_numpy(dtype=str)))
    at = store.align(labels.table, *(rows.table for rows in sources.values()))
    lacking = _lacking(labels, sources)
    labels, *found = (_taken(r, i) for r, i in zip([labels, *sources.values()], at, strict=True))
    reason = _reasons([labels, *found])
    usable = np.flatnonzero(reason == "")
    if not len(usable):
        raise InputError(f"{y[0]}: no usable row; all are left out: {_counted(reason)}")
    labels, *found = (_taken(rows, usable) for rows in (labels, *found))
    by_source = dict(zip(sources, found, strict=True))
    _check_windows(labels, by_source)
    _check_values(labels, by_source, y[0])
    table = _supported(labels.table, [rows.table for rows in found])
    task = Task(
        x=[rows.array for rows in found],
        sources=list(sources),
        headers=[rows.header for rows in found],
        y=labels.array.astype(int),
        classes=labels.header["classes"],
        table=table,
        folds=[],
        runs=[],
    )
    return task, _counted(np.concatenate([reason, lacking]))


def _supported(table, others):
    """`table` with the seconds that a row rests on in any store, so that none is on both sides."""
    tables = [one for one in (table, *others) if {"start", "stop"} <= {*one.columns}]
    if not tables:
        return table
    return table.assign(
        start=np.min([one["start"].to_numpy() for one in tables], axis=0),
        stop=np.max([one["stop"].to_numpy() for one in tables], axis=0),
    )


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


def _taken(rows, at):
    return Rows(rows.array[at], rows.table.iloc[at], rows.header)


def _lacking(labels, sources):
    """Why rows of the labels stand in no store of a source, one reason a row."""
    reason = np.full(len(labels.table), "", object)
    for source, rows in sources.items():
        absent = ~labels.table.index.isin(rows.table.index)
        reason[absent & (reason == "")] = f"not in {source}"
    return reason[reason != ""]


def _reasons(stores):
    """Why each row is left out, "" if it is not: the first reason that a store gives."""
    reason = np.full(len(stores[0].table), "", object)
    for rows in stores:
        given = rows.table["exclude"].to_numpy(dtype=object)
        reason = np.where(reason == "", given, reason)
    return reason


def _counted(reasons):
    return {str(k): int(n) for k, n in pd.Series(reasons[reasons != ""]).value_counts().items()}


def _check_windows(labels, sources):
    """Rows of one name are of the same seconds."""
    for source, rows in sources.items():
        for column in ("onset", "duration"):
            if column not in labels.table or column not in rows.table:
                continue
            one, other = (r.table[column].to_numpy(float) for r in (rows, labels))
            differs = ~np.isclose(one, other, rtol=0, atol=1e-6)
            if differs.any():
                i = differs.argmax()
                raise InputError(
                    f"{source}: {rows.table.index[i]} has the {column} {one[i]:g} s, but its label "
                    f"{other[i]:g} s; render both with the same `windows`"
                )


def _check_values(labels, sources, path):
    bad = labels.table.index[(labels.array < 0) | (labels.array >= len(labels.header["classes"]))]
    if len(bad):
        raise InputError(f"{path}: row {bad[0]} has no class and gives no reason to exclude it")
    for source, rows in sources.items():
        if rows.array.dtype.kind != "f":
            continue
        finite = np.isfinite(rows.array).reshape(len(rows.array), -1).all(1)
        if not finite.all():
            raise InputError(
                f"{source}: {(~finite).sum()} usable rows hold NaN or infinite values, first "
                f"{rows.table.index[~finite][0]}; correct them, or exclude the rows in the view"
            )
