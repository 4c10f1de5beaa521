"""Files that mean harm, read in a child with bounded memory and time."""

import contextlib
import functools
import gzip
import io
import os
import resource
import signal
import traceback
from pathlib import Path

#: Bytes that a child may take beside what it was born with, and seconds.
MEMORY, SECONDS = 1 << 30, 20


def tried(call, memory=MEMORY, seconds=SECONDS):
    """What becomes of a call in a forked child.

    Returns:
        All that it printed; the last line is the error that it raised, if any, as
        `InputError: ...`, or `killed by signal n`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _bounded(memory, seconds)
        os.write(writing, _said(call).encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if status == 0 else f"{said}\nkilled by signal {-status}"


def command(*arguments, **bounds):
    """The same of the command `engram`."""
    from engram import cli

    return tried(lambda: cli.main([*map(str, arguments)]), **bounds)


def one_line(said, name, *words):
    """Exactly one line, which names the file."""
    assert said.startswith(("InputError: ", "error: ")), said
    assert len(said.splitlines()) == 1, said
    for word in (name, *words):
        assert word in said


@functools.cache
def packed_zeros():
    """64 MiB of them, of which a thousand take a byte."""
    return gzip.compress(bytes(64 << 20), 1)


def zeros(path, head, size):
    """A gzip file of some bytes and many zeros behind them."""
    Path(path).write_bytes(gzip.compress(head) + (size >> 26) * packed_zeros())


def _bounded(memory, seconds):
    with open("/proc/self/statm") as file:
        born = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (born + memory, born + memory))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def _said(call):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            call()
        except BaseException as error:
            line = traceback.format_exception_only(error)[-1].strip()
            print(f"{type(error).__name__}: {line.partition(': ')[2]}")
    return text.getvalue().strip()
