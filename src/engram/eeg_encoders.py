"""EEG encoders: torch modules that map epochs (b, channel, time) to vectors (b, d).

`NICE` and its front ends, `ATMS` and `MLP` are written here; any model of braindecode goes by
its name. `NICE` has two layouts of the same function, with the same parameters: "plain", its
layers as published, is the readable reference; "fused" makes a step several times cheaper:

- the first two layers are linear in time, so that one bank of filters does the work of both;
- batch normalisation of a linear layer needs only the mean and covariance of its input, which
  follow from the Gram matrix of the epochs; it is folded into the bank, and the largest
  activation is written once;
- the bank slides over the epochs as one matrix product a window, and its output lies such that
  the spatial convolution is one matrix product too; a CPU does both in blocks that never leave
  its cache where the activation is large.

Sources: Song et al., ICLR 2024 (NICE, NICE-SA, NICE-GA); Li et al., NeurIPS 2024 (ATM-S); Wu et
al., CVPR 2025 (MLP).
"""

import importlib

import torch
import torch.nn.functional as F
from torch import nn

from engram.errors import InputError

LAYOUTS = ("fused", "plain")
POOLINGS = ("average", "learned")
#: Bytes of the largest activation beyond which the CPU computes it in blocks, and of a block: a
#: few fit into a core's cache.
LARGE, BLOCK = 1 << 26, 1 << 20


class Encoder(nn.Module):
    """Maps epochs float32 (b, channel, time) to vectors (b, d).

    What does not depend on parameters may be done once for all epochs: `encoder(x)` is
    `encoder.features(encoder.prepare(x))`.

    Attributes:
        d: width of the vectors.
    """

    d: int

    def prepare(self, x):
        """Epochs (b, channel, time) as `features` wants them; a linear map without parameters."""
        return x

    def features(self, x, subject=None):
        """Vectors (b, d) of prepared epochs; `subject` int (b,), for encoders that know them."""
        raise NotImplementedError

    def forward(self, x, subject=None):
        return self.features(self.prepare(x), subject)


# ---- NICE -------------------------------------------------------------------------------


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
        _known("layout", layout, LAYOUTS)
        _known("pooling", pooling, POOLINGS)
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


# ---- front ends -------------------------------------------------------------------------


class SpatialAttention(nn.Module):
    """Attention between channels, added to the epochs (NICE-SA).

    out[c] = Σ_m softmax_m(q[c] · k[m] / scale) x[m], then a linear map over channels. The code
    released with the paper leaves x[m] out of the sum, which returns its input; this is the
    intended form.

    Args:
        channels, times: size of an epoch.
        dropout: share dropped, after each linear map and before the sum.
    """

    def __init__(self, channels=63, times=250, dropout=0.3):
        super().__init__()
        self.norm = nn.LayerNorm(times)
        self.query, self.key, self.out = (
            nn.Sequential(
                nn.Linear(channels, channels), nn.LayerNorm(channels), nn.Dropout(dropout)
            )
            for _ in range(3)
        )
        self.dropout = nn.Dropout(dropout)
        self.scale = max(times // 30, 1) ** 0.5
        for linear in (self.query[0], self.key[0], self.out[0]):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x, subject=None):
        y = self.norm(x)
        of_time = y.transpose(1, 2)
        scores = self.query(of_time).transpose(1, 2) @ self.key(of_time) / self.scale
        mixed = scores.softmax(-1) @ y
        return x + self.dropout(self.out(mixed.transpose(1, 2)).transpose(1, 2))


class GraphAttention(nn.Module):
    """One graph attention layer on the complete graph of each epoch's channels (NICE-GA).

    out[c] = Σ_m α[c, m] W x[m] + b with α[c, m] = softmax_m(leaky_relu(u · W x[c] + v · W x[m])),
    added to the epochs (Veličković et al. 2018). The edges released with the paper join the
    channels of the first epoch of a batch alone; here each epoch has its own.

    Args:
        channels: not used; the layer takes any number.
        times: samples of an epoch; 63 250 parameters for 250.
        dropout: share dropped before the sum.
    """

    def __init__(self, channels=63, times=250, dropout=0.3):
        super().__init__()
        self.linear = nn.Linear(times, times, bias=False)
        self.u, self.v = (nn.Parameter(torch.empty(times)) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(times))
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear.weight)
        for vector in (self.u, self.v):
            nn.init.normal_(vector, std=times**-0.5)

    def forward(self, x, subject=None):
        y = self.linear(x)
        scores = (y @ self.u)[:, :, None] + (y @ self.v)[:, None]
        mixed = F.leaky_relu(scores, 0.2).softmax(-1) @ y + self.bias
        return x + self.dropout(mixed)


