"""Stage plot: the figures of one experiment, and its scalars for TensorBoard."""

import json
from pathlib import Path

from engram import store
from engram.figures import style, tensorboard
from engram.planning import components


def plot(scores, predictions, view, importance, figures, spec):
    """Draw the figures of one experiment.

    The module of the task in `engram.figures` does it: `draw(scored, predicted, view,
    importance, figures)` writes the files, `scalars(scored, predicted)` yields tag, step, value.
    Predictions are loaded, unless it says `LOADS = False`: then they are an open store.

    Args:
        scores: JSON file of `evaluate`.
        predictions: store of `train`.
        view: stores of the view whose rows are shown.
        importance: JSON files of `occlude`: one or none.
        figures: files to write by name: those that the task declares, and `events`, the
            TensorBoard event file.
        spec: dict with task.

    Raises:
        InputError: the view is no picture, or does not suit the predictions.
    """
    scored = json.loads(Path(scores).read_text("utf-8"))
    looked = [json.loads(Path(path).read_text("utf-8")) for path in importance]
    this, predicted = components.module("figures", spec["task"]), store.open(predictions)
    predicted = predicted.load() if getattr(this, "LOADS", True) else predicted
    with style.styled():
        this.draw(scored, predicted, view, looked[0] if looked else None, figures)
    settings = components.hyperparameters(predicted.header["made_by"]["spec"])
    scalars = list(this.scalars(scored, predicted))
    tensorboard.write_events(figures["events"], scalars, tables=[("hyperparameters", settings)])
