"""Any image model of timm, its pooled features before the classifier.

Wightman, R. (2019). PyTorch Image Models. https://doi.org/10.5281/zenodo.4414861
"""

from dataclasses import dataclass

import timm

from engram import checkpoints, frozen


@dataclass(frozen=True, kw_only=True)
class Options(frozen.Options):
    """Options.

    Attributes:
        model: name in timm, with the tag of its weights if it has one, e.g.
            `vit_base_patch16_224.dino`; the tag decides mean and standard deviation.
    """

    model: str


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
    model = frozen.build(lambda: _model(options), options, weights)
    published = model.pretrained_cfg
    if weights:
        tensors = checkpoints.below(checkpoints.read(weights), options.prefix)
        tensors = checkpoints.without(tensors, _names(published["classifier"]))
        checkpoints.load_strictly(model, tensors, weights, options.model)
    expected = frozen.Published(
        size=tuple(published["input_size"][1:]), mean=published["mean"], std=published["std"]
    )
    return frozen.Frozen(
        model,
        frozen.preprocessing(options, expected, view, device),
        options,
        weights,
        device,
        tokens=model.forward_features,
        prefix=getattr(model, "num_prefix_tokens", 0),
    )


def _model(options):
    size = {"img_size": tuple(options.size)} if options.size else {}
    try:
        return timm.create_model(options.model, num_classes=0, **size)
    except TypeError:  # a convolutional network takes images of any size
        return timm.create_model(options.model, num_classes=0)


def _names(layers):
    return (layers,) if isinstance(layers, str) else tuple(layers or ())
