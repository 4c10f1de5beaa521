"""Stage `evaluate`: the scores file of one experiment with classes."""

import dataclasses
import json

import numpy as np

from engram import store
from engram.errors import InputError
from engram.scores import classification
from engram.scores.caveats import caveats
from engram.scores.probes import probe
from engram.scores.sample import describe
from engram.scores.summary import SEED, Settings, summarise

FLAGS = ("simulated", "random_weights", "leaks", "circular")


def evaluate(predictions, baseline, x, scores, spec):
    """Score the predictions of one experiment and write the scores file, JSON without NaN.

    Chance is what the same predictions score against labels shifted around within their
    scans.  A comparison with the baseline rests on the rows that both predict.

    Args:
        predictions: path of a predictions store, probabilities (n, runs, classes).
        baseline: paths of the predictions to compare with: one or none.
        x: paths of the input stores of each source, by its name.
        scores: path to write.
        spec: dict with experiment, baseline (its name or None), generalises_to and
            evaluation, the fields of `Settings`.

    Raises:
        InputError: predictions are incomplete, the baseline predicts other labels, a scored
            row is missing in `x`, or a key of the evaluation is unknown.
    """
    settings = _settings(spec["evaluation"])
    this = classification.read(predictions)
    header = this.header
    result = {
        "experiment": spec["experiment"],
        "generalises_to": spec["generalises_to"],
        **{key: bool(header.get(key)) for key in FLAGS},
        **{key: header[key] for key in ("classes", "sources", "runs")},
        "settings": dataclasses.asdict(settings),
        "sample": describe(this.y, this.table, header["classes"], header["excluded"]),
        "metrics": summarise(this, _shared(this, baseline), settings, spec["baseline"]),
        "confusion": classification.confusion(this.y, this.probabilities[:, this.real]),
        "calibration": _calibration(this),
        "probes": probe(x, this.table, np.random.default_rng(SEED)) if settings.probes else None,
    }
    result = _plain(result)
    result["warnings"] = caveats(result)
    with store.replaced(scores) as temporary:
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text, encoding="utf-8")


def _settings(given) -> Settings:
    known = [field.name for field in dataclasses.fields(Settings)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"evaluation.{unknown[0]}: unknown key; there is {', '.join(known)}")
    return Settings(**given)


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


def _calibration(this):
    """Bins over all subjects and seeds; n is the mean over seeds."""
    runs = this.probabilities[:, this.real].transpose(1, 0, 2)
    y = np.tile(this.y, len(runs))
    bins = classification.calibration(y, runs.reshape(len(y), -1))
    return bins.assign(n=bins["n"] / len(runs)).to_dict("records")


def _plain(value):
    """`value` in JSON's own types; NaN, which JSON lacks, becomes None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
