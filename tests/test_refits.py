"""p against chance from training again on moved labels: through the stages, by brute force."""

import json

import numpy as np
import pytest
from numbering import Study as Numbers
from scipy.stats import rankdata
from scoring import table
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from test_train import Study
from toy import features

from engram import store
from engram.errors import InputError
from engram.measures.inference import arrangements
from engram.scores.evaluation import evaluate
from engram.tasks import train

SERIES = 19


def trained(study, experiment, head, candidates=None, task="classes", name="one"):
    """Paths of the predictions and of the null of one experiment."""
    if isinstance(study, Study):
        x = study.write()
        y = {"state": x.pop("state")}
    else:
        x, y = study.write()
    made = [study.folder / f"{part}/{name}.h5" for part in ("model", "predictions", "latents")]
    null = study.folder / f"nulls/{name}.h5"
    spec = {
        "task": task,
        "experiment": {"seeds": 1, **experiment},
        "candidates": candidates or [list(x)],
        "head": head if "kind" in head else {"kind": "linear", "refits": SERIES} | head,
    }
    train(x, y, *made, spec, {"inputs": {}}, "cpu", null=null)
    return made[1], null


def scored(study, made, task="classes"):
    spec = {
        "task": task, "experiment": "one", "baseline": None, "generalises_to": "new subjects",
        "evaluation": {"permutations": 200, "probes": False},
    }  # fmt: skip
    evaluate(made[0], [], {}, study.folder / "scores.json", spec, null=made[1])
    return json.loads((study.folder / "scores.json").read_text())


def standard(x, rows):
    return (x - x[rows].mean(0)) / x[rows].std(0)


@pytest.fixture
def study(tmp_path):
    """Classes with a weak effect: the null is not far below the score."""
    study = Study(tmp_path)
    source = study.sources[0]
    study.x[source] = features(study.table, study.y, effect=0.3)
    return study


def test_every_series_is_trained_and_scored_as_the_labels_are(study):
    made = trained(study, {}, {"c": [0.1]})
    predictions, null = (store.open(path).load() for path in made)
    table, x = study.table, study.x[study.sources[0]].astype(float)
    subject = table["subject"].to_numpy(str)
    order = table.index.get_indexer(predictions.table.index)
    moved = np.empty((SERIES, len(x)), int)
    moved[:, order] = null.array[..., -1].T
    scores = []
    for s, y in enumerate([*moved, study.y]):
        said = np.empty(len(x))
        for fold in np.unique(subject):
            known, test = subject != fold, subject == fold
            z = standard(x, known)
            model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-9)
            said[test] = model.fit(z[known], y[known]).predict_proba(z[test])[:, 1]
        found = (null.array[:, s] if s < SERIES else predictions.array[:, 0])[:, 1]
        np.testing.assert_allclose(found, said[order], atol=1e-5)
        own = [subject == name for name in np.unique(subject)]
        scores.append([
            np.mean([balanced_accuracy_score(y[at], said[at] > 0.5) for at in own]),
            np.mean([roc_auc_score(y[at], said[at]) for at in own]),
        ])  # fmt: skip
    (*series, truth), result = np.array(scores), scored(study, made)
    for row, values, value in zip(result["metrics"][:2], np.transpose(series), truth, strict=True):
        assert row["value"] == pytest.approx(value)
        assert row["p"] == (1 + (values >= value - 1e-9).sum()) / (1 + SERIES)
        assert row["chance"] == pytest.approx(values.mean())
        band = np.quantile(values, [0.025, 0.975])
        assert [row["null_low"], row["null_high"]] == pytest.approx(list(band))
    ties = (moved == study.y).all(1).sum()
    assert result["null"] == {"kind": "refitted", "n": SERIES, "floor": (1 + ties) / (1 + SERIES)}


def test_moved_labels_keep_the_series_of_every_scan(study):
    made = trained(study, {}, {})
    null = store.open(made[1]).load()
    order = study.table.index.get_indexer(null.table.index)
    subject = study.table["subject"].to_numpy(str)[order]
    for name in np.unique(subject):
        own = study.y[order][subject == name].tolist()
        turned = [own[shift:] + own[:shift] for shift in range(len(own))]
        for series in null.array[subject == name, :, -1].T.astype(int).tolist():
            assert series in turned


