"""A small finished study on disk: the stores and scores that figures are drawn from."""

import json

import numpy as np
import pandas as pd

from engram import store
from engram.store import Rows

CLASSES = ["drowsy", "alert"]
METRICS = ("balanced_accuracy", "auc", "macro_f1", "kappa", "accuracy", "brier", "ece")
MADE_BY = {
    "spec": {"head": {"kind": "adapter", "dropout": 0.2}},
    "code": ["engram.heads.adapter@1a2b3c4d", "engram.training@v1"],
    "versions": {"engram": "0.1.0", "torch": "2.13.0"},
    "device": "cpu",
}


def table(subjects=6, windows=20):
    """Rows of one scan a subject; the state switches every five windows."""
    parts = []
    for s in range(subjects):
        number = np.arange(windows)
        part = pd.DataFrame(
            {
                "subject": f"sub-{s + 1:02d}",
                "scan": "scan-01",
                "window": number,
                "onset": 15.0 * number,
                "duration": 30.0,
                "start": 15.0 * number,
                "stop": 15.0 * number + 30,
                "exclude": "",
                "y": (number // 5 + s) % 2,
            }
        )
        part.index = [f"sub-{s + 1:02d}/scan-01/window-{i:04d}" for i in number]
        parts.append(part)
    return pd.concat(parts)


def spectrograms(rows, rng, regions=None):
    """Alert rows have a band at 10 Hz, drowsy ones at 5 Hz; the top row is 35 Hz."""
    frequencies = np.linspace(35, 1, 35)
    level = 8 - 8 * np.log10(frequencies)[:, None] + 2.0 * rng.standard_normal((len(rows), 35, 27))
    peak = np.where(rows["y"].to_numpy() == 1, 10, 5)[:, None, None]
    array = level + 9 * np.exp(-(((frequencies[:, None] - peak) / 1.5) ** 2))
    if regions:
        array = np.stack([array] * len(regions), axis=1)
    header = {
        "what": "spectrogram",
        "axes": 2,
        "modality": "fmri" if regions else "eeg",
        "regions": regions,
        "frequencies": frequencies.tolist(),
        "times": (2.0 + np.arange(27)).tolist(),
        "limits": [-10.0, 18.0],
        "cmap": "viridis",
        "unit": "dB re 1 uV^2/Hz",
        "seconds_per_column": 1.0,
        "simulated": True,
    }
    return Rows(array.astype(np.float16), rows.drop(columns="y"), header)


def curves(folds, runs, rng, epochs=12):
    lines = [(fold, run, epoch) for fold in folds for run in range(runs) for epoch in range(epochs)]
    frame = pd.DataFrame(lines, columns=["fold", "run", "epoch"])
    decay, noise = np.exp(-frame["epoch"] / 5), 0.03 * rng.standard_normal(len(frame))
    frame["lr"] = 7e-4 * decay
    frame["train_loss"] = 0.1 + 0.6 * decay + noise
    frame["validation_loss"] = 0.35 + 0.35 * decay + noise
    for part, top in (("train", 0.95), ("validation", 0.8)):
        for name in ("mAC", "mAR", "mF1", "mPrecision"):
            frame[f"{part}_{name}"] = top - (top - 0.5) * decay + noise
    return frame


def scores(name, rows, value, rng, baseline=None, flags=("simulated",)):
    subjects = sorted(rows["subject"].unique())
    metrics = []
    for metric in METRICS:
        middle = 1 - value if metric in ("brier", "ece") else value
        each = {s: float(np.clip(middle + 0.08 * rng.standard_normal(), 0, 1)) for s in subjects}
        metrics.append(
            {
                "metric": metric,
                "value": middle,
                "low": middle - 0.06,
                "high": middle + 0.06,
                "interval": "t",
                "chance": 0.5,
                "p": 0.004,
                "control": 0.492,
                "control_p": 0.4,
                "seed_sd": 0.012,
                "subject_sd": 0.08,
                "baseline": 0.71 if baseline else None,
                "difference": middle - 0.71 if baseline else None,
                "difference_low": middle - 0.77 if baseline else None,
                "difference_high": middle - 0.65 if baseline else None,
                "difference_p": 0.03125 if baseline else None,
                "subjects": each,
            }
        )
    right = round(value * 60)
    return {
        "experiment": name,
        "task": "classes",
        "generalises_to": "new subjects",
        "baseline": baseline,
        "flags": list(flags),
        "inputs": {},
        "classes": CLASSES,
        "majority": dict.fromkeys(METRICS, 0.53),
        "macro_precision": 0.6,
        "pooled": False,
        "undefined": [],
        "sources": ["spectrogram/clip"],
        "runs": [{"seed": 0, "shuffled": False}, {"seed": 0, "shuffled": True}],
        "settings": {"permutations": 1000, "confidence": 0.95, "probes": True},
        "sample": {
            "subjects": len(subjects),
            "scans": len(subjects),
            "windows": len(rows),
            "label_switches": 18,
            "label_autocorrelation": 0.62,
            "excluded": {"artefact": 4, "both states": 7},
            "scans_table": [
                {"subject": s, "scan": "scan-01", "counts": {"drowsy": 10, "alert": 10}}
                for s in subjects
            ],
            "constant_scans": [],
        },
        "metrics": metrics,
        "confusion": [[right, 60 - right], [60 - right, right]],
        "probes": {
            "subject_identity": {"balanced_accuracy": 0.41, "chance": 1 / len(subjects)},
            "time_in_scan": {"r2": -0.04},
            "duplicate_windows": 0,
        },
        "warnings": [f"Only {len(subjects)} subjects: intervals are wide."],
    }


def write(folder, subjects=6, windows=20):
    """Write a study of two experiments, `bandpower` (nothing iterated) and `clip`."""
    rng = np.random.default_rng(0)
    rows = table(subjects, windows)
    for subject, own in rows.groupby("subject"):
        store.write(folder / f"views/{subject}/spectrogram.h5", spectrograms(own, rng))
    for name, value, baseline in (("bandpower", 0.71, None), ("clip", 0.78, "bandpower")):
        _write_experiment(folder, name, value, baseline, rows, rng)
    return {
        "title": "Vigilance from simulated EEG",
        "experiments": {
            "bandpower": {
                "title": "Band power, linear",
                "dataset": "simulated",
                "dataset_title": "Simulated vigilance",
                "x": "spectrogram/bandpower",
                "y": "state",
                "head": "linear",
                "baseline": "none",
            },
            "clip": {
                "title": "CLIP + adapter",
                "dataset": "simulated",
                "dataset_title": "Simulated vigilance",
                "x": "spectrogram/clip",
                "y": "state",
                "head": "adapter",
                "baseline": "bandpower",
            },
        },
    }


def _write_experiment(folder, name, value, baseline, rows, rng):
    right = rng.random((len(rows), 2)) < np.array([value, 0.5])
    winner = np.where(right, rows["y"].to_numpy()[:, None], 1 - rows["y"].to_numpy()[:, None])
    sure = 0.5 + 0.45 * rng.random((len(rows), 2))
    probabilities = np.where(
        winner[..., None] == np.arange(2), sure[..., None], 1 - sure[..., None]
    )
    fold_of = rows["subject"]
    iterated = curves(sorted(set(fold_of)), 2, rng).to_dict("list") if name == "clip" else {}
    header = {
        "classes": CLASSES,
        "runs": [{"seed": 0, "shuffled": False}, {"seed": 0, "shuffled": True}],
        "excluded": {"artefact": 4},
        "flags": ["simulated", *["random_weights"] * (name == "clip")],
        "sources": [f"spectrogram/{name}"],
        "chosen": {"epoch": [7, 9]},
        "curves": iterated,
        "made_by": MADE_BY,
    }
    kept = rows.assign(fold=fold_of)
    store.write(
        folder / f"predictions/{name}.h5", Rows(probabilities.astype(np.float32), kept, header)
    )
    part = np.where(rows["subject"] == "sub-01", "test", "train")
    part[rows["subject"] == "sub-02"] = "validation"
    latent = rng.standard_normal((len(rows), 8)) + 2 * rows["y"].to_numpy()[:, None]
    latent[:, 0] += 2 * rows["subject"].factorize()[0]
    store.write(
        folder / f"latents/{name}.h5",
        Rows(latent.astype(np.float32), rows.assign(part=part), header),
    )
    scored = scores(name, rows, value, rng, baseline, header["flags"])
    path = folder / f"scores/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scored))
