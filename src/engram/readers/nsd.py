"""Readers of the files that the Natural Scenes Dataset (Allen et al. 2022) publishes.

Its ids are made 0-based here: a stimulus id is a row of `nsd_stimuli.hdf5`, 0..72999.  Voxels stand
in the C order of a boolean (x, y, z) mask, whichever file the betas come from.  No reader holds
more than its result and one block of the file; a gzipped file is read to its end, so that its
checksum is compared.
"""

import gzip
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy.io import loadmat

from engram import hdf5_files
from engram.errors import InputError
from engram.readers import nifti

#: Trials in a session.
TRIALS = 750

#: Published betas are int16, this many times the percent signal change.
SCALE = 300

#: Shape of the pictures in `nsd_stimuli.hdf5`.
PICTURES = (73_000, 425, 425, 3)

#: Stimuli, and captions of each, in the file of captions.
CAPTIONS = (73_000, 5)

#: Most voxels of a mask, far above any published one: a damaged header asks for more.
MASK_VOXELS = 2**24

#: Most difference of two affines that count as one, mm.
AFFINE_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Design:
    """Which stimulus each subject was shown in each trial.

    Session k of a subject, counted from 1, is trials 750 (k - 1) to 750 k; subjects who left
    earlier than after session 40 have planned trials at the end that never took place.

    Attributes:
        trials: 0-based stimulus id, int64 (subject, trial).
        shared: whether the trial shows a stimulus that all subjects see, bool (trial,): the usual
            test set.
        shared_ids: 0-based ids of those stimuli, ascending, int64.
    """

    trials: np.ndarray
    shared: np.ndarray
    shared_ids: np.ndarray


@dataclass(frozen=True, eq=False)
class Mask:
    """Voxels of a region.

    Attributes:
        path: for messages.
        volume: bool (x, y, z).
        affine: from voxel indices to mm, float64 (4, 4).
        index: flat C index of each voxel in the volume, ascending, int64 (p,).
    """

    path: Path
    volume: np.ndarray
    affine: np.ndarray
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Betas:
    """Responses of one session.

    Attributes:
        values: percent signal change, or sd of the session if z-scored, float32 (trial, p).
        constant: voxels with one value in all trials of the session, bool (p,); 0 if z-scored.
    """

    values: np.ndarray
    constant: np.ndarray


def read_design(path, subjects=8, images=10_000, shared=1_000, repetitions=3) -> Design:
    """The order of stimuli, from `nsd_expdesign.mat` (MATLAB v5).

    `masterordering` says which of a subject's images a trial shows, `subjectim` which stimulus
    that image is, `sharedix` which stimuli all subjects see; all are 1-based in the file.

    Args:
        path: the file.
        subjects: rows of `subjectim`.
        images: that each subject was to see; the first `shared` of them are the same for all.
        shared: how many these are.
        repetitions: trials of each image.

    Raises:
        InputError: the file is missing, damaged, of another shape, or contradicts itself: an image
            without its repetitions, a shared image that differs between subjects or from
            `sharedix`, another one that two subjects see.
    """
    path, trials = Path(path), images * repetitions
    stimuli = shared + subjects * (images - shared)
    names = ["masterordering", "subjectim", "sharedix"]
    with _reading(path), open(path, "rb") as stream:
        fields = loadmat(stream, variable_names=names)
        order = _ids_from_one(path, fields, "masterordering", (1, trials), images)[0]
        seen = _ids_from_one(path, fields, "subjectim", (subjects, images), stimuli)
        common = np.sort(_ids_from_one(path, fields, "sharedix", (1, shared), stimuli)[0])
    if np.any(np.bincount(order, minlength=images) != repetitions):
        raise _other(path, f"`masterordering` does not show each image {repetitions} times")
    if np.any(np.sort(seen[:, :shared]) != common):
        raise _other(path, f"the first {shared} of `subjectim` are not `sharedix` for all subjects")
    if len(np.union1d(common, seen[:, shared:])) != stimuli:
        raise _other(path, "`subjectim` shows an image twice, or one that is not shared to several")
    return Design(seen[:, order], order < shared, common)


def read_mask(path, labels=None) -> Mask:
    """A region, from a NIfTI volume of labels such as `nsdgeneral.nii.gz`.

    Args:
        path: the file, .nii.gz or .nii; -1 and 0 stand for outside.
        labels: those that belong to the region; by default all that are positive.

    Raises:
        InputError: the file is missing, damaged or no volume of whole numbers, or has no voxel
            of the region.
    """
    path = Path(path)
    values, affine = _label_volume(path)
    inside = values > 0 if labels is None else np.isin(values, list(labels))
    if not inside.any():
        raise InputError(
            f"{path}: no voxel has {'a positive label' if labels is None else f'one of {labels}'};"
            f" its labels are {np.unique(values).tolist()[:30]}"
        )
    volume = np.ascontiguousarray(inside)
    return Mask(path, volume, affine, np.flatnonzero(volume))


