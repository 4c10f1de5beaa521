"""Weights of frozen models: tensors by name from files, all of them or none."""

import hashlib
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engram.errors import InputError
from engram.frozen import tensor_pickles
from engram.readers import archives

#: Keys under which training checkpoints keep the state dict of the model.
WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state")

#: What names begin with where a model was trained in several processes, or compiled.
WRAPPED = ("module.", "_orig_mod.")

#: Bytes that a tensor may have whatever is stored of it, as one row that is repeated.
MOST_REPEATED = 1 << 20

#: What the libraries raise for a file that is damaged or of another format.
UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError)
UNREADABLE += (OSError, zipfile.BadZipFile)


def read(path) -> dict[str, torch.Tensor]:
    """Tensors by name of a checkpoint: safetensors, or what torch saved.

    That is a state dict, a whole module, or a TorchScript archive.  It may stand under one of the
    keys `WRAPPERS` of a training checkpoint, and names may begin with those of `WRAPPED`; a copy
    that lies beside it, such as a moving average, is said.
    Nothing but tensors is ever unpickled, and nothing in a file is run.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    content = _content(path)
    tensors = _unwrapped(path, content)
    _say_copies(path, content, tensors)
    return tensors


def named(path, prefix="") -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint whose names begin with `prefix`, without it.

    Args:
        path: of the file.
        prefix: of their names as `read` gives them; or as they stand in the file, the key of the
            dictionary that holds them included, `state_dict_ema.` or `state_dict_ema.encoder.`.

    Raises:
        InputError: see `read`; or what is found is no tensor.
    """
    content, rest = _content(path), prefix
    while (key := rest.partition(".")[0]) in content and isinstance(content[key], dict):
        content, rest = content[key], rest.partition(".")[2]
    tensors = _unwrapped(path, content)
    if rest == prefix:
        _say_copies(path, content, tensors)
    found = prefixed(tensors, rest)
    _refuse_others(path, found)
    return found


def _content(path):
    """Whatever a checkpoint holds, by text."""
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
    return _by_name(path, tensors)


def _by_name(path, tensors):
    if not isinstance(tensors, dict) or not tensors:
        raise InputError(f"{path}: holds no tensors by name; save the state dict of the model")
    odd = next((name for name in tensors if not isinstance(name, str)), None)
    if odd is not None:
        raise InputError(
            f"{path}: holds something called {odd!r}, not tensors by name; save the state dict "
            "of the model"
        )
    return tensors


def _unwrapped(path, tensors):
    for key in WRAPPERS:
        if isinstance(tensors.get(key), dict):
            tensors = _by_name(path, tensors[key])
    return _bare(tensors)


def _bare(tensors):
    for prefix in WRAPPED * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = below(tensors, prefix)
    return {name.replace("._orig_mod.", "."): tensor for name, tensor in tensors.items()}


def _say_copies(path, content, tensors):
    """Say which other dictionaries of a file hold the same tensors."""
    own = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
    for key, other in content.items():
        if not own or key in own or not isinstance(other, dict) or not other:
            continue
        texts = {name: tensor for name, tensor in other.items() if isinstance(name, str)}
        if _bare(texts).keys() & tensors.keys():
            print(
                f"warning: {path}: takes `{own[0]}`, but `{key}` has tensors of the same names; "
                f"`prefix: {key}.` of the backbone takes those",
                file=sys.stderr,
            )


def _refuse_others(path, tensors):
    """Refuse what is no tensor, or one of more values than are stored."""
    for name, tensor in tensors.items():
        if not torch.is_tensor(tensor) or tensor.layout != torch.strided:
            raise InputError(
                f"{path}: {name} is a {type(tensor).__name__}, no dense tensor; save the state "
                "dict of the model"
            )
        if tensor.nbytes > max(tensor.untyped_storage().nbytes(), MOST_REPEATED):
            raise InputError(
                f"{path}: {name} of shape {list(tensor.shape)} has more values than are stored; "
                "save it anew"
            )


def _unpickled(path):
    """A state dict as torch reads it; whatever else is in the file, by the restricted reader."""
    archives.refuse_bomb(path)
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
    _refuse_others(path, tensors)
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
            f"{_advice(own, tensors)}"
        )
    if not any(tensor.is_meta for tensor in own.values()):  # else shapes alone are compared
        _refuse_no_numbers(path, model, tensors)
    model.load_state_dict(tensors)


def _advice(own, tensors):
    """What would help: the prefix under which all tensors stand, if there is one."""
    first = next(iter(own))
    for name in tensors:
        prefix = name.removesuffix(first)
        if prefix and prefix != name and all(prefix + key in tensors for key in own):
            return f"the names that are wanted begin with {prefix!r}: say it in `prefix`"
    return "correct `model` or `weights`"


def _refuse_no_numbers(path, model, tensors):
    """Refuse NaN, and in what was trained infinite values: masks hold them too."""
    trained = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise InputError(f"{path}: {name} has no values; save the state dict of the model")
        bad = ~tensor.isfinite() if name in trained else tensor.isnan()
        if bad.any():
            raise InputError(
                f"{path}: {bad.sum()} of {tensor.numel()} values of {name} are NaN or infinite; "
                "fetch the weights again, or take those of an earlier epoch"
            )


def digest(model) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _first(names):
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
