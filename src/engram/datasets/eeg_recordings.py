"""EEG recordings in any format that MNE reads (EDF, BrainVision, FIF, EEGLAB, ...).

A CSV manifest lists them: subject, scan, file, and whatever else is known of a recording.
Everything known about time becomes events: annotations of the file, values of event
channels, nominal protocol blocks, and conditions that hold for the whole recording.

The column `labels` of the manifest may name a table of labels beside the recording, of its windows
or of events (`engram.readers.label_tables`).
"""

from dataclasses import dataclass
from itertools import groupby

import mne
import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.readers import label_tables
from engram.recording import Recording, Signal
from engram.signals.quality import check_channels

DEVICE = "cpu"

#: Columns of the manifest that are read, beside those that `conditions` names.
COLUMNS = ("subject", "scan", "labels")

MICROVOLTS = 1e6  # MNE reads volts


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        channels: EEG channels, by their names in the files; null takes all that the file
            marks as EEG.
        eog: channels that hold the EOG; null if there are none.
        sfreq: Hz that every recording is resampled to; null keeps that of the files, which
            then has to be the same in all.
        event_channels: channels whose values are codes that hold until they change; a value
            3 of the channel Stage becomes events "Stage:3".
        protocol: nominal blocks [start, stop, name] in seconds; each becomes an event
            "protocol:name", cut at the end of the recording.
        conditions: columns of the manifest that hold for the whole recording; the value awake
            of the column state becomes the event "state:awake".
    """

    channels: list[str] | None = None
    eog: list[str] | None = None
    sfreq: float | None = None
    event_channels: list[str] | None = None
    protocol: list[list] | None = None
    conditions: list[str] | None = None


def read(unit, rows, options) -> list[Recording]:
    """The recordings of one unit, one a row of the manifest.

    Signals: "eeg" and, if asked for, "eog", float32, uV.

    Raises:
        InputError: a file cannot be read, lacks a channel or holds one without a signal, or
            sampling rates differ.
    """
    recordings = [_read(row, options) for row in rows]
    first = recordings[0].signals["eeg"].sfreq
    for row, recording in zip(rows, recordings, strict=True):
        if recording.signals["eeg"].sfreq != first:
            raise InputError(
                f"{row['path']}: {recording.signals['eeg'].sfreq:g} samples per second, but "
                f"{rows[0]['path']} has {first:g}; set `sfreq` of the dataset to resample them"
            )
    return recordings


def _read(row, options):
    path = row["path"]
    raw = _open(path)
    channels = options.channels or _eeg_channels(raw, path)
    signals = {"eeg": _signal(path, raw.ch_names, channels, options.sfreq)}
    if options.eog:
        signals["eog"] = _signal(path, raw.ch_names, options.eog, options.sfreq)
    duration = min(signal.stop for signal in signals.values())
    events = [
        *_annotations(raw),
        *(e for name in options.event_channels or [] for e in _coded(path, raw.ch_names, name)),
        *_protocol(options.protocol or [], duration),
        *_conditions(row, options.conditions or [], duration),
    ]
    labels, labelled = label_tables.read(row["labels_path"]) if row.get("labels") else (None, [])
    events += labelled
    return Recording(
        subject=row["subject"],
        scan=row["scan"],
        duration=duration,
        signals=signals,
        events=pd.DataFrame(events, columns=["onset", "duration", "description"]),
        labels=labels,
    )


def _open(path, **options):
    try:
        return mne.io.read_raw(path, verbose="error", **options)
    except Exception as error:  # MNE's readers raise whatever a broken file makes them
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path}: not a recording that MNE can read ({reason[0]}); "
            "correct the file or take it off the manifest"
        ) from None


def _eeg_channels(raw, path):
    names = [raw.ch_names[i] for i in mne.pick_types(raw.info, eeg=True)]
    if not names:
        raise InputError(f"{path}: no channel is marked as EEG; name them in `channels`")
    return names


def _signal(path, present, names, sfreq):
    """Channels in uV. Others are left unread, as MNE would upsample all to the fastest."""
    raw = _selected(path, present, names)
    if sfreq and raw.info["sfreq"] != sfreq:
        raw.resample(sfreq, verbose="error")
    data = (raw.get_data() * MICROVOLTS).astype(np.float32)
    signal = Signal(data, float(raw.info["sfreq"]), tuple(raw.ch_names), "uV")
    check_channels(signal, path)
    return signal


def _selected(path, present, names):
    missing = [name for name in names if name not in present]
    if missing:
        raise InputError(f"{path}: no channel {', '.join(missing)}; there is {', '.join(present)}")
    if str(path).lower().endswith((".edf", ".bdf", ".gdf")):
        _refuse_mixed_rates(path, names)
        raw = _open(path, include=names)
    else:
        raw = _open(path)
    return raw.pick(names, verbose="error").load_data(verbose="error")


def _refuse_mixed_rates(path, names):
    """MNE would upsample the slower channels of an EDF or BDF file without a word."""
    if str(path).lower().endswith(".gdf"):
        return
    with open(path, "rb") as file:
        n = int(file.read(256)[252:])
        header = file.read(256 * n).decode("latin-1")
    labels = [header[16 * i : 16 * i + 16].strip() for i in range(n)]
    samples = [int(header[216 * n + 8 * i :][:8]) for i in range(n)]  # in one data record
    found = {label: count for label, count in zip(labels, samples, strict=True) if label in names}
    if len(set(found.values())) > 1:
        raise InputError(
            f"{path}: channels of different sampling rates ("
            + ", ".join(f"{label}: {count} samples a record" for label, count in found.items())
            + "); name those of one rate in `channels`"
        )


# ---- events -------------------------------------------------------------------------


def _annotations(raw):
    start = raw.annotations.onset - (raw.first_time if raw.annotations.orig_time else 0)
    duration = raw.annotations.duration  # of one sample: how markers without duration are saved
    duration = np.where(duration * raw.info["sfreq"] < 1.5, 0, duration)
    return zip(start, duration, raw.annotations.description, strict=True)


def _coded(path, present, name):
    """Stretches of equal values of an event channel; 16-bit files hold codes inexactly."""
    raw = _selected(path, present, [name])
    values, sfreq, at = raw.get_data()[0].round(2), raw.info["sfreq"], 0
    for value, stretch in groupby(values):
        length = len(list(stretch))
        yield at / sfreq, length / sfreq, f"{name}:{value:g}"
        at += length


def _protocol(blocks, duration):
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
