"""A small finished comparison on disk: feature stores, their cost, labels and scores."""

import json

import numpy as np
import study

from engram import store
from engram.store import Rows


def member(backbone, value=0.7, *, state=1.0, subject=1.0, d=8, of=None, baseline=False, **facts):
    """What the spec of stage `compare` says of one member, and what its files shall show."""
    name = backbone if baseline else f"vision-{backbone}"
    views = facts.pop("views", ["spectrogram"])
    spec = {
        "experiment": name,
        "title": facts.pop("title", backbone),
        "sources": [f"{view}/{backbone}" for view in views],
        "is_baseline": baseline,
        "control_of": f"vision-{of}" if of else None,
        "role": facts.pop("role", "baseline" if baseline else "random" if of else "model"),
    }
    made = {"value": value, "state": state, "subject": subject, "d": d, "weights": "x.safetensors"}
    return spec, made | facts


def write(folder, members, subjects=6, windows=20):
    """Write the files of `members`; return the arguments of stage `compare`."""
    rng = np.random.default_rng(0)
    rows = study.table(subjects, windows)
    paths = {"scores": [], "features": [], "costs": [], "y": []}
    facts = rows.drop(columns="y")
    header = {"what": "labels", "classes": study.CLASSES}
    for name, own in facts.groupby("subject"):
        paths["y"].append(folder / f"views/{name}/state.h5")
        labels = rows.loc[own.index, "y"].to_numpy(np.int8)
        store.write(paths["y"][-1], Rows(labels, own, header))
    for spec, made in members:
        for source in spec["sources"]:
            values = features(rows, made, rng)
            for name, own in facts.groupby("subject"):
                path = folder / f"features/{name}/{source}.h5"
                at = rows.index.get_indexer(own.index)
                header = {"what": "features", "weights": made["weights"]}
                header["precision"] = made.get("precision", "fp32")
                store.write(path, Rows(values[at], own, header))
                paths["features"].append(path)
                paths["costs"].append(path.with_suffix(".json"))
                paths["costs"][-1].write_text(json.dumps(cost(made, len(own))))
        spec["sources"] = [[source, subjects] for source in spec["sources"]]
        flags = ["simulated", *["random_weights"] * (made["weights"] == "random")]
        flags += made.get("flags", [])
        baseline = None if spec["is_baseline"] else "bandpower"
        scored = study.scores(spec["experiment"], rows, made["value"], rng, baseline, flags)
        path = folder / f"scores/{spec['experiment']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        scored["settings"] |= {"margin": made.get("margin")}
        path.write_text(json.dumps(scored))
        paths["scores"].append(path)
    return paths | {"spec": {"comparison": "vision", "members": [spec for spec, _ in members]}}


def features(rows, made, rng):
    """Noise that shows the state in its first value, and the subject in the others."""
    x = rng.standard_normal((len(rows), made["d"]))
    x[:, 0] += made["state"] * rows["y"].to_numpy()
    own = rng.standard_normal((rows["subject"].nunique(), made["d"] - 1))
    x[:, 1:] += made["subject"] * own[rows["subject"].factorize()[0]]
    return x.astype(np.float32)


def cost(made, images):
    return {
        "images": images,
        "seconds": images / made.get("rate", 40.0),
        "cpu_seconds": 1.0,
        "rate": made.get("rate", 40.0),
        "peak_mib": 800.0,
        "device": "cpu",
        "threads": 2,
        "bytes_per_row": 4 * made["d"],
        "precision": "fp32",
    }


def outputs(folder):
    """The paths that stage `compare` writes."""
    return {
        "comparison": folder / "comparisons/vision.json",
        "figure": folder / "figures/vision/comparison.svg",
        "cka": folder / "figures/vision/cka.svg",
    }


CONFIG = {
    "title": "Which backbone reads the spectrogram?",
    "dataset": "simulated",
    "dataset_title": "Simulated vigilance",
    "view": "spectrogram",
    "y": "state",
    "head": "linear",
    "baseline": "bandpower",
    "backbones": ["clip"],
}
