"""What is left of a score when the subject, the clock and facts of scans are taken out of inputs.

A subject's own features can stand for the label even in new subjects (the identity trap,
arXiv 2606.06647). A linear model in closed form answers the question of the experiment through its
folds, on the inputs as they are and without each of these.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from engram.measures import confounds, erasure
from engram.scores import rivals
from engram.scores.question import line, weights

MODEL = "ridge regression of the reduced inputs, penalty chosen by subjects of the training rows"
SUBJECT = "subject"
ROWS = 2000  # that are read; of more, so many are drawn
ALPHA = (1e1, 1e2, 1e3, 1e4, 1e5)


def sensitivity(question, x, facts) -> dict | None:
    """See `sensitivity` in `engram.scores.evaluation.evaluate`.

    Args:
        question: `engram.scores.question.Question`.
        x: float (n, d), the reduced inputs of its rows.
        facts: names of columns, the `confounds` of the evaluation.

    Returns:
        model, metric, value, low, high and subjects of the linear model; subject_share; and
        without, of each thing taken out: of (columns), axes (of the subject alone: how many, mean
        over folds), what `line` gives, and in difference what the inputs as they are have more.
        The subject is not taken out where it is what the label tells. None where nothing was
        trained in folds.
    """
    if not question.folds:
        return None
    plain, _ = _answer(question, x, [])
    found = []
    for of in [*([[SUBJECT]] if question.varies else []), *rivals.known(question, facts).values()]:
        said, axes = _answer(question, x, of)
        extra = {"axes": axes} if of == [SUBJECT] else {}
        found.append({"of": of} | extra | line(question, said, plain))
    sd = x.std(0)
    standard = (x - x.mean(0)) / np.where(sd > 0, sd, 1)
    return {
        "model": MODEL,
        **line(question, plain),
        "subject_share": erasure.subject_share(standard.astype(float), question.table),
        "without": found,
    }


def _answer(question, x, of):
    """(what the model says, float (n, 1, classes or 1); axes erased, mean over folds)."""
    said, axes = np.zeros((len(x), 1, max(question.classes, 1))), []
    for train, test in question.folds:
        left, erased = without(question, x, of, train)
        said[test, 0] = _fitted(question, left, train)(left[test])
        axes.append(erased)
    return said, float(np.mean(axes))


def without(question, x, of, rows) -> tuple[np.ndarray, int]:
    """All rows, standardised by those that train, without something; and axes erased.

    Args:
        question: Question.
        x: float (n, d).
        of: nothing, `[SUBJECT]`, or columns and `confounds.CLOCK`.
        rows: those that train, by which alone all is fitted.
    """
    known = np.asarray(x[rows], float)
    sd = known.std(0)
    z = (np.asarray(x, float) - known.mean(0)) / np.where(sd > 0, sd, 1)
    if of == [SUBJECT]:
        axes = erasure.subject_axes(z[rows], question.subjects[rows])
        return erasure.erased(z, *axes), len(axes[2])
    if of:
        state = confounds.fitted(question.table, of, rows)
        z = erasure.regressed(z, confounds.design(question.table, state), rows)
    return z, 0


def _fitted(question, z, rows):
    """Ridge regression of numbers, or of +-1 for each class; penalty by subjects left out."""
    y = question.y.astype(float)[:, None]
    if question.classes:
        y = 2.0 * (question.y[:, None] == np.arange(question.classes)) - 1
    parts, losses = question.inner(rows), np.zeros(len(ALPHA))
    for fitted, held in parts:
        models = _ridges(z[fitted], y[fitted], weights(question, fitted), ALPHA)
        of_row = weights(question, held)[:, None]
        losses += [(of_row * (model(z[held]) - y[held]) ** 2).sum() for model in models]
    alpha = ALPHA[int(len(ALPHA) - 1 - np.argmin(losses[::-1]))] if parts else ALPHA[2]
    return _ridges(z[rows], y[rows], weights(question, rows), [alpha])[0]


def _ridges(x, y, of_row, alphas):
    """A ridge regression for each penalty, with an intercept that is not penalised."""
    centre, mean = (np.average(values, axis=0, weights=of_row) for values in (x, y))
    root = np.sqrt(of_row)[:, None]
    a, b = root * (x - centre), root * (y - mean)
    wide = len(a) < a.shape[1]
    gram, right = (a @ a.T, b) if wide else (a.T @ a, a.T @ b)

    def model(alpha):
        solved = cho_solve(cho_factor(gram + alpha * np.eye(len(gram))), right)
        weight = a.T @ solved if wide else solved
        return lambda rows: (rows - centre) @ weight + mean

    return [model(alpha) for alpha in alphas]
