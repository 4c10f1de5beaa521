"""A small finished retrieval experiment on disk: its predictions, scores and pictures."""

import json

import numpy as np
import pandas as pd
import study

from engram import retrieval, store
from engram.recording import Rows

PICTURES, SUBJECTS = 40, 4
RUNS = [{"seed": seed, "shuffled": shuffled} for shuffled in (False, True) for seed in (0, 1)]
CHANNELS = [f"C{i}" for i in range(1, 31)]


def names(pictures=PICTURES):
    return [f"test/{i:05d}_thing{i}/thing{i}_01" for i in range(pictures)]


def subjects(count=SUBJECTS):
    return [f"sub-{s + 1:02d}" for s in range(count)]


def photographs(rng, pictures=PICTURES, size=48):
    """Pictures that differ in colour and stripes; one more that was never a candidate."""
    array = np.empty((pictures + 1, size, size, 3), np.uint8)
    y, x = np.mgrid[:size, :size] / size
    for i in range(pictures + 1):
        wave = np.sin(2 * np.pi * rng.uniform(1, 4) * (x * rng.normal() + y * rng.normal()))
        array[i] = np.clip(rng.uniform(60, 200, 3) + 50 * wave[..., None], 0, 255)
    table = pd.DataFrame({"split": "test", "concept": "x", "exclude": ""},
                         index=["train/other", *names(pictures)])  # fmt: skip
    return Rows(array, table, {"what": "picture", "simulated": True})


def predictions(rng, pictures=PICTURES, count=SUBJECTS, level=1.6):
    """Similarities, one row a subject and picture; candidates stand in an order of their own."""
    shown, who = names(pictures), subjects(count)
    candidates = [shown[i] for i in rng.permutation(pictures)]
    kin = 1.4 * rng.standard_normal((pictures, pictures))  # the same for all subjects
    parts, rows = [], []
    for s, subject in enumerate(who):
        values = rng.standard_normal((pictures, len(RUNS), pictures))
        for r, run in enumerate(RUNS):
            if not run["shuffled"]:
                values[:, r] += kin + level * (1 + 0.2 * s) * np.eye(pictures)
        parts.append(values[:, :, [shown.index(name) for name in candidates]])
        rows += [(f"{subject}/{name}", subject, name) for name in shown]
    table = pd.DataFrame(rows, columns=["name", "subject", "stimulus"]).set_index("name")
    table["concept"] = table["stimulus"].str.extract(r"_(thing\d+)/", expand=False)
    table = table.assign(fold=table["subject"], exclude="")
    header = {"what": "similarities", "candidates": candidates, "runs": RUNS,
              "simulated": True, "made_by": study.MADE_BY}  # fmt: skip
    return Rows(np.concatenate(parts).astype(np.float32), table, header)


