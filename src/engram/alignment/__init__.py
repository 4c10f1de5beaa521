"""Stage `align`: EEG encoders trained against image features, and how close they come.

Training pictures and test pictures are apart by the published split; the epoch is chosen on
held-out training concepts.  Test rows are compared with the test pictures once, at the end.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from engram import store
from engram.alignment import rows
from engram.alignment.importance import importance, merged
from engram.contrastive import Rows as Task
from engram.contrastive import similarity
from engram.errors import InputError
from engram.measures import ranking
from engram.planning import components
from engram.store import Rows

DEFAULT_SEEDS = 3
PROTOCOLS = {"validation": "clean", "test": "published"}  # by what the epoch is chosen on


def align(x, y, model, predictions, spec, made_by, device):
    """Train every fold and run of a retrieval experiment, and compare test rows with pictures.

    Runs are the seeds of the experiment and one control, trained on pairs that are shuffled.
    Folds: `within` trains one model a subject, `pooled` one for all, `leave_one_subject_out`
    one for each subject on all others.

    Args:
        x: paths of the epoch stores, one a subject; float (n, channel, time), with columns
            split, concept, stimulus (a row of the targets) and exclude. Test rows of one
            stimulus are repetitions, and averaged; training rows are so under `sub_average`.
        y: {source: paths} of the image features, each (m, d); several stand side by side.
        model, predictions: paths to write: safetensors; a store float32 (n, runs, m) of the
            similarity of every test row to every test picture.
        spec: dict with `experiment` (folds, seeds, ...) and `head` (kind and options).
        made_by: provenance of the job.
        device: "cpu" or "cuda".

    Raises:
        InputError: a picture that was shown has no features, training and test share pictures,
            or there is nothing to train on.
    """
    module, options = components.options("heads", spec["head"])
    if options.select_on not in PROTOCOLS:
        raise InputError(f"head: select_on is {options.select_on!r}; use validation or test")
    if options.select_on == "test" and options.sub_average:
        raise InputError("head: sub_average needs `select_on: validation`; leave one of them out")
    pictures = rows.pictures(y)
    seeds = list(range(spec["experiment"].get("seeds", DEFAULT_SEEDS)))
    subjects = {path: _subject(path) for path in x}
    found, tensors = [], {}
    folds = spec["experiment"].get("folds", "within")
    for name, trained, tested in _folds(subjects, folds):
        fold = _fold(name, trained, tested, pictures, options, module, seeds, device)
        found.append(fold)
        tensors |= fold.tensors
    runs = [{"seed": s, "shuffled": False} for s in seeds] + [{"seed": 0, "shuffled": True}]
    header = {
        "what": "similarities",
        "candidates": pictures.candidates,
        "runs": runs,
        "protocol": PROTOCOLS[options.select_on],
        "leaks": options.select_on == "test",
        "simulated": bool(found[0].header.get("simulated")),
        "random_weights": pictures.random_weights,
        "sources": [*y],
        "curves": [row for fold in found for row in fold.curves],
        "chosen": [row for fold in found for row in fold.chosen],
        "importance": merged([fold.importance for fold in found]),
        "repetitions": _merged_repetitions([fold.repetitions for fold in found]),
        # of one subject, trained on that subject's trials
        "attainable": found[0].header.get("attainable") if _kind(folds) == "within" else None,
        "made_by": made_by,
    }
    scored = Rows(
        np.concatenate([fold.similarity for fold in found]),
        pd.concat([fold.table for fold in found]),
        header,
    )
    store.write(predictions, scored)
    with store.replaced(model) as temporary:
        facts = {key: header[key] for key in ("runs", "protocol", "sources", "made_by")}
        save_file(tensors, temporary, {"engram": store.canonical(facts)})


def _subject(path):
    subjects = store.open(path).table["subject"].unique()
    if len(subjects) != 1:
        raise InputError(f"{path}: holds {len(subjects)} subjects; one a store is expected")
    return subjects[0]


def _folds(subjects, how):
    """(name, paths to train on, paths to test on) of each fold."""
    kind = _kind(how)
    paths = list(subjects)
    if kind == "within":
        return [(subjects[path], [path], [path]) for path in paths]
    if kind == "pooled":
        return [("pooled", paths, paths)]
    if kind == "leave_one_subject_out" and len(paths) > 1:
        return [(subjects[p], [other for other in paths if other != p], [p]) for p in paths]
    raise InputError(
        f"folds: {kind!r} with {len(paths)} subjects; use within, pooled or, with two subjects "
        "or more, leave_one_subject_out"
    )


def _kind(folds):
    return folds["kind"] if isinstance(folds, dict) else folds


# ---- one fold -------------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """What came out of a fold; see `align`."""

    similarity: np.ndarray
    table: pd.DataFrame
    curves: list
    chosen: list
    importance: dict
    repetitions: dict
    tensors: dict
    header: dict


def _fold(name, trained, tested, pictures, options, module, seeds, device):
    train = rows.usable(trained, "train", pictures)
    train = rows.with_repetitions(train) if options.sub_average else train
    test_epochs = rows.usable(tested, "test", pictures)
    _refuse_shared(train.table, test_epochs.table, pictures)
    test = rows.averages(test_epochs)
    task = _task(train.table, test.table, pictures, options)
    eeg = train if options.select_on == "validation" else rows.Joined(train, test.array)
    size = np.prod(eeg.shape) * 4 / 2**30
    print(f"fold {name}: {eeg.shape[0]} epochs, at most {size:.2f} GiB in memory")
    control = _shuffled(task)
    models = module.fit(eeg, pictures.features, task, options, seeds, device, control)
    targets = [features[pictures.shown] for features in pictures.features]
    subject = _known(test.table["subject"], train.table["subject"])
    flags = [False] * len(seeds) + [True]
    top1 = _top1(models[0], test.table, targets, pictures.candidates, subject)
    found = [similarity(model, test.array, targets, subject) for model in models]
    return Fold(
        similarity=np.stack(found, 1).astype(np.float32),
        table=test.table[["subject", "concept", "stimulus"]].assign(fold=name),
        curves=[
            {"fold": name, "shuffled": shuffled, **row}
            for model, shuffled in zip(models, flags, strict=True)
            for row in model.curves.to_dict("records")
        ],
        chosen=[
            {"fold": name, "seed": model.seed, "shuffled": shuffled, "epoch": model.epoch}
            for model, shuffled in zip(models, flags, strict=True)
        ],
        importance=importance(top1, test.array, test_epochs.source.header),
        repetitions=_over_repetitions(
            models[: len(seeds)], test, targets, pictures.candidates, subject
        ),
        tensors={
            f"{name}/{model.seed}/{key}": value
            for model, shuffled in zip(models, flags, strict=True)
            if not shuffled
            for key, value in model.state().items()
        },
        header=test_epochs.source.header,
    )


def _refuse_shared(train, test, pictures):
    names = pictures.table.index
    for what in ("stimulus", "concept"):
        shared = set(train[what]) & set(test[what])
        if shared:
            raise InputError(
                f"{what} {min(shared)} stands in training and in test; retrieval is of pictures "
                "that were never seen"
            )
    unknown = set(pictures.table["split"][names.isin(test["stimulus"])]) - {"test"}
    if unknown:
        raise InputError("a picture of a test row is not of split 'test' among the pictures")


def _task(train, test, pictures, options):
    """Which rows train and which choose the epoch: held-out concepts, or the test rows."""
    concept = train["concept"].factorize()[0]
    image = train["picture"].to_numpy()
    subject = _known(train["subject"], train["subject"])
    n = concept.max() + 1
    if options.select_on == "test":
        tested = _known(test["subject"], train["subject"])
        every = np.arange(len(train) + len(test))
        return Task(
            np.concatenate([image, test["picture"]]),
            every[: len(train)],
            every[len(train) :],
            np.concatenate([concept, n + test["concept"].factorize()[0]]),
            None if tested is None else np.concatenate([subject, tested]),
        )
    held = min(options.validation_concepts, n // 5)
    chosen = np.random.default_rng(0).permutation(n)[:held]
    validates = np.isin(concept, chosen)
    return Task(image, np.flatnonzero(~validates), np.flatnonzero(validates), concept, subject)


def _known(subjects, trained):
    """Number of each subject among those of training, (n,); None if one was not there."""
    found = pd.Index(trained.unique()).get_indexer(subjects)
    return None if (found < 0).any() else found


def _shuffled(task):
    """Pictures exchanged among training rows, and among validation rows."""
    rng, image = np.random.default_rng(0), task.image.copy()
    for part in (task.train, task.validation):
        image[part] = rng.permutation(image[part])
    return image


# ---- scores that need the model -------------------------------------------------------


def _top1(model, table, targets, candidates, subject):
    """Function of test epochs: the share that finds its picture, by subject."""
    truth = pd.Index(candidates).get_indexer(table["stimulus"])

    def of(eeg):
        best = similarity(model, eeg, targets, subject).argmax(1) == truth
        return _mean_by_subject(best, table)

    return of


def _over_repetitions(models, test, targets, candidates, subject):
    """Top-1 and top-5 of each subject by the number of test repetitions averaged, mean of seeds."""
    truth = pd.Index(candidates).get_indexer(test.table["stimulus"])
    found = {"top1": [], "top5": []}
    for eeg in test.of_count:
        ranks = [ranking.ranks(similarity(m, eeg, targets, subject), truth) for m in models]
        for name, values in found.items():
            hits = np.mean([r <= int(name[3:]) for r in ranks], axis=0)
            values.append(_mean_by_subject(hits, test.table))
    return {
        "counts": test.counts,
        **{name: {s: [one[s] for one in each] for s in each[0]} for name, each in found.items()},
    }


def _mean_by_subject(values, table):
    subjects = table["subject"].to_numpy()
    return {str(s): float(values[subjects == s].mean()) for s in np.unique(subjects)}


def _merged_repetitions(parts):
    """Of all folds in one; counts that all have."""
    counts = sorted(set.intersection(*(set(part["counts"]) for part in parts)))
    return {
        "counts": counts,
        **{
            name: {
                subject: [values[part["counts"].index(count)] for count in counts]
                for part in parts
                for subject, values in part[name].items()
            }
            for name in ("top1", "top5")
        },
    }
