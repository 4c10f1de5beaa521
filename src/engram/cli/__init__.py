"""The command `engram`: look at recordings and stores, encode or apply outside the workflow."""

import argparse
import copy
import itertools
import json
import os
import sys
from pathlib import Path

from engram import __version__
from engram.errors import InputError, printable


def main(arguments=None):
    """Entry point; a user's mistake is one line and exit status 1."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
    except (KeyboardInterrupt, BrokenPipeError):
        print("stopped", file=sys.stderr)
    return 1


def parser():
    top = argparse.ArgumentParser(prog="engram", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(run, name, text):
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(run=run)
        return one

    one = command(stores, "stores", "list the stores of a folder")
    one.add_argument("folder", nargs="?", default="results", type=Path)

    one = command(show, "show", "print header, table and a few rows of a store")
    one.add_argument("file", type=Path)
    one.add_argument("--rows", type=int, default=5, help="how many rows (default: 5)")

    one = command(verify, "verify", "check every checksum, and encode a sample of rows again")
    one.add_argument("files", nargs="+", type=Path, metavar="FILE")
    one.add_argument("--share", type=float, default=0.01, help="of the batches (default: 0.01)")
    one.add_argument("--quick", action="store_true", help="checksums only")

    one = command(
        check, "check", "look at recordings before a run: what they hold, what is refused"
    )
    one.add_argument("targets", nargs="+", type=Path, metavar="STUDY|MANIFEST|FILE")
    one.add_argument("-o", "--output", default="check", type=Path, metavar="FOLDER")
    one.add_argument("--quick", action="store_true", help="read headers only")
    one.add_argument("--no-pictures", action="store_true", help="draw none")
    one.add_argument("--jobs", type=int, help="processes (default: one a core)")

    one = command(backbones, "backbones", "list the backbones of the configuration")
    _add_configfiles(one)

    one = command(features, "features", "encode images, or lines of text, into a store")
    one.add_argument("inputs", nargs="+", metavar="IMAGE", help="images, folders, or .txt files")
    one.add_argument("--backbone", required=True, metavar="NAME", help="see `engram backbones`")
    one.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help=".h5 or .zarr")
    one.add_argument("--weights", help="a file, or `random`; by default as configured")
    one.add_argument("--force", action="store_true", help="overwrite other features in OUT")
    one.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    _add_configfiles(one)

    one = command(apply, "apply", "say what a trained model says of recordings without labels")
    one.add_argument("model", type=Path, metavar="MODEL", help="{study}/models/NAME.safetensors")
    one.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="recordings, folders of them, or stores"
    )
    one.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="a folder")
    one.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    one.add_argument(
        "--gallery",
        action="append",
        type=Path,
        metavar="FEATURES",
        help="of a model of pictures: stores of the features of those to choose among",
    )
    one.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="how files are read, an option of the dataset, e.g. tr=2.0; may be given more than "
        "once",
    )
    one = command(manifest, "manifest", "write the manifest of a folder")
    one.add_argument("layout", choices=["bids", "files"], help="BIDS, or patterns of names")
    one.add_argument("folder", type=Path, help="raw BIDS, or derivatives of fMRIPrep; or a lock")
    one.add_argument("-o", "--output", type=Path, metavar="CSV", help="by default it is printed")
    one.add_argument("--derivatives", type=Path, metavar="FOLDER", help="of the fMRI")
    one.add_argument("--space", help="of the fMRI, where there are several")
    one.add_argument("--match", metavar="TEXT", help="in the names of its files, e.g. seg-own")
    one.add_argument("--fmri", help="bold or timeseries, where BIDS has both; or a pattern")
    one.add_argument("--eeg", help="a pattern such as EEG/{subject}-{scan}.set")
    one.add_argument("--force", action="store_true", help="overwrite the output")

    one = command(data, "data", "list, fetch or verify what is published")
    one.add_argument("action", choices=["list", "fetch", "verify"])
    one.add_argument("dataset", nargs="?", help="a name of the configuration")
    one.add_argument("--include", action="append", default=[], metavar="PATTERN", help="of paths")
    one.add_argument("--parallel", type=int, default=4, help="files at a time (default: 4)")
    one.add_argument("--offline", action="store_true", help="open no connection")
    _add_configfiles(one)

    one = command(cluster, "cluster", "write a profile for the SLURM cluster of this machine")
    one.add_argument("-o", "--output", default="profiles/cluster", type=Path, metavar="FOLDER")
    one.add_argument("--account", help="to submit under, where SLURM asks for one")
    one.add_argument(
        "--partition",
        action="append",
        default=[],
        help="to use; may be given more than once (default: the default one, and GPUs)",
    )
    one.add_argument("--batch", type=int, default=10, help="jobs a submission (default: 10)")
    one.add_argument("--force", action="store_true", help="overwrite a profile")
    return top


def _add_configfiles(one):
    one.add_argument(
        "--configfile",
        action="append",
        default=[],
        type=Path,
        help="a study, laid over the configuration; may be given more than once",
    )


# ---- stores ---------------------------------------------------------------------------


def stores(options):
    from engram import store

    if not options.folder.is_dir():
        raise InputError(f"{options.folder}: no such folder; name the one that holds the stores")
    files = sorted(f for f in options.folder.rglob("*") if f.suffix in store.formats.FORMATS)
    lines = []
    for file in files:
        try:
            one = store.open(file)
        except InputError as error:
            lines.append([str(file), "unreadable", str(error)])
            continue
        facts = [one.header.get("what", ""), _shape(one), _size(file.stat().st_size)]
        lines.append([str(file), *facts])
    _print_table(["store", "holds", "rows", "size"], lines)


def show(options):
    from engram import store

    one = store.open(options.file)
    _print(f"{options.file}: {_shape(one)}, {_size(options.file.stat().st_size)}\n")
    _print(json.dumps(one.header, indent=2, ensure_ascii=False))
    if one.audit:
        _print(f"\naudit: {json.dumps(one.audit, ensure_ascii=False)}")
    _print(f"\n{one.table.head(options.rows).to_string()}")
    for name, row in zip(one.table.index, one[: options.rows], strict=False):
        _print(f"\n{printable(name)}\n{row}")


def verify(options):
    from engram import store
    from engram.cli.recompute import recompute

    unsound = 0
    for file in options.files:
        try:
            one = store.open(file)
            problems = one.verify()
            remark = f"{len(one)} rows, every checksum fits"
            if not problems and not options.quick and _has_source(one):
                remark += f"; {recompute(file, options.share)}"
        except InputError as error:
            problems = [str(error)]
        unsound += bool(problems)
        for problem in problems:
            print(f"NOT SOUND: {problem}")
        if not problems:
            print(f"{file}: {remark}")
    return int(unsound > 0)


def _has_source(one):
    return bool(one.header.get("made_by", {}).get("from"))


def _shape(one):
    return f"{' x '.join(map(str, one.shape))} {one.dtype}"


def _size(n):
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


def _print(text):
    """Lines of ours, in which names and texts of a file may be anything."""
    print("\n".join(map(printable, text.split("\n"))))


def _print_table(head, lines):
    lines = [head, *([printable(cell) for cell in line] for line in lines)]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*lines, fillvalue="")]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        print("  ".join(cells).rstrip())


# ---- recordings -----------------------------------------------------------------------


def check(options):
    from engram.cli import checking

    refused = checking.check(
        configuration,
        options.targets,
        options.output,
        jobs=options.jobs,
        quick=options.quick,
        pictures=not options.no_pictures,
    )
    return int(refused > 0)


# ---- backbones ------------------------------------------------------------------------


def configuration(configfiles) -> dict:
    """The vocabulary, with the configuration of the folder and studies laid over it, checked."""
    from engram.planning import config_files
    from engram.planning.configuration import check

    schema, roots = "workflow/schemas/config.schema.yaml", [Path(), Path(__file__).parents[3]]
    root = next((root for root in roots if (root / schema).is_file()), None)
    if not root:
        raise InputError(f"no {schema} here; run this in a checkout of Engram")
    own = [file for file in [Path("config/config.yaml")] if file.is_file()]
    files = [root / "config/config.yaml", root / "config/backbones.yaml", *own, *configfiles]
    merged = {}
    for file in files:
        _lay_over(merged, config_files.load(file))
    try:
        check(merged, config_files.load(root / schema))
    except InputError as error:
        raise InputError(config_files.located(str(error), files)) from None
    return merged


def _lay_over(base, over):
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _lay_over(base[key], value)
        else:
            base[key] = copy.deepcopy(value)  # what two keys refer to stays with each


def backbones(options):
    from engram.planning.plan import Plan

    plan = Plan(configuration(options.configfile))
    lines = []
    for name in plan.config["backbones"]:
        this = plan.backbone(name)
        published = plan.config["checkpoints"].get(this.get("checkpoint"), {})
        size = "x".join(map(str, this["size"])) if "size" in this else ""
        licence = published.get("licence", "")
        download = _size(published["bytes"]) if "bytes" in published else ""
        file, weights = plan.weights(name), this.get("weights", "none")
        where = file if file and Path(file).is_file() else published.get("url", file or weights)
        where = "random" if weights == "random" else where
        lines.append([name, this["kind"], this.get("dim", ""), size, licence, download, where])
    _print_table(["backbone", "kind", "dim", "input", "licence", "file", "weights"], lines)


def features(options):
    from engram.cli.encode import encode_files

    config = configuration(options.configfile)
    encode_files(
        config,
        options.backbone,
        options.inputs,
        options.output,
        options.weights,
        options.device,
        options.force,
    )


# ---- apply ----------------------------------------------------------------------------


def apply(options):
    from engram.cli.applying import apply_model

    out = options.output
    applied, (head, *lines) = apply_model(
        options.model, options.files, out, options.device, options.set, options.gallery
    )
    _print_table(head, lines)
    print(f"\n{len(applied.table)} lines in {out}/predictions.csv, pictures in {out}/summary.html")
    if applied.failed:
        there = len(applied.failed) + len(lines)
        raise InputError(f"{len(applied.failed)} of {there} cannot be used; each is said above")


# ---- manifest -------------------------------------------------------------------------


def manifest(options):
    from engram.cli import manifests

    if options.layout == "files":
        patterns = {"eeg": options.eeg, "fmri": options.fmri}
        patterns = {column: one for column, one in patterns.items() if one}
        if not patterns:
            raise InputError("engram manifest files: name patterns with --eeg, --fmri or both")
        return manifests.files(options.folder, patterns, options.output, options.force)
    if options.fmri not in (None, "bold", "timeseries"):
        raise InputError(f"--fmri {options.fmri}: of a BIDS folder it is bold or timeseries")
    return manifests.bids(
        options.folder,
        options.output,
        options.derivatives,
        options.space,
        options.match,
        options.fmri,
        options.force,
    )


# ---- data -----------------------------------------------------------------------------


def data(options):
    from engram.cli import published as actions

    config, name = configuration(options.configfile), options.dataset
    if options.offline:
        os.environ["ENGRAM_OFFLINE"] = "1"
    if name is None and options.action == "list":
        head = ["dataset", "kind", "where", "licence", "files"]
        return _print_table(head, actions.datasets(config))
    if name is None:
        raise InputError(f"engram data {options.action}: name a dataset; see `engram data list`")
    if options.action == "list":
        return _print_table(["file", "bytes", "checksum", ""], actions.files(config, name))
    if options.action == "fetch":
        return actions.fetch_dataset(config, name, options.include, options.parallel)
    return int(actions.verify(config, name) > 0)


# ---- cluster --------------------------------------------------------------------------


def cluster(options):
    from engram.cli.slurm import write_profile

    lines = write_profile(
        options.output, options.account, options.partition, options.batch, options.force
    )
    print("\n".join(lines))
    print(f"\nsnakemake --workflow-profile {options.output} --configfile STUDY")
