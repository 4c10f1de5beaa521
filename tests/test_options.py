"""The options of components: read without importing, and written down for people and editors."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from engram.errors import InputError
from engram.planning import component_checks, components, plan, provenance

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "config/README.md").read_text(encoding="utf-8")
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
COMPONENTS = [(family, kind) for family in plan.FAMILIES for kind in components.kinds(family)]


@pytest.mark.parametrize(("family", "kind"), COMPONENTS)
def test_options_read_without_importing_are_those_that_python_makes(family, kind):
    made = dataclasses.fields(components.component(family, kind).Options)
    found = components.fields(family, kind)
    assert set(found) == {field.name for field in made}
    for field in made:
        missing = dataclasses.MISSING
        required = field.default is missing and field.default_factory is missing
        assert found[field.name][1] == required


@pytest.mark.parametrize(("family", "kind"), COMPONENTS)
def test_no_option_has_the_name_of_a_key_that_the_plan_reads(family, kind):
    """It would never reach the component."""
    assert not components.fields(family, kind).keys() & set(component_checks.COMMON_KEYS[family])


@pytest.mark.parametrize("kind", components.kinds("heads"))
def test_defaults_read_without_importing_are_those_that_python_makes(kind):
    fields = components.fields("heads", kind)
    required = {key: "x" for key, (_, needed) in fields.items() if needed}
    made = components.component("heads", kind).Options(**required)
    assert components.defaults("heads", kind) | required == dataclasses.asdict(made)


@pytest.fixture
def family(tmp_path, monkeypatch):
    """Writes modules of a package that stands in for this one, and forgets it afterwards."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "engram")
    provenance.locate.cache_clear()

    def write(**modules):
        for name, text in modules.items():
            path = tmp_path / "engram" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    yield write
    provenance.locate.cache_clear()


def test_a_chain_of_bases_is_followed_however_it_is_imported(family):
    family(
        room__far="class Options:\n    a: int = 1\n    b: int = 2\n",
        room__near="from engram.room import far as f\nclass Options(f.Options):\n    b: int = 3\n",
        heads__own=(
            "from engram.room.near import Options as Shared\n\n\n"
            "class Between(Shared):\n    c: str\n\n\n"
            "class Options(Between):\n    d: float = 0.5\n"
        ),
    )
    assert components.defaults("heads", "own") == {"a": 1, "b": 3, "d": 0.5}
    assert [
        key for key, (_, required) in components.fields("heads", "own").items() if required
    ] == ["c"]


def test_a_base_that_stands_nowhere_is_refused(family):
    family(heads__own="class Options(Missing):\n    a: int = 1\n")
    with pytest.raises(InputError, match="has no class Missing"):
        components.fields("heads", "own")


def test_each_shared_table_stands_once_and_links_lead_to_it():
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    assert len(headings) == len(set(headings))
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert links
    assert set(links) <= slugs


@pytest.mark.parametrize(("family", "kind"), COMPONENTS)
def test_a_component_repeats_nothing_that_it_inherits(family, kind):
    *shared, own = components.options_classes(family, kind)
    inherited = {ast.unparse(node) for one in shared for node in one.body}
    assert not inherited & {ast.unparse(node) for node in own.body}


OF_PICTURES = {"size", "interpolation", "mean", "std", "mode"}


def test_options_of_pictures_are_those_of_backbones_that_take_pictures():
    having = {
        kind for kind in components.kinds("backbones")
        if OF_PICTURES & components.fields("backbones", kind).keys()
    }  # fmt: skip
    assert having == {
        "ast", "clip_vision_tokens", "dalle", "dreamsim", "lpips", "open_clip", "sd_vae", "timm",
        "torchvision", "vdvae",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["bandpower", "pixels"])
def test_a_backbone_without_torch_weights_does_not_feel_the_room_of_frozen_models(kind):
    script = ROOT / "workflow/scripts/extract.py"
    reached = provenance.reached(script, [f"engram.backbones.{kind}"])
    felt = {path.stem for path in reached if path.parent.name == "frozen"}
    assert felt <= {"__init__", "fitted", "contract"}


