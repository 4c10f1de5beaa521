"""Simple statistics of each region of a series: what a model of fMRI has to beat beside FC."""

from dataclasses import dataclass, field

import numpy as np

from engram.errors import InputError
from engram.frozen.series import regions

DEVICE = "cpu"

TAKES = {"what": {"timeseries": ["channels", "sfreq"]}}

BATCH = 64
STATISTICS = ("mean", "sd", "autocorrelation", "power")


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        statistics: which, of each region: `mean` and `sd` over time, `autocorrelation` from one
            frame to the next, `power` in each band, dB, by the periodogram.
        bands: [low, high) in Hz by name; those that reach beyond half the rate are refused.
    """

    statistics: list[str] = field(
        default_factory=lambda: ["mean", "sd", "autocorrelation", "power"]
    )
    bands: dict[str, list[float]] = field(
        default_factory=lambda: {"slow5": [0.01, 0.027], "slow4": [0.027, 0.073]}
    )


def load(options, weights, view, device) -> "RoiStatistics":
    """Statistics of the rows of a view of series.

    Args:
        options: `Options`.
        weights: None, there are none.
        view: header of the view store; `sfreq` is the rate of its frames, Hz.
        device: not used.

    Raises:
        InputError: a statistic is unknown, or a band holds none of the frequencies of a row.
    """
    present = regions(view)
    unknown = [one for one in options.statistics if one not in STATISTICS]
    if unknown or not options.statistics:
        raise InputError(
            f"backbone roi_statistics: no statistic {', '.join(unknown) or 'at all'}; there is "
            f"{', '.join(STATISTICS)}"
        )
    return RoiStatistics(options, present, view)


class RoiStatistics:
    """Backbone without weights.

    Attributes:
        shape: (statistics * regions,), all regions of one statistic after those of another.
        dtype, batch: number format in the store, rows a call.
        facts: for the header; `columns` names the statistics, `nodes` the regions.
    """

    def __init__(self, options, present, view):
        self.present, self.wanted = present, options.statistics
        frequencies = np.fft.rfftfreq(view["frames"], 1 / view["sfreq"])
        bands = options.bands if "power" in self.wanted else {}
        self.bands = {name: _inside(name, band, frequencies) for name, band in bands.items()}
        columns = [
            name
            for one in self.wanted
            for name in ([f"power {band}" for band in bands] if one == "power" else [one])
        ]
        self.shape = (len(columns) * len(present),)
        self.dtype, self.batch = "float32", BATCH
        self.facts = {
            "weights": "none",
            "columns": columns,
            "bands": dict(bands),
            "nodes": [view["channels"][i] for i in present],
            "unit": "of the statistic",
        }

    def __call__(self, rows):
        """Features, float32 (b, statistics * roi), of series (b, roi, time)."""
        data = rows[:, self.present].astype(np.float64)
        mean = data.mean(-1)
        centred = data - mean[..., None]
        found = []
        for one in self.wanted:
            if one == "mean":
                found.append(mean)
            elif one == "sd":
                found.append(centred.std(-1))
            elif one == "autocorrelation":
                both = (centred[..., 1:] * centred[..., :-1]).sum(-1)
                found.append(both / (centred**2).sum(-1))
            else:
                found += self._power(centred)
        return np.concatenate(found, axis=1).astype(np.float32)

    def _power(self, centred):
        density = np.abs(np.fft.rfft(centred, axis=-1)) ** 2 / centred.shape[-1]
        return [10 * np.log10(density[..., inside].mean(-1)) for inside in self.bands.values()]

    def check(self):
        """There are no weights that could change."""


def _inside(name, band, frequencies):
    low, high = band
    inside = (frequencies >= low) & (frequencies < high)
    if not inside.any() or high > frequencies[-1] + 1e-9:
        raise InputError(
            f"backbone roi_statistics, bands.{name}: {low:g} to {high:g} Hz; a row holds "
            f"frequencies of {frequencies[1]:g} to {frequencies[-1]:g} Hz; correct `bands`"
        )
    return inside
