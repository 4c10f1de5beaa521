"""Stores in Zarr v3: one file, a zip without compression, a crc32c for every chunk.

The names are those of the HDF5 layout: arrays `rows`, `row` and one a column, attributes
`layout`, `header`, `audit` and `columns` of the root; axes are named by `dimension_names`.
Members have one date and a fixed order, so that equal content is equal bytes.

Zarr is imported when a store is written or read: who uses HDF5 does not pay for it.
"""

import contextlib
import zipfile
from pathlib import Path

import numpy as np

from engram.store import layout

CODE_VERSION = 2

TEXT_BYTES = 4  # of a text in a chunk, at least: its length


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
            if found is None and not key.endswith("zarr.json"):
                raise OSError(f"chunk {key} is missing")
            return found

    size = _refuse_packed(path)
    members = Complete(path, mode="r")
    root = open_group(members, mode="r", zarr_format=3, use_consolidated=False)
    with contextlib.closing(members):
        yield Reader(root, size)


def _refuse_packed(path):
    """Bytes of a zip whose members lie in it as they are, each once.

    Raises:
        ValueError: a member is packed or there twice, or members share bytes.
    """
    size = Path(path).stat().st_size
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("a zip whose members are packed")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("a zip that holds a member twice")
    if sum(member.file_size for member in members) > size:
        raise ValueError("a zip whose members say that they are larger than it")
    return size


class Reader:
    """An open store; see `engram.store.hdf5.Reader`."""

    def __init__(self, root, size):
        self._root, self._size = root, size
        self.attributes = dict(root.attrs)
        if "rows" in root:
            self._rows = self._checked("rows")
            self.shape, self.dtype = self._rows.shape, self._rows.dtype
            self.chunk_rows = self._rows.chunks[0]

    def column(self, name) -> np.ndarray | list[str]:
        """Values of a column, or, for "row", the row names."""
        array = self._checked(name)
        try:
            values = array[...]
        except MemoryError:  # no more than the file is asked for, but a chunk counts its own texts
            raise ValueError(f"a chunk of {name} says that it holds more than it can") from None
        return values if values.dtype.kind in "biuf" else values.tolist()

    def read(self, start, stop) -> np.ndarray:
        """Rows [start, stop), checksums verified."""
        return self._rows[start:stop]

    def _checked(self, name):
        """An array whose every chunk has a checksum, and no more values than the file can hold.

        Raises:
            ValueError: it is none, its chunks are packed or lack checksums, or its shape lies.
        """
        from zarr import Array
        from zarr.codecs import BytesCodec, Crc32cCodec, VLenUTF8Codec

        array = self._root[name]
        if not isinstance(array, Array):
            raise ValueError(f"{name} is a group where an array is expected")
        text = array.dtype.kind in "OT"
        codecs = [VLenUTF8Codec if text else BytesCodec, Crc32cCodec]
        if [type(codec) for codec in array.metadata.codecs] != codecs:
            raise ValueError(f"{name} has no checksums, or is packed")
        if array.size * (TEXT_BYTES if text else array.dtype.itemsize) > self._size:
            raise ValueError(f"{name} says it is of shape {array.shape}, more than the file holds")
        return array
