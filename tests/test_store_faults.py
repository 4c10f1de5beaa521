"""Stores under real faults: SIGKILL anywhere, two writers at once, a full disk."""

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import forked
import numpy as np
import pandas as pd
import pytest

from engram import store
from engram.errors import InputError

PARTS, PART_ROWS, WIDTH = 40, 32, 512

#: What every process here runs: one store of 40 parts, 2.5 MiB, always the same values.
PRELUDE = f"""
import os, sys, time
import numpy as np, pandas as pd
from engram import store
from engram.errors import InputError

n = {PARTS * PART_ROWS}
array = np.random.default_rng(0).random((n, {WIDTH})).astype(np.float32)
table = pd.DataFrame({{"i": np.arange(n)}}, index=[f"row-{{i:05d}}" for i in range(n)])

def fill(path, pause=0.0, header={{"what": "test"}}):
    written = []
    args = (table, array.shape, array.dtype, header)
    with store.resume(path, *args, part_rows={PART_ROWS}) as parts:
        print("has it", flush=True)
        for start, stop in parts.missing():
            time.sleep(pause)
            parts[start:stop] = array[start:stop]
            written.append(start)
    print("wrote", *written, flush=True)
"""


def start(code, *args, **options):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [forked.python(), "-c", PRELUDE + textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, text=True, **pipes, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of the store, written without any fault, by format."""
    folder = tmp_path_factory.mktemp("whole")
    code = "for path in sys.argv[1:]: fill(path)"
    paths = [folder / "a.h5", folder / "a.zarr"]
    out, err = start(code, *paths).communicate(timeout=60)
    assert (out.count("wrote 0 32 64"), err) == (2, "")
    return {path.suffix: path.read_bytes() for path in paths}


@pytest.fixture(params=[".h5", ".zarr"])
def path(request, tmp_path):
    return tmp_path / f"a{request.param}"


def sound(path, whole):
    """The store has the bytes of an undisturbed run, and nothing else lies beside it."""
    assert path.read_bytes() == whole[path.suffix]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# ---- SIGKILL --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nursery():
    """Starts processes that fill a store, quickly: each is forked from one that imported all.

    Call it with a path; it gives the process id.  `nursery.wait()` gives the exit status.
    """
    code = """
    import h5py, zarr
    for path in sys.stdin:
        child = os.fork()
        if not child:
            fill(path.strip(), 0.002)
            os._exit(0)
        print("child", child, flush=True)
        print("status", os.waitpid(child, 0)[1], flush=True)
    """
    process = start(code)

    def answer(word):
        for line in process.stdout:
            if line.startswith(word):
                return int(line.split()[1])
        raise AssertionError(process.stderr.read())

    def run(path):
        print(path, file=process.stdin, flush=True)
        return answer("child")

    run.wait = lambda: answer("status")
    yield run
    process.stdin.close()
    process.wait(timeout=10)
    process.stdout.close(), process.stderr.close()


def killed(nursery, path, reached, delay):
    """Kill a run `delay` seconds after `reached()`; whether the store is still unfinished."""
    child = nursery(path)
    late = time.monotonic() + 30
    while not reached() and not path.exists():
        assert time.monotonic() < late
        time.sleep(0.0005)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    nursery.wait()
    return not path.exists()


@pytest.mark.parametrize("attempt", range(10))
def test_kill_minus_nine_anywhere_gives_the_same_bytes(path, whole, nursery, attempt):
    rng = random.Random(attempt)
    folder = path.with_name(path.name + ".parts")
    parts, assembling = rng.randrange(PARTS), attempt % 2

    def reached():
        pattern = f"{path.name}.*.partial" if assembling else "*.npy"
        return len(list(folder.glob(pattern))) >= (1 if assembling else parts)

    while not killed(nursery, path, reached, rng.uniform(0, 0.003)):
        path.unlink()  # it was faster
    left = len(list(folder.glob("*.npy")))
    assert left == PARTS if assembling else left >= parts
    nursery(path)
    assert nursery.wait() == 0
    sound(path, whole)


# ---- two writers ----------------------------------------------------------------------


HOLD = """
args = (table, array.shape, array.dtype, {"what": "test"})
with store.resume(sys.argv[1], *args, part_rows=32) as parts:
    parts[0:32] = array[:32]
    print("holds it", flush=True)
    sys.stdin.readline()
    for start, stop in parts.missing():
        parts[start:stop] = array[start:stop]
"""


def test_the_second_writer_waits_and_uses_what_the_first_wrote(path, whole):
    first = start(HOLD, path)
    assert first.stdout.readline() == "holds it\n"
    second = start("fill(sys.argv[1])", path)
    line = second.stderr.readline()
    assert line == f"{path}: waiting for another process that writes it\n"
    assert not path.exists()
    assert first.communicate("go\n", timeout=30)[1] == ""
    made = path.stat()
    assert second.communicate(timeout=30) == ("has it\nwrote\n", "")
    assert (first.returncode, second.returncode) == (0, 0)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    sound(path, whole)


def test_the_second_writer_goes_on_where_the_first_was_killed(path, whole):
    first = start(HOLD, path)
    assert first.stdout.readline() == "holds it\n"
    second = start("fill(sys.argv[1])", path)
    assert "waiting" in second.stderr.readline()
    first.kill()
    first.communicate(timeout=30)
    out, err = second.communicate(timeout=30)
    assert (second.returncode, err) == (0, "")
    assert out.splitlines()[1].split()[:3] == ["wrote", "32", "64"]
    sound(path, whole)


def test_of_many_writers_at_once_one_writes(path, whole):
    writers = [start("fill(sys.argv[1], 0.001)", path) for _ in range(5)]
    out = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 5
    assert sorted(len(text.splitlines()[1].split()) for text in out) == [1] * 4 + [1 + PARTS]
    sound(path, whole)


def small(path, header, value=0.0, width=3):
    """Resume a store of 4 rows; the ranges that were missing."""
    table = pd.DataFrame({"x": [0.0, np.nan, 1.0, 2.0]}, index=list("abcd"))
    with store.resume(path, table, (4, width), np.float32, header, part_rows=2) as parts:
        missing = parts.missing()
        for start, stop in missing:
            parts[start:stop] = np.random.default_rng(start).random((2, width)) + value
    return missing


def test_a_finished_store_is_finished_and_another_is_not(path):
    everything = [(0, 2), (2, 4)]
    assert small(path, {"a": 1}) == everything
    made = path.stat().st_ino, path.stat().st_mtime_ns
    assert small(path, {"a": 1}) == []
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == made
    assert small(path, {"a": 2}) == everything
    assert store.open(path).header == {"a": 2}
    assert small(path, {"a": 2, "b": 3}) == everything
    assert small(path, {"b": 3, "a": 2}) == []
    assert small(path, {"a": 2}, width=4) == everything
    assert small(path, {"a": 2}) == everything
    path.write_bytes(path.read_bytes()[:-100])
    assert small(path, {"a": 2}) == everything
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("at", [-1, -5, -24])
def test_a_part_with_a_flipped_byte_is_written_again(path, at):
    table = pd.DataFrame(index=list("abcd"))
    values = np.random.default_rng(0).random((4, 3)).astype(np.float32)

    def filled(fails):
        with store.resume(path, table, (4, 3), np.float32, {}, part_rows=2) as parts:
            missing = parts.missing()
            for start, stop in missing:
                parts[start:stop] = values[start:stop]
            if fails:
                raise KeyboardInterrupt
        return missing

    with pytest.raises(KeyboardInterrupt):
        filled(True)
    part = sorted(path.with_name(path.name + ".parts").glob("*.npy"))[0]
    damaged = bytearray(part.read_bytes())
    damaged[at] ^= 1
    part.write_bytes(damaged)
    assert filled(False) == [(0, 2)]
    np.testing.assert_array_equal(store.open(path)[:], values)


@pytest.mark.parametrize("changed", ["index", "column", "dtype", "header", "shape"])
def test_parts_of_another_table_header_dtype_or_shape_are_not_used(path, changed):
    table = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]}, index=list("abcd"))

    def filled(table, header, dtype, width, fails):
        with store.resume(path, table, (4, width), dtype, header, part_rows=2) as parts:
            missing = parts.missing()
            for start, stop in missing:
                parts[start:stop] = np.ones((2, width))
            if fails:
                raise KeyboardInterrupt
        return missing

    with pytest.raises(KeyboardInterrupt):
        filled(table, {"a": 1}, np.float32, 3, True)
    other = {
        "index": table.rename(index={"a": "e"}),
        "column": table.assign(x=[9.0, 1.0, 2.0, 3.0]),
    }
    missing = filled(
        other.get(changed, table),
        {"a": 2 if changed == "header" else 1},
        np.float64 if changed == "dtype" else np.float32,
        2 if changed == "shape" else 3,
        False,
    )
    assert missing == ([(0, 2)] if changed in other else [(0, 2), (2, 4)])


def test_write_always_writes(path):
    small(path, {})
    before = store.open(path).load()
    store.write(path, store.Rows(before.array + 1, before.table, before.header))
    np.testing.assert_array_equal(store.open(path)[:], before.array + 1)


def test_what_killed_runs_left_is_removed(path):
    """A stale lock, a file that was never renamed, and parts of a store that was finished."""
    folder, lock = (path.with_name(path.name + suffix) for suffix in (".parts", ".lock"))
    small(path, {})
    made = path.stat().st_ino
    folder.mkdir()
    (folder / f"{path.name}.1.partial").write_text("half")
    (folder / "000000000.0.npy").write_text("half")
    lock.touch()
    assert small(path, {}) == []
    assert path.stat().st_ino == made
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_system_without_locks_is_written_with_a_warning(path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert small(path, {}) == [(0, 2), (2, 4)]
    assert capsys.readouterr().err == (
        f"warning: {path}: this file system has no locks; write it by one process only\n"
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# ---- a full disk ----------------------------------------------------------------------


REFUSED = """
try:
    fill(sys.argv[1])
except InputError as error:
    print("refused:", error)
    sys.exit(1)
"""


@pytest.mark.parametrize(
    ("limit", "needed", "parts"), [(50_000, "0.1 MiB", 0), (1_000_000, "2.8 MiB", PARTS)]
)
def test_a_file_that_may_not_grow_keeps_finished_parts(path, whole, limit, needed, parts):
    """The operating system refuses the write itself, of a part and of the assembled file."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    process = start(code + REFUSED, path)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "")
    refused = out.splitlines()[-1]
    assert refused.startswith(f"refused: {path}: File too large; {needed} are needed and ")
    assert refused.endswith("are free; finished parts are kept: make room and run again")
    folder = path.with_name(path.name + ".parts")
    assert [p.name for p in path.parent.iterdir()] == [folder.name]
    assert len(list(folder.glob("*.npy"))) == parts
    assert not list(folder.glob("*.partial"))
    assert start("fill(sys.argv[1])", path).communicate(timeout=30)[1] == ""
    sound(path, whole)


def private_mounts():
    """The command that runs another one where it may mount, if this user can."""
    for command in (["unshare", "-rm"], ["unshare", "-m"]):
        test = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if shutil.which("unshare") and not subprocess.run(test, capture_output=True).returncode:
            return command
    return None


@pytest.mark.parametrize(("size", "needed"), [(1, "0.1 MiB"), (4, "2.8 MiB")])
def test_a_full_disk_keeps_finished_parts(tmp_path, path, whole, size, needed):
    """On a disk of `size` MiB; it then grows and the same run goes on.

    Who may not mount one has the limit of file sizes, above, for the same two failures.
    """
    mounts = private_mounts()
    if mounts is None:
        return
    script = """
    mount -t tmpfs -o size="$1"m tmpfs "$2" || exit 9
    "$4" -c "$5" "$2/$3"; echo "rc $?"; ls "$2"
    mount -o remount,size=64m "$2"
    "$4" -c "$6" "$2/$3"; echo "rc $?"; ls "$2"
    cp "$2/$3" "$2.copy"
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    code = [PRELUDE + REFUSED, PRELUDE + "fill(sys.argv[1])"]
    command = [*mounts, "sh", "-c", script, "sh", str(size), disk, path.name, sys.executable, *code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    lines = [line for line in run.stdout.splitlines() if not line.startswith("has it")]
    assert lines[0].startswith(f"refused: {disk / path.name}: No space left on device; {needed} ")
    assert lines[1:3] == ["rc 1", f"{path.name}.parts"]
    assert lines[3].startswith("wrote")
    assert lines[4:] == ["rc 0", path.name]
    assert (tmp_path / "disk.copy").read_bytes() == whole[path.suffix]


def test_a_disk_that_is_too_small_for_a_whole_store(path, monkeypatch):
    table = pd.DataFrame(index=["a"])
    usage = shutil.disk_usage(path.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"0.1 MiB are needed and 0.0 MiB are free; make room"):
        store.write(path, store.Rows(np.ones((1, 2), np.float32), table, {}))
    assert list(path.parent.iterdir()) == []
