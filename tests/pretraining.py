"""A tiny backbone and its objective, cohorts to pretrain on, and a process that does so."""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch import nn

from engram import objectives, store
from engram.errors import InputError
from engram.frozen import backbone
from engram.planning import components
from engram.readers import atlases
from engram.store import Rows
from engram.training import ranks
from engram.training.ema import EMA
from engram.training.schedules import cosine

REGIONS = 6

#: Regions of three networks, for backbones that are not tiny alone.
PARCELS = [
    *(atlases.named(["schaefer400_7n"])[i] for i in (0, 1, 2, 3, 31, 32, 33, 34)),
    *atlases.named(["buckner7"])[:4],
]

#: Small real backbones and their objectives, whose teachers follow so fast that each step counts.
REAL = {
    "semantoks": (
        {"width": 8, "depth": 1, "heads": 2, "frames": 40, "patch": 10},
        {"kind": "self_distillation", "projector_width": 8, "projector_dim": 4, "masking": 0.5,
         "momentum": 0.5},
    ),
    "brain_jepa": (
        {"width": 8, "depth": 1, "heads": 2, "windows": 3, "components": 3},
        {"kind": "jepa", "predictor_depth": 1, "predictor_width": 8, "masks_batch": 2,
         "ema": [0.5, 1.0], "accumulate": 1},
    ),
}  # fmt: skip

stops = []  # steps before which training stops, once
drawn = []  # seeds of the batches that were drawn


class Stop(Exception):
    """In place of a kill."""


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(backbone.Options):
    width: int = 8


def encoder(options, regions):
    """Series (b, roi, time) to features (b, width)."""
    torch.manual_seed(options.seed)
    made = nn.Sequential(
        nn.Conv1d(regions, options.width, 3), nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )
    made.idle, made.shift = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))
    return made


@dataclass(frozen=True, kw_only=True)
class Options(objectives.Options):
    epochs: int = 4
    batch_size: int = 8
    warmup_epochs: float = 1.0
    lr: float = 1e-2
    precision: str = "fp32"
    crop: int = 20
    dropout: float = 0.2
    flat: bool = False
    not_finite: int = -1


def build(model, options, view, steps, device):
    return Tiny(model, options, view, steps, device)


