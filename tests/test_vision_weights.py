"""timm and torchvision: weights as their authors published them, against the libraries' models."""

import lpips
import numpy as np
import pytest
import torch
from published import backbone, dino_vit, drawn, pictures, save

from engram.backbones.lpips import linear
from engram.backbones.timm import timm
from engram.backbones.torchvision import models
from engram.errors import InputError
from engram.frozen.layers import Layer, pool

DINO = "vit_base_patch16_224.dino"
DINOV2 = "vit_base_patch14_dinov2.lvd142m"
DINOV3 = "vit_base_patch16_dinov3.lvd1689m"
SAM = "samvit_base_patch16.sa1b"
SAM2 = "sam2_hiera_base_plus.fb_r896"
CONVNEXT = "convnext_base.fb_in22k"
PLAIN = "vit_base_patch16_224"
MAE = "vit_base_patch16_224.mae"

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: How few blocks each is built with here; the others are of the same kind.
FEW = {
    **{name: {"depth": 2} for name in (DINO, DINOV2, DINOV3, PLAIN, MAE)},
    SAM: {"depth": 2, "global_attn_indexes": (1,)},
    SAM2: {"stages": (1, 1, 2, 1)},
    CONVNEXT: {"depths": (1, 1, 2, 1)},
}


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, **keys: create(name, **FEW.get(name, {}) | keys)
    )


def features_of(model, loaded, rows):
    with torch.no_grad():
        return model.eval()(loaded.preprocessing(rows))


def assert_equal(loaded, model, rows=None):
    rows = pictures(1) if rows is None else rows
    expected = features_of(model, loaded, rows)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(loaded(rows), expected, rtol=1e-4, atol=1e-4)


def own(name, path, **keys):
    """A model of timm that timm itself loads from the file."""
    overlay = {"file": str(path)}
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **keys
    )


def plain(name):
    return lambda: timm.create_model(name, num_classes=0)


# ---- timm: the authors' files ---------------------------------------------------------


@pytest.fixture(scope="module")
def dino():
    """A base transformer by DINO's authors; those of MAE and SynCLR have its names, too."""
    model = dino_vit()
    model.blocks = model.blocks[:2]
    tensors = drawn(model)
    model.load_state_dict(tensors)
    return model, tensors


