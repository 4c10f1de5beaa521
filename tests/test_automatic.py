"""Baselines that a study of series of regions gets without naming them."""

import copy

import pytest
from test_plan import SCHEMA, read

from engram.planning import configuration, plan
from engram.planning.automatic import completed

STUDY = {
    "datasets": {
        "cohort": {
            "kind": "simulated_fmri", "units": ["group-01", "group-02"], "files": ["{unit}.h5"],
            "windows": "scan",
        }
    },
    "views": {
        "rois": {"kind": "timeseries"},
        "sex": {"kind": "fact", "column": "sex", "classes": ["female", "male"]},
        "age": {"kind": "fact", "column": "age"},
    },
    "backbones": {
        "model": {"kind": "semantoks", "title": "Model", "weights": "model.safetensors"}
    },
    "heads": {"forest": {"kind": "forest"}},
    "experiments": {
        "age": {
            "dataset": "cohort", "x": "rois/model", "y": "age", "head": "forest", "seeds": 2,
            "folds": {"kind": "group_kfold", "n": 4}, "baseline": "none",
        }
    },
    "comparisons": {
        "sex": {
            "dataset": "cohort", "view": "rois", "y": "sex", "head": "forest", "seeds": 1,
            "baseline": "none", "backbones": ["model"],
        }
    },
    "run": ["age"],
    "compare": ["sex"],
}  # fmt: skip


@pytest.fixture
def config():
    return copy.deepcopy(STUDY)


def planned(config):
    """The plan of a configuration as the workflow makes it; what it is given stays as it was."""
    before = copy.deepcopy(config)
    configuration.check(config, SCHEMA)
    this = plan.Plan(completed(config))
    assert config == before
    return this


def rows(this):
    """(backbone, head) of every experiment that is shown."""
    shown = [this.known[name] for name in this.shown()]
    return [(one["x"].partition("/")[2], one["head"]) for one in shown]


def test_an_experiment_gets_each_baseline_and_its_random_twin(config):
    config["compare"] = []
    this = planned(config)
    assert rows(this) == [
        ("model", "forest"), ("connectome", "forest"), ("roi_statistics", "forest"),
        ("identity", "linear_pca"), ("model_random", "forest"),
    ]  # fmt: skip
    own, *added = this.shown()
    for name in added:
        assert this.known[name]["automatic"]
        for key in ("dataset", "y", "seeds", "folds", "baseline"):
            assert this.known[name][key] == config["experiments"]["age"][key]
    assert "automatic" not in this.known[own]
    assert this.config["heads"]["linear_pca"]["components"] == 100
    assert this.backbone("model_random")["weights"] == "random"
    assert this.twins(this.shown()) == {"age-model_random": "age"}
    shown = this.spec("report")["experiments"]
    assert [shown[name].get("automatic", False) for name in shown] == [False, *[True] * 4]
    for name in added:
        assert "automatic" not in str(this.spec("train", experiment=name))
        assert "automatic" not in str(this.spec("track", experiment=name))


def test_a_comparison_gets_them_as_members_and_what_is_too_wide_as_a_guest(config):
    config["run"] = []
    this = planned(config)
    members = ["sex-model", "sex-connectome", "sex-roi_statistics", "sex-model_random"]
    assert list(this.members("sex")) == members
    assert this.guests("sex") == ["sex-identity"]
    assert this.known["sex-identity"]["head"] == "linear_pca"
    assert this.controls("sex") == {"sex-model_random": "sex-model"}
    shown = this.spec("report")["comparisons"]["sex"]
    assert shown["automatic"] == [*members[1:], "sex-identity"]
    measured = [m["experiment"] for m in this.spec("compare", comparison="sex")["members"]]
    assert measured == [*members, "sex-identity"]


def test_what_is_added_is_a_good_configuration(config):
    this = planned(config)
    written = copy.deepcopy(this.config)
    for experiment in written["experiments"].values():
        experiment.pop("automatic", None)
    for comparison in written["comparisons"].values():
        comparison.pop("automatic")
    configuration.check(written, SCHEMA)
    assert completed(this.config) == this.config


def test_what_the_study_names_itself_does_not_come_twice(config):
    config["backbones"] |= {
        "partial": {"kind": "connectome", "measure": "partial"},
        "untrained": {"like": "model", "weights": "random", "seed": 3},
        "series": {"kind": "identity"},
    }
    config["comparisons"]["sex"]["backbones"] += ["partial", "untrained"]
    config["experiments"]["stats"] = {
        **config["experiments"]["age"], "x": "rois/untrained", "head": "forest",
    }  # fmt: skip
    config["run"] = ["age", "stats"]
    this = planned(config)
    assert list(this.members("sex")) == [
        "sex-model", "sex-partial", "sex-untrained", "sex-roi_statistics",
    ]  # fmt: skip
    assert this.known["sex-identity"]["x"] == "rois/series"
    assert rows(this) == [
        ("model", "forest"), ("untrained", "forest"), ("connectome", "forest"),
        ("roi_statistics", "forest"), ("series", "linear_pca"),
    ]  # fmt: skip


def test_experiments_with_another_target_have_baselines_of_their_own(config):
    config["compare"] = []
    config["experiments"]["sex_model"] = {**config["experiments"]["age"], "y": "sex"}
    config["run"] = ["age", "sex_model"]
    targets = [one["y"] for one in planned(config).known.values() if "automatic" in one]
    assert targets == ["age"] * 4 + ["sex"] * 4


@pytest.mark.parametrize("change", ["off", "no model", "other rows"])
def test_nothing_is_added_where_it_is_switched_off_or_there_is_no_model_of_series(config, change):
    if change == "off":
        config["automatic_baselines"] = False
    elif change == "no model":
        config["backbones"]["model"] = {"kind": "connectome"}
    else:
        config["views"]["rois"] = read("config/config.yaml")["views"]["fmri_spectrogram"]
        config["backbones"]["model"] = {"kind": "dalle", "weights": "model.safetensors"}
    this = planned(config)
    assert this.config["experiments"] == config["experiments"]
    assert this.members("sex").keys() == {"sex-model"}