class Tiny:
    """Two crops of a scan look alike, and subjects differ: cosine and coding rate."""

    def __init__(self, model, options, view, steps, device):
        self.options = options
        student = encoder(model, len(view["channels"]))
        teacher = EMA(student, lambda step: cosine(step, steps, 0.9, 1.0))
        self.follower = teacher
        self.student = nn.Sequential(student, nn.Dropout(options.dropout))
        modules = {"student": student, "teacher": teacher.network}
        self.network = nn.ModuleDict(modules).to(device)

    def batch(self, scans, generator):
        drawn.append(generator.initial_seed())
        return {
            name: torch.stack([self._crop(scan, generator) for scan in scans])
            for name in ("one", "two")
        }

    def _crop(self, scan, generator):
        last = scan.shape[1] - self.options.crop
        if last < 0:
            raise InputError(f"a crop has {self.options.crop} frames")
        start = int(torch.randint(last + 1, (), generator=generator))
        crop = torch.from_numpy(scan[:, start : start + self.options.crop])
        return crop + 0.1 * torch.randn(crop.shape, generator=generator)

    def loss(self, batch, step):
        if step == int(os.environ.get("KILLED_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == int(os.environ.get("HELD_AT", -1)):
            print("holds", flush=True)
            sys.stdin.readline()
        if step in stops:
            stops.remove(step)
            raise Stop
        z = nn.functional.normalize(self.student(batch["one"]), dim=1)
        t = nn.functional.normalize(self.network["teacher"](batch["two"]), dim=1)
        alike = (z * t).sum(1).mean()
        every = ranks.gather(z)
        rate = torch.logdet(torch.eye(z.shape[1]) + 10 * every.T @ every / len(every))
        loss = -alike if self.options.flat else -alike - 0.1 * rate
        idle = self.network["student"]
        loss = loss + 0 * (idle.idle.sum() + idle.shift.sum())  # which only decay
        return loss * (torch.nan if step == self.options.not_finite else 1), {"alike": alike}

    def update(self, step):
        self.follower.update(step)
        if self.options.flat:
            with torch.no_grad():
                self.network["teacher"][0].weight.mul_(0.3)

    def features(self, batch):
        return self.network["teacher"](batch["one"])

    def weights(self):
        return self.network["teacher"].state_dict()

    def groups(self):
        student = self.network["student"].named_parameters()
        by = {True: [], False: []}
        for _, parameter in student:
            by[parameter.ndim > 1].append(parameter)
        return [
            {"params": by[decay], "name": name, "decay": decay}
            for decay, name in ((True, "matrices"), (False, "biases"))
        ]


COMPONENTS = {
    "backbones": SimpleNamespace(Options=BackboneOptions),
    "objectives": SimpleNamespace(Options=Options, build=build, BACKBONE="tiny"),
}


def register():
    """Let the kind `tiny` of both families be found in this process."""
    found = components.component

    def component(family, kind):
        return COMPONENTS[family] if kind == "tiny" else found(family, kind)

    taken = components.taken

    def takes(spec):
        return ({"timeseries": []}, {}) if spec["backbone"]["kind"] == "tiny" else taken(spec)

    components.component, components.taken = component, takes


def cohort(path, subjects, frames=60, seed=0, regions=REGIONS, **header):
    """A view store of simulated series, two scans a subject, of which one is padded."""
    rng = np.random.default_rng(seed)
    n = 2 * len(subjects)
    mixing = rng.normal(size=(n // 2, regions, regions)).repeat(2, 0)
    array = (mixing @ rng.normal(size=(n, regions, frames))).astype(np.float32)
    array[1::2, :, frames - 10 :] = 0
    table = pd.DataFrame(
        {
            "subject": np.repeat(subjects, 2),
            "scan": ["one", "two"] * len(subjects),
            "frames": [frames, frames - 10] * len(subjects),
            "exclude": "",
        },
        index=[f"{s}/{scan}/window-0000" for s in subjects for scan in ("one", "two")],
    )
    facts = {
        "what": "timeseries", "axes": 2, "channels": [f"region {i}" for i in range(regions)],
        "missing": [], "tr": 2.0, "unit": "z", "normalisation": "z-score", "band": None,
        "simulated": True, "modality": "fmri", "sfreq": 0.5,
    }  # fmt: skip
    store.write(path, Rows(array, table, facts | header))
    return str(path)


def spec(keep=(), subjects=None, processes=1, launch="", **options):
    return {
        "backbone": {"kind": "tiny", "weights": "random", "seed": 3},
        "objective": {"kind": "tiny", **options},
        "subjects": subjects,
        "keep": list(keep),
        "processes": processes,
        "launch": launch,
    }


def real(kind, processes=1, launch="", model=None, **options):
    """The spec of a small real backbone, for views of `PARCELS`."""
    backbone, objective = REAL[kind]
    few = {"epochs": 3, "batch_size": 8, "warmup_epochs": 1.0, "lr": 1e-3, "precision": "fp32"}
    return {
        "backbone": {"kind": kind, "weights": "random", "seed": 3, **backbone, **(model or {})},
        "takes": {"channels": None, "coverage": None, "band": None, "normalisation": None},
        "objective": few | objective | options,
        "subjects": None,
        "keep": [],
        "processes": processes,
        "launch": launch,
    }


def pretrain(folder, views, name="tiny", kind="tiny", **given):
    """The stage; the path of the weights and those that were kept."""
    asked = spec(**given) if kind == "tiny" else real(kind, **given)
    weights = Path(folder) / f"{name}.safetensors"
    kept = [Path(folder) / name / f"epoch-{epochs}.safetensors" for epochs in asked["keep"]]
    objectives.pretrain(views, weights, kept, asked, {"spec": asked}, "cpu")
    return weights, kept


def end_before(call, name):
    """Be killed in place of a call of the system, the first on a file of this name."""
    made = getattr(os, call)

    def ended(*paths, **options):
        if Path(paths[-1]).name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return made(*paths, **options)

    setattr(os, call, ended)


if __name__ == "__main__":
    if "KILLED_BEFORE" in os.environ:
        end_before(*os.environ["KILLED_BEFORE"].split())
    register()
    torch.set_num_threads(1)
    objectives.pretrain(**json.loads(Path(sys.argv[-1]).read_text()))
