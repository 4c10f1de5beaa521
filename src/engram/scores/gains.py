"""What members of a comparison gain over each other, paired by subject."""

import numpy as np

from engram import flags
from engram.measures.inference import claims, holm, interval, t_test


def weigh_weights(described, paired, settings):
    """Give each member that has a control what its weights gain over random ones, as `gain`."""
    by_name = {member["experiment"]: member for member in described}
    pairs = [(by_name[c["control_of"]], c) for c in described if c["control_of"] in by_name]
    for member in described:
        member["gain"] = None
    for member, control in pairs:
        mine, theirs = (paired[one["experiment"]] for one in (member, control))
        member["gain"] = _gained(mine, theirs, settings)
    raw = [member["gain"]["p"] for member, _ in pairs]
    for (member, _), p in zip(pairs, holm(raw), strict=True):
        member["gain"]["p_holm"] = p


def weigh_best(described, paired, settings, first):
    """Give each model what it has more than the best of the baselines, as `over_best`.

    Baselines are the one that the comparison names and all members without weights; the best has
    the best score of those whose flags do not inflate it. It is taken after the fact, on the rows
    that it is compared on: of several that are equally good it is the luckiest, which favours the
    baseline. Models are those that are left but for controls, whose gain is that of weights.

    Args:
        described: members with value, flags, is_baseline, control_of and role.
        paired: by experiment, what `paired` gives.
        settings: of the evaluation.
        first: the metric that `margin` is of.

    Returns:
        the experiment of the best baseline, None if there is none. `over_best` of a model is a
        dict with baseline, metric, difference, low, high, p, p_holm (over models), detectable,
        equivalence_p (None without `margin`, and where subjects are paired by another metric) and
        subjects; of others, and of scores that flags inflate, None.
    """
    sound = [m for m in described if not flags.inflated(m["flags"]) and m["value"] is not None]
    given = [m for m in sound if _stands_as_baseline(m)]
    for member in described:
        member["over_best"] = None
    if not given:
        return None
    best = min(given, key=rank)["experiment"]
    models = [m for m in sound if not _stands_as_baseline(m) and m["control_of"] is None]
    for member in models:
        mine, theirs = (paired[name] for name in (member["experiment"], best))
        gain = _gained(mine, theirs, settings)
        margin = settings.get("margin") if mine["metric"] == first else None
        member["over_best"] = {
            "baseline": best,
            **gain,
            **claims([*gain["subjects"].values()], margin, shared=True),
        }
    p = [member["over_best"]["p"] for member in models]
    for member, adjusted in zip(models, holm(p), strict=True):
        member["over_best"]["p_holm"] = adjusted
    return best


def _stands_as_baseline(member):
    return member["role"] != "random" and (member["is_baseline"] or member["role"] == "baseline")


def _gained(mine, theirs, settings):
    """`paired_gain` of two experiments by what `paired` gives of them, and its metric."""
    gain = paired_gain(mine["subjects"], theirs["subjects"], settings)
    if mine["metric"] == "mae":  # errors: what is gained is what they are smaller by
        gain |= _turned(gain)
    return {**gain, "metric": mine["metric"]}


def _turned(gain):
    return {
        "difference": -gain["difference"],
        "low": -gain["high"],
        "high": -gain["low"],
        "subjects": {subject: -value for subject, value in gain["subjects"].items()},
    }


def paired(scores):
    """The metric by which subjects are paired: the first, or what a subject of one row has.

    That is the error of a number, and where a class is of the subject, accuracy.
    """
    rows = {row["metric"]: row for row in scores["metrics"]}
    first = scores["metrics"][0]
    return rows.get("mae") or (first if first["subjects"] else rows.get("accuracy", first))


def paired_gain(mine, theirs, settings) -> dict:
    """What one experiment gains over another, paired by subject.

    Args:
        mine, theirs: score by subject, averaged over seeds; None where it is undefined.
        settings: of the evaluation, with `confidence`.

    Returns:
        difference, the mean over the subjects that both have; low, high, its interval, as
        `inference.interval` makes it; p, of `inference.t_test`, both for models of subjects that
        were trained on each other's data; subjects,
        {subject: difference}.  NaN where fewer than two subjects (interval, p) or none are left.
    """
    both = [s for s in mine if s in theirs and None not in (mine[s], theirs[s])]
    gained = np.array([mine[subject] - theirs[subject] for subject in both])
    low, high = interval(gained, (-np.inf, np.inf), settings["confidence"], shared=True)
    return {
        "difference": gained.mean() if both else np.nan,
        "low": low,
        "high": high,
        "p": t_test(gained, shared=True),
        "subjects": dict(zip(both, gained.tolist(), strict=True)),
    }


def rank(member):
    """Order of members, the best score first, those without one last."""
    return -np.inf if member["value"] is None else -member["value"], member["title"]
