"""The model that is kept for use: fitted on all subjects, with the choices that the folds made.

A fold's model lacks the subjects that test it, and is what a score is of; for new recordings the
head is fitted once more, on every usable row. Nothing can be chosen then, so that choices are
those of the folds: the input with the best mean validation score, and of each other choice the
median over folds and seeds, of two in the middle the lower one, or, of what has no order, the most
frequent.
"""

import statistics
from collections import Counter
from dataclasses import replace

import numpy as np

from engram.measures import unlike
from engram.splits import Fold

ROWS = "all subjects"
RULE = (
    "fitted again on {}; input: best mean validation score; other choices: median over folds and "
    "seeds"
)


def keeps(head, options) -> bool:
    """Whether a head says something of other rows, and keeps what that needs.

    Its constant `KEEPS`, if it has one, names the option under which it does; the plan reads it.
    """
    asked = not hasattr(head, "KEEPS") or getattr(options, head.KEEPS)
    return bool(asked) and (hasattr(head, "predict") or hasattr(head, "vectors"))


def refit(head, options, kind, task, fits, candidates, device) -> tuple[dict, dict]:
    """Fit a head on all that its task may train on.

    Args:
        head, options: module and options of the head.
        kind: module of the task; its `kept(task)`, if it has one, says on which rows models are
            fitted, one a fold without test rows, and `KEPT` says so in words; else one is, on all
            rows. Where it is not `REFITTED`, the models of the folds are these already.
        task: Task with its folds.
        fits: what the folds gave, one Fit a candidate.
        candidates: the sources of each.
        device: "cpu" or "cuda".

    Returns:
        ({name: array}, facts): parameters `kept/{name}` (models, seeds, ...) and, of each source,
        `familiar/{source}/{name}` of `engram.measures.unlike`, both unless the folds' models are
        kept; and what was chosen.
    """
    seeds = [r for r, run in enumerate(task.runs) if not run.shuffled]
    number = int(np.argmax([fit.validation[:, seeds].mean() for fit in fits]))
    this = task.of(candidates[number])
    folds = kind.kept(task) if hasattr(kind, "kept") else [_everything(task)]
    runs = [task.runs[r] for r in seeds]
    rows = np.unique(np.concatenate([fold.train for fold in folds]))
    subjects = task.table["subject"].to_numpy(str)[rows]
    state, chosen, rule = {}, {}, getattr(kind, "KEPT", ROWS)
    if getattr(kind, "REFITTED", True):
        rule = RULE.format(rule)
        chosen = {
            name: agreed([of_runs[r] for of_runs in values for r in seeds])
            for name, values in fits[number].facts.items()
        }
        fit = head.fit(replace(this, folds=folds, runs=runs, chosen=chosen), options, device)
        state = {f"kept/{name}": values for name, values in fit.state.items()}
        for source, x in zip(this.sources, this.x, strict=True):
            known = unlike.reference(x, subjects, rows)
            state |= {f"familiar/{source}/{name}": value for name, value in known.items()}
    facts = {
        "rule": rule,
        "models": [fold.name for fold in folds],
        "seeds": [run.seed for run in runs],
        "sources": this.sources,
        "candidate": number,
        "chosen": chosen,
        "subjects": sorted({*subjects.tolist()}),
        "subjects_of": {"models": _subjects(task, folds), "folds": _subjects(task, task.folds)},
        "rows": len(rows),
        "rows_of_classes": _counted(task, rows),
    }
    return state, facts


def agreed(values):
    """One choice of many: the median, of two in the middle the lower; or the most frequent."""
    if all(isinstance(value, int | float) for value in values):
        return statistics.median_low(values)
    found = Counter(map(repr, values)).most_common(1)[0][0]
    return next(value for value in values if repr(value) == found)


def _everything(task):
    none = np.zeros(0, int)
    return Fold("all", np.arange(len(task.table)), none, none)


def _subjects(task, folds):
    """Subjects that each fold trains on, in the order of its rows."""
    subjects = task.table["subject"].to_numpy(str)
    return [list(dict.fromkeys(subjects[fold.train].tolist())) for fold in folds]


def _counted(task, rows):
    if not task.classes or task.y.dtype.kind != "i" or task.targets:
        return {}
    counts = np.bincount(task.y[rows], minlength=len(task.classes))
    return dict(zip(task.classes, counts.tolist(), strict=True))
