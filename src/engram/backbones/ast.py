"""The audio spectrogram transformer (AST) on spectrograms of any signal.

Gong, Y., Chung, Y.-A. & Glass, J. (2021). AST: Audio Spectrogram Transformer. Interspeech.
arXiv:2104.01778.  Weights in the layout of Hugging Face, e.g. of
`MIT/ast-finetuned-audioset-10-10-0.4593`.

AST was trained on log mel spectrograms, 128 frequencies x 1024 times, standardised to mean 0 and
standard deviation 0.5 over AudioSet.  A view's dB are scaled from its limits to 0..1, resized to
128 x 1024 and then, by default, x -> 2 x - 1: the lower limit is -1, the middle 0, the upper 1,
so that limits two standard deviations from the mean on either side give AST's statistics.  For
the statistics of a dataset exactly, set `mean` to its mean on the scale 0..1 and `std` to twice
its standard deviation.  Rows of a view begin with the highest frequency, AST's with the lowest.
"""

from dataclasses import dataclass

import torch
from transformers import ASTConfig, ASTModel
from transformers.conversion_mapping import get_model_conversion_mapping

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, pictures

TAKES = {"what": {"spectrogram": ["limits"]}}

#: What the names of the encoder begin with in files of the whole classifier.
ENCODER = "audio_spectrogram_transformer."

PREFIX_TOKENS = 2  # class and distillation token

PUBLISHED = pictures.Published(
    size=(128, 1024), mean=(0.5,), std=(0.5,), interpolation="bilinear", grey=True
)


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.

    Attributes:
        model: only `ast-base`, patches of 16 x 16 every 10 frequencies and 10 times.  Its layers
            are named `model.layers.6`.
    """

    model: str = "ast-base"


def load(options, weights, view, device) -> backbone.Frozen:
    """The encoder, ready to encode rows of a view of spectrograms.

    Its features (768) are the mean of the class and the distillation token.

    Args:
        options: `Options`.
        weights: path of `model.safetensors`; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: the input is to have another size, or the checkpoint does not fit.
    """
    backbone.known_name(options.model, ["ast-base"], "AST")
    if options.size and tuple(options.size) != PUBLISHED.size:
        raise InputError(f"backbone ast: its input is {list(PUBLISHED.size)}; leave out `size`")
    model = backbone.build(lambda: ASTModel(ASTConfig()), options, weights)
    if weights:
        tensors = checkpoints.named(weights, options.prefix)
        checkpoints.load_strictly(model, _converted(model, tensors), weights, "AST")
    encoder = Spectrogram(model)
    preprocessing = pictures.preprocessing(options, PUBLISHED, view, device)
    return backbone.Frozen(
        encoder,
        preprocessing,
        options,
        weights,
        device,
        tokens=encoder.tokens,
        prefix=PREFIX_TOKENS,
    )


class Spectrogram(torch.nn.Module):
    """AST on images (b, 1, frequency, time) whose first row is the highest frequency."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        """Features (b, 768)."""
        return self._encoded(images).pooler_output

    def tokens(self, images):
        """Tokens after the last norm (b, 2 + positions, 768)."""
        return self._encoded(images).last_hidden_state

    def _encoded(self, images):
        return self.model(images[:, 0].flip(1).transpose(1, 2))


def _converted(model, tensors):
    """`tensors` by the names that this version of transformers has for them."""
    if any(name.startswith(ENCODER) for name in tensors):
        tensors = checkpoints.without(tensors, ["classifier"])
        tensors = {name.removeprefix(ENCODER): tensor for name, tensor in tensors.items()}
    renamings = get_model_conversion_mapping(model)
    return {_renamed(name, renamings): tensor for name, tensor in tensors.items()}


def _renamed(name, renamings):
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name
