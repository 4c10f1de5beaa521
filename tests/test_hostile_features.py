"""Weights that mean harm, or are not what is meant, by `engram features`."""

import io
import pickle
import zipfile

import hostile
import numpy as np
import pytest
import torch
from PIL import Image

from engram.errors import InputError
from engram.frozen import checkpoints
from engram.readers import array_pickles

STUDY = """
backbones:
  small: {kind: timm, model: resnet18, weights: weights.pt, size: [32, 32]}
"""


@pytest.fixture(scope="module")
def good():
    import timm

    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=0).state_dict()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    Image.fromarray(np.full((40, 40, 3), 7, "u1")).save("a.png")
    return tmp_path


def features(prefix=""):
    """What `engram features` says, and what it wrote."""
    from engram import store

    if prefix:
        line = f"weights: weights.pt, prefix: {prefix}"
        text = STUDY.replace("weights: weights.pt", line)
        with open("study.yaml", "w") as file:
            file.write(text)
    command = ("features", "a.png", "--backbone", "small", "--configfile", "study.yaml")
    said = hostile.command(*command, "-o", "a.h5", memory=3 << 30, seconds=60)
    try:
        return said, store.open("a.h5")[:]
    except InputError:
        return said, None


def test_an_average_beside_the_weights_is_said_and_can_be_chosen(folder, good):
    average = {f"module.{name}": tensor * 0.5 for name, tensor in good.items()}
    torch.save({"state_dict": good, "state_dict_ema": average, "epoch": 3}, "weights.pt")
    said, plain = features()
    assert said.count("`state_dict` is taken; `state_dict_ema`") == 1
    assert "`prefix: state_dict_ema.`" in said
    (folder / "a.h5").unlink()
    said, chosen = features("state_dict_ema.")
    assert "state_dict_ema" not in said
    torch.save({name: tensor * 0.5 for name, tensor in good.items()}, "weights.pt")
    (folder / "a.h5").unlink()
    (folder / "study.yaml").write_text(STUDY)
    _, alone = features()
    np.testing.assert_array_equal(chosen, alone)
    assert not np.array_equal(plain, chosen)


def test_the_prefix_that_would_help_is_said(folder, good):
    torch.save({f"encoder.trunk.{name}": tensor for name, tensor in good.items()}, "weights.pt")
    said, found = features()
    assert "'encoder.trunk.': set it as `prefix`" in said
    assert found is None
    said, found = features("encoder.trunk.")
    assert found.shape == (1, 512)


def test_weights_that_are_nan_are_blamed_not_the_rows(folder, good):
    torch.save(good | {"conv1.weight": good["conv1.weight"] * torch.nan}, "weights.pt")
    said, found = features()
    assert said.splitlines()[-1].startswith("error:")
    assert "weights.pt: tensor conv1.weight holds values that are not finite" in said
    assert found is None


def several(n):
    """A module that holds the one below twice, n deep: 2 ** n names."""
    module = torch.nn.Linear(1, 1)
    for _ in range(n):
        outer = torch.nn.Module()
        outer.a = outer.b = module
        module = outer
    return module


def inflated(path, good):
    """Of zeros, packed: as large as a thousandth of what it unpacks to."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1 << 26)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(path, "w", 8, compresslevel=1) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))


def repeated(path, good):
    content = dict(good)
    content["conv1.weight"] = torch.zeros(1).as_strided((64, 3, 7, 1 << 30), (0, 0, 0, 0))
    torch.save(content, path)


WEIGHTS = {
    "numbers for names": (lambda p, good: torch.save({1: torch.ones(3)}, p), "called 1"),
    "numbers below": (lambda p, good: torch.save({"model": {0: torch.ones(3)}}, p), "called 0"),
    "text": (lambda p, good: torch.save(good | {"conv1.weight": "x"}, p), "no tensor but str"),
    "sparse": (
        lambda p, good: torch.save(good | {"fc.weight": torch.eye(3).to_sparse()}, p),
        "or a sparse one",
    ),
    "without values": (
        lambda p, good: torch.save(good | {"bn1.bias": torch.empty(64, device="meta")}, p),
        "has no values",
    ),
    "list": (lambda p, good: torch.save([torch.ones(3)], p), "no tensors by name"),
    "nothing": (lambda p, good: torch.save({}, p), "no tensors by name"),
    "shared modules": (lambda p, good: torch.save(several(40), p), "without end"),
    "inflated": (inflated, "inflates to 256 MiB"),
    "repeated": (repeated, "more values than are stored"),
    "memo": (lambda p, good: p.write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f."), "not a readable"),
    "deep": (lambda p, good: p.write_bytes(b"\x80\x02" + b"]" * 10**6 + b"."), "not a readable"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_hostile_weights_are_one_line(folder, good, kind):
    write, message = WEIGHTS[kind]
    write(folder / "weights.pt", good)
    said, found = features()
    assert said.splitlines()[-1].startswith("error:")
    assert message in said.splitlines()[-1]
    assert "weights.pt" in said
    assert found is None


HEADERS = {
    "length": (2**62).to_bytes(8, "little") + b"{}",
    "no JSON": (4).to_bytes(8, "little") + b"abcd",
    "deep": (60_000).to_bytes(8, "little") + b"[" * 60_000,
    "beyond": b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
    "overflow": b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
    "overlap": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_of_safetensors_that_lies_is_one_line(tmp_path, kind):
    body = HEADERS[kind]
    if body.startswith(b"{"):
        body = len(body).to_bytes(8, "little") + body + bytes(4)
    (tmp_path / "a.safetensors").write_bytes(body)
    said = hostile.tried(lambda: checkpoints.named(tmp_path / "a.safetensors"))
    assert said.startswith("InputError: ")
    assert "a.safetensors: not a readable checkpoint" in said


def test_objects_in_arrays_of_several_axes_keep_their_places(tmp_path):
    array = np.empty((2, 3), object)
    array[:] = [["a", "b", "c"], ["d", "e", np.arange(2)]]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(array))
    found = array_pickles.load(tmp_path / "a.pkl")
    assert found[0] == ["a", "b", "c"]
    np.testing.assert_array_equal(found[1][2], [0, 1])
