"""What contrastive training reads, resident on the device, prepared once for all runs."""

from dataclasses import dataclass

import numpy as np
import torch

from engram.errors import InputError
from engram.models import eeg_encoders

READ = 256  # epochs at once while they are prepared


@dataclass(frozen=True)
class Rows:
    """What every row of the EEG is, and which rows are used.

    Attributes:
        image: int (n,), row of the targets that the subject saw.
        train, validation: rows of the EEG, int arrays; without validation rows the last epoch
            is kept.
        concept: int (n,), for mask "concept"; None: unknown.
        subject: int (n,), for encoders that know subjects; None: unknown.
    """

    image: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    concept: np.ndarray | None = None
    subject: np.ndarray | None = None


class Data:
    """Epochs and image features on the device.

    Attributes:
        widths, channels, times: sizes, for `Network`.
        train, validation: prepared epochs (n, [repetition,] channel, time).
        targets: float32 (m, sum of widths); target_scale: float32 (sum of widths,).
        subject, validation_subject: int (n,), or None.
    """

    def __init__(self, eeg, targets, rows, options, device):
        self.rows, self.device = rows, device
        self.channels, self.times = eeg.shape[-2:]
        self.widths = [part.shape[1] for part in targets]
        with torch.random.fork_rng([]):
            encoder = eeg_encoders.make(
                options.encoder,
                self.channels,
                self.times,
                options.layout,
                **options.encoder_options,
            )
        repeated = len(eeg.shape) == 4
        average = repeated and not options.sub_average
        self.train = prepared(encoder, eeg, rows.train, device, average)
        self.validation = prepared(encoder, eeg, rows.validation, device, repeated)
        used = np.unique(rows.image[np.concatenate([rows.train, rows.validation])])
        self.targets = side_by_side(targets, used).to(device)
        self.target_scale = _scales(targets, np.unique(rows.image[rows.train])).to(device)
        self.subject = _ints(rows.subject, rows.train, device)
        self.validation_subject = _ints(rows.subject, rows.validation, device)


class Pairs:
    """Which image belongs to each epoch, as one run sees it.

    Attributes:
        image, group: of training epochs, int (n,); `group` may be None.
        candidates: images of validation epochs, int (m',); truth: column of each, NumPy.
    """

    def __init__(self, data, image, mask):
        rows = data.rows
        image = rows.image if image is None else image
        groups = {"none": None, "image": image, "concept": rows.concept}[mask]
        self.image = _ints(image, rows.train, data.device)
        self.group = _ints(groups, rows.train, data.device)
        images, self.truth = np.unique(image[rows.validation], return_inverse=True)
        self.candidates = torch.as_tensor(images, device=data.device).long()


def _ints(values, of, device):
    return None if values is None else torch.as_tensor(values[of], device=device).long()


@torch.no_grad()
def prepared(encoder, eeg, rows, device, average):
    """Epochs of `rows` as `encoder.features` wants them, float32 on the device.

    Works in blocks, so that memory holds the result and one block.

    Args:
        encoder: `engram.models.eeg_encoders.Encoder`.
        eeg: (n, channel, time) or (n, repetition, channel, time).
        rows: int array.
        device: where the result is.
        average: take the mean over repetitions.

    Raises:
        InputError: a value is not finite.
    """
    out = None
    for first in range(0, len(rows), READ):
        block = torch.as_tensor(np.asarray(eeg[rows[first : first + READ]], np.float32))
        finite = block.isfinite().flatten(1).all(1)
        if not finite.all():
            bad = rows[first + int(finite.logical_not().nonzero()[0])]
            raise InputError(f"contrastive: epoch {bad} holds NaN or infinite values; exclude it")
        block = (block.mean(1) if average else block).to(device)
        block = encoder.prepare(block.flatten(0, -3)).unflatten(0, block.shape[:-2])
        out = block.new_empty(len(rows), *block.shape[1:]) if out is None else out
        out[first : first + READ] = block
    return torch.empty(0, device=device) if out is None else out


def side_by_side(targets, used):
    """All targets float32 (m, sum of widths); the rows in `used` must be finite."""
    table = torch.cat([torch.as_tensor(np.asarray(part, np.float32)) for part in targets], 1)
    finite = table[torch.as_tensor(used)].isfinite().all(1).numpy()
    if not finite.all():
        raise InputError(f"contrastive: the target of image {used[~finite][0]} is not finite")
    return table


def _scales(targets, images):
    """One over the root mean square of each of several encoders, (sum of widths,); 1 of one."""
    if len(targets) == 1:
        return torch.ones(targets[0].shape[1])
    parts = [np.asarray(part[images], np.float64) for part in targets]
    parts = [np.full(p.shape[1], 1 / max(np.sqrt((p**2).mean()), 1e-12)) for p in parts]
    return torch.as_tensor(np.concatenate(parts), dtype=torch.float32)


def check_data(eeg, targets, rows, options):
    if options.mask == "concept" and rows.concept is None:
        raise InputError("contrastive: mask is 'concept', but the rows have no concept")
    if options.sub_average and (len(eeg.shape) != 4 or options.sub_average > eeg.shape[1]):
        raise InputError(
            f"contrastive: sub_average is {options.sub_average}, but the EEG has shape "
            f"{tuple(eeg.shape)}; it needs (n, repetition, channel, time) and as many repetitions"
        )
    if len(eeg.shape) not in (3, 4):
        raise InputError(f"contrastive: EEG of shape {tuple(eeg.shape)}; expected 3 or 4 axes")
    if len(rows.image) != eeg.shape[0]:
        raise InputError(f"contrastive: {eeg.shape[0]} epochs, but images of {len(rows.image)}")
    if len(rows.train) < 2:
        raise InputError(f"contrastive: {len(rows.train)} training epochs; two are the least")
    images = rows.image[np.concatenate([rows.train, rows.validation])]
    if images.min() < 0 or images.max() >= min(map(len, targets)) or len({*map(len, targets)}) > 1:
        raise InputError(
            f"contrastive: the targets have {[*map(len, targets)]} rows, the EEG names images "
            f"{images.min()} to {images.max()}; every image needs one row in all targets"
        )
    if np.intersect1d(rows.train, rows.validation).size:
        raise InputError("contrastive: an epoch is in training and validation")
