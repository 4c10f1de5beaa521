"""The part of the report on experiments whose y is vectors, for `vectors_page.html`."""

from engram.figures.groups import adjust, asked, by_metric
from engram.figures.subjects import title

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
        **asked(members),
        "metrics": [(name, title(name)) for name in dict.fromkeys(every) if name != "r2"],
    }
