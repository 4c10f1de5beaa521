"""A toy dataset for heads: five subjects, two states that take turns, features that show them."""

import numpy as np
import pandas as pd

CLASSES = ["drowsy", "alert"]
SUBJECTS = [f"sub-{s:02d}" for s in range(1, 6)]
QUICK = {
    "adapter": {
        "kind": "adapter",
        "epochs": 15,
        "hidden": [8, 4],
        "base_lr": 1e-2,
        "batch_size": 16,
    },
    "linear": {"kind": "linear", "c": [0.01, 1.0]},
    "forest": {"kind": "forest", "n_estimators": 20},
    "cnn": {"kind": "cnn", "epochs": 10, "channels": [4, 8], "pool": [2, 2], "batch_size": 16},
    "probe": {"kind": "probe", "epochs": 20, "lr": [0.1, 0.01]},
    "finetune": {
        "kind": "finetune",
        "backbone": {
            "backbone": {"kind": "timm", "model": "test_vit.r160_in1k", "size": [32, 32]},
            "file": None,
        },
        "epochs": 4,
        "batch_size": 16,
        "lr": 1e-3,
        "head_lr": 1e-2,
        "warmup_epochs": 0.5,
        "precision": "fp32",
    },
}


def table(subjects=SUBJECTS, windows=24):
    names = [(s, "scan-01", w) for s in subjects for w in range(windows)]
    facts = pd.DataFrame(names, columns=["subject", "scan", "window"])
    facts["onset"], facts["duration"] = facts["window"] * 15.0, 30.0
    facts["start"], facts["stop"] = facts["onset"], facts["onset"] + 30
    facts["exclude"] = ""
    facts.index = [f"{s}/{c}/window-{w:04d}" for s, c, w in names]
    return facts


def labels(facts):
    """States of six windows that take turns, from another start in each subject."""
    start = facts["subject"].factorize()[0] * 2
    return ((facts["window"].to_numpy() + start) // 6 % 2).astype(np.int8)


def features(facts, y, effect=3.0, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(facts), d))
    x[:, 0] += effect * y
    return x.astype(np.float32)


def images(y, seed=0):
    """Spectrograms whose power lies high in one class and low in the other, equal in sum."""
    x = np.random.default_rng(seed).normal(0, 2, (len(y), 24, 10))
    x[y == 0, 4:9] += 8
    x[y == 1, 15:20] += 8
    return x.astype(np.float16)


IMAGES = {
    "what": "spectrogram", "axes": 2, "modality": "eeg", "limits": [-10.0, 10.0], "cmap": "viridis",
}  # fmt: skip
