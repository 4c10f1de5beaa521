"""EEG and fMRI of one scan, recorded together: one line a scan, columns that name files.

A manifest lists the scans: subject, scan, `eeg` and `fmri`, and whatever else is known.  A line may
lack one of the two files; views of the one that is there can be made of it.  The EEG is read by
`eeg_recordings`, the fMRI by `roi_series` or `bold_images`, whose options stand under `eeg` and
`fmri`.

Two clocks become one.  Where the first frame of the fMRI lies in the EEG is stated, as an option or
in the column `offset`, or the EEG says it: `triggers` are events of which the scanner sends one a
volume, `first_volume` is the event at the first; it is placed at the nearest sample of the EEG.
The recording is the time that both have, and begins with the first of it.  Of the EEG nothing else
is kept, since without the scanner it is of another kind; frames of the fMRI outside of that time
are kept for what is computed from them.

What is marked bad in the EEG is not used of the EEG, nor for labels that are made from it; the fMRI
and other labels keep it.
"""

import dataclasses
import sys
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from engram.datasets import eeg_recordings
from engram.datasets import roi_series as tables
from engram.errors import InputError
from engram.planning import components
from engram.readers import label_tables
from engram.recording import Recording

DEVICE = "cpu"

#: Columns of the manifest that are read, beside those that `conditions` names.
COLUMNS = ("subject", "scan", "tr", "entry", "index", "offset")
READS = ("eeg", "fmri")
PARTS = ("entry", "index")

#: Options that hold those of other kinds, the default first.
OPTIONS_OF = {"eeg": ("eeg_recordings",), "fmri": ("roi_series", "bold_images")}

#: Options that say where the fMRI begins.
ALIGNED_BY = ("offset", "triggers", "first_volume")

