"""What was done, in words for a paper: data, inputs, models, statistics, software.

Every sentence follows from what the files of the study state.
"""

import json

from engram.flags import FLAGS, ordered
from engram.planning import components

#: What each task scores, and how its intervals and tests are made.
STATISTICS = {
    "classes": (
        "Scores were taken within each subject, averaged over seeds and then over subjects; where "
        "the class belongs to the subject, over subjects."
    ),
    "values": (
        "Subjects count alike, however many rows they have. R² compares with the mean of the "
        "training rows."
    ),
    "pairs": (
        "For each test trial, averaged over repetitions, all test pictures were ranked by the "
        "cosine of their features to the prediction; top-1 and top-5 are the shares in which the "
        "picture seen is first, or among the first five."
    ),
    "vectors": (
        "Predicted vectors were correlated with those of all test images; R² compares with the "
        "mean of the training images."
    ),
    "pictures": "Decoded pictures were compared with those seen and with those of other images.",
}
INTERVALS = {
    "classes": (
        "Intervals are Student's t over subjects or, where the class belongs to the subject, "
        "jackknives over them, carried to the logit scale of the score's range; where subjects "
        "train each other's models they use the variance of Nadeau and Bengio [1], as do the tests "
        "of gains, which are paired by subject."
    ),
    "values": (
        "Intervals are jackknives over subjects, on the scale of Fisher's z for correlations and "
        "of log(1 − R²), or, where numbers vary within scans, Student's t over subjects; where "
        "subjects train each other's models they use the variance of Nadeau and Bengio [1], as do "
        "the tests of gains, which are paired by subject."
    ),
    "pairs": "In intervals and gains both subjects and pictures are random [2].",
    "vectors": "In intervals and gains both subjects and images are random [2].",
    "pictures": "In intervals and gains both subjects and images are random [2].",
}
NULLS = {
    "classes": (
        "labels shifted circularly within each scan, which keeps their autocorrelation, or "
        "exchanged between scans or subjects where they do not vary within"
    ),
    "values": "numbers exchanged among subjects, or shifted within scans where they vary there",
    "pairs": "pictures exchanged, alike for all subjects",
    "vectors": "images exchanged, alike for all subjects",
    "pictures": "pictures exchanged among images",
}
KINDS = {
    "refitted": "the models were trained again on each of {n} series of {what}",
    "fixed": "predictions were scored against {n} series of {what}",
}
WIDENED = "; where folds share training data, the deviations of that null were widened by a quarter"
NAMES = ("name", "kind", "title")
REFERENCES = {
    "[1]": "Nadeau & Bengio 2003. Inference for the generalization error. Machine Learning 52.",
    "[2]": "Cornfield & Tukey 1956. Average values of mean squares in factorials. Annals of "
    "Mathematical Statistics 27; Howe 1974. Approximate confidence limits on the mean of X + Y. "
    "JASA 69.",
    "[3]": "Holm 1979. A simple sequentially rejective multiple test procedure. Scandinavian "
    "Journal of Statistics 6.",
    "[4]": "Phipson & Smyth 2010. Permutation p-values should never be zero. Statistical "
    "Applications in Genetics and Molecular Biology 9.",
}


def text(scored, headers, spec, cards) -> str:
    """The methods of a study as Markdown.

    Args:
        scored: scores by experiment.
        headers: header of the predictions by experiment.
        spec: `title`, and the configuration of `experiments` and `members` by name.
        cards: facts of the models that are kept, by experiment; their weights are named by digest.
    """
    known = spec.get("members", {}) | spec["experiments"]
    names = [name for name in scored if name in known]
    recipes = {name: headers[name]["made_by"]["spec"].get("recipe") for name in names}
    weights = _weights(cards)
    parts = {
        "Data": _data(names, scored, known, recipes),
        "Inputs": _sources(recipes.values(), "sources", weights),
        "Targets": _sources(recipes.values(), "targets", weights),
        "Models and evaluation": _models(names, scored, headers, known),
        "Statistics": _statistics([scored[name] for name in names]),
        "What must be said beside the scores": _flags(names, scored, known),
        "Software": _software(headers[name]["made_by"] for name in names),
    }
    found = [f"# Methods: {spec['title']}"]
    for title, lines in parts.items():
        found += [f"## {title}", "\n".join(lines)] if (lines := list(lines)) else []
    body = "\n\n".join(found)
    cited = [f"{key} {told}" for key, told in REFERENCES.items() if key in body]
    return "\n\n".join([body, *(["## References", "\n\n".join(cited)] if cited else [])]) + "\n"


# ---- data and inputs ----------------------------------------------------------------------


def _data(names, scored, known, recipes):
    """What each experiment rests on; a line for all that rest on the same."""
    return _grouped(
        (_title(name, known), _rows(known[name], scored[name]["sample"], recipes[name]))
        for name in names
    )


def _rows(config, sample, recipe):
    counts = ("subjects", "scans", "windows", "rows")
    told = [f"{sample[one]} {_noun(one, sample[one])}" for one in counts if one in sample]
    windows = recipe["dataset"].get("windows") if recipe else None
    if isinstance(windows, dict):
        told.append(f"windows of {windows.get('length')} s every {windows.get('step')} s")
    left = ", ".join(f"{count} {reason}" for reason, count in sample["excluded"].items())
    told += [f"left out: {left}"] if left else []
    return f"{config['dataset_title']}, {', '.join(told)}"