class ChannelTransformer(nn.Module):
    """One transformer layer whose tokens are the channels, epochs to epochs (ATM-S).

    A channel's samples are embedded by one linear map. A subject, if known, is one more token,
    which is dropped again after the layer; the code released with the paper drops the last
    channel in its stead.

    Args:
        channels: not used; the layer takes any number.
        times: samples of an epoch.
        heads: of the attention, each of times // heads dimensions.
        hidden: units of the feed-forward layer.
        dropout: share dropped, everywhere.
        subjects: number of subjects that may have a token; 0 = no token.
    """

    def __init__(self, channels=63, times=250, heads=4, hidden=256, dropout=0.25, subjects=0):
        super().__init__()
        inner = times // heads * heads
        self.heads = heads
        self.embed = nn.Linear(times, times)
        self.subject = nn.Embedding(subjects, times) if subjects else None
        self.query, self.key, self.value = (nn.Linear(times, inner) for _ in range(3))
        self.out = nn.Linear(inner, times)
        self.first_norm, self.second_norm, self.last_norm = (nn.LayerNorm(times) for _ in range(3))
        self.up, self.down = nn.Linear(times, hidden), nn.Linear(hidden, times)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, subject=None):
        channels = x.shape[1]
        tokens = self.embed(x)
        if self.subject is not None and subject is not None:
            tokens = torch.cat([tokens, self.subject(subject)[:, None]], 1)
        tokens = self.dropout(tokens)
        tokens = self.first_norm(tokens + self.dropout(self._attend(tokens)))
        y = self.dropout(F.gelu(self.up(tokens)))
        tokens = self.second_norm(tokens + self.dropout(self.down(y)))
        return self.last_norm(tokens)[:, :channels]

    def _attend(self, tokens):
        parts = (linear(tokens) for linear in (self.query, self.key, self.value))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        p = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        return self.out(y.transpose(1, 2).flatten(2))


FRONTS = {"attention": SpatialAttention, "graph": GraphAttention, "transformer": ChannelTransformer}


class ATMS(NICE):
    """ATM-S (Li et al. 2024): `NICE` behind a `ChannelTransformer`, whose options these are."""

    def __init__(self, channels=63, times=250, layout="fused", **options):
        front = ChannelTransformer(channels, times, **options)
        super().__init__(channels, times, front=front, layout=layout)


# ---- others -----------------------------------------------------------------------------


class MLP(Encoder):
    """All samples of all channels through one `projector` (the EEGProject of UBP).

    5 404 672 parameters for 17 channels, 250 samples and d = 1024.

    Args:
        channels, times: size of an epoch.
        d: width of the vectors.
        dropout: share dropped in the residual branch.
    """

    def __init__(self, channels=17, times=250, d=1024, dropout=0.3):
        super().__init__()
        self.d = d
        self.layers = projector(channels * times, d, dropout)

    def features(self, x, subject=None):
        return self.layers(x.flatten(1))


class Residual(nn.Sequential):
    """x + layers(x)."""

    def forward(self, x):
        return x + super().forward(x)


def projector(d_in, d_out, dropout=0.5) -> nn.Sequential:
    """Linear map, residual branch (GELU, linear, dropout), layer norm; (b, d_in) to (b, d_out)."""
    branch = Residual(nn.GELU(), nn.Linear(d_out, d_out), nn.Dropout(dropout))
    return initialise(nn.Sequential(nn.Linear(d_in, d_out), branch, nn.LayerNorm(d_out)))


def initialise(module):
    """Weights of NICE: N(0, 0.02²), of batch normalisation N(1, 0.02²), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d)), 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


class Braindecode(Encoder):
    """A model of braindecode, whose outputs are the vectors."""

    def __init__(self, model, d):
        super().__init__()
        self.model, self.d = model, d

    def features(self, x, subject=None):
        return self.model(x).flatten(1)


def braindecode_model(name, channels, times, sfreq, d=256, **options) -> Braindecode:
    """A model of braindecode by the name of its class, e.g. "EEGNet" or "ShallowFBCSPNet".

    Args:
        name: a class in `braindecode.models`.
        channels, times: size of an epoch.
        sfreq: sampling frequency in Hz.
        d: number of outputs.
        options: further arguments of the class.

    Raises:
        InputError: braindecode is not installed, has no such model, or refuses the arguments.
    """
    try:
        models = importlib.import_module("braindecode.models")
    except (ImportError, OSError) as error:  # OSError: a library of torchaudio does not load
        raise InputError(
            f"encoder {name}: braindecode cannot be imported ({error}); "
            "install it with `pip install -e .[braindecode]`"
        ) from error
    if not hasattr(models, name):
        raise InputError(f"encoder {name}: braindecode.models has no class of this name")
    try:
        model = getattr(models, name)(
            n_chans=channels, n_times=times, sfreq=sfreq, n_outputs=d, **options
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"encoder {name}: braindecode refuses the arguments: {error}") from error
    return Braindecode(model, d)


def make(name, channels, times, layout="fused", **options) -> Encoder:
    """An encoder by name, with freshly drawn parameters.

    Args:
        name: "nice" (option `front`: "attention", "graph" or "transformer"; option
            `front_options`), "atms" (NICE behind a `ChannelTransformer`, whose options these
            are), "mlp", or "braindecode/<class>" (option `sfreq`).
        channels, times: size of an epoch.
        layout: of NICE.
        options: further arguments of the encoder.

    Raises:
        InputError: an unknown name, front end or option.
    """
    try:
        if name == "nice":
            front, front_options = options.pop("front", None), options.pop("front_options", {})
            if front is not None:
                _known("front end", front, FRONTS)
                front = FRONTS[front](channels, times, **front_options)
            return NICE(channels, times, front=front, layout=layout, **options)
        if name == "atms":
            return ATMS(channels, times, layout=layout, **options)
        if name == "mlp":
            return MLP(channels, times, **options)
        if name.startswith("braindecode/"):
            return braindecode_model(name.partition("/")[2], channels, times, **options)
    except TypeError as error:
        raise InputError(f"encoder {name}: {error}") from error
    raise InputError(f"encoder {name!r} is unknown; use nice, atms, mlp or braindecode/<class>")


def _known(what, value, known):
    if value not in known:
        raise InputError(f"{what} {value!r} is unknown; use one of {', '.join(known)}")
