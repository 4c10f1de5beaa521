"""What makes a stretch of a signal unusable, by simple rules with stated thresholds."""

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from engram.errors import InputError

CLIPPED = 0.02  # s that a signal rests at its largest or smallest value before it counts
CLIPPED_SAMPLES = 4  # and samples, at the least
TOUCH = 1e-3  # s that a window and a stretch may share: files hold times as 32-bit numbers
SPREAD = (0.01, 1e5)  # uV, standard deviations between which an EEG channel can lie


def reasons(data, sfreq, starts, length, *, share=0.0, groups=None, **limits) -> list[str]:
    """Why each window of a signal is unusable, "" if it is not.

    "outside recording", or else the first reason of `flagged` for which more than `share` of the
    channels of a group are bad in the window, whatever their reasons.

    Args:
        data: (time,) or (channel, time).
        sfreq: samples per second (Hz).
        starts: (n,) seconds from the first sample.
        length: of each window, s.
        share: of the channels of a group that may be bad, in [0, 1).
        groups: lists of channels that are judged together; None is all in one.
        limits: of `flagged`.
    """
    return rejected(flagged(data, sfreq, starts, length, **limits), share, groups)


def rejected(flags, share=0.0, groups=None) -> list[str]:
    """Why each window is unusable, from what `flagged` says of every channel; see `reasons`."""
    outside = flags["outside recording"]
    found = {reason: hit for reason, hit in flags.items() if hit is not outside}
    chosen = np.full(len(outside), "", dtype=object)
    bad = any_of(flags)
    for group in (groups or [range(len(bad))]) if found else []:
        rows = [*group]
        enough = bad[rows].sum(0) > share * len(rows)
        for reason, hit in found.items():
            chosen[enough & hit[rows].any(0) & (chosen == "")] = reason
    chosen[outside] = "outside recording"
    return list(chosen)


def any_of(flags) -> np.ndarray:
    """Channels that are bad in each window, bool (channel, n), whatever their reasons."""
    found = [hit for hit in flags.values() if hit.ndim == 2]
    return np.any(found, axis=0) if found else np.zeros((0, len(flags["outside recording"])), bool)


def named(flags, channels) -> list[str]:
    """Names of the channels that are bad in each window, ", " between them; see `any_of`."""
    bad = any_of(flags)
    if not bad.any():
        return [""] * bad.shape[1]
    return [
        ", ".join(name for name, hit in zip(channels, row, strict=True) if hit) for row in bad.T
    ]


def flagged(
    data, sfreq, starts, length, *, flat=0.5, amplitude=300.0, jump=100.0, piece=1.0
) -> dict[str, np.ndarray]:
    """Why each channel is unusable in each window, bool (channel, n) by reason.

    "not finite"; "flat", the range (largest minus smallest value) of some `piece` is `flat` or
    less; "clipped", the signal rests at the largest or smallest value of its whole recording;
    "amplitude", the range of some piece is more than `amplitude`; "jump", two neighbouring
    samples differ by more than `jump`. "outside recording" is of the window alone, bool (n,).

    Args:
        data, sfreq, starts, length: as for `reasons`.
        flat, amplitude, jump: unit of `data`; the defaults are uV of scalp EEG.
        piece: s; None takes the whole window as one piece.
    """
    data = np.atleast_2d(data)
    first = np.round(np.asarray(starts, float) * sfreq).astype(int)
    size = max(1, round(length * sfreq))
    piece = size if piece is None else min(size, max(2, round(piece * sfreq)))
    last = data.shape[1] - size
    found = {"outside recording": (first < 0) | (first > last)}
    if last < 0:
        return {"outside recording": np.ones(len(first), bool)}
    first = np.clip(first, 0, last)
    for c, series in enumerate(data):
        for reason, bad, reach in _flags(series, sfreq, piece, flat, amplitude, jump):
            count = np.concatenate([[0], np.cumsum(bad)])
            hit = count[first + size - reach + 1] > count[first]
            found.setdefault(reason, np.zeros((len(data), len(first)), bool))[c] = hit
    return found


def check_channels(signal, where):
    """Refuse a signal in which a whole channel carries nothing.

    Args:
        signal: `engram.recording.Signal`.
        where: names the recording or its file, for the message.

    Raises:
        InputError: every value of a channel is NaN or infinite, or all are equal.
    """
    for name, series in zip(signal.channels, signal.data, strict=True):
        finite = series[np.isfinite(series)]
        if not len(finite):
            what = "holds no finite value"
        elif finite.min() == finite.max():
            what = f"is flat: every value is {finite[0]:g} {signal.unit}"
        else:
            continue
        raise InputError(f"{where}: channel {name!r} {what}; leave it out, or correct the file")


def check_spread(signal, where):
    """Refuse EEG whose values cannot be in the unit that they are said to be in.

    Args:
        signal: `engram.recording.Signal` in uV, which `check_channels` passed.
        where: names the recording or its file, for the message.

    Raises:
        InputError: the standard deviation of a channel is smaller or larger than any EEG's.
    """
    low, high = SPREAD
    for name, series in zip(signal.channels, signal.data, strict=True):
        spread = np.nanstd(series, dtype=np.float64)
        if not low <= spread <= high:
            raise InputError(
                f"{where}: channel {name!r} has a standard deviation of {spread:.3g} uV, which no "
                "EEG has: the unit in the file is wrong, or this is no EEG; say the true unit of "
                f"its numbers in `unit` of the dataset, e.g. {{{name}: uV}}, or leave it out"
            )


def marked(bad, starts, stops) -> list[str]:
    """Which stretch that is not to be used each window reaches into, "" if none.

    Args:
        bad: table with onset, duration (s) and description; the first in the table counts.
        starts, stops: (n,) s, of the data that each window is computed from.
    """
    chosen = np.full(len(starts), "", dtype=object)
    stretches = zip(bad["onset"], bad["onset"] + bad["duration"], bad["description"], strict=True)
    for onset, end, description in stretches:
        hit = (np.asarray(starts) < end - TOUCH) & (np.asarray(stops) > onset + TOUCH)
        chosen[hit & (chosen == "")] = description
    return list(chosen)


def _flags(series, sfreq, piece, flat, amplitude, jump):
    """By reason: for each stretch of `reach` samples, whether it is bad, at its first sample."""
    finite = np.isfinite(series)
    yield "not finite", ~finite, 1
    series = np.where(finite, series, 0)
    span = _sliding(maximum_filter1d, series, piece) - _sliding(minimum_filter1d, series, piece)
    yield "flat", span <= flat, piece
    rest = max(CLIPPED_SAMPLES, round(CLIPPED * sfreq))
    if rest <= piece:
        extreme = (series == series.max()) | (series == series.min())
        yield "clipped", _sliding(minimum_filter1d, extreme, rest), rest
    yield "amplitude", span > amplitude, piece
    yield "jump", np.abs(np.diff(series)) > jump, 2


def _sliding(extremum, values, size):
    """Extremum of values[i : i + size] for every i, (len(values) - size + 1,)."""
    return extremum(values, size, origin=-(size // 2))[: len(values) - size + 1]
