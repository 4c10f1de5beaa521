"""The text tower of models of OpenCLIP: captions to projected features.

CLIP: Radford et al. (2021). Learning transferable visual models from natural language
supervision. ICML. https://arxiv.org/abs/2103.00020
"""

import hashlib
from dataclasses import dataclass

import torch

from engram.backbones.open_clip import configuration
from engram.errors import InputError
from engram.frozen import backbone, checkpoints, libraries

with libraries.without("wandb"):
    import open_clip

    # Private, but the public way builds the image tower too.
    from open_clip.model import _build_text_tower as build_text_tower

TAKES = {"what": {"text": ["encoding"]}}

#: What else stands in the checkpoint of a whole model.
NO_TEXT = ("visual", "logit_scale", "logit_bias")


@dataclass(frozen=True, kw_only=True)
class Options(backbone.Options):
    """Options.  Weights are files of OpenCLIP or of OpenAI.

    `pooling: tokens` gives every position of the padded caption after the last LayerNorm,
    projected, e.g. (77, 768) of ViT-L-14; the features by default are the one of them that ends
    the caption.  A `layer` is pooled over all positions, those of the padding included.

    Attributes:
        model: name in OpenCLIP, e.g. `ViT-L-14-quickgelu`, with or without the tag of its weights.
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
    config = configuration(options.model)
    captions = Captions(_tokenizer(options.model, config["text_cfg"]), device)
    tower = backbone.build(lambda: _text_tower(config), options, weights)
    if weights:
        tensors = _of_text(checkpoints.below(checkpoints.read(weights), options.prefix))
        checkpoints.load_strictly(tower, tensors, weights, f"the text tower of {options.model}")
    return backbone.Frozen(
        tower, captions, options, weights, device, tokens=lambda tokens: _projected(tower, tokens)
    )


@dataclass(frozen=True)
class Captions:
    """From the rows of a view of texts to the tokens that a text tower sees.

    Attributes:
        tokenizer: of OpenCLIP, with its context length.
        device: "cpu" or "cuda".
    """

    tokenizer: open_clip.SimpleTokenizer
    device: str = "cpu"

    def __call__(self, rows) -> torch.Tensor:
        """Tokens, int64 (n, context), of rows of UTF-8, uint8 (n, bytes); long ones are cut.

        Raises:
            InputError: a row is not UTF-8.
        """
        return self.tokenizer([_decoded(row) for row in rows]).to(self.device)

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


def _decoded(row):
    try:
        return row.tobytes().rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"view of texts: the row {row.tobytes()[:20]!r}... is not UTF-8 ({error.reason}); "
            "write texts as UTF-8, padded with zeros"
        ) from None


def _tokenizer(model, text):
    """The tokenizer of a model, from the files of OpenCLIP alone."""
    if text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        raise InputError(
            f"backbone {model}: its tokenizer would be fetched from Hugging Face; "
            "choose a model with the vocabulary of CLIP, e.g. ViT-L-14"
        )
    return open_clip.get_tokenizer(model.partition(":")[0])


def _text_tower(config):
    text = config["text_cfg"] | {"output_tokens": False}
    return build_text_tower(config["embed_dim"], text, config["quick_gelu"])


def _of_text(tensors):
    """The tensors of the text tower; in some models they have a prefix of their own.

    Archives keep causal masks beside the weights; towers make their own.
    """
    tensors = checkpoints.below(tensors, "text.") or checkpoints.without(tensors, NO_TEXT)
    return {n: t for n, t in tensors.items() if n.rpartition(".")[2] != "attn_mask"}


def _projected(tower, tokens):
    """Every position after the last LayerNorm, projected, (b, context, d)."""
    found = tower.forward_intermediates(
        tokens,
        indices=1,
        normalize_intermediates=True,
        intermediates_only=True,
        output_fmt="NLC",
    )
    last, projection = found["text_intermediates"][0], tower.text_projection
    return projection(last) if isinstance(projection, torch.nn.Module) else last @ projection
