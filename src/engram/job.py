"""What surrounds a running job: log, threads, device, provenance, one clear error."""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import itertools
import logging
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from engram import disk
from engram.errors import InputError

CODE_VERSION = 1  # raise when what jobs compute changes with this file

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
#: What PyTorch says where there is no memory, of the machine or of a GPU; and the system.
NO_MEMORY = ("can't allocate memory", "out of memory", os.strerror(errno.ENOMEM))
PACKAGES = ("engram", "numpy", "scipy", "h5py", "torch", "timm", "open_clip_torch", "scikit-learn")


@dataclass(frozen=True)
class Job:
    """One running job.

    Attributes:
        spec: the part of the configuration that the job depends on.
        device: "cpu" or "cuda".
        made_by: what goes into the header of what the job writes: spec, code, digests of
            the inputs, package versions, threads, device.
    """

    spec: dict
    device: str
    made_by: dict

    def grouped(self, paths, of="sources") -> dict[str, list[str]]:
        """The stores of all sources, or of all `targets`, listed one after the other, by name."""
        paths = iter(paths)
        return {name: list(itertools.islice(paths, count)) for name, count in self.spec[of]}


@contextlib.contextmanager
def job(snakemake, offline=True):
    """Run the block as the job that Snakemake describes.

    Everything printed, by Python or by a library below it, goes to the rule's log; a
    user's mistake (`InputError`) as one line, any other error with its traceback.
    Compute jobs are offline: hub libraries are told not to use the network.
    """
    for name in THREAD_VARIABLES:
        os.environ[name] = str(snakemake.threads)
    for name in OFFLINE_VARIABLES if offline else ():
        os.environ[name] = "1"
    with _logged(snakemake.log), threadpool_limits(snakemake.threads), _device(snakemake) as device:
        yield Job(
            spec=snakemake.params.spec,
            device=device,
            made_by={
                "spec": snakemake.params.spec,
                "code": snakemake.params.get("code", "").split(),
                "inputs": {str(path): digest(path) for path in snakemake.input},
                "versions": versions(),
                "threads": snakemake.threads,
                "device": device,
            },
        )


@contextlib.contextmanager
def _logged(log):
    """Send stdout and stderr, of C libraries too, to the rule's log."""
    saved = [os.dup(1), os.dup(2)]
    sys.stdout.flush(), sys.stderr.flush()
    said, file = "", log[0] if log else None
    try:
        if file:
            with disk.room(file):
                opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(opened, 1), os.dup2(opened, 2)
            os.close(opened)
        yield
    except BaseException as error:
        said = _said(error, file)
    logged = _printed(said)
    for number, original in enumerate(saved, start=1):
        os.dup2(original, number)
        os.close(original)
    if said:
        if not logged:
            print(said, file=sys.stderr)
            logging.raiseExceptions = False  # there is no room for what libraries log at their end
        raise SystemExit(1)


def _said(error, log):
    """What a job says of the error that ends it: a line, or a traceback."""
    line = error if isinstance(error, InputError) else None
    if line is None:
        line = disk.refusal(error, _file_of(error, log)) or _out_of_memory(error)
    return f"error: {line}" if line else "".join(traceback.format_exception(error)).rstrip()


def _file_of(error, log):
    """The file that an error of the system is about; if it names none, where least room is left."""
    named = [getattr(error, name, None) for name in ("filename2", "filename")]
    places = [log or os.getcwd(), os.getcwd(), os.environ.get("TMPDIR", "/tmp")]
    return next((one for one in named if isinstance(one, str | Path)), disk.fullest(places))


def _out_of_memory(error) -> str | None:
    """What to say of an error by which Python, PyTorch or the system refuse memory; else None."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return (
            f"no memory: {str(error).strip().partition(chr(10))[0]}; give the job more, or make "
            "smaller batches (`batch_size`) or fewer jobs at a time (`--cores`)"
        )
    return None


def _printed(text):
    """Print to the log, after all before; whether there was room for it on the disk."""
    try:
        sys.stdout.flush()
        print(text, end="\n" if text else "", file=sys.stderr, flush=True)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _device(snakemake):
    """ "cuda" on the first GPUs that no other job of this machine holds, or "cpu"."""
    gpus, wanted = Path("/proc/driver/nvidia/gpus"), snakemake.resources.get("gpu", 0)
    if not wanted or not gpus.is_dir():
        yield "cpu"
        return
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(len(list(gpus.iterdir())))]
    with contextlib.ExitStack() as locks:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(_free(names, wanted, locks))
        yield "cuda"


def _free(names, wanted, locks):
    """The first GPUs that are free, so many, each locked until `locks` are closed."""
    free = []
    for name in names:
        lock = locks.enter_context(
            open(Path(tempfile.gettempdir()) / f"engram-gpu-{name}.lock", "w")
        )
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free.append(name)
        if len(free) == wanted:
            return free
    raise InputError(
        f"{wanted} GPUs are asked for, but of {', '.join(names)} {len(free)} are free; lower `gpu` "
        "in the profile, or `processes` of a pretraining"
    )


def digest(path) -> str:
    """SHA-256 of a file, hexadecimal; of a folder, that of the names and digests of its files."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        lines = [f"{digest(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict:
    """Installed versions of the packages that results depend on."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | {"python": ".".join(map(str, sys.version_info[:3]))}
