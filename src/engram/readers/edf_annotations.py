"""Annotations of EDF+ and BDF+ files, and when each of their records begins.

MNE reads these files as if no time lay between their records, and cuts off what lies beyond; the
bytes are found by the header that MNE read.
https://www.edfplus.info/specs/edfplus.html, 2.2.2 to 2.2.4
"""

import math
import re

import numpy as np

from engram.errors import InputError

#: How a list of annotations begins: onset, duration if any. Texts follow; each part ends with byte
#: 20, all with byte 0.
START = re.compile(rb"([+-]\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?))?\x14")

#: Most lists of a file: ten a second for a day.
MOST = 1_000_000


def events(path, raw, decode) -> list[tuple[float, float, str]]:
    """Onset (s since the first record began), duration (s) and text of each annotation.

    Args:
        path: of the file.
        raw: what `mne.io.read_raw_edf` or `read_raw_bdf` opened.
        decode: from bytes to text.

    Raises:
        InputError: a time is infinite, or there are too many annotations.
    """
    found, lists = [], []
    for record in _records(path, raw):
        lists += filter(None, map(_list, re.split(rb"\0+", record)[:-1]))
        if len(lists) > MOST:
            raise InputError(
                f"{path}: more than {MOST} annotations; have the program that wrote the file "
                "export fewer, or take it off the manifest"
            )
    origin = lists[0][0] if lists and not lists[0][2].partition(b"\x14")[0] else 0.0
    for onset, duration, texts in lists:
        if not math.isfinite(onset + duration):
            raise InputError(
                f"{path}: an annotation at {onset:g} s, for {duration:g} s; correct it"
            )
        for text in filter(None, texts.split(b"\x14")):
            found.append((onset - origin, duration, _without_channel(decode(text), raw)))
    return found


def _list(part, find=START.search):
    """(onset, duration, texts) of what stands before a byte 0, or None."""
    last = len(part) - 1
    start = part.endswith(b"\x14") and find(part, 0, last)
    return (float(start[1]), float(start[2] or 0), part[start.end() : last]) if start else None


def starts(path, raw) -> np.ndarray | None:
    """Seconds between the starts of the first and of each record, (n,); None if all adjoin.

    Raises:
        InputError: the file says that it has gaps, but not where.
    """
    with open(path, "rb") as file:
        file.seek(192)
        if file.read(5) not in (b"EDF+D", b"BDF+D"):
            return None
    heads = (record.partition(b"\0") for record in _records(path, raw))
    first = [end and _list(head, START.match) for head, end, _ in heads]
    if not first or not all(first):
        raise InputError(
            f"{path}: is marked as discontinuous (EDF+D), but not every record says when it "
            "begins; have the program that wrote it export a continuous file"
        )
    onsets = np.array([onset for onset, _, _ in first])
    return onsets - onsets[0]


def _records(path, raw):
    """The bytes of each record's annotation signals, joined."""
    header = raw._raw_extras[0]
    width = header["dtype_byte"] * np.concatenate([[0], np.cumsum(header["n_samps"])])
    n = int(header["n_records"])
    if not len(header["tal_idx"]) or not n:
        return
    shape, offset = (n, int(width[-1])), int(header["data_offset"])
    content = np.memmap(path, np.uint8, "r", offset, shape)
    for record in content:
        yield b"".join(record[width[i] : width[i + 1]].tobytes() for i in header["tal_idx"])


def _without_channel(text, raw):
    """Without the name of the channel that an annotation may be about."""
    bare, _, channel = text.partition("@@")
    return bare if channel in raw.ch_names else text
