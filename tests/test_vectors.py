"""Vectors of stimuli from responses, from stores to scores: scikit-learn, SciPy and brute force."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from nsd_study import Study
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

import engram
from engram import store, training
from engram.errors import InputError
from engram.figures import style, vectors, voxel_maps
from engram.figures.plot import plot
from engram.figures.report import report
from engram.heads import ridge
from engram.scores import over_images
from engram.scores import vectors as scores_of_vectors
from engram.scores.evaluation import COLUMNS, evaluate
from engram.scores.settings import Settings
from engram.store import Rows
from engram.tasks import train

SMALL = {
    "people": 2, "planned": 4, "images": 60, "shared_images": 20, "voxels": 50, "size": 16,
    "sessions": ["1", "2", "3", "4"], "snr": 0.5,
}  # fmt: skip
ALPHA = [10.0, 100.0, 1000.0]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Stores of two subjects and of what they saw."""
    this = Study(tmp_path_factory.mktemp("nsd"), **SMALL)
    for unit in ("subj01", "subj02"):
        this.render(unit, "betas")
    for backbone in ("pixels", "corners"):
        this.extract(f"photograph/{backbone}")
    return this


def trained(study, folder, x="betas", y="photograph/pixels", **head):
    """Model, predictions and latents of an experiment; `x` is a source, or several side by side."""
    side_by_side = [x] if isinstance(x, str) else x
    paths = {
        source: sorted({
            str(study.folder / study.plan.store("nsd", unit, source))
            for unit in ("subj01", "subj02")
        })
        for source in (*side_by_side, y)
    }  # fmt: skip
    spec = {
        "task": "vectors",
        "experiment": {},
        "candidates": [side_by_side],
        "head": head.get("head") or {"kind": "ridge", "alpha": ALPHA} | head,
    }
    folder.mkdir(exist_ok=True)
    names = ("model.safetensors", "predictions.h5", "latents.h5")
    made = [folder / name for name in names]
    train({one: paths[one] for one in side_by_side}, {y: paths[y]}, *made, spec, {}, "cpu")
    return made, {y: paths[y]}


@pytest.fixture(scope="module")
def decoded(study, tmp_path_factory):
    return trained(study, tmp_path_factory.mktemp("decoded"), coefficients=True)


def sides(study, subject, y="photograph/pixels"):
    """(x, y of training rows, x, y of test rows, names of the test rows), joined by pandas."""
    betas, features = (
        store.open(study.folder / study.plan.store("nsd", subject, one)).load()
        for one in ("betas", y)
    )
    x = pd.DataFrame(betas.array.astype(float), betas.table["stimulus"])
    f = pd.DataFrame(features.array.reshape(len(features.array), -1), features.table.index)
    train = x.index.str.startswith("train/")
    f = f.loc[x.index].to_numpy(float)
    return x[train].to_numpy(), f[train], x[~train].to_numpy(), f[~train], betas.table.index[~train]


def folds_of(n, folds=5):
    return np.array_split(np.random.default_rng(0).permutation(n), folds)


def left_out(x, y, alpha):
    told = np.empty_like(y)
    for rows in folds_of(len(x)):
        others = np.setdiff1d(np.arange(len(x)), rows)
        told[rows] = Ridge(alpha=alpha).fit(x[others], y[others]).predict(x[rows])
    return told


def close(found, expected):
    assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_predictions_are_those_of_scikit_learn_with_the_best_penalty(study, decoded):
    (model, predictions, _), _ = decoded
    told = store.open(predictions).load()
    assert (told.array.dtype, told.array.shape) == (np.float32, (40 + 4, 2, 12))
    for subject in ("subj01", "subj02"):
        x, y, new, _, names = sides(study, subject)
        r2 = [r2_score(y, left_out(x, y, alpha)) for alpha in ALPHA]
        best = ALPHA[int(np.argmax(r2))]
        assert told.header["chosen"]["alpha"][subject][0] == best
        rows = told.table.index.get_indexer(names)
        close(told.array[rows, 0], Ridge(alpha=best).fit(x, y).predict(new))
        assert_array_equal(told.table["fold"].iloc[rows], subject)
        tensors = safetensors.numpy.load_file(model)
        coefficients, intercept = (
            tensors[f"{subject}/{name}"] for name in ("coefficients", "intercept")
        )
        close(new @ coefficients + intercept, told.array[rows, 0])
        for name, expected in (("mean", y.mean(0)), ("sd", y.std(0))):
            close(told.array[told.table.index.get_loc(f"{subject}/{name}"), 1], expected)


@pytest.mark.parametrize(
    "head", [{"share": 0.6}, {}, {"head": {"kind": "sequential_mlp", "epochs": 1}}]
)
def test_models_that_are_kept_say_what_was_predicted(study, decoded, tmp_path, head):
    """Those of ridge regression by coefficients, which are read block by block."""
    paths = trained(study, tmp_path, **head, coefficients=True)[0] if head else decoded[0]
    told, model = store.open(paths[1]).load(), engram.load_model(paths[0])
    assert model.facts["kept"]["models"] == ["subj01", "subj02"]
    assert not any(name.endswith("coefficients") for name in model.state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ridge, "SUMS", 4 * 50 * 5)
        for subject in ("subj01", "subj02"):
            betas = study.folder / study.plan.store("nsd", subject, "betas")
            table = model.predict(betas)
            test = (told.table["fold"] == subject) & (told.table["statistic"] == "")
            names, expected = told.table.index[test], told.array[test.to_numpy(), 0]
            close(table.loc[names, [*range(12)]].to_numpy(float), expected)
            rows = store.open(betas).load()
            array = rows.array[rows.table.index.get_indexer(names)]
            again = model.predict(array, subject=subject)
            close(again[[*range(12)]].to_numpy(float), expected)


