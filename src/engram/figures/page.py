"""The report: what stands on the page, gathered for the template `report.html`."""

import base64
import json
import math
from pathlib import Path

import jinja2

import engram
from engram.errors import InputError
from engram.figures import map_panels, retrieval_page
from engram.figures.style import colours
from engram.figures.subjects import heights, number, title
from engram.measures.inference import holm

POINTS = 3000  # most points of all maps together, so that the page stays small

MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}

#: What a reader must see beside a number, by key of the scores or the header: text, tone.
BADGES = {
    "leaks": ("LEAKS: random windows", "bad"),
    "simulated": ("simulated data", "note"),
    "random_weights": ("random weights", "warn"),
    "circular": ("labels from the same EEG", "warn"),
}


def render(scored, headers, figures, spec, compared=None) -> str:
    """The whole page as HTML.

    Args:
        scored: scores by experiment, in the order shown.
        headers: header of the predictions by experiment.
        figures: path by file name, by experiment.
        spec: `title`, `experiments` and `comparisons` (or none), their configuration by name.
        compared: by comparison, what `comparison.build` found, read back from JSON.

    Raises:
        InputError: an experiment lacks its scores or its predictions, or a comparison its results.
    """
    for name in spec["experiments"]:
        if name not in scored or name not in headers:
            raise InputError(f"report: no scores or no predictions of experiment {name!r}")
    for name in spec.get("comparisons", {}):
        if name not in (compared or {}):
            raise InputError(f"report: nothing was measured for comparison {name!r}")
    maps = sum("map.json" in files for files in figures.values())
    points = POINTS // max(maps, 1)
    experiments = [
        _experiment(name, config, scored[name], headers[name], figures.get(name, {}), points)
        for name in scored
        if (config := spec["experiments"].get(name)) and not _retrieves(scored[name])
    ]
    groups = _groups(experiments)
    searches = [
        _search(name, config, scored[name], headers[name], figures.get(name, {}))
        for name in scored
        if (config := spec["experiments"].get(name)) and _retrieves(scored[name])
    ]
    retrievals = retrieval_page.groups(searches)
    comparisons = [
        _comparison(name, config, compared[name], figures.get(name, {}))
        for name, config in spec.get("comparisons", {}).items()
    ]
    named = [*experiments, *searches, *comparisons, *(m for c in comparisons for m in c["members"])]
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=spec["title"],
            summary=_summary(groups, retrievals, comparisons),
            badges=_page_badges(named),
            comparisons=comparisons,
            groups=groups,
            retrievals=retrievals,
            titles={e["name"]: e["title"] for e in (*experiments, *searches)},
            bokeh=_bokeh() if maps else None,
            version=engram.__version__,
        )
    )


def _experiment(name, config, scores, header, figures, points):
    """What the template shows of one experiment."""
    return {
        **_shared(name, config, scores, header, figures),
        "first": scores["metrics"][0],
        "chosen": {
            "title": "Chosen on validation windows",
            "lines": [(key, json.dumps(value)) for key, value in header.get("chosen", {}).items()],
        },
        "iterated": bool(header["curves"]),
        "map": _map(name, figures["map.json"], points) if "map.json" in figures else None,
    }


def _search(name, config, scores, header, figures):
    """What the template shows of one retrieval experiment; its protocol says what leaks."""
    this = _shared(name, config, scores, header, figures)
    badges = [badge for badge in this["badges"] if badge != BADGES["leaks"]]
    return retrieval_page.search({**this, "badges": badges})


def _shared(name, config, scores, header, figures):
    """What is shown of an experiment of any kind."""
    found = {**header, **{key: scores[key] for key in BADGES if key in scores}}
    x = config["x"]
    return {
        "name": name,
        "title": config.get("title", name),
        "config": config,
        "inputs": " or ".join(map(_joined, x["choose"])) if isinstance(x, dict) else _joined(x),
        "target": _joined(config["y"]),
        "scores": scores,
        "badges": [badge for key, badge in BADGES.items() if found.get(key)],
        "header": header,
        "made_by": header.get("made_by", {}),
        "images": _images(figures),
    }


def _retrieves(scores):
    return scores.get("what") == "retrieval"


def _page_badges(named):
    """The badges of all that is `named`, each once; a clean protocol needs none up here."""
    known = [retrieval_page.PUBLISHED, *BADGES.values()]
    found = {badge for one in named for badge in one["badges"]} - {retrieval_page.CLEAN}
    return sorted(found, key=known.index)


def _images(figures):
    """The pictures among files as data addresses, by the name of the file without suffix."""
    return {
        Path(file).stem: _data_uri(path) for file, path in figures.items() if path.suffix in MEDIA
    }


def _comparison(name, config, found, figures):
    """What the template shows of one comparison."""
    titles = {m["experiment"]: m["title"] for m in found["members"]}
    controls = {m["control_of"]: m for m in found["members"] if m["control_of"]}
    of_all = [key for key in BADGES if all(member[key] for member in found["members"])]
    return {
        **found,
        "badges": [BADGES[key] for key in of_all],
        "anchor": f"comparison-{name}",
        "config": config,
        "title": config["title"],
        "members": [
            {
                **member,
                "badges": [BADGES[key] for key in BADGES if member[key] and key not in of_all],
                "twin": controls.get(member["experiment"]),
                "twin_of": titles.get(member["control_of"]),
            }
            for member in found["members"]
        ],
        "images": _images(figures),
    }


