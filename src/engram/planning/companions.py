"""The other files of a recording that is more than the file that names it.

Standard library only: the plan lists them among the inputs of a job, so that an edit of the
markers behind a header runs that job again.
"""

import os
import re
from pathlib import Path

from engram.errors import InputError

#: Suffixes of the files that stand beside one of a format and share its stem.
BESIDE = {
    ".set": (".fdt",),  # EEGLAB
    ".data": (".head",),  # Nicolet
    ".dat": (".dap", ".rs3", ".cef", ".pom"),  # Curry 7
    ".cdt": (".dpa", ".dpo", ".cef", ".cdt.dpa", ".cdt.dpo", ".cdt.cef"),  # Curry 8
    ".eeg": (".21e", ".pnt", ".log", ".cmt"),  # Nihon Kohden
}

#: Folders that are one recording: CTF, EGI.
FOLDERS = (".ds", ".mff")

#: What the names of recordings end in, by BIDS.
BIDS_SUFFIXES = ("eeg", "ieeg", "meg", "nirs")

#: Keys under which a header names its other files: BrainVision, Persyst.
NAMED = {
    ".vhdr": ("DataFile", "MarkerFile"),
    ".ahdr": ("DataFile", "MarkerFile"),
    ".lay": ("File",),
}


def companions(path) -> list[Path]:
    """The files that are read with a recording, beside `path` itself.

    Those that a header names; of a folder that is a recording, the files in it; of a split FIF,
    its other parts; the files of the same stem that the format has; and BIDS' tables of channels
    and of events.

    Args:
        path: of a recording that is there.

    Raises:
        InputError: a header names a file that is missing, or one outside of its folder.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir() and suffix not in FOLDERS:
        return []
    tables = [table for table in (channels_table(path), events_table(path)) if table]
    return [*_of_format(path, suffix), *tables]


def channels_table(path) -> Path | None:
    """The table of channels that BIDS puts beside a recording, if it is there.

    That of `sub-01_task-rest_split-01_eeg.fif` is `sub-01_task-rest_channels.tsv`.
    """
    return _bids_table(path, "channels")


def events_table(path) -> Path | None:
    """The table of events that BIDS puts beside a recording, if it is there."""
    return _bids_table(path, "events")


def _bids_table(path, what):
    path = Path(path)
    stem, _, kind = re.sub(r"(\.fif)?\.[^.]+$", "", path.name).rpartition("_")
    if kind not in BIDS_SUFFIXES:
        return None
    table = path.with_name(re.sub(r"_split-\d+", "", stem) + f"_{what}.tsv")
    return table if table.is_file() else None


def markers(path) -> Path | None:
    """The file of markers that a BrainVision header names, or None.

    Raises:
        InputError: it is missing or lies outside of the header's folder.
    """
    path = Path(path)
    if "MarkerFile" not in NAMED.get(path.suffix.lower(), ()):
        return None
    return next(iter(_named(path, ["MarkerFile"])), None)


def _of_format(path, suffix):
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if suffix in NAMED:
        return _named(path, NAMED[suffix])
    if suffix == ".fif":
        return _parts(path)
    wanted = {f"{path.stem}{other}".lower() for other in BESIDE.get(suffix, ())}
    if not wanted:
        return []
    return sorted(file for file in path.parent.iterdir() if file.name.lower() in wanted)


def refuse_elsewhere(path):
    """Refuse a header that names a file outside of its folder.

    Raises:
        InputError: it does, or one that is missing.
    """
    path = Path(path)
    if path.is_file():
        _named(path, NAMED.get(path.suffix.lower(), ()))


def _named(path, keys):
    """What an INI-like header names, each file once."""
    text = path.read_bytes().decode("utf-8-sig", errors="replace") if keys else ""
    found = []
    for key in keys:
        lines = re.findall(rf"(?im)^[ \t]*{key}[ \t]*[=:](.*)$", text)
        for name in filter(None, map(str.strip, lines)):
            name = name.replace("$b", path.stem)  # BrainVision's word for the header's own stem
            found.append(_beside(path, key, Path(name.replace("\\", "/"))))
    return list(dict.fromkeys(found))


def _beside(path, key, name):
    """A file that a header names; it may be a link, as in folders of DataLad."""
    said = f"{path}: {key} names {str(name)[:200]!r}, which"
    if name.is_absolute() or ".." in name.parts:
        raise InputError(
            f"{said} lies outside of its folder; put the file beside the header and correct the "
            "name"
        )
    file = path.parent / name
    if not os.path.isfile(file):  # nor is one of too long a name, for which pathlib has an error
        raise InputError(
            f"{said} is not there; put the file beside the header, or correct the name if it was "
            "renamed"
        )
    return file


def _parts(path):
    """The other parts of a FIF file that MNE split: `raw-1.fif`, or `split-02` in BIDS."""
    bids = re.fullmatch(r"(.*_split-)\d+(_.*)", path.name)
    pattern = (
        re.escape(bids[1]) + r"\d+" + re.escape(bids[2])
        if bids
        else re.escape(path.stem) + r"-\d+" + re.escape(path.suffix)
    )
    files = (file for file in path.parent.iterdir() if re.fullmatch(pattern, file.name))
    return sorted(file for file in files if file.name != path.name)
