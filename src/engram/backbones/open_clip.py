"""The image tower of any model of OpenCLIP: CLIP and its descendants, projected features.

Ilharco et al. (2021). OpenCLIP. https://doi.org/10.5281/zenodo.5143773
"""

from dataclasses import dataclass

import open_clip
from open_clip.model import _build_vision_tower as build_image_tower

from engram import checkpoints, frozen
from engram.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options(frozen.Options):
    """Options.

    Attributes:
        model: name in OpenCLIP, e.g. `ViT-B-32-quickgelu`; followed by the tag of its
            weights, as in `ViT-L-14:openai`, where tags differ in mean and standard deviation.
    """

    model: str


def load(options, weights, view, device) -> frozen.Frozen:
    """The image tower, ready to encode rows of a view; the text tower is never built.

    Args:
        options: `Options`.
        weights: path of the checkpoint of the whole model; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: OpenCLIP has no such model, or the checkpoint does not fit it.
    """
    names = [*open_clip.list_models(), *open_clip.list_pretrained(as_str=True)]
    frozen.known_name(options.model, names, "OpenCLIP")
    architecture, _, tag = options.model.partition(":")
    mean, std = _colours(architecture, tag)
    tower = frozen.build(lambda: _image_tower(architecture), options, weights)
    if weights:
        tensors = checkpoints.below(checkpoints.read(weights), options.prefix + "visual.")
        checkpoints.load_strictly(tower, tensors, weights, f"the image tower of {options.model}")
    size = tower.image_size
    published = frozen.Published(
        size=(size, size) if isinstance(size, int) else tuple(size), mean=mean, std=std
    )
    preprocessing = frozen.preprocessing(options, published, view, device)
    return frozen.Frozen(tower, preprocessing, options, weights, device)


def _image_tower(architecture):
    config = open_clip.get_model_config(architecture)
    vision = config["vision_cfg"] | {"timm_model_pretrained": False, "output_tokens": False}
    return build_image_tower(config["embed_dim"], vision, config.get("quick_gelu", False))


def _colours(architecture, tag):
    """Mean and standard deviation that the published weights of a model expect."""
    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(architecture)
    published = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    found = {(cfg["mean"], cfg["std"]) for cfg in published}
    if len(found) > 1:
        raise InputError(
            f"OpenCLIP's weights of {architecture} differ in mean and standard deviation; "
            f"name yours: {', '.join(f'{architecture}:{tag}' for tag in tags)}"
        )
    standard = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    return found.pop() if found else standard
