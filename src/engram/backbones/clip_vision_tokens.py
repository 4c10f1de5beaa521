"""All tokens of CLIP's image tower, as Versatile Diffusion takes them.

Xu, X. et al. (2023). Versatile Diffusion: text, images and variations all in one diffusion model.
ICCV. arXiv:2211.08332. What Ozcelik & VanRullen (2023, Brain-Diffuser, arXiv:2303.05334) predict
from fMRI to say what a picture shows.
"""

from dataclasses import dataclass
from typing import Literal

from engram.backbones import open_clip
from engram.frozen import backbone, clip

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}


@dataclass(frozen=True, kw_only=True)
class Options(open_clip.Options):
    """Options.  Weights are files of OpenCLIP or of OpenAI.

    The features are all tokens after the last LayerNorm, projected, (257, 768) of ViT-L-14; each is
    divided by the length of the class token, the first, whose own length becomes 1.

    Attributes:
        model: name in OpenCLIP; the published one by default.
        precision: fp32 by default; a decoder takes what is predicted of these tokens.
        mode: Pillow's own resizing by default, as published.
    """

    model: str = "ViT-L-14-quickgelu"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    mode: Literal["device", "reference"] = "reference"


def load(options, weights, view, device) -> backbone.Frozen:
    """The image tower, ready to encode rows of a view; the text tower is never built.

    Args:
        options: `Options`.
        weights: path of the checkpoint of the whole model; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: OpenCLIP has no such model, it has no class token that is projected, the
            checkpoint does not fit it, or it takes images of another size.
    """
    tower, preprocessing = open_clip.parts(options, weights, view, device)
    features = clip.image_tokens(tower)
    loaded = backbone.Frozen(
        tower,
        preprocessing,
        options,
        weights,
        device,
        features=features,
        tokens=features,
        prefix=1,
    )
    loaded.facts |= {"latents": [list(loaded.shape)], "divided_by": "length of the class token"}
    return loaded
