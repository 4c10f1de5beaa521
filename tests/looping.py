"""A small regression for the training loop, and a process that is one rank of its training."""

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from engram import contrastive
from engram.errors import InputError
from engram.training import ranks
from engram.training.checkpoint import Checkpoint
from engram.training.ema import EMA
from engram.training.loop import Learner, Settings, fit

N, WIDTH = 50, 5
SETTINGS = Settings(epochs=3, batch_size=16)


def rows(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, WIDTH, generator=generator, dtype=dtype)
    return x, x @ torch.randn(WIDTH, 2, generator=generator, dtype=dtype).sin()


def network(dropout=0.0, dtype=torch.float64):
    torch.manual_seed(0)
    layers = nn.Linear(WIDTH, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)
    return nn.Sequential(*layers).to(dtype)


def groups(net):
    return [
        {"params": net[0].parameters(), "name": "first", "weight_decay": 0.1},
        {"params": net[3].parameters(), "name": "last"},
    ]


def rates(step):
    return [0.02 / (1 + step), 0.01 + 0.001 * step]


def learner(net, loss=None, optimiser=torch.optim.AdamW, decay=None):
    x, y = rows(next(net.parameters()).dtype)
    loss = loss or (lambda at: (net(x[at]) - y[at]).square().mean())
    ema = None if decay is None else EMA(net, decay)
    return Learner(net, loss, optimiser(groups(net), lr=0.0), rates, ema)


def validate(net):
    x, y = rows(next(net.parameters()).dtype)
    return {"score": -float((net(x) - y).square().mean())}


class Stop(Exception):
    """In place of a kill."""


def stop_before(net, number):
    """Stop before the forward pass `number` of training, from 0."""
    seen = [0]

    def hook(module, _):
        seen[0] += module.training
        if module.training and seen[0] == number + 1:
            raise Stop

    net.register_forward_pre_hook(hook)


def train(checkpoint=None, stop=None):
    """Train on all ranks, of which rank 0 decides; tensors by name, and what each epoch gave."""
    net = network()
    with torch.no_grad():
        net[0].weight += ranks.rank()
    x, y = rows()

    def loss(at):
        return (net(x[at]) - y[at]).square().mean(), {"drawn": torch.rand(())}

    if stop is not None:
        stop_before(net, stop)

    def judge(net):
        return {"score": validate(net)["score"] + ranks.rank()}

    trained = fit(learner(net, loss, decay=0.9), judge, SETTINGS, N, "t", checkpoint)
    curves = [[row[key] for key in ("loss", "drawn", "score")] for row in trained.curves]
    return trained.state | {"curves": torch.tensor(curves, dtype=torch.float64)}


def coupled(settings=SETTINGS):
    """Train on a loss in which all rows of a batch meet; tensors by name, losses of the epochs."""
    net = network()
    x, y = rows()

    def draw(at, step):
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(len(at), WIDTH, generator=generator, dtype=x.dtype)
        return {"x": x[at] + 0.1 * noise, "y": y[at]}

    def loss(batch, step):
        found = net(batch["x"])
        every = ranks.gather(found)
        rate = torch.logdet(torch.eye(2, dtype=x.dtype) + every.T @ every / len(every))
        return (found - batch["y"]).square().mean() - rate, {"rate": rate}

    made = replace(learner(net, loss), draw=draw)
    trained = fit(made, lambda net: {}, settings, N)
    curves = [[row["loss"], row["rate"]] for row in trained.curves]
    return trained.state | {"curves": torch.tensor(curves, dtype=torch.float64)}


def gradients():
    """Sums over ranks of gradients that all have, that rank 1 has, and that none has."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), 1.0 + ranks.rank())
    if ranks.rank() == 1:
        parameters[1].grad = torch.full((2,), 5.0)
    ranks.add_gradients(parameters)
    return {f"gradient {i}": p.grad for i, p in enumerate(parameters) if p.grad is not None}


def main(folder):
    """One of the ranks that the environment names; writes what it trained."""
    folder = Path(folder)
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", every=1)
    with ranks.joined("cpu"):
        through = train()
        with suppress(Stop):
            train(checkpoint, stop=6)
        resumed = train(checkpoint)
        through |= gradients()
        save_file(coupled(), folder / f"coupled{ranks.rank()}of{ranks.size()}")
        save_file(through, folder / f"through{ranks.rank()}of{ranks.size()}")
        save_file(resumed, folder / f"resumed{ranks.rank()}of{ranks.size()}")
        try:
            pairs = contrastive.Rows(np.arange(4), np.arange(2), np.arange(2, 4))
            eeg, images = np.zeros((4, 2, 90)), np.zeros((4, 3))
            contrastive.fit(eeg, images, pairs, contrastive.Options(), [0], "cpu")
        except InputError as error:
            print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
