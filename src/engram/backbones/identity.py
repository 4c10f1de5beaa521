"""The series or epochs themselves, flattened: what is there before any model."""

from dataclasses import dataclass

import numpy as np

from engram.frozen.series import regions

DEVICE = "cpu"

TAKES = {"what": {"timeseries": ["channels"], "epochs": ["channels"]}}

BATCH = 64


@dataclass(frozen=True)
class Options:
    """No options."""


def load(options, weights, view, device) -> "Identity":
    """The rows of a view of series or epochs.

    Args:
        options: `Options`.
        weights: None, there are none.
        view: header of the view store.
        device: not used.
    """
    return Identity(regions(view), view)


class Identity:
    """Backbone without weights.

    Attributes:
        shape: (regions * frames,), all frames of one region after those of another.
        dtype, batch: number format in the store, rows a call.
        facts: for the header; `nodes` names the regions.
    """

    def __init__(self, present, view):
        self.present = present
        self.shape = (len(present) * (view.get("frames") or len(view["times"])),)
        self.dtype, self.batch = "float32", BATCH
        self.facts = {
            "weights": "none",
            "nodes": [view["channels"][i] for i in present],
            "unit": view["unit"],
        }

    def __call__(self, rows):
        """Features, float32 (b, roi * time), of series (b, roi, time)."""
        return np.ascontiguousarray(rows[:, self.present], np.float32).reshape(len(rows), -1)

    def check(self):
        """There are no weights that could change."""
