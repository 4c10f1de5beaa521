"""VIGALL-like labels: alert or drowsy from the stages of the EEG, one a window.

A label made from EEG is circular as the target of features of the same EEG: what is scored
is then how well the rule is recovered.  The header's `derived_from` says so.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from engram.errors import InputError
from engram.recording import Signal
from engram.signals import vigall
from engram.store import Rows

DEVICE = "cpu"

CLASSES = ["drowsy", "alert"]


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        signal: the EEG signal, in uV.
        eog: the signal that holds the horizontal EOG, in uV; null if there is none, and then
            stage 0 counts as B1, as published.
        heog: its channel, or two channels whose difference is taken.
        reduced: one or two channels of `signal` to stage by the reduced form (A, B, 0), which
            needs neither lobes nor EOG; null for all lobes.
        c: absolute alpha threshold over the occipital alpha power of the best 10 s. Results
            depend on it: compare 0.1, 0.2 and 0.4.
        theta: a window is alert if at least this share of its valid seconds is.
        min_valid: share of a window that must be valid; others are excluded.
        ambiguous: [low, high]: windows whose share lies strictly between are excluded.
        marks: descriptions of events that mark sleep onset, K-complexes or spindles; without
            any, stage C never occurs.
        bad: descriptions of events that mark stretches which must not be classified; one without
            duration marks its second.
        amplitude: largest range of a channel within a second, uV.
        flat: smallest range of a channel within a second, uV.
        jump: largest step between neighbouring samples, uV.
    """

    signal: str = "eeg"
    eog: str | None = "eog"
    heog: list[str] = field(default_factory=lambda: ["HEOG"])
    reduced: list[str] | None = None
    c: float = 0.2
    theta: float = 0.5
    min_valid: float = 0.5
    ambiguous: list[float] | None = None
    marks: list[str] | None = None
    bad: list[str] | None = None
    amplitude: float = 300.0
    flat: float = 0.5
    jump: float = 100.0


def render(recording, windows, options) -> Rows:
    """Labels of the windows of one recording.

    Returns:
        Rows: int8 (n,), index into the header's classes, -1 where excluded. Columns beside
        those of `Windows.table`: score (share of alert seconds), arousal (mean arousal score,
        7 awake to 1 asleep), iaf (individual alpha frequency, Hz; NaN if no alpha was found).

    Raises:
        InputError: a signal or a channel is missing, or an option is out of range.
    """
    _check(options)
    try:
        stages = _stages(recording, options)
    except InputError as error:
        raise InputError(f"{recording.name}: {error}") from None
    table = windows.table(recording, _support(options))
    labels, table["score"], table["arousal"], table["exclude"] = vigall.window_labels(
        stages,
        table["onset"].to_numpy(),
        windows.length,
        options.theta,
        options.min_valid,
        options.ambiguous,
    )
    table["iaf"] = stages.attrs["iaf"]
    if np.isnan(stages.attrs["iaf"]):
        table.loc[table["exclude"] != "", "exclude"] = "no alpha rhythm found"
    header = {
        "what": "labels",
        "classes": CLASSES,
        "method": "VIGALL-like stages, reduced form" if options.reduced else "VIGALL-like stages",
        "derived_from": "eeg",
        "settings": dataclasses.asdict(options),
        **recording.origin,
    }
    return Rows(labels, table, header)


def _check(options):
    for key in ("theta", "min_valid"):
        if not 0 <= getattr(options, key) <= 1:
            raise InputError(f"{key}: {getattr(options, key)} is not a share from 0 to 1")
    band = [0, 1] if options.ambiguous is None else options.ambiguous
    if len(band) != 2 or not 0 <= band[0] < band[1] <= 1:
        raise InputError(f"ambiguous: {band} is not [low, high] within 0 to 1")


def _support(options):
    """Seconds around a window that its label depends on: slow eye movements reach that far."""
    reach = 0.0 if options.reduced or options.eog is None else vigall.SLOW_EYE_TIME
    return 2 * reach, reach


def _stages(recording, options):
    eeg = _signal(recording, "signal", options.signal)
    if options.reduced:
        eeg, eog = _picked(eeg, "reduced", options.reduced), None
    elif options.eog is None:
        eog = None
    else:
        eog = _picked(_signal(recording, "eog", options.eog), "heog", options.heog)
    return vigall.stage(
        eeg,
        eog,
        c=options.c,
        reduced=bool(options.reduced),
        marks=[start for start, _ in _intervals(recording.events, options.marks)],
        bad=_bad(recording, options.bad),
        amplitude=options.amplitude,
        flat=options.flat,
        jump=options.jump,
    )


def _signal(recording, key, name):
    if name not in recording.signals:
        raise InputError(
            f"no signal {name!r} (there is {', '.join(recording.signals) or 'none'}); "
            f"correct `{key}` of the view, or list a file that has it"
        )
    return recording.signals[name]


def _picked(signal, key, names):
    missing = [name for name in names if name not in signal.channels]
    if missing:
        raise InputError(
            f"no channel {', '.join(missing)} (there is {', '.join(signal.channels)}); "
            f"correct `{key}` of the view"
        )
    rows = [signal.channels.index(name) for name in names]
    return Signal(signal.data[rows], signal.sfreq, tuple(names), signal.unit, signal.start)


def _bad(recording, descriptions):
    """(start, stop) in s of what the file marks as bad, and of events that do by the options."""
    marked = recording.bad[recording.bad["duration"] > 0]
    stretches = zip(marked["onset"], marked["onset"] + marked["duration"], strict=True)
    return [*_intervals(recording.events, descriptions), *stretches]


def _intervals(events, descriptions):
    """(start, stop) in s of the events with one of these descriptions."""
    wanted = events[events["description"].isin(descriptions or [])]
    return list(zip(wanted["onset"], wanted["onset"] + wanted["duration"], strict=True))
