"""What a configuration asks for: which stores exist, and what makes each of them.

Everything the rules need to know is computed here, from plain data and with the standard
library alone, so that it can be tested without Snakemake. The parts of a plan are `raw_files`,
`applied`, `comparisons`, `pretraining`, `decoding`, `predicting` and `specs`.
"""

from dataclasses import dataclass
from functools import cached_property

from engram.errors import InputError
from engram.planning import applied, components
from engram.planning.applied import Applied
from engram.planning.comparisons import Comparisons
from engram.planning.decoding import Decoding
from engram.planning.kept import kept
from engram.planning.predicting import Predicting
from engram.planning.pretraining import Pretraining
from engram.planning.raw_files import RawFiles
from engram.planning.specs import Specs

#: Families of components; a name under `<family>` in the configuration has a `kind`,
#: which is a file in the package of that name.
FAMILIES = ("datasets", "views", "backbones", "heads", "decoders")

#: Suffixes of stores: their formats.
STORES = ("h5", "zarr")

#: The study that is run where neither `study` nor a configuration file names one.
STUDY = "demo"

#: Folders in `results` that all studies share.
SHARED = ("views", "features", "weights", "logs", "benchmarks")

#: `tracking.wandb` where it says nothing else.
TRACKING = {"project": "engram", "entity": None, "mode": "offline", "checkpoint": False}


@dataclass(frozen=True)
class Plan(RawFiles, Comparisons, Pretraining, Decoding, Applied, Predicting, Specs):
    """The graph of one configuration.

    Attributes:
        config: the merged configuration, as Snakemake reads it.
    """

    config: dict

    # ---- stores -------------------------------------------------------------------

    def store(self, dataset, unit, source) -> str:
        """Path of the store called `source`, "view" or "view/backbone", of one unit.

        What a decoder draws is predicted by a study, which alone makes it.
        """
        view, _, backbone = source.partition("/")
        family = "features" if backbone else "views"
        if view in self.decoders:
            return self.own(f"{family}/{dataset}/{unit}/{source}.{self.suffix}")
        unit = self.config["views"][view].get("unit", unit)
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
            return self.checkpoint(this["checkpoint"])
        if weights == "pretrained":
            return self.pretrained_weights(backbone)
        return [] if weights in ("none", "random") else weights

    def checkpoint(self, name) -> str:
        """Path of the file of a checkpoint."""
        url = self.config["checkpoints"][name]["url"]
        return f"resources/weights/{name}/{_file_name(url)}"

    def kind_of_view(self, view) -> str | None:
        """The kind of component that a view is; of a decoder's none."""
        return None if view in self.decoders else self.config["views"][view]["kind"]

    def gives(self, view) -> str | None:
        """The kind of rows that a view has for a backbone."""
        kind = self.kind_of_view(view)
        return components.constant(f"engram.views.{kind}", "GIVES") if kind else "picture"

    # ---- experiments --------------------------------------------------------------

    @cached_property
    def known(self) -> dict:
        """Every experiment by name: those that are written out and the members of comparisons."""
        known = dict(self.config["experiments"])
        for comparison in self.config.get("comparisons", {}):
            known |= self.members(comparison)
        return applied.resolved(known)

    def candidates(self, experiment) -> list[list[str]]:
        """Inputs among which training chooses; each a list of sources used side by side."""
        return [self._seen(experiment, one) for one in candidates(self.known[experiment])]

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
        return self._seen(experiment, [y] if isinstance(y, str) else list(y))

    def _seen(self, experiment, sources):
        """Sources, and behind them views under each backbone by which the head compares them."""
        backbones = seen_by(self.config["heads"][self.known[experiment]["head"]])
        views = [source for source in sources if "/" not in source]
        features = (f"{view}/{backbone}" for view in views for backbone in backbones)
        return list(dict.fromkeys([*sources, *features]))

    def task(self, experiment) -> str:
        """The question that an experiment asks, a module of `engram.tasks`."""
        return task_of(self.known[experiment], self.config)

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
        """The stores of the side that scores read beside predictions, if they do."""
        return [p for one in self._probed(experiment) for p in self.stores(experiment, one)]

    def _probed(self, experiment):
        sides = {"x": self.sources, "y": self.targets, None: lambda _: []}
        voxels = self.known[experiment].get("voxels")
        found = sides[self.of_task(experiment, "PROBED")](experiment)
        return [*found, voxels] if voxels else found

    def pictures(self, experiment) -> list[str]:
        """The view stores, behind the first source or target that a person can look at.

        Where both sides are shown, those of both, and of what decoders started from; where voxels
        are predicted, what is known of these.
        """
        if voxels := self.known[experiment].get("voxels"):
            return self.stores(experiment, voxels)
        seen = components.constant("engram.figures.visible", "SEEN")
        views = dict.fromkeys(source.partition("/")[0] for source in self.shown_side(experiment))
        looked = [view for view in views if self.gives(view) in seen]
        if self.of_task(experiment, "SHOWS") != "both":
            looked = looked[:1]
        starts = [
            self.decoders[view][option]
            for view in looked
            for option, what in (self.decoder_reads(view) if view in self.decoders else {}).items()
            if what == "pictures"
        ]
        return [
            path
            for view in dict.fromkeys([*looked, *starts])
            for path in self.stores(experiment, view)
        ]

    def shown_side(self, experiment) -> list[str]:
        """The sources or targets whose rows the figures of an experiment show; of some none."""
        sources, targets = self.sources(experiment), self.targets(experiment)
        sides = {"x": sources, "y": targets, "both": [*targets, *sources], None: []}
        return sides[self.of_task(experiment, "SHOWS")]

    def importance(self, experiment) -> list[str]:
        """What says where the models of an experiment look, if its task is asked that."""
        asked = self.of_task(experiment, "OCCLUDED")
        return [self.own(f"importance/{experiment}.json")] if asked else []

    def head_weights(self, experiment) -> list[str]:
        """Weights file of the backbone that the head of an experiment trains, and files beside."""
        backbone = self._trained(experiment)
        if not backbone:
            return []
        weights = self.weights(backbone)
        return [*([weights] if weights else []), *self.named_files("backbones", backbone)]

    def _trained(self, experiment):
        """The backbone that the head of an experiment trains, or None."""
        return self.config["heads"][self.known[experiment]["head"]].get("backbone")

    def cards(self) -> list[str]:
        """Experiments of the report that keep a model: their head says something of other rows."""
        return [name for name in self.shown() if self._keeps_a_model(name)]

    def _keeps_a_model(self, experiment):
        this = self.known[experiment]
        head = self.config["heads"][this["head"]]
        module = f"engram.heads.{head['kind']}"
        says = any(components.defines(module, name) for name in ("predict", "vectors"))
        option = components.constant(module, "KEEPS")
        asked = not option or (components.defaults("heads", head["kind"]) | head)[option]
        return "model" not in this and says and bool(asked)

    def baseline(self, experiment) -> str | None:
        """The experiment that stands beside this one as its baseline."""
        name = self.known[experiment].get("baseline")
        return None if name == "none" else name

    def shown(self) -> list[str]:
        """Experiments that have a place of their own in the report: `run`, each after its baseline.

        A model that is applied, and its baseline, stand before what applies it.
        """
        return self._after_baselines(self.config["run"])

    def experiments(self) -> list[str]:
        """What to run, each after its baseline: `run`, then the members of comparisons."""
        return self._after_baselines([*self.config["run"], *self.compared()])

    def datasets(self) -> list[str]:
        """The datasets of the experiments to run, and those that their backbones learn from."""
        found = []
        for name in self.experiments():
            sources = [*self.sources(name), *self.targets(name)]
            backbones = [source.partition("/")[2] for source in sources if "/" in source]
            backbones += [self._trained(name)] if self._trained(name) else []
            found.append(self.known[name]["dataset"])
            if self.model(name):
                found.append(self.known[self.model(name)]["dataset"])
            found += [d for backbone in backbones for d in self.pretraining_datasets(backbone)]
        return list(dict.fromkeys(found))

    def _after_baselines(self, experiments):
        wanted = []
        for experiment in experiments:
            model = self.model(experiment)
            first = self._after_baselines([model]) if model else []
            wanted += [*first, *(name for name in (self.baseline(experiment), experiment) if name)]
        return list(dict.fromkeys(wanted))

    def null(self, experiment) -> list[str]:
        """What models of moved labels say; none where a model is applied."""
        trained = experiment in self.trained()
        return [self.own(f"nulls/{experiment}.{self.suffix}")] if trained else []

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
        wanted = self._tracking()["checkpoint"] and not self.model(experiment)
        return [self.own(f"models/{experiment}.safetensors")] if wanted else []

    def tracked_figures(self, experiment) -> list[str]:
        """Those of the report that a person can look at elsewhere too."""
        folder = self.own(f"figures/{experiment}/")
        return [p for p in self.figures() if p.startswith(folder) and not p.endswith(".json")]

    def _tracking(self):
        return TRACKING | self.config.get("tracking", {}).get("wandb", {})


