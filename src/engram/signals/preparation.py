"""What EEG is prepared by before windows are cut, with MNE's filters, interpolation and montage.

In this order, each step only if it is asked for: high-pass, low-pass, notch; channels that deviate
are found, in the filtered signal; bad channels are interpolated, or left out; the reference is
changed; then the dataset resamples. Gaps hold NaN and are never filtered across.
"""

import dataclasses
import re
from dataclasses import dataclass

import mne
import numpy as np

from engram.errors import InputError

ORDER = ("filters", "bad channels", "interpolation", "reference", "resampling")

MASTOIDS = (("M1", "M2"), ("A1", "A2"))
FEWEST = 4  # good channels that others are interpolated from, at the least
NORMAL = 0.7413  # standard deviation of a normal distribution by its interquartile range


@dataclass(frozen=True)
class Options:
    """Options of datasets that hold EEG. By default nothing is done.

    Attributes:
        highpass, lowpass: edges in Hz of zero-phase FIR filters (MNE's `firwin`).
        notch: Hz of the mains, with its multiples below half the samples per second and `lowpass`;
            or a list of Hz.
        bads: channels that are bad in every recording; the column `bads` of the manifest names
            those of one, with blanks between them, as do the file and its `channels.tsv`.
        bad_deviation: a channel is bad whose robust standard deviation lies more than so many
            robust standard deviations from the median of all channels, or that has none. 5 is
            usual (Bigdely-Shamlo et al. 2015. The PREP pipeline. Front Neuroinform 9:16).
        interpolate: put bad channels back, from the others by spherical splines, at positions of
            the 10-05 system; else they are left out.
        reference: `average` of all channels; `mastoids`, M1 and M2 or A1 and A2, which are then
            taken out; or pairs of channels, whose differences become the channels.
    """

    highpass: float | None = None
    lowpass: float | None = None
    notch: float | list[float] | None = None
    bads: list[str] | None = None
    bad_deviation: float | None = None
    interpolate: bool = False
    reference: str | list[list[str]] | None = None


@dataclass(frozen=True)
class Prepared:
    """Channels that were prepared.

    Attributes:
        data: float64 (channel, time).
        channels: names.
        bad: names of channels that are left out as bad.
        facts: what was found in this recording: `deviating`, `interpolated`, `too_short`.
    """

    data: np.ndarray
    channels: tuple[str, ...]
    bad: tuple[str, ...]
    facts: dict


def settings(options) -> dict | None:
    """What is done to every recording, for the header; None if nothing is."""
    given = {
        field.name: value
        for field in dataclasses.fields(Options)
        if (value := getattr(options, field.name)) not in (None, False, [])
    }
    return given | {"order": list(ORDER)} if given else None


def prepare(path, data, sfreq, channels, bad, options) -> Prepared:
    """Prepare the EEG of one recording.

    Args:
        path: of its file, for messages.
        data: float64 (channel, time), uV, NaN in gaps.
        sfreq: samples per second (Hz).
        channels: names of the rows of `data`.
        bad: names of bad channels; those that are no rows of `data` can be interpolated.
        options: `Options`.

    Raises:
        InputError: an edge of a filter or a reference does not suit the recording, all channels
            are bad, or one cannot be interpolated.
    """
    facts = {}
    data, short = _filtered(path, data, sfreq, options)
    if short:
        facts["too_short"] = f"{short:g} s between gaps are shorter than the filters, left out"
    bad = {*bad}
    if options.bad_deviation is not None:
        found = deviating(data, options.bad_deviation)
        facts["deviating"] = [name for name, is_bad in zip(channels, found, strict=True) if is_bad]
        bad |= {*facts["deviating"]}
    good = [i for i, name in enumerate(channels) if name not in bad]
    if not good:
        raise InputError(
            f"{path}: every EEG channel ({', '.join(channels)}) is bad; correct `bads`, raise "
            "`bad_deviation`, or take the recording off the manifest"
        )
    data, kept = data[good], [channels[i] for i in good]
    if options.interpolate and bad:
        facts["interpolated"] = sorted(bad)
        data, kept = _interpolated(path, data, kept, sorted(bad), [*channels])
        bad = set()
    data, kept = _referenced(path, data, kept, options.reference)
    return Prepared(data, tuple(kept), tuple(sorted(bad)), facts)


def stretches(data):
    """Start and stop of each stretch in which every channel is finite."""
    finite = np.isfinite(data).all(axis=0)
    known = np.concatenate([[False], finite, [False]])
    edges = np.flatnonzero(known[1:] != known[:-1])
    return [*zip(edges[::2], edges[1::2], strict=True)]


# ---- filters ----------------------------------------------------------------------------


def _filtered(path, data, sfreq, options):
    """(data, seconds that are too short to be filtered and hold NaN now)."""
    edges = {name: getattr(options, name) for name in ("highpass", "lowpass")}
    notches = _notches(options, sfreq)
    if not notches and not any(edges.values()):
        return data, 0.0
    _check_edges(path, edges, notches, sfreq)
    length = _length(edges, notches, sfreq)
    found, short = np.full(data.shape, np.nan), 0
    for start, stop in stretches(data):
        if stop - start < length:
            short += stop - start
            continue
        piece = np.ascontiguousarray(data[:, start:stop], np.float64)
        if any(edges.values()):
            piece = mne.filter.filter_data(
                piece, sfreq, edges["highpass"], edges["lowpass"], verbose="error"
            )
        if notches:
            piece = mne.filter.notch_filter(piece, sfreq, notches, verbose="error")
        found[:, start:stop] = piece
    if short == data.shape[1]:
        raise InputError(
            f"{path}: {data.shape[1] / sfreq:g} s are shorter than the filters of `highpass`, "
            f"`lowpass` and `notch`, {length / sfreq:g} s; raise `highpass`, or leave it out"
        )
    return found, short / sfreq


