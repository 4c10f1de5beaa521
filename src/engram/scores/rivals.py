"""What could explain a score without the inputs: the clock, and facts of scans.

A rival answers the question of the experiment from the table of its rows alone, through the same
folds. Where it does as well, nothing shows that the inputs told anything else.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from engram.measures import confounds
from engram.scores.question import line, weights

C = (0.001, 0.01, 0.1, 1.0, 10.0)  # inverse penalties of classes
ALPHA = (1000.0, 100.0, 10.0, 1.0, 0.1)  # penalties of numbers


def rivals(question, own, facts) -> list[dict]:
    """The rivals of an experiment.

    - `clock`: the time in the scan and the order of scans, where a subject has rows of different
      classes or numbers.
    - `scan`: which scan it is, where training has seen the scans that are tested.
    - `confounds`: facts of scans; `confounds, clock`: these and the clock.

    Args:
        question: `engram.scores.question.Question`.
        own: answer of the experiment, float (n, runs, classes or 1).
        facts: names of columns, the `confounds` of the evaluation.

    Returns:
        A dict a rival: name; of, the columns that it knows; empty, how many rows lack a fact, by
        column; and what `question.line` gives. None where nothing was trained in folds.

    Raises:
        InputError: a column is not there.
    """
    if not question.folds:
        return []
    return [
        {"name": name, "of": of, "empty": confounds.empty(question.table, of)}
        | line(question, answer(question, of), own)
        for name, of in known(question, facts).items()
    ]


def known(question, facts) -> dict[str, list[str]]:
    """What each rival knows: columns, by its name."""
    clock = [confounds.CLOCK] if question.varies else []
    scan = [confounds.SCAN] if question.known_scans else []
    asked = {"clock": clock, "scan": scan, "confounds": [*facts]}
    if clock and facts:
        asked["confounds, clock"] = [*facts, *clock]
    return {name: of for name, of in asked.items() if of}


def answer(question, of) -> np.ndarray:
    """What logistic or ridge regression says of rows from columns, float (n, 1, classes or 1).

    Numbers are standardised and texts known by the training rows of each fold; the penalty is
    the one with the lowest loss when thirds of their subjects are left out in turn. Classes count
    the same, or of numbers subjects.

    Args:
        question: Question with folds.
        of: names of columns, and `confounds.CLOCK`.
    """
    found = np.zeros((len(question.y), 1, max(question.classes, 1)))
    for train, test in question.folds:
        z = confounds.design(question.table, confounds.fitted(question.table, of, train))
        best = _best(question, z, train)
        found[test, 0] = _said(_fitted(question, z, train, best), z[test], question.classes)
    return found


def _best(question, z, rows):
    """Penalty with the lowest loss in subjects left out; of equals the strongest."""
    penalties, parts = (C if question.classes else ALPHA), question.inner(rows)
    losses = [sum(_loss(question, z, *part, one) for part in parts) for one in penalties]
    return penalties[int(np.argmin(losses))] if parts else 1.0


def _fitted(question, z, rows, penalty):
    y, of_row = question.y[rows], weights(question, rows)
    if not question.classes:
        return Ridge(penalty).fit(z[rows], y, of_row)
    if len(set(y)) < 2:
        return int(y[0])
    return LogisticRegression(C=penalty, max_iter=1000).fit(z[rows], y, of_row)


def _said(model, z, classes):
    """Probabilities of all classes, (n, classes), none of one that was not trained on; numbers."""
    if not classes:
        return model.predict(z)[:, None]
    found = np.zeros((len(z), classes))
    if isinstance(model, int):
        found[:, model] = 1
    else:
        found[:, model.classes_] = model.predict_proba(z)
    return found


def _loss(question, z, rows, held, penalty):
    said = _said(_fitted(question, z, rows, penalty), z[held], question.classes)
    y, of_row = question.y[held], weights(question, held)
    if not question.classes:
        return (of_row * (said[:, 0] - y) ** 2).sum()
    return -(of_row * np.log(said[np.arange(len(y)), y] + 1e-9)).sum()
