"""EEG recordings in any format that MNE reads (EDF, BrainVision, FIF, EEGLAB, ...).

A CSV manifest lists them: subject, scan, file, and whatever else is known of a recording.
Everything known about time becomes events: annotations of the file, values of event
channels, nominal protocol blocks, and conditions that hold for the whole recording.

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
from engram.readers import bids_channels, bids_events, label_tables
from engram.readers.eeg_files import EegFile, resampled
from engram.recording import Recording, Signal
from engram.signals import quality

DEVICE = "cpu"

INEXACT = 0.05  # how far codes of an event channel may lie from whole numbers, where they are such

#: Columns of the manifest that are read, beside those that `conditions` names.
COLUMNS = ("subject", "scan", "labels")
READS = ("file", "eeg")


@dataclass(frozen=True)
class Options:
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
    _refuse_parts(rows)
    recordings, told = zip(*(_read(row, options) for row in rows), strict=True)
    first = recordings[0].signals["eeg"].sfreq
    for row, recording in zip(rows, recordings, strict=True):
        if recording.signals["eeg"].sfreq != first:
            raise InputError(
                f"{row['path']}: {recording.signals['eeg'].sfreq:g} samples per second, but "
                f"{rows[0]['path']} has {first:g}; set `sfreq` of the dataset to resample them"
            )
    origin = {"recorded": {r.scan: facts for r, facts in zip(recordings, told, strict=True)}}
    return [dataclasses.replace(recording, origin=origin) for recording in recordings]


def _refuse_parts(rows):
    """Refuse a file that is read with another: the same seconds would stand there twice."""
    named = {Path(row["path"]).resolve() for row in rows}
    for row in rows:
        for part in companions.companions(row["path"]):
            if part.resolve() in named:
                raise InputError(
                    f"{part}: belongs to {row['path']} and is read with it; take its line off the "
                    "manifest"
                )


def _read(row, options):
    """One recording, and what its header says of how it was read."""
    path = row["path"]
    table = companions.channels_table(path)
    file = EegFile(
        path,
        encoding=options.encoding,
        types=options.types,
        rename=options.rename,
        stated=options.unit,
        bids=bids_channels.read(table) if table else None,
        markers=companions.markers(path),
    )
    chosen, bad, left_out = file.eeg(options.channels)
    samples = file.microvolts(chosen)
    signals = {"eeg": _signal(path, samples, options.sfreq, bad)}
    if options.eog:
        signals["eog"] = _signal(path, file.microvolts(file.named(options.eog)), options.sfreq)
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
        "left_out": left_out,
        "said": file.said,
    }
    _say(path, facts)
    return recording, facts


def _say(path, facts):
    left = ", ".join(f"{name} ({why})" for name, why in facts["left_out"].items()) or "none"
    print(f"{path}: EEG: {', '.join(facts['eeg'])}; left out: {left}", file=sys.stderr)
    for line in facts["said"]:
        print(f"{path}: {line}", file=sys.stderr)


def _signal(path, samples, sfreq, bad=()):
    data, rate = samples.data, samples.sfreq
    if sfreq and sfreq > rate:
        raise InputError(
            f"{path}: {rate:g} samples per second, fewer than `sfreq` of the dataset, {sfreq:g}; "
            f"nothing is recorded above {rate / 2:g} Hz: set `sfreq` to {rate:g} or less"
        )
    if sfreq and sfreq != rate:
        data, rate = resampled(data, rate, sfreq), float(sfreq)
    names, bad = (tuple(one.name for one in these) for these in (samples.channels, bad))
    signal = Signal(data.astype(np.float32), rate, names, "uV", bad=bad)
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