def _joined(source):
    return source if isinstance(source, str) else " + ".join(source)


def _map(name, path, points):
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    document, panels = map_panels.document(data, points)
    for place, panel in enumerate(panels):
        panel["element"] = f"{name}-map-{place}"
    roots = {panel["root"]: panel["element"] for panel in panels}
    shown = min(points, len(data["points"]["x"]))
    embedded = json.dumps({"document": document, "roots": roots}, allow_nan=False)
    return {
        **data,
        "shown": shown,
        "panels": panels,
        "json": embedded.replace("<", "\\u003c"),
    }


def _groups(experiments):
    """Experiments on the same data set and target, whose scores can be compared."""
    groups = {}
    for this in experiments:
        key = (this["config"]["dataset_title"], this["target"])
        groups.setdefault(key, []).append(this)
    return [
        _group(f"group-{i}", *key, members) for i, (key, members) in enumerate(groups.items(), 1)
    ]


def _group(anchor, dataset, target, members):
    """Adjusts p over the members and finds the axis that all their dots share."""
    for key in ("p", "difference_p"):
        raw = [m["first"][key] for m in members]
        adjusted = holm([math.nan if p is None else p for p in raw])
        for member, value in zip(members, adjusted, strict=True):
            member[f"{key}_holm"] = None if math.isnan(value) else float(value)
    seen = {}
    for member in members:  # experiments on one view show the same examples: once is enough
        member["examples_of"] = seen.setdefault(member["images"].get("examples"), member)
    return {
        "anchor": anchor,
        "dataset": dataset,
        "target": target,
        "experiments": members,
        "metrics": [row["metric"] for row in members[0]["scores"]["metrics"]],
        "colours": colours(members[0]["scores"]["classes"]),
        "axis": _axis([m["first"] for m in members]),
        "heights": heights({s for m in members for s in m["first"]["subjects"]}),
    }


def _axis(rows):
    """Lowest and highest tenth that the dots, intervals and controls of `rows` need."""
    keys = ("value", "low", "high", "majority", "shuffled")
    values = [row[key] for row in rows for key in keys]
    values += [value for row in rows for value in row["subjects"].values()]
    values = [value for value in values if number(value)] or [0, 1]
    return math.floor(10 * min(values) - 0.2) / 10, math.ceil(10 * max(values) + 0.2) / 10


def _summary(groups, retrievals, comparisons):
    """One line: what was run, on how much, and what came out."""
    parts = [_compared(comparison) for comparison in comparisons]
    if groups:
        parts.append(_experimented(groups))
    parts += map(retrieval_page.summary, retrievals)
    return " ".join(parts)


def _compared(comparison):
    members = [m for m in comparison["members"] if not m["is_baseline"]]
    values = [m["value"] for m in members if number(m["value"])]
    backbones = sum(m["cost"] is not None for m in members)
    text = f"{backbones} backbones on {comparison['config']['dataset_title']}"
    if values:
        text += f": {title(members[0]['metric']).lower()} {min(values):.2f} to {max(values):.2f}"
    gains = [m["gain"]["difference"] for m in members if m["gain"]]
    gains = [_signed(gain) for gain in sorted(gains) if number(gain)]
    if gains:
        text += (
            f"; published minus random weights {' to '.join(dict.fromkeys([gains[0], gains[-1]]))}"
        )
    return f"{text}."


def _experimented(groups):
    experiments = [e for group in groups for e in group["experiments"]]
    values = [e["first"]["value"] for e in experiments if number(e["first"]["value"])]
    samples = {group["dataset"]: group["experiments"][0]["scores"]["sample"] for group in groups}
    on = "; ".join(
        f"{name}: {s['subjects']} subjects, {s['scans']} scans, {s['windows']} windows"
        for name, s in samples.items()
    )
    text = f"{len(experiments)} experiment{'s' * (len(experiments) != 1)} on {on}."
    if values:
        metric, chance = (experiments[0]["first"][key] for key in ("metric", "majority"))
        text += f" {title(metric)} from {min(values):.2f} to {max(values):.2f}"
        text += f", by chance {chance:.2f}." if number(chance) else "."
    return text


def _environment():
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "p": _p,
        "metric": title,
        "bytes": _bytes,
    }
    environment.globals["defined"] = number
    environment.globals["text"] = _text
    return environment


def _text(file):
    """A style sheet or script of the page, as it is."""
    return (Path(__file__).parent / file).read_text(encoding="utf-8")


def _number(value, digits=2):
    return f"{value:z.{digits}f}".replace("-", "−") if number(value) else "–"


def _signed(value, digits=2):
    return f"{value:+.{digits}f}".replace("-", "−") if number(value) else "–"


def _p(value):
    if not number(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _bytes(count):
    """A size as people say it: 512 B, 3.1 kB, 1.2 MB."""
    for factor, unit in ((1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def _data_uri(path):
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f"data:{MEDIA[path.suffix]};base64,{encoded}"


def _bokeh():
    """The part of Bokeh that draws plots, as script text."""
    from bokeh.resources import Resources

    scripts = Resources(mode="inline", components=["bokeh"], log_level="error").js_raw
    return "\n".join(scripts).replace("</script", "<\\/script")
