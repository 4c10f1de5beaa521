"""Where data and weights are published: one file a kind of publisher.

Each module has two functions:

- ``list_files(spec, ...)`` asks a publisher what there is and returns a list of `File`;
- ``access(...)`` returns the arguments that ``engram.web.transfer.fetch_all`` needs to reach those
  files beside their addresses: headers with a token, or how to get past a confirmation page.

A listing is kept as a lock file, which a person can review and commit:
``write_lock("data.lock.csv", osf.list_files("abcde"))``, then
``fetch_all(read_lock("data.lock.csv"), folder, **osf.access())``.  `engram.downloads` records
what a first download has where the publisher gives no checksum.
"""

import csv
import dataclasses
import fnmatch
import io
import itertools
import unicodedata
from pathlib import Path

from engram.credentials import kept
from engram.disk import replaced
from engram.errors import InputError
from engram.web.addresses import check_url
from engram.web.checksums import checked_sums
from engram.web.safe_files import clean_name

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

MOST = 1_000_000  # files of one listing
COLUMNS = ("path", "size", "checksums", "version", "url")


@dataclasses.dataclass(frozen=True)
class File:
    """One published file.

    Attributes:
        path: relative, with ``/``; checked by `engram.web.safe_files.clean_name`.
        url: where its bytes are; checked by `engram.web.addresses.check_url`.
        size: bytes, None if the publisher does not say.
        checksums: dict of algorithm to hex digits, see `engram.web.transfer.fetch`.
        version: the publisher's word for this state of the file.
        stated: where this was read: a lock file and its line.

    Raises:
        InputError: the path is harmful, or address, size or checksums are not what they should be.
    """

    path: str
    url: str
    size: int | None = None
    checksums: dict[str, str] = dataclasses.field(default_factory=dict)
    version: str = ""
    stated: str = dataclasses.field(default="", compare=False)

    def __post_init__(self):
        object.__setattr__(self, "path", clean_name(self.path))
        check_url(self.url)
        object.__setattr__(self, "checksums", checked_sums(self.path, self.checksums))
        object.__setattr__(self, "version", str(self.version or ""))
        if isinstance(self.size, bool) or not isinstance(self.size, int | None):
            raise InputError(f"{self.path}: {self.size!r} is not a size in bytes")
        if (self.size or 0) < 0:
            raise InputError(f"{self.path}: {self.size!r} is not a size in bytes")


def chosen(path, include=(), exclude=()) -> bool:
    """Whether a file is wanted.

    A pattern is matched part by part: ``*`` stays within a folder, ``**`` is any number of
    folders, and a pattern that matches a folder takes everything in it.

    Args:
        path: of the file, relative, with ``/``.
        include: patterns, one of which must match; none means everything.
        exclude: patterns, none of which may match.
    """
    return (not include or _any(include, path, _covers)) and not _any(exclude, path, _covers)


def may_hold(folder, include=(), exclude=()) -> bool:
    """Whether there can be wanted files in a folder; see `chosen`."""
    return (not include or _any(include, folder, _leads)) and not _any(exclude, folder, _covers)


def selected(files, include, exclude, where) -> list[File]:
    """The wanted ones of `files`, sorted by path.

    Raises:
        InputError: two files have one path, there are more than a person can mean, or a pattern
            of `include` fits no file.
    """
    wanted = (file for file in files if chosen(file.path, include, exclude))
    files = sorted(itertools.islice(wanted, MOST + 1), key=lambda file: file.path)
    if len(files) > MOST:
        raise InputError(f"{where}: lists more than {MOST:,} files; narrow `include`")
    for one, other in itertools.pairwise(files):
        if one.path == other.path:
            raise InputError(f"{where}: lists {one.path!r} twice; refused")
    for pattern in include:
        if not any(chosen(file.path, [pattern]) for file in files):
            raise InputError(f"{where}: no file fits the pattern {pattern!r}; correct `include`")
    if not files:
        raise InputError(f"{where}: no file to fetch; correct the address or `exclude`")
    return files


def _any(patterns, path, fits):
    parts = path.split("/")
    return any(fits(unicodedata.normalize("NFC", p).split("/"), parts) for p in patterns)


def _covers(pattern, parts):
    """Whether a pattern matches a path or a folder above it."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_covers(pattern[1:], parts[i:]) for i in range(len(parts) + 1))
    return (
        bool(parts)
        and fnmatch.fnmatchcase(parts[0], pattern[0])
        and _covers(pattern[1:], parts[1:])
    )


def _leads(pattern, parts):
    """Whether a pattern can match something in a folder."""
    if not pattern or not parts or pattern[0] == "**":
        return True
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _leads(pattern[1:], parts[1:])


def write_lock(path, files):
    """Write what is to be fetched as a table: sorted by path, the same bytes for the same files.

    Signatures and tokens in addresses are left out: a lock file is committed.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for file in selected(files, (), (), path):
        sums = " ".join(f"{name}:{value}" for name, value in sorted(file.checksums.items()))
        size = "" if file.size is None else file.size
        table.writerow((file.path, size, sums, file.version, kept(file.url)))
    with replaced(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")


def read_lock(path) -> list[File]:
    """The files of a lock file.

    Raises:
        InputError: names the file, the line and what is wrong there.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable lock file ({error}); write it anew") from None
    if not rows or tuple(rows[0]) != COLUMNS:
        raise InputError(f"{path}: not a lock file; its first line must be {','.join(COLUMNS)}")
    files = []
    for number, row in enumerate(rows[1:], 2):
        try:
            name, size, sums, version, url = row
            pairs = dict(pair.split(":") for pair in sums.split())
            stated = f"{path}, line {number}"
            files.append(File(name, url, int(size) if size else None, pairs, version, stated))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        except ValueError:
            raise InputError(
                f"{path}, line {number}: expected {', '.join(COLUMNS)}; correct the line"
            ) from None
    return selected(files, (), (), path)
