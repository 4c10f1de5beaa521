"""Stores in Zarr v3: one file, a zip without compression, a crc32c for every chunk.

The names are those of the HDF5 layout: arrays `rows`, `row` and one a column, attributes
`layout`, `header`, `audit` and `columns` of the root; axes are named by `dimension_names`.
Members have one date and a fixed order, so that equal content is equal bytes.

Zarr is imported when a store is written or read: who uses HDF5 does not pay for it.
"""

import contextlib
import zipfile

import numpy as np

from engram.store import layout

CODE_VERSION = 2


def write(path, table, shape, dtype, blocks, attributes):
    """Write a store; see `engram.store.hdf5.write`."""
    from zarr import create_group
    from zarr.storage import MemoryStore

    pending = {}  # what Zarr has written and the zip does not hold yet
    root = create_group(MemoryStore(pending))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        rows = _array(root, "rows", shape, dtype, layout.axes(shape))
        for start, values in blocks:
            rows[start : start + len(values)] = values
            _move(pending, file, [key for key in pending if not key.endswith("zarr.json")])
        for name, values in {"row": table.index, **table}.items():
            _column(root, name, values)
        root.attrs.update(attributes())
        _move(pending, file, [*pending])


def _array(root, name, shape, dtype, dimensions):
    from zarr.codecs import Crc32cCodec

    return root.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(layout.chunk_rows(shape, dtype), *(max(size, 1) for size in shape[1:])),
        filters=None,
        compressors=[Crc32cCodec()],
        dimension_names=dimensions,
        config={"write_empty_chunks": True},  # a chunk left out could not be missed
    )


def _column(root, name, values):
    values = layout.column(values)
    if isinstance(values, list):
        array = _array(root, name, (len(values),), np.dtypes.StringDType(), ["row"])
        values = np.array(values, np.dtypes.StringDType())
    else:
        array = _array(root, name, values.shape, values.dtype, ["row"])
    if len(values):
        array[...] = values


def _move(pending, file, keys):
    """Put members into the zip; Zarr finishes chunks in any order, hence the sorting."""
    for key in sorted(keys):
        member = zipfile.ZipInfo(key, date_time=(1980, 1, 1, 0, 0, 0))
        member.create_system, member.external_attr = 3, 0o644 << 16
        file.writestr(member, pending.pop(key).to_bytes())


@contextlib.contextmanager
def opened(path):
    """The store at `path`, read-only, as a `Reader`."""
    from zarr import open_group
    from zarr.storage import ZipStore

    class Complete(ZipStore):
        """Zarr reads a chunk that is not there as zeros; here it is an error."""

        async def get(self, key, prototype, byte_range=None):
            found = await super().get(key, prototype, byte_range)
            if found is None and "/c/" in key:
                raise OSError(f"chunk {key} is missing")
            return found

    members = Complete(path, mode="r")
    root = open_group(members, mode="r", zarr_format=3, use_consolidated=False)
    with contextlib.closing(members):
        yield Reader(root)


class Reader:
    """An open store; see `engram.store.hdf5.Reader`."""

    def __init__(self, root):
        self._root = root
        self.attributes = dict(root.attrs)
        if "rows" in root:
            self._rows = root["rows"]
            self.shape, self.dtype = self._rows.shape, self._rows.dtype
            self.chunk_rows = self._rows.chunks[0]

    def column(self, name) -> np.ndarray | list[str]:
        """Values of a column, or, for "row", the row names."""
        values = self._root[name][...]
        return values if values.dtype.kind in "biuf" else values.tolist()

    def read(self, start, stop) -> np.ndarray:
        """Rows [start, stop), checksums verified."""
        return self._rows[start:stop]
