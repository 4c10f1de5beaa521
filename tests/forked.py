"""A Python for processes that tests start: forked from one that has imported the libraries.

A fresh interpreter spends its first seconds on imports: two in Snakemake, four in a job that
needs PyTorch.  `python()` is the path of a command that takes the arguments of Python's own, a
script, `-c` or `-m`, and runs them in a fork of a server that has imported what is slow, and
nothing of `engram`.  `sys.executable` is the same command there: Snakemake starts its jobs by it.
The process has the directory, environment, streams and group of the command, gets its signals, and
dies with it.
"""

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

#: What jobs and Snakemake import that takes longest; none of it starts a thread.
LIBRARIES = (
    *("snakemake.cli", "snakemake.script", "snakemake.executors.local", "snakemake.dag"),
    *("h5py", "zarr", "pandas", "sklearn.linear_model", "sklearn.ensemble", "scipy.stats"),
    *("torch", "timm", "matplotlib.pyplot", "PIL.Image", "jinja2", "requests", "mne"),
)
#: The variable that names the command to the workers of one run.
SHARED = "ENGRAM_TESTS_PYTHON"

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

COMMAND = """#!{python} -ISE
import array, json, os, signal, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
given = json.dumps([sys.argv, os.getcwd(), dict(os.environ), os.getpgrp()]).encode()
streams = array.array("i", [0, 1, 2])
server.sendmsg([len(given).to_bytes(8)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
server.sendall(given)
answers = server.makefile()
process = int(answers.readline())
for number in {signals!r}:
    signal.signal(number, lambda number, frame: os.kill(process, number))
status = int(answers.readline())
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@functools.cache
def python() -> str:
    """Path of the command, when its server is ready; several workers share one."""
    command, patience = os.environ.get(SHARED) or start(), time.monotonic() + 300
    while not Path(command).with_name("socket").is_socket():
        assert time.monotonic() < patience, "the server has not started"
        time.sleep(0.05)
    return command


def start() -> str:
    """Start a server, which ends with this process; the path of its command."""
    folder = tempfile.mkdtemp(prefix="forked-")
    address, command = f"{folder}/socket", Path(folder, "python")
    server = subprocess.Popen(
        [sys.executable, __file__, address, command],
        stdin=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    signals = [int(number) for number in SIGNALS]
    command.write_text(COMMAND.format(python=sys.executable, address=address, signals=signals))
    command.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.wait)
    atexit.register(server.kill)  # first
    return str(command)


def serve(address, command):
    """Fork for every command that calls; return what to run in the process of one."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen()
    os.rename(f"{address}.new", address)
    os.fsync = lambda descriptor: None  # as in conftest.py
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if sys.stdin in ready:
            sys.exit()
        caller, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            arguments = attend(caller)
            sys.executable = command
            return arguments
        caller.close()


def attend(caller):
    """Become the process of a caller, whose parent tells it how the process ends."""
    size, control, _, _ = caller.recvmsg(8, socket.CMSG_LEN(3 * array.array("i").itemsize))
    streams = array.array("i", control[0][2])
    with caller.makefile("rb") as file:
        arguments, folder, environment, group = json.loads(file.read(int.from_bytes(size)))
    process = os.fork()
    if process:
        report(caller, process)
        os._exit(0)
    caller.close()
    with contextlib.suppress(PermissionError):  # a command of another session
        os.setpgid(0, group)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return arguments[1:]


def report(caller, process):
    """Tell the caller the number of the process and its status; end it if the caller has gone."""
    with contextlib.suppress(BrokenPipeError):  # it may have been killed by now
        caller.sendall(f"{process}\n".encode())
    ended = os.pidfd_open(process)
    ready, _, _ = select.select([caller, ended], [], [])
    if ended not in ready:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(BrokenPipeError):
        caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def end(arguments):
    """Run them and end as Python does, but without taking all libraries apart."""
    try:
        status = run(arguments)
    except SystemExit as given:
        status = given.code
        if not isinstance(status, int | None):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def run(arguments):
    """What Python does with its arguments."""
    paths = os.environ.get("PYTHONPATH")
    sys.path[1:1] = paths.split(os.pathsep) if paths else []
    if arguments[0] == "-u":  # as torchrun asks of its processes, whose output goes unbuffered
        sys.stdout.reconfigure(write_through=True)
        arguments = arguments[1:]
    kind, *rest = arguments
    if kind == "-c":
        sys.path[0], sys.argv = "", ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.path[0], sys.argv = os.getcwd(), rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(kind).parent.absolute()), arguments
        runpy.run_path(kind, run_name="__main__")


def prepare():
    """Import the libraries as `engram` does; what it is in a process depends on its path."""
    import engram
    from engram.frozen import libraries

    with libraries.without("wandb"):
        for library in LIBRARIES:
            importlib.import_module(library)
    kept.append(engram.torchvision_compat)
    for name in [name for name in sys.modules if name.partition(".")[0] == "engram"]:
        del sys.modules[name]
    for path in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if path in sys.path:
            sys.path.remove(path)
    gc.freeze()


kept = []  # what torchvision needs

if __name__ == "__main__":
    prepare()
    end(serve(*sys.argv[1:]))
