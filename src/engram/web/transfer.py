"""Files over HTTP: verified, resumable, atomic.

A download grows in ``<path>.part``; beside it, ``<path>.part.json`` holds what the server said
about the file, so that a later run continues only what is still the same file.  Others see a
file at `path` that is absent, or complete and verified.  How servers are asked is in
`engram.web.client`.
"""

import contextlib
import hashlib
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from engram.errors import InputError
from engram.progress import progress
from engram.web.client import (
    CHUNK,
    LIMITS,
    Client,
    Failed,
    check_url,
    chunks,
    is_page,
    page_error,
    shown,
)
from engram.web.safe_files import locked, safe_name, sync_folder

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

PART, NOTES = ".part", ".part.json"
HASH_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
SHORTEST_PREFIX = 8  # hex digits of a SHA-256 in a published file name


class _Stopped(Exception):
    """Another file of the same call was interrupted."""


def fetch(url, path, *, size=None, checksums=None, headers=None, page=None, limits=LIMITS) -> Path:
    """Download one file, atomically, continuing what an earlier run left.

    A file already at `path` that fits `size` and `checksums` is left alone, without a request;
    so is any file if neither is given.  Its mtime is the time of the download.

    Args:
        url: http or https address without credentials.
        path: where the file goes; its folder is made.
        size: declared bytes.
        checksums: dict of md5, sha1, sha256, sha512 to hex digits; a sha256 may be a prefix of
            8 digits or more.
        headers, page, limits: see `engram.web.client.Client`.

    Returns:
        `path`.

    Raises:
        InputError: the file cannot be had, is not what was declared, or a server misbehaves.
    """
    with Client(headers, page, limits) as client, _bar(size, Path(path).name) as count:
        return _Download(client, url, path, size, checksums, count).run()