def test_models_of_vectors_that_are_not_kept_or_of_nobody_are_refused(study, decoded, tmp_path):
    (path, _, _), _ = trained(study, tmp_path)
    with pytest.raises(InputError, match="head ridge kept no model for use; set `coefficients"):
        engram.load_model(path)
    model = engram.load_model(decoded[0][0])
    with pytest.raises(InputError, match="has a model a subject, of subj01, subj02; give"):
        model.predict(np.zeros((1, 50), np.float32))
    with pytest.raises(InputError, match=r"is of rows of \d+ numbers, these have 3"):
        model.predict(np.zeros((1, 3), np.float32), subject="subj01")


def test_the_control_is_trained_on_exchanged_images(study, decoded):
    told = store.open(decoded[0][1]).load()
    x, y, new, _, names = sides(study, "subj01")
    own = told.array[told.table.index.get_indexer(names), 1]
    alpha = told.header["chosen"]["alpha"]["subj01"][1]
    # Nobody but the intercept, which no exchange moves, tells the mean of the predictions
    assert np.abs(own - Ridge(alpha=alpha).fit(x, y).predict(new)).max() > 0.01
    weights = np.linalg.lstsq(y - y.mean(0), np.eye(len(y)) - 1 / len(y), rcond=None)[0]
    assert weights.shape == (12, len(y))
    assert_allclose(own.mean(0), y.mean(0), atol=0.05)


def test_latents_have_the_spread_of_training_targets(study, decoded):
    """By predictions of training images that models had not seen, refitted by scikit-learn."""
    told, latents = (store.open(path).load() for path in decoded[0][1:])
    assert latents.header["target"]["kind"] == "pixels"
    for subject in ("subj01", "subj02"):
        x, y, *_, names = sides(study, subject)
        alpha = told.header["chosen"]["alpha"][subject][0]
        known = left_out(x, y, alpha)
        raw = told.array[told.table.index.get_indexer(names), 0]
        expected = (raw - known.mean(0)) / known.std(0) * y.std(0) + y.mean(0)
        close(latents.array[latents.table.index.get_indexer(names)], expected)


def test_latents_scaled_by_the_test_set_are_labelled(study, tmp_path):
    with pytest.raises(InputError, match="needs 50 test rows"):
        trained(study, tmp_path / "few", rescale="test")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr("engram.heads.ridge.FEWEST", 20)
        (_, predictions, latents), _ = trained(study, tmp_path / "a", rescale="test")
    told, latents = store.open(predictions).load(), store.open(latents).load()
    assert told.header["flags"] == latents.header["flags"] == ["test_statistics", "simulated"]
    _, y, *_, names = sides(study, "subj02")
    own = latents.array[latents.table.index.get_indexer(names)]
    close(own.mean(0), y.mean(0))
    close(own.std(0), y.std(0))
    (_, same, raw), _ = trained(study, tmp_path / "b", rescale="none")
    assert_array_equal(store.open(same)[:], told.array)
    assert_array_equal(store.open(raw)[:], told.array[:40, 0])


def test_layers_can_have_penalties_of_their_own(study, tmp_path):
    def layered(rows):
        return Rows(rows.array, rows.table, rows.header | {"latents": [[2, 2], [8]]})

    copy = rewritten(study, tmp_path, "photograph/pixels", layered)
    made, _ = trained(copy, tmp_path / "e", alpha=[1.0, 30.0, 300.0, 3000.0], alpha_for="layer")
    told, latents = (store.open(path).load() for path in made[1:])
    x, y, new, _, names = sides(study, "subj02")
    alphas = told.header["chosen"]["alpha"]["subj02"]
    assert np.shape(alphas) == (2, 2)
    of_target = np.repeat(alphas[0], [4, 8])
    expected = Ridge(alpha=of_target).fit(x, y).predict(new)
    close(told.array[told.table.index.get_indexer(names), 0], expected)
    known = left_out(x, y, of_target)
    expected = (expected - known.mean(0)) / known.std(0) * y.std(0) + y.mean(0)
    close(latents.array[latents.table.index.get_indexer(names)], expected)
    for i, columns in enumerate((slice(4), slice(4, None))):
        r2 = [r2_score(y[:, columns], left_out(x, y[:, columns], a)) for a in (1, 30, 300, 3000)]
        assert alphas[0][i] == (1, 30, 300, 3000)[int(np.argmax(r2))]


def test_the_better_of_two_draws_of_voxels_is_kept_and_labelled(study, tmp_path):
    (model, predictions, _), _ = trained(study, tmp_path, alpha=[100.0], share=0.4)
    told = store.open(predictions).load()
    assert told.header["flags"] == ["random_part", "simulated"]
    x, y, new, _, names = sides(study, "subj01")
    features = safetensors.numpy.load_file(model)["subj01/features"]
    rng = np.random.default_rng(0)
    draws = [np.sort(rng.choice(50, 20, replace=False)) for _ in range(2)]
    fitted = [Ridge(alpha=100.0).fit(x[:, one], y) for one in draws]
    pairs = zip(fitted, draws, strict=True)
    best = int(np.argmax([r2_score(y, model.predict(x[:, one])) for model, one in pairs]))
    assert_array_equal(features, draws[best])
    rows = told.table.index.get_indexer(names)
    close(told.array[rows, 0], fitted[best].predict(new[:, draws[best]]))
    with pytest.raises(InputError, match="share is 0"):
        trained(study, tmp_path, share=0.0)


