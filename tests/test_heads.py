"""Heads against scikit-learn, PyTorch and closed forms."""

import json
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.utils.class_weight import compute_sample_weight
from toy import CLASSES, IMAGES, QUICK, SUBJECTS, features, images, labels, table

from engram import splits, training
from engram.errors import InputError
from engram.heads import _newton, adapter, cnn, forest, linear
from engram.planning.components import constant, defaults, fields, hyperparameters, kinds, options
from engram.training import Run, Task, stacked

#: Heads that learn labels; those that learn pictures are tested in test_pairs.py.
HEADS = [kind for kind in kinds("heads") if "classes" in constant(f"engram.heads.{kind}", "TASKS")]


def task(kind="adapter", seeds=2, how="leave_one_subject_out", **kwargs):
    facts = table(SUBJECTS[:3]) if kind == "finetune" else table()
    y = labels(facts).astype(int)
    x, header = features(facts, y, **kwargs), {"what": "features"}
    if kind in ("cnn", "finetune"):
        x, header = images(y), IMAGES
    shifted = splits.circular_shift(y, facts, np.random.default_rng(0))
    runs = [*(Run(s, False, y) for s in range(seeds)), Run(0, True, shifted)]
    folds = splits.make(facts, y, how, seed=0)
    return Task([x], ["a"], [header], y, CLASSES, facts, folds, runs)


def fit(kind, this, **changes):
    module, chosen = options("heads", QUICK[kind] | changes)
    return module.fit(this, chosen, "cpu")


# ---- every head -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_learns_what_is_there_and_nothing_from_shifted_labels(kind):
    this = task(kind)
    found = fit(kind, this)
    n = len(this.y)
    assert found.outputs.shape == (n, 3, 2)
    assert found.outputs.dtype == np.float32
    np.testing.assert_allclose(found.outputs.sum(2), 1, rtol=1e-5)
    assert found.validation.shape == (len(this.folds), 3)
    assert found.latent.shape[0] == n
    assert found.latent.dtype == np.float32
    stated = json.loads(json.dumps(found.facts))
    assert all(isinstance(values, np.ndarray) for values in found.state.values())
    assert {len(v) for v in (*found.state.values(), *stated.values())} == {len(this.folds)}
    scores = [
        balanced_accuracy_score(run.y, found.outputs[:, r].argmax(1))
        for r, run in enumerate(this.runs)
    ]
    assert min(scores[:2]) > 0.8
    assert abs(scores[2] - 0.5) < 0.2
    assert found.validation[:, :2].mean() > 0.8


@pytest.mark.parametrize("kind", kinds("heads"))
def test_defaults_are_read_without_importing_a_head(kind):
    required = {key: "x" for key, (_, needed) in fields("heads", kind).items() if needed}
    found = asdict(options("heads", {"kind": kind} | required)[1])
    assert defaults("heads", kind) | required == found


def test_hyperparameters_are_what_was_given_and_every_default():
    spec = {"head": {"kind": "forest", "max_depth": 3}, "sources": [["a/b", 2]]}
    assert hyperparameters(spec) == {
        "head": {
            "kind": "forest", "n_estimators": 200, "min_samples_leaf": 3, "max_depth": 3,
            "max_features": None, "class_weights": True, "space": "features", "components": None,
            "without_subject": False,
        },
        "sources": [["a/b", 2]],
    }  # fmt: skip


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_gives_the_same_bits_again_and_leaves_its_input_alone(kind):
    this = task(kind)
    before = this.x[0].copy()
    short = {"adapter": {"epochs": 3}, "cnn": {"epochs": 3}, "finetune": {"epochs": 1}}.get(
        kind, {}
    )
    one, two = fit(kind, this, **short), fit(kind, this, **short)
    assert one.outputs.tobytes() == two.outputs.tobytes()
    assert one.latent.tobytes() == two.latent.tobytes()
    assert all(one.state[k].tobytes() == two.state[k].tobytes() for k in one.state)
    assert this.x[0].tobytes() == before.tobytes()
    if kind != "linear":
        assert (one.outputs[:, 0] != one.outputs[:, 1]).any()


