"""Decoder "vdvae": the layout of a picture from the latents of a very deep autoencoder.

As Ozcelik & VanRullen (2023, Brain-Diffuser, arXiv:2303.05334) draw the first stage of their
pictures; see `engram.models.vdvae` and the backbone of the same name.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

from engram import decoders
from engram.errors import InputError
from engram.frozen import backbone, checkpoints
from engram.models import vdvae

READS = {"latents": "latents"}
BACKBONES = {"latents": ("vdvae",)}
WEIGHTS_OF = "latents"


@dataclass(frozen=True, kw_only=True)
class Options(decoders.Options):
    """Options of the decoder; model and weights are those of the backbone of the latents.

    Attributes:
        latents: an experiment that predicts latents of a VDVAE.
        prior_z: of the layers that are not predicted: the `mean` of the prior, or a `sample` of it
            as published.
        output: of the colours of each pixel: the `mean` of the most likely component of their
            distribution, or a `sample` of it as published.
        size: [height, width] that pictures are resized to before they are rounded to 8 bits; by
            default that of the model. Published: [512, 512].
        interpolation: of the resizing, antialiased, as by Pillow.
        prefix: what the names of tensors in the weights file begin with, as of the backbone.
    """

    latents: str
    prior_z: Literal["mean", "sample"] = "mean"
    output: Literal["mean", "sample"] = "mean"
    size: tuple[int, int] | None = None
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    prefix: str = ""


def load(options, sources, weights, device) -> "Decoder":
    """The model that the latents are of.

    Raises:
        InputError: they are of another backbone, or of other weights.
    """
    of = sources["latents"].get("target", {})
    if of.get("kind") != "vdvae":
        raise InputError(
            f"decoder vdvae: takes latents of a backbone of kind 'vdvae', and {options.latents} "
            f"predicts {of.get('kind') or 'other numbers'}; name another experiment"
        )
    if options.size and min(options.size) < 1:
        raise InputError(f"decoder vdvae: size is {list(options.size)}; it has to be pixels")
    drawn = _Drawn(of["model"], "random" if of["weights"] == "random" else "", of.get("seed", 0))
    file = weights.get("latents")
    model = backbone.build(lambda: vdvae.VDVAE(vdvae.ARCHITECTURES[of["model"]]), drawn, file)
    if file:
        tensors = checkpoints.named(file, options.prefix)
        checkpoints.load_strictly(model, tensors, file, f"VDVAE {of['model']}")
    if checkpoints.digest(model) != of["weights_sha256"]:
        raise InputError(
            f"decoder vdvae: {file or 'the random weights'} are not those of the latents of "
            f"{options.latents} ({of['weights']}); extract the features and train again"
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return Decoder(model.to(device).eval().requires_grad_(False), options, of, device)


@dataclass(frozen=True)
class _Drawn:
    """What weights are drawn by, as of the backbone."""

    model: str
    weights: str
    seed: int


class Decoder:
    """Latents (b, d) of the first layers to pictures.

    Attributes:
        size: (height, width).
        facts: for the header.
    """

    def __init__(self, model, options, of, device):
        self.model, self.options, self.device = model, options, device
        self.size = tuple(options.size or (model.architecture.size,) * 2)
        self.facts = {
            **{key: of[key] for key in ("model", "weights", "weights_sha256")},
            "prior_z": options.prior_z,
            "output": options.output,
            "interpolation": f"{options.interpolation}, antialiased" if options.size else "none",
        }

    def __call__(self, given, generators) -> np.ndarray:
        """uint8 RGB (b, height, width, 3)."""
        values = torch.from_numpy(given["latents"]).to(self.device)
        of_prior = generators if self.options.prior_z == "sample" else None
        of_output = generators if self.options.output == "sample" else None
        with torch.inference_mode():
            parameters = self.model.decode(self.model.split(values), of_prior)
            pictures = vdvae.picture(parameters, of_output).cpu()
            if pictures.shape[2:] != self.size:
                mode = self.options.interpolation
                pictures = interpolate(pictures, self.size, mode=mode, antialias=True)
            return pictures.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