def test_layers_that_are_left_out_are_their_mean_and_no_latents(study, tmp_path):
    def layered(rows):
        return Rows(rows.array, rows.table, rows.header | {"latents": [[2, 2], [3], [5]]})

    copy = rewritten(study, tmp_path, "photograph/pixels", layered)
    (_, predictions, latents), y_paths = trained(copy, tmp_path / "e", alpha=[100.0], layers=2)
    told, latents = store.open(predictions).load(), store.open(latents).load()
    assert "first_layers" in told.header["flags"]
    x, y, new, _, names = sides(study, "subj02")
    rows = told.table.index.get_indexer(names)
    close(told.array[rows, 0, :7], Ridge(alpha=100.0).fit(x, y[:, :7]).predict(new))
    close(told.array[rows, 0, 7:], np.tile(y[:, 7:].mean(0), (len(new), 1)))
    assert latents.array.shape[1] == 7
    assert latents.header["target"]["latents"] == [[2, 2], [3]]
    assert latents.header["widths"] == {"subj01": 7, "subj02": 7}
    found = scores(tmp_path, predictions, y_paths)
    assert found["layers"][2]["r2"] == pytest.approx(0, abs=1e-5)
    with pytest.raises(InputError, match="layers is 4; the features have 1 to 3"):
        trained(copy, tmp_path / "e", layers=4)


def adam(weights, gradients, moments, step, lr):
    """One step of Kingma & Ba (2015), algorithm 1."""
    for w, g, m in zip(weights, gradients, moments, strict=True):
        m[0] += 0.1 * (g - m[0])
        m[1] += 0.001 * (g**2 - m[1])
        w -= lr * m[0] / (1 - 0.9**step) / (np.sqrt(m[1] / (1 - 0.999**step)) + 1e-8)


def test_patterns_of_regions_lead_to_latents_along_their_direction(study, tmp_path):
    """d = W s by scikit-learn's coefficients, and as far from the mean as a training image."""
    rng = np.random.default_rng(0)
    patterns = {one: (rng.uniform(size=(2, w)) < 0.3) for one, w in (("1", 50), ("2", 47))}

    def patterned(subject):
        def change(rows):
            name = f"subj0{subject}"
            table = pd.DataFrame(
                {"subject": name, "split": "region", "concept": ["V1", "V2"], "stimulus":
                 ["region/V1", "region/V2"], "repetitions": 0, "exclude": "region"},
                index=[f"{name}/region/V1", f"{name}/region/V2"],
            )  # fmt: skip
            array = np.concatenate([rows.array, patterns[subject].astype(np.float32)])
            table = pd.concat([rows.table[[*table.columns]], table])
            return Rows(array, table, rows.header)

        return change

    copy = rewritten(study, tmp_path / "a", "subj01", patterned("1"))
    copy = rewritten(copy, tmp_path / "b", "subj02", patterned("2"))
    (_, predictions, latents), _ = trained(copy, tmp_path / "e", alpha=[100.0])
    plain = trained(study, tmp_path / "plain", alpha=[100.0])[0]
    assert store.open(predictions).header["excluded"] == {}
    assert_array_equal(store.open(predictions)[:], store.open(plain[1])[:])
    latents = store.open(latents).load()
    assert_array_equal(latents.array[:40], store.open(plain[2])[:])
    assert [*latents.table.index[40:]] == [f"subj0{i}/region/V{j}" for i in (1, 2) for j in (1, 2)]
    assert set(latents.table["part"][40:]) == {"behind"}
    for i, subject in enumerate(patterns):
        x, y, *_ = sides(study, f"subj0{subject}")
        known = left_out(x, y, 100.0)
        direction = patterns[subject] @ Ridge(alpha=100.0).fit(x, y).coef_.T / known.std(0)
        direction /= np.sqrt((direction**2).mean(1, keepdims=True))
        expected = y.mean(0) + direction * y.std(0)
        found = latents.array[40 + 2 * i : 42 + 2 * i]
        assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_a_network_sees_one_block_after_the_other(study, tmp_path):
    """Gradients and Adam by hand in NumPy, from the same start and in the same order."""
    options = {"kind": "sequential_mlp", "hidden": 6, "block": 15, "epochs": 2, "batch_size": 4,
               "lr": 0.01}  # fmt: skip
    (model, predictions, latents), _ = trained(study, tmp_path, head=options)
    told, latents = store.open(predictions).load(), store.open(latents).load()
    assert told.header["flags"] == ["block_by_block", "simulated"]
    x, y, new, _, names = sides(study, "subj01")
    scale = [(one.mean(0), one.std(0)) for one in (x, y)]
    z, t = ((one - m) / s for one, (m, s) in zip((x, y), scale, strict=True))
    torch.manual_seed(training.seed(0, "subj01"))
    layers = torch.nn.Linear(50, 6), torch.nn.Linear(6, 12)
    weights = []
    for layer in layers:
        torch.nn.init.xavier_uniform_(layer.weight)
        weights += [layer.weight.detach().numpy().astype(float), np.zeros(len(layer.weight))]
    moments, step = [[np.zeros_like(w), np.zeros_like(w)] for w in weights], 0
    for start in (0, 15, 30):
        for _ in range(2):
            for rows in torch.randperm(len(z[start : start + 15])).split(4):
                a, b = (one[start : start + 15][rows.numpy()] for one in (z, t))
                hidden = np.maximum(a @ weights[0].T + weights[1], 0)
                error = 2 * (hidden @ weights[2].T + weights[3] - b) / b.size
                back = (error @ weights[2]) * (hidden > 0)
                gradients = back.T @ a, back.sum(0), error.T @ hidden, error.sum(0)
                step += 1
                adam(weights, gradients, moments, step, 0.01)

    def by_hand(rows):
        hidden = np.maximum((rows - scale[0][0]) / scale[0][1] @ weights[0].T + weights[1], 0)
        return (hidden @ weights[2].T + weights[3]) * scale[1][1] + scale[1][0]

    expected, known = by_hand(new), by_hand(x)
    rows = told.table.index.get_indexer(names)
    assert_allclose(told.array[rows, 0], expected, atol=1e-4 * np.abs(expected).max())
    moved = (expected - known.mean(0)) / known.std(0) * scale[1][1] + scale[1][0]
    rows = latents.table.index.get_indexer(names)
    assert_allclose(latents.array[rows], moved, atol=1e-3 * np.abs(moved).max())
    tensors = safetensors.numpy.load_file(model)
    for name, expected in (("", scale[0]), ("0/target_", scale[1])):
        for what, values in zip(("mean", "sd"), expected, strict=True):
            assert_allclose(tensors[f"subj01/{name}{what}"], values, rtol=1e-5, atol=1e-5)
    assert {name.rpartition("/")[0] for name in tensors} == {
        f"{subject}{run}" for subject in ("subj01", "subj02") for run in ("", "/0", "/1")
    }
    with pytest.raises(InputError, match="epochs is 0"):
        trained(study, tmp_path, head=options | {"epochs": 0})


