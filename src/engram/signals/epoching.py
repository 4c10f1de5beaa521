"""From continuous EEG to whitened epochs, as Gifford et al. (2022) prepared THINGS-EEG2.

The steps of their published code, one session at a time: events of the stimulus channel, epochs
around them, baseline, resampling, a fixed number of repetitions a condition, and multivariate
noise normalisation (Guggenmos et al. 2018): multiplication by the inverse square root of the
noise covariance.  They average the covariances of the training and the test partition; here the
test partition stays out unless the caller hands it in.  One more thing differs: epochs are
padded so that resampling keeps their clock; the padding to a power of two, which they left to
MNE, shifts them by up to half a sample (5 ms at 100 Hz).
"""

from dataclasses import dataclass

import mne
import numpy as np

from engram.errors import InputError

TARGET = 99999  # code of the image that subjects had to respond to; no condition
PADDING = 0.5  # s on both sides of an epoch, a whole number of samples before and after
BLOCK = 200  # epochs cut and resampled at once
BATCH = 1 << 20  # values whose covariances are computed at once


@dataclass(frozen=True)
class Cut:
    """How epochs are cut.

    Attributes:
        tmin, tmax: seconds around the event; the sample at `tmax` is not included.
        sfreq: Hz after resampling.
        keep: seconds from which samples are kept; the baseline before may be dropped.
        across: what the noise covariance is taken across: the repetitions, at each "time"; or
            time, in each of the "epochs".
    """

    tmin: float
    tmax: float
    sfreq: float
    keep: float
    across: str


ORIGINAL = Cut(-0.2, 0.8, 100.0, -0.2, "time")  # gifale95/eeg_encoding
NICE = Cut(-0.2, 1.0, 250.0, 0.0, "epochs")  # eeyhsong/NICE-EEG


# ---- epochs -------------------------------------------------------------------------------


def epochs(data, names, sfreq, channels, cut, stim="stim"):
    """Epochs around every event but targets, minus their mean before the event.

    Args:
        data: (channel, time), the stimulus channel among them; may be mapped into memory.
        names: of the channels of `data`.
        sfreq: Hz.
        channels: names of those to keep, in this order.
        cut: Cut.
        stim: name of the channel that holds codes.

    Returns:
        (array float32 (n, channel, time), codes (n,)); the first sample is at `cut.keep`.

    Raises:
        InputError: a channel is missing, the recording is slower than the epochs, there is no
            event, or one is too close to an end.
    """
    if sfreq < cut.sfreq:
        raise InputError(f"{sfreq:g} samples per second; epochs need at least {cut.sfreq:g}")
    missing = [name for name in (*channels, stim) if name not in names]
    if missing:
        raise InputError(f"no channel {', '.join(missing)}; there is {', '.join(names)}")
    events = _events(data[list(names).index(stim)], sfreq)
    first, last = round(cut.tmin * sfreq), round(cut.tmax * sfreq) - 1
    if events[0, 0] + first < 0 or events[-1, 0] + last >= data.shape[1]:
        raise InputError("an event is closer to an end of the recording than its epoch is long")
    info = mne.create_info(list(channels), sfreq, "eeg")
    picks = [list(names).index(name) for name in channels]
    padding, parts = round(PADDING * sfreq), []
    for start in range(0, len(events), BLOCK):
        block = events[start : start + BLOCK].copy()
        low, high = block[0, 0] + first, block[-1, 0] + last + 1
        raw = mne.io.RawArray(np.asarray(data[:, low:high], float)[picks], info, verbose="error")
        block[:, 0] -= low
        cut_out = mne.Epochs(
            raw, block, None, cut.tmin, last / sfreq, baseline=(None, 0), preload=True,
            proj=False, verbose="error",
        )  # fmt: skip
        if cut.sfreq < sfreq:
            cut_out.resample(cut.sfreq, npad=padding, window="boxcar", pad="edge", verbose="error")
        kept = cut_out.times > cut.keep - 0.5 / cut.sfreq
        parts.append(cut_out.get_data(copy=False)[:, :, kept].astype(np.float32))
    return np.concatenate(parts), events[:, 2]


def _events(codes, sfreq):
    """(n, 3) as MNE has them: sample, 0, code; no targets."""
    raw = mne.io.RawArray(
        np.asarray(codes, float)[None],
        mne.create_info(["stim"], sfreq, "stim"),
        verbose="error",
    )
    try:
        events = mne.find_events(raw, "stim", verbose="error")
    except ValueError as error:
        raise InputError(f"the stimulus channel is not readable ({error})") from None
    events = events[events[:, 2] != TARGET]
    if not len(events):
        raise InputError("the stimulus channel holds no event but targets")
    return events


