"""Recordings without labels that the models of a study are applied to.

Standard library only, like `engram.planning.plan`.
"""

from pathlib import Path

from engram.errors import InputError
from engram.planning import components, provenance
from engram.planning.companions import FOLDERS, companions
from engram.planning.shape import check_name

#: Kinds of datasets that read what no manifest lists, by the signal that a model reads.
READERS = {"eeg": "eeg_recordings", "fmri": "roi_series"}

#: Files that a job of `predict` writes.
MADE = ("predictions.csv", "summary.html")


class Applications:
    """The part of a plan that knows what models are applied to: `predict` in its `config`."""

    def applications(self) -> list[str]:
        """Names under `predict`."""
        return list(self.config.get("predict", {}))

    def applied(self) -> list[str]:
        """What is made of all of them."""
        return [self.own(f"applied/{n}/{file}") for n in self.applications() for file in MADE]

    def applied_model(self, applied) -> str:
        """The file of the model that is applied."""
        return self.own(f"models/{self._applied_experiment(applied)}.safetensors")

    def applied_files(self, applied) -> list[str]:
        """Every file of the recordings, those in folders and those read with others included.

        Raises:
            InputError: there is none.
        """
        found = []
        for path in map(Path, self._applied_paths(applied)):
            if not path.exists():
                raise InputError(f"predict.{applied}.files: no file {path}; correct its name")
            inside = path.is_dir() and path.suffix.lower() not in FOLDERS
            files = [f for f in path.rglob("*") if f.is_file()] if inside else [path]
            if not files:
                raise InputError(f"predict.{applied}.files: the folder {path} is empty")
            found += [*files, *(() if inside else companions(path))]
        return sorted(dict.fromkeys(map(str, found)))

    def applied_weights(self, applied) -> list[str]:
        """Weights of the backbones by which the model sees, and further files that they name."""
        found = []
        for backbone in self._applied_parts(applied, "backbones"):
            found += [self.weights(backbone)] if self.weights(backbone) else []
            found += self.named_files("backbones", backbone)
        return list(dict.fromkeys(found))

    def _applied_experiment(self, applied):
        return self.config["predict"][applied]["model"]

    def _applied_paths(self, applied):
        files = self.config["predict"][applied]["files"]
        return [files] if isinstance(files, str) else files

    def _applied_parts(self, applied, family):
        """Names of the views or backbones of the model's inputs."""
        sources = [one.partition("/") for one in self.sources(self._applied_experiment(applied))]
        names = [view if family == "views" else backbone for view, _, backbone in sources]
        return list(dict.fromkeys(filter(None, names)))

    def _predict_spec(self, applied):
        return {
            "files": self._applied_paths(applied),
            "options": self.config["predict"][applied].get("options", {}),
        }

    def _predict_modules(self, applied):
        """What a job loads by name, last what asks for a GPU."""
        experiment = self.known[self._applied_experiment(applied)]
        kinds = [("datasets", self.config["datasets"][experiment["dataset"]]["kind"])]
        kinds += [("datasets", kind) for kind in READERS.values()]
        views = self._applied_parts(applied, "views")
        kinds += [("views", self.kind_of_view(view)) for view in views if self.kind_of_view(view)]
        kinds += [("heads", self.config["heads"][experiment["head"]]["kind"])]
        for backbone in self._applied_parts(applied, "backbones"):
            kinds.append(("backbones", self.backbone(backbone)["kind"]))
        return [f"engram.{family}.{kind}" for family, kind in dict.fromkeys(kinds)]


def check_application(config, known, name):
    """Refuse recordings for a model that there is not.

    Raises:
        InputError: names the key and what was meant.
    """
    this = config["predict"][name]
    check_name(f"predict.{name}.model", this["model"], known, "experiment")
    kind = config["heads"][known[this["model"]]["head"]]["kind"]
    head = provenance.text(provenance.locate(f"engram.heads.{kind}"))
    if "\ndef predict(" not in head:
        raise InputError(
            f"predict.{name}.model: experiment {this['model']!r} keeps no model for use, as its "
            f"head {kind!r} trains none; name another"
        )
    if components.constant(f"engram.heads.{kind}", "TASKS")[0] not in ("classes", "values"):
        raise InputError(
            f"predict.{name}.model: experiment {this['model']!r} is of trials, not of recordings "
            "in time; name another"
        )
