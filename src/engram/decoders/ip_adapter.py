"""Decoder "ip_adapter": pictures by Stable Diffusion 1.5 from a predicted embedding and text.

Rombach, R. et al. (2022). High-resolution image synthesis with latent diffusion models. CVPR.
arXiv:2112.10752. Ye, H. et al. (2023). IP-Adapter: text compatible image prompt adapter for
text-to-image diffusion models. arXiv:2308.06721. Of a picture only the 1024 numbers of its
embedding are predicted, where Versatile Diffusion takes 257 tokens of 768.

No checker of what is drawn is run, and nothing is fetched.
"""

from dataclasses import dataclass

import torch

from engram.decoders import _diffusion
from engram.errors import InputError
from engram.models import latent_diffusion

READS = {"vision": "latents", "text": "latents", "start": "pictures", "start_latents": "latents"}
BACKBONES = {
    "vision": ("open_clip",),
    "text": ("clip_text_tokens",),
    "start_latents": ("sd_vae",),
}
WEIGHTS = ("unet", "adapter", "vae", "clip")


@dataclass(frozen=True, kw_only=True)
class Options(_diffusion.Options):
    """Options of the decoder.

    What no text is, is computed with `clip`, the states of the empty text; no picture is an
    embedding of zeros, as published.

    Attributes:
        vision: an experiment that predicts the image embedding of OpenCLIP's ViT-H-14, 1024
            numbers; without it there is no adapter, and the text alone says what is drawn.
        text: an experiment that predicts `clip_text_tokens` with `states: last`; without it the
            text is empty, and the embedding alone says what is drawn.
        scale: weight of the attention to the picture beside that to the text; 0 needs no `vision`.
        adapter: weights of IP-Adapter, as of `unet`.
    """

    vision: str | None = None
    text: str | None = None
    scale: float = 0.6
    adapter: str | None = None


def load(options, sources, weights, device) -> _diffusion.Decoder:
    """The decoder with the parts that it needs.

    Raises:
        InputError: an option is missing or out of range, latents are of another backbone, size or
            checkpoint than it takes, or a file does not fit.
    """
    used = _used(options)
    parts = _diffusion.Parts("ip_adapter", options, sources, weights, device)
    architecture = parts.architecture
    if "vision" in used:
        parts.takes("vision", "open_clip", architecture.embedding, model=architecture.embeds)
    if "text" in used:
        numbers = architecture.tokens[1] * architecture.width
        which = {"model": architecture.clip, "states": "last"}
        parts.takes("text", "clip_text_tokens", numbers, **which)
    model = parts.load("unet", latent_diffusion.unet)
    if "vision" in used:
        adapter = parts.load(
            "adapter",
            lambda architecture: latent_diffusion.Adapter(model, architecture),
            latent_diffusion.adapter_names,
        )
        adapter.attach(model, options.scale)
    nothing = {}
    if options.guidance != 1 or "text" not in used:
        nothing["tokens"] = parts.of_no_text("text", False)
    if "vision" in used:
        nothing["embedding"] = torch.zeros(1, architecture.embedding, device=device)

    def conditions(given):
        rows = len(next(iter(given.values())))
        found = {"tokens": nothing["tokens"].expand(rows, -1, -1)} if "text" not in used else {}
        if "text" in used:
            found["tokens"] = given["text"].reshape(rows, -1, architecture.width)
        return found | ({"embedding": given["vision"]} if "vision" in used else {})

    return _diffusion.Decoder(options, parts, model, conditions, nothing, {"scale": options.scale})


def _used(options):
    """The conditions that are there and have a weight."""
    if options.scale < 0:
        raise InputError(f"decoder ip_adapter: `scale` is {options.scale}; at least 0")
    used = ["vision"] if options.vision and options.scale else []
    used += ["text"] if options.text else []
    if not used:
        raise InputError("decoder ip_adapter: name `vision`, `text` or both")
    if "vision" in used and options.adapter is None:
        raise InputError("decoder ip_adapter: `adapter` is missing, which `vision` needs")
    return used
