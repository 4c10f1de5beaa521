"""Figures of experiments whose y is classes; scalars under the tags that the tutorial published."""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from engram.figures import style, visible
from engram.figures.confusion import confusion_figure
from engram.figures.curves import curves_figure
from engram.figures.examples import choose, examples_figure
from engram.figures.subjects import subjects_figure

#: Published tag endings that stand for a metric of the scores; `mPrecision` is `precision`.
METRICS = {"mAC": "accuracy", "mAR": "balanced_accuracy", "mF1": "macro_f1"}


def draw(scored, predicted, view, importance, figures):
    """Draw `subjects`, `confusion`, `curves` and `examples`, rows of every class drawn by lot.

    Args: as for `engram.figures.plot.plot`, read.
    """
    classes, runs = predicted.header["classes"], predicted.header["runs"]
    history = pd.DataFrame(predicted.header["curves"])
    chosen = choose(predicted.table, classes)
    rows, header = visible.load(view, itertools.chain(*chosen.values()))
    style.save(subjects_figure(scored), figures["subjects"])
    style.save(confusion_figure(scored["confusion"], classes), figures["confusion"])
    style.save(curves_figure(history, [run["shuffled"] for run in runs]), figures["curves"])
    style.save(examples_figure(chosen, rows, header), figures["examples"])


def scalars(scored, predicted) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of one experiment; the step is the epoch, controls are left out.

    Curves are means over folds and seeds.  `Test/...` stands once, at the last epoch: the
    test rows are predicted once, and its values are those of the scores.

    Args:
        scored: the scores of the experiment.
        predicted: its predictions.
    """
    real = [i for i, run in enumerate(predicted.header["runs"]) if not run["shuffled"]]
    curves, last = pd.DataFrame(predicted.header["curves"]), 0
    if len(curves):
        curves = curves[curves["run"].isin(real)]
        means = curves.drop(columns=["fold", "run"]).groupby("epoch").mean().dropna(axis=1)
        last = int(means.index.max())
        for column in means:
            for tag in _tags(column):
                yield from ((tag, int(epoch), float(v)) for epoch, v in means[column].items())
    values = {row["metric"]: row["value"] for row in scored["metrics"]}
    test = {f"Test/{tag}": values.get(metric) for tag, metric in METRICS.items()}
    for tag, value in (test | {"Test/mPrecision": scored["macro_precision"]}).items():
        if value is not None and np.isfinite(value):
            yield tag, last, float(value)


def _tags(column) -> list[str]:
    if column == "lr":
        return ["Train/lr"]
    if column.startswith("loss_"):  # a part of the training loss, weighted
        return [f"Train_details/{column}"]
    part, _, name = column.partition("_")
    return [f"{part.capitalize()}/{name}"]
