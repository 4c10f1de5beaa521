"""What a configuration asks for: which stores exist, and what makes each of them.

Everything the rules need to know is computed here, from plain data and with the standard
library alone, so that it can be tested without Snakemake.
"""

import csv
import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engram import components
from engram.errors import InputError

#: Families of components; a name under `<family>` in the configuration has a `kind`,
#: which is a file in the package of that name.
FAMILIES = ("datasets", "views", "backbones", "heads")

#: Keys of a dataset that the plan itself reads; all others are options of its kind.
DATASET_KEYS = ("kind", "units", "folder", "manifest", "files", "windows", "title")

#: Keys of a backbone that the plan itself reads; all others are options of its kind.
BACKBONE_KEYS = ("kind", "title", "like", "checkpoint")

#: Suffixes of stores: their formats.
STORES = ("h5", "zarr")

#: How folds are made, and whether training and test share subjects.
FOLDS = {
    "leave_one_subject_out": "new subjects",
    "group_kfold": "new subjects",
    "blocked": "new time blocks of known subjects, purged",
    "random_windows": "LEAKS: random windows of known scans",
}


@dataclass(frozen=True)
class Plan:
    """The graph of one configuration.

    Attributes:
        config: the merged configuration, as Snakemake reads it.
    """

    config: dict

    # ---- datasets -----------------------------------------------------------------

    def units(self, dataset) -> list[str]:
        """Names of the units of a dataset: what one store holds, e.g. a subject."""
        this = self.config["datasets"][dataset]
        if "units" in this:
            return [str(unit) for unit in this["units"]]
        return list(dict.fromkeys(row["unit"] for row in self._manifest(dataset)))

    def rows(self, dataset, unit) -> list[dict]:
        """The raw files of a unit: for each its `file` and what is known about it."""
        this = self.config["datasets"][dataset]
        if "manifest" in this:
            return [row for row in self._manifest(dataset) if row["unit"] == unit]
        return [row for pattern in this["files"] for row in _expand(pattern, unit, this)]

    def _manifest(self, dataset):
        this = self.config["datasets"][dataset]
        path = Path(this["manifest"])
        if not path.is_file():
            path = self._folder(dataset) / path
        try:
            return _read_manifest(path, path.stat().st_mtime_ns)
        except OSError as error:
            raise InputError(f"datasets.{dataset}.manifest: {path}: {error.strerror}") from None

    def _folder(self, dataset):
        """Where the raw files of a dataset lie: in its `folder`, or where they are downloaded."""
        return Path(self.config["datasets"][dataset].get("folder") or f"resources/raw/{dataset}")

    def raw(self, dataset, unit) -> list[str]:
        """Paths of the raw files of a unit, in the order of `rows`; each `file`, then its `labels`.

        Raises:
            InputError: the dataset is local and a file is missing.
        """
        local = "folder" in self.config["datasets"][dataset]
        paths = []
        for row in self.rows(dataset, unit):
            for file in filter(None, (row["file"], row.get("labels"))):
                path = self._folder(dataset) / file
                if local and not path.is_file():
                    raise InputError(
                        f"datasets.{dataset}: {path} is missing{_similar(path)}; put the data "
                        f"there, or set datasets.{dataset}.folder to where it lies"
                    )
                paths.append(str(path))
        return paths

    # ---- stores -------------------------------------------------------------------

    def store(self, dataset, unit, source) -> str:
        """Path of the store called `source`, "view" or "view/backbone", of one unit."""
        view, _, backbone = source.partition("/")
        unit = self.config["views"][view].get("unit", unit)
        family = "features" if backbone else "views"
        return f"results/{family}/{dataset}/{unit}/{source}.{self.suffix}"

    @property
    def suffix(self) -> str:
        """Suffix of every store, its format."""
        return self.config.get("store", STORES[0])

    def backbone(self, name) -> dict:
        """Keys of a backbone, those of the one it is `like` included.

        Raises:
            InputError: it is like itself, by however many steps.
        """
        chain = [name]
        while like := self.config["backbones"][chain[-1]].get("like"):
            if like in chain:
                raise InputError(f"backbones.{name}.like: goes in a circle: {', '.join(chain)}")
            chain.append(like)
        merged = {}
        for one in reversed(chain):
            merged |= self.config["backbones"][one]
        return merged

    def weights(self, backbone) -> str | list:
        """Weights file of a backbone; nothing if it has no weights or draws random ones."""
        this = self.backbone(backbone)
        weights = this.get("weights", "none")
        if weights == "published":
            url = self.config["checkpoints"][this["checkpoint"]]["url"]
            return f"resources/weights/{this['checkpoint']}/{_file_name(url)}"
        return [] if weights in ("none", "random") else weights

    # ---- experiments --------------------------------------------------------------

    def candidates(self, experiment) -> list[list[str]]:
        """Inputs among which training chooses; each a list of sources used side by side."""
        x = self.config["experiments"][experiment]["x"]
        alternatives = x["choose"] if isinstance(x, dict) else [x]
        return [[one] if isinstance(one, str) else list(one) for one in alternatives]

    def sources(self, experiment) -> list[str]:
        """Every source that stands on the x side of an experiment."""
        return list(dict.fromkeys(s for one in self.candidates(experiment) for s in one))

    def stores(self, experiment, source) -> list[str]:
        """The stores of one source, all units of the experiment's dataset."""
        dataset = self.config["experiments"][experiment]["dataset"]
        paths = [self.store(dataset, unit, source) for unit in self.units(dataset)]
        return list(dict.fromkeys(paths))

    def x(self, experiment) -> list[str]:
        return [p for source in self.sources(experiment) for p in self.stores(experiment, source)]

    def y(self, experiment) -> list[str]:
        return self.stores(experiment, self.config["experiments"][experiment]["y"])

    def pictures(self, experiment) -> list[str]:
        """The view stores behind the first source, whose rows a person can look at."""
        return self.stores(experiment, self.sources(experiment)[0].partition("/")[0])

    def baseline(self, experiment) -> str | None:
        """The experiment that stands beside this one as its baseline."""
        name = self.config["experiments"][experiment].get("baseline")
        return None if name == "none" else name

    def experiments(self) -> list[str]:
        """What to run, baselines included, each after its baseline."""
        wanted = []
        for experiment in self.config["run"]:
            wanted += [name for name in (self.baseline(experiment), experiment) if name]
        return list(dict.fromkeys(wanted))

    def compared(self, experiment) -> list[str]:
        """Predictions of the baseline of an experiment, if it has one."""
        baseline = self.baseline(experiment)
        return [f"results/predictions/{baseline}.{self.suffix}"] if baseline else []

    def figures(self) -> list[str]:
        """The figures that the report shows."""
        paths = []
        for name in self.experiments():
            files = ["subjects.svg", "confusion.svg", "curves.svg", "examples.svg"]
            files += ["map.json", "map.png"] if name in self.config.get("maps", []) else []
            paths += [f"results/figures/{name}/{file}" for file in files]
        return paths

    # ---- what a job depends on ------------------------------------------------------

    def spec(self, stage, **names) -> dict:
        """The part of the configuration that one job depends on, canonical, and no more."""
        return _canonical(getattr(self, f"_{stage}_spec")(**names))

    def _download_spec(self, shelf, name, file):
        if shelf == "weights":
            return {"checkpoint": self.config["checkpoints"][name]}
        return self._raw_spec(name, file)

    def _raw_spec(self, dataset, file):
        row = next(
            (row for unit in self.units(dataset) for row in self.rows(dataset, unit)
             if row["file"] == file),
            None,
        )  # fmt: skip
        if row is None:
            raise InputError(f"datasets.{dataset} has no file {file}")
        return {"dataset": self._options("datasets", dataset), "row": row}

    def _render_spec(self, dataset, unit, view):
        return {
            "dataset": self._options("datasets", dataset),
            "windows": self.config["datasets"][dataset].get("windows"),
            "view": self.config["views"][view],
            "unit": unit,
            "rows": self.rows(dataset, unit),
        }

    def _extract_spec(self, backbone, **_):
        this = self.backbone(backbone)
        facts = [key for key in BACKBONE_KEYS if key != "kind"]
        return {"backbone": {key: this[key] for key in this if key not in facts}}

    def _train_spec(self, experiment):
        this = self.config["experiments"][experiment]
        return {
            "experiment": {key: this[key] for key in this if key not in ("baseline", "title")},
            "sources": self._counted_sources(experiment),
            "candidates": self.candidates(experiment),
            "head": self.config["heads"][this["head"]],
        }

    def _counted_sources(self, experiment):
        """[source, number of stores] in the order of `x`; a dict would be sorted."""
        return [[s, len(self.stores(experiment, s))] for s in self.sources(experiment)]

    def _evaluate_spec(self, experiment):
        this = self.config["experiments"][experiment]
        return {
            "experiment": experiment,
            "baseline": self.baseline(experiment),
            "generalises_to": FOLDS[fold_kind(this)],
            "sources": self._counted_sources(experiment),
            "evaluation": self.config.get("evaluation", {}),
        }

    def _plot_spec(self, experiment):
        return {"experiment": experiment}

    _map_spec = _plot_spec

    def _report_spec(self):
        return {
            "title": self.config.get("title", "Engram"),
            "experiments": {
                name: {
                    **self.config["experiments"][name],
                    "dataset_title": self.config["datasets"][
                        self.config["experiments"][name]["dataset"]
                    ].get("title", self.config["experiments"][name]["dataset"]),
                }
                for name in self.experiments()
            },
        }

    def _options(self, family, name):
        this = self.config[family][name]
        skipped = [key for key in DATASET_KEYS if key != "kind"] if family == "datasets" else []
        return {key: this[key] for key in this if key not in skipped}

    def modules(self, stage, **names) -> list[str]:
        """Modules of the components that one job loads by name."""
        spec = self.spec(stage, **names)
        parts = {"dataset": "datasets", "view": "views", "backbone": "backbones", "head": "heads"}
        return [
            f"engram.{family}.{spec[part]['kind']}"
            for part, family in parts.items()
            if "kind" in spec.get(part, {})
        ]

    def gpus(self, stage, **names) -> int:
        """GPUs that a job asks for: none if its component declares `DEVICE = "cpu"`."""
        module = self.modules(stage, **names)[-1]
        return 0 if components.constant(module, "DEVICE") == "cpu" else 1


