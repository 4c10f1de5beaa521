"""Contrastive alignment of EEG with image features.

An EEG encoder and a projector map an epoch to a vector, a projector or nothing maps the features
of its image to another, and a symmetric InfoNCE loss brings pairs together (Radford et al. 2021).
Choices are made on validation epochs; rows that neither train nor validate are never read.
"""

from engram.contrastive.data import Rows
from engram.contrastive.loop import fit, schedule, some_repetitions, top5_of_draws
from engram.contrastive.network import (
    Model,
    Network,
    info_nce,
    normalised,
    restored,
    similarity,
    vectors,
)
from engram.contrastive.options import Options

__all__ = [
    "Model",
    "Network",
    "Options",
    "Rows",
    "fit",
    "info_nce",
    "normalised",
    "restored",
    "schedule",
    "similarity",
    "some_repetitions",
    "top5_of_draws",
    "vectors",
]
