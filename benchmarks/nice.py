"""How fast an EEG encoder of the NICE family trains against image features.

    python benchmarks/nice.py [--case "adaptation 17x100"] [--device cuda] [--lightning PYTHON]

Prints one JSON object a line: case, engine, seconds, cpu_seconds, rate (training samples a CPU
second, on a GPU a second), peak_mib (on a GPU of its memory). Each engine runs in a process of its
own, warmed up by a short training. Engine "gemm" is the arithmetic of a fused step at the rate of a
large matrix product measured in the same run. Lightning need not be installed here: --lightning
names the Python that has it.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from engram.models import eeg_encoders

CASES = {
    "adaptation 17x100": {
        "size": (17, 100),
        "encoder": {"pooling": "learned", "pool": 41, "stride": 1},
        "batch": 256,
        "image_head": True,
        "steps": {"engram fused": 20, "engram fused bf16": 20},
    },
    "nice 63x250": {
        "size": (63, 250),
        "encoder": {},
        "batch": 1000,
        "image_head": False,
        "steps": {"engram fused": 4, "engram fused bf16": 4},
    },
}
SLOW_STEPS, WIDTH, D = 2, 768, 256
GPU_STEPS, GPU_EPOCH = 400, 16


def data(case, n):
    rng = np.random.default_rng(0)
    eeg = rng.standard_normal((n, *CASES[case]["size"]), np.float32)
    return eeg, rng.standard_normal((n, WIDTH), np.float32)


# ---- engines ----------------------------------------------------------------------------


def engram(layout, bf16=False):
    def run(case, eeg, targets, steps, device):
        from engram import contrastive

        facts = CASES[case]
        batch = min(facts["batch"], len(eeg))
        epochs = max(1, steps * batch // len(eeg))
        options = contrastive.Options(
            encoder_options=facts["encoder"], layout=layout, projector_dim=D, epochs=epochs,
            image_head=facts["image_head"], batch_size=batch, bf16=bf16, encoder_warmup=0,
            projector_warmup=0,
        )  # fmt: skip
        every, none = np.arange(len(eeg)), np.empty(0, int)
        rows = contrastive.Rows(every, every, none)
        contrastive.fit(eeg, targets, rows, options, [0], device)

    return run


class Plain(nn.Module):
    """Encoder, projectors and temperature in ordinary layers, and the loss."""

    def __init__(self, case):
        super().__init__()
        facts = CASES[case]
        d = D if facts["image_head"] else WIDTH
        self.encoder = eeg_encoders.NICE(*facts["size"], layout="plain", **facts["encoder"])
        self.eeg_head = eeg_encoders.projector(1440, d)
        self.image_head = eeg_encoders.projector(WIDTH, d) if facts["image_head"] else nn.Identity()
        self.log_scale = nn.Parameter(torch.tensor(2.66))

    def forward(self, x, v):
        a = F.normalize(self.eeg_head(self.encoder(x)), dim=1)
        b = F.normalize(self.image_head(v), dim=1)
        logits = self.log_scale.exp() * a @ b.T
        labels = torch.arange(len(x), device=x.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def loader(case, eeg, targets):
    dataset = torch.utils.data.TensorDataset(torch.as_tensor(eeg), torch.as_tensor(targets))
    batch = min(CASES[case]["batch"], len(eeg))
    return torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)


def plain_pytorch(case, eeg, targets, steps, device):
    """A loop as a tutorial writes it."""
    batches = loader(case, eeg, targets)
    model = Plain(case).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(max(1, steps // len(batches))):
        for x, v in batches:
            optimiser.zero_grad()
            loss = model(x.to(device), v.to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            loss.item()


def with_lightning(case, eeg, targets, steps, device):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Plain(case)

        def training_step(self, batch, _):
            loss = self.model(*batch)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    batches = loader(case, eeg, targets)
    trainer = lightning.Trainer(
        max_epochs=max(1, steps // len(batches)), accelerator=device, devices=1,
        gradient_clip_val=1.0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), batches)


ENGINES = {
    "engram fused": engram("fused"),
    "engram fused bf16": engram("fused", bf16=True),
    "engram plain": engram("plain"),
    "reference": plain_pytorch,
    "lightning": with_lightning,
}


# ---- measuring --------------------------------------------------------------------------


def measure(case, engine, threads, device):
    torch.set_num_threads(threads)
    batch = CASES[case]["batch"]
    steps = CASES[case]["steps"].get(engine, SLOW_STEPS)
    eeg, targets = data(case, (GPU_EPOCH if device == "cuda" else SLOW_STEPS) * batch)
    if device == "cuda":
        steps = GPU_STEPS
        ENGINES[engine](case, eeg, targets, GPU_EPOCH, device)
        torch.cuda.synchronize()
    else:
        ENGINES[engine](case, eeg[:32], targets[:32], 1, device)
    wall, cpu = time.perf_counter(), time.process_time()
    ENGINES[engine](case, eeg, targets, steps, device)
    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return line(case, engine, steps, wall, cpu, device)


def gemm(case, engine, threads, device):
    """The arithmetic of a fused step at the rate of a matrix product in float32, no TF32."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(threads)
    eeg_encoders.nice.LARGE = 1 << 62  # the counter does not see into blocks
    facts = CASES[case]
    model = Plain(case)
    model.encoder = eeg_encoders.NICE(*facts["size"], **facts["encoder"])
    x, v = (torch.as_tensor(part) for part in data(case, 50))
    with FlopCounterMode(display=False) as counter:
        model.encoder.prepare(x)
        model(x, v).backward()
    flop = counter.get_total_flops() * facts["batch"] / 50
    flop += (
        3 * 2 * (facts["batch"] ** 2 - facts["batch"] * 50) * (D if facts["image_head"] else WIDTH)
    )
    rate = sgemm(device)
    steps = GPU_STEPS if device == "cuda" else facts["steps"]["engram fused"]
    seconds = steps * flop / rate
    facts = {"gflop_a_step": round(flop / 1e9, 1), "sgemm_gflop_a_second": round(rate / 1e9)}
    return line(case, engine, steps, seconds, seconds, device) | facts


