"""Head "probe": batch norm and a linear layer on frozen features, by the published recipe.

As Brain-Semantoks is evaluated (arXiv:2512.11582): SGD with momentum 0.9 at one constant rate, of
several rates the one that is best on the validation rows. Of features (n, crop, d) each crop is a
training row, and what is predicted of a row is the mean of the outputs over its crops.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from engram import training
from engram.errors import InputError
from engram.progress import progress

DEVICE = "cpu"
TASKS = ("classes", "values")

MOMENTUM = 0.9
NORM_MOMENTUM, EPSILON = 0.1, 1e-5  # of the running statistics; beside the variance


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the head.

    Attributes:
        lr: learning rates; the one with the highest balanced accuracy, or for numbers the lowest
            absolute error, of the crops of validation rows is kept.
        epochs: passes over the training rows.
        batch_size: crops a step at most, and no more than an eighth of those to train on.
    """

    lr: list[float] = field(default_factory=lambda: [0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001])
    epochs: int = 50
    batch_size: int = 256


def fit(task, options, device) -> training.Fit:
    """Train every fold and run at all rates side by side.

    Classes are learnt by cross-entropy, numbers, standardised over the training rows, by absolute
    error. All rates see the same batches, so that they share the statistics of the batch norm.
    Where the task has `chosen`, its `lr` is the only one, and nothing validates: scores are NaN.

    Raises:
        InputError: an option is out of range, sources differ in their crops, or a fold has too few
            rows.
    """
    options = replace(options, lr=[task.chosen["lr"]]) if task.chosen else options
    _check(options)
    x = _crops(task.x, task.sources)
    k, shape = len(task.classes) or 1, (len(task.folds), len(task.runs))
    outputs = np.zeros((len(x), shape[1], k), np.float32 if task.classes else np.float64)
    found, curves = [], []
    with progress(shape[0] * shape[1], "probe all folds and runs", "fits") as bar:
        for f, fold in enumerate(task.folds):
            for r, run in enumerate(task.runs):
                goal = (_Classes if task.classes else _Numbers)(run.labels(f), fold, k)
                one = _Probe(x, fold, goal, options, training.seed(run.seed, fold.name))
                curves += [{"fold": fold.name, "run": r} | row for row in one.train()]
                outputs[fold.test, r] = one.predictions(fold.test)
                found.append(one)
                bar.update(1)
    lr = np.reshape([one.lr for one in found], shape)
    first = found[0].normal(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)
    published = options == Options()
    return training.Fit(
        outputs=outputs[task.tested],
        validation=np.reshape([one.score for one in found], shape),
        state={
            name: np.stack([one.state[name] for one in found]).reshape(*shape, *value.shape)
            for name, value in found[0].state.items()
        },
        latent=first.numpy(),
        curves=pd.DataFrame(curves),
        facts={"lr": lr.tolist()},
        flags=("published_probe",) * published,
    )


def predict(state, x, known, options, device) -> np.ndarray:
    """What probes say of rows: probabilities (models, n, classes), or numbers (models, n, 1).

    Args:
        state: as `Fit.state`, with one axis of models for folds and runs.
        x: one array (n, ...) a source.
        known: `engram.training.Task` or `engram.trained.Model`.
    """
    x, found = _crops(x, known.sources), []
    for m in range(len(state["weight"])):
        one = {name: torch.as_tensor(values[m]) for name, values in state.items()}
        normal = (x - one["mean"]) * torch.rsqrt(one["variance"] + EPSILON)
        normal = normal * one["gain"] + one["shift"]
        said = (normal @ one["weight"] + one["bias"]).mean(1)
        if known.classes:
            found.append(said.softmax(1))
        else:
            found.append(said.double() * one["target_sd"] + one["target_mean"])
    return torch.stack(found).numpy()


def _check(options):
    if not options.lr or min(options.lr) <= 0:
        raise InputError("heads: `lr` of a probe must list positive numbers")
    for name, least in (("epochs", 1), ("batch_size", 2)):
        if getattr(options, name) < least:
            raise InputError(f"heads: {name} is {getattr(options, name)}; at least {least}")


def _crops(x, sources):
    """Features of all sources side by side, float32 (n, crop, d)."""
    parts = [np.asarray(source, np.float32) for source in x]
    parts = [part[:, None] if part.ndim == 2 else part.reshape(*part.shape[:2], -1)
             for part in parts]  # fmt: skip
    if len({part.shape[1] for part in parts}) > 1:
        raise InputError(f"{' and '.join(sources)}: differ in the number of crops of a row")
    return torch.from_numpy(np.concatenate(parts, 2))


