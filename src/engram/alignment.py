"""Stage `align`: EEG encoders trained against image features, and how close they come.

Training pictures and test pictures are apart by the published split; the epoch is chosen on
held-out training concepts.  Test rows are compared with the test pictures once, at the end.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from engram import components, store
from engram.contrastive import Rows as Task
from engram.contrastive import similarity
from engram.errors import InputError
from engram.recording import Rows

DEFAULT_SEEDS = 3
TIME_WINDOWS = 20  # pieces of the epoch that are set to zero in turn
PROTOCOLS = {
    "validation": "clean: epochs chosen on held-out training concepts",
    "test": "published: epochs chosen on the test pictures",
}


def align(x, y, model, predictions, spec, made_by, device):
    """Train every fold and run of a retrieval experiment, and compare test rows with pictures.

    Runs are the seeds of the experiment and one control, trained on pairs that are shuffled.
    Folds: `within` trains one model a subject, `pooled` one for all, `leave_one_subject_out`
    one for each subject on all others.

    Args:
        x: paths of the epoch stores, one a subject; float (n, channel, time), with columns
            split, concept, stimulus (a row of the targets) and exclude.
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
    pictures = _pictures(y)
    seeds = list(range(spec["experiment"].get("seeds", DEFAULT_SEEDS)))
    subjects = {path: _subject(path) for path in x}
    found, tensors = [], {}
    for name, trained, tested in _folds(subjects, spec["experiment"].get("folds", "within")):
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
        "importance": _merged([fold.importance for fold in found]),
        "attainable": found[0].header.get("attainable"),
        "made_by": made_by,
    }
    rows = Rows(
        np.concatenate([fold.similarity for fold in found]),
        pd.concat([fold.table for fold in found]),
        header,
    )
    store.write(predictions, rows)
    with store.replaced(model) as temporary:
        facts = {key: header[key] for key in ("runs", "protocol", "sources", "made_by")}
        save_file(tensors, temporary, {"engram": store.canonical(facts | {"spec": spec})})