def fetch_all(files, folder, parallel=4, *, headers=None, page=None, limits=LIMITS) -> list[Path]:
    """Download several files into `folder`, some at a time; finished files stay whatever happens.

    Args:
        files: objects with path (relative), url, size and checksums, e.g. `engram.sources.File`.
        folder: where they go.
        parallel: files at a time, at most `limits.per_host` of them from one host.
        headers, page, limits: see `engram.web.client.Client`; a dict of headers goes to the host of
            each file.

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
            _Download(client, file.url, path, file.size, file.checksums, count, stop).run()

    with (
        Client(headers, page, limits, parallel) as client,
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

    def __init__(self, client, url, path, size, checksums, count, stop=None):
        self.client, self.limits = client, client.limits
        self.url, self.path, self.size = url, Path(path), size
        self.checksums = checked_sums(self.path, checksums)
        self.count, self.stop = count, stop
        self.part = self.path.with_name(self.path.name + PART)
        self.notes = self.path.with_name(self.path.name + NOTES)
        self.counted = 0

    def run(self):
        try:
            if self._is_there():
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
        sums = {name: hashlib.new(name, usedforsecurity=False) for name in self.checksums}
        while sums and (chunk := file.read(CHUNK)):
            for value in sums.values():
                value.update(chunk)
        file.seek(0, os.SEEK_END)
        return sums

    def _mismatch(self, sums, size):
        if self.size is not None and size != self.size:
            return f"{size} bytes instead of {self.size}"
        for name, wanted in self.checksums.items():
            found = sums[name].hexdigest()
            if not found.startswith(wanted):
                return f"{name} is {found} instead of {wanted}"
        return None

    def _attempt(self, file):
        """Ask for what is missing and receive it."""
        notes = self._read_notes()
        start = self._kept(file, notes)
        if start and start == notes.get("size"):
            return self._check(file, self._sums(file), whole=False)
        extra = {"Range": f"bytes={start}-"} if start else {}
        if start and notes.get("etag"):
            extra["If-Range"] = notes["etag"]
        with self.client.ask(self.url, extra, self.path.name) as response:
            said, rest = self._said(response, start), response.status_code == 206
            if rest and not _same(notes, said):
                self._forget(file)
                raise Failed("the file has changed since the download began")
            if not rest:
                self._forget(file)
                self.notes.write_text(json.dumps(said))
            self._check_size(said["size"])
            sums = self._sums(file)
            self._advance(file.tell())
            self._receive(response, file, sums)
        for size in (said["size"], self.size):
            if size is not None and file.tell() < size:
                raise Failed(f"the connection was cut after {file.tell()} of {size} bytes")
        # Only what came in one piece and in full length is surely what the server has.
        return self._check(file, sums, whole=not rest and said["size"] is not None)

    def _kept(self, file, notes):
        """How many bytes of an earlier attempt can be continued."""
        start = file.seek(0, os.SEEK_END)
        known = notes.get("size")
        recognised = notes.get("etag") or known
        return start if recognised and (known is None or start <= known) else 0

    def _said(self, response, start):
        """What the server says about the whole file; size -1 if not about the range asked for."""
        headers = response.headers
        if response.status_code == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
            size = int(span[2]) if span and int(span[1]) == start else -1
        else:
            length = headers.get("Content-Length", "")
            size = int(length) if length.isdecimal() else None
        etag = headers.get("ETag")
        strong = etag if etag and not etag.startswith("W/") else None
        return {
            "url": shown(self.url),
            "size": size,
            "etag": strong,
            "modified": headers.get("Last-Modified"),
        }

    def _read_notes(self):
        try:
            notes = json.loads(self.notes.read_text())
        except (OSError, ValueError):
            return {}
        ours = isinstance(notes, dict) and notes.get("url") == shown(self.url)
        return notes if ours else {}

    def _check_size(self, size):
        if size is None:
            return
        if self.size is not None and size != self.size:
            self._discard()
            raise InputError(
                f"{shown(self.url)}: {size} bytes instead of the declared {self.size}; the file "
                "was changed by its publisher: look at it, then correct the declaration"
            )
        if self.limits.max_bytes is not None and size > self.limits.max_bytes:
            self._discard()
            raise InputError(
                f"{shown(self.url)}: {size} bytes, more than the {self.limits.max_bytes} allowed"
            )

    def _receive(self, response, file, sums):
        caps = [cap for cap in (self.size, self.limits.max_bytes) if cap is not None]
        for chunk in chunks(response):
            if self.stop and self.stop.is_set():
                raise _Stopped
            if file.tell() == 0 and is_page(chunk, self.path.name):
                self._discard()
                raise page_error(self.url)
            if caps and file.tell() + len(chunk) > min(caps):
                self._discard()
                raise InputError(
                    f"{shown(self.url)}: sends more than the {min(caps)} bytes allowed"
                )
            file.write(chunk)
            for value in sums.values():
                value.update(chunk)
            self._advance(file.tell())

    def _check(self, file, sums, whole):
        problem = self._mismatch(sums, file.tell())
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

    def _discard(self):
        self.notes.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def _advance(self, position):
        self.count(position - self.counted)
        self.counted = position


def _same(notes, said):
    """Whether two answers are about the same bytes; an answer may leave out what it said before."""
    return notes.get("size") in (None, said["size"]) and all(
        said[key] in (None, notes.get(key)) for key in ("etag", "modified")
    )


@contextlib.contextmanager
def _bar(total, what):
    """A function that moves one bar by bytes, from any thread."""
    lock = threading.Lock()
    with progress(total, what, "bytes") as bar:

        def count(number):
            with lock:
                bar.update(number)

        yield count


def checked_sums(path, checksums) -> dict[str, str]:
    """Checksums of the file `path` in lower case; entries without a value are left out.

    Raises:
        InputError: an algorithm is unknown, or a value has another number of hex digits.
    """
    sums = {name: str(value).lower() for name, value in (checksums or {}).items() if value}
    for name, value in sums.items():
        length = HASH_LENGTHS.get(name)
        if length is None:
            raise InputError(f"{path}: checksum {name!r}; there is {', '.join(HASH_LENGTHS)}")
        shortest = SHORTEST_PREFIX if name == "sha256" else length
        if not re.fullmatch(f"[0-9a-f]{{{shortest},{length}}}", value):
            raise InputError(f"{path}: {value!r} is not a {name} of {length} hex digits")
    return sums