@pytest.mark.parametrize("kind", HEADS)
def test_test_rows_touch_nothing_but_their_own_prediction(kind):
    this = task(kind, seeds=1)
    this = replace(this, folds=this.folds[:1])
    test = this.folds[0].test
    x = this.x[0].copy()
    x[test] = x[test][::-1] * 50
    is_test = np.isin(np.arange(len(this.y)), test)
    runs = [replace(run, y=np.where(is_test, 1 - run.y, run.y)) for run in this.runs]
    one, two = fit(kind, this), fit(kind, replace(this, x=[x], runs=runs))
    for name, values in one.state.items():
        np.testing.assert_array_equal(values, two.state[name])
    np.testing.assert_array_equal(one.validation, two.validation)
    assert one.facts == two.facts
    assert one.curves.equals(two.curves)
    assert (one.outputs[test] != two.outputs[test]).any()


@pytest.mark.parametrize("kind", HEADS)
def test_a_run_whose_training_labels_lack_a_class_predicts_the_other(kind):
    this = task(kind, seeds=1)
    more = {"epochs": 8} if kind == "finetune" else {}
    found = fit(kind, replace(this, runs=[Run(0, True, np.ones_like(this.y))]), **more)
    assert np.isfinite(found.outputs).all()
    assert (found.outputs[:, 0].argmax(1) == 1).mean() > 0.9


@pytest.mark.parametrize("kind", ["adapter", "cnn"])
def test_ninety_windows_are_learnt_by_heart(kind):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 90)
    x = rng.normal(size=(90, 64)).astype(np.float32)
    header = {"what": "features"}
    if kind == "cnn":
        x, header = rng.normal(0, 5, (90, 24, 10)).astype(np.float16), IMAGES
    fold = splits.Fold("all", np.arange(90), np.arange(90), np.arange(90))
    this = Task([x], ["a"], [header], y, CLASSES, table()[:90], [fold], [Run(0, False, y)])
    module, chosen = options(
        "heads", {"kind": kind, "dropout": 0.0, "epochs": 80, "base_lr": 1e-2, "weight_decay": 0.0}
    )
    if kind == "cnn":
        chosen = replace(chosen, pool=[1, 1])
    found = module.fit(this, chosen, "cpu")
    assert found.curves["train_mAC"].iloc[-1] == 1
    assert (found.outputs[:, 0].argmax(1) == y).all()


# ---- linear, forest ---------------------------------------------------------------------


@pytest.mark.parametrize("products", [linear.MOST_PRODUCTS, 0])  # all at once, one by one
@pytest.mark.parametrize(("classes", "weighted"), [(2, True), (3, True), (3, False)])
def test_linear_is_scikit_learn_with_the_best_c_of_the_validation_rows_then_fitted_on_both(
    monkeypatch, classes, weighted, products
):
    monkeypatch.setattr(linear, "MOST_PRODUCTS", products)
    this = task("linear", seeds=1, effect=1.0)
    rng = np.random.default_rng(0)
    y = rng.choice(classes, len(this.y), p=[0.65, 0.35] if classes == 2 else [0.6, 0.25, 0.15])
    x = this.x[0] + np.eye(classes, 6, dtype=np.float32)[y]
    this = replace(this, x=[x], y=y, classes=list("abc"[:classes]), runs=[Run(0, False, y)])
    c = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    found = linear.fit(this, linear.Options(c=c, class_weights=weighted), "cpu")
    rule = "balanced" if weighted else None
    for f, fold in enumerate(this.folds):
        mean, sd = x[fold.train].mean(0), x[fold.train].std(0)
        z = (x - mean) / sd
        models = [
            LogisticRegression(C=value, class_weight=rule, max_iter=1000).fit(
                z[fold.train], y[fold.train]
            )
            for value in c
        ]
        weight = compute_sample_weight(rule, y[fold.train])
        of_class = {k: weight[y[fold.train] == k][0] for k in range(classes)}
        losses = [
            log_loss(
                y[fold.validation], m.predict_proba(z[fold.validation]), labels=range(classes),
                sample_weight=[of_class[k] for k in y[fold.validation]],
            )
            for m in models
        ]  # fmt: skip
        best = int(np.argmin(losses))
        assert found.facts["c"][f][0] == c[best]
        inner = models[best].predict(z[fold.validation])
        score = balanced_accuracy_score(y[fold.validation], inner)
        assert found.validation[f, 0] == pytest.approx(score)
        known = np.union1d(fold.train, fold.validation)
        z = (x - x[known].mean(0)) / x[known].std(0)
        both = LogisticRegression(C=c[best], class_weight=rule, max_iter=1000, tol=1e-9)
        np.testing.assert_allclose(
            found.outputs[fold.test, 0],
            both.fit(z[known].astype(float), y[known]).predict_proba(z[fold.test]),
            atol=1e-5 if products else 1e-3,
        )
    known = np.union1d(this.folds[0].train, this.folds[0].validation)
    z = (x - x[known].mean(0)) / x[known].std(0)
    np.testing.assert_allclose(found.latent, z, rtol=1e-4, atol=1e-5)


