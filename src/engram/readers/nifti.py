"""NIfTI images from elsewhere, by nibabel: a header that lies is refused before it is believed.

Extensions behind the header are left out: nothing here reads them, and they have lengths of their
own.
"""

import contextlib
import gzip
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from engram.errors import InputError
from engram.readers import claims

SUFFIXES = (".nii", ".nii.gz")

#: Headers by the size that they say first.
HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}

#: Hears what nibabel says before it raises it.
SILENT = logging.Logger("nifti")
SILENT.addHandler(logging.NullHandler())

#: Most bytes before the first value: extensions of published images have some KB.
MOST_OFFSET = 16 << 20


def opened(path, times=claims.TIMES) -> nib.Nifti1Image | nib.Nifti2Image:
    """An image, none of whose values is read yet.

    Args:
        path: of the file, .nii or .nii.gz.
        times: that its values may shrink where they are compressed.

    Raises:
        InputError: it is missing, no NIfTI image of numbers, or promises more than the file has.
    """
    with reading(path), _stream(path) as stream:
        head = header(stream)
        _refuse_lies(path, head, times)
        image = nib.Nifti1Image if isinstance(head, HEADERS[348]) else nib.Nifti2Image
        return image(ArrayProxy(path, head), head.get_best_affine(), head)


def loaded(path, image):
    """The same image with its values in memory; a compressed file is compared to its checksum.

    Raises:
        InputError: the file is cut off or damaged, or goes on behind its last value.
    """
    with reading(path), _stream(path) as stream:
        here = image.dataobj
        spec = (here.shape, here.dtype, here.offset, here.slope, here.inter)
        values = np.asanyarray(ArrayProxy(stream, spec))
        if claims.is_compressed(path) and stream.read(1):
            raise ValueError("it goes on behind its last value")
        return type(image)(values, image.affine, image.header)


def header(stream) -> nib.Nifti1Header | nib.Nifti2Header:
    """The header at the start of a stream.

    Raises:
        ValueError, EOFError, nibabel.spatialimages.HeaderDataError: it is none, or contradicts
            itself.
    """
    start = stream.read(4)
    sizes = {size.to_bytes(4, order): size for size in HEADERS for order in ("little", "big")}
    if start not in sizes:
        raise ValueError("it does not begin with the header of a NIfTI image")
    size = sizes[start]
    found = HEADERS[size](start + stream.read(size - 4), check=False)
    found.check_fix(logger=SILENT)
    if not 0 <= float(found["vox_offset"]) <= MOST_OFFSET:  # nor NaN
        raise ValueError(f"its values would begin at byte {found['vox_offset']}")
    if np.isinf(found["scl_slope"]):  # NaN, as nibabel writes it, and 0 mean no scaling
        raise ValueError("its values are scaled by infinity")
    if not np.isfinite(found.get_best_affine()).all():
        raise ValueError("its place in space (affine) is not finite")
    return found


@contextlib.contextmanager
def reading(path):
    """One kind of error, whatever a parser meets in the file.

    Raises:
        InputError: in place of any other.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what damaged bytes lead to has no common type
        told = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: not a readable NIfTI image ({told}); copy it again, or take it off the list"
        ) from None


def _stream(path):
    if not str(path).lower().endswith(SUFFIXES):
        raise ValueError(f"its name ends in none of {', '.join(SUFFIXES)}; convert it")
    return (gzip.open if claims.is_compressed(path) else open)(path, "rb")


def _refuse_lies(path, head, times):
    shape, dtype = head.get_data_shape(), head.get_data_dtype()
    if dtype.kind not in "biuf":
        raise ValueError(f"its values are {dtype}, not plain numbers")
    if min(shape, default=0) < 1:
        raise ValueError(f"its shape is {shape}")
    promised = head.get_data_offset() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    size = Path(path).stat().st_size
    if promised > (claims.most(path, times) if claims.is_compressed(path) else size):
        raise ValueError(
            f"its header promises {dtype} {shape}, which a file of {size} bytes does not hold"
        )
