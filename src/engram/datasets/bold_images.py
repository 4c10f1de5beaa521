"""BOLD images with an atlas, as fMRIPrep and its like leave them (NIfTI), by nilearn's maskers.

A manifest lists the scans: subject, scan, fmri, the image of four axes, and, if there is one,
`confounds`, the table that fMRIPrep writes beside it.  Its column `tr` says of one scan what the
option says of all.  Without a manifest the `files` of a unit are the image and the confounds of its
one scan, and the subject of the unit sub-01_task-rest is sub-01.

Each of the `images` of atlases lies on the grid of the scans.  One of three axes numbers its
regions (Schaefer, Tian), one of four axes holds a map of weights for each (DiFuMo).  A region that
is named and whose number the image lacks is left out.

Abraham, A. et al. (2014). Machine learning for neuroimaging with scikit-learn. Frontiers in
Neuroinformatics 8:14. https://nilearn.github.io
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from nilearn.maskers import NiftiLabelsMasker, NiftiMapsMasker

from engram.datasets import roi_series as tables
from engram.errors import InputError
from engram.readers import nifti, region_names, roi_series

DEVICE = "cpu"

#: Columns of the manifest that are read, beside those that `conditions` names.
COLUMNS = ("subject", "scan", "tr")
READS = ("file", "fmri")
FILES = ("images", "atlas")

#: Seconds that a unit of time in a NIfTI header stands for.
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}

#: Times that an atlas may shrink, which is mostly 0: what deflate can; the grid of the scan and the
#: names of its regions say how large it may be.
SPARSE = 1032


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options.

    Attributes:
        images: files of the atlases, on the grid of the scans.
        atlas: of each image, which regions it holds: schaefer400_7n, schaefer400_17n, tian_s3,
            buckner7, numbered from 1 in their published order, or a file of names and numbers.
        tr: seconds between two frames; null takes that of the image or of the manifest.
        confounds: columns of the tables of confounds whose share of each region is removed, by
            least squares over the scan; null removes none.
        conditions: columns of the manifest that hold for the whole scan; the value F of the
            column sex becomes the event "sex:F".
    """

    images: list[str]
    atlas: list[str]
    tr: float | None = None
    confounds: list[str] | None = None
    conditions: list[str] | None = None


def read(unit, rows, options):
    """The scans of one unit.

    Signals: "fmri", float32 (roi, time): the mean over the voxels of each region, or the least
    squares weight of its map in each frame, minus what the confounds explain of it.

    Raises:
        InputError: a file is missing or unreadable, an atlas is on another grid or has a number
            without a name, the TR is unknown or contradictory, or a region is unusable.
    """
    if not options.images or len(options.images) != len(options.atlas):
        raise InputError(
            f"dataset: {len(options.images)} `images` of atlases and {len(options.atlas)} names in "
            "`atlas`; name one each"
        )
    rows = rows if all("scan" in row for row in rows) else [_row(unit, rows, options)]
    return [_recording(row, options) for row in rows]


def _row(unit, rows, options):
    """The files of a unit as a line of a manifest would say them."""
    confounds = [row["path"] for row in rows if "confounds" in Path(row["path"]).name]
    bold = [row for row in rows if row["path"] not in confounds]
    if len(bold) != 1 or len(confounds) > 1:
        raise InputError(
            f"{unit}: files {', '.join(row['path'] for row in rows)}; a unit is one BOLD image and "
            "at most one table with `confounds` in its name; correct `files` of the dataset"
        )
    subject, _, scan = unit.partition("_")
    return {
        **bold[0],
        "subject": subject,
        "scan": scan or "scan-01",
        "confounds_path": confounds[0] if confounds else None,
    }


def _recording(row, options):
    path, image = row["path"], nifti.opened(row["path"])
    if len(image.shape) != 4:
        raise InputError(f"{path}: {len(image.shape)} axes, but a BOLD image has four")
    tr = tables.stated_tr(row, options, {"its header": _tr(image)})
    removed = options.confounds and _confounds(row, options.confounds, image.shape[3])
    image = nifti.loaded(path, image)
    parts = [
        _series(path, image, atlas, labels, removed)
        for atlas, labels in zip(options.images, options.atlas, strict=True)
    ]
    return tables.recording(
        row["subject"],
        row["scan"],
        roi_series.joined([path] * len(parts), parts),
        tr,
        conditions=tables.conditions(row, options),
        labels=row.get("labels_path"),
    )


