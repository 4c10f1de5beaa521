"""Head "finetune": a backbone trained end to end on the rows of a view, under a linear layer.

Learning rates fall from block to block towards the input (Clark et al. 2020, arXiv:2003.10555), are
warmed up and then follow half a cosine. The backbone stays as it is in evaluation: no dropout, and
its batch norms keep their statistics. The batch norm before the linear layer has those of the
batch in training and, whenever rows are predicted, those of training rows as the backbone sees them
then (Wu & Johnson 2021, arXiv:2105.07576): averages over a short training would lag behind.

A backbone whose features are a mean over crops of a row, Brain-Semantoks, is trained on one crop of
each, drawn anew in every epoch; what is predicted of a row is the mean over its crops.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from engram import training
from engram.errors import InputError
from engram.frozen import fitted
from engram.heads._goals import Classes, Numbers
from engram.heads._network import Network, depths
from engram.planning import components
from engram.precision import multiplies_bf16
from engram.progress import progress
from engram.readers.pretrained_weights import subjects_seen
from engram.signals import augmentation
from engram.training import loop
from engram.training.schedules import warm_cosine

TASKS = ("classes", "values")

SETTLED = 128  # training rows at most whose statistics the batch norm has where rows are predicted


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the head.

    Attributes:
        backbone: a name under `backbones`; its weights are those that training begins with, so that
            `weights: random` trains from scratch.
        epochs: passes over the training rows at most; the one with the lowest loss of the
            validation rows is kept.
        patience: epochs without a lower loss after which training stops; 0 = never.
        batch_size: rows a step.
        accumulate: parts of a batch that go through the backbone one by one, for less memory.
        augment: how strongly [regions, time, noise, scale] of the crops of series are changed in
            training, each 0 to 3 (`engram.signals.augmentation`); published is [0, 1, 1, 1].
        lr: learning rate, at its peak, of what comes after the last block of the backbone.
        layer_decay: times this is that of the last block, and so on, block by block.
        head_lr: of the linear layer and the batch norm before it.
        warmup_epochs: epochs that warm up.
        frozen_epochs: epochs at the beginning in which the linear layer trains alone.
        weight_decay: of AdamW, never on biases and norms.
        clip_gradient: largest L2 norm of a step's gradient; 0 = no clipping.
        class_weights: of classes: weigh them so that each counts the same in training.
        precision: of the products; `auto` is bf16 where the hardware multiplies it natively.
        keep_backbone: write the trained backbone of every fold and run into the model file too, not
            only that of the model that is kept for use.
    """

    backbone: str
    epochs: int = 50
    patience: int = 10
    batch_size: int = 16
    accumulate: int = 1
    augment: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    lr: float = 1e-4
    layer_decay: float = 0.9
    head_lr: float = 1e-3
    warmup_epochs: float = 2.0
    frozen_epochs: int = 0
    weight_decay: float = 0.05
    clip_gradient: float = 1.0
    class_weights: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    keep_backbone: bool = False


def fit(task, options, device) -> training.Fit:
    """Train all folds and runs, one after the other, each from the same backbone.

    Numbers are standardised by the mean and deviation of the training rows, every subject
    weighing the same, and learnt by squared error. Where the task has `chosen`, nothing validates:
    training stops after its `epoch`, with the rates of all, and the backbone is kept.

    Args:
        task: Task whose one source is a view that the backbone takes.
        options: `Options`; `backbone` is what the plan puts in its place, the spec of an extraction
            with it, and `file`, the path of its weights or None.
        device: "cpu" or "cuda".

    Raises:
        InputError: there are several sources, the backbone does not take the view, an option is
            out of range, or training diverged.
    """
    _check(task, options)
    loaded, outputs = _loaded(task, options, device), len(task.classes) or 1
    if any(options.augment) and not loaded[0].crops:
        raise InputError("finetune: `augment` changes crops of series; this backbone takes none")
    network = Network(*loaded, outputs, options.augment, device)
    fits = _Fits(task, options, network, device)
    with progress(fits.total, "fine-tune all folds and runs") as bar:
        for f, fold in enumerate(task.folds):
            for r, run in enumerate(task.runs):
                fits.add(f, fold, r, run, bar)
    return fits.result()