def test_dino_as_its_own_transformer_computes_it(dino, tmp_path):
    model, tensors = dino
    path = save(tensors, tmp_path / "dino_vitbase16_pretrain.pth")
    loaded = backbone("timm", path, model=DINO, dim=768)
    assert_equal(loaded, model)
    assert loaded.facts["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert loaded.facts["preprocessing"]["interpolation"] == "bicubic, antialiased"


def test_synclr_under_its_prefix(dino, tmp_path):
    model, tensors = dino
    tensors = tensors | {"pos_embed": tensors["pos_embed"].double()}
    published = {"model": {f"module.visual.{n}": t for n, t in tensors.items()}, "epoch": 1}
    path = save(published, tmp_path / "synclr_vit_b_16.pth")
    keys = {"model": PLAIN, "mean": [0.485, 0.456, 0.406]}
    assert_equal(backbone("timm", path, prefix="module.visual.", **keys), model)
    with pytest.raises(InputError, match=r"synclr_vit_b_16\.pth.*missing.*unexpected"):
        backbone("timm", path, **keys)


def test_mae_without_its_decoder(dino, tmp_path):
    model, tensors = dino
    rest = {"mask_token": torch.zeros(1, 1, 768), "decoder_embed.weight": torch.zeros(512, 768)}
    path = save({"model": tensors | rest}, tmp_path / "mae_pretrain_vit_base.pth")
    assert_equal(backbone("timm", path, model=MAE), model)


def test_dinov2_with_its_position_table_resized(tmp_path):
    tensors = {"mask_token": torch.zeros(1, 768)} | drawn(plain(DINOV2))
    assert tensors["pos_embed"].shape == (1, 37 * 37 + 1, 768)
    path = save(tensors, tmp_path / "dinov2_vitb14_pretrain.pth")
    loaded = backbone("timm", path, model=DINOV2, size=[224, 224])
    assert loaded.model.pos_embed.shape == (1, 16 * 16 + 1, 768)
    assert_equal(loaded, own(DINOV2, path, img_size=224))


def test_dinov3_in_both_layouts(tmp_path):
    tensors = drawn(plain(DINOV3))
    path = save(tensors, tmp_path / "model.safetensors")
    original = original_dinov3(tensors)
    model = own(DINOV3, path, img_size=224)
    for file in (path, save(original, tmp_path / "dinov3_vitb16_pretrain.pth")):
        assert_equal(backbone("timm", file, model=DINOV3, size=[224, 224]), model)
    original["blocks.1.attn.qkv.bias"][5] = 1
    path = save(original, tmp_path / "biased.pth")
    with pytest.raises(InputError, match=r"1 unexpected \(blocks\.1\.attn\.qkv\.bias\)"):
        backbone("timm", path, model=DINOV3)


def original_dinov3(tensors):
    names = {"reg_token": "storage_tokens"}
    renamed = {
        names.get(n, n.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")): t
        for n, t in tensors.items()
    }
    masked = {f"blocks.{i}.attn.qkv.bias": torch.zeros(2304) for i in range(2)}
    masks = {f"{name}_mask": torch.zeros(2304) for name in masked}
    rest = {"mask_token": torch.zeros(1, 768), "rope_embed.periods": torch.ones(16)}
    return renamed | masked | masks | rest


def published_sam(tensors):
    encoder = {f"image_encoder.{n.replace('mlp.fc', 'mlp.lin')}": t for n, t in tensors.items()}
    return encoder | {
        "prompt_encoder.no_mask_embed.weight": torch.zeros(1, 256),
        "mask_decoder.iou_token.weight": torch.zeros(1, 256),
    }


def test_sam_without_prompts_and_masks(tmp_path):
    tensors = drawn(plain(SAM))
    path = save(published_sam(tensors), tmp_path / "sam_vit_b_01ec64.pth")
    loaded = backbone("timm", path, model=SAM, size=[256, 256], dim=256)
    model = timm.create_model(SAM, num_classes=0)
    model.load_state_dict(tensors)
    rows = pictures(1)
    assert_equal(loaded, model, rows)
    images = loaded.preprocessing(rows)
    with torch.no_grad():
        found = pool(Layer(loaded.model, "blocks.1", SAM)(images), "mean", 0, SAM)
        table = model.pos_embed.permute(0, 3, 1, 2)
        table = torch.nn.functional.interpolate(table, (16, 16), mode="bicubic", antialias=True)
        x = model.blocks[:2](model.patch_embed(images) + table.permute(0, 2, 3, 1))
    np.testing.assert_allclose(found, x.mean(dim=(1, 2)), rtol=1e-3, atol=1e-3)


def test_sam_with_parts_that_nobody_knows_is_refused(tmp_path):
    tensors = published_sam({"patch_embed.proj.bias": torch.zeros(768)})
    path = save(tensors | {"aligner.weight": torch.zeros(1)}, tmp_path / "sam.pth")
    with pytest.raises(InputError, match=r"1 unexpected \(aligner\.weight\)"):
        backbone("timm", path, model=SAM)


def test_sam2_without_memory_prompts_and_masks(tmp_path):
    model = timm.create_model(SAM2, num_classes=0)
    tensors = {n: t for n, t in drawn(plain(SAM2)).items() if not n.startswith("head.")}
    model.load_state_dict(tensors, strict=False)
    published = {}
    for name, tensor in tensors.items():
        name = name.replace("mlp.fc1", "mlp.layers.0").replace("mlp.fc2", "mlp.layers.1")
        published[f"image_encoder.trunk.{name}"] = tensor
    beside = ["image_encoder.neck.convs.0.conv.weight", "memory_encoder.fuser.w", "no_mem_embed"]
    published |= {name: torch.zeros(2) for name in beside}
    path = save({"model": published}, tmp_path / "sam2_hiera_base_plus.pt")
    loaded = backbone("timm", path, model=SAM2, size=[224, 224], dim=896)
    assert_equal(loaded, model, pictures(1))
    with torch.no_grad():
        last = model.forward_features(loaded.preprocessing(pictures(1)))
    assert last.shape == (1, 7, 7, 896)
    pooled = pool(last, "mean", 0, SAM2)
    np.testing.assert_allclose(pooled, last.mean(dim=(1, 2)), rtol=1e-4, atol=1e-4)


def test_convnext_with_its_classifier_left_out(tmp_path):
    tensors = drawn(lambda: timm.create_model(CONVNEXT, num_classes=10))
    published = {}
    for key, tensor in tensors.items():
        if key.startswith("stem."):
            key = f"downsample_layers.0.{key.removeprefix('stem.')}"
        if key.startswith("stages.") and ".downsample." in key:
            key = "downsample_layers.{1}.{3}.{4}".format(*key.split("."))
        key = key.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        key = key.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        published[key] = tensor
    assert {"downsample_layers.1.0.weight", "stages.2.1.pwconv1.weight"} <= published.keys()
    path = save({"model": published}, tmp_path / "convnext_base_22k_224.pth")
    model = timm.create_model(CONVNEXT, num_classes=0)
    model.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("head.fc.")})
    assert_equal(backbone("timm", path, model=CONVNEXT, dim=1024), model)