def test_voxels_are_predicted_from_features_likewise(study, tmp_path):
    """Subjects have voxels of their own number: rows of the second end with zeros."""
    (_, predictions, _), y = trained(study, tmp_path, "photograph/pixels", "betas")
    told = store.open(predictions).load()
    assert told.header["widths"] == {"subj01": 50, "subj02": 47}
    voxels, features, _, new, names = sides(study, "subj02")
    alpha = told.header["chosen"]["alpha"]["subj02"][0]
    rows = told.table.index.get_indexer(names)
    close(told.array[rows, 0, :47], Ridge(alpha=alpha).fit(features, voxels).predict(new))
    assert not told.array[rows, :, 47:].any()
    scored = scores(tmp_path, predictions, y)
    true = sides(study, "subj02")[2]
    expected = r2_against_training(true, told.array[rows, 0, :47], voxels.mean(0)).mean()
    assert scored["metrics"][0]["subjects"]["subj02"] == pytest.approx(expected, abs=1e-5)
    assert not scored["decodes"]
    assert scored["widths"] == {"subj01": [50, 50], "subj02": [47, 47]}


BANDS = ["photograph/pixels", "photograph/corners"]


def kernels(study, subject):
    """Centred kernels of each source, their mean diagonal 1: training rows, and test with these."""
    found = []
    for source in BANDS:
        voxels, x, _, new, names = sides(study, subject, source)
        x, new = x - x.mean(0), new - x.mean(0)
        length = (x**2).sum(1).mean()
        found.append((x @ x.T / length, new @ x.T / length))
    return *map(np.array, zip(*found, strict=True)), voxels, names


def test_a_penalty_for_each_source_is_ridge_regression_on_weighted_sources(study, tmp_path):
    """In closed form with the weights that himalaya found, for each voxel."""
    head = {"kind": "banded_ridge", "alpha": [0.01, 1.0, 100.0], "search": 4, "folds": 3,
            "precision": "float64"}  # fmt: skip
    (model, predictions, _), y = trained(study, tmp_path, BANDS, "betas", head=head)
    told = store.open(predictions).load()
    known, new, voxels, names = kernels(study, "subj02")
    weights = safetensors.numpy.load_file(model)["subj02/weights"]
    assert weights.shape == (2, 2, 47)
    rows = told.table.index.get_indexer(names)
    for voxel in range(0, 47, 6):
        k, k_new = (np.tensordot(weights[0, :, voxel], one, 1) for one in (known, new))
        dual = np.linalg.solve(k + np.eye(len(k)), voxels[:, voxel] - voxels[:, voxel].mean())
        close(told.array[rows, 0, voxel], voxels[:, voxel].mean() + k_new @ dual)
    chosen = told.header["chosen"]["weights of the sources"]["subj02"][0]
    assert chosen[BANDS[0]] == pytest.approx((weights[0][0] / weights[0].sum(0)).mean())
    assert sum(chosen.values()) == pytest.approx(1)
    assert scores(tmp_path, predictions, y)["sample"]["rows"] == 40


def test_equal_sources_take_the_penalty_that_leaving_out_folds_finds_best(study, tmp_path):
    """By kernel ridge regression of scikit-learn."""
    alphas = [0.01, 0.1, 1.0, 10.0]
    head = {"kind": "banded_ridge", "alpha": alphas, "search": 1, "precision": "float64"}
    (model, *_), _ = trained(study, tmp_path, BANDS, "betas", head=head)
    known, _, voxels, _ = kernels(study, "subj01")
    k, r2 = known.mean(0), np.zeros((len(alphas), voxels.shape[1]))
    for i, alpha in enumerate(alphas):
        for rows in folds_of(len(k)):
            others = np.setdiff1d(np.arange(len(k)), rows)
            # Centred by the rows that are fitted on: I - 11^T / n on either side of the kernel
            mean = k[others].mean(0)
            centred = k - mean[:, None] - mean + k[np.ix_(others, others)].mean()
            y = voxels[others] - voxels[others].mean(0)
            fitted = KernelRidge(alpha=alpha, kernel="precomputed")
            told = fitted.fit(centred[np.ix_(others, others)], y).predict(centred[rows][:, others])
            true = voxels[rows] - voxels[others].mean(0)
            r2[i] += r2_score(true, told, multioutput="raw_values")
    best = np.array(alphas)[r2.argmax(0)]
    found = safetensors.numpy.load_file(model)["subj01/weights"][0]
    assert_allclose(1 / found.sum(0), best, rtol=1e-10)
    assert_allclose(found[0], found[1])


