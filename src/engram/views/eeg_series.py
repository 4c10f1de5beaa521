"""Series of the EEG of windows: a row is (channel, time), of which covariances are taken.

Each window is filtered by itself, so that a row knows nothing of what lies outside, and then keeps
every k-th sample, k as large as twice and a half the upper end of the band allows.  Windows are
excluded by the rules of the spectrogram (`engram.views.multitaper`); a channel that breaks them in
a row that is kept, or is marked bad in its recording, is zero there.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy import signal as filters

from engram.errors import InputError
from engram.signals import quality
from engram.store import Rows

DEVICE = "cpu"
GIVES = "timeseries"

ORDER = 4  # of the Butterworth filter, forward and backward
KEPT = 2.5  # samples a second for each Hz of the band, at least


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        signal: which signal of the recording.
        channels: names, in the order of the rows; null takes all, sorted by name.
        band: [low, high] Hz that are kept; where a recording holds no higher frequencies, its own.
        amplitude, flat, jump, bad_share: as of a view of kind `multitaper`.
    """

    signal: str = "eeg"
    channels: list[str] | None = None
    band: tuple[float, float] = (1.0, 35.0)
    amplitude: float = 300.0
    flat: float = 0.5
    jump: float = 100.0
    bad_share: float = 0.25


def render(recording, windows, options) -> Rows:
    """The windows of one recording.

    Returns:
        Rows: float32 (n, channel, time), in the unit of the signal. The column bad_channels names
        those that are zero in a row because they break a rule.

    Raises:
        InputError: the signal or a channel is missing, a channel carries nothing, or the band is
            none.
    """
    try:
        return _render(recording, windows, options)
    except InputError as error:
        raise InputError(f"{recording.name}: {error}") from None


def _render(recording, windows, options):
    low, high = options.band
    if not 0 < low < high:
        raise InputError(f"band: {low:g} to {high:g} Hz is none; give the lower end first")
    if options.signal not in recording.signals:
        raise InputError(
            f"no signal {options.signal!r}; there is {', '.join(recording.signals) or 'none'}; "
            "correct `signal` of the view, or list a file that has it"
        )
    signal = recording.signals[options.signal]
    quality.check_channels(signal, f"signal {options.signal!r}")
    names = options.channels or sorted({*signal.channels, *signal.bad})
    at = _places(names, signal)
    data = signal.data[at[at >= 0]]
    table = windows.table(recording)
    table["exclude"], table["bad_channels"], bad = _flagged(data, names, at, signal, table, options)
    first = np.round((table["onset"].to_numpy() - signal.start) * signal.sfreq).astype(int)
    frames = int(windows.length * signal.sfreq + 1e-6)
    every = max(1, int(signal.sfreq / (KEPT * high)))
    rows = np.zeros((len(first), len(names), len(range(0, frames, every))), np.float32)
    sections = _filter(low, high, signal.sfreq)
    for row, start, out, why in zip(rows, first, bad.T, table["exclude"], strict=True):
        if why == "":
            window = data[:, start : start + frames]
            window = np.where(out[:, None], 0, window)
            window = filters.sosfiltfilt(sections, window - window.mean(-1, keepdims=True))
            row[at >= 0] = window[:, ::every]
    header = _header(recording, signal, names, rows.shape[-1], every, options)
    return Rows(rows, table, header)


def _places(names, signal):
    """Position of each channel in the signal, -1 of one that is marked bad in the recording."""
    for name in names:
        if name not in signal.channels and name not in signal.bad:
            raise InputError(f"channels: no {name!r}; there is {', '.join(signal.channels)}")
    return np.array([signal.channels.index(n) if n in signal.channels else -1 for n in names])


def _flagged(data, names, at, signal, table, options):
    """Why windows are excluded, names of channels that are bad in them, and which: (channel, n)."""
    limits = {"amplitude": options.amplitude, "flat": options.flat, "jump": options.jump}
    if signal.unit != "uV":
        limits = {"amplitude": np.inf, "flat": 0.0, "jump": np.inf, "piece": None}
    starts, length = table["onset"] - signal.start, table["duration"].iloc[0]
    flags = quality.flagged(data, signal.sfreq, starts, length, **limits)
    present = [name for name, place in zip(names, at, strict=True) if place >= 0]
    bad = quality.any_of(flags) if len(flags) > 1 else np.zeros((len(data), len(table)), bool)
    return quality.rejected(flags, options.bad_share), quality.named(flags, present), bad


def _filter(low, high, sfreq):
    if high < sfreq / 2:
        return filters.butter(ORDER, (low, high), "bandpass", fs=sfreq, output="sos")
    return filters.butter(ORDER, low, "highpass", fs=sfreq, output="sos")


def _header(recording, signal, names, frames, every, options):
    sfreq = signal.sfreq / every
    return {
        "what": GIVES,
        "axes": 2,
        "modality": options.signal,
        "channels": list(names),
        "missing": [],
        "tr": round(1 / sfreq, 9),
        "sfreq": sfreq,
        "frames": frames,
        "unit": signal.unit,
        "normalisation": "none",
        "band": list(options.band),
        "transductive": False,
        "settings": dataclasses.asdict(options),
        **recording.origin,
    }
