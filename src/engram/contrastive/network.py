"""Both sides of the alignment, the loss that brings them together, and how close they are."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from engram.contrastive.data import prepared, side_by_side
from engram.contrastive.options import LARGEST_SCALE
from engram.errors import InputError
from engram.models import eeg_encoders

BLOCK = 1024  # epochs in the network at once


@dataclass(frozen=True)
class Model:
    """One trained model.

    Attributes:
        network: `Network` in evaluation mode, on the device it was trained on.
        seed: of its initialisation, order and dropout.
        epoch: the one whose parameters it has, from 0.
        score: validation score of that epoch; NaN without validation rows.
        curves: one row an epoch: seed, epoch, loss, validation_mrr, validation_top1,
            validation_top5, score, temperature, encoder_lr, projector_lr.
    """

    network: nn.Module
    seed: int
    epoch: int
    score: float
    curves: pd.DataFrame

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors by name on the CPU, as `safetensors.torch.save_file` wants them."""
        state = self.network.state_dict()
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}


class Network(nn.Module):
    """Both sides of the alignment and the temperature.

    Args:
        channels, times: size of an epoch.
        widths: features of each image encoder; the targets have them side by side.
        options: Options.

    `load_state_dict` of `Model.state` restores a trained one.
    """

    def __init__(self, channels, times, widths, options):
        super().__init__()
        d = options.projector_dim if options.image_head else sum(widths)
        self.centre = options.centre
        self.encoder = eeg_encoders.make(
            options.encoder, channels, times, options.layout, **options.encoder_options
        )
        if not options.eeg_head and self.encoder.d != d:
            raise InputError(
                f"contrastive: the encoder gives {self.encoder.d} features, the common space has "
                f"{d}; set eeg_head: true or the same width"
            )
        self.eeg_head = (
            eeg_encoders.projector(self.encoder.d, d, options.dropout)
            if options.eeg_head
            else nn.Identity()
        )
        self.image_head = (
            eeg_encoders.projector(sum(widths), d, options.image_dropout)
            if options.image_head
            else nn.Identity()
        )
        log_scale = torch.tensor(math.log(1 / options.temperature))
        self.log_scale = nn.Parameter(log_scale, requires_grad=options.learn_temperature)
        self.register_buffer("target_scale", torch.ones(sum(widths)))

    def eeg(self, x, subject=None):
        """Vectors (b, d) of prepared epochs, see `engram.models.eeg_encoders.Encoder`."""
        return self.eeg_head(self.encoder.features(x, subject))

    def image(self, targets):
        """Vectors (b, d) of image features (b, sum of widths)."""
        return self.image_head(targets * self.target_scale)


def info_nce(a, b, log_scale, groups=None, centre=False):
    """Symmetric InfoNCE loss of pairs (a[i], b[i]) against all others of the batch, a scalar.

    The mean of two cross-entropies, of the rows and of the columns of scale * cos(a, b), whose
    true class is the diagonal.

    Args:
        a, b: vectors (n, d).
        log_scale: logarithm of the scale (one over the temperature), a scalar tensor; the
            scale is 100 at most.
        groups: int (n,); two different rows of one group are no negatives of each other.
        centre: see `normalised`.
    """
    scale = log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()
    logits = scale * (normalised(a, centre) @ normalised(b, centre).T)
    own = logits.diagonal()
    if groups is not None:
        same = groups[:, None] == groups[None]
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, -torch.inf)
    return ((logits.logsumexp(0) + logits.logsumexp(1)) / 2 - own).mean()


def normalised(vectors, centre=False):
    """Vectors (n, d) in float32 or wider, of L2 norm 1; centred: first less their own mean."""
    vectors = vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors
    if centre:
        vectors = vectors - vectors.mean(1, keepdim=True)
    return F.normalize(vectors, dim=1)


@torch.no_grad()
def embedded(function, centre, *tensors, block=BLOCK):
    """Normalised vectors of a function of rows, in blocks; a tensor may be None."""
    blocks = zip(*(_split(tensor, block) for tensor in tensors), strict=False)
    return torch.cat([normalised(function(*parts), centre) for parts in blocks])


def _split(tensor, block):
    """Blocks of a tensor; of None, None without end."""
    return iter(lambda: None, 0) if tensor is None else tensor.split(block)


def restored(state, sizes, options, seed, device) -> Model:
    """The model whose `Model.state` is given, as NumPy arrays.

    Args:
        state: arrays by name.
        sizes: (channels, times, widths), as for `Network`.
        options: Options, as it was trained.
        seed: it was trained with.
        device: "cpu" or "cuda".
    """
    network = Network(*sizes, options)
    network.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in state.items()})
    return Model(network.to(device).eval(), seed, -1, math.nan, pd.DataFrame())


@torch.no_grad()
def vectors(model, eeg, subject=None, block=BLOCK) -> np.ndarray:
    """Where epochs lie in the common space of a model, float32 (n, d), of norm 1.

    Args: as for `similarity`.
    """
    return _vectors(model, eeg, subject, block).cpu().numpy()


def _vectors(model, eeg, subject, block):
    network, device = model.network.eval(), model.network.log_scale.device
    subject = None if subject is None else torch.as_tensor(subject, device=device).long()
    x = prepared(network.encoder, eeg, np.arange(eeg.shape[0]), device, len(eeg.shape) == 4)
    return embedded(network.eeg, network.centre, x, subject, block=block)


@torch.no_grad()
def similarity(model, eeg, targets, subject=None, block=BLOCK) -> np.ndarray:
    """Cosine of every epoch with every image in the common space of a model.

    Args:
        model: Model.
        eeg: (n, channel, time), or (n, repetition, channel, time), which is averaged.
        targets: image features (m, d), or a list of these as in training.
        subject: int (n,), for encoders that know subjects.
        block: rows at once.

    Returns:
        float32 (n, m).

    Raises:
        InputError: a value is not finite.
    """
    network, device = model.network.eval(), model.network.log_scale.device
    targets = targets if isinstance(targets, list | tuple) else [targets]
    images = side_by_side(targets, np.arange(len(targets[0]))).to(device)
    a = _vectors(model, eeg, subject, block)
    b = embedded(network.image, network.centre, images, block=block)
    return torch.cat([part @ b.T for part in a.split(block)]).cpu().numpy()