# ---- small ----------------------------------------------------------------------------


def _file_name(url):
    """The last part of a URL's path."""
    return url.partition("?")[0].rpartition("/")[2]


def candidates(experiment) -> list[list[str]]:
    """Inputs among which an experiment chooses; each a list of sources used side by side."""
    x = experiment["x"]
    alternatives = x["choose"] if isinstance(x, dict) else [x]
    return [[one] if isinstance(one, str) else list(one) for one in alternatives]


def task_of(experiment, config) -> str:
    """The task of an experiment: the one that its head serves and that its y suits.

    Raises:
        InputError: there is none.
    """
    targets = [experiment["y"]] if isinstance(experiment["y"], str) else experiment["y"]
    asked = {_holds(source, config) for source in targets}
    kind = config["heads"][experiment["head"]]["kind"]
    serves = components.constant(f"engram.heads.{kind}", "TASKS")
    for task in serves:
        if {components.constant(f"engram.tasks.{task}", "TARGETS")} == asked:
            return task
    raise InputError(
        f"head {experiment['head']!r} answers {', '.join(serves)}, but y is {', '.join(targets)}; "
        'pairs and vectors need features as y ("view/backbone", or a view of responses), classes '
        "a view of labels, values a view of numbers, pictures one of pictures"
    )


def seen_by(head) -> list[str]:
    """The backbones under which a head compares views, those that its options `BACKBONES` name."""
    options = components.constant(f"engram.heads.{head['kind']}", "BACKBONES") or ()
    given = components.defaults("heads", head["kind"]) | head if options else {}
    return list(dict.fromkeys(name for option in options for name in given[option]))


def _holds(source, config):
    """What a source is on the y side: "features", "pictures", "numbers" or "labels".

    A view holds what its kind declares as `TARGETS`, unless its `classes` are named.
    """
    view, _, backbone = source.partition("/")
    if backbone:
        return "features"
    if view in config.get("decoders", {}):
        return "pictures"
    views = config["views"]
    numbers = components.constant(f"engram.views.{views[view]['kind']}", "TARGETS")
    return "labels" if views[view].get("classes") else numbers or "labels"
