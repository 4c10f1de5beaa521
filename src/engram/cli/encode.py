"""Features of images or lines of text, outside the workflow, in the same store."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from engram import store
from engram.backbones import encode, load
from engram.errors import InputError
from engram.job import digest, versions
from engram.planning.plan import Plan
from engram.planning.shape import did_you_mean
from engram.readers.folders import PICTURE, TEXT, Images, Texts


@dataclass(frozen=True)
class Kind:
    """What the rows are, before they are read."""

    path: Path
    header: dict


def encode_files(config, name, inputs, output, weights=None, device="cpu", force=False):
    """Encode files into a feature store; goes on where an interrupted call stopped.

    Args:
        config: the configuration, merged.
        name: of the backbone.
        inputs: paths of images or of folders of images, or of .txt files, one text a line.
        output: the store to write.
        weights: a file or "random"; None as configured.
        device: "cpu" or "cuda".
        force: overwrite a store that holds something else.

    Raises:
        InputError: there is no such backbone, its weights are not there, a file is not
            readable, or `output` holds something else.
    """
    if name not in config["backbones"]:
        raise InputError(f"no backbone {name!r}{did_you_mean(name, config['backbones'])}")
    if weights:
        config["backbones"][name]["weights"] = weights
    plan = Plan(config)
    spec, file = plan.spec("extract", backbone=name), plan.weights(name) or None
    if file and not Path(file).is_file():
        raise InputError(
            f"{file}: the weights of {name} are not there; fetch them with "
            f"`snakemake --cores 1 {file}`, or give --weights"
        )
    text = Path(inputs[0]).suffix == ".txt"
    kind = Kind(Path(inputs[0]), TEXT if text else PICTURE)
    backbone = load(kind, spec, file, device)
    rows = Texts(inputs) if text else _images(inputs, backbone)
    if not force:
        _refuse_other(output, spec, rows, backbone)
    made_by = {
        "spec": spec,
        "inputs": {str(file): digest(file)} if file else {},
        "versions": versions(),
        "threads": os.cpu_count(),
        "device": device,
    }
    if backbone.facts["weights"] == "random":
        print(f"warning: {name} has random weights; its features know nothing", file=sys.stderr)
    encode(rows, backbone, output, spec, made_by)


def _images(inputs, backbone):
    """Pictures as large as a backbone sees them."""
    seen = getattr(backbone, "preprocessing", None)
    return Images(inputs, *((seen.size, seen.interpolation) if seen else backbone.size))


def _refuse_other(output, spec, rows, backbone):
    """Refuse to replace a finished store by features of another backbone, or of other files."""
    if not output.exists():
        return
    found = store.open(output)
    held, weights = found.header.get("made_by", {}), backbone.facts.get("weights_sha256")
    what = ""
    if held.get("spec") != spec or found.header.get("weights_sha256") != weights:
        what = "of another backbone, its options or weights"
    elif not found.table.equals(rows.table):
        what = "of other files"
    if what:
        raise InputError(
            f"{output}: holds {found.header.get('what')} {what}; give another name with -o, or "
            "--force to overwrite it"
        )