def test_banded_ridge_regression_says_what_it_needs(study, tmp_path, monkeypatch):
    head = {"kind": "banded_ridge"}
    with pytest.raises(InputError, match="search is 0"):
        trained(study, tmp_path, BANDS, "betas", head=head | {"search": 0})
    monkeypatch.setitem(sys.modules, "himalaya.backend", None)
    with pytest.raises(InputError, match="needs the package himalaya, which is not installed"):
        trained(study, tmp_path, BANDS, "betas", head=head)


def test_single_trials_are_rows_and_their_image_is_in_one_fold(study, tmp_path):
    single = Study(study.folder, **SMALL)
    views = single.plan.config["views"]
    views = views | {"trials": {"kind": "betas", "protocol": "nsd40", "average": False,
                                "zscore": "none"}}  # fmt: skip
    single.plan = dataclasses.replace(single.plan, config=single.plan.config | {"views": views})
    for unit in ("subj01", "subj02"):
        single.render(unit, "trials")
    (_, predictions, _), _ = trained(single, tmp_path, "trials", alpha=[1e5])
    told = store.open(predictions).load()
    betas = store.open(single.folder / single.plan.store("nsd", "subj01", "trials")).load()
    features = store.open(single.folder / single.plan.store("nsd", "subj01", "photograph/pixels"))
    at = features.table.index.get_indexer(betas.table["stimulus"])
    y, train_rows = features[:][at], (betas.table["split"] == "train").to_numpy()
    expected = Ridge(alpha=1e5).fit(betas.array[train_rows].astype(float), y[train_rows])
    rows = told.table.index.get_indexer(betas.table.index[~train_rows])
    assert len(rows) == 60
    close(told.array[rows, 0], expected.predict(betas.array[~train_rows].astype(float)))


# ---- scores -------------------------------------------------------------------------------


def scores(folder, predictions, y, baseline=(), **settings):
    spec = {
        "task": "vectors",
        "experiment": "e",
        "baseline": "b" if baseline else None,
        "generalises_to": "new pictures, a known subject",
        "evaluation": {"permutations": 50} | settings,
    }
    evaluate(predictions, list(baseline), y, folder / "scores.json", spec)
    return json.loads((folder / "scores.json").read_text())


