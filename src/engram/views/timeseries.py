"""Series of brain regions: a row is a window of a scan, or a whole scan, (roi, time).

In this order: regions are chosen and put in order by name, filtered, resampled, standardised over
the scan, cut, standardised over the window.  A whole scan is a row where the dataset says
`windows: scan`.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import signal as filters

from engram.errors import InputError
from engram.readers import atlases, region_names
from engram.signals.series import resampled, standardized
from engram.store import Rows

DEVICE = "cpu"
GIVES = "timeseries"
FILES = ("regions",)

SETTLED = 0.01  # of its largest value, below which a filter's response is over


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        signal: which signal of the recording.
        regions: names of regions, or in place of them atlases (schaefer400_7n, schaefer400_17n,
            tian_s3, buckner7) or files of names, in the order of the rows; null takes those of the
            recording. Regions are found by name, parcels of Schaefer by those of either order.
        coverage: share of `regions` that a recording has to have; those that it lacks are zero,
            and `missing` in the header names them.
        without: regions that are missing in every scan of the view, as some scan lacks them: all
            rows of an experiment have to lack the same.
        tr: s between frames, to which a recording of another TR is resampled; null keeps that.
        resampling: `linear` and `nearest` take the value between or beside two frames, without a
            filter: frequencies that the new TR cannot hold fold over, unless `band` removed them;
            `polyphase` filters them away.
        band: [low, high] Hz that a Butterworth filter passes, forward and backward; null filters
            nothing.
        order: of the filter, for one of the two directions.
        standardize: give each region mean 0 and variance 1 over its `scan` (transductive, as the
            windows of a scan then know of each other), over each `window`, or keep it (`off`).
        length: frames of a row, from the beginning of its window; null takes the whole window.
        pad: fill a row whose window has fewer frames than `length` with zeros; otherwise it is an
            error.
    """

    signal: str = "fmri"
    regions: list[str] | None = None
    coverage: float = 1.0
    without: list[str] | None = None
    tr: float | None = None
    resampling: Literal["linear", "nearest", "polyphase"] = "polyphase"
    band: tuple[float, float] | None = None
    order: int = 5
    standardize: Literal["scan", "window", "off"] = "scan"
    length: int | None = None
    pad: bool = False


def render(recording, windows, options) -> Rows:
    """The windows of one recording.

    Returns:
        Rows: float32 (n, roi, time). The column `frames` says how many of the frames of a row
        are data, those behind them are zero.

    Raises:
        InputError: the signal or a region is missing, a region never changes, the band does not
            lie below half the sampling rate, or a window is too short.
    """
    try:
        return _render(recording, windows, options)
    except InputError as error:
        raise InputError(f"{recording.name}: {error}") from None


def _render(recording, windows, options):
    _check(options)
    if options.signal not in recording.signals:
        raise InputError(
            f"no signal {options.signal!r}; there is {', '.join(recording.signals) or 'none'}; "
            "correct `signal` of the view, or list a file that has it"
        )
    series = recording.signals[options.signal]
    flat = np.flatnonzero(series.data.min(-1) == series.data.max(-1))
    if len(flat):
        raise InputError(
            f"region {series.channels[flat[0]]!r} never changes; leave it out of the recording"
        )
    names, at = _arranged(series.channels, options)
    present = at >= 0
    data, reach = _filtered(series.data[at[present]], series.sfreq, options)
    data, sfreq = resampled(data, series.sfreq, options.tr, options.resampling)
    if options.standardize == "scan":
        data = standardized(data)
    first, frames = _frames(recording, windows, series, sfreq, data.shape[1])
    length = frames if options.length is None else options.length
    kept = min(length, frames)
    if kept < length and not options.pad:
        raise InputError(
            f"a window has {frames} frames of {1 / sfreq:g} s, `length` of the view asks for "
            f"{length}; shorten it, leave the scan out, or set `pad: true`"
        )
    array = np.zeros((len(first), len(names), length), np.float32)
    for row, start in zip(array, first, strict=True):
        window = data[:, start : start + kept]
        row[present, :kept] = standardized(window) if options.standardize == "window" else window
    table = windows.table(recording, (reach, reach)).assign(frames=kept)
    return Rows(array, table, _header(recording, series, names, present, sfreq, length, options))


def _check(options):
    if not 0 < options.coverage <= 1:
        raise InputError(f"coverage: {options.coverage:g} is not a share, above 0 and at most 1")
    if options.length is not None and options.length < 2:
        raise InputError(f"length: {options.length} frames; a row needs at least 2")
    if options.tr is not None and not 0.05 <= options.tr <= 20:
        raise InputError(f"tr: {options.tr:g} s between frames; it is in seconds, e.g. 2.0")


