"""DreamSim: merged weights against the package `dreamsim`, which reads the same published files."""

import functools
import importlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from published import backbone, dino_vit, drawn, pictures, save
from safetensors.torch import load_file
from torch.nn.functional import interpolate

from engram.backbones import dreamsim
from engram.errors import InputError

RANK, ALPHA, BLOCKS = 16, 32, 2
BASE = {
    "dino_vitb16": "dino_vitb16_pretrain.pth",
    "dinov2_vitb14": "dinov2_vitb14_pretrain.pth",
    "synclr_vitb16": "synclr_vit_b_16.pth",
    "clip_vitb32": "clip_vitb32_pretrain.pth.tar",
    "open_clip_vitb32": "open_clip_vitb32_pretrain.pth.tar",
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Transformers of two blocks, here and in the package: all twelve are treated alike."""
    theirs = importlib.import_module("dreamsim.feature_extraction.vision_transformer")
    whole = theirs.VisionTransformer
    monkeypatch.setattr(theirs, "VisionTransformer", lambda **keys: shortened(whole(**keys)))
    ours = functools.partial(dreamsim.timm.create_model, depth=BLOCKS)
    monkeypatch.setattr(dreamsim.timm, "create_model", ours)


def shortened(model):
    """The package looks for its feature behind block 11, and sets the activation of every MLP."""
    for i in range(BLOCKS, 12):
        model.blocks[i] = torch.nn.Identity()
        model.blocks[i].mlp = torch.nn.Identity()
    return model


def transformer(kind):
    """The base transformer by DINO's authors, with random weights, and those by name."""
    keys = {"img_size": [518]} if "dinov2" in kind else {}
    model = shortened(dino_vit(int(kind[-2:]), **keys))
    tensors = drawn(model)
    model.load_state_dict(tensors)
    return model, tensors


def with_layer_scale(model, tensors, seed=4):
    """DINOv2's weights that make the same features: each branch is scaled, its last layer less."""
    generator = torch.Generator().manual_seed(seed)
    scaled = dict(tensors)
    for i in range(BLOCKS):
        for scale, layer in (("ls1", f"blocks.{i}.attn.proj"), ("ls2", f"blocks.{i}.mlp.fc2")):
            gamma = torch.rand(768, generator=generator) + 0.5
            scaled[f"blocks.{i}.{scale}.gamma"] = gamma
            last = model.get_submodule(layer)
            last.weight.data *= gamma[:, None]
            last.bias.data *= gamma
    return scaled | {"mask_token": torch.zeros(1, 768)}


def write_base(kind, model, tensors, folder):
    """The base in its published layout."""
    if kind == "dino_vitb16":
        generator = torch.Generator().manual_seed(5)
        shapes = {"mlp.0": (2048, 768), "mlp.2": (2048, 2048), "mlp.4": (256, 2048)}
        head = {f"{n}.weight": torch.randn(s, generator=generator) for n, s in shapes.items()}
        head |= {f"{n}.bias": torch.zeros(s[0]) for n, s in shapes.items()}
        head["last_layer.weight"] = torch.zeros(2048, 256)
        student = {f"module.head.{n}": t for n, t in head.items()}
        content = {
            "student": student,
            "teacher": {f"backbone.{n}": t for n, t in tensors.items()},
            "epoch": 400,
        }
    elif kind == "dinov2_vitb14":
        content = with_layer_scale(model, tensors)
    elif kind == "synclr_vitb16":
        content = {"model": {f"module.visual.{n}": t for n, t in tensors.items()}}
    else:
        generator = torch.Generator().manual_seed(6)
        before = {
            "pos_drop.weight": 1 + 0.1 * torch.randn(768, generator=generator),
            "pos_drop.bias": 0.1 * torch.randn(768, generator=generator),
        }
        projection = torch.randn(768, 512, generator=generator) / 28
        content = {"state_dict": tensors | before | {"proj": projection}}
    save(content, folder / BASE[kind])


def write_lora(kind, folder, bin=False):
    lora = folder / f"{kind}_single_lora"
    # Imported late, like DreamSim: Engram has to prepare torchvision, which they import, first.
    importlib.import_module("peft").LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.2, bias="none", target_modules=["qkv"]
    ).save_pretrained(lora)
    generator, tensors = torch.Generator().manual_seed(7), {}
    for i in range(BLOCKS):
        name = f"base_model.model.extractor_list.0.model.blocks.{i}.attn.qkv"
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, 768, generator=generator) / 28
        tensors[f"{name}.lora_B.weight"] = torch.randn(2304, RANK, generator=generator) / 16
    save(tensors, lora / ("adapter_model.bin" if bin else "adapter_model.safetensors"))


