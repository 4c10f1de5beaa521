"""Decoders: what each reads, and the jobs that make it first.

Standard library only, like `engram.planning.plan`.
"""

from engram.errors import InputError
from engram.planning import components
from engram.planning.kept import kept


class Decoding:
    """The part of a plan that knows the decoders of its `config`."""

    @property
    def decoders(self) -> dict:
        """Every decoder by name, which is the name of a view too."""
        return self.config.get("decoders", {})

    def decoder_reads(self, decoder) -> dict[str, str]:
        """The options of a decoder that name what it reads, each "latents" or "pictures"."""
        reads = self._of_decoder(decoder, "READS")
        return {
            option: what for option, what in reads.items() if self.decoders[decoder].get(option)
        }

    def decoded_dataset(self, decoder) -> str:
        """The dataset whose test images a decoder draws.

        Raises:
            InputError: it reads itself, by however many steps.
        """
        _, (first, *_) = self.behind(decoder)
        return self.known[first]["dataset"]

    @kept
    def behind(self, decoder) -> tuple[list[str], list[str]]:
        """The decoders behind a decoder, itself first, and the experiments whose latents they read.

        Raises:
            InputError: it reads itself, by however many steps.
        """
        decoders, experiments = {}, {}
        self._follow(decoder, (), decoders, experiments)
        return [*decoders], [*experiments]

    def _follow(self, decoder, chain, decoders, experiments):
        if decoder in chain:
            raise InputError(
                f"decoders.{decoder}: goes in a circle: {', '.join([*chain, decoder])}; a decoder "
                "cannot read what is made of its own pictures"
            )
        decoders[decoder] = None
        for option, what in self.decoder_reads(decoder).items():
            name = self.decoders[decoder][option]
            drawn = [name]
            if what == "latents":
                experiments[name] = None
                drawn = self.decoders_of(name)
            for other in drawn:
                self._follow(other, (*chain, decoder), decoders, experiments)

    def decoders_of(self, experiment) -> list[str]:
        """The decoders whose pictures, or features of these, an experiment reads."""
        sources = [*self.sources(experiment), *self.targets(experiment)]
        views = dict.fromkeys(source.partition("/")[0] for source in sources)
        return [view for view in views if view in self.decoders]

    def backbone_of(self, experiment) -> str:
        """The backbone whose features an experiment predicts; "" where y is a view."""
        return self.targets(experiment)[0].partition("/")[2]

    def decoder_sources(self, dataset, unit, decoder) -> list[str]:
        """The stores that a decoder reads for one unit."""
        sources = self._decoder_sources(dataset, unit, decoder)
        return [path for paths in sources.values() for path in paths]

    def _decoder_sources(self, dataset, unit, decoder):
        """The same by option; where it reads training images too, "responses" and what they saw."""
        this, found = self.decoders[decoder], {}
        for option, what in self.decoder_reads(decoder).items():
            name = this[option]
            latents = self.own(f"latents/{name}.{self.suffix}")
            found[option] = [latents if what == "latents" else self.store(dataset, unit, name)]
        if option := self._of_decoder(decoder, "TRAINING"):
            (features,) = self.targets(this[option])
            found["responses"] = [self.store(dataset, unit, self.sources(this[option])[0])]
            found["features"] = self._stores_of(dataset, features)
            found["pictures"] = self._stores_of(dataset, features.partition("/")[0])
        return found

    def decoder_weights(self, decoder) -> list[str]:
        """The weights that a decoder loads, files or folders."""
        return [*self._decoder_weights(decoder).values()]

    def _decoder_weights(self, decoder):
        """The same by option, without those that are drawn at random."""
        named, checkpoints = self.weights_of(decoder), self.config.get("checkpoints", {})
        found = {
            option: self.checkpoint(name) if name in checkpoints else name
            for option, name in named.items()
            if name != "random"
        }
        if option := self._of_decoder(decoder, "WEIGHTS_OF"):
            found[option] = self.weights(self.backbone_of(self.decoders[decoder][option]))
        return {option: path for option, path in found.items() if path}

    def weights_of(self, decoder):
        """What the options of a decoder that name weights say, by option."""
        this = self.decoders[decoder]
        given = components.defaults("decoders", this["kind"]) | this
        return {option: given[option] for option in self._of_decoder(decoder, "WEIGHTS") or ()}

    def drawn_decoders(self, experiment) -> list[str]:
        """The decoders behind an experiment that have random weights of their own."""
        behind = [one for name in self.decoders_of(experiment) for one in self.behind(name)[0]]
        return [
            name for name in dict.fromkeys(behind) if "random" in self.weights_of(name).values()
        ]

    def _of_decoder(self, decoder, constant):
        return components.constant(f"engram.decoders.{self.decoders[decoder]['kind']}", constant)

    def _decode_spec(self, dataset, unit, decoder):
        sources = self._decoder_sources(dataset, unit, decoder)
        return {
            "decoder": self._options("decoders", decoder),
            "unit": unit,
            "sources": [[name, len(paths)] for name, paths in sources.items()],
            "weights": [[option, 1] for option in self._decoder_weights(decoder)],
        }
