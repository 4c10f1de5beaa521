"""From predicted numbers to one line a score, as `engram.scores.summary` for classes."""

import numpy as np

from engram.measures.inference import (
    WIDENED,
    arrangements,
    claims,
    interval,
    jackknife,
    jackknifed_gain,
    kind,
    mean_defined,
    percentile_interval,
    permutation_p,
    t_test,
    train_each_other,
)
from engram.scores.regression import FEWEST, SCORES, null_scores, scores_by_group
from engram.scores.settings import SEED


def moved(y, table, within, chosen):
    """Numbers under the null, float (permutations, n)."""
    rng = np.random.default_rng(SEED)
    if within:
        return arrangements(y, table, chosen.permutations, rng)
    return rng.permuted(np.tile(y, (chosen.permutations, 1)), axis=1)


def metrics(this, labels, within, chosen, shared) -> list[dict]:
    """A line a score, in the order of `SCORES`; keys are those of `engram.scores.evaluation`.

    Args:
        this: `regression.Predictions`, a row a subject unless `within`.
        labels: float (m, n), arrangements of its numbers under the null, see `moved`.
        within: whether scores are taken within subjects, or between them.
        chosen: Settings.
        shared: (these predictions, the baseline's), of rows that both have, or None.
    """
    control = this.of_control
    arranged = moved(control.y, this.table, within, chosen)
    compared = [] if shared is None else [s if within else s.by_subject() for s in shared]
    # of fixed predictions; between subjects their null is too wide already, see docs/design.md
    widened = WIDENED if within and train_each_other(this.table) else 1.0
    describe = _within if within else _between
    found = []
    for name, score in SCORES.items():
        value, seeds, line = describe(name, score, this, compared, chosen)
        null = null_scores(score, labels, this, within)
        line |= {
            "metric": name,
            "value": value,
            **_chance(name, score, this, within, null, chosen),
            "p": _p(score, value, null, widened if this.null is None else 1.0),
            "seed_sd": spread(seeds),
        }
        if control.predicted.size:
            of_control = mean_defined(
                scores_by_group(score, control.y[None], control, within).mean((1, 2))
            )
            null = mean_defined(scores_by_group(score, arranged, control, within).mean(2), 0)
            line |= {"control": of_control, "control_p": _p(score, of_control, null, widened)}
        found.append(line)
    return found


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
    found = scores_by_group(score, this.y[None], this, within, expected).mean((1, 2))
    return {"chance": mean_defined(found)}


def _p(score, value, null, widened):
    sign = -1 if score.less else 1
    return permutation_p(sign * value, sign * null, widened)


def spread(values) -> float:
    """Standard deviation, NaN of fewer than two values."""
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
        line |= {"subjects": errors, "subject_sd": spread(np.array(list(errors.values())))}
    if compared and len(compared[0].y) >= FEWEST:
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
    each = scores_by_group(score, this.y[None], this, within=True)[:, 0]
    names, subjects = np.unique(this.table["subject"].to_numpy(str)), each.mean(1)
    shared = train_each_other(this.table)
    low, high = _interval(subjects, score.limits, chosen, shared)
    line = {
        "low": low,
        "high": high,
        "interval": kind(shared),
        "subject_sd": spread(subjects[~np.isnan(subjects)]),
        "subjects": dict(zip(names, subjects, strict=True)),
    }
    if compared:
        mine, theirs = (
            scores_by_group(score, these.y[None], these, within=True).mean((1, 2))
            for these in compared
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
