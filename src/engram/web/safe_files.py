"""Names, archives and folders from outside, handled so that they can do no harm."""

import contextlib
import fcntl
import lzma
import os
import re
import shutil
import stat
import unicodedata
import zipfile
import zlib
from pathlib import Path

from engram.errors import InputError

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
MOST_PARTS, LONGEST = 100, 2000  # of a name: what file systems and patterns bear
LOOKALIKES = "\\⁄∕∖⧵⧸⧹╱╲"


def clean_name(name) -> str:
    """A relative path as a publisher gives it, NFC-normalised, if it is harmless.

    Raises:
        InputError: it is no text, is absolute, climbs (`..`), has a drive letter, control or
            bidirectional characters, look-alikes of a slash, a part above 255 bytes, or too many
            parts.
    """
    if not isinstance(name, str):
        raise InputError(f"file name {str(name)[:120]!a} is no text; refused")
    clean = unicodedata.normalize("NFC", name)
    compatible = unicodedata.normalize("NFKC", clean)
    parts = clean.split("/")
    problem = None
    if re.match(r"[A-Za-z]:", clean):
        problem = "a drive letter"
    elif not all(parts):
        problem = "an absolute path or an empty part"
    elif {".", ".."} & {*parts, *compatible.split("/")}:
        problem = "a part `.` or `..`"
    elif any(
        unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for letter in clean
    ):
        problem = "control characters"
    elif set(LOOKALIKES) & set(clean) or compatible.count("/") > clean.count("/"):
        problem = "a backslash or a look-alike of a slash"
    elif "\\" in compatible:
        problem = "a look-alike of a backslash"
    elif any(len(part.encode()) > 255 for part in parts):
        problem = "a part longer than 255 bytes"
    elif len(parts) > MOST_PARTS or len(clean.encode()) > LONGEST:
        problem = f"more than {MOST_PARTS} parts or {LONGEST} bytes"
    if problem:
        raise InputError(f"file name {str(name)[:120]!a} has {problem}; refused")
    return clean


def safe_name(folder, name) -> Path:
    """Where the file that a publisher calls `name` goes in `folder`.

    Raises:
        InputError: see `clean_name`; or a symbolic link leads out of `folder`.
    """
    folder, clean = Path(folder), clean_name(name)
    path = folder / clean
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: a symbolic link leads out of {folder}; refused")
    return path


def unzip(path, folder, max_bytes=1 << 40, max_ratio=200, max_members=50_000) -> Path:
    """Unpack a zip archive into a new folder, completely or not at all, by one process at a time.

    Args:
        path: the archive.
        folder: where its members go; must not exist.
        max_bytes: largest sum of unpacked sizes.
        max_ratio: largest unpacked size, in sizes of the archive.
        max_members: largest number of members.

    Returns:
        `folder`.

    Raises:
        InputError: `folder` exists, or the archive is damaged, encrypted, too large, or holds
            unsafe names, links or devices.  Nothing is written then.
    """
    path, folder = Path(path), Path(folder)
    if os.path.lexists(folder):
        raise InputError(f"{folder}: exists; delete it so that {path} is unpacked again")
    partial = folder.with_name(folder.name + ".partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(archive, partial, max_bytes, max_ratio, max_members)
            total, free = (
                sum(m.file_size for m, _ in members),
                shutil.disk_usage(folder.parent).free,
            )
            if total > free:
                raise InputError(
                    f"{path}: unpacks to {total >> 20} MiB, and {free >> 20} MiB are free at "
                    f"{folder}; make room"
                )
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                for member, target in members:
                    _unpack(archive, member, target)
                os.rename(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be unpacked to {folder} ({error.strerror})") from None
    except DAMAGED as error:
        raise InputError(f"{path}: damaged or of another format ({error}); delete it") from None
    sync_folder(folder.parent)
    return folder


def _checked_members(archive, folder, max_bytes, max_ratio, max_members):
    """(member, target path) of every file of an archive that is harmless."""
    name, members = archive.filename, archive.infolist()
    if len(members) > max_members:
        raise InputError(f"{name}: {len(members)} members, more than {max_members}; refused")
    total = sum(member.file_size for member in members)
    if total > max_bytes or total > max_ratio * os.path.getsize(name):
        raise InputError(f"{name}: unpacks to {total} bytes, a zip bomb; refused")
    targets = {}
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{name}: {member.filename!a} is a link or a device; refused")
        if member.flag_bits & 1:
            raise InputError(f"{name}: is encrypted; unpack it yourself")
        try:
            target = safe_name(folder, member.orig_filename.removesuffix("/"))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if member.is_dir():
            continue
        if target in targets:
            raise InputError(f"{name}: two members are called {member.filename!a}; refused")
        targets[target] = member
    return [(member, target) for target, member in targets.items()]


def _unpack(archive, member, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def locked(path):
    """A file open for reading and writing that no other process holds; waits for its turn."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):  # the holder may have renamed or deleted what was waited for
                yield file
                return


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
