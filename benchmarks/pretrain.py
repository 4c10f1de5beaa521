"""Speed and memory of pretraining: a training step of each model, and extraction of features.

    python benchmarks/pretrain.py [--case "semantoks step fp32"] [--threads 2] [--device cuda]

A step is what training does with a batch that is drawn: student, teacher, losses, gradient,
clipping, AdamW, moving average. A batch of semantoks has 16 samples, one of brain_jepa a single one
(ViT-B), with masks of the size that they have in a group of 16. Engines:

- engram: a step of `engram.training`;
- reference: the same step, the published layout written plainly in ordinary layers: each view by
  itself, a grouped convolution, attention that is materialised, a loop over parameters;
- gemm: as many floating-point operations as a step of engram has, as bare matrix products of one
  size in the same precision;
- forward, beside engram in the extraction: the model alone on a batch that lies ready.

Each engine is a process of its own; they take turns, a step each, so that what else runs on the
machine meets all alike, and the fastest of `--rounds` counts.

Prints one JSON object a line: case, engine, seconds and cpu_seconds of a step or of all rows, rate
(samples a second), cpu_rate (samples a CPU second, the fairer one where others compute too),
peak_mib (on a GPU of its memory), and draw_seconds: crops from memory, augmentation and masks of a
batch, CPU seconds.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SQUARE = {"cpu": 2048, "cuda": 8192}  # side of the matrices of gemm
STEPS = 1000  # of the training that a step is one of

#: Of each model: samples of a step and those whose masks are cut to one size, objective, regions,
#: frames of a scan and of a row, rows that are extracted and how many at once.
MODELS = {
    "semantoks": {
        "samples": 16, "drawn": 16, "objective": "self_distillation",
        "regions": ["schaefer400_7n", "tian_s3", "buckner7"],
        "scan": 180, "row": 100, "rows": 64, "batch": 16,
    },
    "brain_jepa": {
        "samples": 1, "drawn": 16, "objective": "jepa",
        "regions": ["tian_s3", "schaefer400_17n"],
        "scan": 160, "row": 160, "rows": 2, "batch": 1,
    },
}  # fmt: skip


def autocast(device, bf16):
    return torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()


# ---- a step -----------------------------------------------------------------------------


def view_of(kind):
    from engram.readers import atlases

    names = [*atlases.named(MODELS[kind]["regions"])]
    return {
        "what": "timeseries", "axes": 2, "channels": names, "missing": [],
        "coverage": [len(names)] * 2, "frames": MODELS[kind]["row"], "modality": "fmri", "tr": 2.0,
        "sfreq": 0.5, "unit": "z", "band": [0.01, 0.1], "normalisation": "scan", "simulated": True,
    }  # fmt: skip


def noise(n, regions, frames):
    return np.random.default_rng(0).standard_normal((n, regions, frames), np.float32)


def objective(kind, device):
    """An objective with its published settings, its batch and what drawing that took."""
    from engram.planning import components

    this, view = MODELS[kind], view_of(kind)
    _, model = components.options("backbones", {"kind": kind})
    module, options = components.options("objectives", {"kind": this["objective"]})
    found = module.build(model, options, view, STEPS, device)
    scans = [*noise(this["drawn"], len(view["channels"]), this["scan"])]
    if hasattr(found, "prepare"):
        found.prepare([[scan] for scan in scans])
    generator = torch.Generator().manual_seed(0)
    found.batch(scans, generator)
    start = time.process_time()
    batch = found.batch(scans, generator)
    drawn = (time.process_time() - start) * this["samples"] / this["drawn"]
    while "mask" in batch and not batch["mask"].any():
        batch = found.batch(scans, generator)
    return found, {name: values[: this["samples"]] for name, values in batch.items()}, drawn


def engram(kind, bf16, device):
    from engram.training.loop import Learner, Settings
    from engram.training.step import Step

    found, batch, drawn = objective(kind, device)
    for group in (groups := found.groups()):
        group.pop("decay")
    optimiser = torch.optim.AdamW(groups, lr=1e-4, fused=True)

    def loss(batch, step):
        with autocast(device, bf16):
            return found.loss(batch, step)

    learner = Learner(found.network, loss, optimiser, lambda step: [1e-4] * len(groups))
    size = MODELS[kind]["samples"]
    step = Step(learner, Settings(1, size, clip_gradient=1.0, watched=True))
    at = torch.arange(size)

    def once():
        step(0, at, batch)
        found.update(0)

    return once, {"draw_seconds": round(drawn, 3)}


def reference(kind, bf16, device):
    plain = {"semantoks": plain_semantoks, "brain_jepa": plain_brain_jepa}
    return plain[kind](bf16, device), {}


def plain_step(student, teacher, losses, bf16, device):
    """A step of a student whose average the teacher is, parameter by parameter."""
    teacher.requires_grad_(False)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-4)

    def once():
        optimiser.zero_grad()
        with autocast(device, bf16):
            loss = losses()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            followed = dict(student.named_parameters())
            for name, average in teacher.named_parameters():
                average.mul_(0.99).add_(followed[name], alpha=0.01)
        if not loss.isfinite():
            raise RuntimeError("the reference diverged")

    return once


# ---- semantoks --------------------------------------------------------------------------


class PlainTokenizer(nn.Module):
    def __init__(self, regions, width=384):
        super().__init__()
        heads = -(-width // regions)
        self.dense = nn.Conv1d(regions, width, 3, padding=1)
        self.pieces = nn.ParameterList(torch.randn(heads, regions, 4) for _ in range(3))
        self.skip = nn.Parameter(torch.randn(heads, regions))
        self.register_buffer("scale", torch.full((heads, regions, 1), 8.0))
        self.mixing = nn.Linear(regions * heads, width)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, x):  # (m, roi, time)
        first, second, third = self.pieces
        third = F.interpolate(third, scale_factor=2, mode="nearest")
        kernel = torch.cat([4 * first, 2 * second, third], -1) / self.scale
        kernel = kernel.transpose(0, 1).flatten(0, 1).flip(-1)[:, None]
        long = F.conv1d(F.pad(x, (7, 8)), kernel, groups=x.shape[1])
        direct = x[:, :, None] * self.skip.T[:, :, None]
        long = self.mixing((long + direct.flatten(1, 2)).transpose(1, 2))
        both = torch.cat([self.dense(x).transpose(1, 2), long], -1)
        return self.norm(F.gelu(both).mean(1))


class PlainBlock(nn.Module):
    def __init__(self, width=768, heads=12, scaled=True):
        super().__init__()
        self.heads, self.scaled = heads, scaled
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=not scaled)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        if scaled:
            self.scale1 = nn.Parameter(torch.full((width,), 0.1))
            self.scale2 = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x):
        b, n, d = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        attended = self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))
        x = x + (self.scale1 * attended if self.scaled else attended)
        inside = self.mlp(self.norm2(x))
        return x + (self.scale2 * inside if self.scaled else inside)


class Plain(nn.Module):
    def __init__(self, networks, width=768):
        super().__init__()
        names = list(dict.fromkeys(networks))
        self.rows = [[i for i, one in enumerate(networks) if one == name] for name in names]
        self.tokenizers = nn.ModuleList(PlainTokenizer(len(rows)) for rows in self.rows)
        self.places = nn.Embedding(len(names), width)
        self.times = nn.Parameter(torch.randn(5, width), requires_grad=False)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.mask = nn.Parameter(torch.randn(1, width))
        self.blocks = nn.Sequential(*(PlainBlock() for _ in range(8)), nn.LayerNorm(width))
        self.projector = nn.Sequential(nn.Linear(width, 1024), nn.GELU(), nn.Linear(1024, 128))

    def forward(self, x, mask=None):
        b, tokens = len(x), []
        for rows, tokenizer in zip(self.rows, self.tokenizers, strict=True):
            windows = x[:, rows].reshape(b, len(rows), 5, 20).transpose(1, 2)
            tokens.append(tokenizer(windows.reshape(b * 5, len(rows), 20)).reshape(b, 5, -1))
        tokens = torch.stack(tokens, 1)
        if mask is not None:
            tokens = torch.where(mask[..., None], self.mask, tokens)
        tokens = tokens + self.places.weight[:, None] + self.times
        x = torch.cat([self.cls.expand(b, -1, -1), tokens.flatten(1, 2)], 1)
        return self.blocks(x)

    def project(self, x):
        return F.normalize(self.projector(x).float(), dim=-1)


def plain_semantoks(bf16, device):
    from engram.readers import atlases

    networks = [atlases.network(name) for name in view_of("semantoks")["channels"]]
    _, batch, _ = objective("semantoks", "cpu")
    batch = {name: values.to(device) for name, values in batch.items()}
    student, teacher = (Plain(networks).to(device) for _ in range(2))
    teacher.load_state_dict(student.state_dict())

    def mcr(s, t):
        (m, p), rates = s[0].shape, []
        similarity = ((t[0] * s[1]).sum(-1).mean() + (t[1] * s[0]).sum(-1).mean()) / 2
        for one, other in zip(s, t, strict=True):
            z = (one + other) / 2
            gram = torch.eye(p, device=device) + p / (m * 0.05) * z.T @ z
            rates.append(torch.linalg.cholesky(gram).diagonal().log().sum())
        return -similarity - (p + m) / (p * m) * sum(rates) / 2

    def means(x):
        return x[:, 1:].reshape(len(x), 9, 5, -1).mean(2).flatten(0, 1)

    def losses():
        s = [student(batch["crops"][:, v], batch["mask"][:, v]) for v in range(2)]
        with torch.no_grad():
            t = [teacher(batch["crops"][:, v]) for v in range(2)]
        first = [student.project(x[:, 0]) for x in s], [teacher.project(x[:, 0]) for x in t]
        second = [student.project(means(x)) for x in s], [teacher.project(means(x)) for x in t]
        loss = mcr(*first) + 0.5 * mcr(*second)
        for v in range(2):
            mask = batch["mask"][:, v].flatten(1)
            a, b = (x[v][:, 1:][mask] for x in (s, t))
            cosine = (student.project(a) * teacher.project(b)).sum(-1)
            loss = loss - 0.5 * (cosine / mask.sum(1)[mask.nonzero()[:, 0]]).sum() / len(mask) / 2
        return loss

    return plain_step(student, teacher, losses, bf16, device)


# ---- brain_jepa -------------------------------------------------------------------------


class PlainPositions(nn.Module):
    def __init__(self, width, regions=450, windows=10):
        super().__init__()
        self.windows = windows
        self.times = nn.Parameter(torch.randn(regions * windows, width // 2), requires_grad=False)
        self.register_buffer("gradients", torch.randn(regions, 30))
        self.places = nn.Linear(30, width // 2)

    def forward(self):
        places = self.places(self.gradients).repeat_interleave(self.windows, 0)
        places = 2 * (places - places.min()) / (places.max() - places.min()) - 1
        return torch.cat([self.times, places], 1)


class PlainVit(nn.Module):
    def __init__(self, width=768, depth=12, heads=12):
        super().__init__()
        self.proj = nn.Conv2d(1, width, (1, 16), (1, 16))
        self.positions = PlainPositions(width)
        self.blocks = nn.Sequential(*(PlainBlock(width, heads, scaled=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x, at=None):
        x = self.proj(x[:, None]).flatten(2).transpose(1, 2) + self.positions()
        return self.norm(self.blocks(x if at is None else picked(x, at)))


class PlainPredictor(nn.Module):
    def __init__(self, inside=768, width=384, depth=6, heads=12):
        super().__init__()
        self.embed, self.back = nn.Linear(inside, width), nn.Linear(width, inside)
        self.mask = nn.Parameter(torch.randn(1, 1, width))
        self.positions = PlainPositions(width)
        self.blocks = nn.Sequential(*(PlainBlock(width, heads, scaled=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, seen, at, wanted):
        positions = self.positions().expand(len(seen), -1, -1)
        seen = self.embed(seen) + picked(positions, at)
        x = self.blocks(torch.cat([seen, self.mask + picked(positions, wanted)], 1))
        return self.back(self.norm(x[:, at.shape[1] :]))


def picked(x, at):
    return torch.gather(x, 1, at[..., None].expand(-1, -1, x.shape[-1]))


def plain_brain_jepa(bf16, device):
    _, batch, _ = objective("brain_jepa", "cpu")
    x, seen, wanted = (batch[name].to(device) for name in ("series", "seen", "wanted"))
    seen, wanted = (at[:, : (at >= 0).sum(1)[0]] for at in (seen, wanted))
    encoder, predictor, target = PlainVit(), PlainPredictor(), PlainVit()
    target.load_state_dict(encoder.state_dict())
    student = nn.ModuleDict({"encoder": encoder, "predictor": predictor}).to(device)
    teacher = nn.ModuleDict({"encoder": target}).to(device)

    def losses():
        with torch.no_grad():
            tokens = picked(F.layer_norm(target(x), (768,)), wanted)
        predicted = predictor(encoder(x, seen), seen, wanted)
        return F.smooth_l1_loss(predicted.float(), tokens.float())

    return plain_step(student, teacher, losses, bf16, device)


# ---- as many operations -----------------------------------------------------------------


def flop(kind):
    """Floating-point operations of a step, counted on at most two of its samples."""
    from torch.utils import flop_counter

    found, batch, _ = objective(kind, "cpu")
    counted, aten = flop_counter.flop_registry, torch.ops.aten
    for way in ("", "_backward"):  # attention on a CPU is not known to the counter
        on_cpu = getattr(aten, f"_scaled_dot_product_flash_attention_for_cpu{way}")
        counted[on_cpu] = counted[getattr(aten, f"_scaled_dot_product_flash_attention{way}")]
    samples = MODELS[kind]["samples"]
    few = {name: values[:2] for name, values in batch.items()}
    with flop_counter.FlopCounterMode(display=False) as counter:
        found.loss(few, 0)[0].backward()
    return counter.get_total_flops() / min(2, samples) * samples


def gemm(kind, bf16, device):
    side, number = SQUARE[device], torch.bfloat16 if bf16 else torch.float32
    a, b = (torch.randn(side, side, device=device).to(number) for _ in range(2))
    out = torch.empty_like(a)
    operations = flop(kind)
    times = round(operations / (2 * side**3))

    def once():
        for _ in range(times):
            torch.mm(a, b, out=out)

    return once, {"gflop": round(operations / 1e9)}


# ---- extraction -------------------------------------------------------------------------


def source(folder, kind):
    import pandas as pd

    from engram import store

    n, header, path = MODELS[kind]["rows"], view_of(kind), Path(folder) / "view.h5"
    names = [f"sub-{i:03d}/scan-01" for i in range(n)]
    table = pd.DataFrame({"subject": names, "exclude": ""}, index=names)
    rows = noise(n, len(header["channels"]), header["frames"])
    store.write(path, store.Rows(rows, table, header))
    return store.open(path)


def ready(folder, kind, bf16, device):
    """Rows on disk, the backbone that takes them, and its spec."""
    from engram.backbones import load

    options = {"precision": "bf16" if bf16 else "fp32", "batch": MODELS[kind]["batch"]}
    rows, spec = source(folder, kind), {"backbone": {"kind": kind, **options}}
    return rows, load(rows, spec, None, device), spec


def extraction(kind, bf16, device):
    from engram.backbones import encode

    folder = tempfile.mkdtemp()
    rows, backbone, spec = ready(folder, kind, bf16, device)
    count = iter(range(1 << 30))

    def once():
        encode(rows, backbone, Path(folder) / f"features-{next(count)}.h5", spec, {})

    return once, {}


def forward(kind, bf16, device):
    rows, size = MODELS[kind]["rows"], MODELS[kind]["batch"]
    with tempfile.TemporaryDirectory() as folder:
        source, backbone, _ = ready(folder, kind, bf16, device)
        frozen = getattr(backbone, "backbone", backbone)  # without what fits the rows
        images = frozen.preprocessing(source[:size]).to(frozen.number)

    def once():
        with torch.inference_mode():
            for _ in range(0, rows, size):
                frozen.model(images)

    return once, {}


# ---- measuring --------------------------------------------------------------------------

CASES = {
    f"{kind} {what} {precision}": (kind, what, precision == "bf16")
    for kind in MODELS
    for what in ("step", "extraction")
    for precision in ("fp32", "bf16")
}
ENGINES = {
    "step": {"engram": engram, "reference": reference, "gemm": gemm},
    "extraction": {"engram": extraction, "forward": forward},
}
HELD = {}


def prepare(case, engine, threads, device):
    """In the process of an engine: build it and run it once."""
    torch.set_num_threads(threads)
    kind, what, bf16 = CASES[case]
    HELD["once"], facts = ENGINES[what][engine](kind, bf16, device)
    take_turn(device)
    return facts


def take_turn(device):
    """Seconds and CPU seconds of one step."""
    wall, cpu = time.perf_counter(), time.process_time()
    HELD["once"]()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak(device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def measure(case, given):
    kind, what, _ = CASES[case]
    context = multiprocessing.get_context("spawn")
    pools = {engine: ProcessPoolExecutor(1, context) for engine in ENGINES[what]}
    settings = (given.threads, given.device)
    facts = {
        name: pool.submit(prepare, case, name, *settings).result() for name, pool in pools.items()
    }
    turns = {name: [] for name in pools}
    for _ in range(given.rounds):
        for name, pool in pools.items():
            turns[name].append(pool.submit(take_turn, given.device).result())
    samples = MODELS[kind]["samples" if what == "step" else "rows"]
    for name, pool in pools.items():
        wall, cpu = (min(times) for times in zip(*turns[name], strict=True))
        line = {
            "case": f"{case}, {samples} samples, {given.threads} threads, {given.device}",
            "engine": name,
            "seconds": round(wall, 3),
            "cpu_seconds": round(cpu, 3),
            "rate": round(samples / wall, 3),
            "cpu_rate": round(samples / cpu, 3),
            "peak_mib": pool.submit(peak, given.device).result(),
            **facts[name],
        }
        print(json.dumps(line), flush=True)
        pool.shutdown()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=SQUARE, default="cpu")
    given = parser.parse_args()
    for case in given.case or CASES:
        measure(case, given)


if __name__ == "__main__":
    main()
