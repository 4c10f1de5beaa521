"""Views: what turns recordings into named rows.

A component has `render(recording, windows, options) -> Rows`; the table comes from
`windows.table`, so that rows of the same window have the same name in every view.  A view of
something else than a Recording says so, `OF = Trials` or `OF = Stimuli`; rows then take the names
of its table, and `windows` is None.  `check(recordings, options)`, if there is one, refuses what
contradicts itself between those of a unit.

What a backbone may see says in its header `what` one row is, and how many of the last axes of the
array are its own, `axes`: 2 of a spectrogram (frequency, time), 3 of a picture, 1 of a text. Axes
between the first and these, such as regions, hold rows of their own.
"""

import dataclasses
import hashlib

import numpy as np

from engram import store
from engram.errors import InputError
from engram.planning import components, facts
from engram.progress import progress
from engram.recording import Recording, Windows
from engram.signals import quality
from engram.store import Rows

WHOLE = "scan"  # what `windows` of a dataset says if each scan is one row


def render(recordings, view, spec, made_by):
    """Stage `render`: write the rows of one unit in one view.

    The store has the component's array, table and header; the table also has a column
    `digest`, by which equal rows are found, and one for each of the `facts`, float64 or text; the
    header has their types, the provenance and whether a `row` is a window or a whole scan.

    Args:
        recordings: list of Recording, Trials or Stimuli, all of one unit.
        view: path of the view store to write.
        spec: dict with `view` (kind and options), `windows` (length and step in s, or "scan"; None
            unless they are Recordings), `unit`, and, if there are any, `facts` of the scans,
            "number" or "text" by name.
        made_by: provenance of the job, for the header.

    Raises:
        InputError: there is no recording, one is no match for the view, is shorter than a window
            or lacks what the view needs, or two differ in a fact that the header states once,
            e.g. frequencies.
    """
    parts = rendered(recordings, spec)
    header = parts[0].header | {"made_by": made_by}
    store.write(
        view,
        *(
            Rows(one.array, one.table.assign(digest=[_digest(row) for row in one.array]), header)
            for one in parts
        ),
    )


def rendered(recordings, spec) -> list[Rows]:
    """The rows of one unit in one view, those of each recording; see `render`."""
    if not recordings:
        raise InputError(f"unit {spec['unit']} holds no recording")
    module, options = components.options("views", spec["view"])
    windows = _windows(recordings, module, spec)
    if hasattr(module, "check"):
        module.check(recordings, options)
    parts = []
    for recording in progress(recordings, f"{spec['unit']}/{spec['view']['kind']}", "scans"):
        rows = module.render(recording, windows(recording), options)
        rows = _with_facts(recording, rows, spec.get("facts"))
        parts.append(_without_bad(recording, rows))
        refuse_difference(recordings[0].name, parts[0], recording.name, parts[-1])
    if not spec["windows"]:
        return parts
    row = {"row": "scan" if spec["windows"] == WHOLE else "window"}
    return [dataclasses.replace(one, header=one.header | row) for one in parts]


def _with_facts(recording, rows, types):
    """Rows whose table says what is known of their scan."""
    if not types:
        return rows
    known = getattr(recording, "facts", {})
    for name in types:
        if name not in known:
            raise InputError(
                f"{recording.name}: no fact {name!r} is known of it; there is "
                f"{', '.join(known) or 'none'}; correct `carry` of the dataset"
            )
        if name in rows.table:
            raise InputError(
                f"{recording.name}: the view has a column {name!r} of its own; rename that of the "
                "manifest, or take it out of `carry` of the dataset"
            )
    try:
        columns = {name: facts.typed(known[name], of) for name, of in types.items()}
    except ValueError as error:
        raise InputError(f"{recording.name}: {error}") from None
    table = rows.table.assign(**columns)
    return dataclasses.replace(rows, table=table, header=rows.header | {"facts": types})


def _without_bad(recording, rows):
    """Rows with those excluded that reach into a stretch which the recording marks as bad.

    Where that is bad but for one signal, rows that come from this or from none are kept.
    """
    if not isinstance(recording, Recording) or recording.bad.empty:
        return rows
    bad, header = recording.bad, rows.header
    if "but_for" in bad:
        of = header.get("modality") or header.get("derived_from")
        bad = bad[(bad["but_for"] != of) & (of is not None)]
    reasons = np.array(quality.marked(bad, rows.table["start"], rows.table["stop"]))
    table = rows.table.assign(exclude=np.where(reasons != "", reasons, rows.table["exclude"]))
    if rows.header["what"] != "labels":
        return dataclasses.replace(rows, table=table)
    array = np.where(table["exclude"] == "", rows.array, -1).astype(rows.array.dtype)
    return dataclasses.replace(rows, array=array, table=table)


def _windows(recordings, module, spec):
    """What gives the windows of a recording; None for a view of what was cut before."""
    of = getattr(module, "OF", Recording)
    for recording in recordings:
        if not isinstance(recording, of):
            raise InputError(
                f"{recording.name}: a view of kind {spec['view']['kind']!r} is made of "
                f"{of.__name__}, but this dataset holds {type(recording).__name__}; "
                "choose another view"
            )
    if of is not Recording:
        return lambda recording: None
    if not spec["windows"]:
        raise InputError(
            "the dataset has no `windows`; set their length and step in seconds, or `windows: scan`"
        )
    if spec["windows"] == WHOLE:
        return lambda recording: Windows(recording.duration, recording.duration)
    windows = Windows(**spec["windows"])
    for recording in recordings:
        if not len(windows.onsets(recording)):
            raise InputError(
                f"{recording.name}: {recording.duration:g} s are shorter than one window of "
                f"{windows.length:g} s; shorten `windows` or leave the recording out"
            )
    return lambda recording: windows


def refuse_difference(name, one, other_name, other):
    """One header stands for all rows: what it states has to hold for every recording.

    Args:
        name, other_name: of two recordings of a unit.
        one, other: their Rows.

    Raises:
        InputError: they state something else.
    """
    facts, others = (
        part.header | {"shape of a row": part.array.shape[1:], "dtype": part.array.dtype.str}
        for part in (one, other)
    )
    if facts == others:
        return
    if found := store.differences.said(facts, others):
        raise InputError(
            f"{name} and {other_name} differ in {found}, or put them in different units: "
            "recordings of one unit share a store"
        )


def _digest(row):
    return hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest()[:16]
