"""Asking servers over HTTP: patiently, and suspicious of what they say.

A `Client` waits and tries again after temporary failures, follows redirects under the eyes of
`check_hop`, and sends what the caller gave it, e.g. a token, to whom it was meant for.
"""

import dataclasses
import functools
import http.cookiejar
import ipaddress
import logging
import re
import socket
import time
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from engram import __version__
from engram.errors import InputError

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

CHUNK = 1 << 20
PROGRESS = 1 << 20  # new bytes that make up for a failure: a long download may be cut often
PAGE = 1 << 20  # bytes read of a page that came instead of data
TEMPORARY = (429, 500, 502, 503, 504)


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
        per_host: files `engram.web.transfer.fetch_all` takes from one host at a time.
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


class Failed(Exception):
    """What went wrong, and may go better next time."""


def read(url, *, headers=None, limits=LIMITS, max_bytes=64 << 20) -> tuple[bytes, dict]:
    """A small document, e.g. one page of a listing.

    Args:
        url: http or https address without credentials.
        headers, limits: see `Client`.
        max_bytes: largest document accepted.

    Returns:
        Its bytes, and the headers of the answer.

    Raises:
        InputError: it cannot be had or is too long.
    """
    check_url(url)
    if limits.offline:
        raise InputError(f"{shown(url)}: not asked, because of offline mode; use the lock file")
    with Client(headers, limits=limits) as client:

        def attempt():
            with client.ask(url) as response:
                return _body(response, url, max_bytes), response.headers

        return client.repeated(attempt, url)


class Client:
    """Asks servers, from any thread; a context manager.

    Args:
        headers: dict, sent only to the host that is asked; or a function of a URL that returns
            the headers for it, asked before every request, redirects included.
        page: function (url, text) -> url, asked when a web page comes instead of data, e.g. one
            that wants a confirmation; None means that a page is refused.
        limits: a `Limits`.
        connections: most requests at a time.
    """

    def __init__(self, headers=None, page=None, limits=LIMITS, connections=1):
        self.headers, self.page, self.limits = headers, page, limits
        self.session = _session(limits, connections)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.session.close()

    def ask(self, url, extra=None, name=""):
        """An answer with status 200 or 206, after redirects; its body is still to come.

        Args:
            url: http or https address.
            extra: dict of headers that all servers may see.
            name: of the file that is wanted; without it a web page is welcome.

        Raises:
            InputError, Failed: there is none.
        """
        home = url
        for _ in range(self.limits.redirects + 1):
            response = self._get(url, {**self._own(url, home), **(extra or {})})
            try:
                target = self._next(response, url, name)
                if target is None:
                    _check_status(response, url)
                    return response
                check_hop(url, target)
            except BaseException:
                response.close()
                raise
            response.close()
            url = target
        raise InputError(
            f"{shown(url)}: more than {self.limits.redirects} redirects; the link is broken"
        )

    def repeated(self, attempt, url, position=lambda: 0):
        """What `attempt` returns, tried again after failures while there is hope.

        Args:
            attempt: function that may raise `Failed`.
            url: for the message.
            position: function that returns how many bytes came so far.

        Raises:
            InputError: it failed too often in a row.
        """
        limits, failures, best = self.limits, 0, 0
        while True:
            try:
                return attempt()
            except Failed as failure:
                reached = position()
                failures = 0 if reached - best >= PROGRESS else failures + 1
                best = max(best, reached)
                if failures > limits.retries:
                    raise InputError(
                        f"{shown(url)}: {failure}, {failures} times in a row; "
                        "run again to continue when the server is better"
                    ) from None
                time.sleep(min(limits.backoff * 2 ** max(failures - 1, 0), limits.longest_wait))

    def _own(self, url, home):
        """Headers of the caller for a URL that was reached from `home`."""
        if callable(self.headers):
            return self.headers(url)
        return self.headers if self.headers and origin(url) == origin(home) else {}

    def _get(self, url, headers):
        times = (self.limits.connect, self.limits.read)
        try:
            return self.session.get(
                url, headers=headers, stream=True, timeout=times, allow_redirects=False
            )
        except requests.exceptions.SSLError:
            raise InputError(
                f"{shown(url)}: its certificate is not trusted; is a proxy in between "
                "(REQUESTS_CA_BUNDLE)?"
            ) from None
        except requests.exceptions.ConnectTimeout:
            raise Failed(f"no connection within {self.limits.connect:g} s") from None
        except requests.exceptions.ReadTimeout:
            raise Failed(f"no answer within {self.limits.read:g} s") from None
        except requests.exceptions.ProxyError:
            raise Failed("the proxy refuses or is not there") from None
        except requests.exceptions.ConnectionError:
            raise Failed("no connection, or dropped") from None
        except (requests.exceptions.RequestException, HTTPError, ValueError) as error:
            raise InputError(f"{shown(url)}: cannot be asked ({type(error).__name__})") from None

    def _next(self, response, url, name):
        """Where an answer sends the client, or None if it is the answer."""
        if response.is_redirect:
            try:
                return urljoin(url, response.headers["location"].encode("latin-1").decode())
            except ValueError:
                raise InputError(f"{shown(url)}: leads to an address that is none") from None
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        page = kind in ("text/html", "application/xhtml+xml") and not _is_page_name(name)
        if response.status_code != 200 or not name or not page:
            return None
        if self.page is None:
            raise page_error(url)
        return self.page(url, _body(response, url, PAGE).decode(errors="replace"))


