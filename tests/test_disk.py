"""Files that are whole or absent: killed writers, writers side by side, disks without room."""

import os
import signal
import subprocess
import sys
import time

import forked
import pytest
from test_store_faults import private_mounts

from engram.disk import ABANDONED, held, refusal, replaced
from engram.errors import InputError

HOLD = """
import sys
from engram.disk import replaced
with replaced(sys.argv[1]) as temporary:
    temporary.write_text("of the first")
    print("holds", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path):
    """A name that holds what is special in patterns."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    return folder / "scores [1] {x} 'é.json"


@pytest.fixture
def holder(path):
    """A process in the middle of writing the file."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def names(path):
    return sorted(one.name for one in path.parent.iterdir())


def write(path, text="of the second"):
    with replaced(path) as temporary:
        temporary.write_text(text)


def test_what_a_killed_writer_left_is_removed_by_the_next(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    (left,) = names(path)
    beside = path.with_name(left.replace("scores", "other scores"))
    beside.write_text("of another file")
    write(path)
    assert names(path) == sorted([beside.name, path.name])
    assert path.read_text() == "of the second"


def test_what_a_running_writer_has_written_stays(path, holder):
    write(path)
    assert path.read_text() == "of the second"
    holder.communicate("go on\n")
    assert holder.returncode == 0
    assert path.read_text() == "of the first"
    assert names(path) == [path.name]


def test_what_another_machine_has_not_touched_for_a_day_is_removed(path):
    left, fresh = (path.with_name(f"{path.name}.node{i}-1.partial") for i in (1, 2))
    left.touch(), fresh.touch()
    os.utime(left, times=(time.time() - ABANDONED - 60,) * 2)
    write(path)
    assert names(path) == sorted([path.name, fresh.name])


WRITERS = {
    "text": "open(temporary, 'w').write('x' * 9999)",
    "safetensors": "safetensors.numpy.save_file({'a': np.ones(9999)}, temporary)",
    "picture": "pyplot.plot([1]); pyplot.savefig(temporary, format='svg')",
    "hdf5": "with h5py.File(temporary, 'w') as file: file['a'] = np.ones(9999)",
    "table": "pd.DataFrame(np.ones((999, 9))).to_csv(temporary)",
}
LIMITED = """
import resource, sys
import h5py, safetensors.numpy
import numpy as np
import pandas as pd
from matplotlib import pyplot
from engram.disk import replaced
from engram.errors import InputError
pyplot.figure()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with replaced(sys.argv[1]) as temporary:
        {writes}
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_writes_a_file_that_finds_no_room_it_is_one_line(path, writer):
    """The operating system refuses the write, and each library says so in its own words."""
    path.write_text("earlier")
    command = [forked.python(), "-c", LIMITED.format(writes=WRITERS[writer]), path]
    done = subprocess.run(command, capture_output=True, text=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{path}: File too large; ")
    assert line.endswith(" are free; make room and run again")
    assert "Traceback" not in done.stderr
    assert names(path) == [path.name]
    assert path.read_text() == "earlier"


def test_other_errors_stay_what_they_are(path):
    assert refusal(ValueError("no number")) is None
    with pytest.raises(FileNotFoundError), replaced(path):
        open("/there/is/no/such/file")
    assert names(path) == []


@pytest.mark.parametrize("door", [replaced, held])
def test_a_folder_that_is_not_to_be_written_to_is_one_line(path, door):
    """On a disk that is mounted read-only; who may not mount one is held by permissions."""
    write(path, "earlier")
    if os.getuid():
        path.parent.chmod(0o555)
        with (
            pytest.raises(InputError, match="Permission denied; make its folder writable, or "),
            door(path),
        ):
            pass
        path.parent.chmod(0o755)
    elif mounts := private_mounts():
        script = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; "$3" -c "$4" "$2"'
        code = f"import sys; from engram.disk import {door.__name__} as door\n"
        code += "with door(sys.argv[1]): pass"
        command = [*mounts, "sh", "-c", script, "sh", path.parent, path, sys.executable, code]
        done = subprocess.run(command, capture_output=True, text=True)
        last = done.stderr.splitlines()[-1]
        assert f"InputError: {path}: Read-only file system; make its folder writable, or " in last
    assert path.read_text() == "earlier"
