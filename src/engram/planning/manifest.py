"""The manifest of a dataset: a table in a text file that lists its recordings, one a line.

Standard library only, like `engram.planning.plan`.
"""

import codecs
import csv
import io
import posixpath
import re
import unicodedata
from functools import cache
from operator import itemgetter

from engram.errors import InputError
from engram.planning import names

#: Columns that every manifest has, and those that mean something where they are there.
NEEDED = ("subject", "scan", "file")
MEANT = (*NEEDED, "unit", "labels")

#: What stands between cells: Excel writes `;` where the decimal mark is a comma.
DELIMITERS = ",;\t"

#: What a text starts with that is not plain UTF-8.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

#: What the files of Excel and other office programs start with: a zip file, an OLE document.
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")

EXPORT = "export it from the spreadsheet as `CSV UTF-8` and name that file"


@cache
def read(path, changed) -> dict[str, list[dict]]:
    """Lines of a manifest as dicts, by unit; `changed`, its mtime, only keys the cache.

    Cells stand between commas, semicolons or tabs, in UTF-8, or in UTF-16 behind its mark.
    Blanks around cells do not count, nor do empty lines and empty columns without a name; names
    are compared in one form of Unicode (NFC).

    Raises:
        InputError: it is no such table, a line does not fit its header, or names or files in it
            are missing, doubled or cannot be used; the message names the line.
    """
    header, lines = _table(path)
    rows = [(line, _row(path, line, header, cells)) for line, cells in lines]
    if not rows:
        raise InputError(f"{path}: the manifest lists no recording")
    _check_names(path, rows)
    _check_once(path, rows)
    units = {}
    for _, row in rows:
        units.setdefault(row["unit"], []).append(row)
    return units


# ---- the table ------------------------------------------------------------------------


def _table(path):
    """(column names, [(line, cells)]) of a file; commas at the end of the header name nothing."""
    lines = _lines(path, _text(path))
    first, header = next(lines, (1, []))
    if not header:
        raise InputError(f"{path}: the manifest is empty; its first line names the columns")
    header = [_column(cell) for cell in header]
    while header and not header[-1]:
        header.pop()
    for column in NEEDED:
        if column not in header:
            there = ", ".join(filter(None, header))
            raise InputError(
                f"{path}, line {first}: no column `{column}`; the first line names the columns, "
                f"{', '.join(NEEDED)} and others; there is {there}"
            )
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice:
        raise InputError(f"{path}, line {first}: two columns `{twice}`; take one out or rename it")
    return header, lines


def _text(path):
    data = path.read_bytes()
    if data.startswith(WORKBOOKS):
        raise InputError(f"{path}: is a workbook and no text; {EXPORT}")
    encoding = next((MARKS[mark] for mark in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: is not {encoding.upper()}; {EXPORT}") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{path}, line {line}: holds NUL bytes, as text does not; {EXPORT}")
    return text


def _lines(path, text):
    """(number of its first line, cells) of what is not empty; cells without blanks around."""
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    try:
        for cells in reader:
            cells = list(map(str.strip, cells))
            if any(cells) and not (number == 1 and cells[0].lower().startswith("sep=")):
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {number}: {error}; close every quote, and double one within quotes"
        ) from None


def _delimiter(text):
    """What stands between the cells of the header: that which names most of its columns."""
    first, *others = text.lstrip().splitlines()[:2] or [""]
    if first.lower().startswith("sep="):  # Excel's own hint, above the header
        first = others[0] if others else ""

    def named(delimiter):
        columns = {_column(cell.strip(' "')) for cell in first.split(delimiter)}
        return len(columns.intersection(NEEDED)), len(columns)

    return max(DELIMITERS, key=named)


def _column(cell):
    """The name of a column; that of one with a meaning, however it is capitalised."""
    lower = cell.lower()
    return lower if lower in MEANT else unicodedata.normalize("NFC", cell)


# ---- its rows -------------------------------------------------------------------------


def _row(path, line, header, cells):
    """One line as a dict, with a value for whatever has to have one."""
    if len(cells) != len(header) and (len(cells) < len(header) or any(cells[len(header) :])):
        raise InputError(
            f"{path}, line {line}: {len(cells)} cells under a header of {len(header)}; add or take "
            "out what is missing or too much, and put a value with a comma into quotes"
        )
    row = dict(zip(header, cells, strict=False))
    if not all(map(str.isascii, cells)):
        row |= {name: unicodedata.normalize("NFC", row[name]) for name in row if name not in FILES}
    if row.pop("", None):
        raise InputError(
            f"{path}, line {line}: a value in a column without a name; name the column or take it "
            "out (pandas: index=False)"
        )
    if not all(map(row.get, NEEDED)):
        column = next(name for name in NEEDED if not row[name])
        raise InputError(f"{path}, line {line}: no value for `{column}`; every line needs one")
    row["unit"] = row.get("unit") or row["subject"]
    return row


def _check_names(path, rows):
    """Names that can stand in paths and in the names of rows, and files that can be looked for."""
    for column, fault_of in FAULTS.items():
        firsts = {row.get(column): line for line, row in reversed(rows)}
        for value, line in firsts.items():
            if value and (fault := fault_of(value)):
                raise InputError(f"{path}, line {line}: {column} {value[:80]!r}: {fault}")
        if column in FOLDERS:
            _check_differ(path, column, firsts)


def _check_differ(path, column, firsts):
    """No two names for one folder, on disks that do not know capitals apart."""
    taken = {}
    for value, line in sorted(firsts.items(), key=itemgetter(1)):
        other = taken.setdefault(names.alike(value), value)
        if other != value:
            raise InputError(
                f"{path}, lines {firsts[other]} and {line}: {column} {other!r} and {value!r} "
                "differ in nothing but case or form; write one name in one way, or rename one"
            )


def _check_once(path, rows):
    """No scan of a subject and no file is listed twice."""
    scans, files = {}, {}
    for line, row in rows:
        scan = row["subject"], row["scan"]
        file = _one_form(row["file"])
        if (first := scans.setdefault(scan, line)) != line:
            raise InputError(
                f"{path}, lines {first} and {line}: listed twice: subject {scan[0]}, scan "
                f"{scan[1]}; give every scan of a subject a name of its own"
            )
        if (first := files.setdefault(file, line)) != line:
            raise InputError(
                f"{path}, lines {first} and {line}: the same file {file}: one recording under two "
                "names leaks; take one line out, or correct its file"
            )


def _one_form(file):
    """A path as no other way to write it is compared: without `.`, `..`, `//`, in NFC."""
    if not file.isascii():
        file = unicodedata.normalize("NFC", file)
    return posixpath.normpath(file) if DETOUR(file) else file


def _fault_of_file(file):
    if _one_form(file) == ".":
        return "that is the folder itself; name a file in it"
    return names.fault_of_path(file)


#: Finds what can be left out of a path.
DETOUR = re.compile(r"^\.|/[./]").search

#: Columns that name files, as they are on the disk.
FILES = ("file", "labels")

#: What is wrong with a value, by the column that it stands in.
FAULTS = {
    "subject": names.fault_of_unit,
    "unit": names.fault_of_unit,
    "scan": names.fault_of_scan,
    "file": _fault_of_file,
    "labels": _fault_of_file,
}

#: Columns that name folders.
FOLDERS = ("subject", "unit")
