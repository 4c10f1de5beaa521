"""Any image model of timm, its pooled features before the classifier.

Wightman, R. (2019). PyTorch Image Models. https://doi.org/10.5281/zenodo.4414861
"""

from dataclasses import dataclass
from typing import Literal

import timm

from engram import frozen
from engram.images import Preprocessing


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        model: name in timm, with the tag of its weights if it has one, e.g.
            `vit_base_patch16_224.dino`; the tag decides mean and standard deviation.
        weights: checkpoint file in timm's own layout, or `random`.
        seed: of random weights.
        batch: images that go through the model at once.
        mode: resize batches on the `device`, or one by one with Pillow as `reference`.
        precision: number format of the forward pass.
    """

    model: str
    weights: str = "random"
    seed: int = 0
    batch: int = 32
    mode: Literal["device", "reference"] = "device"
    precision: Literal["fp32"] = "fp32"


def load(options, weights, view, device) -> frozen.Frozen:
    """The model, ready to encode rows of a view.

    Args:
        options: `Options`.
        weights: path of the checkpoint; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: timm has no such model, or the checkpoint does not fit it.
    """
    names = [*timm.list_models(), *timm.list_models(pretrained=True)]
    frozen.known_name(options.model, names, "timm")
    model = frozen.build(lambda: timm.create_model(options.model, num_classes=0), options, weights)
    published = model.pretrained_cfg
    if weights:
        tensors = _without_classifier(frozen.read_weights(weights), published["classifier"])
        frozen.load_strictly(model, tensors, weights, options.model)
    preprocessing = Preprocessing.of(
        view,
        size=tuple(published["input_size"][1:]),
        mean=tuple(published["mean"]),
        std=tuple(published["std"]),
        mode=options.mode,
        device=device,
    )
    return frozen.Frozen(model, preprocessing, options, weights, device)


def _without_classifier(tensors, classifier):
    """The tensors of a checkpoint that make features; `classifier` names its last layers."""
    layers = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    last = tuple(f"{layer}." for layer in layers)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(last)}
