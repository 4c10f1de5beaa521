"""Small finished retrieval experiments on disk: predictions, made up, and their true scores."""

import json

import numpy as np
import pandas as pd
import study

from engram import store
from engram.scores.evaluation import evaluate
from engram.store import Rows
from engram.tasks.pairs import FOLDS

PICTURES, SUBJECTS = 40, 4
RUNS = [
    {"seed": 0, "shuffled": False},
    {"seed": 1, "shuffled": False},
    {"seed": 0, "shuffled": True},
]
CHANNELS = [f"C{i}" for i in range(1, 31)]
COUNTS = [1, 2, 5, 10, 20]

#: Similarity of a picture to itself, and configuration, of every experiment there may be.
EXPERIMENTS = {
    "things_plain": (1.0, {"title": "Linear"}),
    "things_nice": (2.4, {"title": "NICE", "y": "stimulus/aligned", "baseline": "things_plain"}),
    "things_published": (3.2, {"title": "NICE, as published", "baseline": "things_nice",
                               "y": "stimulus/aligned", "head": "published"}),
    "things_new": (0.6, {"title": "NICE, unseen people", "baseline": "things_plain",
                         "folds": "leave_one_subject_out"}),
}  # fmt: skip


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
    return Rows(array, table, {"what": "picture", "axes": 3, "simulated": True})


def predictions(
    rng, pictures=PICTURES, count=SUBJECTS, level=1.6, protocol="clean", folds="within"
):
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
    table = table.assign(fold=table["subject"])
    array, table = with_fewer(np.concatenate(parts), table.assign(fewer=0), rng)
    header = {
        "what": "predictions",
        "task": "pairs",
        "candidates": candidates,
        "runs": RUNS,
        "flags": ["published_protocol"] * (protocol == "published") + ["simulated"],
        "sources": ["epochs"],
        "inputs": {},
        "targets": ["stimulus/clip"],
        "facts": {},
        "excluded": {},
        "curves": curves(who, rng),
        "chosen": {"epoch": {s: rng.integers(8, 20, len(RUNS)).tolist() for s in who}},
        "counts": COUNTS,
        "shared": folds != "within",
        "near_copies": {"pairs": 0, "between": 0, "examples": []},
        "attainable": ATTAINABLE if folds == "within" else None,
        "made_by": study.MADE_BY,
    }
    return Rows(array.astype(np.float32), table, header)


def with_fewer(array, table, rng):
    """Behind the rows those of fewer repetitions, which are the noisier the fewer they are."""
    arrays, tables = [array], [table]
    for count in COUNTS[:-1]:
        arrays.append(array + rng.standard_normal(array.shape) * 6 / count)
        tables.append(table.assign(fewer=count).set_axis(table.index + f"@{count}"))
    return np.concatenate(arrays), pd.concat(tables)


#: What a simulation would predict: made up.
ATTAINABLE = {
    "counts": COUNTS,
    "top1": {
        "low": [0.02, 0.05, 0.1, 0.15, 0.2],
        "linear": [0.05, 0.1, 0.2, 0.3, 0.4],
        "best": [0.1, 0.2, 0.35, 0.5, 0.65],
        "high": [0.15, 0.3, 0.5, 0.65, 0.8],
    },
    "top5": {
        "low": [0.1, 0.2, 0.3, 0.4, 0.5],
        "linear": [0.2, 0.3, 0.45, 0.6, 0.7],
        "best": [0.3, 0.45, 0.6, 0.8, 0.9],
        "high": [0.4, 0.6, 0.75, 0.9, 0.98],
    },
}


