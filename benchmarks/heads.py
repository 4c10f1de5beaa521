"""How fast heads train: all folds and seeds side by side, against one model after another.

    python benchmarks/heads.py [--epochs 5] [--case adapter]

Prints one JSON object a line: case, engine, seconds, cpu_seconds, rate (training rows a CPU
second, over all models and epochs), peak_mib. Each engine runs in a process of its own.
"""

import argparse
import json
import multiprocessing
import resource
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from engram import splits, training
from engram.heads import adapter, cnn, linear
from engram.training import Run, Task

SEEDS = 3


def task(subjects, windows, shape, header, dtype=np.float32):
    """Rows of one scan a subject; a class shifts the mean of some features."""
    rng = np.random.default_rng(0)
    names = [(f"sub-{s:02d}", "scan-01", w) for s in range(subjects) for w in range(windows)]
    table = pd.DataFrame(names, columns=["subject", "scan", "window"])
    table["start"], table["stop"] = table["window"] * 15.0, table["window"] * 15.0 + 30
    y = (table["window"].to_numpy() // 8 + table["subject"].factorize()[0]) % 2
    x = rng.normal(size=(len(table), *shape))
    x[:, : shape[0] // 8] += 0.4 * y.reshape(-1, *[1] * len(shape))
    folds = splits.make(table, y, "leave_one_subject_out", seed=0)
    runs = [Run(seed, False, y) for seed in range(SEEDS)]
    return Task([x.astype(dtype)], ["x"], [header], y, ["a", "b"], table, folds, runs)


def features():
    return task(16, 45, (512,), {"what": "features"})


def few_features():
    return task(16, 45, (20,), {"what": "features"})


def spectrograms():
    header = {"what": "spectrogram", "modality": "eeg", "limits": [-3.0, 3.0]}
    return task(8, 90, (177, 27), header, np.float16)


def stacked(this, epochs):
    return adapter.fit(this, adapter.Options(epochs=epochs), "cpu")


def one_by_one(this, epochs):
    adapter.BYTES_AT_ONCE["cpu"] = 1
    return adapter.fit(this, adapter.Options(epochs=epochs), "cpu")


class Plain(nn.Module):
    """The adapter in ordinary layers."""

    def __init__(self, d, options):
        super().__init__()
        self.ratio = options.ratio
        half = d // options.reduction
        self.adapter = nn.Sequential(
            nn.Linear(d, half, bias=False), nn.ReLU(), nn.Linear(half, d, bias=False), nn.ReLU()
        )
        layers, width = [], d
        for hidden in options.hidden:
            layers += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.1)]
            layers += [nn.Dropout(options.dropout)]
            width = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x):
        return self.mlp(self.ratio * self.adapter(x) + (1 - self.ratio) * x)


def plain_pytorch(this, epochs):
    """A loop as a tutorial writes it: no stack, no metrics, no choice of the epoch."""
    options = adapter.Options(epochs=epochs)
    y = torch.as_tensor(this.y)
    for fold in this.folds:
        mean, sd = training.statistics(this.x[0], fold.train)
        x = torch.as_tensor((this.x[0] - mean) / sd)
        for _ in this.runs:
            model = Plain(x.shape[1], options)
            optimiser = torch.optim.AdamW(model.parameters(), lr=options.base_lr, fused=True)
            for _ in range(epochs):
                model.train()
                for rows in torch.randperm(len(fold.train)).split(options.batch_size):
                    rows = torch.as_tensor(fold.train)[rows]
                    optimiser.zero_grad()
                    F.cross_entropy(model(x[rows]), y[rows]).backward()
                    nn.utils.clip_grad_norm_(model.parameters(), options.clip_gradient)
                    optimiser.step()
                with torch.no_grad():
                    model.eval()(x[fold.validation])


def cnn_loop(this, epochs):
    return cnn.fit(this, cnn.Options(epochs=epochs), "cpu")


def convolutions(at_once):
    """Forward and backward passes alone, `at_once` models as groups of one convolution."""

    def run(this, epochs):
        options = cnn.Options()
        layers, inputs = [], at_once
        for outputs in options.channels:
            layers += [
                nn.Conv2d(inputs, outputs * at_once, 3, padding=1, groups=at_once, bias=False),
                nn.BatchNorm2d(outputs * at_once),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.ReLU(),
            ]
            inputs = outputs * at_once
        network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        x = F.avg_pool2d(torch.as_tensor(this.x[0].astype(np.float32)), options.pool)[:, None]
        train = this.folds[0].train
        for _ in range(max(1, epochs * len(this.folds) * len(this.runs) // at_once)):
            for rows in np.array_split(train, -(-len(train) // options.batch_size)):
                images = x[rows].expand(-1, at_once, -1, -1)
                images = images.contiguous(memory_format=torch.channels_last)
                network(images).square().mean().backward()

    return run


def logistic(this, epochs):
    return linear.fit(this, linear.Options(), "cpu")


ENGINES = {
    "adapter": (features, {"stack": stacked, "one by one": one_by_one, "plain": plain_pytorch}),
    "adapter, 20 features": (few_features, {"stack": stacked, "one by one": one_by_one}),
    "cnn": (
        spectrograms,
        {
            "loop": cnn_loop,
            "passes alone": convolutions(1),
            "passes alone, 8 models grouped": convolutions(8),
            "passes alone, 24 models grouped": convolutions(24),
        },
    ),
    "linear": (features, {"scikit-learn": logistic}),
}


def measure(case, engine, epochs, threads, queue):
    torch.set_num_threads(threads)
    make, engines = ENGINES[case]
    this = make()
    engines[engine](replace(this, folds=this.folds[:1]), 1)  # libraries warm up
    wall, cpu = time.perf_counter(), time.process_time()
    engines[engine](this, epochs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows = epochs * len(this.runs) * sum(len(fold.train) for fold in this.folds)
    queue.put(
        {
            "case": f"{case}, {len(this.folds)} folds x {SEEDS} seeds, {epochs} epochs",
            "engine": engine,
            "seconds": round(wall, 2),
            "cpu_seconds": round(cpu, 2),
            "rate": round(rows / cpu),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=ENGINES, action="append")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for case in given.case or ENGINES:
        for engine in ENGINES[case][1]:
            queue = context.Queue()
            arguments = (case, engine, given.epochs, given.threads, queue)
            process = context.Process(target=measure, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{case}, {engine}: failed")
            print(json.dumps(queue.get()), flush=True)


if __name__ == "__main__":
    main()
