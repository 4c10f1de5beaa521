"""A small study where a run cannot go on: what Snakemake itself ends with, in a line of ours."""

import os
import re
import shutil
import subprocess
import sys

import checkouts
import pytest
from test_store_faults import private_mounts

from engram import cli

STUDY = """
study: few
run: [eeg]
datasets:
  few: {kind: simulated_vigilance, units: [sub-01], files: ["{unit}.npz"], scans: 1, duration: 120,
        windows: {length: 30, step: 15}}
experiments:
  eeg: {dataset: few, x: spectrogram/bandpower, y: state, head: linear, baseline: none, seeds: 1}
"""
LABELS = "results/views/few/sub-01/state.h5"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = checkouts.copy(tmp_path_factory.mktemp("checkout"))
    (folder / "few.yaml").write_text(STUDY)
    return folder


def snakemake(folder, *arguments):
    given = (LABELS, "--cores", "1", "--configfile", "few.yaml", *arguments)
    return checkouts.snakemake(folder, *given)


def refused(done):
    """The line that ends a run which never began a job."""
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert "Execute" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    return line


def test_a_checkout_whose_path_holds_braces_is_refused(checkout, tmp_path):
    there = tmp_path / "a {x}"
    shutil.copytree(checkout, there)
    line = refused(snakemake(there, "--dry-run"))
    assert line.startswith(f"error: {there}: Snakemake takes what stands in braces ")


def read_only(folder):
    """A run in a checkout whose `folder` is not to be written to."""
    command = [sys.executable, checkouts.SNAKEMAKE, LABELS, "--cores", "1"]
    command += ["--configfile", "few.yaml"]
    script = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; shift; cd "$1"; shift; "$@"'
    if os.getuid():
        folder.chmod(0o555)
        wrapped = []
    elif mounts := private_mounts():
        wrapped = [*mounts, "sh", "-c", script, "sh", folder, folder.parent]
    else:
        pytest.skip("neither permissions nor mounts hold this user back")
    try:
        return subprocess.run(
            [*wrapped, *command],
            cwd=folder.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("folder", ["results", ".snakemake"])
def test_a_folder_that_is_not_to_be_written_to_ends_the_run_before_its_first_job(checkout, folder):
    (checkout / folder).mkdir(exist_ok=True)
    line = refused(read_only(checkout / folder))
    assert line.startswith(f"error: {folder}: ")
    assert line.endswith("or write to another folder (`--directory` of snakemake, `-o` of engram)")


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("/sys/none", "/sys/none: (Operation not permitted|Permission denied); make its folder "),
        ("few.yaml/there", "few.yaml/there: a file is there, or above it; name another folder"),
    ],
)
def test_a_command_that_cannot_make_its_folder_says_so(checkout, monkeypatch, capsys, folder, said):
    monkeypatch.chdir(checkout)
    assert cli.main(["check", "few.yaml", "--jobs", "1", "--quick", "-o", folder]) == 1
    assert re.search(f"^error: {said}", capsys.readouterr().err, re.MULTILINE)


def test_a_job_that_is_killed_is_said_with_what_to_do(checkout, tmp_path):
    shutil.copytree(checkout, tmp_path, dirs_exist_ok=True)
    script = tmp_path / "workflow/scripts/render.py"
    script.write_text("import os\nos.kill(os.getpid(), 9)\n")
    done = snakemake(tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: a job of rule render was killed, as the system does ")
    assert "`--resources mem_mb=N`" in line
    assert not (tmp_path / LABELS).exists()