def test_weights_of_another_grid_are_refused_not_resized(tmp_path):
    tensors = drawn(dino_vit(32))
    path = save(tensors, tmp_path / "vitb32.pth")
    with pytest.raises(InputError) as caught:
        backbone("timm", path, model=DINO)
    assert "patch_embed.proj.weight [768, 3, 32, 32] instead of [768, 3, 16, 16]" in str(
        caught.value
    )
    assert "pos_embed [1, 50, 768] instead of [1, 197, 768]" in str(caught.value)


def test_missing_and_unexpected_tensors_of_a_published_file_are_refused_by_name(tmp_path):
    tensors = published_sam(drawn(plain(SAM)))
    del tensors["image_encoder.blocks.1.mlp.lin1.weight"]
    tensors["image_encoder.blocks.2.norm1.bias"] = torch.zeros(768)
    path = save(tensors, tmp_path / "sam.pth")
    with pytest.raises(InputError) as caught:
        backbone("timm", path, model=SAM)
    assert "1 missing (blocks.1.mlp.fc1.weight)" in str(caught.value)
    assert "1 unexpected (blocks.2.norm1.bias)" in str(caught.value)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"sam\.pth: not a readable checkpoint"):
        backbone("timm", path, model=SAM)


def test_a_size_that_a_model_cannot_have_is_refused():
    with pytest.raises(InputError, match=r"cannot have `size: \[100, 100\]`"):
        backbone("timm", model="mixer_s32_224", size=[100, 100])


def test_maps_with_channels_last_are_not_pooled_from_an_oblong_input():
    with pytest.raises(InputError, match="pooled only for a square `size`"):
        backbone("timm", model=SAM2, size=[224, 448], pooling="mean")


def test_a_conversion_of_timm_that_takes_the_tensors_alone(tmp_path):
    tensors = drawn(lambda: timm.create_model("regnetx_002"))
    path = save(tensors, tmp_path / "regnetx_002.pth")
    model = timm.create_model("regnetx_002", num_classes=0)
    model.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("head.fc.")})
    assert_equal(backbone("timm", path, model="regnetx_002"), model)


# ---- torchvision ----------------------------------------------------------------------


def classifier_input(model, layer):
    """The model up to the input of its last linear layer, caught while it runs whole."""

    def run(images):
        caught = []
        handle = model.get_submodule(layer).register_forward_pre_hook(
            lambda module, inputs: caught.append(inputs[0])
        )
        model.eval()(images)
        handle.remove()
        return caught[0]

    return run


@pytest.mark.parametrize(
    ("name", "file", "layer", "dim", "interpolation"),
    [
        ("resnet50:IMAGENET1K_V1", "resnet50-0676ba61.pth", "fc", 2048, "bilinear"),
        ("inception_v3", "inception_v3_google-0cc3c7bd.pth", "fc", 2048, "bilinear"),
        (
            "efficientnet_b1:IMAGENET1K_V1",
            "efficientnet_b1_rwightman-bac287d4.pth",
            "classifier.1",
            1280,
            "bicubic",
        ),
        (
            "efficientnet_b1:IMAGENET1K_V2",
            "efficientnet_b1-c27df63c.pth",
            "classifier.1",
            1280,
            "bilinear",
        ),
    ],
)
def test_networks_of_torchvision_up_to_their_classifier(
    name, file, layer, dim, interpolation, tmp_path
):
    architecture = name.partition(":")[0]
    # As torchvision builds the model for published weights, auxiliary classifier included.
    published = {"transform_input": True} if architecture == "inception_v3" else {}
    model = models.get_model(architecture, init_weights=False, **published) if published else None
    model = model or models.get_model(architecture)
    tensors = drawn(lambda: model_like(model, architecture))
    model.load_state_dict(tensors)
    loaded = backbone("torchvision", save(tensors, tmp_path / file), model=name, dim=dim)
    rows, run = pictures(1), classifier_input(model, layer)
    with torch.no_grad():
        expected = run(loaded.preprocessing(rows))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(loaded(rows), expected, rtol=1e-4, atol=1e-4)
    facts = loaded.facts["preprocessing"]
    assert facts["interpolation"] == f"{interpolation}, antialiased"
    assert facts["mean"] == [0.485, 0.456, 0.406]


def model_like(model, architecture):
    keys = {"init_weights": False} if architecture == "inception_v3" else {}
    return models.get_model(architecture, **keys)


