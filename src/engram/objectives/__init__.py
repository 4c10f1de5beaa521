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
import resource
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from engram import store
from engram.errors import InputError
from engram.figures.tensorboard import write_events
from engram.objectives._cohort import Cohort
from engram.planning import components
from engram.precision import multiplies_bf16
from engram.training import collapse, loop, ranks
from engram.training.checkpoint import Checkpoint
from engram.training.schedules import cosine, warm_cosine

#: Subjects whose features say whether these have collapsed, and on whom a step is timed.
WATCHED, TIMED = 64, 8

#: Names of files in the folder that a pretraining keeps until it is finished.
CHECKPOINT, JOB = "checkpoint.safetensors", "job.json"

#: Options that weights do not depend on: a pretraining goes on with others.
CHANGE_NOTHING = ("memory_gb", "checkpoint_steps", "collapse")

EVENTS = "events.out.tfevents.0.engram"


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
    refused there. Several processes give the weights of one, but for rounding.

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
    if spec["processes"] == 1 and not spec["launch"]:
        run(job)
    else:
        _launch(job)


def _launch(job):
    """Start the processes of a job, each of which calls `run`."""
    spec = job["spec"]
    path = _parts(job) / JOB
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
    if subprocess.run(command, env=environment, check=False).returncode:
        raise InputError("pretraining: a process failed; what it said stands above in the log")


def run(job):
    """The work of one process of stage `pretrain`, see there; `job` has its arguments by name."""
    with ranks.joined(job["device"]) as device:
        gpus = [torch.cuda.current_device()] if device.startswith("cuda") else []
        with torch.random.fork_rng(gpus):
            _Pretraining(job, device).run()


def _parts(job):
    return Path(job["weights"]).with_suffix(".parts")


