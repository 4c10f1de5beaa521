"""Files of weights and pickles that would hang, fill memory, or be taken for what they are not."""

import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from test_backbones import VIT, backbone

from engram.errors import InputError
from engram.frozen import checkpoints
from engram.readers import array_pickles


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    return timm.create_model(VIT).state_dict()


def refused(path, says):
    with pytest.raises(InputError, match=says) as error:
        backbone("timm", weights=path, model=VIT)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrapper", [None, *checkpoints.WRAPPERS])
@pytest.mark.parametrize(
    "before", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_what_training_puts_around_weights_is_taken_off(tensors, wrapper, before, tmp_path):
    named = {f"{before}{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 3, wrapper: named} if wrapper else named, tmp_path / "w.pt")
    found = checkpoints.read(tmp_path / "w.pt")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_an_average_beside_the_weights_is_said(tensors, tmp_path, capsys):
    average = {name: tensor + 1 for name, tensor in tensors.items() if tensor.is_floating_point()}
    for name in ("state_dict_ema", "optimizer"):
        beside = tensors | average if name == "state_dict_ema" else {"state": {0: tensors}}
        torch.save({"state_dict": tensors, name: beside}, tmp_path / "w.pt")
        found = checkpoints.read(tmp_path / "w.pt")
        assert torch.equal(found["norm.weight"], tensors["norm.weight"])
        assert ("`state_dict_ema`" in capsys.readouterr().out) == (name == "state_dict_ema")


def test_weights_behind_a_prefix_name_the_option_that_helps(tensors, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({f"student.{name}": tensor for name, tensor in tensors.items()}, path)
    refused(path, r"w\.safetensors: not the weights .*'student\.': set it as `prefix`")
    backbone("timm", weights=path, model=VIT, prefix="student.")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_blamed_on_their_file(tensors, value, tmp_path):
    broken = {name: tensor.clone() for name, tensor in tensors.items()}
    broken["norm.weight"][3] = value
    save_file(broken, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", "w.safetensors: tensor norm.weight .* not finite")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (lambda t: dict(enumerate(t.values())), "called 0, which is no text"),
        (lambda t: {**t, "norm.weight": "a text"}, "norm.weight is no tensor but str"),
        (lambda t: [*t.values()], "holds no tensors by name"),
    ],
)
def test_what_is_no_tensor_by_name_is_refused(tensors, changed, says, tmp_path):
    torch.save(changed(tensors), tmp_path / "w.pt")
    refused(tmp_path / "w.pt", f"w.pt: .*{says}")


def test_an_archive_that_inflates_without_bound_is_refused(tensors, tmp_path):
    torch.save(tensors, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in members.items():
            bomb.writestr(name, content)
        bomb.writestr("archive/data/bomb", bytes(1 << 28))
    assert (tmp_path / "w.pt").stat().st_size < 4 << 20
    refused(tmp_path / "w.pt", "w.pt: .*inflates to")


# ---- pickles of a few bytes ---------------------------------------------------------------

IN_TIME = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
sys.path[:0] = sys.argv[2:]
from engram.errors import InputError
from engram.frozen import checkpoints
from engram.readers import array_pickles
try:
    print(type({0}(sys.argv[1])))
except InputError as error:
    print("refused", error)
"""


def shared(depth, wrap):
    value = wrap([])
    for _ in range(depth):
        value = wrap([value, value])
    return value


def as_dict(items):
    return dict(zip("ab", items, strict=False))


@pytest.mark.parametrize("wrap", [list, tuple, as_dict])
def test_what_stands_in_many_places_is_read_once(wrap, tmp_path):
    path = tmp_path / "labels.pkl"
    path.write_bytes(pickle.dumps(shared(60, wrap)))
    assert path.stat().st_size < 1 << 10
    assert ended(path, "array_pickles.load")
    torch.save(shared(60, wrap), tmp_path / "w.pt")
    assert ended(tmp_path / "w.pt", "checkpoints.read")


def ended(path, reader):
    code = IN_TIME.replace("{0}", reader)
    command = [sys.executable, "-c", code, str(path), *sys.path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def test_what_holds_itself_ends(tmp_path):
    value = []
    value.append(value)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": value, "y": np.arange(3)}))
    found = array_pickles.load(tmp_path / "a.pkl")
    np.testing.assert_array_equal(found["y"], np.arange(3))
