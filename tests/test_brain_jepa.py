"""Brain-JEPA: its networks, beside published numbers."""

import zlib

import numpy as np
import pytest
import torch
from torch.nn import functional

from engram.models import brain_jepa

GRADIENTS = 0.1 * np.sin(0.1 * np.outer(np.arange(1, 451), np.arange(1, 31)))
SEEN = torch.arange(0, 4500, 15)[None]
WANTED = torch.arange(7, 4500, 45)[None]


def waves(regions, frames):
    """Series (1, regions, frames) in closed form."""
    c, t = np.arange(regions)[:, None], np.arange(frames)
    wave = np.sin(0.013 * (c + 1) * (t + 1)) + 0.5 * np.cos(0.37 * t + 0.11 * c)
    return torch.from_numpy(wave[None]).float()


def drawn(module):
    """`module` with the weights that the golden numbers belong to: a rule from the names alone."""
    for name, tensor in module.state_dict().items():
        if name.endswith("emb_h"):
            continue
        seed = zlib.crc32(name.encode()) & 0x7FFFFFFF
        r = np.random.RandomState(seed).standard_normal(tensor.numel()).reshape(tensor.shape)
        norm = name.endswith("norm.weight") or name.endswith(("norm1.weight", "norm2.weight"))
        tensor.copy_(torch.from_numpy(1 + 0.1 * r if norm else 0.05 * r))
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def base():
    """The published encoder's size with golden weights."""
    return drawn(brain_jepa.Encoder(GRADIENTS))


@pytest.fixture(scope="module")
def seen(base):
    return base(waves(450, 160), SEEN)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4)


def test_positions_are_the_published_ones(base):
    at = torch.tensor([[13, 4499]])
    found = base.pos_embed_proj(at)[0]
    close(found[0, :3], [0.14112, 0.27838, 0.40414])
    close(found[0, 384:387], [-0.03696, -0.30244, -0.14928])
    close(found[1, 765:], [0.28034, -0.03816, -0.30732])
    torch.testing.assert_close(base.pos_embed_proj()[at[0]], found, rtol=0, atol=0)


def test_tokens_of_visible_windows_are_the_published_ones(seen):
    assert seen.shape == (1, 300, 768)
    close(seen[0, 0, :5], [-0.49930, 0.76798, 0.65172, 0.95946, 0.60576])
    close(seen[0, -1, :5], [-0.54847, 0.57234, 0.39088, 1.02521, 0.65357])
    close(seen.abs().mean(), 0.79091)


def test_predictions_and_their_loss_are_the_published_ones(base, seen):
    predictor = drawn(brain_jepa.Predictor(GRADIENTS))
    found = predictor(seen, SEEN, WANTED)
    assert found.shape == (1, 100, 768)
    close(found[0, 0, :5], [0.49574, 0.09715, 1.26883, -0.27006, -1.59858])
    close(found[0, -1, :5], [0.47053, -0.80034, 0.67579, -0.14110, -1.53640])
    close(found.abs().mean(), 0.80381)
    target = functional.layer_norm(base(waves(450, 160), WANTED), (768,))
    close(functional.smooth_l1_loss(found, target), 0.700828)


@pytest.mark.parametrize(
    ("size", "trained", "tables"),
    [("vit_small", 21_306_816, 864_000), ("vit_base", 85_080_960, 1_728_000),
     ("vit_large", 302_344_704, 2_304_000)],
)  # fmt: skip
def test_encoders_have_as_many_parameters_as_the_published_ones(size, trained, tables):
    width, depth, heads = brain_jepa.SIZES[size]
    with torch.device("meta"):
        encoder = brain_jepa.Encoder(torch.zeros(450, 30), 10, width, depth, heads)
    assert sum(p.numel() for p in encoder.parameters()) == trained
    assert sum(t.numel() for t in encoder.state_dict().values()) == trained + tables
    assert len(encoder.state_dict()) == 7 + 12 * depth


@pytest.mark.parametrize(
    ("encoder", "depth", "count"),
    [(384, 6, 10_949_568), (768, 6, 11_244_864), (1024, 6, 11_441_728),
     (384, 12, 21_596_352), (768, 12, 21_891_648), (1024, 12, 22_088_512)],
)  # fmt: skip
def test_predictors_have_as_many_parameters_as_the_published_ones(encoder, depth, count):
    with torch.device("meta"):
        predictor = brain_jepa.Predictor(torch.zeros(450, 30), 10, encoder, 384, depth, 12)
    assert sum(p.numel() for p in predictor.parameters()) == count
    assert len(predictor.state_dict()) == 10 + 12 * depth


def tiny(regions=6, windows=3, components=4):
    torch.manual_seed(0)
    gradients = torch.randn(regions, components)
    encoder = brain_jepa.Encoder(gradients, windows, width=16, depth=2, heads=2)
    return encoder, brain_jepa.Predictor(gradients, windows, 16, 8, 1, 2)


def test_all_tokens_named_are_all_tokens():
    encoder, _ = tiny()
    series = waves(6, 48)
    at = torch.randperm(18)[None]
    torch.testing.assert_close(encoder(series, at), encoder(series)[:, at[0]])


def test_positions_derive_through_the_smallest_and_the_largest_value():
    """Against finite differences."""
    positions = tiny()[0].pos_embed_proj.double()
    weight = positions.predictor_pos_embed_proj.weight

    def scaled(value):
        return torch.func.functional_call(
            positions, {"predictor_pos_embed_proj.weight": value}, ()
        )[:, 8:]

    value = torch.randn_like(weight).requires_grad_()
    found = scaled(value)
    assert found.min() == -1
    assert found.max() == 1
    assert torch.autograd.gradcheck(scaled, value)


def test_recomputing_blocks_changes_no_gradient():
    encoder, predictor = tiny()
    series, at, wanted = waves(6, 48), torch.tensor([[0, 4, 8]]), torch.tensor([[1, 17]])
    parameters = [*encoder.parameters(), *predictor.parameters()]
    gradients = []
    for again in (False, True):
        encoder.checkpointing = predictor.checkpointing = again
        loss = predictor(encoder(series, at), at, wanted).square().sum()
        gradients.append(torch.autograd.grad(loss, parameters))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