def test_the_penalty_and_the_input_are_chosen_for_each_series(tmp_path):
    """As if each series were the labels of an experiment of its own."""
    study = Study(tmp_path, sources=("spectrogram/clip", "spectrogram/other"))
    for i, source in enumerate(study.sources):
        study.x[source] = features(study.table, study.y, effect=0.3, seed=i)
    candidates, head = [[source] for source in study.sources], {"c": [0.001, 0.1, 10.0]}
    null = store.open(trained(study, {}, head, candidates)[1]).load()
    order, inputs = study.table.index.get_indexer(null.table.index), set()
    for s in range(4):
        study.y = np.empty_like(study.y)
        study.y[order] = null.array[:, s, -1]
        path, _ = trained(study, {}, head | {"refits": 0}, candidates, name=f"own-{s}")
        own = store.open(path).load()
        np.testing.assert_allclose(null.array[:, s, :-1], own.array[:, 0], atol=1e-5)
        inputs |= {source for (source,) in own.header["chosen"]["x"].values()}
    assert inputs == set(study.sources)


def test_numbers_are_trained_again_by_ridge_regression(tmp_path):
    study = Numbers(tmp_path, noise=3.0)
    experiment = {"folds": "leave_one_subject_out"}
    made = trained(study, experiment, {"alpha": [10.0]}, task="values")
    null = store.open(made[1]).load()
    subject = study.table["subject"].to_numpy(str)
    order = study.table.index.get_indexer(null.table.index)
    people, found = np.unique(subject), []
    first = np.array([np.flatnonzero(subject == name)[0] for name in people])
    for s in range(SERIES):
        y = np.empty(len(subject))
        y[order] = null.array[:, s, 2]
        said, expected = np.empty(len(y)), np.empty(len(y))
        for fold in people:
            known, test = subject != fold, subject == fold
            z = standard(study.x.astype(float), known)
            said[test] = Ridge(10.0).fit(z[known], y[known]).predict(z[test])
            expected[test] = y[known].mean()
        np.testing.assert_allclose(null.array[:, s, 0], said[order], rtol=1e-6)
        means = np.array([said[subject == name].mean() for name in people])
        found.append(
            1 - ((y[first] - means) ** 2).sum() / ((y[first] - expected[first]) ** 2).sum()
        )
    result = scored(study, made, "values")
    row = next(row for row in result["metrics"] if row["metric"] == "r2")
    assert row["p"] == (1 + (np.array(found) >= row["value"]).sum()) / (1 + SERIES)
    assert row["chance"] == pytest.approx(np.mean(found))
    assert result["null"]["kind"] == "refitted"


def kept(study, made, of, folds):
    """How many subjects of each stratum every fold tests, in each series of the null."""
    null = store.open(made[1]).load()
    first = null.table.reset_index().drop_duplicates("subject").index.to_numpy()
    fold = null.table["fold"].to_numpy(str)[first]
    assert len(np.unique(fold)) == folds
    return [
        [np.bincount(of(y)[fold == name], minlength=2).tolist() for name in np.unique(fold)]
        for y in null.array[first, :, -1].T
    ]


def test_a_class_of_the_subject_moves_as_its_folds_were_dealt_out(tmp_path):
    """Under free exchanges folds are not balanced and train worse: p was too small, see below."""
    study, n = Numbers(tmp_path, subjects=12), 6
    study.header = {"what": "labels", "classes": ["old", "young"]}
    study.y = study.table["subject"].factorize(sort=True)[0] % 2
    made = trained(study, {"folds": {"kind": "group_kfold", "n": n}}, {"c": [0.1]})
    found = kept(study, made, lambda y: y.astype(int), n)
    assert found == [[[1, 1]] * n] * SERIES
    series = store.open(made[1]).load().array[..., -1].T
    assert len(np.unique(series, axis=0)) > 4
    alone = trained(study, {"folds": "leave_one_subject_out"}, {"c": [0.1]}, name="alone")
    assert len(np.unique(store.open(alone[1]).load().array[..., -1].T, axis=0)) == SERIES


