"""Training curves: loss, balanced accuracy and learning rate over the epochs."""

import pandas as pd

from engram.figures import style

PANELS = (
    ("Loss", ("train_loss", "validation_loss")),
    ("Balanced accuracy", ("train_mAR", "validation_mAR")),
    ("Learning rate", ("lr",)),
)
COLOURS = {"train": style.BLUE, "validation": style.ORANGE, "lr": style.GREY}


def curves_figure(curves: pd.DataFrame, shuffled: list[bool]):
    """Figure of the curves of one experiment; the mean over folds and runs, each fold behind it.

    Args:
        curves: one row a fold, run and epoch (see `engram.training.Fit`); may be empty.
        shuffled: for each run, whether it is the control with shuffled labels.
    """
    panels = [(name, [c for c in columns if c in curves]) for name, columns in PANELS]
    panels = [(name, columns) for name, columns in panels if columns]
    made = style.figure(10.6 if panels else 4, 2.7 if panels else 0.6)
    if not panels:
        made.text(0.5, 0.5, "nothing is iterated: this head has no training curve", ha="center")
        return made
    control = curves["run"].map(dict(enumerate(shuffled))).astype(bool)
    for axes, (name, columns) in zip(
        made.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for column in columns:
            _curve(axes, curves[~control], column)
            if column.startswith("validation") and control.any():
                mean = curves[control].groupby("epoch")[column].mean()
                axes.plot(
                    mean, color=style.PINK, linestyle="--", label="validation, shuffled labels"
                )
        axes.set_title(name)
        axes.set_xlabel("epoch")
        if len(columns) > 1:
            axes.legend()
        else:
            axes.set_yscale("log")
    return made


def _curve(axes, curves, column):
    name = column.partition("_")[0]
    folds = curves.groupby(["epoch", "fold"])[column].mean().unstack()
    axes.plot(folds, color=COLOURS[name], alpha=0.22, linewidth=0.7)
    axes.plot(folds.mean(axis=1), color=COLOURS[name], linewidth=1.8, label=name)
