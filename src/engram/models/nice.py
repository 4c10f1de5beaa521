"""NICE (Song et al., ICLR 2024) in two layouts of one function, with the same parameters.

"plain", its layers as published, is the readable reference; "fused" makes a step several times
cheaper:

- the first two layers are linear in time, so that one bank of filters does the work of both;
- batch normalisation of a linear layer needs only the mean and covariance of its input, which
  follow from the Gram matrix of the epochs; it is folded into the bank, and the largest
  activation is written once;
- the bank slides over the epochs as one matrix product a window, and its output lies such that
  the spatial convolution is one matrix product too; a CPU does both in blocks that never leave
  its cache where the activation is large.
"""

import torch
import torch.nn.functional as F
from torch import nn

from engram.errors import InputError
from engram.models.base import Encoder, check_known, initialise

LAYOUTS = ("fused", "plain")
POOLINGS = ("average", "learned")
#: Bytes of the largest activation beyond which the CPU computes it in blocks, and of a block: a
#: few fit into a core's cache.
LARGE, BLOCK = 1 << 26, 1 << 20


class NICE(Encoder):
    """Temporal convolution, pooling in time, spatial convolution (Song et al. 2024).

    Published: 63 channels, 250 samples, average pooling; 103 680 parameters, d = 1440. The
    adaptation to 17 channels and 100 samples has pooling="learned", pool=41, stride=1: a
    convolution in place of the average; 95 640 parameters, d = 1440.

    Args:
        channels, times: size of an epoch.
        pooling: "average", or "learned": a convolution from filters to filters without bias,
            and no bias in the spatial convolution either.
        filters: of each convolution.
        width, pool, stride: taps of the temporal convolution and of the pooling; stride of the
            pooling.
        dropout: share of units dropped before the last convolution.
        front: module that maps epochs to epochs of the same size before the first layer, called
            with epochs and subjects; None: none.
        layout: "fused" or "plain"; see the module.

    Raises:
        InputError: an unknown pooling or layout, or epochs shorter than the filters.
    """

    def __init__(
        self,
        channels=63,
        times=250,
        pooling="average",
        filters=40,
        width=25,
        pool=51,
        stride=5,
        dropout=0.5,
        front=None,
        layout="fused",
    ):
        super().__init__()
        check_known("layout", layout, LAYOUTS)
        check_known("pooling", pooling, POOLINGS)
        steps = (times - width - pool + 1) // stride + 1
        if steps < 1:
            raise InputError(
                f"NICE: epochs of {times} samples are shorter than the filters "
                f"({width} + {pool} - 1); set `width` and `pool`"
            )
        learned = pooling == "learned"
        self.layout, self.stride, self.d = layout, stride, steps * filters
        self.front = front
        self.temporal = nn.Conv2d(1, filters, (1, width))
        self.pool = (
            nn.Conv2d(filters, filters, (1, pool), (1, stride), bias=False)
            if learned
            else nn.AvgPool2d((1, pool), (1, stride))
        )
        self.norm = nn.BatchNorm2d(filters)
        self.spatial = nn.Conv2d(filters, filters, (channels, 1), bias=not learned)
        self.spatial_norm = nn.BatchNorm2d(filters)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Conv2d(filters, filters, 1)
        for module in self.children():
            if module is not front:
                initialise(module)

    @property
    def _smooths_once(self):
        """Whether the moving average, which commutes with the convolution, comes first."""
        return self.layout == "fused" and isinstance(self.pool, nn.AvgPool2d)

    def prepare(self, x):
        return self._smooth(x) if self._smooths_once and self.front is None else x

    def features(self, x, subject=None):
        if self.front is not None:
            x = self.front(x, subject)
            x = self._smooth(x) if self._smooths_once else x
        return self._fused(x) if self.layout == "fused" else self._plain(x)

    def _smooth(self, x):
        return F.avg_pool1d(x, self.pool.kernel_size[1], 1)

    def _plain(self, x):
        y = F.elu(self.norm(self.pool(self.temporal(x[:, None]))))
        y = F.elu(self.spatial_norm(self.spatial(y)))
        return self.mix(self.dropout(y)).squeeze(2).transpose(1, 2).flatten(1)

    def _fused(self, x):
        b, channels, times = x.shape
        rows = x.reshape(b * channels, times)
        with torch.autocast(x.device.type, enabled=False):  # statistics need all digits
            bank, bias = self._bank()
            bank, bias = _normalised(self.norm, bank, bias, rows.to(bank.dtype), self.stride)
        spatial = self.spatial.weight.permute(2, 3, 1, 0).flatten(0, 2)
        y = _filtered(rows, bank, bias, spatial, self.stride)
        if self.spatial.bias is not None:
            y = y + self.spatial.bias
        y = F.elu(_over_rows(self.spatial_norm, y))
        y = F.linear(self.dropout(y), self.mix.weight.flatten(1), self.mix.bias)
        return y.view(-1, b, len(bias)).transpose(0, 1).flatten(1)

    def _bank(self):
        """Filters (filters, taps) and bias (filters,) that stand for both linear layers.

        w[o, k] = Σ_h Σ_j pool[o, h, j] temporal[h, k - j]; a moving average is already in x.
        """
        w, bias = self.temporal.weight.flatten(1), self.temporal.bias
        if isinstance(self.pool, nn.AvgPool2d):
            return w, bias
        pool = self.pool.weight.squeeze(2)
        bank = F.conv1d(pool, w.flip(1)[None], padding=w.shape[1] - 1).squeeze(1)
        return bank, pool.sum(2) @ bias