# ---- what is compared -----------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """Image features by name.

    Attributes:
        features: one array (m, d) an image encoder.
        table: m rows with columns split and concept.
        random_weights: whether an encoder knows nothing.
    """

    features: list
    table: pd.DataFrame
    random_weights: bool

    @property
    def candidates(self) -> list[str]:
        """Names of the test pictures, in the order of the columns of every similarity."""
        return [str(name) for name in self.table.index[self.table["split"] == "test"]]


def _pictures(y):
    loaded = [store.load(paths) for paths in y.values()]
    at = store.align(*(rows.table for rows in loaded))
    features = [
        rows.array[i].reshape(len(i), -1).astype(np.float32)
        for rows, i in zip(loaded, at, strict=True)
    ]
    table = loaded[0].table.iloc[at[0]]
    random = any(rows.header.get("weights") == "random" for rows in loaded)
    return Pictures(features, table, random)


def _subject(path):
    subjects = store.open(path).table["subject"].unique()
    if len(subjects) != 1:
        raise InputError(f"{path}: holds {len(subjects)} subjects; one a store is expected")
    return subjects[0]


def _folds(subjects, how):
    """(name, paths to train on, paths to test on) of each fold."""
    kind = how["kind"] if isinstance(how, dict) else how
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


# ---- one fold -------------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """What came out of a fold; see `align`."""

    similarity: np.ndarray
    table: pd.DataFrame
    curves: list
    chosen: list
    importance: dict
    tensors: dict
    header: dict


def _fold(name, trained, tested, pictures, options, module, seeds, device):
    rows = _usable(trained, "train", pictures)
    test = _usable(tested, "test", pictures)
    _refuse_shared(rows, test, pictures)
    task = _task(rows, test, pictures, options)
    eeg = rows.array if options.select_on == "validation" else _joined(rows, test)
    models = module.fit(eeg, pictures.features, task, options, seeds, device, _shuffled(task))
    shown = np.flatnonzero((pictures.table["split"] == "test").to_numpy())
    targets = [features[shown] for features in pictures.features]
    found = np.stack([similarity(model, test.array, targets) for model in models], 1)
    flags = [False] * len(seeds) + [True]
    return Fold(
        similarity=found.astype(np.float32),
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
        importance=_importance(models[0], test, targets, pictures.candidates),
        tensors={
            f"{name}/{model.seed}/{key}": value
            for model, shuffled in zip(models, flags, strict=True)
            if not shuffled
            for key, value in model.state().items()
        },
        header=test.header,
    )


def _usable(paths, split, pictures):
    """Rows of one split that are not excluded, with the position of their picture."""
    rows = store.load(paths)
    used = (rows.table["split"] == split) & (rows.table["exclude"] == "")
    table = rows.table[used]
    if not len(table):
        raise InputError(f"{paths[0]}: no usable row of split {split!r}")
    picture = pictures.table.index.get_indexer(table["stimulus"])
    if (picture < 0).any():
        lost = table["stimulus"][picture < 0].iloc[0]
        raise InputError(
            f"{paths[0]}: {(picture < 0).sum()} rows show pictures without features, first "
            f"{lost}; extract the features of every picture"
        )
    return Rows(rows.array[used.to_numpy()], table.assign(picture=picture), rows.header)


def _refuse_shared(rows, test, pictures):
    names = pictures.table.index
    for what in ("stimulus", "concept"):
        shared = set(rows.table[what]) & set(test.table[what])
        if shared:
            raise InputError(
                f"{what} {min(shared)} stands in training and in test; retrieval is of pictures "
                "that were never seen"
            )
    unknown = set(pictures.table["split"][names.isin(test.table["stimulus"])]) - {"test"}
    if unknown:
        raise InputError("a picture of a test row is not of split 'test' among the pictures")


def _task(rows, test, pictures, options):
    """Which rows train and which choose the epoch: held-out concepts, or the test rows."""
    concept = rows.table["concept"].factorize()[0]
    image = rows.table["picture"].to_numpy()
    if options.select_on == "test":
        every = np.arange(len(rows.table) + len(test.table))
        n = len(rows.table)
        other = concept.max() + 1 + test.table["concept"].factorize()[0]
        return Task(
            np.concatenate([image, test.table["picture"]]),
            every[:n],
            every[n:],
            np.concatenate([concept, other]),
        )
    n = concept.max() + 1
    held = min(options.validation_concepts, n // 5)
    chosen = np.random.default_rng(0).permutation(n)[:held]
    validates = np.isin(concept, chosen)
    return Task(image, np.flatnonzero(~validates), np.flatnonzero(validates), concept)


def _joined(rows, test):
    return np.concatenate([rows.array, test.array])


def _shuffled(task):
    """Pictures exchanged among training rows, and among validation rows."""
    rng, image = np.random.default_rng(0), task.image.copy()
    for rows in (task.train, task.validation):
        image[rows] = rng.permutation(image[rows])
    return image


# ---- what the encoder looks at --------------------------------------------------------


def _importance(model, test, targets, candidates):
    """Top-1 of each subject after a piece of time, or a channel, was set to zero."""
    truth = pd.Index(candidates).get_indexer(test.table["stimulus"])
    subjects = test.table["subject"].to_numpy()

    def top1(eeg):
        best = similarity(model, eeg, targets).argmax(1) == truth
        return {str(s): float(best[subjects == s].mean()) for s in np.unique(subjects)}

    def without(cut):
        eeg = test.array.copy()
        eeg[:, *cut] = 0
        return top1(eeg)

    n_channels, n_times = test.array.shape[1:]
    edges = np.linspace(0, n_times, min(TIME_WINDOWS, n_times) + 1).astype(int)
    times = np.asarray(test.header["times"], float)
    windows = [without((slice(None), slice(a, b))) for a, b in itertools.pairwise(edges)]
    channels = [without((c, slice(None))) for c in range(n_channels)]
    return {
        "full": top1(test.array),
        "time": {
            "starts": [float(times[a]) for a in edges[:-1]],
            "width": float((times[-1] - times[0]) / max(n_times - 1, 1) * n_times / len(windows)),
            "top1": _by_subject(windows),
        },
        "channel": {"names": list(test.header["channels"]), "top1": _by_subject(channels)},
    }


def _by_subject(found):
    return {subject: [one[subject] for one in found] for subject in found[0]}


def _merged(parts):
    """Subjects of all folds in one."""
    merged = parts[0]
    for part in parts[1:]:
        merged["full"] |= part["full"]
        for kind in ("time", "channel"):
            merged[kind]["top1"] |= part[kind]["top1"]
    return merged
