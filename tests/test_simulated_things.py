"""The simulated files against closed forms, and decoders against the best possible one."""

import zipfile

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy import fft, linalg, stats
from sklearn.linear_model import Ridge

from engram import store, views
from engram.datasets import read
from engram.datasets import simulated_things as simulated
from engram.downloads import download
from engram.errors import InputError

SMALL = {
    "train_concepts": 6,
    "train_images": 2,
    "train_repetitions": 3,
    "test_concepts": 5,
    "test_repetitions": 4,
    "size": 32,
}
SUBJECT = ("preprocessed_eeg_training.npy", "preprocessed_eeg_test.npy", "image_metadata.npy")
STIMULI = ("image_metadata.npy", "training_images.zip", "test_images.zip")


def made(folder, unit="sub-01", files=SUBJECT, **options):
    """What is read from the files that stage `download` leaves; their bytes."""
    dataset = {"kind": "simulated_things", **SMALL, **options}
    rows = [{"unit": unit, "file": name} for name in files]
    paths = [folder / f"{unit}_{name}" for name in files]
    for path, row in zip(paths, rows, strict=True):
        download(path, {"dataset": dataset, "row": row})
    found = read({"dataset": dataset, "unit": unit, "rows": rows}, paths)
    return found, [path.read_bytes() for path in paths]


def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(tmp_path):
    _, first = made(tmp_path, "sub-02")
    made(tmp_path, "sub-01")
    simulated.code.cache_clear()
    _, again = made(tmp_path, "sub-02")
    _, other = made(tmp_path, "sub-02", seed=1)
    _, someone = made(tmp_path, "sub-03")
    assert first == again
    assert first[0] != other[0]
    assert first[0] != someone[0]
    assert first[2] == someone[2]


def test_the_files_are_laid_out_as_published(tmp_path):
    made(tmp_path)
    made(tmp_path, "stimuli", STIMULI)
    eeg = np.load(tmp_path / "sub-01_preprocessed_eeg_training.npy", allow_pickle=True).item()
    assert eeg["preprocessed_eeg_data"].shape == (12, 3, 17, 100)
    assert eeg["preprocessed_eeg_data"].dtype == np.float64
    assert (eeg["ch_names"][0], len(eeg["ch_names"])) == ("Pz", 17)
    assert_allclose(eeg["times"], np.arange(-20, 80) / 100)
    names = np.load(tmp_path / "stimuli_image_metadata.npy", allow_pickle=True).item()
    assert len(names) == 6
    with zipfile.ZipFile(tmp_path / "stimuli_training_images.zip") as archive:
        assert archive.namelist() == [
            f"training_images/{concept}/{file}"
            for concept, file in zip(
                names["train_img_concepts"], names["train_img_files"], strict=True
            )
        ]
        with archive.open(archive.namelist()[0]) as file:
            assert Image.open(file).size == (32, 32)
    assert not set(names["train_img_concepts_THINGS"]) & set(names["test_img_concepts_THINGS"])


def test_everything_that_is_rendered_says_simulated(tmp_path):
    trials, _ = made(tmp_path)
    stimuli, _ = made(tmp_path, "stimuli", STIMULI)
    for name, found, view in (("e.h5", trials, "epochs"), ("p.h5", stimuli, "photograph")):
        spec = {"unit": "x", "view": {"kind": view}, "windows": None}
        views.render(found, tmp_path / name, spec, {})
        header = store.open(tmp_path / name).header
        assert header["simulated"] is True
        assert header["simulation"]["snr"] == 0.3


def test_each_trial_finds_its_picture(tmp_path):
    (_, test), _ = made(tmp_path)
    (stimuli,), _ = made(tmp_path, "stimuli", STIMULI)
    assert set(test.table["stimulus"]) <= set(stimuli.table.index)
    spec = {"unit": "x", "view": {"kind": "photograph", "size": [32, 32]}, "windows": None}
    views.render([stimuli], tmp_path / "p.h5", spec, {})
    pictures = store.open(tmp_path / "p.h5")
    (at,) = [pictures.table.index.get_indexer(test.table["stimulus"])]
    codes = simulated.thumbnail_code(pictures[:][at])
    train = simulated.thumbnail_code(pictures[:][pictures.table["split"] == "train"])
    options = simulated.Options(**SMALL)
    assert_allclose(
        (codes - train.mean(0)) / train.std(0), simulated.code("test", options), atol=1e-9
    )