def _filtered(rows, bank, bias, spatial, stride):
    """The bank at every window of every row, ELU, then the spatial convolution.

    Args:
        rows: (b * channels, time), a view of epochs.
        bank: (filters, taps); bias: (filters,).
        spatial: (channels * filters, outputs).
        stride: samples from one window to the next.

    Returns:
        (windows * b, outputs).
    """
    dtype = rows.dtype
    if torch.is_autocast_enabled(rows.device.type):
        dtype = torch.get_autocast_dtype(rows.device.type)
    windows = rows.to(dtype).unfold(1, bank.shape[1], stride).transpose(0, 1)  # a view
    with torch.autocast(rows.device.type, enabled=False):
        size = windows.shape[0] * windows.shape[1] * len(bias) * windows.element_size()
        if rows.is_cpu and not rows.requires_grad and size > LARGE:
            return _Blocked.apply(windows, bank, bias, spatial).flatten(0, 1)
        bank, bias, spatial = (part.to(dtype) for part in (bank, bias, spatial))
        z = torch.baddbmm(bias, windows, bank.T.expand(len(windows), -1, -1))
        return F.elu(z, inplace=True).view(-1, len(spatial)) @ spatial


class _Blocked(torch.autograd.Function):
    """`_filtered` in blocks that stay in a core's cache, activations computed twice.

    Nothing of the size (windows, rows, filters) is written, in either direction: where that is
    large, passes over memory cost more than the arithmetic that they save. Gradients are summed
    in the precision of the parameters.
    """

    @staticmethod
    def forward(ctx, windows, bank, bias, spatial):
        ctx.save_for_backward(windows, bank, bias, spatial)
        bank, bias, spatial = (part.to(windows.dtype) for part in (bank, bias, spatial))
        samples = windows.shape[1] * len(bias) // len(spatial)
        out = windows.new_empty(len(windows), samples, spatial.shape[1])
        for at, z in _activations(windows, bank, bias, spatial):
            torch.mm(z, spatial, out=out[at])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        windows, *parameters = ctx.saved_tensors
        of_bank, of_bias, of_spatial = (torch.zeros_like(part) for part in parameters)
        bank, bias, spatial = (part.to(windows.dtype) for part in parameters)
        gradient = gradient.to(windows.dtype)
        channels, back = len(spatial) // len(bias), torch.ops.aten.elu_backward.grad_input
        buffer = None
        for (t, samples), z in _activations(windows, bank, bias, spatial):
            dy = gradient[t, samples]
            of_spatial += z.T @ dy
            buffer = torch.empty_like(z) if buffer is None else buffer
            dz = torch.mm(dy, spatial.T, out=buffer[: len(z)])
            back(dz, 1, 1, 1, True, z, grad_input=dz)
            dz = dz.view(-1, len(bias))
            rows = slice(samples.start * channels, samples.stop * channels)
            of_bank += (windows[t, rows].T @ dz).T
            of_bias += dz.sum(0)
        return None, of_bank, of_bias, of_spatial


