"""What a job depends on: its part of the configuration, the modules that it loads, its GPUs.

Standard library only, like `engram.planning.plan`.
"""

import re

from engram.errors import InputError
from engram.planning import applied, components, manifest
from engram.planning.kept import kept

#: Keys of a dataset that the plan itself reads; all others are options of its kind.
DATASET_KEYS = (
    *("kind", "units", "folder", "manifest", "files", "shared", "windows", "title", "carry"),
    *("source", "licence", "terms", "terms_accepted", "by_hand", "published_as"),
)

#: Keys of a backbone that the plan itself reads; all others are options of its kind.
BACKBONE_KEYS = ("kind", "title", "like", "checkpoint", "takes", "pretrain", "epoch")

#: Keys of every family that are no options of a kind, `kind` apart.
KEYS = {"datasets": DATASET_KEYS, "views": ("unit",), "backbones": BACKBONE_KEYS}

#: Keys of an experiment that are no setting of it.
TOLD = ("baseline", "title", "automatic")

#: Keys of an experiment that its task is told.
TRAINED_BY = ("folds", "seeds", "train_subjects")

#: Keys of a dataset that say what it is and whose.
TOLD_OF_DATA = ("title", "licence", "terms", "published_as")

#: Families in which a stage loads the module called after the task of its experiment.
OF_TASK = {
    **dict.fromkeys(("train", "apply", "occlude"), "tasks"),
    "evaluate": "scores",
    "plot": "figures",
}


#: Stages that load the module of a head, and of the backbone that it trains.
USE_HEADS = ("train", "apply", "occlude")


