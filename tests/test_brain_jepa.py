"""Brain-JEPA: its networks and frozen use, beside published numbers and plain formulas."""

import json
import zlib

import numpy as np
import pytest
import torch
from published import backbone, save
from safetensors.torch import save_file
from torch.nn import functional

from engram.errors import InputError
from engram.frozen.backbone import build
from engram.models import brain_jepa
from engram.readers import atlases

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
    """The published encoder's size with golden weights, which are not drawn twice."""
    return drawn(build(lambda: brain_jepa.Encoder(GRADIENTS), None, "golden"))


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


REGIONS = list(atlases.named(["tian_s3", "schaefer400_17n"]))
VIEW = {"what": "timeseries", "channels": REGIONS, "missing": [], "tr": 2.2, "frames": 160}
SMALL = {"width": 16, "depth": 2, "heads": 2, "windows": 3}
FEW = VIEW | {"channels": list("abcdef"), "frames": 48}


def checkpoint(encoder):
    """What the published training saves, around the weights of `encoder`."""
    target = {f"module.{name}": tensor for name, tensor in encoder.state_dict().items()}
    others = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in target.items()}
    counts = {"epoch": 300, "loss": 0.1, "batch_size": 16, "world_size": 4, "lr": 1e-6}
    return {"encoder": others, "target_encoder": target, "predictor": {}, "opt": {}} | counts


@pytest.fixture
def places(tmp_path):
    path = tmp_path / "gradient_mapping_450.csv"
    np.savetxt(path, GRADIENTS, delimiter=",")
    return str(path)


@pytest.fixture
def few(tmp_path):
    """A file of gradients of six regions."""
    path = tmp_path / "gradients.csv"
    numbers = tiny()[0].pos_embed_proj.gradients.tolist()
    rows = zip("abcdef", numbers, strict=True)
    lines = [",".join([name, *map(str, row)]) for name, row in rows]
    path.write_text("\n".join(["region,1,2,3,4", *lines]))
    return str(path)


def test_a_published_checkpoint_loads(base, places, tmp_path):
    """In full size, as far as the first block; the rest has the same shapes."""
    path = save(checkpoint(base), tmp_path / "jepa-ep300.pth.tar")
    frozen = backbone(
        "brain_jepa", path, VIEW, gradients=places, layer="blocks.0", dim=768,
        normalisation="global",
    )  # fmt: skip
    x = waves(450, 160)
    with torch.no_grad():
        x = base.patch_embed((x - x.mean()) / x.std(correction=0)) + base.pos_embed_proj()
        wanted = base.blocks[0](x).mean(1)
    torch.testing.assert_close(frozen(waves(450, 160).numpy()), wanted)
    for name, tensor in frozen.model.state_dict().items():
        torch.testing.assert_close(tensor, base.state_dict()[name], rtol=0, atol=0)


def test_features_are_the_mean_of_all_tokens_without_its_mean_and_scale(few, tmp_path):
    encoder = drawn(tiny()[0])
    path = save(checkpoint(encoder), tmp_path / "jepa.pth.tar")
    others = SMALL | {"gradients": few, "normalisation": "global"}
    frozen = backbone("brain_jepa", path, FEW, **others)
    series = waves(6, 48)
    series = (series - series.mean()) / series.std(correction=0)
    mean = encoder(series).mean(1).numpy()
    wanted = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-5)
    np.testing.assert_allclose(frozen(waves(6, 48).numpy()), wanted, atol=1e-5)
    assert frozen.facts["preprocessing"]["gradients"] == [6, 4]
    tokens = backbone("brain_jepa", path, FEW, pooling="tokens", **others)
    torch.testing.assert_close(tokens(waves(6, 48).numpy()), encoder(series))


def pretrained(path, encoder, **beside):
    """What stage `pretrain` writes."""
    beside["gradients"] = encoder.pos_embed_proj.gradients
    facts = json.dumps({"view": FEW})
    save_file(encoder.state_dict() | beside, path, {"engram": facts})
    return path


