"""How long planning takes, beside a bare Snakemake workflow of the same jobs.

    python benchmarks/planning.py [--jobs 1000] [--jobs 10000] [--engine engram]

Prints one JSON object a line: case, engine, seconds, cpu_seconds, rate (jobs or lines a CPU
second), peak_mib.  Cases: `snakemake -n` of a study of many simulated units and of one of many
experiments on local recordings; the same of the smallest study once it has finished (`--touch`);
a manifest of 100,000 lines.  The reference has the same rules, files, wildcards and edges, read
from a table, and params and resources that are constants; for the manifest it is `csv.DictReader`.
Each measurement runs in a process of its own.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from engram.planning.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("engram", "reference")
VIEWS = [f"view{i}" for i in range(4)]
BACKBONES = [f"bands{i}" for i in range(3)]
SOURCES = [f"{view}/{backbone}" for view in VIEWS for backbone in BACKBONES]
LOCAL_UNITS, SCANS = 10, 5
LINES = 100_000

#: Snakemake, without the pause in which `--touch` lets a clock of whole seconds move on.
SNAKEMAKE = """
from snakemake.cli import main
from snakemake.executors.touch import Executor
Executor.SLEEPING_TIME = 0.001
main()
"""

MANIFEST = {
    "engram": "from engram.planning.plan import Plan; "
    "plan = Plan({'datasets': {'many': {'manifest': 'manifest.csv'}}}); "
    "assert sum(len(plan.rows('many', unit)) for unit in plan.units('many')) == %d",
    "reference": "import csv; assert len(list(csv.DictReader(open('manifest.csv')))) == %d",
}

REFERENCE = """
import json

TABLE = json.load(open("table.json"))


def of(what, wildcard):
    return lambda wildcards: TABLE[what][wildcards[wildcard]]


wildcard_constraints:
    shelf="raw|weights",
    name="[^/]+",
    dataset=TABLE["dataset"],
    view="|".join(TABLE["views"]),
    backbone="|".join(TABLE["backbones"]),
    experiment="|".join(TABLE["x"]),
    unit="[^/]+",


rule all:
    input: "results/many/report.html"
    localrule: True


rule download:
    output: update("resources/{shelf}/{name}/{file}")
    log: "results/logs/download/{shelf}/{name}/{file}.log"
    localrule: True
    resources: connections=0
    params: spec="spec", code="code", lock="lock"
    script: "reference.py"


rule render:
    input: of("raw", "unit")
    output: "results/views/{dataset}/{unit}/{view}.h5"
    log: "results/logs/render/{dataset}/{unit}/{view}.log"
    benchmark: "results/benchmarks/render/{dataset}/{unit}/{view}.tsv"
    resources: mem_mb=6000, runtime="1h"
    params: spec="spec", code="code"
    script: "reference.py"


rule extract:
    input: "results/views/{dataset}/{unit}/{view}.h5"
    output: multiext("results/features/{dataset}/{unit}/{view}/{backbone}", f=".h5", c=".json")
    log: "results/logs/extract/{dataset}/{unit}/{view}/{backbone}.log"
    cache: True
    threads: 8
    resources: gpu=0, mem_mb=8000, runtime="4h"
    params: spec="spec", code="code"
    script: "reference.py"


rule train:
    input: x=of("x", "experiment"), y=of("y", "experiment")
    output: "results/many/models/{experiment}.safetensors", \
        "results/many/predictions/{experiment}.h5", "results/many/latents/{experiment}.h5"
    log: "results/many/logs/train/{experiment}.log"
    benchmark: "results/many/benchmarks/train/{experiment}.tsv"
    threads: 8
    resources: gpu=0, mem_mb=8000, runtime="4h"
    params: spec="spec", code="code"
    script: "reference.py"


