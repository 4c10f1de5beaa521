"""The part of the report on experiments whose y is classes, for `classes_page.html`."""

import json
import math
from pathlib import Path

from engram.figures import map_panels
from engram.figures.groups import adjust, asked, by_target
from engram.figures.style import colours
from engram.figures.subjects import heights, number

TEMPLATE = "classes_page.html"


def experiment(this, header, figures, points) -> dict:
    """What the template shows of one experiment.

    Args:
        this: what is shown of an experiment of any task, with its `scores`.
        header: of its predictions.
        figures: path by file name.
        points: most points of its map.
    """
    name = this["name"]
    return {
        **this,
        "first": this["scores"]["metrics"][0],
        "chosen": {
            "title": "Chosen on validation windows",
            "lines": [(key, json.dumps(value)) for key, value in header.get("chosen", {}).items()],
        },
        "iterated": bool(header["curves"]),
        "map": _map(name, figures["map.json"], points) if "map.json" in figures else None,
    }


def _map(name, path, points):
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    document, panels = map_panels.document(data, points)
    for place, panel in enumerate(panels):
        panel["element"] = f"{name}-map-{place}"
    roots = {panel["root"]: panel["element"] for panel in panels}
    shown = min(points, len(data["points"]["x"]))
    embedded = json.dumps({"document": document, "roots": roots}, allow_nan=False)
    return {
        **data,
        "shown": shown,
        "panels": panels,
        "json": embedded.replace("<", "\\u003c"),
    }


def groups(experiments) -> list[dict]:
    """Experiments on the same data set and target, whose scores can be compared."""
    found = by_target(experiments).items()
    return [_group(f"group-{i}", *key, members) for i, (key, members) in enumerate(found, 1)]


def _group(anchor, dataset, target, members):
    """Adjusts p over the members and finds the axis that all their dots share."""
    for key in ("p", "difference_p"):
        adjust(members, f"{key}_holm", [m["first"][key] for m in members])
    group, seen = asked(members), {}
    for member in group["experiments"]:  # those on one view show the same examples: once is enough
        member["examples_of"] = seen.setdefault(member["images"].get("examples"), member)
    return {
        "template": TEMPLATE,
        "anchor": anchor,
        "dataset": dataset,
        "target": target,
        **group,
        "metrics": [row["metric"] for row in members[0]["scores"]["metrics"]],
        "colours": colours(members[0]["scores"]["classes"]),
        "axis": _axis([m["first"] for m in members]),
        "heights": heights({s for m in members for s in m["first"]["subjects"]}),
    }


def _axis(rows):
    """Lowest and highest tenth that the dots, intervals, nulls and controls of `rows` need."""
    keys = ("value", "low", "high", "chance", "null_low", "null_high", "control")
    values = [row.get(key) for row in rows for key in keys]
    values += [value for row in rows for value in row["subjects"].values()]
    values = [value for value in values if number(value)] or [0, 1]
    return math.floor(10 * min(values) - 0.2) / 10, math.ceil(10 * max(values) + 0.2) / 10
