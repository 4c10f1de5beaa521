"""Any classification model of torchvision, up to the input of its last linear layer.

That input, often called the penultimate layer, has 4096 values for AlexNet ("fc7"; Krizhevsky
2014, arXiv:1404.5997), 2048 for ResNet-50 (He et al. 2016, arXiv:1512.03385) and Inception v3
(Szegedy et al. 2016, arXiv:1512.00567) and 1280 for EfficientNet-B1 (Tan & Le 2019,
arXiv:1905.11946); in the last three it is the output of `avgpool`.  Other layers are named as in
torchvision: with `pooling: flatten`, `features.4` and `features.11` of AlexNet are the outputs
of the second and fifth convolution after their ReLUs.  SwAV (Caron et al. 2020,
arXiv:2006.09882) is a ResNet-50.

TorchVision maintainers and contributors (2016). https://github.com/pytorch/vision
"""

from dataclasses import dataclass

import torch
from torchvision import models

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, pictures

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}

#: Modules that published files hold beside the encoder: classifiers that only training uses
#: (Inception, GoogLeNet), the projection head and the prototypes of SwAV.
BESIDE = ("AuxLogits", "aux1", "aux2", "projection_head", "prototypes")

#: Arguments with which torchvision builds a model for its published weights: these networks
#: rescale images of ImageNet's mean and deviation to -1..1 themselves.
RESCALING = {"transform_input": True, "aux_logits": False, "init_weights": True}
ARGUMENTS = {"inception_v3": RESCALING, "googlenet": RESCALING}


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.

    Attributes:
        model: name in torchvision, e.g. `alexnet`; followed by the name of its weights, as in
            `efficientnet_b1:IMAGENET1K_V1`, where they differ in size, interpolation, mean or
            standard deviation.
    """

    model: str


def load(options, weights, view, device) -> backbone.Frozen:
    """The model, ready to encode rows of a view.

    Args:
        options: `Options`.
        weights: path of the checkpoint; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: torchvision has no such model, or the checkpoint does not fit it.
    """
    name, _, tag = options.model.partition(":")
    backbone.known_name(name, models.list_models(module=models), "torchvision")
    published = _published(name, tag)
    model = backbone.build(
        lambda: models.get_model(name, weights=None, **ARGUMENTS.get(name, {})), options, weights
    )
    classifier = _remove_classifier(model, name)
    if weights:
        tensors = checkpoints.named(weights, options.prefix)
        tensors = checkpoints.without(tensors, (classifier, *BESIDE))
        tensors = checkpoints.with_counters(model, tensors)
        checkpoints.load_strictly(model, tensors, weights, options.model)
    preprocessing = pictures.preprocessing(options, published, view, device)
    return backbone.Frozen(model, preprocessing, options, weights, device)


def _published(name, tag):
    """How the weights of a model expect their images, without the resize before the crop."""
    every = models.get_model_weights(name)
    if tag:
        backbone.known_name(tag, [one.name for one in every], f"torchvision's {name}")
    found = {
        pictures.Published(
            size=tuple(transforms.crop_size) * 2,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
        )
        for transforms in (one.transforms() for one in every if tag in ("", one.name))
    }
    if len(found) > 1:
        raise InputError(
            f"torchvision's weights of {name} differ in how they expect images; name yours: "
            f"{', '.join(f'{name}:{one.name}' for one in every)}"
        )
    return found.pop()


def _remove_classifier(model, name):
    """Take the last linear layer out of a model; its name."""
    linear = [n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if not linear:
        raise InputError(f"torchvision's {name} ends in no linear layer; use another model")
    model.set_submodule(linear[-1], torch.nn.Identity())
    return linear[-1]
