"""Layers of a stack of models: every parameter and buffer starts with the axis "models"."""

import torch
import torch.nn.functional as F
from torch import nn

MOMENTUM, EPSILON = 0.1, 1e-5


def xavier(generators, *shape) -> nn.Parameter:
    """Kernels (models, *shape), each drawn by its own generator (Glorot & Bengio 2010, eq. 16).

    `shape` of one model: (in, out) or (out, in), then the size of the kernel if it has one.
    """
    drawn = [nn.init.xavier_uniform_(torch.empty(shape), generator=g) for g in generators]
    return nn.Parameter(torch.stack(drawn))


class Linear(nn.Module):
    """x (models, batch, in) -> (models, batch, out), by weights (models, in, out)."""

    def __init__(self, generators, inputs, outputs, bias=True):
        super().__init__()
        self.weight = xavier(generators, inputs, outputs)
        self.bias = nn.Parameter(torch.zeros(len(generators), outputs)) if bias else None

    def forward(self, x):
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias[:, None], x, self.weight)


class BatchNorm(nn.Module):
    """Batch normalisation whose statistics are each model's own (Ioffe & Szegedy 2015).

    x (models, batch, channels, ...). In training, `mask` bool (models, batch) leaves padded
    rows out of the statistics; a model without a real row keeps its running statistics. Only
    (models, batch, channels) can be masked.
    """

    def __init__(self, models, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(models, channels))
        self.bias = nn.Parameter(torch.zeros(models, channels))
        self.register_buffer("mean", torch.zeros(models, channels))
        self.register_buffer("variance", torch.ones(models, channels))

    def forward(self, x, mask=None):
        if self.training and mask is not None:
            return self._masked(x, mask)
        channels = x.transpose(0, 1).flatten(1, 2)  # to PyTorch, other models are more channels
        y = F.batch_norm(
            channels,
            self.mean.view(-1),
            self.variance.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            self.training,
            MOMENTUM,
            EPSILON,
        )
        return y.unflatten(1, x.shape[:1] + x.shape[2:3]).transpose(0, 1)

    def _masked(self, x, mask):
        real = mask[..., None].to(x.dtype)
        n = real.sum(1, keepdim=True)
        mean = (x * real).sum(1, keepdim=True) / n.clamp(min=1)
        variance = ((x - mean).square() * real).sum(1, keepdim=True) / n.clamp(min=1)
        with torch.no_grad():
            rate = MOMENTUM * (n[:, 0] > 0).to(x.dtype)
            unbiased = variance[:, 0] * n[:, 0] / (n[:, 0] - 1).clamp(min=1)
            self.mean += rate * (mean[:, 0] - self.mean)
            self.variance += rate * (unbiased - self.variance)
        normal = (x - mean) * torch.rsqrt(variance + EPSILON)
        return normal * self.weight[:, None] + self.bias[:, None]


def dropout(x, keep, p):
    """x with the units that `keep` (bool, broadcast to x) leaves, scaled to the same mean."""
    return x if keep is None else x * (keep.to(x.dtype) / (1 - p))
