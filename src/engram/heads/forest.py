"""Head "forest": random forest (Breiman 2001) on features as they are."""

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from engram import training
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
    importance of each feature, after `space` and `components`, (folds, runs, d), not the trees,
    which a rerun with the same seed grows again. The latent is these features.

    Raises:
        InputError: the inputs do not suit `space` or `components`.
    """
    source = inputs.Inputs(task, options)
    grow = _classifier if task.classes else _regressor
    kind = np.float32 if task.classes else np.float64
    outputs = np.zeros((len(task.y), len(task.runs), max(len(task.classes), 1)), kind)
    validation, states, latent = np.zeros((len(task.folds), len(task.runs))), [], None
    with progress(len(task.folds) * len(task.runs), "fit all folds and runs", "fits") as bar:
        for f, fold in enumerate(task.folds):
            x, state = source.fitted(fold.train)
            importance = np.zeros((len(task.runs), x.shape[1]), np.float32)
            for r, run in enumerate(task.runs):
                seed = training.seed(run.seed, fold.name) % 2**32
                forest, predict, validation[f, r] = grow(x, run.y, fold, task, options, seed)
                importance[r] = forest.feature_importances_
                outputs[fold.test, r] = predict(x[fold.test])
                bar.update(1)
            latent = x if latent is None else latent
            states.append(inputs.of_runs(state, len(task.runs)) | {"importance": importance})
    return training.Fit(outputs[task.tested], validation, inputs.stacked(states), latent=latent)


def _classifier(x, y, fold, task, options, seed):
    """(forest, what predicts probabilities, balanced accuracy of the validation rows)."""
    k = len(task.classes)
    weights = "balanced" if options.class_weights else None
    forest = RandomForestClassifier(**_grown(options, seed), class_weight=weights)
    forest.fit(x[fold.train], y[fold.train])

    def predict(rows):
        probabilities = np.zeros((len(rows), k), np.float32)  # none for a class not trained on
        probabilities[:, forest.classes_] = forest.predict_proba(rows)
        return probabilities

    inner = predict(x[fold.validation]).argmax(1)
    counts = training.confusion(y[fold.validation], inner, k)
    return forest, predict, training.balanced_accuracy(counts)


def _regressor(x, y, fold, task, options, seed):
    """(forest, what predicts numbers, share of the validation rows that these explain)."""
    subjects = task.table["subject"].to_numpy(str)
    outer, inner = (training.subject_weights(subjects[s]) for s in (fold.train, fold.validation))
    forest = RandomForestRegressor(**_grown(options, seed))
    forest.fit(x[fold.train], y[fold.train], sample_weight=outer)

    def predict(rows):
        return forest.predict(rows)[:, None]

    predicted = predict(x[fold.validation])[:, 0]
    mean = np.average(y[fold.train], weights=outer)
    return forest, predict, training.explained(y[fold.validation], predicted, mean, inner)


def _grown(options, seed):
    return {
        "n_estimators": options.n_estimators,
        "min_samples_leaf": options.min_samples_leaf,
        "max_depth": options.max_depth,
        "max_features": options.max_features or "sqrt",
        "random_state": seed,
    }
