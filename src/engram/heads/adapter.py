"""Head "adapter": residual bottleneck adapters on frozen features, then a small MLP.

After CLIP-Adapter (Gao et al. 2021, eq. 4): fused = ratio * adapter(x) + (1 - ratio) * x
with adapter(x) = relu(relu(x W1) W2). Each source has its own adapter; their fused features
stand side by side. Only these weights and the MLP's are trained, and only they are drawn at
random.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from engram import training
from engram.errors import InputError
from engram.heads._layers import BatchNorm, Linear, dropout
from engram.training import stacked

TASKS = ("classes",)
SLOPE = 0.1
#: Parameters that train in one computation: what a CPU's cache holds, what keeps a GPU busy.
BYTES_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 28}


@dataclass(frozen=True, kw_only=True)
class Options(stacked.Options):
    """Options of the head.

    Attributes:
        reduction: the adapter's bottleneck has 1/reduction of the features.
        ratio: share of the adapter in the fused features; 0 leaves them as they are.
        hidden: widths of the MLP's layers (linear, batch norm, LeakyReLU 0.1, dropout).
        standardize: subtract the mean of each feature and divide by its standard deviation,
            both over the training rows of the fold.
        fmri_prediction_weight: weight of a second cross-entropy, `loss_fmri_prediction`, of
            classes predicted by a linear layer from the fused fMRI features alone; 0 = none.
            With fMRI as the only kind of source there is one prediction, and this weight
            scales its loss as published. Without fMRI it does nothing.
    """

    reduction: int = 2
    ratio: float = 0.2
    hidden: list[int] = field(default_factory=lambda: [64, 32, 16])
    standardize: bool = True
    fmri_prediction_weight: float = 0.1


def fit(task, options, device) -> training.Fit:
    """Train all folds and runs together.

    Features are (n, d), or (n, region, d) with one adapter for all regions of the source.

    Raises:
        InputError: a source does not hold features, or an option is out of range.
    """
    _check(task, options)
    fmri = [training.of_view(header, "modality") == "fmri" for header in task.headers]
    x = [np.asarray(source, np.float32) for source in task.x]
    scales = [_scales(x, fold.train, options.standardize) for fold in task.folds]

    def build(group):
        generators = [model.generator for model in group]
        of_models = [scales[model.fold] for model in group]
        return Network(generators, of_models, fmri, options, len(task.classes))

    one = Network([torch.Generator()], scales[:1], fmri, options, len(task.classes))
    tensors = [torch.as_tensor(source, device=device) for source in x]
    return stacked.fit(task, tensors, build, options, _at_once(one, device))


def predict(state, x, known, options, device) -> np.ndarray:
    """Probabilities of the classes of rows, float32 (models, n, classes).

    Args:
        state: as `Fit.state`, with one axis of models for folds and runs.
        x: one array (n, ...) a source.
        known: `engram.training.Task` or `engram.trained.Model`.
    """
    fmri = [training.of_view(header, "modality") == "fmri" for header in known.headers]
    scales = [(state[f"adapters.{i}.mean"][0], state[f"adapters.{i}.sd"][0]) for i in range(len(x))]

    def build(models):
        generators = [torch.Generator() for _ in range(models)]
        return Network(generators, [scales] * models, fmri, options, len(known.classes))

    def inputs(some):
        return [torch.as_tensor(np.asarray(source, np.float32)) for source in some]

    return stacked.predict(state, x, build, inputs, _at_once(build(1), device), device)


def _at_once(one, device):
    """Models in one computation, from a stack of one."""
    return max(1, BYTES_AT_ONCE[device] // sum(p.nbytes for p in one.parameters()))


def _check(task, options):
    for source, values in zip(task.sources, task.x, strict=True):
        if values.ndim not in (2, 3) or values.dtype.kind != "f":
            raise InputError(
                f"{source}: rows of shape {values.shape[1:]} are not features; the adapter needs "
                f"(d,) or (region, d): put a backbone between them (x: {source}/<backbone>)"
            )
    training.check_options(options)


def _scales(x, rows, standardize):
    """(mean, sd) of each source over `rows`."""
    if standardize:
        return [training.statistics(source, rows) for source in x]
    return [(np.zeros(s.shape[1:], np.float32), np.ones(s.shape[1:], np.float32)) for s in x]


class Network(nn.Module):
    """A stack of adapters with MLP.

    Args:
        generators: one a model, for its weights.
        scales: one a model: for each source (mean, sd), arrays (d,) or (region, d).
        fmri: for each source, whether it is fMRI.
        options: Options.
        n_classes: width of the output.
    """

    def __init__(self, generators, scales, fmri, options, n_classes):
        super().__init__()
        self.options, self.fmri = options, fmri
        self.adapters = nn.ModuleList(
            Adapter(generators, list(of_source), options) for of_source in zip(*scales, strict=True)
        )
        sizes = [adapter.mean[0].numel() for adapter in self.adapters]
        widths = [sum(sizes), *options.hidden]
        self.layers = nn.ModuleList(
            Linear(generators, i, o, bias=False) for i, o in pairwise(widths)
        )
        self.norms = nn.ModuleList(BatchNorm(len(generators), o) for o in options.hidden)
        self.last = Linear(generators, widths[-1], n_classes)
        self.width = sum(options.hidden)
        self.weights = {"logits": 1.0}
        self.auxiliary = None
        if any(fmri) and options.fmri_prediction_weight:
            self.weights = {
                "logits": float(not all(fmri)),
                "fmri_prediction": options.fmri_prediction_weight,
            }
            if not all(fmri):
                of_fmri = sum(size for size, is_fmri in zip(sizes, fmri, strict=True) if is_fmri)
                self.auxiliary = Linear(generators, of_fmri, n_classes)

    def fused(self, inputs):
        """Features of each source after its adapter, (models, batch, all d of the source)."""
        return [a(x) for a, x in zip(self.adapters, inputs, strict=True)]

    def latent(self, inputs):
        return torch.cat(self.fused(inputs), -1)

    def forward(self, inputs, mask=None, keep=None):
        fused = self.fused(inputs)
        x = torch.cat(fused, -1) if len(fused) > 1 else fused[0]
        keeps = [None] * len(self.norms) if keep is None else keep.split(self.options.hidden, -1)
        for layer, norm, kept in zip(self.layers, self.norms, keeps, strict=True):
            x = F.leaky_relu(norm(layer(x), mask), SLOPE)
            x = dropout(x, kept, self.options.dropout)
        outputs = {"logits": self.last(x)}
        if self.auxiliary:
            of_fmri = [f for f, is_fmri in zip(fused, self.fmri, strict=True) if is_fmri]
            outputs["fmri_prediction"] = self.auxiliary(torch.cat(of_fmri, -1))
        elif "fmri_prediction" in self.weights:
            outputs["fmri_prediction"] = outputs["logits"]
        return outputs


class Adapter(nn.Module):
    """x (models, batch, d) or (models, batch, region, d) -> fused features, regions flattened."""

    def __init__(self, generators, scales, options):
        super().__init__()
        mean, sd = (torch.as_tensor(np.stack(part)) for part in zip(*scales, strict=True))
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)
        d = mean.shape[-1]
        bottleneck = max(1, d // options.reduction)
        self.ratio = options.ratio
        self.down = Linear(generators, d, bottleneck, bias=False)
        self.up = Linear(generators, bottleneck, d, bias=False)

    def forward(self, x):
        models, batch = x.shape[:2]
        x = (x - self.mean[:, None]).div_(self.sd[:, None])
        rows = x.reshape(models, -1, x.shape[-1])
        adapted = F.relu(self.up(F.relu(self.down(rows))))
        return torch.lerp(rows, adapted, self.ratio).reshape(models, batch, -1)
