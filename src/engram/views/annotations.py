"""Labels from events: annotations of a file, device stages, protocol blocks, conditions."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engram.errors import InputError
from engram.store import Rows

DEVICE = "cpu"

#: Seconds that onsets and ends of events may be off by rounding: a sample, within these bounds.
ROUNDING = (0.001, 0.02)
SAME = 1e-6  # seconds between events that begin at once


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        classes: names of the classes 0, 1, ...
        events: descriptions of the events that mean a class, by class; without an entry a class
            is meant by events of its own name.
        duration: of events without one: seconds; or "until_next", until the next event that
            means a class or stands in `ends`, the last until the end of the recording. Null
            refuses such events, if they mean a class.
        ends: descriptions of further events that end one under `duration: until_next`.
        theta: with two classes, a window is of the second if its share of the labelled seconds
            is at least this; with more, of the class with the largest share.
        min_valid: share of a window that must be labelled; others are excluded. Seconds that
            two classes claim are not. A gap or an overlap of a sample (1 to 20 ms) is rounding:
            it belongs to the event before.
        ambiguous: [low, high]: windows whose share of the second class lies strictly between
            are excluded; only with two classes.
    """

    classes: list[str]
    events: dict[str, list[str]] | None = None
    duration: float | Literal["until_next"] | None = None
    ends: list[str] | None = None
    theta: float = 0.5
    min_valid: float = 0.5
    ambiguous: list[float] | None = None


def render(recording, windows, options) -> Rows:
    """Labels of the windows of one recording.

    Returns:
        Rows: int8 (n,), index into the header's classes, -1 where excluded. The column
        `score` is the share of the last class in the labelled seconds, NaN without any.

    Raises:
        InputError: an option is out of range, no event of the recording means any class, most
            that do begin after its end, or events have no duration and `duration` is null.
    """
    _check(options)
    table, rounding = windows.table(recording), _rounding(recording)
    intervals = _intervals(recording, options)
    seconds = _seconds(intervals, table, recording.duration, rounding, len(options.classes))
    labelled = seconds.sum(0)
    if not labelled.any():
        raise InputError(
            f"{recording.name}: no second of a window has one class alone; events of "
            f"{', '.join(options.classes)} lie elsewhere or on each other"
        )
    score = np.divide(seconds[-1], labelled, np.full(len(table), np.nan), where=labelled > 0)
    if len(seconds) == 2:
        labels = seconds[1] >= options.theta * labelled - rounding
    else:
        labels = (seconds >= seconds.max(0) - rounding).argmax(0)
    enough = (labelled > rounding) & (labelled >= options.min_valid * windows.length - rounding)
    exclude = np.where(enough, "", "unlabelled")
    if options.ambiguous:
        low, high = (share * labelled for share in options.ambiguous)
        between = (seconds[1] > low + rounding) & (seconds[1] < high - rounding)
        exclude[enough & between] = "ambiguous"
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
    listed = [one for name in options.classes for one in _meaning(name, options)]
    twice = [one for one in listed if listed.count(one) > 1]
    if twice or len(set(options.classes)) < len(options.classes):
        raise InputError(f"classes, events: {(twice or options.classes)[0]!r} stands there twice")
    if options.ambiguous and len(options.classes) != 2:
        raise InputError("ambiguous: needs exactly two classes")
    if isinstance(options.duration, int | float) and not 0 < options.duration < np.inf:
        raise InputError(f"duration: {options.duration} is no length in seconds")
    if options.ends and options.duration != "until_next":
        raise InputError("ends: has a meaning under `duration: until_next` alone")


def _meaning(name, options):
    """Descriptions of the events that mean a class."""
    return (options.events or {}).get(name, [name])


def _rounding(recording):
    rates = [signal.sfreq for signal in recording.signals.values()]
    return float(np.clip(1 / max(rates, default=np.inf), *ROUNDING))


