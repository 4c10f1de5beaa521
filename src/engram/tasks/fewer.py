"""Learning curves: the head fitted again with fewer training subjects in every fold.

What these models predict stands in columns of its own beside the predictions, `fewer_{subjects}_
{seed}_{output}`, and never among the runs: no reader of runs meets it.
"""

import zlib
from dataclasses import replace

import numpy as np

from engram.errors import InputError
from engram.store import Rows

DRAWS = 1000  # orders of subjects, among which the first is taken whose beginning has every class


def orders(task, sizes) -> dict[int, list[np.ndarray]]:
    """Training subjects of every fold in random order, by seed.

    A model of some takes the first of them, so that those of 2 are among those of 4.

    Args:
        task: Task with all its folds and runs.
        sizes: numbers of training subjects.

    Raises:
        InputError: a fold does not train on more subjects, or no such number of its subjects
            has every class.
    """
    seeds = [run.seed for run in task.runs if not run.shuffled]
    return {s: [_order(task, fold, sorted(sizes), s) for fold in task.folds] for s in seeds}


def beside(predicted, fit, task, sizes, orders) -> Rows:
    """Predictions with those of models of fewer subjects beside them.

    Validation and test rows stay as they are.

    Args:
        predicted: Rows of what was tested, see `engram.tasks`.
        fit: gives of a task the outputs (tested, runs, k) of the chosen candidates.
        task, sizes: as of `orders`.
        orders: what that gives.

    Returns:
        Rows, whose header has `fewer`: sizes, ascending; columns, of each of them for every seed
        the names of its columns; all, the training subjects of the smallest fold; validation, the
        most that validate.
    """
    sizes, columns, names = sorted({*sizes}), {}, []
    runs = [run for run in task.runs if not run.shuffled]
    for size in sizes:
        names.append([])
        for run in runs:
            folds = [
                _with(task, fold, order[:size])
                for fold, order in zip(task.folds, orders[run.seed], strict=True)
            ]
            outputs = fit(replace(task, folds=folds, runs=[run]))[:, 0]
            own = {f"fewer_{size}_{run.seed}_{i}": one for i, one in enumerate(outputs.T)}
            names[-1].append([*own])
            columns |= own
    subjects = task.table["subject"].to_numpy(str)
    counts = [[len(np.unique(subjects[at])) for at in (f.train, f.validation)] for f in task.folds]
    fewer = {
        "sizes": sizes,
        "columns": names,
        "all": min(train for train, _ in counts),
        "validation": max(validation for _, validation in counts),
    }
    table = predicted.table.assign(**columns)
    return Rows(predicted.array, table, predicted.header | {"fewer": fewer})


def _order(task, fold, sizes, seed):
    """Training subjects of a fold in random order, the first of which have every class."""
    subjects = task.table["subject"].to_numpy(str)
    own = np.unique(subjects[fold.train])
    if sizes[-1] >= len(own):
        raise InputError(
            f"fold {fold.name} trains on {len(own)} subjects: `train_subjects` of the experiment "
            f"has {sizes[-1]}; leave out what is not fewer"
        )
    rng = np.random.default_rng([seed, zlib.crc32(fold.name.encode())])
    classes = np.unique(task.y[fold.train]) if task.classes else []
    for _ in range(DRAWS):
        order = rng.permutation(own)
        few = np.isin(subjects, order[: sizes[0]])
        few &= np.isin(np.arange(len(few)), fold.train)
        if not len(np.setdiff1d(classes, task.y[few])):
            return order
    raise InputError(
        f"fold {fold.name}: no {sizes[0]} of its training subjects have every class; raise the "
        "least of `train_subjects` of the experiment"
    )


def _with(task, fold, subjects):
    kept = np.isin(task.table["subject"].to_numpy(str)[fold.train], subjects)
    return replace(fold, train=fold.train[kept])