def test_as_many_steps_as_max_iter_allows(monkeypatch):
    monkeypatch.setattr(linear, "MOST_PRODUCTS", 0)
    this = task("linear", seeds=1)
    found = linear.fit(this, linear.Options(c=[10.0], max_iter=1), "cpu")
    fold = this.folds[1]
    known = np.union1d(fold.train, fold.validation)
    z = (this.x[0] - this.x[0][known].mean(0)) / this.x[0][known].std(0)
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1)
    model.fit(z[known], this.y[known])
    np.testing.assert_allclose(
        found.outputs[fold.test, 0], model.predict_proba(z[fold.test]), atol=1e-4
    )


@pytest.mark.parametrize("case", ["separable", "a class less", "one class", "hardly any penalty"])
def test_series_that_are_solved_together_are_those_of_scikit_learn(case):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((120, 4))
    y = rng.integers(3, size=(5, 120))
    y[1] = {
        "separable": np.digitize(x[:, 0], [-0.5, 0.5]),
        "a class less": y[1] // 2 * 2,
        "one class": 2,
        "hardly any penalty": y[1],
    }[case]
    c = np.full(5, 1e4 if case == "hardly any penalty" else 1.0)
    weights = np.stack([training.class_weights(one, 3) for one in y])
    weight, bias = _newton.coefficients(x, y, weights, c)
    said = softmax(x @ weight.transpose(0, 2, 1) + bias[:, None], axis=2)
    for one, of_class, strength, found in zip(y, weights, c, said, strict=True):
        expected, present = np.zeros((120, 3)), np.unique(one)
        if len(present) > 1:
            model = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
            model.fit(x, one, sample_weight=of_class[one])
            expected[:, present] = model.predict_proba(x)
        else:
            expected[:, present] = 1
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("c", [[], [1.0, 0.0]])
def test_a_penalty_that_is_not_positive_is_refused(c):
    with pytest.raises(InputError, match="must list positive numbers"):
        linear.fit(task("linear"), linear.Options(c=c), "cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"min_samples_leaf": 2},
        {"max_depth": 2, "max_features": 0.9, "min_samples_leaf": 1},
        {"class_weights": False},
    ],
)
def test_forest_is_scikit_learn(changes):
    this = task("forest", seeds=2, effect=1.0)
    this.y[::7] = 0
    found = forest.fit(this, forest.Options(n_estimators=15, **changes), "cpu")
    keys = {"min_samples_leaf": 3} | changes
    keys["class_weight"] = "balanced" if keys.pop("class_weights", True) else None
    for (f, fold), r in product(enumerate(this.folds), (0, 1)):
        model = RandomForestClassifier(
            15, random_state=training.seed(r, fold.name) % 2**32, **keys
        ).fit(this.x[0][fold.train], this.y[fold.train])
        expected = model.predict_proba(this.x[0][fold.test])
        np.testing.assert_allclose(found.outputs[fold.test, r], expected, rtol=1e-6)
        inner = model.predict(this.x[0][fold.validation])
        assert found.validation[f, r] == pytest.approx(
            balanced_accuracy_score(this.y[fold.validation], inner)
        )
        np.testing.assert_allclose(
            found.state["importance"][f, r], model.feature_importances_, rtol=1e-6
        )
        kept = {name: values[f, r][None] for name, values in found.state.items()}
        said = forest.predict(kept, this.x, this, None, "cpu")[0]
        np.testing.assert_allclose(said, model.predict_proba(this.x[0]), atol=2e-7)


