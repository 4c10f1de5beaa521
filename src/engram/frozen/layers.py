"""The output of a layer inside a torch model, and the features of each row that it gives."""

import difflib

import torch

from engram.errors import InputError


class Layer:
    """The output of one module inside a model; what comes after that module is not computed.

    Raises:
        InputError: the model has no module of that name.
    """

    def __init__(self, model, name, model_name):
        modules = dict(model.named_modules())
        if name not in modules:
            raise InputError(
                f"backbone {model_name}: no layer {name!r}; {closest(name, list(modules)[1:])}"
            )
        self.model = model
        modules[name].register_forward_hook(self._caught)

    def __call__(self, inputs):
        try:
            self.model(inputs)
        except _Reached as reached:
            return reached.output
        raise RuntimeError("the model does not use this layer when it encodes")

    @staticmethod
    def _caught(module, inputs, output):
        raise _Reached(output[0] if isinstance(output, tuple | list) else output)


class _Reached(Exception):
    def __init__(self, output):
        self.output = output


def pool(output, pooling, prefix, name) -> torch.Tensor:
    """Features of each row from the output of a layer.

    Args:
        output: vectors (b, d), tokens (b, n, d), or a map (b, d, h, w) or (b, h, w, d): if its
            first two axes are equal they are the positions, otherwise the last two.
        pooling: see `engram.frozen.backbone.Options`.
        prefix: number of tokens before those of the positions.
        name: of the model, for messages.

    Returns:
        (b, d); for `tokens` (b, n, d), the prefix tokens included.

    Raises:
        InputError: there is nothing to pool in that way.
    """
    if pooling == "flatten" or (pooling == "default" and output.ndim == 2):
        return output.flatten(1)
    if output.ndim == 4:
        output, prefix = _positions(output, name), 0
    if output.ndim != 3:
        raise InputError(
            f"backbone {name}: the layer gives {list(output.shape[1:])} a row, which has no "
            f"`pooling: {pooling}`; use `flatten`"
        )
    if pooling == "tokens":
        return output
    if pooling == "cls":
        if not prefix:
            raise InputError(f"backbone {name}: it has no class token; use `pooling: mean`")
        return output[:, 0]
    return output[:, prefix:].mean(dim=1)


def _positions(output, name):
    """Tokens (b, h * w, d) of a map (b, d, h, w) or (b, h, w, d)."""
    first, last = output.shape[1] == output.shape[2], output.shape[2] == output.shape[3]
    if first and last:
        raise InputError(
            f"backbone {name}: a map of {list(output.shape[1:])} does not tell channels from "
            "positions; use `pooling: flatten`"
        )
    return output.flatten(1, 2) if first else output.flatten(2).transpose(1, 2)


def closest(name, names) -> str:
    """The end of an error message: the names that are closest to `name`."""
    close = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "check the spelling"
