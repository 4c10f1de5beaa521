"""Files at plain addresses, given one by one."""

from urllib.parse import unquote, urlsplit

from engram.credentials import filled, refuse_secrets, shown
from engram.errors import InputError
from engram.sources import File, selected
from engram.web.addresses import check_url
from engram.web.checksums import HASH_LENGTHS

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

KEYS = {"url", "path", "size", "version", *HASH_LENGTHS}


def list_files(spec, *, include=(), exclude=()) -> list[File]:
    """The files of a list; no request is made.

    Args:
        spec: dicts of url and, if known, path (else the end of the URL), size, version and
            checksums (sha256, md5, ...).  `$NAME` in the query of a url stands for a variable of
            the environment; a signature or a token itself is refused, for it would be written down.
        include, exclude: see `engram.sources.chosen`.

    Raises:
        InputError: an entry has unknown keys, no url, or a secret in it.
    """
    return selected(map(_file, spec), include, exclude, "list of files")


def access() -> dict:
    """What the addresses take from the environment: `$NAME` in a query."""
    return {"filled": filled}


def _file(entry):
    if not isinstance(entry, dict):
        raise InputError(f"file {str(entry)[:100]!a}: write `url: ADDRESS`, and what else is known")
    unknown = {str(key) for key in entry} - KEYS
    if unknown or "url" not in entry:
        raise InputError(
            f"file {shown(entry.get('url', ''))}: "
            + (f"unknown key {min(unknown)!r}; there is " if unknown else "needs `url` of ")
            + ", ".join(sorted(KEYS))
        )
    url = entry["url"]
    check_url(url)
    refuse_secrets(url)
    path = entry.get("path") or unquote(urlsplit(url).path.rpartition("/")[2])
    sums = {name: entry[name] for name in HASH_LENGTHS if name in entry}
    return File(str(path), url, entry.get("size"), sums, entry.get("version", ""))
