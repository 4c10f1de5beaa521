"""Scores of one experiment: every subject a dot, the mean with its interval, controls beside."""

import math
from collections.abc import Iterator

from engram.figures import style

#: Names of the metrics for people, and whether less is better.
METRICS = {
    "balanced_accuracy": ("Balanced accuracy", False),
    "auc": ("AUC", False),
    "macro_f1": ("Macro F1", False),
    "macro_precision": ("Macro precision", False),
    "accuracy": ("Accuracy", False),
    "kappa": ("Cohen's κ", False),
    "brier": ("Brier score", True),
    "ece": ("Calibration error", True),
    "r2": ("R²", False),
    "r2_of_ceiling": ("R² of ceiling", False),
    "pearson_r": ("Pearson r", False),
    "spearman_r": ("Spearman ρ", False),
    "mae": ("Mean absolute error", True),
    "pixcorr": ("PixCorr", False),
    "ssim": ("SSIM", False),
    "ssim_columns": ("SSIM of columns", False),
    "pixcorr_mindeye": ("PixCorr, mindeye", False),
    "ssim_mindeye": ("SSIM, mindeye", False),
}


def title(metric) -> str:
    """The name of a metric for people, with an arrow if less is better."""
    told = metric.replace("_two_way", " 2-way").replace("_", " ")
    name, less = METRICS.get(metric, (told, metric.endswith("_distance")))
    return f"{name} ↓" if less else name


def number(value) -> bool:
    """Whether a value of the scores is there: JSON has null where a metric is undefined."""
    return value is not None and math.isfinite(value)


def scalars(scored, predicted) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of the scores for TensorBoard, at step 0: nothing is iterated.

    Args:
        scored: the scores of the experiment.
        predicted: not needed.
    """
    for row in scored["metrics"]:
        if number(row["value"]):
            yield f"Test/{row['metric']}", 0, float(row["value"])


def heights(subjects) -> dict[str, float]:
    """Where in a row the dot of each subject sits, -1..1: the same in every row."""
    names = sorted(subjects)
    return {name: 2 * i / max(len(names) - 1, 1) - 1 for i, name in enumerate(names)}


def subjects_figure(scores):
    """Figure of all metrics of one experiment.

    Args:
        scores: the scores of an experiment, as `evaluate` writes them.
    """
    rows = [row for row in scores["metrics"] if number(row["value"])]
    made = style.figure(6.4, 0.9 + 0.52 * len(rows))
    axes = made.subplots()
    height = heights({name for row in rows for name in row["subjects"]})
    for place, row in enumerate(rows):
        _row(axes, place, row, height)
    axes.set_yticks(range(len(rows)), [title(row["metric"]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    _legend(made, axes, scores)
    return made


def _row(axes, place, row, height):
    dots = [(v, place + 0.24 * height[s]) for s, v in row["subjects"].items() if number(v)]
    if dots:
        axes.scatter(*zip(*dots, strict=True), s=13, color=style.GREY, alpha=0.55, linewidths=0)
    marks = (("chance", "|", style.INK, 130), ("control", "x", style.PINK, 30))
    for key, marker, colour, size in marks:
        if number(row[key]):
            axes.scatter(row[key], place, s=size, marker=marker, color=colour, linewidths=1.3)
    if number(row["baseline"]):
        axes.scatter(row["baseline"], place, s=26, marker="D", color=style.ORANGE, linewidths=0)
    if number(row["low"]) and number(row["high"]):
        axes.plot([row["low"], row["high"]], [place, place], color=style.BLUE, linewidth=2.4)
    axes.scatter(row["value"], place, s=44, color=style.BLUE, linewidths=0, zorder=3)


def _legend(made, axes, scores):
    def entry(label, marker, colour, size):
        return axes.scatter([], [], marker=marker, color=colour, s=size, label=label)

    entries = [
        entry("one subject", "o", style.GREY, 13),
        entry("mean, 95 % interval", "o", style.BLUE, 44),
        entry("chance", "|", style.INK, 90),
    ]
    if any(number(row["control"]) for row in scores["metrics"]):
        entries.append(entry("shuffled labels", "x", style.PINK, 30))
    if any(number(row["baseline"]) for row in scores["metrics"]):
        entries.append(entry("baseline", "D", style.ORANGE, 26))
    made.legend(handles=entries, loc="outside upper left", ncols=len(entries), columnspacing=1.2)
