"""Tables as people save them: comma, semicolon or tab, in the encodings of spreadsheets.

Standard library only. Every cell is text: what a number or a blank means is for those to say who
know the column.
"""

import csv
import io
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from engram.errors import InputError

SEPARATORS = "\t;,"
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Table:
    """What a table says.

    Attributes:
        columns: their names.
        rows: for each line its number in the file, and its cells by column.
        separator: between cells.
    """

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]
    separator: str


def read(path) -> Table:
    """A table whose first line names the columns.

    The separator is the one that gives the first line the most cells. The encoding is UTF-8 or
    UTF-16, with or without a byte order mark, or else Windows-1252. Blanks around names and cells
    are dropped, blank lines skipped, letters composed (NFC). Cells that a line lacks at its end are
    blank; a column without a name is left out: at the end it has to be blank, as trailing commas
    are.

    Raises:
        InputError: the file is unreadable, empty or no text, a column stands there twice, a line
            has cells too many, or a quote is not closed. The message names file and line.
    """
    separator, text = _separated(_text(path))
    lines = _lines(path, text, separator)
    if not lines:
        raise InputError(f"{path}: is empty; it needs a line of column names, then one line a row")
    number, names = lines[0]
    names = names[: max((i for i, name in enumerate(names, 1) if name), default=0)]
    times = Counter(name.casefold() for name in names if name)
    for name in names:
        if name and times[name.casefold()] > 1:
            raise InputError(f"{path}, line {number}: column {name!r} stands there twice; keep one")
    rows = []
    for number, cells in lines[1:]:
        if any(cells[len(names) :]):
            raise InputError(
                f"{path}, line {number}: {len(cells)} cells under {len(names)} column names; "
                "put quotes around a cell that holds the separator, or take a cell out"
            )
        cells += [""] * (len(names) - len(cells))
        rows.append((number, {n: c for n, c in zip(names, cells, strict=False) if n}))
    return Table([name for name in names if name], rows, separator)


def _text(path):
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; correct its name") from None
    encoding = next((e for mark, e in MARKS.items() if content.startswith(mark)), None)
    if encoding is None:
        wide = b"\0" in content[:2]
        encoding = ("utf-16-be" if content[:1] == b"\0" else "utf-16-le") if wide else "utf-8"
    for name in (encoding, "cp1252"):
        try:
            text = content.decode(name)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return unicodedata.normalize("NFC", text)
    raise InputError(
        f"{path}: is no text in UTF-8, UTF-16 or Windows-1252; save it as CSV in UTF-8, not as a "
        "workbook"
    )


def _separated(text):
    """(separator, text without the hint at it that Excel writes)."""
    first, _, rest = text.partition("\n")
    if first.strip().lower() in {f"sep={one}" for one in ";,"}:
        return first.strip()[-1], "\n" + rest
    head = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
    cells = {one: _cells(head, one) for one in SEPARATORS}
    return max(cells, key=cells.get), text


def _cells(line, separator):
    """How many cells a separator makes of a line; none where one is longer than any cell."""
    try:
        return len(next(csv.reader([line], delimiter=separator), []))
    except csv.Error:
        return 0


def _lines(path, text, separator):
    """(number, cells) of every line that is not blank."""
    options = {"delimiter": separator, "skipinitialspace": True, "strict": True}
    reader, lines = csv.reader(io.StringIO(text, newline=""), **options), []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; look for a quote that is not closed"
        ) from None
    return lines