@torch.no_grad()
def predict(state, x, known, options, device) -> np.ndarray:
    """What networks say of rows: probabilities (models, n, classes), or numbers (models, n, 1).

    Without `keep_backbone` the models of the folds lack theirs: there is none to ask then.

    Args:
        state: as `Fit.state`, with one axis of models for folds and runs.
        x: rows (n, ...) of the view, a list of one.
        known: `engram.training.Task` or `engram.trained.Model`.
        options, device: as for `fit`; the file of the weights that training began with is read,
            for what else stands in it.
    """
    outputs, found = len(known.classes) or 1, []
    if not any(name.startswith("backbone.") for name in state):
        return np.zeros((0, len(x[0]), outputs))
    network = Network(*_loaded(known, options, device), outputs, options.augment, device)
    autocast = _autocast(options, device)
    for m in range(len(state["last.weight"])):
        one = {name: values[m] for name, values in state.items()}
        mean, sd = one.pop("target_mean", None), one.pop("target_sd", None)
        network.restore(one)
        said, _ = _said(network, x[0], np.arange(len(x[0])), options.batch_size, autocast)
        found.append(
            said.softmax(1).numpy() if known.classes else said.double().numpy() * sd + mean
        )
    return np.stack(found)


def _said(network, x, rows, size, autocast):
    """(outputs of the last layer, latent) of rows of x, `size` at once, float32 on the CPU."""
    outputs = [torch.empty(0, network.outputs)]
    latent = [torch.empty(0, network.norm.num_features)]
    for start in range(0, len(rows), size):
        with autocast:
            found = network.latent(x[rows[start : start + size]])
            outputs.append(network.last(network.norm(found)).float().cpu())
        latent.append(found.cpu())
    return torch.cat(outputs), torch.cat(latent)


def _autocast(options, device):
    auto = options.precision == "auto" and multiplies_bf16(device)
    bf16 = auto or options.precision == "bf16"
    return torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()


def _check(task, options):
    if len(task.sources) > 1:
        raise InputError(f"finetune: {' and '.join(task.sources)}: takes one view")
    if "axes" not in task.headers[0] or "view" in task.headers[0]:
        raise InputError(
            f"{task.sources[0]}: finetune trains a backbone on a view itself (x: <view>), not on "
            "features"
        )
    least = {"epochs": 1, "patience": 0, "batch_size": 2, "accumulate": 1, "lr": 0, "head_lr": 0,
             "layer_decay": 0, "warmup_epochs": 0, "frozen_epochs": 0, "weight_decay": 0,
             "clip_gradient": 0}  # fmt: skip
    for name, value in least.items():
        if getattr(options, name) < value:
            raise InputError(f"heads: {name} is {getattr(options, name)}; at least {value}")
    augmentation.check(options.augment)
    if options.layer_decay > 1:
        raise InputError(f"heads: layer_decay is {options.layer_decay:g}; at most 1")


def _loaded(task, options, device):
    """(backbone, what is done to rows before it, its axes of a row)."""
    spec, header = options.backbone, task.headers[0]
    module, found = components.options("backbones", spec["backbone"])
    if not hasattr(found, "precision"):
        kind = spec["backbone"]["kind"]
        raise InputError(f"finetune: a backbone of kind {kind!r} has no weights to train")
    fit = fitted.fit(spec, header)
    view, file = fit.view if fit else header, spec["file"]
    model = module.load(
        replace(found, precision="fp32"), Path(file) if file else None, view, device
    )
    return model, fit or np.asarray, header["axes"]


