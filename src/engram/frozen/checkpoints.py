"""Weights of frozen models: tensors by name from files, all of them or none."""

import hashlib
import pickle
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engram.errors import InputError
from engram.frozen import tensor_pickles

#: Keys under which training checkpoints keep the state dict of the model.
WRAPPERS = ("state_dict", "model", "model_state_dict")

#: What the libraries raise for a file that is damaged or of another format.
UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError)


def read(path) -> dict[str, torch.Tensor]:
    """Tensors by name of a checkpoint: safetensors, or what torch saved.

    That is a state dict, a whole module, or a TorchScript archive.  It may stand under one of the
    keys `WRAPPERS` of a training checkpoint, and names may begin with `module.`.
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
    for key in WRAPPERS:
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    if not isinstance(tensors, dict) or not tensors:
        raise InputError(f"{path}: holds no tensors by name; save the state dict of the model")
    return below(tensors, "module.") if all(n.startswith("module.") for n in tensors) else tensors


def _unpickled(path):
    """A state dict as torch reads it; whatever else is in the file, by the restricted reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that it refuses an archive
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # a damaged pickle may raise anything
            return tensor_pickles.read(path)


def below(tensors, prefix) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def prefixed(tensors, prefix) -> dict[str, torch.Tensor]:
    """The same for a prefix as it stands in the file, whose `module.` `read` has left out."""
    if not any(name.startswith(prefix) for name in tensors):
        prefix = prefix.removeprefix("module.")
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
            another shape.
    """
    own = model.state_dict()
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
            "correct `model` or `weights`"
        )
    model.load_state_dict(tensors)


def digest(model) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _first(names):
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
