"""Experiments that apply the model of another one, in the plan: no store is read or written."""

import copy

import pytest
from test_plan import SCHEMA, merge, read

from engram.errors import InputError
from engram.planning import configuration, plan, shape
from engram.planning.automatic import completed

STUDY = {
    "run": ["there"],
    "maps": ["there"],
    "datasets": {
        "second": {
            "kind": "simulated_vigilance", "title": "Second", "units": ["sub-01", "sub-02"],
            "files": ["{unit}.npz"], "windows": {"length": 30, "step": 15}, "seed": 1,
        }
    },
    "experiments": {
        "here": {
            "dataset": "simulated", "y": "state", "head": "linear", "seeds": 2, "title": "Here",
            "x": {"choose": ["spectrogram/clip_random", "spectrogram/bandpower"]},
            "baseline": "eeg_bandpower",
        },
        "there": {"dataset": "second", "model": "here"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary():
    return merge(read("config/config.yaml"), read("config/backbones.yaml"))


@pytest.fixture
def config(vocabulary):
    return merge(copy.deepcopy(vocabulary), copy.deepcopy(STUDY))


def planned(config):
    configuration.check(config, SCHEMA)
    return plan.Plan(completed(shape.filled(config, SCHEMA)))


def test_what_is_asked_is_what_the_model_was_asked(config):
    this = planned(config)
    assert this.task("there") == "classes"
    assert this.candidates("there") == this.candidates("here")
    assert this.stores("there", "state") == [
        f"results/views/second/{unit}/state.h5" for unit in ("sub-01", "sub-02")
    ]
    spec = this.spec("apply", experiment="there")
    assert spec["sources"] == [["spectrogram/clip_random", 2], ["spectrogram/bandpower", 2]]
    assert spec["known_targets"] == [["state", 6]]
    assert (spec["model"], spec["dataset"], spec["leaks"]) == ("here", "second", False)
    assert this.modules("apply", experiment="there") == [
        "engram.tasks.classes", "engram.heads.linear"
    ]  # fmt: skip
    found = this.spec("evaluate", experiment="there")
    assert found["generalises_to"] == "another data set, nothing trained"
    assert this.of_model("there", this.y) == this.y("here")
    assert this.of_model("here", this.y) == []
    assert this.datasets() == ["simulated", "second"]
    assert "seeds" not in this.spec("track", experiment="there")["configured"]


def test_the_baseline_of_the_model_is_applied_too(config):
    this = planned(config)
    shown = ["eeg_bandpower", "here", "there-eeg_bandpower", "there"]
    assert this.shown() == [*shown, "here-cnn", "here-covariance"]  # of a model of EEG
    added = this.known["there-eeg_bandpower"]
    assert (added["model"], added["dataset"]) == ("eeg_bandpower", "second")
    assert added["automatic"]
    assert added["title"] == "EEG band power, linear, applied"
    config["experiments"]["bands"] = {"dataset": "second", "model": "eeg_bandpower"}
    assert planned(config).baseline("there") == "bands"
    config["experiments"]["there"]["baseline"] = "none"
    assert planned(config).baseline("there") is None


def test_an_edit_of_the_second_data_set_trains_nothing(config):
    before = planned(config)
    config["datasets"]["second"]["units"].append("sub-03")
    after = planned(config)
    assert before.spec("train", experiment="here") == after.spec("train", experiment="here")
    assert before.spec("apply", experiment="there") != after.spec("apply", experiment="there")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "her"}, r"there\.model: no experiment 'her'; did you mean 'here'\?"),
        ({"model": "there"}, r"there\.model: is itself"),
        ({"x": "spectrogram"}, r"there\.x: is that of its model, 'here'"),
        ({"seeds": 2}, r"there\.seeds: is that of its model"),
        ({"folds": "group_kfold"}, r"there\.folds: is that of its model"),
        ({"dataset": "thrid"}, r"there\.dataset: no dataset 'thrid'"),
        ({"dataset": "simulated"}, r"there\.dataset: 'here' is trained on 'simulated' itself"),
        ({"dataset": "copy"}, r"'sub-02' of 'copy' is 'sub-02' of 'simulated', on which 'here' is"),
        ({"baseline": "eeg_bandpower"}, r"there\.baseline: .* is scored on 'simulated', not on"),
    ],
)
def test_a_mistake_is_named(config, change, message):
    config["datasets"]["copy"] = config["datasets"]["second"] | {"units": ["sub-02"], "seed": 0}
    config["experiments"]["there"] |= change
    with pytest.raises(InputError, match=message):
        configuration.check(config, SCHEMA)


def test_a_head_that_keeps_no_model_is_named(vocabulary):
    config = merge(copy.deepcopy(vocabulary), read("config/studies/nsd_simulated.yaml"))
    asked = config["experiments"]
    name = next(n for n, one in asked.items() if config["heads"][one["head"]]["kind"] == "compare")
    asked["there"] = {"dataset": asked[name]["dataset"], "model": name}
    with pytest.raises(InputError, match=rf"model: '{name}' has the head .*'compare' is kept"):
        configuration.check(config, SCHEMA)


def test_a_model_that_trains_nothing_has_none_to_apply(config):
    config["experiments"]["further"] = {"dataset": "second", "model": "there"}
    with pytest.raises(InputError, match="further.model: 'there' trains nothing, it applies"):
        configuration.check(config, SCHEMA)


def test_what_was_trained_on_may_be_applied_to_if_that_is_said(config):
    config["experiments"]["there"] |= {"dataset": "simulated", "i_know_this_leaks": True}
    this = planned(config)
    assert this.spec("apply", experiment="there")["leaks"] is True
    assert this.known["there-eeg_bandpower"]["i_know_this_leaks"] is True


@pytest.mark.parametrize("key", ["x", "y", "head", "baseline"])
def test_an_experiment_without_a_model_says_what_it_asks(config, key):
    del config["experiments"]["here"][key]
    with pytest.raises(InputError, match=rf"experiments\.here: `{key}` is missing: "):
        configuration.check(config, SCHEMA)


def test_recordings_are_asked_of_a_model_that_is_kept(config):
    config["predict"] = {"new": {"model": "there", "files": ["a.edf"]}}
    with pytest.raises(InputError, match="new.model: .there. trains nothing, it applies"):
        configuration.check(config, SCHEMA)
