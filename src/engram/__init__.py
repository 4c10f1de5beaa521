"""Frozen models on brain recordings: features once, heads on top, honest scores."""

from engram import torchvision_compat

__version__ = "0.1.0"

CODE_VERSION = 1

torchvision_compat.install()
