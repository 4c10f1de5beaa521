"""Objectives: how a backbone learns its weights from series without labels; stage `pretrain`.

A component names the kind of backbone that it pretrains, `BACKBONE = "semantoks"`, its `Options`
extend those below, and `build(model, options, view, steps, device)` returns an `Objective`:

- `model`: `Options` of the backbone, whose `seed` draws the weights that it begins with;
- `options`: `Options` of the objective;
- `view`: header of the view store;
- `steps`: number of optimiser steps in all;
- `device`: "cpu", "cuda" or "cuda:1".

The loop asks `batch` for a batch of subjects, one scan of each, gives `loss` the tensors on the
device, steps the optimiser and calls `update`. What an objective draws at random depends on the
step alone, never on how far a training was when it was killed or on how many processes share it.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import nn

from engram import disk, store
from engram.errors import InputError
from engram.objectives._process import Pretraining, is_finished, parts
from engram.training import ranks

JOB = "job.json"  # in the folder that a pretraining keeps until it is finished


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every objective.

    Attributes:
        epochs: passes over the subjects.
        batch_size: subjects a step, those of all processes and parts together.
        lr: learning rate at its peak; it is warmed up in a line and falls by half a cosine.
        start_lr, final_lr: learning rate where the line begins and where the cosine ends.
        warmup_epochs: epochs that warm up.
        weight_decay, final_weight_decay: of AdamW, in the first and in the last step, along half a
            cosine.
        clip_gradient: largest L2 norm of a step's gradient; 0 = no clipping.
        accumulate: parts of a batch that go through the network one by one, for less memory.
        precision: of the products; `auto` is bf16 where the hardware multiplies it natively.
            Parameters and the optimiser are fp32.
        checkpointing: compute activations again in the backward pass, for less memory.
        seed: of order, crops, augmentation and masks.
        memory_gb: scans are kept in memory if they fit into so much, else read for every batch.
        checkpoint_steps: steps after which it is saved how far training is, beside each epoch.
        collapse: share of the untrained network's spread or effective rank below which features
            have collapsed and training stops; 0 = never.
    """

    epochs: int = 100
    batch_size: int = 512
    lr: float = 1e-3
    start_lr: float = 0.0
    final_lr: float = 0.0
    warmup_epochs: float = 3.0
    weight_decay: float = 0.05
    final_weight_decay: float = 0.3
    clip_gradient: float = 1.0
    accumulate: int = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpointing: bool = False
    seed: int = 0
    memory_gb: float = 8.0
    checkpoint_steps: int = 500
    collapse: float = 0.3


class Objective(Protocol):
    """What `build` returns.

    Attributes:
        network: module with every parameter and buffer that training changes: student, teacher,
            projectors. A checkpoint holds its state and nothing else of the objective.
        first_step: number of the first step in the schedules of rate and decay: 1 if it has no
            such attribute, which ends at the final values; with 0 they begin at the first values.
    """

    network: nn.Module

    def prepare(self, subjects):
        """Learn before the first step what needs all subjects; there may be no such method.

        Args:
            subjects: iterable of the scans of each subject, iterables of float32 (roi, time).
        """

    def batch(self, scans, generator) -> dict[str, torch.Tensor]:
        """Crops, augmentation and masks of a batch, drawn with `generator` alone.

        It is called in another thread, a step ahead, and for the whole batch of all processes and
        parts, which then share out its rows.

        Args:
            scans: float32 arrays (roi, time), one a subject; times may differ.
            generator: torch.Generator on the CPU.

        Returns:
            Tensors on the CPU whose first axis is that of the subjects; what holds for the whole
            batch stands in every row.

        Raises:
            InputError: a scan is too short.
        """

    def loss(self, batch, step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean loss of some rows of a batch, and further means to record by name.

        A loss in which rows meet gathers them by `engram.training.ranks.gather` from all
        processes. It may run under autocast: what needs fp32 says so itself.

        Args:
            batch: rows of what `batch` gave, on the device.
            step: from 0 over all epochs.
        """

    def update(self, step):
        """Called after the optimiser's step, e.g. for the teacher to follow."""

    def features(self, batch) -> torch.Tensor:
        """Features (b, d) of the teacher, without gradient, by which collapse is noticed."""

    def weights(self) -> dict[str, torch.Tensor]:
        """What the backbone loads: the teacher's encoder, by the names that it has there."""

    def groups(self) -> list[dict]:
        """Groups of parameters that train: {"params", "name", "decay": whether they decay}."""


def pretrain(views, weights, kept, spec, made_by, device):
    """Stage `pretrain`: train a backbone on the scans of a view, without labels.

    The file has the tensors that the backbone loads and, in its metadata under `engram`, what they
    have seen: subjects by dataset, facts of the view, options, curves. Beside it lies a folder with
    events for TensorBoard, written after every epoch. A pretraining that was killed goes on from
    `weights.parts` and, on the CPU, ends with the same weights; one with another configuration is
    refused there. A second process waits, and takes what the first has made. Several processes of
    one job give the weights of one, but for rounding.

    Args:
        views: {dataset: [path, ...]} of the view stores.
        weights: path of the safetensors file to write.
        kept: a path for the weights after each number of epochs that `keep` of the spec lists.
        spec: dict with `backbone` and `objective` (kind and options), `takes` of the backbone if
            there is one, `subjects` ("subject" or "dataset/subject", or None for all), `keep`,
            `processes` on this machine, and `launch`, a command that starts them elsewhere too.
        made_by: provenance of the job, for the metadata.
        device: "cpu" or "cuda".

    Raises:
        InputError: the views do not suit each other or the backbone, training diverged, features
            collapsed, a process failed, or what is there is of another configuration.
    """
    job = {"views": views, "weights": str(weights), "kept": [str(path) for path in kept],
           "spec": spec, "made_by": made_by, "device": device}  # fmt: skip
    with disk.held(weights) as lock:
        if is_finished(job):
            return
        if spec["processes"] == 1 and not spec["launch"]:
            run(job)
        else:
            _launch(job, lock)


def _launch(job, lock):
    """Start the processes of a job, which call `run` and hold the lock if this one is killed."""
    spec = job["spec"]
    path = parts(job) / JOB
    with store.replaced(path) as temporary:
        temporary.write_text(json.dumps(job))
    torchrun = f"{shlex.quote(sys.executable)} -m torch.distributed.run --standalone"
    launch = spec["launch"] or f"{torchrun} --nproc-per-node {spec['processes']}"
    command = [*shlex.split(launch), "-m", "engram.objectives", str(path)]
    print("pretraining:", shlex.join(command), flush=True)
    package = str(Path(__file__).parents[2])
    threads = max(1, torch.get_num_threads() // spec["processes"])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(threads),
    }
    done = subprocess.run(command, env=environment, check=False, pass_fds=[lock])
    if done.returncode:
        raise InputError("pretraining: a process failed; what it said stands above in the log")


def run(job):
    """The work of one process of stage `pretrain`, see there; `job` has its arguments by name."""
    with ranks.joined(job["device"]) as device:
        gpus = [torch.cuda.current_device()] if device.startswith("cuda") else []
        with torch.random.fork_rng(gpus):
            Pretraining(job, device).run()
