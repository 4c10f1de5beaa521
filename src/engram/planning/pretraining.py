"""What backbones have seen before: those that are pretrained here, and published ones.

Standard library only, like `engram.planning.plan`.
"""

import csv
import re
from functools import cache
from pathlib import Path

from engram.errors import InputError
from engram.planning import components, provenance
from engram.planning.kept import kept

#: Keys of `pretrain` that the plan reads; all others are options of the objective.
PRETRAIN_KEYS = ("objective", "view", "datasets", "subjects", "keep", "processes", "launch")

#: Options of every backbone that say how it is used, not what it learns; a kind may name more.
OF_USE = ("weights", "prefix", "layer", "pooling", "dim", "batch", "precision", "dtype")

#: What published weights were pretrained on: checkpoint or name of a file, name of the data, where
#: that is said, and whether it is stated there, second-hand or only likely.
REGISTRY = Path("config/pretrained_on.csv")


class Pretraining:
    """The part of a plan that knows what the backbones of its `config` have seen."""

    def pretrained(self) -> dict[str, list[int]]:
        """Backbones that a job pretrains, each with the epochs whose weights are kept too."""
        names = [name for name in self.config["backbones"] if self._learns(name)]
        origins = dict.fromkeys(self.origin(name) for name in names)
        return {name: self._pretrain(name).get("keep", []) for name in origins}

    def origin(self, backbone) -> str:
        """The backbone whose pretraining gives the weights of this one: it, or one it is like."""
        chain, asked = [backbone], self._asked(backbone)
        while like := self.config["backbones"][chain[-1]].get("like"):
            chain.append(like)
        alike = (name for name in reversed(chain) if self._learns(name))
        return next(name for name in alike if self._asked(name) == asked)

    def pretrained_weights(self, backbone) -> str:
        """Weights file of a backbone that is pretrained here, after all epochs or the `epoch`."""
        epoch = self.backbone(backbone).get("epoch")
        within = f"/epoch-{epoch}" if epoch else ""
        return f"results/weights/{self.origin(backbone)}{within}.safetensors"

    def pretrain_views(self, backbone) -> list[str]:
        """The view stores that a backbone is pretrained on, dataset by dataset."""
        view = self._pretrain(backbone)["view"]
        units = self._pretraining_units(backbone)
        return [self.store(dataset, unit, view) for dataset in units for unit in units[dataset]]

    def pretraining_datasets(self, backbone) -> list[str]:
        """The datasets that a backbone is pretrained on here; none of published weights."""
        return self._pretrain(backbone)["datasets"] if self._learns(backbone) else []

    def seen_before(self, backbone, dataset) -> dict:
        """What an extraction must know to say which subjects the weights have seen, if any."""
        if self._learns(backbone):
            return {"dataset": dataset} if dataset in self.pretraining_datasets(backbone) else {}
        weights = self.backbone(backbone).get("weights", "none")
        if dataset is None or weights in ("none", "random"):
            return {}
        published = weights == "published"
        file = self.backbone(backbone)["checkpoint"] if published else Path(weights).name
        names = [dataset, *self.config["datasets"][dataset].get("published_as", [])]
        found = [data for data in _registry().get(file, []) if _plain(data) in map(_plain, names)]
        if found:
            return {"seen": found[0]}
        return (
            {} if published else {"dataset": dataset}
        )  # a file, perhaps of a pretraining elsewhere

    def _learns(self, backbone):
        return self.backbone(backbone).get("weights") == "pretrained"

    def _pretrain(self, backbone):
        return self.backbone(backbone)["pretrain"]

    def _asked(self, backbone):
        """What the weights of a backbone depend on, its own names apart."""
        options = self._options("backbones", backbone)
        own = components.constant(f"engram.backbones.{options['kind']}", "OF_USE") or ()
        model = {key: options[key] for key in options if key not in (*OF_USE, *own)}
        return model, self._pretrain(backbone), self.backbone(backbone).get("takes")

    def _pretrain_spec(self, backbone):
        model, asked, takes = self._asked(backbone)
        units = self._pretraining_units(backbone)
        options = {key: asked[key] for key in asked if key not in PRETRAIN_KEYS}
        return {
            "backbone": model | {"weights": "random"},
            **({"takes": takes} if takes else {}),
            "objective": {"kind": asked["objective"], **options},
            "views": [[dataset, len(found)] for dataset, found in units.items()],
            "subjects": self._pretraining_subjects(backbone),
            "keep": asked.get("keep", []),
            "processes": asked.get("processes", 1),
            "launch": asked.get("launch", ""),
        }

    @kept
    def _pretraining_units(self, backbone):
        """Units of each dataset that hold a subject to pretrain on, as far as a manifest says."""
        wanted = self._pretraining_subjects(backbone)
        return {
            dataset: [
                unit
                for unit in self.units(dataset)
                if wanted is None or self._holds_any(dataset, unit, set(wanted))
            ]
            for dataset in self.pretraining_datasets(backbone)
        }

    def _holds_any(self, dataset, unit, wanted):
        if "manifest" not in self.config["datasets"][dataset]:
            return True
        subjects = {row["subject"] for row in self.rows(dataset, unit)}
        return bool(wanted & (subjects | {f"{dataset}/{subject}" for subject in subjects}))

    @kept
    def _pretraining_subjects(self, backbone):
        """Names of subjects, or "dataset/subject"; None where all are taken."""
        asked = self._pretrain(backbone).get("subjects")
        if not isinstance(asked, dict):
            return None if asked is None else sorted(map(str, asked))
        found = {
            f"{dataset}/{row['subject']}"
            for dataset in self.pretraining_datasets(backbone)
            for unit in self.units(dataset)
            for row in self.rows(dataset, unit)
            if all(_cell(self, dataset, row, column) in _texts(asked[column]) for column in asked)
        }
        if not found:
            raise InputError(
                f"backbones.{backbone}.pretrain.subjects: no line of a manifest has "
                f"{' and '.join(f'{column} {value}' for column, value in asked.items())}"
            )
        return sorted(found)


def _cell(plan, dataset, row, column):
    if column not in row:
        raise InputError(
            f"pretrain.subjects: dataset {dataset!r} has no column {column!r} in its manifest; "
            "list the names of subjects instead"
        )
    return row[column]


def _texts(value):
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def _plain(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _registry():
    """Names of the data that each checkpoint, or file, was pretrained on."""
    found = {}
    for path in dict.fromkeys([provenance.ROOT.parents[1] / REGISTRY, REGISTRY.absolute()]):
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    found.setdefault(row["checkpoint"], []).append(row["data"])
    return found
