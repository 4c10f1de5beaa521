"""Tensors by name from pickled modules and TorchScript archives; nothing in them is ever run.

A pickle can name any function of any library and have it called.  Here it gets the functions
that rebuild tensors and ordered dictionaries; all else that it names is one class that keeps
the state it is given and does nothing.
"""

import itertools
import pickle
import types
import warnings
import zipfile
from collections import OrderedDict

import torch

#: Number formats by the name that a file gives to their storage.
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

#: Modules of a model at most; a pickle of a few bytes can put one into itself.
MOST_MODULES = 100_000

#: Facts that OpenAI's archives of CLIP keep among the weights.
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


def read(path) -> dict:
    """Tensors by name of a module that `torch.save` or `torch.jit.save` wrote whole.

    Names are those of the module's state dict, its constant tensors included.  What stands
    in dictionaries, as in a training checkpoint, stays under their keys.  Both the zip
    format of torch and the older one are read, whatever device the tensors were on.

    Raises:
        pickle.UnpicklingError: the file is damaged or of another format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = _from_zip(path) if zipfile.is_zipfile(path) else _from_legacy(path)
        tensors = _plain(content)
    except Exception as error:  # a damaged pickle may raise anything
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error
    return {name: tensor for name, tensor in tensors.items() if name not in NO_WEIGHTS}


class StandIn:
    """What an object of any class of a pickle becomes: its state, without behaviour."""

    state = types.MappingProxyType({})
    dump_patches = False  # asked by torch of the classes of an old file

    def __init__(self, *args, **kwargs):
        """Ignore what the pickle would call the class, or function, with."""

    def __setstate__(self, state):
        if isinstance(state, dict):
            self.state = state

    def __setitem__(self, key, value):
        """Take the items of a dictionary's subclass, and forget them."""

    def append(self, value):
        """Take the items of a list's subclass, and forget them."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return ADMITTED.get((module, name), StandIn)


class _ZipUnpickler(_Unpickler):
    def __init__(self, archive, root):
        super().__init__(archive.open(f"{root}data.pkl"))
        self.archive, self.root, self.storages = archive, root, {}

    def persistent_load(self, identifier):
        _, dtype, key, _, _ = identifier
        if key not in self.storages:
            values = bytearray(self.archive.read(f"{self.root}data/{key}"))
            self.storages[key] = (
                torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]


def _from_zip(path):
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if not found:
            raise pickle.UnpicklingError("a zip archive, but not one of torch")
        return _ZipUnpickler(archive, found[0].removesuffix("data.pkl")).load()


def _from_legacy(path):
    """What `torch.save` wrote before torch 1.6: pickles, and storages after them."""
    with open(path, "rb") as file:
        if file.read(1) != pickle.PROTO:
            raise pickle.UnpicklingError("neither a zip archive nor a pickle")
    restricted = types.SimpleNamespace(
        __name__=__name__,
        Unpickler=_Unpickler,
        load=lambda file, **options: _Unpickler(file, **options).load(),
    )
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=restricted)


def _tensor(storage, offset, size, stride, *ignored):
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its values")
    return torch.empty(0, dtype=storage.dtype).set_(storage, offset, size, stride)


def _parameter(tensor, *ignored):
    return tensor


#: All that a pickle can call, by module and name.
ADMITTED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}


def _plain(content, known=None):
    """Tensors by name of a stand-in, or of dictionaries that hold tensors and stand-ins.

    A dictionary that stands in many places, as a pickle of a few bytes can say, is looked at once.
    """
    if isinstance(content, StandIn):
        return dict(_named(content.state, "", itertools.count()))
    if not isinstance(content, dict):
        return {}
    known = {} if known is None else known
    if id(content) not in known:
        known[id(content)] = {}
        found = {k: v if torch.is_tensor(v) else _plain(v, known) for k, v in content.items()}
        known[id(content)] |= {k: v for k, v in found.items() if torch.is_tensor(v) or v}
    return known[id(content)]


def _named(state, prefix, count):
    """(name, tensor) of all tensors in the state of a module and of those in it."""
    if next(count) > MOST_MODULES:
        raise pickle.UnpicklingError("modules in modules without end")
    if "_modules" in state:
        state = {**state["_parameters"], **state["_buffers"], **state["_modules"]}
    for name, value in state.items():
        if torch.is_tensor(value):
            yield prefix + name, value
        elif isinstance(value, StandIn):
            yield from _named(value.state, f"{prefix}{name}.", count)
