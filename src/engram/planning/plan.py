"""What a configuration asks for: which stores exist, and what makes each of them.

Everything the rules need to know is computed here, from plain data and with the standard
library alone, so that it can be tested without Snakemake.
"""

import difflib
import re
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path

from engram.errors import InputError
from engram.planning import components, manifest, provenance
from engram.planning.companions import companions

#: Families of components; a name under `<family>` in the configuration has a `kind`,
#: which is a file in the package of that name.
FAMILIES = ("datasets", "views", "backbones", "heads")

#: Keys of a dataset that the plan itself reads; all others are options of its kind.
DATASET_KEYS = (
    *("kind", "units", "folder", "manifest", "files", "shared", "windows", "title"),
    *("source", "licence", "terms", "terms_accepted", "by_hand"),
)

#: Keys of a backbone that the plan itself reads; all others are options of its kind.
BACKBONE_KEYS = ("kind", "title", "like", "checkpoint")

#: Keys of every family that are no options of a kind, `kind` apart.
KEYS = {"datasets": DATASET_KEYS, "views": ("unit",), "backbones": BACKBONE_KEYS}

#: Suffixes of stores: their formats.
STORES = ("h5", "zarr")

#: The study that is run where neither `study` nor a configuration file names one.
STUDY = "demo"

#: Folders in `results` that all studies share.
SHARED = ("views", "features", "logs", "benchmarks")

#: Keys of a comparison that its members do not share with an experiment.
COMPARISON_KEYS = ("title", "view", "backbones", "experiments")

#: `tracking.wandb` where it says nothing else.
TRACKING = {"project": "engram", "entity": None, "mode": "offline", "checkpoint": False}

#: Families in which a stage loads the module called after the task of its experiment.
OF_TASK = {"train": "tasks", "occlude": "tasks", "evaluate": "scores", "plot": "figures"}


def kept(method):
    """A method whose answers an instance keeps: thousands of jobs ask the same of a plan."""

    @wraps(method)
    def asked(self, *arguments):
        answers = vars(self).setdefault(f"_{method.__name__}_answers", {})
        if arguments not in answers:
            answers[arguments] = method(self, *arguments)
        return answers[arguments]

    return asked


