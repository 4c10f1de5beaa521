"""Scores of experiments whose y is numbers: over subjects, each counting once.

Where a number is a fact of a subject or a scan, all that is predicted for a subject is averaged,
and scores are taken between subjects. Where it varies within a scan, they are taken within each
subject, then averaged, as those of classes are.
"""

import dataclasses

import numpy as np

from engram import store
from engram.errors import InputError
from engram.measures.inference import smallest_p
from engram.scores import caveats, learning, regression
from engram.scores.probes import probe
from engram.scores.question import Question
from engram.scores.regression import SCORES, scores_by_group
from engram.scores.rivals import rivals
from engram.scores.sensitivity import ROWS, sensitivity
from engram.scores.settings import SEED, settings
from engram.scores.values_summary import metrics as summarised
from engram.scores.values_summary import moved, spread


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
    chosen, rows = settings(spec["evaluation"]), regression.read(predictions, null)
    within = _varies(rows)
    this = rows if within else rows.by_subject()
    shared = _shared(rows, baseline)
    labels = moved(this.y, this.table, within, chosen)
    metrics = summarised(this, labels, within, chosen, shared)
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
        return summarised(these, labels[:1], within, chosen, None)[0]

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
        return scores_by_group(score, these.y[None], these, within=True)[:, 0].mean(1)

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


def _shared(this, baseline):
    """(predictions, baseline's predictions) on the rows that both have, or None."""
    if not baseline:
        return None
    other = regression.read(baseline[0])
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
        "sd": spread(of_subject),
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
    above = control is not None and first["control"] > first["chance"]
    if above and control <= caveats.CONTROL:
        yield (
            f"The control trained on moved numbers explains {first['control']:.2f} of them "
            f"(p = {control:.2g}), above chance: something other than the numbers leaks."
        )
    yield from caveats.of_baseline(result)
