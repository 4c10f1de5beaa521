"""Head "sequential_mlp": a small network from responses to vectors, trained block by block.

What a reproduction of Ozcelik & VanRullen (2023, arXiv:2303.05334) did instead of ridge regression,
whose coefficients did not fit its memory: one hidden layer, and training images in consecutive
blocks, each trained on for some epochs and then never again. It is here to show what that costs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from engram import scratch, training
from engram.errors import InputError
from engram.progress import progress
from engram.training import ridge

DEVICE = "cpu"
TASKS = ("vectors",)

SUMS = 256 << 20  # bytes of predictions at a time
LAYERS = ("0.weight", "0.bias", "2.weight", "2.bias")


@dataclass(frozen=True)
class Options:
    """Options of the head.

    Attributes:
        hidden: units, rectified.
        block: training images that are read and trained on at a time.
        epochs: of each block; nothing is chosen on validation rows, which train too.
        batch_size: images a step.
        lr: of Adam.
        rescale: of the latents alone. `training`: by mean and standard deviation of what is
            predicted of the training images, which the model has seen; `none`: as predicted.
    """

    hidden: int = 64
    block: int = 1000
    epochs: int = 10
    batch_size: int = 32
    lr: float = 0.001
    rescale: Literal["training", "none"] = "training"


def fit(task, options, device) -> training.Fit:
    """One network a subject and run on standardised features and targets, by their squared error.

    Of a run the score is R2 of the training rows: there are no others.

    Raises:
        InputError: there is more than one source, an option is out of range, or the disk is too
            small for what will be written.
    """
    if len(task.x) > 1:
        raise InputError(f"head: sequential_mlp takes one source, not {', '.join(task.sources)}")
    for name in ("hidden", "block", "epochs", "batch_size"):
        if getattr(options, name) < 1:
            raise InputError(f"heads: {name} is {getattr(options, name)}; it must be at least 1")
    width = max(task.targets[0].widths)
    shape = (len(task.tested), len(task.runs), width)
    scratch.check_room(4 * shape[0] * (shape[1] + 1) * width)
    outputs = scratch.empty(shape, np.float32, SUMS)
    latent = scratch.empty((shape[0], width), np.float32, SUMS)
    scores, state = np.zeros((len(task.folds), len(task.runs))), {}
    with progress(len(task.folds) * len(task.runs), "fit every subject and run", "fits") as bar:
        for f, fold in enumerate(task.folds):
            at = np.searchsorted(task.tested, fold.test)
            x, new, scale = _standard(task.x[0].of(fold.known), task.x[0].of(fold.test))
            state |= {f"{fold.name}/{name}": value for name, value in scale.items()}
            for r, run in enumerate(task.runs):
                y = task.targets[0].of(run.y[fold.known])
                moments = ridge.moments(y, np.arange(len(x)))
                model = _trained(x, y, moments, training.seed(run.seed, fold.name), options)
                scores[f, r] = _explained(model, x, y, moments)
                for columns, told, known in _predicted(model, x, new, moments):
                    outputs[at, r, columns] = told
                    if r == 0:
                        latent[at, columns] = _rescaled(told, known, columns, moments, options)
                outputs[at, r, len(moments[0]) :] = latent[at, len(moments[0]) :] = 0
                state |= {f"{fold.name}/{r}/{k}": v.numpy() for k, v in model.state_dict().items()}
                names = (f"{fold.name}/{r}/target_{name}" for name in ("mean", "sd"))
                state |= dict(zip(names, moments, strict=True))
                scratch.forget(outputs)
                bar.update(1)
    return training.Fit(
        outputs=outputs,
        validation=scores,
        state=state,
        latent=latent,
        flags=("block_by_block",),
    )


def width_of_rows(state) -> int:
    """Numbers of a row of x, from the parameters of one subject."""
    return len(state["mean"])


def vectors(state, x, known, options):
    """Predictions of rows as they are scored: (slice, (n, numbers)), block by block.

    Args:
        state: parameters of one subject by name.
        x: float32 (n, features).
        known: `engram.trained.Model`; the mean over its seeds is predicted.
    """
    x = torch.from_numpy((x - state["mean"]) / state["sd"])
    runs = range(len(known.facts["kept"]["seeds"]))
    one = [{k: torch.from_numpy(state[f"{r}/{k}"]) for k in LAYERS} for r in runs]
    hidden = [torch.relu(nn.functional.linear(x, s["0.weight"], s["0.bias"])) for s in one]
    moments = [[state[f"{r}/target_{name}"] for name in ("mean", "sd")] for r in runs]
    for columns in ridge.spans(len(one[0]["2.bias"]), max(SUMS // (4 * max(len(x), 1)), 1)):
        told = 0.0
        for s, h, (mean, sd) in zip(one, hidden, moments, strict=True):
            z = nn.functional.linear(h, s["2.weight"][columns], s["2.bias"][columns]).numpy()
            mean, scale = _scales((mean[columns], sd[columns]))
            told = told + (z * scale + mean) / len(runs)
        yield columns, told


def _standard(known, test):
    """Features of training and of test rows in standard deviations of the training rows; these."""
    x, new = (ridge.read(rows, np.arange(rows.shape[0]), np.float32) for rows in (known, test))
    mean, sd = training.statistics(x, slice(None))
    standard = torch.from_numpy((x - mean) / sd), torch.from_numpy((new - mean) / sd)
    return *standard, {"mean": mean, "sd": sd}


def _trained(x, y, moments, seed, options):
    """A network that has seen block after block of the rows, targets in standard deviations."""
    mean, scale = (one.astype(np.float32) for one in _scales(moments))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(x.shape[1], options.hidden), nn.ReLU(), nn.Linear(options.hidden, len(mean))
        )
        for layer in (model[0], model[2]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        adam = torch.optim.Adam(model.parameters(), options.lr)
        for rows in ridge.spans(len(x), options.block):
            own = ridge.read(y, np.arange(rows.start, rows.stop), np.float32)
            own -= mean
            own /= scale
            own, seen = torch.from_numpy(own), x[rows]
            for _ in range(options.epochs):
                for batch in torch.randperm(len(own)).split(options.batch_size):
                    adam.zero_grad()
                    nn.functional.mse_loss(model(seen[batch]), own[batch]).backward()
                    adam.step()
    return model.requires_grad_(False)


def _scales(moments):
    """Mean and standard deviation of each target, 1 where it does not change."""
    mean, sd = moments
    return mean, np.where(sd > 0, sd, 1)


def _predicted(model, x, new, moments):
    """(columns, predictions of the rows `new`, those of x), block of targets by block."""
    known, told = (model[1](model[0](rows)) for rows in (x, new))
    mean, scale = _scales(moments)
    for columns in ridge.spans(len(mean), max(SUMS // (4 * len(known)), 1)):
        both = [
            nn.functional.linear(rows, model[2].weight[columns], model[2].bias[columns]).numpy()
            for rows in (told, known)
        ]
        yield columns, *(one * scale[columns] + mean[columns] for one in both)


def _rescaled(told, known, columns, moments, options):
    """Predictions with mean and spread of the targets, which those of known rows get."""
    if options.rescale == "none":
        return told
    mean, sd = (one[columns] for one in moments)
    spread = known.std(0)
    return (told - known.mean(0)) / np.where(spread > 0, spread, 1) * sd + mean


def _explained(model, x, y, moments):
    """R2 of the rows that were trained on, the mean over the targets that change."""
    left, (mean, sd) = [], moments
    for columns, told, _ in _predicted(model, x, x, moments):
        own = ridge.read(y, np.arange(len(x)), np.float32, columns)
        left.append(((own - told) ** 2).mean(0, dtype=float))
    r2 = 1 - np.divide(np.concatenate(left), sd**2, out=np.full(len(mean), np.nan), where=sd > 0)
    return float(np.nanmean(r2)) if (sd > 0).any() else 0.0