def test_an_old_file_without_the_counters_of_batch_norms_loads(tmp_path):
    tensors = drawn(models.resnet50)
    old = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    path = save(old, tmp_path / "resnet50-19c8e357.pth")
    new = save(tensors, tmp_path / "resnet50.pth")
    keys = {"model": "resnet50"}
    np.testing.assert_array_equal(
        backbone("torchvision", path, **keys)(pictures(1)),
        backbone("torchvision", new, **keys)(pictures(1)),
    )


def test_swav_without_head_and_prototypes(tmp_path):
    tensors = {n: t for n, t in drawn(models.resnet50).items() if not n.startswith("fc.")}
    model = models.resnet50()
    model.fc = torch.nn.Identity()
    model.load_state_dict(tensors)
    heads = {"projection_head.0.weight": torch.zeros(9, 2048), "prototypes.weight": torch.zeros(3)}
    published = {f"module.{n}": t for n, t in (tensors | heads).items()}
    path = save(published, tmp_path / "swav_800ep_pretrain.pth.tar")
    assert_equal(backbone("torchvision", path, model="resnet50", dim=2048), model)


def test_alexnet_and_its_layers(tmp_path):
    tensors = drawn(models.alexnet)
    model = models.alexnet()
    model.load_state_dict(tensors)
    path = save(tensors, tmp_path / "alexnet-owt-7be5be79.pth")
    loaded, rows = backbone("torchvision", path, model="alexnet", dim=4096), pictures(1)
    images = loaded.preprocessing(rows)
    with torch.no_grad():
        model.eval()
        penultimate = classifier_input(model, "classifier.6")(images)
        second, fifth = model.features[:5](images), model.features[:12](images)
    np.testing.assert_allclose(loaded(rows), penultimate, rtol=1e-4, atol=1e-4)
    for layer, expected, dim in (("features.4", second, 139_968), ("features.11", fifth, 43_264)):
        encode = backbone("torchvision", path, model="alexnet", layer=layer, pooling="flatten")
        assert encode.shape == (dim,)
        np.testing.assert_allclose(encode(rows), expected.flatten(1), rtol=1e-4, atol=1e-4)


def test_weights_of_torchvision_that_do_not_fit_are_refused_by_name(tmp_path):
    tensors = drawn(models.alexnet)
    tensors["features.99.weight"] = tensors.pop("features.3.weight")
    path = save(tensors, tmp_path / "alexnet.pth")
    with pytest.raises(InputError) as caught:
        backbone("torchvision", path, model="alexnet")
    assert "1 missing (features.3.weight)" in str(caught.value)
    assert "1 unexpected (features.99.weight)" in str(caught.value)
    with pytest.raises(InputError, match=r"not the weights of resnet50"):
        backbone("torchvision", path, model="resnet50")


def test_names_of_torchvision_are_checked():
    with pytest.raises(InputError, match="torchvision has no model 'alexnt'; did you mean"):
        backbone("torchvision", model="alexnt")
    with pytest.raises(InputError, match="name yours: efficientnet_b1:IMAGENET1K_V1, "):
        backbone("torchvision", model="efficientnet_b1")
    with pytest.raises(InputError, match="no model 'IMAGENET1K_V9'; did you mean"):
        backbone("torchvision", model="resnet50:IMAGENET1K_V9")


# ---- LPIPS ------------------------------------------------------------------------------


def test_squared_distances_are_those_of_the_package_lpips(tmp_path):
    """With its published linear weights, on a network drawn at random."""
    other = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = drawn(lambda: models.alexnet(weights=None).features)
    own = {name: ".".join(name.split(".")[-2:]) for name in other.net.state_dict()}
    other.net.load_state_dict({name: trunk[short] for name, short in own.items()})
    file = save({f"features.{n}": t for n, t in trunk.items()}, tmp_path / "alexnet.pth")
    loaded = backbone("lpips", file, size=[64, 64], batch=3)
    rows = pictures(3)
    features = loaded(rows)
    mean, std = (torch.tensor(one)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
    images = (loaded.preprocessing(rows) * std + mean) * 2 - 1
    for i, j in ((0, 1), (1, 2), (2, 2)):
        with torch.no_grad():
            expected = other(images[i : i + 1], images[j : j + 1]).item()
        assert ((features[i] - features[j]) ** 2).sum().item() == pytest.approx(expected, rel=1e-4)
    assert expected == 0


def test_other_weights_of_lpips_are_refused(tmp_path):
    wrong = save({"lin0.model.1.weight": torch.ones(1, 64, 1, 1)}, tmp_path / "linear.pth")
    with pytest.raises(InputError, match=r"linear.pth: does not hold the five layers of LPIPS"):
        linear(wrong)