def _intervals(recording, options):
    """(onset, end, class) of the events that mean a class, the class as its index."""
    meant = {
        description: number
        for number, name in enumerate(options.classes)
        for description in _meaning(name, options)
    }
    events = recording.events
    _refuse_alike(recording, meant)
    wanted = events[events["description"].isin([*meant, *(options.ends or [])])]
    onset, duration = wanted["onset"].to_numpy(float), wanted["duration"].to_numpy(float)
    number = wanted["description"].map(meant).fillna(-1).to_numpy(int)
    _refuse_elsewhere(recording, options, onset[number >= 0])
    end = onset + duration
    point = ~(duration > 0) & (number >= 0)
    if options.duration == "until_next":
        _refuse_at_once(recording, onset[point], number[point])
        later = np.append(np.sort(onset), recording.duration)
        end[point] = later[np.searchsorted(later[:-1], onset[point] + SAME, side="right")]
    elif options.duration is not None:
        end[point] = onset[point] + options.duration
    elif point.any():
        raise InputError(
            f"{recording.name}: {point.sum()} of {(number >= 0).sum()} events have no duration, "
            f"first {wanted['description'].iloc[point.argmax()]!r} at {onset[point][0]:g} s; set "
            "`duration` of the view to `until_next`, if each lasts until the next, or to seconds"
        )
    return [(a, b, c) for a, b, c in zip(onset, end, number, strict=True) if c >= 0]


def _refuse_alike(recording, meant):
    """A class that no event means, but for case, blanks or 1.0 in place of 1, was meant by it."""
    there = set(recording.events["description"])
    absent = {_plain(one): one for one in meant if one not in there}
    for other in sorted(there - set(meant)):
        if _plain(other) in absent:
            raise InputError(
                f"{recording.name}: no event {absent[_plain(other)]!r}, but {other!r}; write "
                "both alike, or name it in `events` of the view"
            )


def _plain(description):
    return re.sub(r"\.0+$", "", " ".join(description.split()).casefold())


def _refuse_elsewhere(recording, options, onsets):
    if not len(onsets):
        there = ", ".join(sorted(set(recording.events["description"]))) or "none"
        raise InputError(
            f"{recording.name}: no event means any of the classes {', '.join(options.classes)}; "
            f"there is {there}; correct `events` of the view"
        )
    outside = onsets[onsets >= recording.duration]
    if 2 * len(outside) > len(onsets):
        raise InputError(
            f"{recording.name}: {len(outside)} of {len(onsets)} events begin after its end, first "
            f"at {outside.min():g} s of {recording.duration:g} s; their times have to be seconds "
            "from its start"
        )


def _refuse_at_once(recording, onsets, numbers):
    """Until the next event, one of two classes that begin at once lasts no time, or both do."""
    order = np.argsort(onsets, kind="stable")
    onsets, numbers = onsets[order], numbers[order]
    same = (np.diff(onsets) <= SAME) & (np.diff(numbers) != 0)
    if same.any():
        raise InputError(
            f"{recording.name}: events of two classes without duration begin at "
            f"{onsets[:-1][same][0]:g} s; take one away, or give them durations"
        )


def _seconds(intervals, table, duration, rounding, classes):
    """Seconds of each window that belong to one class alone, (classes, windows)."""
    begin, end = np.clip([(a, max(a, b)) for a, b, _ in intervals], 0, duration).T
    number = [c for *_, c in intervals]
    edges = np.unique([0, duration, *begin, *end])
    change = np.zeros((classes, len(edges)), int)
    np.add.at(change, (number, np.searchsorted(edges, begin)), 1)
    np.add.at(change, (number, np.searchsorted(edges, end)), -1)
    inside, length = change.cumsum(1)[:, :-1] > 0, np.diff(edges)
    for i in np.flatnonzero((inside.sum(0) != 1) & (length <= rounding + SAME)):
        inside[:, i] = inside[:, i - 1 if i else 1]
    alone = inside & (inside.sum(0) == 1)
    until = np.insert((alone * length).cumsum(1), 0, 0, axis=1)
    start, stop = table["onset"], table["onset"] + table["duration"]
    return np.stack([np.interp(stop, edges, one) - np.interp(start, edges, one) for one in until])
