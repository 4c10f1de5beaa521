"""Files on a disk that fills up: whole or absent, by one process at a time, and one line if not."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import sys
import time
from pathlib import Path

from engram.errors import InputError

CODE_VERSION = 1  # nothing that is computed depends on this file

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
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


@contextlib.contextmanager
def held(path):
    """Hold `path` against other processes, which say so and wait; its lock file is gone afterwards.

    The system lets go of it when this process ends, and when those have ended that it gave the
    descriptor of the lock, which the block gets, by `pass_fds`.

    Raises:
        InputError: the disk is full, or not to be written to.
    """
    path = Path(path)
    lock = path.with_name(path.name + ".lock")
    with room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(lock, path)
    try:
        yield file
    finally:
        lock.unlink(missing_ok=True)  # while it is held, so that no other process holds it
        os.close(file)


def freed(path):
    """Remove the lock file that a killed process left of a `path` that need not be written again.

    Raises:
        InputError: the disk is not to be written to.
    """
    path = Path(path)
    if path.with_name(path.name + ".lock").exists():
        with held(path):
            pass


def _lock(lock, path):
    told = False
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                print(f"{path}: waiting for another process that writes it", file=sys.stderr)
            told = True
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(
                f"warning: {path}: this file system has no locks; write it by one process only",
                file=sys.stderr,
            )
            return file
        # Who held it may have removed it meanwhile, and another may hold a new one.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(lock), os.fstat(file)):
                return file
        os.close(file)


def sync(path):
    """Have the system write a file, or the entries of a folder, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def folder(path) -> Path:
    """A folder that is there, or is made with those above it.

    Raises:
        InputError: the disk is full, or not to be written to, or a file has its name.
    """
    path = Path(path)
    try:
        with room(path):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path}: a file is there, or above it; name another folder") from None
    return path


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
            what = _not_writable(path, error.errno, "its folder")
        if what is None:
            raise
        raise InputError(what) from None


def check_writable(paths):
    """Refuse files and folders that are not to be written to, before anything is.

    Args:
        paths: of files and folders; what is not there yet is made in the closest folder that is.

    Raises:
        InputError: one may not be written to; the message names what is in the way.
    """
    there = {_closest(Path(path)) for path in paths}
    for path in sorted(there):
        if not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0)):
            only_read = os.statvfs(path).f_flag & os.ST_RDONLY
            raise InputError(_not_writable(path, errno.EROFS if only_read else errno.EACCES, "it"))


def _closest(path):
    """A path, or the first folder above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


def _not_writable(path, number, what):
    return (
        f"{path}: {os.strerror(number)}; make {what} writable, or write to another folder "
        "(`--directory` of snakemake, `-o` of engram)"
    )


def refusal(error, path=None, needed=None, advice="make room and run again") -> str | None:
    """What to say of an error that means a full disk, quota or file size limit; else None.

    Libraries wrap what the system says of it in errors of their own.
    """
    number = next((one for one in NO_ROOM if os.strerror(one) in str(error)), None)
    if number is None:
        return None
    path = path or fullest([os.getcwd()])
    asked = "" if needed is None else f"{_mib(needed)} are needed and "
    return f"{path}: {os.strerror(number)}; {asked}{_mib(_free(path))} are free; {advice}"


def fullest(paths):
    """Of paths that are written to, or will be, that on the disk with least room."""
    return min(paths, key=_free)


def _free(path):
    return shutil.disk_usage(_closest(Path(path))).free


def _mib(size):
    return f"{size / 2**20:.1f} MiB"
