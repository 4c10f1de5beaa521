"""A fact about a subject or a scan, as labels or as numbers: sex, age, a score of a test.

Facts are columns of the manifest, or what a dataset knows of its recordings. Every window of a
scan carries the same one.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engram.errors import InputError
from engram.planning import facts
from engram.store import Rows

DEVICE = "cpu"

#: What the plan reads without importing this module: rows hold numbers, unless `classes` are
#: named; and the option that names the column of the manifest.
TARGETS = "numbers"
FACTS = "column"


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        column: of the manifest, or the name of a fact that the dataset knows.
        classes: names of the classes 0, 1, ...; null takes numbers.
        values: texts in the column that mean a class, by class; without an entry a class is
            meant by its own name.
        measured_in: the unit of the numbers, e.g. years.
        per: subject or scan: what has one fact; a subject with two is refused, unless scans may
            differ.
        missing: texts that stand for a fact that is not known; those rows are excluded.
    """

    column: str
    classes: list[str] | None = None
    values: dict[str, list[str]] | None = None
    measured_in: str | None = None
    per: Literal["subject", "scan"] = "subject"
    missing: list[str] = field(default_factory=lambda: ["", "n/a", "N/A", "NA", "NaN", "nan"])


def check(recordings, options):
    """Refuse a subject of a unit with two facts, unless they belong to scans.

    Raises:
        InputError: names both scans.
    """
    firsts = {}
    for recording in recordings if options.per == "subject" else []:
        said = recording.facts.get(options.column)
        other = firsts.setdefault(recording.subject, recording)
        first = other.facts.get(options.column)
        if str(said).strip() in options.missing:
            continue
        if str(first).strip() in options.missing:
            firsts[recording.subject] = recording
        elif _differ(said, first, options):
            raise InputError(
                f"{recording.name}: {options.column} is {said!r}, but {first!r} in {other.name}; "
                "correct one, or set `per: scan` of the view if it differs between scans"
            )


def _differ(one, other, options):
    try:
        return facts.read(one, options) != facts.read(other, options)
    except ValueError:  # which `render` refuses
        return False


def render(recording, windows, options) -> Rows:
    """The fact of the windows of one recording.

    Returns:
        Rows: float64 (n,), or int8 (n,), index into the header's classes. Rows of a recording
        whose fact is missing are excluded as "no <column>", and hold NaN or -1.

    Raises:
        InputError: the recording has no such fact, or it is no number or none of the classes.
    """
    table, column = windows.table(recording), options.column
    if column not in recording.facts:
        known = ", ".join(recording.facts) or "none"
        raise InputError(
            f"{recording.name}: no fact {column!r} is known of it; there is {known}; add the "
            "column to the manifest, or correct `column` of the view"
        )
    try:
        fact = facts.read(recording.facts[column], options)
    except ValueError as error:
        raise InputError(f"{recording.name}: column {column!r}: {error}") from None
    if fact is None:
        table["exclude"] = f"no {column}"
    origin = {"column": column, **recording.origin}
    if options.classes:
        labels = np.full(len(table), -1 if fact is None else fact, np.int8)
        return Rows(labels, table, {"what": "labels", "classes": options.classes, **origin})
    numbers = np.full(len(table), math.nan if fact is None else fact)
    return Rows(numbers, table, {"what": "values", "unit": options.measured_in, **origin})