def _notches(options, sfreq):
    if not options.notch:
        return []
    if isinstance(options.notch, list):
        return list(options.notch)
    top = min(sfreq / 2, options.lowpass or np.inf)
    return [*np.arange(options.notch, top - 1e-6, options.notch)]


def _check_edges(path, edges, notches, sfreq):
    for name, value in [*edges.items(), *(("notch", value) for value in notches)]:
        if value is not None and not 0 < value < sfreq / 2:
            raise InputError(
                f"{path}: `{name}` is {value:g} Hz; with {sfreq:g} samples per second it has to "
                f"lie between 0 and {sfreq / 2:g}"
            )
    low, high = edges["highpass"], edges["lowpass"]
    if low and high and low >= high:
        raise InputError(f"{path}: `highpass` {low:g} Hz is not below `lowpass` {high:g} Hz")


def _length(edges, notches, sfreq):
    """Samples of the longest filter."""
    found = []
    if any(edges.values()):
        kernel = mne.filter.create_filter(
            None, sfreq, edges["highpass"], edges["lowpass"], verbose="error"
        )
        found.append(len(kernel))
    if notches:
        # The transition of MNE's notch is 1 Hz wide; a Hamming window needs 3.3 of its inverse.
        found.append(int(np.ceil(3.3 * sfreq / 0.5)))
    return max(found)


# ---- bad channels -----------------------------------------------------------------------


def deviating(data, threshold) -> np.ndarray:
    """Channels whose robust standard deviation is unlike that of the others, bool (channel,).

    Standard deviations are 0.7413 of the interquartile range, of samples and of channels; a
    channel that never changes deviates.
    """
    finite = np.isfinite(data).all(axis=0)
    low, high = np.percentile(data[:, finite], (25, 75), axis=1)
    spread = NORMAL * (high - low)
    low, middle, high = np.percentile(spread, (25, 50, 75))
    scale = NORMAL * (high - low)
    far = np.abs(spread - middle) > threshold * scale if scale > 0 else spread != middle
    return far | (spread == 0)


def _interpolated(path, data, kept, bad, order):
    """Channels with the bad ones put back, in the order `order`; others stand at the end."""
    names = [*order, *(name for name in bad if name not in order)]
    montage = mne.channels.make_standard_montage("colin27_1005")
    unplaced = [name for name in names if name not in montage.ch_names]
    if unplaced:
        raise InputError(
            f"{path}: {', '.join(unplaced)} has no place in the 10-05 system, so that nothing can "
            "be interpolated; give it a name of that system in `rename`, or name the others in "
            "`channels`"
        )
    if len(kept) < FEWEST:
        raise InputError(
            f"{path}: {len(kept)} good channels are too few to interpolate {', '.join(bad)}; leave "
            "`interpolate` out, or take the recording off the manifest"
        )
    whole = np.zeros((len(names), data.shape[1]))
    whole[[names.index(name) for name in kept]] = data
    gaps = np.isnan(whole).any(axis=0)
    info = mne.create_info(names, 1.0, "eeg", verbose="error")
    raw = mne.io.RawArray(np.where(gaps, 0, whole), info, verbose="error")
    raw.set_montage(montage, verbose="error")
    raw.info["bads"] = [name for name in names if name not in kept]
    found = raw.interpolate_bads(verbose="error").get_data()
    found[:, gaps] = np.nan
    return found, names


# ---- reference --------------------------------------------------------------------------


def _referenced(path, data, channels, reference):
    if reference is None:
        return data, channels
    if isinstance(reference, list):
        return _bipolar(path, data, channels, reference)
    if reference == "average":
        if len(channels) < 2:
            raise InputError(
                f"{path}: the `average` of one channel is itself; leave `reference` out"
            )
        return data - data.mean(axis=0), channels
    if reference != "mastoids":
        raise InputError(
            f"`reference` is {reference!r}; use average, mastoids or a list of pairs of channels"
        )
    pair = next((pair for pair in MASTOIDS if {*pair} <= {*channels}), None)
    if pair is None:
        raise InputError(
            f"{path}: `reference: mastoids` needs M1 and M2, or A1 and A2; there is "
            f"{', '.join(channels)}; use `average`, or name pairs of channels"
        )
    others = [i for i, name in enumerate(channels) if name not in pair]
    if not others:
        raise InputError(f"{path}: there is no channel beside the mastoids")
    base = data[[channels.index(name) for name in pair]].mean(axis=0)
    return data[others] - base, [channels[i] for i in others]


def _bipolar(path, data, channels, pairs):
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(f"`reference` lists {pair}; a pair has two channels")
        gone = [name for name in pair if name not in channels]
        if gone:
            raise InputError(
                f"{path}: `reference` names {', '.join(gone)}, which is no channel or bad; there "
                f"is {', '.join(channels)}; set `interpolate`, or correct the pair"
            )
    anode, cathode = ([channels.index(pair[i]) for pair in pairs] for i in (0, 1))
    return data[anode] - data[cathode], ["-".join(pair) for pair in pairs]


def named(text) -> list[str]:
    """Channels in a cell of a manifest, with blanks, commas or semicolons between them."""
    return [part for part in re.split(r"[\s,;]+", text or "") if part]
