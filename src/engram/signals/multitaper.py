"""Multitaper spectrograms: power density of a signal over time, exact and fast.

Thomson (1982), Spectrum estimation and harmonic analysis, Proc. IEEE 70:1055-1096; adaptive
weights after Percival & Walden (1993), Spectral Analysis for Physical Applications, eq. 368a
and 370; choice of settings after Prerau et al. (2017), Physiology 32:60-92.
"""

import functools
import math
import warnings

import numpy as np
from scipy import fft
from scipy.signal.windows import dpss

from engram.errors import InputError

DETREND = ("linear", "constant", "off")
WEIGHTING = ("unity", "eigen", "adapt")

CACHE_BYTES = 1 << 20  # tapered windows at work at one time: what an L2 cache holds
ADAPT_STEPS = 3


def spectrogram(
    x,
    sfreq,
    *,
    window=5.0,
    step=1.0,
    time_bandwidth=5.0,
    n_tapers=None,
    fmin=0.0,
    fmax=None,
    detrend="linear",
    weighting="unity",
    min_nfft=0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Multitaper power density of full windows, one every `step` seconds.

    A window is detrended, multiplied with each of K discrete prolate spheroidal sequences of
    unit energy, padded with zeros to a power of two and Fourier transformed; with
    P_k = |FFT|^2 and the concentration l_k of taper k the one-sided density is c S / sfreq,
    c = 1 at 0 Hz and at the Nyquist frequency, 2 elsewhere, where

    - "unity": S = sum_k P_k / K;
    - "eigen": S = sum_k l_k P_k / K;
    - "adapt": S = sum_k w_k P_k / sum_k w_k, w_k = l_k (S / (l_k S + (1 - l_k) s2))^2, s2 the
      mean square of the detrended window; three steps from S = (P_1 + P_2) / 2.

    A window of zeros has power 0; a window with a value that is not finite has power NaN.

    Args:
        x: (time,) or (channel, time). float32 is computed in float32, all else in float64.
        sfreq: samples per second (Hz).
        window, step: seconds; not a whole number of samples: rounded, with a warning.
        time_bandwidth: half-bandwidth W times window; the main lobe is 2 W wide.
        n_tapers: K; None is floor(2 time_bandwidth) - 1.
        fmin, fmax: Hz, both ends included; None is the Nyquist frequency, and what lies
            beyond it is cut off with a warning.
        detrend: what is removed from each window: "linear" (least-squares line), "constant"
            (mean) or "off".
        weighting: of the tapers, see above.
        min_nfft: the transform has at least so many points, rounded up to a power of two.

    Returns:
        power: (times, freqs) or (channel, times, freqs), unit of x squared / Hz.
        times: (times,) float64, seconds from the first sample to the middle of each window.
        freqs: (freqs,) float64, Hz, ascending.

    Raises:
        InputError: an argument is out of range, or x is shorter than a window.
    """
    x = np.asarray(x)
    x = x if x.dtype == np.float32 else x.astype(np.float64, copy=False)
    size, hop = window_samples(sfreq, window, step)
    if x.ndim not in (1, 2) or x.shape[-1] < size:
        raise InputError(
            f"multitaper: signal of shape {x.shape}, shorter than one window of {size} samples "
            f"({window:g} s at {sfreq:g} Hz); use a shorter window or drop the recording"
        )
    _check_names(detrend=(detrend, DETREND), weighting=(weighting, WEIGHTING))
    tapers, concentrations = _checked_tapers(size, time_bandwidth, n_tapers)
    nfft = transform_points(size, min_nfft)
    bins, freqs = _bins(sfreq, nfft, fmin, fmax)
    estimate = _Estimator(tapers, concentrations, nfft, bins, sfreq, detrend, weighting, x.dtype)

    starts = np.arange(0, x.shape[-1] - size + 1, hop)
    power = np.empty((*x.shape[:-1], len(starts), len(freqs)), x.dtype)
    for series, out in zip(np.atleast_2d(x), power.reshape(-1, *power.shape[-2:]), strict=True):
        _fill(out, series, size, hop, estimate)
    return power, (starts + round(size / 2)) / sfreq, freqs


def window_samples(sfreq, window, step) -> tuple[int, int]:
    """Samples in a window and between the starts of two windows; warns if it must round.

    Raises:
        InputError: a length is not positive.
    """
    lengths = []
    for name, seconds in (("window", window), ("step", step)):
        exact = seconds * sfreq
        samples = round(exact) if math.isfinite(exact) else 0
        if samples < 1:
            raise InputError(f"multitaper: {name} of {seconds} s at {sfreq} Hz is not a sample")
        if abs(exact - samples) > 1e-6:
            warnings.warn(
                f"multitaper: {name} of {seconds:g} s is {exact:g} samples at {sfreq:g} Hz; "
                f"{samples} samples ({samples / sfreq:g} s) are used",
                stacklevel=3,
            )
        lengths.append(samples)
    return lengths[0], lengths[1]


def transform_points(size, min_nfft=0) -> int:
    """Points of the Fourier transform of a window of `size` samples: a power of two."""
    return 1 << (max(size, math.ceil(min_nfft)) - 1).bit_length()


def decibels(power) -> np.ndarray:
    """10 log10 of `power`, same shape; zero is -inf, NaN stays NaN."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(power)


@functools.lru_cache(maxsize=16)
def slepian(size, time_bandwidth, n_tapers) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric discrete prolate spheroidal sequences, read-only.

    Returns:
        tapers: (n_tapers, size) float64, unit energy.
        concentrations: (n_tapers,) share of their energy within the half-bandwidth.
    """
    tapers, concentrations = dpss(size, time_bandwidth, n_tapers, return_ratios=True)
    tapers.flags.writeable = concentrations.flags.writeable = False
    return tapers, concentrations


class _Estimator:
    """Windows (n, size) -> power density (n, freqs); everything they share is made once."""

    def __init__(self, tapers, concentrations, nfft, bins, sfreq, detrend, weighting, dtype):
        n_tapers, self.size = tapers.shape
        self.inside = concentrations.astype(dtype)[:, None]
        self.outside = (1 - concentrations).astype(dtype)[:, None]  # not 1 - float32
        self.adapts, self.bins, self.dtype = weighting == "adapt", bins, dtype
        weights = {"unity": 1 / n_tapers, "eigen": concentrations / n_tapers, "adapt": 1.0}
        amplitude = np.sqrt(np.broadcast_to(weights[weighting], n_tapers))
        self.tapers = (tapers * amplitude[:, None]).astype(dtype)
        self.trend = _trend(self.size, detrend).astype(dtype)
        k = np.arange(nfft // 2 + 1)[bins]
        self.scale = (np.where((k == 0) | (k == nfft / 2), 1, 2) / sfreq).astype(dtype)
        self.batch = max(1, CACHE_BYTES // (n_tapers * nfft * np.dtype(dtype).itemsize))
        self.tapered = np.zeros((self.batch, n_tapers, nfft), dtype)

    def __call__(self, windows):
        windows = windows.copy()  # they overlap: not a matrix that BLAS takes
        windows -= (windows @ self.trend.T) @ self.trend
        tapered = self.tapered[: len(windows)]
        np.einsum("nt,kt->nkt", windows, self.tapers, out=tapered[..., : self.size])
        parts = fft.rfft(tapered)[..., self.bins].view(self.dtype)  # real, imaginary, real, ...
        if self.adapts:
            squares = np.square(parts)
            power = self._adapt(squares[..., ::2] + squares[..., 1::2], windows)
        else:
            squares = np.einsum("nkf,nkf->nf", parts, parts)
            power = squares[:, ::2] + squares[:, 1::2]
        return power * self.scale

    def _adapt(self, power, windows):
        """Adaptively weighted mean over tapers of `power` (n, taper, freqs)."""
        noise = np.square(windows).mean(1)[:, None, None]
        mean = power[:, :2].mean(1)
        for _ in range(ADAPT_STEPS):
            known = mean[:, None]
            weights = self.inside * np.square(
                _ratio(known, self.inside * known + self.outside * noise)
            )
            mean = _ratio((weights * power).sum(1), weights.sum(1))
        return mean


def _fill(out, series, size, hop, estimate):
    """Power density of every window of one series, into `out` (times, freqs)."""
    whole = np.isfinite([series.min(), series.max()]).all()
    if not whole:
        finite = np.isfinite(series)
        series = np.where(finite, series, 0)
    windows = np.lib.stride_tricks.sliding_window_view(series, size)[::hop]
    for start in range(0, len(windows), estimate.batch):
        rows = slice(start, start + estimate.batch)
        out[rows] = estimate(windows[rows])
    if not whole:
        bad = np.concatenate([[0], np.cumsum(~finite)])
        out[(bad[size:] - bad[:-size])[::hop] > 0] = np.nan


def _trend(size, detrend):
    """Orthonormal rows that span what is removed from a window."""
    line = np.linspace(-1, 1, size)
    rows = {"linear": [np.ones(size), line], "constant": [np.ones(size)], "off": []}[detrend]
    return np.array([row / np.linalg.norm(row) for row in rows]).reshape(-1, size)


def _ratio(a, b):
    """a / b, and 0 where b is 0."""
    return np.divide(
        a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), a.dtype), where=b > 0
    )


def _bins(sfreq, nfft, fmin, fmax):
    """Slice of the bins from fmin to fmax, and their frequencies."""
    nyquist = sfreq / 2
    fmax = nyquist if fmax is None else fmax
    if not 0 <= fmin < fmax:
        raise InputError(f"multitaper: fmin {fmin} and fmax {fmax} Hz; needs 0 <= fmin < fmax")
    if fmax > nyquist * (1 + 1e-9):
        warnings.warn(
            f"multitaper: fmax {fmax:g} Hz lies above the Nyquist frequency; "
            f"cut off at {nyquist:g} Hz",
            stacklevel=3,
        )
    spacing = sfreq / nfft
    first = math.ceil(fmin / spacing - 1e-9)
    last = min(math.floor(fmax / spacing + 1e-9), nfft // 2)
    if last < first:
        raise InputError(
            f"multitaper: no frequency bin in {fmin} to {fmax} Hz: they lie {spacing:g} Hz apart "
            f"up to {nyquist:g} Hz; widen the range or raise min_nfft"
        )
    return slice(first, last + 1), np.arange(first, last + 1) * sfreq / nfft


def _checked_tapers(size, time_bandwidth, n_tapers):
    if not 1 <= time_bandwidth < size / 2:
        raise InputError(
            f"multitaper: time_bandwidth {time_bandwidth}; needs 1 or more, and less than half "
            f"the {size} samples of a window"
        )
    n_tapers = max(1, math.floor(2 * time_bandwidth) - 1) if n_tapers is None else n_tapers
    if not 1 <= n_tapers <= 2 * time_bandwidth:
        raise InputError(
            f"multitaper: n_tapers {n_tapers}; needs 1 to 2 x time_bandwidth = "
            f"{2 * time_bandwidth:g}, further tapers leak from outside the band"
        )
    return slepian(size, float(time_bandwidth), n_tapers)


def _check_names(**names):
    for key, (value, known) in names.items():
        if value not in known:
            raise InputError(f"multitaper: {key} {value!r}; there is {', '.join(known)}")
