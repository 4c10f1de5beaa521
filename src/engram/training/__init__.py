"""What a head gets and gives, and the small parts that heads share."""

import zlib
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.splits import Fold


@dataclass(frozen=True)
class Run:
    """One training run of every fold: a seed and the labels to train on.

    Attributes:
        seed: of initialisation, order and dropout.
        shuffled: whether `y` is the control whose labels were moved away from their rows.
        y: the class of each row as this run sees it, int array (n,), or (folds, n) where rows
            are moved otherwise in every fold; of numbers float64 (n,).
    """

    seed: int
    shuffled: bool
    y: np.ndarray

    def labels(self, fold) -> np.ndarray:
        """Class of each row in the fold at position `fold`, int (n,)."""
        return self.y if self.y.ndim == 1 else self.y[fold]


@dataclass(frozen=True)
class Task:
    """Everything a head trains on: rows of all folds, in one order.

    Attributes:
        x: one array (n, ...) a source, of the dtype of its stores; or, where rows are too many
            for memory, an object with `shape` that reads the rows asked for.
        sources: name of each, e.g. "spectrogram/clip".
        headers: header of each source's stores.
        y: int array (n,), class of each row; of numbers float64 (n,), the number of each row.
        classes: names of the classes; of pictures, where each is a class of its own; none where
            y is numbers.
        table: n rows of facts (subject, scan, onset, ...), indexed by row name.
        folds, runs: all folds train under all runs, in one job.
        targets: features (classes, d) of every class, one array an encoder; none where classes
            are known by their label alone.
        choices: classes that test rows are told apart among, int (k,); None: all.
        facts: what the scores should know beside, JSON-able.
        chosen: choices by name that were made before; a fold without validation rows takes them.
    """

    x: list
    sources: list[str]
    headers: list[dict]
    y: np.ndarray
    classes: list[str]
    table: pd.DataFrame
    folds: list[Fold]
    runs: list[Run]
    targets: list[np.ndarray] = field(default_factory=list)
    choices: np.ndarray | None = None
    facts: dict = field(default_factory=dict)
    chosen: dict = field(default_factory=dict)

    def of(self, sources) -> "Task":
        """The task with some of its sources alone."""
        at = [self.sources.index(source) for source in sources]
        return replace(
            self,
            x=[self.x[i] for i in at],
            sources=list(sources),
            headers=[self.headers[i] for i in at],
        )

    @property
    def tested(self) -> np.ndarray:
        """Rows that a fold tests, ascending."""
        return np.sort(np.concatenate([fold.test for fold in self.folds]))

    @property
    def tested_by(self) -> list[str]:
        """Name of the fold that tests each row of `tested`."""
        names = [fold.name for fold in self.folds for _ in fold.test]
        order = np.argsort(np.concatenate([fold.test for fold in self.folds]))
        return [names[i] for i in order]


@dataclass(frozen=True)
class Fit:
    """What training gives.

    Attributes:
        outputs: float32 (tested, runs, k), every tested row (see `Task.tested`) by the fold that
            tests it: probabilities of the classes, or similarity to the choices; or float64
            (tested, runs, 1), the predicted number.
        validation: float (folds, runs), the score of the validation rows, the larger the better.
        state: parameters by name, (folds, runs, ...), for the model file; what is for use alone may
            lack the control, which is the last run.
        latent: float32, all rows (n, d), or tested ones (tested, d), in the space that the head
            decides in: by the first run of the first fold, or of the fold that tests the row.
        curves: one row a fold, run and epoch: fold, run, epoch, lr, train_loss,
            validation_loss and any further scalars; empty if nothing is iterated.
        facts: JSON-able choices made on validation rows, by name one entry a fold, e.g.
            {"epoch": [[3, 4], [2, 7]]} for two folds under two runs.
        flags: names of `engram.flags` that hold for how it was trained.
        behind: rows behind the latents that are no rows of the task: (float32 (q, d), their table,
            with the columns of that of the task); or None.
        of_latent: what the header of latents says otherwise than that of predictions.
        header: what the predictions should state beside, JSON-able.
    """

    outputs: np.ndarray
    validation: np.ndarray
    state: dict[str, np.ndarray]
    latent: np.ndarray
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    facts: dict = field(default_factory=dict)
    flags: tuple = ()
    behind: tuple | None = None
    of_latent: dict = field(default_factory=dict)
    header: dict = field(default_factory=dict)