class _Pretraining:
    """One process of a pretraining."""

    def __init__(self, job, device):
        self.job, self.spec, self.device = job, job["spec"], device
        module, self.options = components.options("objectives", self.spec["objective"])
        _check(self.options)
        _, model = components.options("backbones", self.spec["backbone"])
        self.cohort = Cohort(job["views"], self.spec, self.options.memory_gb)
        self.steps = -(-len(self.cohort) // self.options.batch_size)  # of an epoch
        total = self.steps * self.options.epochs
        torch.manual_seed(self.options.seed)
        self.objective = module.build(model, self.options, self.cohort.view, total, device)
        if hasattr(self.objective, "prepare"):
            self.objective.prepare(self.cohort.subjects())
        self.bf16 = self.options.precision == "bf16" or (
            self.options.precision == "auto" and multiplies_bf16(device.partition(":")[0])
        )
        self.name = f"pretraining {Path(job['weights']).stem}"

    def run(self):
        learner, path = self._learner(), _parts(self.job) / CHECKPOINT
        self._estimate(learner)
        self.untrained = self._judge(None)
        checkpoint = Checkpoint(path, self.options.checkpoint_steps, self._training())
        settings = loop.Settings(
            self.options.epochs,
            self.options.batch_size,
            accumulate=self.options.accumulate,
            clip_gradient=self.options.clip_gradient,
            watched=True,
        )
        torch.manual_seed(self.options.seed)
        trained = loop.fit(
            learner, self._judge, settings, len(self.cohort), self.name, checkpoint, told=self._told
        )
        if ranks.rank() == 0:
            self._finish(trained.curves)

    def _training(self):
        """What a checkpoint must be of."""
        objective = self.spec["objective"]
        return {
            "backbone": self.spec["backbone"],
            "objective": {key: objective[key] for key in objective if key not in CHANGE_NOTHING},
            "datasets": self.cohort.datasets,
            "view": store.stated(self.cohort.view) | {"converted": self.cohort.converted},
        }

    def _learner(self):
        o, groups = self.options, self.objective.groups()
        first, total = getattr(self.objective, "first_step", 1), self.steps * self.options.epochs
        warmup = o.warmup_epochs * self.steps

        def rates(step):
            rate = warm_cosine(step + first, total, warmup, o.start_lr, o.lr, o.final_lr)
            return [rate] * len(groups)

        def decays(step):
            decay = cosine(step + first, total, o.weight_decay, o.final_weight_decay)
            return [decay if group["decay"] else 0.0 for group in groups]

        optimiser = torch.optim.AdamW(groups, lr=0.0, fused=True)
        return loop.Learner(
            self.objective.network,
            self._loss,
            optimiser,
            rates,
            decays=decays,
            draw=self._draw,
            after=self.objective.update,
            names=self.cohort.names,
        )

    def _draw(self, at, step):
        """A batch, drawn by what depends on the step alone; negative ones are not trained on."""
        words = np.random.SeedSequence([self.options.seed, step + 2**32]).generate_state(2)
        generator = torch.Generator().manual_seed(int(words[0]) << 30 | int(words[1]) >> 2)
        scans = self.cohort.draw(at, generator)
        try:
            return self.objective.batch(scans, generator)
        except InputError as error:
            i = int(np.argmin([scan.shape[1] for scan in scans]))
            raise InputError(
                f"{self.cohort.names[at[i]]}, the shortest scan of its batch with "
                f"{scans[i].shape[1]} frames: {error}"
            ) from None

    def _loss(self, batch, step):
        kind = self.device.partition(":")[0]
        with torch.autocast(kind, torch.bfloat16) if self.bf16 else nullcontext():
            return self.objective.loss(batch, step)

    # ---- before the first step --------------------------------------------------------------

    def _estimate(self, learner):
        """Say what it will cost, by the second of two steps that change nothing."""
        network, o = self.objective.network, self.options
        before = {name: value.clone() for name, value in network.state_dict().items()}
        at = torch.arange(min(TIMED, len(self.cohort)))
        for trial in (-3, -2):
            start = time.perf_counter()
            batch = self._draw(at, trial)
            drawn = time.perf_counter() - start
            loss, _ = self._loss({k: v.to(self.device) for k, v in batch.items()}, 0)
            loss.backward()
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        learner.optimiser.zero_grad()
        network.load_state_dict(before)
        rows, total = len(self.cohort) * o.epochs, self.steps * o.epochs
        hours = seconds / len(at) * rows / ranks.size() / 3600
        if ranks.rank() == 0:
            trained = sum(p.numel() for group in learner.optimiser.param_groups
                          for p in group["params"])  # fmt: skip
            print(
                f"{self.name}: {len(self.cohort)} subjects, {total} steps of at most "
                f"{o.batch_size}; {trained} parameters, {'bf16' if self.bf16 else 'fp32'}, "
                f"processes: {ranks.size()}; {seconds / len(at):.3g} s a subject, of which reading "
                f"and drawing {drawn / seconds:.1%}, in all about {_hours(hours)}; "
                f"{_peak(self.device)} with {len(at)} subjects at once",
                flush=True,
            )

    # ---- after every epoch ------------------------------------------------------------------

    def _judge(self, network):
        """How far features tell subjects apart; no `score`, for the last epoch is what is kept."""
        n = min(WATCHED, len(self.cohort))
        at = torch.from_numpy(np.linspace(0, len(self.cohort) - 1, n).round().astype(np.int64))
        batch, parts = self._draw(at, -1), []
        with torch.no_grad():
            for rows in torch.arange(n).split(self._at_once()):
                part = {name: values[rows].to(self.device) for name, values in batch.items()}
                parts.append(self.objective.features(part).float().cpu())
        features = torch.cat(parts)
        return {"spread": collapse.spread(features), "rank": collapse.effective_rank(features)}

    def _at_once(self):
        return max(1, self.options.batch_size // ranks.size() // self.options.accumulate)

    def _told(self, curves):
        """Keep the weights of this epoch if that is asked for, draw curves, look for collapse."""
        epochs = len(curves)
        if ranks.rank() == 0:
            if epochs in self.spec["keep"]:
                self._write(self._kept(epochs), curves)
            self._draw_curves(curves)
        self._refuse_collapse(curves[-1])

    def _draw_curves(self, curves):
        scalars = [
            (f"Pretraining/{name}", row["epoch"] + 1, float(row[name]))
            for row in curves
            for name in row
            if name != "epoch"
        ]
        table = {"objective": self.spec["objective"], "backbone": self.spec["backbone"]}
        events = Path(self.job["weights"]).with_suffix("") / EVENTS
        write_events(events, scalars, tables=[("Hyperparameters", table)])
        row = curves[-1]
        said = ", ".join(f"{name} {row[name]:.4g}" for name in row if name != "epoch")
        print(f"{self.name}: epoch {row['epoch'] + 1}: {said}", flush=True)

    def _refuse_collapse(self, row):
        fallen = [
            f"{what} {row[key]:.3g} instead of {self.untrained[key]:.3g}"
            for key, what in (("spread", "spread"), ("rank", "effective rank"))
            if row[key] < self.options.collapse * self.untrained[key]
        ]
        if fallen:
            saved = Checkpoint(_parts(self.job) / CHECKPOINT).saved(self.steps)
            raise InputError(
                f"{self.name}: the features have collapsed in epoch {row['epoch'] + 1}, where the "
                f"loss is {row['loss']:.3g}: over subjects they have {' and '.join(fallen)} in the "
                f"untrained network; {saved}; lower `lr`, let the teacher follow more slowly, or "
                "set `collapse: 0` to go on all the same"
            )

    # ---- what is written --------------------------------------------------------------------

    def _kept(self, epochs):
        return _parts(self.job) / f"epoch-{epochs}.safetensors"

    def _write(self, path, curves):
        facts = {
            "what": "weights",
            "epochs": len(curves),
            "steps": len(curves) * self.steps,
            **self._training(),
            "precision": "bf16" if self.bf16 else "fp32",
            "processes": ranks.size(),
            "curves": {name: [row[name] for row in curves] for name in curves[0]},
            "made_by": self.job["made_by"],
        }
        tensors = self.objective.weights()
        tensors = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        with store.replaced(path) as temporary:
            save_file(tensors, temporary, {"engram": store.canonical(facts)})

    def _finish(self, curves):
        for epochs, path in zip(self.spec["keep"], self.job["kept"], strict=True):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._kept(epochs), path)
        self._write(self.job["weights"], curves)
        shutil.rmtree(_parts(self.job))


def _check(options):
    least = {"epochs": 1, "batch_size": 2, "accumulate": 1, "lr": 0, "start_lr": 0, "final_lr": 0,
             "warmup_epochs": 0, "weight_decay": 0, "final_weight_decay": 0, "clip_gradient": 0,
             "memory_gb": 0, "checkpoint_steps": 0, "collapse": 0}  # fmt: skip
    for name, value in least.items():
        if getattr(options, name) < value:
            raise InputError(
                f"pretrain: {name} is {getattr(options, name)}; it must be at least {value}"
            )
    if options.warmup_epochs >= options.epochs:
        raise InputError(
            f"pretrain: warmup_epochs is {options.warmup_epochs:g} of {options.epochs} epochs; it "
            "must be less"
        )


def _hours(hours):
    for unit, size in (("days", 24), ("h", 1)):
        if hours >= 2 * size:
            return f"{hours / size:.3g} {unit}"
    return f"{hours * 60:.2g} min"


def _peak(device):
    if device.startswith("cuda"):
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2g} GiB of the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2g} GiB of memory"
