"""Files over HTTP: verified, resumable, atomic, and suspicious of what servers say.

A download grows in ``<path>.part``; beside it, ``<path>.part.json`` holds what the server said
about the file, so that a later run continues only what is still the same file.  Others see a
file at `path` that is absent, or complete and verified.
"""

import contextlib
import dataclasses
import functools
import hashlib
import http.cookiejar
import ipaddress
import json
import logging
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from engram import __version__
from engram.errors import InputError
from engram.progress import progress
from engram.safe_files import locked, safe_name, sync_folder

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

PART, NOTES = ".part", ".part.json"
CHUNK = 1 << 20
PROGRESS = 1 << 20  # new bytes that make up for a failure: a long download may be cut often
PAGE = 1 << 20  # bytes read of a page that came instead of data
TEMPORARY = (429, 500, 502, 503, 504)
HASH_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
SHORTEST_PREFIX = 8  # hex digits of a SHA-256 in a published file name


def _without_query(record):
    """Keep signatures and keys out of the debugging log of urllib3."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            re.sub(r"\?.*", "", value) if isinstance(value, str) else value for value in record.args
        )
    return True


for _name in ("urllib3.connectionpool", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_without_query)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long, how often and how much a download may take.

    Attributes:
        connect: seconds to wait for a connection.
        read: seconds to wait for the next bytes.
        retries: failures in a row, without a megabyte of progress, that are tried again.
        backoff: seconds before the first such try; doubles each time.
        longest_wait: seconds; a cap on `backoff` and on what Retry-After asks for.
        redirects: hops from the URL asked for to the data.
        max_bytes: largest file accepted, None for no cap but the declared size.
        per_host: files `fetch_all` takes from one host at a time.
        offline: open no socket; a missing file is an error.
    """

    connect: float = 10.0
    read: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 120.0
    redirects: int = 5
    max_bytes: int | None = None
    per_host: int = 2
    offline: bool = False


LIMITS = Limits()


class TooManyRequests(InputError):
    """The server still answers 429 after every wait it asked for."""


class _Failed(Exception):
    """What went wrong, and may go better next time."""


class _Stopped(Exception):
    """Another file of the same call was interrupted."""


def fetch(url, path, *, size=None, checksums=None, headers=None, page=None, limits=LIMITS) -> Path:
    """Download one file, atomically, continuing what an earlier run left.

    A file already at `path` that fits `size` and `checksums` is left alone, without a request;
    so is any file if neither is given.  Its mtime is the time of the download.

    Args:
        url: http or https address without credentials.
        path: where the file goes; its folder is made.
        size: declared bytes.
        checksums: dict of md5, sha1, sha256, sha512 to hex digits; a sha256 may be a prefix of
            8 digits or more.
        headers: dict, sent only to the host of `url`; or a function of a URL that returns the
            headers for it, asked before every request, redirects included.
        page: function (url, text) -> url, asked when a web page comes instead of data, e.g.
            one that wants a confirmation; None means that a page is refused.
        limits: a `Limits`.

    Returns:
        `path`.

    Raises:
        InputError: the file cannot be had, is not what was declared, or a server misbehaves.
    """
    with _session(limits) as session, _bar(size, Path(path).name) as count:
        ask = functools.partial(_ask, session, headers=headers, page=page, limits=limits)
        return _Download(url, path, size, checksums, ask, limits, count).run()


