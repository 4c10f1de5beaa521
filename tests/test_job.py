"""What surrounds a running job."""

import os
import platform
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from importlib import metadata
from types import SimpleNamespace

import pytest

from engram.errors import InputError
from engram.job import _free, digest

BODY = """
import sys
from types import SimpleNamespace
from engram.errors import InputError
from engram.job import job

class Named(dict):
    def __iter__(self):
        return iter(self.values())

snakemake = SimpleNamespace(
    log=[sys.argv[1]], threads=1, resources={{}}, input=Named(view=sys.argv[2]),
    params=SimpleNamespace(spec={{"sources": [["b", 2], ["a", 1]]}}, get=lambda *_: "m@1 n@2"),
)
with job(snakemake) as run:
    {inside}
"""


@pytest.fixture
def run(tmp_path):
    """Run a job body in a process of its own; gives exit code, console and log."""

    def runs(inside, read=True):
        (tmp_path / "input").write_text("hello")
        command = [sys.executable, "-c", BODY.format(inside=inside)]
        done = subprocess.run(
            [*command, str(tmp_path / "log"), str(tmp_path / "input")],
            capture_output=True,
            text=True,
        )
        return SimpleNamespace(
            code=done.returncode,
            console=done.stdout + done.stderr,
            log=(tmp_path / "log").read_text() if read else None,
        )

    return runs


def test_everything_printed_goes_to_the_log(run):
    done = run("import os; print('python'); os.system('echo below >&2')")
    assert done.code == 0
    assert done.console == ""
    assert set(done.log.split()) == {"python", "below"}


def test_a_mistake_of_the_user_is_one_line(run):
    done = run("raise InputError('a.edf: no channel Oz')")
    assert done.code == 1
    assert done.log == "error: a.edf: no channel Oz\n"
    assert "Traceback" not in done.console


def test_any_other_error_leaves_its_traceback_in_the_log(run):
    done = run("1 / 0")
    assert done.code == 1
    assert "Traceback" in done.log
    assert "ZeroDivisionError" in done.log


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("raise InputError('view.h5: no room')", "error: view.h5: no room\n"),
        ("open('/dev/full', 'w').write('x' * 99999)", ": No space left on device; "),
        ("print('x' * 99999); print('later')", ": No space left on device; "),
    ],
)
def test_a_log_without_room_has_its_last_line_on_the_console(run, tmp_path, inside, said):
    """As when results and logs lie on one disk, which is full."""
    (tmp_path / "log").symlink_to("/dev/full")
    done = run(inside, read=False)
    assert done.code == 1
    assert said in done.console
    assert "Traceback" not in done.console


def test_a_full_disk_is_one_line_whatever_finds_it(run):
    done = run("open('/dev/full', 'w').write('x' * 99999)")
    assert done.code == 1
    (line,) = done.log.splitlines()
    assert line.startswith("error: ")
    assert "No space left on device; " in line
    assert line.endswith(" are free; make room and run again")


def test_where_the_log_has_no_room_libraries_that_log_at_their_end_say_nothing(run, tmp_path):
    """As wandb does in its own log, on the same disk."""
    (tmp_path / "log").symlink_to("/dev/full")
    logs = "import atexit, logging; logging.basicConfig(filename='/dev/full')"
    done = run(f"{logs}; atexit.register(logging.error, 'bye'); raise InputError('x')", read=False)
    assert done.console == "error: x\n"


def test_of_a_copy_that_finds_no_room_it_names_where_that_was(run, tmp_path):
    limited = "import resource, shutil; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    done = run(f"{limited}; shutil.copyfile(sys.executable, {str(tmp_path / 'copy')!r})")
    assert done.log.startswith(f"error: {tmp_path}/copy: File too large; ")


