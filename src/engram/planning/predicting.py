"""Recordings without labels that the models of a study are applied to.

Standard library only, like `engram.planning.plan`.
"""

from pathlib import Path

from engram.errors import InputError
from engram.planning import components
from engram.planning.companions import FOLDERS, companions
from engram.planning.shape import check_name

#: Kinds of datasets that read what no manifest lists, by the signal that a model reads.
READERS = {"eeg": "eeg_recordings", "fmri": "roi_series"}

#: Tasks whose models read windows of recordings.
TASKS = ("classes", "values")

#: Files that a job of `predict` writes.
MADE = ("predictions.csv", "summary.html")


class Predicting:
    """The part of a plan that knows what models are applied to: `predict` in its `config`."""

    def predicted(self) -> list[str]:
        """Names under `predict`."""
        return list(self.config.get("predict", {}))

    def predictions(self) -> list[str]:
        """What is made of all of them."""
        return [self.own(f"applied/{n}/{file}") for n in self.predicted() for file in MADE]

    def predicting_model(self, predicted) -> str:
        """The file of the model that is applied."""
        return self.own(f"models/{self._predicting(predicted)}.safetensors")

    def predicting_card(self, predicted) -> list[str]:
        """The card of the model, if it has one."""
        experiment = self._predicting(predicted)
        return [self.own(f"models/{experiment}.json")] if experiment in self.cards() else []

    def predicted_recordings(self, predicted) -> list[str]:
        """Every file of the recordings, those in folders and those read with others included.

        Raises:
            InputError: there is none.
        """
        found = []
        for path in map(Path, self._recordings_asked(predicted)):
            if not path.exists():
                raise InputError(f"predict.{predicted}.files: no file {path}; correct its name")
            inside = path.is_dir() and path.suffix.lower() not in FOLDERS
            files = [f for f in path.rglob("*") if f.is_file()] if inside else [path]
            if not files:
                raise InputError(f"predict.{predicted}.files: the folder {path} is empty")
            found += [*files, *(() if inside else companions(path))]
        return sorted(dict.fromkeys(map(str, found)))

    def predicting_weights(self, predicted) -> list[str]:
        """Weights of the backbones by which the model sees, and further files that they name."""
        found = []
        for backbone in self._parts_of_model(predicted, "backbones"):
            found += [self.weights(backbone)] if self.weights(backbone) else []
            found += self.named_files("backbones", backbone)
        return list(dict.fromkeys(found))

    def _predicting(self, predicted):
        return self.config["predict"][predicted]["model"]

    def _recordings_asked(self, predicted):
        files = self.config["predict"][predicted]["files"]
        return [files] if isinstance(files, str) else files

    def _parts_of_model(self, predicted, family):
        """Names of the views or backbones of the model's inputs."""
        sources = [one.partition("/") for one in self.sources(self._predicting(predicted))]
        names = [view if family == "views" else backbone for view, _, backbone in sources]
        return list(dict.fromkeys(filter(None, names)))

    def _predict_spec(self, predicted):
        return {
            "files": self._recordings_asked(predicted),
            "options": self.config["predict"][predicted].get("options", {}),
        }

    def _predict_modules(self, predicted):
        """What a job loads by name, last what asks for a GPU."""
        experiment = self.known[self._predicting(predicted)]
        kinds = [("datasets", self.config["datasets"][experiment["dataset"]]["kind"])]
        kinds += [("datasets", kind) for kind in READERS.values()]
        views = self._parts_of_model(predicted, "views")
        kinds += [("views", self.kind_of_view(view)) for view in views if self.kind_of_view(view)]
        kinds += [("heads", self.config["heads"][experiment["head"]]["kind"])]
        for backbone in self._parts_of_model(predicted, "backbones"):
            kinds.append(("backbones", self.backbone(backbone)["kind"]))
        return [f"engram.{family}.{kind}" for family, kind in dict.fromkeys(kinds)]


def check_predicted(plan, name):
    """Refuse recordings for a model that there is not.

    Args:
        plan: `engram.planning.plan.Plan`.
        name: under `predict`.

    Raises:
        InputError: names the key and what was meant.
    """
    where, model = f"predict.{name}.model", plan.config["predict"][name]["model"]
    check_name(where, model, plan.known, "experiment")
    if other := plan.model(model):
        raise InputError(f"{where}: {model!r} trains nothing, it applies {other!r}; name that one")
    head = plan.known[model]["head"]
    kind = plan.config["heads"][head]["kind"]
    if not components.defines(f"engram.heads.{kind}", "predict"):
        raise InputError(
            f"{where}: {model!r} has the head {head!r}, and no model of kind {kind!r} is kept for "
            "use; name one of another head"
        )
    task = plan.task(model)
    if task not in TASKS:
        raise InputError(
            f"{where}: {model!r} asks {task}, of trials and not of recordings in time; name an "
            f"experiment that asks {' or '.join(TASKS)}"
        )
