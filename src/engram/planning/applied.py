"""Experiments that train nothing: the model of another one is applied to another data set.

Standard library only, like `engram.planning.plan`.
"""

#: Keys of such an experiment; what is asked, of which rows, through which head is the model's.
KEYS = ("title", "dataset", "model", "baseline", "i_know_this_leaks", "automatic")

#: What such an experiment has of that of its model.
OF_MODEL = ("x", "y", "head")

#: What its scores generalise to.
GENERALISES_TO = "another data set, nothing trained"


class Applied:
    """The part of a plan that knows which experiments of its `config` apply a model."""

    def model(self, experiment) -> str | None:
        """The experiment whose model this one applies; None if it trains its own."""
        return self.known[experiment].get("model")

    def trained(self) -> list[str]:
        """Experiments that train a model."""
        return [name for name in self.known if not self.model(name)]

    def applied(self) -> list[str]:
        """Experiments that apply the model of another one."""
        return [name for name in self.known if self.model(name)]

    def of_model(self, experiment, stores) -> list[str]:
        """Stores that the model of an experiment was trained on, those that `stores` gives of it.

        Args:
            experiment: a name; if it trains its own model there are none.
            stores: a method of the plan, of an experiment.
        """
        model = self.model(experiment)
        return stores(model) if model else []

    def _apply_spec(self, experiment):
        model = self.model(experiment)
        return {
            "task": self.task(experiment),
            "model": model,
            "dataset": self.known[experiment]["dataset"],
            "sources": self._counted(experiment, self.sources(experiment)),
            "targets": self._counted(experiment, self.targets(experiment)),
            "known_sources": self._counted(model, self.sources(model)),
            "known_targets": self._counted(model, self.targets(model)),
            "leaks": self.known[experiment].get("i_know_this_leaks", False),
        }


def resolved(known) -> dict:
    """Experiments by name, those that apply a model with what they have of it."""
    return known | {name: _of(known, this) for name, this in known.items() if "model" in this}


def _of(known, this):
    model = known[this["model"]]
    own = {key: this[key] for key in KEYS if key in this}
    title = f"{model.get('title', this['model'])}, applied"
    asked = {key: model[key] for key in OF_MODEL if key in model}
    return {"title": title, "baseline": "none", **asked, **own}