rule evaluate:
    input: "results/many/predictions/{experiment}.h5", of("baseline", "experiment"), \
        of("probed", "experiment")
    output: "results/many/scores/{experiment}.json"
    log: "results/many/logs/evaluate/{experiment}.log"
    benchmark: "results/many/benchmarks/evaluate/{experiment}.tsv"
    resources: mem_mb=4000, runtime="1h"
    params: spec="spec", code="code"
    script: "reference.py"


rule plot_classes:
    input: "results/many/scores/{experiment}.json", "results/many/predictions/{experiment}.h5", \
        of("pictures", "experiment")
    output: *expand("results/many/figures/{{experiment}}/{name}", name=TABLE["figures"]), \
        "results/many/figures/{experiment}/events"
    log: "results/many/logs/plot/{experiment}.log"
    resources: mem_mb=4000, runtime="30m"
    params: spec="spec", code="code"
    script: "reference.py"


rule report:
    input: expand("results/many/scores/{e}.json", e=TABLE["x"]), \
        expand("results/many/predictions/{e}.h5", e=TABLE["x"]), \
        expand("results/many/figures/{e}/{name}", e=TABLE["x"], name=TABLE["figures"])
    output: "results/many/report.html"
    log: "results/many/logs/report.log"
    localrule: True
    params: spec="spec", code="code"
    script: "reference.py"
