"""Stage `evaluate`: the scores file of one experiment, the same for every task."""

import json

import numpy as np
import pandas as pd

from engram import flags, store
from engram.planning import components
from engram.scores import caveats

MOST_GROUPS = 8  # of one fact; nor may there be more than half as many as subjects

#: What is known of every score; null where a task does not measure it.
COLUMNS = (
    *("metric", "value", "low", "high", "interval"),
    *("chance", "null_low", "null_high", "p", "control", "control_p", "seed_sd", "subject_sd"),
    *("baseline", "difference", "difference_low", "difference_high", "difference_p"),
    *("detectable", "equivalence_p", "subjects"),
)

#: What is known beside the scores; empty where a task does not measure it.
BESIDE = {"null": None, "rivals": [], "sensitivity": None, "learning_curve": []}


def evaluate(predictions, baseline, x, scores, spec, null=None):
    """Score the predictions of one experiment and write the scores file, JSON without NaN.

    The module of the task in `engram.scores` does it: `score(predictions, baseline, x, spec)`
    returns `metrics`, a list of dicts with the keys in `COLUMNS` that it measures, and what else
    it finds; `warnings(result)` what a reader has to know.

    Args:
        predictions: path of the store that training wrote.
        baseline: paths of the predictions to compare with: one or none.
        x: {source: paths} of the stores of the side that scores of the task read (`PROBED`): the
            inputs, to ask what they know, or the targets, for what is true.
        scores: path to write: experiment, task, generalises_to, flags, sources, inputs (what is
            missing in the rows of a source or was converted, in words), targets, runs, baseline
            (its name), sample, metrics, groups (see `groups`), warnings, and what is particular
            to the task; where a model of other data was applied, `applied`, see
            `engram.trained.dataset`.

            Of a metric: value; low and high, the ends of its 95 % interval, and what kind that
            is; chance, the mean of the score under its null, null_low and null_high, between which
            its middle 95 % lie, and p against it; control, what training on moved labels scores,
            and its p; seed_sd, subject_sd; baseline, what that scores on the same rows, difference
            with interval and p, paired by subject; detectable, the least gain that so many subjects
            would have shown in four studies of five, and equivalence_p, of the claim that the gain
            lies within the `margin` of the evaluation; subjects, the value of each.

            null: how p against chance is found: kind, "refitted" for each series of labels or
            "fixed" predictions, n series, and floor, the least p that there can be.

            rivals: what could explain the first metric without the inputs, one dict a rival, such
            as the clock: name, of (the columns that it knows), metric, value, low, high, subjects,
            difference, what the experiment has more, with interval and p, and empty, rows that
            lack a fact, by column.

            sensitivity: of the first metric, what is left to a linear model of the inputs: model
            (in words), metric, value, subject_share (of the variance of the inputs, what is between
            subjects), and without, one dict for each thing that is taken out of the inputs, fitted
            on the training rows of every fold: of (["subject"], or columns), value, low, high and
            difference, what the inputs as they are have more, with interval and p.

            learning_curve: the first metric by the number of training subjects, of experiments with
            `train_subjects`, see `engram.scores.learning.curve`.
        spec: dict with task, experiment, baseline (its name or None), generalises_to and
            evaluation.
        null: path of what models of moved labels say, see `engram.tasks.null`, or None.

    Raises:
        InputError: the predictions are incomplete or do not suit the baseline or `x`.
    """
    task = components.module("scores", spec["task"])
    header = store.open(predictions).header
    again = {"null": null} if null and len(store.open(null)) else {}
    result = {
        **{key: spec[key] for key in ("experiment", "task", "generalises_to", "baseline")},
        **{key: header[key] for key in ("flags", "sources", "inputs", "targets", "runs")},
        **{key: header[key] for key in ("applied",) if key in header},
        **BESIDE,
        **task.score(predictions, baseline, x, spec, **again),
    }
    result["metrics"] = [_row(row) for row in result["metrics"]]
    for row in result["metrics"][1:]:  # the margin is in units of the first
        row["equivalence_p"] = None
    if "recording" in result["flags"]:
        nothing = {"low": None, "high": None, "interval": None}
        result["metrics"] = [row | nothing for row in result["metrics"]]
    table = store.open(predictions).table
    result["groups"] = groups(table, header.get("facts", {}), result["metrics"])
    result = plain(result)
    if caveats.control_as_high(result):
        result["flags"] = flags.ordered([*result["flags"], "control"])
    result["warnings"] = list(task.warnings(result))
    with store.replaced(scores) as temporary:
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text, encoding="utf-8")


def groups(table, facts, metrics) -> list[dict]:
    """The score of subjects who share a fact, of each fact that a few groups of subjects share.

    Args:
        table: of the predictions.
        facts: names of its columns that are facts of scans.
        metrics: lines of `COLUMNS`; taken is the first that has a value of every subject.

    Returns:
        A dict a group: fact, value, metric, subjects (how many), mean and sd of their scores.
    """
    scored = next((row for row in metrics if row["subjects"]), None)
    if not scored:
        return []
    score = pd.Series(scored["subjects"], dtype=float).dropna()
    score.index = score.index.astype(str)
    found = []
    for name in facts:
        of = table.assign(subject=table["subject"].astype(str)).groupby("subject")[name]
        of = of.first()[of.nunique(dropna=False) == 1].reindex(score.index).dropna()
        of = of[of != ""]
        if 2 <= of.nunique() <= min(MOST_GROUPS, len(of) // 2):
            found += [
                {
                    "fact": name,
                    "value": f"{value:g}" if isinstance(value, float) else value,
                    "metric": scored["metric"],
                    "subjects": len(own),
                    "mean": own.mean(),
                    "sd": own.std(),
                }
                for value, own in score[of.index].groupby(of)
            ]
    return found


def _row(row):
    if unknown := set(row) - set(COLUMNS):
        raise KeyError(f"a score has no column {min(unknown)}")
    return dict.fromkeys(COLUMNS) | row


def plain(value):
    """`value` in JSON's own types; NaN, which JSON lacks, becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
