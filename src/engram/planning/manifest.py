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

from engram.errors import InputError
from engram.planning import names

#: Columns that every manifest has.
NEEDED = ("subject", "scan")

#: Columns that name the recordings: any, of EEG, of fMRI; the last two may stand side by side.
RECORDINGS = ("file", "eeg", "fmri")

#: Columns that name files, as they are on the disk, in the order in which a job gets them.
FILES = (*RECORDINGS, "confounds", "labels")

#: Columns that mean something where they are there.
MEANT = (*NEEDED, *FILES, "unit")

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
def read(path, changed, parts=()) -> dict[str, list[dict]]:
    """Lines of a manifest as dicts, by unit.

    Cells stand between commas, semicolons or tabs, in UTF-8, or in UTF-16 behind its mark.
    Blanks around cells do not count, nor do empty lines and empty columns without a name; names
    are compared in one form of Unicode (NFC).

    Args:
        path: of the manifest.
        changed: its mtime, which only keys the cache.
        parts: columns that say which part of its file a recording is.

    Raises:
        InputError: it is no such table, a line does not fit its header, or names or files in it
            are missing, doubled or cannot be used; the message names the line.
    """
    lines, columns = _table(path)
    if not lines:
        raise InputError(f"{path}: the manifest lists no recording")
    named = [columns[column] for column in RECORDINGS if column in columns]
    for line, *cells in zip(lines, *named, strict=True):
        if not any(cells):
            names = "` nor `".join(column for column in RECORDINGS if column in columns)
            raise InputError(f"{path}, line {line}: no value for `{names}`; every line needs one")
    for column in columns:
        _check_column(path, lines, column, columns[column])
    both = zip(columns.get("unit", columns["subject"]), columns["subject"], strict=True)
    columns["unit"] = [unit or subject for unit, subject in both]
    _check_once(path, lines, columns, parts)
    units = {}
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        units.setdefault(row["unit"], []).append(row)
    return units


def recording(row) -> str:
    """The column in which a row names its recording."""
    return next(column for column in RECORDINGS if column in row)


def files(row) -> list[str]:
    """The files that a row names, the recording first."""
    return [row[column] for column in FILES if row.get(column)]


# ---- the table ------------------------------------------------------------------------


def _table(path):
    """(numbers of the lines, their cells by column) of a file."""
    rows = _rows(path, _text(path))
    first, header = next(rows, (1, []))
    header = _header(path, first, header)
    lines, table = [], []
    for line, cells in rows:
        if len(cells) != len(header) and (len(cells) < len(header) or any(cells[len(header) :])):
            raise InputError(
                f"{path}, line {line}: {len(cells)} cells under a header of {len(header)}; add or "
                "take out what is missing or too much, and put a value with a comma into quotes"
            )
        lines.append(line)
        table.append(cells)
    columns = {}
    for name, cells in zip(header, zip(*table, strict=False), strict=False):
        if name:
            columns[name] = _in_one_form(cells) if name not in FILES else cells
        elif any(cells):
            line = next(line for line, cell in zip(lines, cells, strict=True) if cell)
            raise InputError(
                f"{path}, line {line}: a value in a column without a name; name the column or "
                "take it out (pandas: index=False)"
            )
    return lines, columns


def _header(path, line, cells):
    """The names of the columns; commas at its end name nothing."""
    header = [_column(cell) for cell in cells]
    if not header:
        raise InputError(f"{path}: the manifest is empty; its first line names the columns")
    while not header[-1]:
        header.pop()
    named = [column for column in RECORDINGS if column in header]
    for column in (*NEEDED, *([] if named else RECORDINGS[:1])):
        if column not in header:
            raise InputError(
                f"{path}, line {line}: no column `{column}`; the first line names the columns, "
                f"{', '.join(NEEDED)}, file (or {' or '.join(RECORDINGS[1:])}) and others; there "
                f"is {', '.join(filter(None, header))}"
            )
    if len(named) > 1 and RECORDINGS[0] in named:
        raise InputError(
            f"{path}, line {line}: columns `{'` and `'.join(named)}` both name recordings; leave "
            "one out, or call them `eeg` and `fmri` if they are of one scan"
        )
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice:
        raise InputError(f"{path}, line {line}: two columns `{twice}`; take one out or rename it")
    return header


