"""Read pickled dicts of arrays, and tables of pandas, without running what a pickle asks for.

A pickle is a program: loading one from a stranger runs the stranger's code.  Here only what
arrays are made of has a meaning, and it is ours; any other name is refused before it is even
imported.  Large arrays are not read but mapped, so that a file of 8 GB costs no memory.
"""

import math
import os
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pandas as pd

from engram.errors import InputError

MAPPED = 1 << 20  # bytes; arrays of at least this size stay in the file
MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before numpy 2, since
SIMPLE = re.compile("[biufcSUO][0-9]+")  # dtypes: numbers, texts, objects


def load(path):
    """What a pickle holds: dicts, lists, tuples, texts, numbers, arrays and tables of numbers.

    Both layouts are read: a file of `np.save` with an object array, which if 0-dimensional
    stands for the object in it, and a bare pickle.

    Args:
        path: of the file.

    Returns:
        The object; a table is a pandas.DataFrame of its numbers and the names of its columns.
        Arrays of at least 1 MiB are read-only maps of the file.

    Raises:
        InputError: the file is unreadable, damaged, or asks for anything else.
    """
    try:
        with Path(path).open("rb") as file:
            _skip_header(file)
            return _Unpickler(_File(file)).load()
    except Exception as error:  # a broken pickle raises whatever its opcodes run into
        raise InputError(
            f"{path}: not a pickle of plain arrays ({error or type(error).__name__}); "
            "fetch the file again from its publisher"
        ) from None


def _skip_header(file):
    """Go to the pickle that `np.save` put behind its header, if there is a header."""
    if file.read(6) != np.lib.format.MAGIC_PREFIX:
        file.seek(0)
        return
    file.seek(0)
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"format {version} of np.save is not known")
    _, _, dtype = readers[version](file)
    if not dtype.hasobject:
        raise ValueError("it holds an array without names; a dict of arrays is expected")


class _Span:
    """Where in a file the bytes of an array lie."""

    def __init__(self, path, start, size):
        self.path, self.start, self.size = path, start, size

    def __len__(self):
        return self.size


class _File:
    """Gives the unpickler small pieces as bytes, large ones as a `_Span`."""

    def __init__(self, file):
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.readline = file.readline

    def read(self, n):
        if n < MAPPED:
            return self.file.read(n)
        start = self.file.tell()
        if start + n > self.size:
            raise EOFError("it ends too early")
        self.file.seek(n, os.SEEK_CUR)
        return _Span(self.file.name, start, n)


def _refuse(what):
    raise pickle.UnpicklingError(f"it asks for {what}, which is not part of an array")