def by_condition(array, codes, most, seed):
    """Repetitions of each condition side by side, at most `most` of them, drawn by the seed.

    Args:
        array: (n, channel, time).
        codes: (n,) condition of each epoch.
        most: repetitions kept; missing ones hold NaN.
        seed: of the draws; each condition is drawn alike, as in the published code.

    Returns:
        (conditions (m,), array (m, most, channel, time), repetitions (m,)).
    """
    conditions = np.unique(codes)
    found = np.full((len(conditions), most, *array.shape[1:]), np.nan, array.dtype)
    counts = np.zeros(len(conditions), int)
    for i, condition in enumerate(conditions):
        at = shuffled(np.flatnonzero(codes == condition), seed)[:most]
        found[i, : len(at)], counts[i] = array[at], len(at)
    return conditions, found, counts


def merge(sessions, seed):
    """Repetitions of all sessions side by side, in an order drawn by the seed.

    Args:
        sessions: one (conditions, array, repetitions) of `by_condition` a session; conditions
            need not be the same in all.
        seed: of the order, which is the same for every condition.

    Returns:
        As `by_condition`, of all conditions that any session holds.
    """
    conditions = np.unique(np.concatenate([found for found, _, _ in sessions]))
    rows = [np.searchsorted(conditions, found) for found, _, _ in sessions]
    counts = np.zeros(len(conditions), int)
    for at, (_, _, there) in zip(rows, sessions, strict=True):
        counts[at] += there
    shape = (len(conditions), counts.max(), *sessions[0][1].shape[2:])
    merged, filled = np.full(shape, np.nan, np.float32), np.zeros(len(conditions), int)
    for at, (_, array, there) in zip(rows, sessions, strict=True):
        for i, epochs_of_one, n in zip(at, array, there, strict=True):
            merged[i, filled[i] : filled[i] + n] = epochs_of_one[:n]
            filled[i] += n
    for i, n in enumerate(counts):
        merged[i, :n] = merged[i, shuffled(np.arange(n), seed)]
    return conditions, merged, counts


def shuffled(values, seed):
    """`values` in the order that scikit-learn's `shuffle` gives them, as the published code."""
    order = np.arange(len(values))
    np.random.RandomState(seed).shuffle(order)
    return values[order]


# ---- noise normalisation ------------------------------------------------------------------


def noise_covariance(array, counts, across="time") -> np.ndarray:
    """Covariance of the noise, averaged over conditions.

    Args:
        array: (n, repetition, channel, time); of condition i the first `counts[i]` repetitions.
        counts: (n,).
        across: "time": covariance across repetitions, at each time; "epochs": across time, in
            each repetition; both with Ledoit-Wolf shrinkage, then averaged.

    Returns:
        float64 (channel, channel).

    Raises:
        InputError: across repetitions, no condition has two of them.
    """
    total, conditions = 0.0, 0
    for n in np.unique(counts):
        same = array[counts == n]
        if n < (2 if across == "time" else 1):
            continue
        step = max(1, BATCH // same[0].size)
        for start in range(0, len(same), step):
            block = same[start : start + step, :n].astype(float)
            order = (0, 3, 1, 2) if across == "time" else (0, 1, 3, 2)
            samples = block.transpose(order)  # (condition, one covariance, sample, channel)
            each = samples.shape[0] * samples.shape[1]
            sums = shrunk_covariances(samples.reshape(each, *samples.shape[2:])).sum(0)
            total, conditions = total + sums / samples.shape[1], conditions + len(block)
    if not conditions:
        raise InputError("no condition has two repetitions: noise cannot be told from signal")
    return total / conditions


def shrunk_covariances(samples) -> np.ndarray:
    """Covariances with the shrinkage of Ledoit and Wolf (2004), of standardised channels.

    Channels are standardised before and rescaled after, so that all shrink alike whatever
    their amplitude; variances are divided by the number of samples.

    Args:
        samples: float64 (n, sample, channel).

    Returns:
        float64 (n, channel, channel).
    """
    m, p = samples.shape[1:]
    centred = samples - samples.mean(1, keepdims=True)
    scale = np.sqrt((centred**2).mean(1))
    scale[scale == 0] = 1
    z = centred / scale[:, None]
    empirical = z.transpose(0, 2, 1) @ z / m
    mean = np.trace(empirical, axis1=1, axis2=2) / p
    spread = (empirical**2).sum((1, 2)) / p - mean**2
    error = (((z**2).sum(2) ** 2).sum(1) / m - (empirical**2).sum((1, 2))) / (p * m)
    error = np.clip(error, 0, spread)
    share = np.divide(error, spread, out=np.zeros_like(error), where=error > 0)[:, None, None]
    shrunk = (1 - share) * empirical + share * mean[:, None, None] * np.eye(p)
    return shrunk * scale[:, :, None] * scale[:, None, :]


def inverse_root(covariance) -> np.ndarray:
    """The symmetric matrix W with W C W = 1.

    Raises:
        InputError: the covariance is singular: a channel is flat or a copy of others.
    """
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= 1e-12 * values[-1]:
        raise InputError("the noise covariance is singular: a channel is flat or copies another")
    return (vectors / np.sqrt(values)) @ vectors.T


def whiten(array, root) -> np.ndarray:
    """Channels mixed by the inverse root of their noise covariance; float32, same shape.

    Args:
        array: float32 (..., channel, time).
        root: (channel, channel).
    """
    return np.matmul(root.astype(np.float32), array)
