"""Head "ridge": exact ridge regression of vectors, however many numbers they have.

See `engram.training.ridge`. Predicted latents are rescaled, as Ozcelik & VanRullen (2023,
Brain-Diffuser, arXiv:2303.05334) do, because ridge regression shrinks what a generator expects at
its natural spread; but with the statistics of training images that models had not seen.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from engram import scratch, training
from engram.errors import InputError
from engram.progress import progress
from engram.training import ridge

DEVICE = "cpu"
TASKS = ("vectors",)
KEEPS = "coefficients"  # the option under which models can be put to use

SAMPLE = 2048  # targets by which the penalty is chosen
HELD_OUT = 1000  # training rows by whose predictions the others are rescaled
SUMS = 512 << 20  # bytes of predictions at a time; for each, all targets are read
FEWEST = 50  # test rows that say what the spread of all is
DRAWS = 2  # of the features, under `share`


@dataclass(frozen=True)
class Options:
    """Options of the head.

    Attributes:
        alpha: strengths of the L2 penalty. Of several the one is kept with the highest R2 on
            average over 2048 targets, drawn at random, when each fold of training images in turn
            is left out.
        alpha_for: whether `all` targets share a penalty, or those of a `layer` do, where the
            features say which numbers are of which layer.
        folds: of the training images, for `alpha` and for `rescale`.
        rescale: of the latents alone, not of the predictions that are scored. `training`: what is
            predicted of 1000 training images by models without them gets the mean and the standard
            deviation that targets have over all training images. `test`: so does what is predicted
            of the test images, as published; the statistics are then those of the test set, and
            every result is labelled. `none`: as predicted.
        coefficients: write them into the model too, (features, targets) of each subject; without
            them it cannot be asked of other rows.
        precision: of all that is computed.
        share: of the features of x that are used, drawn at random: the better of two draws by R2 of
            the training rows. A shortcut that a reproduction took to save memory, with 0.332 of the
            voxels; every result is labelled.
        layers: of the targets, so many from the first on are predicted, and of the others their
            mean over the training images; latents hold these layers alone. A shortcut likewise,
            with 10 of 31; every result is labelled. null: all.
    """

    alpha: list[float] = field(
        default_factory=lambda: [
            1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100000.0, 200000.0, 500000.0,
            1000000.0,
        ]
    )  # fmt: skip
    alpha_for: Literal["all", "layer"] = "all"
    folds: int = 5
    rescale: Literal["training", "test", "none"] = "training"
    coefficients: bool = False
    precision: Literal["float32", "float64"] = "float32"
    share: float = 1.0
    layers: int | None = None


def fit(task, options, device) -> training.Fit:
    """Fit a model a fold on its training and validation rows; nothing is drawn at random.

    Outputs are predictions as they are; `latent` is those of the first run, rescaled. Runs that
    see the same targets are the same. Where the store of x has patterns of regions (view `betas`),
    what they lead to stands behind the latents, see `_Fold.regions`.

    Raises:
        InputError: there is more than one source, an option does not suit the rows, a row is not
            finite, no feature changes, or the disk is too small for what will be written.
    """
    _check(task, options)
    width = max(task.targets[0].widths)
    shape = (len(task.tested), len(task.runs), width)
    _check_room(task, options, shape)
    outputs = scratch.empty(shape, np.float32, SUMS)
    ends = np.cumsum(_sizes(task))[: options.layers]
    latent = scratch.empty((shape[0], ends[-1] if options.layers else width), np.float32, SUMS)
    found = []
    for fold in progress(task.folds, "fit every subject", "subjects"):
        this = _Fold(task, fold, options)
        this.predict(outputs, latent)
        found.append(this)
    return training.Fit(
        outputs=outputs,
        validation=np.stack([this.scores for this in found]),
        state={
            f"{this.fold.name}/{name}": values
            for this in found
            for name, values in this.state.items()
        },
        latent=latent,
        behind=_behind(found),
        of_latent=_of_latent(task, options, latent.shape[1]),
        facts={"alpha": [this.chosen for this in found]},
        flags=tuple(
            name
            for name, holds in (
                ("test_statistics", options.rescale == "test"),
                ("random_part", options.share < 1),
                ("first_layers", options.layers is not None),
            )
            if holds
        ),
    )


def width_of_rows(state) -> int:
    """Numbers of a row of x, from the parameters of one subject; under `share` all of them."""
    return int(state["width"][0])


def vectors(state, x, known, options):
    """Predictions of rows as they are scored: (slice, (n, numbers)), block by block.

    Under `layers` those that are predicted alone.

    Args:
        state: parameters of one subject by name; `coefficients` is asked for some columns at a
            time.
        x: float32 (n, features).
        known: `engram.trained.Model`.
    """
    x = x[:, state["features"]] if "features" in state else x
    width, features = len(state["intercept"]), x.shape[1]
    for columns in ridge.spans(width, max(SUMS // (4 * max(features, len(x), 1)), 1)):
        yield columns, x @ state["coefficients"][:, columns] + state["intercept"][columns]


def _check(task, options):
    if len(task.x) > 1:
        raise InputError(
            f"head: ridge regression takes one source, not {', '.join(task.sources)}; name one "
            "`x`, or let it choose between them (x: {choose: [...]})"
        )
    if not options.alpha or min(options.alpha) <= 0:
        raise InputError("heads: `alpha` of a ridge head must list positive numbers")
    if options.folds < 2:
        raise InputError(f"heads: folds is {options.folds}; it must be at least 2")
    if not 0 < options.share <= 1:
        raise InputError(f"heads: share is {options.share}; it must be above 0 and at most 1")
    layers, numbers, width = len(_sizes(task)), sum(_sizes(task)), max(task.targets[0].widths)
    for name, asked in (
        ("alpha_for: layer", options.alpha_for == "layer"),
        ("layers", options.layers is not None),
    ):
        if asked and not layers:
            raise InputError(
                f"heads: `{name}` needs features that say which numbers are of which layer; "
                "leave it out"
            )
        if asked and numbers != width:
            raise InputError(f"heads: the layers have {numbers} numbers and the features {width}")
    if options.layers is not None and not 1 <= options.layers <= layers:
        raise InputError(f"heads: layers is {options.layers}; the features have 1 to {layers}")
    few = [fold.name for fold in task.folds if len(fold.test) < FEWEST]
    if options.rescale == "test" and few:
        raise InputError(
            f"heads: `rescale: test` needs {FEWEST} test rows to know their spread, and "
            f"{few[0]} has fewer; use `rescale: training`"
        )


def _check_room(task, options, shape):
    tested, runs, width = shape
    values = tested * (runs + 1) * width
    if options.coefficients:
        widths = zip(task.x[0].widths * len(task.folds), task.folds, strict=False)
        values += sum(features * width for features, _ in widths)
    scratch.check_room(4 * values)


class _Fold:
    """The model of one subject.

    Attributes:
        fold: Fold; chosen: alpha of every run, or of every layer of every run.
        scores: (runs,), mean R2 of the training rows by models without them.
        state: arrays by name.
    """

    def __init__(self, task, fold, options):
        self.task, self.fold, self.options = task, fold, options
        known = fold.known
        self.n, self.dtype = len(known), np.dtype(options.precision)
        self.rows, self.patterns = task.x[0].beside(np.concatenate([known, fold.test]))
        self.width_of_rows = int(np.prod(self.rows.shape[1:], dtype=int))
        self.groups = ridge.folds(task.table["stimulus"].iloc[known], options.folds)
        # The first run and the control; other seeds are the first again.
        self.kinds = [run.shuffled for run in task.runs]
        seen = [next(r.y for r in task.runs if r.shuffled == one)[known] for one in self._told]
        self.shown, at = np.unique(np.concatenate(seen), return_inverse=True)
        self.at = np.split(at, len(seen))
        self.every = task.targets[0].of(self.shown)
        self.y, self.width = self.every, int(np.prod(self.every.shape[1:], dtype=int))
        self.starts = _starts(task, options)
        if options.layers is not None:
            self.width = int(np.cumsum(_sizes(task))[options.layers - 1])
            self.y = ridge.Columns(self.every, slice(self.width))
            self.starts = self.starts[: options.layers]
        self.state = {}
        self._prepare()

    @property
    def _told(self):
        return list(dict.fromkeys(self.kinds))

    def _prepare(self):
        """The design and its penalties, of all features or of the better draw of some."""
        if self.options.share == 1:
            self._designed(self.rows)
            self._choose()
            return
        rng, every = np.random.default_rng(0), self.rows
        features = int(np.prod(every.shape[1:], dtype=int))
        kept = max(round(self.options.share * features), 1)
        draws = [np.sort(rng.choice(features, kept, replace=False)) for _ in range(DRAWS)]
        explained = [self._drawn(every, some) for some in draws]
        self.state = {"features": draws[int(np.argmax(explained))]}
        self._drawn(every, self.state["features"])

    def _drawn(self, every, features):
        """Take some features alone; R2 of the training rows themselves under the first run."""
        self.design = None  # before there is another
        self._designed(ridge.Columns(every, features))
        self._choose()
        rng = np.random.default_rng(0)
        columns = np.sort(rng.choice(self.width, min(SAMPLE, self.width), replace=False))
        y = self._read(columns)[self.at[0]]
        layer, told = np.searchsorted(self.starts, columns, side="right") - 1, y.copy()
        for alpha in np.unique(self.alphas[0]):
            own = self.alphas[0][layer] == alpha
            told[:, own] -= self.design.residuals(alpha) @ y[:, own]
        return _mean(_explained(y, told))

    def _designed(self, rows):
        self.rows, every = rows, np.arange(rows.shape[0])
        self.design = _named(
            rows.path,
            lambda: ridge.Design(rows, every[: self.n], every[self.n :], self.options.precision),
        )

    # ---- the penalty ----------------------------------------------------------------------

    def _choose(self):
        """The penalty of every run and layer, by models that leave out a fold of training rows."""
        ends = [*self.starts[1:], self.width]
        rng, columns = np.random.default_rng(0), []
        for start, end in zip(self.starts, ends, strict=True):
            some = min(max(SAMPLE // len(ends), 1), end - start)
            columns.append(start + np.sort(rng.choice(end - start, some, replace=False)))
        y = self._read(np.concatenate(columns))
        y = np.concatenate([y[at] for at in self.at], axis=1)
        layer = np.tile(np.repeat(np.arange(len(columns)), [*map(len, columns)]), len(self.at))
        run = np.repeat(np.arange(len(self.at)), sum(map(len, columns)))
        found = []
        for alpha in self.options.alpha:
            told = ridge.without(self.design.residuals(alpha), self.groups, y)
            explained = _explained(y, told)
            means = [
                [_mean(explained[(run == r) & (layer == i)]) for i in range(len(columns))]
                for r in range(len(self.at))
            ]
            found.append(means)
        found = np.array(found)
        best = found.argmax(0)
        self.alphas = np.asarray(self.options.alpha, float)[best]
        kinds = [self._told.index(kind) for kind in self.kinds]
        self.scores = np.take_along_axis(found, best[None], 0)[0].mean(1)[kinds]
        self.chosen = [
            row[0] if self.options.alpha_for == "all" else row
            for row in self.alphas[kinds].tolist()
        ]

    def _read(self, columns):
        return _named(
            self.y.path,
            lambda: ridge.read(self.y, np.arange(len(self.shown)), self.dtype, columns),
        )

    # ---- predictions ----------------------------------------------------------------------

    def predict(self, outputs, latent):
        """Fill in the predictions of the tested rows, and those that are rescaled."""
        at, m = np.searchsorted(self.task.tested, self.fold.test), len(self.fold.test)
        if self.width < outputs.shape[2]:
            outputs[at, :, self.width :] = self._unsaid(outputs.shape[2])
            latent[at, self.width :] = 0
        self.regions = np.zeros((len(self.patterns), self.width), self.dtype)
        self.state |= {"alpha": self.alphas, "mean": self.design.mean}
        self.state |= dict(
            zip(("target_mean", "target_sd"), ridge.moments(self.y, self.at[0]), strict=True)
        )
        if self.options.rescale != "none":
            self.state |= {"predicted_mean": np.zeros(self.width)}
            self.state |= {"predicted_sd": np.ones(self.width)}
        for i, kind in enumerate(self._told):
            runs = [r for r, other in enumerate(self.kinds) if other == kind]
            for alpha in np.unique(self.alphas[i]):
                weights = self._weights(alpha, i)
                for columns, told in self._summed(weights, self._columns(alpha, i)):
                    for row, values in zip(at, told[:m], strict=True):
                        for r in runs:
                            outputs[row, r, columns] = values
                    if i == 0:
                        q = m + len(self.patterns)
                        moved = self._rescaled(columns, told[:m], told[m:q], told[q:])
                        for row, values in zip(at, moved, strict=True):
                            latent[row, columns] = values
                    scratch.forget(outputs)
                    scratch.forget(latent)
                    told = moved = None  # before there are others
        self._scale_regions()
        if self.options.coefficients:
            self.state |= self._coefficients()
        self.design = None

    def _unsaid(self, width):
        """What stands where nothing is predicted: means of layers left out, 0 behind a row's end"""
        found, of = np.zeros(width - self.width), int(np.prod(self.every.shape[1:], dtype=int))
        if of > self.width:
            others = ridge.Columns(self.every, slice(self.width, of))
            found[: of - self.width] = ridge.moments(others, self.at[0])[0]
        return found

    def _weights(self, alpha, i):
        """Weights of what was shown in the predictions of the tested rows by one kind of run.

        Behind them, where these rescale the first, in those of training rows by models without
        them.
        """
        rows = [self._by_target(self.design.weights(alpha), self.at[i])]
        if i == 0 and self.options.rescale == "training":
            rng = np.random.default_rng(0)
            held = np.sort(rng.choice(self.n, min(HELD_OUT, self.n), replace=False))
            left = self.design.residuals(alpha)
            without = ridge.weights_without(left, self.groups, held)
            rows.append(self._by_target(without, self.at[0]))
        return np.concatenate(rows)

    def _columns(self, alpha, i):
        """The targets that have a penalty in one kind of run; None: all."""
        if len(self.starts) == 1:
            return None
        ends = [*self.starts[1:], self.width]
        spans = zip(self.alphas[i], self.starts, ends, strict=True)
        return np.concatenate([np.arange(a, b) for other, a, b in spans if other == alpha])

    def _rescaled(self, columns, told, regions, held):
        """Predictions with the mean and the spread that targets have over the training rows."""
        own = self.state["target_mean"][columns].astype(told.dtype)
        self.regions[:, columns] = regions - own
        if self.options.rescale == "none":
            return told
        by = held if self.options.rescale == "training" else told
        mean, sd = ridge.moments(by, np.arange(len(by)))
        self.state["predicted_mean"][columns] = mean
        self.state["predicted_sd"][columns] = sd
        scale = np.divide(self.state["target_sd"][columns], sd, out=np.zeros_like(sd), where=sd > 0)
        moved = told - mean.astype(told.dtype)
        moved *= scale.astype(told.dtype)
        moved += own
        self.regions[:, columns] *= scale.astype(told.dtype)
        return moved

    def _scale_regions(self):
        """Latents that patterns of regions lead to.

        Of a pattern s, 1 in a region and 0 elsewhere, the direction W s = Yc^T (A X s) that it
        moves predictions in, rescaled as these are, and made so long that targets lie one standard
        deviation of the training images from their mean, in the mean square over targets.
        Published work sets the length by hand and standardises over the patterns instead.
        """
        sd = self.state["target_sd"]
        z = np.divide(self.regions, sd, out=np.zeros_like(self.regions), where=sd > 0)
        length = np.sqrt((z**2).mean(1, dtype=float, keepdims=True))
        if not length.all():
            names = self.patterns["concept"][length[:, 0] == 0]
            raise InputError(
                f"{self.rows.path}: the pattern of region {names.iloc[0]} moves no prediction; "
                "leave out its file in `files` of the dataset"
            )
        self.regions = (self.regions / length + self.state["target_mean"]).astype(np.float32)

    def _by_target(self, weights, at):
        """Weights (m, rows) as those (m, shown): several rows may have shown the same."""
        found = np.zeros((len(weights), len(self.shown)), weights.dtype)
        if len(np.unique(at)) == len(at):
            found[:, at] = weights
        else:
            np.add.at(found, (slice(None), at), weights)
        return found

    def _summed(self, weights, columns=None):
        every = np.arange(len(self.shown))
        try:
            yield from ridge.summed(weights, self.y, every, columns, SUMS)
        except InputError as error:
            raise InputError(f"{self.y.path}: {error}") from None

    def _coefficients(self):
        """Coefficients (features, targets) of the first run, and the intercept."""
        if len(set(self.alphas[0])) > 1:
            raise InputError("heads: `coefficients` need one alpha for all targets")
        every = np.arange(self.n)
        weights = self.design.coefficients(self.alphas[0, 0], self.rows, every)
        weights = self._by_target(weights, self.at[0])
        found = scratch.empty((len(weights), self.width), np.float32, SUMS)
        for columns, total in self._summed(weights):
            found[:, columns] = total
            scratch.forget(found)
        intercept = self.state["target_mean"] - self.design.mean @ found
        of_rows = np.array([self.width_of_rows])
        return {"coefficients": found, "intercept": intercept, "width": of_rows}


