"""CLIP with weights in every published layout: image and text towers against OpenCLIP itself."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from engram.errors import InputError
from engram.frozen import checkpoints
from engram.frozen.clip import STANDARD, configuration, new_image_tower, open_clip, published
from engram.frozen.tensor_pickles import _tensor
from engram.planning.components import options

PICTURES = {"what": "picture"}
TEXTS = {"what": "text"}
VIT = "ViT-B-32-quickgelu"
CAPTIONS = ["A dog, asleep in the café.", "", "two zebras " * 60]


def backbone(kind, view, weights, **keys):
    keys = {"batch": 2, "precision": "fp32"} | keys
    if weights:
        keys["weights"] = str(weights)
    module, chosen = options("backbones", {"kind": kind, **keys})
    return module.load(chosen, weights, view, "cpu")


def pictures(n=2):
    return np.random.default_rng(0).integers(0, 256, (n, 90, 120, 3), np.uint8)


def encoded(texts):
    """Rows of a view of texts: UTF-8, padded with zeros."""
    rows = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    width = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows])


def drawn(make, seed=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """ViT-B/32 is built with three layers of twelve; the others are of the same kind."""
    with pytest.MonkeyPatch.context() as patch:
        for tower in ("vision_cfg", "text_cfg"):
            patch.setitem(open_clip.factory._MODEL_CONFIGS[VIT][tower], "layers", 3)
        yield


@pytest.fixture(scope="module")
def clip():
    """ViT-B/32 with random weights that fp16 represents, as OpenAI's are."""
    model = drawn(lambda: open_clip.create_model(VIT)).requires_grad_(False)
    return halved(model).float()


def halved(module):
    """The module with matrices and kernels in fp16, vectors in fp32."""
    for tensor in module.parameters():
        tensor.data = tensor.data.half() if tensor.ndim > 1 else tensor.data
    return module


@pytest.fixture(scope="module")
def archive(clip, tmp_path_factory):
    """The weights as OpenAI publishes them: a traced module, most tensors fp16."""
    path = tmp_path_factory.mktemp("openai") / "ViT-B-32.pt"
    facts = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    for name, value in facts.items():
        clip._buffers[name] = torch.tensor(value)
    clip.transformer.resblocks[0]._buffers["attn_mask"] = clip.attn_mask
    example = torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.long)
    traced = torch.jit.trace(clip, example, check_trace=False)
    for name in facts:
        del clip._buffers[name]
    del clip.transformer.resblocks[0]._buffers["attn_mask"]
    halved(traced).save(path)
    clip.float()  # its tensors are those of the traced module
    return path