# ---- adapter ----------------------------------------------------------------------------


def several(modalities, regions=None, seeds=1):
    """A task with one source a modality; with `regions` the last has that many."""
    this = task(seeds=seeds)
    x = [features(this.table, this.y, seed=i) for i in range(len(modalities))]
    if regions:
        x[-1] = np.stack([features(this.table, this.y, seed=9 + r) for r in range(regions)], axis=1)
    return replace(
        this,
        x=x,
        sources=list(modalities),
        headers=[{"what": "features", "view": {"modality": m}} for m in modalities],
    )


def test_the_latent_is_the_residual_of_each_source_side_by_side():
    this = several(["eeg", "fmri"], regions=2)
    found = fit("adapter", this, ratio=0.2)
    parts = []
    for s, x in enumerate(this.x):
        train = x[this.folds[0].train]
        z = (x - train.mean(0)) / train.std(0)
        down = found.state[f"adapters.{s}.down.weight"][0, 0]
        up = found.state[f"adapters.{s}.up.weight"][0, 0]
        assert down.shape == (6, 3)
        adapted = np.maximum(np.maximum(z @ down, 0) @ up, 0)
        parts.append((0.2 * adapted + 0.8 * z).reshape(len(x), -1))
    np.testing.assert_allclose(found.latent, np.concatenate(parts, 1), rtol=1e-3, atol=1e-4)
    assert found.latent.shape[1] == 6 + 2 * 6


@pytest.mark.parametrize(("reduction", "width"), [(1, 6), (3, 2), (100, 1)])
def test_the_bottleneck_has_its_share_of_the_features(reduction, width):
    found = fit("adapter", task(seeds=1), reduction=reduction, epochs=1)
    assert found.state["adapters.0.down.weight"].shape == (5, 2, 6, width)


def test_each_fold_is_scaled_by_its_own_training_rows():
    this = task(seeds=1)
    found = fit("adapter", this, epochs=1)
    for f, fold in enumerate(this.folds):
        rows = this.x[0][fold.train]
        np.testing.assert_allclose(found.state["adapters.0.mean"][f, 1], rows.mean(0), atol=1e-5)
        np.testing.assert_allclose(found.state["adapters.0.sd"][f, 1], rows.std(0), rtol=1e-5)


def test_an_option_out_of_range_is_refused_by_every_head_that_has_it():
    for kind in ("adapter", "cnn"):
        with pytest.raises(InputError, match="heads: batch_size is 1"):
            fit(kind, task(kind), batch_size=1)


def test_features_can_be_left_unscaled():
    this = task(seeds=1)
    found = fit("adapter", this, ratio=0.0, standardize=False)
    np.testing.assert_allclose(found.latent, this.x[0], rtol=1e-6)


def test_fmri_is_predicted_from_alone_beside_the_main_prediction():
    this = several(["eeg", "fmri"])
    found = fit("adapter", this, fmri_prediction_weight=0.1)
    assert found.state["auxiliary.weight"].shape == (5, 2, 6, 2)
    curves = found.curves[found.curves["run"] == 0]
    loss = curves.groupby("epoch")["loss_fmri_prediction"].mean()
    assert loss.iloc[-1] < 0.7 * loss.iloc[0] < 0.2
    heavy = fit("adapter", this, fmri_prediction_weight=5.0)
    assert not np.allclose(heavy.state["last.weight"], found.state["last.weight"])
    without = fit("adapter", this, fmri_prediction_weight=0.0)
    assert "loss_fmri_prediction" not in without.curves
    assert not any("auxiliary" in name for name in without.state)


