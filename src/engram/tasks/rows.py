"""Rows of windows in memory: those that y and every source have, side by side by name."""

from pathlib import Path

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError
from engram.store import Rows

BLAMED = 3  # channels that a message names

FEW = "or its `bad_share` if few channels do it"

#: What to change, by the reason for which a view leaves out rows.
REMEDIES = {
    "amplitude": f"raise `amplitude` of the view {{view}}, {FEW}",
    "jump": f"raise `jump` of the view {{view}}, {FEW}",
    "flat": f"lower `flat` of the view {{view}}, or raise{FEW[2:]}",
    "clipped": "leave the channel out in `channels` of the dataset, or raise `bad_share` of {view}",
    "not finite": "leave the channel out in `channels` of the dataset",
    "outside recording": "shorten `window` of the view {view}, or change its `lag`",
    "unlabelled": "correct `events`, `classes` or `duration` of the view {view}, or lower its "
    "`min_valid`",
    "ambiguous": "narrow `ambiguous` of the view {view}, or take it out",
    "too few valid seconds": "raise `amplitude` and `jump` of the view {view}, or lower its "
    "`min_valid`",
    "no alpha rhythm found": "correct `signal` of the view {view}, or lower its `c`",
    "gap": "nothing was recorded there: shorten `windows` of the dataset",
    "cut": "samples were cut out there: shorten `windows` of the dataset",
}
#: Reasons that the column bad_channels of a table goes with.
BY_CHANNEL = ("amplitude", "jump", "flat", "clipped", "not finite")
MARKED = (
    "set `reject_by_annotation: false` of the dataset, if what is marked {reason!r} can be used"
)
MISSING = "fill in the column of the manifest that the view {view} takes"


def joined(x, y, path) -> tuple[Rows, dict[str, Rows], pd.DataFrame, dict]:
    """The usable rows of all stores, sorted by name.

    Args:
        x: {source: [path, ...]}.
        y: Rows of all stores on the y side.
        path: of the first of these, for messages.

    Returns:
        (y, {source: Rows}, table, {reason: rows left out}); the table is that of y with the
        seconds [start, stop] that a row rests on in any store, so that none is on both sides.

    Raises:
        InputError: a store is of another source, stores share no row, none is usable, rows of one
            name are of other seconds, or a usable row holds a value that is not finite.
    """
    for source, paths in x.items():
        for one in paths:
            if not Path(one).with_suffix("").as_posix().endswith(f"/{source}"):
                raise InputError(f"{one}: the path says that this is no store of {source}")
    sources = {source: store.load(paths) for source, paths in x.items()}
    y = _taken(y, np.argsort(y.table.index.to_numpy(dtype=str)))
    at = store.align(y.table, *(rows.table for rows in sources.values()))
    lacking = _lacking(y, sources)
    y, *found = (_taken(r, i) for r, i in zip([y, *sources.values()], at, strict=True))
    reason = _reasons([y, *found])
    usable = np.flatnonzero(reason == "")
    if not len(usable):
        names = [Path(path).stem, *(source.partition("/")[0] for source in sources)]
        raise InputError(_none_usable(dict(zip(names, [y, *found], strict=True))))
    y, *found = (_taken(rows, usable) for rows in (y, *found))
    sources = dict(zip(sources, found, strict=True))
    _check_windows(y, sources)
    _check_finite(sources)
    table = _supported(y.table, [rows.table for rows in found])
    return y, sources, table, _counted(np.concatenate([reason, lacking]))


def _none_usable(views):
    """What leaves out all rows, and which key of which view to change.

    Args:
        views: Rows by the view that they are of, all of the same names.
    """
    said, most, advice = [], 0, ""
    for view, rows in views.items():
        reasons = rows.table["exclude"].to_numpy(dtype=object)
        counts = _counted(reasons)
        if not counts:
            continue
        why = ", ".join(f"{reason} {n}" for reason, n in counts.items())
        said.append(f"view {view} leaves out {sum(counts.values())} ({why}{_blamed(rows.table)})")
        if sum(counts.values()) > most:
            most, advice = sum(counts.values()), remedy(next(iter(counts)), view)
    some = "; no row is usable in all of them" if len(said) > 1 else ""
    (n,) = {len(rows.table) for rows in views.values()}
    return f"no usable row of {n}: {' and '.join(said)}{some}; {advice}"


def remedy(reason, view) -> str:
    """What to change so that fewer rows of a view are left out for a reason."""
    other = MISSING if reason.startswith("no ") else MARKED
    return REMEDIES.get(reason, other).format(view=view, reason=reason)


def _blamed(table):
    """The channels that are bad in most of the rows left out."""
    if "bad_channels" not in table:
        return ""
    bad = table.loc[table["exclude"].isin(BY_CHANNEL), "bad_channels"]
    counts = bad[bad != ""].str.split(", ").explode().value_counts()
    named = ", ".join(f"{name} in {n}" for name, n in counts.head(BLAMED).items())
    more = f" and {len(counts) - BLAMED} more" if len(counts) > BLAMED else ""
    return f"; channel {named}{more}" if named else ""


def _supported(table, others):
    tables = [one for one in (table, *others) if {"start", "stop"} <= {*one.columns}]
    if not tables:
        return table
    return table.assign(
        start=np.min([one["start"].to_numpy() for one in tables], axis=0),
        stop=np.max([one["stop"].to_numpy() for one in tables], axis=0),
    )


def _taken(rows, at):
    return Rows(rows.array[at], rows.table.iloc[at], rows.header)


def _lacking(y, sources):
    """Why rows of y stand in no store of a source, one reason a row."""
    reason = np.full(len(y.table), "", object)
    for source, rows in sources.items():
        absent = ~y.table.index.isin(rows.table.index)
        reason[absent & (reason == "")] = f"not in {source}"
    return reason[reason != ""]


def _reasons(stores):
    """Why each row is left out, "" if it is not: the first reason that a store gives."""
    reason = np.full(len(stores[0].table), "", object)
    for rows in stores:
        given = rows.table["exclude"].to_numpy(dtype=object)
        reason = np.where(reason == "", given, reason)
    return reason


def _counted(reasons):
    return {str(k): int(n) for k, n in pd.Series(reasons[reasons != ""]).value_counts().items()}


def _check_windows(y, sources):
    """Rows of one name are of the same seconds."""
    for source, rows in sources.items():
        for column in ("onset", "duration"):
            if column not in y.table or column not in rows.table:
                continue
            one, other = (r.table[column].to_numpy(float) for r in (rows, y))
            differs = ~np.isclose(one, other, rtol=0, atol=1e-6)
            if differs.any():
                i = differs.argmax()
                raise InputError(
                    f"{source}: {rows.table.index[i]} has the {column} {one[i]:g} s, but its label "
                    f"{other[i]:g} s; render both with the same `windows`"
                )


def _check_finite(sources):
    for source, rows in sources.items():
        if rows.array.dtype.kind != "f":
            continue
        finite = np.isfinite(rows.array).reshape(len(rows.array), -1).all(1)
        if not finite.all():
            raise InputError(
                f"{source}: {(~finite).sum()} usable rows hold NaN or infinite values, first "
                f"{rows.table.index[~finite][0]}; correct them, or exclude the rows in the view"
            )
