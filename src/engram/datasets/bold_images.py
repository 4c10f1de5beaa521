"""BOLD images with an atlas, as fMRIPrep and its like leave them (NIfTI), by nilearn's maskers.

The files of a unit are one scan: a BOLD image of four axes; an atlas on the same grid, either an
image of three axes that numbers the regions (Schaefer, Tian), or one of four axes with `probseg` in
its name, as BIDS calls it, with a map of weights for each region (DiFuMo); a table (`.tsv`, `.csv`)
with the columns `index` and `name`; and, if there is one, a table of confounds with `confounds` in
its name. The `index` of a region is its number, or the position of its map from 0. The subject of
the unit sub-01_task-rest is sub-01.

Abraham, A. et al. (2014). Machine learning for neuroimaging with scikit-learn. Frontiers in
Neuroinformatics 8:14. https://nilearn.github.io
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.maskers import NiftiLabelsMasker, NiftiMapsMasker

from engram.datasets import roi_series as tables
from engram.errors import InputError
from engram.readers import roi_series

DEVICE = "cpu"

IMAGES = (".nii", ".nii.gz")
MAPS = "probseg"  # in the name of an atlas whose regions overlap
#: Seconds that a unit of time in a NIfTI header stands for.
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        tr: seconds between two frames; null takes that of the image.
        confounds: columns of the table of confounds whose share of each region is removed, by
            least squares over the scan; null removes none.
    """

    tr: float | None = None
    confounds: list[str] | None = None


def read(unit, rows, options):
    """The scan of one unit.

    Signals: "fmri", float32 (roi, time): the mean over the voxels of each region, or the least
    squares weight of its map in each frame, minus what the confounds explain of it.

    Raises:
        InputError: a file is missing or unreadable, the atlas is on another grid or has a number
            without a name, the TR is unknown or contradictory, or a region is unusable.
    """
    bold, atlas, names, confounds = _roles(unit, [row["path"] for row in rows], options)
    image, labels = _image(bold), _image(atlas)
    if image.shape[:3] != labels.shape[:3] or not np.allclose(
        image.affine, labels.affine, atol=1e-3
    ):
        raise InputError(
            f"{atlas}: a grid of {labels.shape[:3]}, but {bold} has {image.shape[:3]}, or they lie "
            "elsewhere in space; resample the atlas to the grid of the image, by nearest neighbour"
        )
    tr = _tr(bold, image, options)
    maps = len(labels.shape) == 4
    numbers = range(labels.shape[3]) if maps else _numbers(labels)
    found = _names(names, atlas, numbers)
    removed = options.confounds and _confounds(confounds, options.confounds, image.shape[3])
    masker = NiftiMapsMasker if maps else NiftiLabelsMasker
    with warnings.catch_warnings():  # of how later versions scale confounds, which changes nothing
        warnings.simplefilter("ignore", DeprecationWarning)
        masker = masker(labels, resampling_target=None, standardize=None).fit(image)
        values = masker.transform(image, confounds=removed)
    values = values.T[[list(numbers).index(number) for number in found]]
    series = roi_series.Series(
        roi_series.checked(bold, values, tuple(found.values())), tuple(found.values())
    )
    return [tables.recording(unit.split("_")[0], _scan(unit), series, tr)]


def _roles(unit, paths, options):
    """Which file is what: BOLD image, atlas, names, confounds or None."""
    images = [path for path in paths if path.endswith(IMAGES)]
    beside = [path for path in paths if path.endswith((".tsv", ".csv"))]
    confounds = [path for path in beside if "confounds" in Path(path).name]
    names = [path for path in beside if path not in confounds]
    axes = {path: len(_image(path).shape) for path in images}
    atlas = [path for path in images if axes[path] == 3 or MAPS in Path(path).name]
    bold = [path for path in images if axes[path] == 4 and path not in atlas]
    for what, files in (
        ("BOLD image of four axes", bold),
        (f"atlas image of three axes, or of four and with {MAPS!r} in its name", atlas),
        ("table of names", names),
    ):
        if len(files) != 1:
            raise InputError(
                f"{unit}: {what}: {len(files)} files, expected one, of {', '.join(paths)}; "
                "correct `files` of the dataset"
            )
    if options.confounds and len(confounds) != 1:
        raise InputError(
            f"{unit}: {len(confounds)} tables of confounds, expected one; add it to `files` of the "
            "dataset, or take out `confounds`"
        )
    return bold[0], atlas[0], names[0], confounds[0] if confounds else None


def _image(path):
    try:
        return nib.load(path)
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path}: not a readable NIfTI image ({error})") from None


def _tr(path, image, options):
    unit = SECONDS.get(image.header.get_xyzt_units()[1])
    said = float(image.header.get_zooms()[3]) * (unit or 0)
    if not said and options.tr is None:
        raise InputError(f"{path}: its header does not say the TR; state `tr` of the dataset")
    if said and options.tr is not None and abs(said - options.tr) > 1e-3:
        raise InputError(
            f"{path}: its header says a TR of {said:g} s, the dataset {options.tr:g} s; take `tr` "
            "out, or correct the image"
        )
    return round(said, 6) if options.tr is None else options.tr


def _numbers(labels):
    """Numbers of the regions, sorted, as nilearn has them."""
    return sorted(set(np.unique(np.asarray(labels.dataobj).round().astype(int)).tolist()) - {0})


def _names(path, atlas, numbers):
    """{number: name} of the regions that the atlas holds, in the order of the table."""
    table = _table(path)
    if not {"index", "name"} <= set(table):
        raise InputError(f"{path}: columns {', '.join(table)}; expected index and name")
    names = dict(zip(table["index"].astype(int), table["name"].astype(str), strict=True))
    there = set(numbers)
    unknown = sorted(there - set(names))
    if unknown or len(names) < len(table):
        what = f"has no name for region {unknown[0]}" if unknown else "names a number twice"
        raise InputError(f"{path}: {what} of {atlas}; correct the table")
    return {number: name for number, name in names.items() if number in there}


def _confounds(path, columns, frames):
    """Confounds (time, n); a derivative, which the first frame lacks, is 0 there."""
    table = _table(path)
    missing = [column for column in columns if column not in table]
    if missing or len(table) != frames:
        what = f"no column {missing[0]!r}" if missing else f"{len(table)} lines for {frames} frames"
        raise InputError(f"{path}: {what}; correct `confounds` of the dataset or the file")
    values = table[columns].to_numpy(np.float64)
    values[0] = np.where(np.isnan(values[0]), 0, values[0])
    if not np.isfinite(values).all():
        bad = columns[int(np.argmax(~np.isfinite(values).all(0)))]
        raise InputError(
            f"{path}: column {bad!r} lacks values behind its first frame; leave it out"
        )
    return values


def _table(path):
    try:
        return pd.read_csv(path, sep="\t" if path.endswith(".tsv") else ",", na_values=["n/a"])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table ({error})") from None


def _scan(unit):
    return unit.partition("_")[2] or "scan-01"
