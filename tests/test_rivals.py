"""What explains a score without the inputs: rivals, and what is left without confounds."""

import numpy as np
import pandas as pd
import pytest
from numbering import Study
from scoring import experiment, switching, table
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from test_evaluate import scored

from engram import splits, store
from engram.errors import InputError
from engram.measures import confounds
from engram.scores.caveats import of_rivals
from engram.scores.question import Question

# ---- the numbers that stand for clock and facts -------------------------------------------------


def facts(**columns):
    return table(subjects=3, scans=2, windows=4).assign(**columns)


def test_a_number_is_standardised_by_the_rows_that_train_and_a_missing_one_is_their_mean():
    ages = np.repeat([20.0, 40.0, np.nan], 8)
    these = facts(age=ages)
    state = confounds.fitted(these, ["age"], np.arange(16))
    found = confounds.design(these, state)
    np.testing.assert_allclose(found[:, 0], np.repeat([-1, 1, 0], 8))
    np.testing.assert_array_equal(found[:, 1], np.repeat([0, 0, 1], 8))
    assert confounds.empty(these, ["age"]) == {"age": 8}


def test_a_text_is_a_column_for_each_value_that_trains_and_another_one_is_none_of_them():
    these = facts(site=np.repeat(["A", "B", "C"], 8))
    found = confounds.design(these, confounds.fitted(these, ["site"], np.arange(16)))
    np.testing.assert_array_equal(found, np.repeat([[1, 0], [0, 1], [0, 0]], 8, axis=0))
    assert confounds.empty(these, ["site"]) == {}


def test_the_clock_is_a_cosine_series_of_place_time_and_order_of_scans():
    these = facts()
    found = confounds.design(these, confounds.fitted(these, ["clock"], np.arange(16)))
    place = np.tile([0, 1 / 3, 2 / 3, 1], 6)
    for k in range(4):
        np.testing.assert_allclose(found[:, k], np.cos(np.pi * (k + 1) * place), atol=1e-12)
        np.testing.assert_allclose(found[:, 4 + k], found[:, k], atol=1e-12)
    np.testing.assert_allclose(found[:, 8], np.tile(np.repeat([1, -1], 4), 3), atol=1e-12)


@pytest.mark.parametrize("of", [["clock"], ["age", "site"], ["scan"]])
def test_what_columns_mean_is_learnt_of_the_rows_that_train(of):
    rng = np.random.default_rng(0)
    these = facts(age=rng.normal(size=24), site=rng.choice(["A", "B"], 24))
    train = np.arange(16)
    other = these.copy()
    other.iloc[16:, other.columns.get_indexer(["onset", "age"])] = 1e6
    other.iloc[16:, other.columns.get_indexer(["scan", "site"])] = "elsewhere"
    assert confounds.fitted(these, of, train) == confounds.fitted(other, of, train)


def test_a_fact_that_no_row_has_is_refused():
    with pytest.raises(InputError, match="no column 'iq'; name it in `carry`"):
        confounds.fitted(facts(), ["iq"], np.arange(4))


# ---- folds ----------------------------------------------------------------------------------


def question(these, y, **changes):
    return Question(**{
        "table": these, "y": y, "classes": 2, "metric": "balanced_accuracy", "limits": (0, 1),
        "each": None, "of_all": None, "confidence": 0.95, **changes,
    })  # fmt: skip


def test_rows_that_share_seconds_with_tested_rows_train_no_rival():
    these = table(subjects=2, scans=1, windows=30)
    y = np.arange(60) % 2
    folds = splits.make(these, y, {"kind": "blocked", "n": 5}, seed=0)
    fold = np.empty(60, object)
    for one in folds:
        fold[one.test] = one.name
    sides = question(these.assign(fold=fold), y).folds
    assert [sorted(test) for _, test in sides] == [sorted(one.test) for one in folds]
    for (train, test), one in zip(sides, folds, strict=True):
        assert set(one.known) <= set(train)
        for row in train:
            those = these.iloc[test][these["subject"].iloc[test] == these["subject"].iloc[row]]
            apart = (those["stop"] <= these["start"].iloc[row]) | (
                those["start"] >= these["stop"].iloc[row]
            )
            assert apart.all()


