"""Stages `listing` and `download`: what a publisher has, and one file of it or of weights."""

import dataclasses
import hashlib
import importlib
import inspect
import os
import shutil
from pathlib import Path

from engram import disk, store
from engram.credentials import filled
from engram.errors import InputError
from engram.planning import components
from engram.sources import File, read_lock, write_lock
from engram.web.client import Limits
from engram.web.safe_files import safe_name, unzip
from engram.web.transfer import fetch

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again

#: Keys of a dataset's `source` that say how to read its files, not where they are.
READING = ("archive",)


def limits() -> Limits:
    """Of downloads; ENGRAM_OFFLINE=1 opens no socket."""
    return Limits(offline=os.environ.get("ENGRAM_OFFLINE", "") not in ("", "0"))


def listing(lock, spec):
    """Stage `listing`: write what the publisher of a dataset has into a lock file.

    Args:
        lock: CSV file with path, size, checksums, version and address of each file; to be
            committed, so that later downloads get the same files.
        spec: dict with `source`: a publisher, one of `components.PUBLISHERS`, and what it needs.

    Raises:
        InputError: the publisher cannot be reached, has no such project, or misbehaves.
    """
    module, place, options = _publisher(spec["source"])
    try:
        files = module.list_files(place, **_taken(module.list_files, options))
    except InputError as error:
        raise InputError(f"{lock}: cannot be written: {error}") from None
    write_lock(lock, files)


def recorded(lock) -> Path:
    """Where size and SHA-256 of first downloads are kept, for publishers that state no checksum.

    Not in the lock file: that is written anew, and then holds what the publisher says.
    """
    return Path(lock).with_suffix(".recorded.csv")


def listed(lock) -> list[File]:
    """The files of a dataset, with what was recorded where the publisher states no checksum.

    A record counts as long as the publisher shows the same file: address, version and, if it
    says so, size.
    """
    known = {one.path: one for one in _read_any(recorded(lock))}
    return [_as_recorded(file, known.get(file.path)) for file in read_lock(lock)]


def _as_recorded(file, known):
    if file.checksums or known is None:
        return file
    same = (file.url, file.version) == (known.url, known.version)
    return known if same and file.size in (None, known.size) else file


def _read_any(lock):
    """The files of a lock file, none if it is not there."""
    return read_lock(lock) if Path(lock).is_file() else []


def download(path, spec, lock=None):
    """Stage `download`: make one file, absent or complete and verified.

    Where the publisher states no checksum, the SHA-256 of the first download is recorded beside
    the lock file, that of weights in it, and later downloads must match it.

    Args:
        path: where the file goes.
        spec: `checkpoint` (url and, where published, bytes and sha256); or `dataset` (kind and
            options), the `row` of the file and, if it is published, its `source`.
        lock: lock file of the dataset or of the weights.

    Raises:
        InputError: files of this kind of dataset cannot be fetched, its terms were not accepted,
            or the file cannot be had or is not what was published.
    """
    path = Path(path)
    if "checkpoint" in spec:
        _fetch_weights(path, spec["checkpoint"], Path(lock))
    elif spec.get("source"):
        _fetch_published(path, spec, Path(lock))
    else:
        _simulate(path, spec)


def _fetch_weights(path, checkpoint, lock):
    name = f"{path.parent.name}/{path.name}"
    sums = {"sha256": checkpoint["sha256"]} if "sha256" in checkpoint else {}
    file = File(name, checkpoint["url"], checkpoint.get("bytes"), sums)
    known = {one.path: one for one in _read_any(lock)}
    if not sums and name in known:
        file = known[name]
    stated = file.stated or f"checkpoint {path.parent.name} of the configuration"
    facts = {"size": file.size, "checksums": file.checksums, "stated": stated}
    fetch(file.url, path, **facts, filled=filled, limits=limits())
    record(lock, file, path)


def _fetch_published(path, spec, lock):
    row, source, files = spec["row"], spec["source"], listed(lock)
    archive = "" if _called(files, row["file"]) else source.get("archive", "").format(**row)
    folder = path.parents[len(Path(row["file"]).parts) - 1]
    file = find(files, archive or row["file"], lock)
    target = safe_name(folder, archive) if archive else path
    _fetch_from(source, file, target)
    record(recorded(lock), file, target)
    if archive:
        _take_member(target, row["file"], path)


def _take_member(archive, name, path):
    """Put one file of an archive where it belongs; the archive is unpacked once, beside it."""
    unpacked = archive.with_name(f".{archive.name}.unpacked")
    with disk.held(archive):
        if unpacked.is_dir() and unpacked.stat().st_mtime_ns < archive.stat().st_mtime_ns:
            shutil.rmtree(unpacked)  # of an archive that was fetched again since
        if not unpacked.is_dir():
            unzip(archive, unpacked)
    found = [p for p in unpacked.rglob(Path(name).name) if p.is_file()]
    best = [p for p in found if p.as_posix().endswith(f"/{name}")] or found
    if len(best) != 1:
        raise InputError(f"{archive}: holds {len(best)} files called {name!r}; expected one")
    with store.replaced(path) as temporary:
        shutil.copyfile(best[0], temporary)


def _fetch_from(source, file, path):
    """Fetch one file of a publisher, with the token or confirmation that it wants."""
    facts = {"size": file.size, "checksums": file.checksums, "stated": file.stated}
    fetch(file.url, path, **facts, **access(source), limits=limits())


def access(source) -> dict:
    """What `engram.web.transfer` needs to reach the files of a publisher beside their addresses."""
    module, place, options = _publisher(source)
    return module.access(**_taken(module.access, {"spec": place, **options}))


def find(files, name, lock) -> File:
    """The file called `name`, or the only one in a folder of any depth.

    Raises:
        InputError: there is none, or more than one.
    """
    found = _called(files, name)
    if len(found) != 1:
        raise InputError(
            f"{lock}: lists {len(found)} files called {name!r}; correct `files` of the dataset, or "
            "delete the lock file so that it is written again"
        )
    return found[0]


def _called(files, name):
    found = [file for file in files if file.path == name]
    return found or [file for file in files if file.path.endswith(f"/{name}")]


def record(lock, file, path):
    """Put size and SHA-256 of a fetched file that has no checksum into a lock file.

    Later downloads must match.
    """
    if file.checksums:
        disk.freed(lock)  # of one that was killed after it had recorded
        return
    with Path(path).open("rb") as data:
        sums = {"sha256": hashlib.file_digest(data, "sha256").hexdigest()}
        seen = dataclasses.replace(file, size=os.fstat(data.fileno()).st_size, checksums=sums)
    with disk.held(lock):
        others = (one for one in _read_any(lock) if one.path != file.path)
        write_lock(lock, [*others, seen])


def _publisher(source):
    """Module, place and further options of a `source`."""
    name = components.publisher(source)
    module = importlib.import_module(f"engram.sources.{name}")
    options = {key: source[key] for key in source if key not in (name, *READING)}
    return module, source[name], options | {"limits": limits()}


def _taken(function, options):
    known = inspect.signature(function).parameters
    return {key: value for key, value in options.items() if key in known}


def _simulate(path, spec):
    module, options = components.options("datasets", spec["dataset"])
    if not hasattr(module, "make"):
        raise InputError(
            f"{path}: data of kind {spec['dataset']['kind']!r} cannot be downloaded; set `source` "
            "of the dataset to where it is published, or `folder` to where its files lie"
        )
    with store.replaced(path) as temporary:
        module.make(temporary, spec["row"], options)