class _Fits:
    """Models of all folds and runs, trained one after the other on one network."""

    def __init__(self, task, options, network, device):
        self.task, self.options, self.network, self.device = task, options, network, device
        n, shape = len(task.table), (len(task.folds), len(task.runs))
        dtype = np.float32 if task.classes else np.float64
        self.outputs = np.zeros((n, shape[1], network.outputs), dtype)
        self.validation, self.epochs = np.zeros(shape), np.zeros(shape, int)
        self.states, self.curves = {}, []
        self.latent = None
        self.subjects = task.table["subject"].to_numpy(str)
        self.total = sum(len(fold.train) for fold in task.folds) * shape[1] * options.epochs
        self.autocast = _autocast(options, device)
        self.kept = task.chosen.get("epoch")

    def add(self, f, fold, r, run, bar):
        """Train and test the model of one fold and run."""
        seed = training.seed(run.seed, fold.name)
        gpus = [torch.cuda.current_device()] if self.device == "cuda" else []
        with torch.random.fork_rng(gpus):
            torch.manual_seed(seed)
            self.network.begin(self.task.x[0][fold.train[:2]])
            goal = self._goal(fold, run.labels(f))
            trained = self._train(fold, goal, f"finetune: fold {fold.name}, seed {run.seed}", bar)
        self.network.load_state_dict(trained.state)
        found, latent = self._predicted(fold.test)
        self.outputs[fold.test, r] = goal.predictions(found)
        self.validation[f, r] = trained.curves[trained.epoch].get("validation_score", np.nan)
        self.epochs[f, r] = trained.epoch
        self._keep(f, fold, r, latent, trained.state, goal.scale)
        self.curves += [_curve(row, fold.name, r) for row in trained.curves]

    def _goal(self, fold, y):
        kind = Classes if self.task.classes else Numbers
        return kind(y, fold, self.subjects, len(self.task.classes), self.options, self.device)

    def _train(self, fold, goal, name, bar):
        o, network, x = self.options, self.network, self.task.x[0]
        steps = -(-len(fold.train) // o.batch_size)
        if len(fold.train) // steps < 2 * o.accumulate:
            raise InputError(
                f"{name}: {len(fold.train)} training rows in parts of one row, which have no "
                "variance; raise batch_size or lower accumulate"
            )
        groups, frozen = self._groups(), o.frozen_epochs * steps

        def rates(step):
            total, warmup = o.epochs * steps, min(o.warmup_epochs, o.epochs - 1) * steps
            return [
                0.0
                if step < frozen and "name" not in group
                else warm_cosine(step + 1, total, warmup, 0.0, group["peak"], 0.0)
                for group in groups
            ]

        def loss(at):
            rows = fold.train[at.cpu().numpy()]
            with self.autocast:
                found = network(x[rows])
            return goal.loss(found.float(), rows)

        def after(step):
            network.idle = step + 1 < frozen

        def validate(network):
            some = fold.train[:: -(-len(fold.train) // SETTLED)]
            with self.autocast:
                network.settle(x[some], o.batch_size)
            if self.kept is not None:
                return {}
            found, _ = self._predicted(fold.validation)
            return goal.validation(found, fold.validation)

        network.idle = frozen > 0
        learner = loop.Learner(
            network,
            loss,
            torch.optim.AdamW(groups, lr=0.0, fused=True),
            rates,
            after=after,
        )
        settings = loop.Settings(
            o.epochs,
            o.batch_size,
            accumulate=o.accumulate,
            patience=o.patience,
            clip_gradient=o.clip_gradient,
            watched=True,
            until=0 if self.kept is None else self.kept + 1,
        )
        return loop.fit(learner, validate, settings, len(fold.train), name, bar=bar)

    def _groups(self):
        """Parameters by depth, and with and without decay."""
        o, (found, last) = self.options, depths(self.network.backbone)
        inside = {f"backbone.{name}": depth for name, depth in found.items()}
        groups = {}
        for name, parameter in self.network.named_parameters():
            depth = inside.get(name)
            decay = o.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((depth, decay), []).append(parameter)
        return [
            {"params": parameters, "weight_decay": decay, "name": "head", "peak": o.head_lr}
            if depth is None
            else {
                "params": parameters,
                "weight_decay": decay,
                "peak": o.lr * o.layer_decay ** (last - depth),
            }
            for (depth, decay), parameters in groups.items()
        ]

    @torch.no_grad()
    def _predicted(self, rows):
        self.network.eval()
        return _said(self.network, self.task.x[0], rows, self.options.batch_size, self.autocast)

    def _keep(self, f, fold, r, latent, state, scale):
        if r == 0:
            if self.latent is None:
                self.latent = np.zeros((len(self.task.table), latent.shape[1]), np.float32)
            self.latent[fold.test] = latent
        whole = self.options.keep_backbone or self.kept is not None
        found = {
            name: value.cpu().numpy()
            for name, value in state.items()
            if whole or not name.startswith("backbone.")
        }
        for name, value in (found | scale).items():
            if name not in self.states:
                shape = (*self.validation.shape, *value.shape)
                self.states[name] = np.zeros(shape, value.dtype)
            self.states[name][f, r] = value

    def result(self) -> training.Fit:
        curves = pd.DataFrame(self.curves)
        asked, tested = self.options.backbone, self.task.tested
        flags = ["random_weights"] * (not asked["file"])
        flags += ["seen"] * bool(subjects_seen(asked["file"], asked, self.subjects[tested]))
        return training.Fit(
            outputs=self.outputs[tested],
            validation=self.validation,
            state=self.states,
            latent=self.latent[tested],
            curves=curves.sort_values(["fold", "run", "epoch"], ignore_index=True),
            facts={"epoch": self.epochs.tolist()},
            flags=tuple(flags),
        )


def _curve(row, fold, run):
    renamed = {"loss": "train_loss", "head_lr": "lr"}
    left_out = ("score", "validation_score")
    found = {renamed.get(key, key): row[key] for key in row if key not in left_out}
    return {"fold": fold, "run": run} | found