def r2_against_training(true, told, mean):
    return 1 - ((true - told) ** 2).sum(0) / ((true - mean) ** 2).sum(0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Predictions of two subjects drawn at random, with constant targets; 40 images."""
    folder, rng = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    images = [f"test/nsd-{i:05d}" for i in range(40)]
    y = rng.normal(size=(40, 30)).astype(np.float32)
    y[:, 7] = 2
    target = {"latents": [[2, 5], [20]]}
    table = pd.DataFrame({"exclude": ""}, index=images)
    store.write(folder / "y.h5", Rows(y, table, {}))
    subjects = ("a", "b")
    told = y + rng.normal(size=(2, 2, 40, 30)).astype(np.float32)  # subject, run
    told[:, 1] = rng.normal(size=(2, 40, 30))
    told[0, 0, :, 3] = 1  # says nothing
    mean, sd = rng.normal(size=(2, 30)), rng.uniform(1, 2, (2, 30))
    behind = np.stack([mean, sd], 1).reshape(4, 1, 30).repeat(2, 1)
    array = np.concatenate([told.transpose(0, 2, 1, 3).reshape(80, 2, 30), behind])
    facts = [{"subject": s, "split": "test", "concept": i, "stimulus": i, "fold": s,
              "statistic": ""} for s in subjects for i in images]  # fmt: skip
    names = [f"{one['subject']}/{one['stimulus']}" for one in facts]
    facts += [{"subject": s, "split": "", "concept": "", "stimulus": "", "fold": s,
               "statistic": k} for s in subjects for k in ("mean", "sd")]  # fmt: skip
    names += [f"{one['subject']}/{one['statistic']}" for one in facts[80:]]
    header = {
        "runs": [{"seed": 0, "shuffled": False}, {"seed": 0, "shuffled": True}],
        "widths": {"a": 30, "b": 30}, "target": target, "attainable": None, "decodes": True,
        "protocol": "nsd40", "zscore": "z", "excluded": {}, "flags": [], "sources": ["betas"],
        "inputs": {}, "targets": ["view/backbone"],
    }  # fmt: skip
    facts = pd.DataFrame(facts, index=names)
    store.write(folder / "p.h5", Rows(array.astype(np.float32), facts, header))
    found = scores(folder, folder / "p.h5", {"view/backbone": [folder / "y.h5"]}, permutations=400)
    used = np.arange(30) != 7
    z = [(v - m)[:, used] / d[used] for v, m, d in zip((y, y), mean, sd, strict=True)]
    p = [[(r - m)[:, used] / d[used] for r in of] for of, m, d in zip(told, mean, sd, strict=True)]
    return found, np.array(z), np.array(p)


def correlated(z, p):
    """Pearson's r of every column; 0 where nothing changes."""
    with np.errstate(invalid="ignore"):
        one, other = (v - v.mean(0) for v in (z, p))
        return np.nan_to_num((one * other).sum(0) / np.sqrt((one**2).sum(0) * (other**2).sum(0)))


def by_brute_force(z, p):
    """Every score of one subject and run."""
    n, similarity = len(z), np.corrcoef(p, z)[: len(z), len(z) :]
    own = similarity.diagonal()[:, None]
    ranks = 1 + (similarity > own).sum(1)
    return {
        "r2": r2_against_training(z, p, 0).mean(),
        "pearson_r": correlated(z, p).mean(),
        "2_way": ((similarity < own).sum(1) / (n - 1)).mean(),
        "top1": (ranks == 1).mean(),
        "top5": (ranks <= 5).mean(),
        "mean_rank": ranks.mean(),
    }


def test_scores_are_those_of_brute_force(drawn):
    found, z, p = drawn
    assert [row["metric"] for row in found["metrics"]] == [*by_brute_force(z[0], p[0][0])]
    for row in found["metrics"]:
        assert set(row) == set(COLUMNS)
        own, control = (
            [by_brute_force(z[s], p[s][r])[row["metric"]] for s in range(2)] for r in range(2)
        )
        assert row["subjects"] == pytest.approx(dict(zip("ab", own, strict=True)), abs=1e-5)
        assert row["value"] == pytest.approx(np.mean(own), abs=1e-5)
        assert row["control"] == pytest.approx(np.mean(control), abs=1e-5)
    assert found["candidates"] == 40
    assert found["widths"] == {"a": [30, 29], "b": [30, 29]}


def test_layers_average_their_own_targets(drawn):
    found, z, p = drawn
    first = [np.mean(r2_against_training(z[s], p[s][0], 0)[:9]) for s in range(2)]
    assert [layer["shape"] for layer in found["layers"]] == [[2, 5], [20]]
    assert found["layers"][0]["r2"] == pytest.approx(np.mean(first), abs=1e-5)
    assert sum(found["distribution"]["counts"]["b"]) == 29


def test_the_null_exchanges_images(drawn):
    """Against exchanging the rows of what is true and scoring again."""
    found, z, p = drawn
    rng = np.random.default_rng(5)
    null = []
    for _ in range(120):
        order = rng.permutation(40)  # alike for both, who saw the same
        told = [by_brute_force(z[s][order], p[s][0]) for s in range(2)]
        null.append({name: np.mean([one[name] for one in told]) for name in told[0]})
    for row in found["metrics"]:
        values = np.array([one[row["metric"]] for one in null])
        less = row["metric"] == "mean_rank"
        better = (values <= row["value"]) if less else (values >= row["value"])
        assert row["p"] == pytest.approx((1 + better.sum()) / 121, abs=0.1)
        if row["metric"] != "r2":  # of which chance is the training mean
            assert row["chance"] == pytest.approx(values.mean(), abs=4 * values.std() / 120**0.5)
            band = np.quantile(values, [0.025, 0.975])
            assert [row["null_low"], row["null_high"]] == pytest.approx(band, abs=values.std())
    assert found["null"] == {"kind": "fixed", "n": 400, "floor": 1 / 401}


def test_subjects_who_respond_alike_are_no_more_evidence_than_one_of_them():
    """Each alone would average away what chance does to all of them together."""
    rng = np.random.default_rng(3)
    told = {"2_way": rng.random((40, 40))}
    one = scores_of_vectors.Measured(
        images=[*range(40)],
        own=np.arange(40),
        influence={"2_way": np.diag(told["2_way"])},
        seeds={"2_way": np.array([0.5])},
        control={"2_way": np.array([])},
        contributions=told,
        r2=np.zeros(1),
        r=np.zeros(1),
        targets=1,
        changing=1,
        column=np.zeros(1, int),
    )
    rules = Settings(permutations=200), lambda *_: 0.5, lambda _: (0, 1)
    (alone,), (four,) = (
        over_images.metrics(dict.fromkeys(of, one), None, *rules) for of in ("a", "abcd")
    )
    for key in ("p", "null_low", "null_high", "chance"):
        assert four[key] == alone[key]


def test_intervals_are_no_narrower_than_those_of_drawing_subjects_and_images_anew(drawn):
    """Scores of drawn images computed again, where the interval uses their influence.

    Drawing two subjects anew says too little of how subjects differ: Student's t of one degree of
    freedom is wider.
    """
    found, z, p = drawn
    rng, again = np.random.default_rng(1), []
    for _ in range(400):
        images, subjects = rng.integers(40, size=40), rng.integers(2, size=2)
        each = []
        for s in subjects:
            true, told = z[s][images], p[s][0][images]
            each.append([r2_against_training(true, told, 0).mean(), correlated(true, told).mean()])
        again.append(np.mean(each, 0))
    for row, values in zip(found["metrics"], np.transpose(again), strict=False):
        spread = row["high"] - row["low"]
        expected = np.subtract(*np.quantile(values, [0.975, 0.025]))
        assert 0.75 < spread / expected < 12.7 / 1.96, row["metric"]
        assert row["low"] < row["value"] < row["high"]


def test_a_gain_is_that_over_the_baseline_on_the_same_images(study, decoded, tmp_path):
    (_, predictions, _), y = decoded
    (_, worse, _), _ = trained(study, tmp_path, alpha=[1e5])
    alone, beside = scores(tmp_path, worse, y), scores(tmp_path, predictions, y, [worse])
    for own, other in zip(beside["metrics"], alone["metrics"], strict=True):
        assert own["baseline"] == pytest.approx(other["value"], abs=1e-6)
        assert own["difference"] == pytest.approx(own["value"] - other["value"], abs=1e-6)
        assert own["difference_low"] <= own["difference"] <= own["difference_high"]


def test_a_simulation_says_what_can_be_reached(decoded, tmp_path):
    (_, predictions, _), y = decoded
    found = scores(tmp_path, predictions, y)
    by_name = {row["metric"]: row["value"] for row in found["metrics"]}
    assert set(found["predicted"]) == {"r2", "2_way"}
    for name, (low, high) in found["predicted"].items():
        assert low <= by_name[name] <= high
    assert found["warnings"] == [
        "Fewer than five subjects: intervals over subjects are wide and rough."
    ]


@pytest.fixture(scope="module")
def encoded(study, tmp_path_factory):
    """Predictions of voxels, and the stores of y and of what is known of the voxels."""
    folder = tmp_path_factory.mktemp("encoded")
    (_, predictions, _), y = trained(
        study, folder, "photograph/pixels", "betas", alpha=[0.01, 0.1, 1.0]
    )
    voxels = [study.render(unit, "voxels").path for unit in ("subj01", "subj02")]
    return predictions, y | {"voxels": voxels}


def test_voxels_are_scored_beside_their_noise_ceilings(study, encoded, tmp_path):
    """NC = ncsnr^2 / (ncsnr^2 + 1 / n) of the averages of n trials (NSD data manual)."""
    predictions, y = encoded
    found, told = scores(tmp_path, predictions, y), store.open(predictions).load()
    by_name = {row["metric"]: row for row in found["metrics"]}
    for path, subject, p in zip(y["voxels"], ("subj01", "subj02"), (50, 47), strict=True):
        known, _, true, _, names = sides(study, subject)
        rows = told.table.index.get_indexer(names)
        r2 = r2_against_training(true, told.array[rows, 0, :p], known.mean(0))
        table = store.open(path).table
        ncsnr = (table["signal"] / table["noise"]).to_numpy()
        ceiling = ncsnr**2 / (ncsnr**2 + 1 / 3)
        assert found["ceilings"][subject] == pytest.approx(ceiling.mean(), rel=1e-5)
        assert_allclose(found["voxels"][subject], r2, atol=6e-4)
        expected = r2.mean() / ceiling.mean()
        assert by_name["r2_of_ceiling"]["subjects"][subject] == pytest.approx(expected, rel=1e-4)
    row = by_name["r2_of_ceiling"]
    # The features are the code of the simulation: what is left is what 40 images do not teach.
    assert 0.3 < row["value"] < 1.1
    assert 0 < row["low"] < row["value"] < row["high"]
    assert (row["chance"], row["p"]) == (0, by_name["r2"]["p"])
    made = vectors.targets_figure(found, y["voxels"])
    titles = [axes.get_title() for part in made.subfigs for axes in part.axes]
    assert titles.count("subj02, from above") == 1
    assert made.subfigs[0].axes[1].get_xlabel() == "noise ceiling of a voxel"
    points = made.subfigs[0].axes[1].collections
    assert [len(one.get_offsets()) for one in points] == [50, 47]
    style.save(made, tmp_path / "voxels.svg")


def test_other_voxels_are_refused(encoded, tmp_path):
    predictions, y = encoded
    paths = y["voxels"]
    with pytest.raises(InputError, match="there are no voxels of subj02"):
        scores(tmp_path, predictions, y | {"voxels": paths[:1]})
    rows = store.open(paths[0]).load()
    for name, header, table, told in (
        ("a", rows.header | {"protocol": "nsd37"}, rows.table, "its protocol is nsd37, and that"),
        ("b", rows.header, rows.table.assign(exclude="constant"), "has 0 voxels, and 50 were"),
    ):
        store.write(tmp_path / f"{name}.h5", Rows(rows.array, table, header))
        with pytest.raises(InputError, match=told):
            scores(tmp_path, predictions, y | {"voxels": [tmp_path / f"{name}.h5", paths[1]]})


# ---- figures and page ---------------------------------------------------------------------


def test_the_page_shows_every_score_of_every_subject(drawn, decoded, tmp_path):
    """With layers and without, in two groups."""
    (_, predictions, _), y = decoded
    figures, made, layered = [], {}, drawn[0]
    (tmp_path / "predictions").mkdir()
    for name, found in (("decoded", scores(tmp_path, predictions, y)), ("layered", layered)):
        made[name] = tmp_path / f"{name}.json"
        made[name].write_text(json.dumps(found))
        paths = {f: tmp_path / f"figures/{name}/{f}.svg" for f in ("subjects", "targets")}
        events = tmp_path / f"figures/{name}/events.out.tfevents.0.engram"
        events.parent.mkdir(parents=True)
        told = store.open(predictions).load()
        named = tmp_path / f"predictions/{name}.h5"
        made_by = {"spec": {"head": {"kind": "ridge"}}, "versions": {}, "device": "cpu"}
        store.write(named, Rows(told.array, told.table, told.header | {"made_by": made_by}))
        plot(made[name], named, [], [], paths | {"events": events}, {"task": "vectors"})
        figures += paths.values()
        assert b"Test/2_way" in events.read_bytes()
    assert "layer, coarsest first" in figures[-1].read_text("utf-8")
    this = {"x": "betas", "y": "photograph/pixels", "head": "ridge", "dataset": "nsd"}
    experiments = {
        name: this | {"dataset_title": "Simulated NSD", "title": name, "y": f"photograph/{name}"}
        for name in made
    }
    stores = [tmp_path / f"predictions/{name}.h5" for name in made]
    spec = {"title": "Vectors", "experiments": experiments}
    report(made.values(), stores, figures, tmp_path / "report.html", spec)
    text = (tmp_path / "report.html").read_text("utf-8")
    for found in (json.loads(path.read_text()) for path in made.values()):
        for row in found["metrics"]:
            for value in (row["value"], *row["subjects"].values()):
                assert f"{value:.3f}".replace("-", "−") in text
    assert "Can photograph/decoded be predicted, for known subjects and new pictures?" in text
    assert "Protocol <code>nsd40</code>: scores of another one do not compare" in text
    assert "1 never change" in text
    assert text.count("predicted 0.") == 1
    assert "simulated data" in text


def test_a_flat_picture_has_the_largest_voxel_along_the_line_of_sight():
    """Against a volume that is filled and reduced."""
    rng, affine = np.random.default_rng(0), np.diag([1.8, 1.8, 1.8, 1])
    affine[:3, 3] = (-20, -30, 5)
    inside = np.zeros((6, 7, 5), bool)
    inside[2:5, 1:6, 1:4] = rng.uniform(size=(3, 5, 3)) < 0.6
    inside[2:4, 1:3, 1:3] = True  # some voxels have neighbours
    at = np.argwhere(inside)
    volume = np.full(inside.shape, np.nan)
    volume[inside] = values = rng.normal(size=len(at))
    values[3] = volume[tuple(at[3])] = np.nan
    places = at @ affine[:3, :3].T + affine[:3, 3]
    low, high = at.min(0), at.max(0) + 1
    cut = volume[tuple(map(slice, low, high))]
    for across, up, along in ((1, 2, 0), (0, 2, 1), (0, 1, 2)):
        picture, extent = voxel_maps.flat(values, places, across, up)
        expected = np.fmax.reduce(cut, axis=along).T
        assert_array_equal(picture, expected)
        ends = [(low[a] - 0.5, high[a] - 0.5) for a in (across, up)]
        mm = [affine[a, a] * end + affine[a, 3] for a, pair in
              zip((across, up), ends, strict=True) for end in pair]  # fmt: skip
        assert_allclose(extent, mm)


# ---- what is refused ----------------------------------------------------------------------


def test_what_does_not_fit_is_refused(study, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="one side has to be responses"):
        trained(study, tmp_path, "photograph/pixels", "photograph/pixels")
    with pytest.raises(InputError, match="must list positive numbers"):
        trained(study, tmp_path, alpha=[0.0])
    with pytest.raises(InputError, match="alpha_for: layer"):
        trained(study, tmp_path, alpha_for="layer")
    with pytest.raises(InputError, match="40 training images, fewer than `folds`"):
        trained(study, tmp_path, folds=41)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="are free; twice the size is needed: make room"):
        trained(study, tmp_path)


