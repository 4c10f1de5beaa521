"""HDF5 files of strangers: nothing of another file is read, and nothing that was never written.

HDF5 lets a name stand for a dataset of another file (external links), for bytes of one (external
storage), or for parts of several (virtual datasets), and gives zeros for what was never written.
"""

import h5py

OWN_LINKS = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
WRITTEN = h5py.h5d.SPACE_STATUS_ALLOCATED


def opened(path) -> h5py.File:
    """The file, read-only and without locks.

    Raises:
        OSError: it is missing or damaged, or something in it lies in another file.
    """
    file = h5py.File(path, "r", locking=False)
    try:
        if found := _elsewhere(file):
            raise OSError(f"`{found}` lies in another file; only what is in this one is read")
    except BaseException:
        file.close()
        raise
    return file


def own(file, name) -> h5py.Dataset:
    """A dataset of the top of a file, without a look at all others.

    Raises:
        KeyError: there is none.
        OSError: it lies in another file, or parts of it were never written.
    """
    dataset = file[name]
    hard = file.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD
    if not hard or not isinstance(dataset, h5py.Dataset) or _lies_elsewhere(dataset.id):
        raise OSError(f"`{name}` lies in another file; only what is in this one is read")
    return written(dataset)


def written(dataset) -> h5py.Dataset:
    """The dataset itself, if all of it was written.

    Raises:
        OSError: parts were not, and would be read as zeros.
    """
    if dataset.size and dataset.id.get_space_status() != WRITTEN:
        raise OSError(f"parts of `{dataset.name}` were never written")
    return dataset


def _elsewhere(file):
    """The first name in a file that stands for something in another one, or None."""

    def of_link(name, info):
        return None if info.type in OWN_LINKS else name

    def of_object(name, info):
        of_data = info.type == h5py.h5o.TYPE_DATASET
        return name if of_data and _lies_elsewhere(h5py.h5d.open(file.id, name)) else None

    found = file.id.links.visit(of_link, info=True) or h5py.h5o.visit(file.id, of_object, info=True)
    return found.decode(errors="replace") if isinstance(found, bytes) else found


def _lies_elsewhere(dataset):
    made = dataset.get_create_plist()
    return made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count() > 0