def test_numbers_of_subjects_move_as_their_folds_were_dealt_out(tmp_path):
    study = Numbers(tmp_path, subjects=10)
    half = np.median(study.y)
    folds = {"folds": {"kind": "group_kfold", "n": 2}}
    made = trained(study, folds, {"alpha": [10.0]}, task="values")
    found = kept(study, made, lambda y: (y > half).astype(int), 2)
    assert found == [found[0]] * SERIES
    series = store.open(made[1]).load().array[..., -1]
    moved = [len(set(own)) for own in series[:: len(series) // 10]]
    assert max(moved) > 5  # numbers of both folds


@pytest.mark.parametrize("dealt", [False, True])
def test_p_is_that_of_the_whole_procedure_where_folds_are_made_of_the_labels(dealt):
    """Ridge regression of features of nothing on the class of 20 subjects in 5 balanced groups."""
    rng, n, p = np.random.default_rng(0), 20, []
    facts = table(subjects=n, scans=1, windows=1)
    for _ in range(250):
        y, fold = rng.permutation(np.arange(n) % 2), np.empty(n, int)
        fold[np.argsort(y, kind="stable")] = np.arange(n) % 5
        series = arrangements(y, facts, 59, rng, (y, fold) if dealt else ())
        every, x = np.vstack([y, series]).astype(float), rng.standard_normal((n, 5))
        said = np.empty((len(every), n))
        for test in (fold == f for f in range(5)):
            model = Ridge(10.0).fit(x[~test], every[:, ~test].T)
            said[:, test] = model.predict(x[test]).T
        scores = (rankdata(said, axis=1) * every).sum(1)  # as the area under the curve
        p.append((1 + np.sum(scores[1:] >= scores[0])) / 60)
    rejected = np.mean(np.array(p) <= 0.05)
    assert rejected <= 0.06 if dealt else rejected >= 0.07


@pytest.mark.parametrize("why", ["no series asked for", "too many features", "another head"])
def test_predictions_stay_fixed_where_training_again_costs_too_much(study, monkeypatch, why):
    head = {
        "no series asked for": {"refits": 0},
        "too many features": {},
        "another head": {"kind": "forest", "n_estimators": 5},
    }[why]
    if why == "too many features":
        monkeypatch.setattr("engram.heads.linear.MOST_PRODUCTS", 1000)
    made = trained(study, {}, head)
    assert len(store.open(made[1])) == 0
    result = scored(study, made)
    assert (result["null"]["kind"], result["null"]["n"]) == ("fixed", 200)
    rows = store.open(made[0]).load()
    labels = arrangements(rows.table["y"].to_numpy(), rows.table, 200, np.random.default_rng(0))
    ties = (labels == rows.table["y"].to_numpy()).all(1).sum()
    assert result["null"]["floor"] == pytest.approx((1 + ties) / 201)


def test_a_null_of_other_rows_is_refused(study):
    predictions, null = trained(study, {}, {})
    rows = store.open(null).load()
    rows.table.index = rows.table.index[::-1]
    store.write(null, rows)
    with pytest.raises(InputError, match=r"nulls/one\.h5: of other rows than the predictions"):
        scored(study, (predictions, null))


@pytest.mark.parametrize("leaks", [True, False])
def test_a_control_as_high_as_the_score_is_said(study, leaks):
    """Where moved labels are told as well as the true ones, p does not speak of the labels."""
    study.x[study.sources[0]] = features(study.table, study.y, effect=2.0)
    predictions, null = trained(study, {}, {"refits": 0})
    rows = store.open(predictions).load()
    if leaks:  # the control is right where the model of the true labels is
        right = np.take_along_axis(rows.array[:, 0], rows.table[["y"]].to_numpy(int), 1)
        moved = rows.table["y_shuffled"].to_numpy()[:, None] == np.arange(2)
        rows.array[:, 1] = np.where(moved, right, 1 - right)
        store.write(predictions, rows)
    result = scored(study, (predictions, null))
    first = result["metrics"][0]
    assert first["p"] <= 0.05
    assert ("control" in result["flags"]) == leaks
    said = [line for line in result["warnings"] if "paired by subject the difference" in line]
    assert len(said) == leaks
    if leaks:
        assert first["control"] == pytest.approx(first["value"])
        assert (
            f"scores {first['value']:.2f}, the labels as they are {first['value']:.2f}" in said[0]
        )
    else:
        assert result["over_control"]["low"] > 0
