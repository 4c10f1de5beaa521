"""What a configuration asks for where it names decoders, and what it is refused for."""

import re

import checkouts
import pytest
import yaml

from engram.errors import InputError
from engram.planning import configuration
from engram.planning.plan import Plan
from engram.planning.targets import check_asked

SCHEMA = yaml.safe_load((checkouts.ROOT / "workflow/schemas/config.schema.yaml").read_text())


def experiment(x, y, dataset="scenes", head="ridge"):
    return {"dataset": dataset, "x": x, "y": y, "head": head, "baseline": "none"}


@pytest.fixture
def config():
    files = {"units": ["subj01", "subj02"], "files": ["{unit}.hdf5"]}
    scenes = {"kind": "simulated_nsd", "shared": {"stimuli": ["stimuli.hdf5"]}, **files}
    return {
        "study": "small",
        "run": ["colours"],
        "datasets": {"scenes": scenes, "other": dict(scenes)},
        "views": {
            "betas": {"kind": "betas"},
            "photograph": {"kind": "photograph", "unit": "stimuli"},
            "caption": {"kind": "captions", "unit": "stimuli"},
        },
        "backbones": {
            "pixels": {"kind": "pixels"},
            "text": {"kind": "clip_text", "model": "tiny"},
            "vdvae": {"kind": "vdvae", "model": "tiny", "weights": "published", "checkpoint": "v"},
        },
        "checkpoints": {"v": {"url": "https://example.org/v.th?raw", "licence": "MIT"}},
        "heads": {"ridge": {"kind": "ridge"}, "linear": {"kind": "linear"}},
        "experiments": {
            "latents": experiment("betas", "photograph/vdvae"),
            "colours": experiment("betas", "photograph/pixels"),
            "words": experiment("betas", "caption/text"),
            "voxels": experiment("photograph/pixels", "betas"),
            "elsewhere": experiment("betas", "photograph/vdvae", dataset="other"),
            "again": experiment("layout/pixels", "photograph/pixels"),
        },
        "decoders": {
            "layout": {"kind": "vdvae", "latents": "latents"},
            "nearest": {"kind": "nearest", "latents": "colours"},
            "prior": {"kind": "prior_only", "of": "layout"},
        },
    }


def test_what_a_decoder_draws_belongs_to_the_study(config):
    configuration.check(config, SCHEMA)
    plan = Plan(config)
    of_unit = "scenes/subj02"
    assert plan.store("scenes", "subj02", "prior") == f"results/small/views/{of_unit}/prior.h5"
    features = f"results/small/features/{of_unit}/prior/pixels.h5"
    assert plan.store("scenes", "subj02", "prior/pixels") == features
    assert plan.x("again") == [
        f"results/small/features/scenes/{unit}/layout/pixels.h5" for unit in ("subj01", "subj02")
    ]
    assert plan.decoder_sources("scenes", "subj02", "prior") == [
        "results/small/views/scenes/subj02/layout.h5"
    ]


def test_figures_show_what_was_seen_what_is_drawn_and_what_that_started_from(config):
    config["heads"]["compare"] = {"kind": "compare"}
    config["experiments"]["seen"] = experiment("prior", "photograph", head="compare")
    drawn = [
        f"results/small/views/scenes/{unit}/{name}.h5"
        for name in ("prior", "layout")
        for unit in ("subj01", "subj02")
    ]
    assert Plan(config).pictures("seen") == ["results/views/scenes/stimuli/photograph.h5", *drawn]


