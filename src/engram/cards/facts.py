"""What is known of a kept model, gathered from its file and from the scores of its folds."""

from pathlib import Path

from engram.flags import FLAGS
from engram.planning import components

#: Of what the header of a view states, that which a row has to agree with.
OF_VIEW = (
    *("what", "modality", "channels", "regions", "missing", "unit", "seconds_per_column", "frames"),
    *("tr", "band", "normalisation", "lag_s", "row", "limits", "average", "zscore", "transductive"),
)
#: The same of a backbone.
OF_BACKBONE = (
    *("kind", "model", "layer", "pooling", "precision", "seed", "weights", "weights_sha256"),
)
#: Columns of a score that a card has; the values of single subjects stand in the scores.
OF_SCORE = (
    *("metric", "value", "low", "high", "interval", "chance", "p", "control", "control_p"),
    *("seed_sd", "subject_sd", "baseline", "difference", "difference_low", "difference_high"),
    "difference_p",
)

TESTED = (
    "by the models of the folds, each of which lacks what it is tested on; the model that is kept "
    "was tested on nobody"
)
TESTED_ITSELF = "by the models that are kept, on what each of them lacks"


def describe(known, scored, spec, path, sha256) -> dict:
    """Facts of a card, in JSON's own types.

    Args:
        known: header of the file of the model.
        scored: scores of its experiment.
        spec: of stage `card`.
        path, sha256: of the file of the model.

    Returns:
        dict with experiment, title, task; file; data, the data set; trained_on; predicts; takes,
        what a row of each source has to be; fit; reached, in data that the folds left out; flags;
        warnings of the scores.
    """
    kept = known["kept"]
    return {
        **{key: spec[key] for key in ("experiment", "title")},
        "task": known["task"],
        "file": {"path": path, "name": Path(path).name, "sha256": sha256},
        "data": {
            **{key: known["recipe"]["dataset"].get(key) for key in ("name", "kind", "windows")},
            **spec["data"],
        },
        "trained_on": {
            "subjects": kept["subjects"],
            "rows": kept["rows"],
            "rows_of_classes": {
                name: kept["rows_of_classes"][name]
                for name in known.get("classes", ())
                if name in kept["rows_of_classes"]
            },
            "left_out": known["excluded"],
            "stores": known["made_by"]["inputs"],
        },
        "predicts": _predicts(known, scored, spec),
        "takes": [_of_source(source, known, "sources", spec) for source in kept["sources"]],
        "fit": {
            "head": components.defaults("heads", known["head"]["kind"]) | known["head"],
            **{key: kept[key] for key in ("rule", "models", "seeds", "chosen")},
            "folds": known["folds"],
            "chosen_in_folds": known["chosen"],
        },
        "reached": _reached(scored, known),
        "flags": [{"name": name, "text": FLAGS[name].text} for name in known["flags"]],
        "warnings": scored["warnings"],
    }


def _predicts(known, scored, spec):
    """What the model says of a row."""
    if known["task"] in ("classes", "values"):
        labels = _named(known["recipe"]["targets"][known["targets"][0]]["view"])
    if known["task"] == "classes":
        return {"what": "classes", "classes": known["classes"], "labels": labels}
    if known["task"] == "values":
        sample = scored["sample"]
        return {
            "what": "number",
            "labels": labels,
            **{key: scored[key] for key in ("column", "unit")},
            **{key: sample[key] for key in ("low", "high", "mean")},
        }
    targets = [_of_source(target, known, "targets", spec) for target in known["targets"]]
    return {"what": {"pairs": "pictures"}.get(known["task"], known["task"]), "targets": targets}


def _of_source(source, known, side, spec):
    """What the rows of a source state, and what made them."""
    header = known["contract" if side == "sources" else "labels"][source]
    made_by = known["recipe"][side][source]
    view = header.get("view", header)
    found = {
        "source": source,
        "view": {**_named(made_by["view"]), **_stated(view, OF_VIEW), **_sampled(view)},
    }
    if "view" not in header:
        return found
    backbone = {"name": made_by["name"], **_stated(header, OF_BACKBONE)}
    if licence := spec["licences"].get(source):
        backbone["licence"] = licence
    converted = header.get("input", {})
    return found | {"backbone": backbone} | _stated(converted, ("converted", "missing"))


def _named(made_by):
    return {key: made_by[key] for key in ("name", "kind") if key in made_by}


def _stated(header, keys):
    return {key: header[key] for key in keys if header.get(key) not in (None, "", [], False)}


def _sampled(view):
    """Rate, frequencies and columns, of each how many there are and between which ends."""
    rate = view.get("sfreq") or (view.get("settings") or {}).get("sfreq")
    found = {"rate_hz": rate} if rate else {}
    for name, key in (("frequencies_hz", "frequencies"), ("times_s", "times")):
        if values := view.get(key):
            found[name] = {"low": min(values), "high": max(values), "count": len(values)}
    return found


def _reached(scored, known):
    refitted = components.constant(f"engram.tasks.{known['task']}", "REFITTED") is not False
    return {
        "generalises_to": scored["generalises_to"],
        "refitted": refitted,
        "tested": TESTED if refitted else TESTED_ITSELF,
        "sample": {key: value for key, value in scored["sample"].items() if _plain(value)},
        "baseline": scored["baseline"],
        "metrics": [{key: row[key] for key in OF_SCORE} for row in scored["metrics"]],
        "majority": scored.get("majority"),
    }


def _plain(value):
    return isinstance(value, int | float)
