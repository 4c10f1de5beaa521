"""What a file says of stretches of time: events, stretches marked bad, and gaps.

One clock: seconds from the first sample that is read.
"""

import re
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import mne
import numpy as np

from engram.errors import InputError
from engram.readers import edf_annotations, recordings

#: What MNE leaves out by itself (`reject_by_annotation`, `skip_by_annotation`), where BrainVision
#: or Persyst put the kind of a marker in front.
BAD = re.compile(r"bad|edge|(?:comment|stimulus)/bad_", re.IGNORECASE)
#: A place where samples were cut out: EEGLAB, BrainVision, GDF, MNE's concatenation.
SEAM = re.compile(r"(?:(?:bad|edge) )?boundary|New Segment(?:/.*)?|32766", re.IGNORECASE)
SKIPPED = "BAD_ACQ_SKIP"  # FIF: there are no data, and MNE reads zeros
LONGEST = 20  # times as long as the data may gaps last in all


@dataclass
class Timeline:
    """Facts about time, in s from the first sample that is read.

    Attributes:
        events: (onset, duration, description), within the recording; duration 0 if not known.
        bad: the same, of stretches that are not to be used, the description being the reason.
        pieces: where each piece without gaps begins, as (s of samples before it, s since the first
            sample); one (0, 0) where there is no gap of known length.
        said: what a user has to know.
    """

    events: list[tuple[float, float, str]]
    bad: list[tuple[float, float, str]]
    pieces: list[tuple[float, float]]
    said: list[str]

    @property
    def seams(self):
        """Seconds at which a stretch of unknown length was cut out."""
        return [onset for onset, _, reason in self.bad if reason == "cut"]

    @property
    def without_data(self):
        """Bad stretches in which, or at which, nothing was recorded."""
        return [stretch for stretch in self.bad if stretch[2] in ("cut", "gap", SKIPPED)]

    def spread(self, data, sfreq):
        """Samples (channel, time) on the clock of the recording: NaN where there are none."""
        ends = [round(before * sfreq) for before, _ in self.pieces[1:]] + [data.shape[1]]
        starts = [(round(before * sfreq), round(start * sfreq)) for before, start in self.pieces]
        if len(starts) > 1:
            there, length = data, starts[-1][1] + ends[-1] - starts[-1][0]
            data = np.full((len(there), length), np.nan)
            for (first, at), stop in zip(starts, ends, strict=True):
                data[:, at : at + stop - first] = there[:, first:stop]
        for onset, duration, reason in self.bad:
            if reason == SKIPPED:
                data[:, round(onset * sfreq) : round((onset + duration) * sfreq)] = np.nan
        return data


def timeline(path, raw, *, encoding=None, markers=None) -> Timeline:
    """Events, bad stretches and gaps of a recording.

    Args:
        path: of the file.
        raw: `mne.io.BaseRaw` of it.
        encoding: of its text, where that is not UTF-8.
        markers: path of the file of markers that a BrainVision header names, or None.

    Raises:
        InputError: text is in an unknown encoding, records overlap in time, or gaps are so long
            that the file is rather several recordings.
    """
    said = []
    pieces, duration = [(0.0, 0.0)], raw.n_times / raw.info["sfreq"]
    if Path(path).suffix.lower() in recordings.EDF:
        pieces, duration = _pieces(path, raw, duration)
        found = edf_annotations.events(path, raw, _decoder(path, encoding))
    elif markers is not None:
        found = _markers(markers, raw.info["sfreq"], encoding, said)
    else:
        found = _annotations(raw)
    point = 1.5 / raw.info["sfreq"]  # one sample: how markers without duration are saved
    found = [(onset, 0.0 if length < point else length, text) for onset, length, text in found]
    half = 0.5 / raw.info["sfreq"]
    events = _without_remnants(_within(found, duration, said), half, duration - half, said)
    seams = {onset for onset, _, text in events if SEAM.fullmatch(text)}
    cut = sorted(onset for onset in seams if half < onset < duration - half)
    bad = [event for event in events if _is_mark(event[2]) and not SEAM.fullmatch(event[2])]
    bad += [(onset, 0.0, "cut") for onset in cut]
    bad += _between(pieces)
    if cut:
        said.append(
            f"samples were cut out at {len(cut)} place(s), the first after {cut[0]:g} s; times "
            "behind it count the samples that are left"
        )
    if len(pieces) > 1:
        lost = duration - raw.n_times / raw.info["sfreq"]
        said.append(f"{len(pieces) - 1} gap(s), {lost:g} s in all, are filled with NaN")
    events = [event for event in events if not SEAM.fullmatch(event[2])]
    return Timeline(events, bad, pieces, said)


def _annotations(raw):
    """As MNE places them: its onsets count from the clock on which `first_time` is."""
    these = raw.annotations
    durations = np.nan_to_num(these.duration)
    return list(
        zip((these.onset - raw.first_time).tolist(), durations.tolist(), these.description.tolist(),
            strict=True)
    )  # fmt: skip


