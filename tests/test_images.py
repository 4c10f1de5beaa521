"""What an image model sees of a row, against matplotlib, Pillow and arithmetic."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from engram.errors import InputError
from engram.frozen import pictures
from engram.frozen.pictures import Preprocessing

LIMITS = (-20.0, 20.0)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LEVEL = 1 / 255 / min(STD)  # one grey level in normalised units
SPECTROGRAM = {"what": "spectrogram", "limits": list(LIMITS), "cmap": "viridis"}


def preprocessing(view, size=(224, 224), mode="device"):
    return Preprocessing.of(view, size=size, mean=MEAN, std=STD, mode=mode)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(0, 10, shape).astype(np.float16)


def by_hand(rows, size):
    """Matplotlib's colours, Pillow's bicubic resize, then the formula, image by image."""
    done = []
    for row in rows:
        scaled = (row.astype(np.float32) - LIMITS[0]) / (LIMITS[1] - LIMITS[0])
        picture = matplotlib.colormaps["viridis"](scaled, bytes=True)[..., :3]
        picture = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)
        done.append((np.asarray(picture) / 255.0 - MEAN) / STD)
    return np.stack(done).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("cmap", ["viridis", "gray", "jet"])
def test_colours_are_those_of_matplotlib(cmap):
    odd = [np.full((1, 40, 50), value, np.float16) for value in (np.inf, -np.inf)]
    rows = np.concatenate([noise((3, 40, 50)), *odd])
    gap = pictures.to_rgb(torch.full((1, 1, 1), torch.nan), LIMITS, cmap)
    assert (
        gap.flatten().tolist()
        == pictures.to_rgb(torch.tensor([[[-20.0]]]), LIMITS, cmap).flatten().tolist()
    )
    ours = pictures.to_rgb(torch.from_numpy(rows), LIMITS, cmap).numpy()
    scaled = (rows.astype(np.float32) - LIMITS[0]) / (LIMITS[1] - LIMITS[0])
    theirs = matplotlib.colormaps[cmap](np.clip(scaled, 0, 1), bytes=True)[..., :3]
    np.testing.assert_array_equal(ours, theirs)


def test_colouring_leaves_its_input_alone():
    rows = noise((2, 8, 8)).astype(np.float32)
    before = rows.copy()
    preprocessing(SPECTROGRAM)(rows)
    np.testing.assert_array_equal(rows, before)


def test_reference_mode_is_matplotlib_and_pillow():
    rows, size = noise((3, 139, 29)), (224, 200)
    ours = preprocessing(SPECTROGRAM, size, "reference")(rows)
    np.testing.assert_allclose(ours, by_hand(rows, size), atol=1e-6)


@pytest.mark.parametrize("shape", [(65, 100), (139, 29), (129, 250), (300, 300)])
def test_batches_differ_from_the_reference_by_two_grey_levels_at_most(shape):
    rows = noise((8, *shape))
    difference = np.abs(preprocessing(SPECTROGRAM)(rows).numpy() - by_hand(rows, (224, 224)))
    assert difference.max() <= 2.001 * LEVEL
    assert difference.mean() < 1e-4


@pytest.mark.parametrize("shape", [(65, 100), (300, 260)])
def test_the_way_of_a_gpu_stays_within_the_same_bounds(shape):
    coloured = pictures.to_rgb(torch.from_numpy(noise((8, *shape))), LIMITS, "viridis")
    rgb = coloured.permute(0, 3, 1, 2)
    ours = pictures.resize_by_matrix(rgb, (224, 224)).int()
    pillow = pictures.resize_with_pillow(rgb, (224, 224)).int()
    assert (ours - pillow).abs().max() <= 2
    assert (ours - pillow).abs().float().mean() / 255 / min(STD) < 1e-4


def cubic_average(length, output):
    """Matrix of Keys' cubic interpolation (a = -1/2), widened where it shrinks."""
    scale = length / output
    offset = np.arange(length) + 0.5 - (np.arange(output)[:, None] + 0.5) * scale
    x = np.abs(offset) / max(scale, 1)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
    matrix = np.where(x < 1, near, np.where(x < 2, far, 0))
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["resize", "resize_by_matrix", "resize_with_pillow"])
@pytest.mark.parametrize("shape", [(300, 260), (640, 427), (65, 100)])
def test_every_way_resizes_horizontally_first(name, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, *shape), np.uint8)
    exact = pixels.astype(float)
    for axis in (3, 2):
        matrix = cubic_average(shape[axis - 2], 224)
        exact = np.moveaxis(np.moveaxis(exact, axis, -1) @ matrix.T, -1, axis)
        exact = exact.round().clip(0, 255)
    ours = getattr(pictures, name)(torch.from_numpy(pixels), (224, 224)).numpy()
    assert np.abs(ours - exact).max() <= 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("way", [pictures.resize, pictures.resize_by_matrix])
@pytest.mark.parametrize("shape", [(300, 260), (65, 100), (100, 500)])
def test_every_interpolation_is_that_of_pillow(way, interpolation, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, *shape), np.uint8)
    ours = way(torch.from_numpy(pixels), (224, 224), interpolation).int().numpy()
    method, height = Image.Resampling[interpolation.upper()], shape[0]
    for image, found in zip(pixels, ours, strict=True):
        wide = Image.fromarray(image.transpose(1, 2, 0)).resize((224, height), method)
        theirs = np.asarray(wide.resize((224, 224), method), int).transpose(2, 0, 1)
        assert np.abs(found - theirs).max() <= 2
        assert np.abs(found - theirs).mean() / 255 / min(STD) < 2e-4