def fetch_all(files, folder, parallel=4, *, headers=None, page=None, limits=LIMITS) -> list[Path]:
    """Download several files into `folder`, some at a time; finished files stay whatever happens.

    Args:
        files: objects with path (relative), url, size and checksums, e.g. `engram.sources.File`.
        folder: where they go.
        parallel: files at a time, at most `limits.per_host` of them from one host.
        headers, page, limits: see `fetch`; a dict of headers goes to the host of each file.

    Returns:
        Their paths, in order.

    Raises:
        InputError: lists every file that failed.
    """
    files = list(files)
    paths = [safe_name(folder, file.path) for file in files]
    taken = {path.with_name(path.name + suffix) for path in paths for suffix in (PART, NOTES)}
    if len(set(paths)) < len(paths) or taken & set(paths):
        raise InputError(f"{folder}: two files have the same name; leave one out")
    sizes = [file.size for file in files]
    hosts = {file.url: urlsplit(file.url).netloc for file in files}
    turns = {host: threading.Semaphore(limits.per_host) for host in hosts.values()}
    stop = threading.Event()

    def one(file, path):
        with turns[hosts[file.url]]:
            if stop.is_set():
                return None
            _Download(file.url, path, file.size, file.checksums, ask, limits, count, stop).run()

    with (
        _session(limits, parallel) as session,
        _bar(None if None in sizes else sum(sizes), f"{len(files)} files") as count,
        ThreadPoolExecutor(parallel) as pool,
    ):
        ask = functools.partial(_ask, session, headers=headers, page=page, limits=limits)
        jobs = [pool.submit(one, *pair) for pair in zip(files, paths, strict=True)]
        try:
            problems = [job.exception() for job in jobs]
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    for problem in problems:
        if problem and not isinstance(problem, InputError):
            raise problem
    problems = [str(problem) for problem in problems if problem]
    if problems:
        raise InputError(
            f"{len(problems)} of {len(files)} files could not be fetched, the others are there; "
            f"run again to continue: {'; '.join(problems)}"
        )
    return paths


def read(url, *, headers=None, limits=LIMITS, max_bytes=64 << 20) -> tuple[bytes, dict]:
    """A small document, e.g. one page of a listing, with the care that `fetch` takes.

    Args:
        url, headers, limits: see `fetch`.
        max_bytes: largest document accepted.

    Returns:
        Its bytes, and the headers of the answer.

    Raises:
        InputError: it cannot be had or is too long.
    """
    _check_url(url)
    if limits.offline:
        raise InputError(f"{shown(url)}: not asked, because of offline mode; use the lock file")
    with _session(limits) as session:

        def attempt():
            with _ask(session, url, headers=headers, limits=limits) as response:
                return _body(response, url, max_bytes), response.headers

        return _repeated(attempt, url, limits)


