"""Spectrograms of the windows of a recording, EEG or fMRI, in decibels.

One multitaper spectrogram of the whole recording is made; each window gets a fixed number k
of its columns, so that every image has the same size:

- If the spectrogram's window is not longer than the window (EEG: 4 s of 30 s), the first k
  columns computed from samples after its onset, k as large as fits: 27 for steps of 1 s.
- If it is longer (fMRI: 120 s of 30 s), the first k columns whose centre lies in the window,
  k = floor(length / step).  Neighbouring rows then share most of their data; `start` and
  `stop` of the table say which, and splits within a scan keep to them.

Rows whose columns would need data from outside the recording are excluded, as are rows in which
too many channels are bad; the power of those that are bad in a row is not averaged in.  No filter
runs before: `fmin` and `fmax` choose what is shown.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engram.errors import InputError
from engram.signals import image, multitaper, quality
from engram.store import Rows

DEVICE = "cpu"
GIVES = "spectrogram"

PERCENTILES = (5, 98)  # limits of a scan under `limits: recording`
EPSILON = 1e-6  # steps


@dataclass(frozen=True)
class Options:
    """Options. The defaults suit 30-s windows of scalp EEG.

    Attributes:
        signal: which signal of the recording.
        channels: names; their power is averaged into one image. Null is all channels.
        regions: names; each gives an image of its own. Null is one image of `channels`.
        window, step: of the spectrogram, s, rounded to samples.
        time_bandwidth, n_tapers: time-half-bandwidth product and number of tapers.
        fmin, fmax: Hz shown, both included; `fmax` at most half the samples per second.
        detrend: what is removed from each spectrogram window.
        weighting: of the tapers.
        min_nfft: points of the Fourier transform at the least.
        limits: [low, high] dB, the ends of the colour table; or "recording": the 5th and 98th
            percentile of each scan, to which its values are scaled (transductive).
        cmap: name of the matplotlib colour map.
        lag: s that the image is later than its window: the delay of the fMRI response.
        size: [height, width] of the image; null is one row a frequency, one column a step.
        standardize: give each channel of a scan mean 0 and variance 1 first (transductive).
        amplitude: largest range of a channel within a second, uV; for signals in uV.
        flat: range of a channel within a second that counts as flat, uV; for signals in uV.
        jump: largest step between neighbouring samples, uV; for signals in uV.
        bad_share: of the channels of an image that may break one of these three rules within a
            row, or be clipped or without data; they are left out of the average then. A row with
            more is excluded.
    """

    signal: str = "eeg"
    channels: list[str] | None = None
    regions: list[str] | None = None
    window: float = 4.0
    step: float = 1.0
    time_bandwidth: float = 3.0
    n_tapers: int = 5
    fmin: float = 0.5
    fmax: float = 35.0
    detrend: Literal["linear", "constant", "off"] = "linear"
    weighting: Literal["unity", "eigen", "adapt"] = "unity"
    min_nfft: int = 0
    limits: tuple[float, float] | Literal["recording"] = (-20.0, 40.0)
    cmap: str = "viridis"
    lag: float = 0.0
    size: tuple[int, int] | None = None
    standardize: bool = False
    amplitude: float = 300.0
    flat: float = 0.5
    jump: float = 100.0
    bad_share: float = 0.25


def render(recording, windows, options) -> Rows:
    """Spectrograms of the windows of one recording.

    Returns:
        Rows: float16 dB (n, h, w), or (n, region, h, w) with `regions`; row 0 of an image is
        the highest frequency. Excluded rows hold the low limit where there is no data. The
        column bad_channels names those that break a rule in a row. With
        `limits: recording` the values are (dB - low) / (high - low) and the table has columns
        limit_low, limit_high (dB).

    Raises:
        InputError: a signal, channel or region is missing or ambiguous, a channel carries
            nothing, the recording is too short, its rate does not hold `fmax`, or an option is
            out of range.
    """
    try:
        return _render(recording, windows, options)
    except InputError as error:
        raise InputError(f"{recording.name}: {error}") from None


def _render(recording, windows, options):
    _check(options)
    signal, groups = _chosen(recording, options)
    quality.check_channels(signal, f"signal {options.signal!r}")
    if options.fmax > signal.sfreq / 2 * (1 + 1e-9):
        raise InputError(
            f"{signal.sfreq:g} samples per second hold frequencies up to {signal.sfreq / 2:g} Hz, "
            f"but `fmax` of the view is {options.fmax:g}; lower it and the bands above, or leave "
            "the recording out"
        )
    if recording.duration < windows.length:
        raise InputError(
            f"lasts {recording.duration:g} s, less than one window of {windows.length:g} s; "
            "leave it out of the manifest or shorten `windows`"
        )
    grid = _Grid.of(signal, windows, options)
    table = windows.table(recording)
    first = grid.first(table["onset"].to_numpy())
    start, stop = grid.extent(first, signal.start)
    table["start"] = np.minimum(table["start"], start)
    table["stop"] = np.maximum(table["stop"], stop)
    flags = _flags(signal, start - signal.start, stop[0] - start[0], options)
    table["exclude"] = quality.rejected(flags, options.bad_share, groups)
    table["bad_channels"] = quality.named(flags, signal.channels)
    usable = (table["exclude"] == "").to_numpy()
    left_out = quality.any_of(flags) & usable if len(flags) > 1 else None
    rows, decibels, freqs = _averaged(signal, groups, grid, first, left_out, options)
    gap = ~np.isfinite(rows).all(axis=(1, 2, 3))
    table.loc[gap & (table["exclude"] == "").to_numpy(), "exclude"] = "flat"

    limits = options.limits
    if limits == "recording":
        limits = np.percentile(decibels[np.isfinite(decibels)], PERCENTILES)
        rows = (rows - limits[0]) / (limits[1] - limits[0])
        table["limit_low"], table["limit_high"] = limits
        limits = (0.0, 1.0)
    rows = np.where(np.isfinite(rows), rows, limits[0])
    rows = rows if options.size is None else image.resize(rows, options.size)
    rows = rows if options.regions else rows[:, 0]
    header = _header(recording, signal, freqs, grid, limits, options)
    return Rows(rows.astype(np.float16), table, header)


@dataclass(frozen=True)
class _Grid:
    """Columns of the spectrogram on the clock of the recording, and which a window gets.

    Attributes:
        support: seconds of signal behind a column.
        step: seconds between columns.
        columns: of a window.
        anchor: what decides whether column 0 lies in a window whose onset is 0: the first
            second of its support or its centre, minus the lag.
        rule: in words.
    """

    support: float
    step: float
    columns: int
    anchor: float
    rule: str

    @staticmethod
    def of(signal, windows, options):
        size, hop = multitaper.window_samples(signal.sfreq, options.window, options.step)
        support, step = size / signal.sfreq, hop / signal.sfreq
        spare = (windows.length - support) / step + EPSILON
        if spare >= 0:
            columns, centre, rule = int(spare) + 1, 0.0, "support begins in the window"
        else:
            columns = max(1, int(windows.length / step + EPSILON))
            centre, rule = support / 2, "centre lies in the window"
        return _Grid(support, step, columns, signal.start + centre - options.lag, rule)

    def first(self, onsets):
        """Index of the first column of each window; it may lie outside the spectrogram."""
        return np.ceil((onsets - self.anchor) / self.step - EPSILON).astype(int)

    def extent(self, first, start):
        """Seconds of the recording that the columns of each window are computed from."""
        begin = start + first * self.step
        return begin, begin + (self.columns - 1) * self.step + self.support

    def times(self, options):
        """Centre of each column, seconds from the onset of a window that the grid meets."""
        centre = self.support / 2 if self.rule.startswith("support") else 0.0
        return options.lag + centre + np.arange(self.columns) * self.step


def _check(options):
    limits = options.limits
    if limits != "recording" and not (len(limits) == 2 and limits[0] < limits[1]):
        raise InputError(f"limits: {limits} is neither [low, high] in dB nor 'recording'")
    if options.size is not None and not (len(options.size) == 2 and min(options.size) > 0):
        raise InputError(f"size: {options.size} is not [height, width] in pixels")
    if options.channels is not None and options.regions is not None:
        raise InputError("channels, regions: give one or the other")
    if not 0 <= options.bad_share < 1:
        raise InputError(f"bad_share: {options.bad_share:g} is no share, from 0 to less than 1")
    image.colour_table(options.cmap)


def _chosen(recording, options):
    """The signal with the wanted channels, and which of them make each image."""
    if options.signal not in recording.signals:
        raise InputError(
            f"no signal {options.signal!r}; there is {', '.join(recording.signals) or 'none'}; "
            "correct `signal` of the view, or list a file that has it"
        )
    signal = recording.signals[options.signal]
    key, names = "channels", options.channels
    if options.regions is not None:
        key, names = "regions", options.regions
    elif names is None:
        names = signal.channels
    if not names:
        raise InputError(f"{key}: the list is empty")
    rows = [_index(name, signal.channels, key) for name in names]
    signal = dataclasses.replace(signal, data=signal.data[rows], channels=tuple(names))
    return signal, [[i] for i in range(len(rows))] if options.regions else [range(len(rows))]


def _index(name, known, key):
    if known.count(name) == 1:
        return known.index(name)
    if name in known:
        raise InputError(f"{key}: {name!r} is ambiguous, {known.count(name)} have that name")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"{key}: no {name!r}; {guess}there is {', '.join(known)}")


def _averaged(signal, groups, grid, first, left_out, options):
    """Spectrograms of windows and of a whole recording, each averaged over the channels of a group.

    Args:
        first: column that each window begins with, int (n,).
        left_out: channels that are not averaged in each window, bool (channel, n); None is none.

    Returns:
        dB (n, image, freqs, columns), dB (image, times, freqs) and freqs (Hz).
    """
    rows, whole = [], []
    for group in groups:
        total, some, count = 0.0, 0.0, 0
        for row in group:
            power, freqs = _power(signal.data[row], signal.sfreq, grid, options)
            total = total + power
            if left_out is not None and left_out[group].any():
                kept = ~left_out[row]
                some = some + np.where(kept[:, None, None], _cut(power, first, grid.columns), 0)
                count = count + kept
        whole.append(multitaper.decibels(total / len(group)))
        if np.ndim(count):
            rows.append(multitaper.decibels(some / count[:, None, None]))
        else:
            rows.append(_cut(whole[-1], first, grid.columns))
    return np.stack(rows, 1), np.stack(whole), freqs


def _power(series, sfreq, grid, options):
    """Power (times, freqs) of one channel, and freqs."""
    power, _, freqs = multitaper.spectrogram(
        _standardized(series) if options.standardize else series,
        sfreq,
        window=grid.support,
        step=grid.step,
        time_bandwidth=options.time_bandwidth,
        n_tapers=options.n_tapers,
        fmin=options.fmin,
        fmax=options.fmax,
        detrend=options.detrend,
        weighting=options.weighting,
        min_nfft=options.min_nfft,
    )
    return power, freqs


def _standardized(series):
    known = series[np.isfinite(series)].astype(np.float64)
    return ((series - known.mean()) / known.std()).astype(series.dtype)


def _cut(spectrogram, first, columns):
    """Images (n, freqs, columns) of the windows; columns that do not exist are NaN."""
    wanted = first[:, None] + np.arange(columns)
    there = (wanted >= 0) & (wanted < len(spectrogram))
    cut = spectrogram[np.where(there, wanted, 0)]
    cut[~there] = np.nan
    return image.upright(cut)


def _flags(signal, starts, length, options):
    if signal.unit == "uV":
        rules = {"amplitude": options.amplitude, "flat": options.flat, "jump": options.jump}
    else:
        rules = {"amplitude": np.inf, "flat": 0.0, "jump": np.inf, "piece": None}
    return quality.flagged(signal.data, signal.sfreq, starts, length, **rules)


def _montage(signal, options):
    """Names of the channels that are averaged, sorted, for their order does not matter.

    Those of all channels have to be the same for every subject, but for some that are bad.
    """
    whole = options.channels is None and options.regions is None
    return sorted({*signal.channels, *(signal.bad if whole else ())})


def _header(recording, signal, freqs, grid, limits, options):
    times, rows, step = grid.times(options), freqs[::-1], grid.step
    if options.size is not None:
        height, width = options.size
        rows = image.resize_weights(len(rows), height) @ rows
        times = image.resize_weights(len(times), width) @ times
        step *= grid.columns / width
    unit = "dB re 1/Hz, standardised" if options.standardize else f"dB re 1 {signal.unit}^2/Hz"
    if options.limits == "recording":
        unit = f"0 to 1: {PERCENTILES[0]}th to {PERCENTILES[1]}th percentile of the scan in {unit}"
    size = round(grid.support * signal.sfreq)
    return {
        "what": GIVES,
        "axes": 2,
        "modality": options.signal,
        "regions": options.regions,
        "channels": _montage(signal, options),
        "frequencies": rows.tolist(),
        "times": times.tolist(),
        "limits": [float(limit) for limit in limits],
        "cmap": options.cmap,
        "unit": unit,
        "transductive": options.standardize or options.limits == "recording",
        "seconds_per_column": step,
        "support_s": [grid.support / 2, grid.support / 2],
        "lag_s": options.lag,
        "settings": {
            **dataclasses.asdict(options),
            "sfreq": signal.sfreq,
            "window": grid.support,
            "step": grid.step,
            "nfft": multitaper.transform_points(size, options.min_nfft),
            "columns": f"{grid.columns} whose {grid.rule}",
        },
        **recording.origin,
    }