def rewritten(study, folder, source, change):
    """A copy of the stores in which one is changed."""
    copy = Study(folder, **SMALL)
    for unit, one in (("subj01", "betas"), ("subj02", "betas"), ("x", "photograph/pixels")):
        name = copy.plan.store("nsd", unit, one)
        rows = store.open(study.folder / name).load()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        changes = (unit if one == "betas" else one) == source
        store.write(folder / name, change(rows) if changes else rows)
    return copy


def test_stores_that_do_not_suit_each_other_are_refused(study, tmp_path):
    def lacks(rows):
        keep = rows.table.index != "test/nsd-00005"
        shared = rows.table.index[rows.table["split"] == "test"][0]
        keep = rows.table.index != shared
        return Rows(rows.array[keep], rows.table[keep], rows.header)

    copy = rewritten(study, tmp_path / "a", "photograph/pixels", lacks)
    with pytest.raises(InputError, match=r"lacks a usable row of test/nsd-.* 2 responses of betas"):
        trained(copy, tmp_path / "a/e")

    def other(rows):
        return Rows(rows.array, rows.table, rows.header | {"protocol": "nsd37"})

    copy = rewritten(study, tmp_path / "b", "subj02", other)
    with pytest.raises(InputError, match="differ in protocol: nsd40 and nsd37"):
        trained(copy, tmp_path / "b/e")

    def untested(rows):
        return Rows(rows.array, rows.table.assign(split="train"), rows.header)

    copy = rewritten(study, tmp_path / "c", "subj02", untested)
    with pytest.raises(InputError, match="subject subj02: no usable row of split 'test'"):
        trained(copy, tmp_path / "c/e")

    def constant(rows):
        return Rows(np.ones_like(rows.array), rows.table, rows.header)

    copy = rewritten(study, tmp_path / "d", "subj01", constant)
    with pytest.raises(InputError, match=r"subj01/betas.h5: none of 50 features changes"):
        trained(copy, tmp_path / "d/e")


@pytest.mark.parametrize(("r2", "said"), [(0.19, True), (0.17, False), (None, False)])
def test_a_control_that_explains_something_is_said(r2, said):
    """Beyond two standard errors of 120 rows, and not because pairs come out on one side."""
    rows = [{"metric": "r2", "control": r2}, {"metric": "2_way", "control": 0.7}]
    sample = {"rows": 120, "subjects": 6}
    found = scores_of_vectors.warnings({"metrics": rows, "sample": sample, "predicted": {}})
    line = "The control, trained on exchanged images, explains 19.0% of the variance: above chance."
    assert found == [line] * said
