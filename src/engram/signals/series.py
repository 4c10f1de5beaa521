"""Series of regions or channels: another rate, another scale."""

from fractions import Fraction

import numpy as np
from scipy import signal

from engram.errors import InputError

EPSILON = 1e-8  # beside a standard deviation


def standardized(data) -> np.ndarray:
    """Each series minus its mean, divided by its (population) standard deviation, (..., time).

    Centred twice, so that float32 is as good as float64, which takes eight times as long, however
    far from zero the series lie.
    """
    centred = data - data.mean(-1, keepdims=True, dtype=np.float64).astype(data.dtype)
    centred -= centred.mean(-1, keepdims=True)
    scale = np.sqrt(np.einsum("...t,...t->...", centred, centred) / data.shape[-1])
    centred /= scale[..., None] + EPSILON
    return centred


def resampled(data, sfreq, tr, method) -> tuple[np.ndarray, float]:
    """The data at another time between samples, and its rate in Hz.

    Args:
        data: (..., time), `sfreq` samples per second.
        tr: s between samples that is wanted; None keeps the data.
        method: `polyphase`, which filters away what the new rate cannot hold; `linear` or
            `nearest`, which take the value between or beside two samples.

    Raises:
        InputError: fewer than 2 samples would be left.
    """
    if tr is None or abs(tr * sfreq - 1) < 1e-6:
        return data, sfreq
    step = tr * sfreq  # samples of the data between two of the result
    n = int(data.shape[-1] / step + 1e-9)
    if n < 2:
        raise InputError(f"{data.shape[-1]} frames of {1 / sfreq:g} s are too few at {tr} s")
    if method == "polyphase":
        ratio = Fraction(step).limit_denominator(1000)
        data = signal.resample_poly(
            data, ratio.denominator, ratio.numerator, axis=-1, padtype="line"
        )
        return data[..., :n], 1 / tr
    at = np.minimum(np.arange(n) * step, data.shape[-1] - 1)
    if method == "nearest":
        return data[..., np.floor(at + 0.5).astype(int)], 1 / tr
    before = np.minimum(at.astype(int), data.shape[-1] - 2)
    share = at - before
    return data[..., before] * (1 - share) + data[..., before + 1] * share, 1 / tr
