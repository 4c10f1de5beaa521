"""Head "linear": logistic or ridge regression on standardised features."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from engram import training
from engram.errors import InputError
from engram.heads import _ridge
from engram.progress import progress
from engram.training import inputs

DEVICE = "cpu"
TASKS = ("classes", "values")


@dataclass(frozen=True)
class Options(inputs.Options):
    """Options of the head.

    Attributes:
        c: of classes: inverse strengths of the L2 penalty; the one with the lowest loss on the
            validation rows is kept.
        class_weights: of classes: weigh them so that each counts the same in training.
        max_iter: of classes: steps of the solver (L-BFGS) at most.
        alpha: of numbers: strengths of the L2 penalty; the one with the lowest error when each
            subject that is fitted on is left out in turn is kept.
    """

    c: list[float] = field(default_factory=lambda: [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0])
    class_weights: bool = True
    max_iter: int = 1000
    alpha: list[float] = field(
        default_factory=lambda: [0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0, 1000000.0]
    )


def fit(task, options, device) -> training.Fit:
    """Fit every fold and run, on features standardised by the rows that are fitted on.

    Classes by multinomial logistic regression; numbers by ridge regression, see
    `engram.heads._ridge`. What is chosen is chosen by models of the training rows; the model that
    predicts the test rows is then fitted on training and validation rows together. Neither draws
    anything at random: runs with the same y are the same.

    Raises:
        InputError: `c` or `alpha` is empty or not positive, a fold has too few subjects, or the
            inputs do not suit `space` or `components`.
    """
    source = inputs.Inputs(task, options)
    if task.classes:
        return _logistic(task, source, options)
    return _ridge.fit(task, source, [task.chosen["alpha"]] if task.chosen else options.alpha)


def _logistic(task, source, options):
    if not options.c or min(options.c) <= 0:
        raise InputError("heads: `c` of a linear head must list positive numbers")
    runs, k = task.runs, len(task.classes)
    probabilities = np.zeros((len(task.y), len(runs), k), np.float32)
    found, latent = [], None
    with progress(len(task.folds) * len(runs), "fit all folds and runs", "fits") as bar:
        for fold in task.folds:
            x, _ = source.fitted(fold.train)
            standard, known = _standard(x, fold.train)[0], {}
            if task.chosen:
                chosen = [(task.chosen["c"], np.nan)] * len(runs)
            else:
                chosen = [_once(known, _chosen, standard, run.y, fold, k, options) for run in runs]
            x, state = source.fitted(fold.known)
            (standard, mean, sd), known = _standard(x, fold.known), {}
            weight, bias = np.zeros((len(runs), k, x.shape[1]), np.float32), []
            for r, (run, (c, _)) in enumerate(zip(runs, chosen, strict=True)):
                weight[r], own = _once(known, _refitted, standard, run.y, fold, k, options, c)
                logits = standard[fold.test] @ weight[r].T + own
                probabilities[fold.test, r] = np.exp(log_softmax(logits, axis=1))
                bias.append(own)
                bar.update(1)
            latent = standard if latent is None else latent
            c, validation = zip(*chosen, strict=True)
            bias = np.array(bias, np.float32)
            state = inputs.of_runs(state | {"mean": mean, "sd": sd}, len(runs))
            state |= {"weight": weight, "bias": bias}
            found.append((c, validation, state))
    c, validation, states = zip(*found, strict=True)
    return training.Fit(
        outputs=probabilities[task.tested],
        validation=np.array(validation),
        state=inputs.stacked(states),
        latent=latent,
        facts={"c": [list(of_runs) for of_runs in c]},
    )


def predict(state, x, known, options, device) -> np.ndarray:
    """What fitted models say of rows: probabilities (models, n, classes), or numbers (.., n, 1).

    Args:
        state: as `Fit.state`, with one axis of models for folds and runs.
        x: one array (n, ...) a source.
        known: `engram.training.Task` or `engram.trained.Model`, for `classes`.
    """
    found = []
    for m in range(len(state["weight"])):
        one = {name: values[m] for name, values in state.items()}
        z = (inputs.restored(x, one) - one["mean"]) / one["sd"]
        found.append(z @ one["weight"].T + one["bias"])
    if not known.classes:
        return np.stack(found)
    return np.exp(log_softmax(np.stack(found), axis=2)).astype(np.float32)


def _standard(x, rows):
    mean, sd = training.statistics(x, rows)
    return (x - mean) / sd, mean, sd


def _once(known, what, x, y, *others):
    """`what` of rows and labels, that of labels seen before taken from `known`."""
    key = y.tobytes()
    if key not in known:
        known[key] = what(x, y, *others)
    return known[key]


def _chosen(x, y, fold, k, options):
    """(c, validation balanced accuracy) of the c with the lowest validation loss."""
    of_class = _class_weights(y[fold.train], k, options)
    rows = y[fold.validation]
    best = None
    for c in options.c:
        weight, bias = _coefficients(x[fold.train], y[fold.train], of_class, c, options.max_iter)
        losses = log_softmax(x[fold.validation] @ weight.T + bias, axis=1)
        loss = -np.average(losses[np.arange(len(rows)), rows], weights=of_class[rows] + 1e-12)
        if best is None or loss < best[0]:
            counts = training.confusion(rows, losses.argmax(1), k)
            best = loss, (c, float(training.balanced_accuracy(counts)))
    return best[1]


def _refitted(x, y, fold, k, options, c):
    """Weight and bias by training and validation rows."""
    y = y[fold.known]
    of_class = _class_weights(y, k, options)
    return _coefficients(x[fold.known], y, of_class, c, options.max_iter)


def _class_weights(y, k, options):
    return training.class_weights(y, k) if options.class_weights else np.ones(k)


def _coefficients(x, y, of_class, c, max_iter):
    """Weight (classes, d) and bias (classes,) of a softmax; a class not in `y` gets no chance."""
    present = np.unique(y)
    weight, bias = np.zeros((len(of_class), x.shape[1])), np.full(len(of_class), -np.inf)
    bias[present] = 0
    if len(present) == 1:
        return weight, bias
    model = LogisticRegression(C=c, max_iter=max_iter, tol=1e-4)
    model.fit(x, y, sample_weight=of_class[y])
    rows = present[1:] if len(present) == 2 else present
    weight[rows], bias[rows] = model.coef_, model.intercept_
    return weight, bias
