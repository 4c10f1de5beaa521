"""Comparisons: several backbones over one view, an experiment each.

Standard library only, like `engram.planning.plan`.
"""

import json

from engram.planning import components

#: Keys of a comparison that its members do not share with an experiment.
COMPARISON_KEYS = ("title", "view", "backbones", "experiments", "automatic")


class Comparisons:
    """The part of a plan that knows the comparisons of its `config` and their members."""

    def comparisons(self) -> list[str]:
        """The comparisons to make."""
        return list(self.config.get("compare", []))

    def members(self, comparison) -> dict[str, dict]:
        """The experiments that a comparison consists of, by name: one a backbone."""
        this = self.config["comparisons"][comparison]
        shared = {key: this[key] for key in this if key not in COMPARISON_KEYS}
        return {
            f"{comparison}-{backbone}": {
                "title": self.backbone_title(backbone),
                "x": self.seen_by(backbone, this["view"]),
                **shared,
            }
            for backbone in this["backbones"]
        }

    def guests(self, comparison) -> list[str]:
        """Experiments of their own that stand in the table of a comparison too."""
        return list(self.config["comparisons"][comparison].get("experiments", []))

    def compared(self) -> dict[str, str]:
        """What the comparisons to make score: each experiment with the first that has it."""
        found = {}
        for one in self.comparisons():
            baseline = self.config["comparisons"][one]["baseline"]
            asked = [*self.members(one), *self.guests(one), *([baseline] * (baseline != "none"))]
            found |= {name: one for name in asked if name not in found}
        return found

    @staticmethod
    def seen_by(backbone, views):
        """The source of one backbone over a view, or those over several views side by side."""
        if isinstance(views, str):
            return f"{views}/{backbone}"
        return [f"{view}/{backbone}" for view in views]

    def backbone_title(self, name):
        """Its own title; of one that is like another that one's title and its own name."""
        this = self.config["backbones"][name]
        if "title" in this or "like" not in this:
            return this.get("title", name)
        return f"{self.backbone_title(this['like'])}, {name}"

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
        """Those with random weights, each with the one that is the same but for published ones.

        Of several that were pretrained here, it is the one that began with these weights: the seed
        is the same.
        """
        drawn, found = [name for name in experiments if self.drawn(name)], {}
        for apart in (("weights", "seed"), ("weights",)):
            asked = {name: self._but_for(apart, name) for name in experiments}
            others = {asked[name]: name for name in reversed([*experiments]) if name not in drawn}
            found |= {name: others[asked[name]] for name in drawn if asked[name] in others}
        return found

    def role(self, experiment) -> str:
        """What an experiment stands for in a comparison.

        "random" if weights behind its x are drawn, "model" if it has others, which its head may
        train, "baseline" if it has none.
        """
        if self.drawn(experiment):
            return "random"
        seen = [source.partition("/")[2] for source in self.sources(experiment)]
        trained = self._trained(experiment)
        return (
            "model" if trained or any(self.has_weights(one) for one in seen if one) else "baseline"
        )

    def has_weights(self, backbone) -> bool:
        """Whether a backbone is a model: its kind has weights, whichever these are."""
        return "weights" in components.fields("backbones", self.backbone(backbone)["kind"])

    def drawn(self, experiment) -> list[str]:
        """The backbones of an experiment, and of what decoders read for it, with random weights."""
        behind = [one for name in self.decoders_of(experiment) for one in self.behind(name)[1]]
        backbones = [
            source.partition("/")[2]
            for name in (experiment, *behind)
            for source in (*self.sources(name), *self.targets(name))
        ]
        return [name for name in dict.fromkeys(backbones) if name and self.draws(name)]

    def draws(self, backbone) -> bool:
        """Whether the weights of a backbone are drawn at random."""
        spec = self._options("backbones", backbone)
        if "weights" in spec:
            return spec["weights"] == "random"
        return "weights" in components.fields("backbones", spec["kind"])

    def _but_for(self, apart, experiment):
        """What an experiment asks and of which models, some of their options apart; a text."""

        def bare(source):
            view, _, backbone = source.partition("/")
            spec = self._options("backbones", backbone) if backbone else {}
            return view, {key: spec[key] for key in spec if key not in apart}

        this = self.known[experiment]
        x = [[bare(source) for source in one] for one in self.candidates(experiment)]
        y = [bare(source) for source in self.targets(experiment)]
        return json.dumps([this["dataset"], this["head"], this.get("folds"), x, y], sort_keys=True)
