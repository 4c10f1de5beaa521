"""Names of regions from a file, as atlases are published with.

- A table in any form that `engram.tables` reads: one of its columns names the regions, `name`,
  `region`, `label`, `roi`, `label_name`, `roi name`, `difumo_names`; another may number them,
  `index`, `component`, `roi label`: BIDS' `dseg.tsv`, tables of DiFuMo, centroids of Schaefer.
- Lines of a number, a name and a colour: Schaefer's `..._order.txt`, look-up tables of FreeSurfer.
- Lines of a name and, below each, of its number and colour: Schaefer's `..._order_info.txt`.
- Lines of a name alone: the labels of Tian.

Left out are lines that are empty or begin with `#`, and what the number 0 calls unknown, background
or none.
"""

import re
from pathlib import Path
from typing import NamedTuple

from engram import tables
from engram.errors import InputError
from engram.readers import atlases

SUFFIXES = (".csv", ".tsv", ".txt", ".lut")
NAMES = ("name", "region", "label", "roi", "label_name", "roi name", "difumo_names")
NUMBERS = ("index", "component", "roi label")
OUTSIDE = ("unknown", "background", "none")  # what the number 0 is called that is no region

#: A number, a name and what may follow: 3 or 4 parts of a colour, and what FreeSurfer adds.
NUMBERED = re.compile(r"(\d+)[ \t,]+([^\s,]+)((?:[ \t,]+-?\d+){3,5})?")
COLOUR = re.compile(r"(\d+)(?:[ \t,]+-?\d+){3,5}")


class Labels(NamedTuple):
    """Regions in the order of their file.

    Attributes:
        names: of the regions.
        numbers: of the regions, or None where the file has none.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...] | None


def is_file(name) -> bool:
    """Whether the name of an atlas is that of a file."""
    return name.lower().endswith(SUFFIXES)


def of_atlas(name) -> Labels:
    """The regions of a known atlas, numbered from 1, or of a file.

    Raises:
        InputError: there is no such atlas, or the file is none of those above.
    """
    if is_file(name):
        return read(name)
    if name not in atlases.ATLASES:
        raise InputError(
            f"no atlas {name!r}; there is {', '.join(atlases.ATLASES)}, or a file of names "
            f"({', '.join(SUFFIXES)})"
        )
    names = atlases.ATLASES[name]
    return Labels(names, tuple(range(1, len(names) + 1)))


def named(wanted) -> tuple[str, ...]:
    """Names of regions, those of an atlas or a file in place of its own name.

    Raises:
        InputError: a name comes twice, or a file is none of those above.
    """
    return atlases.named(
        [name for one in wanted for name in (read(one).names if is_file(one) else [one])]
    )


def read(path) -> Labels:
    """The regions that a file names.

    Raises:
        InputError: it is missing or none of those above, or a name or number is missing, comes
            twice or is no number.
    """
    lines = _text(path)
    named = {cell.strip(' "').casefold() for cell in re.split("[,;\t]", lines[0][1])} & {*NAMES}
    lines = _table(path) if named else _listed(path, lines)
    found = [
        (line, name, None if number is None else _whole(path, line, number))
        for line, name, number in lines
    ]
    found = [one for one in found if not (one[2] == 0 and one[1].casefold() in OUTSIDE)]
    _check(path, found)
    numbers = tuple(number for _, _, number in found)
    return Labels(tuple(name for _, name, _ in found), None if None in numbers else numbers)


def _text(path):
    """(number, line) of what is neither empty nor a comment."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; correct its name") from None
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"{path}: names no region; it needs a line a region")
    return lines


def _table(path):
    """(line, name, number or None) of a file whose first line names the columns."""
    table = tables.read(path)
    by_case = {column.casefold(): column for column in table.columns}
    column = next(by_case[name] for name in NAMES if name in by_case)
    number = next((by_case[name] for name in NUMBERS if name in by_case), None)
    return [(line, cells[column], number and cells[number]) for line, cells in table.rows]


def _listed(path, lines):
    """The same of a file without such a line."""
    colours = [COLOUR.fullmatch(line) for _, line in lines[1::2]]
    if len(lines) % 2 == 0 and all(colours):
        return [(i, name, match[1]) for (i, name), match in zip(lines[::2], colours, strict=True)]
    numbered = [NUMBERED.fullmatch(line) for _, line in lines]
    if all(numbered):
        return [(i, match[2], match[1]) for (i, _), match in zip(lines, numbered, strict=True)]
    wrong = next((i for i, line in lines if re.search(r"[,;\t]", line)), None)
    if wrong is not None:
        raise InputError(
            f"{path}, line {wrong}: neither a name alone nor a number and a name; name the columns "
            f"in the first line: {', '.join(NAMES[:3])}, ..., and {', '.join(NUMBERS[:2])}, ... if "
            "the regions have numbers"
        )
    return [(i, line, None) for i, line in lines]


def _whole(path, line, text):
    if not re.fullmatch(r"\d+(\.0*)?", text):
        raise InputError(f"{path}, line {line}: {text!r} is no number of a region; correct it")
    return int(float(text))


def _check(path, found):
    if not found:
        raise InputError(f"{path}: names no region; it needs a line a region")
    for what, at in (("name", 1), ("number", 2)):
        seen = {}
        for one in found:
            if one[at] == "":
                raise InputError(f"{path}, line {one[0]}: a region without a name; fill it in")
            first = seen.setdefault(one[at], one[0])
            if one[at] is not None and first != one[0]:
                raise InputError(
                    f"{path}, lines {first} and {one[0]}: the {what} {one[at]!r} comes twice; "
                    f"give each region a {what} of its own"
                )