"""


def units_study(jobs):
    """Simulated subjects: a download, views and features each; an experiment a source."""
    count = max(1, (jobs - 3 * len(SOURCES) - 2) // (2 + len(VIEWS) + len(SOURCES)))
    dataset = {
        "kind": "simulated_vigilance",
        "units": [f"sub-{i:05d}" for i in range(count)],
        "files": ["{unit}.npz"],
    }
    return study(dataset, len(SOURCES))


def experiments_study(jobs):
    """Ten subjects with local recordings; three jobs an experiment."""
    count = (jobs - LOCAL_UNITS * (1 + len(VIEWS) + len(SOURCES)) - 2) // 3
    dataset = {"kind": "eeg_recordings", "folder": "recordings", "manifest": "manifest.csv"}
    return study(dataset, max(len(SOURCES), count))


STUDIES = {"units": units_study, "experiments": experiments_study}


def study(dataset, experiments):
    names = [f"experiment{i:05d}" for i in range(experiments)]
    views = {
        view: {"kind": "multitaper", "signal": "eeg", "fmax": 30.0 + i}
        for i, view in enumerate(VIEWS)
    }
    return {
        "study": "many",
        "run": names,
        "maps": [],
        "datasets": {"many": {**dataset, "windows": {"length": 30, "step": 15}}},
        "views": {**views, "state": {"kind": "annotations", "classes": ["drowsy", "alert"]}},
        "backbones": {
            name: {"kind": "bandpower", "bands": {"all": [1, 10 + i]}}
            for i, name in enumerate(BACKBONES)
        },
        "heads": {"linear": {"kind": "linear"}},
        "experiments": {
            name: {
                "dataset": "many",
                "x": SOURCES[i % len(SOURCES)],
                "y": "state",
                "head": "linear",
                "seeds": 1 + i // len(SOURCES),
                "baseline": names[0] if i else "none",
            }
            for i, name in enumerate(names)
        },
    }


def prepare(folder, config):
    """Lay out what both engines need: configuration, raw files, the table of the reference."""
    folder.mkdir()
    (folder / "config").symlink_to(ROOT / "config")
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    write_manifest(folder / "manifest.csv", LOCAL_UNITS * SCANS)
    (folder / "recordings").mkdir()
    for row in csv.DictReader((folder / "manifest.csv").open()):
        (folder / "recordings" / row["file"]).touch()
    where = Path.cwd()
    os.chdir(folder)
    plan = Plan(config)
    table = {
        "dataset": "many",
        "views": [*VIEWS, "state"],
        "backbones": BACKBONES,
        "figures": list(plan.of_task(config["run"][0], "FIGURES").values()),
        "raw": {unit: plan.raw("many", unit) for unit in plan.units("many")},
        "x": {name: plan.x(name) for name in config["run"]},
        "y": {name: plan.y(name) for name in config["run"]},
        "probed": {name: plan.probed(name) for name in config["run"]},
        "pictures": {name: plan.pictures(name) for name in config["run"]},
        "baseline": {name: plan.baseline_predictions(name) for name in config["run"]},
    }
    os.chdir(where)
    (folder / "table.json").write_text(json.dumps(table))
    (folder / "reference.smk").write_text(REFERENCE)
    (folder / "reference.py").touch()


def write_manifest(path, lines):
    rows = [f"sub-{i // SCANS:05d},scan-{i % SCANS},{i:06d}.edf,awake\n" for i in range(lines)]
    path.write_text("subject,scan,file,state\n" + "".join(rows))


def snakemake(engine, folder, *arguments):
    """Run Snakemake with an engine; what `measured` gives."""
    file = ROOT / "Snakefile" if engine == "engram" else folder / "reference.smk"
    command = ["-c", SNAKEMAKE, "--snakefile", file, *arguments]
    command += ["--workflow-profile", ROOT / "profiles/default"]
    command += ["--configfile", "study.yaml"] if engine == "engram" else []
    return measured(folder, command)


def measured(folder, arguments):
    """Run Python in a folder; its figures and what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with tempfile.TemporaryFile("w+") as output:
        wall = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - wall
        output.seek(0)
        text = output.read()
    if status:
        raise SystemExit(text[-2000:])
    figures = {
        "seconds": round(wall, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mib": used.ru_maxrss // 1024,
    }
    return figures, text


def show(case, engine, count, figures):
    rate = round(count / figures["cpu_seconds"])
    print(json.dumps({"case": case, "engine": engine, **figures, "rate": rate}), flush=True)


def planned(text):
    """Jobs that a dry run lists."""
    return int(re.search(r"^total +(\d+)$", text, re.MULTILINE)[1])


def measure_study(case, config, engines, folder, finish):
    """A dry run of a study, and one more when it has finished, if `finish` says so."""
    counts = {}
    for engine in engines:
        here = folder / engine
        prepare(here, config)
        figures, text = snakemake(engine, here, "-n")
        counts[engine] = planned(text)
        show(f"-n, {case}", engine, counts[engine], figures)
        if finish:
            create_outputs(here, text)
            snakemake(engine, here, "--touch", "--cores", "1")
            figures, text = snakemake(engine, here, "-n")
            if "Nothing to be done" not in text:
                raise SystemExit(text[-2000:])
            show(f"no-op, {case}", engine, counts[engine], figures)
    if len(set(counts.values())) > 1:
        raise SystemExit(f"the engines plan different jobs: {counts}")


def create_outputs(folder, text):
    """Empty files in place of all outputs that a dry run lists."""
    for line in re.findall(r"^ {4}output: (.*)$", text, re.MULTILINE):
        for path in line.split(", "):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()


def measure_manifest(engines, folder):
    write_manifest(folder / "manifest.csv", LINES)
    for engine in engines:
        figures, _ = measured(folder, ["-c", MANIFEST[engine] % LINES])
        show(f"manifest, {LINES} lines", engine, LINES, figures)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, action="append", help="by default 1000 and 10000")
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--study", choices=STUDIES, action="append")
    given = parser.parse_args()
    engines, sizes = given.engine or ENGINES, given.jobs or [1_000, 10_000]
    with tempfile.TemporaryDirectory() as folder:
        measure_manifest(engines, Path(folder))
        for jobs in sizes:
            for name in given.study or STUDIES:
                here = Path(folder) / f"{name}-{jobs}"
                here.mkdir()
                case, config = f"{name}, {jobs} jobs", STUDIES[name](jobs)
                measure_study(case, config, engines, here, finish=jobs == min(sizes))


if __name__ == "__main__":
    main()
