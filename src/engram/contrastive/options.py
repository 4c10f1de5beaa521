"""Options of contrastive training."""

import math
from dataclasses import dataclass, field

from engram.errors import InputError

LARGEST_SCALE = 100.0
MASKS = ("none", "image", "concept")
SCORES = ("mrr", "top5_200", "top1")


@dataclass(frozen=True)
class Options:
    """Options of contrastive training.

    Attributes:
        encoder: name for `engram.models.eeg_encoders.make`.
        encoder_options: its further options.
        layout: of NICE, "fused" or "plain"; the same function and parameters.
        projector_dim: d of the common space, where both sides have a projector.
        eeg_head: project the encoder's vectors; without it they are the common space.
        image_head: project image features too. Without it they are the common space, and
            `projector_dim` is not used (NICE as published).
        dropout, image_dropout: of the two projectors.
        centre: subtract from each vector the mean of its features before it is normalised.
        encoder_lr, projector_lr: peak learning rates; the temperature goes with projectors.
        final_lr: of the last step, for both.
        encoder_warmup, projector_warmup: epochs of linear warm-up, part of `epochs`.
        warmup_start: share of the peak rate in the first step.
        epochs, batch_size: passes over the training epochs, rows a step at most.
        temperature: at the start; the scale of similarities is 1 / temperature, 100 at most.
        learn_temperature: train it.
        weight_decay: decoupled (AdamW), never on biases, normalisation and temperature.
        clip_gradient: largest L2 norm of the gradient; 0 = no clipping.
        mask: pairs of a batch that are no negatives: "none", those of the same "image", or of
            the same "concept".
        sub_average: repetitions that are averaged, drawn anew for every sample and step; 0 =
            all. Needs EEG with repetitions.
        score: what the epoch is chosen by: "mrr", mean reciprocal rank among all validation
            images, "top1" among these, or "top5_200", top-5 among 200 of them, mean of 20
            fixed draws.
        patience: epochs without a better score after which training stops; 0 = never.
        bf16: matrix products in bfloat16 where the hardware has it, else in float32.
    """

    encoder: str = "nice"
    encoder_options: dict = field(default_factory=dict)
    layout: str = "fused"
    projector_dim: int = 256
    eeg_head: bool = True
    image_head: bool = True
    dropout: float = 0.5
    image_dropout: float = 0.5
    centre: bool = False
    encoder_lr: float = 1e-3
    projector_lr: float = 1e-3
    final_lr: float = 1e-5
    encoder_warmup: float = 4
    projector_warmup: float = 2
    warmup_start: float = 0.1
    epochs: int = 100
    batch_size: int = 256
    temperature: float = 0.07
    learn_temperature: bool = True
    weight_decay: float = 1e-2
    clip_gradient: float = 1.0
    mask: str = "image"
    sub_average: int = 0
    score: str = "mrr"
    patience: int = 20
    bf16: bool = False


def check_options(options):
    """Refuse options that are out of range.

    Raises:
        InputError: names the option and its range.
    """
    for name, least, below in (
        ("epochs", 1, math.inf), ("batch_size", 2, math.inf), ("dropout", 0, 1),
        ("image_dropout", 0, 1), ("sub_average", 0, math.inf), ("patience", 0, math.inf),
    ):  # fmt: skip
        value = getattr(options, name)
        if not least <= value < below:
            raise InputError(f"contrastive: {name} is {value}; it must be in [{least}, {below})")
    if options.temperature < 1 / LARGEST_SCALE:
        raise InputError(f"contrastive: temperature is {options.temperature}; 0.01 is the least")
    for name, known in (("mask", MASKS), ("score", SCORES)):
        if getattr(options, name) not in known:
            raise InputError(
                f"contrastive: {name} is {getattr(options, name)!r}; use one of {', '.join(known)}"
            )
