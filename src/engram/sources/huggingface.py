"""Models and data sets of the Hugging Face hub, at a pinned revision.

A token is read from HF_TOKEN and goes to the hub alone.
"""

import json
import os
import re
from urllib.parse import quote

from engram.credentials import shown
from engram.errors import InputError
from engram.sources import File, selected
from engram.web.addresses import check_url, origin
from engram.web.client import LIMITS, read

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

HUB = "https://huggingface.co"
UNDER = {"model": "", "dataset": "datasets/"}  # of the address of a repository


def list_files(
    spec, *, revision="main", include=(), exclude=(), kind="model", endpoint=None, limits=LIMITS
) -> list[File]:
    """The files of a repository.

    Args:
        spec: "owner/name".
        revision: commit, tag or branch; the addresses hold the commit it stands for today.
        include, exclude: see `engram.sources.chosen`.
        kind: "model" or "dataset".
        endpoint: URL of the hub; by default HF_ENDPOINT or huggingface.co.
        limits: see `engram.web.client`.

    Returns:
        Files with size, and sha256 where the hub states it: of large ones.

    Raises:
        InputError: there is no such repository or revision, its terms were not accepted, or the
            hub does not answer.
    """
    endpoint = _endpoint(endpoint)
    if kind not in UNDER:
        raise InputError(f"{kind!r}: the hub has {' and '.join(UNDER)}; correct `kind`")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec, re.ASCII) or ".." in spec:
        raise InputError(f"hub repository {spec!r}: not a name of one; write owner/name")
    where = f"{shown(endpoint)}: {kind} {spec} at {revision}"
    url = f"{endpoint}/api/{kind}s/{spec}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        body, _ = read(url, headers=access(endpoint)["headers"], limits=limits)
    except InputError as error:
        unknown = "" if os.environ.get("HF_TOKEN") else "; HF_TOKEN is not set"
        raise InputError(f"{where}: {error}{unknown}") from None
    try:
        found = json.loads(body)
        commit = re.fullmatch("[0-9a-f]{40}", found["sha"])[0]
        under = f"{endpoint}/{UNDER[kind]}{spec}/resolve/{commit}"
        files = [_file(one, under, commit) for one in found["siblings"]]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{where}: no usable answer ({type(error).__name__})") from None
    return selected(files, include, exclude, where)


def access(endpoint=None) -> dict:
    """The token of HF_TOKEN, for the hub alone."""
    token, home = os.environ.get("HF_TOKEN", "").strip(), origin(_endpoint(endpoint))

    def headers(url):
        return {"Authorization": f"Bearer {token}"} if token and origin(url) == home else {}

    return {"headers": headers}


def _endpoint(endpoint):
    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    check_url(endpoint)
    return endpoint


def _file(entry, under, commit):
    name, large = entry["rfilename"], entry.get("lfs")
    sums = {"sha256": large["sha256"]} if large else {}
    return File(name, f"{under}/{quote(name)}", entry.get("size"), sums, commit)
