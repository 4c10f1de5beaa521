"""Series of regions in pairs of torch files, `<part>_x.pt` and `<part>_y.pt`, as Brain-JEPA reads.

The first is a tensor (scan, roi, time) or a list of tensors (roi, time), the second a label a scan.
A unit is such a pair.  The files do not say whose scans these are: each counts as a subject of its
own, so leave nobody in two of them.
"""

import pickle
from dataclasses import dataclass, field

import torch

from engram.datasets import roi_series as tables
from engram.errors import InputError
from engram.readers import archives, region_names, roi_series

DEVICE = "cpu"
FILES = ("atlas",)


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        tr: seconds between two frames.
        atlas: atlases whose regions the scans hold, one after the other, each in its published
            order, or files of names.
        names: of the regions, instead of `atlas`.
        label: what the labels are called as a fact of the scan; 1 becomes the event "label:1" too.
        unit: of the values.
    """

    tr: float
    atlas: list[str] = field(default_factory=lambda: ["tian_s3", "schaefer400_17n"])
    names: list[str] | None = None
    label: str = "label"
    unit: str = "BOLD"


def read(unit, rows, options):
    """The scans of one pair of files.

    Signals: "fmri", float32 (roi, time).

    Raises:
        InputError: the files are no such pair, hold more than tensors, differ in their number of
            scans, or a scan is unusable.
    """
    paths = [row["path"] for row in rows]
    pair = [[path for path in paths if path.endswith(end)] for end in ("_x.pt", "_y.pt")]
    if len(paths) != 2 or not all(pair):
        raise InputError(
            f"{unit}: files {', '.join(paths)}; a unit is a pair '..._x.pt' and '..._y.pt'"
        )
    scans, labels = (_load(path) for (path,) in pair)
    if len(scans) != len(labels):
        raise InputError(
            f"{paths[0]}: {len(scans)} scans, but {len(labels)} labels in {paths[1]}; they are no "
            "pair"
        )
    names = tuple(
        options.names or (n for a in options.atlas for n in region_names.of_atlas(a).names)
    )
    found = []
    for i, (scan, label) in enumerate(zip(scans, labels, strict=True), start=1):
        subject, label = f"{unit}-{i:05d}", torch.as_tensor(label).item()
        where = f"{pair[0][0]}: scan {i}"
        values = torch.as_tensor(scan)
        if values.nbytes > values.untyped_storage().nbytes():
            raise InputError(f"{where}: has more values than the file holds; write it again")
        if values.ndim != 2:
            raise InputError(f"{where}: has the shape {tuple(values.shape)}, expected (roi, time)")
        series = roi_series.Series(roi_series.checked(where, values.numpy(), names), names)
        known = {options.label: label}
        found.append(
            tables.recording(
                subject, "scan-01", series, options.tr, options.unit, known, facts=known
            )
        )
    return found


def _load(path):
    """A tensor or list; nothing else that a pickle may name is loaded."""
    try:
        archives.refuse_bomb(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path}: not a file of tensors alone ({reason[0]}); write it again with torch.save of "
            "a tensor, or of a list of tensors"
        ) from None
    if not isinstance(content, torch.Tensor | list | tuple):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected a tensor or a list")
    return content
