"""Self-distillation of Brain-Semantoks: a student that sees less learns what a teacher sees.

Gijsen, S. & Ritter, K. (2026). Brain-Semantoks. ICLR. arXiv:2512.11582; the coding rate after
Wu, Z. et al. (2025). Simplifying DINO via coding rate regularization. ICML. arXiv:2502.10385.

Two crops of a scan are augmented. The student, and a teacher that is its moving average, make the
tokens of both and project them to unit vectors. Three losses ask the student to say what the
teacher says: of the class token and, in the first epochs, of the mean token of each network, each
across the two crops and held apart by the coding rate; and of the tokens that are masked in the
student alone. Written from a description of equations and defaults.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from engram import objectives
from engram.errors import InputError
from engram.frozen import series
from engram.models import semantoks
from engram.signals import augmentation
from engram.training import ranks
from engram.training.ema import EMA

BACKBONE = "semantoks"

VIEWS = 2
DISTORTION = 0.05  # epsilon of the coding rate


@dataclass(frozen=True, kw_only=True)
class Options(objectives.Options):
    """Options.

    Attributes:
        lr: learning rate at its peak; the published one is 7e-4 for each 256 of a batch.
        augment: how strongly [regions, time, noise, scale] of a crop are changed, each 0 to 3:
            regions and a block of time are zeroed, noise is added, all is scaled.
        masking: share of the steps in which the student's tokens are masked.
        masks: some networks or a stretch of windows, `slice` one or the other by chance.
        mask_ratio: least and largest share of the tokens that is masked.
        faithful: draw as many masked tokens as the published code does, 56 to 67 % of networks or
            60 to 80 % of windows, instead of what the paper states.
        canonical_masks: with `tokens: max_spatial`, mask the regions of whole networks.
        mask_weight: of the loss of masked tokens.
        network_weight: of the loss of networks in the first step; it falls by half a cosine.
        network_epochs: epochs in which that loss counts.
        momentum: share of itself that the teacher keeps in the first step; at the end all.
        projector_width: of the hidden layer of the projector.
        projector_dim: of the vectors that are compared.
    """

    lr: float = 1.4e-3
    augment: list[int] = field(default_factory=lambda: [1, 1, 1, 1])
    masking: float = 0.5
    masks: Literal["slice", "network", "temporal"] = "slice"
    mask_ratio: tuple[float, float] = (0.65, 0.85)
    faithful: bool = False
    canonical_masks: bool = False
    mask_weight: float = 0.5
    network_weight: float = 0.5
    network_epochs: float = 5.0
    momentum: float = 0.99
    projector_width: int = 1024
    projector_dim: int = 128


def build(model, options, view, steps, device) -> "SelfDistillation":
    """See `engram.objectives`; the student begins with the weights that `weights: random` has.

    Raises:
        InputError: an option is out of range, or the view holds no series, too short ones, or none
            at all of a network.
    """
    names = series.networks(view, BACKBONE)
    _check(options, view, names)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(model.seed)
        encoder = semantoks.built(model, names)
        shape = (model.width, options.projector_width, options.projector_dim)
        student = Branch(encoder, semantoks.Projector(*shape))
    encoder.checkpointing = options.checkpointing
    drawn_on = _rows_of_masks(encoder, names, options)
    return SelfDistillation(student.to(device), drawn_on, options, steps)


def _check(options, view, names):
    augmentation.check(options.augment)
    low, high = options.mask_ratio
    if not 0 < low <= high < 1:
        raise InputError(f"mask_ratio: {low:g} to {high:g}; shares above 0 and below 1")
    for key in ("masking", "momentum"):
        if not 0 <= getattr(options, key) <= 1:
            raise InputError(f"{key}: {getattr(options, key):g}; it must be in [0, 1]")
    missing, regions = set(view["missing"]), view["channels"]
    there = {name for name, region in zip(names, regions, strict=True) if region not in missing}
    lacking = sorted(set(names) - there)
    if lacking:
        raise InputError(
            f"objective self_distillation: the view lacks all regions of network {lacking[0]}; "
            "leave them out of its `regions`"
        )


def _rows_of_masks(encoder, names, options):
    """For each row of tokens the row of a drawn mask that is its own, int64 (n,)."""
    n = len(encoder.networks)
    if options.canonical_masks and n == len(names):
        networks = list(dict.fromkeys(names))
        return torch.tensor([networks.index(name) for name in names])
    if n < 2 and options.masks != "temporal":
        raise InputError(
            f"masks: {options.masks} masks networks, but there is one row of tokens; use temporal"
        )
    return torch.arange(n)


class Branch(nn.Module):
    """Student or teacher: encoder and projector."""

    def __init__(self, encoder, projector):
        super().__init__()
        self.encoder, self.projector = encoder, projector


class SelfDistillation:
    """The objective; see `engram.objectives.Objective`.

    Args:
        student: Branch on its device; the teacher begins as its copy.
        drawn_on: int64 (n,), for each row of tokens the row of a drawn mask.
        options: `Options`.
        steps: number of optimiser steps.

    Attributes:
        first_step: rates and decays begin with their first values, as published.
    """

    first_step = 0

    def __init__(self, student, drawn_on, options, steps):
        self.options, self.steps, self.drawn_on = options, steps, drawn_on
        self.average = EMA(student, self.momentum)
        self.student, self.teacher = student, self.average.network
        self.network = nn.ModuleDict({"student": student, "teacher": self.teacher})

    # ---- batches ------------------------------------------------------------------------

    def batch(self, scans, generator):
        """Crops float32 (b, 2, roi, frames) and masks bool (b, 2, n, p), True where masked.

        Raises:
            InputError: a scan is shorter than a crop.
        """
        encoder, options = self.student.encoder, self.options
        crops = cropped(scans, encoder.frames, generator)
        crops = augmentation.augmented(crops, options.augment, generator)
        shape = (len(scans), VIEWS, int(self.drawn_on.max()) + 1, encoder.patches)
        masked = torch.rand(1, generator=generator).item() < options.masking
        drawn = slices(shape, options, generator) if masked else torch.zeros(shape).bool()
        return {"crops": crops, "mask": drawn[:, :, self.drawn_on]}

    # ---- losses -------------------------------------------------------------------------

    def loss(self, batch, step):
        """Sum of the three losses, and each of them with what they are made of."""
        crops, mask = batch["crops"], batch["mask"]
        seen = self._tokens(self.student, crops, mask)
        with torch.no_grad():
            known = self._tokens(self.teacher, crops)
        similarity, expansion = self._compared(seen[..., 0, :], known[..., 0, :])
        parts = {"class_similarity": similarity, "class_expansion": expansion}
        loss = -similarity - expansion
        if weight := self.network_weight(step):
            means = [self._by_network(tokens) for tokens in (seen, known)]
            similarity, expansion = self._compared(*means)
            parts |= {"network_similarity": similarity, "network_expansion": expansion}
            loss = loss - weight * (similarity + expansion)
        agreement = self._masked(seen, known, mask)
        parts["mask_similarity"] = agreement
        return loss - self.options.mask_weight * agreement, parts

    def _tokens(self, branch, crops, mask=None):
        """(b, 2, 1 + n p, d)."""
        mask = mask if mask is None else mask.flatten(0, 1)
        return branch.encoder(crops.flatten(0, 1), mask).unflatten(0, (-1, VIEWS))

    def _by_network(self, tokens):
        encoder = self.student.encoder
        each = tokens[..., 1:, :].unflatten(-2, (len(encoder.networks), encoder.patches))
        return each.mean(-2)

    def _compared(self, seen, known):
        """Similarity and coding rate of tokens (b, 2, ..., d), those of all processes."""
        s = ranks.gather(self.student.projector(seen))
        with torch.no_grad():
            t = ranks.gather(self.teacher.projector(known))
        return mcr(*(v.transpose(0, 1).flatten(1, -2) for v in (s, t)))

    def _masked(self, seen, known, mask):
        """Mean cosine of masked tokens and what the teacher made of them; 0 without masks."""
        mask = mask.flatten(2)
        each = [tokens[..., 1:, :][mask] for tokens in (seen, known)]
        with torch.no_grad():
            target = self.teacher.projector(each[1])
        cosine = (self.student.projector(each[0]) * target).sum(-1)
        share = 1 / mask.sum(-1, keepdim=True).expand_as(mask)[mask]
        return (cosine * share).sum() / (len(mask) * VIEWS)

    def network_weight(self, step) -> float:
        """Weight of the loss of networks."""
        end = self.steps * self.options.network_epochs / self.options.epochs
        if step >= end:
            return 0.0
        return self.options.network_weight * (1 + math.cos(math.pi * step / end)) / 2

    # ---- teacher ------------------------------------------------------------------------

    def momentum(self, step) -> float:
        """Share of itself that the teacher keeps after a step."""
        return 1 - (1 - self.options.momentum) * (1 + math.cos(math.pi * step / self.steps)) / 2

    def update(self, step):
        self.average.update(step)

    @torch.no_grad()
    def features(self, batch):
        """The published features (b, 2 d) of the first crop."""
        return semantoks.features(self.teacher.encoder(batch["crops"][:, 0])).float()

    def weights(self):
        return self.teacher.encoder.state_dict()

    def groups(self):
        """One group: biases, norms and embeddings decay too, as published."""
        return [{"params": [*self.student.parameters()], "name": "student", "decay": True}]


def mcr(students, teachers) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarity of two views, and how much room all features take; each is to be large.

    Args:
        students, teachers: unit vectors (2, m, p).

    Returns:
        Mean product of a student with the teacher of the other view, and the coding rate
        gamma / 2 logdet(I + p / (m eps) Z'Z), the mean over views of Z = (student + teacher) / 2,
        with gamma = (p + m) / (p m).
    """
    with torch.autocast(students.device.type, enabled=False):
        m, p = students.shape[1:]
        similarity = (students * teachers.flip(0)).sum(-1).mean()
        z = (students + teachers) / 2
        gram = z.transpose(1, 2) @ z * (p / (m * DISTORTION))
        root = torch.linalg.cholesky(torch.eye(p, dtype=gram.dtype, device=gram.device) + gram)
        rate = root.diagonal(dim1=1, dim2=2).log().sum(-1).mean()
        return similarity, rate * (p + m) / (p * m)


