"""Any image model of timm, its pooled features before the classifier.

The weights are read in timm's own layout and in those of the authors, as timm converts them:
DINO (Caron et al. 2021, arXiv:2104.14294), DINOv2 (Oquab et al. 2023, arXiv:2304.07193), DINOv3
(Siméoni et al. 2025, arXiv:2508.10104), MAE (He et al. 2022, arXiv:2111.06377), SAM (Kirillov
et al. 2023, arXiv:2304.02643), SAM 2 (Ravi et al. 2024, arXiv:2408.00714), ConvNeXt (Liu et al.
2022, arXiv:2201.03545), ResNet (He et al. 2016, arXiv:1512.03385), SynCLR (Tian et al. 2024,
arXiv:2312.17742).

Features are what timm makes them: for most ViTs the class token after the last norm; for DINOv3
the mean over positions, where its authors take the class token (`pooling: cls`); for SAM the
mean over positions of the neck's map (256); for SAM 2 that of the last stage's map, e.g. 896,
through a layer norm of timm's, which the authors' encoder does not have: its weights stay 1 and 0.

Wightman, R. (2019). PyTorch Image Models. https://doi.org/10.5281/zenodo.4414861
"""

import contextlib
import inspect
import sys
from dataclasses import dataclass

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, libraries, pictures

with libraries.without("wandb"):
    import timm

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}

#: What the names of the encoder begin with in files that hold more, by timm's module.
ENCODER = {"vision_transformer_sam": "image_encoder.", "hieradet_sam2": "image_encoder.trunk."}

#: The rest of such files, and parts that only pretraining needs: names of tensors or modules.
#: Mask tokens, and biases that DINOv3 masks with zeros, timm's conversion leaves out itself.
BESIDE = {
    "vision_transformer": (
        "decoder_blocks",
        "decoder_embed",
        "decoder_norm",
        "decoder_pos_embed",
        "decoder_pred",
    ),
    "vision_transformer_sam": ("mask_decoder", "prompt_encoder"),
    "hieradet_sam2": (
        "image_encoder.neck",
        "mask_downsample",
        "maskmem_tpos_enc",
        "memory_attention",
        "memory_encoder",
        "no_mem_embed",
        "no_mem_pos_enc",
        "no_obj_embed_spatial",
        "no_obj_ptr",
        "obj_ptr_proj",
        "obj_ptr_tpos_proj",
        "sam_mask_decoder",
        "sam_prompt_encoder",
    ),
}

#: Tensors of timm's model that the authors' file does not have; they stay as timm sets them.
OURS = {"hieradet_sam2": ("head.norm.weight", "head.norm.bias")}

#: Modules whose maps are (b, h, w, d): told from (b, d, h, w) where h and w are equal.
CHANNELS_LAST = (
    "hieradet_sam2",
    "swin_transformer",
    "swin_transformer_v2",
    "vision_transformer_sam",
)

#: What timm's modules call the function that converts published weights.
CONVERSIONS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")

