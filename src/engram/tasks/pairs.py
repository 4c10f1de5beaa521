"""Which picture was seen? Test rows are told apart among all test pictures by their features.

Training pictures and test pictures are apart by the published split; choices are made on
held-out training concepts.  Test rows are compared with the test pictures once, at the end.
"""

import numpy as np

from engram.errors import InputError
from engram.measures import copies
from engram.splits import Fold
from engram.store import Rows
from engram.tasks import epochs
from engram.training import Run, Task

#: What the plan reads without importing this module; see `engram.tasks`.
TARGETS = "features"
FOLDS = {
    "within": "new pictures, a known subject",
    "pooled": "new pictures, known subjects, one model for all",
    "leave_one_subject_out": "new pictures, new subjects",
}
FIGURES = {
    "retrieval": "retrieval.svg",
    "repetitions": "repetitions.svg",
    "training": "training.svg",
    "importance": "importance.svg",
    "gallery": "gallery.png",
}
SHOWS = "y"
PROBED = None
MAPPED = False
COMPARED = False
OCCLUDED = True
MEMORY_MB = 16_000
RUNTIME = "12h"

VALIDATION_CONCEPTS = 74
KEPT = "all training and validation pictures, test pictures unseen; a model a subject if `within`"


def load(x, y, experiment) -> tuple[Task, dict]:
    """Epochs of all subjects, read when asked for, and the features of the pictures.

    Runs are the seeds of the experiment and one control, for whom the pictures of training
    rows, of validation rows and of test rows are exchanged within each of these.

    Args:
        x: {source: paths} of epoch stores; float (n, channel, time), with columns split,
            subject, concept, stimulus (a row of the features) and exclude. Test rows of one
            stimulus are repetitions, and averaged.
        y: {source: paths} of image features, each (m, d); several stand side by side.
        experiment: dict with folds (a name of `FOLDS`, or {"kind": name,
            "validation_concepts": how many training concepts choose}) and seeds.

    Raises:
        InputError: a picture that was shown has no features, training and test share pictures,
            or there is nothing to train on or to test.
    """
    pictures = epochs.pictures(y)
    read = {source: epochs.Epochs(paths) for source, paths in x.items()}
    first = next(iter(read.values()))
    for source, other in read.items():
        if list(other.table.index) != list(first.table.index):
            raise InputError(f"{source}: has other rows than {next(iter(read))}; render both again")
    table = first.table
    seen = _pictures_of(table, pictures, next(iter(x.values()))[0])
    how = experiment.get("folds", next(iter(FOLDS)))
    kind = how["kind"] if isinstance(how, dict) else how
    held = how.get("validation_concepts") if isinstance(how, dict) else None
    folds = _folds(table, kind, VALIDATION_CONCEPTS if held is None else held)
    for fold in folds:
        _refuse_shared(table, fold, pictures)
    seeds = range(experiment.get("seeds", 3))
    runs = [Run(seed, False, seen) for seed in seeds]
    runs.append(Run(0, True, np.stack([_exchanged(table, seen, fold) for fold in folds])))
    task = Task(
        x=list(read.values()),
        sources=list(read),
        headers=[one.header for one in read.values()],
        y=seen,
        classes=[str(name) for name in pictures.table.index],
        table=table,
        folds=folds,
        runs=runs,
        targets=pictures.features,
        choices=pictures.shown,
        facts={
            "counts": first.counts,
            "near_copies": _near_copies(pictures, seen),
            "shared": kind != "within",  # models of subjects, trained on each other's trials
            # of one subject, trained on that subject's trials
            "attainable": first.header.get("attainable") if kind == "within" else None,
        },
    )
    return task, first.excluded


def predictions(outputs, task, header) -> list[Rows]:
    """Similarity of every test row to every candidate, float32 (n, runs, candidates).

    Args:
        outputs: (tested, runs, candidates), as `engram.training.Fit` has them.
        task: from `load`.
        header: what all tasks write.
    """
    columns = ["subject", "concept", "stimulus", "fewer"]
    table = task.table.iloc[task.tested][columns].assign(fold=task.tested_by)
    candidates = [task.classes[i] for i in task.choices]
    return [Rows(outputs, table, header | {"candidates": candidates})]


