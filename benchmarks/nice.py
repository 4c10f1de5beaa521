"""How fast an EEG encoder of the NICE family trains against image features.

    python benchmarks/nice.py [--case "adaptation 17x100"] [--lightning PYTHON]

Prints one JSON object a line: case, engine, seconds, cpu_seconds, rate (training samples a CPU
second), peak_mib. Each engine runs in a process of its own, warmed up by a step of few samples.
Engine "gemm" is the arithmetic of a fused step at the rate of a large matrix product measured in
the same run. Lightning need not be installed here: --lightning names the Python that has it.
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

from engram import eeg_encoders

CASES = {
    "adaptation 17x100": {
        "size": (17, 100),
        "encoder": {"pooling": "learned", "pool": 41, "stride": 1},
        "batch": 256,
        "image_head": True,
        "steps": {"engram fused": 20, "engram fused bf16": 20, "gemm": 20},
    },
    "nice 63x250": {
        "size": (63, 250),
        "encoder": {},
        "batch": 1000,
        "image_head": False,
        "steps": {"engram fused": 4, "engram fused bf16": 4, "gemm": 4},
    },
}
SLOW_STEPS, WIDTH, D = 2, 768, 256


def data(case, n):
    rng = np.random.default_rng(0)
    eeg = rng.standard_normal((n, *CASES[case]["size"]), np.float32)
    return eeg, rng.standard_normal((n, WIDTH), np.float32)


# ---- engines ----------------------------------------------------------------------------


def engram(layout, bf16=False):
    def run(case, eeg, targets, steps):
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
        contrastive.fit(eeg, targets, rows, options, [0], "cpu")

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
        labels = torch.arange(len(x))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def loader(case, eeg, targets):
    dataset = torch.utils.data.TensorDataset(torch.as_tensor(eeg), torch.as_tensor(targets))
    batch = min(CASES[case]["batch"], len(eeg))
    return torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)


def plain_pytorch(case, eeg, targets, steps):
    """A loop as a tutorial writes it."""
    batches = loader(case, eeg, targets)
    model = Plain(case)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(max(1, steps // len(batches))):
        for x, v in batches:
            optimiser.zero_grad()
            loss = model(x, v)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            loss.item()


def with_lightning(case, eeg, targets, steps):
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
        max_epochs=max(1, steps // len(batches)), accelerator="cpu", gradient_clip_val=1.0,
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


def measure(case, engine, threads):
    torch.set_num_threads(threads)
    batch = CASES[case]["batch"]
    steps = CASES[case]["steps"].get(engine, SLOW_STEPS)
    eeg, targets = data(case, SLOW_STEPS * batch)
    ENGINES[engine](case, eeg[:32], targets[:32], 1)
    wall, cpu = time.perf_counter(), time.process_time()
    ENGINES[engine](case, eeg, targets, steps)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return line(case, engine, steps, wall, cpu)


def gemm(case, engine, threads):
    """The arithmetic of a fused step at the rate of a matrix product."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(threads)
    eeg_encoders.LARGE = 1 << 62  # the counter does not see into blocks
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
    a = torch.randn(2048, 2048)
    a @ a
    times = []
    for _ in range(3):
        start = time.process_time()
        a @ a
        times.append(time.process_time() - start)
    rate = 2 * 2048**3 / min(times)
    steps = facts["steps"][engine]
    seconds = steps * flop / rate
    facts = {"gflop_a_step": round(flop / 1e9, 1), "sgemm_gflop_a_second": round(rate / 1e9)}
    return line(case, engine, steps, seconds, seconds) | facts


def line(case, engine, steps, wall, cpu):
    return {
        "case": f"{case}, batch {CASES[case]['batch']}, {steps} steps",
        "engine": engine,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "rate": round(steps * CASES[case]["batch"] / cpu),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def elsewhere(python, case, threads):
    """One engine under another Python, which needs torch and lightning alone."""
    command = [python, __file__, "--one", case, "--threads", str(threads)]
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
    parser.add_argument("--lightning", metavar="PYTHON", help="a Python that has lightning")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, "lightning", given.threads)))
        return
    context = multiprocessing.get_context("spawn")
    for case in given.case or CASES:
        for engine in (*ENGINES, "gemm"):
            if engine == "lightning":
                if given.lightning:
                    print(json.dumps(elsewhere(given.lightning, case, given.threads)), flush=True)
                continue
            function = gemm if engine == "gemm" else measure
            with ProcessPoolExecutor(1, context) as pool:
                found = pool.submit(function, case, engine, given.threads).result()
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