class _Dtype:
    """Stands for a type of numbers or texts; records, times and others are refused."""

    def __init__(self, name, *_):
        self.value = np.dtype(name) if SIMPLE.fullmatch(name) else _refuse(f"dtype {name}")

    def __setstate__(self, state):
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands for an array, `value`, which its state makes."""

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        _, shape, dtype, fortran, content = state
        self.fill(content, dtype.value, shape, "F" if fortran else "C")

    def fill(self, content, dtype, shape, order):
        n = math.prod(shape)
        if len(content) != (n if dtype.hasobject else n * dtype.itemsize):
            raise ValueError("an array does not have the size that its shape says")
        if dtype.hasobject:
            flat = np.empty(n, object)
            for i, item in enumerate(content):  # at once, lists in it would become axes
                flat[i] = item
            self.value = flat.reshape(shape)  # lists are always in C order
        elif isinstance(content, _Span):
            place = {"offset": content.start, "shape": shape, "order": order}
            self.value = np.memmap(content.path, dtype, "r", **place)
        else:
            self.value = np.frombuffer(content, dtype).reshape(shape, order=order)


class _Buffer(_Array):
    """Stands for an array as pickles of protocol 5 spell it."""

    def __init__(self, content, dtype, shape, order):
        self.fill(content, dtype.value, shape, order)


class _Scalar:
    """Stands for one number or text of an array."""

    def __init__(self, dtype, content):
        self.value = np.frombuffer(content, dtype.value, 1)[0]

    def __setstate__(self, state):
        _refuse("a change of a number")


class _Bytes(bytes):
    """Bytes as pickles of protocol 2 spell them."""

    def __new__(cls, text, codec):
        return text.encode(codec) if codec == "latin1" else _refuse(f"codec {codec}")

    def __setstate__(self, state):
        _refuse("a change of bytes")


class _Plain:
    """What has no state beside its arguments."""

    def __setstate__(self, state):
        _refuse("a change of a part of a table")


class _Slice(_Plain):
    def __init__(self, *bounds):
        self.value = slice(*bounds)


class _Index(_Plain):
    """Stands for names of columns or rows: texts, or numbers that only count."""

    def __init__(self, kind, facts):
        self.names = facts["data"].value.tolist() if "data" in facts else None


class _Kind(_Plain):
    """Stands for a kind of index."""


class _Block(_Plain):
    """Stands for columns of one type: values (column, row), and which columns they are."""

    def __init__(self, values, places, ndim):
        self.values = values.value
        self.places = places.value


class _Manager:
    """Stands for the blocks of a table."""

    def __init__(self, blocks=(), axes=()):
        self.blocks, self.axes = blocks, axes

    def __setstate__(self, state):  # pandas before 1.3
        facts = state[3]["0.14.1"]
        self.axes = facts["axes"]
        self.blocks = [_Block(one["values"], one["mgr_locs"], 2) for one in facts["blocks"]]


class _Frame:
    """Stands for a table."""

    def __setstate__(self, state):
        manager = state.get("_mgr") or state["_data"]
        names = manager.axes[0].names
        found = [None] * len(names)
        for block in manager.blocks:
            places = np.arange(len(names))[block.places]
            for place, row in zip(places, block.values, strict=True):
                found[place] = row
        self.value = pd.DataFrame(np.array(found).T, columns=pd.Index(names, dtype=object))


#: What a pickle may name, and what it gets.  All are classes with `__setstate__`, so that the
#: opcode that changes attributes reaches nothing else.
KNOWN = {
    **{(module, "_reconstruct"): _Array for module in MODULES},
    **{(module, "scalar"): _Scalar for module in MODULES},
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,
    ("numpy.core.numeric", "_frombuffer"): _Buffer,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
    ("_codecs", "encode"): _Bytes,
    **{(module, "DataFrame"): _Frame for module in ("pandas", "pandas.core.frame")},
    ("pandas.core.internals.managers", "BlockManager"): _Manager,
    ("pandas._libs.internals", "_unpickle_block"): _Block,
    ("pandas.core.indexes.base", "_new_Index"): _Index,
    **{(module, "Index"): _Kind for module in ("pandas", "pandas.core.indexes.base")},
    **{(module, "RangeIndex"): _Kind for module in ("pandas", "pandas.core.indexes.range")},
    **{(module, "slice"): _Slice for module in ("builtins", "__builtin__")},
}


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python, as the one in C insists on reading arrays into memory."""

    def find_class(self, module, name):
        return KNOWN[module, name] if (module, name) in KNOWN else _refuse(f"{module}.{name}")

    def load_bytearray8(self):
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))

    dispatch = {  # noqa: RUF012 - as its parent has it
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }

    def get_extension(self, code):
        _refuse(f"extension {code}")

    def load(self):
        return _unwrapped(super().load())


def _unwrapped(value, known=None):
    """What stood for arrays replaced by them; arrays of objects become the objects.

    What stands in many places, as a pickle of a few bytes can say, is looked at once.
    """
    known = {} if known is None else known
    if isinstance(value, _Array) and value.value.dtype.hasobject:
        objects = value.value
        value = objects.item() if objects.ndim == 0 else objects.tolist()
        return _unwrapped(value, known)
    if isinstance(value, _Array | _Scalar | _Frame):
        return value.value
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) not in known:
        known[id(value)] = (
            None,
            value,
        )  # what holds itself ends here; kept, so that its id is its own
        made = (
            {key: _unwrapped(item, known) for key, item in value.items()}
            if isinstance(value, dict)
            else type(value)(_unwrapped(item, known) for item in value)
        )
        known[id(value)] = made, value
    return known[id(value)][0]
