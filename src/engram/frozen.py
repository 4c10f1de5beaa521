"""A torch model as a backbone: its features, or those of a layer, its weights unchanged."""

import difflib
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import cosine_similarity

from engram import checkpoints
from engram.errors import InputError
from engram.images import Preprocessing
from engram.precision import multiplies_bf16

#: Least cosine between features in bf16 and in fp32; below it a backbone stays in fp32.
AGREEMENT = 0.999


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that every torch backbone has.

    Attributes:
        weights: `published`, the file that `checkpoint` names; another file; or `random`.
        seed: of random weights.
        prefix: what the names of the model's tensors begin with in the weights file.
        layer: name of a module of the model, e.g. `blocks.6`, whose output is taken in place of
            the features that the model ends in.
        pooling: of the tokens or the map of that output.  `cls` takes the class token, `mean`
            averages over positions, `tokens` keeps every position, `flatten` keeps every value.
            By default the model's own features, of a layer its class token or else the mean.
        dim: length of a feature vector; checked if given.
        size: height and width of the model's input in pixels; by default as published.
        interpolation: how images are resized; by default as published.
        mean, std: of each colour on the scale 0..1; by default as published.
        batch: images that go through the model at once.
        mode: resize batches on the `device`, or one by one with Pillow as `reference`.
        precision: of the forward pass.  `auto` is bf16 where the hardware multiplies it natively
            and the features agree with fp32 (cosine above 0.999), and fp32 elsewhere.
        dtype: number format in the store.
    """

    weights: str = "random"
    seed: int = 0
    prefix: str = ""
    layer: str = ""
    pooling: Literal["default", "cls", "mean", "tokens", "flatten"] = "default"
    dim: int | None = None
    size: list[int] | None = None
    interpolation: Literal["bicubic", "bilinear", "lanczos"] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    batch: int = 32
    mode: Literal["device", "reference"] = "device"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    dtype: Literal["float32", "float16"] = "float32"


@dataclass(frozen=True)
class Published:
    """How a model expects its images, where the configuration does not say otherwise.

    Attributes:
        size: (height, width), pixels.
        mean, std: of each channel on the scale 0..1.
        interpolation: "bicubic", "bilinear" or "lanczos".
        grey: the model takes one channel, (n, 1, h, w), instead of three.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    grey: bool = False


def preprocessing(options, published, view, device) -> Preprocessing:
    """What happens to the rows of a view before a model: as published, or as `options` say.

    Raises:
        InputError: the view holds no images.
    """
    takes(("spectrogram", "picture"), view, options.model)
    return Preprocessing.of(
        view,
        size=tuple(options.size or published.size),
        mean=tuple(options.mean or published.mean),
        std=tuple(options.std or published.std),
        interpolation=options.interpolation or published.interpolation,
        grey=published.grey,
        mode=options.mode,
        device=device,
    )


def takes(whats, view, name):
    """Refuse a view that holds something else than what a model takes.

    Args:
        whats: what may stand under `what` in the header of the view.
        view: header of the view.
        name: of the model, for the message.
    """
    if view["what"] not in whats:
        raise InputError(
            f"backbone {name}: takes {' or '.join(whats)} rows, but the view holds "
            f"{view['what']} rows; choose another view or backbone"
        )


