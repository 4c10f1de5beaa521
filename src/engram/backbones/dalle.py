"""The encoder of DALL-E's discrete variational autoencoder.

Ramesh et al. (2021). Zero-shot text-to-image generation. ICML.
https://arxiv.org/abs/2102.12092
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import conv2d

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, pictures

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}

#: Channels of the input convolution; the four groups have 1, 2, 4 and 8 times as many.
WIDTH = 256
GROUPS = 4
BLOCKS = 2
VOCABULARY = 8192

#: Pixels x on the scale 0..1 go in as 0.8 x + 0.1.
PUBLISHED = pictures.Published(
    size=(256, 256), mean=(-0.125,) * 3, std=(1.25,) * 3, interpolation="lanczos"
)


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.  Weights are OpenAI's `encoder.pkl`.

    The features are the mean over positions of what goes into the output convolution (2048);
    `pooling: tokens` gives its positions, one for each 8 x 8 pixels: (1024, 2048).  The logits
    of the 8192 codes are `layer: blocks.output.conv`.  `size` is any multiple of 8; 256 x 256 is
    that of the training.

    Attributes:
        model: there is one.
        batch: small by default, because the first maps are large: 64 MiB an image at 256 x 256.
    """

    model: Literal["encoder"] = "encoder"
    batch: int = 8


def load(options, weights, view, device) -> backbone.Frozen:
    """The encoder, ready to encode rows of a view.

    Args:
        options: `Options`.
        weights: path of the checkpoint; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: the checkpoint does not fit, or `size` is no multiple of 8.
    """
    if any(length % 8 or length <= 0 for length in options.size or ()):
        raise InputError(f"backbone dalle: `size` is {options.size}; give multiples of 8")
    preprocessing = pictures.preprocessing(options, PUBLISHED, view, device)
    encoder = backbone.build(Encoder, options, weights)
    if weights:
        tensors = checkpoints.named(weights, options.prefix)
        checkpoints.load_strictly(encoder, tensors, weights, "the encoder of DALL-E")
    return backbone.Frozen(
        encoder,
        preprocessing,
        options,
        weights,
        device,
        features=lambda images: encoder.last_map(images).mean(dim=(2, 3)),
        tokens=encoder.last_map,
    )


class Encoder(nn.Module):
    """Images (b, 3, h, w) to logits of the codes (b, 8192, h / 8, w / 8).

    Four groups of residual blocks, with max pooling between them.
    """

    def __init__(self):
        super().__init__()
        stages = {"input": Convolution(3, WIDTH, 7)}
        width = WIDTH
        for group in range(GROUPS):
            wider = WIDTH * 2**group
            widths = [width] + [wider] * BLOCKS
            parts = {
                f"block_{i + 1}": Block(widths[i], widths[i + 1], GROUPS * BLOCKS)
                for i in range(BLOCKS)
            }
            if group < GROUPS - 1:
                parts["pool"] = nn.MaxPool2d(2)
            stages[f"group_{group + 1}"] = nn.Sequential(OrderedDict(parts))
            width = wider
        output = {"relu": nn.ReLU(), "conv": Convolution(width, VOCABULARY, 1)}
        stages["output"] = nn.Sequential(OrderedDict(output))
        self.blocks = nn.Sequential(OrderedDict(stages))

    def forward(self, images) -> torch.Tensor:
        return self.blocks.output.conv(self.last_map(images))

    def last_map(self, images) -> torch.Tensor:
        """What goes into the output convolution, (b, 2048, h / 8, w / 8), not negative."""
        *stages, output = self.blocks
        for stage in stages:
            images = stage(images)
        return output.relu(images)


class Block(nn.Module):
    """Residual block of a network of `depth` blocks: x + f(x) / depth^2, size unchanged."""

    def __init__(self, width, wider, depth):
        super().__init__()
        narrow = wider // 4
        widths = [width, narrow, narrow, narrow, wider]
        path = {}
        for i, kernel in enumerate((3, 3, 3, 1)):
            path[f"relu_{i + 1}"] = nn.ReLU()
            path[f"conv_{i + 1}"] = Convolution(widths[i], widths[i + 1], kernel)
        self.id_path = Convolution(width, wider, 1) if width != wider else nn.Identity()
        self.res_path = nn.Sequential(OrderedDict(path))
        self.gain = 1 / depth**2

    def forward(self, x) -> torch.Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


class Convolution(nn.Module):
    """Convolution that keeps the size; its tensors are called `w` and `b` as in the published
    file."""

    def __init__(self, width, wider, kernel):
        super().__init__()
        deviation = (width * kernel**2) ** -0.5
        self.w = nn.Parameter(torch.randn(wider, width, kernel, kernel) * deviation)
        self.b = nn.Parameter(torch.zeros(wider))

    def forward(self, x) -> torch.Tensor:
        return conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)
