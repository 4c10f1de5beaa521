"""Arrays that are too large for memory, while a job fills them."""

import mmap
import os
import shutil
import tempfile

import numpy as np

from engram.errors import InputError

CODE_VERSION = 1  # nothing that is computed depends on this file

#: Bytes up to which an array lies in memory.
IN_MEMORY = 1 << 30


def empty(shape, dtype, in_memory=IN_MEMORY) -> np.ndarray:
    """`numpy.empty`; if it is large, in a file that nobody sees and that ends with the array.

    More than `in_memory` bytes are large. The file lies in the working directory, where results
    are written too. Its pages are the system's to write and to forget, so that they do not count as
    memory of the job.

    Raises:
        InputError: the disk has no room for the file and for a store of the same size.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= in_memory:
        return np.empty(shape, dtype)
    check_room(size)
    with tempfile.TemporaryFile(dir=os.getcwd()) as file:
        return np.memmap(file, dtype, "w+", shape=tuple(shape))


def check_room(size):
    """Refuse rows of `size` bytes before they are made, if they and their store do not fit.

    Raises:
        InputError: the disk has no room for the rows, where they are many, and for their store.
    """
    folder = os.getcwd()
    free = shutil.disk_usage(folder).free
    if free < (2 * size if size > IN_MEMORY else size):
        raise InputError(
            f"{folder}: {size / 2**30:.1f} GiB of rows are to be made and {free / 2**30:.1f} GiB "
            "are free; twice the size is needed: make room, or make smaller rows"
        )


def forget(array):
    """Take what was written to an array of `empty` out of the memory of this process, if it can."""
    if isinstance(array, np.memmap):
        array._mmap.madvise(mmap.MADV_DONTNEED)  # it stays in the file