def _series(path, image, atlas, labels, confounds):
    """The regions of one atlas."""
    regions = nifti.opened(atlas, SPARSE)
    if image.shape[:3] != regions.shape[:3] or not np.allclose(
        image.affine, regions.affine, atol=1e-3
    ):
        raise InputError(
            f"{atlas}: a grid of {regions.shape[:3]}, but {path} has {image.shape[:3]}, or they "
            "lie elsewhere in space; resample the atlas to the grid of the image, by nearest "
            "neighbour"
        )
    if len(regions.shape) not in (3, 4):
        raise InputError(f"{atlas}: {len(regions.shape)} axes, but an atlas has three or four")
    maps = len(regions.shape) == 4
    named = _named(labels)
    if maps:  # counted from 0 or from 1
        numbers = list(range(min(named) > 0, regions.shape[3] + (min(named) > 0)))
        found = _held(named, labels, atlas, numbers)
        regions = nifti.loaded(atlas, regions)
    else:
        regions = nifti.loaded(atlas, regions)
        numbers = _numbers(atlas, regions)
        found = _held(named, labels, atlas, numbers)
    _refuse_unknown(path, image, atlas, regions)
    masker = NiftiMapsMasker if maps else NiftiLabelsMasker
    with warnings.catch_warnings():  # of how later versions scale confounds, which changes nothing
        warnings.simplefilter("ignore", DeprecationWarning)
        masker = masker(regions, resampling_target=None, standardize=None).fit(image)
        values = masker.transform(image, confounds=confounds)
    values = values.T[[numbers.index(number) for number in found]]
    names = tuple(found.values())
    return roi_series.Series(roi_series.checked(path, values, names), names)


def _refuse_unknown(path, image, atlas, regions):
    """nilearn takes values that are not finite for 0."""
    inside = np.asarray(regions.dataobj) != 0
    inside = inside.any(axis=3) if inside.ndim == 4 else inside
    unknown = ~np.isfinite(np.asarray(image.dataobj).sum(axis=3)[inside])
    if unknown.any():
        raise InputError(
            f"{path}: {unknown.sum()} voxels in the regions of {atlas} are NaN or infinite in some "
            "frame; fill them in, or set them to 0 in the atlas"
        )


def _tr(image):
    """Seconds between frames by the header, or None."""
    unit = SECONDS.get(image.header.get_xyzt_units()[1])
    seconds = float(image.header.get_zooms()[3])
    return round(seconds * unit, 6) or None if unit and np.isfinite(seconds) else None


def _numbers(path, regions):
    """Numbers of the regions, sorted, as nilearn has them."""
    values = np.unique(np.asarray(regions.dataobj))
    if not (np.abs(values) < 2**31).all():  # nor NaN
        raise InputError(f"{path}: holds {values[-1]:g}, no number of a region; correct `images`")
    numbers = sorted(set(values.round().astype(int).tolist()) - {0})
    if not numbers:
        raise InputError(f"{path}: holds no region, as all of it is 0; correct `images`")
    return numbers


def _named(labels):
    """{number: name} of a known atlas or of a file, numbered from 1 where that has no numbers."""
    names, numbers = region_names.of_atlas(labels)
    return dict(zip(numbers or range(1, len(names) + 1), names, strict=True))


def _held(named, labels, atlas, numbers):
    """Those of `named` that an image holds."""
    if unknown := sorted(set(numbers) - set(named)):
        raise InputError(
            f"{labels}: has no name for region {unknown[0]} of {atlas}, whose regions are "
            f"{numbers[0]} to {numbers[-1]}; correct `atlas` of the dataset, or the file"
        )
    return {number: name for number, name in named.items() if number in numbers}


def _confounds(row, columns, frames):
    """Confounds (time, n); a derivative, which the first frame lacks, is 0 there."""
    path = row.get("confounds_path")
    if not path:
        raise InputError(
            f"{row['path']}: no table of confounds; name it in the column `confounds` of the "
            "manifest, or take out `confounds` of the dataset"
        )
    try:
        table = pd.read_csv(path, sep="\t" if path.endswith(".tsv") else ",", na_values=["n/a"])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table ({error})") from None
    missing = [column for column in columns if column not in table]
    if missing or len(table) != frames:
        what = f"no column {missing[0]!r}" if missing else f"{len(table)} lines for {frames} frames"
        raise InputError(f"{path}: {what}; correct `confounds` of the dataset or the file")
    values = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64, copy=True)
    values[0] = np.where(np.isnan(values[0]), 0, values[0])
    if not np.isfinite(values).all():
        bad = columns[int(np.argmax(~np.isfinite(values).all(0)))]
        raise InputError(
            f"{path}: column {bad!r} lacks values behind its first frame; leave it out"
        )
    return values
