"""The image tower of any model of OpenCLIP, projected features.

CLIP: Radford et al. (2021). Learning transferable visual models from natural language
supervision. ICML. https://arxiv.org/abs/2103.00020
OpenCLIP: Cherti et al. (2023). Reproducible scaling laws for contrastive language-image
learning. CVPR. https://arxiv.org/abs/2212.07143; Ilharco et al. (2021).
https://doi.org/10.5281/zenodo.5143773
SigLIP 2: Tschannen et al. (2025). https://arxiv.org/abs/2502.14786
"""

from dataclasses import dataclass

from engram.frozen import backbone, clip, pictures

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.  Weights are files of OpenCLIP or of OpenAI.

    `pooling: tokens` gives every position after the last LayerNorm, projected like the class
    token, e.g. (257, 768) of ViT-L-14; `cls` of them are the features by default.  Not
    projected they are the tokens of `layer: ln_post`.  For the ResNets of CLIP, SigLIP and other
    towers from timm they are what goes into the last pooling, not projected.

    Attributes:
        model: name in OpenCLIP, e.g. `ViT-B-32-quickgelu`; followed by the tag of its weights,
            as in `ViT-L-14:openai`, where tags differ in mean, standard deviation or
            interpolation.  With a tag the activation is the one its weights were trained with.
            Or `tiny`, of pictures of 32 x 32, which nobody has trained.
    """

    model: str


def load(options, weights, view, device) -> backbone.Frozen:
    """The image tower, ready to encode rows of a view; the text tower is never built.

    Args:
        options: `Options`.
        weights: path of the checkpoint of the whole model; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: OpenCLIP has no such model, the checkpoint does not fit it, or it takes
            images of another size.
    """
    tower, preprocessing = parts(options, weights, view, device)
    tokens, prefix = clip.last_tokens(tower)
    return backbone.Frozen(
        tower, preprocessing, options, weights, device, tokens=tokens, prefix=prefix
    )


def parts(options, weights, view, device):
    """The image tower and what happens to rows of a view before it; arguments as of `load`."""
    published = clip.published(options, clip.configuration(options.model)["image_size"])
    tower = clip.image_tower(options, weights)
    return tower, pictures.preprocessing(options, published, view, device)
