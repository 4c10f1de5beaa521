"""Rows of a view as pictures that a person can look at."""

import base64
import io

import numpy as np
from PIL import Image

from engram import store
from engram.errors import InputError
from engram.signals.image import render

SEEN = ("spectrogram", "picture", "timeseries")  # kinds of rows that can be shown
MOST_REGIONS = 2  # shown of one row; more are too small to see
SHADES = 3  # standard deviations of a series from black or white


def load(paths, names) -> tuple[dict[str, np.ndarray], dict]:
    """Rows of a view by name, and the header of the view.

    Args:
        paths: stores of one view.
        names: rows to read; those that no store holds are absent from the result.

    Raises:
        InputError: the view is no picture, or holds none of the rows.
    """
    wanted, rows, header = set(names), {}, {}
    for path in paths:
        this = store.open(path)
        header = header or this.header
        here = [i for i, name in enumerate(this.table.index) if name in wanted]
        if here:
            rows |= zip(this.table.index[here], this[np.array(here)], strict=True)
    if header.get("what") not in SEEN:
        raise InputError(
            f"{paths[0]}: a view of {header.get('what')!r} cannot be shown as a picture; "
            "plots need a view of spectrograms, pictures or series as the first source"
        )
    if not rows:
        raise InputError(f"{paths[0]}: the view shares no row name with the predictions")
    if header["what"] == "timeseries":
        rows = {name: _standardized(row) for name, row in rows.items()}
        header = header | {"limits": [-SHADES, SHADES], "cmap": "gray"}
    return rows, header


def _standardized(row):
    """Series (roi, time) in standard deviations of their region, so that all can be seen."""
    row = row.astype(np.float64)
    sd = row.std(-1, keepdims=True)
    return (row - row.mean(-1, keepdims=True)) / np.where(sd > 0, sd, 1)


def regions(row, header) -> dict[str, np.ndarray]:
    """The images (h, w) or (h, w, 3) of one row, by region name; "" where there is one only."""
    if row.ndim == (3 if header["what"] == "picture" else 2):
        return {"": row}
    names = header.get("regions") or [f"region {i}" for i in range(len(row))]
    return dict(zip(names[:MOST_REGIONS], row[:MOST_REGIONS], strict=True))


def coloured(image, header) -> np.ndarray:
    """uint8 RGB (h, w, 3) of one image of a view, through its colour map and limits."""
    if header["what"] == "picture":
        return image
    return render(image, header["limits"], cmap=header.get("cmap", "viridis"))


def thumbnail(row, header, width=128, height=96) -> str:
    """A small picture of one row as a data URI; its regions stand one above the other."""
    parts = [coloured(image, header) for image in regions(row, header).values()]
    whole = Image.new("RGB", (width, (height + 2) * len(parts) - 2), "white")
    for place, part in enumerate(parts):
        small = Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR)
        whole.paste(small, (0, place * (height + 2)))
    file = io.BytesIO()
    whole.save(file, "WEBP", quality=50, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def legend(header) -> str:
    """What the axes of a thumbnail are, in words."""
    names = (header.get("regions") or [])[:MOST_REGIONS]
    where = f"; from top: {', '.join(names)}" if len(names) > 1 else ""
    if header["what"] == "picture":
        return f"picture as published, time from left to right{where}"
    if header["what"] == "timeseries":
        what = "channels" if header.get("modality") == "eeg" else "regions"
        return f"{len(header['channels'])} {what}, a line each, time from left to right"
    lowest, highest = sorted((header["frequencies"][0], header["frequencies"][-1]))
    return f"{lowest:.2g} to {highest:.2g} Hz, low at the bottom{where}"
