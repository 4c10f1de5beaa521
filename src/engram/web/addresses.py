"""Addresses of the web: which are refused, and where they lead.

Standard library only.
"""

import functools
import ipaddress
import re
import socket
from urllib.parse import urljoin, urlsplit

from engram.credentials import LONGEST, shown
from engram.errors import InputError

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

PORTS = {"http": 80, "https": 443}
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
