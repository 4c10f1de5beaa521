"""Head "linear": logistic or ridge regression on standardised features."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from engram import training
from engram.errors import InputError
from engram.heads import _ridge
from engram.progress import progress

DEVICE = "cpu"
TASKS = ("classes", "values")


@dataclass(frozen=True)
class Options:
    """Options of the head.

    Attributes:
        c: of classes: inverse strengths of the L2 penalty; the one with the lowest loss on the
            validation rows is kept.
        class_weights: of classes: weigh them so that each counts the same in training.
        max_iter: of classes: steps of the solver (L-BFGS) at most.
        alpha: of numbers: strengths of the L2 penalty; the one with the lowest error when each
            training subject is left out in turn is kept.
    """

    c: list[float] = field(default_factory=lambda: [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0])
    class_weights: bool = True
    max_iter: int = 1000
    alpha: list[float] = field(
        default_factory=lambda: [0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0, 1000000.0]
    )


def fit(task, options, device) -> training.Fit:
    """Fit every fold and run on the training rows of the fold, standardised by these.

    Classes by multinomial logistic regression; numbers by ridge regression, see
    `engram.heads._ridge`. Neither draws anything at random: runs with the same y are the same.

    Raises:
        InputError: `c` or `alpha` is empty or not positive, or a fold has too few subjects.
    """
    return _logistic(task, options) if task.classes else _ridge.fit(task, options.alpha)


def _logistic(task, options):
    if not options.c or min(options.c) <= 0:
        raise InputError("heads: `c` of a linear head must list positive numbers")
    x = np.concatenate([training.flat(source) for source in task.x], axis=1)
    n, d, k = *x.shape, len(task.classes)
    shape = (len(task.folds), len(task.runs))
    probabilities = np.zeros((n, len(task.runs), k), np.float32)
    validation, chosen = np.zeros(shape), np.zeros(shape)
    weight, bias = np.zeros((*shape, k, d), np.float32), np.zeros((*shape, k), np.float32)
    scales = [training.statistics(x, fold.train) for fold in task.folds]
    with progress(len(task.folds) * len(task.runs), "fit all folds and runs", "fits") as bar:
        for f, fold in enumerate(task.folds):
            standard, known = (x - scales[f][0]) / scales[f][1], {}
            for r, run in enumerate(task.runs):
                key = run.y.tobytes()
                known[key] = known.get(key) or _chosen(standard, run.y, fold, k, options)
                chosen[f, r], validation[f, r], weight[f, r], bias[f, r] = known[key]
                logits = standard[fold.test] @ weight[f, r].T + bias[f, r]
                probabilities[fold.test, r] = np.exp(log_softmax(logits, axis=1))
                bar.update(1)
    mean, sd = (np.stack(part) for part in zip(*scales, strict=True))
    return training.Fit(
        outputs=probabilities[task.tested],
        validation=validation,
        state={"mean": mean, "sd": sd, "weight": weight, "bias": bias},
        latent=(x - mean[0]) / sd[0],
        facts={"c": chosen.tolist()},
    )


def _chosen(x, y, fold, k, options):
    """(c, validation balanced accuracy, weight, bias) of the c with the lowest validation loss."""
    of_class = training.class_weights(y[fold.train], k) if options.class_weights else np.ones(k)
    rows = y[fold.validation]
    best = None
    for c in options.c:
        weight, bias = _coefficients(x[fold.train], y[fold.train], of_class, c, options.max_iter)
        losses = log_softmax(x[fold.validation] @ weight.T + bias, axis=1)
        loss = -np.average(losses[np.arange(len(rows)), rows], weights=of_class[rows] + 1e-12)
        if best is None or loss < best[0]:
            counts = training.confusion(rows, losses.argmax(1), k)
            best = loss, (c, float(training.balanced_accuracy(counts)), weight, bias)
    return best[1]


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
