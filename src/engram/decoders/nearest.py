"""Decoder "nearest": the training picture whose true features are closest to the predicted ones.

Nothing is generated: it is what a generator has to beat. Test pictures of published data resemble
training pictures, so that a search among these explains much of what generators score (Shirakawa et
al. 2025, Spurious reconstruction from brain activity, Neural Networks, arXiv:2405.10078).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engram import decoders
from engram.errors import InputError
from engram.training import ridge

DEVICE = "cpu"
READS = {"latents": "latents"}
TRAINING = "latents"

BYTES = 64 << 20  # true features at a time


@dataclass(frozen=True, kw_only=True)
class Options(decoders.Options):
    """Options of the decoder.

    Attributes:
        latents: an experiment that predicts features of pictures, `view/backbone`; the pictures are
            those of the view.
        measure: of closeness: `correlation` over all targets, each in standard deviations of the
            training pictures around their mean, as images are told apart in scores; or the `cosine`
            of the features as they are.
        batch_size: images for which the true features are read through once.
    """

    latents: str
    measure: Literal["correlation", "cosine"] = "correlation"
    batch_size: int = 1024


def load(options, sources, weights, device) -> "Decoder":
    """The training pictures of the subject and their true features.

    Raises:
        InputError: features and predictions differ in length, or the view holds no pictures.
    """
    training = sources["training"]
    predicted, true = (
        int(np.prod(s)) for s in (sources["latents"]["shape"], training.features.shape[1:])
    )
    if predicted != true:
        raise InputError(
            f"decoder nearest: {predicted} numbers are predicted and the true features have "
            f"{true}; train {options.latents} again"
        )
    if len(training.pictures.shape) != 4:
        raise InputError("decoder nearest: the features of the latents are not of pictures")
    return Decoder(training, options.measure)


class Decoder:
    """Predicted features (b, d) to training pictures.

    Attributes:
        size: (height, width).
        facts: for the header.
    """

    def __init__(self, training, measure):
        self.training, self.measure = training, measure
        self.size = tuple(training.pictures.shape[1:3])
        self.facts = {"measure": measure, "training_images": "those of the subject"}
        self.n = len(training.images)
        if measure == "correlation":
            self.mean, sd = ridge.moments(training.features, np.arange(self.n))
            self.scale = np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)

    def __call__(self, given, generators) -> np.ndarray:
        """uint8 RGB (b, height, width, 3)."""
        return self.training.pictures[self.closest(given["latents"])]

    def closest(self, predicted) -> np.ndarray:
        """Position of the closest training image, int (b,); of equals the first."""
        predicted = self._direction(predicted)
        best, at = np.full(len(predicted), -np.inf), np.zeros(len(predicted), int)
        step = max(1, BYTES // (4 * predicted.shape[1]))
        for start in range(0, self.n, step):
            rows = np.arange(start, min(start + step, self.n))
            alike = predicted @ self._direction(self.training.features[rows]).T
            highest = alike.argmax(1)
            value = alike[np.arange(len(alike)), highest]
            at[value > best] = rows[highest][value > best]
            best = np.maximum(best, value)
        return at

    def _direction(self, values):
        """float32 (m, d) of length 1, whose products are what is measured; 0 where undefined."""
        values = np.asarray(values, np.float32).reshape(len(values), -1)
        if self.measure == "correlation":
            values = (values - self.mean.astype(np.float32)) * self.scale.astype(np.float32)
            values -= values.mean(1, keepdims=True)
        length = np.linalg.norm(values, axis=1, keepdims=True)
        return np.divide(values, length, out=np.zeros_like(values), where=length > 0)
