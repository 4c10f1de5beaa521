"""Stores in HDF5: checksums by fletcher32, dimension scales as netCDF-4 has them.

- `/rows`: the array (n, ...), chunked by rows;
- `/row`: the row names, the scale of the first axis;
- `/axis_1`, ...: scales of the other axes, without values;
- `/<column>`: n values each, one dataset a column of the table;
- attributes `layout`, `header`, `audit` and `columns` (their order), JSON.

Texts have a fixed length, because variable ones lie in a heap that has no checksum;
`_Encoding` tells xarray that they are texts.

Of a file from elsewhere nothing is read that lies outside of it or has no checksum.
"""

import contextlib
import functools
import io

import h5py
import numpy as np

from engram import hdf5_files
from engram.store import layout

CODE_VERSION = 2

#: What netCDF-4 calls the scale of an axis that has no coordinates.
NO_COORDINATES = "This is a netCDF dimension but not a netCDF variable. {:9d}"


def write(path, table, shape, dtype, blocks, attributes):
    """Write a store.

    Args:
        path: the file.
        table: DataFrame of n rows, indexed by row name.
        shape, dtype: of the array.
        blocks: iterable of (start, values), in order, every `start` at a chunk.
        attributes: function called after the last block; gives a dict of int and str.

    Raises:
        OSError: the file cannot be written.
    """
    with contextlib.closing(_Steady(path, "w+")) as raw, io.BufferedRandom(raw) as stream:
        with h5py.File(stream, "w", libver=("v110", "v110")) as file:
            rows = _dataset(file, "rows", shape, dtype)
            for start, values in blocks:
                rows[start : start + len(values)] = values
                raw.check()
            names = _column(file, "row", table.index)
            names.make_scale("row")
            columns = [_column(file, name, table[name]) for name in table.columns]
            for dataset in [rows, *columns]:
                dataset.dims[0].attach_scale(names)
            for axis, name in enumerate(layout.axes(shape)[1:], start=1):
                scale = file.create_dataset(name, (shape[axis],), "f4", track_times=False)
                scale.make_scale(NO_COORDINATES.format(shape[axis]))
                rows.dims[axis].attach_scale(scale)
            for key, value in attributes().items():
                file.attrs[key] = _texts([value])[0] if isinstance(value, str) else value
        stream.flush()
        raw.check()


class _Steady(io.FileIO):
    """A file that remembers its first failure and then takes every write without storing it.

    HDF5 crashes the process, often only at its end, if it cannot write what is left when a
    file is closed; so it never learns that the disk is full.
    """

    error = None

    def write(self, data):
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def truncate(self, size=None):
        if self.error is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return size

    def check(self):
        if self.error is not None:
            raise self.error


def _dataset(group, name, shape, dtype):
    if not all(shape):
        return group.create_dataset(name, shape, dtype, track_times=False)
    chunk = (layout.chunk_rows(shape, dtype), *shape[1:])
    return group.create_dataset(
        name, shape, dtype, chunks=chunk, fletcher32=True, track_times=False
    )


def _column(group, name, values):
    values = layout.column(values)
    texts = isinstance(values, list)
    values = _texts(values) if texts else values
    dataset = _dataset(group, name, values.shape, values.dtype)
    dataset[...] = values
    if texts:
        dataset.attrs["_Encoding"] = np.bytes_(b"utf-8")
    return dataset


def _texts(values):
    encoded = [value.encode() for value in values]
    # xarray joins texts of one byte along their last axis, as if they were letters.
    length = max([2, *map(len, encoded)])
    return np.array(encoded, h5py.string_dtype("utf-8", length))


@contextlib.contextmanager
def opened(path):
    """The store at `path`, read-only and without locks, as a `Reader`."""
    with h5py.File(path, "r", locking=False) as file:
        yield Reader(file)


class Reader:
    """An open store.

    Attributes:
        attributes: dict of int and str, read when they are asked for.
        shape, dtype: of the array; only if it is of this layout.
        chunk_rows: rows in one chunk.
    """

    def __init__(self, file):
        self._file = file
        if "rows" in file:
            self._rows = _checked(file, "rows")
            self.shape, self.dtype = self._rows.shape, self._rows.dtype
            self.chunk_rows = self._rows.chunks[0] if self._rows.chunks else 1

    @functools.cached_property
    def attributes(self):
        return {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in self._file.attrs.items()
        }

    def column(self, name) -> np.ndarray | list[str]:
        """Values of a column, or, for "row", the row names."""
        dataset = _checked(self._file, name)
        texts = h5py.check_string_dtype(dataset.dtype)
        return [value.decode() for value in dataset[()]] if texts else dataset[()]

    def read(self, start, stop) -> np.ndarray:
        """Rows [start, stop), checksums verified."""
        return self._rows[start:stop]


def _checked(file, name):
    """A dataset whose every value has a checksum.

    Raises:
        ValueError: it is none or lies in another file, it is packed or lacks checksums, or chunks
            of it are not there.
    """
    dataset = hdf5_files.own(file, name)
    if h5py.check_string_dtype(dataset.dtype) is None and dataset.dtype.kind not in "biuf":
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, neither numbers nor texts")
    filters = dataset.id.get_create_plist().get_nfilters()
    if dataset.size and not (dataset.fletcher32 and filters == 1):
        raise ValueError(f"{dataset.name} has no checksums, or is packed")
    return hdf5_files.whole(dataset)
