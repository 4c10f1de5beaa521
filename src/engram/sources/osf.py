"""Projects of the Open Science Framework, over its API (version 2).

Requests are scarce there, 100 an hour without a token: folders that cannot hold a wanted file
are not asked for, and pages are as long as they may be.  Private projects need a personal access
token in the environment variable OSF_TOKEN; it goes to the OSF itself and to nobody else.
"""

import json
import os
import re

from engram.credentials import shown
from engram.errors import InputError
from engram.sources import File, may_hold, selected
from engram.web.addresses import check_hop, check_url, origin
from engram.web.client import LIMITS, TooManyRequests, read
from engram.web.safe_files import clean_name

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

API = "https://api.osf.io/v2"
# The OSF's own download addresses, which check the token before they redirect to a storage host.
DOWNLOAD = {("https", "osf.io", 443), ("https", "files.osf.io", 443)}
PAGE = "page%5Bsize%5D=100"
MAX_REQUESTS = 10_000
MAX_DEPTH = 50  # folders and components in each other


def list_files(
    spec,
    *,
    include=(),
    exclude=(),
    components=False,
    providers=("osfstorage",),
    base=API,
    max_requests=MAX_REQUESTS,
    limits=LIMITS,
) -> list[File]:
    """The files of a project.

    Args:
        spec: id of the project or component, e.g. "abcde".
        include, exclude: see `engram.sources.chosen`; folders that cannot match are not asked
            for.
        components: take the child components too, each under a folder called as its id.
        providers: storages to take; those but osfstorage are a folder each.
        base: URL of the API.
        max_requests: a listing that needs more is refused as endless.
        limits: see `engram.web.client`.

    Returns:
        Files with size, version, sha256 and md5, as far as the OSF states them.

    Raises:
        InputError: there is no such project or it is private, requests are used up, or the
            listing repeats itself, never ends, leads elsewhere or has another form.
    """
    api = _Api(base.rstrip("/"), access(base)["headers"], max_requests, limits)
    files = _node(api, spec, "", include, exclude, components, providers)
    return selected(files, include, exclude, f"OSF project {spec}")


def access(base=API) -> dict:
    """The token of OSF_TOKEN, for the API and the OSF's own download addresses alone."""
    check_url(base)
    token = os.environ.get("OSF_TOKEN", "").strip()
    home = origin(base)
    trusted = {home} | (DOWNLOAD if home == origin(API) else set())

    def headers(url):
        return {"Authorization": f"Bearer {token}"} if token and origin(url) in trusted else {}

    return {"headers": headers, "home": base}


class _Api:
    """Lists of the API, page by page, counted."""

    def __init__(self, base, headers, max_requests, limits):
        self.base, self.headers, self.max_requests = base, headers, max_requests
        self.limits, self.seen = limits, set()

    def entries(self, url):
        """All entries of a list."""
        url = f"{url}{'&' if '?' in url else '?'}{PAGE}"
        while url:
            page = self._ask(url)
            yield from page["data"]
            url = page.get("links", {}).get("next")

    def _ask(self, url):
        check_url(url)
        if origin(url) != origin(self.base):
            raise InputError(f"{self.base}: its listing leads to {shown(url)}; refused")
        if url in self.seen:
            raise InputError(f"{shown(url)}: its listing repeats itself; refused")
        if len(self.seen) >= self.max_requests:
            raise InputError(
                f"{shown(url)}: its listing does not end within {self.max_requests} requests; "
                "narrow `include`"
            )
        self.seen.add(url)
        try:
            body, _ = read(url, headers=self.headers, limits=self.limits)
        except TooManyRequests as error:
            raise InputError(
                f"{error}. This listing made {len(self.seen)} requests; the OSF allows 100 an "
                "hour without a token: set OSF_TOKEN, narrow `include`, or wait an hour"
            ) from None
        try:
            page = json.loads(body)
            if not isinstance(page["data"], list):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{shown(url)}: the answer is not a listing; is it the API?") from None
        return page


def _node(api, node, under, include, exclude, components, providers):
    if not re.fullmatch(r"[A-Za-z0-9_]+", str(node)):
        raise InputError(f"OSF project {node!r}: an id has letters and digits alone")
    root = f"{api.base}/nodes/{node}"
    try:
        found = {e["attributes"]["provider"]: _below(e) for e in api.entries(f"{root}/files/")}
        for name in providers:
            if name not in found:
                raise InputError(
                    f"OSF project {node}: no storage {name!r}; there is {', '.join(found)}"
                )
            folder = under if name == "osfstorage" else f"{under}{name}/"
            yield from _folder(api, found[name], folder, include, exclude)
        for child in api.entries(f"{root}/children/") if components else ():
            folder = f"{under}{clean_name(child['id'])}"
            if folder.count("/") > MAX_DEPTH:
                raise InputError(f"{root}: more than {MAX_DEPTH} components in each other; refused")
            if may_hold(folder, include, exclude):
                yield from _node(
                    api, child["id"], f"{folder}/", include, exclude, components, providers
                )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{shown(root)}: the API's answer has another form ({error}); Engram must be adapted"
        ) from None


def _folder(api, url, under, include, exclude):
    for entry in api.entries(url):
        attributes = entry["attributes"]
        path = under + clean_name(attributes["name"])
        if path.count("/") > MAX_DEPTH:
            raise InputError(f"{shown(url)}: more than {MAX_DEPTH} folders in each other; refused")
        if "/" in attributes["name"]:
            raise InputError(f"{shown(url)}: name {attributes['name']!a} has a slash; refused")
        if attributes["kind"] == "folder":
            if may_hold(path, include, exclude):
                yield from _folder(api, _below(entry), f"{path}/", include, exclude)
        else:
            yield _file(api, path, entry)


def _file(api, path, entry):
    attributes, url = entry["attributes"], entry["links"]["download"]
    check_hop(api.base, url)
    hashes = (attributes.get("extra") or {}).get("hashes") or {}
    sums = {name: hashes.get(name) for name in ("sha256", "md5")}
    return File(path, url, attributes.get("size"), sums, attributes.get("current_version"))


def _below(entry):
    return entry["relationships"]["files"]["links"]["related"]["href"]
