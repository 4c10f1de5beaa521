"""Cards of kept models: every fact is that of the model and of the scores, every limit has one."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import study
import yaml
from safetensors.numpy import save_file
from test_train import Study

from engram.cards import card, limits
from engram.errors import InputError
from engram.flags import FLAGS
from engram.store import canonical

SOURCE = "spectrogram/clip"
VIEW = {
    "what": "spectrogram", "modality": "eeg", "channels": ["Fz", "Pz"], "unit": "dB",
    "frequencies": [35.0, 20.5, 0.5], "times": [2.0, 3.0], "seconds_per_column": 1.0,
    "lag_s": 5, "row": "window", "settings": {"sfreq": 128.0}, "transductive": False,
}  # fmt: skip
FEATURES = {
    "what": "features", "view": VIEW, "kind": "open_clip", "model": "ViT-B-32", "layer": "",
    "weights": "ViT.safetensors", "weights_sha256": "5" * 64, "input": {"converted": ["V to uV"]},
}  # fmt: skip
MODEL = {
    "task": "classes",
    "classes": ["drowsy", "alert"],
    "flags": [],
    "excluded": {"amplitude": 2},
    "sources": [SOURCE],
    "targets": ["state"],
    "folds": ["sub-01", "sub-02"],
    "chosen": {"c": {"sub-01": [1.0, 10.0], "sub-02": [1.0, 1.0]}},
    "made_by": {"inputs": {"results/features/d/sub-01/spectrogram/clip.h5": "1" * 64}},
    "head": {"kind": "linear", "c": [1.0, 10.0]},
    "recipe": {
        "dataset": {"name": "d", "kind": "eeg_recordings", "windows": {"length": 30, "step": 15}},
        "sources": {SOURCE: {"name": "clip", "view": {"name": "spectrogram", "kind": "picture"}}},
        "targets": {"state": {"view": {"name": "state", "kind": "annotations"}}},
    },
    "contract": {SOURCE: FEATURES},
    "labels": {"state": {"what": "labels", "classes": ["drowsy", "alert"]}},
    "kept": {
        "rule": "fitted again on all subjects", "models": ["all"], "seeds": [0, 1],
        "sources": [SOURCE], "candidate": 0, "chosen": {"c": 1.0},
        "subjects": [f"sub-{i:02d}" for i in range(1, 21)], "rows": 120,
        "rows_of_classes": {"drowsy": 70, "alert": 50},
    },
}  # fmt: skip
SPEC = {
    "experiment": "clip",
    "title": "CLIP, linear",
    "data": {"title": "Drowsy people", "licence": "CC-BY-4.0", "published_as": "DP"},
    "licences": {SOURCE: "MIT"},
}
#: What follows for a model that is better than chance and than its baseline in new subjects.
ALWAYS = {"decisions", "unlike", "licences"}


def scored(**first):
    """Scores of an experiment that is better than its baseline; `first` changes the first row."""
    rows = study.table(20, 6)
    found = study.scores("clip", rows, 0.78, np.random.default_rng(0), "bandpower", flags=())
    found["metrics"][0] |= first
    return found


@pytest.fixture
def write(tmp_path):
    """Writes a model and its scores, and gives the facts and the page of their card."""

    def written(model=None, scores=None, spec=SPEC, without=""):
        path = tmp_path / "clip.safetensors"
        known = {key: value for key, value in MODEL.items() if key != without} | (model or {})
        metadata = {"engram": canonical(known)}
        save_file({"kept/weight": np.zeros(1, np.float32)}, path, metadata)
        (tmp_path / "scores.json").write_text(json.dumps(scores or scored()))
        made = tmp_path / "clip.json", tmp_path / "clip.md"
        digests = {"inputs": {str(path): "f" * 64}}
        card(path, tmp_path / "scores.json", *made, spec, digests)
        return json.loads(made[0].read_text()), made[1].read_text()

    return written


def why(facts):
    return {one["because"] for one in facts["not_for"]}


def text(facts, because):
    return next(one["text"] for one in facts["not_for"] if one["because"] == because)


def lines(facts):
    return {label: text for section in facts["sections"] for label, text in section["lines"]}


# ---- facts -----------------------------------------------------------------------------------


def test_facts_are_those_of_the_model_and_of_its_scores(write):
    facts, page = write()
    scores = scored()
    assert facts["file"]["sha256"] == "f" * 64
    assert facts["data"] == {**SPEC["data"], **MODEL["recipe"]["dataset"]}
    for key in ("subjects", "rows", "rows_of_classes"):
        assert facts["trained_on"][key] == MODEL["kept"][key]
    assert facts["trained_on"]["stores"] == MODEL["made_by"]["inputs"]
    (takes,) = facts["takes"]
    assert takes["view"]["frequencies_hz"] == {"low": 0.5, "high": 35.0, "count": 3}
    assert (takes["view"]["rate_hz"], takes["view"]["lag_s"]) == (128.0, 5)
    assert takes["view"]["channels"] == ["Fz", "Pz"]
    assert takes["backbone"].items() >= {
        "name": "clip", "model": "ViT-B-32", "licence": "MIT", "weights_sha256": "5" * 64
    }.items()  # fmt: skip
    assert facts["fit"]["head"].items() >= {"kind": "linear", "c": [1.0, 10.0]}.items()
    assert facts["fit"]["head"]["max_iter"] == 1000  # left at its default
    assert facts["fit"]["chosen"] == {"c": 1.0}
    first = facts["reached"]["metrics"][0]
    assert first == {key: scores["metrics"][0][key] for key in first}
    assert facts["reached"]["baseline"] == "bandpower"
    assert facts["warnings"] == scores["warnings"]
    said = lines(facts)
    assert said["classes"] == "drowsy 70, alert 50"
    assert said["subjects"].startswith("20: sub-01, ")
    assert said["subjects"].endswith(" and 14 more")
    assert said["windows"] == "30 s every 15 s"
    assert said["over bandpower"] == "+0.070 (0.010 to 0.130); p = 0.031; the baseline has 0.710"
    assert "tested on nobody" in said["tested on"]
    for whole in ("`" + "f" * 64 + "`", "CC-BY-4.0", "published as | DP", "5" * 64):
        assert whole in page


def test_numbers_of_the_page_are_those_of_the_facts(write):
    facts, page = write(scores=scored(low=None, high=None, difference=-0.25))
    table = page.partition("| score |")[2].partition("\n\n")[0].splitlines()[2:]
    for line, row in zip(table, facts["reached"]["metrics"], strict=True):
        found = [float(n) for n in re.findall(r"-?\d+\.\d+", line.replace("−", "-"))]
        keys = ("value", "low", "high", "chance", "p", "seed_sd", "baseline", "difference",
                "difference_low", "difference_high", "difference_p")  # fmt: skip
        expected = [round(row[key], 3) for key in keys if row[key] is not None]
        assert found == pytest.approx(expected, abs=1e-9)


def test_front_matter_is_yaml_with_licence_and_flags(write):
    _, page = write({"flags": ["simulated"]})
    front = yaml.safe_load(page.split("---")[1])
    assert front == {
        "license": "other", "license_name": "CC-BY-4.0", "datasets": ["DP"],
        "tags": ["engram", "classes", "d", "simulated"],
    }  # fmt: skip
    _, page = write(spec={**SPEC, "data": {}})
    assert "license" not in yaml.safe_load(page.split("---")[1])


def test_a_model_that_was_not_kept_has_no_card(write):
    with pytest.raises(InputError, match="clip.safetensors: holds no model for use; train it"):
        write(without="kept")


# ---- what it must not be used for --------------------------------------------------------------


def test_a_model_that_beats_chance_and_its_baseline_keeps_within_what_it_knows(write):
    facts, page = write()
    assert why(facts) == {*ALWAYS, "classes"}
    assert "20 subjects of one data set" in text(facts, "decisions")
    assert "anything but drowsy, alert" in text(facts, "classes")
    assert "Drowsy people" in text(facts, "unlike")
    assert text(facts, "licences").endswith("of the data: CC-BY-4.0; of the weights of clip: MIT.")
    assert all(f"- {one['text']}\n" in page for one in facts["not_for"])


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_stands_on_the_card(write, flag):
    facts, page = write({"flags": [flag]})
    assert facts["flags"] == [{"name": flag, "text": FLAGS[flag].text}]
    assert f"- {FLAGS[flag].text}\n" in page
    limits = FLAGS[flag].inflates or flag in ("simulated", "random_weights", "circular")
    assert (flag in why(facts)) == limits


def test_random_weights_are_for_nothing_and_come_first(write):
    facts, _ = write({"flags": ["simulated", "random_weights"]})
    assert facts["not_for"][0]["text"].startswith("Anything: its backbone has random weights")
    assert "the data" not in text(facts, "licences")


@pytest.mark.parametrize(
    ("first", "because", "says"),
    [
        ({"p": 0.3}, "chance", "0.780 is no better than chance (0.500; p = 0.300)"),
        ({"value": 0.41}, "chance", "0.410 is no better than chance (0.500; p = 0.004)"),
        ({"p": None}, "unmeasured", "could not be measured"),
        ({"value": None}, "unmeasured", "could not be measured"),
        ({"difference_p": 0.2}, "baseline", "changes by +0.070 (0.010 to 0.130); p = 0.200"),
        ({"difference": -0.05}, "baseline", "changes by −0.050"),
        ({"difference_p": None}, "baseline", "no p"),
    ],
)  # fmt: skip
def test_what_scores_do_not_show_limits_the_model(write, first, because, says):
    facts, _ = write(scores=scored(**first))
    assert why(facts) == {*ALWAYS, "classes", because}
    assert says in text(facts, because)


def test_a_model_without_baseline_is_not_compared(write):
    assert "baseline" not in why(write(scores=scored(difference=None))[0])


def test_what_was_not_tested_on_new_subjects_is_not_for_them(write):
    blocks = scored() | {"generalises_to": "new time blocks of known subjects, purged"}
    facts, _ = write(scores=blocks)
    assert "tested on new time blocks" in text(facts, "known_subjects")


def test_rows_scaled_by_the_scan_need_the_whole_scan(write):
    view = VIEW | {"transductive": True}
    facts, _ = write({"contract": {SOURCE: FEATURES | {"view": view}}})
    assert SOURCE in text(facts, "whole_scan")


def test_data_without_licence_is_for_its_owner_to_pass_on(write):
    facts, _ = write(spec={**SPEC, "data": {"title": "Mine"}, "licences": {}})
    assert text(facts, "licences").endswith("of the data: not stated here, ask its owner.")
    assert lines(facts)["licence"] == "not stated"


# ---- other tasks -------------------------------------------------------------------------------


def test_a_model_of_numbers_knows_the_range_of_its_training(write):
    found = scored() | {"column": "age", "unit": "years"}
    found["sample"] |= {"low": 20.0, "high": 61.5, "mean": 40.25}
    facts, _ = write({"task": "values", "classes": []}, found)
    assert why(facts) == {*ALWAYS, "range"}
    assert "age is not within 20.00 to 61.50 years" in text(facts, "range")
    assert lines(facts)["age"] == "trained on 20.00 to 61.50 years, mean 40.25"


def of_pictures(task, models):
    """A model whose y is features of photographs, of epochs themselves."""
    picture = {"name": "clip", "view": {"name": "picture", "kind": "photograph"}}
    epochs = {"view": {"name": "epochs", "kind": "epochs"}}
    shown = FEATURES | {"view": {"what": "picture"}}
    return {
        "task": task,
        "targets": ["picture/clip"],
        "recipe": {"dataset": {"name": "d", "kind": "things_eeg2"},
                   "sources": {"epochs": epochs}, "targets": {"picture/clip": picture}},
        "contract": {"epochs": {"what": "epochs", "sfreq": 250.0, "channels": ["Oz"]}},
        "labels": {"picture/clip": shown},
        "kept": MODEL["kept"] | {"sources": ["epochs"], "models": models, "rows_of_classes": {}},
    }  # fmt: skip


def test_a_model_of_pictures_ranks_a_gallery_and_names_what_it_predicts(write):
    within = scored() | {"generalises_to": "new pictures, a known subject"}
    facts, _ = write(of_pictures("pairs", ["sub-01", "sub-02"]), within)
    assert why(facts) == {*ALWAYS, "gallery", "own_models", "known_subjects"}
    assert "backbone" not in facts["takes"][0]
    assert facts["takes"][0]["view"]["rate_hz"] == 250.0
    assert facts["predicts"]["targets"][0]["backbone"]["weights_sha256"] == "5" * 64
    assert "sub-01, sub-02 have one each" in text(facts, "own_models")
    assert 'model.predict("features.h5", gallery="pictures.h5")' in facts["use"]["python"]
    assert facts["use"]["console"].endswith("FILES... --gallery pictures.h5 -o OUT")


def test_a_model_of_vectors_is_the_one_that_was_tested(write):
    facts, page = write(of_pictures("vectors", ["sub-01", "sub-02"]))
    assert why(facts) == {*ALWAYS, "own_models"}
    assert facts["predicts"]["what"] == "vectors"
    assert "| input | picture/clip |" in page.partition("## What it says")[2]
    assert "nobody" not in page
    assert "by the models that are kept" in text(facts, "decisions")
    assert "column unlike" not in page


def test_several_sources_are_given_by_name(write):
    both = {"spectrogram/clip": FEATURES, "fmri/clip": FEATURES}
    made = MODEL["recipe"] | {"sources": dict.fromkeys(both, MODEL["recipe"]["sources"][SOURCE])}
    kept = MODEL["kept"] | {"sources": [*both]}
    facts, page = write({"contract": both, "recipe": made, "kept": kept})
    given = '{"spectrogram/clip": "features_1.h5", "fmri/clip": "features_2.h5"}'
    assert f"model.predict({given})" in facts["use"]["python"]
    assert facts["use"]["python"] in page
    compile(facts["use"]["python"], "example", "exec")


# ---- docs/models.md ------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs/models.md").read_text(encoding="utf-8")


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    trained = Study(tmp_path)
    model, _, _ = trained.train()
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    named = re.search(r'load_model\("(.*?)"\)', example)[1]
    Path(named).parent.mkdir(parents=True)
    model.rename(named)
    Path("features/sub-01/spectrogram/clip.h5").rename("features.h5")
    found = {}
    exec(example, found)
    own = trained.table.index[trained.table["subject"] == "sub-01"]
    assert [*found["table"].index] == [*own]
    assert {"class", "p_drowsy", "p_alert", "spread", "unlike", "exclude"} <= {*found["table"]}


def test_the_page_has_every_reason_and_no_other(write):
    named = PAGE.partition("| because |")[2].partition("\n\n")[0]
    given = re.findall(r"^\| (`.*?) \|", named, re.MULTILINE)
    reasons = {name for cell in given for name in re.findall(r"`(\w+)`", cell)}
    source = Path(limits.__file__).read_text(encoding="utf-8")
    found = set(re.findall(r'yield \(?\s*"(\w+)"', source)) | {*limits.INFLATED, limits.RANDOM}
    assert reasons == found
