"""Series of regions that are changed at random, so that a network learns what remains.

As Brain-Semantoks is pretrained and fine-tuned (Gijsen & Ritter 2026, arXiv:2512.11582): a share
of the regions and a block of time are zeroed, all is scaled and noise is added, each at one of four
levels.
"""

import torch

from engram.errors import InputError

#: By level: ranges of the shares of regions and of time that are zero, standard deviation of the
#: noise, range of the scale.
REGIONS = ((0, 0), (0, 0.1), (0.1, 0.3), (0.25, 0.5))
TIME = ((0, 0), (0, 0.3), (0.2, 0.4), (0.3, 0.6))
NOISE = (0, 0.1, 0.2, 0.4)
SCALE = ((1, 1), (0.8, 1.2), (0.6, 1.4), (0.4, 1.6))


def check(levels):
    """Refuse what are no levels of [regions, time, noise, scale].

    Raises:
        InputError: says which there are.
    """
    known = range(len(NOISE))
    if len(levels) != 4 or not all(level in known for level in levels):
        raise InputError(f"augment: {levels}; four levels of 0 to {known[-1]}")


def augmented(series, levels, generator=None) -> torch.Tensor:
    """Series (..., roi, time) with regions and a block of time zeroed, scaled, with noise.

    They are changed in place, each of the leading axes on its own.

    Args:
        series: float32, on any device.
        levels: of regions, time, noise and scale, 0 to 3.
        generator: torch.Generator on the CPU; None is torch's own.
    """
    *leading, roi, time = series.shape
    one, device = (*leading, 1), series.device
    regions, times, noise, scale = levels
    if regions:
        count = _counts(one, REGIONS[regions], roi, generator)
        order = torch.rand((*leading, roi), generator=generator).argsort(-1)
        series.masked_fill_((order < count)[..., None].to(device), 0)
    if times:
        count = _counts(one, TIME[times], time, generator)
        at = torch.arange(time) - below(time - count + 1, generator)
        series.masked_fill_(((at >= 0) & (at < count))[..., None, :].to(device), 0)
    if scale:
        series *= uniform(one, SCALE[scale], generator)[..., None].to(device)
    if noise:
        drawn = torch.empty(series.shape).normal_(0, NOISE[noise], generator=generator)
        series += drawn.to(device)
    return series


def uniform(shape, limits, generator=None) -> torch.Tensor:
    """Float32 numbers between two limits."""
    low, high = limits
    return low + (high - low) * torch.rand(shape, generator=generator)


def below(limits, generator=None) -> torch.Tensor:
    """Whole numbers, int32, from 0 to below each of the limits, an int tensor of any shape."""
    return (torch.rand(limits.shape, generator=generator) * limits).int()


def _counts(shape, share, n, generator):
    """A share of n, at least 1."""
    return (n * uniform(shape, share, generator)).int().clamp_min(1)
