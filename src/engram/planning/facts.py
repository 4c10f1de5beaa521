"""Facts of a manifest: what a cell means, and whether a whole column is one fact.

Standard library only, like `engram.planning.plan`.
"""

import math
import re
from pathlib import Path

from engram.errors import InputError
from engram.planning import components

#: How a number is written; Python's own `float` takes 1_000, inf and digits of other scripts too.
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

#: Texts that stand for a fact that is not known, where the configuration says nothing else.
MISSING = ("", "n/a", "N/A", "NA", "NaN", "nan")

#: Columns that tables of rows have for themselves.
OF_ROWS = (
    *("subject", "scan", "window", "onset", "duration", "start", "stop", "exclude", "digest"),
    *("y", "y_shuffled", "fold", "expected", "expected_shuffled", "split", "stimulus"),
)


def typed(value, of) -> float | str:
    """A cell of a column that is carried into tables.

    Args:
        value: text of a cell, or what a dataset knows.
        of: "number" or "text".

    Returns:
        A float, NaN where it is missing; or a text, empty where it is missing.

    Raises:
        ValueError: it is no number; the message says what to do.
    """
    text = str(value if value is not None else "").strip()
    if text in MISSING:
        return math.nan if of == "number" else ""
    if of == "text":
        return text
    if NUMBER.fullmatch(text):
        return float(text)
    raise ValueError(
        f"{text!r} is no number{_comma(text)}; correct it, or say `text` of the column in `carry`"
    )


def _comma(text):
    return "; write a point, not a comma" if NUMBER.fullmatch(text.replace(",", ".")) else ""


def read(value, options) -> float | int | None:
    """What a cell means: a number, the position of a class, or None where it is missing.

    Args:
        value: text of a cell, or the number that a dataset knows.
        options: those of a view of kind `fact`.

    Raises:
        ValueError: it is no number or none of the classes; the message says what to do.
    """
    text = str(value).strip()
    if text in options.missing:
        return None
    if not options.classes:
        if NUMBER.fullmatch(text):
            return float(text)
        raise ValueError(
            f"{text!r} is no number{_comma(text)}; correct it, list it under `missing` of the "
            "view, or name the `classes` that the column holds"
        )
    for place, name in enumerate(options.classes):
        if text in (options.values or {}).get(name, [name]):
            return place
    raise ValueError(
        f"{text!r} is none of the classes {', '.join(options.classes)}; correct it, list it under "
        "`missing` of the view, or say under `values` which class it means"
    )


def check(plan, view, dataset):
    """Refuse a column of a manifest that is not one fact of every subject or scan.

    Args:
        plan: the Plan.
        view: name of a view of kind `fact`.
        dataset: name of a dataset whose recordings it is rendered of.

    Raises:
        InputError: the manifest lacks the column, a cell means nothing, a subject has two facts,
            no cell holds any, or all hold the same class; the message names file, line and column.
    """
    if "manifest" not in plan.config["datasets"][dataset]:
        return
    options, column = _Options(plan.config["views"][view]), plan.config["views"][view]["column"]
    path = _path(plan, dataset)
    rows = [row for unit in plan.units(dataset) for row in plan.rows(dataset, unit)]
    if not any(column in row for row in rows):
        raise InputError(
            f"{path}: no column {column!r}, which view {view!r} takes; there is "
            f"{', '.join(map(str, rows[0]))}; correct `column` of the view, or add it"
        )
    firsts, found = {}, []
    for row in rows:
        try:
            fact = read(row[column] or "", options)
        except ValueError as error:
            raise InputError(f"{_place(path, row, column)}: {error}") from None
        if fact is None:
            continue
        found.append(fact)
        other = firsts.setdefault(row["subject"], row)
        if options.per == "subject" and fact != read(other[column], options):
            raise InputError(
                f"{_place(path, row, column)}: subject {row['subject']} is {row[column]!r}, but "
                f"{other[column]!r} in scan {other['scan']}{_line(path, other, column)}; correct "
                "one, or set `per: scan` of the view if it differs between scans"
            )
    if not found:
        raise InputError(f"{path}: column {column!r}: every line lacks it")
    if options.classes and len(set(found)) < 2:
        raise InputError(
            f"{path}: column {column!r}: every line is {options.classes[int(found[0])]!r}; there "
            "is nothing to tell apart"
        )


def check_carried(plan, dataset):
    """Refuse what a dataset is to carry, but its manifest lacks or has of another type.

    Args:
        plan: the Plan.
        dataset: name of a dataset.

    Raises:
        InputError: a column has no place in a table of rows or is not there, or a cell is no
            number; the message names file, line and column.
    """
    carried = plan.config["datasets"][dataset].get("carry") or {}
    for column in carried:
        if column in OF_ROWS:
            raise InputError(
                f"datasets.{dataset}.carry: tables of rows have a column {column!r} of their own; "
                "rename that of the manifest"
            )
    if not carried or "manifest" not in plan.config["datasets"][dataset]:
        return
    path = _path(plan, dataset)
    for unit in plan.units(dataset):
        for row in plan.rows(dataset, unit):
            for column, of in carried.items():
                if column not in row:
                    raise InputError(
                        f"{path}: no column {column!r}, which `carry` of datasets.{dataset} "
                        f"names; there is {', '.join(map(str, row))}"
                    )
                try:
                    typed(row[column], of)
                except ValueError as error:
                    raise InputError(f"{_place(path, row, column)}: {error}") from None


def check_confounds(plan):
    """Refuse a confound that the dataset of an experiment that runs does not carry.

    Args:
        plan: the Plan.

    Raises:
        InputError: names the confound and the dataset.
    """
    asked = plan.config.get("evaluation", {}).get("confounds", [])
    names = [name for name in plan.experiments() if asked and not plan.model(name)]
    for dataset in {plan.known[n]["dataset"]: 0 for n in names if plan.of_task(n, "PROBED") == "x"}:
        carried = plan.config["datasets"][dataset].get("carry") or {}
        for name in asked:
            if name not in carried:
                there = f"it carries {', '.join(carried)}" if carried else "it carries nothing"
                raise InputError(
                    f"evaluation.confounds: dataset {dataset!r} does not carry {name!r}; {there}; "
                    f"name it in `carry` of datasets.{dataset} with its type, or take it out"
                )


class _Options:
    """Options of a view as its configuration and the defaults of its kind say."""

    def __init__(self, spec):
        vars(self).update(components.defaults("views", spec["kind"]) | spec)


def _path(plan, dataset):
    named = Path(plan.config["datasets"][dataset]["manifest"])
    folder = Path(plan.config["datasets"][dataset].get("folder") or f"resources/raw/{dataset}")
    return named if named.is_file() else folder / named


def _place(path, row, column):
    return f"{path}{_line(path, row, column)}, column {column!r}"


def _line(path, row, column):
    """ ", line 7" of a row, found by what it holds."""
    wanted = {row["subject"], row["scan"], row[column] or ""}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        cells = {cell.strip().strip('"') for cell in re.split("[,;\t]", line)}
        if wanted <= cells | {""}:
            return f", line {number}"
    return ""
