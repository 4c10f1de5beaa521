"""The table of events that BIDS puts beside a recording: `sub-01_task-rest_events.tsv`."""

import math

from engram import tables
from engram.errors import InputError

#: Columns that say what an event is, the first that is there.
NAMES = ("trial_type", "value")


def read(path) -> list[tuple[float, float, str]]:
    """Events as (onset, duration, description), s; of unknown duration 0.

    Lines without a description, or before the recording begins, are no events of it.

    Raises:
        InputError: it is no table, has no column `onset`, or a time is no number.
    """
    table = tables.read(path)
    if "onset" not in table.columns:
        raise InputError(f"{path}: no column `onset`; correct the table, or take it away")
    name = next((one for one in NAMES if one in table.columns), None)
    found = []
    for line, row in table.rows:
        text = row[name] if name else ""
        onset = _seconds(path, line, row["onset"])
        if text not in ("", "n/a") and onset >= 0:
            found.append((onset, _seconds(path, line, row.get("duration", "")), text))
    return found


def _seconds(path, line, text):
    if text in ("", "n/a"):
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InputError(f"{path}, line {line}: {text!r} is no number of seconds; correct it")
    return seconds