def test_with_fmri_alone_the_weight_scales_the_one_loss():
    this = several(["fmri"])
    found = fit("adapter", this, fmri_prediction_weight=0.1)
    assert not any("auxiliary" in name for name in found.state)
    np.testing.assert_allclose(
        found.curves["loss_fmri_prediction"], 0.1 * found.curves["train_loss"], rtol=1e-6
    )
    scale = [[(np.zeros(6, np.float32), np.ones(6, np.float32))]]
    network = adapter.Network([torch.Generator()], scale, [True], adapter.Options(), 2)
    assert network.weights == {"logits": 0.0, "fmri_prediction": 0.1}
    plain = fit("adapter", this, fmri_prediction_weight=0.0, clip_gradient=0.0)
    scaled = fit("adapter", this, fmri_prediction_weight=0.1, clip_gradient=0.0)
    np.testing.assert_allclose(scaled.outputs, plain.outputs, atol=0.05)
    np.testing.assert_allclose(scaled.curves["lr"], plain.curves["lr"])


def test_without_fmri_the_weight_does_nothing():
    this = several(["eeg"])
    one = fit("adapter", this, fmri_prediction_weight=0.1)
    two = fit("adapter", this, fmri_prediction_weight=0.0)
    assert one.outputs.tobytes() == two.outputs.tobytes()
    assert "loss_fmri_prediction" not in one.curves


def test_start_weights_are_xavier_and_biases_zero():
    generators = [torch.Generator().manual_seed(s) for s in range(2)]
    scales = [[(np.zeros(300, np.float32), np.ones(300, np.float32))]] * 2
    state = adapter.Network(generators, scales, [False], adapter.Options(), 2).state_dict()
    down = state["adapters.0.down.weight"]
    limit = np.sqrt(6 / (300 + 150))
    assert 0.999 * limit < down.abs().max() <= limit
    assert float(down.std()) == pytest.approx(limit / np.sqrt(3), rel=0.01)
    assert not torch.equal(down[0], down[1])
    assert (state["last.bias"] == 0).all()


def test_adapter_refuses_images_and_says_what_to_put_between():
    this = replace(task("cnn"), sources=["spectrogram"], x=[np.zeros((120, 3, 4, 5), np.float32)])
    with pytest.raises(InputError, match=r"spectrogram: .*not features.*spectrogram/<backbone>"):
        adapter.fit(this, adapter.Options(), "cpu")


# ---- cnn --------------------------------------------------------------------------------


def test_images_are_scaled_by_the_limits_of_the_view_and_averaged():
    values = np.random.default_rng(0).normal(0, 8, (3, 8, 6)).astype(np.float16)
    found = cnn._scaled(values, IMAGES, [4, 2])
    scaled = np.clip((values.astype(np.float32) + 10) / 20, 0, 1)
    np.testing.assert_allclose(
        found[:, 0], scaled.reshape(3, 2, 4, 3, 2).mean((2, 4)), rtol=1e-5, atol=1e-6
    )
    rest = cnn._scaled(values, IMAGES, [5, 4])[:, 0, 1, 1]  # of 3 x 2 pixels that are left
    np.testing.assert_allclose(rest, scaled[:, 5:, 4:].mean((1, 2)), rtol=1e-5)
    regions = np.stack([values, values], axis=1)
    assert cnn._scaled(regions, IMAGES, [1, 1]).shape == (3, 2, 8, 6)
    picture = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)
    found = cnn._scaled(picture, {"what": "picture"}, [1, 1])
    np.testing.assert_allclose(found, np.moveaxis(picture, -1, 1) / 255.0, rtol=1e-6)
    regions = cnn._scaled(np.stack([picture, 255 - picture], 1), {"what": "picture"}, [1, 1])
    np.testing.assert_allclose(regions, np.concatenate([found, 1 - found], 1), rtol=1e-5, atol=1e-6)


