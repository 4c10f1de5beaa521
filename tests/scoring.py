"""Small predictions to score, and their scores by scikit-learn."""

import numpy as np
import pandas as pd
import sklearn.metrics as sk

from engram import store
from engram.splits import circular_shift
from engram.store import Rows

CLASSES = ["drowsy", "alert"]


def table(subjects=6, scans=2, windows=30, prefix="sub"):
    """Facts about windows of 30 s every 15 s."""
    rows = [
        {
            "subject": f"{prefix}-{s:02d}",
            "scan": f"scan-{c}",
            "window": w,
            "onset": 15.0 * w,
            "duration": 30.0,
            "start": 15.0 * w,
            "stop": 15.0 * w + 30,
            "exclude": "",
        }
        for s in range(subjects)
        for c in range(scans)
        for w in range(windows)
    ]
    names = [f"{r['subject']}/{r['scan']}/window-{r['window']:04d}" for r in rows]
    return pd.DataFrame(rows, index=names)


def blocks(rng, n, mean=8):
    """A label series of runs of about `mean` equal labels, never one run alone."""
    switches = rng.random(n) < 1 / mean
    switches[n // 2] |= not switches[1:].any()
    return np.cumsum(switches) % 2


def random_probabilities(rng, n, runs, k, decimals=None):
    p = rng.dirichlet(np.ones(k), size=(n, runs))
    return p if decimals is None else p.round(decimals)


def switching(rng, facts):
    return np.concatenate(
        [blocks(rng, len(rows)) for _, rows in facts.groupby(["subject", "scan"])]
    )


def reference(y, p):
    """The scores by scikit-learn of one series of labels and one run."""
    k = p.shape[1]
    predicted = p.argmax(1)
    if k == 2:
        auc, brier = sk.roc_auc_score(y, p[:, 1]), sk.brier_score_loss(y, p[:, 1])
    else:
        auc = sk.roc_auc_score(y, p, multi_class="ovr", average="macro", labels=range(k))
        brier = sk.brier_score_loss(y, p, labels=range(k), scale_by_half=True)
    return {
        "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
        "auc": auc,
        "macro_f1": sk.f1_score(y, predicted, average="macro", zero_division=0),
        "kappa": sk.cohen_kappa_score(y, predicted),
        "accuracy": sk.accuracy_score(y, predicted),
        "brier": brier,
    }


def experiment(
    folder, rng, facts, y, gain=0.5, name="eeg_clip", runs=(False, False, True), **header
):
    """A predictions store and its input store; shuffled runs know nothing of `y`."""
    logit = rng.standard_normal((len(y), len(runs))) + gain * np.outer(2 * y - 1, ~np.array(runs))
    p = 1 / (1 + np.exp(-logit))
    header = {
        "classes": CLASSES,
        "runs": [{"seed": i, "shuffled": shuffled} for i, shuffled in enumerate(runs)],
        "sources": ["spectrogram/clip"],
        "excluded": {},
        "inputs": {},
        "targets": ["state"],
        "flags": ["simulated"],
        **header,
    }
    moved = circular_shift(y, facts, rng)
    predicted = facts.assign(y=y, y_shuffled=moved, fold=facts["subject"])
    path = folder / f"{name}.h5"
    store.write(path, Rows(np.stack([1 - p, p], 2).astype(np.float32), predicted, header))
    return path


def inputs(folder, rng, facts, dims=8):
    """One input store a subject, with rows that were not scored."""
    extra = table(subjects=facts["subject"].nunique(), scans=1, windows=2, prefix="unscored")
    every = pd.concat([facts, extra])
    paths = []
    for i, (_, rows) in enumerate(every.groupby("subject")):
        paths.append(folder / f"x{i}.h5")
        values = rng.standard_normal((len(rows), dims)).astype(np.float32)
        store.write(paths[-1], Rows(values, rows, {}))
    return {"spectrogram/clip": paths}
