"""Scores of a retrieval experiment: every subject a dot, and the scores among k pictures."""

import re

from engram.figures import style
from engram.figures.subjects import heights, number

#: Metrics in the order shown, with their names for people.
TITLES = {
    "top1": "Top-1",
    "top3": "Top-3",
    "top5": "Top-5",
    "mrr": "Mean reciprocal rank",
    "median_rank": "Median rank ↓",
    "mean_rank": "Mean rank ↓",
    "reverse_top1": "Top-1, from the picture to its EEG",
    "reverse_top5": "Top-5, from the picture to its EEG",
}
SHOWN = ("top1", "top3", "top5")


def metrics(scored) -> list[dict]:
    """The metrics in the order shown, each with `title`, `digits`, `k` and `predicted` added.

    Ranks come first, then two-way, four-way and so on; last what pictures find.

    Args:
        scored: scores of an experiment whose y is pictures.
    """
    rows = []
    for row in scored["metrics"]:
        name = row["metric"]
        of = k(name)
        shown = {
            "title": TITLES.get(name, f"{of}-way" if of else name.replace("_", " ")),
            "digits": 1 if name.endswith("_rank") else 3,
            "k": of,
            "predicted": scored["predicted"].get(name),
        }
        rows.append({**row, **shown})
    places = {name: place for place, name in enumerate(TITLES)}
    return sorted(rows, key=lambda row: (_last(row), row["k"] or 0, places.get(row["metric"], 9)))


def _last(row):
    return row["metric"].startswith("reverse_")


def k(name) -> int | None:
    """Of how many pictures the metric called `name` picks one: 4 of "4_way"."""
    found = re.fullmatch(r"(\d+)[_-]way", name)
    return int(found[1]) if found else None


def retrieval_figure(scored):
    """Figure of two panels: top-1, 3 and 5 with every subject; the choice among k pictures.

    Args:
        scored: scores of a retrieval experiment.
    """
    rows = [row for row in metrics(scored) if row["metric"] in SHOWN and number(row["value"])]
    made = style.figure(10.6, 3.1)
    left, right = made.subplots(1, 2, width_ratios=(3, 2))
    height = heights({subject for row in rows for subject in row["subjects"]})
    for place, row in enumerate(rows):
        _row(left, place, row, height)
    left.set_yticks(range(len(rows)), [row["title"] for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_xlim(left=-0.015)  # room for marks at zero
    left.tick_params(axis="y", length=0)
    left.spines["left"].set_visible(False)
    left.grid(axis="x", color=style.FAINT, linewidth=0.6)
    left.set_title(f"Found among {scored['candidates']} pictures")
    _ways(right, scored)
    for axes in (left, right):
        axes.set_axisbelow(True)
    _legend(made, left, rows)
    return made


def _row(axes, place, row, height):
    if row["predicted"]:
        low, high = row["predicted"]
        axes.fill_betweenx([place - 0.36, place + 0.36], low, high, **PREDICTED)
    dots = [(v, place + 0.26 * height[s]) for s, v in row["subjects"].items() if number(v)]
    if dots:
        axes.scatter(*zip(*dots, strict=True), s=14, color=style.GREY, alpha=0.55, linewidths=0)
    axes.plot([row["chance"]] * 2, [place - 0.36, place + 0.36], **CHANCE)
    if number(row["low"]) and number(row["high"]):
        axes.plot([row["low"], row["high"]], [place, place], color=style.BLUE, linewidth=2.4)
    axes.scatter(row["value"], place, s=44, color=style.BLUE, linewidths=0, zorder=3)
    if number(row["control"]):
        axes.scatter(row["control"], place, s=34, zorder=4, **CONTROL)


CHANCE = {"color": style.INK, "linewidth": 1, "linestyle": (0, (3, 2))}
CONTROL = {"facecolors": "white", "edgecolors": style.PINK, "linewidths": 1.4}
PREDICTED = {"color": style.GREEN, "alpha": 0.18, "linewidth": 0}


def _ways(axes, scored):
    """Share found among 2, 4, 10 ... pictures; among all of them that is top-1."""
    rows = [{**row, "k": scored["candidates"] if row["metric"] == "top1" else row["k"]}
            for row in metrics(scored) if number(row["value"])]  # fmt: skip
    among = {row["k"]: row for row in sorted(rows, key=lambda row: row["k"] or 0) if row["k"]}
    axes.plot(list(among), [row["value"] for row in among.values()], color=style.BLUE, linewidth=1)
    axes.plot(list(among), [row["chance"] for row in among.values()], **CHANCE)
    for k, row in among.items():
        if number(row["low"]) and number(row["high"]):
            axes.plot([k, k], [row["low"], row["high"]], color=style.BLUE, linewidth=2.4)
        axes.scatter(k, row["value"], s=36, color=style.BLUE, linewidths=0, zorder=3)
        if number(row["control"]):
            axes.scatter(k, row["control"], s=30, zorder=3, **CONTROL)
    axes.set_xscale("log")
    axes.set_xticks(list(among), [str(k) for k in among])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_xlabel("pictures to choose from")
    axes.set_title("Right choice among k pictures")


def _legend(made, axes, rows):
    entries = [
        axes.scatter([], [], s=14, color=style.GREY, alpha=0.6, label="one subject"),
        axes.scatter([], [], s=44, color=style.BLUE, label="mean, 95 % interval"),
        axes.plot([], [], label="chance", **CHANCE)[0],
    ]
    if any(number(row["control"]) for row in rows):
        label = "trained on shuffled pairs"
        entries.append(axes.scatter([], [], s=34, label=label, **CONTROL))
    if any(row["predicted"] for row in rows):
        label = "what the simulation predicts"
        entries.append(axes.fill_between([], [], [], label=label, **PREDICTED))
    made.legend(handles=entries, loc="outside upper left", ncols=len(entries), columnspacing=1.2)
