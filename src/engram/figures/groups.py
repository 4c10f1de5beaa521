"""Experiments that stand in one table of the report."""

import json
import math

from engram.figures.findings import found, question
from engram.flags import inflated
from engram.measures.inference import holm


def by_target(experiments) -> dict[tuple[str, str], list[dict]]:
    """Experiments on the same data set and target, whose scores can be compared."""
    found = {}
    for this in experiments:
        found.setdefault((this["config"]["dataset_title"], this["target"]), []).append(this)
    return found


def adjust(members, name, ps, rows=None):
    """Set `name` of each member to its p, adjusted (Holm) over its question; NaN where it has none.

    Experiments of a question hold for the same, such as new subjects; those whose scores are no
    estimate for new data are not among them.

    Args:
        members: experiments; name: the key; ps: of each, or None.
        rows: of each, what the p is set of; by default the member itself.
    """
    of = {}
    for place, this in enumerate(members):
        key = this["scores"]["generalises_to"], inflated(this["flags"])
        of.setdefault(key, []).append(place)
    for places in of.values():
        adjusted = holm([math.nan if ps[i] is None else ps[i] for i in places])
        for i, value in zip(places, adjusted, strict=True):
            (rows or members)[i][name] = float(value)


def asked(members) -> dict:
    """What every page needs of a group: what it asks, what was found, and its rows in order.

    Warnings that hold of all stand with the group, the others stay with each experiment.

    Rows: first those that the study asks, then baselines, then automatic ones; last, whoever they
    are, those whose scores are no estimate for new data.
    """

    def place(this):
        automatic = bool(this["config"].get("automatic"))
        return inflated(this["flags"]), automatic, this["name"] in baselines

    honest = [this for this in members if not inflated(this["flags"])]
    scopes = {this["scores"]["generalises_to"] for this in honest}
    baselines = {this["scores"]["baseline"] for this in honest}
    first, *others = (this["scores"]["warnings"] for this in members)
    shared = [text for text in first if all(text in own for own in others)]
    for this in members:
        this["warnings"] = [text for text in this["scores"]["warnings"] if text not in shared]
    return {
        "question": question(honest or members),
        "found": found(members),
        "experiments": sorted(members, key=place),
        "warnings": shared,
        "mixed": len(scopes) > 1,
    }


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
