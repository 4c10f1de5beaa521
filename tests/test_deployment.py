"""The workflow from another folder: as a module with a configuration of its own."""

import os
import re
import shutil
import sys

import checkouts
import pytest
import yaml
from checkouts import ROOT

from engram import store

MODULE = f"""
configfile: "config/config.yaml"

module engram:
    snakefile: "{ROOT}/workflow/Snakefile"
    config: config

use rule * from engram
"""
CONFIG = """
study: mine
run: [clip]
datasets:
  few:
    kind: simulated_vigilance
    units: [sub-01, sub-02, sub-03]
    files: ["{unit}.npz"]
    windows: {length: 30, step: 15}
    scans: 1
    duration: 120
  published:
    kind: simulated_vigilance
    units: [sub-01]
    files: ["{unit}.npz"]
    windows: {length: 30, step: 15}
    source: {http: [{url: "https://example.org/sub-01.npz"}]}
experiments:
  clip: {dataset: few, x: spectrogram/clip_random, y: state, head: linear, baseline: none, seeds: 1}
"""


@pytest.fixture
def folder(tmp_path):
    """A user's folder: a configuration of its own, the workflow as a module."""
    for path, text in {"workflow/Snakefile": MODULE, "config/config.yaml": CONFIG}.items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text)
    return tmp_path


def snakemake(folder, *arguments, python=None):
    """Run Snakemake as a user does who has not installed the package; return what it printed."""
    environment = {key: os.environ[key] for key in os.environ if key != "PYTHONPATH"}
    given = ("--cores", "1", *arguments)
    done = checkouts.snakemake(folder, *given, environment=environment, python=python)
    assert done.returncode == 0, done.stdout
    return done.stdout


def outputs(printed):
    return {path for line in re.findall(r"output: (.*)", printed) for path in line.split(", ")}


def test_a_module_knows_the_vocabulary_and_makes_everything_in_the_folder(folder):
    made = outputs(snakemake(folder, "--dry-run"))
    assert "results/mine/report.html" in made
    assert "results/features/few/sub-01/spectrogram/clip_random.h5" in made
    assert all(path.startswith(("results/", "resources/")) for path in made)
    view = "results/views/few/sub-01/state.h5"
    snakemake(folder, view, python=sys.executable)  # jobs, too, import everything themselves
    assert store.open(folder / view).header["classes"] == ["drowsy", "alert"]
    listed = outputs(snakemake(folder, "--dry-run", "results/views/published/sub-01/state.h5"))
    assert "config/locks/published.csv" in listed


def test_the_workflow_starts_with_the_configuration_of_the_folder(folder):
    made = outputs(snakemake(folder, "--dry-run", "--snakefile", ROOT / "workflow/Snakefile"))
    assert "results/mine/report.html" in made
    assert not any("simulated" in path for path in made)


def test_the_small_study_of_the_repository_starts(tmp_path):
    shutil.copytree(ROOT / ".test/config", tmp_path / "config")
    made = outputs(snakemake(ROOT, "--dry-run", "--directory", tmp_path))
    assert "results/features/tiny/sub-01/spectrogram/tiny_vit.h5" in made
    assert "results/demo/report.html" in made


def test_the_catalog_is_told_what_it_asks_for():
    """The keys that the catalog of Snakemake workflows reads, and the files it looks for."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert usage["software-stack-deployment"]["conda"] in (True, False)
    assert all((ROOT / path).is_file() for path in ("workflow/Snakefile", "config/README.md"))
