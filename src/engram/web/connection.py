"""Connections that go to the address that was checked, and that do not wait for ever.

A server that sends a byte a second never lets a timeout of the socket run out, in whatever it
says: lines of a header, a `100 Continue` after the other, the size of a chunk, the body.  One that
sends such things as fast as it can never ends either.  So all that is read passes `_Paced`, which
knows how long an answer may take, and how much of it may be something else than the body.
"""

import functools
import http.client
import http.cookiejar
import io
import logging
import re
import socket
import time

import requests
from requests.adapters import HTTPAdapter
from urllib3 import connection, connectionpool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from engram import __version__
from engram.web.addresses import resolved

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

#: Bytes that may stand around a body: headers and trailers, and so many for each byte of it.
AROUND, A_BYTE = 1 << 20, 16


def _harmless(record):
    """Keep signatures, and what a server can forge a line with, out of the log of urllib3."""
    if isinstance(record.args, tuple):
        record.args = tuple(map(_shown, record.args))
    return True


def _shown(value):
    if isinstance(value, int | float | None):
        return value
    text = re.sub(r"\?\S*", "", str(value))
    return "".join(letter if letter.isprintable() else "?" for letter in text)


for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.response"):
    logging.getLogger(_name).addFilter(_harmless)


class _Paced(io.RawIOBase):
    """What a socket receives, as long as it comes fast enough and most of it is the body.

    Only time spent in waiting counts, so that a slow disk here is not the server's fault.

    Attributes:
        body: bytes of the body that were taken out, None while headers come.
    """

    def __init__(self, raw, limits):
        super().__init__()
        self.raw, self.limits = raw, limits
        self.came, self.body = 0, None
        self.restart()

    def restart(self):
        """Begin a new window of time."""
        self.waited, self.before = 0.0, self.body or 0

    def readable(self):
        return True

    def readinto(self, buffer):
        self._check()
        began = time.monotonic()
        try:
            got = self.raw.readinto(buffer)
        finally:
            self.waited += time.monotonic() - began
        self.came += got or 0
        return got

    def _check(self):
        limits = self.limits
        if self.came > AROUND + A_BYTE * (self.body or 0):
            raise TimeoutError("all but a body")
        if self.body is None:
            if self.waited > limits.headers:
                raise TimeoutError("headers")
        elif self.waited > limits.window:
            if self.body - self.before < limits.rate * self.waited:
                raise TimeoutError("rate")
            self.restart()

    def close(self):
        if not self.closed:
            self.raw.close()
            super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock, *args, limits, **options):
        super().__init__(sock, *args, **options)
        self.paced = _Paced(self.fp.detach(), limits)
        self.fp = io.BufferedReader(self.paced)

    def begin(self):
        super().begin()
        self.paced.body = 0
        self.paced.restart()

    def read1(self, n=-1):
        data = super().read1(n)
        self.paced.body += len(data)
        return data


class _Checked:
    """Connects to an address that `resolved` lets through, unless a proxy does it."""

    def _new_conn(self):
        if self.proxy:
            return super()._new_conn()
        try:
            found = resolved(self._dns_host, self.port)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        problem = OSError("no address")
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(self.timeout)
                sock.connect(address)
                return sock
            except OSError as error:
                problem = error
                sock.close()
        if isinstance(problem, TimeoutError):
            raise ConnectTimeoutError(self, "timed out") from problem
        raise NewConnectionError(self, f"no connection: {problem}") from problem


class _Http(_Checked, connection.HTTPConnection):
    pass


class _Https(_Checked, connection.HTTPSConnection):
    pass


def _pools(limits):
    """Pools of such connections, by scheme."""

    def connected(kind):
        answer = functools.partial(_Response, limits=limits)
        return type(kind.__name__, (kind,), {"response_class": staticmethod(answer)})

    class Http(connectionpool.HTTPConnectionPool):
        ConnectionCls = connected(_Http)

    class Https(connectionpool.HTTPSConnectionPool):
        ConnectionCls = connected(_Https)

    return {"http": Http, "https": Https}


class _Adapter(HTTPAdapter):
    def __init__(self, limits, **options):
        self.pools = _pools(limits)
        super().__init__(**options)

    def init_poolmanager(self, *args, **options):
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self.pools

    def proxy_manager_for(self, *args, **options):
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = self.pools
        return manager


class _Session(requests.Session):
    """Leaves redirects to `Client.ask`, whose checks come first, and their bodies unread."""

    def get_redirect_target(self, response):
        return None


def session(limits, connections) -> requests.Session:
    """A session without cookies and netrc; proxies come from the environment."""
    made = _Session()
    adapter = _Adapter(limits, max_retries=0, pool_maxsize=connections)
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    made.headers["User-Agent"] = f"engram/{__version__}"
    made.headers["Accept-Encoding"] = "identity"  # sizes and ranges are those of the file
    made.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    made.auth = lambda request: request  # a `default` entry of netrc would go to any host
    return made