def archive(kind, folder, target):
    """The published zip file of what is in `folder`."""
    with zipfile.ZipFile(target, "w") as zipped:
        for path in sorted(folder.rglob("*")):
            if (path.is_file() and kind in str(path)) or path.name == BASE[kind]:
                zipped.write(path, path.relative_to(folder))
    return target


@pytest.mark.parametrize("kind", BASE)
def test_every_type_has_the_shape_of_its_published_base(kind, monkeypatch):
    expected = {name: t.shape for name, t in transformer(kind)[1].items()}
    if "dinov2" in kind:
        expected |= {f"blocks.0.{scale}.gamma": (768,) for scale in ("ls1", "ls2")}
    block = {name: shape for name, shape in expected.items() if name.startswith("blocks.0.")}
    for i in range(12):
        expected |= {name.replace(".0.", f".{i}.", 1): block[name] for name in block}
    monkeypatch.undo()  # twelve
    with torch.device("meta"):
        found = dreamsim.DreamSim(dreamsim.TYPES[kind]).vit.state_dict()
    if "clip" in kind:
        expected |= {"norm_pre.weight": (768,), "norm_pre.bias": (768,)}
    assert {name: t.shape for name, t in found.items()} == expected


@pytest.mark.parametrize("kind", BASE)
def test_merged_weights_give_the_embeddings_of_the_package(kind, tmp_path, monkeypatch):
    package = importlib.import_module("dreamsim")
    model, tensors = transformer(kind)
    folder = tmp_path / "models"
    write_base(kind, model, tensors, folder)
    write_lora(kind, folder)
    # The package fetches DINO's and DINOv2's code and base weights from the network.
    monkeypatch.setattr(torch.hub, "load", lambda repository, name: model)
    reference, _ = package.dreamsim(
        device="cpu", cache_dir=str(folder), normalize_embeds=False, dreamsim_type=kind
    )
    weights = archive(kind, folder, tmp_path / f"dreamsim_{kind}_checkpoint.zip")
    dim = 512 if "clip" in kind else 768
    rows = pictures(16 if kind == "clip_vitb32" else 3)
    merged = backbone("dreamsim", weights, model=kind, batch=len(rows), dim=dim)
    mean, std = (
        torch.tensor(merged.facts["preprocessing"][key]).view(3, 1, 1) for key in ("mean", "std")
    )
    with torch.no_grad():
        images = merged.preprocessing(rows) * std + mean
        expected = reference.embed(images)
        with reference.disable_adapter():
            before = reference.embed(images[:1])
    found = merged(rows)
    assert expected.std() > 0.1
    assert (expected[:1] - before).abs().mean() > 0.1
    assert (found - expected).abs().max() < 1e-4
    assert merged.facts["aligned"]
    if kind in ("dinov2_vitb14", "open_clip_vitb32"):
        base = backbone("dreamsim", weights, model=kind, aligned=False, batch=1)
        assert (base(rows[:1]) - before).abs().max() < 1e-4
        assert not base.facts["aligned"]
    assert merged.facts["weights"] == weights.name


