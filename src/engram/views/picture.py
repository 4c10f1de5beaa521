"""Published spectrogram pictures, cut into windows along their time axis."""

from dataclasses import dataclass

import numpy as np

from engram.errors import InputError
from engram.store import Rows

DEVICE = "cpu"
GIVES = "picture"


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        modality: "eeg" or "fmri".
        regions: fMRI regions by name, each an image of its own; null for EEG.
    """

    modality: str = "eeg"
    regions: list[str] | None = None


def render(recording, windows, options) -> Rows:
    """Windows of the pictures of one recording: their whole height, never turned or cropped.

    Returns:
        Rows: uint8 RGB, (n, height, width, 3) or, with regions, (n, region, height, width, 3).

    Raises:
        InputError: the recording has no such picture, or a window is no whole number of pixels.
    """
    there = recording.pictures.get(options.modality, {})
    names = options.regions or [options.modality]
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            f"{recording.name}: no {options.modality} picture {', '.join(missing)}; there is "
            f"{', '.join(there) or 'none'}: list it in `regions` of the dataset"
        )
    table = windows.table(recording)
    pixels = np.stack([there[name].pixels for name in names])
    seconds = there[names[0]].seconds_per_pixel
    width = _whole(windows.length / seconds, recording, "length")
    step = _whole(windows.step / seconds, recording, "step")
    cut = np.stack([pixels[:, :, i * step : i * step + width] for i in range(len(table))])
    header = {
        "what": GIVES,
        "axes": 3,
        "modality": options.modality,
        "unit": "sRGB",
        "regions": options.regions,
        "seconds_per_column": seconds,
        **recording.origin,
    }
    return Rows(cut if options.regions else cut[:, 0], table, header)


def _whole(pixels, recording, what):
    if abs(pixels - round(pixels)) > 1e-6:
        raise InputError(
            f"{recording.name}: the {what} of a window is {pixels:g} pixels; "
            "choose `windows` that are whole pixels"
        )
    return round(pixels)
