"""Head "linear": logistic or ridge regression on standardised features."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from engram import training
from engram.errors import InputError
from engram.heads import _newton, _ridge
from engram.progress import progress
from engram.training import inputs

DEVICE = "cpu"
TASKS = ("classes", "values")

#: Rows x (features + 1)^2 x pairs of classes x folds, up to which classes are solved together:
#: about a minute of one core for 200 series and 6 penalties.
MOST_PRODUCTS = 50_000_000
#: Features x folds, up to which numbers are trained on again: 1 GB of weights of 200 series.
MOST_WEIGHTS = 600_000


@dataclass(frozen=True)
class Options(inputs.Options):
    """Options of the head.

    Attributes:
        c: of classes: inverse strengths of the L2 penalty; the one with the lowest loss on the
            validation rows is kept.
        class_weights: of classes: weigh them so that each counts the same in training.
        max_iter: of classes whose inputs are too large for Newton's method: steps of L-BFGS at
            most.
        alpha: of numbers: strengths of the L2 penalty; the one with the lowest error when each
            subject that is fitted on is left out in turn is kept.
        refits: series of moved labels to train on again, for an exact p against chance; 0 for
            none. Where inputs are too large for it, predictions stay fixed under moved labels.
    """

    c: list[float] = field(default_factory=lambda: [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0])
    class_weights: bool = True
    max_iter: int = 1000
    alpha: list[float] = field(
        default_factory=lambda: [0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0, 1000000.0]
    )
    refits: int = 199


def fit(task, options, device) -> training.Fit:
    """Fit every fold and run, on features standardised by the rows that are fitted on.

    Classes by multinomial logistic regression, of small inputs all runs at once; numbers by ridge
    regression, see `engram.heads._ridge`. What is chosen is chosen by models of the training rows;
    the model that predicts the test rows is then fitted on training and validation rows together.
    Neither draws anything at random: runs with the same y are the same.

    Raises:
        InputError: `c` or `alpha` is empty or not positive, `refits` is below 0, a fold has too few
            subjects, or the inputs do not suit `space` or `components`.
    """
    if options.refits < 0:
        raise InputError(f"heads: refits is {options.refits}; train on 0 series again at least")
    source = inputs.Inputs(task, options)
    if task.classes:
        return _logistic(task, source, options)
    return _ridge.fit(task, source, [task.chosen["alpha"]] if task.chosen else options.alpha)


def refits(task, options) -> int:
    """On how many moved series of labels to train again, for p against chance; 0: too much work.

    Args:
        task: `training.Task`.
        options: of the head.
    """
    width = _width(task, options)
    if task.classes:
        return options.refits if _at_once(task, width) else 0
    return options.refits if width * len(task.folds) <= MOST_WEIGHTS else 0


def _width(task, options):
    """Features that the models see, at most."""
    widths = [int(np.prod(x.shape[1:], dtype=int)) for x in task.x]
    return sum(min(width, options.components or width) for width in widths)


def _at_once(task, width):
    """Whether all label series are solved together, by the size of their Hessians."""
    pairs = len(task.classes) * (len(task.classes) - 1) // 2
    return len(task.y) * (width + 1) ** 2 * pairs * len(task.folds) <= MOST_PRODUCTS


def _logistic(task, source, options):
    if not options.c or min(options.c) <= 0:
        raise InputError("heads: `c` of a linear head must list positive numbers")
    k, solve = len(task.classes), _one_by_one
    if _at_once(task, _width(task, options)):
        solve = _together
    # runs with the same labels are the same
    y, of_run = np.unique([run.y for run in task.runs], axis=0, return_inverse=True)
    probabilities = np.zeros((len(task.y), len(y), k), np.float32)
    found, latent = [], None
    for fold in progress(task.folds, "fit all folds and runs", "folds"):
        if task.chosen:
            c, validation = np.full(len(y), task.chosen["c"]), np.full(len(y), np.nan)
        else:
            x = _standard(source.fitted(fold.train)[0], fold.train)[0]
            c, validation = _chosen(x, y, fold, k, options, solve)
        x, state = source.fitted(fold.known)
        x, mean, sd = _standard(x, fold.known)
        weight, bias = solve(x[fold.known], y[:, fold.known], k, c, options)
        logits = x[fold.test] @ weight.transpose(0, 2, 1) + bias[:, None]
        probabilities[fold.test] = np.exp(log_softmax(logits, axis=2)).swapaxes(0, 1)
        latent = x if latent is None else latent
        state = inputs.of_runs(state | {"mean": mean, "sd": sd}, len(of_run))
        state |= {"weight": weight[of_run].astype(np.float32)}
        state |= {"bias": bias[of_run].astype(np.float32)}
        found.append((c[of_run].tolist(), validation[of_run], state))
    c, validation, states = zip(*found, strict=True)
    return training.Fit(
        outputs=probabilities[task.tested][:, of_run],
        validation=np.array(validation),
        state=inputs.stacked(states),
        latent=latent,
        facts={"c": list(c)},
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


def _chosen(x, y, fold, k, options, solve):
    """(c, validation balanced accuracy), (m,) each, of the c with the lowest validation loss."""
    weights = _class_weights(y[:, fold.train], k, options)
    rows, every = y[:, fold.validation], np.arange(len(y))[:, None]
    of_row = weights[every, rows] + 1e-12
    loss, score = [], []
    for c in options.c:
        weight, bias = solve(x[fold.train], y[:, fold.train], k, np.full(len(y), c), options)
        logits = x[fold.validation] @ weight.transpose(0, 2, 1) + bias[:, None]
        logs = log_softmax(logits, axis=2)
        own = np.take_along_axis(logs, rows[..., None], 2)[..., 0]
        loss.append(-np.average(own, axis=1, weights=of_row))
        score.append(training.balanced_accuracy(_confusions(rows, logs.argmax(2), k)))
    best = np.argmin(loss, axis=0)
    return np.asarray(options.c, float)[best], np.array(score)[best, np.arange(len(y))]


def _confusions(y, predicted, k):
    pairs = zip(y, predicted, strict=True)
    return np.stack([training.confusion(one, other, k) for one, other in pairs])


def _class_weights(y, k, options):
    if not options.class_weights:
        return np.ones((len(y), k))
    return np.stack([training.class_weights(one, k) for one in y])


def _together(x, y, k, c, options):
    """Weights (m, classes, d) and biases (m, classes) of m series of labels."""
    return _newton.coefficients(x, y, _class_weights(y, k, options), c)


def _one_by_one(x, y, k, c, options):
    """The same, by scikit-learn."""
    weights = _class_weights(y, k, options)
    found = [_coefficients(x, *one, options.max_iter) for one in zip(y, weights, c, strict=True)]
    return tuple(map(np.stack, zip(*found, strict=True)))


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
