"""Files on a disk that fills up: whole or absent, and one line that says what to do."""

import contextlib
import errno
import os
import shutil
import socket
import time
from pathlib import Path

from engram.errors import InputError

CODE_VERSION = 1  # nothing that is computed depends on this file

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)

#: Seconds after which a file that nobody finished is that of a process which has ended.
ABANDONED = 86_400


@contextlib.contextmanager
def replaced(path):
    """A temporary path beside `path`; leaving the block without an error syncs and renames it.

    Raises:
        InputError: the disk is full, or not to be written to.
    """
    with room(path), written(path) as temporary:
        yield temporary


@contextlib.contextmanager
def written(path, folder=None):
    """As `replaced`, with the errors of the system; what killed processes left of it is removed.

    Args:
        path: the file to write.
        folder: where the temporary file lies, on the same file system; by default that of `path`.
    """
    path, folder = Path(path), Path(folder or Path(path).parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.name, folder)
    temporary = folder / f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial"
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def _remove_abandoned(name, folder):
    start = f"{name}.{socket.gethostname()}-"
    for left in folder.glob("*.partial"):  # names may hold what is special in a pattern
        number = left.name.removeprefix(start).removesuffix(".partial")
        with contextlib.suppress(FileNotFoundError):
            if left.name.startswith(start) and number.isdecimal():
                ended = not _runs(int(number))
            else:
                ours = left.name.startswith(f"{name}.")
                ended = ours and time.time() - left.stat().st_mtime > ABANDONED
            if ended:
                left.unlink()


def _runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def sync(path):
    """Have the system write a file, or the entries of a folder, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def room(path, needed=None, advice="make room and run again"):
    """Turn a disk that is full, or not to be written to, into an error that says what to do.

    Args:
        path: the file that is written.
        needed: bytes that it takes, if they are known.

    Raises:
        InputError: there is no room, or `path` may not be written.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        what = refusal(error, path, needed, advice)
        if what is None and isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            what = (
                f"{path}: {os.strerror(error.errno)}; make its folder writable, or keep results "
                "in another one (`snakemake --directory FOLDER`)"
            )
        if what is None:
            raise
        raise InputError(what) from None


def refusal(error, path=None, needed=None, advice="make room and run again") -> str | None:
    """What to say of an error that means a full disk, quota or file size limit; else None.

    Libraries wrap what the system says of it in errors of their own.
    """
    number = next((one for one in NO_ROOM if os.strerror(one) in str(error)), None)
    if number is None:
        return None
    path = Path(path or getattr(error, "filename", None) or os.getcwd())
    folder = next(one for one in (path, *path.absolute().parents) if one.is_dir())
    asked = "" if needed is None else f"{_mib(needed)} are needed and "
    free = _mib(shutil.disk_usage(folder).free)
    return f"{path}: {os.strerror(number)}; {asked}{free} are free; {advice}"


def _mib(size):
    return f"{size / 2**20:.1f} MiB"