def sgemm(device):
    """Floating-point operations a second of a large matrix product; of a CPU a CPU second."""
    n = 8192 if device == "cuda" else 2048
    clock = time.perf_counter if device == "cuda" else time.process_time
    a = torch.randn(n, n, device=device)
    times = []
    for _ in range(4):  # the first warms up
        start = clock()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return 2 * n**3 / min(times[1:])


def line(case, engine, steps, wall, cpu, device):
    if device == "cuda":
        seconds, peak = wall, torch.cuda.max_memory_allocated() >> 20
    else:
        seconds, peak = cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {
        "case": f"{case}, batch {CASES[case]['batch']}, {steps} steps, {device}",
        "engine": engine,
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 2),
        "rate": round(steps * CASES[case]["batch"] / seconds),
        "peak_mib": peak,
    }


def elsewhere(python, case, threads, device):
    """One engine under another Python, which needs torch and lightning alone."""
    command = [python, __file__, "--one", case, "--threads", str(threads), "--device", device]
    source = str(Path(__file__).parents[1] / "src")
    found = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": source}, stdout=subprocess.PIPE, text=True
    )
    if found.returncode:
        raise SystemExit(f"{case}, lightning: failed")
    return json.loads(found.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--lightning", metavar="PYTHON", help="a Python that has lightning")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, "lightning", given.threads, given.device)))
        return
    context = multiprocessing.get_context("spawn")
    for case in given.case or CASES:
        for engine in (*ENGINES, "gemm"):
            if engine == "lightning":
                if given.lightning:
                    found = elsewhere(given.lightning, case, given.threads, given.device)
                    print(json.dumps(found), flush=True)
                continue
            function = gemm if engine == "gemm" else measure
            with ProcessPoolExecutor(1, context) as pool:
                found = pool.submit(function, case, engine, given.threads, given.device).result()
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