class Frozen:
    """Backbone of a frozen model: forward passes without gradients.

    Args:
        model: module that maps what `preprocessing` gives, (b, ...), to features (b, d).
        preprocessing: maps b rows of a view to the model's input; has `facts()`,
            `fingerprint()` and `probe()`, the input made of one fixed row.
        options: `Options` of the component, with `model`, a name for messages.
        weights: file the weights came from, None if they were drawn.
        device: "cpu" or "cuda".
        features: function that maps the input to the features (b, d), if not the model itself.
        tokens: function that maps the input to the model's last tokens (b, n, d) or map
            (b, d, h, w), for `pooling`; None if it has none.
        prefix: number of tokens before those of the positions, the class token first.

    Attributes:
        shape: of the features of one row, (d,) or (n, d).
        dtype: of the features in the store.
        batch: rows a call expects; equal for every call, because results differ in their
            last bits with the number of rows.
        facts: for the header of what the backbone makes.

    Raises:
        InputError: there is no such layer, it gives nothing to pool, the features have another
            length than `dim`, or `batch` is below 1.
    """

    def __init__(
        self,
        model,
        preprocessing,
        options,
        weights,
        device,
        *,
        features=None,
        tokens=None,
        prefix=0,
    ):
        if options.batch < 1:
            raise InputError(f"backbone {options.model}: `batch` is {options.batch}; at least 1")
        self.name = options.model
        self.model = model.to(device).eval().requires_grad_(False)
        self.preprocessing, self.batch, self.dtype = preprocessing, options.batch, options.dtype
        self.features = self._chosen(options, features or self.model, tokens, prefix)
        self.number = torch.float32
        weights_sha256 = checkpoints.digest(self.model)
        self.shape = tuple(self._forward(preprocessing.probe()).shape[1:])
        default = not options.layer and options.pooling == "default"
        if options.dim and default and self.shape != (options.dim,):
            raise InputError(
                f"backbone {self.name}: its features have shape {list(self.shape)}, but the "
                f"configuration says `dim: {options.dim}`; correct `model` or `dim`"
            )
        precision = self._choose_precision(options.precision, device)
        self._loaded = checkpoints.digest(self.model)
        self.facts = {
            "model": self.name,
            "weights": weights.name if weights else "random",
            "weights_sha256": weights_sha256,
            "layer": options.layer,
            "pooling": options.pooling,
            "preprocessing": preprocessing.facts(),
            "fingerprint": preprocessing.fingerprint(),
            "precision": precision,
            "batch": options.batch,
        }
        if not weights:
            self.facts["seed"] = options.seed

    def __call__(self, rows) -> torch.Tensor:
        """Features of `batch` rows of a view, float32 (batch, *shape), on the device.

        The call returns before a GPU has finished; moving the tensor to the CPU waits for it.
        """
        return self._forward(self.preprocessing(rows))

    def check(self):
        """Verify that the weights are still those that were loaded.

        Raises:
            RuntimeError: a weight has changed.
        """
        if checkpoints.digest(self.model) != self._loaded:
            raise RuntimeError(f"the weights of {self.name} changed while it was used")

    def _forward(self, images):
        with torch.inference_mode():
            if images.is_floating_point():
                images = images.to(self.number)
            return self.features(images).float()

    def _choose_precision(self, wanted, device):
        """Put the model into the precision it will run in, and name it."""
        exact = wanted == "fp32" or (wanted == "auto" and not multiplies_bf16(device))
        if device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        if exact:
            return "fp32"
        probe = self.preprocessing.probe()
        reference = self._forward(probe)
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.number = torch.bfloat16
        self.model.to(self.number)
        cosine = cosine_similarity(self._forward(probe).flatten(1), reference.flatten(1)).min()
        if cosine > AGREEMENT:
            return "bf16"
        print(f"{self.name}: features in bf16 and fp32 have a cosine of {cosine:.4f}; using fp32")
        self.number = torch.float32
        self.model.to(self.number).load_state_dict(weights)
        return "fp32"

    def _chosen(self, options, features, tokens, prefix):
        """The function from the model's input to the features that the options ask for."""
        pooling = options.pooling
        if options.layer:
            source = Layer(self.model, options.layer, self.name)
            pooling = "cls" if pooling == "default" and prefix else pooling
        elif pooling == "default":
            return features
        elif tokens is None:
            raise InputError(
                f"backbone {self.name}: the model ends in no tokens to pool; name a `layer`"
            )
        else:
            source = tokens

        def pooled(images):
            return pool(source(images), pooling, prefix, self.name)

        return pooled


class Layer:
    """The output of one module inside a model; what comes after that module is not computed.

    Raises:
        InputError: the model has no module of that name.
    """

    def __init__(self, model, name, model_name):
        modules = dict(model.named_modules())
        if name not in modules:
            raise InputError(
                f"backbone {model_name}: no layer {name!r}; {_closest(name, list(modules)[1:])}"
            )
        self.model = model
        modules[name].register_forward_hook(self._caught)

    def __call__(self, images):
        try:
            self.model(images)
        except _Reached as reached:
            return reached.output
        raise RuntimeError("the model does not use this layer when it encodes images")

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
        pooling: see `Options.pooling`.
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
        raise InputError(f"{library} has no model {name!r}; {_closest(name, names)}")


def _closest(name, names):
    close = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "check the spelling"
