"""Towers of OpenCLIP: built, loaded, and what they make of every token."""

import torch

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, libraries, pictures

with libraries.without("wandb"):
    import open_clip

    # Private, but the public way builds both towers, for some models from the network.
    from open_clip.model import _build_text_tower as build_text_tower
    from open_clip.model import _build_vision_tower as build_image_tower
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.tokenizer import SimpleTokenizer

#: `tiny`, which nobody has trained, small enough to try things out: 17 and 77 tokens of 32 numbers.
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}

#: How images are prepared for weights that no tag describes.
STANDARD = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
}

#: What else stands in the checkpoint of a whole model.
NO_TEXT = ("visual", "logit_scale", "logit_bias")


def configuration(model) -> dict:
    """OpenCLIP's configuration of a model, its activation as the tag in the name asks for.

    Raises:
        InputError: OpenCLIP has no such model.
    """
    names = ["tiny", *open_clip.list_models(), *open_clip.list_pretrained(as_str=True)]
    backbone.known_name(model, names, "OpenCLIP")
    architecture, _, tag = model.partition(":")
    config = TINY if model == "tiny" else open_clip.get_model_config(architecture)
    size = config["vision_cfg"].get("image_size", 224)
    size = (size, size) if isinstance(size, int) else tuple(size)
    quick_gelu = config.get("quick_gelu") or any(c.get("quick_gelu") for c in _tags(model) if tag)
    return config | {"image_size": size, "quick_gelu": bool(quick_gelu)}


def image_tower(options, weights):
    """The image tower of a model, with random weights or those of a file.

    Args:
        options: has `model`, `weights`, `seed` and `prefix`, as those of a backbone.
        weights: path of the checkpoint of the whole model; None for random weights.

    Raises:
        InputError: OpenCLIP has no such model, or the checkpoint does not fit it.
    """
    config = configuration(options.model)
    tower = backbone.build(lambda: new_image_tower(config), options, weights)
    if weights:
        tensors = checkpoints.named(weights, options.prefix + "visual.")
        checkpoints.load_strictly(tower, tensors, weights, f"the image tower of {options.model}")
    return tower


def new_image_tower(config):
    """The image tower of a configuration."""
    vision = config["vision_cfg"] | {"timm_model_pretrained": False, "output_tokens": False}
    return build_image_tower(config["embed_dim"], vision, config["quick_gelu"])


def _tags(model):
    """What OpenCLIP publishes about the weights of a model, of one tag or of all."""
    architecture, _, tag = model.partition(":")
    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(architecture)
    return [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]


def published(options, size):
    """The images that the published weights of a model expect."""
    if options.size and tuple(options.size) != size:
        raise InputError(
            f"backbone {options.model}: takes images of {list(size)} pixels, not {options.size}; "
            "leave `size` out or choose a model of that size"
        )
    found = {}
    for key, standard in STANDARD.items():
        values = {published[key] for published in _tags(options.model)} or {standard}
        if len(values) > 1 and getattr(options, key) is None:
            tags = open_clip.list_pretrained_tags_by_model(options.model)
            raise InputError(
                f"OpenCLIP's weights of {options.model} differ in `{key}`; "
                f"name yours: {', '.join(f'{options.model}:{tag}' for tag in tags)}"
            )
        found[key] = values.pop()
    return pictures.Published(size=size, **found)