UNEVEN = 0.1  # of a TR, by which triggers may follow each other too early or too late
UNLIKE = 0.005  # share by which the TR and the mean time between triggers may differ
DRIFT = 0.5  # of a TR, by which the last trigger may lie elsewhere than the TR says


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        eeg: options of kind `eeg_recordings`.
        fmri: `kind`, roi_series or bold_images, and its options.
        offset: s between the first sample of the EEG and the first frame of the fMRI, below 0 if
            the scanner began first; a column `offset` of the manifest says it of one scan.
        triggers: what events are called of which the scanner sends one a volume, e.g. R128,
            Response/R128 or, with `event_channels: [TRIG]` of the EEG, TRIG:1; they are counted
            and timed, and have to be those of the fMRI.
        first_volume: what the event is called that marks the first volume, e.g. Scan Start; the
            first if there are several.
        dropped: volumes that the scanner began with, with triggers, and that the fMRI lacks.
        conditions: columns of the manifest that hold for the whole scan; the value F of the
            column sex becomes the event "sex:F".
    """

    eeg: dict = field(default_factory=dict)
    fmri: dict = field(default_factory=dict)
    offset: float | None = None
    triggers: str | None = None
    first_volume: str | None = None
    dropped: int = 0
    conditions: list[str] | None = None


def read(unit, rows, options) -> list[Recording]:
    """The scans of one unit, one a row of the manifest.

    Signals: "eeg" and, if asked for, "eog", float32, uV; "fmri", float32 (roi, time); those whose
    file a line names.  Seconds count from the first moment that both have; in a table of labels
    from the first sample of the EEG or, without one, the first frame.  `origin["recorded"]` says of
    each scan how the EEG was read and where the fMRI begins in it.

    Raises:
        InputError: a part cannot be read; nothing says where the fMRI begins; triggers are missing,
            too many, uneven or of another TR; samples were cut out; or the two share no time.
    """
    _check(options)
    eeg = _part(unit, rows, "eeg", eeg_recordings, eeg_recordings.Options(**options.eeg))
    module, chosen = components.options("datasets", {"kind": "roi_series", **options.fmri})
    fmri = _part(unit, rows, "fmri", module, chosen)
    recordings, told = [], {}
    for row in rows:
        name = row["subject"], row["scan"]
        parts = [part[name] for part in (eeg, fmri) if name in part]
        made, begin, told[row["scan"]] = (_together if len(parts) > 1 else _alone)(
            row, *parts, options
        )
        recordings.append(_labelled(made, row, options, begin))
    return [dataclasses.replace(one, origin={**one.origin, "recorded": told}) for one in recordings]


def _check(options):
    said = [key for key in ALIGNED_BY if getattr(options, key) is not None]
    if len(said) > 1:
        raise InputError(
            f"dataset: `{'` and `'.join(said)}` both say where the fMRI begins; keep one of them"
        )
    if options.dropped < 0:
        raise InputError(f"dropped: {options.dropped} volumes; it is 0 or more")
    for part in ("eeg", "fmri"):
        if "conditions" in getattr(options, part):
            raise InputError(
                f"{part}: `conditions` belong to the scan; state them beside `{part}`, not in it"
            )


def _part(unit, rows, column, module, options):
    """Recordings of one modality by (subject, scan)."""
    named = [
        {key: row[key] for key in row if key not in ("labels", "labels_path")}
        | {"file": row[column], "path": row[f"{column}_path"]}
        for row in rows
        if row.get(column)
    ]
    found = module.read(unit, named, options) if named else []
    return {(one.subject, one.scan): one for one in found}


def _alone(row, recording, options):
    """(the recording of a line that names one file, 0 s of it before, what is known of it)."""
    there, missing = ("eeg", "fmri") if "eeg" in recording.signals else ("fmri", "eeg")
    print(f"{row[there]}: the manifest names no {missing} of this scan", file=sys.stderr)
    told = recording.origin.get("recorded", {}).get(recording.scan, {})
    return dataclasses.replace(recording, bad=_of_eeg(recording.bad)), 0.0, told


def _of_eeg(bad):
    return bad.assign(but_for="fmri") if len(bad) else bad


def _together(row, eeg, fmri, options):
    """(one recording of both, s of the EEG before it begins, how the two were brought together)."""
    series = fmri.signals["fmri"]
    offset, by = _offset(row, eeg, series, options)
    if by != options.triggers:  # which were timed across every cut
        _refuse_cuts(row, eeg, offset)
    sfreq = eeg.signals["eeg"].sfreq
    offset = round(offset * sfreq) / sfreq  # or windows would miss samples and frames by a hair
    begin = max(0.0, offset)
    end = min(eeg.duration, offset + series.stop)
    if end - begin <= 0:
        raise InputError(
            f"{row['eeg']}: lasts {eeg.duration:g} s, and {row['fmri']} lies from {offset:g} to "
            f"{offset + series.stop:g} s of it: they share no time; correct where the fMRI begins, "
            "or the files of the line"
        )
    signals = {name: _cropped(signal, begin, end) for name, signal in eeg.signals.items()}
    signals["fmri"] = dataclasses.replace(series, start=offset - begin)
    told = {
        **eeg.origin["recorded"][eeg.scan],
        "fmri_begins_s": round(offset, 6),
        "by": by,
        "eeg_s": round(eeg.duration, 3),
        "fmri_s": round(series.stop, 3),
        "both_s": round(end - begin, 3),
    }
    print(
        f"{row['eeg']}: {row['fmri']} begins {offset:.3f} s after its first sample, by {by}; of "
        f"{eeg.duration:g} s of EEG and {series.stop:g} s of fMRI {end - begin:g} s are shared",
        file=sys.stderr,
    )
    made = Recording(
        subject=eeg.subject,
        scan=eeg.scan,
        duration=end - begin,
        signals=signals,
        events=_within(eeg.events, begin, end),
        bad=_of_eeg(_within(eeg.bad, begin, end)),
        origin=fmri.origin,
    )
    return made, begin, told


def _cropped(signal, begin, end):
    """The samples that begin within [begin, end), the first of these seconds being 0."""
    first = max(0, int(np.ceil((begin - signal.start) * signal.sfreq - 1e-6)))
    last = int(np.floor((end - signal.start) * signal.sfreq + 1e-6))
    start = signal.start + first / signal.sfreq - begin
    return dataclasses.replace(signal, data=signal.data[:, first:last], start=start)


def _within(events, begin, end):
    """Events or stretches of [begin, end], on a clock that starts with it."""
    onset = events["onset"].to_numpy(float)
    stop = onset + events["duration"].to_numpy(float)
    keep = (onset <= end) & ((stop > begin) | (onset >= begin))
    cut = events[keep].assign(
        onset=np.maximum(onset[keep], begin) - begin,
        duration=np.minimum(stop[keep], end) - np.maximum(onset[keep], begin),
    )
    return cut.reset_index(drop=True)


# ---- where the fMRI begins ------------------------------------------------------------


def _offset(row, eeg, series, options):
    """(seconds between the first sample of the EEG and the first frame, by what)."""
    if row.get("offset"):
        try:
            return float(row["offset"]), "the manifest"
        except ValueError:
            raise InputError(
                f"{row['eeg']}: offset {row['offset']!r} in the manifest is no number of seconds"
            ) from None
    if options.offset is not None:
        return options.offset, "`offset`"
    if options.triggers:
        return _first_trigger(row, eeg, series, options), f"{options.triggers}"
    if options.first_volume:
        onsets = _onsets(row, eeg, options.first_volume, "first_volume")
        return float(onsets[0]) + options.dropped / series.sfreq, options.first_volume
    raise InputError(
        f"{row['eeg']}: nothing says where {row['fmri']} begins in it; state `offset` (s) of the "
        "dataset or in a column of the manifest, or name the `triggers` of the scanner or its "
        "`first_volume`"
    )


def _refuse_cuts(row, eeg, offset):
    """Behind a place where samples were cut out the clock of the EEG is another."""
    cuts = eeg.bad["onset"][(eeg.bad["description"] == "cut") & (eeg.bad["onset"] > offset)]
    if len(cuts):
        raise InputError(
            f"{row['eeg']}: samples were cut out after {cuts.min():g} s, so that its seconds fit "
            "those of the fMRI no longer; export it without cuts, or name the `triggers`"
        )


def _onsets(row, eeg, name, option):
    """Seconds of the events of a name, whole or behind the kind that BrainVision puts before it."""
    names = eeg.events["description"]
    found = eeg.events[(names == name) | names.str.rsplit("/", n=1).str[-1].str.strip().eq(name)]
    if found.empty:
        known = ", ".join(dict.fromkeys(names)) or "none"
        raise InputError(
            f"{row['eeg']}: no event {name!r}, which `{option}` names; there is {known[:300]}; "
            "correct it, or state `offset`"
        )
    return np.sort(found["onset"].to_numpy(float))


def _first_trigger(row, eeg, series, options):
    """Onset of the first frame by triggers, one a volume, counted and timed."""
    onsets = _onsets(row, eeg, options.triggers, "triggers")
    tr, wanted = 1 / series.sfreq, series.data.shape[1] + options.dropped
    where = f"{row['eeg']}: {options.triggers!r}"
    if len(onsets) > 1:
        steps = np.diff(onsets)
        mean = (onsets[-1] - onsets[0]) / (len(onsets) - 1)
        step = float(np.median(steps))
        if abs(step - tr) > UNLIKE * tr + 1 / eeg.signals["eeg"].sfreq:
            raise InputError(
                f"{where} comes each {step:.4g} s, but {row['fmri']} has a TR of {tr:g} s; correct "
                "`tr`, or name the event that comes once a volume"
            )
        odd = np.flatnonzero(np.abs(steps - tr) > UNEVEN * tr)
        if len(odd):
            i = int(odd[0])
            raise InputError(
                f"{where} number {i + 2} comes {steps[i]:.4g} s after number {i + 1}, at "
                f"{onsets[i]:.3f} s, with a TR of {tr:g} s: one is missing, or one too many; state "
                "`offset` of this scan"
            )
        if abs(mean - tr) * (len(onsets) - 1) > DRIFT * tr:
            raise InputError(
                f"{where} drifts by {(mean - tr) * (len(onsets) - 1):.3g} s against a TR of {tr:g} "
                "s; correct `tr`"
            )
    if len(onsets) != wanted:
        also = f" and {options.dropped} `dropped`" if options.dropped else ""
        raise InputError(
            f"{where} comes {len(onsets)} times, but {row['fmri']} has {series.data.shape[1]} "
            f"frames{also}; state `dropped` if it lacks volumes at its start, `first_volume: "
            f"{options.triggers}` if only its end or that of the EEG is missing, or `offset`"
        )
    return float(onsets[options.dropped])


# ---- what else is known of a scan -----------------------------------------------------


def _labelled(recording, row, options, begin):
    """With the labels of a table beside the scan and the conditions of the manifest."""
    events, labels = [recording.events], None
    if row.get("labels"):
        labels, listed = label_tables.read(row["labels_path"])
        table = pd.DataFrame(listed, columns=["onset", "duration", "description"])
        events.append(_within(table, begin, begin + recording.duration))
    held = tables.conditions({**row, "file": row.get("eeg") or row["fmri"]}, options)
    events.append(
        pd.DataFrame(
            [(0.0, recording.duration, f"{key}:{value}") for key, value in held.items()],
            columns=["onset", "duration", "description"],
        )
    )
    events = pd.concat([one for one in events if len(one)] or events[:1], ignore_index=True)
    return dataclasses.replace(recording, events=events, labels=labels)
