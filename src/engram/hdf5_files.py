"""HDF5 files from elsewhere: what they name outside of themselves, and what is not there.

HDF5 opens any other file that a link, an external storage or a virtual dataset names, and reads
chunks that were never written as zeros, without a word.
"""

import contextlib

import h5py
import numpy as np

CODE_VERSION = 1  # raise it when other files are refused


@contextlib.contextmanager
def opened(path):
    """A file that holds all that is read from it, read-only and without locks, as an `h5py.File`.

    Raises:
        OSError: it is missing or no HDF5.
        ValueError: see `refuse_elsewhere`.
    """
    with h5py.File(path, "r", locking=False) as file:
        refuse_elsewhere(file)
        yield file


def refuse_elsewhere(file):
    """Refuse a file that would have another one read.

    Raises:
        ValueError: names the first link, external storage or virtual dataset that points out of it.
    """

    def look(name, link):  # h5py wants what is found returned, not raised
        if isinstance(link, h5py.ExternalLink):
            return f"{name} is a link to another file, {link.filename!r}; copy it in"
        return _elsewhere(name, file[name]) if isinstance(link, h5py.HardLink) else None

    if found := file.visititems_links(look):
        raise ValueError(found)


def own(file, name) -> h5py.Dataset:
    """A dataset at the top of a file, without a look at all the others.

    Raises:
        KeyError: there is none.
        ValueError: it is none, or lies in another file.
    """
    dataset, link = file[name], file.get(name, getlink=True)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name} is a group where an array is expected")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link to another file or place; copy it in")
    if found := _elsewhere(name, dataset):
        raise ValueError(found)
    return dataset


def _elsewhere(name, item):
    """Where the values of a dataset lie, if not in the file."""
    if not isinstance(item, h5py.Dataset):
        return None
    if item.external:
        return f"{name} keeps its values in another file, {item.external[0][0]!r}"
    return f"{name} is a virtual dataset, of values of other files" if item.is_virtual else None


def whole(dataset):
    """A dataset of which every value was written.

    Raises:
        ValueError: chunks are not there, which would be read as zeros.
    """
    if not dataset.size:
        return dataset
    if dataset.chunks:
        steps = zip(dataset.shape, dataset.chunks, strict=True)
        wanted = np.prod([-(-size // step) for size, step in steps], dtype=object)
        there = dataset.id.get_num_chunks()
    else:
        wanted, there = dataset.nbytes, dataset.id.get_storage_size()
    if there < wanted:
        raise ValueError(f"{dataset.name}: some of its values were never written")
    return dataset
