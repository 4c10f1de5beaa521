"""EEG recordings in any format that MNE reads (EDF, BrainVision, FIF, EEGLAB, ...).

A CSV manifest lists them: subject, scan, file, and whatever else is known of a recording.
Everything known about time becomes events: annotations of the file, values of event
channels, nominal protocol blocks, and conditions that hold for the whole recording.

What is done to the EEG before windows are cut, filters, bad channels, interpolation, reference and
resampling, stands in this order in `engram.signals.preparation`.

Beside a recording of BIDS its `channels.tsv` says of what kind channels are and which are bad, and
the events of its `events.tsv` join those of the file.

The column `labels` of the manifest may name a table of labels beside the recording, of its windows
or of events (`engram.readers.label_tables`).
"""

import dataclasses
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.planning import companions
from engram.readers import bids_channels, bids_events, channels, label_tables
from engram.readers.eeg_files import EegFile, resampled
from engram.recording import Recording, Signal
from engram.signals import preparation, quality

DEVICE = "cpu"

INEXACT = 0.05  # how far codes of an event channel may lie from whole numbers, where they are such

#: Columns of the manifest that are read, beside those that `conditions` names.
COLUMNS = ("subject", "scan", "labels", "bads")
READS = ("file", "eeg")


@dataclass(frozen=True)
class Options(preparation.Options):
    """Options.

    Attributes:
        channels: EEG channels, by their names; FP1, Fp1. and EEG Fp1-REF are one name, and so are
            T3 and T7. Null takes all that are EEG by what the file, its `channels.tsv` or their
            names say; what is left out is said in the log and in the header.
        eog: channels that hold the EOG; null if there are none.
        types: kind of a channel by its name, where its name or the file is wrong about it, e.g.
            {Fz: ecg, Foo: eeg}.
        rename: new names of channels by those in the files; MNE calls doubled ones Oz-0, Oz-1.
        unit: of the numbers in the files, V, mV, uV or nV, of channels that have none; by
            name, {Oz: uV}, it overrides that of the file.
        encoding: of the text in the files, where it is not UTF-8, e.g. latin-1 or shift-jis.
        reject_by_annotation: leave out windows that reach into annotations which begin with BAD
            or EDGE, as MNE does.
        sfreq: Hz that every recording is resampled to, no more than any has; null keeps that of
            the files, which then has to be the same in all.
        event_channels: channels whose values are codes that hold until they change; a value
            3 of the channel Stage becomes events "Stage:3".
        protocol: nominal blocks [start, stop, name] in seconds; each becomes an event
            "protocol:name", cut at the end of the recording.
        conditions: columns of the manifest that hold for the whole recording; the value awake
            of the column state becomes the event "state:awake".
    """

    channels: list[str] | None = None
    eog: list[str] | None = None
    types: dict[str, str] | None = None
    rename: dict[str, str] | None = None
    unit: str | dict[str, str] | None = None
    encoding: str | None = None
    reject_by_annotation: bool = True
    sfreq: float | None = None
    event_channels: list[str] | None = None
    protocol: list[list] | None = None
    conditions: list[str] | None = None


def read(unit, rows, options) -> list[Recording]:
    """The recordings of one unit, one a row of the manifest.

    Signals: "eeg" and, if asked for, "eog", float32, uV; NaN in gaps. All times are seconds from
    the first sample. `origin["recorded"]` says of each scan which channels were taken, which were
    left out and why, and what else the log says.

    Raises:
        InputError: a file cannot be read as it was recorded, belongs to another one, lacks a
            channel or holds one without a signal or of unknown unit, or sampling rates differ.
    """
    refuse_parts(rows)
    recordings, told = zip(*(_read(row, options) for row in rows), strict=True)
    refuse_rates(rows, [recording.signals["eeg"].sfreq for recording in recordings])
    origin = {
        "prepared": preparation.settings(options) or "as recorded",
        "recorded": {r.scan: facts for r, facts in zip(recordings, told, strict=True)},
    }
    return [dataclasses.replace(recording, origin=origin) for recording in recordings]