def test_many_folds_are_merged_and_one_alone_has_no_rival():
    these = table(subjects=50, scans=1, windows=2)
    y = np.arange(100) % 2
    sides = question(these.assign(fold=these["subject"]), y).folds
    assert len(sides) == 20
    assert sorted(np.concatenate([test for _, test in sides])) == [*range(100)]
    for train, test in sides:
        assert not set(these["subject"].iloc[train]) & set(these["subject"].iloc[test])
    assert question(these.assign(fold="all"), y).folds == []


# ---- classes -------------------------------------------------------------------------------


def rivals_of(found):
    return {rival["name"]: rival for rival in found["rivals"]}


def test_a_label_that_follows_the_clock_is_told_by_the_clock_alone(tmp_path):
    rng = np.random.default_rng(0)
    these = table(subjects=8, scans=2, windows=40)
    late = (these["window"] >= 20).to_numpy().astype(int)
    drifting = np.where(rng.random(640) < 0.9, late, 1 - late)
    found = scored(tmp_path, experiment(tmp_path, rng, these, drifting, gain=0.5))
    clock = rivals_of(found)["clock"]
    assert clock["value"] > 0.85
    assert clock["difference"] < 0
    assert any(s.startswith("Clock alone, without the inputs, scores 0.") for s in of_rivals(found))


def test_of_a_label_without_clock_the_clock_tells_nothing(tmp_path):
    rng = np.random.default_rng(1)
    these = table(subjects=8, scans=2, windows=40)
    y = splits.circular_shift(switching(rng, these), these, rng)
    found = scored(tmp_path, experiment(tmp_path, rng, these, y, gain=2))
    clock = rivals_of(found)["clock"]
    assert clock["value"] == pytest.approx(0.5, abs=0.07)
    assert clock["difference_low"] > 0
    assert clock["difference_p"] < 0.01
    assert list(of_rivals(found)) == []


def test_what_the_experiment_has_more_is_paired_by_subject(tmp_path):
    rng = np.random.default_rng(2)
    these = table(subjects=5, scans=2, windows=30)
    found = scored(tmp_path, experiment(tmp_path, rng, these, switching(rng, these)))
    own, clock = found["metrics"][0]["subjects"], rivals_of(found)["clock"]
    more = np.array([own[name] - clock["subjects"][name] for name in own])
    assert clock["difference"] == pytest.approx(more.mean())
    assert clock["value"] == pytest.approx(np.mean([*clock["subjects"].values()]))
    assert clock["difference_low"] < more.mean() < clock["difference_high"]


def of_people(rng, subjects=40, share=0.9):
    """One class a subject, which its site tells in `share` of them."""
    these = table(subjects=subjects, scans=1, windows=3)
    y = np.arange(subjects) % 2
    site = np.where(rng.random(subjects) < share, y, 1 - y)
    return these.assign(site=np.array(["A", "B"])[np.repeat(site, 3)]), np.repeat(y, 3)


def test_a_class_that_the_site_tells_is_told_by_the_confounds(tmp_path):
    rng = np.random.default_rng(3)
    these, y = of_people(rng)
    path = experiment(tmp_path, rng, these, y, gain=0.3)
    found = scored(tmp_path, path, evaluation={"confounds": ["site"]})
    assert [*rivals_of(found)] == ["confounds"]
    rival = rivals_of(found)["confounds"]
    first = these.groupby("subject").first()
    expected = balanced_accuracy_score(y[::3], first["site"] == "B")
    assert rival["value"] == pytest.approx(expected)
    assert rival["low"] < expected < rival["high"]
    assert rival["of"] == ["site"]


