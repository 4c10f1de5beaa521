"""The text tower of models of OpenCLIP: captions to projected features.

CLIP: Radford et al. (2021). Learning transferable visual models from natural language
supervision. ICML. https://arxiv.org/abs/2103.00020
"""

import hashlib
from dataclasses import dataclass

import torch

from engram.errors import InputError
from engram.frozen import backbone, clip

TAKES = {"what": {"text": ["encoding"]}}


@dataclass(frozen=True, kw_only=True)
class Options(backbone.Options):
    """Options.  Weights are files of OpenCLIP or of OpenAI.

    `pooling: tokens` gives every position of the padded caption after the last LayerNorm,
    projected, e.g. (77, 768) of ViT-L-14; the features by default are the one of them that ends
    the caption.  A `layer` is pooled over all positions, those of the padding included.

    Attributes:
        model: name in OpenCLIP, e.g. `ViT-L-14-quickgelu`, with or without the tag of its weights;
            or `tiny`, which nobody has trained.
    """

    model: str


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
    captions = Captions(clip.tokenizer(options.model), device)
    tower = clip.text_tower(options, weights)

    def tokens(given):
        return clip.projected(tower, clip.states(tower, given))

    return backbone.Frozen(tower, captions, options, weights, device, tokens=tokens)


@dataclass(frozen=True)
class Captions:
    """From the rows of a view of texts to the tokens that a text tower sees.

    Attributes:
        tokenizer: of OpenCLIP, with its context length.
        device: "cpu" or "cuda".
    """

    tokenizer: clip.SimpleTokenizer
    device: str = "cpu"

    def __call__(self, rows) -> torch.Tensor:
        """Tokens, int64 (n, context), of rows of UTF-8, uint8 (n, bytes); long ones are cut.

        Raises:
            InputError: a row is not UTF-8.
        """
        return self.tokenizer([decoded(row) for row in rows]).to(self.device)

    def probe(self) -> torch.Tensor:
        """Tokens of one fixed caption."""
        return self.tokenizer(["A café, two dogs & 10 people"]).to(self.device)

    def fingerprint(self) -> str:
        """Digest of `probe()`: tells any change of the tokenizer."""
        return hashlib.sha256(self.probe().cpu().numpy().tobytes()).hexdigest()[:16]

    def facts(self) -> dict:
        """What stands in the header of a feature store."""
        return {
            "encoding": "UTF-8",
            "tokenizer": "byte pairs of CLIP",
            "vocabulary": self.tokenizer.vocab_size,
            "context": self.tokenizer.context_length,
        }


def decoded(row) -> str:
    """The text of a row, uint8 (bytes,).

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return row.tobytes().rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"view of texts: the row {row.tobytes()[:20]!r}... is not UTF-8 ({error.reason}); "
            "write texts as UTF-8, padded with zeros"
        ) from None