def outline(unit, rows, options) -> list[Recording]:
    """The recordings as their headers say, without events that need samples.

    Values of the signals are NaN and take no memory.
    """
    return [_outline(row, options) for row in rows]


def _outline(row, options):
    file = _opened(row, options)
    chosen, bad, left_out = file.eeg(options.channels)
    chosen, by_hand = _without_bads(row, file, chosen, options.bads or [])
    samples = file.outline(chosen)
    names, bad = (tuple(one.name for one in these) for these in (chosen, [*bad, *by_hand]))
    left_out = left_out | {one.key: "bad by hand" for one in by_hand}
    rate = options.sfreq or samples.sfreq
    length = round(samples.data.shape[1] * rate / samples.sfreq)
    data = np.broadcast_to(np.float32(np.nan), (len(names), length))
    columns, events = ["onset", "duration", "description"], samples.timeline.events
    events = [*events, *_of_bids(row["path"], events, samples.sfreq)]
    facts = {"eeg": [one.label for one in chosen], "left_out": left_out, "said": file.said}
    return Recording(
        subject=row["subject"],
        scan=row["scan"],
        duration=samples.data.shape[1] / samples.sfreq,
        signals={"eeg": Signal(data, rate, names, "uV", bad=bad)},
        events=pd.DataFrame(events, columns=columns),
        bad=pd.DataFrame(samples.timeline.bad, columns=columns),
        origin={"recorded": {row["scan"]: facts}},
    )


def refuse_rates(rows, rates):
    """Refuse scans of a unit whose samples per second differ."""
    for row, rate in zip(rows, rates, strict=True):
        if rate != rates[0]:
            raise InputError(
                f"{row['path']}: {rate:g} samples per second, but {rows[0]['path']} has "
                f"{rates[0]:g}; set `sfreq` of the dataset to resample them"
            )


def refuse_parts(rows):
    """Refuse a file that is read with another: the same seconds would stand there twice."""
    named = {Path(row["path"]).resolve() for row in rows}
    for row in rows:
        for part in companions.companions(row["path"]):
            if part.resolve() in named:
                raise InputError(
                    f"{part}: belongs to {row['path']} and is read with it; take its line off the "
                    "manifest"
                )


def _opened(row, options):
    path = row["path"]
    companions.refuse_elsewhere(path)
    table = companions.channels_table(path)
    return EegFile(
        path,
        encoding=options.encoding,
        types=options.types,
        rename=options.rename,
        stated=options.unit,
        bids=bids_channels.read(table) if table else None,
        markers=companions.markers(path),
    )


def _read(row, options):
    """One recording, and what its header says of how it was read."""
    path, file = row["path"], _opened(row, options)
    chosen, bad, left_out = file.eeg(options.channels)
    chosen, by_hand = _without_bads(row, file, chosen, options.bads or [])
    samples = file.microvolts(chosen)
    names = [one.name for one in samples.channels]
    prepared = preparation.prepare(
        path, samples.data, samples.sfreq, names, [one.name for one in [*bad, *by_hand]], options
    )
    signals = {
        "eeg": _signal(path, prepared.data, samples.sfreq, prepared.channels, options, prepared.bad)
    }
    if options.eog:
        eog = file.microvolts(file.named(options.eog))
        names = [one.name for one in eog.channels]
        signals["eog"] = _signal(path, eog.data, eog.sfreq, names, options)
    duration, timeline = min(signal.stop for signal in signals.values()), samples.timeline
    events = [
        *timeline.events,
        *(e for name in options.event_channels or [] for e in _coded(file, name)),
        *_protocol(path, options.protocol or [], duration, timeline),
        *_conditions(row, options.conditions or [], duration),
    ]
    labels, labelled = label_tables.read(row["labels_path"]) if row.get("labels") else (None, [])
    events += [*labelled, *_of_bids(path, events, samples.sfreq)]
    stretches = timeline.bad if options.reject_by_annotation else timeline.without_data
    recording = Recording(
        subject=row["subject"],
        scan=row["scan"],
        duration=duration,
        signals=signals,
        events=pd.DataFrame(events, columns=["onset", "duration", "description"]),
        bad=pd.DataFrame(stretches, columns=["onset", "duration", "description"]),
        labels=labels,
    )
    facts = {
        "eeg": [one.label for one in samples.channels],
        "left_out": left_out | {one.key: "bad by hand" for one in by_hand},
        "said": file.said,
        **prepared.facts,
    }
    _say(path, facts)
    return recording, facts


