"""Datasets: what reads one unit of raw files as recordings.

A component has `read(unit, rows, options) -> list[Recording]`; each row says of one recording its
`file`, the `path` of that on this machine, `labels_path` and `confounds_path` if it has them, and
what is known about it; of a kind that reads both, `eeg` and `fmri`, `eeg_path` and `fmri_path`.
A component whose data can be fetched or simulated also has `make(path, row, options)`.  Columns in
which its manifest may name recordings, beside `file`, stand in `READS`; those that say which part
of a file a recording is, in `PARTS`; options that hold those of other kinds, in `OPTIONS_OF`.
"""

from dataclasses import replace

from engram.planning import components
from engram.recording import Recording

#: Columns of a manifest that name files of a recording beside its `file`, in their order.
BESIDE = ("eeg", "fmri", "confounds", "labels")


def read(spec, paths):
    """The recordings of one unit.

    Args:
        spec: of the render stage: `dataset` (kind and options), `unit`, `rows`.
        paths: the raw files, in the order of `rows`, of each its `file`, then those `BESIDE` it.

    Returns:
        list of Recording, one a scan.

    Raises:
        InputError: a file is not what the dataset's kind expects.
    """
    module, options = components.options("datasets", spec["dataset"])
    paths, rows, facts = iter(map(str, paths)), [], {}
    for row in spec["rows"]:
        row = {**row, **({"path": next(paths)} if "file" in row else {})}
        row |= {f"{column}_path": next(paths) for column in BESIDE if row.get(column)}
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
