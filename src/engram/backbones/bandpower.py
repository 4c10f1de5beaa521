"""Power of the frequency bands of a spectrogram: the baseline of every backbone."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engram.errors import InputError

DEVICE = "cpu"

TAKES = {"what": {"spectrogram": ["frequencies"]}, "unit": "dB"}

BANDS = {
    "delta": [0.5, 4],
    "theta": [4, 8],
    "alpha": [8, 12],
    "sigma": [12, 15],
    "beta": [15, 30],
}
RATIOS = (("alpha", "theta"), ("delta", "alpha"))
BATCH = 256
SLOPE_ROWS = 128  # frequencies that a slope is fitted on, evenly spaced on a logarithmic axis


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        bands: [low, high) in Hz by name; the view has to hold them from end to end.  Beside the
            bands stand the ratios alpha/theta and delta/alpha, where both bands are named.
        statistic: of the power of a band over the columns of a row: `decibels`, the mean of the
            logarithm; `median`; or `mean`, which one blink can rule.
        relative: power of each band as a share of the power of all of them, in dB, beside it.
        slope: exponent of the 1/f decay of power between the lowest and the highest frequency of
            the bands, beside them: dB a decade, negative.
    """

    bands: dict[str, list[float]] = field(default_factory=lambda: dict(BANDS))
    statistic: Literal["decibels", "median", "mean"] = "decibels"
    relative: bool = False
    slope: bool = False


def load(options, weights, view, device) -> "BandPower":
    """Band power of the rows of a spectrogram view.

    Args:
        options: `Options`.
        weights: None, there are none.
        view: header of the view store; `frequencies` are the Hz of its rows.
        device: not used.

    Raises:
        InputError: the view does not hold a band from end to end.
    """
    frequencies = np.asarray(view["frequencies"], float)
    _check_bands(options.bands, frequencies, view.get("settings", {}).get("sfreq"))
    return BandPower(options, frequencies)


def _check_bands(bands, frequencies, sfreq):
    """A band that the view holds in part would be the number of another band."""
    rows = np.sort(frequencies)
    spacing = np.diff(rows).max(initial=0) * (1 + 1e-6)
    for name, (low, high) in bands.items():
        held = rows[0] - spacing <= low and high <= rows[-1] + spacing
        if not held or not ((rows >= low) & (rows < high)).any():
            rate = f" of {sfreq:g} samples per second" if sfreq else ""
            raise InputError(
                f"backbone bandpower, bands.{name}: [{low:g}, {high:g}] Hz is not in the view"
                f"{rate}, which has {rows[0]:g} to {rows[-1]:g} Hz; correct `bands`, or `fmin` and "
                "`fmax` of the view"
            )


class BandPower:
    """Backbone without weights.

    Attributes:
        shape: (number of bands and ratios,).
        dtype, batch: number format in the store, spectrograms a call.
        facts: for the header; `columns` names the features.
    """

    def __init__(self, options, frequencies):
        bands, self.options = options.bands, options
        inside = np.array(
            [(frequencies >= low) & (frequencies < high) for low, high in bands.values()]
        )
        self.averages = inside / inside.sum(axis=1, keepdims=True)
        self.sums = inside.astype(float)
        names = list(bands)
        self.ratios = [(names.index(a), names.index(b)) for a, b in RATIOS if {a, b} <= set(names)]
        columns = names + [f"{names[a]}/{names[b]}" for a, b in self.ratios]
        columns += [f"{name}, relative" for name in names] if options.relative else []
        if options.slope:
            columns, self.fitted = [*columns, "1/f slope"], _fitted(frequencies, inside)
        self.shape, self.dtype, self.batch = (len(columns),), "float32", BATCH
        self.facts = {
            "weights": "none",
            "bands": dict(bands),
            "columns": columns,
            "unit": "dB",
            "statistic": options.statistic,
        }

    def __call__(self, rows):
        """Features, float32 (b, d), of spectrograms, dB (b, frequency, time).

        A band's power is the mean of linear power over its frequencies, and over all times that
        which `statistic` names, in dB; a ratio of powers is the difference of their dB.
        """
        decibels = rows.astype(np.float64)
        power = 10 ** (decibels / 10)
        with np.errstate(divide="ignore", invalid="ignore"):
            bands = self._over_time(np.einsum("bft,kf->bkt", power, self.averages))
            ratios = [bands[:, a] - bands[:, b] for a, b in self.ratios]
            found = [bands, *(one[:, None] for one in ratios)]
            if self.options.relative:
                found.append(_relative(self._over_time(np.einsum("bft,kf->bkt", power, self.sums))))
            if self.options.slope:
                at, x = self.fitted
                found.append(_slopes(x, self._over_time(power[:, at]))[:, None])
        return np.concatenate(found, axis=1).astype(np.float32)

    def _over_time(self, power):
        """dB (b, k) of power (b, k, time)."""
        if self.options.statistic == "decibels":
            return (10 * np.log10(power)).mean(axis=2)
        return 10 * np.log10(getattr(np, self.options.statistic)(power, axis=2))

    def check(self):
        """There are no weights that could change."""


def _relative(decibels):
    """Each of several powers (b, k), dB, as a share of their sum, dB."""
    return decibels - 10 * np.log10((10 ** (decibels / 10)).sum(axis=1, keepdims=True))


def _fitted(frequencies, inside):
    """Rows whose frequencies a slope is fitted on, and the decimal logarithms of these.

    Evenly spaced on the logarithmic axis, or high frequencies would outnumber low ones.
    """
    held = np.flatnonzero(inside.any(axis=0) & (frequencies > 0))
    logs = np.log10(frequencies[held])
    wanted = np.linspace(logs.min(), logs.max(), SLOPE_ROWS)
    nearest = np.abs(logs[:, None] - wanted).argmin(axis=0)
    at = held[np.unique(nearest)]
    return at, np.log10(frequencies[at])


def _slopes(x, y):
    """Slopes (b,) of y (b, n) over x (n,) by repeated medians, which peaks do not move.

    Siegel 1982. Robust regression using repeated medians. Biometrika 69(1).
    """
    apart = x[:, None] != x
    slopes = np.full((len(y), len(x)), np.nan)
    for i in range(len(x)):
        others = apart[i]
        slopes[:, i] = np.median((y[:, others] - y[:, [i]]) / (x[others] - x[i]), axis=1)
    return np.median(slopes, axis=1)
