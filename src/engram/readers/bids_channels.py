"""The table of channels that BIDS puts beside a recording: `sub-01_task-rest_channels.tsv`."""

import csv

from engram.errors import InputError


def read(path) -> dict[str, dict[str, str]]:
    """What the table says of each channel, by its label: type, units, status, if it has them.

    Raises:
        InputError: it has no column `name`, or names a channel twice.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    found = {}
    for row in rows:
        facts = {key.strip().lower(): (value or "").strip() for key, value in row.items() if key}
        name = facts.pop("name", None)
        if not name or name in found:
            what = f"channel {name!r} stands there twice" if name else "a line has no `name`"
            raise InputError(f"{path}: {what}; correct the table, or take it away")
        found[name] = facts
    return found