# ---- small ----------------------------------------------------------------------------


def _file_name(url):
    """The last part of a URL's path."""
    return url.partition("?")[0].rpartition("/")[2]


def fold_kind(experiment) -> str:
    """The way an experiment splits, one of `FOLDS`."""
    folds = experiment.get("folds", "leave_one_subject_out")
    return folds["kind"] if isinstance(folds, dict) else folds


@cache
def _read_manifest(path, changed):
    """Lines of a manifest as dicts; `changed`, its mtime, only keys the cache."""
    rows = [dict(row) for row in csv.DictReader(path.read_text("utf-8-sig").splitlines())]
    if not rows:
        raise InputError(f"{path}: the manifest lists no recording")
    for column in ("subject", "scan", "file"):
        if any(not row.get(column) for row in rows):
            raise InputError(f"{path}: every line needs a value for `{column}`")
    named = [(row["subject"], row["scan"]) for row in rows]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise InputError(f"{path}: listed twice: subject {twice[0][0]}, scan {twice[0][1]}")
    return [{**row, "unit": row.get("unit") or row["subject"]} for row in rows]


def _similar(path):
    """The file beside `path` whose name is closest, in brackets: an apostrophe, a capital."""
    there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=1, cutoff=0.9)
    return f" (there is {close[0]!r})" if close else ""


def _expand(pattern, unit, dataset):
    """The rows of one file pattern: {unit} filled in, and any {name} whose list `names` holds."""
    names = re.findall(r"{(\w+)}", pattern)
    rows = [{"unit": unit}]
    for name in dict.fromkeys(names):
        if name != "unit":
            rows = [{**row, name: value} for row in rows for value in dataset[name]]
    return [{**row, "file": pattern.format(**row)} for row in rows]


def _canonical(value):
    """`value` with its keys in order, so that reordering YAML reruns nothing."""
    if isinstance(value, dict):
        return {key: _canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
