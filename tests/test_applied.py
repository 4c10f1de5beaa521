"""A model of one data set put to another: predictions, scores, differences, what is refused."""

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from test_train import Study
from toy import SUBJECTS, features

import engram
from engram import store
from engram.scores.evaluation import evaluate
from engram.trained.dataset import apply

SPEC = {"task": "classes", "model": "one", "dataset": "second", "leaks": False}
SOURCE = "spectrogram/clip"


class Second(Study):
    """Another data set of the same subjects' names, of other numbers and with digests."""

    def __init__(self, folder, effect=3.0, seed=1):
        super().__init__(folder)
        self.x = {SOURCE: features(self.table, self.y, effect=effect, seed=seed)}
        self.digest(SOURCE)

    def digest(self, source):
        each = [f"{hash(row.tobytes()) & (2**64 - 1):016x}" for row in self.x[source]]
        self.tables[source] = self.table.assign(digest=each)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The model of the first data set, and the stores that it was trained on."""
    study = Study(tmp_path_factory.mktemp("first"))
    study.digest = Second.digest.__get__(study)
    study.digest(SOURCE)
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
            "evaluation": {"bootstrap": 100, "permutations": 200, "probes": False}}  # fmt: skip
    scores = study.folder / "scores.json"
    evaluate(made[0], list(baseline), {}, scores, spec)
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
    assert found["applied"]["dataset"] == "First"
    assert found["majority_of_model"]["balanced_accuracy"] == 0.5
    assert "Nothing was trained: the model of one was fitted on First" in found["warnings"][0]
