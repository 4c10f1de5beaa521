"""Which vector belongs to each row? Features of what was shown from responses, or the reverse.

Every subject has its own voxels, so that models are of one subject, whose rows are read when they
are asked for. Training and test stimuli are apart by the published split. What is predicted of the
test stimuli is stored as it is; the latents are the same with the mean and spread of the targets.
"""

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError
from engram.splits import Fold
from engram.store import Rows
from engram.tasks import linked
from engram.training import Run, Task, ridge

#: What the plan reads without importing this module; see `engram.tasks`.
TARGETS = "features"
FOLDS = {"within": "new pictures, a known subject"}
FIGURES = {"subjects": "subjects.svg", "targets": "targets.svg"}
SHOWS = None
PROBED = "y"
MAPPED = False
COMPARED = False
OCCLUDED = False
MEMORY_MB = 8_000
RUNTIME = "12h"

KEPT = "the model of each subject, fitted on its training and validation images"
REFITTED = False  # the folds leave out no subject

VALIDATION = 5  # one stimulus of so many validates, for heads that need it


def load(x, y, experiment) -> tuple[Task, dict]:
    """The responses of all subjects in folds, one a subject, and the vectors of each.

    Runs are the seeds of the experiment and one control, for whom the stimuli of training rows, of
    validation rows and of test rows are exchanged within each of these.

    Args:
        x: {source: [path, ...]}; y: one source likewise. Either is responses, a store a subject,
            with columns subject, split, stimulus and exclude, the other knows of the stimuli.
        experiment: dict with folds, `within`, and seeds (1).

    Returns:
        Task whose x are `linked.Linked`; its `y` is the row among `targets`, `linked.Linked` too,
        that belongs to each row; and {reason: rows left out}.

    Raises:
        InputError: see `linked.sides`; or a subject lacks rows of a split, or stimuli are in both.
    """
    how = experiment.get("folds", "within")
    how = how["kind"] if isinstance(how, dict) else how
    if how not in FOLDS:
        raise InputError(f"folds: {how!r}; subjects differ in their voxels: use within")
    both = linked.sides(x, y)
    folds = _folds(both.table)
    seeds = experiment.get("seeds", 1)
    runs = [Run(seed, False, both.target) for seed in range(seeds)]
    runs.append(Run(0, True, _exchanged(both.table, both.target, folds)))
    task = Task(
        x=list(both.x.values()),
        sources=list(both.x),
        headers=[both.headers[name] for name in both.x],
        y=both.target,
        classes=[],
        table=both.table,
        folds=folds,
        runs=runs,
        targets=[both.y],
        facts=_facts(both),
    )
    return task, both.excluded


def predictions(outputs, task, header) -> list[Rows]:
    """What is predicted, float32 (n, runs, width), and behind it what is known without any model.

    The column `statistic` is "" of tested rows. Behind them stand, of every fold, the mean and the
    standard deviation of each target over its training and validation rows, "mean" and "sd". Where
    subjects have targets of their own number, rows end with zeros; the header has `widths`.

    Args:
        outputs: (tested, runs, width), as `engram.training.Fit` has them.
        task: from `load`.
        header: what all tasks write.
    """
    columns = ["subject", "split", "concept", "stimulus"]
    table = task.table.iloc[task.tested][columns].assign(fold=task.tested_by, statistic="")
    behind = np.zeros((2 * len(task.folds), *outputs.shape[1:]), np.float32)
    facts = []
    for f, fold in enumerate(task.folds):
        y = task.targets[0].of(task.y[fold.known])
        for i, values in enumerate(ridge.moments(y, np.arange(len(fold.known)))):
            behind[2 * f + i, :, : len(values)] = values
        facts += [{"subject": fold.name, "fold": fold.name, "statistic": s} for s in ("mean", "sd")]
    names = [f"{one['fold']}/{one['statistic']}" for one in facts]
    facts = pd.DataFrame(facts, index=names).reindex(columns=table.columns, fill_value="")
    return [Rows(outputs, table, header), Rows(behind, facts, header)]


def kept(task) -> list[Fold]:
    """On what the models kept for use are fitted, which are those of the folds."""
    none = np.zeros(0, int)
    return [Fold(fold.name, fold.known, none, none) for fold in task.folds]


# ---- rows -------------------------------------------------------------------------------


def _folds(table):
    subject, split = table["subject"].to_numpy(str), table["split"].to_numpy(str)
    folds = []
    for name in dict.fromkeys(subject):
        train, test = (
            np.flatnonzero((subject == name) & (split == part)) for part in ("train", "test")
        )
        for part, rows in (("train", train), ("test", test)):
            if not len(rows):
                raise InputError(f"subject {name}: no usable row of split {part!r}")
        stimuli = table["stimulus"].iloc[train].factorize()[0]
        shared = set(table["stimulus"].iloc[train]) & set(table["stimulus"].iloc[test])
        if shared:
            raise InputError(f"subject {name}: {min(shared)} stands in training and in test")
        order = np.random.default_rng(0).permutation(stimuli.max() + 1)
        held = np.isin(stimuli, order[: len(order) // VALIDATION])
        folds.append(Fold(str(name), train[~held], train[held], test))
    return folds


def _exchanged(table, target, folds):
    """Targets exchanged among the stimuli of each part of each fold, int (n,)."""
    rng, moved = np.random.default_rng(0), target.copy()
    for fold in folds:
        for rows in (fold.train, fold.validation, fold.test):
            stimulus = table["stimulus"].iloc[rows].factorize()[0]
            _, first = np.unique(stimulus, return_index=True)
            moved[rows] = rng.permutation(target[rows][first])[stimulus]
    return moved


def _facts(both):
    """What scores and decoders should know beside, JSON-able."""
    (of_y,) = (both.headers[name] for name in both.headers if name not in both.x)
    subjects = [str(one.table["subject"].iloc[0]) for one in both.responses]
    widths = both.y.widths if not both.decodes else both.y.widths[:1] * len(subjects)
    return {
        "decodes": both.decodes,
        **{key: both.responses[0].header.get(key) for key in ("protocol", "zscore")},
        "widths": dict(zip(subjects, widths, strict=True)),
        "target": store.stated(of_y),
        "attainable": _attainable(both, subjects, of_y) if both.decodes else None,
    }


def _attainable(both, subjects, of_y):
    """What a simulation expects of each subject, where the targets are the code that it knows."""
    headers = [one.header for one in both.responses]
    code = headers[0].get("code")
    if not code or any(of_y.get(key) != code[key] for key in code):
        return None
    return {
        subject: header["attainable"][header["protocol"]]
        for subject, header in zip(subjects, headers, strict=True)
    }