class _Download:
    """One file on its way to its place."""

    def __init__(self, url, path, size, checksums, ask, limits, count, stop=None):
        self.url, self.path, self.size = url, Path(path), size
        self.checksums = checked_sums(self.path, checksums)
        self.ask, self.limits, self.count, self.stop = ask, limits, count, stop
        self.part = self.path.with_name(self.path.name + PART)
        self.notes = self.path.with_name(self.path.name + NOTES)
        self.counted = 0

    def run(self):
        try:
            if self._is_there():
                return self.path
            if self.limits.offline:
                raise InputError(
                    f"{self.path}: missing, and offline mode allows no download; "
                    f"put the file from {shown(self.url)}{self._declared()} there"
                )
            _check_url(self.url)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.part) as file:
                try:
                    if not self._is_there():  # another process may have been faster
                        _repeated(lambda: self._attempt(file), self.url, self.limits, file.tell)
                        self._publish(file)
                finally:
                    if not os.fstat(file.fileno()).st_size:
                        self._discard()
        except InputError as error:
            if str(self.path) in str(error):
                raise
            raise type(error)(f"{self.path}: {error}") from None
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror or type(error).__name__}); "
                "make room or correct the permissions, then run again to continue"
            ) from None
        return self.path

    def _declared(self):
        facts = [f"{self.size} bytes"] * (self.size is not None)
        facts += [f"{name} {value}" for name, value in self.checksums.items()]
        return f" ({', '.join(facts)})" if facts else ""

    def _is_there(self):
        """Whether the finished file is at its place.

        Raises:
            InputError: another file is.
        """
        if not self.path.exists():
            return False
        if not self.path.is_file():
            raise InputError(f"{self.path}: not a file; move it away")
        with self.path.open("rb") as file:
            problem = self._mismatch(self._sums(file), os.fstat(file.fileno()).st_size)
        if problem:
            raise InputError(f"{self.path}: {problem}; delete the file or correct the declaration")
        self._advance(self.size or 0)
        return True

    def _sums(self, file):
        """Digests of what lies in `file`, which is left at its end."""
        file.seek(0)
        sums = {name: hashlib.new(name, usedforsecurity=False) for name in self.checksums}
        while sums and (chunk := file.read(CHUNK)):
            for value in sums.values():
                value.update(chunk)
        file.seek(0, os.SEEK_END)
        return sums

    def _mismatch(self, sums, size):
        if self.size is not None and size != self.size:
            return f"{size} bytes instead of {self.size}"
        for name, wanted in self.checksums.items():
            found = sums[name].hexdigest()
            if not found.startswith(wanted):
                return f"{name} is {found} instead of {wanted}"
        return None

    def _attempt(self, file):
        """Ask for what is missing and receive it."""
        notes = self._read_notes()
        start = file.seek(0, os.SEEK_END)
        known = notes.get("size")
        if not (notes.get("etag") or known) or (known is not None and start > known):
            start = 0
        whole = start == 0  # in one piece, so that a mismatch is final
        if start and start == known:
            return self._check(file, self._sums(file), whole)
        extra = {"Range": f"bytes={start}-"} if start else {}
        if start and notes.get("etag"):
            extra["If-Range"] = notes["etag"]
        with self.ask(self.url, extra=extra, name=self.path.name) as response:
            if response.status_code == 206:
                said = self._said(response, start)
                if not _same(notes, said):
                    self._forget(file)
                    raise _Failed("the file has changed since the download began")
                notes = said
            else:
                start, whole = 0, True
                notes = self._said(response, 0)
                self._forget(file)
                self.notes.write_text(json.dumps(notes))
            self._check_size(notes["size"])
            sums = self._sums(file)
            self._advance(start)
            self._receive(response, file, sums)
        reached = file.tell()
        if notes["size"] is not None and reached < notes["size"]:
            raise _Failed(f"the connection was cut after {reached} of {notes['size']} bytes")
        if self.size is not None and reached < self.size:
            raise _Failed(f"the connection was cut after {reached} of {self.size} bytes")
        return self._check(file, sums, whole and notes["size"] is not None)

    def _said(self, response, start):
        """What the server says about the whole file; size -1 if not about the range asked for."""
        headers = response.headers
        if response.status_code == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
            size = int(span[2]) if span and int(span[1]) == start else -1
        else:
            length = headers.get("Content-Length", "")
            size = int(length) if length.isdecimal() else None
        etag = headers.get("ETag")
        strong = etag if etag and not etag.startswith("W/") else None
        return {
            "url": shown(self.url),
            "size": size,
            "etag": strong,
            "modified": headers.get("Last-Modified"),
        }

    def _read_notes(self):
        try:
            notes = json.loads(self.notes.read_text())
        except (OSError, ValueError):
            return {}
        ours = isinstance(notes, dict) and notes.get("url") == shown(self.url)
        return notes if ours else {}

    def _check_size(self, size):
        if size is None:
            return
        if self.size is not None and size != self.size:
            self._discard()
            raise InputError(
                f"{shown(self.url)}: {size} bytes instead of the declared {self.size}; the file "
                "was changed by its publisher: look at it, then correct the declaration"
            )
        if self.limits.max_bytes is not None and size > self.limits.max_bytes:
            self._discard()
            raise InputError(
                f"{shown(self.url)}: {size} bytes, more than the {self.limits.max_bytes} allowed"
            )

    def _receive(self, response, file, sums):
        caps = [cap for cap in (self.size, self.limits.max_bytes) if cap is not None]
        for chunk in _chunks(response):
            if self.stop and self.stop.is_set():
                raise _Stopped
            if file.tell() == 0 and _looks_like_page(chunk) and not _is_page_name(self.path.name):
                self._discard()
                raise _page_error(self.url)
            if caps and file.tell() + len(chunk) > min(caps):
                self._discard()
                raise InputError(
                    f"{shown(self.url)}: sends more than the {min(caps)} bytes allowed"
                )
            file.write(chunk)
            for value in sums.values():
                value.update(chunk)
            self._advance(file.tell())

    def _check(self, file, sums, whole):
        problem = self._mismatch(sums, file.tell())
        if problem is None:
            return
        self._forget(file)
        if not whole:
            raise _Failed(f"{problem}: cut, or changed since the download began")
        self._discard()
        raise InputError(
            f"{shown(self.url)}: {problem}; what came was thrown away: the file was changed by "
            "its publisher or on the way; try again, then ask the publisher"
        )

    def _publish(self, file):
        file.flush()
        os.fsync(file.fileno())
        os.utime(self.part)
        os.replace(self.part, self.path)
        self.notes.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def _forget(self, file):
        self.notes.unlink(missing_ok=True)
        file.seek(0)
        file.truncate()

    def _discard(self):
        self.notes.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def _advance(self, position):
        self.count(position - self.counted)
        self.counted = position


