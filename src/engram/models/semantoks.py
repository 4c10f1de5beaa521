"""Brain-Semantoks: tokens of whole brain networks, and a transformer over them.

Gijsen, S. & Ritter, K. (2026). Brain-Semantoks. ICLR. arXiv:2512.11582.

A scan of regions is cut into windows of equal length. Each network of regions makes one token of
each window, by a convolution over its regions and a structured long convolution of each region
(Li, Y. et al. 2023, What makes convolutional models great on long sequence modeling? ICLR,
arXiv:2210.09298). Written from a description of equations, shapes and names.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from engram.errors import InputError

KERNEL = 3  # frames of the dense convolution
PIECES, LENGTH, DECAY = 3, 4, 2  # of the long kernel: pieces, taps of each, ratio of their scales
TAPS = LENGTH * (1 + sum(2 ** max(0, i - 1) for i in range(1, PIECES)))
HEAD = 64  # width of a head of attention
LAYER_SCALE = 0.1
SPREAD = 0.02  # standard deviation of embeddings before training


class Encoder(nn.Module):
    """Series of regions to tokens: the class token, then those of each network window by window.

    Args:
        networks: name of the network of each region, in the order of the regions. Networks come
            in the order in which they first appear.
        frames: of a series.
        patch: frames of a window; divides `frames`.
        width: of a token, even.
        depth: blocks of the transformer.
        heads: of attention; 0 is one for each 64 of the width.
        tokens: `networks`; `max_spatial` makes each region a network of its own, with one linear
            map for all; `min_spatial` makes one network of all regions.

    Attributes:
        networks: names of the networks, n.
        patches: windows of a series, p.
        width: of a token, d.
        checkpointing: compute blocks again in the backward pass, which keeps little in memory.

    Raises:
        InputError: sizes do not divide.
    """

    def __init__(
        self, networks, frames=100, patch=20, width=768, depth=8, heads=0, tokens="networks"
    ):
        super().__init__()
        heads = heads or max(1, width // HEAD)
        for what, whole, part in (("frames", frames, patch), ("width", width, heads)):
            if part < 1 or whole < part or whole % part:
                raise InputError(f"semantoks: {what}: {whole} is no multiple of {part}")
        self.frames, self.patches, self.width = frames, frames // patch, width
        self.checkpointing = False
        if tokens == "max_spatial":
            networks = range(len(networks))
        elif tokens == "min_spatial":
            networks = ["brain"] * len(networks)
        self.networks = list(dict.fromkeys(networks))
        of_region = torch.tensor([self.networks.index(one) for one in networks])
        self.register_buffer("of_region", of_region, persistent=False)
        if tokens == "max_spatial":
            self.tokenizer = RegionTokenizer(patch, width)
        else:
            self.tokenizer = NetworkTokenizer(of_region, patch, width)
        self.register_buffer("times", sines(self.patches, width), persistent=False)
        self.places = nn.Parameter(torch.empty(len(self.networks), width).normal_(std=SPREAD))
        self.cls = nn.Parameter(torch.empty(1, 1, width).normal_(std=SPREAD))
        self.mask = nn.Parameter(torch.empty(1, width).normal_(std=SPREAD))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x, mask=None):
        """Tokens after the last norm, (b, 1 + n p, d).

        Args:
            x: series (b, roi, frames), each region standardised.
            mask: bool (b, n, p), True where a token is replaced by the mask; None for nowhere.

        Raises:
            InputError: x has another number of regions or frames.
        """
        regions = len(self.of_region)
        if x.shape[1:] != (regions, self.frames):
            raise InputError(
                f"semantoks: takes {regions} regions of {self.frames} frames, not "
                f"{list(x.shape[1:])}; correct `regions` or `length` of the view"
            )
        tokens = self.tokenizer(x.unflatten(-1, (self.patches, -1)))
        if mask is not None:
            tokens = torch.where(mask[..., None], self.mask.to(tokens.dtype), tokens)
        tokens = tokens + (self.places[:, None] + self.times)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens.flatten(1, 2)], 1)
        for block in self.blocks:
            again = self.checkpointing and torch.is_grad_enabled()
            tokens = checkpoint(block, tokens, use_reentrant=False) if again else block(tokens)
        return self.norm(tokens)

    def by_network(self, tokens):
        """Tokens (b, n, p, d) without that of the class."""
        return tokens[:, 1:].unflatten(1, (len(self.networks), self.patches))

    def absent(self, x):
        """Bool (b, n, p): networks that are zero throughout a window, as nothing measured is.

        They belong to an atlas that is missing, or lie behind the end of a scan.
        """
        there = x.unflatten(-1, (self.patches, -1)).ne(0).any(-1).float()
        return F.one_hot(self.of_region).float().T @ there == 0


def features(tokens) -> torch.Tensor:
    """The published features (b, 2 d) of tokens: their mean, then the class token."""
    return torch.cat([tokens[:, 1:].mean(1), tokens[:, 0]], 1)


def sines(n, width) -> torch.Tensor:
    """Positions (n, width): sines of all frequencies, then cosines."""
    half = torch.arange(width // 2, dtype=torch.float64)
    angles = torch.arange(n)[:, None] * 10000 ** (-half / (width // 2))
    return torch.cat([angles.sin(), angles.cos()], 1).float()


class RegionTokenizer(nn.Linear):
    """Each region its own network: (b, roi, p, patch) to tokens (b, roi, p, d)."""


class NetworkTokenizer(nn.Module):
    """One tokenizer a network: (b, roi, p, patch) to tokens (b, n, p, d)."""

    def __init__(self, of_region, patch, width):
        super().__init__()
        self.sizes = torch.bincount(of_region).tolist()
        self.register_buffer("order", of_region.argsort(stable=True), persistent=False)
        self.each = nn.ModuleList(Tokenizer(size, patch, width) for size in self.sizes)

    def forward(self, x):
        b, _, p, _ = x.shape
        x = x.permute(1, 3, 0, 2).flatten(2)[self.order]
        found = [one(part) for one, part in zip(self.each, x.split(self.sizes), strict=True)]
        return torch.stack(found).unflatten(1, (b, p)).transpose(0, 1)


class Tokenizer(nn.Module):
    """Tokens of one network.

    Both convolutions are matrix products over windows that lie last in memory, so that none of
    their results is ever put in another order.
    """

    def __init__(self, regions, patch, width):
        super().__init__()
        half = width // 2
        self.dense = nn.Conv1d(regions, half, KERNEL, padding=KERNEL // 2)
        self.long = LongConvolution(regions, half, patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        """Tokens (m, d) of windows (roi, patch, m)."""
        found = [
            F.gelu(branch).unflatten(1, (x.shape[1], -1)).mean(1)
            for branch in (self._dense(x), self.long(x))
        ]
        return self.norm(torch.cat(found).T)

    def _dense(self, x):
        padded = F.pad(x, (0, 0, KERNEL // 2, KERNEL // 2))
        shifted = torch.stack([padded[:, i : i + x.shape[1]] for i in range(KERNEL)], 1)
        weight = self.dense.weight.flatten(1)
        return torch.addmm(self.dense.bias[:, None], weight, shifted.flatten(2).flatten(0, 1))


class LongConvolution(nn.Module):
    """Every region under several long kernels, and a linear map of all of these.

    A kernel is made of pieces: the later ones are stretched and count less. It is divided by the
    norm that it had when it was drawn, which is kept.
    """

    def __init__(self, regions, width, patch):
        super().__init__()
        heads = math.ceil(width / regions)
        drawn = [torch.randn(heads, regions, LENGTH) for _ in range(PIECES)]
        self.pieces = nn.ParameterList(drawn)
        self.skip = nn.Parameter(torch.randn(heads, regions))
        self.register_buffer("kernel_norm", self._kernel().norm(dim=-1, keepdim=True).detach())
        self.register_buffer("lags", lags(patch), persistent=False)
        self.mixing = nn.Linear(regions * heads, width)

    def forward(self, x):
        """(width, patch * m) of windows (roi, patch, m); zeros lie before and after a window."""
        kernel = self._kernel() / self.kernel_norm
        kernel = torch.cat([kernel, self.skip[..., None]], -1).transpose(0, 1)
        matrices = (kernel.flatten(0, 1) @ self.lags.flatten(1)).view(len(x), -1, x.shape[1])
        convolved = torch.bmm(matrices, x).view(self.mixing.in_features, -1)
        return torch.addmm(self.mixing.bias[:, None], self.mixing.weight, convolved)

    def _kernel(self):
        """(head, roi, taps)."""
        stretched = [
            DECAY ** (PIECES - 1 - i) * piece.repeat_interleave(2 ** max(0, i - 1), -1)
            for i, piece in enumerate(self.pieces)
        ]
        return torch.cat(stretched, -1)


def lags(patch) -> torch.Tensor:
    """(taps + 1, patch, patch): which frame (last) each tap takes to which; the last takes none.

    A convolution of the kernel is the sum of these matrices, weighted with its taps.
    """
    frames = torch.arange(patch)
    lag = frames[:, None] - frames
    taps = [lag == tap - TAPS // 2 for tap in range(TAPS)]
    return torch.stack([*taps, lag == 0]).float()


class Block(nn.Module):
    """Attention and two linear layers, each on normalised tokens, added with a scale."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale1 = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.scale2 = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x):
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        x = torch.addcmul(x, self.proj(attended), self.scale1)
        return torch.addcmul(x, self.fc2(F.gelu(self.fc1(self.norm2(x)))), self.scale2)


class Projector(nn.Sequential):
    """Tokens (..., d) to unit vectors (..., p) that the losses compare."""

    def __init__(self, width, hidden=1024, out=128):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))
        for layer in (self[0], self[2]):
            nn.init.trunc_normal_(layer.weight, std=SPREAD)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        return F.normalize(super().forward(x).float(), dim=-1)


def built(options, networks) -> Encoder:
    """The encoder that `options` of the backbone ask for; `networks` as `Encoder` takes them."""
    return Encoder(
        networks,
        options.frames,
        options.patch,
        options.width,
        options.depth,
        options.heads,
        options.tokens,
    )