def importance(rng, count=SUBJECTS):
    """What stage `occlude` could have found: made up."""
    starts = np.arange(0, 1, 0.1)
    lost = {
        "time": 0.3 * np.exp(-(((starts - 0.2) / 0.15) ** 2)),
        "channel": np.linspace(0, 0.2, len(CHANNELS)),
    }
    found = {"full": dict.fromkeys(subjects(count), 0.5)}
    facts = {"time": {"starts": starts.tolist(), "width": 0.1}, "channel": {"names": CHANNELS}}
    for kind, mean in lost.items():
        top1 = {s: (0.5 - mean + 0.02 * rng.standard_normal(len(mean))).tolist()
                for s in found["full"]}  # fmt: skip
        found[kind] = facts[kind] | {"top1": top1, "lost": mean.tolist(),
                                     "low": (mean - 0.05).tolist(),
                                     "high": (mean + 0.05).tolist()}  # fmt: skip
    return found


def curves(folds, rng, epochs=20):
    lines = []
    for fold in folds:
        for place, run in enumerate(RUNS):
            for epoch in range(epochs):
                grown = 0 if run["shuffled"] else 1 - np.exp(-epoch / 6)
                noise = 0.02 * rng.standard_normal()
                lines.append({"fold": fold, "run": place, "epoch": epoch,
                              "loss": 3.7 - 2.5 * grown + noise,
                              "validation_mrr": 0.1 + 0.5 * grown + noise,
                              "validation_top1": 0.03 + 0.4 * grown + noise,
                              "validation_top5": 0.13 + 0.6 * grown + noise,
                              "score": 0.1 + 0.5 * grown + noise,
                              "temperature": 0.07 - 0.03 * grown,
                              "encoder_lr": 3e-4, "projector_lr": 3e-4})  # fmt: skip
    return pd.DataFrame(lines).to_dict("list")


def configured(name):
    """Configuration of an experiment, as the report is told it."""
    shared = {"dataset": "things_eeg2", "dataset_title": "THINGS-EEG2", "x": "epochs",
              "y": "stimulus/clip", "head": "retrieval"}  # fmt: skip
    return shared | EXPERIMENTS[name][1]


def scores(folder, name):
    """What stage `evaluate` says of an experiment whose predictions lie in `folder`."""
    config = configured(name)
    kind, baseline = config.get("folds", "within"), config.get("baseline")
    spec = {"task": "pairs", "experiment": name, "baseline": baseline,
            "generalises_to": FOLDS[kind], "evaluation": {}}  # fmt: skip
    path = folder / f"scores/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [folder / f"predictions/{baseline}.h5"] if baseline else []
    evaluate(folder / f"predictions/{name}.h5", others, {}, path, spec)
    return json.loads(path.read_text())


def metrics(scored):
    """The rows of the metrics by name."""
    return {row["metric"]: row for row in scored["metrics"]}


def write(folder, pictures=PICTURES, count=SUBJECTS, experiments=("things_plain", "things_nice")):
    """Write retrieval experiments; return what stage `report` is told of them."""
    rng = np.random.default_rng(0)
    store.write(folder / "views/stimuli/stimulus.h5", photographs(rng, pictures))
    for name in experiments:
        config = configured(name)
        protocol = "published" if config["head"] == "published" else "clean"
        made = (EXPERIMENTS[name][0], protocol, config.get("folds", "within"))
        predicted = predictions(rng, pictures, count, *made)
        store.write(folder / f"predictions/{name}.h5", predicted)
        looked = folder / f"importance/{name}.json"
        looked.parent.mkdir(exist_ok=True)
        looked.write_text(json.dumps(importance(rng, count)))
        scores(folder, name)
    return {
        "title": "Pictures from EEG",
        "experiments": {name: configured(name) for name in experiments},
    }


def outputs(folder, name):
    """The paths that stage `plot` writes."""
    figures = folder / f"figures/{name}"
    return {
        "retrieval": figures / "retrieval.svg",
        "repetitions": figures / "repetitions.svg",
        "training": figures / "training.svg",
        "importance": figures / "importance.svg",
        "gallery": figures / "gallery.png",
        "events": figures / "events.out.tfevents.0.engram",
    }
