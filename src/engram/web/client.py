"""Asking servers over HTTP: patiently, and suspicious of what they say.

A `Client` waits and tries again after temporary failures, follows redirects under the eyes of
`check_hop`, and sends what the caller gave it, e.g. a token, to whom it was meant for.
"""

import dataclasses
import time

import requests
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from engram.credentials import shown
from engram.errors import InputError
from engram.web import connection
from engram.web.addresses import check_hop, check_url, joined, origin
from engram.web.pages import is_page_name

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

CHUNK = 1 << 20
PAGE = 1 << 20  # bytes read of a page that came instead of data
PROGRESS = 1 << 20  # new bytes that make up for a failure: a long download may be cut often
TEMPORARY = (429, 500, 502, 503, 504)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long, how often and how much a download may take.

    Attributes:
        connect: seconds to wait for a connection.
        read: seconds to wait for the next bytes.
        headers: seconds until all headers of an answer are there.
        page, page_bytes: seconds until a page of a listing is there, and its largest size.
        rate, window: least bytes a second of a file, over so many seconds.
        retries: failures in a row, without a megabyte of progress, that are tried again.
        backoff: seconds before the first such try; doubles each time.
        longest_wait: seconds; a cap on `backoff` and on what Retry-After asks for.
        redirects: hops from the URL asked for to the data.
        max_bytes: largest file accepted, None for no cap but the declared size.
        undeclared: largest file accepted where nobody says its size.
        per_host: files `engram.web.transfer.fetch_all` takes from one host at a time.
        offline: open no socket; a missing file is an error.
    """

    connect: float = 10.0
    read: float = 60.0
    headers: float = 120.0
    page: float = 300.0
    page_bytes: int = 64 << 20
    rate: float = 1024.0
    window: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 120.0
    redirects: int = 5
    max_bytes: int | None = None
    undeclared: int = 16 << 30
    per_host: int = 2
    offline: bool = False


LIMITS = Limits()


class TooManyRequests(InputError):
    """The server still answers 429 after every wait it asked for."""


class Failed(Exception):
    """What went wrong, and may go better next time.

    Attributes:
        wait: seconds that the server asks to wait.
        final: the error if it never goes better, None for the message.
    """

    def __init__(self, message, wait=0.0, final=None):
        super().__init__(message)
        self.wait, self.final = wait, final


class NoSuchPart(Failed):
    """The server has no such part of the file."""


def read(url, *, headers=None, limits=LIMITS) -> tuple[bytes, dict]:
    """A small document, e.g. one page of a listing.

    Args:
        url: http or https address without credentials.
        headers, limits: see `Client`.

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
                return _body(response, url, limits), response.headers

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
        home: URL of who gave out the addresses that are asked, if that is not the user: they
            may not lead into a local network where it is not, see `check_hop`.
        filled: function of a URL to ask that returns what is sent in its place, e.g. with a
            signature; its result is neither shown nor kept.
    """

    def __init__(
        self, headers=None, page=None, limits=LIMITS, connections=1, home=None, filled=None
    ):
        self.headers, self.page, self.limits = headers, page, limits
        self.home, self.filled = home, filled or str
        self.session = connection.session(limits, connections)

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
        if self.home:
            check_hop(self.home, url)
        home = url = self.filled(url)
        for _ in range(self.limits.redirects + 1):
            response = self._sent("GET", url, {**self._own(url, home), **(extra or {})})
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

    def answer(self, method, url, headers) -> tuple:
        """One answer of any status, whole, for a library that reads it: status, headers, body.

        Raises:
            InputError, Failed: there is none.
        """
        with self._sent(method, url, headers) as response:
            body = _body(response, url, self.limits)
            return response.status_code, response.headers, body

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
                    raise failure.final or InputError(
                        f"{shown(url)}: {failure}, {failures} times in a row; "
                        "run again to continue when the server is better"
                    ) from None
                wait = max(limits.backoff * 2 ** max(failures - 1, 0), failure.wait)
                time.sleep(min(wait, limits.longest_wait))

    def _own(self, url, home):
        """Headers of the caller for a URL that was reached from `home`."""
        if callable(self.headers):
            return self.headers(url)
        return self.headers if self.headers and origin(url) == origin(home) else {}

    def _sent(self, method, url, headers):
        times = (self.limits.connect, self.limits.read)
        try:
            return self.session.request(
                method, url, headers=headers, stream=True, timeout=times, allow_redirects=False
            )
        except InputError:
            raise
        except requests.exceptions.SSLError:
            raise InputError(
                f"{shown(url)}: its certificate is not trusted; is a proxy in between "
                "(REQUESTS_CA_BUNDLE)?"
            ) from None
        except requests.exceptions.ConnectTimeout:
            raise Failed(f"no connection within {self.limits.connect:g} s") from None
        except requests.exceptions.ReadTimeout:
            seconds = min(self.limits.read, self.limits.headers)
            raise Failed(f"no whole answer within {seconds:g} s") from None
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
                target = response.headers["location"].encode("latin-1").decode()
            except ValueError:
                raise InputError(f"{shown(url)}: leads to an address that is none") from None
            return joined(url, target)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        page = kind in ("text/html", "application/xhtml+xml") and not is_page_name(name)
        if response.status_code != 200 or not name or not page:
            return None
        if self.page is None:
            raise came_instead(url, "a web page")
        page = _body(response, url, dataclasses.replace(self.limits, page_bytes=PAGE))
        return self.page(url, page.decode(errors="replace"))


def _check_status(response, url):
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416:
        raise NoSuchPart("the server no longer has the rest of the file")
    advice = {
        301: "moved without saying where; correct the address (or the region of a bucket)",
        400: "the server does not take this request; correct the address (or the region)",
        401: "a token is missing or wrong, or terms must be accepted first",
        403: "access is refused: a token is missing or wrong, or terms must be accepted first",
        404: "there is no such file; correct the address",
        410: "the file was removed by its publisher",
    }.get(status, "a server's fault; run again later" if status >= 500 else "an unexpected answer")
    error = InputError(f"{shown(url)}: status {status}: {advice}")
    if status not in TEMPORARY:
        raise error
    wait = _asked_wait(response)
    if status == 429:
        error = TooManyRequests(
            f"{shown(url)}: too many requests (429) after every try"
            + (f", the server asks to wait {wait:.0f} s" if wait else "")
            + "; run again later to continue"
        )
    raise Failed(f"status {status}", wait, error)


def _asked_wait(response):
    """Seconds of Retry-After, which may be a date; 0 if it says nothing sensible."""
    text = response.headers.get("Retry-After", "")
    try:
        return min(Retry().parse_retry_after(text), 1e6) if len(text) < 60 else 0.0
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0


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


def _body(response, url, limits):
    body, began = bytearray(), time.monotonic()
    for chunk in chunks(response, decode=True):
        body += chunk
        if len(body) > limits.page_bytes:
            raise InputError(f"{shown(url)}: the answer exceeds {limits.page_bytes} bytes")
        if time.monotonic() - began > limits.page:
            raise Failed(f"no whole answer within {limits.page:g} s")
    return bytes(body)


def came_instead(url, what):
    return InputError(
        f"{shown(url)}: {what} came instead of the file; "
        "the link has changed, wants a login, or the service is down"
    )
