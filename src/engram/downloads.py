"""Stage `download`: one file of a dataset or of weights, fetched or simulated."""

from pathlib import Path

from engram import components, store
from engram.errors import InputError
from engram.transfer import fetch

CODE_VERSION = 1  # downloads carry checksums; raise when files must be fetched again


def download(path, spec):
    """Make one file, absent or complete and verified.

    Args:
        path: where the file goes.
        spec: `checkpoint` (url and, where published, bytes and sha256); or `dataset` (kind and
            options) and the `row` of the file.

    Raises:
        InputError: files of this kind of dataset cannot be fetched, or the file cannot be had
            or is not what was published.
    """
    if "checkpoint" in spec:
        this = spec["checkpoint"]
        sums = {"sha256": this["sha256"]} if "sha256" in this else None
        fetch(this["url"], path, size=this.get("bytes"), checksums=sums)
    else:
        _simulate(Path(path), spec)


def _simulate(path, spec):
    module, options = components.options("datasets", spec["dataset"])
    if not hasattr(module, "make"):
        raise InputError(
            f"{path}: data of kind {spec['dataset']['kind']!r} cannot be downloaded; put the "
            "files on this machine and set `folder` of the dataset to where they lie"
        )
    with store.replaced(path) as temporary:
        module.make(temporary, spec["row"], options)
