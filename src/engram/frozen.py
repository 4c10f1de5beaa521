"""A torch image model as a backbone: weights from a file or drawn, never changed."""

import difflib
import hashlib
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engram.errors import InputError


class Frozen:
    """Backbone of a frozen model: float32 forward passes without gradients.

    Args:
        model: module that maps float32 (b, 3, height, width) to (b, d).
        preprocessing: `engram.images.Preprocessing`.
        options: of the component: model, weights, seed, batch, precision.
        weights: file the weights came from, None if they were drawn.
        device: "cpu" or "cuda".

    Attributes:
        width: d, length of a feature vector.
        batch: images a call expects; equal for every call, because results differ in their
            last bits with the number of images.
        facts: for the header of what the backbone makes.

    Raises:
        InputError: the model does not give one vector an image, or `batch` is below 1.
    """

    def __init__(self, model, preprocessing, options, weights, device):
        if options.batch < 1:
            raise InputError(f"backbone {options.model}: `batch` is {options.batch}; at least 1")
        self.model = model.to(device).eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.batch = options.batch
        with torch.inference_mode():
            output = self.model(torch.zeros(1, 3, *preprocessing.size, device=device))
        if not isinstance(output, torch.Tensor) or output.ndim != 2:
            raise InputError(f"model {options.model!r} does not give one vector an image")
        self.width = output.shape[1]
        self.facts = {
            "model": options.model,
            "weights": weights.name if weights else "random",
            "weights_sha256": digest(self.model),
            "preprocessing": preprocessing.facts(),
            "fingerprint": preprocessing.fingerprint(),
            "precision": options.precision,
            "batch": options.batch,
        }
        if not weights:
            self.facts["seed"] = options.seed

    def __call__(self, rows):
        """Features, float32 (b, d), of spectrograms (b, h, w) or pictures (b, h, w, 3)."""
        with torch.inference_mode():
            return self.model(self.preprocessing(rows)).float().cpu().numpy()

    def check(self):
        """Verify that the weights are still those that were loaded.

        Raises:
            RuntimeError: a weight has changed.
        """
        if digest(self.model) != self.facts["weights_sha256"]:
            raise RuntimeError(f"the weights of {self.facts['model']} changed while it was used")


def build(make, options, weights) -> torch.nn.Module:
    """The model that `make()` constructs, initialised from `options.seed`.

    The global random state is as before.

    Raises:
        InputError: the configuration asks for a weights file and none was given.
    """
    if weights is None and options.weights != "random":
        raise InputError(
            f"backbone {options.model}: `weights: {options.weights}` is neither a file nor `random`"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        return make()


def known_name(name, names, library):
    """Refuse a model name that `library` does not have, with a suggestion."""
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        guess = f"did you mean {' or '.join(map(repr, close))}?" if close else "check the spelling"
        raise InputError(f"{library} has no model {name!r}; {guess}")


def read_weights(path) -> dict[str, torch.Tensor]:
    """Tensors by name of a checkpoint: safetensors, or a state dict that torch saved.

    A state dict may stand under the key `state_dict` or `model` of a training checkpoint,
    and its names may begin with `module.`.  Nothing but tensors is ever unpickled.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: weights file is missing; download it or correct `weights`")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: not a readable checkpoint, truncated or of another format ({reason})"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    if not isinstance(tensors, dict) or not tensors:
        raise InputError(f"{path}: holds no tensors by name; save the state dict of the model")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


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
