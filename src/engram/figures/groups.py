"""Experiments that stand in one table of the report."""

import json
import math

from engram.measures.inference import holm


def by_target(experiments) -> dict[tuple[str, str], list[dict]]:
    """Experiments on the same data set and target, whose scores can be compared."""
    found = {}
    for this in experiments:
        found.setdefault((this["config"]["dataset_title"], this["target"]), []).append(this)
    return found


def adjust(members, name, ps):
    """Set `name` of each member to its p, adjusted over all by Holm; NaN where it has none."""
    adjusted = holm([math.nan if p is None else p for p in ps])
    for member, value in zip(members, adjusted, strict=True):
        member[name] = float(value)


def by_metric(this, header, chosen) -> dict:
    """What every page needs of an experiment beside `this`: its scores by name, what was chosen.

    Args:
        this: what is shown of an experiment of any task, with its `scores`.
        header: of its predictions.
        chosen: a title of what was chosen.
    """
    return {
        **this,
        "by_name": {row["metric"]: row for row in this["scores"]["metrics"]},
        "chosen": {
            "title": chosen,
            "lines": [(key, json.dumps(value)) for key, value in header.get("chosen", {}).items()],
        },
    }
