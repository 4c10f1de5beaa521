"""The part of the report on experiments whose y is numbers, for `values_page.html`."""

import math

from engram.figures.groups import adjust, asked, by_metric, by_target

TEMPLATE = "values_page.html"

SIDE = 240  # of the plot of predicted against true numbers, in its own units
MOST_TICKS = 6


def experiment(this, header, figures, points) -> dict:
    """What the template shows of one experiment.

    Args:
        this: what is shown of an experiment of any task, with its `scores`.
        header: of its predictions.
        figures, points: not needed.
    """
    shown = by_metric(this, header, "Chosen within the training rows")
    return shown | {"plot": _plot(this["scores"]["people"])}


def _plot(people):
    """Places of all subjects and of the ticks that both axes share."""
    values = [one[key] for one in people for key in ("true", "predicted")]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 1
    low, high = low - margin, high + margin

    def at(value):
        return round(SIDE * (value - low) / (high - low), 1)

    dots = [{**one, "x": at(one["true"]), "y": SIDE - at(one["predicted"])} for one in people]
    step = _step(high - low)
    first, last = math.ceil(low / step), math.floor(high / step)
    ticks = [(at(tick * step), f"{tick * step:.10g}") for tick in range(first, last + 1)]
    return {"dots": dots, "ticks": ticks, "side": SIDE}


def _step(span):
    """The least of 1, 2, 5, 10, ... times a power of ten that needs few ticks."""
    unit = 10 ** math.floor(math.log10(span / MOST_TICKS))
    return next(step * unit for step in (1, 2, 5, 10) if span / (step * unit) <= MOST_TICKS)


def groups(experiments) -> list[dict]:
    """Experiments on the same data set and target, whose scores can be compared."""
    found = by_target(experiments).items()
    return [_group(f"values-{i}", *key, members) for i, (key, members) in enumerate(found, 1)]


def _group(anchor, dataset, target, members):
    """Adjusts p over the members."""
    for key in ("p", "difference_p"):
        adjust(members, f"{key}_holm", [m["by_name"]["r2"][key] for m in members])
    return {
        "template": TEMPLATE,
        "anchor": anchor,
        "dataset": dataset,
        "target": target,
        **asked(members),
        "unit": members[0]["scores"]["unit"],
        "within": members[0]["scores"]["level"] == "within",
    }
