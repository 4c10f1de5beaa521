"""The facts of a card in words: sections of lines, each a label and a text."""

import json

MOST = 12  # names in a line

#: Names of scores for people, where underscores alone do not do.
SCORES = {"r2": "R²", "auc": "AUC", "mae": "mean absolute error", "pearson_r": "Pearson's r",
          "spearman_r": "Spearman's ρ", "mrr": "mean reciprocal rank"}  # fmt: skip


def sections(card) -> list[dict]:
    """Sections `title`, `lines` ([[label, text], ...]) of the facts of a card.

    Args:
        card: see `engram.cards.facts.describe`.
    """
    found = {
        "What it was trained on": _trained_on(card),
        "What it takes": [line for one in card["takes"] for line in _takes(one, card["data"])],
        "What it says": _says(card["predicts"]),
        "How it was fitted": _fit(card["fit"]),
        "What was reached": _reached(card["reached"]),
    }
    return [
        {"title": title, "lines": [[label, text] for label, text in lines if text]}
        for title, lines in found.items()
    ]


def use(card) -> dict:
    """How the model is used, from `python` and from the command line (`console`)."""
    path, sources = card["file"]["path"], [one["source"] for one in card["takes"]]
    stores = {source: f"features_{i}.h5" for i, source in enumerate(sources, 1)}
    given = json.dumps(stores if len(sources) > 1 else "features.h5")
    asked = ""
    if card["predicts"]["what"] == "pictures":
        given, asked = f'{given}, gallery="pictures.h5"', " --gallery pictures.h5"
    lines = (
        "import engram",
        "",
        f'model = engram.load_model("{path}")',
        f"table = model.predict({given})  # a store of {' and one of '.join(sources)}",
    )
    return {"python": "\n".join(lines), "console": f"engram apply {path} FILES...{asked} -o OUT"}


def number(value, digits=3) -> str:
    """A number as the report has it; a dash for None."""
    return "–" if value is None else f"{value:z.{digits}f}".replace("-", "−")


def p_value(p) -> str:
    """ "p = 0.031", "p < 0.001", or that there is none."""
    if p is None:
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def score(metric) -> str:
    """The name of a score for people."""
    return SCORES.get(metric, metric.replace("_", " "))


def listed(names, most=MOST) -> str:
    """Names, at most so many, and how many there are."""
    names = [str(name) for name in names]
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def counted(count, what) -> str:
    """ "1 subject", "6 subjects"."""
    return f"{count} {what}{'s' * (count != 1)}"


def data(card) -> str:
    """What the data set is called."""
    return card["data"].get("title") or card["data"]["name"]


def _trained_on(card):
    this, on = card["data"], card["trained_on"]
    yield "data set", data(card)
    yield "published as", this.get("published_as")
    yield "licence", this.get("licence") or "not stated"
    yield "terms", this.get("terms")
    yield "subjects", f"{len(on['subjects'])}: {listed(on['subjects'], 6)}"
    yield "rows", str(on["rows"])
    yield "classes", listed(f"{name} {rows}" for name, rows in on["rows_of_classes"].items())
    yield "left out", listed(f"{rows} {why}" for why, rows in on["left_out"].items())
    yield "stores", f"{len(on['stores'])}, by SHA-256 in the facts"


def _takes(one, of_data):
    view, windows = one["view"], of_data.get("windows")
    kind = " of ".join(str(view[key]) for key in ("what", "modality") if key in view)
    yield "input", one["source"]
    yield "view", f"{kind}, kind {view.get('kind', 'decoder')}"
    if isinstance(windows, dict):
        yield "windows", f"{windows.get('length')} s every {windows.get('step')} s"
    elif windows:
        yield "windows", f"a whole {windows}"
    yield from _rows(view)
    yield from _backbone(one.get("backbone"))
    yield "converted", listed(one.get("converted", ()))
    yield "missing", listed(one.get("missing", ()) or view.get("missing", ()))


