"""DALL-E's encoder against its definition, computed from the tensors of a published file."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import conv2d, max_pool2d, relu

from engram.errors import InputError
from engram.frozen import checkpoints
from engram.planning.components import options

PICTURES = {"what": "picture"}
WIDTHS = [256, 256, 512, 1024, 2048]


def backbone(weights=None, view=PICTURES, **keys):
    keys = {"size": [64, 64], "batch": 1, "precision": "fp32"} | keys
    if weights:
        keys["weights"] = str(weights)
    module, chosen = options("backbones", {"kind": "dalle", **keys})
    return module.load(chosen, weights, view, "cpu")


def pictures(n=1):
    return np.random.default_rng(0).integers(0, 256, (n, 90, 120, 3), np.uint8)


def published_tensors():
    """Random tensors under the names and in the shapes of the published encoder."""
    draw = torch.Generator().manual_seed(5)

    def convolution(name, channels, wider, kernel):
        deviation = (2 / (channels * kernel**2)) ** 0.5
        shape = (wider, channels, kernel, kernel)
        tensors[f"{name}.w"] = torch.randn(shape, generator=draw) * deviation
        tensors[f"{name}.b"] = torch.randn(wider, generator=draw) * 0.1

    tensors = {}
    convolution("blocks.input", 3, 256, 7)
    for group in range(1, 5):
        for block in 1, 2:
            name = f"blocks.group_{group}.block_{block}"
            channels, wider = WIDTHS[group - 1 if block == 1 else group], WIDTHS[group]
            if channels != wider:
                convolution(f"{name}.id_path", channels, wider, 1)
            convolution(f"{name}.res_path.conv_1", channels, wider // 4, 3)
            convolution(f"{name}.res_path.conv_2", wider // 4, wider // 4, 3)
            convolution(f"{name}.res_path.conv_3", wider // 4, wider // 4, 3)
            convolution(f"{name}.res_path.conv_4", wider // 4, wider, 1)
    convolution("blocks.output.conv", 2048, 8192, 1)
    return tensors


def reference(tensors, images):
    """The map that goes into the output convolution, and the logits."""

    def convolved(x, name):
        weight = tensors[f"{name}.w"]
        return conv2d(x, weight, tensors[f"{name}.b"], padding=(weight.shape[-1] - 1) // 2)

    x = convolved(images, "blocks.input")
    for group in range(1, 5):
        for block in 1, 2:
            name = f"blocks.group_{group}.block_{block}"
            residual = x
            for i in range(1, 5):
                residual = convolved(relu(residual), f"{name}.res_path.conv_{i}")
            identity = convolved(x, f"{name}.id_path") if f"{name}.id_path.w" in tensors else x
            x = identity + residual / 64
        x = max_pool2d(x, 2) if group < 4 else x
    x = relu(x)
    return x, convolved(x, "blocks.output.conv")


def pickled_module(tensors):
    """Modules of classes that only this process has, with the tensors under their names."""
    package = types.ModuleType("dall_e")
    package.encoder = types.ModuleType("dall_e.encoder")

    def kind(name):
        made = type(name, (torch.nn.Module,), {"__module__": "dall_e.encoder"})
        setattr(package.encoder, name, made)
        return made

    encoder, part = kind("Encoder"), kind("Part")
    whole = encoder()
    whole.device, whole.vocab_size = torch.device("cpu"), 8192
    for name, tensor in tensors.items():
        module = whole
        *path, last = name.split(".")
        for step in path:
            if step not in module._modules:
                module.add_module(step, part())
            module = module._modules[step]
        module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    return package, whole


@pytest.fixture(scope="module")
def tensors():
    return published_tensors()


@pytest.fixture(scope="module", params=[True, False], ids=["zip", "legacy"])
def published(request, tensors, tmp_path_factory):
    """The encoder saved whole, in either format of torch; its classes are gone afterwards."""
    path = tmp_path_factory.mktemp("dalle") / "encoder.pkl"
    package, whole = pickled_module(tensors)
    sys.modules |= {"dall_e": package, "dall_e.encoder": package.encoder}
    torch.save(whole, path, _use_new_zipfile_serialization=request.param)
    del sys.modules["dall_e"], sys.modules["dall_e.encoder"]
    return path


def test_the_published_file_gives_the_features_of_the_definition(published, tensors):
    loaded = backbone(published, dim=2048)
    expected, _ = reference(tensors, loaded.preprocessing(pictures()))
    features = loaded(pictures())
    np.testing.assert_allclose(features, expected.mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)
    assert features.std() > 0.1
    assert loaded.facts["weights"] == "encoder.pkl"
    assert loaded.facts["layer"] == ""
    loaded.check()
    assert "dall_e" not in sys.modules


@pytest.fixture(scope="module")
def state(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "encoder.pt"
    torch.save(tensors, path)
    return path


def test_tokens_are_the_positions_of_the_last_map(state, tensors):
    loaded = backbone(state, size=[64, 32], pooling="tokens")
    expected, _ = reference(tensors, loaded.preprocessing(pictures()))
    assert loaded.shape == (32, 2048)
    np.testing.assert_allclose(
        loaded(pictures()), expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4
    )


def test_the_logits_are_a_layer(state, tensors):
    loaded = backbone(state, layer="blocks.output.conv", pooling="tokens")
    _, expected = reference(tensors, loaded.preprocessing(pictures()))
    assert loaded.shape == (64, 8192)
    np.testing.assert_allclose(
        loaded(pictures()), expected.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3
    )


def test_an_inner_layer_is_averaged_over_positions(state, tensors):
    loaded = backbone(state, layer="blocks.input")
    images = loaded.preprocessing(pictures())
    weight, bias = tensors["blocks.input.w"], tensors["blocks.input.b"]
    expected = conv2d(images, weight, bias, padding=3).mean(dim=(2, 3))
    np.testing.assert_allclose(loaded(pictures()), expected, rtol=1e-4, atol=1e-4)


def test_pixels_stay_away_from_the_ends_of_the_scale(state):
    images = backbone(state).preprocessing(np.array([[[[0] * 3, [255] * 3]]], np.uint8))
    np.testing.assert_allclose(images.amin(), 0.1, atol=1e-6)
    np.testing.assert_allclose(images.amax(), 0.9, atol=1e-6)
    module, chosen = options("backbones", {"kind": "dalle"})
    assert module.PUBLISHED.size == (256, 256)
    assert module.PUBLISHED.interpolation == "lanczos"
    assert chosen.batch == 8


def test_the_catalogue_says_what_the_component_does():
    path = Path(__file__).parents[1] / "config/backbones.yaml"
    entry = yaml.safe_load(path.read_text())["backbones"]["dalle"]
    module, _ = options("backbones", {"kind": "dalle"})
    published = module.PUBLISHED
    assert entry["size"] == list(published.size)
    assert (entry["mean"], entry["std"]) == (list(published.mean), list(published.std))
    assert entry["interpolation"] == published.interpolation


def test_random_weights_follow_their_seed():
    one, same, other = (backbone(size=[8, 8], seed=seed) for seed in (1, 1, 2))
    assert one.facts["weights_sha256"] == same.facts["weights_sha256"]
    assert one.facts["weights_sha256"] != other.facts["weights_sha256"]
    with torch.no_grad():
        one.model.blocks.input.b[0] += 1
    with pytest.raises(RuntimeError, match="changed while it was used"):
        one.check()


def test_missing_and_extra_tensors_are_refused_by_name(tensors, tmp_path):
    wrong = dict(tensors)
    wrong["blocks.group_5.w"] = wrong.pop("blocks.group_2.block_1.id_path.b")
    wrong["blocks.input.w"] = torch.zeros(256, 1, 7, 7)
    torch.save(wrong, tmp_path / "wrong.pt")
    with pytest.raises(InputError) as caught:
        backbone(tmp_path / "wrong.pt")
    assert "wrong.pt: not the weights of the encoder of DALL-E" in str(caught.value)
    assert "1 missing (blocks.group_2.block_1.id_path.b)" in str(caught.value)
    assert "1 unexpected (blocks.group_5.w)" in str(caught.value)
    assert "blocks.input.w [256, 1, 7, 7] instead of [256, 3, 7, 7]" in str(caught.value)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.0001])
def test_a_truncated_file_is_refused(share, published, tmp_path):
    content = published.read_bytes()
    (tmp_path / "encoder.pkl").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"encoder\.pkl: not a readable checkpoint"):
        checkpoints.read(tmp_path / "encoder.pkl")


def test_a_size_that_pooling_does_not_divide_is_refused():
    with pytest.raises(InputError, match="multiples of 8"):
        backbone(size=[100, 64])
