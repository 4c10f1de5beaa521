"""Decoder "versatile_diffusion": pictures from predicted tokens of pictures and of captions.

Xu, X. et al. (2023). Versatile Diffusion: text, images and variations all in one diffusion model.
ICCV. arXiv:2211.08332, used as Ozcelik & VanRullen do (2023, Brain-Diffuser, arXiv:2303.05334).
"""

from dataclasses import dataclass

import torch

from engram.decoders import _diffusion
from engram.errors import InputError
from engram.models import latent_diffusion

READS = {"vision": "latents", "text": "latents", "start": "pictures", "start_latents": "latents"}
BACKBONES = {
    "vision": ("clip_vision_tokens",),
    "text": ("clip_text_tokens",),
    "start_latents": ("sd_vae",),
}
WEIGHTS = ("unet", "text_unet", "vae", "clip")


@dataclass(frozen=True, kw_only=True)
class Options(_diffusion.Options):
    """Options of the decoder.

    What no picture and no text are is computed with `clip`: the tokens of a picture that is grey
    0.5 throughout, and those of the empty text.

    Attributes:
        vision: an experiment that predicts `clip_vision_tokens`; not needed at mixing 1.
        text: an experiment that predicts `clip_text_tokens`; not needed at mixing 0.
        mixing: weight of the text beside the picture: 0 is the picture alone, 1 the text alone.
            Transformers of weight 0 are neither loaded nor run.
        text_unet: weights of the transformers of the text, as of `unet`; what the file holds
            beside these is for writing texts and is left.
    """

    vision: str | None = None
    text: str | None = None
    mixing: float = 0.4
    text_unet: str | None = None


def load(options, sources, weights, device) -> _diffusion.Decoder:
    """The decoder with the transformers that it needs.

    Raises:
        InputError: an option is missing or out of range, latents are of another backbone, size or
            checkpoint than it takes, or a file does not fit.
    """
    used = _used(options)
    parts = _diffusion.Parts("versatile_diffusion", options, sources, weights, device)
    architecture = parts.architecture
    of_image, of_text = (number * architecture.width for number in architecture.tokens)
    if "vision" in used:
        parts.takes("vision", "clip_vision_tokens", of_image, model=architecture.clip)
    if "text" in used:
        which = {"model": architecture.clip, "states": "projected"}
        parts.takes("text", "clip_text_tokens", of_text, **which)
    nothing = []
    if options.guidance != 1:
        nothing += [parts.of_no_picture("vision")] if "vision" in used else []
        nothing += [parts.of_no_text("text", True)] if "text" in used else []

    def conditions(given):
        rows = (given[option] for option in used)
        tokens = [one.reshape(len(one), -1, architecture.width) for one in rows]
        return {"tokens": torch.cat(tokens, 1)}

    return _diffusion.Decoder(
        options,
        parts,
        _model(parts, used),
        conditions,
        {"tokens": torch.cat(nothing, 1)} if nothing else {},
        {"mixing": options.mixing},
    )


def _used(options):
    """The conditions that have a weight, those of the picture first."""
    if not 0 <= options.mixing <= 1:
        raise InputError(f"decoder versatile_diffusion: `mixing` is {options.mixing}; 0 to 1")
    used = ["vision"] if options.mixing < 1 else []
    used += ["text"] if options.mixing > 0 else []
    for option in [*used, *(["text_unet"] if "text" in used else [])]:
        if getattr(options, option) is None:
            raise InputError(
                f"decoder versatile_diffusion: `{option}` is missing, which mixing "
                f"{options.mixing} needs"
            )
    return used


def _model(parts, used):
    """The U-Net, its transformers those of the conditions that are used."""
    image = parts.load("unet", latent_diffusion.unet)
    if "text" not in used:
        return image
    text = parts.text_unet(image)
    if "vision" not in used:
        return text
    return latent_diffusion.dual(image, text, parts.options.mixing, parts.architecture.tokens[0])
