"""Backbone pixels: means of cells by brute force, what it refuses, how it is extracted."""

import numpy as np
import pandas as pd
import pytest

from engram import store
from engram.backbones import extract, pixels
from engram.errors import InputError
from engram.store import Rows

PICTURE = {"what": "picture", "axes": 3}


@pytest.mark.parametrize(("height", "width", "grid"), [(24, 16, 8), (64, 64, 1), (30, 50, 10)])
def test_features_are_the_mean_colours_of_cells(height, width, grid):
    pictures = np.random.default_rng(0).integers(0, 256, (5, height, width, 3), np.uint8)
    found = np.asarray(pixels.load(pixels.Options(grid), None, PICTURE, "cpu")(pictures))
    assert found.shape == (5, 3 * grid**2)
    h, w = height // grid, width // grid
    for i, colour, row, column in [(0, 0, 0, 0), (4, 2, grid - 1, 0), (2, 1, grid // 2, grid - 1)]:
        cell = pictures[i, row * h : (row + 1) * h, column * w : (column + 1) * w, colour]
        place = (colour * grid + row) * grid + column
        assert found[i, place] == pytest.approx(cell.mean() / 255, abs=1e-6)


def test_it_is_extracted_like_any_backbone(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    table = pd.DataFrame({"exclude": ""}, index=["a", "b", "c"])
    store.write(tmp_path / "v.h5", Rows(pictures, table, PICTURE))
    spec = {"backbone": {"kind": "pixels", "grid": 4}}
    extract(tmp_path / "v.h5", None, tmp_path / "f.h5", spec, {}, "cpu")
    found = store.open(tmp_path / "f.h5")
    assert found.header["weights"] == "none"
    np.testing.assert_allclose(found[:][:, 0], pictures[:, :4, :4, 0].mean((1, 2)) / 255, atol=1e-6)


def test_what_is_refused():
    with pytest.raises(InputError, match="grid is 0"):
        pixels.load(pixels.Options(0), None, PICTURE, "cpu")