@pytest.mark.parametrize(
    "inside", ["print('x' * 99999)", "open('/dev/full', 'w').write('x' * 9999)"]
)
def test_of_a_full_disk_without_a_name_it_names_the_fullest(run, tmp_path, inside):
    """Nothing is free where /proc is, and a log in it."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)); " + inside
    done = run(f"import os; os.environ['TMPDIR'] = '/proc'; {limited}")
    assert done.code == 1
    assert "error: /proc: " in done.log + done.console
    assert "; 0.0 MiB are free; make room and run again" in done.log + done.console


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (
            "import numpy; numpy.ones((1 << 20, 1 << 20))",
            "Unable to allocate 8.00 TiB for an array",
        ),
        ("import torch; torch.ones(1 << 20, 1 << 20)", "you tried to allocate 4398046511104 bytes"),
        ("import mmap; mmap.mmap(-1, 1 << 46)", "Cannot allocate memory"),
    ],
)
def test_no_memory_is_one_line_that_says_what_to_do(run, inside, said):
    done = run(inside)
    assert done.code == 1
    (line,) = done.log.splitlines()
    assert line.startswith("error: no memory: ")
    assert said in line
    assert line.endswith(
        "or make smaller batches (`batch_size`) or fewer jobs at a time (`--cores`)"
    )


def test_a_log_that_is_not_to_be_written_to_is_one_line(run, tmp_path):
    (tmp_path / "log").symlink_to("/sys/none")
    done = run("print('never')", read=False)
    assert done.code == 1
    (line,) = done.console.splitlines()
    assert line.startswith(f"error: {tmp_path}/log: Permission denied; make its folder writable, ")


def test_a_job_knows_what_made_it(run):
    done = run("print(run.made_by['code'], run.made_by['inputs'], run.device)")
    sha256_of_hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    code, _, inputs = done.log.partition(" {")
    assert code == "['m@1', 'n@2']"
    assert inputs.endswith(f"/input': '{sha256_of_hello}'}} cpu\n")


def test_stores_are_grouped_by_source(run):
    assert run("print(run.grouped(['1', '2', '3']))").log == "{'b': ['1', '2'], 'a': ['3']}\n"


def test_a_job_is_offline_unless_it_fetches(run, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    printed = "import os; print(os.environ.get('HF_HUB_OFFLINE'))"
    assert run(printed).log == "1\n"
    alone = BODY.replace("job(snakemake)", "job(snakemake, offline=False)")
    monkeypatch.setattr(sys.modules[__name__], "BODY", alone)
    assert run(printed).log == "None\n"


def test_a_job_has_the_threads_of_its_rule_and_says_so(run, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "BODY", BODY.replace("threads=1", "threads=3"))
    done = run("import os; print(os.environ['OMP_NUM_THREADS'], run.made_by['threads'])")
    assert done.log == "3 3\n"
    done = run("print(run.made_by['versions']['numpy'], run.made_by['versions']['python'])")
    assert done.log.split() == [metadata.version("numpy"), platform.python_version()]


def test_what_is_printed_after_a_job_does_not_go_to_its_log(run):
    done = run("print('inside')\nprint('after')")
    assert (done.log, done.console) == ("inside\n", "after\n")


def test_gpus_that_another_job_holds_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ExitStack() as first, ExitStack() as second, ExitStack() as third:
        assert _free(["5", "7", "8"], 1, first) == ["5"]
        assert _free(["5", "7", "8"], 2, second) == ["7", "8"]
        with pytest.raises(InputError, match="1 GPUs are asked for, but of 5, 7, 8 0 are free"):
            _free(["5", "7", "8"], 1, third)
        second.close()
        with pytest.raises(InputError, match="3 GPUs are asked for, but of 5, 7, 8 2 are free"):
            _free(["5", "7", "8"], 3, third)
        third.close()
        assert _free(["5", "7", "8"], 1, third) == ["7"]


def test_digest_is_what_sha256sum_prints(tmp_path):
    (tmp_path / "x").write_bytes(os.urandom(100_000))
    printed = subprocess.run(["sha256sum", tmp_path / "x"], capture_output=True, text=True)
    assert digest(tmp_path / "x") == printed.stdout.split()[0]


def test_digest_of_a_folder_is_that_of_the_lines_of_sha256sum(tmp_path):
    folder = tmp_path / "images"
    for name in ("b.jpg", "a/z.jpg", "a/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    command = "sha256sum a/b.jpg a/z.jpg b.jpg | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    assert digest(folder) == printed.stdout.split()[0]
    (folder / "a/b.jpg").rename(folder / "a/c.jpg")
    assert digest(folder) != printed.stdout.split()[0]


@pytest.mark.parametrize(("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_of_pytorch_are_told_to_wait_before_it_is_imported(given, expected):
    code = "import os, sys, engram; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | given
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [expected, "False"]