def test_the_code_is_the_lowest_cosine_components_of_the_picture():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 24, 16, 3), np.uint8)
    dct = fft.dctn(pictures / 255, axes=(1, 2))[:, :2, :2] / (4 * 24 * 16)
    expected = dct.transpose(0, 3, 1, 2).reshape(3, 12)
    assert_allclose(simulated.thumbnail_code(pictures), expected, atol=1e-12)


def test_the_noise_is_white_across_channels_and_correlates_in_time_as_stated():
    found = simulated.noise(np.random.default_rng(0), (20_000, 2, 6))
    flat = found.reshape(len(found), -1)
    expected = linalg.block_diag(*[linalg.toeplitz(0.5 ** np.arange(6))] * 2)
    assert_allclose(np.cov(flat.T), expected, atol=0.04)


def test_epochs_are_the_code_times_the_patterns(tmp_path):
    options = {"train_repetitions": 400, "effect": 2.0}
    (train, _), _ = made(tmp_path, **options)
    this = simulated.Options(**(SMALL | options))
    evoked = 2 * np.einsum(
        "nk,kct->nct", simulated.code("train", this), simulated.patterns("sub-01", this)
    )
    error = np.asarray(train.data).mean(1) - evoked
    assert error.std() == pytest.approx(1 / 20, rel=0.05)
    assert np.abs(error).max() < 6 / 20
    assert np.abs(evoked).max() > 0.5


def test_the_matched_filter_has_the_stated_signal_to_noise_ratio():
    options = simulated.Options(snr=0.3, **SMALL)
    pattern = simulated.patterns("sub-01", options).reshape(12, -1)
    covariance = linalg.block_diag(*[linalg.toeplitz(0.5 ** np.arange(100))] * 17)
    precision = pattern @ np.linalg.solve(covariance, pattern.T)
    assert np.trace(precision) / 12 == pytest.approx(0.3)


def test_subjects_share_patterns_as_much_as_asked():
    for effect, alike in ((0.0, True), (1.0, False)):
        options = simulated.Options(subject_effect=effect)
        one, two = (simulated.patterns(unit, options).ravel() for unit in ("sub-01", "sub-02"))
        assert np.allclose(one, two) == alike
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.2


# ---- what a decoder reaches ---------------------------------------------------------------


def top(scores, k):
    """Share of rows whose own column is among the k highest."""
    return np.mean((scores > np.diag(scores)[:, None]).sum(1) < k)


TINY = {"train_concepts": 15, "train_images": 2, "test_concepts": 30, "snr": 0.3}


def likeliest(data, evoked, inverse):
    """Log-likelihood of every picture (columns) for epochs (rows), by the full covariance."""
    filtered = evoked @ inverse
    scores = np.einsum("nct,mct->nm", data, filtered, optimize=True)
    return scores - np.einsum("mct,mct->m", evoked, filtered) / 2


