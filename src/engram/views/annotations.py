"""Labels from events: annotations of a file, device stages, protocol blocks, conditions."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from engram.errors import InputError
from engram.store import Rows

DEVICE = "cpu"


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        classes: names of the classes 0, 1, ...
        events: descriptions of the events that mean a class, by class; without an entry a class
            is meant by events of its own name.
        theta: with two classes, a window is of the second if its share of the labelled seconds
            is at least this; with more, of the class with the largest share.
        min_valid: share of a window that must be labelled; others are excluded.
        ambiguous: [low, high]: windows whose share of the second class lies strictly between
            are excluded; only with two classes.
    """

    classes: list[str]
    events: dict[str, list[str]] | None = None
    theta: float = 0.5
    min_valid: float = 0.5
    ambiguous: list[float] | None = None


def render(recording, windows, options) -> Rows:
    """Labels of the windows of one recording.

    Returns:
        Rows: int8 (n,), index into the header's classes, -1 where excluded. The column
        `score` is the share of the last class in the labelled seconds, NaN without any.

    Raises:
        InputError: an option is out of range, or no event of the recording means any class.
    """
    _check(options)
    table, events = windows.table(recording), options.events or {}
    seconds = np.stack(
        [_covered(recording, table, events.get(name, [name])) for name in options.classes]
    )
    labelled = seconds.sum(0)
    if not labelled.any():
        there = ", ".join(sorted(set(recording.events["description"]))) or "none"
        raise InputError(
            f"{recording.name}: no event means any of the classes {', '.join(options.classes)}; "
            f"there is {there}; correct `events` of the view"
        )
    score = np.divide(seconds[-1], labelled, np.full(len(table), np.nan), where=labelled > 0)
    labels = score >= options.theta if len(seconds) == 2 else seconds.argmax(0)
    exclude = np.where(labelled < options.min_valid * windows.length - 1e-9, "unlabelled", "")
    if options.ambiguous:
        low, high = options.ambiguous
        exclude[(exclude == "") & (score > low) & (score < high)] = "ambiguous"
    table["exclude"], table["score"] = exclude, score
    header = {
        "what": "labels",
        "classes": options.classes,
        "settings": dataclasses.asdict(options),
        **recording.origin,
    }
    return Rows(np.where(exclude == "", labels, -1).astype(np.int8), table, header)


def _check(options):
    if len(options.classes) < 2:
        raise InputError("classes: needs at least two")
    strangers = set(options.events or {}) - set(options.classes)
    if strangers:
        raise InputError(f"events: {sorted(strangers)[0]!r} is none of the classes")
    if options.ambiguous and len(options.classes) != 2:
        raise InputError("ambiguous: needs exactly two classes")


def _covered(recording, table, descriptions):
    """Seconds of each window that lie in an event with one of the descriptions."""
    events = recording.events[recording.events["description"].isin(descriptions)]
    start, stop = table["onset"].to_numpy(), (table["onset"] + table["duration"]).to_numpy()
    return sum(
        (_overlap(start, stop, a, b) for a, b in _merged(events["onset"], events["duration"])),
        np.zeros(len(table)),
    )


def _overlap(start, stop, a, b):
    return np.clip(np.minimum(stop, b) - np.maximum(start, a), 0, None)


def _merged(onsets, durations):
    """The intervals as (start, stop) without overlaps, so that no second counts twice."""
    merged = []
    for start, stop in sorted(zip(onsets, onsets + durations, strict=True)):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    return merged
