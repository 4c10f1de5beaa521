"""The simulated files against the published layout and closed forms, and what they tell."""

import json

import h5py
import nibabel
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import loadmat
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.metrics import r2_score

from engram.backbones import pixels
from engram.datasets import simulated_nsd as simulated
from engram.errors import InputError

ONE = {"people": 1, "planned": 4, "images": 40, "shared_images": 10, "voxels": 60, "size": 16}
SMALL = simulated.Options(**ONE)


def made(folder, name, unit="subj01", options=SMALL):
    path = folder / name
    simulated.make(path, {"file": name, "unit": unit}, options)
    return path


NAMES = (
    "nsd_expdesign.mat", "nsd_stimuli.hdf5", "nsd_stim_info_merged.csv", "nsdgeneral.nii.gz",
    "captions_val2017.json", "COCO_73k_annots_curated.npy", "prf-eccrois.nii.gz",
    "betas_session2.hdf5", "betas_session02.nii.gz",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(tmp_path, name):
    first = made(tmp_path, name).read_bytes()
    simulated._pictures.cache_clear()
    simulated._code.cache_clear()
    two = simulated.Options(**ONE | {"people": 2})
    made(tmp_path, name, "subj02", two)
    assert made(tmp_path, name).read_bytes() == first
    other = made(tmp_path, name, options=simulated.Options(**ONE, seed=1)).read_bytes()
    assert other != first
    assert made(tmp_path, "nsdgeneral.nii.gz", "subj02", two).read_bytes() != first


def test_the_files_are_laid_out_as_published(tmp_path):
    design = loadmat(made(tmp_path, "nsd_expdesign.mat"))
    shapes = {"masterordering": (1, 120), "subjectim": (1, 40), "sharedix": (1, 10)}
    assert {name: design[name].shape for name in shapes} == shapes
    assert (design["masterordering"].min(), design["masterordering"].max()) == (1, 40)
    assert sorted(design["subjectim"][0]) == list(range(1, 41))
    general = nibabel.load(made(tmp_path, "nsdgeneral.nii.gz"))
    assert general.get_data_dtype() == np.int16
    assert set(np.unique(general.get_fdata())) == {-1, 0, 1}
    assert (general.get_fdata() == 1).sum() == 60
    nifti = nibabel.load(made(tmp_path, "betas_session03.nii.gz"))
    assert (nifti.shape, nifti.get_data_dtype()) == ((10, 11, 9, 30), np.int16)
    assert_allclose(nifti.affine, general.affine)
    with h5py.File(made(tmp_path, "betas_session3.hdf5")) as file:
        assert file["betas"].chunks == (30, 1, 1, 1)
        assert_array_equal(file["betas"][:].T, np.asanyarray(nifti.dataobj))
    with h5py.File(made(tmp_path, "nsd_stimuli.hdf5")) as file:
        assert (file["imgBrick"].shape, file["imgBrick"].dtype) == ((40, 16, 16, 3), np.uint8)
    curated = np.load(made(tmp_path, "COCO_73k_annots_curated.npy"))
    assert (curated.shape, curated.dtype.kind) == ((40, 5), "U")
    assert curated[7, 3:].tolist() == ["", ""]
    assert (curated[8] != "").all()
    annotations = json.loads(made(tmp_path, "captions_train2017.json").read_text())["annotations"]
    assert annotations[0].keys() == {"image_id", "id", "caption"}


def test_regions_overlap_and_some_are_empty(tmp_path):
    inside = nibabel.load(made(tmp_path, "nsdgeneral.nii.gz")).get_fdata() == 1
    visual, faces = (
        nibabel.load(made(tmp_path, f"{name}.nii.gz")).get_fdata()[inside]
        for name in ("prf-visualrois", "floc-faces")
    )
    assert ((visual > 0) & (faces > 0)).sum() > 5
    assert not {5, 6} & set(visual)
    assert 7 in visual


def test_the_code_is_what_the_backbone_pixels_gives():
    options = pixels.Options(grid=2)
    found = pixels.load(options, None, {}, "cpu")(torch.tensor(simulated.pictures(SMALL))).numpy()
    own = np.setdiff1d(np.arange(40), simulated.design(SMALL)[2])
    expected = (found - found[own].mean(0)) / found[own].std(0)
    assert_allclose(simulated.code(SMALL), expected, atol=2e-5)


def test_betas_are_the_code_times_the_patterns_and_noise_of_variance_1():
    options = simulated.Options(**ONE | {"repetitions": 300, "effect": 2.0})
    order, seen, _ = simulated.design(options)
    inside = simulated.mask("subj01", options) == 1
    trials = [simulated.betas("subj01", i, options)[inside].T / 300 for i in range(1, 5)]
    design = simulated.code(options)[seen[0][order]]
    fit = LinearRegression().fit(design, np.concatenate(trials))
    patterns = simulated.patterns("subj01", options)
    assert_allclose(fit.coef_.T, 2 * patterns, atol=0.08)
    assert_allclose((np.concatenate(trials) - fit.predict(design)).var(0), 1, atol=0.07)
    assert fit.intercept_.min() > 0
    assert fit.intercept_.max() < 2.1
    assert (patterns == 0).all(0).any()


def test_voxels_hear_as_much_as_asked_on_average():
    options = simulated.Options(**ONE | {"voxels": 480, "snr": 0.3})
    evoked = simulated.code(options) @ simulated.patterns("subj01", options)
    assert evoked.var(0).mean() == pytest.approx(0.3, rel=0.15)


def test_subjects_share_patterns_as_much_as_asked():
    for effect, alike in ((0.0, True), (1.0, False)):
        options = simulated.Options(subject_effect=effect, voxels=200)
        one, two = (simulated._patterns(f"subj0{i}", 100, options) for i in (1, 2))
        heard = (one != 0).all(0) & (two != 0).all(0)
        directions = [v[:, heard] / np.linalg.norm(v[:, heard], axis=0) for v in (one, two)]
        assert np.allclose(*directions) == alike


# ---- what a decoder reaches ---------------------------------------------------------------


def test_what_ridge_regression_reaches_by_scikit_learn():
    """Other experiments, their betas averaged here, decoded by scikit-learn."""
    off, inside, above = [], 0, []
    for seed in range(10):
        options = simulated.Options(
            people=1, planned=4, images=100, shared_images=30, voxels=150, size=16, seed=seed
        )
        general = simulated.mask("subj01", options) == 1
        trials = np.vstack([simulated.betas("subj01", i, options)[general].T for i in range(1, 5)])
        order, seen, shared = simulated.design(options)
        x = np.stack([trials[order == i].mean(0) for i in range(100)])
        y, train = simulated.code(options)[seen[0]], ~np.isin(seen[0], shared)
        x = (x - x[train].mean(0)) / x[train].std(0)
        model = RidgeCV(alphas=np.logspace(-1, 6, 15)).fit(x[train], y[train])
        errors = (y[~train] - model.predict(x[~train])) ** 2
        spread = (y[~train] - y[train].mean(0)) ** 2
        reached = (1 - errors.sum(0) / spread.sum(0)).mean()
        told = simulated.predicted("subj01", 4, options, draws=30)["r2"]
        inside += told["low"] < reached < told["high"]
        off.append((reached - told["ridge"]) / (told["ridge"] - told["low"]))
        above.append(told["known"] - reached)
    assert inside >= 9
    assert abs(np.mean(off)) < 0.4
    assert min(above) > 0.03


def test_the_decoder_that_knows_is_bayes_rule_for_a_gaussian_code():
    """The posterior mean, by conditioning the joint covariance of code and voxels."""
    rng = np.random.default_rng(0)
    found, codes = rng.normal(size=(12, 30)), rng.normal(size=(50, 12)) @ rng.normal(size=(12, 12))
    counts, truth = np.array([1, 2, 3]), rng.normal(size=(3, 12))
    x = truth @ found + rng.normal(size=(3, 30))
    mean, spread = codes.mean(0), np.cov(codes.T, bias=True)
    for row, n, told in zip(x, counts, simulated._decoded(x, counts, found, codes), strict=True):
        joint = found.T @ spread @ found + np.eye(30) / n
        expected = mean + spread @ found @ np.linalg.solve(joint, row - mean @ found)
        assert_allclose(told, expected, atol=1e-8)


def test_ridge_regression_leaves_out_one_image_as_scikit_learn_does():
    rng = np.random.default_rng(1)
    x, y, new = (rng.normal(size=shape) for shape in ((40, 60), (40, 3), (10, 60)))
    y += 0.2 * x[:, :3]
    mean, sd = x.mean(0), x.std(0, ddof=1)
    model = RidgeCV(alphas=simulated.ALPHAS).fit((x - mean) / sd, y)
    assert_allclose(simulated._ridge(x, y, new), model.predict((new - mean) / sd), atol=1e-8)


def test_scores_are_those_of_the_definitions():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(20, 12))
    told = truth + 2 * rng.normal(size=truth.shape)
    r = np.corrcoef(told, truth)[:20, 20:]
    pairs = [r[j, i] < r[j, j] for j in range(20) for i in range(20) if i != j]
    assert simulated._two_way(told, truth) == pytest.approx(np.mean(pairs))
    assert simulated._r2(told, truth, truth.mean(0)) == pytest.approx(r2_score(truth, told))


def test_without_effect_nothing_is_told_and_more_is_told_of_more():
    none = simulated.predicted("subj01", 4, simulated.Options(**ONE, effect=0.0), draws=20)
    assert none["r2"]["ridge"] < 0.02
    assert none["r2"]["known"] < 0.02
    assert none["two_way"]["known"] == pytest.approx(0.5, abs=0.05)
    few, many, clear = (
        simulated.predicted("subj01", sessions, simulated.Options(**ONE, effect=effect), draws=20)
        for sessions, effect in ((2, 1.0), (4, 1.0), (4, 3.0))
    )
    for name in ("ridge", "known"):
        assert few["r2"][name] < many["r2"][name] < clear["r2"][name]
    assert many == simulated.predicted("subj01", 4, SMALL, draws=20)


def test_files_that_were_not_published_are_not_made(tmp_path):
    with pytest.raises(InputError, match=r"betas_session9.hdf5: the simulation makes nsd_expdesig"):
        made(tmp_path, "betas_session9.hdf5")
    assert not list(tmp_path.iterdir())
