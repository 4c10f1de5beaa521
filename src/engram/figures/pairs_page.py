"""The part of the report on experiments whose y is pictures, for `pairs_page.html`."""

import math

from engram.figures.groups import adjust, asked
from engram.figures.retrieval_figure import metrics
from engram.figures.subjects import heights, number
from engram.flags import inflated

TEMPLATE = "pairs_page.html"

STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)  # between ticks of the axis that all dots share
MOST_STEPS = 6


def experiment(this, header, figures, points) -> dict:
    """What the template shows of one experiment.

    Args:
        this: what is shown of an experiment of any task, with its `scores`.
        header: of its predictions.
        figures, points: not needed.
    """
    scores = this["scores"]
    rows = metrics(scores)
    clean = not inflated(scores["flags"])
    return {
        **this,
        "clean": clean,
        "rows": rows,
        "by_name": {row["metric"]: row for row in rows},
        "paired": scores["paired"],
        "baseline": scores["paired"] and scores["baseline"],
        "chosen": {
            "title": f"Epochs chosen on {'held-out concepts' if clean else 'the test pictures'}",
            "lines": _epochs(header),
        },
    }


def _epochs(header):
    """(fold, "12 (seed 0), 9 (control)") of the epochs that were chosen."""
    who = ["control" if run["shuffled"] else f"seed {run['seed']}" for run in header["runs"]]
    return [
        (fold, ", ".join(f"{epoch} ({name})" for epoch, name in zip(epochs, who, strict=True)))
        for fold, epochs in header["chosen"]["epoch"].items()
    ]


def groups(experiments) -> list[dict]:
    """Experiments among the same pictures of one data set, whatever their target.

    `ranked` is best first, `paired` each right below its baseline; those of the published
    protocol stand below their baseline in both.

    Args:
        experiments: from `experiment`; p values adjusted over each group are written into them.
    """
    found = {}
    for this in experiments:
        key = this["config"]["dataset_title"], this["scores"]["candidates"]
        found.setdefault(key, []).append(this)
    return [_group(f"pairs-{i}", *item) for i, item in enumerate(found.items(), 1)]


def _group(anchor, key, members):
    for name, raw in (
        ("p_holm", [m["by_name"]["top1"]["p"] for m in members]),
        ("difference_p_holm", [m["by_name"]["top1"]["difference_p"] for m in members]),
        ("wilcoxon_holm", [m["paired"] and m["paired"]["wilcoxon"] for m in members]),
    ):
        adjust(members, name, raw)
    for member in members:
        member["pairs"] = _pairs(member)
    return {
        "template": TEMPLATE,
        "anchor": anchor,
        "dataset": key[0],
        "target": "pictures",
        "candidates": key[1],
        **asked(members),
        "ranked": ranked(members),
        "paired": _below(members, None),
        "predicted": any(m["by_name"]["top1"]["predicted"] for m in members),
        "heights": heights({s for m in members for s in m["by_name"]["top1"]["subjects"]}),
        "axis": _axis(members),
    }


def ranked(members) -> list[dict]:
    """Experiments of the clean protocol, best first; below each, the published ones beside it."""
    order = sorted(
        (m for m in members if m["clean"]), key=lambda m: -(m["by_name"]["top1"]["value"] or 0)
    )
    for this in (m for m in members if not m["clean"]):
        names = [m["name"] for m in order]
        after = names.index(this["baseline"]) + 1 if this["baseline"] in names else len(order)
        order.insert(after, this)
    return order


def _below(members, baseline):
    """Those of `members` that are compared with `baseline`, each with those below it."""
    names = {m["name"] for m in members}
    found = []
    for this in sorted(members, key=lambda m: m["clean"]):
        if (this["baseline"] if this["baseline"] in names else None) == baseline:
            found += [this, *_below(members, this["name"])]
    return found


def _pairs(member):
    """Top-1 of every subject, and what its baseline reaches: (subject, value, before)."""
    gains = member["paired"]["subjects"] if member["paired"] else {}
    found = []
    for subject, value in sorted(member["by_name"]["top1"]["subjects"].items()):
        gain = gains.get(subject)
        found.append((subject, value, None if gain is None else value - gain))
    return found


def _axis(members):
    """Ends and ticks of the axis on which top-1 of all subjects and experiments is shown."""
    rows = [m["by_name"]["top1"] for m in members]
    values = [row[key] for row in rows for key in ("value", "low", "high", "chance")]
    values += [v for m in members for _, *pair in m["pairs"] for v in pair]
    values = [v for v in values if number(v)]
    low, high = min(values), max(values)
    step = next((s for s in STEPS if (high - low) / s <= MOST_STEPS - 1), STEPS[-1])
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), 1)
    return {
        "low": first * step,
        "high": last * step,
        "ticks": [tick * step for tick in range(first, last + 1)],
        "digits": 1 if step >= 0.1 else 2,
    }
