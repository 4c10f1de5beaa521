"""What is published, what is here, and whether it is what was published."""

import sys
from pathlib import Path

from engram import downloads
from engram.errors import InputError
from engram.planning import components
from engram.planning.plan import Plan
from engram.planning.shape import did_you_mean
from engram.sources import chosen, read_lock
from engram.web.transfer import fetch, fetch_all


def datasets(config) -> list[list]:
    """A line for every dataset: name, kind, publisher, licence, what is here."""
    plan, lines = Plan(config), []
    for name, this in config["datasets"].items():
        source = this.get("source") or {}
        kind = components.publisher(source) if source else None
        publisher = f"{kind}: {source[kind]}" if kind else ""
        here = this.get("folder") or publisher or "simulated"
        lock = Path(plan.lock("raw", name))
        listed = f"{len(read_lock(lock))} files in {lock}" if lock.is_file() else "not listed yet"
        lines.append([name, this["kind"], here, this.get("licence", ""), listed if source else ""])
    return lines


def files(config, name) -> list[list]:
    """A line for every file of a published dataset: path, size, checksum, whether it is here."""
    lines = []
    for file in downloads.listed(_lock(config, name)):
        sums = " ".join(f"{kind}:{value[:12]}" for kind, value in sorted(file.checksums.items()))
        here = "here" if (_folder(name) / file.path).is_file() else ""
        lines.append([file.path, file.size or "", sums or "none published", here])
    return lines


def fetch_dataset(config, name, include=(), parallel=4):
    """Fetch the files of a published dataset, several at a time; finished ones are left alone.

    Args:
        config: the merged configuration.
        name: of the dataset.
        include: patterns of paths, e.g. `sub-01/*`; none means everything.
        parallel: files at a time.

    Raises:
        InputError: the dataset has no publisher, its terms were not accepted, or files cannot
            be had.
    """
    lock = _lock(config, name)
    Plan(config).check_terms(name)
    wanted = [file for file in downloads.listed(lock) if chosen(file.path, include)]
    if not wanted:
        raise InputError(
            f"{lock}: no file fits {', '.join(include)}; see `engram data list {name}`"
        )
    reach = downloads.access(config["datasets"][name]["source"])
    fetch_all(wanted, _folder(name), parallel, **reach, limits=downloads.limits())
    for file in wanted:
        downloads.record(downloads.recorded(lock), file, _folder(name) / file.path)


def verify(config, name) -> int:
    """Compare every file that is here with the lock file; print what differs, count it."""
    lock, wrong, there = _lock(config, name), 0, 0
    for file in downloads.listed(lock):
        path = _folder(name) / file.path
        if not path.is_file():
            continue
        there += 1
        try:
            facts = {"size": file.size, "checksums": file.checksums, "stated": file.stated}
            fetch(file.url, path, **facts, limits=OFFLINE)
        except InputError as error:
            wrong += 1
            print(f"NOT SOUND: {error}")
    print(f"{name}: {there} files here, {wrong} of them not as published", file=sys.stderr)
    return wrong


OFFLINE = downloads.Limits(offline=True)


def _folder(name):
    return Path(f"resources/raw/{name}")


def _lock(config, name):
    """The lock file of a dataset, written first if it is not there."""
    if name not in config["datasets"]:
        raise InputError(f"no dataset {name!r}{did_you_mean(name, config['datasets'])}")
    plan = Plan(config)
    lock = Path(plan.lock("raw", name))
    if not lock.is_file():
        downloads.listing(lock, plan.spec("listing", dataset=name))
    return lock