class Specs:
    """The part of a plan that knows what each job of a stage depends on."""

    def spec(self, stage, **names) -> dict:
        """The part of the configuration that one job depends on, canonical, and no more."""
        return self._spec(stage, tuple(sorted(names.items())))

    @kept
    def _spec(self, stage, names):
        return _canonical(getattr(self, f"_{stage}_spec")(**dict(names)))

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
        row = self.rows_by_file(dataset).get(file)
        if row is None:
            raise InputError(f"datasets.{dataset} has no file {file}")
        row = row | {"file": file}
        source = self.config["datasets"][dataset].get("source")
        if not source:
            return {"dataset": self._options("datasets", dataset), "row": row}
        named = {"file", *re.findall(r"{(\w+)}", source.get("archive", ""))}
        return {"source": source, "row": {key: row[key] for key in row if key in named}}

    def _render_spec(self, dataset, unit, view):
        this = self.config["views"][view]
        fact = this.get(components.constant(f"engram.views.{this['kind']}", "FACTS"))
        carried = self.config["datasets"][dataset].get("carry") or {}
        return {
            "dataset": self._options("datasets", dataset),
            "windows": self.config["datasets"][dataset].get("windows"),
            "view": self._options("views", view),
            "unit": unit,
            "rows": self._read_rows(dataset, unit, [*carried, *([fact] if fact else [])]),
        } | ({"facts": carried} if carried else {})

    def _read_rows(self, dataset, unit, facts):
        """The raw files of a unit, each with those columns of a manifest that are read.

        `facts` are the columns that the dataset carries into tables, and the one that the view
        alone reads: no other view feels an edit of that.
        """
        rows, this = self.rows(dataset, unit), self.config["datasets"][dataset]
        columns = components.constant(f"engram.datasets.{this['kind']}", "COLUMNS")
        named = {*manifest.FILES, *(columns or ()), *(this.get("conditions") or [])}
        return [
            {key: row[key] for key in row if (key in named if columns else key != "unit")}
            | _known(row, facts)
            for row in (_read_row(row, this["kind"]) for row in rows)
        ]

    def _extract_spec(self, backbone, dataset=None, **_):
        options, takes = self._options("backbones", backbone), self.backbone(backbone).get("takes")
        seen = self.seen_before(backbone, dataset)
        return {"backbone": options} | ({"takes": takes} if takes else {}) | seen

    def _train_spec(self, experiment):
        this = self.known[experiment]
        return {
            "task": self.task(experiment),
            "experiment": {key: this[key] for key in TRAINED_BY if key in this},
            "sources": self._counted(experiment, self.sources(experiment)),
            "targets": self._counted(experiment, self.targets(experiment)),
            "candidates": self.candidates(experiment),
            "head": self._head(experiment),
            "recipe": self._recipe(experiment),
        }

    def _recipe(self, experiment):
        """What makes the rows of each source and target, for those who apply the model later."""
        name = self.known[experiment]["dataset"]
        this, sides = self.config["datasets"][name], ("sources", "targets")
        return {
            "dataset": {"name": name, "windows": this.get("windows")}
            | self._options("datasets", name),
            **{
                side: {source: self._made_by(source, name) for source in found}
                for side, found in zip(
                    sides, (self.sources(experiment), self.targets(experiment)), strict=True
                )
            },
        }

    def _made_by(self, source, dataset):
        """The view and the backbone of a source, by name and with their options."""
        view, _, backbone = source.partition("/")
        if view in self.decoders:
            return {"view": {"name": view}}
        found = {"view": {"name": view, **self._options("views", view)}}
        if backbone:
            found |= {"name": backbone, "file": self.weights(backbone) or None}
            found |= self._extract_spec(backbone, dataset)
        return found

    def _head(self, experiment):
        """Kind and options of the head; of a backbone that it names all that a job needs of it."""
        this = self.known[experiment]
        head = self.config["heads"][this["head"]]
        if "backbone" not in head:
            return head
        name = head["backbone"]
        backbone = self._extract_spec(name, this["dataset"])
        return {**head, "backbone": backbone | {"file": self.weights(name) or None}}

    def _occlude_spec(self, experiment):
        spec = self._train_spec(experiment)
        return {key: spec[key] for key in spec if key != "recipe"}

    def _counted(self, experiment, sources):
        """[source, number of stores] in the order of the inputs; a dict would be sorted."""
        return [[source, len(self.stores(experiment, source))] for source in sources]

    def _evaluate_spec(self, experiment):
        probed = self._probed(experiment)
        return {
            "task": self.task(experiment),
            "experiment": experiment,
            "baseline": self.baseline(experiment),
            "generalises_to": self._generalises_to(experiment),
            "sources": self._counted(experiment, probed),
            "evaluation": self._evaluation(experiment),
        }

    def _evaluation(self, experiment):
        """How scores are made, without confounds that are what the experiment predicts."""
        settings, views = self.config.get("evaluation", {}), self.config["views"]
        asked = {views.get(target, {}).get("column") for target in self.targets(experiment)}
        kept = [name for name in settings.get("confounds", []) if name not in asked]
        return settings | ({"confounds": kept} if "confounds" in settings else {})

    def _card_spec(self, experiment):
        """What is said of a model and of what it was made from, but changes nothing in it."""
        this = self.known[experiment]
        data = self.config["datasets"][this["dataset"]]
        sides = [*self.sources(experiment), *self.targets(experiment)]
        seen = {source: source.partition("/")[2] for source in sides if "/" in source}
        seen |= {"head": trained} if (trained := self._trained(experiment)) else {}
        return {
            "experiment": experiment,
            "title": this.get("title", experiment),
            "data": {key: data[key] for key in TOLD_OF_DATA if key in data},
            "licences": {of: told for of, one in seen.items() if (told := self._licence(one))},
        }

    def _licence(self, backbone):
        """Licence of the published weights of a backbone, if they are published."""
        this = self.backbone(backbone)
        if this.get("weights") != "published":
            return None
        return self.config["checkpoints"][this["checkpoint"]].get("licence")

    def _generalises_to(self, experiment):
        if self.model(experiment):
            return applied.GENERALISES_TO
        return self.of_task(experiment, "FOLDS")[self.folds(experiment)]

    def _plot_spec(self, experiment):
        return {"task": self.task(experiment), "experiment": experiment}

    def _map_spec(self, experiment):
        return {"experiment": experiment}

    def _track_spec(self, experiment):
        this = self.known[experiment]
        return {
            "experiment": experiment,
            "configured": {key: this[key] for key in this if key not in TOLD},
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
                    "role": self.role(name),
                }
                for name, sources in self.compared_sources(comparison).items()
            ],
        }

    def _report_spec(self):
        shown, members = self.shown(), self.compared()
        return {
            "title": self.config.get("title", "Engram"),
            "experiments": {name: self._titled(self.known[name]) for name in shown},
            "members": {
                name: self._titled(self.known[name]) | {"comparison": comparison}
                for name, comparison in members.items()
                if name not in shown
            },
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
        if stage == "predict":
            return self._predict_modules(**names)
        spec = self.spec(stage, **names)
        if stage == "apply":
            spec = spec | {"head": self._head(self.model(**names))}
        parts = {"dataset": "datasets", "view": "views", "backbone": "backbones", "head": "heads",
                 "objective": "objectives", "decoder": "decoders"}  # fmt: skip
        source = spec.get("source")
        named = [f"engram.sources.{components.publisher(source)}"] if source else []
        named += [f"engram.{OF_TASK[stage]}.{spec['task']}"] if stage in OF_TASK else []
        trained = spec.get("head", {}).get("backbone") if stage in USE_HEADS else None
        named += [f"engram.backbones.{trained['backbone']['kind']}"] if trained else []
        if isinstance(spec.get("dataset"), dict) and "kind" in spec["dataset"]:
            _, *within = components.parts("datasets", spec["dataset"])
            named += [f"engram.datasets.{part['kind']}" for part in within]
        if any("backbone" in one and components.taken(one)[1] for one in (spec, trained or {})):
            named += ["engram.frozen.contract"]
        return named + [
            f"engram.{family}.{spec[part]['kind']}"
            for part, family in parts.items()
            if isinstance(spec.get(part), dict) and "kind" in spec[part]
        ]

    def gpus(self, stage, **names) -> int:
        """GPUs that a job asks for: none if its component declares `DEVICE = "cpu"`."""
        module = self.modules(stage, **names)[-1]
        if components.constant(module, "DEVICE") == "cpu":
            return 0
        return self.spec(stage, **names)["processes"] if stage == "pretrain" else 1


def _read_row(row, kind):
    """A row that calls its recording `file`, whatever the column, where a kind reads but one."""
    if "file" not in (components.constant(f"engram.datasets.{kind}", "READS") or ("file",)):
        return row
    recording = manifest.recording(row)
    return {"file" if key == recording else key: row[key] for key in row}


def _known(row, facts):
    """What a line of the manifest says of its scan, if it says anything."""
    known = {name: row[name] for name in facts if name in row}
    return {"facts": known} if known else {}


def _canonical(value):
    """`value` with its keys in order, so that reordering YAML reruns nothing."""
    if isinstance(value, dict):
        return {key: _canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