def scores(name, predicted, rng, baseline=None, **changes):
    """What stage `evaluate` says of `predicted`; intervals and importance are made up."""
    candidates = predicted.header["candidates"]
    truth = np.array([candidates.index(one) for one in predicted.table["stimulus"]])
    ranks = np.stack([retrieval.ranks(predicted.array[:, r], truth) for r in range(len(RUNS))], 1)
    real, control = [
        retrieval.scores(ranks[:, [r["shuffled"] == part for r in RUNS]].ravel(), len(candidates))
        for part in (False, True)
    ]
    chance = retrieval.chance(len(candidates))
    keys = ("top1", "top3", "top5", "mrr", "median_rank", "2-way", "4-way", "10-way")
    metrics = {
        key.replace("-", "_"): {
            "value": real[key],
            "interval": [real[key] - 0.05, real[key] + 0.05],
            "chance": chance[key],
            "seed_sd": 0.0123,
            "subject_sd": 0.0456,
            "control": control[key],
        }
        for key in keys
    }
    who = sorted(predicted.table["subject"].unique())
    each = []
    for subject in who:
        own = ranks[predicted.table["subject"] == subject][:, :2].ravel()
        found = retrieval.scores(own, len(candidates))
        each.append({"subject": subject, "n": len(candidates), "control": 0.03}
                    | {key: found[key] for key in ("top1", "top3", "top5", "mrr")})  # fmt: skip
    full = {one["subject"]: one["top1"] for one in each}
    starts = np.arange(0, 1, 0.1)
    lost = 0.3 * np.exp(-(((starts - 0.2) / 0.15) ** 2))
    back = np.linspace(0, 0.2, len(CHANNELS))
    return {
        "experiment": name,
        "what": "retrieval",
        "generalises_to": "new pictures, same subject",
        "protocol": "clean",
        "simulated": True,
        "random_weights": False,
        "leaks": False,
        "candidates": len(candidates),
        "runs": RUNS,
        "metrics": dict(reversed(metrics.items())),
        "reverse": {key: {"value": real[key] - 0.01, "interval": [0.1, 0.9],
                          "chance": chance[key]} for key in ("top1", "top5")},
        "p": 0.002,
        "subjects": each[::-1],
        "paired": {"baseline": baseline, "gain": 0.0432, "interval": [0.0123, 0.0789],
                   "p": 0.0312} if baseline else None,
        "attainable": {"top1": [0.6, 0.7], "top5": [0.8, 0.9]},
        "importance": {
            "full": full,
            "time": {"starts": starts.tolist(), "width": 0.1,
                     "top1": {s: (v - lost + 0.02 * rng.standard_normal(10)).tolist()
                              for s, v in full.items()}},
            "channel": {"names": CHANNELS,
                        "top1": {s: (v - back + 0.02 * rng.standard_normal(30)).tolist()
                                 for s, v in full.items()}},
        },
        "curves": curves(who, rng),
        "chosen": [{"fold": s, "seed": run["seed"], "shuffled": run["shuffled"],
                    "epoch": int(rng.integers(8, 20))} for s in who for run in RUNS],
        "warnings": ["Only <4> subjects: intervals are wide."],
        **changes,
    }  # fmt: skip


def curves(folds, rng, epochs=20):
    lines = []
    for fold in folds:
        for run in RUNS:
            for epoch in range(epochs):
                grown = 0 if run["shuffled"] else 1 - np.exp(-epoch / 6)
                noise = 0.02 * rng.standard_normal()
                lines.append({"fold": fold, **run, "epoch": epoch,
                              "loss": 3.7 - 2.5 * grown + noise,
                              "validation_mrr": 0.1 + 0.5 * grown + noise,
                              "validation_top1": 0.03 + 0.4 * grown + noise,
                              "validation_top5": 0.13 + 0.6 * grown + noise,
                              "temperature": 0.07 - 0.03 * grown,
                              "encoder_lr": 3e-4, "projector_lr": 3e-4})  # fmt: skip
    return lines


def experiment(title, **changes):
    """Its configuration, as the report is told it."""
    return {"title": title, "dataset": "things_eeg2", "dataset_title": "THINGS-EEG2",
            "x": "epochs", "y": "stimulus/clip", "head": "retrieval", **changes}  # fmt: skip


def write(folder, pictures=PICTURES, count=SUBJECTS):
    """Write two retrieval experiments; return what stage `report` is told of them."""
    rng = np.random.default_rng(0)
    store.write(folder / "views/stimuli/stimulus.h5", photographs(rng, pictures))
    for name, level, baseline in (
        ("things_plain", 1.0, None),
        ("things_nice", 1.8, "things_plain"),
    ):
        predicted = predictions(rng, pictures, count, level)
        store.write(folder / f"predictions/{name}.h5", predicted)
        path = folder / f"scores/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(scores(name, predicted, rng, baseline)))
    return {
        "title": "Pictures from EEG",
        "experiments": {
            "things_plain": experiment("Linear"),
            "things_nice": experiment("NICE", baseline="things_plain"),
        },
    }


def outputs(folder, name):
    """The paths that stage `gallery` writes."""
    figures = folder / f"figures/{name}"
    return {
        "retrieval": figures / "retrieval.svg",
        "training": figures / "training.svg",
        "importance": figures / "importance.svg",
        "gallery": figures / "gallery.png",
        "events": figures / "events.out.tfevents.2.engram",
    }
