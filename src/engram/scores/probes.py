"""What else the inputs of an experiment know: the subject, the time, other windows."""

import hashlib

import numpy as np
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import GroupKFold

from engram import store
from engram.errors import InputError
from engram.measures.copies import near_copies
from engram.scores.sample import autocorrelation

DIMS = 512  # of one source
ROWS = 2000  # that a probe is fitted and tested on
BLOCK = 1024  # rows read at once
PENALTIES = np.logspace(0, 5, 6)


def probe(x, table, rng) -> tuple[dict, np.ndarray]:
    """All probes of the inputs of an experiment.

    Args:
        x: paths of the stores of each source, by its name.
        table: the scored rows: subject, scan, window, onset, start, stop.
        rng: Generator, draws the rows of the probes and projects wide features.

    Returns:
        JSON-able dict: subject_identity, time_in_scan, duplicate_windows, near_copies
        and feature_autocorrelation, of all sources side by side; and these reduced inputs,
        float32 (n, d).

    Raises:
        InputError: a scored row is in no store of a source.
    """
    sources = [_read(name, paths, table.index) for name, paths in x.items()]
    features = np.hstack([_standardised(values) for values, _ in sources])
    if features.shape[1] > 2 * DIMS:
        random = rng.standard_normal((features.shape[1], DIMS), dtype=np.float32)
        features = features @ random / np.sqrt(np.float32(features.shape[1]))
    digests = list(zip(*(digests for _, digests in sources), strict=True))
    some = np.sort(rng.permutation(len(table))[:ROWS])
    found = {
        "subject_identity": subject_identity(features[some], table.iloc[some]),
        "time_in_scan": time_in_scan(features[some], table.iloc[some]),
        "duplicate_windows": len(digests) - len(set(digests)),
        "near_copies": near_copies(features, table, rng),
        "feature_autocorrelation": autocorrelation(features, table),
    }
    return found, features


def subject_identity(features, table) -> dict:
    """Can the features tell which subject a window is from?

    A ridge classifier learns on the first half of every scan and is tested on the second;
    training windows that share data with a test window are dropped.

    Args:
        features: (n, d), standardised.
        table: n rows with subject, scan, onset, start and stop.

    Returns:
        balanced_accuracy and chance (1 / subjects); NaN if fewer than two subjects have
        windows in both halves.
    """
    scan = [table["subject"], table["scan"]]
    onset = table["onset"]
    test = onset > onset.groupby(scan).transform("median")
    first = table["start"].where(test).groupby(scan).transform("min")
    train = ~test & (table["stop"] <= first)
    subject = table["subject"].to_numpy()
    both = set(subject[train]) & set(subject[test])
    if len(both) < 2:
        return {"balanced_accuracy": np.nan, "chance": np.nan}
    known = table["subject"].isin(both)
    train, test = (train & known).to_numpy(), (test & known).to_numpy()
    model = RidgeClassifierCV(PENALTIES, class_weight="balanced")
    model.fit(features[train], subject[train])
    score = balanced_accuracy_score(subject[test], model.predict(features[test]))
    return {"balanced_accuracy": float(score), "chance": 1 / len(both)}


def time_in_scan(features, table) -> dict:
    """Can the features tell how late in the scan a window is, in subjects never seen?

    Ridge regression of the onset, out of fold, subjects kept together, at most five folds.

    Args:
        features: (n, d), standardised.
        table: n rows with subject and onset.

    Returns:
        r2, at most 1, below 0 where the mean onset predicts better; NaN for a single subject, or
        where every row is a whole scan.
    """
    subject, onset = table["subject"].to_numpy(), table["onset"].to_numpy()
    folds = min(5, len(set(subject)))
    if folds < 2 or (onset == onset[0]).all():
        return {"r2": np.nan}
    predicted = np.empty(len(onset))
    for train, test in GroupKFold(folds).split(features, groups=subject):
        predicted[test] = (
            RidgeCV(PENALTIES).fit(features[train], onset[train]).predict(features[test])
        )
    return {"r2": float(r2_score(onset, predicted))}


def _read(name, paths, names):
    """(float32 (n, at most DIMS), one digest a row) of the rows `names` of one source."""
    values, digests = None, [None] * len(names)
    for path in paths:
        this = store.open(path)
        position = names.get_indexer(this.table.index)
        for start in range(0, len(this), BLOCK):
            to = position[start : start + BLOCK]
            if (to < 0).all():
                continue
            block = this[start : start + BLOCK][to >= 0]
            reduced = reduce(block)
            if values is None:
                values = np.empty((len(names), reduced.shape[1]), np.float32)
            values[to[to >= 0]] = reduced
            for row, at in zip(block, to[to >= 0], strict=True):
                digests[at] = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
    if None in digests:
        raise InputError(f"{name}: no row {names[digests.index(None)]}; render this source again")
    return values, digests


def reduce(values) -> np.ndarray:
    """Rows as at most `DIMS` numbers: images by block means, float32 (n, d).

    Vectors (n, d) stay as they are; of images, the last two axes (or, of RGB, the two before
    the last) are averaged over blocks.
    """
    values = np.asarray(values, np.float32) if values.dtype != np.uint8 else values
    if values.ndim < 3:
        return values.reshape(len(values), -1).astype(np.float32)
    if values.ndim == 4 and values.dtype == np.uint8:
        values = values.transpose(0, 3, 1, 2)
    values = values.astype(np.float32)
    others = int(np.prod(values.shape[1:-2]))
    side = max(1, int(np.sqrt(DIMS / others)))
    for axis in (-2, -1):
        values = _block_means(values, axis, side)
    return values.reshape(len(values), -1)


def _block_means(values, axis, blocks):
    length = values.shape[axis]
    starts = np.unique(np.arange(min(blocks, length)) * length // min(blocks, length))
    sums = np.add.reduceat(values, starts, axis=axis)
    widths = np.diff(np.append(starts, length))
    return sums / np.expand_dims(widths, tuple(range(1, -axis))).astype(np.float32)


def _standardised(values):
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 0, spread, 1)