@dataclass(frozen=True)
class Plan:
    """The graph of one configuration.

    Attributes:
        config: the merged configuration, as Snakemake reads it.
    """

    config: dict

    # ---- datasets -----------------------------------------------------------------

    @kept
    def units(self, dataset) -> list[str]:
        """Names of the units of a dataset: what one store holds, e.g. a subject."""
        this = self.config["datasets"][dataset]
        if "units" in this:
            return [str(unit) for unit in this["units"]]
        return list(self._manifest(dataset))

    def shared(self, dataset) -> list[str]:
        """Names of the units that hold what all others share, e.g. the stimuli."""
        return list(self.config["datasets"][dataset].get("shared", {}))

    def rows(self, dataset, unit) -> list[dict]:
        """The raw files of a unit: for each its `file` and what is known about it.

        Raises:
            InputError: the manifest does not list the unit.
        """
        this = self.config["datasets"][dataset]
        if unit in this.get("shared", {}):
            return [{"unit": unit, "file": file} for file in this["shared"][unit]]
        if "manifest" in this:
            return self._listed(dataset, unit)
        return [row for pattern in this["files"] for row in _expand(pattern, unit, this)]

    def _listed(self, dataset, unit):
        listed = self._manifest(dataset)
        if unit not in listed:
            raise InputError(
                f"datasets.{dataset}: no unit {unit!r} in the manifest, which lists "
                f"{', '.join(list(listed)[:5])}{', ...' * (len(listed) > 5)}"
            )
        return listed[unit]

    @kept
    def _manifest(self, dataset):
        """The lines of a manifest, by unit."""
        named = self.config["datasets"][dataset]["manifest"]
        checkout = provenance.ROOT.parents[1]  # a study of it may run in another folder
        places = (Path(named), self._folder(dataset) / named, checkout / named)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise InputError(
                f"datasets.{dataset}.manifest: no file {places[0]} nor {places[1]}; correct its "
                "name, or put it there"
            )
        try:
            listed = manifest.read(path, path.stat().st_mtime_ns)
        except OSError as error:
            raise InputError(f"datasets.{dataset}.manifest: {path}: {error.strerror}") from None
        if taken := [unit for unit in self.shared(dataset) if unit in listed]:
            raise InputError(f"datasets.{dataset}.shared: {taken[0]!r} is a unit of {path} already")
        return listed

    def _folder(self, dataset, file=None):
        """Where raw files lie: in the dataset's folder, or where they are put or downloaded."""
        this = self.config["datasets"][dataset]
        shelf = "by_hand" if file in this.get("by_hand", []) else "raw"
        return Path(this.get("folder") or f"resources/{shelf}/{dataset}")

    def raw(self, dataset, unit) -> list[str]:
        """Paths of the raw files of a unit: what `rows` name, each `file`, then its `labels`.

        Behind them come the companions of the recordings that are here, such as the data and
        the markers of a BrainVision header.

        Raises:
            InputError: a file is missing that is not fetched.
        """
        this = self.config["datasets"][dataset]
        if "folder" not in this:
            self.check_terms(dataset)
        paths, beside = [], []
        for row in self.rows(dataset, unit):
            for file in filter(None, (row["file"], row.get("labels"))):
                path = self._folder(dataset, file) / file
                local = "folder" in this or file in this.get("by_hand", [])
                if local and not path.exists():
                    raise InputError(
                        f"datasets.{dataset}: {path} is missing{_similar(path)}; put the data "
                        f"there, or set datasets.{dataset}.folder to where it lies"
                    )
                paths.append(str(path))
                beside += map(str, companions(path) if local else [])
        return paths + [path for path in dict.fromkeys(beside) if path not in paths]

    def check_terms(self, dataset):
        """Refuse to fetch data under an agreement that was not accepted."""
        this = self.config["datasets"][dataset]
        if this.get("terms") and not this.get("terms_accepted"):
            raise InputError(
                f"datasets.{dataset}: its data is under an agreement: {this['terms']}; accept it "
                f"there, then set datasets.{dataset}.terms_accepted: true, or set "
                f"datasets.{dataset}.folder to a copy that you already have"
            )

    def lock(self, shelf, name) -> str:
        """The lock file: what the publisher of a dataset has, or what all weights were."""
        return f"config/locks/{name if shelf == 'raw' else 'weights'}.csv"

    def listed(self, shelf, name) -> list[str]:
        """The lock file that has to be there before a file is downloaded, if any."""
        published = shelf == "raw" and self.config["datasets"][name].get("source")
        return [self.lock(shelf, name)] if published else []

    def connections(self, shelf, name) -> int:
        """Connections to a publisher that a download makes: none if its file is simulated."""
        return 0 if shelf == "raw" and not self.config["datasets"][name].get("source") else 1

    # ---- stores -------------------------------------------------------------------

    def store(self, dataset, unit, source) -> str:
        """Path of the store called `source`, "view" or "view/backbone", of one unit."""
        view, _, backbone = source.partition("/")
        unit = self.config["views"][view].get("unit", unit)
        family = "features" if backbone else "views"
        return f"results/{family}/{dataset}/{unit}/{source}.{self.suffix}"

    @property
    def study(self) -> str:
        """Name of the study, that of the folder in `results` where all lies that it alone makes."""
        return self.config.get("study", STUDY)

    def own(self, path) -> str:
        """Where a file lies that this study alone makes; views and features are shared by all."""
        return f"results/{self.study}/{path}"

    @property
    def suffix(self) -> str:
        """Suffix of every store, its format."""
        return self.config.get("store", STORES[0])

    @kept
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

    @cached_property
    def known(self) -> dict:
        """Every experiment by name: those that are written out and the members of comparisons."""
        known = dict(self.config["experiments"])
        for comparison in self.config.get("comparisons", {}):
            known |= self.members(comparison)
        return known

    def candidates(self, experiment) -> list[list[str]]:
        """Inputs among which training chooses; each a list of sources used side by side."""
        return candidates(self.known[experiment])

    def sources(self, experiment) -> list[str]:
        """Every source that stands on the x side of an experiment."""
        return list(dict.fromkeys(s for one in self.candidates(experiment) for s in one))

    def stores(self, experiment, source) -> list[str]:
        """The stores of one source, all units of the experiment's dataset."""
        return self._stores_of(self.known[experiment]["dataset"], source)

    @kept
    def _stores_of(self, dataset, source):
        paths = [self.store(dataset, unit, source) for unit in self.units(dataset)]
        return list(dict.fromkeys(paths))

    def x(self, experiment) -> list[str]:
        return [p for source in self.sources(experiment) for p in self.stores(experiment, source)]

    def targets(self, experiment) -> list[str]:
        """Sources on the y side: a view of labels, or features of pictures, side by side."""
        y = self.known[experiment]["y"]
        return [y] if isinstance(y, str) else list(y)

    def task(self, experiment) -> str:
        """The question that an experiment asks, a module of `engram.tasks`."""
        return task_of(self.known[experiment], self.config["heads"])

    def of_task(self, experiment, constant):
        """What the task of an experiment declares, see `engram.tasks`."""
        return components.constant(f"engram.tasks.{self.task(experiment)}", constant)

    def tasks(self) -> dict[str, list[str]]:
        """The experiments that ask each question."""
        found = {}
        for experiment in self.known:
            found.setdefault(self.task(experiment), []).append(experiment)
        return found

    def folds(self, experiment) -> str:
        """The way an experiment splits, one of the `FOLDS` of its task."""
        how = self.known[experiment].get("folds", next(iter(self.of_task(experiment, "FOLDS"))))
        return how["kind"] if isinstance(how, dict) else how

    def y(self, experiment) -> list[str]:
        return [p for source in self.targets(experiment) for p in self.stores(experiment, source)]

    def probed(self, experiment) -> list[str]:
        """The inputs, where scores ask what else they know."""
        return self.x(experiment) if self.of_task(experiment, "PROBED") else []

    def pictures(self, experiment) -> list[str]:
        """The view stores, behind the first source or target, whose rows a person can look at."""
        if self.of_task(experiment, "SHOWS") == "x":
            source = self.sources(experiment)[0]
        else:
            source = self.targets(experiment)[0]
        return self.stores(experiment, source.partition("/")[0])

    def importance(self, experiment) -> list[str]:
        """What says where the models of an experiment look, if its task is asked that."""
        asked = self.of_task(experiment, "OCCLUDED")
        return [self.own(f"importance/{experiment}.json")] if asked else []

    def baseline(self, experiment) -> str | None:
        """The experiment that stands beside this one as its baseline."""
        name = self.known[experiment].get("baseline")
        return None if name == "none" else name

    def shown(self) -> list[str]:
        """Experiments that have a place of their own in the report: `run`, after its baselines."""
        return self._after_baselines(self.config["run"])

    def experiments(self) -> list[str]:
        """What to run, each after its baseline: `run`, then the members of comparisons."""
        members = [
            name for one in self.comparisons() for name in (*self.members(one), *self.guests(one))
        ]
        return self._after_baselines([*self.config["run"], *members])

    def _after_baselines(self, experiments):
        wanted = []
        for experiment in experiments:
            wanted += [name for name in (self.baseline(experiment), experiment) if name]
        return list(dict.fromkeys(wanted))

    def baseline_predictions(self, experiment) -> list[str]:
        """Predictions of the baseline of an experiment, if it has one."""
        baseline = self.baseline(experiment)
        return [self.own(f"predictions/{baseline}.{self.suffix}")] if baseline else []

    def figures(self) -> list[str]:
        """The figures that the report shows."""
        paths = []
        for name in self.shown():
            files = [*self.of_task(name, "FIGURES").values()]
            files += ["map.json", "map.png"] if name in self.config.get("maps", []) else []
            paths += [self.own(f"figures/{name}/{file}") for file in files]
        for name in self.comparisons():
            paths += [self.own(f"figures/{name}/{file}") for file in ("comparison.svg", "cka.svg")]
        return paths

    # ---- tracking -----------------------------------------------------------------

    def tracked(self) -> list[str]:
        """What says where each experiment is tracked; nothing unless that is configured."""
        if "wandb" not in self.config.get("tracking", {}):
            return []
        return [self.own(f"tracking/{name}.json") for name in self.experiments()]

    def tracked_model(self, experiment) -> list[str]:
        """The model that is tracked with an experiment, if that is asked for."""
        wanted = self._tracking()["checkpoint"]
        return [self.own(f"models/{experiment}.safetensors")] if wanted else []

    def tracked_figures(self, experiment) -> list[str]:
        """Those of the report that a person can look at elsewhere too."""
        folder = self.own(f"figures/{experiment}/")
        return [p for p in self.figures() if p.startswith(folder) and not p.endswith(".json")]

    def _tracking(self):
        return TRACKING | self.config.get("tracking", {}).get("wandb", {})

    # ---- comparisons --------------------------------------------------------------

    def comparisons(self) -> list[str]:
        """The comparisons to make."""
        return list(self.config.get("compare", []))

    def members(self, comparison) -> dict[str, dict]:
        """The experiments that a comparison consists of, by name: one a backbone."""
        this = self.config["comparisons"][comparison]
        shared = {key: this[key] for key in this if key not in COMPARISON_KEYS}
        return {
            f"{comparison}-{backbone}": {
                "title": self._backbone_title(backbone),
                "x": self._seen_by(backbone, this["view"]),
                **shared,
            }
            for backbone in this["backbones"]
        }

    def guests(self, comparison) -> list[str]:
        """Experiments of their own that stand in the table of a comparison too."""
        return list(self.config["comparisons"][comparison].get("experiments", []))

    @staticmethod
    def _seen_by(backbone, views):
        """The source of one backbone over a view, or those over several views side by side."""
        if isinstance(views, str):
            return f"{views}/{backbone}"
        return [f"{view}/{backbone}" for view in views]

    def _backbone_title(self, name):
        """Its own title; of one that is like another that one's title and its own name."""
        this = self.config["backbones"][name]
        if "title" in this or "like" not in this:
            return this.get("title", name)
        return f"{self._backbone_title(this['like'])}, {name}"

    def compared_sources(self, comparison) -> dict[str, list[str]]:
        """The features that a comparison measures, by experiment.

        Beside the members it is the baseline, if its x is features, and the guests, of which
        those whose x is no features stand there by their scores alone.
        """
        found = {name: self._features(name) for name in self.members(comparison)}
        this = self.config["comparisons"][comparison]
        baseline = self.known.get(this["baseline"], {})
        alike = all(baseline.get(key) == this[key] for key in ("dataset", "y"))
        if alike and (features := self._features(this["baseline"])):
            found[this["baseline"]] = features
        return found | {name: self._features(name) for name in self.guests(comparison)}

    def _features(self, experiment):
        """The sources that make the x of an experiment, if all are features and none is chosen."""
        first, *others = self.candidates(experiment)
        return [] if others or not all("/" in source for source in first) else first

    def compared_features(self, comparison) -> list[str]:
        """The feature stores of all experiments that a comparison measures, in their order."""
        return [
            path
            for name, sources in self.compared_sources(comparison).items()
            for source in sources
            for path in self.stores(name, source)
        ]

    def controls(self, comparison) -> dict[str, str]:
        """Members with random weights, each with the member whose model has published ones."""
        return self.twins(self.members(comparison))

    def twins(self, experiments) -> dict[str, str]:
        """Those with random weights, each with the one that is the same but for published ones."""
        asked = {name: self._but_for_weights(name) for name in experiments}
        drawn = [name for name in experiments if self.drawn(name)]
        published = {asked[name]: name for name in experiments if name not in drawn}
        return {name: published[asked[name]] for name in drawn if asked[name] in published}

    def drawn(self, experiment) -> list[str]:
        """The backbones of an experiment whose weights are drawn at random."""
        backbones = [s.partition("/")[2] for s in self.sources(experiment)]
        backbones += [s.partition("/")[2] for s in self.targets(experiment)]
        return [name for name in dict.fromkeys(backbones) if name and self._draws(name)]

    def _draws(self, backbone):
        spec = self._options("backbones", backbone)
        if "weights" in spec:
            return spec["weights"] == "random"
        return "weights" in components.fields("backbones", spec["kind"])

    def _but_for_weights(self, experiment):
        """What an experiment asks and of which models, whatever their weights are; a text."""

        def bare(source):
            view, _, backbone = source.partition("/")
            spec = self._options("backbones", backbone) if backbone else {}
            return view, {key: spec[key] for key in spec if key not in ("weights", "seed")}

        this = self.known[experiment]
        x = [[bare(source) for source in one] for one in self.candidates(experiment)]
        y = [bare(source) for source in self.targets(experiment)]
        return str(_canonical([this["dataset"], this["head"], this.get("folds"), x, y]))

    # ---- what a job depends on ------------------------------------------------------

    def spec(self, stage, **names) -> dict:
        """The part of the configuration that one job depends on, canonical, and no more."""
        return _canonical(getattr(self, f"_{stage}_spec")(**names))

    def _listing_spec(self, dataset):
        this = self.config["datasets"][dataset]
        if not this.get("source"):
            raise InputError(f"datasets.{dataset} has no `source`: say where it is published")
        return {"source": this["source"]}

    def _download_spec(self, shelf, name, file):
        if shelf == "weights":
            return {"checkpoint": self.config["checkpoints"][name]}
        return self._raw_spec(name, file)

    def _raw_spec(self, dataset, file):
        row = self._rows_by_file(dataset).get(file)
        if row is None:
            raise InputError(f"datasets.{dataset} has no file {file}")
        row = row | {"file": file}
        source = self.config["datasets"][dataset].get("source")
        if not source:
            return {"dataset": self._options("datasets", dataset), "row": row}
        named = {"file", *re.findall(r"{(\w+)}", source.get("archive", ""))}
        return {"source": source, "row": {key: row[key] for key in row if key in named}}

    @kept
    def _rows_by_file(self, dataset):
        """The first row that names each raw file of a dataset, as its `file` or its `labels`."""
        found = {}
        for unit in (*self.shared(dataset), *self.units(dataset)):
            for row in self.rows(dataset, unit):
                for file in filter(None, (row["file"], row.get("labels"))):
                    found.setdefault(file, row)
        return found

    def _render_spec(self, dataset, unit, view):
        return {
            "dataset": self._options("datasets", dataset),
            "windows": self.config["datasets"][dataset].get("windows"),
            "view": self._options("views", view),
            "unit": unit,
            "rows": self._read_rows(dataset, unit),
        }

    def _read_rows(self, dataset, unit):
        """The raw files of a unit, each with those columns of a manifest that are read."""
        rows, this = self.rows(dataset, unit), self.config["datasets"][dataset]
        columns = components.constant(f"engram.datasets.{this['kind']}", "COLUMNS")
        named = {"file", *(columns or ()), *(this.get("conditions") or [])}
        return [
            {key: row[key] for key in row if (key in named if columns else key != "unit")}
            for row in rows
        ]

    def _extract_spec(self, backbone, **_):
        return {"backbone": self._options("backbones", backbone)}

    def _train_spec(self, experiment):
        this = self.known[experiment]
        return {
            "task": self.task(experiment),
            "experiment": {key: this[key] for key in ("folds", "seeds") if key in this},
            "sources": self._counted(experiment, self.sources(experiment)),
            "targets": self._counted(experiment, self.targets(experiment)),
            "candidates": self.candidates(experiment),
            "head": self.config["heads"][this["head"]],
        }

    _occlude_spec = _train_spec

    def _counted(self, experiment, sources):
        """[source, number of stores] in the order of the inputs; a dict would be sorted."""
        return [[source, len(self.stores(experiment, source))] for source in sources]

    def _evaluate_spec(self, experiment):
        probed = self.of_task(experiment, "PROBED")
        settings = {"evaluation": self.config.get("evaluation", {})} if probed else {}
        return {
            "task": self.task(experiment),
            "experiment": experiment,
            "baseline": self.baseline(experiment),
            "generalises_to": self.of_task(experiment, "FOLDS")[self.folds(experiment)],
            "sources": self._counted(experiment, self.sources(experiment) if probed else []),
            **settings,
        }

    def _plot_spec(self, experiment):
        return {"task": self.task(experiment), "experiment": experiment}

    def _map_spec(self, experiment):
        return {"experiment": experiment}

    def _track_spec(self, experiment):
        this = self.known[experiment]
        return {
            "experiment": experiment,
            "configured": {key: this[key] for key in this if key not in ("baseline", "title")},
            "group": self.config.get("title", "Engram"),
            "wandb": self._tracking(),
        }

    def _compare_spec(self, comparison):
        controls = self.controls(comparison)
        return {
            "comparison": comparison,
            "members": [
                {
                    "experiment": name,
                    "title": self.known[name].get("title", name),
                    "sources": [[s, len(self.stores(name, s))] for s in sources],
                    "is_baseline": name == self.config["comparisons"][comparison]["baseline"],
                    "control_of": controls.get(name),
                }
                for name, sources in self.compared_sources(comparison).items()
            ],
        }

    def _report_spec(self):
        return {
            "title": self.config.get("title", "Engram"),
            "experiments": {name: self._titled(self.known[name]) for name in self.shown()},
            "comparisons": {
                name: self._titled({"title": name, **self.config["comparisons"][name]})
                for name in self.comparisons()
            },
        }

    def _titled(self, this):
        """An experiment or comparison beside what the report calls its dataset."""
        title = self.config["datasets"][this["dataset"]].get("title", this["dataset"])
        return {**this, "dataset_title": title}

    def _options(self, family, name):
        """Kind and options of a component, without what the plan alone reads."""
        this = self.backbone(name) if family == "backbones" else self.config[family][name]
        skipped = KEYS.get(family, ())
        return {key: this[key] for key in this if key == "kind" or key not in skipped}

    def modules(self, stage, **names) -> list[str]:
        """Modules of the components that one job loads by name."""
        spec = self.spec(stage, **names)
        parts = {"dataset": "datasets", "view": "views", "backbone": "backbones", "head": "heads"}
        source = spec.get("source")
        named = [f"engram.sources.{components.publisher(source)}"] if source else []
        named += [f"engram.{OF_TASK[stage]}.{spec['task']}"] if stage in OF_TASK else []
        return named + [
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


def candidates(experiment) -> list[list[str]]:
    """Inputs among which an experiment chooses; each a list of sources used side by side."""
    x = experiment["x"]
    alternatives = x["choose"] if isinstance(x, dict) else [x]
    return [[one] if isinstance(one, str) else list(one) for one in alternatives]


def task_of(experiment, heads) -> str:
    """The task of an experiment: the one that its head serves and that its y suits.

    Raises:
        InputError: there is none.
    """
    targets = [experiment["y"]] if isinstance(experiment["y"], str) else experiment["y"]
    asked = "features" if any("/" in source for source in targets) else "labels"
    serves = components.constant(f"engram.heads.{heads[experiment['head']]['kind']}", "TASKS")
    for task in serves:
        if components.constant(f"engram.tasks.{task}", "TARGETS") == asked:
            return task
    raise InputError(
        f"head {experiment['head']!r} answers {', '.join(serves)}, but y is {', '.join(targets)}; "
        'pairs need features of pictures as y ("view/backbone"), classes a view of labels'
    )


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
