"""Mean colours of a coarse grid over a picture: what every image encoder has to beat.

What an encoder's features tell beyond these is not in the layout of colours alone.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from engram.errors import InputError

DEVICE = "cpu"

TAKES = {"what": {"picture": []}}

BATCH = 256

CELL = 32  # pixels along a side of a cell, of pictures that are brought to one size


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        grid: cells along each side of the picture.
    """

    grid: int = 8


def load(options, weights, view, device) -> "Pixels":
    """Mean colours of the rows of a view of pictures.

    Args:
        options: `Options`.
        weights: None, there are none.
        view: header of the view store.
        device: not used.

    Raises:
        InputError: `grid` is out of range.
    """
    if options.grid < 1:
        raise InputError(f"backbone pixels: grid is {options.grid}; it must be at least 1")
    return Pixels(options.grid)


class Pixels:
    """Backbone without weights.

    Attributes:
        shape: (3 * grid * grid,), colour by colour, row by row.
        dtype, batch: number format in the store, pictures a call.
        size: (height, width) and interpolation, to which files of pictures of any size are brought.
        facts: for the header.
    """

    def __init__(self, grid):
        self.grid = grid
        self.shape, self.dtype, self.batch = (3 * grid**2,), "float32", BATCH
        self.size = (grid * CELL, grid * CELL), "bilinear"
        self.facts = {"weights": "none", "grid": grid, "unit": "mean colour, 0 to 1"}

    def __call__(self, rows):
        """Features, float32 (b, d), of pictures, uint8 (b, height, width, 3)."""
        colours = torch.as_tensor(np.ascontiguousarray(rows)).movedim(-1, 1).float() / 255
        return F.adaptive_avg_pool2d(colours, self.grid).flatten(1)

    def check(self):
        """There are no weights that could change."""
