"""Scores of decoded pictures: means over test images and subjects of how alike each is to its own.

The null draws for every image, alike for all subjects, one of the other images that its picture was
compared with. Comparisons of one test set depend on each other, so that the binomial test of
published code is far too optimistic: of 982 images 18 times too narrow.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from engram import store
from engram.errors import InputError
from engram.scores import over_images
from engram.scores.settings import settings


def score(predictions, baseline, x, spec) -> dict:
    """Scores of pictures, see `engram.scores.evaluation.evaluate`.

    Args:
        predictions: path of a store, see `engram.tasks.pictures`.
        baseline: paths of the predictions to compare with: one or none.
        x: not needed.
        spec: its `evaluation` holds fields of `Settings`.

    Returns:
        dict with metrics; candidates, how many images there are to tell apart, of the subject with
        the most; protocol, zscore, decoder and comparison (dialect and size) of the predictions;
        sample; settings.

    Raises:
        InputError: the baseline has other test rows, measures or another dialect.
    """
    chosen, this = settings(spec["evaluation"]), _Read(predictions)
    other = _Read(baseline[0]) if baseline else None
    if other:
        _refuse_other(this, other, baseline[0])
    subjects = this.measured()
    less = [name for name in this.header["measures"] if name.endswith("_distance")]
    return {
        "metrics": over_images.metrics(
            subjects, other.measured() if other else None, chosen, _chance, _limits, less
        ),
        "null": over_images.fixed(chosen.permutations),
        "candidates": max(len(one.images) for one in subjects.values()),
        **{key: this.header[key] for key in ("protocol", "zscore", "decoder", "comparison")},
        "sample": {
            "subjects": len(subjects),
            "rows": len(this.table),
            "excluded": this.header["excluded"],
        },
        "settings": dataclasses.asdict(chosen),
    }


@dataclass(frozen=True)
class Measured(over_images.Measured):
    """Scores of one subject, as in `over_images`, beside

    Attributes:
        others: {score: float (n, exchanges)}, of every picture with other images.
    """

    others: dict

    def null(self, rng, permutations):
        """{score: float (permutations,)}, every image exchanged for another at random."""
        exchanges = next(iter(self.others.values())).shape[1]
        drawn = rng.integers(exchanges, size=(permutations, len(self.images)))[:, self.own]
        rows = np.arange(len(self.own))
        return {name: values[rows, drawn].mean(1) for name, values in self.others.items()}


class _Read:
    """Predictions, read whole: they are small."""

    def __init__(self, path):
        rows = store.load([path])
        self.header, self.table, self.values = rows.header, rows.table, rows.array.astype(float)
        self.real = np.array([not run["shuffled"] for run in self.header["runs"]])

    def measured(self) -> dict:
        """{subject: Measured}, in the order of the rows."""
        return {
            name: self._of(np.flatnonzero(self.table["subject"] == name))
            for name in dict.fromkeys(self.table["subject"])
        }

    def _of(self, rows):
        images, own = np.unique(self.table["stimulus"].to_numpy(str)[rows], return_inverse=True)
        columns = np.moveaxis(self.values[rows], -1, 0)
        values = dict(zip(self.header["measures"], columns, strict=True))
        return Measured(
            images=images.tolist(),
            own=own,
            influence={name: v[:, self.real].mean(1) for name, v in values.items()},
            seeds={name: v[:, self.real].mean(0) for name, v in values.items()},
            control={name: v[:, ~self.real].mean(0) for name, v in values.items()},
            others={name: v[:, ~self.real] for name, v in values.items()},
        )


def _refuse_other(this, other, path):
    if other.header.get("task") != "pictures":
        raise InputError(f"{path}: holds no pictures; give a baseline with the same `y`")
    for key, what in (("comparison", "dialect or size"), ("measures", "measures")):
        one, two = this.header[key], other.header[key]
        if one != two:
            raise InputError(
                f"{path}: was compared by another {what}: {two}, not {one}; use the same head"
            )
    over_images.refuse_other_rows(this.table, other.table, path)


def _chance(name, subjects, null):
    """One half of what is told apart from another; of all else the mean under the null."""
    return 0.5 if name.endswith("_two_way") else null.mean()


def _limits(name):
    """Shares of pictures that are told apart, distances, and correlations or SSIM."""
    if name.endswith("_two_way"):
        return 0, 1
    return (0, np.inf) if name.endswith("_distance") else (-1, 1)


def warnings(result) -> list[str]:
    """Sentences about a finished scores dict."""
    found = []
    if result["sample"]["subjects"] < 5:
        found.append("Fewer than five subjects: intervals over subjects are wide and rough.")
    for row in result["metrics"]:
        if row["metric"].endswith("_two_way") and row["p"] > 0.05:
            found.append(f"{row['metric']} is not above chance (p = {row['p']:.2g}).")
    return found
