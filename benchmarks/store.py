"""How fast stores are written and read, beside plain h5py and the disk itself.

    python benchmarks/store.py [--chunk-kib 256] [--folder DIR]

Prints one JSON object a line: case, engine, seconds, cpu_seconds, rate (MB a CPU second),
peak_mib, and for writing `bytes` of the file.  Cases of an array: write (synced), sequential
read, and 20 times 64 random rows.  Files are read from the page cache; each case runs in a
process of its own.  Plain h5py has the same chunks, but neither checksums nor an atomic
replacement; numpy.memmap is what the machine can do.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from engram import store
from engram.store import Rows

ARRAYS = {
    "20000 x 512 float32": ((20_000, 512), np.float32),
    "500 x 50 x 768 float16": ((500, 50, 768), np.float16),
}
BATCHES, BATCH = 20, 64


class Engram:
    def __init__(self, suffix):
        self.suffix = suffix

    def write(self, path, array):
        table = pd.DataFrame(index=[f"row-{i:06d}" for i in range(len(array))])
        store.write(path, Rows(array, table, {"what": "features"}))

    def read(self, path):
        return store.open(path)[:]

    def rows(self, path, batches):
        opened = store.open(path)
        return [opened[batch] for batch in batches]


class Plain:
    """h5py by itself, rows read one after the other."""

    suffix = ".plain.h5"

    def __init__(self, **filters):
        self.filters = filters

    def write(self, path, array):
        chunks = (store.layout.chunk_rows(array.shape, array.dtype), *array.shape[1:])
        with h5py.File(path, "w") as file:
            file.create_dataset("rows", data=array, chunks=chunks, **self.filters)
        sync(path)

    def read(self, path):
        with h5py.File(path) as file:
            return file["rows"][:]

    def rows(self, path, batches):
        with h5py.File(path) as file:
            rows = file["rows"]
            return [np.stack([rows[i] for i in np.sort(batch)]) for batch in batches]


class Memmap:
    suffix = ".npy"

    def write(self, path, array):
        np.save(path, array)
        sync(path)

    def read(self, path):
        return np.array(np.load(path, mmap_mode="r"))

    def rows(self, path, batches):
        array = np.load(path, mmap_mode="r")
        return [array[batch] for batch in batches]


def sync(path):
    with open(path) as file:
        os.fsync(file.fileno())


ENGINES = {
    "engram .h5": Engram(".h5"),
    "engram .zarr": Engram(".zarr"),
    "h5py, no checksum": Plain(),
    "h5py, gzip and shuffle": Plain(compression="gzip", compression_opts=4, shuffle=True),
    "numpy.memmap": Memmap(),
}


def measure(case, engine, operation, folder, chunk, queue):
    store.layout.CHUNK_BYTES = chunk << 10
    shape, dtype = ARRAYS[case]
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, shape[0], BATCH) for _ in range(BATCHES)]
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    this, path = ENGINES[engine], Path(folder) / f"a{ENGINES[engine].suffix}"
    small = path.with_name(f"small{this.suffix}")
    arguments = {
        "write": lambda n: (rng.standard_normal((n, *shape[1:]), np.float32).astype(dtype),),
        "read": lambda n: (),
        "rows": lambda n: ([batch % n for batch in batches],),
    }[operation]
    this.write(small, rng.random((2, *shape[1:])).astype(dtype))
    getattr(this, operation)(small, *arguments(2))  # libraries warm up
    given = arguments(shape[0])
    wall, cpu = time.perf_counter(), time.process_time()
    getattr(this, operation)(path, *given)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    moved = size * BATCHES * BATCH / shape[0] if operation == "rows" else size
    result = {
        "case": f"{operation}, {case}",
        "engine": engine,
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "rate": round(moved / 1e6 / max(cpu, 1e-6)),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    queue.put(result | ({"bytes": path.stat().st_size} if operation == "write" else {}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunk-kib", type=int, default=store.layout.CHUNK_BYTES >> 10)
    parser.add_argument("--folder", help="on the disk to measure; by default a temporary one")
    parser.add_argument("--engine", choices=ENGINES, action="append")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for case in ARRAYS:
            for engine in given.engine or ENGINES:
                for operation in ("write", "read", "rows"):
                    queue = context.Queue()
                    arguments = (case, engine, operation, folder, given.chunk_kib, queue)
                    process = context.Process(target=measure, args=arguments)
                    process.start()
                    process.join()
                    if process.exitcode:
                        raise SystemExit(f"{case}, {engine}, {operation}: failed")
                    print(json.dumps(queue.get()), flush=True)


if __name__ == "__main__":
    main()
