"""Layers, pooling and precision of torch backbones, against the models themselves."""

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from engram.backbones.timm import timm
from engram.errors import InputError
from engram.frozen import backbone as room
from engram.frozen import checkpoints
from engram.frozen.backbone import Frozen, Options
from engram.frozen.layers import pool
from engram.planning.components import options

VIEW = {"what": "picture"}
VIT, CONVOLUTIONS = "test_vit.r160_in1k", "test_resnet.r160_in1k"


def backbone(model=VIT, **keys):
    module, chosen = options("backbones", {"kind": "timm", "model": model, "seed": 3, **keys})
    return module.load(chosen, None, VIEW, "cpu")


def library(model=VIT):
    """The same model, built by the library itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return timm.create_model(model, num_classes=0).eval()


@pytest.fixture
def rows():
    return np.random.default_rng(0).integers(0, 256, (4, 160, 160, 3), np.uint8)


def seen_by(this, rows):
    return this.preprocessing(rows)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_layer_gives_what_the_library_calls_its_intermediate(rows):
    this = backbone(layer="blocks.2", pooling="tokens")
    tokens = library().forward_intermediates(
        seen_by(this, rows),
        indices=[2],
        return_prefix_tokens=True,
        output_fmt="NLC",
        intermediates_only=True,
        norm=False,
    )[0]
    patches, prefix = tokens
    close(this(rows), torch.cat([prefix, patches], dim=1))
    assert this.shape == (101, 64)
    close(backbone(layer="blocks.2")(rows), prefix[:, 0])
    close(backbone(layer="blocks.2", pooling="mean")(rows), patches.mean(dim=1))
    close(backbone(layer="blocks.2", pooling="flatten")(rows), this(rows).flatten(1))


def test_tokens_of_the_whole_model_are_those_before_its_pooling(rows):
    this = backbone(pooling="tokens")
    close(this(rows), library().forward_features(seen_by(this, rows)))


def test_a_map_is_averaged_over_its_positions(rows):
    stages = library(CONVOLUTIONS)
    this = backbone(CONVOLUTIONS, layer="layer3")
    maps = stages.forward_intermediates(seen_by(this, rows), indices=[3], intermediates_only=True)
    close(this(rows), maps[0].mean(dim=(2, 3)))
    tokens = backbone(CONVOLUTIONS, layer="layer3", pooling="tokens")(rows)
    close(tokens, maps[0].flatten(2).transpose(1, 2))


def test_channels_may_stand_last():
    output = torch.rand(2, 5, 5, 7)
    close(pool(output, "mean", 0, ""), output.mean(dim=(1, 2)))
    close(pool(output.permute(0, 3, 1, 2), "mean", 0, ""), output.mean(dim=(1, 2)))
    with pytest.raises(InputError, match="does not tell channels from positions"):
        pool(torch.rand(2, 5, 5, 5), "mean", 0, "x")


def test_nothing_behind_a_layer_is_computed(rows):
    this, called = backbone(layer="blocks.0"), []
    this.model.blocks[1].register_forward_pre_hook(lambda *_: called.append(1))
    this(rows)
    assert not called


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layer": "block.2"}, r"no layer 'block\.2'; did you mean 'blocks\.2'"),
        ({"model": CONVOLUTIONS, "pooling": "cls"}, "has no class token; use `pooling: mean`"),
        ({"dim": 65}, r"shape \[64\], but the configuration says `dim: 65`"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_what_a_model_cannot_give_is_refused(keys, message):
    with pytest.raises(InputError, match=message):
        backbone(**keys)


def test_another_size_interpolation_and_scale_than_published(rows):
    this = backbone(size=[64, 96], interpolation="lanczos", mean=[0.1] * 3, std=[0.4] * 3)
    assert this.preprocessing.probe().shape == (1, 3, 64, 96)
    facts = this.facts["preprocessing"]
    assert (facts["mean"], facts["std"]) == ([0.1] * 3, [0.4] * 3)
    assert (facts["interpolation"], facts["mode"]) == ("lanczos, antialiased", "device")
    assert this(rows).shape == (4, 64)
    exact = backbone(size=[64, 96], mode="reference", mean=[0.1] * 3, std=[0.4] * 3)
    pillow = Image.fromarray(rows[0]).resize((96, 64), Image.Resampling.BICUBIC)
    expected = (np.asarray(pillow).transpose(2, 0, 1) / 255 - 0.1) / 0.4
    np.testing.assert_allclose(exact.preprocessing(rows[:1])[0], expected, atol=1e-5)
    assert exact.facts["preprocessing"]["mode"] == "reference"


def test_the_header_names_layer_and_pooling_and_a_layer_may_have_another_length():
    this = backbone(layer="blocks.1", pooling="mean", dim=65)
    assert (this.facts["layer"], this.facts["pooling"]) == ("blocks.1", "mean")


def test_of_a_layer_that_gives_several_outputs_the_first_is_taken():
    model = nn.Sequential(nn.LSTM(3, 5, batch_first=True)).eval()
    x = torch.rand(2, 4, 3)
    close(room.Layer(model, "0", "lstm")(x), model[0].forward(x)[0])


# ---- precision ------------------------------------------------------------------------


def test_bf16_is_recorded_and_agrees(rows):
    exact, half = backbone(precision="fp32"), backbone(precision="bf16")
    assert (exact.facts["precision"], half.facts["precision"]) == ("fp32", "bf16")
    assert exact.facts["weights_sha256"] == half.facts["weights_sha256"]
    assert half(rows).dtype == torch.float32
    cosine = torch.cosine_similarity(exact(rows), half(rows))
    assert cosine.min() > 0.999
    assert not torch.equal(exact(rows), half(rows))
    half.check()


class Fragile(nn.Module):
    """Features that live in the last digits of large numbers."""

    def __init__(self):
        super().__init__()
        self.large = nn.Parameter(torch.full((8,), 1000.37))  # bf16 cannot hold it

    def forward(self, images):
        small = images.mean(dim=(2, 3)).repeat(1, 3)[:, :8]
        return (self.large + small * torch.arange(8) / 8) - self.large


def test_features_that_bf16_would_spoil_are_computed_in_fp32(rows, capsys):
    wanted = backbone(precision="bf16")
    chosen = Options(precision="bf16")
    object.__setattr__(chosen, "model", "fragile")
    this = Frozen(Fragile(), wanted.preprocessing, chosen, None, "cpu")
    assert this.facts["precision"] == "fp32"
    assert "cosine" in capsys.readouterr().out
    close(this(rows), Fragile()(seen_by(this, rows)))
    assert this.facts["weights_sha256"] == checkpoints.digest(this.model)
    assert this.facts["weights_sha256"] == checkpoints.digest(Fragile())
    this.check()


class Blurred(nn.Module):
    """Features that bf16 spoils a little: it leaves them two bits behind the point."""

    def __init__(self):
        super().__init__()
        self.large = nn.Parameter(torch.full((64,), 64.0))

    def forward(self, images):
        return (self.large + images[:, 0, 0, :64]) - self.large


def test_a_cosine_of_less_than_0_999_is_too_little(rows):
    chosen = Options(precision="bf16")
    object.__setattr__(chosen, "model", "blurred")
    this = Frozen(Blurred(), backbone().preprocessing, chosen, None, "cpu")
    probe = this.preprocessing.probe()
    half = Blurred().to(torch.bfloat16)(probe.to(torch.bfloat16)).float()
    cosine = torch.cosine_similarity(half, Blurred()(probe)).min()
    assert 0.9 < cosine < 0.999
    assert this.facts["precision"] == "fp32"


def test_auto_is_fp32_where_the_processor_has_no_bf16(monkeypatch):
    monkeypatch.setattr(room, "multiplies_bf16", lambda device: False)
    assert backbone().facts["precision"] == "fp32"
    monkeypatch.setattr(room, "multiplies_bf16", lambda device: True)
    assert backbone().facts["precision"] == "bf16"


# ---- construction -----------------------------------------------------------------------------


def test_nothing_is_drawn_where_a_file_holds_the_weights():
    """What the file should not hold is NaN, so that no feature is made of it in silence."""
    state = torch.get_rng_state()
    model = room.build(lambda: timm.create_model(VIT), Options(weights="a.pth"), "a.pth")
    drawn = {name for name, tensor in model.state_dict().items() if tensor.isnan().any()}
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "pos_embed"} <= drawn
    assert torch.equal(model.norm.weight, torch.ones_like(model.norm.weight))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.isfinite(torch.empty(9).uniform_()).all()


def test_random_weights_are_those_of_the_seed():
    model = room.build(lambda: timm.create_model(VIT), Options(seed=3), None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = timm.create_model(VIT).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_tracker_that_is_installed_is_not_imported_with_a_model_library():
    code = "import sys, engram.backbones.timm; print('wandb' in sys.modules); "
    code += "import wandb; print(wandb.__version__)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed == ["False", importlib.metadata.version("wandb")]
