"""Learning curves: heads trained with fewer subjects, against models trained by hand."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from test_train import Study
from toy import QUICK, SUBJECTS, table

from engram import splits
from engram.errors import InputError
from engram.scores.evaluation import evaluate
from engram.store import Rows
from engram.tasks import classes, fewer
from engram.training import Run, Task


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setitem(QUICK, "linear", {"kind": "linear", "c": [0.1], "class_weights": False})
    return Study(tmp_path)


def by_hand(x, y, fitted, tested):
    """Probabilities of rows by a model of others, each feature standardised by these."""
    mean, sd = x[fitted].mean(0), x[fitted].std(0)
    z = (x - mean) / sd
    model = LogisticRegression(C=0.1, max_iter=1000).fit(z[fitted], y[fitted])
    return model.predict_proba(z[tested])


def test_few_subjects_are_the_same_folds_trained_by_hand(study):
    """Of all pairs that could be drawn exactly one gives what is stored; two contain the one."""
    _, whole, _ = study.train()
    _, predictions, latents = study.train(train_subjects=[2, 1])
    np.testing.assert_array_equal(predictions.array, whole.array)
    assert predictions.header["runs"] == whole.header["runs"]
    assert not [name for name in latents.table if name.startswith("fewer")]
    facts, few = predictions.table, predictions.header["fewer"]
    assert (few["sizes"], few["all"], few["validation"]) == ([1, 2], 3, 1)
    order = study.table.index.get_indexer(facts.index)
    x, y = study.x["spectrogram/clip"].reshape(len(order), -1)[order], facts["y"].to_numpy()
    subjects = facts["subject"].to_numpy(str)
    folds = splits.make(facts, y, "leave_one_subject_out", seed=0)
    drawn = {}
    for fold in folds:
        own = np.unique(subjects[fold.train])
        for size, of_seeds in zip(few["sizes"], few["columns"], strict=True):
            for seed, columns in enumerate(of_seeds):
                stored = facts[columns].to_numpy()[fold.test]
                alike = []
                for some in itertools.combinations(own, size):
                    known = np.concatenate(
                        [fold.train[np.isin(subjects[fold.train], some)], fold.validation]
                    )
                    if np.abs(by_hand(x, y, known, fold.test) - stored).max() < 2e-3:
                        alike.append(set(some))
                (drawn[fold.name, size, seed],) = alike
        for seed in range(2):
            assert drawn[fold.name, 1, seed] < drawn[fold.name, 2, seed]
    two = [[drawn[name, 2, seed] for name in SUBJECTS] for seed in range(2)]
    assert two[0] != two[1]


def scored(study, **experiment):
    study.train(**experiment)
    spec = {
        "task": "classes", "experiment": "e", "baseline": None, "generalises_to": "new subjects",
        "evaluation": {"permutations": 100, "probes": False},
    }  # fmt: skip
    path = study.folder / "scores.json"
    evaluate(study.folder / "predictions/one.h5", [], {}, path, spec)
    return json.loads(path.read_text())


def test_the_curve_is_the_score_of_each_number_and_ends_with_that_of_all(study):
    plain = scored(study)
    assert plain["learning_curve"] == []
    found = scored(study, train_subjects=[2])
    assert {**found, "learning_curve": []} == plain
    two, all_ = found["learning_curve"]
    first = found["metrics"][0]
    assert all_ == {"subjects": 3, "validation": 1} | {
        key: first[key] for key in ("value", "low", "high", "seed_sd")
    }
    _, predictions, _ = study.train(train_subjects=[2])
    facts = predictions.table
    (of_seeds,) = predictions.header["fewer"]["columns"]
    by = np.array([
        [balanced_accuracy_score(own["y"], own[c].to_numpy().argmax(1)) for c in of_seeds]
        for _, own in facts.groupby("subject")
    ])  # fmt: skip
    n, each = len(by), by.mean(1)
    assert two["value"] == pytest.approx(each.mean())
    assert two["seed_sd"] == pytest.approx(by.mean(0).std(ddof=1))
    error = each.std(ddof=1) * np.sqrt(1 / n + 1 / (n - 1))
    low, high = stats.t.interval(0.95, n - 1, logit(m := each.mean()), error / (m * (1 - m)))
    assert (two["low"], two["high"]) == pytest.approx((expit(low), expit(high)))


def test_as_many_subjects_as_there_are_is_refused(study):
    with pytest.raises(InputError, match="trains on 3 subjects: `train_subjects` .* has 3;"):
        study.train(train_subjects=[2, 3])


def test_subjects_without_every_class_are_not_drawn(study):
    """The class of the subject: of one subject there is no second."""
    own = study.table["subject"].isin(SUBJECTS[::2]).to_numpy()
    study.y = own.astype(study.y.dtype)
    with pytest.raises(InputError, match="no 1 of its training subjects have every class"):
        study.train(train_subjects=[1])


def test_draws_hold_every_class_and_the_smaller_ones():
    """Twelve subjects of one class each: every model has both, and leaves the other rows alone."""
    facts = table([f"sub-{i:02d}" for i in range(12)], windows=2)
    y = (facts["subject"].factorize()[0] % 4 == 0).astype(int)
    folds = splits.make(facts, y, {"kind": "group_kfold", "n": 3}, seed=0)
    runs = [Run(0, False, y), Run(1, False, y), Run(0, True, 1 - y)]
    task = Task([], [], [], y, ["a", "b"], facts, folds, runs)
    seen = []

    def fit(this):
        assert [run.shuffled for run in this.runs] == [False]
        seen.append([set(facts["subject"].iloc[fold.train]) for fold in this.folds])
        for fold, whole in zip(this.folds, folds, strict=True):
            assert {*y[fold.train]} == {0, 1}
            assert {*fold.train} < {*whole.train}
            np.testing.assert_array_equal(fold.test, whole.test)
            np.testing.assert_array_equal(fold.validation, whole.validation)
        return np.zeros((24, 1, 2))

    orders = fewer.orders(task, [4, 2])
    found = fewer.beside(Rows(np.zeros((24, 3, 2)), facts, {}), fit, task, [4, 2], orders)
    assert found.header["fewer"]["columns"][1] == [
        ["fewer_4_0_0", "fewer_4_0_1"], ["fewer_4_1_0", "fewer_4_1_1"],
    ]  # fmt: skip
    small, large = seen[:2], seen[2:]
    for few, more in zip(small, large, strict=True):
        for one, other in zip(few, more, strict=True):
            assert (len(one), len(other)) == (2, 4)
            assert one < other


def test_only_ways_that_leave_out_subjects_have_a_curve():
    assert {*classes.LEARNING} == {*splits.GROUPED}
