"""Frozen models on brain recordings: features once, heads on top, honest scores."""

import os

from engram import torchvision_compat

__version__ = "0.1.0"

CODE_VERSION = 1

torchvision_compat.install()

# Threads of PyTorch that wait for each other spin, and on a busy machine spin away the time of
# those they wait for: training an EEG encoder with two threads beside other work took ten times as
# long. They now spin some microseconds, then sleep. Read when PyTorch is imported, later.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