def kept(task) -> list[Fold]:
    """On what the models kept for use are fitted: all pictures but those of the test.

    Those stay unseen, so that they can be a gallery. There is a model a subject where folds are
    `within` one, else one on all subjects.
    """
    subject, none = task.table["subject"].to_numpy(str), np.zeros(0, int)
    within = all(
        {*subject[fold.train]} == {*subject[fold.test]} and len({*subject[fold.test]}) == 1
        for fold in task.folds
    )
    if within:
        return [Fold(fold.name, fold.known, none, none) for fold in task.folds]
    return [Fold("all", np.unique(np.concatenate([f.known for f in task.folds])), none, none)]


# ---- rows -------------------------------------------------------------------------------


def _pictures_of(table, pictures, path):
    """The picture that each row shows, int (n,)."""
    seen = pictures.table.index.get_indexer(table["stimulus"])
    if (seen < 0).any():
        raise InputError(
            f"{path}: {(seen < 0).sum()} rows show pictures without features, first "
            f"{table['stimulus'][seen < 0].iloc[0]}; extract the features of every picture"
        )
    return seen


def _near_copies(pictures, seen):
    """Pictures of training and test that are nearly the same; see `engram.measures.copies`."""
    shown = np.unique(seen)
    table = pictures.table.iloc[shown]
    return copies.of_pictures(
        np.concatenate(pictures.features, axis=1)[shown],
        table["concept"].to_numpy(str),
        (table["split"] == "test").to_numpy(),
        table.index.to_numpy(str),
        np.random.default_rng(0),
    )


def _folds(table, kind, held):
    """Folds whose validation rows are `held` training concepts."""
    subject, split = table["subject"].to_numpy(str), table["split"].to_numpy(str)
    subjects = list(dict.fromkeys(subject))
    every = np.ones(len(table), bool)
    sides = {
        "within": [(s, subject == s, subject == s) for s in subjects],
        "pooled": [("pooled", every, every)],
        "leave_one_subject_out": [(s, subject != s, subject == s) for s in subjects],
    }.get(kind)
    if sides is None or (kind == "leave_one_subject_out" and len(subjects) < 2):
        raise InputError(
            f"folds: {kind!r} with {len(subjects)} subjects; use within, pooled or, with two "
            "subjects or more, leave_one_subject_out"
        )
    folds = []
    for name, trains, tests in sides:
        train = np.flatnonzero(trains & (split == "train"))
        test = np.flatnonzero(tests & (split == "test"))
        for side, rows in (("train", train), ("test", test)):
            if not len(rows):
                raise InputError(f"fold {name}: no usable row of split {side!r}")
        validates = _held_out(table["concept"].iloc[train], held)
        folds.append(Fold(name, train[~validates], train[validates], test))
    return folds


def _held_out(concepts, wanted):
    """Which rows are of the concepts that validate, a fifth of all at most; bool (n,)."""
    concept = concepts.factorize()[0]
    n = concept.max() + 1
    chosen = np.random.default_rng(0).permutation(n)[: min(wanted, n // 5)]
    return np.isin(concept, chosen)


def _refuse_shared(table, fold, pictures):
    train, test = table.iloc[np.concatenate([fold.train, fold.validation])], table.iloc[fold.test]
    for what in ("stimulus", "concept"):
        shared = set(train[what]) & set(test[what])
        if shared:
            raise InputError(
                f"{what} {min(shared)} stands in training and in test; retrieval is of pictures "
                "that were never seen"
            )
    names = pictures.table.index
    unknown = set(pictures.table["split"][names.isin(test["stimulus"])]) - {"test"}
    if unknown:
        raise InputError("a picture of a test row is not of split 'test' among the pictures")


def _exchanged(table, seen, fold):
    """Pictures exchanged among training rows, validation rows and test rows, int (n,).

    All rows that one subject has of a picture get the same one in its place.
    """
    rng, moved = np.random.default_rng(0), seen.copy()
    for part in (fold.train, fold.validation, fold.test):
        own = table.iloc[part]
        groups = own.groupby(["subject", "stimulus"], sort=False, observed=True).ngroup().to_numpy()
        _, first = np.unique(groups, return_index=True)
        moved[part] = rng.permutation(seen[part][first])[groups]
    return moved
