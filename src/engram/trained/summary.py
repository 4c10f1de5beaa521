"""What was said of recordings, in numbers for a person: a dict a recording, and one page."""

import json
from pathlib import Path

import jinja2
import numpy as np

import engram
from engram import figures, store
from engram.flags import FLAGS, ordered
from engram.job import digest

#: Where the head and the style of every page are.
SHARED = Path(figures.__file__).parent

#: What a model says, by its task.
SAYS = {
    "classes": "a class",
    "values": "a number",
    "pairs": "the nearest pictures of a gallery",
}

UNLIKE_SHARE = 0.1  # of the windows with data, above which a recording is said to be unlike


def of_recordings(table, facts, model) -> list[dict]:
    """Summaries of the recordings of one file.

    Args:
        table: lines of `predictions.csv`.
        facts: `file`, what was `said` when it was read, and the `pictures` by recording.
        model: `engram.trained.Model`.

    Returns:
        Of each recording `name`, `file`, `windows`, `minutes`, the share that is `usable`, of the
        windows with data the share that is `unlike`, of those that are usable the `shares` of each
        class and the mean `probability` of each, or the mean `value` and its `sd`, which of
        pictures are of the similarity of the nearest; `reasons`, how many windows are left out by
        reason; `warnings`, `said` and `picture`.
    """
    return [
        _of_recording(name, own, model.classes)
        | {"file": facts["file"], "said": facts["said"], "picture": facts["pictures"].get(name)}
        for name, own in table.groupby("recording", sort=False)
    ]


def _of_recording(name, table, classes):
    usable, data = table["usable"] == "yes", table["unlike"].notna()
    reasons = table["usable"][~usable].value_counts().to_dict()
    unlike = float((table["usable"] == "unlike").sum() / max(data.sum(), 1))
    spans = "onset" in table
    seconds = (table["onset"] + table["duration"]).max() - table["onset"].min() if spans else np.nan
    found = {
        "name": name,
        "windows": len(table),
        "minutes": float(seconds) / 60,
        "usable": float(usable.mean()),
        "unlike": unlike,
        "reasons": reasons,
        "warnings": [*_warnings(usable, data, unlike, reasons)],
    }
    kept = table[usable]
    if not classes:
        values = kept["value" if "value" in kept else "similarity_1"]
        return found | {"value": float(values.mean()), "sd": float(values.std())}
    return found | {
        "shares": {c: float((kept["class"] == c).mean()) for c in classes},
        "probability": {c: float(kept[f"p_{c}"].mean()) for c in classes},
    }


def _warnings(usable, data, unlike, reasons):
    if unlike > UNLIKE_SHARE:
        yield (
            f"is unlike the training data: {unlike:.0%} of its windows with data, of a new subject "
            "of the same kind 1 %; what the model says of it means little"
        )
    elif not usable.any():
        said = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
        yield f"has no usable window: {said}"
    elif usable.mean() < 0.5:
        yield f"{1 - usable.mean():.0%} of its windows cannot be used"


def write(path, model, applied):
    """The page of all recordings, beside the pictures that it shows.

    Args:
        path: of the HTML file.
        model: `engram.trained.Model`.
        applied: `engram.trained.applied.Applied`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, SHARED]),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"share": _share, "number": _number}
    environment.globals["text"] = lambda file: (SHARED / file).read_text(encoding="utf-8")
    text = environment.get_template("summary.html").render(
        model=model,
        facts=facts(model),
        card=_card(model),
        badges=[FLAGS[flag][:2] for flag in ordered(model.facts.get("flags", []))],
        recordings=applied.recordings,
        failed=applied.failed,
        windows=len(applied.table),
        version=engram.__version__,
    )
    with store.replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def facts(model) -> dict[str, str]:
    """What the file of a model says of it, in words."""
    kept, recipe = model.facts["kept"], model.facts["recipe"]
    counted = ", ".join(f"{name} {n}" for name, n in kept.get("rows_of_classes", {}).items())
    found = {
        "Model": model.path.name,
        "Head": f"{model.facts['head']['kind']} on {' + '.join(model.sources)}",
        "Trained on": recipe.get("dataset", {}).get("name", ""),
        "Subjects": str(len(kept["subjects"])),
        "Windows": f"{kept['rows']}{f' ({counted})' if counted else ''}",
        "Says": ", ".join(model.classes) or SAYS[model.facts["task"]],
        "Rule": kept["rule"],
    }
    return {name: text for name, text in found.items() if text}


def _card(model):
    """What stage `card` says of the model, if its file lies beside it and is of this very file."""
    path = model.path.with_suffix(".json")
    if not path.is_file():
        return None
    card = json.loads(path.read_text(encoding="utf-8"))
    return card if card["file"]["sha256"] == digest(model.path) else None


def _share(value):
    return "–" if np.isnan(value) else f"{100 * value:.0f} %"


def _number(value):
    return "–" if np.isnan(value) else f"{value:.3g}"
