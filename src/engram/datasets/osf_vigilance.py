"""The published layout of the vigilance sample data (OSF hxaz4): spectrogram pictures, labels.

In one folder lie, a scan: `eeg_spectrograms/{unit}_eeg_spectrogram.png`,
`fmri_spectrograms/{unit}_{region}_fmri_spectrogram.png` for each region, and
`vigall_out/{unit}_vigall.npy`, one label a window, 0 drowsy, 1 alert.  The average picture,
`{unit}_average_filtered_spectrogram.png`, is the region "average filtered" if it is listed.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engram.errors import InputError
from engram.readers import arrays, images
from engram.recording import Picture, Recording

DEVICE = "cpu"

UNIT = re.compile(r"(?P<subject>sub\w+)-(?P<scan>scan\w+)")
WINDOW_UNITS, STEP_UNITS = 30, 15  # of the published labels

#: Pictures that show no single region, by the end of their names: modality and name.
PICTURES = {
    "_eeg_spectrogram.png": ("eeg", "eeg"),
    "_average_filtered_spectrogram.png": ("fmri", "average filtered"),
}


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        regions: names of the fMRI regions to read, as in the file names; the global signals
            can be named like any other.
        pixels_per_unit: columns of a picture that make one unit of time.
        seconds_per_unit: seconds of one unit of time. The publication does not state it.
    """

    regions: list[str] = field(default_factory=list)
    pixels_per_unit: int = 3
    seconds_per_unit: float = 1.0


def read(unit, rows, options) -> list[Recording]:
    """The scan called `unit`, e.g. sub07-scan01.

    Pictures: "eeg" and, by region, "fmri", uint8 RGB. Labels: int8 (n_windows,).

    Raises:
        InputError: a file is unreadable or of another shape, a region is ambiguous, the labels
            are not one a window, or the unit is not named subXX-scanYY.
    """
    named = UNIT.fullmatch(unit)
    if not named:
        raise InputError(f"unit {unit!r}: expected a name like sub07-scan01")
    seconds_per_pixel = options.seconds_per_unit / options.pixels_per_unit
    pictures, labels = {"eeg": {}, "fmri": {}}, None
    label_files = [row["path"] for row in rows if row["file"].endswith(".npy")]
    for row in rows:
        if row["path"] not in label_files:
            modality, name = _what(row)
            pixels = np.asarray(images.read(row["path"], row["path"]))
            pictures[modality][name] = Picture(pixels, seconds_per_pixel)
    widths = {p.pixels.shape for kind in pictures.values() for p in kind.values()}
    if len(widths) != 1:
        raise InputError(f"{unit}: pictures of different shapes: {sorted(widths)}")
    columns = widths.pop()[1]
    for path in label_files:
        labels = _labels(path, columns // options.pixels_per_unit)
    duration = columns * seconds_per_pixel
    return [Recording(named["subject"], named["scan"], duration, pictures=pictures, labels=labels)]


def _what(row):
    """(modality, name) of a picture; a region is what its file name says, never its position."""
    if "regions" in row:
        _refuse_lookalikes(Path(row["path"]))
        return "fmri", row["regions"]
    for suffix, what in PICTURES.items():
        if row["file"].endswith(suffix):
            return what
    raise InputError(
        f"{row['file']}: not a published picture; names end in {', '.join(PICTURES)} or, for "
        "the fMRI regions, in _{regions}_fmri_spectrogram.png"
    )


def _refuse_lookalikes(path):
    """A region whose name stands in the folder twice, apart from case and apostrophes."""
    alike = sorted(p.name for p in path.parent.glob("*.png") if _plain(p.name) == _plain(path.name))
    if len(alike) > 1:
        raise InputError(
            f"{path}: the region is ambiguous, there is {' and '.join(alike)}; keep one of them"
        )


def _plain(name):
    name = unicodedata.normalize("NFC", name).casefold()
    return name.translate(dict.fromkeys(map(ord, "’‘ʼ`´"), "'"))


def _labels(path, units):
    try:
        values = arrays.numbers(path)
    except ValueError as error:
        raise InputError(f"{path}: not a plain array of labels ({error})") from None
    if values.ndim not in (1, 2) or values.size != len(values):
        raise InputError(f"{path}: labels of shape {values.shape}; expected (windows, 1)")
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{path}: labels other than 0 (drowsy) and 1 (alert)")
    expected = (units - WINDOW_UNITS) // STEP_UNITS + 1
    if len(values) != expected:
        raise InputError(
            f"{path}: {len(values)} labels, but {units} units of time hold {expected} windows of "
            f"{WINDOW_UNITS} every {STEP_UNITS}; correct the file or `pixels_per_unit`"
        )
    return values.ravel().astype(np.int8)
