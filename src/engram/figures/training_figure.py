"""Training of a retrieval experiment: loss, validation scores and temperature over the epochs."""

import pandas as pd

from engram.figures import style

PANELS = {
    "loss": "Training loss",
    "validation_top1": "{part}, top-1",
    "validation_top5": "{part}, top-5",
    "temperature": "Temperature",
}


def history(header) -> pd.DataFrame:
    """Training curves, one row a fold, run and epoch, with the seed and whether it is a control.

    Args:
        header: of the predictions.
    """
    curves = pd.DataFrame(header["curves"])
    return curves.join(pd.DataFrame(header["runs"]), on="run") if len(curves) else curves


def training_figure(header):
    """Figure of the curves: one line a seed, the mean over folds; a dot at each epoch chosen.

    Args:
        header: of the predictions, with `curves`, `runs`, `chosen` and `flags`.
    """
    curves = history(header)
    panels = [name for name in PANELS if name in curves and curves[name].notna().any()]
    if not panels:
        return style.words("nothing is iterated: there is no training curve")
    made = style.figure(10.6, 2.7)
    part = "Test pictures" if "published_protocol" in header["flags"] else "Validation"
    curves[panels] = curves[panels].astype(float)
    widths = [2 if name == "temperature" else 3 for name in panels]
    drawn = made.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axes, name in zip(drawn, panels, strict=True):
        for (shuffled, _), own in curves.groupby(["shuffled", "seed"]):
            look = CONTROL if shuffled else REAL
            axes.plot(own.groupby("epoch")[name].mean(), **look)
        if name.startswith("validation"):
            chosen = at_chosen(curves, header["chosen"]["epoch"], name)
            axes.scatter(chosen["epoch"], chosen[name], zorder=3, **CHOSEN)
            axes.set_ylim(bottom=0)
        _span(axes)
        axes.set_title(PANELS[name].format(part=part))
        axes.set_xlabel("epoch")
    _legend(made, drawn[0], curves)
    return made


def at_chosen(curves, chosen, column) -> pd.DataFrame:
    """Rows of `curves` at the epoch chosen in each fold and run, controls left out.

    Args:
        curves: from `history`.
        chosen: {fold: the epoch of each run}.
        column: of the curves; rows without a value are left out.
    """
    epoch = [chosen[fold][run] for fold, run in zip(curves["fold"], curves["run"], strict=True)]
    at = (curves["epoch"] == epoch) & ~curves["shuffled"].astype(bool)
    return curves[at & curves[column].notna()]


def _span(axes):
    """Whole epochs, and an ordinate on which what hardly moves looks so."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    low, high = axes.get_ylim()
    missing = max(LEAST - (high - low), 0) / 2
    axes.set_ylim(low - missing, high + missing)


LEAST = 0.005  # of an ordinate
REAL = {"color": style.BLUE, "linewidth": 1.4, "alpha": 0.85}
CONTROL = {"color": style.PINK, "linewidth": 1.2, "linestyle": "--"}
CHOSEN = {"s": 14, "color": style.ORANGE, "alpha": 0.75, "linewidths": 0}


def _legend(made, axes, curves):
    entries = [
        axes.plot([], [], label="one seed, mean over folds", **REAL)[0],
        axes.scatter([], [], label="epoch chosen in a fold", **CHOSEN),
    ]
    if curves["shuffled"].any():
        entries.append(axes.plot([], [], label="trained on shuffled pairs", **CONTROL)[0])
    made.legend(handles=entries, loc="outside upper left", ncols=len(entries), columnspacing=1.2)