def test_weights_that_carry_their_gradients_need_no_file(tmp_path):
    encoder = drawn(tiny()[0])
    path = pretrained(tmp_path / "pretrained.safetensors", encoder)
    frozen = backbone("brain_jepa", path, FEW, pooling="tokens", **SMALL)
    torch.testing.assert_close(frozen(waves(6, 48).numpy()), encoder(waves(6, 48)))
    twin = backbone("brain_jepa", None, FEW, gradients=str(path), **SMALL)
    sha = [one.facts["preprocessing"]["gradients_sha256"] for one in (frozen, twin)]
    assert sha[0] == sha[1]
    with pytest.raises(InputError, match="other regions than the 2"):
        backbone("brain_jepa", path, FEW | {"channels": ["a", "b"]}, **SMALL)
    with pytest.raises(InputError, match="in another order"):
        backbone("brain_jepa", path, FEW | {"channels": list("abcdfe")}, **SMALL)
    with pytest.raises(InputError, match="with tr: 2.2, but those of the view have tr: 2.0"):
        backbone("brain_jepa", path, FEW | {"tr": 2.0}, **SMALL)
    save_file(encoder.state_dict(), path)
    with pytest.raises(InputError, match="name their regions"):
        backbone("brain_jepa", None, FEW, gradients=str(path), **SMALL)


def test_random_weights_without_gradients_tell_regions_apart(tmp_path):
    frozen = backbone("brain_jepa", None, FEW, pooling="tokens", components=4, **SMALL)
    tokens = frozen(np.ones((1, 6, 48), np.float32))[0]
    distance = torch.cdist(tokens, tokens) + torch.eye(18)
    assert distance.min() > 0.01


def wave_clip(frames):
    return (1e4 + 50 * waves(6, frames)).numpy()


def test_a_clip_is_thinned_in_even_steps_and_standardised_before(few):
    view = FEW | {"frames": 145}
    frozen = backbone(
        "brain_jepa", None, view, gradients=few, clip=145, normalisation="global", **SMALL
    )
    series = wave_clip(145)
    found = frozen.preprocessing(series)[0].numpy()
    wanted = (series - series.mean(dtype=float)) / series.std(dtype=float)
    at = [int(i * 144 / 47) for i in range(48)]
    np.testing.assert_allclose(found, wanted[0][:, at], atol=1e-3)
    assert frozen.facts["preprocessing"]["clip"] == 145


def test_robust_scaling_is_that_of_the_weights(tmp_path):
    encoder, centre, scale = drawn(tiny()[0]), torch.arange(6.0), torch.arange(1.0, 7.0)
    path = pretrained(tmp_path / "jepa.safetensors", encoder, centre=centre, scale=scale)
    frozen = backbone("brain_jepa", path, FEW, normalisation="robust", pooling="tokens", **SMALL)
    scaled = (waves(6, 48) - centre[:, None]) / scale[:, None]
    torch.testing.assert_close(frozen(waves(6, 48).numpy()), encoder(scaled))
    twin = backbone("brain_jepa", None, FEW, normalisation="robust", **SMALL)
    assert twin.facts["preprocessing"]["normalisation"] == "global"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "vit_tiny"}, "has no model 'vit_tiny'"),
        ({"heads": 3}, "width 16, depth 2, heads 3"),
        ({"gradients": ""}, "needs gradients"),
        ({"windows": 4}, "rows have 48 frames, it takes 64"),
        ({"clip": 40}, "3 windows are 48 frames, of a clip of 40"),
        ({"normalisation": "robust"}, "needs the median"),
        ({"width": 24}, "of another shape"),
        ({"depth": 3}, "12 missing .*blocks.2"),
        ({"depth": 1}, "12 unexpected .*blocks.1"),
    ],
)
def test_what_does_not_fit_is_refused(few, tmp_path, change, message):
    path = save(checkpoint(tiny()[0]), tmp_path / "jepa.pth.tar")
    with pytest.raises(InputError, match=message):
        backbone("brain_jepa", path, FEW, **({"gradients": few} | SMALL | change))


def test_weights_of_others_are_not_used_at_another_rate(few, tmp_path):
    path = save(checkpoint(tiny()[0]), tmp_path / "jepa.pth.tar")
    with pytest.raises(InputError, match="a frame comes each 0.735 s"):
        backbone("brain_jepa", path, FEW | {"tr": 0.735}, gradients=few, **SMALL)
    clipped = FEW | {"tr": 0.735, "frames": 144}
    others = SMALL | {"gradients": few, "clip": 144}
    backbone("brain_jepa", path, clipped, normalisation="global", **others)
    with pytest.raises(InputError, match="take BOLD values, .*; set `normalisation: global`"):
        backbone("brain_jepa", path, clipped, **others)
    standardised = clipped | {"normalisation": "scan"}
    with pytest.raises(InputError, match="of the view, whose normalisation is scan"):
        backbone("brain_jepa", path, standardised, normalisation="global", **others)


def test_gradients_of_other_regions_are_refused(places):
    wrong = VIEW | {"channels": list(atlases.named(["tian_s3", "schaefer400_7n"]))}
    with pytest.raises(InputError, match="in another order"):
        backbone("brain_jepa", None, wrong, gradients=places)