def test_the_cnn_takes_images_of_any_small_size_and_two_sources_as_channels():
    this = task("cnn", seeds=1)
    both = replace(
        this, x=[this.x[0][:, :5, :3]] * 2, sources=["a", "b"], headers=[IMAGES] * 2,
        folds=this.folds[:1],
    )  # fmt: skip
    found = fit("cnn", both, channels=[4, 4, 4], epochs=1)
    assert found.state["blocks.0.kernel"].shape == (1, 2, 4, 2, 3, 3)
    with pytest.raises(InputError, match="a and b: images differ in size"):
        fit("cnn", replace(both, x=[this.x[0], this.x[0][:, :5]]))


def test_the_cnn_tells_the_same_band_at_two_frequencies_apart():
    generator = torch.Generator().manual_seed(0)
    network = cnn.Network(generator, (1, 64), cnn.Options(channels=[4, 8]), 2).eval()
    images = torch.zeros(2, 1, 64, 8)
    images[0, 0, 24:28], images[1, 0, 40:44] = 1, 1
    one, two = network.latent([images[None]])[0].detach()
    assert float((one - two).abs().max()) > 0.01
    torch.testing.assert_close(one.view(8, 16).sum(1), two.view(8, 16).sum(1))


def test_the_latent_of_the_cnn_is_the_mean_over_time_of_its_last_block():
    this = task("cnn", seeds=1)
    found = fit("cnn", this, pool=[3, 1], epochs=2)
    x = torch.as_tensor(this.x[0].astype(np.float32)).sub(-10).div(20).clamp(0, 1)[:, None]
    x = torch.nn.functional.avg_pool2d(x, (3, 1))
    state = {name: torch.as_tensor(values[0, 0]) for name, values in found.state.items()}
    for block in ("blocks.0", "blocks.1"):
        x = torch.nn.functional.conv2d(x, state[f"{block}.kernel"], padding=1)
        x = torch.nn.functional.batch_norm(
            x, *(state[f"{block}.norm.{key}"] for key in ("mean", "variance", "weight", "bias"))
        )
        x = torch.relu(torch.nn.functional.max_pool2d(x, 2, ceil_mode=True))
    np.testing.assert_allclose(found.latent, x.mean(-1).flatten(1), rtol=1e-3, atol=1e-4)


def test_the_cnn_refuses_features():
    with pytest.raises(InputError, match="a: holds 'features', no images"):
        cnn.fit(task(), cnn.Options(), "cpu")


def test_a_batch_norm_of_one_model_is_that_of_pytorch():
    block = cnn.Block(torch.Generator().manual_seed(0), 2, 3)
    plain = torch.nn.BatchNorm2d(3)
    x = torch.randn(1, 5, 2, 6, 7, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.conv2d(x[0], block.kernel[0], padding=1)
    expected = torch.nn.functional.max_pool2d(torch.relu(plain(expected)), 2, ceil_mode=True)
    torch.testing.assert_close(block(x)[0], expected)
    torch.testing.assert_close(block.norm.variance[0], plain.running_var)


@pytest.mark.parametrize("threads", [1, 2])
def test_folds_and_runs_share_as_few_stacks_as_there_are_threads(monkeypatch, threads):
    seen, train, before = [], stacked._train, torch.get_num_threads()

    def spy(network, group, *rest):
        seen.append((len(group), torch.get_num_threads()))
        return train(network, group, *rest)

    monkeypatch.setattr(stacked, "_train", spy)
    try:
        torch.set_num_threads(threads)
        fit("adapter", task(), epochs=1)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert sorted(seen) == {1: [(15, 1)], 2: [(7, 1), (8, 1)]}[threads]


def test_the_number_of_threads_changes_nothing():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(fit("cnn", task("cnn"), epochs=2))
    finally:
        torch.set_num_threads(before)
    assert found[0].outputs.tobytes() == found[1].outputs.tobytes()
    assert found[0].curves.equals(found[1].curves)
