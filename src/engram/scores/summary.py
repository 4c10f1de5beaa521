"""From predictions to one line a score: value, interval, chance, baseline."""

from dataclasses import dataclass

import numpy as np

from engram.measures.inference import (
    arrangements,
    interval,
    mean_defined,
    percentile_interval,
    sign_flip,
    smallest_p,
)
from engram.scores.classification import (
    LIMITS,
    NEED_TWO_CLASSES,
    null_scores,
    observed,
    permutation_p,
    prior,
    scores,
)

SEED = 0  # of every resampling, so that a score is the same whenever it is computed


@dataclass(frozen=True)
class Settings:
    """The `evaluation` part of the configuration.

    Attributes:
        bootstrap: resamples of subjects for an interval.
        permutations: shifted label series for a p.
        confidence: of the intervals.
        probes: whether to ask what else the inputs know (subject, time, copies).
    """

    bootstrap: int = 2000
    permutations: int = 1000
    confidence: float = 0.95
    probes: bool = True


def summarise(this, shared, settings, baseline_name=None) -> list[dict]:
    """One dict a score, in the order of `LIMITS`.

    A score is taken for every subject and seed, averaged over seeds, then over subjects.
    Those that need two classes leave out subjects with one; if that leaves nobody, they are
    taken over all windows together, `pooled`.

    Args:
        this: Predictions.
        shared: (these predictions, the baseline's) on the rows that both have, or None.
        settings: Settings.
        baseline_name: of the baseline, for the reader.

    Returns:
        Dicts with: metric; value; low, high, interval ("bootstrap" or "t"); seed_sd; pooled;
        majority; shuffled, the mean of the controls, and shuffled_p; p and p_min, the
        smallest possible; baseline, baseline_name, baseline_windows, difference,
        difference_low, difference_high, difference_p; subjects (value of each) and undefined
        (names of subjects left out).  NaN stands for what does not exist.
    """
    rng = np.random.default_rng(SEED)
    labels = arrangements(this.y, this.table, settings.permutations, rng)
    lines = _lines(this, shared, labels, settings, pooled=False)
    if np.isnan(lines["balanced_accuracy"]["value"]):
        alone = {"undefined": lines["balanced_accuracy"]["undefined"]}
        pooled = _lines(this, shared, labels, settings, pooled=True)
        lines |= {name: pooled[name] | alone for name in NEED_TWO_CLASSES}
    facts = {
        "baseline_name": baseline_name if shared else None,
        "baseline_windows": len(shared[0].y) if shared else None,
        "p_min": smallest_p(this.y, labels),
    }
    return [{"metric": name, **line, **facts} for name, line in lines.items()]


def _lines(this, shared, labels, settings, pooled):
    """The line of every score; `pooled` takes all rows as those of one subject."""
    names, groups = _groups(this, pooled)
    found = observed(this.y, this.probabilities[:, this.real], groups)
    classes = this.probabilities.shape[2]
    majority = observed(this.y, prior(this.y, this.table["fold"], classes), groups)
    null = null_scores(labels, this.probabilities[:, this.real], groups)
    control, control_null = _control(this, groups, settings)
    resampled = _resampled(this, settings) if pooled else {}
    compared = [_by_subject(these, pooled) for these in shared or ()]
    lines = {}
    for name in LIMITS:
        subjects = found[name].mean(1)
        lines[name] = {
            "value": mean_defined(subjects),
            **_interval(name, subjects, settings, resampled.get(name)),
            "seed_sd": _spread(mean_defined(found[name], 0)),
            "pooled": pooled,
            "majority": mean_defined(majority[name]),
            "shuffled": mean_defined(control[name]) if name in control else np.nan,
            "shuffled_p": _p(name, control, control_null),
            "p": _p(name, found, null),
            **_difference(name, compared, settings),
            "subjects": {} if pooled else dict(zip(names, subjects, strict=True)),
            "undefined": [] if pooled else list(names[np.isnan(subjects)]),
        }
    return lines


def _groups(this, pooled):
    """(names, code of each row) of the groups that a score is taken within."""
    if pooled:
        return np.array(["all"]), np.zeros(len(this.y), int)
    return np.unique(this.table["subject"].to_numpy(str), return_inverse=True)


def _interval(name, subjects, settings, resampled=None):
    if resampled is not None:
        low, high = percentile_interval(resampled, settings.confidence)
        kind = "bootstrap"
    else:
        rng = np.random.default_rng(SEED)
        values = subjects[~np.isnan(subjects)]
        low, high, kind = interval(
            values, LIMITS[name], settings.confidence, settings.bootstrap, rng
        )
    return {"low": low, "high": high, "interval": kind}


def _resampled(this, settings):
    """Pooled scores of resampled subjects, mean over seeds, float (bootstrap,) by name."""
    rng = np.random.default_rng(SEED)
    names, groups = _groups(this, pooled=False)
    rows = [np.flatnonzero(groups == group) for group in range(len(names))]
    probabilities = this.probabilities[:, this.real]
    draws = []
    for _ in range(settings.bootstrap):
        at = np.concatenate([rows[group] for group in rng.integers(len(rows), size=len(rows))])
        draws.append(scores(this.y[None, at], probabilities[at]))
    return {name: np.array([draw[name].mean() for draw in draws]) for name in NEED_TWO_CLASSES}


def _spread(values):
    return values.std(ddof=1) if len(values) > 1 else np.nan


def _p(name, found, null):
    """How often shifted labels suit the predictions as well as the labels they were made for."""
    if name not in null or name not in found:
        return np.nan
    return permutation_p(name, mean_defined(found[name]), null[name].mean(1))


def _control(this, groups, settings):
    """Scores of the control and their null, both against the labels that it was trained on.

    Scored against the true labels it would say nothing: a head that fits noise in features
    that carry the state tells the state apart, in a direction that is a matter of luck.
    """
    if this.real.all():
        return {}, {}
    probabilities = this.probabilities[:, ~this.real]
    rng = np.random.default_rng(SEED)
    labels = arrangements(this.moved, this.table, settings.permutations, rng)
    found = observed(this.moved, probabilities, groups)
    return found, null_scores(labels, probabilities, groups)


def _by_subject(these, pooled):
    """Scores of each subject, mean over seeds, float (subjects,) by name."""
    _, groups = _groups(these, pooled)
    found = observed(these.y, these.probabilities[:, these.real], groups)
    return {name: values.mean(1) for name, values in found.items()}


def _difference(name, compared, settings):
    """The baseline's score, and what is gained over it, paired by subject."""
    if not compared:
        keys = ("baseline", "difference", "difference_low", "difference_high", "difference_p")
        return dict.fromkeys(keys)
    mine, theirs = compared
    rng = np.random.default_rng(SEED)
    baseline, gained = theirs[name], mine[name] - theirs[name]
    gained = gained[~np.isnan(gained)]
    width = LIMITS[name][1] - LIMITS[name][0]
    low, high, _ = interval(gained, (-width, width), settings.confidence, settings.bootstrap, rng)
    return {
        "baseline": mean_defined(baseline),
        "difference": mean_defined(gained),
        "difference_low": low,
        "difference_high": high,
        "difference_p": sign_flip(gained) if len(gained) > 1 else np.nan,
    }
