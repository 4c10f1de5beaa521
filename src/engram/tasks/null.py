"""The null of an experiment: the whole of its training again, on labels moved along their scans.

With the folds, the inputs and the choices of the experiment: the score of the labels as they are,
among those of moved ones, is an exact permutation test (Phipson & Smyth 2010), which predictions
that stay fixed under moved labels are not. Folds that deal out subjects by their labels would be
others for moved ones, so that labels move only where each fold keeps as many subjects of each kind.
"""

from dataclasses import replace

import numpy as np

from engram.measures.inference import arrangements
from engram.store import Rows
from engram.training import Run

SEED = 0


def refitted(head, options, kind, task, candidates, device, header) -> Rows:
    """What models say that were trained on moved labels.

    Args:
        head, options: module and options of the head; `refits(task, options)`, if it has one, says
            on how many series it can be trained again.
        kind: module of the task; its `null(outputs, task)` says what is kept of every series,
            its `strata(y, table)` by what groups of subjects are dealt out to folds.
        task: Task with its folds.
        candidates: the sources of each input; every series takes, in every fold, the one with its
            best validation score.
        device: "cpu" or "cuda".
        header: of the predictions.

    Returns:
        The tested rows, (n, series, k); without rows where the head is not trained again.
    """
    n = 0
    if hasattr(head, "refits") and hasattr(kind, "null") and _moves(task):
        n = min(head.refits(task.of(sources), options) for sources in candidates)
    facts = {"what": "null", **{key: header[key] for key in ("task", "made_by")}}
    if not n:
        return Rows(np.zeros((0, 0, 1), np.float32), task.table.iloc[:0][["subject"]], facts)
    random, dealt = np.random.default_rng(SEED), _dealt(task, kind)
    labels = arrangements(task.y, task.table, n, random, dealt).astype(task.y.dtype)
    moved = replace(task, runs=[Run(0, False, y) for y in labels])
    fits = [head.fit(moved.of(sources), options, device) for sources in candidates]
    best = np.argmax([fit.validation for fit in fits], axis=0)
    outputs = fits[0].outputs.copy()
    for fold, chosen in zip(task.folds, best, strict=True):
        rows = np.searchsorted(task.tested, fold.test)
        for i, fit in enumerate(fits):
            at = np.ix_(rows, np.flatnonzero(chosen == i))
            outputs[at] = fit.outputs[at]
    table = task.table.iloc[task.tested][["subject"]].assign(fold=task.tested_by)
    return Rows(kind.null(outputs, moved), table, facts)


def _dealt(task, kind):
    """(stratum, fold) of each row where folds were made of groups of subjects, else nothing.

    Of a single subject to a fold nothing is dealt out, nor of time blocks.
    """
    subjects, folds = task.table["subject"].to_numpy(str), np.zeros(len(task.table), int)
    for number, fold in enumerate(task.folds):
        folds[fold.test] = number
    tested = [set(subjects[fold.test]) for fold in task.folds]
    grouped = sum(map(len, tested)) == len(set().union(*tested)) > len(tested)
    return (kind.strata(task.y, task.table), folds) if grouped else ()


def _moves(task):
    """Whether what is scored moves: where numbers of a subject differ between scans it does not."""
    if task.classes:
        return True
    table = task.table.assign(y=task.y)
    within = (table.groupby(["subject", "scan"])["y"].nunique() > 1).any()
    return bool(within or (table.groupby("subject")["y"].nunique() == 1).all())
