"""What heads fit on their inputs first, on the training rows of each fold.

The tangent space of covariances, whose reference point is a mean over subjects, the subject axes
that are taken out, and principal components: a step that saw test subjects would leak them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engram.errors import InputError
from engram.measures import erasure, tangent
from engram.training import flat, statistics, subject_weights


@dataclass(frozen=True)
class Options:
    """Options of heads that can fit a step on their inputs.

    Attributes:
        without_subject: take the linear subject axes of the training rows out of each source,
            before `components`, so that no linear model tells the training subjects apart
            (`engram.measures.erasure`); not where each subject has one class or number.
        space: `features` as they are, or the `tangent` space of covariances (a backbone
            `connectome` with `measure: covariance`) at the geometric mean of the training
            subjects.
        components: of each source of the inputs, standardised by the training rows, so many
            principal components of these, or as many as the smallest fold has; null takes all
            features.
    """

    space: Literal["features", "tangent"] = "features"
    components: int | None = None
    without_subject: bool = False


class Inputs:
    """The sources of a task side by side, after steps that are fitted on some of its rows."""

    def __init__(self, task, options):
        """Look at the sources.

        Args:
            task: `training.Task`.
            options: of a head, which extend `Options`.

        Raises:
            InputError: a source has no covariances, or `components` is less than 1.
        """
        self.sources = [flat(source) for source in task.x]
        self.subjects = task.table["subject"].to_numpy(str)
        self.tangent, self.components = options.space == "tangent", options.components
        self.axes = None
        if options.without_subject:
            _check_varies(task)
            self.axes = len(set(self.subjects)) - 1
        if self.tangent:
            for name, header, x in zip(task.sources, task.headers, self.sources, strict=True):
                _check_covariances(name, header, x, task.table.index)
        if self.components is not None:
            if self.components < 1:
                raise InputError(f"heads: components is {self.components}; keep 1 at least")
            fewest = min(len(fold.train) for fold in task.folds)
            self.components = max(1, min(self.components, fewest - 1))
        self.plain = None
        if not self.tangent and self.components is None and self.axes is None:
            self.plain = np.concatenate(self.sources, axis=1)

    def fitted(self, rows) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """All rows after steps that are fitted on `rows`, and the parameters of these by name.

        Returns:
            float32 (n, d), and of source i `reference.i` (region, region), or `centre.i` and
            `scale.i` (features,) and `axes.i` (components, features); of what is erased `around.i`
            (features,), `take.i` (features, axes) and `put.i` (axes, features).
        """
        if self.plain is not None:
            return self.plain, {}
        found, state = [], {}
        for i, x in enumerate(self.sources):
            if self.tangent:
                weights = subject_weights(self.subjects[rows])
                reference = tangent.geometric_mean(x[rows], weights)
                x, state[f"reference.{i}"] = tangent.tangent(x, reference), reference
            if self.axes is not None:
                x, own = _without_subject(x, rows, self.subjects, self.axes)
                state |= {f"{name}.{i}": value for name, value in own.items()}
            if self.components is not None:
                x, own = _principal(x, rows, self.components)
                state |= {f"{name}.{i}": value for name, value in own.items()}
            found.append(x)
        return np.concatenate(found, axis=1), state


def _check_covariances(name, header, x, names):
    if header.get("measure") != "covariance":
        raise InputError(
            f"{name}: a head with `space: tangent` needs covariances; use a backbone of kind "
            "connectome with `measure: covariance`"
        )
    low = tangent.lowest(x)
    if low.min() <= 0:
        raise InputError(
            f"{name}: the covariance of {names[low.argmin()]} has no inverse, and no place in the "
            "tangent space; leave out regions that are copies of others"
        )


def _check_varies(task):
    of_subject = task.table.assign(y=task.y).groupby("subject")["y"].nunique()
    if (of_subject == 1).all():
        raise InputError(
            "heads: without_subject takes out all that tells subjects apart, but every subject has "
            "one class or number: nothing would be left to learn; leave it out"
        )


def _without_subject(x, rows, subjects, most):
    """Rows without the subject axes of `rows`, and these, in numbers `most` for every fold."""
    mean, sd = statistics(x, rows)
    z = ((x[rows] - mean) / sd).astype(np.float64)
    centre, take, put = erasure.subject_axes(z, subjects[rows])
    lacking = most - len(put)
    own = {
        "around": (mean + sd * centre).astype(np.float32),
        "take": np.pad(take / sd[:, None], ((0, 0), (0, lacking))).astype(np.float32),
        "put": np.pad(put * sd, ((0, lacking), (0, 0))).astype(np.float32),
    }
    return erasure.erased(x, *own.values()), own


def _principal(x, rows, components):
    """Scores (n, k) on the first axes of the standardised rows, and what they are made by.

    One decomposition, of rows where these are fewer and of features where they are.
    """
    centre, scale = statistics(x, rows)
    z = ((x[rows] - centre) / scale).astype(np.float64)
    wide = z.shape[0] <= z.shape[1]
    values, vectors = np.linalg.eigh(z @ z.T if wide else z.T @ z)
    k = min(components, z.shape[1])
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
    there = values > np.finfo(np.float32).eps * values[0]
    if wide:
        vectors = z.T @ (vectors / np.sqrt(np.where(there, values, 1)))
    axes = np.where(there, vectors, 0).T.astype(np.float32)
    largest = axes[np.arange(k), np.abs(axes).argmax(1)]
    axes *= np.where(largest < 0, -1, 1)[:, None].astype(np.float32)
    return ((x - centre) / scale) @ axes.T, {"centre": centre, "scale": scale, "axes": axes}


def restored(x, state) -> np.ndarray:
    """The sources of rows side by side, after steps that were fitted before; float32 (n, d).

    Args:
        x: one array (n, ...) a source.
        state: parameters of these steps, as `Inputs.fitted` gives them.
    """
    found = []
    for i, values in enumerate(map(flat, x)):
        if f"reference.{i}" in state:
            values = tangent.tangent(values, state[f"reference.{i}"])
        if f"take.{i}" in state:
            values = erasure.erased(values, *(state[f"{n}.{i}"] for n in ("around", "take", "put")))
        if f"axes.{i}" in state:
            z = (values - state[f"centre.{i}"]) / state[f"scale.{i}"]
            values = z @ state[f"axes.{i}"].T
        found.append(values)
    return np.concatenate(found, axis=1)


def of_runs(state, runs) -> dict[str, np.ndarray]:
    """Parameters that all runs of a fold share, each with the axis `runs` first."""
    return {name: np.broadcast_to(value, (runs, *value.shape)) for name, value in state.items()}


def stacked(states) -> dict[str, np.ndarray]:
    """Parameters of all folds, each with the axis `folds` first."""
    return {name: np.stack([state[name] for state in states]) for name in states[0]}
