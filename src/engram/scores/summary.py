"""From predictions to one line a score: value, interval, chance, baseline."""

import numpy as np

from engram.measures.inference import (
    arrangements,
    bounded,
    bounded_interval,
    claims,
    interval,
    jackknife,
    jackknifed_gain,
    kind,
    mean_defined,
    percentile_interval,
    smallest_p,
    t_test,
)
from engram.scores.classification import (
    LIMITS,
    NEED_TWO_CLASSES,
    null_scores,
    observed,
    permutation_p,
    prior,
    refitted_scores,
    scores,
)
from engram.scores.settings import SEED

#: Scores that one row a subject does not have.
POOLED = (*NEED_TWO_CLASSES, "ece")


def summarise(this, shared, settings) -> dict:
    """A line a score, in the order of `LIMITS`, and what holds for all of them.

    A score is taken for every subject and seed, averaged over seeds, then over subjects.
    Those that need two classes leave out subjects with one; if that leaves nobody, they are
    taken over all rows together, `pooled`, and intervals and gains leave out each subject in turn.

    Args:
        this: Predictions.
        shared: (these predictions, the baseline's) on the rows that both have, or None.
        settings: Settings.

    Returns:
        dict with metrics (columns of `engram.scores.evaluation`; NaN stands for what does not
        exist); over_control, difference, low and high of what balanced accuracy is above that of
        the control, paired by subject, or None; pooled, whether balanced accuracy had to be;
        undefined, subjects that it leaves out; p_min, the smallest p possible; null, see
        `engram.scores.evaluation`; majority, by metric the score of always naming the class most
        frequent in training.
    """
    rng = np.random.default_rng(SEED)
    labels = arrangements(this.y, this.table, settings.permutations, rng)
    known = this.null.labels if this.null else labels
    lines = _lines(this, shared, labels, settings, pooled=False)
    majority = _majority(this, pooled=False)
    first = lines["balanced_accuracy"]
    undefined = [name for name, value in first["subjects"].items() if np.isnan(value)]
    pooled = bool(np.isnan(first["value"]))
    if pooled:
        of_all = _lines(this, shared, labels, settings, pooled=True)
        lines |= {name: of_all[name] for name in POOLED}
        of_all = _majority(this, pooled=True)
        majority |= {name: of_all[name] for name in POOLED}
    return {
        "metrics": [{"metric": name, **line} for name, line in lines.items()],
        "pooled": pooled,
        "undefined": undefined,
        "over_control": None if pooled else _over_control(this, settings),
        "p_min": smallest_p(this.y, known),
        "null": {
            "kind": "refitted" if this.null else "fixed",
            "n": len(known),
            "floor": smallest_p(this.y, known),
        },
        "majority": majority,
    }


def _lines(this, shared, labels, settings, pooled):
    """The line of every score; `pooled` takes all rows as those of one subject."""
    names, groups = _groups(this, pooled)
    found = observed(this.y, this.probabilities[:, this.real], groups)
    null = _null_scores(this, labels, groups)
    control, control_null = _control(this, groups, settings)
    compared = [_by_subject(these, pooled) for these in shared or ()]
    together = NEED_TWO_CLASSES if pooled else ()
    lines = {}
    for name in LIMITS:
        subjects = found[name].mean(1)
        lines[name] = {
            "value": mean_defined(subjects),
            **_interval(name, subjects, this.shared, settings),
            **_null(name, null, settings),
            "p": _p(name, found, null, this.shared and not this.null),
            "control": mean_defined(control[name]) if name in control else np.nan,
            "control_p": _p(name, control, control_null, this.shared),
            "seed_sd": _spread(mean_defined(found[name], 0)),
            "subject_sd": _spread(subjects[~np.isnan(subjects)]),
            **_difference(name, compared, this.shared, settings),
            **(_of_all(name, this, shared, settings) if name in together else {}),
            "subjects": {} if pooled else dict(zip(names, subjects, strict=True)),
        }
    return lines


def _majority(this, pooled):
    _, groups = _groups(this, pooled)
    named = prior(this.y, this.table["fold"], this.probabilities.shape[2])
    return {name: mean_defined(v) for name, v in observed(this.y, named, groups).items()}