# ---- crops and masks ----------------------------------------------------------------------


def cropped(scans, frames, generator) -> torch.Tensor:
    """Two crops of each scan that begin anywhere, float32 (b, 2, roi, frames)."""
    crops = torch.empty(len(scans), VIEWS, len(scans[0]), frames)
    for both, scan in zip(crops, scans, strict=True):
        spare = scan.shape[1] - frames
        if spare < 0:
            raise InputError(
                f"a scan of {scan.shape[1]} frames is shorter than a crop of {frames}; leave it out"
            )
        starts = torch.randint(spare + 1, (VIEWS,), generator=generator).tolist()
        for crop, start in zip(both, starts, strict=True):
            crop[:] = torch.from_numpy(scan[:, start : start + frames])
    return crops


def slices(shape, options, generator) -> torch.Tensor:
    """Masks, bool (b, 2, n, p): some whole networks, or a stretch of windows of all networks."""
    n, p = shape[2:]
    one = (*shape[:2], 1)
    temporal = (
        torch.rand(one, generator=generator)
        < {"network": 0, "slice": 0.5, "temporal": 1}[options.masks]
    )
    count = _masked_of(one, n, n - 1, options, generator)
    networks = torch.rand(*shape[:3], generator=generator).argsort(-1) < count
    count = _masked_of(one, p, p, options, generator)
    at = torch.arange(p) - augmentation.below(p - count + 1, generator)
    windows = (at >= 0) & (at < count)
    return torch.where(temporal[..., None], windows[:, :, None], networks[..., None])


def _masked_of(shape, n, published, options, generator):
    """How many of n rows or columns are masked; of `published` ones in the published code."""
    low, high = options.mask_ratio
    if options.faithful:
        return (published * augmentation.uniform(shape, (low, high), generator)).int()
    fitting = [k for k in range(1, n) if low <= k / n <= high] or [round(n * (low + high) / 2)]
    return torch.tensor(fitting)[torch.randint(len(fitting), shape, generator=generator)]
