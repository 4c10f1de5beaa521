"""All tokens of CLIP's text tower, as Versatile Diffusion and Stable Diffusion take them.

Xu, X. et al. (2023). Versatile Diffusion: text, images and variations all in one diffusion model.
ICCV. arXiv:2211.08332. Rombach, R. et al. (2022). High-resolution image synthesis with latent
diffusion models. CVPR. arXiv:2112.10752.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from engram.backbones import clip_text
from engram.frozen import backbone, clip

TAKES = {"what": {"text": ["encoding"]}}


@dataclass(frozen=True, kw_only=True)
class Options(clip_text.Options):
    """Options.  Weights are files of OpenCLIP or of OpenAI.

    Captions are cut or padded to 77 tokens, padded with the token that ends a text as diffusion
    models were trained, where OpenCLIP pads with zeros.

    Attributes:
        model: name in OpenCLIP; the published one by default.
        states: `projected`, as Versatile Diffusion takes them: after the last LayerNorm, projected,
            (77, 768) of ViT-L-14, all divided by the length of the token that ends the caption; or
            `last`, as Stable Diffusion takes them: after the last LayerNorm.
        captions: of a row with several, one a line, `mean`, their features averaged position by
            position as published; or `first`.
        precision: fp32 by default; a decoder takes what is predicted of these tokens.
    """

    model: str = "ViT-L-14-quickgelu"
    states: Literal["projected", "last"] = "projected"
    captions: Literal["mean", "first"] = "mean"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"


def load(options, weights, view, device) -> backbone.Frozen:
    """The text tower, ready to encode rows of a view of texts; the image tower is never built.

    Args:
        options: `Options`.
        weights: path of the checkpoint of the whole model; None for random weights.
        view: header of the view store; its rows are UTF-8, uint8 (n, bytes), padded with zeros.
        device: "cpu" or "cuda".

    Raises:
        InputError: OpenCLIP has no such model, its tokenizer is not part of OpenCLIP, or the
            checkpoint does not fit it.
    """
    tokenizer = clip.tokenizer(options.model)
    tower = clip.text_tower(options, weights)

    def one(tokens):
        if options.states == "last":
            return clip.states(tower, tokens)
        return clip.text_tokens(tower, tokens, tokenizer.eot_token_id)

    def features(tokens):
        there = tokens.any(-1)
        found = one(tokens[there])
        every = found.new_zeros(*there.shape, *found.shape[1:])
        every[there] = found
        return every.sum(1) / there.sum(1)[:, None, None]

    captions = Captions(tokenizer, device, options.captions == "first")
    loaded = backbone.Frozen(
        tower, captions, options, weights, device, features=features, tokens=features
    )
    loaded.facts |= {
        "latents": [list(loaded.shape)],
        "states": options.states,
        "captions": options.captions,
    }
    return loaded


@dataclass(frozen=True)
class Captions(clip_text.Captions):
    """From the rows of a view of texts, each with one caption a line, to tokens.

    Attributes:
        first: leave out all captions of a row but the first.
    """

    first: bool = False

    def __call__(self, rows) -> torch.Tensor:
        """Tokens, int64 (n, captions, context); zeros stand for captions that a row does not have.

        Raises:
            InputError: a row is not UTF-8.
        """
        return self._tokens([clip_text.decoded(row) for row in rows])

    def probe(self) -> torch.Tensor:
        """Tokens of one fixed row."""
        return self._tokens(["A café, two dogs & 10 people\nDogs"])

    def facts(self) -> dict:
        """What stands in the header of a feature store."""
        return super().facts() | {"padding": "the token that ends a text"}

    def _tokens(self, texts):
        lines = [[one for one in text.splitlines() if one.strip()] or [""] for text in texts]
        lines = [some[:1] for some in lines] if self.first else lines
        found = torch.zeros(len(lines), max(map(len, lines)), self.tokenizer.context_length)
        found = found.long()
        for row, some in zip(found, lines, strict=True):
            row[: len(some)] = clip.padded(self.tokenizer, some)
        return found.to(self.device)
