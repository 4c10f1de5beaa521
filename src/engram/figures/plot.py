"""Stage plot: the figures of one experiment, and its scalars for TensorBoard."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from engram import store
from engram.figures import pictures, style, tensorboard
from engram.figures.confusion import confusion_figure
from engram.figures.curves import curves_figure
from engram.figures.events import macro_precision, scalars
from engram.figures.examples import choose, examples_figure
from engram.figures.subjects import subjects_figure
from engram.planning import components


def plot(scores, predictions, view, subjects, confusion, curves, examples, events):
    """Draw the figures of one experiment.

    Args:
        scores: JSON file of `evaluate`.
        predictions: store of `train`.
        view: stores of the view whose rows are shown as examples.
        subjects: SVG to write, every metric with every subject as a dot.
        confusion: SVG to write, the pooled confusion matrix.
        curves: SVG to write, training curves.
        examples: SVG to write, rows of every class drawn by lot.
        events: TensorBoard event file to write.

    Raises:
        InputError: the view is no picture, or shares no row with the predictions.
    """
    scored = json.loads(Path(scores).read_text("utf-8"))
    predicted = store.open(predictions).load()
    shuffled = [run["shuffled"] for run in predicted.header["runs"]]
    history = pd.DataFrame(predicted.header["curves"])
    classes = predicted.header["classes"]
    chosen = choose(predicted.table, classes)
    rows, header = pictures.load(view, itertools.chain(*chosen.values()))
    with style.styled():
        style.save(subjects_figure(scored), subjects)
        style.save(confusion_figure(scored["confusion"], classes), confusion)
        style.save(curves_figure(history, shuffled), curves)
        style.save(examples_figure(chosen, rows, header), examples)
    real = np.flatnonzero(~np.array(shuffled, bool))
    table = predicted.table
    precision = macro_precision(predicted.array[:, real], table["y"], table["subject"])
    own = history[history["run"].isin(real)] if len(history) else history
    settings = components.hyperparameters(predicted.header["made_by"]["spec"])
    tensorboard.write_events(
        events, list(scalars(own, scored, precision)), tables=[("hyperparameters", settings)]
    )
