"""Arrays that lie in a file while they are filled, and the stage that fills one."""

import shutil
from collections import namedtuple

import h5py
import numpy as np
import pandas as pd
import pytest

from engram import scratch, store, views
from engram.errors import InputError
from engram.recording import Stimuli

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), np.uint8)


@pytest.fixture
def stack(tmp_path):
    with h5py.File(tmp_path / "pictures.hdf5", "w") as file:
        file.create_dataset("imgBrick", data=PICTURES)
        file.create_dataset("floats", data=PICTURES / 255)
    return tmp_path / "pictures.hdf5"


def stimuli(path, members):
    table = pd.DataFrame(
        {"split": "train", "concept": members, "source": str(path), "member": members},
        index=[f"train/{member}" for member in members],
    )
    return Stimuli("stimuli", table)


def rendered(folder, given):
    spec = {"unit": "stimuli", "view": {"kind": "photograph", "size": [8, 10]}, "windows": None}
    views.render([given], folder / "view.h5", spec, {})
    return store.open(folder / "view.h5")


@pytest.mark.parametrize("most", [0, 1 << 30])
def test_pictures_of_an_hdf5_file_are_rendered_in_the_order_of_the_table(
    stack, tmp_path, monkeypatch, most
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scratch, "IN_MEMORY", most)
    order = [4, 0, 5, 0]
    given = stimuli(stack, [f"imgBrick/{i}" for i in order])
    given.table.index = [f"train/{i}" for i in range(4)]
    found = rendered(tmp_path, given)
    np.testing.assert_array_equal(found[:], PICTURES[order])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures.hdf5", "view.h5"]


def test_pictures_that_are_not_there_are_named(stack, tmp_path):
    for member, told in {
        "imgBrick/6": r"pictures.hdf5: stimuli: train/imgBrick/6 \(imgBrick/6\) cannot be read",
        "brick/0": r"train/brick/0 .* cannot be read .*; fetch the file again",
        "floats/0": "`floats` holds float64 .8, 10, 3. a row, not uint8 RGB",
    }.items():
        with pytest.raises(InputError, match=told):
            rendered(tmp_path, stimuli(stack, [member]))
    stack.write_bytes(stack.read_bytes()[:300])
    with pytest.raises(InputError, match=r"pictures.hdf5: the file cannot be read"):
        rendered(tmp_path, stimuli(stack, ["imgBrick/0"]))


def test_a_disk_that_is_too_small_is_said_before_the_start(monkeypatch):
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1 << 40, 0, 3 << 30))
    with pytest.raises(InputError, match=r"2.0 GiB of rows are to be made and 3.0 GiB are free"):
        scratch.empty((1 << 20, 1 << 9), np.float32)
    assert scratch.empty((1 << 10, 1 << 9), np.float32).shape == (1 << 10, 1 << 9)