def seed(run, fold) -> int:
    """Seed of one model, in [0, 2**62), from the seed of its run and the name of its fold."""
    words = np.random.SeedSequence([run, zlib.crc32(fold.encode())]).generate_state(2)
    return int(words[0]) << 30 | int(words[1]) >> 2


def schedule(step, total, *, warmup, base, start, final) -> float:
    """Learning rate of one step: linear warm-up, then half a cosine.

    The cosine starts where the warm-up ends, so that the rate is continuous, is `base` once
    exactly and `final` in the last step.

    Args:
        step: 0 to total - 1.
        total: number of steps.
        warmup: share of the steps that warm up, in [0, 1).
        base, start, final: learning rate at the peak, in the first and in the last step.
    """
    last = max(total - 1, 1)
    peak = min(round(warmup * last), last - 1)
    if step < peak:
        return start + (base - start) * step / peak
    return final + (base - final) * 0.5 * (1 + np.cos(np.pi * (step - peak) / (last - peak)))


def class_weights(y, n_classes) -> np.ndarray:
    """Weight of each class, float (n_classes,), so that all classes that occur count the same.

    n / (classes that occur * rows of the class), the "balanced" weights of scikit-learn; a
    class that does not occur weighs nothing.
    """
    counts = np.bincount(y, minlength=n_classes)
    weights = len(y) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0)


def confusion(y, predicted, n_classes) -> np.ndarray:
    """Counts (n_classes, n_classes): true class in rows, predicted class in columns."""
    return np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, -1)


def balanced_accuracy(counts) -> np.ndarray:
    """Mean recall over the classes that occur; counts (..., classes, classes), true in rows."""
    true = counts.sum(-1)
    recall = np.diagonal(counts, axis1=-2, axis2=-1) / np.maximum(true, 1)
    return recall.sum(-1) / np.maximum((true > 0).sum(-1), 1)


def metrics(counts) -> dict[str, np.ndarray]:
    """Macro averages under their published names, from counts (..., classes, classes).

    mAC: accuracy of "this class or another"; mAR: recall; mF1; mPrecision. Averaged, as in
    scikit-learn, over the classes that are true or predicted of any row; a class that is
    never predicted has precision 0, one that is never true has recall 0.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted, n = counts.sum(-1), counts.sum(-2), counts.sum((-2, -1))[..., None]
    occurs = true + predicted > 0
    parts = {
        "mAC": (n - true - predicted + 2 * hits) / np.maximum(n, 1),
        "mAR": hits / np.maximum(true, 1),
        "mF1": 2 * hits / np.maximum(true + predicted, 1),
        "mPrecision": hits / np.maximum(predicted, 1),
    }
    many = np.maximum(occurs.sum(-1), 1)
    return {name: (part * occurs).sum(-1) / many for name, part in parts.items()}


def subject_weights(subjects) -> np.ndarray:
    """Weight of each row, float (n,), by which every subject counts the same; 1 on average."""
    _, of_row, rows = np.unique(subjects, return_inverse=True, return_counts=True)
    return len(of_row) / (len(rows) * rows[of_row])


def explained(y, predicted, mean, weights) -> float:
    """Share of the squared distance to `mean`, that of the training rows, that predictions explain.

    1 - sum w (y - predicted)^2 / sum w (y - mean)^2, at most 1, below 0 where `mean` is nearer;
    0 where every number is `mean`.
    """
    around = (weights * (y - mean) ** 2).sum()
    return float(1 - (weights * (y - predicted) ** 2).sum() / around) if around > 0 else 0.0


def flat(x) -> np.ndarray:
    """Features (n, ...) as float32 (n, d)."""
    return np.asarray(x, np.float32).reshape(len(x), -1)


def statistics(x, rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over `rows`, float32; 1 where it is 0."""
    values = np.asarray(x[rows], np.float64)
    sd = values.std(0)
    return values.mean(0).astype(np.float32), np.where(sd > 0, sd, 1.0).astype(np.float32)


def of_view(header, key):
    """A fact about a view, or about the view behind features; None if the header has none."""
    return header.get("view", header).get(key)


def check_options(options):
    """Refuse options of the loop that are out of range.

    Raises:
        InputError: names the option and its range.
    """
    for name, least, below in (
        ("dropout", 0, 1), ("warmup", 0, 1), ("label_smoothing", 0, 1),
        ("epochs", 1, np.inf), ("batch_size", 2, np.inf),
    ):  # fmt: skip
        value = getattr(options, name)
        if not least <= value < below:
            limit = f" and less than {below}" if below < np.inf else ""
            raise InputError(f"heads: {name} is {value}; it must be at least {least}{limit}")
