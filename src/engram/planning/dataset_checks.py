"""What is wrong with a dataset: where it comes from, what it lists, what its files are called.

Standard library only, like `engram.planning.plan`.
"""

import string

from engram.errors import InputError
from engram.planning import components, names
from engram.planning.shape import did_you_mean


def check_dataset(where, dataset):
    """Refuse a dataset that says two ways, or none, to have its files, or names them wrongly."""
    _check_source(where, dataset)
    _check_recordings(where, dataset)


def _check_source(where, dataset):
    source = dataset.get("source")
    if not source:
        return
    if sum(kind in source for kind in components.PUBLISHERS) != 1:
        raise InputError(f"{where}.source: needs one of {', '.join(components.PUBLISHERS)}")
    if "folder" in dataset:
        raise InputError(f"{where}: has both `source` and `folder`; set one of them to null")


def _check_recordings(where, dataset):
    """What a dataset lists: a manifest, or units and the patterns of their files."""
    listed = "manifest" in dataset
    if not listed and not ("units" in dataset and "files" in dataset):
        raise InputError(f"{where}: needs a `manifest`, or `units` and their `files`")
    kind = dataset.get("kind")
    reads = kind in components.kinds("datasets") and components.constant(
        f"engram.datasets.{kind}", "READS"
    )
    if not listed and reads and "file" not in reads:
        raise InputError(
            f"{where}: kind {kind!r} needs a `manifest` with the columns {' and '.join(reads)}, "
            "which say what belongs to one scan"
        )
    units, shared = list(map(str, dataset.get("units", []))), list(dataset.get("shared", {}))
    taken = {}
    for key, name in [*(("units", unit) for unit in units), *(("shared", one) for one in shared)]:
        if fault := names.fault_of_unit(name):
            raise InputError(f"{where}.{key}: {name!r}: {fault}")
        if other := taken.get(names.alike(name)):
            raise InputError(f"{where}.{key}: {other!r} and {name!r} are one folder; rename one")
        taken[names.alike(name)] = name
    folder = dataset.get("folder", ".")
    if fault := names.fault_of_path(folder) if folder else "name one, or leave the key out":
        raise InputError(f"{where}.folder: {folder!r}: {fault}")
    patterns = dataset.get("files", [])
    for pattern in patterns:
        _check_pattern(f"{where}.files", pattern, dataset)
    if not listed and len(units) > 1 and not any("{unit}" in pattern for pattern in patterns):
        raise InputError(f"{where}.files: all units have the same files; put {{unit}} in a pattern")


def _check_pattern(where, pattern, dataset):
    """Braces around `unit`, or around a key of the dataset that holds a list, and no others."""
    lists = [key for key in dataset if isinstance(dataset[key], list) and key != "files"]
    try:
        fields = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise InputError(f"{where}: {pattern!r}: {error}; close every brace") from None
    for _, name, style, conversion in fields:
        if name is not None and (name not in ("unit", *lists) or style or conversion):
            raise InputError(
                f"{where}: {pattern!r}: in braces stands `unit` or the name of a list that the "
                f"dataset holds{did_you_mean(name, ['unit', *lists])}"
            )
