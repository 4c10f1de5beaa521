"""Pictures of spectrograms for people: one documented way from decibels to colours.

Decibels are clipped to limits, scaled to 0..1, resized if wanted, and looked up in a table of
256 colours.  The whole band and all of the time stay on the picture: nothing is cropped.
Models do not see these pictures; they are fed from the decibels.
"""

import difflib
import functools
import json
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from engram.errors import InputError


def upright(columns) -> np.ndarray:
    """(..., times, freqs ascending) -> (..., freqs, times), the highest frequency in row 0."""
    return np.swapaxes(columns, -1, -2)[..., ::-1, :]


def render(decibels, limits, *, size=None, cmap="viridis") -> np.ndarray:
    """Colours of a spectrogram.

    Args:
        decibels: (..., h, w), row 0 on top; NaN gets the colour of the low limit.
        limits: (low, high) dB, the two ends of the colour table.
        size: (height, width) in pixels; None keeps (h, w).
        cmap: name of a matplotlib colour map; the perceptually uniform ones ("viridis",
            "magma", "cividis") grow evenly in lightness.

    Returns:
        uint8 (..., height, width, 3), RGB.

    Raises:
        InputError: the limits do not ascend, or there is no such colour map.
    """
    low, high = limits
    if not low < high:
        raise InputError(f"limits: {low} to {high} dB do not ascend")
    level = np.clip((np.asarray(decibels, float) - low) / (high - low), 0, 1)
    level = np.nan_to_num(level)
    level = level if size is None else resize(level, size)
    return colour_table(cmap)[np.minimum((level * 256).astype(int), 255)]


def resize(values, size) -> np.ndarray:
    """Resize the last two axes, each by itself, without cropping.

    An axis that shrinks is averaged over the area of each new pixel, which is antialiased; one
    that grows is interpolated linearly between pixel centres, with the outermost values beyond.

    Args:
        values: (..., h, w) float.
        size: (height, width).
    """
    rows, columns = (
        resize_weights(old, new) for old, new in zip(np.shape(values)[-2:], size, strict=True)
    )
    return rows @ np.asarray(values) @ columns.T


def resize_weights(old, new) -> np.ndarray:
    """Share of each old pixel in each new one, (new, old); rows sum to 1. See `resize`."""
    pixel = np.arange(old)
    if new < old:
        edges = np.arange(new + 1)[:, None] * old / new
        overlap = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
        return np.maximum(overlap, 0) * new / old
    centre = np.clip((np.arange(new)[:, None] + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(1 - np.abs(centre - pixel), 0)


@functools.cache
def colour_table(cmap) -> np.ndarray:
    """The 256 colours of a matplotlib colour map, uint8 (256, 3), RGB.

    Raises:
        InputError: there is no such colour map.
    """
    if cmap not in matplotlib.colormaps:
        close = difflib.get_close_matches(str(cmap), list(matplotlib.colormaps), n=1)
        guess = f"; did you mean {close[0]!r}?" if close else "; use a name that matplotlib knows"
        raise InputError(f"cmap: there is no colour map {cmap!r}{guess}")
    return matplotlib.colormaps[cmap](np.linspace(0, 1, 256), bytes=True)[:, :3].copy()


def to_png(path, decibels, *, frequencies, times, limits, size=None, cmap="viridis", settings=None):
    """Write a spectrogram as an RGB PNG, and beside it a JSON file with all that it shows.

    Args:
        path: the PNG; the JSON file has the same name with the suffix .json.
        decibels: (h, w), see `render`.
        frequencies: (h,) Hz of each row before resizing, descending: low ones at the bottom.
        times: (w,) s of each column before resizing, ascending.
        limits, size, cmap: see `render`.
        settings: JSON-able dict of how the spectrogram was made.

    Raises:
        InputError: axes do not fit the values or run the wrong way.
    """
    path, decibels = Path(path), np.asarray(decibels)
    frequencies, times = np.asarray(frequencies, float), np.asarray(times, float)
    if decibels.shape != (len(frequencies), len(times)):
        raise InputError(
            f"{path}: values of shape {decibels.shape} for {len(frequencies)} frequencies and "
            f"{len(times)} times"
        )
    if (np.diff(frequencies) >= 0).any() or (np.diff(times) <= 0).any():
        raise InputError(f"{path}: frequencies must descend and times ascend")
    pixels = render(decibels, limits, size=size, cmap=cmap)
    Image.fromarray(pixels, "RGB").save(path, "PNG")
    sidecar = {
        "what": "spectrogram",
        "colours": "RGB",
        "bottom": "lowest frequency",
        "frequencies": frequencies.tolist(),
        "times": times.tolist(),
        "unit": "dB",
        "limits": [float(limit) for limit in limits],
        "cmap": cmap,
        "size": list(pixels.shape[:2]),
        "resize": "none" if size is None else "area average where smaller, linear where larger",
        "settings": settings or {},
    }
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n")
