"""Tokens of CLIP for diffusion models, against transformers' own computation."""

import gzip
import string

import numpy as np
import open_clip
import pytest
import torch
import transformers
from published import backbone, pictures, save
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from engram.errors import InputError
from engram.frozen import clip as towers
from engram.frozen.clip import TINY

TEXTS = {"what": "text", "encoding": "UTF-8"}
CAPTIONS = ["A dog, asleep in the café.", "", "two zebras " * 60, "a!! b"]


def rows(texts):
    """Rows of a view of texts: UTF-8, padded with zeros."""
    encoded = np.array([text.encode() for text in texts], bytes)
    return encoded.view(np.uint8).reshape(len(texts), encoded.itemsize)


@pytest.fixture(scope="module")
def clip():
    """A small CLIP of OpenCLIP, as transformers builds it with the same weights."""
    text, vision = TINY["text_cfg"], TINY["vision_cfg"]
    config = transformers.CLIPConfig(
        projection_dim=TINY["embed_dim"],
        text_config={
            "hidden_size": text["width"], "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"], "num_attention_heads": text["heads"],
            "hidden_act": "gelu", "eos_token_id": 49407, "projection_dim": TINY["embed_dim"],
        },
        vision_config={
            "hidden_size": vision["width"], "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"], "num_attention_heads": 2, "hidden_act": "gelu",
            "image_size": vision["image_size"], "patch_size": vision["patch_size"],
            "projection_dim": TINY["embed_dim"],
        },
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = CLIPModel(config).eval().requires_grad_(False)
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.add_(0.1 * torch.randn(tensor.shape))
            elif "projection" in name or "embedding" in name:
                tensor.copy_(torch.randn(tensor.shape) * 0.2)
    return model