@pytest.mark.parametrize("count", [1, 5])
def test_both_decoders_by_brute_force_on_whole_epochs(count):
    """Epochs as the files hold them, patterns fitted by least squares, many simulated studies."""
    options = simulated.Options(**(SMALL | TINY))
    train, test = (simulated.code(split, options) for split in ("train", "test"))
    inverse = np.linalg.inv(linalg.toeplitz(0.5 ** np.arange(100)))
    rng, hits = np.random.default_rng(0), {"best": [], "linear": []}
    for study in range(60):
        patterns = simulated.patterns(f"study-{study}", options)
        shape = (len(train), options.train_repetitions, 17, 100)
        seen = np.tensordot(train, patterns, 1) + simulated.noise(rng, shape).mean(1)
        design = np.column_stack([train, np.ones(len(train))])
        fitted = np.linalg.lstsq(design, seen.reshape(len(seen), -1))[0].reshape(-1, 17, 100)
        data = np.tensordot(test, patterns, 1)
        data = data + simulated.noise(rng, (count, *data.shape)).mean(0)
        for name, assumed, offset in (
            ("best", patterns, 0),
            ("linear", fitted[:-1], fitted[-1]),
        ):
            scores = likeliest(data - offset, np.tensordot(test, assumed, 1), inverse)
            hits[name].append([top(scores, 1), top(scores, 5)])
    found = simulated.predicted(options, [count])
    for name, values in hits.items():
        mean, error = np.mean(values, 0), stats.sem(values, 0)
        for i, k in enumerate(("top1", "top5")):
            assert abs(mean[i] - found[k][name][0]) < 4 * error[i]
    ones = {name: np.array(values)[:, 0] for name, values in hits.items()}
    assert np.mean(ones["linear"] >= found["top1"]["low"][0]) > 0.9
    assert np.mean(ones["best"] <= found["top1"]["high"][0]) > 0.9
    assert found["top1"]["linear"][0] < found["top1"]["best"][0]


def test_without_effect_nothing_is_better_than_chance():
    options = simulated.Options(effect=0.0, train_concepts=20)
    found = simulated.predicted(options, [20], draws=20)
    assert found["top1"]["best"] == [pytest.approx(1 / 200)]
    assert found["top5"]["best"] == [pytest.approx(5 / 200)]
    assert found["top1"]["linear"] == [pytest.approx(1 / 200, abs=0.003)]


def test_more_repetitions_and_a_larger_effect_attain_more():
    sizes = SMALL | {"test_concepts": 100}
    found = simulated.predicted(simulated.Options(**sizes), [1, 5, 20])
    for name in ("low", "linear", "best", "high"):
        assert sorted(found["top1"][name]) == found["top1"][name]
    larger = simulated.predicted(simulated.Options(effect=2.0, **sizes), [5])
    assert larger["top1"]["best"][0] == pytest.approx(found["top1"]["best"][2], abs=0.01)
    assert found["counts"] == [1, 5, 20]


def test_a_trained_decoder_comes_close_and_shuffled_pairs_give_chance(tmp_path):
    sizes = {"train_concepts": 150, "train_images": 2, "test_concepts": 100, "snr": 1.0}
    (train, test), _ = made(tmp_path, **sizes)
    options = simulated.Options(**(SMALL | sizes))
    codes, candidates = (simulated.code(split, options) for split in ("train", "test"))
    candidates = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    found = simulated.predicted(options, [4])["top1"]

    def features(trials):
        """Averages over repetitions and 50 ms."""
        means = np.asarray(trials.data).mean(1).reshape(len(trials.data), 17, 20, 5).mean(-1)
        return means.reshape(len(means), -1)

    def reached(order):
        predicted = Ridge(alpha=30).fit(features(train), codes[order]).predict(features(test))
        return top(predicted @ candidates.T, 1)

    assert found["low"][0] < reached(np.arange(300)) <= found["high"][0]
    assert reached(np.random.default_rng(0).permutation(300)) < 0.05


def test_effect_leaves_the_noise_as_it_is(tmp_path):
    (one, test), _ = made(tmp_path, effect=0.0)
    assert (one.data.shape[:2], test.data.shape[:2]) == ((12, 3), (5, 4))
    assert not np.isclose(one.data[0, 0], test.data[0, 0]).any()
    none = np.array(one.data)
    (two, _), _ = made(tmp_path, effect=1.0)
    options = simulated.Options(**SMALL)
    evoked = np.tensordot(
        simulated.code("train", options), simulated.patterns("sub-01", options), 1
    )
    assert_allclose(two.data, none + evoked[:, None], atol=1e-12)
    assert_array_equal(one.table, two.table)


def test_files_that_were_not_published_are_not_made(tmp_path):
    with pytest.raises(InputError, match=r"sub-01.npz: the simulation makes image_metadata.npy"):
        made(tmp_path, files=("sub-01.npz",))
    assert not list(tmp_path.iterdir())
