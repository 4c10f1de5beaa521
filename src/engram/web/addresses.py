"""Addresses of the web: which are refused, what of them is shown and kept, where they lead.

Standard library only.
"""

import functools
import ipaddress
import os
import re
import socket
from urllib.parse import quote, unquote, urljoin, urlsplit

from engram.errors import InputError

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

LONGEST = 300  # letters of an address that are shown
PORTS = {"http": 80, "https": 443}
#: Parameters of a query that let whoever has them in: signatures, tokens, keys of services.
SECRET = re.compile(
    r"(x-(amz|goog|oss|ms)-|oss|aws|google|s3)?(signature|access_?(key|id)(id)?|credential|algorithm)|"
    r".*(signature|token|secret|passw(or)?d|credential|api[-_]?key|authorization|ticket|jwt)|"
    r"sig|hmac|view_only|private_link|session[-_]?id",
    re.IGNORECASE,
)
#: These are secret if their value is long, and otherwise words of anybody.
LONG_SECRET = re.compile(r"key|code|auth|sign|pass|pwd|session|hash", re.IGNORECASE)
SECRET_LENGTH = 16
#: These say what a signature beside them is for.
BESIDE = re.compile(
    r"x-(amz|goog|oss|ms)-.*|policy|key-pair-id|expires|se|sp|sv|sr|st|ske|skt|skoid|sktid|sks|skv",
    re.IGNORECASE,
)
#: Prefixes under which an IPv6 address carries an IPv4 address, and how many bits stand behind it.
CARRIERS = [
    (ipaddress.ip_network(prefix), behind)
    for prefix, behind in (
        ("::/96", 0),  # once for tunnels
        ("::ffff:0:0/96", 0),
        ("::ffff:0:0:0/96", 0),  # RFC 2765
        ("64:ff9b::/96", 0),  # NAT64
        ("2002::/16", 80),  # 6to4
    )
]
LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215; not in every Python's lists


def origin(url) -> tuple:
    """(scheme, host, port) of a URL: who is spoken to, and may see a token meant for them."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme]


def shown(url) -> str:
    """A URL for people: without user, password, query and fragment, which may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        text = f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
    except (ValueError, TypeError, AttributeError):
        return "(not a URL)"
    text = "".join(letter if letter.isprintable() else quote(letter) for letter in text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def secrets(url) -> list[str]:
    """Names of the secret parameters in the query of a URL; none whose value is `$NAME`."""
    pairs = [part.partition("=") for part in _query(url)]
    pairs = [(name, unquote(name), value) for name, _, value in pairs if value[:1] != "$"]
    found = [name for name, plain, value in pairs if value and _is_secret(plain, value)]
    return [
        name for name, plain, _ in pairs if name in found or (found and BESIDE.fullmatch(plain))
    ]


def refuse_secrets(url):
    """Refuse a URL that would write down a signature or a token wherever it is kept.

    Raises:
        InputError: says how to give it.
    """
    if found := secrets(url):
        raise InputError(
            f"{shown(url)}: {found[0]!r} of its query is secret, and the address would be kept in "
            f"files that are shared; write {found[0]}=$NAME and set the environment variable NAME"
        )


def _is_secret(name, value):
    long = len(value) >= SECRET_LENGTH and LONG_SECRET.fullmatch(name)
    return bool(SECRET.fullmatch(name) or long)


def kept(url) -> str:
    """A URL as it may be written down: without its fragment and the secret part of its query."""
    found = secrets(url)
    base, _, _ = url.partition("#")
    if not found:
        return base
    rest = [part for part in _query(url) if part.partition("=")[0] not in found]
    return base.partition("?")[0] + ("?" + "&".join(rest) if rest else "")


def _query(url):
    query = url.partition("#")[0].partition("?")[2]
    return [part for part in query.split("&") if part]


def filled(url) -> str:
    """A URL of the configuration with `$NAME` and `${NAME}` in its query from the environment.

    Never of what a publisher says: it would ask for any variable.

    Raises:
        InputError: a variable is not set.
    """
    base, mark, query = url.partition("?")

    def value(match):
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise InputError(f"{shown(url)}: needs the environment variable {name}; set it")
        return os.environ[name].strip().removeprefix("?")

    return base + mark + re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, query)


def check_url(url):
    """Refuse what is no http or https address, or holds a password.

    Raises:
        InputError: says which.
    """
    try:
        parts, _ = urlsplit(url), urlsplit(url).port
        host = parts.hostname or ""
    except (ValueError, TypeError, AttributeError):
        raise InputError(f"{str(url)[:LONGEST]!a}: not an http or https address") from None
    if not isinstance(url, str) or parts.scheme not in PORTS or not host:
        raise InputError(f"{shown(url)}: not an http or https address")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{shown(url)}: holds a user or password; send it as a header instead")
    # Other readers of addresses see another host in blanks, backslashes and percent signs.
    if not re.fullmatch(r"[\w.-]+|[\da-f:.]+", host) or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise InputError(f"{shown(url)}: not an http or https address")
    if not host.isascii():  # and in other alphabets: there are two ways to translate them
        raise InputError(f"{shown(url)}: write its host in ASCII (xn--...)")


def joined(url, target) -> str:
    """Where `target`, relative or not, leads from `url`.

    Raises:
        InputError: nowhere.
    """
    try:
        return urljoin(url, target)
    except ValueError:
        raise InputError(f"{shown(url)}: leads to an address that is none") from None


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
    entered = networks(urlsplit(target).hostname) - networks(urlsplit(url).hostname) - {"public"}
    if entered:
        raise InputError(f"{where}, a {' and '.join(sorted(entered))} address; refused")


def networks(host) -> frozenset:
    """The kinds of network a host had addresses in when this process first asked.

    One that cannot be resolved is public: a proxy may know it.
    """
    try:
        return _first_seen(host)
    except (OSError, ValueError):
        return frozenset({"public"})


@functools.lru_cache(maxsize=4096)
def _first_seen(host):
    return frozenset(_network(entry[4][0]) for entry in socket.getaddrinfo(host, None))


def resolved(host, port) -> list:
    """What `socket.getaddrinfo` says of a host, as far as it lies in the networks it lay in before.

    A name that is public when it is checked and private when it is connected to gets no connection.

    Raises:
        OSError: the name is unknown.
        InputError: it has moved into another network.
    """
    allowed = networks(host) | {"public"}
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    kinds = {entry[4][0]: _network(entry[4][0]) for entry in found}
    if not set(kinds.values()) & allowed:
        raise InputError(f"{host}: has become a {min(kinds.values())} address; refused")
    return [entry for entry in found if kinds[entry[4][0]] in allowed]


def _network(address):
    """Whether an address is loopback, link-local, private or public."""
    address = ipaddress.ip_address(address.partition("%")[0])
    carried = _carried(address)
    if carried is not None:
        return _network(str(carried))
    if address.is_loopback or address.is_unspecified:  # 0.0.0.0 is this machine too
        return "loopback"
    if address.is_link_local:
        return "link-local"
    local = address.is_multicast or getattr(address, "is_site_local", False)
    local = local or address in LOCAL_NAT64
    return "public" if address.is_global and not local else "private"


def _carried(address):
    """The IPv4 address that an IPv6 address stands for, if any."""
    if address.version == 4 or int(address) <= 1:
        return None
    if (int(address) >> 32) & 0xFDFFFFFF == 0x5EFE:  # ISATAP, under any prefix
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    for network, behind in CARRIERS:
        if address in network:
            return ipaddress.IPv4Address((int(address) >> behind) & 0xFFFFFFFF)
    return None
