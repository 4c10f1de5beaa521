"""Head "forest": random forest (Breiman 2001) on features as they are."""

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from engram import training
from engram.progress import progress

DEVICE = "cpu"
TASKS = ("classes",)


@dataclass(frozen=True)
class Options:
    """Options of the head.

    Attributes:
        n_estimators: trees.
        min_samples_leaf: training rows in a leaf at least.
        max_depth: of a tree; null = until leaves are pure or too small.
        max_features: share of the features tried at a split; null = their square root.
        class_weights: weigh classes so that each counts the same in training.
    """

    n_estimators: int = 200
    min_samples_leaf: int = 3
    max_depth: int | None = None
    max_features: float | None = None
    class_weights: bool = True


def fit(task, options, device) -> training.Fit:
    """Fit every fold and run on the training rows of the fold.

    The state holds the importance of each feature (folds, runs, d), not the trees, which a
    rerun with the same seed grows again. The latent is the features themselves.
    """
    x = np.concatenate([training.flat(source) for source in task.x], axis=1)
    k, shape = len(task.classes), (len(task.folds), len(task.runs))
    probabilities = np.zeros((len(x), len(task.runs), k), np.float32)
    validation, importance = np.zeros(shape), np.zeros((*shape, x.shape[1]), np.float32)
    with progress(len(task.folds) * len(task.runs), "fit all folds and runs", "fits") as bar:
        for f, fold in enumerate(task.folds):
            for r, run in enumerate(task.runs):
                forest = _forest(options, training.seed(run.seed, fold.name))
                forest.fit(x[fold.train], run.y[fold.train])
                importance[f, r] = forest.feature_importances_
                inner = _predict(forest, x[fold.validation], k)
                counts = training.confusion(run.y[fold.validation], inner.argmax(1), k)
                validation[f, r] = training.balanced_accuracy(counts)
                probabilities[fold.test, r] = _predict(forest, x[fold.test], k)
                bar.update(1)
    state = {"importance": importance}
    return training.Fit(probabilities[task.tested], validation, state, latent=x)


def _forest(options, seed):
    return RandomForestClassifier(
        n_estimators=options.n_estimators,
        min_samples_leaf=options.min_samples_leaf,
        max_depth=options.max_depth,
        max_features=options.max_features or "sqrt",
        class_weight="balanced" if options.class_weights else None,
        random_state=seed % 2**32,
    )


def _predict(forest, x, k):
    """Probabilities (n, k); a class that no training row had gets none."""
    probabilities = np.zeros((len(x), k), np.float32)
    probabilities[:, forest.classes_] = forest.predict_proba(x)
    return probabilities
