"""Read pickled dicts of arrays without running what a pickle asks for.

A pickle is a program: loading one from a stranger runs the stranger's code.  Here only what
arrays are made of has a meaning, and it is ours; any other name is refused before it is even
imported.  Large arrays are not read but mapped, so that a file of 8 GB costs no memory.
"""

import math
import os
import pickle
import re
from pathlib import Path

import numpy as np

from engram.errors import InputError

MAPPED = 1 << 20  # bytes; arrays of at least this size stay in the file
MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before numpy 2, since
SIMPLE = re.compile("[biufcSUO][0-9]+")  # dtypes: numbers, texts, objects


def load(path):
    """What a pickle holds: dicts, lists, tuples, texts, numbers and arrays of numbers.

    Both layouts are read: a file of `np.save` with an object array, which if 0-dimensional
    stands for the object in it, and a bare pickle.

    Args:
        path: of the file.

    Returns:
        The object. Arrays of at least 1 MiB are read-only maps of the file.

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
        dtype, order, n = dtype.value, "F" if fortran else "C", math.prod(shape)
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


#: What a pickle may name, and what it gets.  All are classes with `__setstate__`, so that the
#: opcode that changes attributes reaches nothing else.
KNOWN = {
    **{(module, "_reconstruct"): _Array for module in MODULES},
    **{(module, "scalar"): _Scalar for module in MODULES},
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,
    ("_codecs", "encode"): _Bytes,
}


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python, as the one in C insists on reading arrays into memory."""

    def find_class(self, module, name):
        return KNOWN[module, name] if (module, name) in KNOWN else _refuse(f"{module}.{name}")

    def get_extension(self, code):
        _refuse(f"extension {code}")

    def load(self):
        return _unwrapped(super().load())


def _unwrapped(value):
    """What stood for arrays replaced by them; arrays of objects become the objects."""
    if isinstance(value, _Array) and value.value.dtype.hasobject:
        objects = value.value
        return _unwrapped(objects.item() if objects.ndim == 0 else objects.tolist())
    if isinstance(value, _Array | _Scalar):
        return value.value
    if isinstance(value, dict):
        return {key: _unwrapped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_unwrapped, value))
    return value