def _say(path, facts):
    left = ", ".join(f"{name} ({why})" for name, why in facts["left_out"].items()) or "none"
    print(f"{path}: EEG: {', '.join(facts['eeg'])}; left out: {left}", file=sys.stderr)
    for what in ("deviating", "interpolated"):
        if facts.get(what):
            print(f"{path}: {what}: {', '.join(facts[what])}", file=sys.stderr)
    for line in [*facts["said"], *([facts["too_short"]] if "too_short" in facts else [])]:
        print(f"{path}: {line}", file=sys.stderr)


def _without_bads(row, file, chosen, everywhere):
    """Channels but for those that are bad by hand, and these."""
    found = []
    for name in [*everywhere, *(own := preparation.named(row.get("bads")))]:
        these = channels.matching(chosen, name)
        if not these and name in own and not channels.matching(file.channels, name):
            there = ", ".join(one.label for one in chosen)
            raise InputError(
                f"{row['path']}: the manifest calls {name} bad, but there is {there}; correct the "
                "column `bads`"
            )
        found += [one.key for one in these]
    kept, bad = ([c for c in chosen if (c.key in found) == is_bad] for is_bad in (False, True))
    if not kept:
        raise InputError(f"{row['path']}: every EEG channel is bad by hand; correct `bads`")
    return kept, bad


def _signal(path, data, rate, names, options, bad=()):
    sfreq = options.sfreq
    if sfreq and sfreq > rate:
        raise InputError(
            f"{path}: {rate:g} samples per second, fewer than `sfreq` of the dataset, {sfreq:g}; "
            f"nothing is recorded above {rate / 2:g} Hz: set `sfreq` to {rate:g} or less"
        )
    if sfreq and sfreq != rate:
        data, rate = resampled(data, rate, sfreq), float(sfreq)
    signal = Signal(data.astype(np.float32), rate, tuple(names), "uV", bad=tuple(bad))
    quality.check_channels(signal, path)
    quality.check_spread(signal, path)
    return signal


# ---- events -------------------------------------------------------------------------


def _of_bids(path, events, sfreq):
    """Events of the table that BIDS puts beside a recording, those that the file has apart."""
    table = companions.events_table(path)
    listed = bids_events.read(table) if table else []
    known = {(round(onset * sfreq), text) for onset, _, text in events}
    for onset, duration, text in listed:
        at = round(onset * sfreq)
        if not any((at + near, text) in known for near in (-1, 0, 1)):
            yield onset, duration, text


def _coded(file, name):
    """Stretches of equal values of an event channel; 16-bit files hold codes inexactly."""
    samples = file.numbers(*file.named([name])[:1])
    values, at = samples.data[0], 0
    whole = np.nanmax(np.abs(values - values.round())) < INEXACT
    for value, stretch in groupby(values.round(0 if whole else 2) + 0.0):  # no -0
        length = len(list(stretch))
        if np.isfinite(value):
            yield at / samples.sfreq, length / samples.sfreq, f"{name}:{value:g}"
        at += length


def _protocol(path, blocks, duration, timeline):
    if blocks and timeline.seams:
        raise InputError(
            f"{path}: samples were cut out after {timeline.seams[0]:g} s, so that the seconds of "
            "`protocol` fit no longer; take `protocol` off, or export the file without cuts"
        )
    for start, stop, name in blocks:
        if start < duration:
            yield start, min(stop, duration) - start, f"protocol:{name}"


def _conditions(row, columns, duration):
    for column in columns:
        if not row.get(column):
            raise InputError(
                f"{row['file']}: the manifest has no value in the column {column!r}; "
                "fill it in, or take it out of `conditions`"
            )
        yield 0.0, duration, f"{column}:{row[column]}"