def _arranged(present, options):
    """Names of the rows, and the position of each in the recording, -1 where it is missing."""
    if options.regions is None:
        return present, _but_for(options.without, present, np.arange(len(present)))
    names = region_names.named(options.regions)
    known = {atlases.same(name): i for i, name in enumerate(present)}
    if len(known) < len(present):
        raise InputError("two of the regions of the recording are one parcel; leave one out")
    at = np.array([known.get(atlases.same(name), -1) for name in names])
    at = _but_for(options.without, names, at)
    there = int((at >= 0).sum())
    if there < max(1, options.coverage * len(names) - 1e-9):
        missing = next(name for name, i in zip(names, at, strict=True) if i < 0)
        close = difflib.get_close_matches(missing, present, n=1, cutoff=0.6)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"has {there} of the {len(names)} regions that the view asks for, first missing "
            f"{missing!r}{guess}; correct `regions`, or lower `coverage`, "
            f"{options.coverage:g}, to take missing ones as zero"
        )
    return names, at


def _but_for(without, names, at):
    """Positions of regions, -1 for those that no row shall hold."""
    if not without:
        return at
    held = [atlases.same(name) for name in names]
    left_out = {atlases.same(name): name for name in without}
    if unknown := [name for one, name in left_out.items() if one not in held]:
        raise InputError(
            f"without: {unknown[0]!r} is none of the regions of the view; leave it out there"
        )
    return np.where([one in left_out for one in held], -1, at)


def _filtered(data, sfreq, options):
    """The data in the band, and how many seconds the filter reaches to either side."""
    if options.band is None:
        return data, 0.0
    low, high = options.band
    if not 0 < low < high < sfreq / 2:
        raise InputError(
            f"band: {low:g} to {high:g} Hz does not lie between 0 and {sfreq / 2:g} Hz, half the "
            f"rate of frames each {1 / sfreq:g} s"
        )
    sections = filters.butter(options.order, (low, high), "bandpass", fs=sfreq, output="sos")
    margin = 3 * (2 * len(sections) + 1)
    if data.shape[1] <= margin:
        raise InputError(
            f"{data.shape[1]} frames are too few for a filter of order {options.order}, which "
            f"needs more than {margin}; lower `order` or set `band: null`"
        )
    return filters.sosfiltfilt(sections, data, axis=-1), _reach(sections, sfreq, low)


def _reach(sections, sfreq, low):
    """Seconds until the response of a filter, forward and backward, has died away."""
    half = int(10 / low * sfreq)
    impulse = np.zeros(2 * half + 1)
    impulse[half] = 1
    response = np.abs(filters.sosfiltfilt(sections, impulse))
    alive = np.flatnonzero(response > SETTLED * response.max())
    return float((alive[-1] - half) / sfreq)


def _frames(recording, windows, series, sfreq, there):
    """First frame of each window, and how many frames a window has."""
    first = np.round((windows.onsets(recording) - series.start) * sfreq).astype(int)
    frames = int(windows.length * sfreq + 1e-6)
    if len(first) and len(first) * frames and first[-1] + frames > there:
        frames = there - first[-1]  # by rounding, at the end of a scan
    if frames < 2 or first[0] < 0:
        raise InputError(
            f"a window of {windows.length:g} s holds {max(frames, 0)} frames of {1 / sfreq:g} s; "
            "lengthen `windows` of the dataset"
        )
    return first, frames


def _header(recording, series, names, present, sfreq, length, options):
    over = {"scan": "scan", "window": "row", "off": "none"}[options.standardize]
    source_tr = round(1 / series.sfreq, 9)
    return {
        "what": GIVES,
        "axes": 2,
        "modality": options.signal,
        "channels": list(names),
        "missing": [name for name, there in zip(names, present, strict=True) if not there],
        "coverage": [int(present.sum()), len(names)],
        "tr": round(1 / sfreq, 9),
        "sfreq": sfreq,
        "frames": length,
        "unit": series.unit if over == "none" else "z",
        "normalisation": over,
        "band": list(options.band) if options.band else None,
        "resampled": None
        if abs(source_tr * sfreq - 1) < 1e-6
        else {"from_tr": source_tr, "method": options.resampling},
        "transductive": options.standardize == "scan",
        "settings": dataclasses.asdict(options),
        **recording.origin,
    }