# ---- archives -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An unpacked archive of CLIP with its adapter."""
    folder = tmp_path_factory.mktemp("clip")
    write_base("clip_vitb32", *transformer("clip_vitb32"), folder)
    write_lora("clip_vitb32", folder)
    return folder


def load(weights, **keys):
    return backbone("dreamsim", weights, model="clip_vitb32", **keys)


def copy(small, folder, **files):
    """A copy of an archive with some files replaced, or left out where None."""
    for path in filter(Path.is_file, small.rglob("*")):
        target = folder / path.relative_to(small)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.stem not in files:
            target.symlink_to(path)
        elif files[path.stem] is not None:
            target.write_bytes(files[path.stem])
    return folder


def test_zip_file_and_folder_and_either_format_of_the_adapter_give_the_same(small, tmp_path):
    weights = archive("clip_vitb32", small, tmp_path / "clip.zip")
    folder = copy(small, tmp_path / "bin", adapter_model=None)
    write_lora("clip_vitb32", folder, bin=True)
    assert load(folder).facts["weights_sha256"] == load(weights).facts["weights_sha256"]


def changes(folder):
    lora = folder / "clip_vitb32_single_lora"
    files = lora / "adapter_config.json", lora / "adapter_model.safetensors"
    return dreamsim.lora_changes(*((path, path.name) for path in files))


def test_the_change_is_alpha_over_r_times_b_a(small, tmp_path):
    lora = small / "clip_vitb32_single_lora"
    tensors = load_file(lora / "adapter_model.safetensors")
    settings = json.loads((lora / "adapter_config.json").read_text()) | {"lora_alpha": 8}
    folder = copy(small, tmp_path / "alpha", adapter_config=json.dumps(settings).encode())
    found = changes(folder)
    assert len(found) == BLOCKS
    for i in range(BLOCKS):
        name = f"base_model.model.extractor_list.0.model.blocks.{i}.attn.qkv.lora"
        b, a = (tensors[f"{name}_{letter}.weight"].double().numpy() for letter in "BA")
        np.testing.assert_allclose(found[f"blocks.{i}.attn.qkv.weight"], 8 / 16 * b @ a)


def test_adapters_of_another_kind_are_refused(small, tmp_path):
    lora = small / "clip_vitb32_single_lora"
    settings = json.loads((lora / "adapter_config.json").read_text())
    for key, value in (("use_rslora", True), ("rank_pattern", {"qkv": 4}), ("bias", "all")):
        changed = json.dumps(settings | {key: value}).encode()
        folder = copy(small, tmp_path / key, adapter_config=changed)
        with pytest.raises(InputError, match=f"adapter_config.json: `{key}` is .*not supported"):
            changes(folder)
    changed = json.dumps(settings | {"r": 8}).encode()
    with pytest.raises(InputError, match="is not of rank 8"):
        changes(copy(small, tmp_path / "rank", adapter_config=changed))
    with pytest.raises(InputError, match="not the settings of a LoRA adapter"):
        changes(copy(small, tmp_path / "text", adapter_config=b"{"))


def test_adapters_with_odd_tensors_are_refused_by_name(small, tmp_path):
    tensors = load_file(small / "clip_vitb32_single_lora/adapter_model.safetensors")
    first = "base_model.model.extractor_list.0.model.blocks.0.attn.qkv.lora_A.weight"
    cases = {
        "without": ({n: t for n, t in tensors.items() if n != first}, "blocks.0.* only one of"),
        "unknown": (tensors | {"head.lora_A.weight": torch.zeros(2)}, "head.lora_A.weight is no"),
        "two": (
            tensors | {first.replace("list.0", "list.1"): tensors[first].clone()},
            "no change of a single",
        ),
        "few": ({n: t for n, t in tensors.items() if ".blocks.0." not in n}, "first blocks.0"),
    }
    for name, (odd, message) in cases.items():
        path = save(odd, tmp_path / f"{name}.safetensors")
        folder = copy(small, tmp_path / name, adapter_model=path.read_bytes())
        with pytest.raises(InputError, match=message):
            (load if name == "few" else changes)(folder)


