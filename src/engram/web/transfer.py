"""Files over HTTP: verified, resumable, atomic.

A download grows in ``<path>.part``; beside it, ``<path>.part.json`` holds what the server said
about the file and the SHA-256 of what came of it, so that a later run continues only what is still
the same file, here and there.  Others see a file at `path` that is absent, or complete and
verified.  How servers are asked is in `engram.web.client`.
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from engram.credentials import shown
from engram.errors import InputError
from engram.progress import progress
from engram.web.addresses import check_url
from engram.web.answers import check_sent, said_of, same
from engram.web.checksums import checked_sums
from engram.web.client import CHUNK, LIMITS, Client, Failed, NoSuchPart, came_instead, chunks
from engram.web.pages import HEAD, instead
from engram.web.safe_files import locked, safe_name, sync_folder

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

PART, NOTES = ".part", ".part.json"
NOTED = 64 << 20  # bytes after which it is noted what came, and looked at the room on the disk
ROOM = 1 << 30  # bytes that a file of unknown size leaves free


class _Stopped(Exception):
    """Another file of the same call was interrupted."""


def fetch(
    url, path, *, size=None, checksums=None, stated="", headers=None, limits=LIMITS, **reach
) -> Path:
    """Download one file, atomically, continuing what an earlier run left.

    A file already at `path` that fits `size` and `checksums` is left alone, without a request;
    so is any file if neither is given.  Its mtime is the time of the download.

    Args:
        url: http or https address without credentials.
        path: where the file goes; its folder is made.
        size: declared bytes.
        checksums: dict of md5, sha1, sha256, sha512 to hex digits; a sha256 may be a prefix of
            8 digits or more.
        stated: where `size` and `checksums` stand, for the message if they do not fit.
        headers, limits, reach: see `engram.web.client.Client`, `page`, `home` and `filled` too.

    Returns:
        `path`.

    Raises:
        InputError: the file cannot be had, is not what was declared, or a server misbehaves.
    """
    with (
        Client(headers, limits=limits, **reach) as client,
        _bar(size, Path(path).name) as count,
    ):
        return _Download(client, url, path, size, checksums, stated, count).run()


def fetch_all(files, folder, parallel=4, *, headers=None, limits=LIMITS, **reach) -> list[Path]:
    """Download several files into `folder`, some at a time; finished files stay whatever happens.

    Args:
        files: objects with path (relative), url, size and checksums, e.g. `engram.sources.File`.
        folder: where they go.
        parallel: files at a time, at most `limits.per_host` of them from one host.
        headers, limits, reach: see `fetch`; a dict of headers goes to the host of each file.

    Returns:
        Their paths, in order.

    Raises:
        InputError: lists every file that failed.
    """
    files = list(files)
    paths = [safe_name(folder, file.path) for file in files]
    taken = {path.with_name(path.name + suffix) for path in paths for suffix in (PART, NOTES)}
    if len(set(paths)) < len(paths) or taken & set(paths):
        raise InputError(f"{folder}: two files have the same name; leave one out")
    sizes = [file.size for file in files]
    hosts = {file.url: urlsplit(file.url).netloc for file in files}
    turns = {host: threading.Semaphore(limits.per_host) for host in hosts.values()}
    stop = threading.Event()

    def one(file, path):
        with turns[hosts[file.url]]:
            if stop.is_set():
                return None
            stated = getattr(file, "stated", "")
            facts = (file.size, file.checksums, stated)
            _Download(client, file.url, path, *facts, count, stop).run()

    with (
        Client(headers, limits=limits, connections=parallel, **reach) as client,
        _bar(None if None in sizes else sum(sizes), f"{len(files)} files") as count,
        ThreadPoolExecutor(parallel) as pool,
    ):
        jobs = [pool.submit(one, *pair) for pair in zip(files, paths, strict=True)]
        try:
            problems = [job.exception() for job in jobs]
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    for problem in problems:
        if problem and not isinstance(problem, InputError):
            raise problem
    problems = [str(problem) for problem in problems if problem]
    if problems:
        raise InputError(
            f"{len(problems)} of {len(files)} files could not be fetched, the others are there; "
            f"run again to continue: {'; '.join(problems)}"
        )
    return paths


class _Download:
    """One file on its way to its place."""

    def __init__(self, client, url, path, size, checksums, stated, count, stop=None):
        self.client, self.limits = client, client.limits
        self.url, self.path, self.size = url, Path(path), size
        self.checksums = checked_sums(self.path, checksums)
        self.stated = f" ({stated})" if stated else ""
        self.noted = 0
        self.count, self.stop = count, stop
        self.part = self.path.with_name(self.path.name + PART)
        self.notes = self.path.with_name(self.path.name + NOTES)
        self.counted = 0

    def run(self):
        try:
            if self._is_there():
                self.notes.unlink(missing_ok=True)  # of one that was killed after it was there
                return self.path
            if self.limits.offline:
                raise InputError(
                    f"{self.path}: missing, and offline mode allows no download; "
                    f"put the file from {shown(self.url)}{self._declared()} there"
                )
            check_url(self.url)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.part) as file:
                try:
                    if not self._is_there():  # another process may have been faster
                        self.client.repeated(lambda: self._attempt(file), self.url, file.tell)
                        self._publish(file)
                finally:
                    if not os.fstat(file.fileno()).st_size:
                        self._discard()
        except InputError as error:
            if str(self.path) in str(error):
                raise
            raise type(error)(f"{self.path}: {error}") from None
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror or type(error).__name__}); "
                "make room or correct the permissions, then run again to continue"
            ) from None
        return self.path

    def _declared(self):
        facts = [f"{self.size} bytes"] * (self.size is not None)
        facts += [f"{name} {value}" for name, value in self.checksums.items()]
        return f" ({', '.join(facts)})" if facts else ""

    def _is_there(self):
        """Whether the finished file is at its place.

        Raises:
            InputError: another file is.
        """
        if not self.path.exists():
            return False
        if not self.path.is_file():
            raise InputError(f"{self.path}: not a file; move it away")
        with self.path.open("rb") as file:
            problem = self._mismatch(self._sums(file), os.fstat(file.fileno()).st_size)
        if problem:
            raise InputError(f"{self.path}: {problem}; delete the file or correct the declaration")
        self._advance(self.size or 0)
        return True

    def _sums(self, file):
        """Digests of what lies in `file`, which is left at its end."""
        file.seek(0)
        names = self.checksums or ("sha256",)  # what a file that nobody knows is continued by
        sums = {name: hashlib.new(name, usedforsecurity=False) for name in names}
        while chunk := file.read(CHUNK):
            for value in sums.values():
                value.update(chunk)
        file.seek(0, os.SEEK_END)
        return sums

    def _mismatch(self, sums, size):
        if self.size is not None and size != self.size:
            return f"{size} bytes instead of {self.size}{self.stated}"
        for name, wanted in self.checksums.items():
            found = sums[name].hexdigest()
            if not found.startswith(wanted):
                return f"{name} is {found} instead of {wanted}{self.stated}"
        return None

    def _attempt(self, file):
        """Ask for what is missing and receive it."""
        notes = self._read_notes()
        start, sums = self._kept(file, notes)
        if start and start == notes.get("size"):
            return self._check(file, sums, whole=False)
        extra = {"Range": f"bytes={start}-"} if start else {}
        if start and notes.get("validator"):
            extra["If-Range"] = notes["validator"]
        try:
            response = self.client.ask(self.url, extra, self.path.name)
        except NoSuchPart:
            self._forget(file)
            raise
        with response:
            said, rest = said_of(response, self.url, start), response.status_code == 206
            if rest and not (start and same(notes, said, bool(self.checksums))):
                self._forget(file)
                raise Failed("another part of the file came, or the file has changed since")
            known = self.checksums or self.size is not None
            check_sent(response, self.url, self.path.name, said, known, self.checksums)
            if not rest:
                self._forget(file)
                self.notes.write_text(json.dumps(said))
                notes, sums = said, self._sums(file)
            self._check_size(said["size"])
            self._check_room(file, said["size"])
            self._advance(file.tell())
            try:
                self._receive(response, file, sums, notes, said["size"])
            finally:
                self._note(file, sums, notes)
        for size in (said["size"], self.size):
            if size is not None and file.tell() < size:
                raise Failed(f"the connection was cut after {file.tell()} of {size} bytes")
        # Only what came in one piece and in full length is surely what the server has.
        return self._check(file, sums, whole=not rest and said["size"] is not None)

    def _kept(self, file, notes):
        """How many bytes of an earlier attempt can be continued, and their digests.

        Those that a checksum will be held against; others as far as they are what came, if the
        server can tell whether the file is the same.  Of those a whole file is no use either:
        nobody knows whether it still is what is published.
        """
        end, size = file.seek(0, os.SEEK_END), notes.get("size")
        if not self.checksums:
            end = min(end, notes.get("came") or 0) if notes.get("validator") else 0
            file.truncate(end)
        if not end or (notes.get("etag") or size) is None or (size is not None and end > size):
            return 0, None
        sums = self._sums(file)
        sound = self.checksums or (sums["sha256"].hexdigest() == notes.get("sha256"))
        return (end, sums) if sound and (self.checksums or end != size) else (0, None)

    def _read_notes(self):
        try:
            notes = json.loads(self.notes.read_text())
        except (OSError, ValueError):
            return {}
        ours = isinstance(notes, dict) and notes.get("url") == shown(self.url)
        numbers = [notes.get(key) or 0 for key in ("size", "came")] if ours else [None]
        return notes if all(type(one) is int and one >= 0 for one in numbers) else {}

    def _check_size(self, size):
        if size is None:
            return
        if self.size is not None and size != self.size:
            self._discard()
            raise InputError(
                f"{shown(self.url)}: {size} bytes instead of the declared {self.size}{self.stated}"
                "; the file was changed by its publisher: look at it, then correct the declaration"
            )
        if self.limits.max_bytes is not None and size > self.limits.max_bytes:
            self._discard()
            raise InputError(
                f"{shown(self.url)}: {size} bytes, more than the {self.limits.max_bytes} allowed"
            )

    def _check_room(self, file, size):
        """Refuse what does not fit on the disk; of unknown size, what leaves too little of it."""
        free = shutil.disk_usage(self.path.parent).free
        size = self.size if size is None else size
        needed = ROOM if size is None else size - file.tell()
        if needed > free:
            if size is None:
                self._discard()
            raise InputError(
                f"{self.path}: {free >> 20} MiB are free, and {shown(self.url)} sends "
                + ("a file of unknown size" if size is None else f"{needed >> 20} MiB more")
                + "; make room, then run again to continue"
            )

    def _receive(self, response, file, sums, notes, size):
        caps = [cap for cap in (self.size, self.limits.max_bytes) if cap is not None]
        caps = caps or ([self.limits.undeclared] if size is None else [])
        for chunk in chunks(response):
            if self.stop and self.stop.is_set():
                raise _Stopped
            if caps and file.tell() + len(chunk) > min(caps):
                self._discard()
                raise InputError(
                    f"{shown(self.url)}: sends more than the {min(caps)} bytes allowed"
                    f"{self.stated}; if the file is larger, state its `size`"
                )
            if size is not None and file.tell() + len(chunk) > size:
                self._forget(file)
                raise Failed(f"more came than the {size} bytes that the server spoke of")
            file.write(chunk)
            for value in sums.values():
                value.update(chunk)
            self._advance(file.tell())
            if file.tell() - self.noted >= NOTED:
                self._check_room(file, size)
                self._note(file, sums, notes)

    def _note(self, file, sums, notes):
        """Write down what came so far of a file without checksum, for who continues."""
        self.noted = file.tell()
        if self.checksums or not self.part.exists():
            return
        file.flush()
        os.fdatasync(file.fileno())
        known = {"came": self.noted, "sha256": sums["sha256"].hexdigest()}
        self.notes.write_text(json.dumps(notes | known))

    def _check(self, file, sums, whole):
        problem = self._mismatch(sums, file.tell())
        came = None
        if problem or not self.checksums:
            file.seek(0)
            came = instead(file.read(HEAD), self.path.name)
            if file.seek(0, os.SEEK_END) == 0 and self.size is None:
                came = "an empty file"
        if came:
            self._discard()
            raise came_instead(self.url, came)
        if problem is None:
            return
        self._forget(file)
        if not whole:
            raise Failed(f"{problem}: cut, or changed since the download began")
        self._discard()
        raise InputError(
            f"{shown(self.url)}: {problem}; what came was thrown away: the file was changed by "
            "its publisher or on the way; try again, then ask the publisher"
        )

    def _publish(self, file):
        file.flush()
        os.fsync(file.fileno())
        os.utime(self.part)
        os.replace(self.part, self.path)
        self.notes.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def _forget(self, file):
        self.notes.unlink(missing_ok=True)
        file.seek(0)
        file.truncate()
        self.noted = 0

    def _discard(self):
        self.notes.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def _advance(self, position):
        self.count(position - self.counted)
        self.counted = position


@contextlib.contextmanager
def _bar(total, what):
    """A function that moves one bar by bytes, from any thread."""
    lock = threading.Lock()
    with progress(total, what, "bytes") as bar:

        def count(number):
            with lock:
                bar.update(number)

        yield count
