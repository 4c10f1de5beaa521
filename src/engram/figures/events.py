"""Scalars for TensorBoard, under the tags that the vigilance tutorial published."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

#: Published tag endings that stand for a metric of the scores; `mPrecision` is `precision`.
METRICS = {"mAC": "accuracy", "mAR": "balanced_accuracy", "mF1": "macro_f1"}


def scalars(
    curves: pd.DataFrame, scores: dict, precision: float
) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of one experiment; the step is the epoch.

    Curves are means over folds and seeds.  `Test/...` stands once, at the last epoch: the
    test rows are predicted once, and its values are those of the scores.

    Args:
        curves: one row a fold, run and epoch, runs with shuffled labels left out; may be empty.
        scores: the scores of the experiment.
        precision: macro precision of the test rows, from `macro_precision`.
    """
    last = 0
    if len(curves):
        means = curves.drop(columns=["fold", "run"]).groupby("epoch").mean().dropna(axis=1)
        last = int(means.index.max())
        for column in means:
            for tag in _tags(column):
                yield from ((tag, int(epoch), float(v)) for epoch, v in means[column].items())
    values = {row["metric"]: row["value"] for row in scores["metrics"]}
    test = {f"Test/{tag}": values.get(metric) for tag, metric in METRICS.items()}
    for tag, value in (test | {"Test/mPrecision": precision}).items():
        if value is not None and np.isfinite(value):
            yield tag, last, float(value)


def _tags(column) -> list[str]:
    if column == "lr":
        return ["Train/lr"]
    if column.startswith("loss_"):  # a part of the training loss, weighted
        return [f"Train_details/{column}"]
    part, _, name = column.partition("_")
    return [f"{part.capitalize()}/{name}"]


def macro_precision(probabilities, y, subjects) -> float:
    """Precision, mean over classes, seeds and then subjects; a class never predicted counts 0.

    Args:
        probabilities: of the held-out rows, shape (n, seeds, classes).
        y: class of each row, int (n,).
        subjects: subject of each row, shape (n,).
    """
    from sklearn.metrics import precision_score

    predicted, y, subjects = probabilities.argmax(axis=2), np.asarray(y), np.asarray(subjects)
    each = [
        precision_score(y[own], predicted[own, seed], average="macro", zero_division=0)
        for own in (subjects == subject for subject in np.unique(subjects))
        for seed in range(predicted.shape[1])
    ]
    return float(np.mean(each))
