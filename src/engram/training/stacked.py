"""The loop that trains many small networks at once.

A network here is a stack: every parameter and buffer has a leading axis "models", one
entry a fold and run, and one batched computation trains all of them. What each model sees
(its rows, their order, dropout, statistics, clipping, learning rate) is its own, so that
the stack ends where the models would end one by one. On a CPU each thread trains stacks of
its own: batches of a few dozen rows are too small to share among threads.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from engram.errors import InputError
from engram.progress import progress
from engram.training import Fit, balanced_accuracy, class_weights, metrics, schedule, seed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every head whose networks train side by side.

    Attributes:
        dropout: share of units dropped in training.
        epochs, batch_size: passes over the training rows, rows a step at most.
        base_lr, warm_lr, final_lr: learning rate at its peak, in the first, in the last step.
        warmup: share of the steps that warm up.
        weight_decay: decoupled (AdamW), never on biases and batch norm.
        clip_gradient: largest L2 norm of a model's gradient; 0 = no clipping.
        label_smoothing: share of the target spread over all classes.
        class_weights: weigh classes so that each counts the same in training.
        l2: times the sum of squares of the trained parameters, added to the loss.
    """

    dropout: float = 0.2
    epochs: int = 20
    batch_size: int = 64
    base_lr: float = 5e-4
    warm_lr: float = 1e-6
    final_lr: float = 1e-6
    warmup: float = 0.1
    weight_decay: float = 0.1
    clip_gradient: float = 0.1
    label_smoothing: float = 0.0
    class_weights: bool = True
    l2: float = 0.0


@dataclass(frozen=True)
class Model:
    """One model of a stack.

    Attributes:
        fold, run: positions in the task.
        train, validation, test: its rows.
        generator: of its initialisation, order and dropout; on the CPU wherever it trains,
            seeded by the run's seed and the fold's name, whatever trains beside it.
    """

    fold: int
    run: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    generator: torch.Generator


def models(task) -> list[Model]:
    """Every fold under every run, folds first."""
    return [
        Model(
            f, r, fold.train, fold.validation, fold.test,
            torch.Generator().manual_seed(seed(run.seed, fold.name)),
        )
        for f, fold in enumerate(task.folds)
        for r, run in enumerate(task.runs)
    ]  # fmt: skip


