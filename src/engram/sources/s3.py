"""Buckets of S3 and of servers that speak like it, over plain HTTPS.

Requests are anonymous unless asked otherwise; then each is signed (AWS Signature Version 4) with
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if set, AWS_SESSION_TOKEN.
"""

import datetime
import hashlib
import hmac
import os
import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from xml.etree import ElementTree

from engram.errors import InputError
from engram.sources import File, chosen, selected
from engram.web import LIMITS, origin, read, shown

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

REGION = "us-east-1"
EMPTY = hashlib.sha256().hexdigest()
MAX_PAGES = 10_000  # of 1000 files


def list_files(
    spec,
    *,
    include=(),
    exclude=(),
    endpoint=None,
    region=None,
    anonymous=True,
    max_pages=MAX_PAGES,
    limits=LIMITS,
) -> list[File]:
    """The files of a bucket, or of a folder in it.

    Args:
        spec: "bucket" or "bucket/folder"; paths are relative to the folder.
        include, exclude: see `engram.sources.chosen`.
        endpoint: URL of another server; by default Amazon's.
        region: of the bucket; by default AWS_REGION, or that Amazon finds it.
        anonymous: whether to ask without credentials.
        max_pages: a listing that needs more is refused as endless.
        limits: see `engram.web`.

    Returns:
        Files with size; with md5 where the entity tag is one, which only an upload in one piece
        without a customer's key has.

    Raises:
        InputError: there is no such bucket or folder, access is refused, credentials are
            missing, or the listing repeats itself, never ends or has another form.
    """
    bucket, _, folder = spec.removeprefix("s3://").strip("/").partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise InputError(f"S3 bucket {bucket!r}: not a name of a bucket")
    base = _base(bucket, endpoint, region)
    headers = access(spec, endpoint=endpoint, region=region, anonymous=anonymous).get("headers")
    folder = f"{folder}/" if folder else ""
    files = []
    for key, size, tag in _objects(base, folder + _head(include), headers, max_pages, limits):
        path = key.removeprefix(folder)
        if not key.endswith("/") and chosen(path, include, exclude):
            plain = anonymous and re.fullmatch("[0-9a-f]{32}", tag)
            sums = {"md5": tag} if plain else {}
            files.append(File(path, f"{base}/{quote(key, safe='/')}", size, sums, tag))
    return selected(files, include, exclude, f"S3 {spec}")


def access(spec, *, endpoint=None, region=None, anonymous=True) -> dict:
    """Signatures for requests to the bucket, and to it alone; see `list_files`.

    Raises:
        InputError: `anonymous` is False and there are no credentials.
    """
    if anonymous:
        return {}
    try:
        key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    except KeyError as error:
        raise InputError(f"S3 {spec}: needs the environment variable {error}") from None
    bucket = spec.removeprefix("s3://").strip("/").partition("/")[0]
    home = origin(_base(bucket, endpoint, region))
    region, token = _region(region) or REGION, os.environ.get("AWS_SESSION_TOKEN")

    def headers(url):
        return signed(url, key, secret, region, token) if origin(url) == home else {}

    return {"headers": headers}


def signed(url, key, secret, region, token=None, now=None) -> dict[str, str]:
    """Headers that sign a GET request without a body.

    Method: AWS Signature Version 4, as Amazon documents it for S3.

    Args:
        url: as it will be sent, percent-encoded.
        key, secret, token: credentials.
        region: that the server thinks it is in.
        now: datetime in UTC, by default the present; a signature holds for 15 minutes.
    """
    parts, port = urlsplit(url), origin(url)[2]
    now = (now or datetime.datetime.now(datetime.UTC)).strftime("%Y%m%dT%H%M%SZ")
    usual = {"https": 443, "http": 80}[parts.scheme] == port
    headers = {
        "host": parts.hostname if usual else f"{parts.hostname}:{port}",
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": now,
    }
    if token:
        headers["x-amz-security-token"] = token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    query = urlencode(
        sorted(parse_qsl(parts.query, keep_blank_values=True)), quote_via=quote, safe=""
    )
    request = f"GET\n{parts.path or '/'}\n{query}\n{lines}\n{names}\n{EMPTY}"
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    found = f"AWS4{secret}".encode()
    for word in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}"):
        found = hmac.digest(found, word.encode(), "sha256")
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={found.hex()}"
    )
    del headers["host"]  # the client sends it itself
    return headers


def _region(region):
    return region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _base(bucket, endpoint, region):
    """URL of a bucket; one with a dot in its name has no certificate of its own."""
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}"
    server = f"s3.{_region(region)}.amazonaws.com" if _region(region) else "s3.amazonaws.com"
    return f"https://{server}/{bucket}" if "." in bucket else f"https://{bucket}.{server}"


def _head(include):
    """What all wanted paths begin with, so that the server need not list the rest."""
    heads = [re.split(r"[*?\[]", pattern, maxsplit=1)[0] for pattern in include]
    return os.path.commonprefix(heads)  # noqa: RUF071 - S3 compares letters, not folders


def _objects(base, prefix, headers, max_pages, limits):
    """(key, size, entity tag) of every object that begins with `prefix`."""
    query, seen = {"list-type": "2", "prefix": prefix}, set()
    for _ in range(max_pages):
        body, _ = read(
            f"{base}?{urlencode(query, quote_via=quote)}", headers=headers, limits=limits
        )
        page = _parsed(body, base)
        try:
            for entry in page.iterfind("{*}Contents"):
                tag = (entry.findtext("{*}ETag") or "").strip('"')
                yield entry.find("{*}Key").text, int(entry.findtext("{*}Size")), tag
        except (AttributeError, TypeError, ValueError):
            raise InputError(f"{shown(base)}: a listing of another form") from None
        if page.findtext("{*}IsTruncated") != "true":
            return
        following = page.findtext("{*}NextContinuationToken")
        if not following or following in seen:
            raise InputError(f"{shown(base)}: its listing repeats itself; refused")
        seen.add(following)
        query["continuation-token"] = following
    raise InputError(f"{shown(base)}: its listing does not end within {max_pages} pages; refused")


def _parsed(body, base):
    """The listing as a tree; a document type could define entities without end."""
    try:
        if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
            raise ElementTree.ParseError
        return ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise InputError(f"{shown(base)}: the answer is not a listing of a bucket") from None