def test_grey_is_the_level_between_the_limits_or_the_luma_of_a_picture():
    grey = {"size": (30, 20), "mean": (0.0,), "std": (1.0,), "grey": True}
    rows = np.full((1, 30, 20), LIMITS[0] + 0.25 * (LIMITS[1] - LIMITS[0]), np.float16)
    seen = Preprocessing.of(SPECTROGRAM, **grey)(rows)
    assert seen.shape == (1, 1, 30, 20)
    assert seen.mean() == pytest.approx(64 / 255)
    picture = np.random.default_rng(0).integers(0, 256, (1, 30, 20, 3), np.uint8)
    luma = np.asarray(Image.fromarray(picture[0]).convert("L"), int)
    seen = Preprocessing.of({"what": "picture"}, **grey)(picture)[0, 0].numpy() * 255
    assert np.abs(seen - luma).max() <= 1.001
    assert np.abs(seen - picture[0] @ [0.299, 0.587, 0.114]).max() <= 0.501


@pytest.mark.parametrize("mode", ["device", "reference"])
def test_a_red_picture_stays_red(mode):
    red = np.zeros((2, 40, 60, 3), np.uint8)
    red[..., 0] = 255
    seen = preprocessing({"what": "picture"}, (32, 48), mode)(red) * torch.tensor(STD).view(
        3, 1, 1
    ) + torch.tensor(MEAN).view(3, 1, 1)
    assert seen.shape == (2, 3, 32, 48)
    torch.testing.assert_close(seen[:, 0], torch.ones(2, 32, 48))
    torch.testing.assert_close(seen[:, 1:], torch.zeros(2, 2, 32, 48), atol=1e-6, rtol=0)


def test_up_stays_up_and_left_stays_left():
    rows = np.full((1, 60, 30), LIMITS[0], np.float16)
    rows[0, :30, :15] = LIMITS[1]
    seen = preprocessing(SPECTROGRAM)(rows)[0, 1]
    assert seen[:100, :100].min() > seen[124:].max()
    assert seen[:100, :100].min() > seen[:100, 124:].max()


def stripes(frequencies, tone):
    """A spectrogram whose only content is a line at one frequency, highest row on top."""
    height = np.exp(-0.5 * ((frequencies - tone) / 0.4) ** 2)
    return np.repeat((-15 + 30 * height)[None, :, None], 90, axis=2).astype(np.float16)


def turned_and_cropped(row):
    """What the usual transform leaves of a spectrogram turned on its side: time x frequency."""
    picture = matplotlib.colormaps["viridis"](
        (row.T.astype(np.float32) - LIMITS[0]) / (LIMITS[1] - LIMITS[0]), bytes=True
    )[..., :3]
    height, width = picture.shape[:2]
    scale = 224 / min(height, width)
    size = round(width * scale), round(height * scale)
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    top, left = (resized.shape[0] - 224) // 2, (resized.shape[1] - 224) // 2
    return resized[top : top + 224, left : left + 224].astype(float)


@pytest.mark.parametrize("tone", [2, 6, 10, 20, 30])
def test_a_tone_of_every_band_is_seen_where_a_centre_crop_shows_none(tone):
    frequencies = np.linspace(35, 0.5, 570)
    silent, sounding = stripes(frequencies, 1000), stripes(frequencies, tone)
    encode = preprocessing(SPECTROGRAM)
    changed = (encode(sounding) - encode(silent)).abs().amax(dim=(0, 1, 3)).numpy()
    assert changed.max() > 100 * LEVEL
    expected = np.argmin(np.abs(frequencies - tone)) / 570 * 224
    assert abs(changed.argmax() - expected) < 3

    cropped = np.abs(turned_and_cropped(sounding[0]) - turned_and_cropped(silent[0])).max()
    assert (cropped > 100) == (tone == 20)
    assert tone == 20 or cropped < 1


def test_the_fingerprint_tells_every_setting_apart():
    base = preprocessing(SPECTROGRAM).fingerprint()
    assert base == preprocessing(SPECTROGRAM).fingerprint()
    others = [
        preprocessing(SPECTROGRAM | {"limits": [-20, 21]}),
        preprocessing(SPECTROGRAM | {"cmap": "gray"}),
        preprocessing({"what": "picture"}),
        preprocessing(SPECTROGRAM, size=(224, 225)),
        preprocessing(SPECTROGRAM, mode="reference"),
        Preprocessing.of(SPECTROGRAM, size=(224, 224), mean=MEAN, std=MEAN),
        Preprocessing.of(SPECTROGRAM, size=(224, 224), mean=STD, std=STD),
        *(
            Preprocessing.of(SPECTROGRAM, size=(224, 224), mean=MEAN, std=STD, **change)
            for change in ({"interpolation": "bilinear"}, {"interpolation": "lanczos"})
        ),
        Preprocessing.of(SPECTROGRAM, size=(224, 224), mean=(0.5,), std=(0.5,), grey=True),
    ]
    assert len({base, *(other.fingerprint() for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": None}, "limits"),
        ({"limits": [5, 5]}, "limits"),
        ({"cmap": "virdis"}, "did you mean 'viridis'"),
        ({"cmap": None}, "colour map None"),
    ],
)
def test_a_header_that_cannot_be_coloured_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        preprocessing(SPECTROGRAM | change)
