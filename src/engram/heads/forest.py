"""Head "forest": random forest (Breiman 2001) on features as they are."""

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from engram import training
from engram.heads import _trees
from engram.progress import progress
from engram.training import inputs

DEVICE = "cpu"
TASKS = ("classes", "values")


@dataclass(frozen=True)
class Options(inputs.Options):
    """Options of the head.

    Attributes:
        n_estimators: trees.
        min_samples_leaf: training rows in a leaf at least.
        max_depth: of a tree; null = until leaves are pure or too small.
        max_features: share of the features tried at a split; null = their square root.
        class_weights: of classes: weigh them so that each counts the same in training.
    """

    n_estimators: int = 200
    min_samples_leaf: int = 3
    max_depth: int | None = None
    max_features: float | None = None
    class_weights: bool = True


def fit(task, options, device) -> training.Fit:
    """Fit every fold and run on the training rows of the fold.

    Of numbers every subject weighs the same, however many rows it has. The state holds the
    importance of each feature, after `space` and `components`, (folds, runs, d), and the trees of
    every run but the control, see `engram.heads._trees`. The latent is these features.

    Raises:
        InputError: the inputs do not suit `space` or `components`.
    """
    source = inputs.Inputs(task, options)
    grow = _classifier if task.classes else _regressor
    kind = np.float32 if task.classes else np.float64
    outputs = np.zeros((len(task.y), len(task.runs), max(len(task.classes), 1)), kind)
    validation, states, latent = np.full((len(task.folds), len(task.runs)), np.nan), [], None
    trees = []
    with progress(len(task.folds) * len(task.runs), "fit all folds and runs", "fits") as bar:
        for f, fold in enumerate(task.folds):
            x, state = source.fitted(fold.train)
            importance = np.zeros((len(task.runs), x.shape[1]), np.float32)
            for r, run in enumerate(task.runs):
                seed = training.seed(run.seed, fold.name) % 2**32
                forest, said, score = grow(x, run.y, fold, task, options, seed)
                importance[r] = forest.feature_importances_
                if len(fold.validation):
                    validation[f, r] = score(said(x[fold.validation]))
                if len(fold.test):
                    outputs[fold.test, r] = said(x[fold.test])
                if not run.shuffled:
                    trees.append(_trees.arrays(forest, outputs.shape[2]))
                bar.update(1)
            latent = x if latent is None else latent
            states.append(inputs.of_runs(state, len(task.runs)) | {"importance": importance})
    state = inputs.stacked(states) | {
        f"trees.{name}": values.reshape(len(task.folds), -1, *values.shape[1:])
        for name, values in _trees.stacked(trees).items()
    }
    return training.Fit(outputs[task.tested], validation, state, latent=latent)


def predict(state, x, known, options, device) -> np.ndarray:
    """What forests say of rows: probabilities (models, n, classes), or numbers (models, n, 1).

    As scikit-learn's, but for the single precision of the leaves.

    Args:
        state: as `Fit.state`, with one axis of models for folds and runs.
        x: one array (n, ...) a source.
        known: `engram.training.Task` or `engram.trained.Model`, for `classes`.
    """
    found = []
    for m in range(len(state["importance"])):
        one = {name.removeprefix("trees."): values[m] for name, values in state.items()}
        found.append(_trees.predicted(one, inputs.restored(x, one)))
    return np.stack(found).astype(np.float32 if known.classes else np.float64)


def _classifier(x, y, fold, task, options, seed):
    """(forest, what predicts probabilities, what scores those of the validation rows)."""
    k = len(task.classes)
    weights = "balanced" if options.class_weights else None
    forest = RandomForestClassifier(**_grown(options, seed), class_weight=weights)
    forest.fit(x[fold.train], y[fold.train])

    def predict(rows):
        probabilities = np.zeros((len(rows), k), np.float32)  # none for a class not trained on
        probabilities[:, forest.classes_] = forest.predict_proba(rows)
        return probabilities

    def score(inner):
        counts = training.confusion(y[fold.validation], inner.argmax(1), k)
        return training.balanced_accuracy(counts)

    return forest, predict, score


def _regressor(x, y, fold, task, options, seed):
    """(forest, what predicts numbers, share of the validation rows that those explain)."""
    subjects = task.table["subject"].to_numpy(str)
    outer, inner = (training.subject_weights(subjects[s]) for s in (fold.train, fold.validation))
    forest = RandomForestRegressor(**_grown(options, seed))
    forest.fit(x[fold.train], y[fold.train], sample_weight=outer)

    def predict(rows):
        return forest.predict(rows)[:, None]

    def score(predicted):
        mean = np.average(y[fold.train], weights=outer)
        return training.explained(y[fold.validation], predicted[:, 0], mean, inner)

    return forest, predict, score


def _grown(options, seed):
    return {
        "n_estimators": options.n_estimators,
        "min_samples_leaf": options.min_samples_leaf,
        "max_depth": options.max_depth,
        "max_features": options.max_features or "sqrt",
        "random_state": seed,
    }
