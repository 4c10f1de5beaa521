"""What a recording from elsewhere says that it holds, against the bytes that its files have.

A header of a few bytes can promise any number of values, and a compressed file inflate to any size;
memory is taken for what is promised.  Here that is refused before a library believes it.
"""

import bz2
import gzip
import lzma
import re
import struct
import zlib
from pathlib import Path

import h5py

from engram import hdf5_files

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


def refuse(path):
    """Refuse a file that inflates beyond any recording, or a header that promises too much.

    Looked at are compressed files, MATLAB's of both versions, and headers of BrainVision and EDF;
    others pass.

    Raises:
        ValueError: says what is promised.
        OSError, EOFError, struct.error, zlib.error, lzma.LZMAError: it is missing or damaged.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        return
    if h5py.is_hdf5(path):
        _refuse_hdf5(path)
    elif suffix in COMPRESSED:
        with COMPRESSED[suffix](path, "rb") as stream:
            _count(iter(lambda: stream.read(1 << 20), b""), most(path))
    elif suffix in (".mat", ".set"):
        _count(_inflated(path), most(path))
    elif suffix in (".vhdr", ".ahdr"):
        _refuse_channels(path)
    elif suffix in (".edf", ".bdf"):
        _refuse_signals(path)


def refuse_values(count, paths):
    """Refuse more values of a recording than lie in its files, even well compressed.

    Args:
        count: of values.
        paths: of its files and folders.

    Raises:
        ValueError: says how many bytes there are.
    """
    files = {file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])}
    size = sum(file.stat().st_size for file in files if file.is_file())
    if count > (SLACK + TIMES * size) // 8:
        raise ValueError(f"its header promises {count} values, but there are {size} bytes")


def _count(chunks, limit):
    left = limit
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise ValueError(f"it inflates to more than {limit >> 20} MiB")


def _inflated(path):
    """What is compressed in a MATLAB file of version 5, in pieces.

    https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf, chapter 1
    """
    with open(path, "rb") as file:
        order = ">" if file.read(128)[126:] == b"MI" else "<"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(order + "II", tag)
            if kind != 15:  # miCOMPRESSED
                file.seek(size, 1)
                continue
            inflater = zlib.decompressobj()
            while size and (packed := file.read(min(size, 1 << 20))):
                size -= len(packed)
                while packed:
                    yield inflater.decompress(packed, 1 << 20)
                    packed = inflater.unconsumed_tail


def _refuse_hdf5(path):
    """One with values of other files, never written, or shrunk beyond any recording."""
    left = most(path)
    with hdf5_files.opened(path) as file:
        found = []
        file.visititems(lambda _, item: found.append(item))
        for item in found:
            if isinstance(item, h5py.Dataset):
                left -= hdf5_files.whole(item).nbytes
        if left < 0:
            raise ValueError(f"it inflates to more than {most(path) >> 20} MiB")


def _refuse_channels(path):
    """Each channel of BrainVision has a line in the header."""
    text = path.read_bytes()
    for said in re.findall(rb"(?im)^[ \t]*NumberOfChannels[ \t]*[=:][ \t]*(\d+)", text):
        if len(said) > 9 or int(said) > text.count(b"\n"):
            raise ValueError("it promises more channels than it has lines")


def _refuse_signals(path):
    """Each signal of EDF has 256 bytes of the header."""
    with open(path, "rb") as file:
        said = file.read(256)[252:].strip()
    if said.isdigit() and 256 * (int(said) + 1) > path.stat().st_size:
        raise ValueError(f"it promises {int(said)} signals, for whose header it is too short")
