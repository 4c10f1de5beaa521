"""What the decoders share that draw by latent diffusion."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from engram import decoders
from engram.errors import InputError
from engram.frozen import backbone, checkpoints, clip, pictures
from engram.models import latent_diffusion
from engram.precision import multiplies_bf16


@dataclass(frozen=True, kw_only=True)
class Options(decoders.Options):
    """Options of every decoder by latent diffusion.

    Attributes:
        model: `sd15`, the sizes of Stable Diffusion 1.5 and of Versatile Diffusion; or `tiny`, of
            pictures of 64 x 64, which nobody has trained.
        start: a decoder whose pictures the diffusion starts from, resized to those of the model.
        start_latents: instead of it an experiment that predicts latents of the backbone `sd_vae`,
            with the same autoencoder. Without a start the diffusion goes from pure noise.
        start_from: of the latents of a picture the `mean`, or a `sample` as published.
        strength: share of the steps that are gone after a start, above 0, at most 1.
        steps: from pure noise.
        guidance: how far noise is predicted away from that without conditions; 1 takes the
            conditions alone, which takes half the time.
        unet: weights of the U-Net, a name under `checkpoints`, a file, or `random`.
        vae: weights of the autoencoder likewise.
        clip: weights of the CLIP that the conditions are of, which says what no picture and no
            text are; `random` where those of the backbones are.
        precision: of the U-Net; `auto` is bf16 on a GPU that multiplies it natively, else fp32.
        batch_size: small, because the maps of a batch are large.
    """

    model: Literal["sd15", "tiny"] = "sd15"
    start: str | None = None
    start_latents: str | None = None
    start_from: Literal["mean", "sample"] = "mean"
    strength: float = 0.75
    steps: int = 50
    guidance: float = 7.5
    unet: str = "random"
    vae: str = "random"
    clip: str = "random"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    batch_size: int = 4


class Decoder:
    """Conditions, and what the diffusion starts from, to pictures.

    Args:
        options: `Options`.
        parts: a `Parts`.
        model: the U-Net with its conditions.
        conditions: function of what is given that gives `tokens` (b, n, width) and, with an
            adapter, `embedding` (b, d).
        nothing: the same without conditions, (1, ...).
        facts: for the header.

    Attributes:
        size: (height, width).
        facts: for the header.
    """

    def __init__(self, options, parts, model, conditions, nothing, facts):
        self.options, self.parts = options, parts
        self.conditions, self.nothing = conditions, nothing
        self.size = (parts.architecture.size,) * 2
        device = parts.device
        coarse = options.precision == "bf16" or (
            options.precision == "auto" and device == "cuda" and multiplies_bf16(device)
        )
        self.number = torch.bfloat16 if coarse else torch.float32
        facts = facts | parts.facts
        self.vae = parts.vae.to(device).eval().requires_grad_(False)
        self.model = model.to(device).eval().requires_grad_(False)
        torch.nn.Module.to(self.model, self.number)  # that of diffusers warns of nothing
        way = latent_diffusion.times(options.steps, options.strength if parts.starts else None)
        self.facts = facts | {
            "model": options.model,
            "timestep_convention": f"diffusers: {len(way)} steps from t = {way[0]}",
            "guidance": options.guidance,
            "precision": "bf16" if coarse else "fp32",
        }

    def __call__(self, given, generators) -> np.ndarray:
        """uint8 RGB (b, height, width, 3)."""
        options, architecture, device = self.options, self.parts.architecture, self.parts.device
        given = {
            key: torch.from_numpy(np.ascontiguousarray(value)).to(device)
            for key, value in given.items()
        }
        with torch.inference_mode():
            noise = latent_diffusion.noise_of(architecture.latent, generators, device)
            start = self._start(given, generators)
            predict = self._predict(given)
            latents = latent_diffusion.denoised(
                predict, noise, options.steps, start, options.strength
            )
            return latent_diffusion.decode(self.vae, latents).numpy()

    def _start(self, given, generators):
        """Latents that the diffusion starts from; None for pure noise."""
        if "start_latents" in given:
            return given["start_latents"].reshape(-1, *self.parts.architecture.latent)
        if "start" not in given:
            return None
        images = given["start"].permute(0, 3, 1, 2)
        if images.shape[2:] != self.size:
            images = pictures.resize_with_pillow(images, self.size, "bicubic")
        images = images.float() / 127.5 - 1
        sampled = generators if self.options.start_from == "sample" else None
        return latent_diffusion.encode(self.vae, images, sampled)

    def _predict(self, given):
        """The function of latents and a time that gives the noise in them."""
        guidance, conditions = self.options.guidance, self.conditions(given)
        twice = guidance != 1
        if twice:
            conditions = {
                key: torch.cat([self.nothing[key].expand_as(value), value])
                for key, value in conditions.items()
            }
        conditions = {key: value.to(self.number) for key, value in conditions.items()}
        arguments = {"encoder_hidden_states": conditions["tokens"]}
        if "embedding" in conditions:
            arguments["added_cond_kwargs"] = {"image_embeds": [conditions["embedding"][:, None]]}

        def predict(x, time):
            x = torch.cat([x, x]) if twice else x
            found = self.model(x.to(self.number), time, **arguments).sample.float()
            if not twice:
                return found
            without, given = found.chunk(2)
            return without + guidance * (given - without)

        return predict


class Parts:
    """Models of a decoder, loaded from their files or with random weights.

    Args:
        kind: of the decoder, for messages.
        options: `Options`.
        sources, weights, device: as for `load` of a decoder.

    Attributes:
        architecture: a `latent_diffusion.Architecture`.
        vae: the autoencoder.
        starts: whether the diffusion starts from something.
        facts: for the header, with the digest of each model.

    Raises:
        InputError: an option is out of range, or a file does not fit.
    """

    def __init__(self, kind, options, sources, weights, device):
        self.kind, self.options, self.sources = kind, options, sources
        self.weights, self.device, self.facts = weights, device, {}
        self.architecture = latent_diffusion.ARCHITECTURES[options.model]
        self.starts = bool(options.start or options.start_latents)
        self._check()
        self.vae = self.load(
            "vae", latent_diffusion.autoencoder, latent_diffusion.autoencoder_names
        )
        if options.start_latents:
            self._check_start()

    def load(self, part, make, names=lambda tensors: tensors):
        """A model with the weights of its file, all of them and no others, or random ones.

        Args:
            part: the option that names the weights.
            make: function of the architecture that builds it.
            names: function of tensors that gives them the names of the model.
        """
        file = self.weights.get(part)
        model = backbone.build(lambda: make(self.architecture), self._drawn(), file)
        return self.fill(part, model, names(checkpoints.read(file)) if file else None)

    def fill(self, part, model, tensors):
        """Put tensors of a file into a model, strictly, and note whose weights it has."""
        file = self.weights.get(part)
        if tensors is not None:
            name = f"`{part}` of {self.kind}, model {self.options.model}"
            checkpoints.load_strictly(model, tensors, file, name)
        digest = checkpoints.digest(model)
        self.facts[part] = {"weights": file.name if file else "random", "sha256": digest}
        return model

    def text_unet(self, image):
        """The U-Net `image` with the transformers of the file of another, or random ones."""
        file = self.weights.get("text_unet")
        drawn = _Drawn(self.options.model, "random", 1)
        other = backbone.build(lambda: latent_diffusion.unet(self.architecture), drawn, file)
        tensors = checkpoints.read(file) if file else other.state_dict()
        tensors = {n: t for n, t in tensors.items() if latent_diffusion.of_attention(n)}
        alike = image.state_dict().items()
        alike = {n: t for n, t in alike if not latent_diffusion.of_attention(n)}
        return self.fill("text_unet", other, alike | tensors)

    def _drawn(self, of=None):
        """By what random weights are drawn; those of a backbone as it did."""
        of = of or {}
        return _Drawn(of.get("model", self.options.model), "random", of.get("seed", 0))

    def of_no_text(self, option, projects) -> torch.Tensor:
        """Features (1, context, d) of the empty text, as the backbone of the option makes them."""
        of, file = self.target(option), self.weights.get("clip")
        of = of or {"model": self.architecture.clip}
        tower = clip.text_tower(self._drawn(of), file)
        self._check_clip(option, tower, of)
        tokenizer = clip.tokenizer(of["model"])
        tower = tower.to(self.device).eval()
        return clip.of_no_text(tower, tokenizer, projects, self.device)[None]

    def of_no_picture(self, option) -> torch.Tensor:
        """Features (1, n, d) of a grey picture, as the backbone of the option makes them."""
        of, file = self.target(option), self.weights.get("clip")
        tower = clip.image_tower(self._drawn(of), file)
        self._check_clip(option, tower, of)
        tower = tower.to(self.device).eval()
        return clip.of_no_picture(tower, of["preprocessing"], self.device)[None]

    def target(self, option) -> dict:
        """What is stated of the features that an option's experiment predicts."""
        return self.sources.get(option, {}).get("target", {})

    def takes(self, option, kind, numbers, **facts):
        """Refuse latents that are not `numbers` a row of a backbone of `kind` with `facts`."""
        of = self.target(option) | {"numbers": int(np.prod(self.sources[option]["shape"]))}
        wanted = {"kind": kind, **facts, "layer": "", "pooling": "default", "numbers": numbers}
        differs = [key for key in wanted if of.get(key) != wanted[key]]
        if not differs:
            return
        said = ["kind", *(key for key in differs if key != "kind")]
        expected, found = (
            ", ".join(f"{key} {one.get(key) or 'none'}" for key in said) for one in (wanted, of)
        )
        raise InputError(
            f"decoder {self.kind}: `{option}` takes latents of {expected}, but "
            f"{getattr(self.options, option)} predicts {found}; name another experiment"
        )

    def _check(self):
        options, where = self.options, f"decoder {self.kind}"
        if options.start and options.start_latents:
            raise InputError(f"{where}: starts from `start` or from `start_latents`, not from both")
        if not 1 <= options.steps <= 999:
            raise InputError(f"{where}: `steps` is {options.steps}; it has to be 1 to 999")
        if not 0 < options.strength <= 1 or int(options.steps * options.strength) < 1:
            raise InputError(
                f"{where}: `strength` is {options.strength}; above 0, at most 1, and of "
                f"{options.steps} steps at least one"
            )
        if options.guidance < 1:
            raise InputError(f"{where}: `guidance` is {options.guidance}; at least 1")

    def _check_start(self):
        numbers = int(np.prod(self.architecture.latent))
        self.takes("start_latents", "sd_vae", numbers, model=self.options.model)
        if self.target("start_latents")["weights_sha256"] != self.facts["vae"]["sha256"]:
            raise InputError(
                f"decoder {self.kind}: the latents of {self.options.start_latents} are of another "
                "autoencoder than `vae`; name the checkpoint of the backbone"
            )

    def _check_clip(self, option, tower, of):
        if of.get("weights_sha256", checkpoints.digest(tower)) != checkpoints.digest(tower):
            raise InputError(
                f"decoder {self.kind}: `clip` is {self.options.clip}, but the latents of "
                f"{getattr(self.options, option)} are of {of['weights']}; name the checkpoint of "
                "the backbone"
            )


@dataclass(frozen=True)
class _Drawn:
    """What weights are drawn or loaded by, as options of a backbone."""

    model: str
    weights: str
    seed: int
    prefix: str = ""