class _Session(requests.Session):
    """Leaves redirects to `Client.ask`, whose checks come first, and their bodies unread."""

    def get_redirect_target(self, response):
        return None


def _session(limits, connections):
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
    adapter = HTTPAdapter(max_retries=retry, pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers["User-Agent"] = f"engram/{__version__}"
    session.headers["Accept-Encoding"] = "identity"  # sizes and ranges are those of the file
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    session.auth = lambda request: request  # a `default` entry of netrc would go to any host
    return session


def _check_status(response, url):
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416:
        raise Failed("the server no longer has the rest of the file")
    if status == 429:
        wait = response.headers.get("Retry-After")
        raise TooManyRequests(
            f"{shown(url)}: too many requests (429) after every try"
            + (f", the server asks to wait {wait} s" if (wait or "").isdecimal() else "")
            + "; run again later to continue"
        )
    advice = {
        301: "moved without saying where; correct the address (or the region of a bucket)",
        400: "the server does not take this request; correct the address (or the region)",
        401: "a token is missing or wrong",
        403: "access is refused: a token is missing or wrong, or terms must be accepted first",
        404: "there is no such file; correct the address",
        410: "the file was removed by its publisher",
    }.get(status, "a server's fault; run again later" if status >= 500 else "an unexpected answer")
    raise InputError(f"{shown(url)}: status {status}: {advice}")


def chunks(response, decode=False):
    """The body as soon as it comes; as sent, unless a content encoding is to be undone.

    Raises:
        Failed: it breaks off.
    """
    try:
        while chunk := response.raw.read1(CHUNK, decode_content=decode):
            yield chunk
    except (HTTPError, OSError) as error:
        raise Failed(
            "the server stalled" if "Timeout" in type(error).__name__ else "the connection was cut"
        ) from None


def _body(response, url, max_bytes):
    body = bytearray()
    for chunk in chunks(response, decode=True):
        body += chunk
        if len(body) > max_bytes:
            raise InputError(f"{shown(url)}: the answer exceeds {max_bytes} bytes")
    return bytes(body)


def is_page(data, name) -> bool:
    """Whether bytes begin like a web page, though they should be those of the file `name`."""
    looks = re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html)\b", data[:200].lower())
    return bool(looks) and not _is_page_name(name)


def _is_page_name(name):
    return name.lower().endswith((".html", ".htm", ".xhtml"))


def page_error(url):
    return InputError(
        f"{shown(url)}: a web page came instead of the file; "
        "the link has changed, wants a login, or the service is down"
    )


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


def check_url(url):
    """Refuse what is no http or https address, or holds a password.

    Raises:
        InputError: says which.
    """
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
    check_url(target)
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
