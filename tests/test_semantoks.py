"""Brain-Semantoks: golden values, and checkpoints in the published format."""

import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from published import backbone, save

from engram import store
from engram.backbones import extract
from engram.errors import InputError
from engram.models import semantoks
from engram.readers import atlases

REGIONS = [*atlases.named(["schaefer400_7n", "tian_s3", "buckner7"])]
NETWORKS = [atlases.network(name) for name in REGIONS]

#: Regions of each network: the published table.
SIZES = (61, 77, 46, 47, 26, 52, 91, 50, 7)

VIEW = {
    "what": "timeseries",
    "channels": REGIONS,
    "missing": [],
    "frames": 100,
    "tr": 2.0,
    "sfreq": 0.5,
    "unit": "z",
}

TINY = {"width": 16, "depth": 1, "heads": 2}


def published(width=768, depth=8, projection=(1024, 128)) -> dict:
    """Shapes by published name of all that a published state dict holds, and the value of some."""
    wanted = {}
    for atlas in ("schaefer400", "tian3", "buckner7"):
        for n, size in enumerate(SIZES):
            own, heads = f"network_tokenizers.{atlas}.{n}.", -(-(width // 2) // size)
            long = f"{own}branches.1.slconv."
            wanted |= {
                f"{own}branches.0.weight": (width // 2, size, 3),
                f"{own}branches.0.bias": (width // 2,),
                f"{long}D": (heads, size),
                **{f"{long}kernel_list.{i}": (heads, size, 4) for i in range(3)},
                f"{long}multiplier": torch.full((1, size, 1), 2.0),
                f"{long}kernel_norm": (heads, size, 1),
                f"{long}kernel_norm_initialized": torch.tensor(True),
                f"{own}branches.1.projection.weight": (width // 2, heads * size),
                f"{own}branches.1.projection.bias": (width // 2,),
                f"{own}norm.weight": (width,),
                f"{own}norm.bias": (width,),
            }
    transformer = "inter_network_transformer."
    angles = np.arange(5)[:, None] * 10000.0 ** (-np.arange(width // 2) / (width // 2))
    positions = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    wanted |= {
        f"{transformer}mask_embedding": (1, width),
        f"{transformer}cls_token": (1, 1, width),
        f"{transformer}temporal_pos_embedding": torch.tensor(positions, dtype=torch.float32),
        f"{transformer}network_learnable_pos_embedding.weight": (9, width),
    }
    for i in range(depth):
        block = f"{transformer}transformer_blocks.{i}."
        wanted |= {f"{block}{n}.{p}": (width,) for n in ("norm1", "norm2") for p in WB}
        wanted |= {
            f"{block}attn.qkv.weight": (3 * width, width),
            f"{block}attn.proj.weight": (width, width),
            f"{block}attn.proj.bias": (width,),
            f"{block}mlp.0.weight": (4 * width, width),
            f"{block}mlp.0.bias": (4 * width,),
            f"{block}mlp.3.weight": (width, 4 * width),
            f"{block}mlp.3.bias": (width,),
            f"{block}ls1.gamma": (width,),
            f"{block}ls2.gamma": (width,),
        }
    norms = (f"{transformer}norm", "norm")
    wanted |= {f"{norm}.{p}": (width,) for norm in norms for p in WB}
    encoder = {name: value(name, shape) for name, shape in wanted.items()}
    hidden, out = projection
    predictor = {
        "mlp.0.weight": torch.zeros(hidden, width),
        "mlp.0.bias": torch.zeros(hidden),
        "mlp.2.weight": torch.zeros(out, hidden),
        "mlp.2.bias": torch.zeros(out),
    }
    both = [("encoder.", encoder), ("predictor.", predictor), ("mask_predictor.", predictor)]
    return {
        f"{who}_{what}{name}": tensor
        for who in ("student", "teacher")
        for what, tensors in both
        for name, tensor in tensors.items()
    }


WB = ("weight", "bias")
BUFFERS = ("multiplier", "kernel_norm", "kernel_norm_initialized", "temporal_pos_embedding")


def value(name, shape):
    """The weights by which golden values were computed: a rule of names."""
    if isinstance(shape, torch.Tensor):
        return shape
    if ".tian3." in name or ".buckner7." in name:
        return torch.zeros(shape)  # never used
    draws = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    drawn = torch.from_numpy(draws.standard_normal(int(np.prod(shape))).reshape(shape)).float()
    *_, parent, last = name.split(".")
    if last == "gamma":
        return 0.1 + 0.02 * drawn
    if last == "kernel_norm":
        return 2 + 0.1 * drawn
    return 1 + 0.1 * drawn if last == "weight" and "norm" in parent else 0.05 * drawn


def checkpoint(tensors, path):
    """A file as training writes it."""
    content = {
        "epoch": 100,
        "model_state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()},
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99)}]},
        "scheduler_state_dict": {"last_epoch": 100},
        "loss": -1.0,
        "config": {"data": {"patch_size": 20}, "run_name": "example"},
    }
    return save(content, path)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The backbone, from a checkpoint of full size in the published format."""
    tensors = published()
    assert len(tensors) == 942
    counted = [t.numel() for n, t in tensors.items() if not n.endswith(BUFFERS)]
    assert sum(counted) - 2 * 918_656 == 127_338_706  # predictors of masks are those of the class
    path = checkpoint(tensors, tmp_path_factory.mktemp("weights") / "epoch_100.pth")
    found = backbone("semantoks", path, VIEW, dim=1536)
    path.unlink()
    return found


def waves():
    c, t = np.arange(457)[:, None], np.arange(100)
    x = np.sin(0.013 * (c + 1) * (t + 1)) + 0.5 * np.cos(0.37 * t + 0.11 * c)
    return x[None].astype(np.float32)


def near(found, *expected):
    np.testing.assert_allclose(np.asarray(found), expected, atol=2e-4)


def test_published_weights_give_the_golden_features(loaded):
    (found,) = loaded(waves())
    near(found[768:774], -2.90934, -1.61233, 1.29138, -0.65232, -1.81406, 0.32734)
    near(found[:6], -1.36477, 0.24865, 0.49824, -0.01280, 0.10074, 0.09462)


def test_published_weights_give_the_golden_tokens(loaded):
    x = torch.from_numpy(waves())
    with torch.no_grad():
        (made,) = loaded.model.encoder.tokenizer(x.unflatten(-1, (5, 20)))
        (found,) = loaded.model.tokens(x)
    near(made[0, 0, :4], -0.15727, -1.11065, -0.21179, -1.30687)
    near(made[8, 4, [380, 382, 384, 386]], -0.39875, -0.88401, 2.14128, -0.89508)
    near(made.abs().mean(), 0.78980)
    near(found[45, -3:], 0.53142, 0.62984, 1.28517)
    near(found.abs().mean(), 0.78756)


def test_networks_that_are_missing_are_masked(loaded):
    x = waves()
    x[:, 400:] = 0
    (found,) = loaded(x)
    near(found[768:774], -1.41826, -1.42680, 0.68171, -1.48286, -1.10216, -0.71332)
    near(found[:4], -1.22233, -0.05605, 0.37596, -0.21755)


def test_the_model_has_the_published_size(loaded):
    encoder = loaded.model.encoder
    assert sum(p.numel() for p in encoder.parameters()) == 58_720_931
    assert len(encoder.state_dict()) == 208
    assert sum(p.numel() for p in semantoks.Projector(768).parameters()) == 918_656


# ---- files ------------------------------------------------------------------------------


def small():
    return published(width=16, depth=1, projection=(8, 4))


def encoded(path, **keys):
    return backbone("semantoks", path, VIEW, **TINY, **keys)(waves())


def test_the_teacher_is_loaded_or_whichever_the_prefix_names(tmp_path):
    tensors = small()
    name = "encoder.norm.bias"
    tensors[f"student_{name}"] = tensors[f"teacher_{name}"] + 1
    path = checkpoint(tensors, tmp_path / "both.pth")
    teacher = encoded(path)
    assert torch.equal(encoded(path, prefix="teacher_encoder."), teacher)
    torch.testing.assert_close(encoded(path, prefix="student_encoder."), teacher + 1)


def test_an_encoder_alone_and_our_own_names_load_too(tmp_path):
    tensors = small()
    expected = encoded(checkpoint(tensors, tmp_path / "whole.pth"))
    start = "teacher_encoder."
    alone = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    assert torch.equal(encoded(save(alone, tmp_path / "alone.pth")), expected)
    own = backbone("semantoks", tmp_path / "alone.pth", VIEW, **TINY).model.encoder.state_dict()
    assert torch.equal(encoded(save(own, tmp_path / "own.safetensors")), expected)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("norm.bias", None, r"1 missing \(norm.bias\)"),
        ("norm.bias", torch.zeros(17), r"of another shape \(norm.bias \[17\] instead of \[16\]"),
        ("head.weight", torch.zeros(2), r"1 unexpected \(head.weight\)"),
        ("network_tokenizers.atlas.0.norm.bias", torch.zeros(16), "1 unexpected"),
        ("inter_network_transformer.temporal_pos_embedding", torch.zeros(5, 16), "is not what the"),
        ("inter_network_transformer.temporal_pos_embedding", torch.zeros(4, 16), "is not what the"),
        (
            "network_tokenizers.schaefer400.3.branches.1.slconv.kernel_norm_initialized",
            torch.tensor(False),
            "kernel_norm_initialized is not what the published model has",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, name, tensor, message):
    tensors = small()
    tensors[f"teacher_encoder.{name}"] = tensor
    tensors = {n: t for n, t in tensors.items() if t is not None}
    path = checkpoint(tensors, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=message):
        encoded(path)


def test_a_checkpoint_with_something_else_beside_is_refused(tmp_path):
    path = checkpoint(small() | {"decoder.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"also holds decoder.weight"):
        encoded(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 99}, "crops of 100 frames, but a row of the view has 99"),
        ({"channels": ["a", *REGIONS[1:]]}, "'a' says no network"),
    ],
)
def test_rows_that_are_too_short_or_of_unknown_networks_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        backbone("semantoks", None, VIEW | change, **TINY)


# ---- rows -------------------------------------------------------------------------------


def noise(frames, n=1, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 457, frames), np.float32)


def test_features_are_means_over_evenly_spaced_crops():
    rows, view = noise(137, 2), VIEW | {"frames": 137}
    crop = backbone("semantoks", view=VIEW, batch=2, **TINY)
    each = [crop(rows[..., start : start + 100]) for start in (0, 18, 37)]
    found = backbone("semantoks", view=view, batch=2, crops=3, **TINY)
    torch.testing.assert_close(found(rows), torch.stack(each).mean(0))
    apart = backbone("semantoks", view=view, batch=2, crops=3, average=False, **TINY)
    assert apart.shape == (3, 32)
    torch.testing.assert_close(apart(rows), torch.stack(each, 1))


def test_rows_of_the_length_of_a_crop_are_encoded_once():
    assert backbone("semantoks", view=VIEW, **TINY).facts["crops"] == [0]


def test_windows_behind_the_end_of_a_scan_are_masked():
    rows = noise(100)
    rows[..., 60:] = 0
    encoder = backbone("semantoks", view=VIEW, **TINY).model.encoder
    mask = torch.zeros(1, 9, 5, dtype=torch.bool)
    mask[..., 3:] = True
    other = torch.from_numpy(rows.copy())
    other[..., 60:] = 1  # whatever is there is not seen
    with torch.no_grad():
        expected = semantoks.features(encoder(other, mask))
        found = backbone("semantoks", view=VIEW, **TINY)(rows)
    torch.testing.assert_close(found, expected)


def extracted(folder, rows, takes=None, **stated):
    """Features of rows of a view that states these facts beside those of `VIEW`."""
    facts = {"axes": 2, "modality": "fmri", "band": [0.01, 0.1], "normalisation": "scan"}
    facts |= VIEW | {"row": "scan", "frames": rows.shape[-1]} | stated
    table = pd.DataFrame({"exclude": [""]}, index=["sub-01/scan-01/window-0000"])
    store.write(folder / "view.h5", store.Rows(rows, table, facts))
    spec = {"backbone": {"kind": "semantoks", **TINY}, "takes": takes or {}}
    extract(folder / "view.h5", None, folder / "found.h5", spec, {}, "cpu")
    return store.open(folder / "found.h5")


def test_what_is_fed_in_another_form_gives_the_same_features(tmp_path):
    rows = noise(100, seed=3)
    rows = (rows - rows.mean(-1, keepdims=True)) / rows.std(-1, keepdims=True)
    expected = extracted(tmp_path, rows)[:]
    order = np.random.default_rng(0).permutation(457)
    names = {"channels": [REGIONS[i] for i in order]}
    other = atlases.named(["tian_s3", "schaefer400_17n", "buckner7"])
    at = [*map(REGIONS.index, map(atlases.same, other))]
    for found in (
        extracted(tmp_path, rows[:, order], **names),
        extracted(tmp_path, rows[:, at], channels=[*other]),
        extracted(tmp_path, 1e4 + 50 * rows, normalisation="none", unit="BOLD"),
    ):
        np.testing.assert_allclose(found[:], expected, atol=1e-4)
        assert found.header["input"]["converted"]


def test_what_the_weights_were_not_trained_on_is_refused_or_said(tmp_path):
    rows = noise(100)
    with pytest.raises(InputError, match="takes 457 channels, of which the view has 400"):
        extracted(tmp_path, rows[:, 57:], channels=REGIONS[:400], takes={"coverage": 0.9})
    with pytest.raises(InputError, match="but the view was not filtered; set `band"):
        extracted(tmp_path, rows, band=None)
    found = extracted(tmp_path, noise(275), tr=0.735, sfreq=1 / 0.735)
    assert found.header["input"]["converted"] == [
        "resampled from a TR of 0.735 s to 2 s (polyphase)"
    ]


def test_layers_take_one_crop():
    view = VIEW | {"frames": 200}
    with pytest.raises(InputError, match="set `crops: 1`"):
        backbone("semantoks", view=view, layer="encoder.blocks.0", **TINY)
    found = backbone("semantoks", view=view, layer="encoder.blocks.0", crops=1, **TINY)
    assert found(noise(200)).shape == (1, 16)


# ---- other tokens -----------------------------------------------------------------------


def test_each_region_a_token_of_one_linear_map():
    encoder = semantoks.Encoder(NETWORKS[:30], width=16, depth=1, heads=2, tokens="max_spatial")
    x = torch.from_numpy(noise(100)[:, :30])
    with torch.no_grad():
        tokens = encoder.tokenizer(x.unflatten(-1, (5, 20)))
        assert encoder(x).shape == (1, 1 + 30 * 5, 16)
    expected = x[0, 7, 40:60] @ encoder.tokenizer.weight.T + encoder.tokenizer.bias
    torch.testing.assert_close(tokens[0, 7, 2], expected)


def test_all_regions_one_token_a_window():
    encoder = semantoks.Encoder(NETWORKS, width=16, depth=1, heads=2, tokens="min_spatial")
    with torch.no_grad():
        assert encoder(torch.from_numpy(noise(100))).shape == (1, 1 + 5, 16)


def test_a_network_is_made_of_its_regions_wherever_they_stand():
    order = np.random.default_rng(0).permutation(457)
    order = [*sorted(order, key=lambda i: i >= 200)]  # networks still come in the same order
    names = [NETWORKS[i] for i in order]
    torch.manual_seed(0)
    encoder = semantoks.Encoder(names, width=16, depth=1, heads=2).eval()
    x = torch.from_numpy(noise(100))
    y = x.clone()
    rows = [i for i, name in enumerate(names) if name == "Limbic"]
    y[:, rows] += 1
    with torch.no_grad():
        changed = encoder.tokenizer(x.unflatten(-1, (5, 20))) != encoder.tokenizer(
            y.unflatten(-1, (5, 20))
        )
    assert changed.any(-1).any(-1)[0].tolist() == [one == "Limbic" for one in encoder.networks]


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="frames: 100 is no multiple of 30"):
        semantoks.Encoder(NETWORKS, patch=30)
    with pytest.raises(InputError, match="width: 16 is no multiple of 3"):
        semantoks.Encoder(NETWORKS, width=16, heads=3)


def test_computing_blocks_again_changes_nothing():
    torch.manual_seed(0)
    encoder = semantoks.Encoder(NETWORKS, width=16, depth=2, heads=2)
    x, gradients = torch.from_numpy(noise(100)), []
    for encoder.checkpointing in (False, True):
        encoder.zero_grad()
        semantoks.features(encoder(x)).square().sum().backward()
        gradients.append(encoder.blocks[0].qkv.weight.grad.clone())
    assert torch.equal(*gradients)