def _activations(windows, bank, bias, spatial):
    """ELU of the bank's output, block by block, in one buffer: (window, samples), (b, c * f)."""
    channels = len(spatial) // len(bias)
    total = windows.shape[1] // channels
    size = max(1, BLOCK // (len(spatial) * windows.element_size()))
    buffer = windows.new_empty(min(size, total) * channels, len(bias))
    for start in range(0, total, size):
        samples = slice(start, min(start + size, total))
        rows = slice(start * channels, samples.stop * channels)
        z = buffer[: rows.stop - rows.start]
        for t in range(len(windows)):
            F.elu_(torch.addmm(bias, windows[t, rows], bank.T, out=z))
            yield (t, samples), z.view(-1, len(spatial))


def _normalised(norm, bank, bias, rows, stride):
    """Bank and bias such that batch normalisation of the bank's output is in them.

    In training, the mean over a batch of w · u is w · mean(u) and its variance w' cov(u) w, over
    all windows u of all rows; running statistics follow as in `torch.nn.BatchNorm2d`.
    """
    if norm.training:
        mean, covariance, n = _moments(rows, bank.shape[1], stride)
        centre = bank @ mean + bias
        variance = ((bank @ covariance) * bank).sum(1)
        _follow(norm, centre, variance, n)
    else:
        centre, variance = norm.running_mean, norm.running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return bank * scale[:, None], (bias - centre) * scale + norm.bias


def _over_rows(norm, y):
    """Batch normalisation of y (n, features), with the layer's own kernels on a CPU alone.

    Those of cuDNN take a third of a step where every image has one pixel.
    """
    return of_rows(norm, y) if y.is_cuda else norm(y[:, :, None, None]).flatten(1)


def of_rows(norm, y):
    """What `torch.nn.BatchNorm2d` makes of y (n, features) and remembers, in float32 or wider."""
    y = y.to(torch.promote_types(y.dtype, torch.float32))
    if norm.training:
        variance, mean = torch.var_mean(y, 0, correction=0)
        _follow(norm, mean, variance, len(y))
    else:
        mean, variance = norm.running_mean, norm.running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return torch.addcmul(norm.bias - mean * scale, y, scale)


@torch.no_grad()
def _follow(norm, mean, variance, n):
    """Running statistics of a batch of n, as in `torch.nn.BatchNorm2d`."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (n / (n - 1)), norm.momentum)


def _moments(rows, taps, stride):
    """Mean (taps,), covariance (taps, taps) and number of all windows of rows (n, time).

    Entry (k, l) of the covariance sums the Gram matrix over (start + k, start + l). Each sample
    is centred over the rows first, so that nothing large cancels.
    """
    of_time = rows.mean(0)
    centred = rows - of_time
    gram = centred.T @ centred
    means = of_time.unfold(0, taps, stride)
    within = gram.unfold(0, taps, stride).unfold(1, taps, stride).diagonal(dim1=0, dim2=1).sum(-1)
    mean = means.mean(0)
    between = (means - mean).T @ (means - mean) / len(means)
    return mean, within / (len(means) * len(rows)) + between, len(means) * len(rows)
