"""Figures of experiments whose y is pictures, and their scalars for TensorBoard."""

from collections.abc import Iterator

import pandas as pd

from engram.errors import InputError
from engram.figures import style, visible
from engram.figures.gallery_figure import examples, gallery_figure
from engram.figures.importance_figure import importance_figure
from engram.figures.repetitions_figure import repetitions_figure
from engram.figures.retrieval_figure import retrieval_figure
from engram.figures.training_figure import history, training_figure


def draw(scored, predicted, view, importance, figures):
    """Draw the figures of one experiment.

    `retrieval`: every subject as a dot, and the scores among k pictures; `repetitions`: scores by
    number of test repetitions averaged; `training`: curves over the epochs; `importance`: what
    is lost without a time window or a channel; `gallery`: pictures and the five nearest.

    Args: as for `engram.figures.plot.plot`, read; `view` holds the candidate pictures.

    Raises:
        InputError: the predictions name a picture as true that is no candidate, or the view
            lacks a picture.
    """
    unknown = set(predicted.table["stimulus"]) - set(predicted.header["candidates"])
    if unknown:
        raise InputError(
            f"predictions: {min(unknown)} was shown but is no candidate; train the experiment again"
        )
    chosen = examples(predicted)
    shown = {name for one in chosen for name in (one["name"], *one["nearest"])}
    rows, header = visible.load(view, shown)
    if missing := shown - set(rows):
        raise InputError(f"{view[0]}: lacks the picture {min(missing)}; render the view again")
    style.save(retrieval_figure(scored), figures["retrieval"])
    style.save(repetitions_figure(scored), figures["repetitions"])
    style.save(training_figure(predicted.header), figures["training"])
    style.save(importance_figure(importance), figures["importance"])
    made = gallery_figure(chosen, rows, header, simulated="simulated" in scored["flags"])
    style.save(made, figures["gallery"], dpi=150)


def scalars(scored, predicted) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of one experiment, the step being the epoch; controls are left out.

    `Train/` and `Validation/` hold one curve a seed, the mean over folds.  `Test/` holds the
    scores, at the last epoch.

    Args:
        scored: the scores of the experiment.
        predicted: its predictions.
    """
    curves, last = history(predicted.header), 0
    own = curves[~curves["shuffled"].astype(bool)] if len(curves) else curves
    if len(own):
        last = int(own["epoch"].max())
        for column in own.columns.drop(["fold", "run", "seed", "shuffled", "epoch"]):
            part, _, name = column.partition("_")
            validates = part in ("validation", "score")  # the score is what chooses the epoch
            tag = f"Validation/{name or column}" if validates else f"Train/{column}"
            means = pd.to_numeric(own[column]).groupby([own["seed"], own["epoch"]]).mean()
            for (seed, epoch), value in means.dropna().items():
                yield f"{tag}/seed {seed}", int(epoch), float(value)
    for row in scored["metrics"]:
        if row["value"] is not None and not row["metric"].startswith("reverse_"):
            yield f"Test/{row['metric']}", last, float(row["value"])
