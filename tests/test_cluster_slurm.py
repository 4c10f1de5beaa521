"""A small study on a SLURM that runs here; left out where none does, and `.ci/run` says so."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys

import checkouts
import pytest

from engram import cli, store

PLUGIN = "snakemake_executor_plugin_slurm"
STUDY = """
study: few
run: [eeg]
datasets:
  few:
    kind: simulated_vigilance
    units: [sub-01, sub-02, sub-03]
    files: ["{unit}.npz"]
    windows: {length: 30, step: 15}
    scans: 1
    duration: 120
experiments:
  eeg: {dataset: few, x: spectrogram/bandpower, y: state, head: linear, baseline: none, seeds: 1}
"""


def runs_jobs():
    """Whether there is a SLURM here that runs a job now."""
    job = ("srun", "-n1", "--immediate=15", "true")
    return shutil.which("srun") and not subprocess.run(job, capture_output=True).returncode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout with a profile of the SLURM here that looks often."""
    if not importlib.util.find_spec(PLUGIN) or not runs_jobs():
        pytest.skip(f"no SLURM that runs jobs, or no {PLUGIN}; see tests/slurm.sh")
    folder = checkouts.copy(tmp_path_factory.mktemp("cluster"))
    (folder / "few.yaml").write_text(STUDY)
    assert not cli.main(["cluster", "-o", str(folder / "site"), "--batch", "3"])
    return folder


def snakemake(folder, *arguments):
    quick = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")
    given = ("--workflow-profile", "site", "--configfile", "few.yaml", *quick, "--verbose")
    paths = os.pathsep.join([str(folder / "src"), *sys.path])  # the plugin need not be installed
    environment = os.environ | {"PYTHONPATH": paths}
    return checkouts.snakemake(
        folder, *arguments, *given, environment=environment, python=sys.executable
    )


def submitted(printed):
    """What each submission asked of SLURM."""
    return re.findall(r"sbatch call: sbatch .*? (-p \S+ .*?) -D ", printed)


def test_what_no_node_has_is_said_and_nothing_is_submitted(folder):
    done = snakemake(folder, "--set-resources", "train:mem_mb=90000000")
    assert done.returncode == 1
    assert "rule train can never start: it asks for 90000000 MB of memory" in done.stdout
    assert "set-resources: [train:mem_mb=" in done.stdout
    assert submitted(done.stdout) == []


def test_small_jobs_are_batched_and_a_job_killed_for_memory_asks_for_more(folder):
    wanted = "results/few/predictions/eeg.h5"
    done = snakemake(folder, wanted, "--set-resources", "train:mem_mb=30 if attempt == 1 else 3000")
    assert done.returncode == 0, done.stdout[-4000:]
    calls = submitted(done.stdout)
    # 6 of render, 3 of extract, 1 of train, killed and made again: 11 jobs
    assert len(calls) == 5, calls
    assert [re.search(r"--mem (\d+)", call)[1] for call in calls[-2:]] == ["30", "3000"]
    assert len(store.open(folder / wanted)) > 0
