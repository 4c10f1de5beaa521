"""What is known of each voxel beside its responses: where it lies, in which regions, and how much
of its responses a model can explain at best.

Columns of the view `betas` are its rows that are not excluded, in their order.

The variance over images and that over repetitions of one are estimated by a one-way analysis of
variance with unequal groups (Searle, Casella, McCulloch 1992, ch. 3), over training images alone:
of the n trials of k images with n_i trials each, sigma_noise^2 = MSW, sigma_signal^2 =
max(0, MSB - MSW) / n_0, n_0 = (n - sum n_i^2 / n) / (k - 1).  The noise ceiling of the averages of
test images with m_i trials is sigma_signal^2 / (sigma_signal^2 + sigma_noise^2 mean(1 / m_i))
(Allen et al. 2022, NSD data manual).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.recording import Responses
from engram.store import Rows
from engram.views import betas

DEVICE = "cpu"
OF = Responses


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        protocol: trials that are used, as in `betas`.
        zscore: of trials before anything is estimated, as in `betas`; "training" and "none" give
            the same.
    """

    protocol: Literal["nsd37", "nsd40"] = "nsd37"
    zscore: Literal["training", "session", "session_all", "none"] = "training"


def render(responses, windows, options) -> Rows:
    """The voxels of one subject.

    Returns:
        Rows: float32 (p,), the noise ceiling of the averages of test images, a share of their
        variance, 0 to 1; named `subj01/voxel-0012345`. Columns of the table: subject, x, y, z
        (mm), the label in each file of regions, signal and noise (standard deviations over
        images and over repetitions, in the unit of the header) and exclude, "constant" for
        voxels that `betas` leaves out.

    Raises:
        InputError: a session is missing or damaged, or no training image is repeated.
    """
    trials = betas.chosen(responses, options.protocol)
    train = (trials["split"] == "train").to_numpy()
    image, _ = pd.factorize(trials["stimulus"].where(train), sort=True)  # -1: a test trial
    counts = np.bincount(image[train])
    if len(counts) < 2 or counts.max() < 2:
        raise InputError(
            f"{responses.name}: noise needs repeated trials of two training images, and protocol "
            f"{options.protocol} has {len(counts)} images with at most {counts.max()} trials"
        )
    signal, noise, constant = _variances(responses, trials, image, counts, options.zscore)
    tested = trials[~train].groupby("stimulus").size()
    total = signal + noise * (1 / tested).mean()
    ceiling = np.divide(signal, total, out=np.zeros_like(total), where=total > 0)
    table = responses.voxels.assign(
        subject=responses.subject,
        signal=np.sqrt(signal),
        noise=np.sqrt(noise),
        exclude=np.where(constant, "constant", ""),
    )
    return Rows(ceiling.astype(np.float32), table, _header(responses, options))


def _variances(responses, trials, image, counts, zscore):
    """Variance over images and over repetitions, and whether a voxel never changes, (p,) each."""
    sums = np.zeros((len(counts), len(responses.voxels)), np.float32)
    squares = np.zeros(sums.shape[1])
    for at, values in betas.standardised(responses, trials, zscore):
        for i, trial in zip(image[at], values, strict=True):
            if i >= 0:
                sums[i] += trial
                squares += trial.astype(float) ** 2
    n, k = counts.sum(), len(counts)
    between = sum(total.astype(float) ** 2 / c for total, c in zip(sums, counts, strict=True))
    grand = sums.sum(0, dtype=float) ** 2 / n
    scale = 1 if zscore in betas.OF_TRIALS else responses.scale
    within = np.maximum(squares - between, 0) / (n - k) / scale**2
    among = (between - grand) / (k - 1) / scale**2
    each = (n - (counts**2).sum() / n) / (k - 1)
    sums /= (counts * scale)[:, None].astype(np.float32)
    return np.maximum(among - within, 0) / each, within, (sums == sums[0]).all(0)


def _header(responses, options):
    scaled = options.zscore in betas.OF_TRIALS
    return {
        "what": "voxels",
        "modality": "fmri",
        "unit": "share of the variance of averages of test images",
        "of": "SD of the session" if scaled else responses.unit,
        "protocol": options.protocol,
        "zscore": betas.ZSCORES[options.zscore if scaled else "none"],
        "recorded": {"subject": responses.subject},
        **responses.origin,
    }