def test_a_decoder_gets_what_its_options_name(config):
    plan = Plan(config)
    assert plan.decoder_sources("scenes", "subj01", "layout") == [
        "results/small/latents/latents.h5"
    ]
    assert plan.decoder_weights("layout") == ["resources/weights/v/v.th"]
    assert plan.spec("decode", dataset="scenes", unit="subj01", decoder="layout") == {
        "decoder": {"kind": "vdvae", "latents": "latents"},
        "sources": [["latents", 1]],
        "unit": "subj01",
        "weights": [["latents", 1]],
    }
    assert plan.decoder_sources("scenes", "subj02", "nearest") == [
        "results/small/latents/colours.h5",
        "results/views/scenes/subj02/betas.h5",
        "results/features/scenes/stimuli/photograph/pixels.h5",
        "results/views/scenes/stimuli/photograph.h5",
    ]
    assert plan.decoder_weights("nearest") == []
    modules = plan.modules("decode", dataset="scenes", unit="subj01", decoder="nearest")
    assert modules == ["engram.decoders.nearest"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layout": {"kind": "vdvae"}}, "decoders.layout: `latents` is missing"),
        ({"layout": {"kind": "vdave", "latents": "latents"}}, "kind: no 'vdave'; .* 'vdvae'"),
        (
            {"layout": {"kind": "vdvae", "latents": "latents", "prior": "mean"}},
            "decoders.layout.prior: unknown key of kind 'vdvae'; did you mean 'prior_z'",
        ),
        (
            {"layout": {"kind": "vdvae", "latents": "latent"}},
            "decoders.layout.latents: no experiment 'latent'; did you mean 'latents'",
        ),
        (
            {"prior": {"kind": "prior_only", "of": "layuot"}},
            "decoders.prior.of: no decoder 'layuot'; did you mean 'layout'",
        ),
        (
            {"Photograph": {"kind": "vdvae", "latents": "latents"}},
            "decoders.Photograph: its pictures are a view of this name, .* has 'photograph'",
        ),
        (
            {"layout": {"kind": "prior_only", "of": "prior"}},
            "decoders.layout: goes in a circle: layout, prior, layout",
        ),
        (
            {"layout": {"kind": "nearest", "latents": "again"}},
            "decoders.layout: goes in a circle: layout, layout",
        ),
        (
            {"layout": {"kind": "vdvae", "latents": "colours"}},
            "'colours' predicts features of 'pixels', a backbone of kind 'pixels', and a decoder "
            "of kind 'vdvae' takes those of vdvae",
        ),
        (
            {"nearest": {"kind": "nearest", "latents": "voxels"}},
            "decoders.nearest.latents: experiment 'voxels' predicts responses; a decoder reads",
        ),
        (
            {"nearest": {"kind": "nearest", "latents": "words"}},
            "predicts features of the view 'caption', which holds no pictures",
        ),
        (
            {"layout": {"kind": "vdvae", "latents": "elsewhere"}},
            "experiments.again: decoder 'layout' draws what was seen in dataset 'other', and",
        ),
    ],
)  # fmt: skip
def test_what_a_decoder_cannot_read_is_one_line(config, changed, message):
    config["decoders"] |= changed
    with pytest.raises(InputError, match=message):
        configuration.check(config, SCHEMA)


def test_a_decoder_reads_no_classes(config):
    config["views"]["state"] = {"kind": "annotations", "classes": ["a", "b"]}
    config["experiments"]["states"] = experiment("betas", "state", head="linear")
    config["decoders"]["nearest"]["latents"] = "states"
    with pytest.raises(InputError, match="experiment 'states' asks classes; a decoder reads"):
        configuration.check(config, SCHEMA)


def test_random_latents_of_real_data_are_refused_behind_a_decoder_too(config):
    config["backbones"]["vdvae"] = {"kind": "vdvae", "model": "tiny", "weights": "random"}
    config["run"] = ["again"]
    configuration.check(config, SCHEMA)
    config["datasets"]["scenes"]["source"] = {"s3": "natural-scenes-dataset"}
    with pytest.raises(InputError, match="'again': backbone 'vdvae' has random weights"):
        configuration.check(config, SCHEMA)


def test_files_of_another_study_are_refused_as_targets(config):
    plan = Plan(config)
    check_asked(plan, ["results/small/views/scenes/subj01/layout.h5"])
    check_asked(plan, ["results/views/scenes/subj01/betas.h5"])
    with pytest.raises(InputError, match="belongs to the study 'other'"):
        check_asked(plan, ["results/other/features/scenes/subj01/layout/pixels.h5"])
    with pytest.raises(InputError, match="no unit 'subj03'"):
        check_asked(plan, ["results/small/views/scenes/subj03/layout.h5"])


def test_the_rules_make_pictures_and_then_their_features(tmp_path):
    made = "results/nsd_simulated/features/scenes/subj02/prior/pixels"
    given = ("--configfile", checkouts.ROOT / "config/studies/nsd_simulated.yaml")
    given = (f"{made}.h5", *given, "--directory", tmp_path, "--dry-run", "--cores", "1")
    printed = checkouts.snakemake(checkouts.ROOT, *given).stdout
    jobs = re.findall(r"rule (\w+):\n +input: (.*)\n +output: (.*)", printed)
    outputs = {output: (rule, given.split(", ")) for rule, given, output in jobs}
    view = "results/nsd_simulated/views/scenes/subj02/{}.h5".format
    assert outputs[f"{made}.h5, {made}.json"] == ("extract_decoded", [view("prior")])
    assert outputs[view("prior")] == ("decode", [view("final")])
    latents = "results/nsd_simulated/latents/scenes_{}.h5".format
    rule, read = outputs[view("final")]
    assert (rule, {*read}) == ("decode", {view("layout"), latents("vision"), latents("text")})
    assert outputs[view("layout")] == ("decode", [latents("vdvae")])
