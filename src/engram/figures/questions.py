"""The question that each task asks, and how it is answered, in words."""

from typing import NamedTuple

#: What scores hold for, by `generalises_to`, as a sentence goes on.
SCOPES = {
    "new time blocks of known subjects, purged": "in new time blocks of known subjects",
    "LEAKS: random windows of known scans": "in random windows of known scans",
    "another data set, nothing trained": "in another data set",
    "new pictures, a known subject": "for known subjects and new pictures",
    "new pictures, known subjects, one model for all": "for known subjects and new pictures, with "
    "one model for all",
    "new pictures, new subjects": "for new subjects and new pictures",
}


#: Names of scores in a sentence.
NAMES = {"r2": "R²", "top1": "top-1"}


class Words(NamedTuple):
    """How the question of a task is put and answered.

    Attributes:
        metric: the score that answers it; digits: of its numbers.
        question: without its scope and question mark.
        told: what an experiment does, after its title; untold: that none does.
    """

    metric: str
    digits: int
    question: str
    told: str
    untold: str


def words(this) -> Words:
    """The words for an experiment.

    Args:
        this: dict with task, target and scores.
    """
    return WORDS[this["task"]](this["scores"], this["target"])


def _classes(scores, target):
    *most, last = scores["classes"]
    asked = f"{', '.join(most)} or {last}"
    if len(most) == 1:
        told = f"tells {most[0]} from {last}"
        untold = f"{_capital(most[0])} could not be told from {last}"
    else:
        told = f"tells {', '.join(most)} and {last} apart"
        untold = f"{_capital(', '.join(most))} and {last} could not be told apart"
    return Words(scores["metrics"][0]["metric"], 2, _capital(asked), told, untold)


def _values(scores, target):
    name = scores["column"]
    return Words(
        "r2", 2, f"Can {name} be predicted", f"predicts {name}",
        f"{_capital(name)} could not be predicted",
    )  # fmt: skip


def _pairs(scores, target):
    which = f"which of {scores['candidates']} pictures was seen"
    untold = f"{_capital(which)} could not be told"
    return Words("top1", 3, _capital(which), f"tells {which}", untold)


def _vectors(scores, target):
    return Words(
        "r2",
        3,
        f"Can {target} be predicted",
        f"predicts {target}",
        f"{target} could not be predicted",
    )


def _pictures(scores, target):
    names = [row["metric"] for row in scores["metrics"]]
    told = [name for name in names if name.endswith("_two_way")]
    return Words(
        [*names[:1], *told][-1], 2, "Are decoded pictures like what was seen",
        "draws pictures like what was seen",
        "Decoded pictures were not shown to be more like what was seen than like other images",
    )  # fmt: skip


WORDS = {
    "classes": _classes,
    "values": _values,
    "pairs": _pairs,
    "vectors": _vectors,
    "pictures": _pictures,
}


def scope(generalises_to) -> str:
    """Where a score holds, as a sentence goes on: "in new subjects"."""
    return SCOPES.get(generalises_to, f"in {generalises_to}")


def _capital(text):
    return text[:1].upper() + text[1:]