#: What a conversion of timm raises when it is given the tensors of another model.
FAILURES = (AttributeError, AssertionError, KeyError, RuntimeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.

    Attributes:
        model: name in timm, with the tag of its weights if it has one, e.g.
            `vit_base_patch16_224.dino`; the tag decides mean and standard deviation.
    """

    model: str


def load(options, weights, view, device) -> backbone.Frozen:
    """The model, ready to encode rows of a view.

    The position table of the weights file has to be that of the published size; where `size`
    is another, timm resizes it (bicubic, antialiased) after the weights are loaded.

    Args:
        options: `Options`.
        weights: path of the checkpoint; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: timm has no such model, the checkpoint does not fit it, or its input
            cannot have `size`, or not with that `pooling`.
    """
    names = [*timm.list_models(), *timm.list_models(pretrained=True)]
    backbone.known_name(options.model, names, "timm")
    model = backbone.build(
        lambda: timm.create_model(options.model, num_classes=0), options, weights
    )
    published = model.pretrained_cfg
    if weights:
        tensors = checkpoints.named(weights, options.prefix)
        tensors = _converted(model, tensors, published["classifier"])
        checkpoints.load_strictly(model, tensors, weights, options.model)
    expected = pictures.Published(
        size=tuple(published["input_size"][1:]),
        mean=published["mean"],
        std=published["std"],
        interpolation=published["interpolation"],
    )
    if options.size and tuple(options.size) != expected.size:
        _set_size(model, options)
    _refuse_ambiguous(model, options)
    return backbone.Frozen(
        model,
        pictures.preprocessing(options, expected, view, device),
        options,
        weights,
        device,
        tokens=model.forward_features,
        prefix=getattr(model, "num_prefix_tokens", 0),
    )


def _family(model):
    """The module of timm that a model is from, e.g. `vision_transformer`."""
    return type(model).__module__.rpartition(".")[2]


def _converted(model, tensors, classifier):
    """`tensors` of a published file by the names that timm's model has for them."""
    family, strangers = _family(model), {}
    encoder = ENCODER.get(family, "")
    tensors = checkpoints.without(tensors, BESIDE.get(family, ()))
    if any(name.startswith(encoder) for name in tensors):
        strangers = {n: t for n, t in tensors.items() if not n.startswith(encoder)}
    found = tensors
    for convert in _conversions(model):
        # Where it fails, the file is of another model: the strict load names what does not fit.
        with contextlib.suppress(*FAILURES):
            wanted = len(inspect.signature(convert).parameters)
            found = convert(*(dict(tensors), model)[:wanted])
    found = {n.removeprefix(encoder): t for n, t in found.items()} | strangers
    found |= _as_published(model, found, tensors)
    if family == "eva":
        found |= _biases(found, tensors)
    found = {name: model.state_dict()[name] for name in OURS.get(family, ())} | found
    found = checkpoints.without(found, (classifier,) if isinstance(classifier, str) else classifier)
    return checkpoints.with_counters(model, found)


def _conversions(model):
    """What timm runs on published weights of such a model: a function, or none."""
    module = sys.modules[type(model).__module__]
    return [getattr(module, name) for name in CONVERSIONS if hasattr(module, name)][:1]


def _as_published(model, converted, tensors):
    """Tables and patches that timm resized to the model's grid, in the size that they had.

    They were resized because they are those of another model.  A position table may lose the
    rows of tokens that have no position.
    """
    rows = getattr(model, "num_prefix_tokens", 0)
    return {
        name: tensors[name]
        for name, slack in (("patch_embed.proj.weight", 0), ("pos_embed", rows))
        if name in tensors
        and name in converted
        and abs(tensors[name].numel() - converted[name].numel()) > slack * tensors[name].shape[-1]
    }


def _biases(converted, tensors):
    """Biases of queries and values that timm left out although they are not zero (DINOv3)."""
    return {
        name: bias
        for name, bias in tensors.items()
        if name.endswith("attn.qkv.bias")
        and name not in converted
        and name.replace("qkv.bias", "q_bias") not in converted
        and (bias[: len(bias) // 3].any() or bias[-(len(bias) // 3) :].any())
    }


def _set_size(model, options):
    fixed = any(getattr(module, "strict_img_size", False) for module in model.modules())
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=tuple(options.size))
        elif fixed:
            raise ValueError("the size of this model is fixed")
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"backbone {options.model}: its input cannot have `size: {options.size}` ({error})"
        ) from None


def _refuse_ambiguous(model, options):
    """Refuse to pool maps of which nobody could tell positions from channels."""
    pooled = options.layer or options.pooling != "default"
    oblong = options.size and options.size[0] != options.size[1]
    if pooled and oblong and options.pooling != "flatten" and _family(model) in CHANNELS_LAST:
        raise InputError(
            f"backbone {options.model}: its maps have their channels last, and are pooled only "
            "for a square `size`; use `pooling: flatten`"
        )
