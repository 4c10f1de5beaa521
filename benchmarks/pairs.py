"""What aligning many subjects takes: memory and time from stores on disk to similarities.

    python benchmarks/pairs.py [--subjects 10] [--images 16540] [--device cuda] [--folder DIR]

Writes epoch stores of noise (63 channels, 250 samples), 1 GB a subject, then trains one model on
all but one (case "leave one out") and one on all (case "pooled"), with its control, for a few
epochs. Prints one JSON object a line: case, engine, seconds, cpu_seconds, rate (training samples a
second, validation and reading included), peak_mib (of the process, beyond what Python and its
libraries take), gpu_mib, data_mib (the training epochs as they lie in the stores).
"""

import argparse
import dataclasses
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from engram import store
from engram.planning import components
from engram.store import Rows

CHANNELS, TIMES, WIDTH, TEST = 63, 250, 768, 200
HEAD = {"kind": "nice", "batch_size": 1000, "image_head": False}


def pictures(images):
    names = [f"train/{i // 10:05d}/{i:05d}" for i in range(images)]
    names += [f"test/{i:05d}/0" for i in range(TEST)]
    parts = [name.split("/") for name in names]
    table = pd.DataFrame(
        {"split": [p[0] for p in parts], "concept": [f"{p[0]}/{p[1]}" for p in parts]}, index=names
    )
    return table.assign(exclude="")


def write(folder, subjects, images):
    """Paths of the epoch stores, and of the image features."""
    rng, table = np.random.default_rng(0), pictures(images)
    features = rng.standard_normal((len(table), WIDTH), np.float32)
    store.write(folder / "features.h5", Rows(features, table, {"what": "features"}))
    header = {
        "what": "epochs",
        "times": (np.arange(TIMES) / 250).tolist(),
        "channels": [f"E{i}" for i in range(CHANNELS)],
    }
    paths = []
    for i in range(subjects):
        array = rng.standard_normal((len(table), CHANNELS, TIMES), np.float32)
        facts = table.assign(subject=f"sub-{i:02d}", stimulus=table.index)
        facts.index = [f"sub-{i:02d}/{name}" for name in table.index]
        paths.append(folder / f"sub-{i:02d}.h5")
        store.write(paths[-1], Rows(array, facts, header))
    return paths, {"picture/noise": [folder / "features.h5"]}


def measure(case, paths, y, epochs, device):
    from engram import contrastive
    from engram.tasks import pairs

    head, options = components.options("heads", HEAD | {"epochs": epochs, "patience": 0})
    contrastive.fit(*toy(), options, [0], device, None)
    before = resident()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    folds = "leave_one_subject_out" if case == "leave one out" else "pooled"
    task, _ = pairs.load({"epochs": paths}, y, {"folds": folds, "seeds": 1})
    head.fit(dataclasses.replace(task, folds=task.folds[:1]), options, device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    trained = len(paths) - (case == "leave one out")
    rows = trained * (len(store.open(paths[0])) - TEST)
    size = f"{trained} subjects x {CHANNELS} x {TIMES}"
    return {
        "case": f"{case}, {size}, {epochs} epochs, {device}",
        "engine": "engram",
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "rate": round(2 * epochs * rows / wall),  # the model and its control
        "peak_mib": resident() - before,
        "gpu_mib": torch.cuda.max_memory_allocated() >> 20 if device == "cuda" else 0,
        "data_mib": rows * CHANNELS * TIMES * 4 >> 20,
    }


def toy():
    from engram.contrastive import Rows as Pairs

    rng, every = np.random.default_rng(0), np.arange(64)
    eeg = rng.standard_normal((64, CHANNELS, TIMES), np.float32)
    return eeg, rng.standard_normal((64, WIDTH), np.float32), Pairs(every, every[:50], every[50:])


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--images", type=int, default=16540)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--folder", help="where there is room; default: for temporary files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        paths, y = write(Path(folder), given.subjects, given.images)
        for case in ("leave one out", "pooled"):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(measure, case, paths, y, given.epochs, given.device).result()
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
