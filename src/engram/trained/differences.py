"""In what a data set differs from the one that a model was trained on, measured."""

import numpy as np

from engram import store
from engram.store import differences
from engram.training import subject_weights


def measured(model, task, known, x, y, unlike) -> dict:
    """What is said beside the scores of a model on other rows than its own; JSON-able.

    Args:
        model: `engram.trained.Model`.
        task: the rows, see `engram.training.Task`, with the classes of the model.
        known: the rows that the model was fitted on, likewise.
        x, y: {source or target: header of its stores} of the rows.
        unlike: float (n,), see `Model.unlike`.

    Returns:
        `stated` and `labels`, lists of {of, fact, model, here}, facts of inputs, and further ones
        of labels, that differ, in words; `unlike`, share of rows above 1, median, and the share of
        each subject; and `classes`, of the model's rows and of these the share of each class, or
        `numbers`, the mean, sd, low and high of subjects; both {model, here}.
    """
    contract, labels = model.facts["contract"], model.facts["labels"]
    stated = [*_differing({source: contract[source] for source in x}, x)]
    told = [{**line, "of": None} for line in stated]
    balance = "classes" if model.classes else "numbers"
    describe = _classes if model.classes else _numbers
    return {
        "stated": stated,
        "labels": [
            line
            for line in _differing({target: labels[target] for target in y}, y)
            if {**line, "of": None} not in told
        ],
        "unlike": _unlike(unlike, task.table["subject"].to_numpy(str)),
        balance: {"model": describe(known), "here": describe(task)},
    }


def _differing(one, other):
    for name, stated in one.items():
        pairs = differences.pairs(_told(stated), _told(store.stated(other[name])))
        for fact, (model, here) in pairs:
            said = differences.short(model, here)
            yield {"of": name, "fact": fact, "model": said[0], "here": said[1]}


def _told(header):
    """What is stated of rows; of features, of the view behind them."""
    view = header.get("view")
    own = {key: value for key, value in header.items() if key != "view"}
    return own | _told(view) if isinstance(view, dict) else own


def _unlike(values, subjects):
    above = values > 1
    return {
        "share": float(above.mean()),
        "median": float(np.median(values)),
        "subjects": {str(s): float(above[subjects == s].mean()) for s in np.unique(subjects)},
    }


def _classes(task):
    counts = np.bincount(task.y, minlength=len(task.classes)) / len(task.y)
    return dict(zip(task.classes, counts.tolist(), strict=True))


def _numbers(task):
    """Of the numbers of rows, each subject counting once."""
    weights = subject_weights(task.table["subject"].to_numpy(str))
    mean = np.average(task.y, weights=weights)
    sd = np.sqrt(np.average((task.y - mean) ** 2, weights=weights))
    return {"mean": mean, "sd": sd, "low": task.y.min(), "high": task.y.max()}