def _in_one_form(cells):
    """Texts in NFC, in which a letter is always written in the same way."""
    if all(map(str.isascii, cells)):
        return cells
    return tuple(unicodedata.normalize("NFC", cell) for cell in cells)


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


def _rows(path, text):
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
        return len(columns.intersection(MEANT)), len(columns)

    return max(DELIMITERS, key=named)


def _column(cell):
    """The name of a column; that of one with a meaning, however it is capitalised."""
    lower = cell.lower()
    return lower if lower in MEANT else unicodedata.normalize("NFC", cell)


# ---- what stands in it ----------------------------------------------------------------


def _check_column(path, lines, column, cells):
    """Values where there have to be some, names that fit into paths, files that can be found."""
    if column in NEEDED and "" in cells:
        line = lines[cells.index("")]
        raise InputError(f"{path}, line {line}: no value for `{column}`; every line needs one")
    if column not in FAULTS:
        return
    values = list(filter(None, dict.fromkeys(cells)))
    for value in values:
        if fault := FAULTS[column](value):
            line = lines[cells.index(value)]
            raise InputError(f"{path}, line {line}: {column} {value[:80]!r}: {fault}")
    if column in FOLDERS and (pair := _twice(map(names.alike, values))):
        one, other = (values[i] for i in pair)
        raise InputError(
            f"{path}, lines {lines[cells.index(one)]} and {lines[cells.index(other)]}: {column} "
            f"{one!r} and {other!r} differ in nothing but case or form; write one name in one way, "
            "or rename one"
        )


def _check_once(path, lines, columns, parts):
    """No scan of a subject and no recording is listed twice."""
    if pair := _twice(zip(columns["subject"], columns["scan"], strict=True)):
        first, second = (lines[i] for i in pair)
        subject, scan = columns["subject"][pair[0]], columns["scan"][pair[0]]
        raise InputError(
            f"{path}, lines {first} and {second}: listed twice: subject {subject}, scan {scan}; "
            "give every scan of a subject a name of its own"
        )
    for column in RECORDINGS:
        at = [i for i, file in enumerate(columns.get(column, ())) if file]
        of = [columns[part] for part in parts if part in columns and column != "eeg"]
        found = [(_one_form(columns[column][i]), *(cells[i] for cells in of)) for i in at]
        if pair := _twice(found):
            first, second = (lines[at[i]] for i in pair)
            raise InputError(
                f"{path}, lines {first} and {second}: the same file {found[pair[0]][0]}: one "
                "recording under two names leaks; take one line out, or correct its file"
            )


def _twice(values):
    """Positions of the first value that occurs again, and of its second occurrence."""
    seen = {}
    for j, value in enumerate(values):
        if (i := seen.setdefault(value, j)) != j:
            return i, j
    return None


def _one_form(file):
    """A path as no other way to write it is compared: without `.`, `..`, `//`, in NFC."""
    if not file.isascii():
        file = unicodedata.normalize("NFC", file)
    return posixpath.normpath(file) if DETOUR(file) else file


def _fault_of_file(file):
    if not file.strip("./"):
        return "that is the folder itself; name a file in it"
    return names.fault_of_path(file)


#: Finds what can be left out of a path.
DETOUR = re.compile(r"^\.|/[./]").search

#: What is wrong with a value, by the column that it stands in.
FAULTS = {
    "subject": names.fault_of_unit,
    "unit": names.fault_of_unit,
    "scan": names.fault_of_scan,
    **dict.fromkeys(FILES, _fault_of_file),
}

#: Columns that name folders.
FOLDERS = ("subject", "unit")
