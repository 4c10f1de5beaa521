"""Secrets in addresses of the web: from the environment, never shown and never kept.

Standard library only.
"""

import os
import re
from urllib.parse import quote, unquote, urlsplit

from engram.errors import InputError

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

LONGEST = 300  # letters of an address that are shown
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
    """Refuse a URL that would write down a password, a signature or a token wherever it is kept.

    Raises:
        InputError: says how to give it.
    """
    if re.match(r"\w+://[^/?#]*@", url):
        raise InputError(f"{shown(url)}: holds a user or password; send it as a header instead")
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

    # A parameter may itself be called so: `$format=json`.
    return base + mark + re.sub(r"\$(?:\{(\w+)\}|(\w+)\b(?!=))", value, query)
