"""Functions of MNE's readers that believe a file, replaced for a while by some that do not.

What is refused is raised as MNE's readers raise: `InputError`, or ValueError.
"""

import contextlib
import importlib
import itertools
import os
from pathlib import Path

import mne
import numpy as np

from engram.errors import InputError
from engram.readers import claims

#: Blocks of events in a log of Nihon Kohden; those behind them are fractions of their seconds.
LOG_BLOCKS = 22


@contextlib.contextmanager
def guarded(path):
    """Functions that read a file of its ending follow it no longer wherever it leads."""
    with contextlib.ExitStack() as stack:
        for module, name, ours in GUARDS.get(Path(path).suffix.lower(), ()):
            stack.enter_context(_replaced(module, name, ours))
        yield


@contextlib.contextmanager
def _replaced(module, name, ours):
    """A function of a module, replaced for a while by what `ours` makes of it."""
    module = importlib.import_module(module)
    original = getattr(module, name)
    setattr(module, name, ours(original))
    try:
        yield
    finally:
        setattr(module, name, original)


def _no_annotations(_):
    """EDF's are read by `engram.readers.edf_annotations`, in time that their length bounds."""
    return lambda *_, **__: mne.Annotations([], [], [])


def _next_beside(original):
    """The next part of a FIF file that was split: in the same folder, and not one read before."""
    seen = set()

    def following(fid, fname, tree):
        seen.add(Path(fname).name)
        found = original(fid, fname, tree)
        if found is not None and found.parent != Path(fname).parent:
            raise InputError(f"{fname}: {elsewhere(found)}")
        if found is not None and found.name in seen:
            raise InputError(
                f"{fname}: names {found.name!r} as its next part, which comes before it; split "
                "the recording again"
            )
        return found

    return following


def _onwards(original):
    """A tag of a FIF file, which leads on, never back."""

    def header(fid, pos):
        tag = original(fid, pos)
        if tag is not None and 0 < tag.next <= pos:
            raise ValueError(f"its tag at byte {pos} leads back to {tag.next}")
        return tag

    return header


def _data_beside(original):
    """The file of samples that a header of EEGLAB names: in the same folder."""

    def data(fname, dataname):
        found = original(fname, dataname)
        if Path(found).parent != Path(fname).parent:
            raise InputError(f"{fname}: {elsewhere(dataname)}")
        return found

    return data


def _some_channels(original):
    """The facts of EEGLAB, of which MNE makes as many names as there are said to be channels."""

    def facts(*args, **kwargs):
        found = original(*args, **kwargs)
        if not 1 <= found.nbchan <= claims.MOST_CHANNELS:
            raise ValueError(f"it promises {found.nbchan} channels")
        return found

    return facts


def _all_asked(original):
    """Values of GDF, of which NumPy takes room for all asked and finds what there is."""

    def values(fid, dtype, count=-1):
        left = os.fstat(fid.fileno()).st_size - fid.tell()
        if int(count) * np.dtype(dtype).itemsize > left:
            raise ValueError(f"it promises {count} values where {left} bytes are left")
        return original(fid, dtype, count)

    return values


def _whole_log(original):
    """Events of Nihon Kohden, of which MNE takes what there is."""

    def block(fid, at, version):
        found = original(fid, at, version)
        fid.seek(0x92 + 20 * at)
        address = np.fromfile(fid, "<u4", 1)
        if at < LOG_BLOCKS and address.any():
            fid.seek(int(address[0]))
            start = np.fromfile(fid, "u1", 0x13)
            if start.size < 0x13 or start[0x12] != len(found):
                raise ValueError(f"of its log {len(found)} events are left")
        return found

    return block


def _to_the_end(original):
    """Markers of CTF, among which MNE looks for the next heading without end."""

    def markers(fname):
        with open(fname) as lines:

            def behind(heading):
                for line in lines:
                    if line.startswith(heading):
                        return next(lines, "")
                raise ValueError(f"its {Path(fname).name} ends before {heading!r}")

            for _ in range(int(behind("NUMBER OF MARKERS:"))):
                behind("NAME:")
                count = int(behind("NUMBER OF SAMPLES:"))
                behind("LIST OF SAMPLES:")
                if len([*itertools.islice(lines, count)]) < count:
                    raise ValueError(f"its {Path(fname).name} has fewer than {count} samples")
        return original(fname)

    return markers


_EDF_GUARDS = (("mne.io.edf.edf", "_read_annotations_edf", _no_annotations),)
_FIF_GUARDS = (
    ("mne.io.fiff.raw", "_get_next_fname", _next_beside),
    ("mne.epochs", "_get_next_fname", _next_beside),
    ("mne._fiff.open", "_read_tag_header", _onwards),
)
_SET_GUARDS = (
    ("mne.io.eeglab.eeglab", "_check_eeglab_fname", _data_beside),
    ("mne.io.eeglab.eeglab", "_check_load_mat", _some_channels),
)
GUARDS = {
    ".edf": _EDF_GUARDS, ".bdf": _EDF_GUARDS, ".fif": _FIF_GUARDS, ".gz": _FIF_GUARDS,
    ".set": _SET_GUARDS,
    ".gdf": (("mne.io.edf.edf", "read_from_file_or_buffer", _all_asked),),
    ".eeg": (("mne.io.nihon.nihon", "_read_event_log_block", _whole_log),),
    ".ds": (("mne.io.ctf.markers", "_get_markers", _to_the_end),),
}  # fmt: skip


def single_values():
    """For EEGLAB's v7.3 files of one channel, whose facts MNE takes for lists."""
    return _replaced("mne.io.eeglab.eeglab", "_readmat", _unlisted)


def elsewhere(file):
    """What is wrong with a file that is named and lies elsewhere, and what to do."""
    return (
        f"names {str(file)!r}, which lies outside of its folder; put the file beside the "
        "recording and correct the name"
    )


def _unlisted(readmat):

    def read(*args, **kwargs):
        content = readmat(*args, **kwargs)
        eeg = content.get("EEG", content)
        places = eeg["chanlocs"]
        if isinstance(places, dict):
            eeg["chanlocs"] = {k: v[0] if len(v) == 1 else v for k, v in places.items()}
        return content

    return read