class _Probe:
    """The probes of one fold and run at all rates; after training that of the best one.

    Attributes:
        lr, score: the rate that is kept, and its score on the validation rows: balanced accuracy
            or, of numbers, the explained share; NaN without any.
        state: its parameters by name.
    """

    def __init__(self, x, fold, goal, options, seed):
        self.x, self.fold, self.goal, self.options = x, fold, goal, options
        self.generator = torch.Generator().manual_seed(seed)
        self.rates = torch.tensor(options.lr).view(-1, 1, 1)
        m, d, k = len(options.lr), x.shape[2], goal.k
        weight = nn.init.trunc_normal_(torch.empty(d, k), std=2e-5, generator=self.generator)
        start = {
            "gain": torch.ones(m, 1, d),
            "shift": torch.zeros(m, 1, d),
            "weight": weight.repeat(m, 1, 1),
            "bias": torch.zeros(m, 1, k),
        }
        self.parameters = {name: value.requires_grad_() for name, value in start.items()}
        self.speed = {name: torch.zeros_like(value) for name, value in start.items()}
        self.mean, self.variance = torch.zeros(d), torch.ones(d)

    def train(self):
        """Train, and choose the rate; what each epoch gave at the rate that is kept."""
        crops = self.x.shape[1]
        rows = np.repeat(self.fold.train, crops)
        at = torch.arange(crops).repeat(len(self.fold.train))
        size = max(min(self.options.batch_size, len(rows) // 8), 2)
        steps = max(len(rows) // size, 1)
        history = []
        for _ in range(self.options.epochs):
            order, total = torch.randperm(len(rows), generator=self.generator), 0.0
            for part in order.tensor_split(steps):
                total = total + len(part) * self._step(rows[part.numpy()], at[part])
            loss, score = self._validation()
            history.append((total / len(rows), loss, score))
        kept = int(np.argmax([self.goal.better(value) for value in history[-1][2]]))
        self._keep(kept)
        return [
            {"epoch": epoch, "lr": self.lr, "train_loss": float(total[kept]),
             "validation_loss": float(loss[kept])} | self.goal.curve(score[kept])
            for epoch, (total, loss, score) in enumerate(history)
        ]  # fmt: skip

    def _step(self, rows, crops):
        """One step at every rate; their losses (rates,)."""
        x = self.x[rows, crops]
        mean, variance = x.mean(0), x.var(0, correction=0)
        for running, new in ((self.mean, mean), (self.variance, x.var(0))):
            running.lerp_(new, NORM_MOMENTUM)
        found = self._outputs((x - mean) * torch.rsqrt(variance + EPSILON))
        losses = self.goal.losses(found, rows).mean(1)
        gradients = torch.autograd.grad(losses.sum(), [*self.parameters.values()])
        with torch.no_grad():
            for name, gradient in zip(self.parameters, gradients, strict=True):
                self.speed[name].mul_(MOMENTUM).add_(gradient)
                self.parameters[name].sub_(self.rates * self.speed[name])
        return losses.detach()

    def _outputs(self, normal):
        """(rates, rows, k) of normalised rows (rows, d)."""
        p = self.parameters
        return (normal * p["gain"] + p["shift"]) @ p["weight"] + p["bias"]

    def normal(self, x):
        """Features (n, d) by the running statistics of the batch norm."""
        return (x - self.mean) * torch.rsqrt(self.variance + EPSILON)

    @torch.no_grad()
    def _validation(self):
        """Loss and score of the crops of validation rows, at every rate."""
        rows = self.fold.validation
        if not len(rows):
            none = torch.full((len(self.rates),), torch.nan)
            return none, none.tolist()
        found = self._outputs(self.normal(self.x[rows].flatten(0, 1)))
        each = np.repeat(rows, self.x.shape[1])
        return self.goal.losses(found, each).mean(1), self.goal.scores(found, each)

    def _keep(self, kept):
        self.parameters = {
            name: value.detach()[kept : kept + 1] for name, value in self.parameters.items()
        }
        self.lr = self.options.lr[kept]
        self.state = {name: value[0].numpy() for name, value in self.parameters.items()}
        self.state |= {"mean": self.mean.numpy(), "variance": self.variance.numpy()}
        self.state |= self.goal.scale
        rows = self.fold.validation
        scored = self.goal.validation
        self.score = scored(self._averaged(rows), rows) if len(rows) else np.nan

    def _averaged(self, rows):
        """Outputs (rows, k), the mean over crops."""
        found = self._outputs(self.normal(self.x[rows].flatten(0, 1)))[0]
        return found.unflatten(0, (-1, self.x.shape[1])).mean(1)

    def predictions(self, rows):
        return self.goal.predictions(self._averaged(rows))


class _Classes:
    def __init__(self, y, fold, k):
        self.y, self.k, self.scale = y, k, {}

    def losses(self, found, rows):
        """Cross-entropy (rates, rows)."""
        y = torch.as_tensor(self.y[rows]).expand(len(found), -1)
        return functional.cross_entropy(found.transpose(1, 2), y, reduction="none")

    def scores(self, found, rows):
        return [self._accuracy(one, rows) for one in found]

    def better(self, score):
        return score

    def curve(self, score):
        return {"validation_mAR": score}

    def validation(self, found, rows):
        return self._accuracy(found, rows)

    def _accuracy(self, found, rows):
        counts = training.confusion(self.y[rows], found.argmax(1).numpy(), self.k)
        return float(training.balanced_accuracy(counts))

    def predictions(self, found):
        return found.softmax(1).numpy()


class _Numbers:
    def __init__(self, y, fold, k):
        self.y, self.k = y, k
        self.mean, self.sd = y[fold.train].mean(), y[fold.train].std() or 1.0
        self.scale = {"target_mean": np.float64(self.mean), "target_sd": np.float64(self.sd)}
        self.standard = torch.as_tensor((y - self.mean) / self.sd, dtype=torch.float32)

    def losses(self, found, rows):
        """Absolute error of standardised numbers (rates, rows)."""
        return (found[..., 0] - self.standard[torch.as_tensor(rows)]).abs()

    def scores(self, found, rows):
        return [float(error) * self.sd for error in self.losses(found, rows).mean(1)]

    def better(self, score):
        return -score

    def curve(self, score):
        return {"validation_mae": score}

    def validation(self, found, rows):
        predicted = self.predictions(found)[:, 0]
        weights = np.ones(len(rows))
        return training.explained(self.y[rows], predicted, self.mean, weights)

    def predictions(self, found):
        return found.double().numpy() * self.sd + self.mean
