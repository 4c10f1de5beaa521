"""Datasets: what reads one unit of raw files as recordings.

A component has `read(unit, rows, options) -> list[Recording]`; each row says of one raw file
its `file`, its `path` on this machine and what is known about it.  A component whose data can
be fetched or simulated also has `make(path, row, options)`.
"""

from dataclasses import replace

from engram.planning import components
from engram.recording import Recording


def read(spec, paths):
    """The recordings of one unit.

    Args:
        spec: of the render stage: `dataset` (kind and options), `unit`, `rows`.
        paths: the raw files, in the order of `rows`; a row's `labels` file follows its `file`.

    Returns:
        list of Recording, one a scan.

    Raises:
        InputError: a file is not what the dataset's kind expects.
    """
    module, options = components.options("datasets", spec["dataset"])
    paths, rows, facts = iter(map(str, paths)), [], {}
    for row in spec["rows"]:
        row = {**row, "path": next(paths)}
        if row.get("labels"):
            row["labels_path"] = next(paths)
        if known := row.pop("facts", None):
            facts[row["subject"], row["scan"]] = known
        rows.append(row)
    read = module.read(spec["unit"], rows, options)
    return [_knowing(recording, facts) for recording in read] if facts else read


def _knowing(recording, facts):
    """A recording with what the manifest says of it."""
    if not isinstance(recording, Recording):
        return recording
    known = facts.get((recording.subject, recording.scan), {})
    return replace(recording, facts=recording.facts | known)
