"""Scores of experiments whose y is numbers: over subjects, each counting once.

Where a number is a fact of a subject or a scan, all that is predicted for a subject is averaged,
and scores are taken between subjects. Where it varies within a scan, they are taken within each
subject, then averaged, as those of classes are.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from engram import store
from engram.errors import InputError
from engram.measures.inference import (
    arrangements,
    claims,
    interval,
    jackknife,
    jackknifed_gain,
    kind,
    mean_defined,
    percentile_interval,
    permutation_p,
    smallest_p,
    t_test,
    train_each_other,
)
from engram.scores import caveats, classification, learning
from engram.scores.probes import probe
from engram.scores.question import Question
from engram.scores.rivals import rivals
from engram.scores.sensitivity import ROWS, sensitivity
from engram.scores.settings import SEED, settings

FEWEST = 3  # observations that a score can be taken of


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold numbers, and where each score is taken.

    Attributes:
        predicted: float64 (n, runs).
        y: float64 (n,); moved: what the control was trained on and is scored against.
        expected, expected_moved: float64 (n,), the mean of the training rows of either.
        table: n rows of facts; header: of the store.
        real: bool (runs,), False for the control.
        null: float64 (n, series, 3), what models of moved numbers predict, what they expect and
            what they were trained on, see `engram.tasks.values.null`; None where there are none.
    """

    predicted: np.ndarray
    y: np.ndarray
    moved: np.ndarray
    expected: np.ndarray
    expected_moved: np.ndarray
    table: pd.DataFrame
    header: dict
    real: np.ndarray
    null: np.ndarray | None = None

    def rows(self, positions) -> "Predictions":
        """Some rows of these predictions."""
        return self._each(lambda values: values[positions], positions)

    def _each(self, change, rows):
        arrays = (self.predicted, self.y, self.moved, self.expected, self.expected_moved)
        null = None if self.null is None else change(self.null)
        table = self.table.iloc[rows]
        return Predictions(*map(change, arrays), table, self.header, self.real, null)

    def by_subject(self) -> "Predictions":
        """One row a subject: means of what its rows are and of what is predicted for them."""
        subjects = self.table["subject"].to_numpy(str)
        _, first, of_row, rows = np.unique(
            subjects, return_index=True, return_inverse=True, return_counts=True
        )

        def mean(values):
            sums = np.zeros((len(first), *values.shape[1:]))
            np.add.at(sums, of_row, values)
            return sums / rows.reshape(-1, *[1] * (values.ndim - 1))

        return self._each(mean, first)

    @property
    def of_control(self) -> "Predictions":
        """The control run alone, beside the numbers that it was trained on."""
        return dataclasses.replace(
            self,
            predicted=self.predicted[:, ~self.real],
            y=self.moved,
            expected=self.expected_moved,
            real=np.ones((~self.real).sum(), bool),
        )

    @property
    def seeds(self) -> np.ndarray:
        """What the runs that are no control predict, (n, runs)."""
        return self.predicted[:, self.real]


# ---- scores -------------------------------------------------------------------------------


