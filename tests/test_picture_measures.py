"""Measures of pictures against scikit-image, NumPy, SciPy and brute force."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from torch.nn.functional import interpolate

from engram.measures import pictures


@pytest.fixture(scope="module")
def drawn():
    """A smooth picture, a blurred and noisy copy, and another, uint8 (80, 80, 3)."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(2, 96, 80, 3)), (0, 5, 3, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    worse = np.clip(gaussian_filter(smooth[0], (4, 4, 0)) + rng.normal(0, 0.05, (96, 80, 3)), 0, 1)
    return [(255 * one).round().astype(np.uint8) for one in (smooth[0], worse, smooth[1])]


def at(image, size):
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def test_pixels_and_structure_are_those_of_numpy_and_scikit_image(drawn):
    settings = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5,
                "use_sample_covariance": False}  # fmt: skip
    truth = pictures.picture(drawn[0], 64)
    for image in drawn:
        one, a, b = pictures.picture(image, 64), at(drawn[0], 64), at(image, 64)
        expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        assert pictures.pixcorr(truth, one) == pytest.approx(expected, abs=1e-6)
        grey = rgb2gray(a), rgb2gray(b)
        whole, columns = pictures.ssim(truth, one)
        assert whole == pytest.approx(structural_similarity(*grey, **settings), abs=1e-12)
        expected = structural_similarity(*grey, channel_axis=-1, **settings)
        assert columns == pytest.approx(expected, abs=1e-12)
    assert whole < 0.6
    assert abs(columns - whole) > 0.02  # of another picture, they differ


def test_the_detour_is_that_of_torch(drawn):
    """As MindEye resizes tensors: to 256 pixels, then to the size, antialiased, not rounded."""
    tensors = torch.tensor(np.stack(drawn[:2]) / 255).permute(0, 3, 1, 2)
    for side in (256, 100):
        tensors = interpolate(tensors, (side, side), mode="bilinear", antialias=True)
    expected = np.corrcoef(tensors.reshape(2, -1))[0, 1]
    truth, told = (pictures.picture(image, 100, "mindeye") for image in drawn[:2])
    assert pictures.pixcorr(truth, told) == pytest.approx(expected, abs=1e-6)
    plain = [pictures.picture(image, 100) for image in drawn[:2]]
    assert abs(pictures.pixcorr(*plain) - expected) > 1e-4


def test_a_picture_is_itself_and_a_constant_one_is_like_nothing(drawn):
    one = pictures.picture(drawn[0])
    assert one.grey.shape == (425, 425)
    assert pictures.pixcorr(one, one) == pytest.approx(1, abs=1e-6)
    assert pictures.ssim(one, one) == pytest.approx((1, 1))
    flat = pictures.picture(np.full((8, 8, 3), 90, np.uint8))
    assert pictures.pixcorr(one, flat) == 0
    assert 0 <= pictures.ssim(one, flat)[0] < 0.9


@pytest.fixture(params=["one block", "many"])
def features(request, monkeypatch):
    """Of 13 pictures and of 9 images, each 3 x 50 numbers, some pictures like their image."""
    monkeypatch.setattr(pictures, "BLOCK_BYTES", (4 << 20) if request.param != "many" else 1800)
    rng = np.random.default_rng(1)
    true = rng.normal(2, 1, (9, 3, 50)).astype(np.float32)
    own = rng.integers(9, size=13)
    return (true[own] + rng.normal(0, 9, (13, 3, 50))).astype(np.float32), true, own


@pytest.mark.parametrize("how", ["correlation", "cosine", "squared"])
def test_similarity_is_that_of_scipy(features, how):
    told, true, _ = features
    found = pictures.similarity(told, true, how)
    expected = cdist(told.reshape(13, -1), true.reshape(9, -1),
                     {"squared": "sqeuclidean"}.get(how, how))  # fmt: skip
    assert_allclose(pictures.distance(found, how), expected, rtol=2e-6, atol=2e-6)


def test_two_way_is_that_of_corrcoef_and_counting(features):
    told, true, own = features
    rows = np.corrcoef(told.reshape(13, -1), true.reshape(9, -1))[:13, 13:]
    expected = [np.mean([rows[j, i] < rows[j, own[j]] for i in range(9) if i != own[j]])
                for j in range(13)]  # fmt: skip
    found = pictures.two_way(pictures.similarity(told, true), own)
    assert_allclose(found, expected)
    assert 0.55 < found.mean() < 0.98


def test_identity_is_always_found_and_ties_are_failures():
    rng = np.random.default_rng(2)
    true = rng.normal(size=(30, 40))
    every = np.arange(30)
    same = pictures.similarity(true, true)
    assert (pictures.two_way(same, every) == 1).all()
    assert_allclose(pictures.distance(same).diagonal(), 0, atol=1e-6)
    by_chance = [pictures.two_way(same, rng.permutation(30)).mean() for _ in range(300)]
    assert np.mean(by_chance) == pytest.approx(0.5, abs=0.02)
    assert (pictures.two_way(pictures.similarity(np.ones((5, 40)), true), every[:5]) == 0).all()
    twins = np.concatenate([true, true])  # each image has a copy
    assert_allclose(pictures.two_way(pictures.similarity(true, twins), every), 58 / 59)
