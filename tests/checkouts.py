"""A copy of the repository in which a test runs Snakemake as a user does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked

ROOT = Path(__file__).parents[1]
COPIED = ("Snakefile", "config", "workflow", "profiles", "envs", "src")
SNAKEMAKE = Path(sys.executable).with_name("snakemake")


def copy(folder):
    """Copy what a study needs into a folder; return the folder."""
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    return folder


def snakemake(folder, *arguments, environment=os.environ, python=None):
    """Run Snakemake in a folder; the finished process with all that it printed in `stdout`.

    Args:
        python: the interpreter of Snakemake and its jobs, by default a fork of one that has
            imported the libraries.
    """
    return subprocess.run(
        [python or forked.python(), SNAKEMAKE, *arguments],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