def test_incomplete_and_damaged_archives_are_refused_by_name(small, tmp_path):
    with pytest.raises(InputError, match=r"holds no dinov2_vitb14|holds no checkpoints/dinov2"):
        backbone("dreamsim", small, model="dinov2_vitb14")
    with pytest.raises(InputError, match=r"holds no clip_vitb32_single_lora/adapter_config\.json"):
        load(copy(small, tmp_path / "bare", adapter_config=None))
    weights = archive("clip_vitb32", small, tmp_path / "clip.zip")
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"clip\.zip: not a readable zip file"):
        load(weights)
    wanted = [BASE["clip_vitb32"]]
    with (
        pytest.raises(InputError, match=r"gone\.zip: weights are missing"),
        dreamsim.unpacked(tmp_path / "gone.zip", wanted),
    ):
        pass
    flipped = archive("clip_vitb32", small, tmp_path / "flipped.zip")
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    with (
        pytest.raises(InputError, match=r"flipped\.zip: not a readable zip file.*CRC"),
        dreamsim.unpacked(flipped, wanted),
    ):
        pass
    with pytest.raises(InputError, match="DreamSim has no model 'clip_vitb23'; did you mean"):
        backbone("dreamsim", model="clip_vitb23")


def test_the_student_of_dino_alone_is_refused(tmp_path):
    save({"student": {"module.head.mlp.0.weight": torch.zeros(2)}}, tmp_path / BASE["dino_vitb16"])
    with pytest.raises(InputError, match=r"holds the student.*dino_vitbase16_pretrain\.pth"):
        backbone("dreamsim", tmp_path, model="dino_vitb16", aligned=False)


def test_a_layer_and_tokens_of_dreamsim():
    layer = backbone("dreamsim", model="clip_vitb32", layer="vit.blocks.1")
    tokens = backbone("dreamsim", model="clip_vitb32", pooling="tokens")
    assert (layer.shape, tokens.shape) == ((768,), (50, 768))
    with torch.no_grad():
        normed = tokens.model.vit.norm(layer(pictures(1)))
    np.testing.assert_allclose(tokens(pictures(1))[:, 0], normed, atol=1e-5)


def test_the_token_may_be_taken_after_the_last_norm(tmp_path):
    """The public reimplementation of THINGS-EEG2 takes it there."""
    write_base("synclr_vitb16", *transformer("synclr_vitb16"), tmp_path)
    before, after = (
        backbone("dreamsim", tmp_path, model="synclr_vitb16", aligned=False, final_norm=norm)
        for norm in (False, True)
    )
    own = after.model.vit.norm
    assert own.weight.std() > 0
    with torch.no_grad():
        expected = torch.nn.functional.layer_norm(
            torch.as_tensor(before(pictures(2))), (768,), own.weight, own.bias, 1e-6
        )
    np.testing.assert_allclose(after(pictures(2)), expected, atol=1e-4)


def test_the_position_table_is_resized_as_by_the_authors():
    table = torch.randn(1, 37 * 37 + 1, 8, generator=torch.Generator().manual_seed(0))
    image = torch.zeros(1, 16 * 16 + 1, 8)
    model = type("ViT", (), {"pos_embed": table})()
    model.patch_embed = type("Patches", (), {"patch_size": 14})()
    expected = type(dino_vit()).interpolate_pos_encoding(model, image, 224, 224)
    torch.testing.assert_close(dreamsim.resized_positions(table, 16), expected)
    other = table[:, 1:].reshape(1, 37, 37, 8).permute(0, 3, 1, 2)
    other = interpolate(other, (16, 16), mode="bicubic", antialias=True).flatten(2)
    assert (other.transpose(1, 2) - expected[:, 1:]).abs().max() > 0.1
