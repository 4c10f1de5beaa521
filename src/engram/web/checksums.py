"""Checksums as publishers and people state them."""

import re

from engram.errors import InputError

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

HASH_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
SHORTEST_PREFIX = 8  # hex digits of a SHA-256 in a published file name


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
