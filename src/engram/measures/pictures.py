"""How alike a picture is to the one that it should be: pixels, structure, features of networks.

Two dialects of the pixel measures are published, and their numbers do not compare:

- `bd` (Ozcelik & VanRullen, Scientific Reports 13, 2023): pictures as they are, resized to 425
  pixels by Pillow, bicubic, 8 bits;
- `mindeye` (Scotti et al., NeurIPS 2023): both pictures are brought to 256 pixels first, then to
  425, bilinear and not rounded, which raises scores of blurred pictures.
"""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = 425  # pixels of a side, of both dialects
DETOUR = 256
GREY = (0.2125, 0.7154, 0.0721)  # as scikit-image weighs red, green and blue
SIGMA, REACH = 1.5, 5  # of the Gaussian window, pixels
LEAST = 2 * REACH + 1  # pixels of a side
C1, C2 = 0.01**2, 0.03**2  # for values from 0 to 1

#: Names of the pixel measures in each dialect, in the order r, and the two of `ssim`.
PIXEL_MEASURES = {
    "bd": ("pixcorr", "ssim", "ssim_columns"),
    "mindeye": ("pixcorr_mindeye", "ssim_mindeye"),
}

BLOCK_BYTES = 256 << 20  # of features at a time
TOLERANCE = 1e-6  # similarities that differ by less are a tie


# ---- pixels -----------------------------------------------------------------------------


class Picture(NamedTuple):
    """What measures need of a picture, so that it is computed once.

    Attributes:
        unit: float64 (size * size * 3,), all values, centred and of length 1; zeros if constant.
        grey: float64 (size, size), 0 to 1.
        columns, whole: local mean and mean square of `grey`, (2, ...): along columns alone, and
            along both axes.
    """

    unit: np.ndarray
    grey: np.ndarray
    columns: np.ndarray
    whole: np.ndarray


def picture(rgb, size=SIZE, dialect="bd") -> Picture:
    """A picture, ready to be compared.

    Args:
        rgb: uint8 (h, w, 3).
        size: pixels of a side that it is compared at, 11 at least.
        dialect: "bd" or "mindeye".
    """
    pixels = _plain(rgb, size) if dialect == "bd" else _by_way_of(rgb, size)
    grey = pixels @ GREY
    columns = np.stack([_blur(size) @ grey, _blur(size) @ grey**2])
    return Picture(_rows(pixels.reshape(1, -1))[0], grey, columns, columns @ _blur(size).T)


def _plain(rgb, size):
    if rgb.shape[:2] != (size, size):
        rgb = np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC))
    return rgb / 255


def _by_way_of(rgb, size):
    channels = []
    for channel in np.moveaxis(rgb, -1, 0):
        image = Image.fromarray(channel.astype(np.float32))
        for side in (DETOUR, size):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        channels.append(np.asarray(image, float))
    return np.stack(channels, -1) / 255


@functools.cache
def _blur(size):
    """The mean under a Gaussian window, wherever it lies inside, as a matrix (size - 10, size)."""
    place = np.arange(-REACH, REACH + 1)
    window = np.exp(-(place**2) / (2 * SIGMA**2))
    matrix = np.zeros((size - 2 * REACH, size))
    for row in range(len(matrix)):
        matrix[row, row : row + len(window)] = window / window.sum()
    return matrix


def pixcorr(one, other) -> float:
    """Pearson's r of all values of two pictures; 0 where one is constant."""
    return float(one.unit @ other.unit)


def ssim(one, other) -> tuple[float, float]:
    """Structural similarity of two pictures in grey: true, and as Brain-Diffuser published it.

    The numbers of `skimage.metrics.structural_similarity` with a Gaussian window (sigma 1.5, 11
    pixels), population covariance and a data range of 1, first in two dimensions, then with
    `channel_axis=-1`: until version 0.19 its argument `multichannel=True` took the columns of a
    grey picture for channels, so that the window has one dimension. Later versions ignore it.

    Source: Wang, Bovik, Sheikh & Simoncelli, IEEE Trans Image Process 13 (2004).
    """
    blur = _blur(len(one.grey))
    product = blur @ (one.grey * other.grey)
    whole = _structure(one.whole, other.whole, product @ blur.T)
    return whole, _structure(one.columns, other.columns, product)


def _structure(x, y, product):
    """Mean over a map, of local means, mean squares and the mean product of two pictures."""
    means = x[0] * y[0]
    squares = x[0] ** 2 + y[0] ** 2
    variances = x[1] + y[1] - squares
    found = (2 * means + C1) * (2 * (product - means) + C2)
    return float((found / ((squares + C1) * (variances + C2))).mean())


# ---- features ---------------------------------------------------------------------------


def similarity(told, true, how="correlation") -> np.ndarray:
    """How similar every row of one array is to every row of another, float32 (n, m).

    Args:
        told, true: (n, ...) and (m, ...), anything that has a `shape` and gives slices of rows;
            blocks of rows are read, and what takes 5 GiB is never held.
        how: "correlation", Pearson's r, 0 of a constant row; "cosine"; or "squared", minus the
            squared distance.
    """
    found = np.empty((told.shape[0], true.shape[0]), np.float32)
    for rows, p in _blocks(told, how):
        for columns, t in _blocks(true, how):
            found[rows, columns] = p @ t.T
            if how == "squared":
                apart = (p**2).sum(1)[:, None] + (t**2).sum(1) - 2 * found[rows, columns]
                found[rows, columns] = -np.maximum(apart, 0)
    return found


def _blocks(source, how):
    size = max(BLOCK_BYTES // (4 * int(np.prod(source.shape[1:]))), 1)
    for start in range(0, source.shape[0], size):
        rows = slice(start, min(start + size, source.shape[0]))
        values = np.asarray(source[rows], np.float32).reshape(rows.stop - start, -1)
        yield rows, values if how == "squared" else _rows(values, centred=how == "correlation")


def _rows(values, centred=True):
    """Rows of length 1, centred if asked for; zeros where nothing is left."""
    values = values - values.mean(1, keepdims=True) if centred else values
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, length, out=np.zeros_like(values), where=length > 0)


def distance(similarity, how="correlation") -> np.ndarray:
    """Distances from similarities: 1 - r, 1 - cosine, or the squared distance."""
    return -similarity if how == "squared" else 1 - similarity


def two_way(similarity, own) -> np.ndarray:
    """How often each picture is more like its own image than like another; a tie is a failure.

    Args:
        similarity: float (n, m), of n pictures to m images.
        own: int (n,), the image of each picture.

    Returns:
        float (n,): the share of the m - 1 others.

    Source: Ozcelik & VanRullen, Scientific Reports 13 (2023), as their code computes it.
    """
    own_value = np.take_along_axis(similarity, own[:, None], 1)
    return (similarity < own_value - TOLERANCE).sum(1) / (similarity.shape[1] - 1)
