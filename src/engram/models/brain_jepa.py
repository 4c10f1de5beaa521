"""Brain-JEPA (Dong et al., NeurIPS 2024): a vision transformer over windows of brain regions.

A token is one window of one region, token `region * windows + window`. Where a region lies is told
by its functional gradients, when a window lies by sine and cosine of its number. The encoder is
pretrained to predict, from the tokens that it sees, what a slowly following copy of it makes of
others. Tensors are named as in the published checkpoints.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

PATCH = 16  # frames of a window
EPSILON = 1e-6  # of layer norms

#: Width, blocks and heads of the published encoders.
SIZES = {"vit_small": (384, 12, 6), "vit_base": (768, 12, 12), "vit_large": (1024, 24, 16)}


class Encoder(nn.Module):
    """Tokens of series of regions.

    Args:
        gradients: float (regions, components), coordinates of each region; fixed, and no part of
            the state dict, as in published checkpoints.
        windows: of a series, each of `PATCH` frames.
        width, depth, heads: features of a token, number of blocks, of heads; `width` divides by
            4 and by `heads`.

    Attributes:
        width: features of a token.
        checkpointing: forget what the blocks compute, and compute it again for the gradient.
    """

    def __init__(self, gradients, windows=10, width=768, depth=12, heads=12):
        super().__init__()
        self.width, self.checkpointing = width, False
        self.patch_embed = Patches(width)
        self.pos_embed_proj = Positions(gradients, windows, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.apply(_initialise)

    def forward(self, series, at=None):
        """Tokens (b, n, width) of series (b, regions, windows * PATCH).

        Args:
            series: floating point.
            at: int (b, n), the tokens that the blocks see; None: all.
        """
        x = self.patch_embed(series, at) + self.pos_embed_proj(at)
        return self.norm(_through(self.blocks, x, self.checkpointing))


class Predictor(nn.Module):
    """What the encoder would make of hidden tokens, from its tokens of visible ones.

    Args:
        gradients, windows: as of the encoder.
        encoder_width: features of its tokens.
        width, depth, heads: of the predictor; `heads` as many as the encoder has.

    Attributes:
        checkpointing: as of the encoder.
    """

    def __init__(self, gradients, windows=10, encoder_width=768, width=384, depth=6, heads=12):
        super().__init__()
        self.checkpointing = False
        self.predictor_embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.predictor_2dpe_proj = Positions(gradients, windows, width)
        self.predictor_blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(width, EPSILON)
        self.predictor_proj = nn.Linear(width, encoder_width)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, seen, at, wanted):
        """Predicted tokens (b, m, encoder_width).

        Args:
            seen: (b, n, encoder_width), tokens of the encoder.
            at: int (b, n), which those are.
            wanted: int (b, m), which to predict.
        """
        positions = self.predictor_2dpe_proj(torch.cat([at, wanted], 1))
        seen = self.predictor_embed(seen)
        hidden = self.mask_token.to(seen.dtype).expand(*wanted.shape, -1)
        x = torch.cat([seen, hidden], 1) + positions
        x = _through(self.predictor_blocks, x, self.checkpointing)
        return self.predictor_proj(self.predictor_norm(x[:, at.shape[1] :]))


class Patches(nn.Module):
    """Windows of single regions through one linear map."""

    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv2d(1, width, (1, PATCH), (1, PATCH))  # for the shape of its weight

    def forward(self, series, at=None):
        """(b, n, width) of series (b, regions, windows * PATCH), of the tokens `at` (b, n)."""
        patches = series.unflatten(-1, (-1, PATCH)).flatten(1, 2)
        if at is not None:
            patches = patches.take_along_dim(at[..., None], 1)
        return functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Positions(nn.Module):
    """Position of each token: sine and cosine of its window, beside its region's gradients.

    The gradients are projected and scaled together to [-1, 1], by a minimum and a maximum that
    take their share of the derivative.
    """

    def __init__(self, gradients, windows, width):
        super().__init__()
        gradients = torch.as_tensor(gradients, dtype=torch.float32)
        regions, components = gradients.shape
        self.windows = windows
        self.register_buffer("gradients", gradients, persistent=False)
        self.register_buffer("emb_h", sine_cosine(windows, width // 2).repeat(regions, 1))
        self.predictor_pos_embed_proj = nn.Linear(components, width // 2)

    def forward(self, at=None):
        """Positions (n, width) of all tokens, or (b, n, width) of the tokens `at` (b, n)."""
        places = self.predictor_pos_embed_proj(self.gradients)
        low, high = places.amin(), places.amax()
        places = 2 * (places - low) / (high - low) - 1
        if at is None:
            return torch.cat([self.emb_h, places.repeat_interleave(self.windows, 0)], 1)
        return torch.cat([self.emb_h[at], places[at // self.windows]], -1)


class Block(nn.Module):
    """Attention and two layers, each on what a layer norm gives and added to its input."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = MLP(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Attention of all tokens to all, whose (n, n) weights are never held in memory."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Linear, exact GELU, linear, four times as wide inside."""

    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


def sine_cosine(n, width) -> torch.Tensor:
    """Sines, then cosines of the positions 0 to n - 1, float32 (n, width).

    The k-th of width / 2 frequencies is 10000 ** (-2 k / width).
    """
    rates = torch.arange(width // 2, dtype=torch.float64) * (-2 * math.log(10000) / width)
    angles = torch.arange(n, dtype=torch.float64)[:, None] * rates.exp()
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def evenly(frames, windows) -> np.ndarray:
    """Which frames of a clip the model sees, int (windows * PATCH,): in even steps, rounded down.

    Of 480 frames and 10 windows about every third, as published; of as many as it sees, all.
    """
    return np.linspace(0, frames - 1, windows * PATCH).astype(int)


def _through(blocks, x, again):
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if again else block(x)
    return x


def _initialise(module):
    """Weights of linear maps truncated normal, sd 0.02, biases 0.

    So the published code ends, which first divides the last layers of the i-th block by sqrt(2 i)
    and then draws all anew; the paper names Xavier's rule.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
