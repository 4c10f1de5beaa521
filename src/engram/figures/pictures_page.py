"""The part of the report on experiments that compare pictures, for `pictures_page.html`."""

import json
from itertools import groupby

from engram.figures.groups import adjust, asked, by_metric
from engram.figures.questions import words
from engram.figures.subjects import number

TEMPLATE = "pictures_page.html"


def experiment(this, header, figures, points) -> dict:
    """What the template shows of one experiment.

    Args:
        this: what is shown of an experiment of any task, with its `scores`.
        header: of its predictions.
        figures: path by file name.
        points: not needed.
    """
    shown = by_metric(this, header, "")
    return shown | {"gallery": _gallery(figures.get("gallery.json"))}


def _gallery(path):
    """What `engram.figures.pictures.gallery` found, its lines grouped by why they are shown."""
    if path is None:
        return None
    found = json.loads(path.read_text("utf-8"))
    kinds = groupby(found["lines"], key=lambda line: line["why"])
    return found | {"kinds": [(why, list(lines)) for why, lines in kinds]}


def groups(experiments) -> list[dict]:
    """Experiments on the same images, protocol, dialect and size, whose scores can be compared."""
    found = {}
    for this in experiments:
        scores = this["scores"]
        compared = tuple(scores["comparison"].values())
        key = this["config"]["dataset_title"], this["target"], scores["protocol"], compared
        found.setdefault(key, []).append(this)
    return [_group(f"pictures-{i}", *key[:2], of) for i, (key, of) in enumerate(found.items(), 1)]


def _group(anchor, dataset, target, members):
    """Adjusts p of every measure over the members."""
    names = list(dict.fromkeys(name for m in members for name in m["by_name"]))
    for name in names:
        rows = [m["by_name"].get(name) for m in members]
        for p in ("p", "difference_p"):
            ps = [row and row[p] for row in rows]
            adjust(members, f"{p}_holm", ps, [row or {} for row in rows])
    return {
        "template": TEMPLATE,
        "anchor": anchor,
        "dataset": dataset,
        "target": target,
        **asked(members),
        "metrics": names,
        "told": words(members[0]).metric,
        "paired": [m for m in members if any(number(r["baseline"]) for r in m["by_name"].values())],
    }
