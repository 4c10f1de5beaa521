"""What a server says of the file that it sends, and whether that can be believed."""

import email.utils
import re

from engram.credentials import shown
from engram.errors import InputError

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".br", ".z")
SPAN = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", re.ASCII)


def said_of(response, url, start) -> dict:
    """What an answer says of the whole file.

    Args:
        response: of `engram.web.client.Client.ask`.
        url: that was asked.
        start: first byte that was asked for.

    Returns:
        dict of url, size (None: not said; -1: not of the range asked for), etag (a strong one),
        modified, and validator: by which the server can tell whether the file is the same.

    Raises:
        InputError: the file comes in a coding that would be kept as part of it.
    """
    headers = response.headers
    framing = headers.get("Transfer-Encoding", "")
    if framing.lower() not in ("", "chunked"):
        raise InputError(f"{shown(url)}: sends the file in the coding {framing[:40]!a}; refused")
    if response.status_code == 206:
        span = SPAN.fullmatch(headers.get("Content-Range", ""))
        size = int(span[2]) if span and int(span[1]) == start else -1
    else:
        size = None if framing else _length(headers)
    etag, modified = headers.get("ETag"), headers.get("Last-Modified")
    strong = etag if etag and not etag.startswith("W/") else None
    return {
        "url": shown(url),
        "size": size,
        "etag": strong,
        "modified": modified,
        "validator": strong or (modified if _settled(headers) else None),
    }


def _length(headers):
    lengths = {one.strip() for one in headers.get("Content-Length", "").split(",")}
    length = lengths.pop() if len(lengths) == 1 else ""
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


def _settled(headers):
    """Whether the date of change tells states of a file apart: it is a minute old (RFC 9110)."""
    try:
        dates = [email.utils.parsedate_to_datetime(headers[k]) for k in ("Last-Modified", "Date")]
        return (dates[1] - dates[0]).total_seconds() >= 60
    except (KeyError, ValueError, TypeError, OverflowError):
        return False


def same(before, now, verified) -> bool:
    """Whether two answers, see `said_of`, are about the same bytes.

    Args:
        before, now: what was said; of `before` anything may be missing.
        verified: whether a checksum will be held against all bytes.  Then an answer may leave out
            what it said before.
    """
    if now["size"] == -1 or before.get("size") not in (None, now["size"]):
        return False
    pairs = [(before.get(key), now[key]) for key in ("etag", "modified")]
    if verified:
        return all(new in (None, old) for old, new in pairs)
    return all(new == old for old, new in pairs if old)


def check_sent(response, url, name, said, known, verified):
    """Refuse a file of which nobody could say whether it is whole.

    Args:
        response, url, said: see `said_of`.
        name: of the file.
        known: whether its size or a checksum is.
        verified: whether a checksum is.

    Raises:
        InputError: its end is that of the connection, or it is packed though nobody asked.
    """
    if said["size"] is None and not (known or response.raw.chunked):
        raise InputError(
            f"{shown(url)}: does not say where the file ends, so that one that was cut looks like "
            "a whole one; state its `size` or a checksum"
        )
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("identity", "") and not verified and not name.lower().endswith(PACKED):
        raise InputError(
            f"{shown(url)}: sends the file packed ({coding[:20]}), which nobody asked for; state a "
            "checksum of what is to be kept"
        )