def _within(events, duration, said):
    """The parts of the events that lie in the recording."""
    kept, out, cut = [], 0, 0
    for onset, length, text in events:
        start, stop = max(onset, 0.0), min(onset + length, duration)
        if start > duration or stop < 0 or (length > 0 and start >= stop):
            out += 1
            continue
        cut += bool(start - onset > 1e-3 or onset + length - stop > 1e-3)
        kept.append((start, max(stop - start, 0.0), text))
    if out:
        said.append(f"{out} event(s) outside the recording are left out")
    if cut:
        said.append(f"{cut} event(s) that reach beyond the recording are cut off at its ends")
    return kept


def _without_remnants(events, first, last, said):
    """Without what cropping leaves, at the edge, of an event that ends there: one that lasts 0 s.

    A marker without duration at the edge is kept where others are without, too.
    """
    lasting = {text for _, length, text in events if length > 0 and not BAD.match(text)}
    inner = [event for event in events if first < event[0] < last]
    points = {text for _, length, text in inner if not (length or _is_mark(text))}
    kept = [
        (onset, length, text)
        for onset, length, text in events
        if length
        or first < onset < last
        or _is_mark(text)
        or not (text in lasting or (lasting and not points))
    ]
    if len(kept) < len(events):
        said.append(f"{len(events) - len(kept)} event(s) of 0 s at the edge, which a crop leaves")
    return kept


def _is_mark(text):
    return bool(BAD.match(text) or SEAM.fullmatch(text))


# ---- gaps -------------------------------------------------------------------------------


def _pieces(path, raw, duration):
    """(pieces, seconds between the first and the last sample) of a file of records."""
    onsets = edf_annotations.starts(path, raw)
    if onsets is None:
        return [(0.0, 0.0)], duration
    length = duration / len(onsets)
    slack = np.diff(onsets) - length
    if (slack < -0.5 / raw.info["sfreq"]).any():
        k = int(np.argmin(slack))
        raise InputError(
            f"{path}: record {k + 2} begins before record {k + 1} ends; have the program that "
            "wrote the file export a continuous one"
        )
    after = [0, *(np.flatnonzero(slack > 0.5 / raw.info["sfreq"]) + 1)]
    whole = float(onsets[-1]) + length
    if whole > LONGEST * duration:
        raise InputError(
            f"{path}: {duration:g} s of data spread over {whole:g} s; split the file at its gaps, "
            "and list the parts as recordings of their own"
        )
    return [(k * length, float(onsets[k])) for k in map(int, after)], whole


def _between(pieces):
    """The gaps between pieces."""
    for (before, start), (upto, later) in pairwise(pieces):
        stop = start + upto - before
        yield stop, later - stop, "gap"


# ---- text -------------------------------------------------------------------------------


def _decoder(path, encoding):
    def decode(text):
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            return _decoded(path, text, encoding)

    return decode


def _decoded(path, text, encoding):
    shown = text[:40].decode("ascii", "replace").replace("\n", " ").strip()
    if encoding is None:
        raise InputError(
            f"{path}: text that is not UTF-8 ({shown!r}); say its `encoding` in the dataset, e.g. "
            "latin-1, cp1252 or shift-jis"
        )
    try:
        return text.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise InputError(
            f"{path}: text that `encoding` of the dataset does not fit ({error}): {shown!r}"
        ) from None


def _markers(path, sfreq, encoding, said):
    """Markers of BrainVision, which count samples from 1."""
    content = Path(path).read_bytes()
    text = _marker_text(path, content, encoding, said)
    text = re.sub(r"(?im)^[ \t]*Codepage[ \t]*=.*$", "Codepage=UTF-8", text)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "markers.vmrk"
        copy.write_bytes(text.encode("utf-8"))
        noticed = []
        try:
            with recordings.heard(noticed):
                found = mne.read_annotations(copy, sfreq=sfreq)
        except Exception as error:  # MNE's reader raises whatever broken markers make it
            raise InputError(f"{path}: not a readable file of markers ({error})") from None
    said += recordings.sorted_out(path, noticed)
    return list(
        zip(found.onset.tolist(), np.nan_to_num(found.duration).tolist(),
            found.description.tolist(), strict=True)
    )  # fmt: skip


def _marker_text(path, content, encoding, said):
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    odd = next(line for line in content.splitlines() if not line.isascii())
    if encoding is not None:
        return _decoded(path, content, encoding)
    page = re.search(rb"(?im)^[ \t]*Codepage[ \t]*=[ \t]*(\S+)", content)
    if page and page[1].upper() == b"ANSI":
        said.append("markers are not UTF-8, read as cp1252; if they are not, say `encoding`")
        return content.decode("cp1252", errors="replace")
    return _decoded(path, odd, None)