def _rows(view):
    if "channels" in view:
        yield "channels", f"{len(view['channels'])}: {listed(view['channels'])}"
    yield "rate", _measured(view.get("rate_hz"), "Hz")
    yield "TR", _measured(view.get("tr"), "s")
    if these := view.get("frequencies_hz"):
        span = f"{these['low']:.4g} to {these['high']:.4g} Hz"
        yield "frequencies", f"{span}, {these['count']} rows"
    if these := view.get("times_s"):
        yield "times", f"{these['low']:.4g} to {these['high']:.4g} s, {these['count']} columns"
    yield "frames", str(view.get("frames", ""))
    if "band" in view:
        yield "band", f"{view['band'][0]} to {view['band'][1]} Hz"
    yield "normalisation", view.get("normalisation")
    yield "unit", view.get("unit")
    yield "lag", _measured(view.get("lag_s"), "s")
    if view.get("transductive"):
        yield "of the whole scan", "rows are scaled by statistics of the scan that they are from"


def _measured(value, unit):
    return f"{value:.6g} {unit}" if value else ""


def _backbone(this):
    if this is None:
        return
    names = dict.fromkeys(str(this[key]) for key in ("name", "kind", "model") if key in this)
    yield "backbone", ", ".join(names)
    yield "layer", this.get("layer")
    yield "pooling", this.get("pooling")
    yield "weights", this.get("weights")
    yield "licence of the weights", this.get("licence")
    yield "SHA-256 of the weights", this.get("weights_sha256")


def _says(this):
    if "labels" in this:
        yield "labels", f"{this['labels']['name']}, kind {this['labels']['kind']}"
    if this["what"] == "classes":
        yield "a class", ", ".join(this["classes"])
    elif this["what"] == "number":
        unit = f" {this['unit']}" if this["unit"] else ""
        span = f"{number(this['low'], 2)} to {number(this['high'], 2)}{unit}"
        yield this["column"], f"trained on {span}, mean {number(this['mean'], 2)}"
    for target in this.get("targets", ()):
        yield from _takes(target, {})


def _fit(this):
    head = this["head"]
    options = (f"{key} {_option(head[key])}" for key in sorted(head) if key != "kind")
    yield "head", f"{head['kind']}: {listed(options, 40)}"
    yield "rule of choices", this["rule"]
    yield "chosen", listed(f"{key} {_option(value)}" for key, value in this["chosen"].items())
    yield "models", f"{len(this['models'])}: {listed(this['models'])}"
    yield "seeds", listed(this["seeds"])


def _option(value):
    if isinstance(value, dict):
        return value.get("kind", "given")
    return listed(value, 6) if isinstance(value, list) else str(value)


def _reached(this):
    row = this["metrics"][0]
    yield "tested on", f"{this['generalises_to']}, {this['tested']}"
    sample = this["sample"]
    these = ("subjects", "scans", "windows", "rows")
    yield "sample", ", ".join(counted(sample[k], k[:-1]) for k in these if k in sample)
    yield score(row["metric"]), f"{number(row['value'])}{interval(row['low'], row['high'])}"
    yield "chance", number(row["chance"])
    yield "p against chance", p_value(row["p"]).removeprefix("p ").removeprefix("= ")
    yield "control", number(row["control"]) if row["control"] is not None else ""
    yield "SD over seeds", number(row["seed_sd"])
    if row["difference"] is not None:
        gained = f"{row['difference']:+.3f}".replace("-", "−")
        yield (
            f"over {this['baseline']}",
            (
                f"{gained}{interval(row['difference_low'], row['difference_high'])}; "
                f"{p_value(row['difference_p'])}; the baseline has {number(row['baseline'])}"
            ),
        )


def interval(low, high) -> str:
    """ " (0.61 to 0.72)", or nothing where there is no interval."""
    return "" if low is None or high is None else f" ({number(low)} to {number(high)})"
