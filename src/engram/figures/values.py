"""Figures of experiments whose y is numbers, and their scalars for TensorBoard."""

import numpy as np

from engram.figures import style
from engram.figures.subjects import number, scalars

__all__ = ["draw", "scalars"]

SMALL, LARGE = 9, 26  # area of the dot of a row and of a subject, in square points


def draw(scored, predicted, view, importance, figures):
    """Draw `predicted`, what is predicted against what is true, and `residuals`.

    A dot is a subject; where numbers vary within a scan, a row, in the colour of its subject.

    Args: as for `engram.figures.plot.plot`, read; `view` and `importance` are not needed.
    """
    points = _rows(predicted) if scored["level"] == "within" else _people(scored)
    style.save(predicted_figure(scored, *points), figures["predicted"])
    style.save(residuals_figure(scored, *points), figures["residuals"])


def name(scored) -> str:
    """What the numbers are, with their unit: "age (years)"."""
    return scored["column"] + (f" ({scored['unit']})" if scored["unit"] else "")


def _people(scored):
    people = scored["people"]
    true, predicted = (np.array([one[key] for one in people]) for key in ("true", "predicted"))
    return true, predicted, style.BLUE, LARGE


def _rows(predicted):
    real = [not run["shuffled"] for run in predicted.header["runs"]]
    subjects = predicted.table["subject"].to_numpy(str)
    shades = style.colours(subjects)
    mean = predicted.array[:, real, 0].mean(1)
    return predicted.table["y"].to_numpy(), mean, [shades[one] for one in subjects], SMALL


def predicted_figure(scored, true, predicted, colours, size):
    """Predicted against true numbers, with the line on which both are the same.

    Args:
        scored: the scores of an experiment.
        true, predicted: float (n,).
        colours: one, or n; size: of the dots.
    """
    made = style.figure(4.4, 4.2)
    axes = made.subplots()
    ends = np.array([min(true.min(), predicted.min()), max(true.max(), predicted.max())])
    ends += np.array([-0.04, 0.04]) * (np.ptp(ends) or 1)
    axes.plot(ends, ends, color=style.INK, linewidth=1, linestyle="--")
    axes.scatter(true, predicted, s=size, c=colours, alpha=0.7, linewidths=0)
    axes.set(xlim=ends, ylim=ends, xlabel=f"true {name(scored)}", ylabel="predicted")
    axes.set_aspect("equal")
    axes.set_title(_title(scored))
    return made


def residuals_figure(scored, true, predicted, colours, size):
    """What is predicted too much, against what is true, and how often each. Args: as above."""
    made = style.figure(6.4, 2.9)
    axes, counts = made.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    residual = predicted - true
    for one in (axes, counts):
        one.axhline(0, color=style.INK, linewidth=1, linestyle="--")
    axes.scatter(true, residual, s=size, c=colours, alpha=0.7, linewidths=0)
    axes.set(xlabel=f"true {name(scored)}", ylabel="predicted − true")
    counts.hist(residual, bins="sturges", orientation="horizontal", color=style.GREY)
    counts.set_xlabel("rows" if scored["level"] == "within" else "subjects")
    return made


def _title(scored):
    values = {row["metric"]: row["value"] for row in scored["metrics"]}
    shown = (("R²", "r2"), ("r", "pearson_r"))
    return ", ".join(f"{text} {values[key]:.2f}" for text, key in shown if number(values[key]))
