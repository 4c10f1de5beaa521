"""Files attached to releases on GitHub.

A token in GITHUB_TOKEN raises the number of requests allowed; it goes to the API alone.
"""

import json
import os
import re
from urllib.parse import quote, unquote, urlsplit

from engram.credentials import shown
from engram.errors import InputError
from engram.sources import File, selected
from engram.web.addresses import check_hop, check_url, origin
from engram.web.client import LIMITS, read

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

API = "https://api.github.com"
PER_PAGE = 100
MAX_PAGES = 10  # a release holds at most 1000 files


def list_files(
    spec, *, include=(), exclude=(), size=None, sha256=None, base=API, limits=LIMITS
) -> list[File]:
    """The files of a release, or one of them.

    Args:
        spec: "owner/name@tag"; or the address of a file, which costs no request:
            https://github.com/owner/name/releases/download/tag/file.
        include, exclude: see `engram.sources.chosen`.
        size, sha256: of the file, if `spec` is an address.
        base: URL of the API.
        limits: see `engram.web.client`.

    Returns:
        Files with size, and sha256 where GitHub states it.

    Raises:
        InputError: there is no such release, or requests are used up.
    """
    if "://" in spec:
        check_url(spec)
        tag, _, name = urlsplit(spec).path.partition("/releases/download/")[2].partition("/")
        if not name:
            raise InputError(f"{shown(spec)}: not the address of a file of a release")
        return [File(unquote(name), spec, size, {"sha256": sha256}, unquote(tag))]
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)@(\S+)", spec)
    if not match or ".." in spec:
        raise InputError(f"GitHub release {spec!r}: write owner/name@tag")
    repository, tag = match.groups()
    release = _ask(f"{base}/repos/{repository}/releases/tags/{quote(tag, safe='')}", base, limits)
    try:
        assets = f"{base}/repos/{repository}/releases/{int(release['id'])}/assets"
        files = [_file(asset, tag, base) for asset in _assets(assets, base, limits)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{shown(base)}: an answer of another form ({error})") from None
    return selected(files, include, exclude, f"GitHub release {spec}")


def access(spec="", base=API) -> dict:
    """The token of GITHUB_TOKEN, for the API alone; see `list_files`."""
    check_url(base)
    token, home = os.environ.get("GITHUB_TOKEN", "").strip(), origin(base)

    def headers(url):
        return {"Authorization": f"Bearer {token}"} if token and origin(url) == home else {}

    return {"headers": headers, "home": spec if "://" in spec else base}


def _assets(url, base, limits):
    for page in range(1, MAX_PAGES + 1):
        found = _ask(f"{url}?per_page={PER_PAGE}&page={page}", base, limits)
        yield from found
        if len(found) < PER_PAGE:
            return
    raise InputError(f"{shown(url)}: its listing does not end; refused")


def _ask(url, base, limits):
    body, _ = read(url, headers=access(base=base)["headers"], limits=limits)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InputError(f"{shown(url)}: the answer is not JSON; is it the API?") from None


def _file(asset, tag, base):
    url = asset["browser_download_url"]
    check_hop(base, url)
    algorithm, _, value = (asset.get("digest") or "").partition(":")
    sums = {algorithm: value} if algorithm == "sha256" else {}
    return File(asset["name"], url, asset["size"], sums, tag)
