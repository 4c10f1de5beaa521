"""Arrays of numbers in files of NumPy."""

import numpy as np


def numbers(path) -> np.ndarray:
    """The array of a `.npy` file, mapped: it takes no memory that the file does not have.

    Raises:
        ValueError: it is missing, damaged, shorter than its header says, or holds no numbers.
    """
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy evaluates the header, which may be any text
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    if found.dtype.kind not in "biuf":
        raise ValueError(f"it holds {found.dtype}, no numbers")
    return found
