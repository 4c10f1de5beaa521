"""What a recording from elsewhere says that it holds, against the bytes that its files have.

A header of a few bytes can promise any number of values, and a compressed file inflate to any size;
memory is taken for what is promised.  Here that is refused before a library believes it.
"""

import bz2
import gzip
import lzma
from pathlib import Path

#: Bytes that a compressed recording may have beyond `TIMES` those of its file.
SLACK = 64 << 20

#: Times that numbers of a recording shrink at most: noise 2, masked images 10.
TIMES = 32

#: Openers of compressed files by their ending.
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def is_compressed(path) -> bool:
    return Path(path).suffix.lower() in COMPRESSED


def most(path, times=TIMES) -> int:
    """Bytes that what lies compressed in a file may have."""
    return SLACK + times * Path(path).stat().st_size


def refuse_bomb(path):
    """Read a compressed file through once; others pass.

    Raises:
        ValueError: it inflates beyond any recording.
        EOFError, OSError, zlib.error, lzma.LZMAError: it is missing, cut off or damaged.
    """
    if not is_compressed(path):
        return
    left = most(path)
    with COMPRESSED[Path(path).suffix.lower()](path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"it inflates to more than {most(path) >> 20} MiB")
