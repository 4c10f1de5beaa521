"""The table of channels that BIDS puts beside a recording: `sub-01_task-rest_channels.tsv`."""

from engram import tables
from engram.errors import InputError


def read(path) -> dict[str, dict[str, str]]:
    """What the table says of each channel, by its label: type, units, status, if it has them.

    Raises:
        InputError: it is no table, has no column `name`, or names a channel twice.
    """
    found = {}
    for _, row in tables.read(path).rows:
        facts = {column.lower(): value for column, value in row.items()}
        name = facts.pop("name", None)
        if not name or name in found:
            what = f"channel {name!r} stands there twice" if name else "a line has no `name`"
            raise InputError(f"{path}: {what}; correct the table, or take it away")
        found[name] = facts
    return found