def test_only_extractions_whose_rows_may_be_converted_feel_the_contract():
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    config["backbones"] = {kind: {"kind": kind} for kind in components.kinds("backbones")}
    config["backbones"]["asked"] = {"kind": "pixels", "takes": {"unit": "sRGB"}}
    feeling = {
        name for name in config["backbones"]
        if "engram.frozen.contract" in plan.Plan(config).modules("extract", backbone=name)
    }  # fmt: skip
    assert {"asked", "bandpower", "semantoks"} <= feeling
    assert not feeling & {"clip_text", "connectome", "open_clip", "pixels", "timm", "torchvision"}


def test_every_backbone_says_what_it_takes_and_some_view_gives_it():
    views = components.kinds("views")
    known = {components.constant(f"engram.views.{kind}", "GIVES") for kind in views}
    backbones = SCHEMA["$defs"]["backbones"]["additionalProperties"]
    keys = set(backbones["properties"]["takes"]["properties"])
    for kind in components.kinds("backbones"):
        whats, others = components.taken({"backbone": {"kind": kind}})
        assert whats.keys() <= known, kind
        assert others.keys() <= keys, kind


EDITOR = json.loads((ROOT / "workflow/schemas/config.editor.json").read_text(encoding="utf-8"))
CONFIGURATIONS = [
    path for folder in ("config", "config/studies", ".test/config")
    for path in (ROOT / folder).glob("*.yaml")
]  # fmt: skip


def wrong(config):
    """What an editor marks: the path of each value that does not fit."""
    errors = jsonschema.Draft7Validator(EDITOR).iter_errors(config)
    return {".".join(map(str, error.absolute_path)) for error in errors}


def test_the_schema_for_editors_is_one():
    jsonschema.Draft7Validator.check_schema(EDITOR)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_editor_takes_every_shipped_configuration_and_is_told_of_the_schema(path):
    text = path.read_text(encoding="utf-8")
    assert wrong(yaml.safe_load(text)) == set()
    schema = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)[1]
    assert (path.parent / schema).resolve() == ROOT / "workflow/schemas/config.editor.json"


@pytest.mark.parametrize(("family", "kind"), COMPONENTS)
def test_an_editor_takes_every_default_and_no_other_key(family, kind):
    made = dataclasses.fields(components.component(family, kind).Options)
    defaults = {
        field.name: field.default_factory()
        if field.default is dataclasses.MISSING
        else field.default
        for field in made
        if (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
    }
    defaults = json.loads(json.dumps(defaults))
    assert wrong({family: {"one": {"kind": kind, **defaults}}}) == set()
    assert wrong({family: {"one": defaults}}) == set()
    assert wrong({family: {"one": {"kind": kind, "optoin": 1}}}) == {f"{family}.one"}
    assert wrong({family: {"one": {"optoin": 1}}}) == {f"{family}.one"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tilte", "x"),
        ("run", "one"),
        ("views.v.kind", {"kind": "multitapr"}),
        ("views.v.window", {"kind": "multitaper", "window": "long"}),
        ("views.v.window", {"window": "long"}),
        ("views.v.detrend", {"kind": "multitaper", "detrend": "lin"}),
        ("views.v.size", {"kind": "photograph", "size": [224]}),
        ("views.v.size.0", {"kind": "photograph", "size": ["224", 224]}),
        ("backbones.b", {"kind": "clip_text", "mode": "device"}),
        ("backbones.b", {"kind": "bandpower", "precision": "fp32"}),
        ("backbones.b.dim", {"kind": "timm", "dim": 0.5}),
        ("datasets.d.source", {"source": {"ofs": "3jk45"}}),
        ("datasets.d", {"kind": "things_eeg2", "snr": 1.0}),
        ("heads.h", {"kind": "linear", "epochs": 3}),
        ("heads.h.c.1", {"kind": "linear", "c": [1, "2"]}),
        ("experiments.e", {"dataset": "d", "heads": "h"}),
    ],
)
def test_an_editor_marks_what_the_workflow_refuses(path, value):
    family, name, *_ = [*path.split("."), None]
    given = {family: {name: value}} if name else {family: value}
    marked = wrong(given)
    assert marked
    assert all(path.startswith(one) for one in marked)


def test_an_overlay_may_give_any_part():
    assert wrong({"datasets": {"published": {"folder": "/data", "source": None}}}) == set()
    assert wrong({"experiments": {"known": {"seeds": 1}}}) == set()
    assert wrong({"datasets": {"known": {"windows": {"step": 2}}}}) == set()
    assert wrong({}) == set()