def test_a_rival_of_one_fact_is_logistic_regression_of_scikit_learn(tmp_path):
    rng = np.random.default_rng(4)
    these = table(subjects=9, scans=1, windows=20).assign(motion=rng.normal(size=180))
    y = ((these["motion"] + rng.normal(size=180)) > 0.4).to_numpy().astype(int)
    path = experiment(tmp_path, rng, these, y)
    found = rivals_of(scored(tmp_path, path, evaluation={"confounds": ["motion"]}))["confounds"]
    subject, x = these["subject"].to_numpy(), these[["motion"]].to_numpy()
    for name in np.unique(subject):
        model = LogisticRegression(C=1e6, class_weight="balanced")
        model.fit(x[subject != name], y[subject != name])
        own = subject == name
        expected = balanced_accuracy_score(y[own], model.predict(x[own]))
        assert found["subjects"][name] == pytest.approx(expected, abs=0.101)  # a row or two


def test_missing_facts_are_counted_and_said(tmp_path):
    rng = np.random.default_rng(5)
    these = table(subjects=6)
    these["age"] = np.where(these["subject"] == "sub-00", np.nan, 30.0)
    path = experiment(tmp_path, rng, these, switching(rng, these))
    found = scored(tmp_path, path, evaluation={"confounds": ["age"]})
    assert rivals_of(found)["confounds"]["empty"] == {"age": 60}
    assert rivals_of(found)["confounds"]["value"] == pytest.approx(0.5)
    assert [*rivals_of(found)] == ["clock", "confounds", "confounds, clock"]
    assert "60 rows lack age: the rival confounds takes the mean for them." in found["warnings"]


def test_where_scans_are_known_which_scan_it_is_is_a_rival(tmp_path):
    rng = np.random.default_rng(6)
    these = table(subjects=6, scans=2, windows=40)
    second = (these["scan"] == "scan-1").to_numpy().astype(int)
    of_scan = second ^ (pd.factorize(these["subject"])[0] % 2)
    y = np.where(rng.random(480) < 0.9, of_scan, 1 - of_scan)
    path = experiment(tmp_path, rng, these, y)
    rows = store.open(path).load()
    folds = "block-" + (these["window"] // 8).astype(str)
    store.write(path, store.Rows(rows.array, rows.table.assign(fold=folds), rows.header))
    found = rivals_of(scored(tmp_path, path))
    assert found["scan"]["value"] > 0.9
    assert found["clock"]["value"] < 0.7


# ---- numbers ----------------------------------------------------------------------------------


def test_of_numbers_of_subjects_a_rival_is_ridge_regression(tmp_path):
    rng = np.random.default_rng(7)
    study = Study(tmp_path, subjects=20, scans=1, windows=1)
    motion = 0.1 * study.y + rng.normal(size=20)
    study.table = study.table.assign(motion=motion)
    path = study.train()
    these = study.opened(path)[1]
    y = these["y"].to_numpy()
    found = rivals_of(scored(tmp_path, path, task="values", evaluation={"confounds": ["motion"]}))
    assert [*found] == ["confounds"]
    subject = these["subject"].to_numpy()
    _, first = np.unique(subject, return_index=True)
    motion, age = these["motion"].to_numpy()[first, None], y[first]
    fold = these["fold"].to_numpy()[first]
    said = np.empty(len(age))
    for one in np.unique(fold):
        model = LinearRegression().fit(motion[fold != one], age[fold != one])
        said[fold == one] = model.predict(motion[fold == one])
    expected = these["expected"].to_numpy()[first]
    r2 = 1 - ((age - said) ** 2).sum() / ((age - expected) ** 2).sum()
    rival = found["confounds"]
    assert rival["metric"] == "r2"
    assert rival["value"] == pytest.approx(r2, abs=0.02)
    assert rival["low"] < rival["value"] < rival["high"] <= 1


def test_the_rivals_of_an_applied_model_are_none(tmp_path):
    rng = np.random.default_rng(8)
    these = table()
    path = experiment(tmp_path, rng, these, switching(rng, these))
    rows = store.open(path).load()
    store.write(path, store.Rows(rows.array, rows.table.assign(fold="applied"), rows.header))
    assert scored(tmp_path, path)["rivals"] == []
