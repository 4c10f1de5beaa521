"""Arrays that are too large for memory, while a job fills them."""

import os
import shutil
import tempfile

import numpy as np

from engram.errors import InputError

CODE_VERSION = 1  # nothing that is computed depends on this file

#: Bytes up to which an array lies in memory.
IN_MEMORY = 1 << 30


def empty(shape, dtype) -> np.ndarray:
    """`numpy.empty`; if it is large, in a file that nobody sees and that ends with the array.

    The file lies in the working directory, where results are written too. Its pages are the
    system's to write and to forget, so that they do not count as memory of the job.

    Raises:
        InputError: the disk has no room for the file and for a store of the same size.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    folder = os.getcwd()
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise InputError(
            f"{folder}: {size / 2**30:.1f} GiB of rows are to be made and {free / 2**30:.1f} GiB "
            "are free; twice the size is needed: make room, or make smaller rows"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=tuple(shape))
