"""A model of one data set put to another: predictions, scores, differences, what is refused."""

import json

import numpy as np
import pytest
import toy
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score
from test_train import Study
from toy import SUBJECTS, features

import engram
from engram import store
from engram.errors import InputError
from engram.figures import latent_map
from engram.figures.map_figure import panels
from engram.scores import evaluation
from engram.store import Rows
from engram.tasks import train
from engram.trained.dataset import apply

SPEC = {"task": "classes", "model": "one", "dataset": "second", "leaks": False}
SOURCE = "spectrogram/clip"


class Second(Study):
    """A data set of the same subjects' names, of other numbers for each seed and with digests."""

    def __init__(self, folder, effect=3.0, seed=1):
        super().__init__(folder)
        self.x = {SOURCE: features(self.table, self.y, effect=effect, seed=seed)}
        self.headers[SOURCE]["view"]["settings"] = {"sfreq": 128.0}
        self.digest(SOURCE)

    def digest(self, source):
        each = [f"{hash(row.tobytes()) & (2**64 - 1):016x}" for row in self.x[source]]
        self.tables[source] = self.table.assign(digest=each)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The model of the first data set, and the stores that it was trained on."""
    study = Second(tmp_path_factory.mktemp("first"), seed=0)
    study.recipe = {"dataset": {"name": "first", "title": "First"}}
    model, _, _ = study.train()
    paths = study.write()
    return model, ({SOURCE: paths[SOURCE]}, {"state": paths["state"]})


@pytest.fixture
def second(tmp_path):
    return Second(tmp_path / "second")


def applied(first, study, **spec):
    paths = study.write()
    made = [study.folder / name for name in ("predictions/there.h5", "latents/there.h5")]
    y = {"state": paths.pop("state")}
    apply(paths, y, first[1], first[0], *made, SPEC | spec, {"inputs": {}}, "cpu")
    return made


def scored(study, made, baseline=()):
    spec = {"task": "classes", "experiment": "there", "baseline": "bands" if baseline else None,
            "generalises_to": "another data set, nothing trained",
            "evaluation": {"permutations": 200, "probes": False}}  # fmt: skip
    scores = study.folder / "scores.json"
    evaluation.evaluate(made[0], list(baseline), {}, scores, spec)
    return json.loads(scores.read_text())


def test_the_kept_model_predicts_every_row_and_is_scored_as_ever(first, second):
    made = applied(first, second)
    predictions = store.open(made[0]).load()
    expected = engram.load_model(first[0]).predict(sorted(second.folder.glob("features/**/*.h5")))
    assert [*predictions.table.index] == [*expected.index]
    assert predictions.array.shape == (120, 2, 2)
    assert predictions.header["runs"] == [{"seed": s, "shuffled": False} for s in (0, 1)]
    np.testing.assert_allclose(predictions.array[:, 0, 1], expected["p_alert"], atol=1e-6)
    np.testing.assert_array_equal(predictions.table["unlike"], expected["unlike"])
    found = scored(second, made)
    row = found["metrics"][0]
    truth, said = predictions.table["y"], predictions.array[:, 0].argmax(1)
    for subject in SUBJECTS:
        own = (predictions.table["subject"] == subject).to_numpy()
        value = balanced_accuracy_score(truth[own], said[own])
        assert row["subjects"][subject] == pytest.approx(value)
    assert row["value"] > 0.85
    assert row["p"] < 0.05
    assert row["control"] is None
    assert "trained_on" not in found["flags"]
    assert found["applied"]["dataset"] == "First"
    assert found["majority_of_model"]["balanced_accuracy"] == 0.5
    assert "Nothing was trained: the model of one was fitted on First" in found["warnings"][0]


def test_numbers_are_scored_beside_the_mean_of_the_first_data_set(tmp_path):
    """Numbers of each subject shown by one feature, those of the second data set 30 higher."""
    spec = {"task": "values", "experiment": {"seeds": 1}, "candidates": [[SOURCE]],
            "head": {"kind": "linear"}, "recipe": {"dataset": {"name": "first"}}}  # fmt: skip
    given = {}
    for name, years in (("first", [20, 30, 40, 50, 60]), ("second", [50, 60, 70, 80, 90])):
        study = Second(tmp_path / name, seed=len(given))
        study.y = np.repeat(np.array(years, float), 24)
        study.x[SOURCE][:, 0] = study.y
        study.digest(SOURCE)
        study.label_header = {"what": "values", "unit": "years", "column": "age"}
        paths = study.write()
        given[name] = {SOURCE: paths[SOURCE]}, {"state": paths["state"]}
    model, predictions = tmp_path / "one.safetensors", tmp_path / "there.h5"
    unread = [tmp_path / f"{name}.h5" for name in "ab"]
    train(*given["first"], model, *unread, spec, {}, "cpu")
    args = *given["second"], given["first"], model, predictions, unread[0]
    apply(*args, SPEC | {"task": "values"}, {}, "cpu")
    scores = tmp_path / "scores.json"
    evaluation.evaluate(predictions, [], {}, scores, {
        "task": "values", "experiment": "there", "baseline": None, "generalises_to": "others",
        "evaluation": {"permutations": 119, "probes": False},
    })  # fmt: skip
    found = json.loads(scores.read_text())
    metrics = {row["metric"]: row for row in found["metrics"]}
    assert metrics["mae"]["chance"] == pytest.approx(30)  # the mean of the first is 40
    assert metrics["mae"]["value"] < 3
    assert metrics["r2"]["value"] > 0.98
    assert metrics["r2"]["control"] is None
    assert metrics["pearson_r"]["p"] == pytest.approx(1 / 120, abs=0.02)
    means = {side: found["applied"]["numbers"][side]["mean"] for side in ("model", "here")}
    assert means == {"model": 40, "here": 70}
    study.label_header = study.label_header | {"unit": "months"}
    study.write()
    with pytest.raises(InputError, match="the numbers are in months, but the model was trained on"):
        apply(*args, SPEC | {"task": "values"}, {}, "cpu")


@pytest.mark.parametrize("effect", [2.0, 1.0, 0.0])
def test_the_score_falls_with_the_effect_to_chance(first, tmp_path, effect):
    """The classes were two normal distributions, 3 apart: the model cuts in the middle, at 1.5."""
    second = Second(tmp_path, effect)
    row = scored(second, applied(first, second))["metrics"][0]
    expected = (norm.cdf(1.5) + norm.cdf(effect - 1.5)) / 2
    assert row["low"] < expected < row["high"]
    assert abs(row["value"] - expected) < 0.08
    assert (row["p"] < 0.05) == (effect > 0)
    assert (row["low"] < 0.5 < row["high"]) == (effect == 0)


def test_differences_are_measured_and_said(first, second):
    second.x[SOURCE][:24, 1] += 40
    view = second.headers[SOURCE]["view"]
    second.headers[SOURCE] = {"what": "features", "view": view | {"settings": {"sfreq": 100.0},
                                                                  "simulated": False}}  # fmt: skip
    second.label_header = second.label_header | {"theta": 0.7}
    second.tables[SOURCE].loc[second.table.index[60:], "exclude"] = "artefact"
    found = scored(second, applied(first, second))
    differences = found["applied"]
    assert sorted(differences["stated"], key=lambda line: line["fact"]) == [
        {"of": SOURCE, "fact": "settings.sfreq", "model": "128.0", "here": "100.0"},
        {"of": SOURCE, "fact": "simulated", "model": "True", "here": "False"},
    ]
    assert differences["labels"] == [
        {"of": "state", "fact": "theta", "model": "None", "here": "0.7"}
    ]
    assert differences["unlike"]["subjects"]["sub-01"] == 1
    assert 0.4 <= differences["unlike"]["share"] < 0.5
    shares = {side: differences["classes"][side]["alert"] for side in ("model", "here")}
    assert shares == {"model": pytest.approx(0.5), "here": pytest.approx(second.y[:60].mean())}
    told = " ".join(found["warnings"])
    assert "of the rows are less like what the model was trained on" in told
    assert "The labels are defined otherwise than those of training, in theta." in told
    assert found["sample"]["excluded"] == {"artefact": 60}


def test_rows_that_were_trained_on_are_refused_or_labelled(first, second):
    there = second.x[SOURCE].copy()
    own = (second.table["subject"] == "sub-03").to_numpy()
    second.x[SOURCE][own] = features(second.table, second.y)[own]  # those of the first data set
    second.digest(SOURCE)
    with pytest.raises(InputError, match=r"^second: sub-03 is among the rows that one was trained"):
        applied(first, second)
    made = applied(first, second, leaks=True)
    assert "trained_on" in store.open(made[0]).header["flags"]
    assert any("was trained on sub-03:" in line for line in scored(second, made)["warnings"])
    second.x[SOURCE] = there
    second.digest(SOURCE)
    with pytest.raises(InputError, match=r"^first: sub-01, sub-02, .* are among the rows"):
        applied(first, second, dataset="first")


def test_a_class_is_known_by_its_name(first, second):
    expected = store.open(applied(first, second)[0]).load()
    second.label_header = {"what": "labels", "classes": ["asleep", "alert", "drowsy"]}
    second.y = 2 - second.y
    found = store.open(applied(first, second)[0]).load()
    np.testing.assert_array_equal(found.table["y"], expected.table["y"])
    np.testing.assert_array_equal(found.array, expected.array)
    assert found.header["classes"] == ["drowsy", "alert"]
    second.y[:3] = 0
    with pytest.raises(InputError, match=r"state.h5: 3 rows are of class 'asleep', which"):
        applied(first, second)


def test_a_class_that_does_not_occur_is_said(tmp_path):
    third = Second(tmp_path / "first", seed=3)
    third.y = third.table["window"].to_numpy() % 3
    third.x[SOURCE][np.arange(120), third.y] += 3
    third.label_header = {"what": "labels", "classes": ["drowsy", "alert", "asleep"]}
    third.digest(SOURCE)
    third.recipe = {"dataset": {"name": "first"}}
    model, _, _ = third.train()
    paths = third.write()
    first = model, ({SOURCE: paths[SOURCE]}, {"state": paths["state"]})
    second = Second(tmp_path / "second")
    found = scored(second, applied(first, second))
    assert any("No row here is of class asleep" in line for line in found["warnings"])
    assert found["metrics"][0]["value"] == pytest.approx(0.5, abs=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "as spectrogram/clip; they differ in `kind`"),
        ({"weights_sha256": "ab"}, "they differ in `weights_sha256`"),
        ({"view": {"what": "spectrogram", "unit": "dB"}}, "they differ in `view.unit`"),
        ({"view": {"what": "series", "channels": ["A"]}}, "they differ in"),
        ({"view": {"what": "spectrogram", "missing": ["Cz"]}}, "lacks Cz, but one.* lack none;"),
    ],
)
def test_rows_that_are_not_what_the_model_was_fitted_on_are_refused(first, second, change, message):
    second.headers[SOURCE] = second.headers[SOURCE] | change
    with pytest.raises(InputError, match=message):
        applied(first, second)


def test_rows_of_another_width_are_refused(first, second):
    second.x[SOURCE] = second.x[SOURCE][:, :4]
    with pytest.raises(InputError, match=r"has rows of shape \(4,\), but one was fitted on \(6,\)"):
        applied(first, second)


def test_the_map_shows_rows_of_both_data_sets(first, second, monkeypatch):
    """Rows of one name stand for themselves in either; places are those of the inputs."""
    made = [store.open(path).load() for path in applied(first, second)]
    predictions, latents = made
    monkeypatch.setattr(
        latent_map, "place", lambda latent, train, shown: (latent[shown, :2], train[shown], {})
    )
    pictures = {}
    for name, level in (("second", 5.0), ("first", -5.0)):
        header = toy.IMAGES | {"frequencies": [2.0, 1.0]}
        rows = np.full((120, 24, 10), level, np.float16)
        pictures[name] = second.folder / f"{name}.h5"
        store.write(pictures[name], Rows(rows, second.table, header))
    data = latent_map.build(latents, predictions, [pictures["second"]], [pictures["first"]])
    points = {key: np.array(values) for key, values in data["points"].items()}
    new = points["dataset"] == "second"
    assert (new.sum(), (~new).sum()) == (120, 120)
    np.testing.assert_array_equal(points["fitted"], ~new)
    assert len({*points["subject"]}) == 10
    assert {*points["predicted"][~new]} == {""}
    at = np.argsort(second.table.index)
    z = engram.load_model(first[0]).familiar(SOURCE)
    expected = (second.x[SOURCE][at] - z["mean"]) / z["sd"]
    np.testing.assert_allclose(points["x"][new], expected[:, 0], atol=2e-3)
    assert len({*points["image"][new]}) == 1
    assert len({*points["image"]}) == 2
    titles = [title for title, _, _ in panels(json.loads(json.dumps(evaluation.plain(data))))]
    assert titles == ["state", "subject", "scan", "data set", "time in scan"]
