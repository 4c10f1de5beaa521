"""Latents of the autoencoder of Stable Diffusion; see `engram.models.latent_diffusion`.

Rombach, R. et al. (2022). High-resolution image synthesis with latent diffusion models. CVPR.
arXiv:2112.10752. Predicted from fMRI they give the layout of a picture, and can start a diffusion.
"""

from dataclasses import dataclass
from typing import Literal

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, pictures
from engram.models import latent_diffusion

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.  Weights are `vae/diffusion_pytorch_model.safetensors` of Stable Diffusion 1.5.

    The features are the means of the latents times 0.18215, (4, h, w) row by row: 16384 numbers of
    a picture of 512 x 512, 4096 of one of 256 x 256.

    Attributes:
        model: `sd15`; or `tiny`, of pictures of 64 x 64, which nobody has trained.
        size: height and width of the pictures; by default those that the model was trained on.
        batch: small by default, because the first maps are large: 128 MiB an image.
        precision: fp32 by default; latents are decoded again.
        mode: Pillow's own resizing by default; it costs little beside the model.
    """

    model: Literal["sd15", "tiny"] = "sd15"
    batch: int = 2
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    mode: Literal["device", "reference"] = "reference"


def load(options, weights, view, device) -> backbone.Frozen:
    """The autoencoder, ready to encode rows of a view.

    Args:
        options: `Options`.
        weights: path of the checkpoint; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: the size cannot be halved as often as the model does, or the checkpoint does
            not fit.
    """
    architecture = latent_diffusion.ARCHITECTURES[options.model]
    side = options.size or (architecture.size,) * 2
    times = 1 << (len(architecture.autoencoder) - 1)
    if any(one % times for one in side):
        raise InputError(f"backbone sd_vae: `size` is {list(side)}; both are multiples of {times}")
    model = backbone.build(lambda: latent_diffusion.autoencoder(architecture), options, weights)
    if weights:
        tensors = checkpoints.named(weights, options.prefix)
        tensors = latent_diffusion.autoencoder_names(tensors)
        checkpoints.load_strictly(model, tensors, weights, f"the autoencoder of {options.model}")
    published = pictures.Published((architecture.size,) * 2, (0.5,) * 3, (0.5,) * 3)
    preprocessing = pictures.preprocessing(options, published, view, device)

    def features(images):
        return latent_diffusion.encode(model, images).flatten(1)

    loaded = backbone.Frozen(model, preprocessing, options, weights, device, features=features)
    loaded.facts |= {"latents": [[4, *(one // times for one in side)]]}
    loaded.facts["scale"] = latent_diffusion.SCALE
    return loaded
