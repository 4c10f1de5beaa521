"""What a recording from elsewhere says that it holds, against the bytes that its files have.

A header of a few bytes can promise any number of values, and a compressed file inflate to any size;
memory is taken for what is promised.  Here that is refused before a library believes it.
"""

import bz2
import gzip
import lzma
import mmap
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

#: More channels than any recording has.
MOST_CHANNELS = 10_000

#: Most comments of Persyst: one a second for half a day; MNE's time grows with their square.
MOST_COMMENTS = 50_000

#: Openers of compressed files by their ending.
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


#: Types of elements in MATLAB's files of version 5; which have others within.
ELEMENTS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14, 16, 17, 18}
MATRIX, COMPRESSED_ELEMENT = 14, 15


def is_compressed(path) -> bool:
    return Path(path).suffix.lower() in COMPRESSED


def most(path, times=TIMES) -> int:
    """Bytes that what lies compressed in a file may have."""
    return SLACK + times * Path(path).stat().st_size


def refuse(path):
    """Refuse a file that inflates beyond any recording, or a header that promises too much.

    Looked at are compressed files, MATLAB's of both versions, and headers of BrainVision, EDF,
    GDF, Persyst and Nihon Kohden; others pass.

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
        left = most(path)
        with COMPRESSED[suffix](path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise ValueError(f"it inflates to more than {most(path) >> 20} MiB")
    elif suffix in (".mat", ".set"):
        _refuse_matlab(path)
    elif suffix in (".vhdr", ".ahdr"):
        _refuse_channels(path)
    elif suffix in SIGNALS:
        _refuse_signals(path, SIGNALS[suffix])
    elif suffix == ".lay":
        _refuse_layout(path)
    elif suffix == ".eeg" and path.with_suffix(".21E").is_file():
        _refuse_labels(path.with_suffix(".21E"))


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


def _refuse_matlab(path):
    """A file of version 5 that inflates, or has elements of types that SciPy does not survive.

    https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf, chapter 1
    """
    limit, at = most(path), 128
    with open(path, "rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if 0 in whole[:4]:  # version 4, which is not compressed and has no elements
        return
    order = ">" if whole[126:128] == b"MI" else "<"
    while at + 8 <= len(whole):
        kind, size = struct.unpack_from(order + "II", whole, at)
        if kind == COMPRESSED_ELEMENT:
            inflated = _inflated(whole[at + 8 : at + 8 + size], limit)
            limit -= len(inflated)
            _refuse_elements(memoryview(inflated), order)
        else:
            _refuse_elements(whole[at : at + 8 + size], order)
        at += 8 + size


def _inflated(packed, limit):
    """A compressed element."""
    inflater, found = zlib.decompressobj(), bytearray()
    for start in range(0, len(packed), 1 << 20):
        piece = packed[start : start + (1 << 20)]
        while piece:
            found += inflater.decompress(piece, 1 << 20)
            piece = inflater.unconsumed_tail
            if len(found) > limit:
                raise ValueError(f"it inflates to more than {limit >> 20} MiB")
    return found


def _refuse_elements(content, order):
    """Elements one behind the other, and those within matrices."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(order + "II", content, at)
        if small := kind >> 16:  # its values stand in the tag
            kind, size = kind & 0xFFFF, 0
        if kind not in ELEMENTS or small > 4:
            raise ValueError(f"it has an element of type {kind}, which there is not")
        if kind == MATRIX:
            _refuse_elements(content[at + 8 : at + 8 + size], order)
        at += 8 + -(-size // 8) * 8


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
        if len(said) > 9 or int(said) > min(text.count(b"\n"), MOST_CHANNELS):
            raise ValueError("it promises more channels than it has lines, or any recording")


def _refuse_signals(path, count):
    """Each signal of EDF and GDF has 256 bytes of the header."""
    with open(path, "rb") as file:
        head = file.read(256)
    said = count(head) if len(head) == 256 else 0
    if said > MOST_CHANNELS or 256 * (said + 1) > path.stat().st_size:
        raise ValueError(f"it promises {said} signals, for whose header it is too short")


def _signals_of_edf(head):
    said = head[252:].strip()
    return int(said) if said.isdigit() else 0


def _signals_of_gdf(head):
    return struct.unpack_from("<H" if head[4:8] >= b"1.9" else "<I", head, 252)[0]


#: Signals that the first 256 bytes of a file promise.
SIGNALS = {".edf": _signals_of_edf, ".bdf": _signals_of_edf, ".gdf": _signals_of_gdf}


def _refuse_layout(path):
    """What Persyst can say of its samples and MNE does not heed."""
    text = path.read_bytes().decode("latin-1")
    for key, right in (("FileType", "interleaved"), ("HeaderLength", "0")):
        for said in re.findall(rf"(?im)^[ \t]*{key}[ \t]*=(.*)$", text):
            if said.strip().lower() != right:
                raise ValueError(f"its {key} is {said[:40]!r}, of which only {right!r} is read")
    places = re.findall(r"(?m)=[ \t]*(\d{1,9})[ \t]*\r?$", _section("channelmap", text))
    comments = _section("comments", text).count("\n")
    if len(places) > MOST_CHANNELS or comments > MOST_COMMENTS:
        raise ValueError(f"it has {len(places)} channels and {comments} comments")
    if places != sorted(places, key=int):
        raise ValueError("its channels stand in another order than in the file of samples")


def _section(name, text):
    return "\n".join(re.findall(rf"(?ims)^[ \t]*\[{name}\](.*?)(?=^[ \t]*\[|\Z)", text))


def _refuse_labels(path):
    """Electrodes of Nihon Kohden have numbers, and MNE makes as many names."""
    text = path.read_bytes().decode("utf-8", "replace")
    for said in re.findall(r"(?m)^[^\S\n]*\+?([\d_]+)[^\S\n]*=", text):
        if len(said) > 9 or int(said) > MOST_CHANNELS:
            raise ValueError(f"its {path.name} has an electrode of number {said[:9]}")