def fit(task, x, build, options, at_once) -> Fit:
    """Train a network for every fold and run, `at_once` of them in one batched computation.

    The epoch whose validation loss is lowest is kept; test rows are read once, after that. Where
    the task has `chosen`, nothing validates: every model is that of its `epoch`, whose rates are
    those of a training of all epochs, and its score is NaN.

    Args:
        task: Task.
        x: one tensor (n, ...) a source, on the device to train on.
        build: list[Model] -> torch module, a stack of as many models. It has
            `forward(inputs, mask=None, keep=None) -> {"logits": (models, batch, classes), ...}`
            for inputs (models, batch, ...), where `mask` bool (models, batch) says which rows
            are real (None: all) and `keep` bool (models, batch, width) which of its `width`
            dropout units stay; `latent(inputs) -> (models, batch, d)`; and `weights`, the
            share of each output's cross-entropy in the loss.
        options: of the head, which extend `Options`.
        at_once: models in one computation.
    """
    every = sorted(models(task), key=lambda model: _steps(model, options))
    workers = torch.get_num_threads() if x[0].device.type == "cpu" else 1
    at_once = min(at_once, -(-len(every) // workers))
    groups = [every[first : first + at_once] for first in range(0, len(every), at_once)]

    def train(group):
        network = build(group).to(x[0].device)
        labels = _Labels(task, group, options, x[0])
        chosen = task.chosen.get("epoch")
        records, epochs, scores = _train(network, group, x, labels, options, bar, chosen)
        state = {name: value.cpu().numpy() for name, value in network.state_dict().items()}
        first = [m for m, model in enumerate(group) if (model.fold, model.run) == (0, 0)]
        latents = [_latent(network, x, m) for m in first]
        return records, epochs, scores, state, _test(network, group, x), latents

    total = options.epochs * len(every)
    with progress(total, "train all folds and runs", "epochs") as bar, _threads(workers) as pool:
        return _gathered(task, groups, list(pool.map(train, groups)))


@contextlib.contextmanager
def _threads(workers):
    """A pool whose threads each compute alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _gathered(task, groups, results) -> Fit:
    """What all stacks gave, by fold and run."""
    shape = (len(task.folds), len(task.runs))
    epochs, scores, state, curves, latent = np.zeros(shape, int), np.zeros(shape), {}, [], []
    probabilities = np.zeros((len(task.y), shape[1], len(task.classes)), np.float32)
    for group, result in zip(groups, results, strict=True):
        records, kept, kept_scores, values, predicted, latents = result
        at = tuple(np.array([(model.fold, model.run) for model in group]).T)
        epochs[at], scores[at] = kept, kept_scores
        for name, value in values.items():
            state.setdefault(name, np.zeros(shape + value.shape[1:], value.dtype))[at] = value
        for model, rows in zip(group, predicted, strict=True):
            if len(model.test):
                probabilities[model.test, model.run] = rows
        curves += records
        latent += latents
    curves = pd.DataFrame(curves).sort_values(["fold", "run", "epoch"], ignore_index=True)
    return Fit(
        outputs=probabilities[task.tested],
        validation=scores,
        state=state,
        latent=latent[0],
        curves=curves.assign(fold=[task.folds[i].name for i in curves["fold"]]),
        facts={"epoch": epochs.tolist()},
    )


def _steps(model, options):
    """Batches that a model trains on in an epoch."""
    return -(-len(model.train) // options.batch_size)


class _Labels:
    """Class and weight of any rows, each model with the labels of its run."""

    def __init__(self, task, group, options, like):
        n_classes = len(task.classes)
        weights = [
            class_weights(task.runs[model.run].y[model.train], n_classes)
            if options.class_weights
            else np.ones(n_classes)
            for model in group
        ]
        self.n_classes = n_classes
        self.weights = torch.as_tensor(np.stack(weights), dtype=like.dtype, device=like.device)
        runs = np.stack([run.y for run in task.runs])
        self.y = torch.as_tensor(runs, dtype=torch.long, device=like.device)
        self.run = torch.as_tensor([[model.run] for model in group], device=like.device)

    def of(self, rows, mask):
        """(class, weight), both (models, batch); padded rows weigh nothing."""
        y = self.y[self.run, rows]
        return y, self.weights.gather(1, y) * mask

    def counts(self, y, predicted, mask):
        """Confusion counts, int array (models, classes, classes)."""
        m, c = len(y), self.n_classes
        cell = (torch.arange(m, device=y.device)[:, None] * c + y) * c + predicted
        return torch.bincount(cell[mask], minlength=m * c * c).view(m, c, c).cpu().numpy()


def _train(network, group, x, labels, options, bar, chosen=None):
    """Train a stack; curve records, and for each model the epoch kept and its balanced accuracy.

    `chosen` is the epoch to keep, if that is known before.
    """
    optimiser = _Optimiser(network, group, options)
    if chosen is not None:
        records = []
        for epoch in range(chosen + 1):
            scalars = _epoch(network, group, x, labels, options, optimiser, epoch)
            records += _records(group, epoch, scalars)
            bar.update(len(group))
        bar.update(len(group) * (options.epochs - chosen - 1))
        _refuse_diverged(torch.cat([p.flatten() for p in network.parameters()]))
        return records, np.full(len(group), chosen), np.full(len(group), np.nan)
    rows, mask = _tensors(*_padded([model.validation for model in group]), device=x[0].device)
    y, weight = labels.of(rows, mask)
    best = {name: value.clone() for name, value in network.state_dict().items()}
    lowest = torch.full((len(group),), torch.inf, dtype=weight.dtype, device=weight.device)
    kept, kept_scores, records = np.zeros(len(group), int), np.zeros(len(group)), []
    for epoch in range(options.epochs):
        scalars = _epoch(network, group, x, labels, options, optimiser, epoch)
        logits = _predict(network, x, rows)
        loss = _mean(_losses(logits, y), weight)
        counts = labels.counts(y, logits.argmax(-1), mask)
        better = loss < lowest
        lowest = torch.where(better, loss, lowest)
        for name, value in network.state_dict().items():
            best[name][better] = value[better]
        improved = better.cpu().numpy()
        kept[improved], kept_scores[improved] = epoch, balanced_accuracy(counts)[improved]
        scalars["validation_loss"] = loss.cpu().numpy()
        scalars |= {f"validation_{name}": value for name, value in metrics(counts).items()}
        records += _records(group, epoch, scalars)
        bar.update(len(group))
    _refuse_diverged(lowest)
    network.load_state_dict(best)
    return records, kept, kept_scores


def _records(group, epoch, scalars):
    return [
        {"fold": m.fold, "run": m.run, "epoch": epoch}
        | {name: float(values[i]) for name, values in scalars.items()}
        for i, m in enumerate(group)
    ]


def _refuse_diverged(values):
    if not torch.isfinite(values).all():
        raise InputError("heads: training diverged, no epoch has a finite loss; lower base_lr")


def _epoch(network, group, x, labels, options, optimiser, epoch):
    """One pass over the training rows of every model; scalars by name, each (models,).

    Losses and metrics are means over all training rows, each as it stood when the row was
    trained on, dropout included.
    """
    network.train()
    seen, sums, total = [], dict.fromkeys(network.weights, 0.0), 0.0
    for step, batch in enumerate(_batches(group, options, network.width)):
        full = batch[1].all()
        rows, mask, keep = _tensors(*batch, device=x[0].device)
        y, weight = labels.of(rows, mask)
        outputs = network(_inputs(x, rows), None if full else mask, keep)
        loss = 0.0
        for name, share in network.weights.items():
            smooth = _losses(outputs[name], y, options.label_smoothing)
            loss = loss + share * _mean(smooth, weight).sum()
            sums[name] += (weight * _losses(outputs[name].detach(), y)).sum(1)
        if options.l2:
            loss = loss + options.l2 * sum(p.square().sum() for p in network.parameters())
        loss.backward()
        rates = optimiser.step(epoch, step)
        total += weight.sum(1)
        seen.append((y, outputs["logits"].detach().argmax(-1), mask))
    counts = labels.counts(*(torch.cat(parts, 1) for parts in zip(*seen, strict=True)))
    scalars = {"lr": rates, "train_loss": (sums.pop("logits") / total).cpu().numpy()}
    for name, value in sums.items():
        scalars[f"loss_{name}"] = network.weights[name] * (value / total).cpu().numpy()
    return scalars | {f"train_{name}": value for name, value in metrics(counts).items()}


def _batches(group, options, width):
    """One epoch of batches: rows, mask (models, batch), keep (models, batch, width) or None.

    A model's rows come in an order of its own, in as many batches as it needs, of sizes that
    differ by one row at most. A model without a batch left in a step has no real row there.
    """
    orders, drawn = [], []
    for model in group:
        n = len(model.train)
        parts = _steps(model, options)
        order = torch.randperm(n, generator=model.generator).numpy()
        orders.append(np.array_split(model.train[order], parts))
        if options.dropout and width:
            values = torch.rand((n, width), generator=model.generator).numpy()
            drawn.append(np.array_split(values >= options.dropout, parts))
    for step in range(max(map(len, orders))):
        rows, mask = _padded(
            [parts[step] if step < len(parts) else parts[0][:0] for parts in orders]
        )
        keep = np.ones((*mask.shape, width), bool) if drawn else None
        for m, parts in enumerate(drawn):
            if step < len(parts):
                keep[m, : len(parts[step])] = parts[step]
        yield rows, mask, keep


class _Optimiser:
    """AdamW of a stack; models with as many batches an epoch share one, over their slice.

    The update is elementwise, so that each model gets the one it would get alone. Decoupled
    weight decay (Loshchilov & Hutter 2019) acts on matrices and kernels, never on biases and
    normalisation.

    Args:
        network: the stack.
        group: its models, sorted by batches an epoch.
        options: of the head.
    """

    def __init__(self, network, group, options):
        self.options = options
        self.stacks = list(network.parameters())
        self.rates = np.zeros(len(group))
        self.parts, start = [], 0
        for steps, same in groupby(_steps(model, options) for model in group):
            models = slice(start, start + len(list(same)))
            slices = [p.detach()[models].requires_grad_() for p in self.stacks]
            self.parts.append((steps, models, slices, self._adamw(slices)))
            start = models.stop

    def _adamw(self, slices):
        decay = self.options.weight_decay
        groups = [
            {"params": [p for p in slices if p.ndim > 2], "weight_decay": decay},
            {"params": [p for p in slices if p.ndim <= 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.0, fused=True)

    def step(self, epoch, step):
        """Update every model that has a batch in this step of the epoch; rates (models,)."""
        o = self.options
        if o.clip_gradient > 0:
            self._clip(o.clip_gradient)
        for steps, models, slices, adamw in self.parts:
            if step >= steps:
                continue
            self.rates[models] = schedule(
                epoch * steps + step, o.epochs * steps,
                warmup=o.warmup, base=o.base_lr, start=o.warm_lr, final=o.final_lr,
            )  # fmt: skip
            for group in adamw.param_groups:
                group["lr"] = self.rates[models.start]
            for one, stack in zip(slices, self.stacks, strict=True):
                one.grad = stack.grad[models]
            adamw.step()
        for stack in self.stacks:
            stack.grad = None
        return self.rates.copy()

    @torch.no_grad()
    def _clip(self, largest):
        """Scale each model's gradient so that its L2 norm is at most `largest`."""
        parts = [torch.linalg.vector_norm(p.grad.flatten(1), dim=1) for p in self.stacks]
        norm = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)
        for p in self.stacks:
            p.grad.mul_(factor.view(-1, *[1] * (p.ndim - 1)))


def _losses(logits, y, smoothing=0.0):
    """Cross-entropy of each row, (models, batch)."""
    rows = F.cross_entropy(
        logits.flatten(0, 1), y.flatten(), reduction="none", label_smoothing=smoothing
    )
    return rows.view_as(y)


def _mean(losses, weight):
    """Weighted mean over the rows of each model, (models,); 0 where nothing weighs."""
    total = weight.sum(1)
    return (weight * losses).sum(1) / torch.where(total > 0, total, 1.0)


@torch.no_grad()
def _predict(network, x, rows, size=256):
    """Logits (models, batch, classes) of rows (models, batch), without dropout."""
    network.eval()
    return torch.cat([network(_inputs(x, part))["logits"] for part in rows.split(size, 1)], 1)


def _test(network, group, x):
    """Probabilities of the test rows of every model, predicted once; a list over models."""
    rows, mask = _padded([model.test for model in group])
    if not rows.size:
        return [None for _ in group]
    logits = _predict(network, x, *_tensors(rows, device=x[0].device))
    values = logits.softmax(-1).float().cpu().numpy()
    return [values[m, mask[m]] for m in range(len(group))]


@torch.no_grad()
def predict(state, x, build, inputs, at_once, device, size=256) -> np.ndarray:
    """Probabilities of the classes by trained networks, float32 (models, n, classes).

    Args:
        state: as `Fit.state`, with one axis of models for folds and runs.
        x: one array (n, ...) a source.
        build: number of models -> stack of as many, as for `fit`.
        inputs: some rows of `x` -> their tensors (b, ...), as for `fit`.
        at_once: models in one computation.
        device: "cpu" or "cuda".
        size: rows in one computation.
    """
    models, n = len(next(iter(state.values()))), len(x[0])
    found = []
    for first in range(0, models, at_once):
        own = {k: torch.as_tensor(v[first : first + at_once]) for k, v in state.items()}
        network = build(min(at_once, models - first)).to(device)
        network.load_state_dict(own)
        network.eval()
        parts = []
        for start in range(0, n, size):
            some = inputs([source[start : start + size] for source in x])
            some = [s.to(device).expand(min(at_once, models - first), *s.shape) for s in some]
            parts.append(network(some)["logits"].softmax(-1).float().cpu().numpy())
        found.append(np.concatenate(parts, axis=1))
    return np.concatenate(found)


@torch.no_grad()
def _latent(network, x, m, size=256):
    """Latent of all rows by one model of a stack, float32 (n, d)."""
    network.eval()
    models = len(next(network.parameters()))
    parts = []
    for start in range(0, len(x[0]), size):
        inputs = [s[start : start + size].expand(models, -1, *s.shape[1:]) for s in x]
        parts.append(network.latent(inputs)[m].float().cpu().numpy())
    return np.concatenate(parts)


def _inputs(x, rows):
    return [source[rows] for source in x]


def _padded(lists):
    """Rows (models, longest) of lists of unequal length, and mask of the entries that are real."""
    mask = np.arange(max(map(len, lists))) < np.array([[len(rows)] for rows in lists])
    rows = np.zeros(mask.shape, np.int64)
    rows[mask] = np.concatenate(lists)
    return rows, mask


def _tensors(*arrays, device):
    return [None if a is None else torch.as_tensor(a, device=device) for a in arrays]
