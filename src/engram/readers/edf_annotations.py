"""Annotations of EDF+ and BDF+ files, and when each of their records begins.

MNE reads these files as if no time lay between their records, and cuts off what lies beyond; the
bytes are found by the header that MNE read.
https://www.edfplus.info/specs/edfplus.html, 2.2.2 to 2.2.4
"""

import re

import numpy as np

from engram.errors import InputError

#: One list of annotations: onset, duration if any, texts; each ends with byte 20, all with byte 0.
LIST = re.compile(rb"([+-]\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?))?\x14([^\x00]*)\x14\x00")


def events(path, raw, decode) -> list[tuple[float, float, str]]:
    """Onset (s since the first record began), duration (s) and text of each annotation.

    Args:
        path: of the file.
        raw: what `mne.io.read_raw_edf` or `read_raw_bdf` opened.
        decode: from bytes to text.
    """
    found = []
    lists = [one for record in _records(path, raw) for one in LIST.findall(record)]
    origin = float(lists[0][0]) if lists and not lists[0][2].partition(b"\x14")[0] else 0.0
    for onset, duration, texts in lists:
        for text in filter(None, texts.split(b"\x14")):
            name = _without_channel(decode(text), raw)
            found.append((float(onset) - origin, float(duration or 0), name))
    return found


def starts(path, raw) -> np.ndarray | None:
    """Seconds between the starts of the first and of each record, (n,); None if all adjoin.

    Raises:
        InputError: the file says that it has gaps, but not where.
    """
    with open(path, "rb") as file:
        file.seek(192)
        if file.read(5) not in (b"EDF+D", b"BDF+D"):
            return None
    first = [LIST.match(record) for record in _records(path, raw)]
    if not first or not all(first):
        raise InputError(
            f"{path}: is marked as discontinuous (EDF+D), but not every record says when it "
            "begins; have the program that wrote it export a continuous file"
        )
    onsets = np.array([float(match[1]) for match in first])
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