def read_labels(path, mask) -> np.ndarray:
    """The label of each voxel of a mask in a volume of labels such as `prf-visualrois.nii.gz`.

    Returns:
        int32 (p,): -1 and 0 stand for outside of every region.

    Raises:
        InputError: the file is missing, damaged, no volume of whole numbers, or of another shape
            or place than the mask.
    """
    path = Path(path)
    values, affine = _label_volume(path)
    if values.shape != mask.volume.shape:
        raise InputError(
            f"{path}: its shape {values.shape} is not that of {mask.path}, {mask.volume.shape}; "
            "take the masks of one subject and space"
        )
    _refuse_elsewhere(path, affine, mask)
    return values[mask.volume]


def read_betas(path, mask, zscore=False, trials=TRIALS, block=16) -> Betas:
    """Responses of one session in a mask, in percent signal change.

    Args:
        path: `betas_session01.nii.gz` (or .nii), or its twin `betas_session01.hdf5`, which is
            faster: only the voxels of the mask are read.  The twin has neither affine nor
            checksum: of the mask its shape alone is compared.
        mask: a `Mask` of the same subject and space.
        zscore: give each voxel mean 0 and sd 1 (n - 1) over the session; constant ones become 0.
        trials: in the session.
        block: trials of a NIfTI file in memory at once.

    Raises:
        InputError: as `read_raw_betas`.
    """
    raw = read_raw_betas(path, mask, trials, block)
    constant = (raw == raw[0]).all(axis=0)
    if not zscore:
        return Betas(np.divide(raw, SCALE, dtype=np.float32), constant)
    mean, sd = raw.mean(axis=0), np.where(constant, 1, raw.std(axis=0, ddof=1))
    return Betas(((raw - mean) / sd).astype(np.float32), constant)


def read_raw_betas(path, mask, trials=TRIALS, block=16) -> np.ndarray:
    """The same as published: 300 times the percent signal change, int16 (trial, p).

    Raises:
        InputError: the file is missing, damaged, ends early, has another shape than the mask and
            the trials, is not int16 as published, or (NIfTI) lies elsewhere than the mask.
    """
    path = Path(path)
    values = np.empty((trials, len(mask.index)), np.int16)
    if path.suffix in (".hdf5", ".h5"):
        _hdf5_betas(path, mask, values)
    else:
        _nifti_betas(path, mask, values, block)
    return values


def read_stimuli(path, ids, shape=PICTURES) -> np.ndarray:
    """Pictures, uint8 RGB (n, 425, 425, 3), in the order of `ids`; 0.5 MB each.

    Args:
        path: `nsd_stimuli.hdf5`.
        ids: 0-based stimulus ids; they may repeat.
        shape: of its dataset `imgBrick`.

    Raises:
        InputError: the file is missing, damaged or of another shape, or has no such id.
    """
    path = Path(path)
    with _reading(path), hdf5_files.opened(path) as file:
        pictures = _dataset(path, file, "imgBrick", shape, np.uint8)
        ids = _known(path, ids, len(pictures))
        found = np.empty((len(ids), *shape[1:]), np.uint8)
        # Row by row in the order of the file: h5py takes 26 times longer for a list of rows.
        for position in np.argsort(ids):
            pictures.read_direct(found, np.s_[ids[position]], np.s_[position])
    return found


def read_captions(path, ids, shape=CAPTIONS) -> list[tuple[str, ...]]:
    """Captions of each stimulus, one to five, in the order of `ids`.

    Args:
        path: `COCO_73k_annots_curated.npy`, unicode (73000, 5), "" where there are fewer.
        ids: 0-based stimulus ids; they may repeat.
        shape: of its array.

    Raises:
        InputError: the file is missing, damaged or of another shape, has no such id, or a
            stimulus has no caption.
    """
    path = Path(path)
    with _reading(path):
        table = np.lib.format.open_memmap(path, mode="r")
        if table.shape != tuple(shape) or table.dtype.kind != "U":
            raise _other(path, f"it holds {table.dtype} {table.shape}, not text {tuple(shape)}")
        ids = _known(path, ids, len(table))
        found = [tuple(str(text) for text in table[i] if text.strip()) for i in ids]
    if () in found:
        raise _other(path, f"stimulus {ids[found.index(())]} has no caption")
    return found


