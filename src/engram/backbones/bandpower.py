"""Log mean power of the frequency bands of a spectrogram: the baseline of every backbone."""

from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        bands: [low, high) in Hz by name; the view has to hold them from end to end.  Beside the
            bands stand the ratios alpha/theta and delta/alpha, where both bands are named.
    """

    bands: dict[str, list[float]] = field(default_factory=lambda: dict(BANDS))


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
    return BandPower(options.bands, frequencies)


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

    def __init__(self, bands, frequencies):
        inside = np.array(
            [(frequencies >= low) & (frequencies < high) for low, high in bands.values()]
        )
        self.averages = inside / inside.sum(axis=1, keepdims=True)
        names = list(bands)
        self.ratios = [(names.index(a), names.index(b)) for a, b in RATIOS if {a, b} <= set(names)]
        columns = names + [f"{names[a]}/{names[b]}" for a, b in self.ratios]
        self.shape, self.dtype, self.batch = (len(columns),), "float32", BATCH
        self.facts = {"weights": "none", "bands": dict(bands), "columns": columns, "unit": "dB"}

    def __call__(self, rows):
        """Features, float32 (b, d), of spectrograms, dB (b, frequency, time).

        A band's power is the mean of linear power over its frequencies and all times, in
        dB; a ratio of powers is the difference of their dB.
        """
        power = (10 ** (rows.astype(np.float64) / 10)).mean(axis=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            bands = 10 * np.log10(power @ self.averages.T)
            ratios = [bands[:, a] - bands[:, b] for a, b in self.ratios]
        return np.column_stack([bands, *ratios]).astype(np.float32)

    def check(self):
        """There are no weights that could change."""
