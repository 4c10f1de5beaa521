"""What ridge regression of very many targets takes, from stores on disk to predictions.

    python benchmarks/ridge.py [--scale 3] [--targets vdvae text vision] [--engines engram gemm ...]
                               [--format float16] [--dtype float32] [--folder DIR]

The sizes are those of subject 1 of the Natural Scenes Dataset under the protocol nsd37: 8859
training images, 982 test images and 15724 voxels, and 91168 (latents of VDVAE), 59136 (77 x 768
states of the text encoder of CLIP) or 197376 (257 x 768 tokens of its image encoder). `--scale`
divides each of these; at 1 the case says `full`, and up to 5 GB are written.

Engines, each in a fresh process with one alpha: `engram`, X and Y read from stores; `gemm`, the
bare products of the same sizes in memory, X X^T as a symmetric one: the floor; `sklearn`, of 500
and of 2000 targets, and what both extrapolate to for all of them; `himalaya`, likewise. Prints one
JSON object a line: case, engine, seconds, cpu_seconds, peak_mib (of the process, libraries
included) and, of engram, `ratio`, CPU seconds over those of the floor, and `error`, the largest
deviation from scikit-learn in float64 on 200 targets, over the standard deviation of what is
predicted, where the case is not full.
"""

import argparse
import importlib.util
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

ROWS, TEST, VOXELS = 8859, 982, 15724
TARGETS = {"vdvae": 91168, "text": 59136, "vision": 197376}
ALPHA, FEW = 50_000.0, (500, 2000)
CHECKED = 200
SUMS = 512 << 20  # bytes of predictions at a time, as of the head


def write(folder, sizes, name, format_):
    """Stores of X, training rows before test rows, and of Y, with a signal of rank 50."""
    from engram import store

    n, m, p, targets = sizes
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((n + m, 50), np.float32)
    for key, width, dtype in (("x", p, np.float32), (name, targets, format_)):
        table = pd.DataFrame(index=[f"row-{i:05d}" for i in range(n + m)])
        path, patterns = folder / f"{key}.h5", rng.standard_normal((50, width), np.float32)
        if path.exists():
            continue
        with store.resume(path, table, (n + m, width), dtype, {"what": key}, 512) as parts:
            for start, stop in parts.missing():
                noise = rng.standard_normal((stop - start, width), np.float32)
                parts[start:stop] = hidden[start:stop] @ patterns / 7 + noise


def engram(folder, name, sizes, dtype):
    from engram import scratch, store
    from engram.tasks import linked
    from engram.training import ridge

    n, m, _, targets = sizes
    x, y = (linked.Some(store.open(folder / f"{key}.h5"), np.arange(n + m)) for key in ("x", name))
    found = scratch.empty((m, targets), dtype, SUMS)

    def run():
        design = ridge.Design(x, np.arange(n), np.arange(n, n + m), dtype)
        weights = design.weights(ALPHA)
        del design
        for columns, values in ridge.summed(weights, y, np.arange(n), size=SUMS):
            found[:, columns] = values
            scratch.forget(found)

    return measured(run) | {"told": found[:, :CHECKED].copy()}


def gemm(folder, name, sizes, dtype):
    n, m, p, targets = sizes
    rng, tile = np.random.default_rng(0), 4096
    x, new = (rng.standard_normal((rows, p)).astype(dtype) for rows in (n, m))
    y = rng.standard_normal((n, tile)).astype(dtype)

    def run():
        np.matmul(x, x.T)  # NumPy calls syrk
        weights = new @ x.T
        for start in range(0, targets, tile):
            np.matmul(weights, y[:, : min(tile, targets - start)])

    return measured(run)


def sklearn(folder, name, sizes, dtype, few):
    from sklearn.linear_model import Ridge

    x, y, new = some(folder, name, sizes, few)
    return measured(lambda: Ridge(alpha=ALPHA).fit(x.astype(dtype), y.astype(dtype)).predict(new))


def himalaya(folder, name, sizes, dtype, few):
    from himalaya.kernel_ridge import KernelRidge

    x, y, new = some(folder, name, sizes, few)
    mean = y.mean(0)

    def run():
        KernelRidge(alpha=ALPHA).fit(x.astype(dtype), (y - mean).astype(dtype)).predict(new)

    return measured(run)


def reference(folder, name, sizes):
    from sklearn.linear_model import Ridge

    x, y, new = (one.astype(float) for one in some(folder, name, sizes, CHECKED))
    return Ridge(alpha=ALPHA).fit(x, y).predict(new)


def some(folder, name, sizes, few):
    from engram import store

    n = sizes[0]
    x, y = (store.open(folder / f"{key}.h5") for key in ("x", name))
    return x[:n], np.concatenate([y[i : i + 256][:, :few] for i in range(0, n, 256)])[:n], x[n:]


def measured(run):
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


ENGINES = {"gemm": gemm, "engram": engram, "sklearn": sklearn, "himalaya": himalaya}


def fresh(function, *given):
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


def told(case, engine, found, **more):
    facts = {key: round(found[key], 2) for key in ("seconds", "cpu_seconds", "peak_mib")}
    print(json.dumps({"case": case, "engine": engine, **facts, **more}), flush=True)


def extrapolated(case, engine, folder, name, sizes, dtype):
    """Two small numbers of targets, and the line through them."""
    few = [min(some, sizes[3]) for some in FEW]
    found = [fresh(ENGINES[engine], folder, name, sizes, dtype, some) for some in few]
    for some, one in zip(few, found, strict=True):
        told(f"{case}, {some} targets alone", engine, one)
    share = (sizes[3] - few[0]) / max(few[1] - few[0], 1)
    line = {key: found[0][key] + share * (found[1][key] - found[0][key]) for key in found[0]}
    told(f"{case}, extrapolated", engine, line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=3)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=["vdvae"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=[*ENGINES])
    parser.add_argument("--format", choices=["float16", "float32"], default="float16")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--folder", help="where there is room; default: for temporary files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        folder = Path(folder)
        for name in given.targets:
            sizes = [size // given.scale for size in (ROWS, TEST, VOXELS, TARGETS[name])]
            full = "full" if given.scale == 1 else f"1/{given.scale} of each"
            n, m, p, t = sizes
            case = f"{full}, {name}, {n} x {p} -> {t}, {m} new, Y {given.format}, {given.dtype}"
            fresh(write, folder, sizes, name, given.format)
            floor = None
            for engine in ("gemm", *(e for e in given.engines if e != "gemm")):
                if engine == "gemm":
                    floor = fresh(gemm, folder, name, sizes, given.dtype)
                    told(case, engine, floor)
                elif engine == "engram":
                    found = fresh(engram, folder, name, sizes, given.dtype)
                    more = {"ratio": round(found["cpu_seconds"] / floor["cpu_seconds"], 2)}
                    if given.scale > 1:
                        expected = fresh(reference, folder, name, sizes)
                        apart = np.abs(found["told"] - expected).max() / expected.std()
                        more["error"] = float(f"{apart:.2g}")
                    told(case, engine, found, **more)
                elif importlib.util.find_spec(engine) is None:
                    print(json.dumps({"case": case, "engine": engine, "missing": "not installed"}))
                else:
                    extrapolated(case, engine, folder, name, sizes, given.dtype)
            (folder / f"{name}.h5").unlink()


if __name__ == "__main__":
    main()
