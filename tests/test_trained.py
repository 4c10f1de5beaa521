"""A trained head put to use: what is kept, read again, and said of other rows."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from test_heads import fit, task
from test_train import Study
from toy import IMAGES, QUICK, SUBJECTS, images

import engram
from engram import store
from engram.errors import InputError
from engram.measures import unlike
from engram.planning.components import options
from engram.splits import Fold
from engram.tasks import classes
from engram.tasks.refit import agreed, refit
from engram.training import Fit, Run

#: What makes the heads quicker still.
SHORT = {"linear": {}, "adapter": {"epochs": 5}, "cnn": {"epochs": 2}, "forest": {},
         "probe": {"epochs": 4}, "finetune": {"epochs": 1, "keep_backbone": True}}  # fmt: skip
PICTURES = ("cnn", "finetune")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def trained(study):
    path, predictions, _ = study.train()
    return engram.load_model(path), predictions


def stores(study):
    return sorted((study.folder / "features").rglob("*.h5"))


def test_the_kept_model_is_fitted_on_all_subjects_with_the_median_choice(study, trained):
    """Against scikit-learn on all rows, standardised by all rows."""
    model, predictions = trained
    chosen = predictions.header["chosen"]["c"]
    of_seeds = sorted(c for of_runs in chosen.values() for c in of_runs[:2])
    c = of_seeds[(len(of_seeds) - 1) // 2]
    assert model.facts["kept"]["chosen"] == {"c": c}
    rows = store.load(stores(study))
    x = rows.array.astype(np.float64)
    z = (x - x.mean(0)) / x.std(0)
    y = study.y[study.table.index.get_indexer(rows.table.index)]
    reference = LogisticRegression(C=c, class_weight="balanced", max_iter=1000, tol=1e-9)
    reference.fit(z, y)
    table = model.predict(stores(study))
    assert list(table.index) == list(rows.table.index)
    expected = reference.predict_proba(z)[:, 1]
    np.testing.assert_allclose(table["p_alert"], expected, atol=1e-4)
    np.testing.assert_array_equal(
        table["class"], np.where(table["p_alert"] > 0.5, "alert", "drowsy")
    )


@pytest.mark.parametrize("head", [*SHORT])
def test_models_of_the_folds_say_what_was_predicted(tmp_path, monkeypatch, head):
    monkeypatch.setitem(QUICK, head, QUICK[head] | SHORT[head])
    study = Study(tmp_path)
    if head in PICTURES:
        study.x["spectrogram/clip"], study.headers["spectrogram/clip"] = images(study.y), IMAGES
    folds = {"kind": "group_kfold", "n": 2}
    path, predictions, _ = study.train(head=head, folds=folds, seeds=1)
    model = engram.load_model(path)
    rows = store.load(stores(study))
    x = rows.array[rows.table.index.get_indexer(predictions.table.index)]
    kept, of_folds = model.outputs([x])
    assert kept.shape == (1, 120, 2)
    of_folds = of_folds.reshape(2, 1, *of_folds.shape[1:])
    for f, name in enumerate(model.facts["folds"]):
        own = (predictions.table["fold"] == name).to_numpy()
        np.testing.assert_allclose(of_folds[f][:, own].swapaxes(0, 1), predictions.array[own, :1],
                                   atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("head", ["linear", "forest", "probe", "finetune"])
def test_numbers_are_predicted_as_they_were_in_the_folds(head):
    this = task(head, seeds=1)
    y = this.y * 20.0 + 40
    this = replace(this, y=y, classes=[], runs=[Run(0, False, y)], folds=this.folds[:2])
    module, asked = options("heads", QUICK[head] | SHORT[head])
    found = module.fit(this, asked, "cpu")
    for f, fold in enumerate(this.folds):
        one = {name: values[f] for name, values in found.state.items()}
        said = module.predict(one, [this.x[0][fold.test]], this, asked, "cpu")
        at = np.searchsorted(this.tested, fold.test)
        np.testing.assert_allclose(said[0], found.outputs[at, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("head", "chosen"), [("adapter", 5), ("cnn", 2), ("probe", 0.1), ("finetune", 0)]
)
def test_a_choice_made_before_gives_the_weights_that_validation_would_have_kept(head, chosen):
    """A fifth of the rows that validate has other labels: an epoch before the last is chosen."""
    this, none = task(head, seeds=1), np.zeros(0, int)
    every = np.arange(len(this.y))
    train, validation = every[every % 4 > 0], every[::4]
    y = this.y.copy()
    y[validation[::5]] ^= 1
    this = replace(this, runs=[Run(0, False, y)])
    more = {"keep_backbone": True, "epochs": 2} if head == "finetune" else {}
    validated = fit(head, replace(this, folds=[Fold("all", train, validation, none)]), **more)
    (name,) = validated.facts
    assert validated.facts == {name: [[chosen]]}
    kept = replace(this, folds=[Fold("all", train, none, none)], chosen={name: chosen})
    again = fit(head, kept, **more | ({"keep_backbone": False} if more else {}))
    assert np.isnan(again.validation).all()
    assert again.facts == validated.facts
    assert again.state.keys() == validated.state.keys()
    for key, values in again.state.items():
        np.testing.assert_array_equal(values, validated.state[key], key)


def chosen_of(validation, c, chosen_by="c"):
    """A hand-made Fit of two folds under two seeds and the control."""
    none = np.zeros(0, np.float32)
    return Fit(none, np.array(validation), {}, none, facts={chosen_by: c})


def test_choices_are_the_median_of_seeds_and_the_input_is_the_one_that_validates_best():
    """By hand: the control has no say, of two in the middle the lower is taken."""
    this = task("linear", seeds=2)
    this = replace(this, x=[this.x[0], -this.x[0]], sources=["a", "b"], headers=this.headers * 2)
    worse = chosen_of([[0.7, 0.7, 1.0], [0.7, 0.7, 1.0]], [[9.0, 9.0, 9.0]] * 2)
    better = chosen_of([[0.6, 0.9, 0.0], [0.6, 0.9, 0.0]], [[0.1, 10.0, 1e6], [1.0, 0.1, 1e6]])
    module, asked = options("heads", QUICK["linear"])
    state, facts = refit(module, asked, classes, this, [worse, better], [["a"], ["a", "b"]], "cpu")
    assert facts["candidate"] == 1
    assert facts["sources"] == ["a", "b"]
    assert facts["chosen"] == {"c": 0.1}
    assert state["kept/weight"].shape == (1, 2, 2, 12)  # models, seeds, classes, features
    assert facts["rows"] == len(this.y)
    assert facts["rows_of_classes"] == {"drowsy": 60, "alert": 60}
    assert facts["subjects"] == SUBJECTS
    np.testing.assert_allclose(state["familiar/b/mean"], -state["familiar/a/mean"], atol=1e-6)


def test_a_choice_without_order_is_the_most_frequent():
    assert agreed([[1, 2], [3], [1, 2]]) == [1, 2]
    assert agreed(["x", "y", "y"]) == "y"
    assert agreed([4, 1, 3, 2]) == 2


def test_rows_of_another_shape_or_statement_are_refused(study, trained):
    model, _ = trained
    with pytest.raises(InputError, match=r"shape \(3,\), but one was fitted on \(\d+,\)"):
        model.predict(np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match="is no model that Engram wrote"):
        engram.load_model(stores(study)[0])
    with pytest.raises(InputError, match="no such file"):
        engram.load_model(study.folder / "nowhere")


def test_rows_that_were_fitted_are_not_unlike_however_few():
    """Of rows in many dimensions, whose components are noise that no other row has."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((80, 800))
    known = unlike.reference(rows, np.repeat(["a", "b"], 40))
    assert (unlike.distance(known, rows) > 1).mean() < 0.03
    assert (unlike.distance(known, rng.standard_normal((200, 800))) > 1).mean() < 0.03
    assert (unlike.distance(known, 2 * rows) > 1).all()


def test_unlike_rows_are_told_from_new_rows_of_the_same_kind():
    """Of new subjects of the same population about one row in a hundred is above 1."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((10, 40))
    draw = lambda n: rng.standard_normal((n, 10)) @ mixing + 0.3 * rng.standard_normal((n, 40))  # noqa: E731
    known = unlike.reference(draw(2000), np.repeat(np.arange(20), 100))
    assert 0.002 < (unlike.distance(known, draw(4000)) > 1).mean() < 0.03
    scaled, off = 5 * draw(100), draw(100) + 10 * rng.standard_normal((100, 40))
    assert (unlike.distance(known, scaled) > 1).mean() > 0.9
    assert (unlike.distance(known, off) > 1).all()
