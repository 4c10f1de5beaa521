"""Confusion matrix of one experiment: all held-out windows pooled, rows add up to 100 %."""

import numpy as np

from engram.figures import style


def confusion_figure(counts, classes):
    """Figure of a confusion matrix.

    Args:
        counts: windows (true class, predicted class), shape (classes, classes).
        classes: their names.
    """
    counts = np.asarray(counts, float)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    made = style.figure(1.5 + 0.9 * len(classes), 1.1 + 0.75 * len(classes))
    axes = made.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(share):
        colour = "white" if value > 0.55 else style.INK
        text = f"{100 * value:.0f} %\n"
        place = {"ha": "center", "va": "center", "color": colour}
        axes.text(column, row, text, fontsize=13, fontweight="bold", **place)
        axes.text(column, row, f"\n\n{counts[row, column]:.0f} windows", fontsize=8, **place)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return made
