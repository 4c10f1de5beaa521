"""Public files on Google Drive, by their ids.

Drive states neither names nor checksums; give them if you know them, or record them after the
first download (`engram.sources.record`).
"""

import re
from html.parser import HTMLParser
from urllib.parse import urlencode, urlsplit

from engram.errors import InputError
from engram.sources import File, selected
from engram.web.addresses import check_url, joined, origin

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

DRIVE = "https://drive.usercontent.google.com"


def list_files(spec, *, include=(), exclude=(), base=DRIVE) -> list[File]:
    """The files of a list; no request is made.

    Args:
        spec: dicts of id, path and, if known, size, sha256, md5.
        include, exclude: see `engram.sources.chosen`.
        base: URL of the service.

    Raises:
        InputError: an entry has no id or path, or unknown keys.
    """
    return selected((_file(entry, base) for entry in spec), include, exclude, "Google Drive")


def access() -> dict:
    """How to get past the page that asks whether a large file may come unscanned."""
    return {"page": confirmed}


def confirmed(url, text) -> str:
    """Where the form of a confirmation page leads.

    Args:
        url: of the page.
        text: the page, HTML.

    Raises:
        InputError: the page is another one: a login, a used-up quota, a form that leads
            elsewhere.
    """
    form = _Form()
    form.feed(text)
    target = joined(url, form.action or "")
    check_url(target)
    if "confirm=" in urlsplit(url).query or "confirm" not in form.fields:
        raise InputError(
            "Google Drive shows a page instead of the file: it is not public, does not exist, or "
            "too many people fetched it today; look at it in a browser"
        )
    if origin(target) != origin(url):
        raise InputError("Google Drive's confirmation page leads elsewhere; refused")
    return f"{target.partition('?')[0]}?{urlencode(form.fields)}"


def _file(entry, base):
    if not isinstance(entry, dict):
        raise InputError(f"Google Drive file {str(entry)[:100]!a}: needs id, path")
    unknown = {str(key) for key in entry} - {"id", "path", "size", "sha256", "md5"}
    if unknown or not {"id", "path"} <= set(entry):
        raise InputError(
            f"Google Drive file {entry.get('path')!r}: needs id, path; may have "
            "size, sha256, md5; nothing else"
        )
    if not re.fullmatch(r"[\w-]+", str(entry["id"])):
        raise InputError(f"Google Drive file {entry['path']!r}: {entry['id']!r} is not an id")
    query = urlencode({"id": entry["id"], "export": "download"})
    sums = {name: entry.get(name) for name in ("sha256", "md5")}
    return File(
        str(entry["path"]), f"{base}/download?{query}", entry.get("size"), sums, str(entry["id"])
    )


class _Form(HTMLParser):
    """Address and hidden fields of the first form of a page that has any."""

    def __init__(self):
        super().__init__()
        self.action, self.fields, self.inside = None, {}, False

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form" and not self.fields:
            self.action, self.inside = attrs.get("action"), True
        elif tag == "input" and self.inside and attrs.get("type") == "hidden":
            self.fields[attrs.get("name", "")] = attrs.get("value", "")

    def handle_endtag(self, tag):
        if tag == "form":
            self.inside = False
