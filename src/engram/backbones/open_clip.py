"""The image tower of any model of OpenCLIP, projected features.

CLIP: Radford et al. (2021). Learning transferable visual models from natural language
supervision. ICML. https://arxiv.org/abs/2103.00020
OpenCLIP: Cherti et al. (2023). Reproducible scaling laws for contrastive language-image
learning. CVPR. https://arxiv.org/abs/2212.07143; Ilharco et al. (2021).
https://doi.org/10.5281/zenodo.5143773
SigLIP 2: Tschannen et al. (2025). https://arxiv.org/abs/2502.14786
"""

from dataclasses import dataclass

import torch

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, libraries, pictures

with libraries.without("wandb"):
    import open_clip

    # Private, but the public way builds the text tower too, for some models from the network.
    from open_clip.model import _build_vision_tower as build_image_tower
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}

#: How images are prepared for weights that no tag describes.
STANDARD = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
}


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.  Weights are files of OpenCLIP or of OpenAI.

    `pooling: tokens` gives every position after the last LayerNorm, projected like the class
    token, e.g. (257, 768) of ViT-L-14; `cls` of them are the features by default.  Not
    projected they are the tokens of `layer: ln_post`.  For the ResNets of CLIP, SigLIP and other
    towers from timm they are what goes into the last pooling, not projected.

    Attributes:
        model: name in OpenCLIP, e.g. `ViT-B-32-quickgelu`; followed by the tag of its weights,
            as in `ViT-L-14:openai`, where tags differ in mean, standard deviation or
            interpolation.  With a tag the activation is the one its weights were trained with.
    """

    model: str


def load(options, weights, view, device) -> backbone.Frozen:
    """The image tower, ready to encode rows of a view; the text tower is never built.

    Args:
        options: `Options`.
        weights: path of the checkpoint of the whole model; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: OpenCLIP has no such model, the checkpoint does not fit it, or it takes
            images of another size.
    """
    config = configuration(options.model)
    published = _published(options, config["image_size"])
    tower = backbone.build(lambda: _image_tower(config), options, weights)
    if weights:
        tensors = checkpoints.below(checkpoints.read(weights), options.prefix + "visual.")
        checkpoints.load_strictly(tower, tensors, weights, f"the image tower of {options.model}")
    preprocessing = pictures.preprocessing(options, published, view, device)
    tokens, prefix = _tokens(tower)
    return backbone.Frozen(
        tower, preprocessing, options, weights, device, tokens=tokens, prefix=prefix
    )


def configuration(model) -> dict:
    """OpenCLIP's configuration of a model, its activation as the tag in the name asks for.

    Raises:
        InputError: OpenCLIP has no such model.
    """
    names = [*open_clip.list_models(), *open_clip.list_pretrained(as_str=True)]
    backbone.known_name(model, names, "OpenCLIP")
    architecture, _, tag = model.partition(":")
    config = open_clip.get_model_config(architecture)
    size = config["vision_cfg"].get("image_size", 224)
    size = (size, size) if isinstance(size, int) else tuple(size)
    quick_gelu = config.get("quick_gelu") or any(c.get("quick_gelu") for c in _tags(model) if tag)
    return config | {"image_size": size, "quick_gelu": bool(quick_gelu)}


def _image_tower(config):
    vision = config["vision_cfg"] | {"timm_model_pretrained": False, "output_tokens": False}
    return build_image_tower(config["embed_dim"], vision, config["quick_gelu"])


def _tags(model):
    """What OpenCLIP publishes about the weights of a model, of one tag or of all."""
    architecture, _, tag = model.partition(":")
    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(architecture)
    return [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]


def _published(options, size):
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


def _tokens(tower):
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
