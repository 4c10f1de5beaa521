"""A toy dataset of numbers: what each subject is, or what each window is, and features of it."""

import numpy as np
import pandas as pd
from scoring import table

from engram import store
from engram.store import Rows
from engram.tasks import train


def numbers(facts, seed=0):
    """A number a subject, the same in all of its rows; float (n,)."""
    subject = facts["subject"].factorize(sort=True)[0]
    return np.random.default_rng(seed).normal(50, 10, subject.max() + 1)[subject]


def shown(facts, y, noise=0.3, d=5, seed=1):
    """Features of which the first shows y, with noise of the subject and of the row."""
    rng = np.random.default_rng(seed)
    subject = facts["subject"].factorize(sort=True)[0]
    x = rng.standard_normal((len(y), d))
    x[:, 0] = (y - 50) / 10 + noise * rng.standard_normal(subject.max() + 1)[subject]
    x[:, 0] += 0.1 * rng.standard_normal(len(y))
    return x.astype(np.float32)


class Study:
    """Stores of one experiment in a folder, each of a few subjects."""

    def __init__(self, folder, subjects=15, scans=2, windows=3, **features):
        self.folder = folder
        self.table = table(subjects=subjects, scans=scans, windows=windows)
        self.y = numbers(self.table)
        self.x = shown(self.table, self.y, **features)
        self.header = {"what": "values", "column": "age", "unit": "years"}
        self.of_x = {"what": "features", "view": {"modality": "eeg", "simulated": True}}

    def write(self, name="clip"):
        x, y = [], []
        subject = self.table["subject"].factorize()[0]
        for part in np.unique(subject // 5):
            own = np.flatnonzero(subject // 5 == part)
            x.append(self.folder / f"features/{part}/spectrogram/{name}.h5")
            store.write(x[-1], Rows(self.x[own], self.table.iloc[own], self.of_x))
            y.append(self.folder / f"views/{part}/age.h5")
            store.write(y[-1], Rows(self.y[own], self.table.iloc[own], self.header))
        return {f"spectrogram/{name}": x}, {"age": y}

    def train(self, name="clip", head=None, **experiment):
        """(path of the predictions, the model file) of one experiment."""
        x, y = self.write(name)
        made = [self.folder / f"{part}/{name}.h5" for part in ("model", "predictions", "latents")]
        spec = {
            "task": "values",
            "experiment": {"seeds": 2, **experiment},
            "candidates": [list(x)],
            "head": head or {"kind": "linear"},
        }
        made_by = {"spec": spec, "versions": {}, "device": "cpu", "code": []}
        train(x, y, *made, spec, made_by, "cpu")
        return made[1]

    def opened(self, path):
        """(predictions, table) of a store of predictions."""
        rows = store.open(path).load()
        return rows.array[..., 0], rows.table


def by_subject(table, values):
    """Means of each subject, pandas' own way, in the order of their names."""
    return pd.DataFrame(values).groupby(table["subject"].to_numpy(str)).mean().to_numpy()
