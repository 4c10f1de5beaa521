"""The manifest of a dataset: a CSV file that lists its recordings, one a line.

Standard library only, like `engram.planning.plan`.
"""

import csv
from collections import Counter
from functools import cache

from engram.errors import InputError


@cache
def read(path, changed) -> dict[str, list[dict]]:
    """Lines of a manifest as dicts, by unit; `changed`, its mtime, only keys the cache."""
    rows = list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))
    if not rows:
        raise InputError(f"{path}: the manifest lists no recording")
    for column in ("subject", "scan", "file"):
        if any(not row.get(column) for row in rows):
            raise InputError(f"{path}: every line needs a value for `{column}`")
    named = Counter((row["subject"], row["scan"]) for row in rows)
    twice = sorted(name for name, count in named.items() if count > 1)
    if twice:
        raise InputError(f"{path}: listed twice: subject {twice[0][0]}, scan {twice[0][1]}")
    units = {}
    for row in rows:
        row["unit"] = row.get("unit") or row["subject"]
        units.setdefault(row["unit"], []).append(row)
    return units
