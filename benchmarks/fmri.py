"""Speed and memory of ROI series, their view and their connectomes, beside reading them alone.

The cohort is noise in the HDF5 layout of `roi_cohort`: 1,000 scans of 450 regions and 490 frames in
half precision, a scan a chunk.  Every engine runs alone, on one thread, in a process of its own.

Case view: scans to rows of the view `timeseries` on disk, standardised, in units of 100 scans.
Case fc: these rows to connectomes of 101,025 edges on disk.
Engines: engram; reference, a plain loop over scans that keeps its result in memory (SciPy's zscore,
numpy.corrcoef); reading, the same input read scan by scan and nothing else.

Prints one JSON object a line:
  seconds, cpu_seconds   of all scans
  rate                   scans a second
  peak_mib               most memory of the process: Python and libraries too
  max_abs_diff           largest difference to the reference, over the first scans
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

REGIONS, FRAMES, UNIT = 450, 490, 100
SCANS, QUICK = 1000, 60
CHECKED = 5  # scans that are compared with the reference
DATASET = {
    "kind": "roi_cohort",
    "tr": 0.735,
    "atlases": {"timeseries/cortex": "schaefer400_17n", "timeseries/tian3": "tian_s3"},
}


def simulate(folder, scans):
    """A cohort in files of at most 100 scans."""
    rng = np.random.default_rng(0)
    for unit in range(-(-scans // UNIT)):
        n = min(UNIT, scans - unit * UNIT)
        with h5py.File(folder / f"unit-{unit}.h5", "w") as file:
            parts = [("timeseries/cortex", 400), ("timeseries/tian3", 50)]
            for key, regions in parts:
                shape = (n, regions, FRAMES)
                array = file.create_dataset(key, shape, np.float16, chunks=(1, *shape[1:]))
                for i in range(n):
                    array[i] = rng.standard_normal(shape[1:], np.float32)
            names = [f"sub-{unit * UNIT + i:04d}" for i in range(n)]
            file["long_subject_id"] = np.array(names, "S")


def files(folder):
    return sorted(folder.glob("unit-?.h5")) + sorted(folder.glob("unit-??.h5"))


def scans_of(folder):
    """float32 (roi, time) of every scan, read one by one."""
    for path in files(folder):
        with h5py.File(path) as file:
            cortex, subcortex = (file[key] for key in DATASET["atlases"])
            for i in range(len(cortex)):
                yield np.concatenate([cortex[i], subcortex[i]]).astype(np.float32)


def rows_of(folder):
    """Rows of the rendered views, read one by one."""
    from engram import store

    for path in sorted((folder / "views").glob("*.h5")):
        rows = store.open(path)
        for i in range(len(rows)):
            yield rows[i : i + 1][0]


# ---- engines ------------------------------------------------------------------------------


def view_engram(folder):
    from engram.datasets import read
    from engram.views import render

    (folder / "views").mkdir(exist_ok=True)
    for path in files(folder):
        spec = {
            "dataset": DATASET,
            "unit": path.stem,
            "rows": [{"file": path.name}],
            "windows": "scan",
            "view": {"kind": "timeseries"},
        }
        render(read(spec, [path]), folder / "views" / path.name, spec, {})


def view_reference(folder):
    from scipy.stats import zscore

    return [zscore(scan, axis=-1) for scan in scans_of(folder)]


def view_reading(folder):
    for _ in scans_of(folder):
        pass


def fc_engram(folder):
    from engram.backbones import extract

    (folder / "features").mkdir(exist_ok=True)
    for path in sorted((folder / "views").glob("*.h5")):
        spec = {"backbone": {"kind": "connectome"}}
        extract(path, None, folder / "features" / path.name, spec, {}, "cpu")


def fc_reference(folder):
    upper = np.triu_indices(REGIONS, 1)
    found = []
    for row in rows_of(folder):
        found.append(np.arctanh(np.corrcoef(row)[upper]).astype(np.float32))
    return found


def fc_reading(folder):
    for _ in rows_of(folder):
        pass


ENGINES = {
    f"{case}/{engine}": globals()[f"{case}_{engine}"]
    for case in ("view", "fc")
    for engine in ("engram", "reference", "reading")
}


def difference(case, folder):
    """Largest difference between what is on disk and the reference, over the first scans."""
    from scipy.stats import zscore

    from engram import store

    made = store.open(folder / {"view": "views", "fc": "features"}[case] / "unit-0.h5")[:CHECKED]
    if case == "view":
        expected = [zscore(x, axis=-1) for _, x in zip(made, scans_of(folder), strict=False)]
    else:
        upper = np.triu_indices(REGIONS, 1)
        rows = zip(made, rows_of(folder), strict=False)
        expected = [np.arctanh(np.corrcoef(row)[upper]) for _, row in rows]
    return float(np.abs(made - np.stack(expected)).max())


def measure(name, folder, scans):
    """One engine, in this process."""
    case, _, engine = name.partition("/")
    import scipy.stats  # noqa: F401  what all engines import is not measured

    import engram.backbones.connectome
    import engram.datasets.roi_cohort
    import engram.views.timeseries  # noqa: F401

    cpu, wall = time.process_time(), time.perf_counter()
    ENGINES[name](folder)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "case": case,
        "engine": engine,
        "scans": scans,
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "rate": round(scans / wall, 1),
        "peak_mib": round(peak),
        "max_abs_diff": difference(case, folder) if engine == "engram" else None,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} scans, not {SCANS}")
    parser.add_argument("--folder", type=Path, help="where the scans of this engine lie")
    parser.add_argument("--engine", choices=ENGINES, help="this engine only, in this process")
    arguments = parser.parse_args()
    scans = QUICK if arguments.quick else SCANS
    if arguments.engine:
        print(json.dumps(measure(arguments.engine, arguments.folder, scans)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder), scans)
        for name in ENGINES:
            command = [sys.executable, __file__, "--engine", name, "--folder", folder]
            threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
            subprocess.run(
                command + ["--quick"] * arguments.quick, env={**os.environ, **threads}, check=True
            )


if __name__ == "__main__":
    main()
