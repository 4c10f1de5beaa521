"""Stage gallery: the figures of one retrieval experiment, and its scalars for TensorBoard."""

import json
from pathlib import Path

import pandas as pd

from engram import store
from engram.errors import InputError
from engram.figures import pictures, style, tensorboard
from engram.figures.gallery_figure import examples, gallery_figure
from engram.figures.importance_figure import importance_figure
from engram.figures.repetitions_figure import repetitions_figure
from engram.figures.retrieval_figure import metrics, retrieval_figure
from engram.figures.training_figure import training_figure
from engram.planning import components


def gallery(
    scores, predictions, view, retrieval, repetitions, training, importance, gallery, events
):
    """Draw the figures of one retrieval experiment.

    Args:
        scores: JSON file of `retrieve`.
        predictions: store of `align`: similarities (n, runs, m) to all m candidates.
        view: stores of the view that holds the candidate pictures.
        retrieval: SVG to write, every subject as a dot, and the scores among k pictures.
        repetitions: SVG to write, scores by number of test repetitions averaged.
        training: SVG to write, curves over the epochs.
        importance: SVG to write, what is lost without a time window or a channel.
        gallery: PNG to write, pictures and the five nearest to the EEG.
        events: TensorBoard event file to write.

    Raises:
        InputError: the predictions hold no similarities, name a picture as true that is no
            candidate, or the view lacks a picture.
    """
    scored = json.loads(Path(scores).read_text("utf-8"))
    predicted = store.open(predictions).load()
    if predicted.header.get("what") != "similarities":
        raise InputError(
            f"{predictions}: holds no similarities to candidates; train the experiment again"
        )
    unknown = set(predicted.table["stimulus"]) - set(predicted.header["candidates"])
    if unknown:
        raise InputError(
            f"{predictions}: {min(unknown)} was shown but is no candidate; train it again"
        )
    chosen = examples(predicted)
    shown = {name for one in chosen for name in (one["name"], *one["nearest"])}
    rows, header = pictures.load(view, shown)
    if missing := shown - set(rows):
        raise InputError(f"{view[0]}: lacks the picture {min(missing)}; render the view again")
    with style.styled():
        style.save(retrieval_figure(scored), retrieval)
        style.save(repetitions_figure(scored), repetitions)
        style.save(training_figure(scored), training)
        style.save(importance_figure(scored.get("importance")), importance)
        made = gallery_figure(chosen, rows, header, simulated=scored["simulated"])
        style.save(made, gallery, dpi=150)
    settings = components.hyperparameters(predicted.header["made_by"]["spec"])
    tensorboard.write_events(events, list(scalars(scored)), tables=[("hyperparameters", settings)])


def scalars(scored):
    """(tag, step, value) of one experiment, the step being the epoch; controls are left out.

    `Train/` and `Validation/` hold one curve a seed, the mean over folds.  `Test/` holds the
    scores, at the last epoch.

    Args:
        scored: the scores of the experiment.
    """
    curves = pd.DataFrame(scored["curves"])
    last = 0
    if len(curves):
        own = curves[~curves["shuffled"].astype(bool)]
        last = int(own["epoch"].max()) if len(own) else 0
        for column in curves.columns.drop(["fold", "seed", "shuffled", "epoch"]):
            part, _, name = column.partition("_")
            validates = part in ("validation", "score")  # the score is what chooses the epoch
            tag = f"Validation/{name or column}" if validates else f"Train/{column}"
            means = pd.to_numeric(own[column]).groupby([own["seed"], own["epoch"]]).mean()
            for (seed, epoch), value in means.dropna().items():
                yield f"{tag}/seed {seed}", int(epoch), float(value)
    for row in metrics(scored):
        if row["value"] is not None:
            yield f"Test/{row['metric']}", last, float(row["value"])
