"""The part of the report on experiments whose y is vectors, for `vectors_page.html`."""

from engram.figures.groups import adjust, by_metric
from engram.figures.subjects import number, title
from engram.flags import inflated

TEMPLATE = "vectors_page.html"


def experiment(this, header, figures, points) -> dict:
    """What the template shows of one experiment.

    Args:
        this: what is shown of an experiment of any task, with its `scores`.
        header: of its predictions.
        figures, points: not needed.
    """
    return by_metric(
        this, header, "Chosen within the training images, for the model and its control"
    )


def groups(experiments) -> list[dict]:
    """Experiments on the same data set, target and protocol, whose scores can be compared."""
    found = {}
    for this in experiments:
        key = this["config"]["dataset_title"], this["target"], this["scores"]["protocol"]
        found.setdefault(key, []).append(this)
    return [_group(f"vectors-{i}", *key[:2], of) for i, (key, of) in enumerate(found.items(), 1)]


def _group(anchor, dataset, target, members):
    """Adjusts p over the members."""
    for name in ("p", "difference_p"):
        adjust(members, f"{name}_holm", [m["by_name"]["r2"][name] for m in members])
    every = [name for m in members for name in m["by_name"]]
    return {
        "template": TEMPLATE,
        "anchor": anchor,
        "dataset": dataset,
        "target": target,
        "experiments": members,
        "metrics": [(name, title(name)) for name in dict.fromkeys(every) if name != "r2"],
    }


def summary(group) -> str:
    """One sentence: how many experiments on how many subjects, and what they explain."""
    members = group["experiments"]
    n = members[0]["scores"]["sample"]["subjects"]
    text = f"{len(members)} experiment{'s' * (len(members) != 1)} on {group['dataset']}, "
    text += f"{n} subject{'s' * (n != 1)}"
    rows = [m["by_name"]["r2"] for m in members if not inflated(m["scores"]["flags"])]
    values = sorted(row["value"] for row in rows if number(row["value"]))
    if values:
        span = dict.fromkeys(f"{value:z.3f}".replace("-", "−") for value in (values[0], values[-1]))
        text += f": R² of {group['target']} {' to '.join(span)}"
    return f"{text}."