def last_tokens(tower):
    """The function from images to the last tokens or map, and the number of prefix tokens."""
    if isinstance(tower, TimmModel):
        return tower.trunk.forward_features, getattr(tower.trunk, "num_prefix_tokens", 0)
    if isinstance(tower, ModifiedResNet):
        return lambda images: _last(tower, images)["image_intermediates"][0], 0
    if tower.attn_pool is not None:
        return None, 1

    def projected(images):
        last = _last(
            tower,
            images,
            normalize_intermediates=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        parts = last["image_intermediates_prefix"] + last["image_intermediates"]
        return torch.cat(parts, dim=1) @ tower.proj

    return projected, 1


def _last(tower, images, **options):
    return tower.forward_intermediates(images, indices=1, intermediates_only=True, **options)


def tokenizer(model) -> SimpleTokenizer:
    """The tokenizer of a model, from the files of OpenCLIP alone.

    Raises:
        InputError: OpenCLIP has no such model, or takes its tokenizer from elsewhere.
    """
    text = configuration(model)["text_cfg"]
    if text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        raise InputError(
            f"backbone {model}: its tokenizer would be fetched from Hugging Face; "
            "choose a model with the vocabulary of CLIP, e.g. ViT-L-14"
        )
    if model == "tiny":
        return SimpleTokenizer(context_length=text["context_length"])
    return open_clip.get_tokenizer(model.partition(":")[0])


def text_tower(options, weights):
    """The text tower of a model, with random weights or those of a file; as `image_tower`."""
    config = configuration(options.model)
    tower = backbone.build(lambda: new_text_tower(config), options, weights)
    if weights:
        tensors = _of_text(checkpoints.named(weights, options.prefix))
        checkpoints.load_strictly(tower, tensors, weights, f"the text tower of {options.model}")
    return tower


def new_text_tower(config):
    """The text tower of a configuration."""
    text = config["text_cfg"] | {"output_tokens": False}
    return build_text_tower(config["embed_dim"], text, config["quick_gelu"])


def _of_text(tensors):
    """The tensors of the text tower; in some models they have a prefix of their own.

    Archives keep causal masks beside the weights; towers make their own.
    """
    tensors = checkpoints.below(tensors, "text.") or checkpoints.without(tensors, NO_TEXT)
    return {n: t for n, t in tensors.items() if n.rpartition(".")[2] != "attn_mask"}


def states(tower, tokens) -> torch.Tensor:
    """Every position after the last LayerNorm, (b, context, width)."""
    found = tower.forward_intermediates(
        tokens,
        indices=1,
        normalize_intermediates=True,
        intermediates_only=True,
        output_fmt="NLC",
    )
    return found["text_intermediates"][0]


def projected(tower, last) -> torch.Tensor:
    """States (b, context, width) projected, (b, context, d)."""
    projection = tower.text_projection
    return projection(last) if isinstance(projection, torch.nn.Module) else last @ projection


# ---- what diffusion models take -----------------------------------------------------------


def image_tokens(tower):
    """The function from images to all tokens as Versatile Diffusion takes them, (b, n, d).

    They are projected and divided by the length of the class token, the first.

    Raises:
        InputError: the tower has no class token that is projected.
    """
    tokens, prefix = last_tokens(tower)
    if tokens is None or not prefix or not hasattr(tower, "proj"):
        raise InputError(
            "this tower of OpenCLIP has no class token that is projected; choose a vision "
            "transformer of CLIP, e.g. ViT-L-14-quickgelu"
        )

    def divided(images):
        found = tokens(images)
        return found / found[:, :1].norm(dim=-1, keepdim=True)

    return divided


def text_tokens(tower, tokens, end) -> torch.Tensor:
    """All positions as Versatile Diffusion takes them, (b, context, d).

    They are projected and divided by the length of the token that ends the text.

    Args:
        tower: a text tower.
        tokens: int (b, context), see `padded`.
        end: the token that ends a text.
    """
    found = projected(tower, states(tower, tokens))
    ends = (tokens == end).int().argmax(1)
    lengths = found[torch.arange(len(found), device=found.device), ends].norm(dim=-1)
    return found / lengths[:, None, None]


def padded(tokenizer, texts) -> torch.Tensor:
    """Tokens, int64 (n, context), padded as for diffusion models with the token that ends a text.

    OpenCLIP pads with zeros, which changes what stands behind the end.
    """
    end = tokenizer.eot_token_id
    tokens = tokenizer(texts)
    return tokens.masked_fill((tokens == end).cumsum(1) > 0, end)


def of_no_picture(tower, how, device) -> torch.Tensor:
    """Tokens (n, d) of a picture that is grey 0.5 throughout, on the scale 0 to 1.

    It stands for no picture where Versatile Diffusion is guided. No pixel of 8 bits has this value.

    Args:
        tower: an image tower.
        how: has `size`, `mean` and `std` of the images that it takes.
        device: "cpu" or "cuda".
    """
    mean, std = (torch.tensor(how[key]).view(-1, 1, 1) for key in ("mean", "std"))
    grey = ((0.5 - mean) / std).expand(-1, *how["size"])
    with torch.inference_mode():
        return image_tokens(tower)(grey[None].to(device))[0]


def of_no_text(tower, tokenizer, projects, device) -> torch.Tensor:
    """States or, if `projects`, tokens of the empty text, (context, d).

    It stands for no text where diffusion models are guided.
    """
    tokens = padded(tokenizer, [""]).to(device)
    with torch.inference_mode():
        if projects:
            return text_tokens(tower, tokens, tokenizer.eot_token_id)[0]
        return states(tower, tokens)[0]
