"""Latents of a very deep variational autoencoder; see `engram.models.vdvae`.

Child, R. (2021). Very deep VAEs generalize autoregressive models and can outperform them on images.
ICLR. arXiv:2011.10650.

The latents of the first 31 of its 75 layers are what Ozcelik & VanRullen (2023, Brain-Diffuser,
arXiv:2303.05334) predict from fMRI to draw the layout of a picture.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, pictures
from engram.models import vdvae

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}

#: Of the pixels of ImageNet at 64 x 64, 0 to 255, all colours alike.
MEAN, STD = 115.92961967, 69.37404


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.  Weights are OpenAI's `imagenet64-iter-1600000-model-ema.th`.

    The features are the latents of the first layers of the decoder, from the coarsest on, each
    (16, h, w) row by row: 91168 numbers of 31 layers. Layers after these are not computed.

    Attributes:
        model: `imagenet64`; or `tiny`, of pictures of 16 x 16, which nobody has trained.
        layers: number of layers; by default 31 of the 75 of `imagenet64`, 4 of the 5 of `tiny`.
        latent: `mean` of the posterior in every layer; or `sample`, drawn from it as published, by
            `seed` and the picture, so that neither order nor batch changes it.
        batch: small by default, because the first maps are large: 8 MiB an image.
        precision: fp32 by default; latents are decoded again.
        mode: Pillow's own resizing by default; it costs little beside the model.
    """

    model: Literal["imagenet64", "tiny"] = "imagenet64"
    layers: int | None = None
    latent: Literal["mean", "sample"] = "mean"
    batch: int = 8
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    mode: Literal["device", "reference"] = "reference"


def load(options, weights, view, device) -> backbone.Frozen:
    """The encoder and the first layers of the decoder, ready to encode rows of a view.

    Args:
        options: `Options`.
        weights: path of the checkpoint; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: there are fewer layers, the input has another size, or the checkpoint does not
            fit.
    """
    architecture = vdvae.ARCHITECTURES[options.model]
    layers = architecture.layers if options.layers is None else options.layers
    every, size = len(vdvae.blocks(architecture.decoder)), (architecture.size,) * 2
    if not 1 <= layers <= every:
        raise InputError(f"backbone vdvae: `layers` is {layers}; {options.model} has 1 to {every}")
    if options.size and tuple(options.size) != size:
        raise InputError(f"backbone vdvae: its input is {list(size)}; leave out `size`")
    model = backbone.build(lambda: vdvae.VDVAE(architecture), options, weights)
    if weights:
        tensors = checkpoints.named(weights, options.prefix)
        checkpoints.load_strictly(model, tensors, weights, f"VDVAE {options.model}")
    published = pictures.Published(size, (MEAN / 255,) * 3, (STD / 255,) * 3, "bilinear")
    preprocessing = pictures.preprocessing(options, published, view, device)

    def features(images):
        generators = None
        if options.latent == "sample":
            generators = _generators(images, options.seed, preprocessing)
        return vdvae.joined([one.z for one in model.encode(images, layers, generators)])

    loaded = backbone.Frozen(model, preprocessing, options, weights, device, features=features)
    loaded.facts |= {"latent": options.latent, "latents": [list(s) for s in model.shapes(layers)]}
    if options.latent == "sample":
        loaded.facts["seed"] = options.seed
    return loaded


def _generators(images, seed, preprocessing):
    """A generator for each image, from `seed` and its pixels as the model sees them."""
    mean, std = (
        255 * torch.tensor(one).view(-1, 1, 1) for one in (preprocessing.mean, preprocessing.std)
    )
    pixels = (images.cpu().float() * std + mean).round().byte().numpy()
    digests = [hashlib.sha256(f"{seed} ".encode() + one.tobytes()).digest() for one in pixels]
    return [torch.Generator().manual_seed(int.from_bytes(digest[:7])) for digest in digests]