@pytest.fixture(scope="module")
def safetensors(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("laion") / "open_clip_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def training(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("training") / "open_clip_pytorch_model.bin"
    tensors = {f"module.{name}": tensor for name, tensor in clip.state_dict().items()}
    torch.save({"epoch": 32, "name": "laion", "state_dict": tensors}, path)
    return path


@pytest.fixture
def file(request):
    return request.getfixturevalue(request.param)


LAYOUTS = pytest.mark.parametrize("file", ["archive", "safetensors", "training"], indirect=True)


# ---- every layout ----------------------------------------------------------------------


@LAYOUTS
def test_images_have_the_features_of_the_library(file, clip):
    loaded = backbone("open_clip", PICTURES, file, model=VIT, dim=512)
    rows = pictures()
    expected = clip.encode_image(loaded.preprocessing(rows))
    np.testing.assert_allclose(loaded(rows), expected, atol=1e-4)
    assert expected.std() > 0.1
    assert loaded.facts["weights"] == file.name
    assert loaded.facts["weights_sha256"] == checkpoints.digest(clip.visual)
    assert loaded.facts["preprocessing"]["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    loaded.check()


@LAYOUTS
def test_captions_have_the_features_of_the_library(file, clip):
    loaded = backbone("clip_text", TEXTS, file, model=VIT, dim=512)
    expected = clip.encode_text(open_clip.tokenize(CAPTIONS))
    np.testing.assert_allclose(loaded(encoded(CAPTIONS)), expected, atol=1e-4)
    loaded.check()


def test_the_archive_is_half_precision_and_has_the_names_of_the_library(archive, clip):
    tensors = checkpoints.read(archive)
    masks = {name for name in tensors if name.endswith("attn_mask")}
    assert masks == {"attn_mask", "transformer.resblocks.0.attn_mask"}
    assert {name: tensor.shape for name, tensor in tensors.items() if name not in masks} == {
        name: tensor.shape for name, tensor in clip.state_dict().items()
    }
    assert tensors["visual.conv1.weight"].dtype == torch.float16
    assert archive.stat().st_size < 2.4 * sum(tensor.numel() for tensor in tensors.values())


def test_half_precision_weights_run_in_fp32(archive):
    loaded = backbone("open_clip", PICTURES, archive, model=VIT)
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}


# ---- tokens and layers ----------------------------------------------------------------


def test_tokens_of_images_are_projected_and_begin_with_the_features(safetensors, clip):
    loaded = backbone("open_clip", PICTURES, safetensors, model=VIT, pooling="tokens")
    rows = pictures()
    clip.visual.output_tokens = True
    features, patches = clip.visual(loaded.preprocessing(rows))
    clip.visual.output_tokens = False
    tokens = loaded(rows)
    assert loaded.shape == (50, 512)
    np.testing.assert_allclose(tokens[:, 0], features, atol=1e-4)
    np.testing.assert_allclose(tokens[:, 1:], patches @ clip.visual.proj, atol=1e-4)


def test_tokens_before_the_projection_are_those_of_the_last_layer_norm(safetensors, clip):
    loaded = backbone(
        "open_clip", PICTURES, safetensors, model=VIT, layer="ln_post", pooling="tokens"
    )
    rows = pictures()
    clip.visual.output_tokens = True
    _, patches = clip.visual(loaded.preprocessing(rows))
    clip.visual.output_tokens = False
    assert loaded.shape == (50, 768)
    np.testing.assert_allclose(loaded(rows)[:, 1:], patches, atol=1e-4)


@pytest.mark.parametrize("pooling", ["default", "mean", "tokens"])
def test_a_layer_is_that_of_the_library(pooling, safetensors, clip):
    loaded = backbone(
        "open_clip",
        PICTURES,
        safetensors,
        model=VIT,
        layer="transformer.resblocks.1",
        pooling=pooling,
    )
    rows = pictures()
    found = clip.visual.forward_intermediates(
        loaded.preprocessing(rows),
        indices=[1],
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    first, rest = found["image_intermediates_prefix"][0], found["image_intermediates"][0]
    expected = {
        "default": first[:, 0],
        "mean": rest.mean(dim=1),
        "tokens": torch.cat([first, rest], dim=1),
    }
    np.testing.assert_allclose(loaded(rows), expected[pooling], atol=1e-4)


def test_tokens_of_captions_hold_the_features_where_the_caption_ends(safetensors, clip):
    loaded = backbone("clip_text", TEXTS, safetensors, model=VIT, pooling="tokens")
    found = loaded(encoded(CAPTIONS))
    tokens = open_clip.tokenize(CAPTIONS)
    assert loaded.shape == (77, 512)
    expected = clip.encode_text(tokens)
    ends = (tokens == 49407).int().argmax(dim=1)
    assert ends.tolist() == [9, 1, 76]
    np.testing.assert_allclose(found[range(3), ends], expected, atol=1e-4)
    norm = clip.ln_final(clip.forward_intermediates(
        text=tokens, text_indices=1, intermediates_only=True, text_output_fmt="NLC"
    )["text_intermediates"][0])  # fmt: skip
    np.testing.assert_allclose(found, norm @ clip.text_projection, atol=1e-4)


# ---- other towers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """RN50 of CLIP with random weights, and its checkpoint."""
    model = drawn(lambda: open_clip.create_model("RN50-quickgelu")).requires_grad_(False)
    path = tmp_path_factory.mktemp("resnet") / "RN50.pt"
    torch.save(model.state_dict(), path)
    return model, path


def test_a_resnet_has_the_features_and_the_map_of_the_library(resnet):
    model, path = resnet
    rows = pictures()
    loaded = backbone("open_clip", PICTURES, path, model="RN50-quickgelu", dim=1024)
    images = loaded.preprocessing(rows)
    np.testing.assert_allclose(loaded(rows), model.encode_image(images), atol=1e-4)
    mapped = model.visual.layer4(model.visual.layer3(model.visual.layer2(
        model.visual.layer1(model.visual.stem(images))
    )))  # fmt: skip
    tokens = backbone("open_clip", PICTURES, path, model="RN50-quickgelu", pooling="tokens")
    assert tokens.shape == (49, 2048)
    np.testing.assert_allclose(
        tokens(rows), mapped.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4
    )


def test_siglip_2_is_prepared_as_published_and_pools_its_tokens():
    loaded = backbone(
        "open_clip", PICTURES, None, model="ViT-B-16-SigLIP2", pooling="tokens", batch=1
    )
    prepared = loaded.facts["preprocessing"]
    assert prepared["size"] == [224, 224]
    assert prepared["mean"] == prepared["std"] == [0.5] * 3
    assert prepared["interpolation"] == "bicubic, antialiased"
    rows = pictures(1)
    with torch.no_grad():
        features = loaded.model(loaded.preprocessing(rows))
        pooled = loaded.model.trunk.attn_pool(loaded(rows))
    assert loaded.shape == (196, 768)
    np.testing.assert_allclose(pooled, features, atol=1e-4)


#: Millions of parameters of the image tower and of the rest, as OpenCLIP publishes them, the
#: length of the features and the shape of the positional embedding.
PUBLISHED = {
    "ViT-B-16-quickgelu:openai": (86.19, 63.43, 512, (197, 768)),
    "ViT-L-14-quickgelu:openai": (303.97, 123.65, 768, (257, 1024)),
    "ViT-L-14:laion2b_s32b_b82k": (303.97, 123.65, 768, (257, 1024)),
    "ViT-H-14:laion2b_s32b_b79k": (632.08, 354.03, 1024, (257, 1280)),
    "ViT-B-16-SigLIP2:webli": (92.88, None, 768, (1, 196, 768)),
    "RN50-quickgelu:openai": (38.32, 63.69, 1024, (50, 2048)),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_weights_have_the_names_and_shapes_of_the_tower(model):
    image, text, dim, positions = PUBLISHED[model]
    config = open_clip.get_model_config(model.partition(":")[0])
    custom = config.pop("custom_text", False)
    with torch.device("meta"):
        whole = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
        tower = new_image_tower(configuration(model))
    tensors = checkpoints.below(whole.state_dict(), "visual.")
    checkpoints.load_strictly(tower, tensors, "weights.bin", model)
    count = sum(p.numel() for p in tower.parameters()) / 1e6
    assert count == pytest.approx(image, abs=0.006)
    rest = sum(p.numel() for p in whole.parameters()) / 1e6 - count
    assert text is None or rest == pytest.approx(text, abs=0.006)
    found = [
        t.shape for n, t in tensors.items() if n.endswith(("positional_embedding", "pos_embed"))
    ]
    assert found == [positions]
    assert config["embed_dim"] == dim
    del tensors[next(iter(tensors))]
    with pytest.raises(InputError, match=r"weights\.bin: .* 1 missing"):
        checkpoints.load_strictly(tower, tensors, "weights.bin", model)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("ViT-B-32", False),
        ("ViT-B-32-quickgelu", True),
        ("ViT-B-32:openai", True),
        ("ViT-B-32:laion2b_s34b_b79k", False),
    ],
)
def test_the_tag_decides_the_activation(model, expected):
    config = configuration(model)
    assert config["quick_gelu"] is expected
    with torch.device("meta"):
        modules = new_image_tower(config).modules()
    assert any(isinstance(m, open_clip.transformer.QuickGELU) for m in modules) is expected


def test_given_colours_need_no_tag():
    keys = {"mean": [0.5] * 3, "std": [0.5] * 3}
    _, chosen = options("backbones", {"kind": "open_clip", "model": "ViT-L-14", **keys})
    found = published(chosen, (224, 224))
    assert found.interpolation == STANDARD["interpolation"]
    assert found.size == (224, 224)


# ---- the catalogue --------------------------------------------------------------------

CATALOGUE = yaml.safe_load((Path(__file__).parents[1] / "config/backbones.yaml").read_text())
TOWERS = [
    n for n, b in CATALOGUE["backbones"].items() if b.get("kind") in ("open_clip", "clip_text")
]


@pytest.mark.parametrize("name", TOWERS)
def test_the_catalogue_says_what_openclip_publishes(name):
    entry = dict(CATALOGUE["backbones"][name])
    checkpoint = CATALOGUE["checkpoints"][entry.pop("checkpoint")]
    entry.pop("title")
    _, chosen = options("backbones", entry)
    found = [
        (model, cfg)
        for model, tag in open_clip.list_pretrained()
        for cfg in [open_clip.get_pretrained_cfg(model, tag)]
        if checkpoint["url"] == cfg["url"]
        or (cfg["hf_hub"] and f"/{cfg['hf_hub']}resolve/" in checkpoint["url"])
    ]
    cfg = dict(found)[chosen.model]
    config = configuration(chosen.model)
    assert config["embed_dim"] == chosen.dim
    assert config["quick_gelu"] is cfg.get("quick_gelu", False)
    if entry["kind"] == "open_clip":
        assert (chosen.mean, chosen.std) == (list(cfg["mean"]), list(cfg["std"]))
        assert chosen.interpolation == cfg["interpolation"]
        assert tuple(chosen.size) == config["image_size"]
    assert "sha256" not in checkpoint or (
        checkpoint["sha256"] in checkpoint["url"] or "huggingface" in checkpoint["url"]
    )


# ---- refusals -------------------------------------------------------------------------


def test_weights_of_another_architecture_are_refused_by_name(archive):
    with pytest.raises(InputError) as caught:
        backbone("open_clip", PICTURES, archive, model="ViT-B-16-quickgelu")
    assert "ViT-B-32.pt: not the weights of the image tower of ViT-B-16" in str(caught.value)
    assert "conv1.weight [768, 3, 32, 32] instead of [768, 3, 16, 16]" in str(caught.value)


@pytest.mark.parametrize("kind", ["open_clip", "clip_text"])
def test_missing_and_extra_tensors_are_refused_by_name(kind, clip, tmp_path):
    of_images = kind == "open_clip"
    tensors = {n: t for n, t in clip.state_dict().items() if n.startswith("visual.") == of_images}
    lost = {"open_clip": "visual.ln_post.bias", "clip_text": "ln_final.bias"}[kind]
    extra = {"open_clip": "visual.head.bias", "clip_text": "head.bias"}[kind]
    tensors[extra] = tensors.pop(lost)
    torch.save(tensors, tmp_path / "clip.pt")
    view = {"open_clip": PICTURES, "clip_text": TEXTS}[kind]
    with pytest.raises(InputError) as caught:
        backbone(kind, view, tmp_path / "clip.pt", model=VIT)
    for name, what in (lost, "missing"), (extra, "unexpected"):
        assert f"1 {what} ({name.removeprefix('visual.')})" in str(caught.value)


def test_a_truncated_archive_is_refused(archive, tmp_path):
    short = tmp_path / "ViT-B-32.pt"
    with archive.open("rb") as file:
        short.write_bytes(file.read(1 << 20))
    with pytest.raises(InputError, match=r"ViT-B-32\.pt: not a readable checkpoint"):
        backbone("open_clip", PICTURES, short, model=VIT)


def test_a_tower_takes_images_of_its_own_size_alone():
    with pytest.raises(InputError, match=r"RN50: takes images of \[224, 224\] pixels"):
        backbone("open_clip", PICTURES, None, model="RN50", size=[256, 256])


@pytest.mark.parametrize("model", ["ViT-B-16-SigLIP2", "roberta-ViT-B-32"])
def test_a_tokenizer_from_the_network_is_refused(model):
    with pytest.raises(InputError, match="would be fetched from Hugging Face"):
        backbone("clip_text", TEXTS, None, model=model)


def test_a_caption_that_is_not_utf8_is_refused():
    module, _ = options("backbones", {"kind": "clip_text", "model": VIT})
    captions = module.Captions(open_clip.SimpleTokenizer())
    np.testing.assert_array_equal(captions(encoded(CAPTIONS)), open_clip.tokenize(CAPTIONS))
    with pytest.raises(InputError, match="not UTF-8"):
        captions(np.frombuffer("café".encode("latin-1"), np.uint8)[None])


# ---- the restricted reader ------------------------------------------------------------


class Small(torch.nn.Module):
    """Nested modules, a buffer, shared values, and attributes that are no tensors."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.rand(3))
        self.path = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4))
        self.register_buffer("table", torch.rand(4, 4).T)
        self.sizes, self.name = [1, 2], "small"

    def forward(self, x):
        return self.path(x * self.scale.sum()).mean((2, 3)) @ self.table * self.sizes[1]


@pytest.fixture
def small():
    return drawn(Small)


def same(found, module):
    expected = module.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def older(path, renamed):
    """The archive as torch 1.7 wrote it on a GPU: another root, fewer entries."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(renamed, "w") as target:
        for name in source.namelist():
            entry = name.partition("/")[2]
            if not entry.startswith((".", "byteorder")):
                content = source.read(name)
                if entry == "data.pkl":
                    content = content.replace(b"\3\0\0\0cpu", b"\6\0\0\0cuda:0")
                    assert b"cuda:0" in content
                target.writestr(f"archive/{entry}", content)
    return renamed


@pytest.mark.parametrize("age", ["new", "old"])
@pytest.mark.parametrize("make", ["script", "trace"])
def test_an_archive_gives_its_tensors(make, age, small, tmp_path):
    example = [torch.rand(1, 3, 5, 5)] if make == "trace" else []
    path = tmp_path / "small.pt"
    getattr(torch.jit, make)(small, *example).save(path)
    if age == "old":
        path = older(path, tmp_path / "old.pt")
    same(checkpoints.read(path), small)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickled_module_gives_its_tensors(zipped, small, tmp_path):
    path = tmp_path / "small.pkl"
    torch.save(small, path, _use_new_zipfile_serialization=zipped)
    same(checkpoints.read(path), small)
    torch.save({"model": small, "sizes": {1}}, path, _use_new_zipfile_serialization=zipped)
    same(checkpoints.read(path), small)


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_the_payload_of_the_next_tests_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "run")))
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_module_is_not_run(zipped, small, tmp_path):
    small.payload = Payload(tmp_path / "run")
    torch.save(small, tmp_path / "odd.pt", _use_new_zipfile_serialization=zipped)
    same(checkpoints.read(tmp_path / "odd.pt"), small)
    torch.save(small.payload, tmp_path / "odd.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"odd\.pt: holds no tensors"):
        checkpoints.read(tmp_path / "odd.pt")
    assert not (tmp_path / "run").exists()


def test_code_in_an_archive_is_not_run(small, tmp_path):
    path = tmp_path / "small.pt"
    torch.jit.script(small).save(path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "odd.pt", "w") as target:
        for name in source.namelist():
            payload = pickle.dumps({"a": Payload(tmp_path / "run")}, protocol=2)
            target.writestr(name, payload if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(InputError, match=r"odd\.pt: holds no tensors"):
        checkpoints.read(tmp_path / "odd.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("size", "stride", "offset"), [((100,), (1,), 0), ((3,), (1,), 1), ((2,), (-1,), 1)]
)
def test_a_tensor_beyond_its_values_is_refused(size, stride, offset):
    with pytest.raises(pickle.UnpicklingError, match="beyond its values"):
        _tensor(torch.ones(3), offset, size, stride)
    assert _tensor(torch.arange(6.0), 1, (2, 2), (1, 2)).tolist() == [[1, 3], [2, 4]]


def test_a_zip_archive_of_another_kind_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"other\.pt: .*not one of torch"):
        checkpoints.read(tmp_path / "other.pt")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02.", b"<html></html>", bytes(100)])
def test_a_file_of_another_format_is_refused_by_name(content, tmp_path):
    (tmp_path / "page.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"page\.pt: not a readable checkpoint"):
        checkpoints.read(tmp_path / "page.pt")