# ---- small ----------------------------------------------------------------------------------


def _sizes(task):
    """Numbers of each layer of the targets, where they say so."""
    return [int(np.prod(shape)) for shape in task.facts["target"].get("latents") or ()]


def _behind(found):
    """(latents of the patterns of regions of all folds, their table), or None."""
    if not any(len(this.patterns) for this in found):
        return None
    width = max(this.regions.shape[1] for this in found)
    array = [np.pad(one.regions, ((0, 0), (0, width - one.regions.shape[1]))) for one in found]
    return np.concatenate(array), pd.concat([this.patterns for this in found])


def _of_latent(task, options, width):
    """What the header of latents of some layers alone has otherwise."""
    if options.layers is None:
        return {}
    target = task.facts["target"]
    return {
        "target": target | {"latents": target["latents"][: options.layers]},
        "widths": dict.fromkeys(task.facts["widths"], width),
    }


def _starts(task, options):
    """First column of each layer."""
    if options.alpha_for == "all":
        return [0]
    return np.concatenate([[0], np.cumsum(_sizes(task))[:-1]]).tolist()


def _explained(y, told):
    """R2 of every column; NaN where it does not change."""
    around = ((y - y.mean(0, dtype=float)) ** 2).sum(0)
    left = ((y - told) ** 2).sum(0, dtype=float)
    return 1 - np.divide(left, around, out=np.full(len(around), np.nan), where=around > 0)


def _mean(values):
    return np.nanmean(values) if np.isfinite(values).any() else 0.0


def _named(path, made):
    """What `made` gives; an error says which store it is of."""
    try:
        return made()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