def of_prior(this, shares, pooled) -> dict[str, float]:
    """What saying the same probabilities of every row scores, by metric.

    Args:
        this: Predictions.
        shares: of each class.
        pooled: whether scores that need two classes are taken over all rows together.
    """
    said = np.tile(shares, (len(this.y), 1, 1))
    found = [observed(this.y, said, _groups(this, of)[1]) for of in (False, pooled)]
    names = {name: found[pooled and name in POOLED] for name in found[0]}
    return {name: mean_defined(values[name]) for name, values in names.items()}


def _groups(this, pooled):
    """(names, code of each row) of the groups that a score is taken within."""
    if pooled:
        return np.array(["all"]), np.zeros(len(this.y), int)
    return np.unique(this.table["subject"].to_numpy(str), return_inverse=True)


def _interval(name, subjects, shared, settings):
    values = subjects[~np.isnan(subjects)]
    low, high = bounded_interval(values, LIMITS[name], settings.confidence, shared)
    return {"low": low, "high": high, "interval": kind(shared)}


def _of_all(name, this, shared, settings):
    """Interval of a score of all subjects together, and of what it is above the baseline's."""
    scored, subjects = _scored(name, this)
    _, low, high, _ = jackknife(scored, subjects, settings.confidence, this.shared)
    low, high = bounded(low, high, LIMITS[name])
    line = {"low": low, "high": high, "interval": kind(this.shared, "jackknife")}
    if not shared:
        return line
    (mine, subjects), (theirs, _) = (_scored(name, these) for these in shared)
    return line | jackknifed_gain(
        lambda at: mine(at) - theirs(at),
        subjects,
        settings.confidence,
        settings.margin,
        this.shared,
    )


def _scored(name, this):
    """(score of some subjects together, by their positions, mean over seeds; how many there are)"""
    _, groups = _groups(this, pooled=False)
    rows = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    probabilities = this.probabilities[:, this.real]

    def scored(subjects):
        at = np.concatenate([rows[subject] for subject in subjects])
        return float(scores(this.y[None, at], probabilities[at])[name].mean())

    return scored, len(rows)


def _null_scores(this, labels, groups):
    """Scores under the null: of models of moved labels, or of these predictions under such."""
    if this.null:
        return refitted_scores(this.null, groups)
    return null_scores(labels, this.probabilities[:, this.real], groups)


def _null(name, null, settings):
    """Mean and middle of the scores of moved labels, mean over seeds."""
    values = null[name].mean(1) if name in null else np.array([np.nan])
    low, high = percentile_interval(values, settings.confidence)
    return {"chance": mean_defined(values), "null_low": low, "null_high": high}


def _spread(values):
    return values.std(ddof=1) if len(values) > 1 else np.nan


def _p(name, found, null, shared):
    """How often moved labels do as well as those that are scored; see `permutation_p`."""
    if name not in null or name not in found:
        return np.nan
    return permutation_p(name, mean_defined(found[name]), null[name].mean(1), shared)


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


def _over_control(this, settings):
    """What the first score is above that of the control, paired by subject, with its interval."""
    if this.real.all():
        return None
    _, groups = _groups(this, False)
    control = observed(this.moved, this.probabilities[:, ~this.real], groups)
    mine = _by_subject(this, False)["balanced_accuracy"]
    above = mine - control["balanced_accuracy"].mean(1)
    above = above[~np.isnan(above)]
    low, high = interval(above, (-1, 1), settings.confidence, this.shared)
    return {"difference": mean_defined(above), "low": low, "high": high}


def _by_subject(these, pooled):
    """Scores of each subject, mean over seeds, float (subjects,) by name."""
    _, groups = _groups(these, pooled)
    found = observed(these.y, these.probabilities[:, these.real], groups)
    return {name: values.mean(1) for name, values in found.items()}


def _difference(name, compared, shared, settings):
    """The baseline's score, and what is gained over it, paired by subject."""
    if not compared:
        return {}
    mine, theirs = compared
    baseline, gained = theirs[name], mine[name] - theirs[name]
    gained = gained[~np.isnan(gained)]
    width = LIMITS[name][1] - LIMITS[name][0]
    low, high = interval(gained, (-width, width), settings.confidence, shared)
    return {
        "baseline": mean_defined(baseline),
        "difference": mean_defined(gained),
        "difference_low": low,
        "difference_high": high,
        "difference_p": t_test(gained, shared),
        **claims(gained, settings.margin, shared),
    }
