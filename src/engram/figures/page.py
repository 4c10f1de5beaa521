"""The report: what stands on the page, gathered for the template `report.html`."""

import base64
from pathlib import Path

import jinja2

import engram
from engram.errors import InputError
from engram.figures import (
    classes_page,
    comparison_page,
    findings,
    pairs_page,
    pictures_page,
    questions,
    values_page,
    vectors_page,
)
from engram.figures.subjects import number, title
from engram.flags import FLAGS, ordered

POINTS = 3000  # most points of all maps together, so that the page stays small

MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}

#: How experiments of each task are shown.
PAGES = {
    "classes": classes_page,
    "pairs": pairs_page,
    "values": values_page,
    "vectors": vectors_page,
    "pictures": pictures_page,
}


def render(scored, headers, figures, spec, compared=None, cards=None) -> str:
    """The whole page as HTML.

    Args:
        scored: scores by experiment, in the order shown.
        headers: header of the predictions by experiment.
        figures: path by file name, by experiment.
        spec: `title`, `experiments` and `comparisons` (or none), their configuration by name.
        compared: by comparison, what `comparison.build` found, read back from JSON.
        cards: facts of the models that are kept, by experiment.

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
        | {"card": (cards or {}).get(name)}
        for name in scored
        if (config := spec["experiments"].get(name))
    ]
    groups = []
    for task, shown in PAGES.items():
        groups += shown.groups([this for this in experiments if this["task"] == task])
    comparisons = [
        _comparison(name, config, compared[name], figures.get(name, {}))
        for name, config in spec.get("comparisons", {}).items()
    ]
    named = [*experiments, *comparisons, *(m for c in comparisons for m in c["members"])]
    return (
        environment()
        .get_template("report.html")
        .render(
            title=spec["title"],
            found=_found(groups, comparisons),
            badges=_badges(flag for one in named for flag in one["flags"]),
            comparisons=comparisons,
            groups=groups,
            titles={this["name"]: this["title"] for this in experiments},
            bokeh=_bokeh() if maps else None,
            version=engram.__version__,
        )
    )


def _experiment(name, config, scores, header, figures, points):
    """What the template shows of one experiment."""
    x = config["x"]
    this = {
        "name": name,
        "task": scores["task"],
        "title": config.get("title", name),
        "config": config,
        "inputs": " or ".join(map(_joined, x["choose"])) if isinstance(x, dict) else _joined(x),
        "target": _joined(config["y"]),
        "scores": scores,
        "flags": scores["flags"],
        "badges": _badges(scores["flags"]),
        "header": header,
        "made_by": header.get("made_by", {}),
        "images": _images(figures),
    }
    return PAGES[scores["task"]].experiment(this, header, figures, points)


def _badges(flags):
    """Text and tone of flags, each once."""
    return [FLAGS[flag][:2] for flag in ordered(flags)]


def _images(figures):
    """The pictures among files as data addresses, by the name of the file without suffix."""
    return {
        Path(file).stem: _data_uri(path) for file, path in figures.items() if path.suffix in MEDIA
    }


def _comparison(name, config, found, figures):
    """What the template shows of one comparison."""
    titles = {m["experiment"]: m["title"] for m in found["members"]}
    controls = {m["control_of"]: m for m in found["members"] if m["control_of"]}
    members = found["members"]
    of_all = set.intersection(*(set(member["flags"]) for member in members))
    return {
        **found,
        "flags": [],
        "badges": _badges(of_all),
        "anchor": f"comparison-{name}",
        "config": config,
        "title": config["title"],
        "members": [
            {
                **member,
                "badges": _badges(set(member["flags"]) - of_all),
                "twin": controls.get(member["experiment"]),
                "twin_of": titles.get(member["control_of"]),
            }
            for member in members
        ],
        "images": _images(figures),
    }


def _joined(source):
    return source if isinstance(source, str) else " + ".join(source)


def _found(groups, comparisons):
    """What was found, and where its numbers stand; the data set where there are several."""
    sections = [
        *((c, c["config"]["dataset_title"], [comparison_page.found(c)]) for c in comparisons),
        *((this, this["dataset"], this["found"]) for this in groups),
    ]
    several = len({data for _, data, _ in sections}) > 1
    return [
        one | {"anchor": this["anchor"], "data": data if several else None}
        for this, data, told in sections
        for one in told
    ]


def environment() -> jinja2.Environment:
    """What fills in the templates of pages."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    made.filters |= {
        "number": _number,
        "signed": _signed,
        "p": _p,
        "metric": title,
        "bytes": _bytes,
    }
    made.globals |= {
        "defined": number,
        "control_as_high": findings.control_as_high,
        "scope": questions.scope,
    }
    made.globals["text"] = _text
    return made


def _text(file):
    """A style sheet or script of the page, as it is."""
    return (Path(__file__).parent / file).read_text(encoding="utf-8")


def _number(value, digits=2):
    return f"{value:z.{digits}f}".replace("-", "−") if number(value) else "–"


def _signed(value, digits=2):
    return f"{value:+z.{digits}f}".replace("-", "−") if number(value) else "–"


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
