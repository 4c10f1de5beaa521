"""Head "cnn": a small convolutional network trained end to end on the images of a view."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from engram import training
from engram.errors import InputError
from engram.heads._layers import BatchNorm, Linear, dropout, xavier
from engram.training import stacked

TASKS = ("classes",)


@dataclass(frozen=True, kw_only=True)
class Options(stacked.Options):
    """Options of the head.

    Attributes:
        channels: of each block (3 x 3 convolution, batch norm, ReLU, 2 x 2 max pooling,
            dropout of whole channels). Their mean over time goes to a linear layer; rows are
            kept apart, for a convolution alone cannot tell one frequency from another.
        pool: rows and columns of the image that are averaged before the first block; the
            bins of a multitaper spectrogram are finer than its resolution.
        dropout: share of channels dropped.
    """

    channels: list[int] = field(default_factory=lambda: [8, 16, 32])
    pool: list[int] = field(default_factory=lambda: [4, 2])
    dropout: float = 0.1
    epochs: int = 12
    base_lr: float = 5e-3
    warm_lr: float = 1e-5
    final_lr: float = 1e-5
    weight_decay: float = 0.01
    clip_gradient: float = 1.0


def fit(task, options, device) -> training.Fit:
    """Train all folds and runs, one after the other.

    Grouped convolutions could train them side by side; on a CPU that shortens the passes by a
    quarter at best (benchmarks/heads.py), which does not pay for masked images.

    Raises:
        InputError: a source does not hold images, the images of several sources differ in
            size, or an option is out of range.
    """
    training.check_options(options)
    x = _images(task.x, task, options).to(device, memory_format=torch.channels_last)

    def build(group):
        return Network(group[0].generator, x.shape[1:3], options, len(task.classes))

    return stacked.fit(task, [x], build, options, at_once=1)


def predict(state, x, known, options, device) -> np.ndarray:
    """Probabilities of the classes of rows, float32 (models, n, classes).

    Args:
        state: as `Fit.state`, with one axis of models for folds and runs.
        x: one array (n, ...) a source.
        known: `engram.training.Task` or `engram.trained.Model`.
    """
    size = _images([source[:1] for source in x], known, options).shape[1:3]

    def build(_):
        return Network(torch.Generator(), size, options, len(known.classes))

    def inputs(some):
        return [_images(some, known, options).contiguous(memory_format=torch.channels_last)]

    return stacked.predict(state, x, build, inputs, 1, device)


def _images(x, known, options):
    """Images of all sources as channels, float32 tensor (n, channel, h, w), 0 to 1."""
    parts = []
    for source, header, values in zip(known.sources, known.headers, x, strict=True):
        if header.get("what") not in ("spectrogram", "picture"):
            raise InputError(
                f"{source}: holds {header.get('what')!r}, no images; a cnn trains on a view of "
                "spectrograms or pictures itself (x: <view>)"
            )
        parts.append(torch.cat([_scaled(v, header, options.pool) for v in _pieces(values)]))
    sizes = {tuple(part.shape[2:]) for part in parts}
    if len(sizes) > 1:
        raise InputError(f"{' and '.join(known.sources)}: images differ in size: {sorted(sizes)}")
    return torch.cat(parts, 1)


def _pieces(values, rows=256):
    return (values[start : start + rows] for start in range(0, len(values), rows))


def _scaled(values, header, pool):
    """Channels first, dB between the limits of the view or RGB to 0..1, averaged over `pool`.

    The colours of each region are channels, region by region.
    """
    low, high = header["limits"] if header["what"] == "spectrogram" else (0, 255)
    if header["what"] == "picture":
        values = np.moveaxis(values, -1, -3)
        values = values.reshape(len(values), -1, *values.shape[-2:])
    elif values.ndim == 3:
        values = values[:, None]
    images = (torch.as_tensor(np.asarray(values, np.float32)) - low) / (high - low)
    return F.avg_pool2d(images.clamp(0, 1), pool, ceil_mode=True, count_include_pad=False)


class Network(nn.Module):
    """A stack of one model, for images (1, batch, channel, h, w) of so many (channel, h)."""

    def __init__(self, generator, size, options, n_classes):
        super().__init__()
        self.dropout, self.channels = options.dropout, list(options.channels)
        inputs, rows = size
        pairs = pairwise([inputs, *self.channels])
        self.blocks = nn.ModuleList(Block(generator, i, o) for i, o in pairs)
        rows = -(-rows // 2 ** len(self.channels))
        self.last = Linear([generator], self.channels[-1] * rows, n_classes)
        self.width = sum(self.channels)
        self.weights = {"logits": 1.0}

    def latent(self, inputs, mask=None, keep=None):
        """Mean over time of each channel and row of the last block, (1, batch, channels * rows)."""
        (x,) = inputs
        keeps = [None] * len(self.blocks) if keep is None else keep.split(self.channels, -1)
        for block, kept in zip(self.blocks, keeps, strict=True):
            x = block(x, mask)
            x = dropout(x, None if kept is None else kept[..., None, None], self.dropout)
        return x.mean(-1).flatten(2)

    def forward(self, inputs, mask=None, keep=None):
        return {"logits": self.last(self.latent(inputs, mask, keep))}


class Block(nn.Module):
    """Convolution, batch norm, ReLU, pooling: (1, batch, inputs, h, w) -> half the size."""

    def __init__(self, generator, inputs, outputs):
        super().__init__()
        self.kernel = xavier([generator], outputs, inputs, 3, 3)
        self.norm = BatchNorm(1, outputs)

    def forward(self, x, mask=None):
        x = F.conv2d(x.squeeze(0), self.kernel.squeeze(0), padding=1)
        x = self.norm(x.unsqueeze(0), mask).squeeze(0)
        return F.relu(F.max_pool2d(x, 2, ceil_mode=True)).unsqueeze(0)
