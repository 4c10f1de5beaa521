"""Brain-JEPA on series of brain regions; see `engram.models.brain_jepa`.

Dong, Z. et al. (2024). Brain-JEPA: Brain Dynamics Foundation Model with Gradient Positioning and
Spatiotemporal Masking. NeurIPS.

Features are the mean over all tokens of the target encoder, then a layer norm without weights, as
published. The published weights expect 160 frames about 2.2 s apart, of 450 regions whose gradients
are the published ones, scaled by statistics that were not published; downstream their authors gave
them series standardised over all regions and frames together, `normalisation: global`.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, scans
from engram.frozen.brain_jepa import Normalisation, check, check_alike, encoder, given_gradients
from engram.models import brain_jepa
from engram.readers import gradients

TAKES = {
    "what": {"timeseries": ["channels", "tr"]},
    "modality": ["fmri"],
    "channels": ["tian_s3", "schaefer400_17n"],
}

#: Options that name a file; a job runs again when it changes.
FILES = ("gradients",)

TR = (1.9, 2.4)  # s between the frames that the published weights were used on

#: Tensors that stand beside those of the encoder in weights that were pretrained here.
BESIDE = ("gradients", "centre", "scale")


@dataclass(frozen=True, kw_only=True)
class Options(backbone.Options):
    """Options.

    Attributes:
        model: the published sizes `vit_small`, `vit_base` and `vit_large`.
        width, depth, heads: features of a token, blocks and heads of attention, where they are to
            be others than those of `model`.
        windows: of 16 frames, that the model sees of each region.
        clip: frames of a row, from which those of all windows are taken in even steps, without a
            filter, as published (480 of 0.735 s); null: a row has exactly those of all windows.
        normalisation: `view` takes the values of the view; `global` brings all regions and frames
            of a row together to mean 0 and variance 1; `robust` scales each region by median and
            interquartile range of the subjects' means, which pretraining has found; random weights
            have none and take `global`.
        gradients: file of the regions' gradients. Pretraining computes them from the series of its
            subjects where there is none, and keeps them with the weights; random weights without a
            file tell regions apart by their number.
        components: number of gradients that pretraining computes.
    """

    model: str = "vit_base"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    windows: int = 10
    clip: int | None = None
    normalisation: Literal["view", "global", "robust"] = "view"
    gradients: str = ""
    components: int = 30
    batch: int = 4


def load(options, weights, view, device) -> backbone.Frozen:
    """The target encoder, ready to encode rows of a view of series.

    Args:
        options: `Options`.
        weights: path of a published checkpoint (`jepa-ep300.pth.tar`), of weights pretrained here,
            or of other tensors of the encoder by their published names; None for random ones.
        view: header of the view store; `channels` are the regions, `frames` those of a row.
        device: "cpu" or "cuda".

    Raises:
        InputError: the rows have another length or, for weights of others, rate or scale;
            weights were pretrained on other values; gradients are missing or those of other
            regions; or the checkpoint does not fit.
    """
    check(options, view)
    tensors = _tensors(weights, options) if weights else {}
    beside = {name: tensors.pop(name).numpy() for name in BESIDE if name in tensors}
    if "gradients" in beside:
        places = gradients.read(weights, view["channels"])
        check_alike(weights, view)
    else:
        if weights:
            _check_rate(options, view)
        places = given_gradients(options, view)
    kind = options.normalisation
    if kind == "robust" and not weights:
        kind = "global"
    normalise = Normalisation(kind, beside.get("centre"), beside.get("scale"))
    model = backbone.build(lambda: encoder(options, places), options, weights)
    if weights:
        checkpoints.load_strictly(model, tensors, weights, f"Brain-JEPA {options.model}")
        if "gradients" not in beside:
            _check_values(options, view)
    return backbone.Frozen(
        model,
        Clips.of(options, view, places, normalise, device),
        options,
        weights,
        device,
        features=lambda series: functional.layer_norm(model(series).mean(1), (model.width,)),
        tokens=model,
    )


def _check_rate(options, view):
    tr = view["tr"] * (options.clip or view["frames"]) / (options.windows * brain_jepa.PATCH)
    if not TR[0] <= tr <= TR[1]:
        raise InputError(
            f"backbone brain_jepa: a frame comes each {tr:.3g} s, the published weights were "
            f"trained on about 2.2 s; set `tr: 2.2` of the view, or `clip` of the backbone"
        )


def _check_values(options, view):
    given = view.get("normalisation", "none")
    if options.normalisation == "view" or given != "none":
        raise InputError(
            "backbone brain_jepa: the published weights take BOLD values, all regions and frames "
            "of a row brought to mean 0 and variance 1 together; set `normalisation: global` of "
            f"the backbone and `standardize: off` of the view, whose normalisation is {given}"
        )


def _tensors(path, options):
    """Tensors of the target encoder in a checkpoint."""
    tensors = checkpoints.read(path)
    if isinstance(tensors.get("target_encoder"), dict):
        return checkpoints.below(tensors["target_encoder"], "module.")
    return checkpoints.prefixed(tensors, options.prefix)


@dataclass(frozen=True)
class Clips(scans.Series):
    """What happens to rows (b, regions, frames) before the model, equal for all rows.

    Attributes:
        normalise: maps them to the values that the model was trained on.
        at: int (windows * 16,), the frames that it sees.
        stated: for the header.
    """

    normalise: Normalisation
    at: np.ndarray
    stated: dict

    @classmethod
    def of(cls, options, view, places, normalise, device):
        places = np.ascontiguousarray(places, np.float32)
        stated = {
            "windows": options.windows,
            "clip": options.clip,
            "normalisation": normalise.kind,
            "gradients": list(places.shape),
            "gradients_sha256": hashlib.sha256(places.tobytes()).hexdigest(),
        }
        at = brain_jepa.evenly(view["frames"], options.windows)
        return cls(len(view["channels"]), view["frames"], device, normalise, at, stated)

    def __call__(self, rows) -> torch.Tensor:
        """Input of the model, float32 (b, regions, windows * 16), on the device."""
        return super().__call__(self.normalise(np.asarray(rows, np.float32))[..., self.at])

    def facts(self) -> dict:
        """What stands in the header of a feature store."""
        return super().facts() | self.stated