def _grouped(told):
    """A line a text, with the titles of all that it holds of before it."""
    found = {}
    for title, line in told:
        found.setdefault(line, []).append(title)
    return [f"- {'; '.join(titles)}: {line}." for line, titles in found.items()]


def _title(name, known):
    return known[name].get("title", name)


def _sources(recipes, side, weights):
    """A line a source: its view, its backbone, every option that was set."""
    found = {}
    for recipe in recipes:
        found |= recipe[side] if recipe else {}
    for source, made in found.items():
        line = f"- `{source}`: view {_component(made['view'])}"
        if "backbone" in made:
            line += f"; backbone {_component({'name': made['name'], **made['backbone']})}"
        yield f"{line}{weights.get(source, '')}."


def _component(this):
    name, kind = this.get("name"), this.get("kind")
    options = (
        f"{key} {_option(this[key])}" for key in this if key not in ("name", "kind", "title")
    )
    told = ", ".join(options)
    of_kind = f"`{name}` of kind {kind}" if kind else f"`{name}`"
    return f"{of_kind} ({told})" if told else of_kind


def _option(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _weights(cards):
    """What the cards say of the weights behind each source."""
    found = {}
    for card in cards.values():
        for one in card["takes"]:
            this = one.get("backbone", {})
            told = [f"weights {this['weights']}"] if "weights" in this else []
            told += [f"SHA-256 {this['weights_sha256']}"] if "weights_sha256" in this else []
            found[one["source"]] = f"; {', '.join(told)}" if told else ""
    return found


# ---- models and statistics ----------------------------------------------------------------


def _models(names, scored, headers, known):
    """How each experiment was trained, and how it was tested."""
    yield from _grouped(
        (_title(name, known), _model(known[name], scored[name], headers[name], known))
        for name in names
    )
    if any(not scored[name].get("applied") for name in names):
        yield (
            "\nWithin each fold every choice was made on validation rows; statistics were fitted "
            "on training rows alone; test rows were predicted once. A control was trained on "
            "labels that were moved away from their rows, and scored against those."
        )


def _model(config, result, header, known):
    if applied := result.get("applied"):
        return (
            f"the model of {applied['model']}, fitted on {applied['subjects']} subjects of "
            f"{applied['dataset']}, was applied; nothing was trained"
        )
    spec = header["made_by"]["spec"]
    seeds = {run["seed"] for run in result["runs"] if not run.get("shuffled")}
    head = _component({"name": config["head"], **spec["head"]})
    return (
        f"{_joined(result['sources'])} → {_joined(result['targets'])} through head {head}; "
        f"folds {_folds(spec)}, tested on {result['generalises_to']}; "
        f"{len(seeds)} {_noun('seeds', len(seeds))}{_beside(result, known)}"
    )


def _folds(spec):
    own = next(iter(components.constant(f"engram.tasks.{spec['task']}", "FOLDS")), "of the task")
    how = spec["experiment"].get("folds", own)
    how = how if isinstance(how, dict) else {"kind": how}
    groups = f", {how['n']} of them" if "n" in how else ""
    return f"{how['kind'].replace('_', ' ')}{groups}"


def _beside(result, known):
    baseline = result["baseline"]
    return f"; compared with {known.get(baseline, {}).get('title', baseline)}" if baseline else ""


def _statistics(results):
    for task in dict.fromkeys(result["task"] for result in results):
        own = [result for result in results if result["task"] == task]
        settings = own[0].get("settings", {})
        level = f"{100 * settings.get('confidence', 0.95):g} %"
        yield f"{STATISTICS[task]} {INTERVALS[task]} All intervals hold {level}."
        for kind, tested in _by_kind(own).items():
            told = KINDS[kind].format(n=tested[0]["null"]["n"], what=NULLS[task])
            told += WIDENED if (task, kind) == ("classes", "fixed") else ""
            yield f"p against chance ({_of(tested, own)}): {told} [4]."
    yield "Over the experiments that ask one question p was adjusted by Holm's procedure [3]."


def _by_kind(results):
    """Results by how their p against chance was found."""
    found = {}
    for result in results:
        if result["null"]:
            found.setdefault(result["null"]["kind"], []).append(result)
    return found


def _of(some, every):
    if len(some) == len(every):
        return "all experiments"
    return ", ".join(result["experiment"] for result in some)


def _flags(names, scored, known):
    return _grouped(
        (_title(name, known), "; ".join(FLAGS[flag].text for flag in ordered(flags)))
        for name in names
        if (flags := scored[name]["flags"])
    )


def _software(made_by):
    versions = {}
    for one in made_by:
        versions |= one.get("versions", {})
    yield ", ".join(f"{name} {version}" for name, version in versions.items()) + "."


def _joined(names):
    return " + ".join(f"`{name}`" for name in names)


def _noun(plural, count):
    return plural[:-1] if count == 1 else plural