def r2(y, predicted, expected) -> np.ndarray:
    """Share of the squared distance to the training mean that predictions explain, (m, runs).

    1 - sum (y - predicted)^2 / sum (y - expected)^2, `expected` being the mean of the rows that
    the fold was trained on, not that of the tested rows, which nobody knows beforehand (the
    out-of-sample R^2 of Campbell & Thompson 2008). At most 1; below 0 the training mean is nearer.

    Args:
        y: float (m, n), m arrangements of the numbers of n rows.
        predicted: float (n, runs).
        expected: float (n,).
    """
    around = ((y - expected) ** 2).sum(1)[:, None]
    squares = np.stack([((y - one) ** 2).sum(1) for one in predicted.T], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(around > 0, 1 - squares / around, np.nan)


def pearson_r(y, predicted, expected) -> np.ndarray:
    """Pearson's correlation, (m, runs); NaN where either does not vary. Args: as of `r2`."""
    return _standard(y) @ _standard(predicted.T).T / y.shape[1]


def spearman_r(y, predicted, expected) -> np.ndarray:
    """Spearman's rank correlation, ties sharing their mean rank, (m, runs). Args: as of `r2`."""
    return pearson_r(rankdata(y, axis=1), rankdata(predicted, axis=0), expected)


def mae(y, predicted, expected) -> np.ndarray:
    """Mean absolute error, in the unit of the numbers, (m, runs). Args: as of `r2`."""
    return np.stack([np.abs(y - one).mean(1) for one in predicted.T], 1)


def _standard(values):
    """Rows with mean 0 and variance 1; NaN where a row does not vary but by rounding."""
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    noise = 1e-12 * np.abs(values).max(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > noise, centred / spread, np.nan)


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        of: function of (y, predicted, expected).
        limits: lowest and highest value possible.
        normal: to a scale on which the score of few subjects is nearly normal; back: from it.
        less: whether less is better.
    """

    of: object
    limits: tuple[float, float]
    normal: object = staticmethod(lambda value: value)
    back: object = staticmethod(lambda value: value)
    less: bool = False


def _fisher(r):
    return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))


def _unexplained(value):
    return -np.log(np.maximum(1 - value, 1e-12))


SCORES = {
    "r2": Score(r2, (-np.inf, 1.0), _unexplained, lambda value: 1 - np.exp(-value)),
    "pearson_r": Score(pearson_r, (-1.0, 1.0), _fisher, np.tanh),
    "spearman_r": Score(spearman_r, (-1.0, 1.0), _fisher, np.tanh),
    "mae": Score(mae, (0.0, np.inf), less=True),
}


# ---- the stage ----------------------------------------------------------------------------


def score(predictions, baseline, x, spec, null=None) -> dict:
    """Scores of out-of-fold numbers, see `engram.scores.evaluation.evaluate`.

    Intervals, p and gains rest on subjects. Chance is the training mean, which explains nothing and
    errs by as much as it does; of correlations, which it has none, the mean under the null. The
    null exchanges the numbers of subjects, or shifts series within their scans; with `null` models
    were trained again on these, and chance is what they score. A comparison with the baseline rests
    on the rows that both predict.

    Args:
        predictions: path of a predictions store, numbers (n, runs, 1), see `engram.tasks.values`.
        baseline, x, null: as for `evaluate`.
        spec: its `evaluation` holds fields of `Settings`.

    Returns:
        dict with metrics; level, "between" or "within" subjects; column and unit of the numbers;
        people, of every subject what it is, what is predicted and the fold; sample; undefined,
        subjects without a correlation; p_min, the smallest p possible; null; baseline_rows, how
        many both predict, or None; probes; rivals; learning_curve, whose R^2 compare with the mean
        of all training rows whatever their number; settings.

    Raises:
        InputError: predictions are incomplete, the baseline predicts other numbers, or a scored
            row is missing in `x`.
    """
    chosen, rows = settings(spec["evaluation"]), _read(predictions, null)
    within = _varies(rows)
    this = rows if within else rows.by_subject()
    shared = _shared(rows, baseline)
    labels = _arrangements(this.y, this.table, within, chosen)
    metrics = _metrics(this, labels, within, chosen, shared)
    series = labels if this.null is None else this.null[..., 2].T
    (of_subjects,) = (row["subjects"] for row in metrics if row["metric"] == "pearson_r")
    return {
        "metrics": metrics,
        "level": "within" if within else "between",
        **{key: rows.header[key] for key in ("column", "unit")},
        "people": _people(rows),
        "sample": _sample(rows),
        "undefined": [name for name, value in of_subjects.items() if np.isnan(value)],
        "p_min": smallest_p(this.y, series),
        "null": {
            "kind": "fixed" if this.null is None else "refitted",
            "n": len(series),
            "floor": smallest_p(this.y, series),
        },
        "baseline_rows": len(shared[0].y) if shared else None,
        "learning_curve": _learning(rows, metrics[0], within, labels, chosen),
        **_inputs(x, rows, within, chosen),
        "rivals": rivals(_question(rows, within, chosen), rows.seeds[..., None], chosen.confounds),
        "settings": dataclasses.asdict(chosen),
    }


def _learning(rows, first, within, labels, chosen):
    def scored(predicted):
        real = np.ones(predicted.shape[1], bool)
        these = dataclasses.replace(rows, predicted=predicted[..., 0], real=real, null=None)
        these = these if within else these.by_subject()
        return _metrics(these, labels[:1], within, chosen, None)[0]

    return learning.curve(rows.table, rows.header, first, scored)


def _inputs(x, rows, within, chosen):
    """What the inputs know, and what is left of them without some of it."""
    if not chosen.probes:
        return {"probes": None}
    random = np.random.default_rng(SEED)
    probes, features = probe(x, rows.table, random)
    some = np.sort(random.permutation(len(features))[:ROWS])
    left = sensitivity(_question(rows.rows(some), within, chosen), features[some], chosen.confounds)
    return {"probes": probes, "sensitivity": left}


def _question(rows, within, chosen):
    """What the experiment asks, scored by R^2: within subjects, or between them."""
    score = SCORES["r2"]

    def those(answer):
        real = np.ones(answer.shape[1], bool)
        these = dataclasses.replace(rows, predicted=answer[..., 0], real=real, null=None)
        return these if within else these.by_subject()

    def each(answer):
        these = those(answer)
        return _values(score, these.y[None], these, within=True)[:, 0].mean(1)

    def of_all(answer, at):
        these = those(answer).rows(at)
        return float(score.of(these.y[None], these.predicted, these.expected).mean())

    return Question(
        table=rows.table,
        y=rows.y,
        classes=0,
        metric="r2",
        limits=score.limits,
        each=each,
        of_all=None if within else of_all,
        confidence=chosen.confidence,
        normal=score.normal,
        back=score.back,
    )


def _read(path, null=None):
    rows = store.open(path).load()
    real = np.array([not run["shuffled"] for run in rows.header["runs"]])
    if not np.isfinite(rows.array).all():
        raise InputError(f"{path}: rows without a prediction; delete it so that it is made again")
    if not real.any():
        raise InputError(f"{path}: every run was trained on moved numbers, none to score")
    moved = "" if real.all() else "_shuffled"
    columns = ("y", f"y{moved}", "expected", f"expected{moved}")
    facts = (rows.table[column].to_numpy(float) for column in columns)
    series = classification.refitted(null, rows).astype(float) if null else None
    predicted = rows.array[..., 0].astype(float)
    return Predictions(predicted, *facts, rows.table, rows.header, real, series)


def _shared(this, baseline):
    """(predictions, baseline's predictions) on the rows that both have, or None."""
    if not baseline:
        return None
    other = _read(baseline[0])
    mine, theirs = store.align(this.table, other.table)
    this, other = this.rows(mine), other.rows(theirs)
    if (this.y != other.y).any():
        raise InputError(
            f"{baseline[0]}: the baseline predicts other numbers than the experiment; "
            "give both the same `y`"
        )
    return this, other


def _varies(this):
    """Whether any scan holds several numbers."""
    scans = this.table.groupby(["subject", "scan"]).indices.values()
    return any((this.y[at] != this.y[at[0]]).any() for at in scans)


def _arrangements(y, table, within, chosen):
    """Numbers under the null, float (permutations, n)."""
    rng = np.random.default_rng(SEED)
    if within:
        return arrangements(y, table, chosen.permutations, rng)
    return rng.permuted(np.tile(y, (chosen.permutations, 1)), axis=1)


def _metrics(this, labels, within, chosen, shared):
    control = this.of_control
    moved = _arrangements(control.y, this.table, within, chosen)
    compared = [] if shared is None else [s if within else s.by_subject() for s in shared]
    describe = _within if within else _between
    found = []
    for name, score in SCORES.items():
        value, seeds, line = describe(name, score, this, compared, chosen)
        null = _null(score, labels, this, within)
        line |= {
            "metric": name,
            "value": value,
            **_chance(name, score, this, within, null, chosen),
            "p": _p(score, value, null),
            "seed_sd": _spread(seeds),
        }
        if control.predicted.size:
            of_control = mean_defined(_values(score, control.y[None], control, within).mean((1, 2)))
            null = mean_defined(_values(score, moved, control, within).mean(2), 0)
            line |= {"control": of_control, "control_p": _p(score, of_control, null)}
        found.append(line)
    return found


def _values(score, labels, this, within, predicted=None):
    """Score of each group of rows under each arrangement and run, float (groups, m, runs).

    Groups are the subjects, or all rows together.
    """
    predicted = this.seeds if predicted is None else predicted
    groups = list(this.table.groupby("subject").indices.values())
    groups = groups if within else [np.arange(len(this.y))]
    undefined = np.full((len(labels), predicted.shape[1]), np.nan)
    return np.stack(
        [
            score.of(labels[:, at], predicted[at], this.expected[at])
            if len(at) >= FEWEST
            else undefined
            for at in groups
        ]
    )


def _null(score, labels, this, within):
    """The score under the null, float (m,): by models of each series, or by predictions as are."""
    if this.null is None:
        return mean_defined(_values(score, labels, this, within).mean(2), 0)
    found = []
    for predicted, expected, y in this.null.transpose(1, 2, 0):
        of = dataclasses.replace(this, expected=expected)
        found.append(mean_defined(_values(score, y[None], of, within, predicted[:, None])[:, 0, 0]))
    return np.array(found)


def _chance(name, score, this, within, null, chosen):
    """Mean and middle of the null; of predictions that are fixed, what the training mean scores.

    Under moved numbers such predictions err by more than who sees no input.
    """
    low, high = percentile_interval(null, chosen.confidence)
    if this.null is not None or name in ("pearson_r", "spearman_r"):
        return {"chance": mean_defined(null), "null_low": low, "null_high": high}
    if name == "r2":
        return {"chance": 0.0}
    expected = this.expected[:, None]
    found = _values(score, this.y[None], this, within, expected).mean((1, 2))
    return {"chance": mean_defined(found)}


def _p(score, value, null):
    return permutation_p(-value, -null) if score.less else permutation_p(value, null)


def _spread(values):
    return values.std(ddof=1) if len(values) > 1 else np.nan


# ---- between subjects ---------------------------------------------------------------------


def _between(name, score, this, compared, chosen):
    """(value, value of each seed, what else is known) of a score over all subjects.

    Intervals are those of the jackknife, on the scale on which the score is nearly normal.
    """

    def of_seeds(these, at):
        return score.of(these.y[None, at], these.seeds[at], these.expected[at])[0]

    every = np.arange(len(this.y))
    if len(every) < FEWEST:
        nothing = {"low": np.nan, "high": np.nan, "interval": "jackknife", "subjects": {}}
        return np.nan, np.full(this.real.sum(), np.nan), nothing
    seeds = of_seeds(this, every)
    shared = train_each_other(this.table)
    _, low, high, _ = jackknife(
        lambda at: float(score.normal(of_seeds(this, at).mean())),
        len(every),
        chosen.confidence,
        shared,
    )
    low, high = np.clip([score.back(low), score.back(high)], *score.limits)
    line = {"low": low, "high": high, "interval": kind(shared, "jackknife"), "subjects": {}}
    if name == "mae":
        errors = _errors(this)
        line |= {"subjects": errors, "subject_sd": _spread(np.array(list(errors.values())))}
    if compared:
        line |= _gained(compared, of_seeds, chosen)
    return seeds.mean(), seeds, line


def _errors(this):
    """Absolute error of each subject, mean over seeds."""
    errors = np.abs(this.y[:, None] - this.seeds).mean(1)
    return dict(zip(this.table["subject"], errors, strict=True))


def _gained(compared, of_seeds, chosen):
    """The baseline's score, and what is gained over it by the same subjects."""
    mine, theirs = compared
    every, shared = np.arange(len(mine.y)), train_each_other(mine.table)

    def more(at):
        return float(of_seeds(mine, at).mean() - of_seeds(theirs, at).mean())

    gain = jackknifed_gain(more, len(every), chosen.confidence, chosen.margin, shared)
    return {"baseline": float(of_seeds(theirs, every).mean()), **gain}


# ---- within subjects ----------------------------------------------------------------------


def _within(name, score, this, compared, chosen):
    """(value, value of each seed, what else is known) of a score within each subject."""
    each = _values(score, this.y[None], this, within=True)[:, 0]
    names, subjects = np.unique(this.table["subject"].to_numpy(str)), each.mean(1)
    shared = train_each_other(this.table)
    low, high = _interval(subjects, score.limits, chosen, shared)
    line = {
        "low": low,
        "high": high,
        "interval": kind(shared),
        "subject_sd": _spread(subjects[~np.isnan(subjects)]),
        "subjects": dict(zip(names, subjects, strict=True)),
    }
    if compared:
        mine, theirs = (
            _values(score, these.y[None], these, within=True).mean((1, 2)) for these in compared
        )
        gained = (mine - theirs)[~np.isnan(mine - theirs)]
        low, high = _interval(gained, (-np.inf, np.inf), chosen, shared)
        line |= {
            "baseline": mean_defined(theirs),
            "difference": mean_defined(gained),
            "difference_low": low,
            "difference_high": high,
            "difference_p": t_test(gained, shared),
            **claims(gained, chosen.margin, shared),
        }
    return mean_defined(subjects), mean_defined(each, 0), line


def _interval(values, limits, chosen, shared):
    return interval(values[~np.isnan(values)], limits, chosen.confidence, shared)


# ---- what they rest on --------------------------------------------------------------------


def _people(rows):
    """Of every subject the mean of its numbers and of what is predicted, and the fold."""
    this = rows.by_subject()
    facts = zip(this.table["subject"], this.table["fold"], this.y, this.seeds.mean(1), strict=True)
    return [dict(zip(("subject", "fold", "true", "predicted"), one, strict=True)) for one in facts]


def _sample(rows):
    of_subject = rows.by_subject().y
    scans = rows.table.groupby(["subject", "scan"]).ngroups
    return {
        "subjects": len(of_subject),
        "scans": scans,
        "windows": len(rows.y),
        "excluded": dict(rows.header["excluded"]),
        "mean": of_subject.mean(),
        "sd": _spread(of_subject),
        "low": rows.y.min(),
        "high": rows.y.max(),
    }


def warnings(result) -> list[str]:
    """Sentences about a finished scores dict."""
    own = [*_undefined(result), *_statistics(result)]
    inputs = [*caveats.of_inputs(result), *caveats.of_rivals(result)]
    return [*caveats.of_split(result), *own, *inputs]


def _undefined(result):
    if undefined := result["undefined"]:
        yield (
            f"{len(undefined)} of {result['sample']['subjects']} subjects have numbers that do not "
            f"vary ({caveats.listed(undefined)}) and are left out of correlations."
        )


def _statistics(result):
    sample, first = result["sample"], result["metrics"][0]
    yield from caveats.of_few_subjects(sample["subjects"])
    if result["p_min"] > 0.05:
        yield (
            "The numbers allow few distinct arrangements: no p below "
            f"{result['p_min']:.2g} is possible."
        )
    control = first["control_p"]
    if control is not None and control <= caveats.CONTROL:
        yield (
            f"The control trained on moved numbers explains {first['control']:.2f} of them "
            f"(p = {control:.2g}), above chance: something other than the numbers leaks."
        )
    yield from caveats.of_baseline(result)