def _same(notes, said):
    """Whether two answers are about the same bytes; an answer may leave out what it said before."""
    return notes.get("size") in (None, said["size"]) and all(
        said[key] in (None, notes.get(key)) for key in ("etag", "modified")
    )


def _repeated(attempt, url, limits, position=lambda: 0):
    """What `attempt` returns, tried again after failures while there is hope."""
    failures = best = 0
    while True:
        try:
            return attempt()
        except _Failed as failure:
            reached = position()
            failures = 0 if reached - best >= PROGRESS else failures + 1
            best = max(best, reached)
            if failures > limits.retries:
                raise InputError(
                    f"{shown(url)}: {failure}, {failures} times in a row; "
                    "run again to continue when the server is better"
                ) from None
            time.sleep(min(limits.backoff * 2 ** max(failures - 1, 0), limits.longest_wait))


def _ask(session, url, *, headers=None, page=None, extra=None, name="", limits):
    """An answer with status 200 or 206, after redirects; headers of the caller stay at home.

    Raises:
        InputError, _Failed: there is none.
    """
    home = origin(url)
    for _ in range(limits.redirects + 1):
        own = headers(url) if callable(headers) else headers if origin(url) == home else None
        response = _get(session, url, {**(own or {}), **(extra or {})}, limits)
        try:
            target = _next(response, url, page, name)
            if target is None:
                _check_status(response, url)
                return response
            check_hop(url, target)
        except BaseException:
            response.close()
            raise
        response.close()
        url = target
    raise InputError(f"{shown(url)}: more than {limits.redirects} redirects; the link is broken")


def _get(session, url, headers, limits):
    try:
        return session.get(
            url,
            headers=headers,
            stream=True,
            timeout=(limits.connect, limits.read),
            allow_redirects=False,
        )
    except requests.exceptions.SSLError:
        raise InputError(
            f"{shown(url)}: its certificate is not trusted; is a proxy in between "
            "(REQUESTS_CA_BUNDLE)?"
        ) from None
    except requests.exceptions.ConnectTimeout:
        raise _Failed(f"no connection within {limits.connect:g} s") from None
    except requests.exceptions.ReadTimeout:
        raise _Failed(f"no answer within {limits.read:g} s") from None
    except requests.exceptions.ProxyError:
        raise _Failed("the proxy refuses or is not there") from None
    except requests.exceptions.ConnectionError:
        raise _Failed("no connection, or dropped") from None
    except (requests.exceptions.RequestException, HTTPError, ValueError) as error:
        raise InputError(f"{shown(url)}: cannot be asked ({type(error).__name__})") from None


def _next(response, url, page, name):
    """Where an answer sends the client, or None if it is the answer."""
    if response.is_redirect:
        try:
            return urljoin(url, response.headers["location"].encode("latin-1").decode())
        except ValueError:
            raise InputError(f"{shown(url)}: leads to an address that is none") from None
    if response.status_code == 200 and _is_page(response) and name and not _is_page_name(name):
        if page is None:
            raise _page_error(url)
        return page(url, _body(response, url, PAGE).decode(errors="replace"))
    return None


def _check_status(response, url):
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416:
        raise _Failed("the server no longer has the rest of the file")
    if status == 429:
        wait = response.headers.get("Retry-After")
        raise TooManyRequests(
            f"{shown(url)}: too many requests (429) after every try"
            + (f", the server asks to wait {wait} s" if (wait or "").isdecimal() else "")
            + "; run again later to continue"
        )
    advice = {
        301: "moved without saying where; correct the address (or the region of a bucket)",
        401: "a token is missing or wrong",
        403: "access is refused: a token is missing, or terms must be accepted first",
        404: "there is no such file; correct the address",
        410: "the file was removed by its publisher",
    }.get(status, "a server's fault; run again later" if status >= 500 else "an unexpected answer")
    raise InputError(f"{shown(url)}: status {status}: {advice}")


