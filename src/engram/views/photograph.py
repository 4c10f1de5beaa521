"""The photographs that were shown, as pictures of one size."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from engram.errors import InputError
from engram.progress import progress
from engram.recording import Stimuli
from engram.scratch import empty
from engram.store import Rows

DEVICE = "cpu"
GIVES = "picture"
OF = Stimuli
TARGETS = "pictures"

COLUMNS = ("split", "concept", "caption")


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        size: [height, width] in pixels; a photograph is resized as a whole, never cropped.
        interpolation: of the resizing, by Pillow, antialiased.
        blur: radius of a Gaussian blur after resizing, pixels: standard deviation; 0 is none.
        split: only the photographs of this one, such as those of the test that decoded pictures
            are compared with; by default all.
    """

    size: tuple[int, int] = (224, 224)
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    blur: float = 0.0
    split: Literal["train", "test"] | None = None


def render(stimuli, windows, options) -> Rows:
    """Every photograph: upright RGB (`engram.readers.images`), resized, blurred.

    Returns:
        Rows: uint8 RGB (n, height, width, 3), named as in the table of the stimuli; columns
        split, concept, caption (if there are any) and exclude.  More than 1 GiB, 7 000
        photographs of 224 pixels, lie in a file (`engram.scratch`) and not in memory.

    Raises:
        InputError: an image file is missing or damaged, `size` or `blur` is out of range, or the
            disk is too small, or no photograph is of the `split`.
    """
    if min(options.size) < 1 or options.blur < 0:
        raise InputError("photograph: `size` has to be pixels, `blur` a radius from 0 on")
    if options.split:
        stimuli = _of_split(stimuli, options.split)
    names = stimuli.table.index
    array = empty((len(names), *options.size, 3), np.uint8)
    bar = progress(range(len(names)), stimuli.name, "images")
    for i, picture in zip(bar, stimuli.pictures(), strict=True):
        array[i] = _pixels(picture, options)
    table = stimuli.table[[c for c in COLUMNS if c in stimuli.table]].assign(exclude="")
    header = {
        "what": GIVES,
        "axes": 3,
        "modality": "photograph",
        "unit": "sRGB",
        "blur": options.blur,
        "interpolation": options.interpolation,
        **stimuli.origin,
    }
    return Rows(array, table, header)


def _of_split(stimuli, split):
    table = stimuli.table[stimuli.table["split"] == split]
    if not len(table):
        raise InputError(f"photograph: {stimuli.name} has no photograph of split {split!r}")
    return replace(stimuli, table=table)


def _pixels(picture, options):
    height, width = options.size
    method = Image.Resampling[options.interpolation.upper()]
    resized = picture.resize((width, height), method)
    if options.blur:
        resized = resized.filter(ImageFilter.GaussianBlur(options.blur))
    return np.asarray(resized)
