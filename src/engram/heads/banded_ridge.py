"""Head "banded_ridge": ridge regression with a penalty for each source of x and each target.

Features of several models, or of several layers, side by side: a target that one of them explains
need not pay for the others. Nunez-Elizalde, Huth & Gallant, NeuroImage 197 (2019); weights of the
sources are found by random search in the package himalaya, Dupré la Tour, Eickenberg,
Nunez-Elizalde & Gallant, NeuroImage 264 (2022).
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engram import scratch, training
from engram.errors import InputError
from engram.progress import progress
from engram.training import ridge

DEVICE = "cpu"
TASKS = ("vectors",)

SUMS = 256 << 20  # bytes of predictions, or of targets, at a time


@dataclass(frozen=True)
class Options:
    """Options of the head.

    Attributes:
        alpha: strengths of the L2 penalty, of sources whose rows have a mean square length of 1
            over the training images. Each target takes its own, with weights of the sources.
        search: draws of the weights of the sources, the first of them equal. Each costs an
            eigendecomposition a fold, of as many numbers squared as there are training images.
        folds: of the training images, by which both are chosen.
        precision: of all that is computed.
    """

    alpha: list[float] = field(
        default_factory=lambda: [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0]
    )
    search: int = 20
    folds: int = 5
    precision: Literal["float32", "float64"] = "float32"


def fit(task, options, device) -> training.Fit:
    """Fit a model a fold and run on training and validation rows; the search is drawn by the seed.

    Latents are the predictions of the first run. The state holds the weight of each source over the
    penalty, for each target of each run, (runs, sources, targets).

    Raises:
        InputError: himalaya is not installed, an option is out of range, a row is not finite, a
            source does not change, or the disk is too small for what will be written.
    """
    himalaya = _himalaya()
    if not options.alpha or min(options.alpha) <= 0:
        raise InputError("heads: `alpha` of a banded ridge head must list positive numbers")
    for name, least in (("search", 1), ("folds", 2)):
        if getattr(options, name) < least:
            told = f"{name} is {getattr(options, name)}; it must be at least {least}"
            raise InputError(f"heads: {told}")
    width = max(task.targets[0].widths)
    shape = (len(task.tested), len(task.runs), width)
    scratch.check_room(4 * shape[0] * shape[1] * width)
    outputs = scratch.empty(shape, np.float32, SUMS)
    scores, state, shares = np.zeros((len(task.folds), len(task.runs))), {}, []
    for f, fold in enumerate(progress(task.folds, "fit every subject", "subjects")):
        kernels, new = _kernels(task, fold, options)
        groups = ridge.folds(task.table["stimulus"].iloc[fold.known], options.folds)
        at, weights = np.searchsorted(task.tested, fold.test), []
        for r, run in enumerate(task.runs):
            y = task.targets[0].of(run.y[fold.known])
            explained, found = [], []
            for columns in _blocks(y):
                own = ridge.read(y, np.arange(y.shape[0]), kernels.dtype, columns)
                model = _fitted(himalaya, kernels, own, groups, run.seed, options)
                outputs[at, r, columns] = model.predict(new)
                explained.append(model.cv_scores_.max(0))
                found.append(np.exp(model.deltas_))
            outputs[at, r, columns.stop :] = 0
            scores[f, r] = np.concatenate(explained).mean()
            weights.append(np.concatenate(found, axis=1))
        scratch.forget(outputs)
        state[f"{fold.name}/weights"] = np.stack(weights)
        of_sources = [(one / one.sum(0)).mean(1).tolist() for one in weights]
        shares.append([dict(zip(task.sources, one, strict=True)) for one in of_sources])
    return training.Fit(
        outputs=outputs,
        validation=scores,
        state=state,
        latent=outputs[:, 0],
        facts={"weights of the sources": shares},
    )


def _himalaya():
    try:
        import himalaya.backend
        import himalaya.kernel_ridge
        import himalaya.scoring
    except ImportError:
        raise InputError(
            "head banded_ridge needs the package himalaya, which is not installed; run "
            "`pip install -e .[banded]`, or use head ridge"
        ) from None
    himalaya.backend.set_backend("numpy")
    return himalaya


def _kernels(task, fold, options):
    """Inner products of training rows, (sources, n, n), and of tested rows with these, (.., m, n).

    Centred by the training rows, and divided by the mean square length of these.
    """
    found = []
    for source in task.x:
        rows = source.of(np.concatenate([fold.known, fold.test]))
        known, new = ridge.kernel(rows, len(fold.known), options.precision)
        length = np.trace(known) / len(known)
        if not length:
            raise InputError(f"{rows.path}: no feature changes over the training rows")
        found.append((known / length, new / length))
    return tuple(np.stack(one) for one in zip(*found, strict=True))


def _blocks(y):
    width = int(np.prod(y.shape[1:], dtype=int))
    return ridge.spans(width, max(SUMS // (4 * y.shape[0]), 1))


def _fitted(himalaya, kernels, y, groups, seed, options):
    """The model of some targets."""
    every = np.arange(len(y))
    model = himalaya.kernel_ridge.MultipleKernelRidgeCV(
        kernels="precomputed",
        fit_intercept=True,
        cv=[(np.setdiff1d(every, rows), rows) for rows in groups],
        random_state=seed,
        solver_params={
            "n_iter": options.search,
            "alphas": np.array(options.alpha, kernels.dtype),
            "score_func": himalaya.scoring.r2_score,
            "n_targets_batch": 2048,
            "progress_bar": False,
        },
    )
    return model.fit(kernels, y)
