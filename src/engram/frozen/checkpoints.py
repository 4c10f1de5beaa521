"""Weights of frozen models: tensors by name from files, all of them or none."""

import hashlib
import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engram.errors import InputError
from engram.frozen import tensor_pickles

#: Keys under which training checkpoints keep the state dict of the model.
WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state")

#: What parallel training and compilation put before the names of a model.
BEFORE_NAMES = ("module.", "_orig_mod.")

#: An archive of torch is stored as it is, but for its code; one that inflates further is refused.
MOST_INFLATED, SMALL = 8, 64 << 20

#: What the libraries raise for a file that is damaged or of another format.
UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError,
)  # fmt: skip


def read(path) -> dict[str, torch.Tensor]:
    """Tensors by name of a checkpoint: safetensors, or what torch saved.

    That is a state dict, a whole module, or a TorchScript archive.  It may stand under one of the
    keys `WRAPPERS` of a training checkpoint, and all names may begin with `BEFORE_NAMES`; where a
    second set of the same weights lies beside it, such as their average, that is said.
    Nothing but tensors is ever unpickled, and nothing in a file is run.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: weights file is missing; download it or correct `weights`")
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: not a readable checkpoint, truncated or of another format ({reason})"
        ) from None
    tensors = _unwrapped(path, tensors)
    if not isinstance(tensors, dict) or not tensors:
        raise InputError(f"{path}: holds no tensors by name; save the state dict of the model")
    if odd := [name for name in tensors if not isinstance(name, str)]:
        raise InputError(
            f"{path}: a tensor is called {odd[0]!r}, which is no text; save the state dict of the "
            "model"
        )
    return _without_prefixes(tensors)


def _unwrapped(path, tensors):
    for key in WRAPPERS:
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            if others := _alike(tensors, key):
                print(
                    f"warning: {path}: `{key}` is taken; {', '.join(others)} hold the same tensors "
                    "with other values, often their average: to take these, save them by themselves"
                )
            tensors = tensors[key]
    return tensors


def _alike(tensors, key):
    """Keys beside one under which the same names stand."""
    own = {*_without_prefixes(tensors[key])}
    return [
        f"`{other}`"
        for other, values in tensors.items()
        if other != key and own and isinstance(values, dict) and own <= {*_without_prefixes(values)}
    ]


def _without_prefixes(tensors):
    for prefix in BEFORE_NAMES * 2:  # in any order
        if all(isinstance(name, str) and name.startswith(prefix) for name in tensors):
            tensors = below(tensors, prefix)
    return tensors


def _unpickled(path):
    """A state dict as torch reads it; whatever else is in the file, by the restricted reader."""
    _check_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that it refuses an archive
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # a damaged pickle may raise anything
            return tensor_pickles.read(path)


def _check_archive(path):
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        inflated = sum(member.file_size for member in archive.infolist())
    if inflated > MOST_INFLATED * path.stat().st_size + SMALL:
        raise ValueError(f"its archive inflates to {inflated >> 20} MiB")


def below(tensors, prefix) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def prefixed(tensors, prefix) -> dict[str, torch.Tensor]:
    """The same for a prefix as it stands in the file, of which `read` leaves out `BEFORE_NAMES`."""
    for before in BEFORE_NAMES * 2:
        if not any(name.startswith(prefix) for name in tensors):
            prefix = prefix.removeprefix(before)
    return below(tensors, prefix)


def with_counters(model, tensors) -> dict[str, torch.Tensor]:
    """`tensors` with the step counters of batch norms, where an old file has none of them.

    A frozen model does not use them.
    """
    counters = {n: t for n, t in model.state_dict().items() if n.endswith("num_batches_tracked")}
    return tensors if counters.keys() & tensors.keys() else counters | tensors


def without(tensors, layers) -> dict[str, torch.Tensor]:
    """The tensors that do not belong to `layers`, names of modules such as the classifier."""
    left_out = tuple(f"{layer}." for layer in layers)
    return {n: t for n, t in tensors.items() if not n.startswith(left_out) and n not in layers}


def load_strictly(model, tensors, path, name):
    """Put `tensors` into `model`, all of them and no others.

    Raises:
        InputError: names the file and the first tensors that are missing, unexpected or of
            another shape, or that hold values that are not finite.
    """
    own = model.state_dict()
    if odd := [name for name, value in tensors.items() if not torch.is_tensor(value)]:
        raise InputError(
            f"{path}: {odd[0]} is no tensor but {type(tensors[odd[0]]).__name__}; save the state "
            "dict of the model"
        )
    problems = {
        "missing": [key for key in own if key not in tensors],
        "unexpected": [key for key in tensors if key not in own],
        "of another shape": [
            f"{key} {list(tensors[key].shape)} instead of {list(own[key].shape)}"
            for key in own
            if key in tensors and tensors[key].shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in problems.items() if keys]
    if found:
        raise InputError(
            f"{path}: not the weights of {name}: tensors {', '.join(found)}; "
            f"{_remedy(own, tensors)}"
        )
    if odd := [key for key, value in tensors.items() if _not_finite(value)]:
        raise InputError(
            f"{path}: tensor {odd[0]} holds values that are not finite, as {len(odd) - 1} others "
            "do; the file is damaged, or its training failed: take another"
        )
    model.load_state_dict(tensors)


def _not_finite(tensor):
    return not tensor.is_meta and not bool(torch.isfinite(tensor).all())


def _remedy(own, tensors):
    first = next(iter(own))
    before = [name.removesuffix(first) for name in tensors if name.endswith(f".{first}")]
    if before and all(f"{before[0]}{key}" in tensors for key in own):
        return f"all of them stand behind {before[0]!r}: set it as `prefix` of the backbone"
    return "correct `model` or `weights`"


def digest(model) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _first(names):
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
