"""Frozen models on brain recordings: features once, heads on top, honest scores."""

import importlib
import os

from engram import torchvision_compat

__version__ = "0.1.0"

CODE_VERSION = 1

torchvision_compat.install()

# Threads of PyTorch that wait for each other spin, and on a busy machine spin away the time of
# those they wait for: training an EEG encoder with two threads beside other work took ten times as
# long. They now spin some microseconds, then sleep. Read when PyTorch is imported, later.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name):
    # An import statement would make every stage depend on what only few ask for.
    if name == "load_model":
        return importlib.import_module("engram.trained").load_model
    raise AttributeError(f"module 'engram' has no attribute {name!r}")
