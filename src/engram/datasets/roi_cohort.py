"""A cohort of ROI series in one HDF5 file, the layout that Brain-Semantoks publishes.

`timeseries/<atlas>` are arrays (scan, roi, time), one an atlas; shorter scans are padded with NaN
at the end of the time axis.  `long_subject_id` names the subject of each scan, and several may have
one: they are called scan-01, scan-02, ... in their order.  `ts_len`, if there is one, says how
many frames each scan has.  Facts about the scans are arrays (scan,) under any name.

The scans of a file are read as one unit; units called `part-1-of-20`, `part-2-of-20`, ... hold a
part of its subjects each, so that memory holds no more than that at a time.
"""

import re
from dataclasses import dataclass, field

import numpy as np

from engram import hdf5_files
from engram.datasets import roi_series as tables
from engram.errors import InputError
from engram.readers import region_names, roi_series

DEVICE = "cpu"
FILES = ("atlases",)

PART = re.compile(r"(?:.*\D)?(\d+)-of-(\d+)")
SUBJECTS, LENGTHS = "long_subject_id", "ts_len"


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        tr: seconds between two frames.
        atlases: the arrays to read, put one below the other, and the atlas whose regions each
            holds in its published order, or a file of their names; or, by `names`, another one.
        names: of the regions of an array that holds no known atlas, by array.
        unit: of the values.
        conditions: arrays of facts that hold for the whole scan; F in sex becomes the event
            "sex:F".
        facts: arrays of facts about the scans.
    """

    tr: float
    atlases: dict[str, str] = field(
        default_factory=lambda: {
            "timeseries/schaefer400": "schaefer400_7n",
            "timeseries/tian3": "tian_s3",
            "timeseries/buckner7": "buckner7",
        }
    )
    names: dict[str, list[str]] | None = None
    unit: str = "z"
    conditions: list[str] | None = None
    facts: list[str] | None = None


def read(unit, rows, options):
    """The scans of one unit.

    Signals: "fmri", float32 (roi, time), without the padding.

    Raises:
        InputError: an array is missing or of another shape, a scan has NaN anywhere but at its
            end, its `ts_len` says something else, or a region never changes.
    """
    (row,) = rows
    path = row["path"]
    try:
        with hdf5_files.opened(path) as file:
            return list(_scans(path, file, unit, options))
    except InputError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a readable cohort ({error}); correct the file") from None


def _scans(path, file, unit, options):
    wanted = [*options.atlases, SUBJECTS, *(options.conditions or []), *(options.facts or [])]
    if missing := [name for name in wanted if name not in file]:
        raise InputError(
            f"{path}: no array {missing[0]!r}; there is {', '.join(_arrays(file))}; correct "
            "`atlases`, `conditions` or `facts` of the dataset, or the file"
        )
    subjects = _texts(file[SUBJECTS])
    arrays = {name: hdf5_files.whole(file[name]) for name in options.atlases}
    names = _names(path, arrays, options)
    for name, array in arrays.items():
        if array.ndim != 3 or len(array) != len(subjects):
            raise InputError(
                f"{path}: {name} has the shape {array.shape}, expected ({len(subjects)}, roi, time)"
            )
    facts = _facts(path, file, options, len(subjects))
    lengths = file[LENGTHS][()] if LENGTHS in file else None
    seen = {}
    for i in range(len(subjects)):
        seen.setdefault(subjects[i], []).append(i)
    for subject in _part(unit, list(seen)):
        for number, i in enumerate(seen[subject], start=1):
            scan = f"scan-{number:02d}"
            where = f"{path}: {subject}, {scan}"
            values = np.concatenate([np.asarray(one[i], np.float32) for one in arrays.values()])
            series = roi_series.Series(roi_series.checked(where, values, names), names)
            frames = series.values.shape[1]
            if lengths is not None and lengths[i] != frames:
                raise InputError(
                    f"{where}: {LENGTHS} is {lengths[i]}, but the series hold {frames} frames; "
                    "correct the file"
                )
            known = {key: values[i] for key, values in facts.items()}
            yield tables.recording(
                subject,
                scan,
                series,
                options.tr,
                options.unit,
                conditions={key: known[key] for key in options.conditions or []},
                facts={key: known[key] for key in options.facts or []},
            )


def _names(path, arrays, options):
    """Names of the regions of all arrays, as many as each holds."""
    found = []
    for name, array in arrays.items():
        atlas = options.atlases[name]
        names = (options.names or {}).get(name) or region_names.of_atlas(atlas).names
        if array.ndim == 3 and array.shape[1] != len(names):
            remedy = "correct `atlases` of the dataset"
            if array.shape[2] == len(names):
                remedy = "the axes look exchanged; expected (scan, roi, time)"
            raise InputError(
                f"{path}: {name} has {array.shape[1]} regions, but {atlas} has {len(names)}; "
                f"{remedy}"
            )
        found += names
    return tuple(found)


def _arrays(file):
    found = []
    file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return found


def _facts(path, file, options, scans):
    """Texts and numbers of each scan by name of the fact."""
    found = {}
    for name in {*(options.conditions or []), *(options.facts or [])}:
        values = file[name]
        if values.shape != (scans,):
            raise InputError(f"{path}: {name} has the shape {values.shape}, expected ({scans},)")
        found[name] = _texts(values) if values.dtype.kind in "SO" else values[()].tolist()
    return found


def _texts(values):
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values[()].tolist()]


def _part(unit, subjects):
    """The subjects of a unit: of `part-2-of-10` the second tenth, of any other all."""
    match = PART.fullmatch(unit)
    if not match:
        return subjects
    part, parts = int(match[1]), int(match[2])
    if not 1 <= part <= parts <= len(subjects):
        raise InputError(f"unit {unit!r}: there is no such part of {len(subjects)} subjects")
    return list(np.array_split(np.array(subjects, object), parts)[part - 1])