@pytest.fixture(scope="module")
def file(clip, tmp_path_factory):
    """The same weights under the names of OpenAI's file."""
    found = dict(clip.state_dict())
    tensors = {
        "logit_scale": found["logit_scale"],
        "text_projection": found["text_projection.weight"].T,
        "visual.proj": found["visual_projection.weight"].T,
        "token_embedding.weight": found["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": found["text_model.embeddings.position_embedding.weight"],
        "visual.class_embedding": found["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": found["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": found["vision_model.embeddings.position_embedding.weight"],
    }
    norms = {
        "ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }  # fmt: skip
    for side, tower, blocks in (("text", "", 2), ("vision", "visual.", 2)):
        for i in range(blocks):
            of, to = f"{side}_model.encoder.layers.{i}", f"{tower}transformer.resblocks.{i}"
            norms |= {
                f"{to}.ln_1": f"{of}.layer_norm1", f"{to}.ln_2": f"{of}.layer_norm2",
                f"{to}.mlp.c_fc": f"{of}.mlp.fc1", f"{to}.mlp.c_proj": f"{of}.mlp.fc2",
                f"{to}.attn.out_proj": f"{of}.self_attn.out_proj",
            }  # fmt: skip
            for kind in ("weight", "bias"):
                parts = [found[f"{of}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                tensors[f"{to}.attn.in_proj_{kind}"] = torch.cat(parts)
    for to, of in norms.items():
        tensors |= {f"{to}.{kind}": found[f"{of}.{kind}"] for kind in ("weight", "bias")}
    return save(tensors, tmp_path_factory.mktemp("clip") / "ViT-tiny.pt")


@pytest.fixture(scope="module")
def tokenizer():
    """transformers' own tokenizer, with the vocabulary of CLIP."""
    path = open_clip.tokenizer.default_bpe()
    merges = gzip.open(path).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    ids = open_clip.tokenizer._tokenizer.encoder
    ids = {k.replace("_of_", "of").replace("start of", "startof"): v for k, v in ids.items()}
    ids["<|startoftext|>"], ids["<|endoftext|>"] = 49406, 49407
    return CLIPTokenizer(vocab=ids, merges=[tuple(one.split()) for one in merges])


def vision(file, **keys):
    return backbone("clip_vision_tokens", file, model="tiny", **keys)


def text(file, **keys):
    return backbone("clip_text_tokens", file, TEXTS, model="tiny", **keys)


def close(found, wanted, atol=1e-5):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=atol)


def published_text(clip, tokenizer, captions):
    """(77, 32) of each caption, as Versatile Diffusion's pipeline computes it."""
    tokens = tokenizer(
        captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    out = clip.text_model(tokens["input_ids"])
    found = clip.text_projection(out.last_hidden_state)
    pooled = clip.text_projection(out.pooler_output)
    return found / pooled.norm(dim=-1)[:, None, None], out.last_hidden_state


# ---- pictures -------------------------------------------------------------------------------


def test_tokens_of_pictures_are_those_of_versatile_diffusion(clip, file):
    loaded = vision(file, batch=2)
    out = clip.vision_model(loaded.preprocessing(pictures()))
    found = clip.visual_projection(clip.vision_model.post_layernorm(out.last_hidden_state))
    close(loaded(pictures()), found / found[:, :1].norm(dim=-1, keepdim=True))
    assert loaded.shape == (17, 32)
    assert loaded.facts["latents"] == [[17, 32]]
    loaded.check()


def test_the_class_token_alone_has_the_length_one(file):
    lengths = vision(file, batch=2)(pictures()).norm(dim=-1)
    close(lengths[:, 0], 1)
    assert (lengths[:, 1:] - 1).abs().min() > 1e-3


def test_pictures_are_prepared_from_whole_numbers_as_the_published_processor_does(file):
    shown = np.random.default_rng(0).integers(0, 256, (2, 90, 90, 3), np.uint8)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    prepared = vision(file).preprocessing(shown)
    close(prepared, processor(list(shown), return_tensors="pt")["pixel_values"], atol=0.02)
    trap = processor(list(shown / 255.0), return_tensors="pt")["pixel_values"]
    assert trap.std() < 0.2 < prepared.std()  # scaled a second time by 1/255
    with pytest.raises(InputError, match="pictures are float64, of which nobody knows whether"):
        vision(file)((shown / 255.0)[:1])


def test_no_picture_is_grey_in_the_middle_of_the_scale(clip, file):
    loaded = vision(file)
    mean, std = (torch.tensor(one) for one in (loaded.preprocessing.mean, loaded.preprocessing.std))
    grey = ((0.5 - mean) / std)[None, :, None, None].expand(1, 3, 32, 32)
    out = clip.vision_model(grey)
    found = clip.visual_projection(clip.vision_model.post_layernorm(out.last_hidden_state))
    none = towers.of_no_picture(loaded.model, loaded.facts["preprocessing"], "cpu")
    close(none, found[0] / found[0, 0].norm())


@pytest.mark.parametrize("model", ["RN50-quickgelu", "ViT-B-16-SigLIP2"])
def test_a_tower_without_a_projected_class_token_is_refused(model, monkeypatch):
    monkeypatch.setattr(towers.backbone, "build", undrawn)
    with pytest.raises(InputError, match="has no class token that is projected"):
        backbone("clip_vision_tokens", model=model)


def undrawn(make, *_):
    with torch.device("meta"):
        return make()


# ---- captions -------------------------------------------------------------------------------


def test_tokens_of_captions_are_those_of_versatile_diffusion(clip, file, tokenizer):
    wanted, _ = published_text(clip, tokenizer, CAPTIONS)
    loaded = text(file, batch=4)
    close(loaded(rows(CAPTIONS)), wanted)
    assert loaded.shape == (77, 32)
    assert wanted[0, 40:].std() > 0.01  # what is behind the end of a text counts too
    tokens = loaded.preprocessing.tokenizer
    close(towers.of_no_text(loaded.model, tokens, True, "cpu"), wanted[1])
    loaded.check()


def test_states_are_the_last_of_stable_diffusion(clip, file, tokenizer):
    _, wanted = published_text(clip, tokenizer, CAPTIONS)
    close(text(file, states="last", batch=4)(rows(CAPTIONS)), wanted)


def test_several_captions_are_averaged_position_by_position(clip, file, tokenizer):
    given = ["\n".join(CAPTIONS[i] for i in (0, 3)), CAPTIONS[2], ""]
    wanted, _ = published_text(clip, tokenizer, CAPTIONS)
    found = text(file, batch=3)(rows(given))
    close(found[0], (wanted[0] + wanted[3]) / 2)
    close(found[1], wanted[2])
    close(found[2], wanted[1])
    close(text(file, batch=3, captions="first")(rows(given))[0], wanted[0])
    close(text(file, batch=1)(rows(given[1:2]))[0], found[1])


def test_the_length_of_the_end_of_each_caption_is_one(file):
    words = list(string.ascii_lowercase[:5])
    lengths = text(file, batch=5)(rows(words)).norm(dim=-1)
    close(lengths[:, 2], 1)  # start, word, end


# ---- weights --------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "lost"), [(vision, "visual.proj"), (text, "text_projection")])
def test_a_tensor_that_is_missing_or_left_over_is_refused(file, tmp_path, make, lost):
    tensors = torch.load(file)
    tensors["visual.extra" if make is vision else "extra"] = tensors.pop(lost)
    path = save(tensors, tmp_path / "wrong.pt")
    with pytest.raises(InputError, match=r"wrong.pt: not .* 1 missing .* 1 unexpected"):
        make(path)