def _chunks(response, decode=False):
    """The body as soon as it comes; as sent, unless a content encoding is to be undone."""
    try:
        while chunk := response.raw.read1(CHUNK, decode_content=decode):
            yield chunk
    except (HTTPError, OSError) as error:
        raise _Failed(
            "the server stalled" if "Timeout" in type(error).__name__ else "the connection was cut"
        ) from None


def _body(response, url, max_bytes):
    body = bytearray()
    for chunk in _chunks(response, decode=True):
        body += chunk
        if len(body) > max_bytes:
            raise InputError(f"{shown(url)}: the answer exceeds {max_bytes} bytes")
    return bytes(body)


class _Session(requests.Session):
    """Leaves redirects to `_ask`, whose checks come first, and their bodies unread."""

    def get_redirect_target(self, response):
        return None


def _session(limits, connections=1):
    """A session without cookies and netrc; proxies come from the environment."""
    session = _Session()
    retry = Retry(
        total=None,
        connect=0,
        read=0,
        other=0,
        redirect=0,
        status=limits.retries,
        status_forcelist=TEMPORARY,
        backoff_factor=limits.backoff,
        backoff_max=limits.longest_wait,
        retry_after_max=limits.longest_wait,
        raise_on_status=False,
    )
    adapter = HTTPAdapter(max_retries=retry, pool_maxsize=max(connections, 1))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers["User-Agent"] = f"engram/{__version__}"
    session.headers["Accept-Encoding"] = "identity"  # sizes and ranges are those of the file
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    session.auth = lambda request: request  # a `default` entry of netrc would go to any host
    return session


@contextlib.contextmanager
def _bar(total, what):
    """A function that moves one bar by bytes, from any thread."""
    lock = threading.Lock()
    with progress(total, what, "bytes") as bar:

        def count(number):
            with lock:
                bar.update(number)

        yield count


def origin(url) -> tuple:
    """(scheme, host, port) of a URL: who is spoken to, and may see a token meant for them."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def shown(url) -> str:
    """A URL for people: without user, password, query and fragment, which may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _check_url(url):
    try:
        parts, _ = urlsplit(url), urlsplit(url).port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{shown(url)}: not an http or https address")
    if parts.username or parts.password:
        raise InputError(f"{shown(url)}: holds a user or password; send it as a header instead")


def check_hop(url, target):
    """Refuse to go from `url` to `target` if that gives up encryption or enters a local network.

    Raises:
        InputError: `target` is http after https, not HTTP at all, holds credentials, or is on a
            private, loopback or link-local network where `url` is not.
    """
    _check_url(target)
    where = f"{shown(url)}: leads to {shown(target)}"
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
        raise InputError(f"{where}, which is not encrypted; refused")
    if origin(url) == origin(target):
        return
    entered = _networks(urlsplit(target).hostname) - _networks(urlsplit(url).hostname) - {"public"}
    if entered:
        raise InputError(f"{where}, a {' and '.join(sorted(entered))} address; refused")


@functools.lru_cache(maxsize=1024)
def _networks(host):
    """The kinds of network a host has addresses in; one that cannot be resolved is public."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return frozenset({"public"})
    return frozenset(map(_network, found))


def _network(address):
    address = ipaddress.ip_address(address.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    return "public" if address.is_global and not address.is_multicast else "private"


def _is_page(response):
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml")


def _looks_like_page(data):
    return re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html)\b", data[:200].lower()) is not None


def _is_page_name(name):
    return name.lower().endswith((".html", ".htm", ".xhtml"))


def _page_error(url):
    return InputError(
        f"{shown(url)}: a web page came instead of the file; "
        "the link has changed, wants a login, or the service is down"
    )


def checked_sums(path, checksums) -> dict[str, str]:
    """Checksums of the file `path` in lower case; entries without a value are left out.

    Raises:
        InputError: an algorithm is unknown, or a value has another number of hex digits.
    """
    sums = {name: str(value).lower() for name, value in (checksums or {}).items() if value}
    for name, value in sums.items():
        length = HASH_LENGTHS.get(name)
        if length is None:
            raise InputError(f"{path}: checksum {name!r}; there is {', '.join(HASH_LENGTHS)}")
        shortest = SHORTEST_PREFIX if name == "sha256" else length
        if not re.fullmatch(f"[0-9a-f]{{{shortest},{length}}}", value):
            raise InputError(f"{path}: {value!r} is not a {name} of {length} hex digits")
    return sums
