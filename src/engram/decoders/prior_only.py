"""Decoder "prior_only": what another decoder draws of the prediction of another test image.

A decoder knows of an image what was predicted of it and nothing else, so that its picture for the
prediction of another image is its picture of that image. What it scores against the image itself is
what any plausible picture scores: the share of the generator alone.
"""

from dataclasses import dataclass

import numpy as np

from engram import decoders
from engram.errors import InputError

DEVICE = "cpu"
READS = {"of": "pictures"}


@dataclass(frozen=True, kw_only=True)
class Options(decoders.Options):
    """Options of the decoder.

    Attributes:
        of: another decoder.
        seed: of the order in which the test images of a subject stand in a ring, each given the
            prediction of the next.
    """

    of: str


def load(options, sources, weights, device) -> "Decoder":
    """The pictures of the other decoder."""
    return Decoder(tuple(sources["of"]["shape"][:2]))


def others(options, images) -> np.ndarray:
    """Position of the image whose prediction each image gets, int (n,), never its own.

    Args:
        options: `Options`.
        images: names (n,), in any order; one that occurs several times is one image.

    Raises:
        InputError: there are fewer than two images.
    """
    names, first = np.unique(images, return_index=True)
    if len(names) < 2:
        raise InputError("decoder prior_only: there is one test image, and no other to exchange")
    ring = np.random.default_rng(options.seed).permutation(len(names))
    following = np.empty(len(names), int)
    following[ring] = np.roll(ring, -1)
    return first[following][np.searchsorted(names, images)]


class Decoder:
    """Pictures as they are.

    Attributes:
        size: (height, width).
        facts: for the header.
    """

    def __init__(self, size):
        self.size, self.facts = size, {}

    def __call__(self, given, generators) -> np.ndarray:
        """uint8 RGB (b, height, width, 3)."""
        return given["of"]
