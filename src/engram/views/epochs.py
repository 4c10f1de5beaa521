"""Epochs of trials: each condition averaged over its repetitions, or every repetition a row.

In this order: channels and seconds are chosen, outliers clipped, each channel of a repetition
normalised, repetitions averaged.  Nothing is estimated from more than the one epoch it is
applied to, so that no row knows of another.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.recording import Trials
from engram.store import Rows

DEVICE = "cpu"
GIVES = "epochs"
OF = Trials

BLOCK = 64 << 20  # bytes of trials read at once


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        average: how many repetitions are averaged into a row, by split, e.g. {train: 4, test:
            80}: the first ones; 0 makes every repetition a row. Null averages all there are.
        channels: names, in the order of the rows; null takes those of the dataset.
        tmin, tmax: seconds after the stimulus, both included; null is the first and the last.
        clip: values beyond this are set to it, in the unit of the data; null clips nothing.
        normalise: take each channel of a repetition minus its mean over time, divided by its
            L2 norm over time.
    """

    average: dict[str, int] | None = None
    channels: list[str] | None = None
    tmin: float | None = None
    tmax: float | None = None
    clip: float | None = None
    normalise: bool = False


def render(trials, windows, options) -> Rows:
    """Epochs of the trials of one subject.

    Returns:
        Rows: float32 (n, channel, time), named `sub-01/train/00001_aardvark/aardvark_01b`, or
        `.../repetition-02` where repetitions are rows. Columns of the table: subject, split,
        concept, stimulus, repetitions (averaged into the row), clipped (values) and exclude.

    Raises:
        InputError: a channel, time or repetition is not there, or a value is not finite.
    """
    channels = _positions(trials, options)
    times = _times(trials, options)
    counts = _counts(trials, options)
    single = counts == 0
    rows = np.where(single, trials.table["repetitions"].to_numpy(), 1)
    at = np.concatenate([[0], np.cumsum(rows)])
    array = np.empty((at[-1], len(channels), times.stop - times.start), np.float32)
    clipped, flat = np.zeros(at[-1], int), np.zeros(at[-1], bool)
    for block in _blocks(trials.data):
        for i, epochs in zip(range(*block.indices(len(rows))), trials.data[block], strict=True):
            used = epochs[: counts[i] or rows[i]][:, channels, times].astype(np.float32)
            here = slice(at[i], at[i + 1])
            beyond, constant = _clean(used, trials, i, options)
            array[here] = used if single[i] else used.mean(0)
            clipped[here] = beyond if single[i] else beyond.sum()
            flat[here] = constant if single[i] else constant.any()
    return Rows(array, _table(trials, counts, rows, clipped, flat), _header(trials, times, options))


def _positions(trials, options):
    """Positions of the channels in the data."""
    names = options.channels or trials.order
    missing = [name for name in names if name not in trials.channels]
    if missing or len(set(names)) < len(names):
        raise InputError(
            f"{trials.name}: no channel {', '.join(missing)}; there is {', '.join(trials.channels)}"
            if missing
            else f"{trials.name}: `channels` of the view names a channel twice"
        )
    return [trials.channels.index(name) for name in names]


def _times(trials, options) -> slice:
    half = 0.5 / trials.sfreq
    first, last = trials.times[[0, -1]]
    tmin = first if options.tmin is None else options.tmin
    tmax = last if options.tmax is None else options.tmax
    if tmin < first - half or tmax > last + half or tmin > tmax:
        raise InputError(
            f"{trials.name}: epochs last from {first:g} to {last:g} s; "
            f"`tmin: {tmin:g}`, `tmax: {tmax:g}` do not lie in them"
        )
    inside = np.flatnonzero((trials.times > tmin - half) & (trials.times < tmax + half))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _counts(trials, options):
    """Repetitions averaged into the row of each condition; 0 if each is a row, (n,)."""
    there = trials.table["repetitions"].to_numpy()
    if options.average is None:
        return there
    unknown = sorted(set(trials.table["split"]) - set(options.average))
    if unknown or min(options.average.values()) < 0:
        raise InputError(
            f"{trials.name}: `average` of the view needs a number from 0 on for "
            f"{', '.join(unknown) or 'each split'}"
        )
    counts = trials.table["split"].map(options.average).to_numpy()
    if (counts > there).any():
        i = int(np.argmax(counts > there))
        raise InputError(
            f"{trials.name}: {trials.table.index[i]} has {there[i]} repetitions, but `average` "
            f"of the view asks for {counts[i]}"
        )
    return counts


def _blocks(data):
    step = max(1, BLOCK // max(1, data[:1].nbytes))
    return [slice(i, i + step) for i in range(0, len(data), step)]


def _clean(epochs, trials, i, options):
    """Clip and normalise (repetition, channel, time) in place.

    Returns:
        Values clipped, and whether a channel is constant, (repetition,) each.
    """
    if not np.isfinite(epochs).all():
        raise InputError(
            f"{trials.name}: {trials.table.index[i]} holds values that are not finite; "
            "leave the condition out of the files, or fetch them again"
        )
    beyond = np.zeros(len(epochs), int)
    if options.clip is not None:
        beyond = (np.abs(epochs) > options.clip).sum((1, 2))
        np.clip(epochs, -options.clip, options.clip, out=epochs)
    constant = (np.ptp(epochs, axis=-1) == 0).any(-1)
    if options.normalise:
        epochs -= epochs.mean(-1, keepdims=True)
        norm = np.linalg.norm(epochs, axis=-1, keepdims=True)
        epochs /= np.where(norm > 0, norm, 1)
    return beyond, constant


def _table(trials, counts, rows, clipped, flat):
    table = trials.table.iloc[np.repeat(np.arange(len(rows)), rows)]
    single = np.repeat(counts == 0, rows)
    repetition = np.concatenate([np.arange(1, n + 1) for n in rows])
    names = [
        f"{trials.subject}/{name}" + (f"/repetition-{number:02d}" if alone else "")
        for name, number, alone in zip(table.index, repetition, single, strict=True)
    ]
    return pd.DataFrame(
        {
            "subject": trials.subject,
            "split": table["split"].to_numpy(),
            "concept": table["concept"].to_numpy(),
            "stimulus": table["stimulus"].to_numpy(),
            "repetitions": np.where(single, 1, np.repeat(counts, rows)),
            "clipped": clipped,
            "exclude": np.where(flat, "constant channel", ""),
        },
        index=names,
    )


def _header(trials, times, options):
    return {
        "what": GIVES,
        "axes": 2,
        "sfreq": trials.sfreq,
        "channels": list(options.channels or trials.order),
        "times": trials.times[times].round(6).tolist(),
        "unit": "L2 norm over time" if options.normalise else trials.unit,
        "average": options.average,
        "clip": options.clip,
        "normalise": options.normalise,
        **trials.origin,
    }
