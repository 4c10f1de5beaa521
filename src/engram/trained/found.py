"""Which recordings are meant by paths of files and folders, and what each is called."""

import re
from collections import Counter
from pathlib import Path

from engram.errors import InputError
from engram.planning.companions import FOLDERS, companions

#: Endings of recordings that a folder is searched for, by signal.
ENDINGS = {
    "eeg": (
        *(".edf", ".bdf", ".gdf", ".fif", ".fif.gz", ".vhdr", ".ahdr", ".set", ".cnt", ".mff"),
        *(".ds", ".eeg", ".data", ".nxe", ".lay", ".dat", ".cdt", ".nedf", ".mefd", ".npz"),
    ),
    "fmri": (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".npy", ".mat", ".nii", ".nii.gz", ".npz"),
}


def recordings(paths, signals) -> tuple[dict[str, Path], dict[str, str]]:
    """Recordings by names of their own, those in folders included.

    Args:
        paths: of files, or of folders that are searched for them, at any depth. Files that belong
            to a recording, such as the data behind a header, are none of their own.
        signals: that are looked for, "eeg" or "fmri"; a file that is named may have any ending.

    Returns:
        {name: path}; and {path: what is wrong} of those that are not there or hold nothing.
    """
    found, failed = [], {}
    endings = tuple(dict.fromkeys(e for signal in signals for e in ENDINGS.get(signal, ())))
    for path in map(Path, paths):
        if path.is_dir() and path.suffix.lower() not in FOLDERS:
            inside = _inside(path, endings)
            if not inside:
                failed[str(path)] = (
                    f"{path}: no recording in this folder; those of {' and '.join(signals)} end in "
                    f"{', '.join(endings)}"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            failed[str(path)] = f"{path}: no such file"
    return _named(list(dict.fromkeys(found))), failed


def safe(text) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "recording"


def _inside(folder, endings):
    there = [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.lower().endswith(endings)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    folders = [path for path in there if path.is_dir()]
    kept, parts = [], set()
    for path in there:
        if path.resolve() in parts or any(one in path.parents for one in folders):
            continue
        kept.append(path)
        parts |= _parts(path)
    return [path for path in kept if path.resolve() not in parts]


def _parts(path):
    try:
        return {part.resolve() for part in companions(path)} - {path.resolve()}
    except InputError:
        return set()  # it is refused where it is read


def _named(paths):
    """Paths by their stems; where several share one, by more of the path."""
    names = {path: safe(_stem(path)) for path in paths}
    for longer in (
        lambda path: path.name,
        lambda path: "_".join(path.parts[-2:]),
        lambda path: "_".join(path.parts),
    ):
        counts = Counter(name.lower() for name in names.values())
        names = {
            path: safe(longer(path)) if counts[name.lower()] > 1 else name
            for path, name in names.items()
        }
    return {name: path for path, name in names.items()}


def _stem(path):
    return Path(path.name.removesuffix(".gz")).stem
