"""A torch model as a backbone: its features, or those of a layer, its weights unchanged."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import cosine_similarity
from torch.overrides import TorchFunctionMode

from engram.errors import InputError
from engram.frozen import checkpoints
from engram.frozen.layers import Layer, closest, pool
from engram.precision import multiplies_bf16

#: Least cosine between features in bf16 and in fp32; below it a backbone stays in fp32.
AGREEMENT = 0.999

#: What fills a tensor with random numbers where a model is constructed.
DRAWS = {
    *(getattr(torch.Tensor, f"{name}_") for name in ("uniform", "normal", "erfinv")),
    *(getattr(torch.nn.init, f"{name}_") for name in ("uniform", "normal", "trunc_normal")),
    *(getattr(torch.nn.init, f"kaiming_{name}_") for name in ("uniform", "normal")),
    *(getattr(torch.nn.init, f"xavier_{name}_") for name in ("uniform", "normal")),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every torch backbone.

    Attributes:
        weights: `published`, the file that `checkpoint` names; another file; or `random`.
        seed: of random weights.
        prefix: what the names of the model's tensors begin with in the weights file; where it holds
            several dictionaries of them, `state_dict_ema.` takes those of that name.
        layer: name of a module of the model, e.g. `blocks.6`, whose output is taken in place of
            the features that the model ends in.
        pooling: of the tokens or the map of that output.  `cls` takes the class token, `mean`
            averages over positions, `tokens` keeps every position, `flatten` keeps every value.
            By default the model's own features, of a layer its class token or else the mean.
        dim: length of a feature vector; checked if given.
        batch: rows that go through the model at once.
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
    batch: int = 32
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    dtype: Literal["float32", "float16"] = "float32"


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
        crops: where the features of a row are a mean over crops, the module that has
            `each(input)`, those of every crop (b, crop, d), and `one(input, change)`, those of one
            at random (b, d) that `change` has augmented, to train on; else None.

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
        self.number, self.crops = torch.float32, None
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

    def _forward(self, inputs):
        with torch.inference_mode():
            if inputs.is_floating_point():
                inputs = inputs.to(self.number)
            return self.features(inputs).float()

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

        def pooled(inputs):
            return pool(source(inputs), pooling, prefix, self.name)

        return pooled


class _Undrawn(TorchFunctionMode):
    """Puts NaN where random numbers would be drawn into a tensor: a file holds what comes there.

    Drawing takes longer than reading the file; what it should not hold makes features NaN.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            with torch.no_grad():
                return tensor.fill_(torch.nan)
        return function(*args, **kwargs)


def build(make, options, weights) -> torch.nn.Module:
    """The model that `make()` constructs, initialised from `options.seed`, or to be loaded.

    The global random state is as before.

    Args:
        weights: the file that every parameter is loaded from afterwards; None draws them.

    Raises:
        InputError: the configuration asks for a weights file and none was given.
    """
    if weights is None and options.weights != "random":
        raise InputError(
            f"backbone {options.model}: `weights: {options.weights}` is neither a file nor `random`"
        )
    if weights:
        with _Undrawn():
            return make()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        return make()


def known_name(name, names, library):
    """Refuse a model name that `library` does not have, with a suggestion."""
    if name not in names:
        raise InputError(f"{library} has no model {name!r}; {closest(name, names)}")
