"""Series of brain regions (fMRI), a table a scan: CSV, TSV, NumPy, MATLAB, HDF5 or pandas' pickles.

A manifest lists the scans: subject, scan, fmri, and whatever else is known; its columns `tr`,
`entry` and `index` say of one scan what the options say of all.  `fmri` may be a folder, whose
`tables` are put one below the other: `time_series/1000001` with a table of the subcortex and one of
the cortex.  Its column `labels` may name a table of labels beside a scan.  Without a manifest the
`files` of a unit are the tables of its one scan.

`atlas` or `names` name the rows of the tables in their order; where the tables hold names
themselves, both have to agree.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from engram.errors import InputError
from engram.readers import label_tables, region_names, roi_series
from engram.recording import Recording, Signal

DEVICE = "cpu"

#: Columns of the manifest that are read, beside those that `conditions` names.
COLUMNS = ("subject", "scan", "tr", "entry", "index")
READS = ("file", "fmri")
PARTS = ("entry", "index")
FILES = ("atlas",)
INSIDE = "tables"


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        tr: seconds between two frames; null if the manifest has a column `tr`.
        axes: `[roi, time]` if a row of a table is a region, `[time, roi]` if a column is; null
            reads it off the names in the table.
        names: of the regions, in the order of the table; null takes those in the table.
        atlas: atlases whose regions the table holds, one after the other, each in its published
            order: schaefer400_7n, schaefer400_17n, tian_s3, buckner7, or a file of names. Instead
            of `names`. Where a scan has several tables, one for each.
        tables: of a scan, where its file is a folder.
        entry: the variable of a MATLAB file or the dataset of an HDF5 file; null if there is one.
        unit: of the values, e.g. "z" where they are standardised.
        conditions: columns of the manifest that hold for the whole scan; the value F of the
            column sex becomes the event "sex:F".
    """

    tr: float | None = None
    axes: list[str] | None = None
    names: list[str] | None = None
    atlas: list[str] | None = None
    tables: list[str] | None = None
    entry: str | None = None
    unit: str = "BOLD"
    conditions: list[str] | None = None


def read(unit, rows, options) -> list[Recording]:
    """The scans of one unit, one a row of the manifest.

    Signals: "fmri", float32 (roi, time), in `unit`.

    Raises:
        InputError: a table is unreadable, the TR is not known or two are said, regions are
            unknown or come twice, axes are unknown or look exchanged, a series has NaN or never
            changes.
    """
    if all("scan" in row for row in rows):
        return [_recording(unit, row, [row["path"]], options) for row in rows]
    return [_recording(unit, rows[0], [row["path"] for row in rows], options)]


def recording(
    subject, scan, series, tr, unit="BOLD", conditions=None, labels=None, **known
) -> Recording:
    """A scan of which nothing but its series is known.

    Args:
        series: `roi_series.Series`.
        tr: s between two frames.
        unit: of the values.
        conditions: {name: value} that hold for the whole scan.
        labels: path of a table of labels, in s from the first frame, or None.
        **known: `facts` and `origin` of the recording.
    """
    signal = Signal(series.values, 1 / tr, series.names, unit)
    known["labels"], events = label_tables.read(labels) if labels else (None, [])
    if conditions or events:
        events += [
            (0.0, signal.stop, f"{key}:{value}") for key, value in (conditions or {}).items()
        ]
        known["events"] = pd.DataFrame(events, columns=["onset", "duration", "description"])
    return Recording(subject, scan, signal.stop, {"fmri": signal}, **known)


def _named(options, tables):
    """Names of the regions of each table of a scan, or None."""
    if options.names and (options.atlas or tables > 1):
        raise InputError(
            "dataset: `names` are those of one table, and `atlas` stands in their place; give one "
            "of them, and for several tables an atlas each"
        )
    parts = [region_names.of_atlas(one).names for one in options.atlas or []]
    if tables == 1:
        return [tuple(options.names or itertools.chain(*parts)) or None]
    if options.atlas and len(options.atlas) != tables:
        raise InputError(
            f"dataset: {len(options.atlas)} atlases for {tables} tables of a scan; name one each"
        )
    return parts or [None] * tables


def _recording(unit, row, paths, options):
    if options.tables:
        paths = [str(Path(folder) / table) for folder in paths for table in options.tables]
    entry, index = row.get("entry") or options.entry, _index(row)
    tables = [
        roi_series.load(path, names=names, axes=options.axes, entry=entry, index=index)
        for path, names in zip(paths, _named(options, len(paths)), strict=True)
    ]
    return recording(
        row.get("subject", unit),
        row.get("scan", "scan-01"),
        roi_series.joined(paths, tables),
        stated_tr(row, options),
        options.unit,
        conditions=conditions(row, options),
        labels=row.get("labels_path"),
    )


def stated_tr(row, options, others=None) -> float:
    """Seconds between frames, by the manifest, the dataset or the file.

    Args:
        row: of the manifest.
        options: with `tr`.
        others: {what else says it: seconds or None}.

    Raises:
        InputError: nobody says it, two differ, or it is no number of seconds.
    """
    where, of_row = row["file"], row.get("tr") or None
    try:
        of_row = of_row and float(of_row)
    except ValueError:
        raise InputError(f"{where}: tr {of_row!r} in the manifest is no number") from None
    stated = {"the manifest": of_row, "the dataset": options.tr, **(others or {})}
    stated = {who: tr for who, tr in stated.items() if tr is not None}
    if not stated:
        raise InputError(
            f"{where}: the TR is unknown; state `tr` of the dataset in seconds, or give the "
            "manifest a column `tr`"
        )
    (first, tr), *rest = stated.items()
    for who, other in rest:
        if abs(tr - other) > 1e-3:
            raise InputError(
                f"{where}: the TR is {tr:g} s by {first}, but {other:g} s by {who}; correct one, "
                "or take it out"
            )
    if not 0.05 <= tr <= 20:
        raise InputError(f"{where}: a TR of {tr:g} s; it is in seconds, e.g. 2.0")
    return tr


def conditions(row, options) -> dict:
    """What the manifest says in the columns `conditions` of a dataset.

    Raises:
        InputError: a column or a value is missing.
    """
    return {name: _value(row, name) for name in options.conditions or []}


def _index(row):
    said = row.get("index") or None
    try:
        return None if said is None else int(said)
    except ValueError:
        raise InputError(
            f"{row['file']}: index {said!r} in the manifest is no whole number"
        ) from None


def _value(row, column):
    if not row.get(column):
        raise InputError(
            f"{row['file']}: the manifest has no value in the column {column!r}; "
            "fill it in, or take it out of `conditions`"
        )
    return row[column]