def _label_volume(path):
    """(labels int32 (x, y, z), affine) of a NIfTI file."""
    with _nifti(path) as (header, stream):
        shape = header.get_data_shape()
        if len(shape) != 3 or not 0 < np.prod(shape, dtype=float) <= MASK_VOXELS:
            raise _other(path, f"its shape is {shape}, not a volume's (x, y, z)")
        ((_, values),) = _blocks(stream, header.get_data_dtype(), int(np.prod(shape)), 1, 1)
        affine = header.get_best_affine()
    if values.dtype.kind not in "iuf" or np.any(values != np.round(values)):
        raise _other(path, "its values are not whole numbers, the labels of regions")
    return values.astype(np.int32).reshape(shape, order="F"), affine


def _refuse_elsewhere(path, affine, mask):
    if not np.allclose(affine, mask.affine, rtol=0, atol=AFFINE_TOLERANCE):
        raise InputError(
            f"{path}: its affine {affine.tolist()} is not that of {mask.path},"
            f" {mask.affine.tolist()}; take the mask of the same subject and space"
        )


def _nifti_betas(path, mask, values, block):
    shape = (*mask.volume.shape, len(values))
    with _nifti(path) as (header, stream):
        _require(path, header.get_data_shape(), header.get_data_dtype(), shape, np.int16)
        _refuse_elsewhere(path, header.get_best_affine(), mask)
        xyz = np.unravel_index(mask.index, mask.volume.shape)
        columns = np.ravel_multi_index(xyz, mask.volume.shape, order="F")
        dtype, size = header.get_data_dtype(), mask.volume.size
        for start, volumes in _blocks(stream, dtype, size, len(values), block):
            values[start : start + len(volumes)] = volumes[:, columns]


def _hdf5_betas(path, mask, values):
    """One voxel at a time: as published, a chunk is one voxel in all trials."""
    shape = (len(values), *mask.volume.shape[::-1])
    with _reading(path), hdf5_files.opened(path) as file:
        betas = _dataset(path, file, "betas", shape, np.int16)
        for column, (x, y, z) in enumerate(np.argwhere(mask.volume)):
            values[:, column] = betas[:, z, y, x]


@contextmanager
def _nifti(path):
    """Header, and stream at the first value, of a single-file NIfTI image without scaling."""
    opened = gzip.open if path.suffix == ".gz" else open
    with _reading(path), opened(path, "rb") as stream:
        header = nifti.header(stream)
        if header.get_slope_inter() not in {(None, None), (1, 0)}:
            raise _other(path, f"its values are scaled by {header.get_slope_inter()}")
        stream.seek(header.get_data_offset())
        yield header, stream


def _blocks(stream, dtype, size, count, block):
    """(first volume, values (volumes, voxel in Fortran order)) of each block of volumes.

    nibabel is not asked for them: it would decompress from the start again for each slice, and
    stop before the checksum at the end.
    """
    for start in range(0, count, block):
        wanted = min(block, count - start) * size
        data = stream.read(wanted * dtype.itemsize)
        if len(data) < wanted * dtype.itemsize:
            raise EOFError("ends early")
        yield start, np.frombuffer(data, dtype).reshape(-1, size)
    if stream.read(1):
        raise ValueError("goes on behind its last value")


@contextmanager
def _reading(path):
    """One kind of error, whatever a parser meets in the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct its name or download it") from None
    except Exception as error:  # what a parser meets in damaged bytes has no common type
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: not readable ({told}); download it again") from None


def _ids_from_one(path, fields, name, shape, count):
    """A field of the design, 0-based int64: 0..count - 1."""
    values = fields.get(name)
    if values is None:
        raise _other(path, f"it has no field `{name}`")
    if values.shape != shape or values.dtype.kind not in "iuf":
        raise _other(path, f"`{name}` is {values.dtype} {values.shape}, not numbers {shape}")
    if not np.all((values >= 1) & (values <= count) & (values == np.floor(values))):
        raise _other(path, f"`{name}` has values that are not whole numbers 1..{count}")
    return values.astype(np.int64) - 1


def _dataset(path, file, name, shape, dtype):
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise _other(path, f"it has no dataset `{name}`")
    _require(path, found.shape, found.dtype, shape, dtype)
    return hdf5_files.whole(found)


def _require(path, shape, dtype, wanted, wanted_dtype):
    if tuple(shape) != tuple(wanted) or dtype.newbyteorder("=") != wanted_dtype:
        told = f"{np.dtype(wanted_dtype)} {tuple(wanted)}"
        raise _other(path, f"it holds {dtype} {tuple(shape)}, not {told}")


def _known(path, ids, count):
    ids = np.asarray(ids)
    if ids.size == 0:
        return np.empty(0, np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= count:
        raise InputError(f"{path}: stimulus ids must be a list of whole numbers 0..{count - 1}")
    return ids.astype(np.int64)


def _other(path, what):
    return InputError(f"{path}: {what}; take the file that the dataset publishes")
