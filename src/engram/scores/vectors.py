"""Scores of experiments whose y is vectors: of each target, and of each image among all.

Of every target R2 and Pearson's r over the test images, averaged over targets; of every test image
how it is told apart among all test images, by correlating what is predicted with what is true,
every target in standard deviations of the training images. All before predictions are rescaled.

Where voxels are predicted and their noise ceilings are known (`voxels` of the experiment), R2 is
given as a share of these too: its mean over voxels divided by that of the ceilings, since a
quotient of one voxel means nothing where its ceiling is near 0.

Every score is a mean over rows of what each contributes, M[row, image] being the contribution if
the true image were another: the null exchanges images. Intervals draw subjects and images anew; R2
and r, which are no plain means, take part with their empirical influence function (Devlin,
Gnanadesikan & Kettenring, Biometrika 62, 1975), whose mean is the score.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from engram import store
from engram.errors import InputError
from engram.measures import ranking
from engram.scores import over_images
from engram.scores.settings import settings

WAYS = (2, 300)
TOPS = (1, 5)
BUNCH_BYTES = 32 << 20  # of rows of predictions at a time
EPSILON = 1e-12
DECIMALS = 3  # of R2 of a voxel
LESS = ("mean_rank",)
BINS = np.linspace(-1, 1, 41)  # of r, for the figure

#: Range of scores that are no share of images, whose range is 0 to 1, and no rank.
LIMITS = {"r2": (-np.inf, 1), "r2_of_ceiling": (-np.inf, np.inf), "pearson_r": (-1, 1)}

#: What a simulation calls the scores that it predicts.
PREDICTED = {"r2": "r2", "2_way": "two_way"}


def score(predictions, baseline, x, spec) -> dict:
    """Scores of vectors, see `engram.scores.evaluation.evaluate`.

    Args:
        predictions: path of a store, see `engram.tasks.vectors`.
        baseline: paths of the predictions to compare with: one or none.
        x: {source: paths} of the stores of y, for what is true, and behind them those of the view
            of `voxels`, if the experiment names one.
        spec: its `evaluation` holds fields of `Settings`.

    Returns:
        dict with metrics; widths, how many targets each subject has and how many of them change;
        candidates, how many images there are to tell apart; protocol and zscore of the responses;
        decodes; layers, R2 and r of each where they are known; distribution of r over targets;
        ceilings, of each subject the mean noise ceiling of its voxels, and voxels, R2 of each, in
        the order of the targets, NaN where it does not change: where they are known;
        predicted, what a simulation expects; sample; settings.

    Raises:
        InputError: a true vector is missing, the baseline has other test rows or targets, or the
            voxels are not those that were predicted.
    """
    chosen = settings(spec["evaluation"])
    this = _Read(predictions, x)
    other = _Read(baseline[0], x) if baseline else None
    if other:
        _refuse_other(this, other, baseline[0])
    subjects = {name: this.measured(name) for name in this.subjects}
    others = {name: other.measured(name) for name in this.subjects} if other else None
    candidates = len(next(iter(subjects.values())).images)

    def limits(name):
        return LIMITS.get(name, (1, candidates) if name == "mean_rank" else (0, 1))

    return {
        "metrics": over_images.metrics(subjects, others, chosen, _chance, limits, LESS),
        "null": over_images.fixed(chosen.permutations),
        "widths": {name: [one.targets, one.changing] for name, one in subjects.items()},
        "candidates": candidates,
        **{key: this.header[key] for key in ("protocol", "zscore", "decodes")},
        "layers": _layers(this.header["target"].get("latents"), subjects),
        "distribution": {
            "bins": BINS,
            "counts": {name: np.histogram(one.r, BINS)[0] for name, one in subjects.items()},
        },
        **_of_voxels(this, subjects),
        "predicted": _predicted(this.header["attainable"]),
        "sample": {
            "subjects": len(subjects),
            "rows": sum(len(one.own) for one in subjects.values()),
            "excluded": this.header["excluded"],
        },
        "settings": dataclasses.asdict(chosen),
    }


# ---- what is measured ---------------------------------------------------------------------


@dataclass(frozen=True)
class Measured(over_images.Measured):
    """Scores of one subject, as in `over_images`, beside

    Attributes:
        contributions: {score: float (n, k)}, the mean over seeds.
        r2, r: float (targets,), of the targets that change.
        targets, changing: how many there are, and how many of them change in training and test.
        column: int (changing,), which.
    """

    contributions: dict
    r2: np.ndarray
    r: np.ndarray
    targets: int
    changing: int
    column: np.ndarray

    def null(self, rng, permutations):
        orders = [rng.permutation(len(self.images))[self.own] for _ in range(permutations)]
        rows = np.arange(len(self.own))
        return {
            name: np.array([values[rows, at].mean() for at in orders])
            for name, values in self.contributions.items()
        }


class _Read:
    """Predictions beside what is true, read subject by subject.

    Attributes:
        header, table: of the predictions; subjects: their names.
    """

    def __init__(self, predictions, y):
        self.store = store.open(predictions)
        self.header, self.table = self.store.header, self.store.table
        tested = self.table["statistic"] == ""
        self.subjects = list(dict.fromkeys(self.table["subject"][tested]))
        self.real = np.array([not run["shuffled"] for run in self.header["runs"]])
        paths, *beside = y.values()
        self.true = [store.open(path) for path in paths]
        self.voxels = [store.open(path) for path in (beside[0] if beside else ())]

    def rows(self, subject, statistic=""):
        """Positions of the rows of a subject."""
        own = (self.table["subject"] == subject) & (self.table["statistic"] == statistic)
        return np.flatnonzero(own)

    def measured(self, subject) -> Measured:
        rows, width = self.rows(subject), self.header["widths"][subject]
        mean, sd = (self.store[self.rows(subject, s)][0, 0, :width] for s in ("mean", "sd"))
        stimuli = self.table["stimulus"].iloc[rows]
        images, first, own = np.unique(
            stimuli.to_numpy(str), return_index=True, return_inverse=True
        )
        names = images if self.header["decodes"] else self.table.index[rows[first]]
        true = self._true(names, width)
        column = np.flatnonzero((sd > 0) & (np.ptp(true, axis=0) > 0))
        true = true if len(column) == width else true[:, column]
        true -= mean[column]
        true /= sd[column]

        def read(run):
            size = max(BUNCH_BYTES // (4 * len(self.real) * width), 1)
            for start in range(0, len(rows), size):
                part = slice(start, min(start + size, len(rows)))
                values = self.store[rows[part]][:, run, :width]
                yield part, (values[:, column] - mean[column]) / sd[column]

        runs = [_Run(true, own, lambda run=run: read(run)) for run in range(len(self.real))]
        real = [run for run, is_real in zip(runs, self.real, strict=True) if is_real]
        control = [run for run, is_real in zip(runs, self.real, strict=True) if not is_real]
        if self.voxels:
            ceiling = self.ceilings(subject)[column].mean()
            for one in runs:
                one.as_share_of(ceiling)
        names = real[0].contributions
        return Measured(
            images=images.tolist(),
            own=own,
            contributions={k: np.mean([run.contributions[k] for run in real], 0) for k in names},
            influence={k: np.mean([run.influence[k] for run in real], 0) for k in names},
            seeds={k: np.array([run.influence[k].mean() for run in real]) for k in names},
            control={k: np.array([run.influence[k].mean() for run in control]) for k in names},
            r2=np.mean([run.r2 for run in real], 0),
            r=np.mean([run.r for run in real], 0),
            targets=width,
            changing=len(column),
            column=column,
        )

    def ceilings(self, subject):
        """Noise ceiling of each target, (width,)."""
        width = self.header["widths"][subject]
        for one in self.voxels:
            if one.table["subject"].iloc[0] != subject:
                continue
            if one.header["protocol"] != self.header["protocol"]:
                raise InputError(
                    f"{one.path}: its protocol is {one.header['protocol']}, and that of the "
                    f"responses {self.header['protocol']}; name a view of the same protocol"
                )
            used = np.flatnonzero(one.table["exclude"] == "")
            if len(used) != width:
                raise InputError(
                    f"{one.path}: has {len(used)} voxels, and {width} were predicted of {subject}; "
                    "name as `voxels` of the experiment the view of these voxels"
                )
            return one[used].astype(float)
        raise InputError(f"{self.voxels[0].path}: there are no voxels of {subject}; render them")

    def _true(self, names, width):
        for one in self.true:
            at = one.table.index.get_indexer(names)
            if (at >= 0).all():
                return one[at].reshape(len(at), -1)[:, :width].astype(np.float32)
        missing = [name for name in names if not any(name in one.table.index for one in self.true)]
        raise InputError(f"{self.true[0].path}: lacks {missing[0]}, which was predicted")


class _Run:
    """What one run scores on one subject; see `Measured`.

    Args:
        true: float32 (k, targets), of every image; own: int (n,), the image of each row.
        read: gives (slice of rows, float32 (rows, targets)), all rows in order, when called.
    """

    def __init__(self, true, own, read):
        self.true, self.own, self.n = true, own, len(own)
        p, pp, py, y, self.yy = (np.zeros(true.shape[1]) for _ in range(5))
        for part, told in read():
            mine = true[own[part]].astype(float)
            p, pp, py = p + told.sum(0), pp + (told**2).sum(0), py + (told * mine).sum(0)
            y, self.yy = y + mine.sum(0), self.yy + (mine**2).sum(0)
        self.r2 = (2 * py - pp) / self.yy
        self.mean = p / self.n, y / self.n
        spread = [np.maximum(one, 0) for one in (pp - p**2 / self.n, self.yy - y**2 / self.n)]
        varies = (spread[0] > EPSILON * pp) & (spread[1] > EPSILON * self.yy)
        self.scale = [
            np.divide(1, np.sqrt(one), out=np.zeros_like(one), where=varies) for one in spread
        ]
        self.r = (py - p * y / self.n) * self.scale[0] * self.scale[1]
        self._rows(read)

    def _rows(self, read):
        """Contributions and influence, as sums over targets."""
        (n, k), true = (self.n, len(self.true)), self.true
        similarity, r2, r = (np.empty((n, k)) for _ in range(3))
        influence = {"r2": np.empty(n), "pearson_r": np.empty(n)}
        norms, squares = self._of_images()
        weights, centre = (self.scale[0] * self.scale[1] * n).astype(np.float32), self.mean[1]
        yy = self.yy.astype(np.float32)
        for part, p in read():
            centred = p - p.mean(1, keepdims=True)
            lengths = np.sqrt((centred**2).sum(1, keepdims=True))
            similarity[part] = (centred @ true.T) / np.maximum(lengths * norms, EPSILON)
            apart = (p**2 / yy).sum(1)[:, None] + squares - 2 * (p / yy) @ true.T
            r2[part] = 1 - n * apart / true.shape[1]
            moved = (p - self.mean[0].astype(np.float32)) * weights
            r[part] = (moved @ true.T - (moved @ centre)[:, None]) / true.shape[1]
            mine = true[self.own[part]]
            left = ((1 - self.r2) * mine**2 - (mine - p) ** 2) / self.yy
            influence["r2"][part] = (self.r2 + n * left).mean(1)
            z = [
                (one - mean) * scale
                for one, mean, scale in zip((p, mine), self.mean, self.scale, strict=True)
            ]
            moved = z[0] * z[1] - self.r * (z[0] ** 2 + z[1] ** 2) / 2
            influence["pearson_r"][part] = (self.r + n * moved).mean(1)
        ranks = rankdata(-similarity, axis=1)
        told = {"r2": r2, "pearson_r": r}
        for ways in (w for w in WAYS if w <= k):
            told[f"{ways}_way"] = ranking.k_way(ranks.ravel(), k, ways).reshape(n, k)
        told |= {f"top{t}": (ranks <= t).astype(float) for t in TOPS if t <= k}
        self.contributions = told | {"mean_rank": ranks}
        self.influence = {
            name: influence.get(name, values[np.arange(n), self.own])
            for name, values in self.contributions.items()
        }

    def as_share_of(self, ceiling):
        """R2 over a noise ceiling is a score too."""
        share = 1 / max(ceiling, EPSILON)
        for scores in (self.contributions, self.influence):
            scores["r2_of_ceiling"] = scores["r2"] * share

    def _of_images(self):
        """Length of every image, centred, and its squares over those of all rows, (k,) each."""
        norms, squares = np.empty(len(self.true)), np.empty(len(self.true))
        for i, one in enumerate(self.true):
            norms[i] = np.linalg.norm(one - one.mean())
            squares[i] = (one.astype(float) ** 2 / self.yy).sum()
        return norms, squares


# ---- scores -------------------------------------------------------------------------------


def _chance(name, subjects, null):
    """What saying the training mean, or drawing, scores; of r the mean under the null."""
    k = len(next(iter(subjects.values())).images)
    if name in ("r2", "r2_of_ceiling"):
        return 0.0
    if name == "pearson_r":
        return null.mean()
    if name == "mean_rank":
        return (k + 1) / 2
    return 1 / int(name.partition("_")[0]) if name.endswith("_way") else int(name[3:]) / k


def _refuse_other(this, other, path):
    if any(this.header[key] != other.header[key] for key in ("widths", "targets")):
        raise InputError(f"{path}: predicts other targets; give a baseline with the same `y`")
    over_images.refuse_other_rows(this.table, other.table, path)


def _layers(latents, subjects):
    """R2 and r of each layer, coarsest first, the mean over subjects and each; None if unknown."""
    if not latents:
        return None
    ends = np.cumsum([int(np.prod(shape)) for shape in latents])
    found = []
    for i, (shape, end) in enumerate(zip(latents, ends, strict=True), 1):
        each = {}
        for name, one in subjects.items():
            own = (one.column >= end - np.prod(shape)) & (one.column < end)
            each[name] = [one.r2[own].mean(), one.r[own].mean()] if own.any() else [np.nan, np.nan]
        r2, r = np.mean(list(each.values()), 0)
        found.append({"layer": i, "shape": shape, "r2": r2, "pearson_r": r, "subjects": each})
    return found


def _of_voxels(this, subjects):
    """What is known of each voxel that was predicted, if it is."""
    if not this.voxels:
        return {"ceilings": None, "voxels": None}
    every = {name: np.full(one.targets, np.nan) for name, one in subjects.items()}
    for name, one in subjects.items():
        every[name][one.column] = one.r2.round(DECIMALS)
    means = {name: this.ceilings(name)[one.column].mean() for name, one in subjects.items()}
    return {"ceilings": means, "voxels": every}


def _predicted(attainable):
    """{score: [low, high]} in which a simulation expects the mean over subjects."""
    if not attainable:
        return {}
    return {
        name: [np.mean([one[key][end] for one in attainable.values()]) for end in ("low", "high")]
        for name, key in PREDICTED.items()
    }


def warnings(result) -> list[str]:
    """Sentences about a finished scores dict."""
    found, by_name = [], {row["metric"]: row for row in result["metrics"]}
    # Not by pairs told apart: a model of exchanged images maps responses to few targets at random,
    # so that pairs come out on one side or the other by luck; variance it does not explain.
    control = by_name["r2"]["control"]
    if control is not None and control > 2 / np.sqrt(result["sample"]["rows"]):
        found.append(
            f"The control, trained on exchanged images, explains {control:.1%} of the variance: "
            "above chance."
        )
    for name, (low, high) in result["predicted"].items():
        value = by_name[name]["value"]
        if not low <= value <= high:
            found.append(
                f"{name} is {value:.3f}, {'below' if value < low else 'above'} the {low:.3f} to "
                f"{high:.3f} that the simulation predicts."
            )
    if result["sample"]["subjects"] < 5:
        found.append("Fewer than five subjects: intervals over subjects are wide and rough.")
    return found
