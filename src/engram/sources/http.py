"""Files at plain addresses, given one by one."""

from urllib.parse import unquote, urlsplit

from engram.errors import InputError
from engram.sources import File, selected
from engram.web.client import shown
from engram.web.transfer import HASH_LENGTHS

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

KEYS = {"url", "path", "size", "version", *HASH_LENGTHS}


def list_files(spec, *, include=(), exclude=()) -> list[File]:
    """The files of a list; no request is made.

    Args:
        spec: dicts of url and, if known, path (else the end of the URL), size, version and
            checksums (sha256, md5, ...).
        include, exclude: see `engram.sources.chosen`.

    Raises:
        InputError: an entry has unknown keys, or no url.
    """
    return selected(map(_file, spec), include, exclude, "list of files")


def access() -> dict:
    """Nothing but the address is needed."""
    return {}


def _file(entry):
    unknown = set(entry) - KEYS
    if unknown or "url" not in entry:
        raise InputError(
            f"file {shown(entry.get('url', ''))}: "
            + (f"unknown key {min(unknown)!r}; there is " if unknown else "needs `url` of ")
            + ", ".join(sorted(KEYS))
        )
    url = entry["url"]
    path = entry.get("path") or unquote(urlsplit(url).path.rpartition("/")[2])
    sums = {name: entry[name] for name in HASH_LENGTHS if name in entry}
    return File(path, url, entry.get("size"), sums, entry.get("version", ""))
