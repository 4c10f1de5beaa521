"""Labels beside a recording, as a table of windows or of events.

CSV or TSV in any form that `engram.tables` reads; the case of column names does not matter.

- `window` and `label`, one line a window, numbered from 0: the label is the number of its class,
  or missing (blank, n/a, NA, NaN or -1).
- `onset` (s), `duration` (s; blank, n/a or no such column: an event without duration) and, the
  first of these that is there, `label`, `trial_type` or `description`. Each line becomes an event,
  as in the events.tsv of BIDS. A blank label, or n/a, is none: the line is left out. Labels are
  texts: 01, 1 and 1.0 are three.

Numbers have a decimal point; where semicolons or tabs separate, they may have a decimal comma.
"""

import re

import numpy as np

from engram import tables
from engram.errors import InputError

LABELS = ("label", "trial_type", "description")
MISSING = ("", "n/a")

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)


def read(path) -> tuple[np.ndarray | None, list[tuple[float, float, str]]]:
    """Labels of windows, int (n,), -1 where missing, or None; and events.

    An event is (onset, duration, description), in seconds; a duration of 0 is none.

    Raises:
        InputError: the table is unreadable, lacks a column or a line, or a cell is no number of a
            window, class or second. The message names file and line.
    """
    table = tables.read(path)
    names = [name.casefold() for name in table.columns]
    rows = [(at, dict(zip(names, cells.values(), strict=True))) for at, cells in table.rows]
    label = next((name for name in LABELS if name in names), None)
    if not label or not {"window", "onset"} & {*names} or ("window" in names and label != "label"):
        raise InputError(
            f"{path}, line 1: columns {', '.join(names)}; expected window and label, or onset, "
            f"duration and one of {', '.join(LABELS)}"
        )
    if not rows:
        raise InputError(f"{path}: has column names, but no line below them; fill it in")
    if "window" in names:
        return _by_window(path, rows), []
    return None, _by_time(path, rows, label, table.separator == ";")


def _by_window(path, rows):
    labels = np.full(len(rows), -1)
    seen = set()
    for line, cells in rows:
        window = _whole(cells["window"])
        if window is None or window in seen or window >= len(rows):
            raise InputError(
                f"{path}, line {line}: window {cells['window']!r}; {len(rows)} windows are to be "
                f"numbered 0, 1, ..., {len(rows) - 1}, each once"
            )
        seen.add(window)
        if cells["label"].casefold() in (*MISSING, "na", "nan", "-1", "-1.0"):
            continue
        label = _whole(cells["label"])
        if label is None:
            raise InputError(
                f"{path}, line {line}: {cells['label']!r}; a label is the number of its class, "
                "0, 1, ..., or empty"
            )
        labels[window] = label
    return labels


def _whole(text):
    found = re.fullmatch(r"(\d{1,9})(\.0*)?", text, re.ASCII)
    return int(found[1]) if found else None


def _by_time(path, rows, label, decimal):
    events, commas = [], _has_decimal_commas(path, rows, decimal)
    for line, cells in rows:
        if not cells[label] or cells[label].casefold() in MISSING:
            continue
        duration = cells.get("duration", "")
        duration = "0" if duration.casefold() in MISSING else duration
        seconds = [
            _seconds(f"{path}, line {line}", name, text, commas)
            for name, text in (("onset", cells["onset"]), ("duration", duration))
        ]
        events.append((*seconds, cells[label]))
    if not events:
        raise InputError(f"{path}: no line has a {label}; fill the column in")
    return events


def _has_decimal_commas(path, rows, decimal):
    """Whether numbers have decimal commas; what may be thousands is refused unless `decimal`."""
    texts = [(line, cells.get(name, "")) for line, cells in rows for name in ("onset", "duration")]
    commas = [(line, text) for line, text in texts if "," in text]
    points = [(line, text) for line, text in texts if "." in text]
    thousands = not decimal and all(THOUSANDS.fullmatch(text) for _, text in commas)
    if commas and (points or thousands):
        line, text = commas[0]
        other = f"line {points[0][0]} has {points[0][1]!r}" if points else "it may mean thousands"
        raise InputError(
            f"{path}, line {line}: {text!r}, but {other}; write all numbers with a decimal point "
            "and without separators of thousands"
        )
    return bool(commas)


def _seconds(where, name, text, commas):
    plain = text.replace(",", ".") if commas else text
    if not NUMBER.fullmatch(plain) or not np.isfinite(float(plain)):
        raise InputError(f"{where}: {name} {text!r} is no number of seconds; correct it")
    if float(plain) < 0:
        raise InputError(
            f"{where}: {name} {text!r} is negative; seconds count from the start of the recording: "
            "cut the event there, or take the line out"
        )
    return float(plain)
