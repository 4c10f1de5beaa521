"""Pictures that lie in an HDF5 file as one array, as those of the Natural Scenes Dataset do."""

from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from engram import hdf5_files
from engram.errors import InputError
from engram.readers import images

SUFFIXES = (".hdf5", ".h5")


class Stack:
    """An open file, of which one picture at a time is read.

    Args:
        path: HDF5 file with datasets uint8 (n, height, width, 3), RGB.
    """

    def __init__(self, path):
        self.path, self.checked = Path(path), {}

    def __enter__(self):
        self.opened = hdf5_files.opened(self.path)
        try:
            self.file = self.opened.__enter__()
        except (OSError, ValueError) as error:
            raise self._unreadable("the file", error) from None
        return self

    def __exit__(self, *_):
        self.opened.__exit__(None, None, None)

    def picture(self, member, name) -> Image.Image:
        """A picture, RGB.

        Args:
            member: `dataset/row`.
            name: for messages.

        Raises:
            InputError: there is no such dataset or row, it holds no RGB pictures of 8 bits, or it
                is damaged.
        """
        dataset, _, row = member.rpartition("/")
        try:
            if dataset not in self.checked:
                self.checked[dataset] = _checked(self.file[dataset])
            pixels = self.checked[dataset][int(row)]
        except Exception as error:  # h5py raises what a broken file makes it
            raise self._unreadable(f"{name} ({member})", error) from None
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise InputError(
                f"{self.path}: `{dataset}` holds {pixels.dtype} {pixels.shape} a row, not uint8 RGB"
                " (height, width, 3); name the file that the dataset publishes"
            )
        return Image.fromarray(pixels)

    def _unreadable(self, what, error):
        told = " ".join(str(error).split())
        return InputError(f"{self.path}: {what} cannot be read ({told}); fetch the file again")


def _checked(stack):
    if not isinstance(stack, h5py.Dataset):
        raise ValueError("a group where pictures are expected")
    if stack.nbytes // max(len(stack), 1) > images.MOST_BYTES:
        raise ValueError("a picture of it is larger than 20 megapixels")
    return hdf5_files.whole(stack)
