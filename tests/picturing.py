"""Stores of decoded pictures and of what was seen, for tests of the task `pictures`."""

import json

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from engram import store
from engram.backbones import extract
from engram.figures.plot import plot
from engram.figures.report import report
from engram.scores.evaluation import evaluate
from engram.store import Rows
from engram.tasks import train

IMAGES, SIDE = 12, 24
BACKBONES = {"pixels": {"kind": "pixels", "grid": 4}, "quarters": {"kind": "pixels", "grid": 2}}


def photographs(n=IMAGES, seed=0):
    """Smooth pictures, float (n, side, side, 3) from 0 to 1."""
    rng = np.random.default_rng(seed)
    drawn = gaussian_filter(rng.normal(size=(n, SIDE, SIDE, 3)), (0, 4, 4, 0))
    return np.clip(0.5 + 2.5 * drawn, 0, 1)


def names(n=IMAGES):
    return [f"test/nsd-{i:05d}" for i in range(n)]


def write(folder, decoders, subjects=("subj01", "subj02"), backbones=("pixels", "quarters")):
    """Write what was seen, `photograph`, and decoded views, with their features.

    Args:
        folder: to write to.
        decoders: {name: share of the true picture in each that is decoded, the rest is another};
            below 0 the picture of another image.
    """
    seen, other = photographs(), photographs(seed=1)
    table = pd.DataFrame({"split": "test", "concept": "thing", "exclude": ""}, names())
    header = {"what": "picture", "axes": 3, "modality": "photograph", "unit": "sRGB",
              "blur": 0.0, "interpolation": "bicubic", "simulated": True}  # fmt: skip
    paths = {"photograph": [folder / "views/photograph.h5"]}
    store.write(paths["photograph"][0], Rows(_uint8(seen), table, header))
    for name, share in decoders.items():
        for s, subject in enumerate(subjects):
            true = np.roll(seen, 1, 0) if share < 0 else seen
            mixed = abs(share) * true + (1 - abs(share)) * np.roll(other, s, 0)
            rows = table.assign(subject=subject, stimulus=table.index)
            rows.index = [f"{subject}/{one}" for one in table.index]
            of = {"decoder": name, "seed": 0, "protocol": "nsd40", "zscore": "image", "of": {}}
            path = folder / f"views/{subject}/{name}.h5"
            store.write(path, Rows(_uint8(mixed), rows, header | of | {"flags": ["simulated"]}))
            paths.setdefault(name, []).append(path)
    for view in list(paths):
        for backbone in backbones:
            made = [path.parent / f"{view}/{backbone}.h5" for path in paths[view]]
            for path, features in zip(paths[view], made, strict=True):
                extract(path, None, features, {"backbone": BACKBONES[backbone]}, {}, "cpu")
            paths[f"{view}/{backbone}"] = made
    return paths


def _uint8(values):
    return (255 * values).round().astype(np.uint8)


def compared(folder, paths, name, x, experiment=None, backbones=("pixels", "quarters"), **head):
    """Predictions of an experiment that compares the view `x` with the photographs."""
    head = {
        "kind": "compare", "features": list(backbones), "distances": list(backbones), "size": SIDE,
    } | head  # fmt: skip
    sides = [[side, *(f"{side}/{one}" for one in backbones)] for side in (x, "photograph")]
    spec = {"task": "pictures", "experiment": experiment or {}, "candidates": [sides[0]],
            "head": head}  # fmt: skip
    made = [folder / f"{what}/{name}" for what in ("models", "predictions", "latents")]
    made = [
        path.with_suffix(s) for path, s in zip(made, (".safetensors", ".h5", ".h5"), strict=True)
    ]
    for path in made:
        path.parent.mkdir(exist_ok=True)
    made_by = {"spec": spec, "versions": {}, "device": "cpu"}
    train(*({one: paths[one] for one in side} for side in sides), *made, spec, made_by, "cpu")
    return made[1]


def scored(folder, name, predictions, baseline=None):
    """Scores of an experiment, as its file has them."""
    spec = {"task": "pictures", "experiment": name, "evaluation": {},
            "baseline": baseline and baseline.stem, "generalises_to": "new pictures"}  # fmt: skip
    path = folder / f"scores/{name}.json"
    path.parent.mkdir(exist_ok=True)
    evaluate(predictions, [baseline] if baseline else [], {}, path, spec)
    return json.loads(path.read_text("utf-8"))


def drawn(folder, paths, name, predictions, scores, starts=()):
    """Figures of an experiment; `starts`: views that pictures started from."""
    views = store.open(predictions).header
    views = [views["targets"][0], views["sources"][0], *starts]
    made = {f: folder / f"figures/{name}/{f}" for f in ("subjects.svg", "gallery.json")}
    made = {path.stem: path for path in made.values()}
    events = folder / f"figures/{name}/events.out.tfevents.0.engram"
    events.parent.mkdir(parents=True, exist_ok=True)
    stores = [path for view in views for path in paths[view]]
    plot(scores, predictions, stores, [], made | {"events": events}, {"task": "pictures"})
    return list(made.values())


def page(folder, paths, told, baselines, starts):
    """The report of some experiments, {name: predictions}."""
    figures, found = [], []
    for name, predictions in told.items():
        scored(folder, name, predictions, told.get(baselines.get(name)))
        found.append(folder / f"scores/{name}.json")
        figures += drawn(folder, paths, name, predictions, found[-1], starts.get(name, ()))
    experiments = {
        name: {"x": name, "y": "photograph", "head": "compare", "dataset": "nsd",
               "dataset_title": "Simulated NSD", "title": f"Decoder {name}"}
        for name in told
    }  # fmt: skip
    spec = {"title": "Pictures", "experiments": experiments}
    report(found, told.values(), figures, folder / "report.html", spec)
    return folder / "report.html"
