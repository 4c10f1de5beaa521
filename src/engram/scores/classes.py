"""Scores of experiments whose y is classes: within each subject, then averaged."""

import dataclasses

import numpy as np
from sklearn.metrics import precision_score

from engram import store
from engram.errors import InputError
from engram.scores import classification, learning
from engram.scores.caveats import caveats as warnings  # noqa: F401 - see engram.scores.evaluation
from engram.scores.probes import probe
from engram.scores.question import Question
from engram.scores.rivals import rivals
from engram.scores.sample import describe
from engram.scores.sensitivity import ROWS, sensitivity
from engram.scores.settings import SEED, settings
from engram.scores.summary import of_prior, summarise


def score(predictions, baseline, x, spec, null=None) -> dict:
    """Scores of out-of-fold probabilities, see `engram.scores.evaluation.evaluate`.

    Chance is what models score that were trained again on labels shifted around within their scans,
    or, without `null`, what the same predictions score against such labels. Where no subject has
    rows of two classes, the class belongs to the subject: all that is predicted for it is averaged,
    and every subject counts once. A comparison with the baseline rests on the rows that both
    predict.

    Args:
        predictions: path of a predictions store, probabilities (n, runs, classes).
        baseline, x, null: as for `evaluate`.
        spec: its `evaluation` holds fields of `Settings`.

    Returns:
        dict with metrics (see `summarise`, as are pooled, undefined, p_min, null, baseline_rows and
        majority); majority_of_model, the last of the rows that an applied model was trained on, or
        None; classes; sample; confusion; calibration; probes; rivals; macro_precision;
        learning_curve; settings.

    Raises:
        InputError: predictions are incomplete, the baseline predicts other labels, a scored
            row is missing in `x`, or a key of the evaluation is unknown.
    """
    chosen = settings(spec["evaluation"])
    this = rows = classification.read(predictions, null)
    shared = _shared(rows, baseline)
    both = len(shared[0].y) if shared else None
    if rows.of_subjects:
        this = rows.by_subject()
        shared = shared and [one.by_subject() for one in shared]
    classes = this.header["classes"]
    found = summarise(this, shared, chosen)
    return {
        **found,
        "majority_of_model": _of_model(this, found["pooled"]),
        "baseline_rows": both,
        "classes": classes,
        "learning_curve": _learning(rows, found["metrics"][0], chosen),
        "settings": dataclasses.asdict(chosen),
        "sample": describe(rows.y, rows.table, classes, rows.header["excluded"]),
        "macro_precision": _macro_precision(this),
        "confusion": classification.confusion(this.y, this.probabilities[:, this.real]),
        "calibration": _calibration(this),
        **_inputs(x, rows, chosen),
        "rivals": rivals(
            _question(rows, chosen), rows.probabilities[:, rows.real], chosen.confounds
        ),
    }


def _inputs(x, rows, chosen):
    """What the inputs know, and what is left of them without some of it."""
    if not chosen.probes:
        return {"probes": None}
    random = np.random.default_rng(SEED)
    probes, features = probe(x, rows.table, random)
    some = np.sort(random.permutation(len(features))[:ROWS])
    left = sensitivity(_question(rows.rows(some), chosen), features[some], chosen.confounds)
    return {"probes": probes, "sensitivity": left}


def _question(rows, chosen):
    """What the experiment asks, scored by balanced accuracy: of subjects where each has a class."""

    def those(answer):
        real = np.ones(answer.shape[1], bool)
        these = dataclasses.replace(rows, probabilities=answer, real=real, null=None)
        return these.by_subject() if rows.of_subjects else these

    def balanced(these, groups):
        y = these.y[None]
        return classification.scores_by_group(y, these.probabilities, groups)["balanced_accuracy"]

    def each(answer):
        subjects = np.unique(rows.table["subject"].to_numpy(str), return_inverse=True)[1]
        return balanced(those(answer), subjects)[:, 0].mean(1)

    def of_all(answer, at):
        return balanced(those(answer).rows(at), np.zeros(len(at), int)).mean()

    return Question(
        table=rows.table,
        y=rows.y,
        classes=rows.probabilities.shape[2],
        metric="balanced_accuracy",
        limits=classification.LIMITS["balanced_accuracy"],
        each=each,
        of_all=of_all if rows.of_subjects else None,
        confidence=chosen.confidence,
    )


def _shared(this, baseline):
    """(predictions, baseline's predictions) on the rows that both have, or None."""
    if not baseline:
        return None
    other = classification.read(baseline[0])
    mine, theirs = store.align(this.table, other.table)
    this, other = this.rows(mine), other.rows(theirs)
    if this.header["classes"] != other.header["classes"] or (this.y != other.y).any():
        raise InputError(
            f"{baseline[0]}: the baseline predicts other labels than the experiment; "
            "give both the same `y`"
        )
    return this, other


def _learning(rows, first, chosen):
    once = dataclasses.replace(chosen, permutations=1)  # of these nothing is tested

    def scored(probabilities):
        real = np.ones(probabilities.shape[1], bool)
        these = dataclasses.replace(rows, probabilities=probabilities, real=real, null=None)
        these = these.by_subject() if rows.of_subjects else these
        return summarise(these, None, once)["metrics"][0]

    return learning.curve(rows.table, rows.header, first, scored)


def _of_model(this, pooled):
    """What naming the class that is most frequent where an applied model was trained scores."""
    if "applied" not in this.header:
        return None
    shares = this.header["applied"]["classes"]["model"]
    return of_prior(this, [shares[name] for name in this.header["classes"]], pooled)


def _calibration(this):
    """Bins over all subjects and seeds; n is the mean over seeds."""
    runs = this.probabilities[:, this.real].transpose(1, 0, 2)
    y = np.tile(this.y, len(runs))
    bins = classification.calibration(y, runs.reshape(len(y), -1))
    return bins.assign(n=bins["n"] / len(runs)).to_dict("records")


def _macro_precision(this):
    """Precision, mean over classes, seeds and then subjects; a class never predicted counts 0.

    The vigilance tutorial publishes it beside accuracy, recall and F1.
    """
    predicted = this.probabilities[:, this.real].argmax(axis=2)
    subjects = this.table["subject"].to_numpy(str)
    if this.of_subjects:
        subjects = np.full(len(subjects), "all")
    each = [
        precision_score(this.y[own], predicted[own, seed], average="macro", zero_division=0)
        for own in (subjects == subject for subject in np.unique(subjects))
        for seed in range(predicted.shape[1])
    ]
    return float(np.mean(each))
