"""Baselines that a study of series of regions or of EEG gets without naming them."""

import copy

import pytest
from test_plan import SCHEMA, read

from engram.datasets import simulated_vigilance
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


# ---- EEG spectrograms -------------------------------------------------------------------

EEG = {
    "datasets": {
        "people": {
            "kind": "simulated_vigilance", "units": ["sub-01", "sub-02"], "files": ["{unit}.npz"],
            "windows": {"length": 30, "step": 15},
        }
    },
    "views": {
        "spectrogram": {"kind": "multitaper", "fmax": 30.0, "amplitude": 500.0},
        "state": {"kind": "annotations", "classes": ["drowsy", "alert"]},
        "age": {"kind": "fact", "column": "trait"},
    },
    "backbones": {
        "clip": {"kind": "timm", "model": "vit", "weights": "clip.safetensors", "title": "CLIP"},
    },
    "heads": {"adapter": {"kind": "adapter"}, "plain": {"kind": "linear"}},
    "experiments": {
        "model": {
            "dataset": "people", "x": "spectrogram/clip", "y": "state", "head": "adapter",
            "seeds": 2, "folds": {"kind": "group_kfold", "n": 2}, "baseline": "none",
        }
    },
    "comparisons": {
        "models": {
            "dataset": "people", "view": "spectrogram", "y": "state", "head": "adapter",
            "folds": {"kind": "group_kfold", "n": 2}, "baseline": "none", "backbones": ["clip"],
        }
    },
    "run": ["model"],
    "compare": [],
}  # fmt: skip

TANGENT = {"kind": "linear", "space": "tangent"}


@pytest.fixture
def eeg():
    return copy.deepcopy(EEG)


def kinds(this, names):
    """(kind of the view, kind of the backbone, head) of experiments."""
    found = []
    for name in names:
        view, _, backbone = this.known[name]["x"].partition("/")
        kind = this.backbone(backbone)["kind"] if backbone else None
        found.append(
            (this.kind_of_view(view), kind, this.config["heads"][this.known[name]["head"]])
        )
    return found


ROWS = [
    ("multitaper", "bandpower", {"kind": "linear"}),
    ("multitaper", None, {"kind": "cnn"}),
    ("eeg_series", "connectome", TANGENT),
]


def test_a_model_of_eeg_gets_band_power_a_network_covariances_and_its_twin(eeg):
    this = planned(eeg)
    own, *added = this.shown()
    twin = ("multitaper", "timm", {"kind": "adapter"})
    assert own == "model"
    assert kinds(this, added) == [*ROWS, twin]
    assert this.twins(this.shown()) == {added[-1]: "model"}
    for name in added:
        assert this.known[name]["automatic"]
        for key in ("dataset", "y", "seeds", "folds", "baseline"):
            assert this.known[name][key] == eeg["experiments"]["model"][key]
    series = this.config["views"][this.sources(added[2])[0].partition("/")[0]]
    assert series == {"kind": "eeg_series", "amplitude": 500.0, "band": [1.0, 30.0]}
    assert this.known[added[0]]["head"] == "plain"  # the one of the study, which is the same


def test_a_comparison_of_models_of_eeg_gets_them_as_guests_and_takes_what_there_is(eeg):
    eeg["experiments"]["net"] = {
        **eeg["experiments"]["model"], "x": "spectrogram", "head": "net", "seeds": 1,
    }  # fmt: skip
    eeg["heads"]["net"] = {"kind": "cnn", "epochs": 3}
    eeg |= {"run": ["net"], "compare": ["models"]}
    this = planned(eeg)
    band, net, covariance = this.guests("models")
    assert net == "net"
    assert kinds(this, [band, covariance]) == [ROWS[0], ROWS[2]]
    assert list(this.members("models")) == ["models-clip", "models-clip_random"]
    automatic = this.config["comparisons"]["models"]["automatic"]
    assert automatic == ["models-clip_random", band, covariance]
    assert this.shown() == ["net"]
    roles = {
        m["experiment"]: m["role"] for m in this.spec("compare", comparison="models")["members"]
    }
    assert roles == {
        "models-clip": "model", "models-clip_random": "random", band: "baseline",
        "net": "baseline", covariance: "baseline",
    }  # fmt: skip


def test_what_runs_already_does_not_come_twice(eeg):
    eeg["backbones"] |= {"power": {"kind": "bandpower", "relative": True}}
    given = eeg["experiments"]["model"]
    eeg["experiments"]["power"] = {**given, "x": "spectrogram/power", "baseline": "none"}
    eeg |= {"run": ["power", "model"], "compare": ["models"]}
    this = planned(eeg)
    assert kinds(this, this.guests("models")) == [
        ("multitaper", "bandpower", {"kind": "adapter"}), *ROWS[1:],
    ]  # fmt: skip
    assert this.shown() == ["power", "model"]  # the comparison has the others, and runs too


def test_numbers_have_no_network_of_classes(eeg):
    eeg["experiments"]["model"] |= {"y": "age", "head": "plain"}
    this = planned(eeg)
    assert kinds(this, this.shown()[1:3]) == [ROWS[0], ROWS[2]]


@pytest.mark.parametrize("change", ["off", "fmri", "two views", "no model"])
def test_nothing_is_added_beside_what_is_no_model_of_eeg(eeg, change):
    if change == "off":
        eeg["automatic_baselines"] = False
    elif change == "fmri":
        eeg["views"]["spectrogram"]["signal"] = "fmri"
    elif change == "two views":
        eeg["views"]["other"] = {"kind": "multitaper", "signal": "fmri"}
        eeg["experiments"]["model"]["x"] = ["spectrogram/clip", "other/clip"]
    else:
        eeg["backbones"]["clip"] = {"kind": "pixels"}
        eeg["views"]["spectrogram"]["kind"] = "picture"
        eeg["views"]["spectrogram"] = {"kind": "picture", "modality": "eeg"}
    assert planned(eeg).shown() == ["model"]


@pytest.mark.parametrize(
    ("channels", "view", "several"),
    [(["Cz"], None, False), (["Cz", "Oz"], None, True), (["Cz", "Oz"], ["Oz"], False),
     (None, ["Cz", "Oz"], True), (None, None, False)],
)  # fmt: skip
def test_one_channel_or_an_unknown_number_has_no_covariance(eeg, channels, view, several):
    """What the files hold is not known to a plan; a row that nobody named may not fail."""
    eeg["datasets"]["people"] |= {"kind": "eeg_recordings", "source": {"osf": "abcde"}}
    eeg["datasets"]["people"]["channels"] = channels
    eeg["views"]["spectrogram"]["channels"] = view
    this = planned(eeg)
    assert (ROWS[2] in kinds(this, this.shown())) == several
    if view and several:
        series = [v for v in this.config["views"].values() if v["kind"] == "eeg_series"]
        assert [one["channels"] for one in series] == [view]


def test_the_simulation_has_as_many_channels_as_the_plan_is_told():
    assert len(simulated_vigilance.CHANNELS) == simulated_vigilance.EEG_CHANNELS
