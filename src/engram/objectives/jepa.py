"""Joint-embedding prediction (JEPA): what a slowly following encoder makes of hidden tokens.

Brain-JEPA (Dong et al., NeurIPS 2024), after I-JEPA (Assran et al., CVPR 2023): an encoder sees a
block of regions and windows; a predictor says from it what the target encoder, an average of the
encoder over training that sees everything, makes of three other blocks (`Masks`).

Where paper and published code differ, this follows the code: smooth L1 in place of the squared
distance, and regions in their order. Schedules of rate, decay and average count steps of the
optimiser and reach their ends, which those of the code do not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engram import objectives
from engram.errors import InputError
from engram.frozen import brain_jepa as shared
from engram.models import brain_jepa
from engram.signals import gradients
from engram.training.ema import EMA

BACKBONE = "brain_jepa"

#: Windows of the published sampler, whose places are written into it.
FAITHFUL_WINDOWS = 10
TRIES = 100  # draws of a mask that may show or hide nothing


@dataclass(frozen=True, kw_only=True)
class Options(objectives.Options):
    """Options.

    Attributes:
        ema: share of itself that the target encoder keeps in the first and in the last step, a
            line between.
        predictor_depth, predictor_width: blocks, and features of a token, of the predictor. It has
            the heads of the encoder, by which its width divides.
        masks_batch: subjects whose masks are cut to one size, as published those of one GPU.
        faithful: draw masks as the published code does, for 10 windows: the last window is never
            seen, masks are cut at their end, so that regions that come late are seen less often,
            and a token may be predicted twice.
        observed_regions, observed_windows: least and largest share that the encoder sees.
        alpha_regions, alpha_windows: shares of the block of other regions at observed times.
        beta_regions, beta_windows: shares of the blocks at other times, before and after.
    """

    epochs: int = 300
    batch_size: int = 512
    lr: float = 1e-3
    start_lr: float = 5e-5
    final_lr: float = 1e-6
    warmup_epochs: float = 40.0
    weight_decay: float = 0.04
    final_weight_decay: float = 0.4
    clip_gradient: float = 0.0
    accumulate: int = 32
    ema: tuple[float, float] = (0.996, 1.0)
    predictor_depth: int = 6
    predictor_width: int = 384
    masks_batch: int = 16
    faithful: bool = False
    observed_regions: tuple[float, float] = (0.84, 1.0)
    observed_windows: tuple[float, float] = (0.84, 1.0)
    alpha_regions: tuple[float, float] = (0.45, 0.6)
    alpha_windows: tuple[float, float] = (0.2, 0.6)
    beta_regions: tuple[float, float] = (0.15, 0.3)
    beta_windows: tuple[float, float] = (0.0, 0.4)


def build(model, options, view, steps, device) -> "Jepa":
    """The objective; see `engram.objectives`.

    Raises:
        InputError: sizes or shares are out of range, the gradients that `model` names do not fit
            the regions of the view, or faithful masks are asked for other than 10 windows.
    """
    return Jepa(model, options, view, steps, device)


class Jepa:
    """Encoder, predictor and target encoder; see `engram.objectives.Objective`."""

    def __init__(self, model, options, view, steps, device):
        self.model, self.options = model, options
        self.regions, self.known = len(view["channels"]), bool(model.gradients)
        self.masks = Masks(self.regions, model.windows, options)
        width, _, heads = shared.size(model)
        if options.predictor_width % heads or options.predictor_width % 4:
            raise InputError(
                f"jepa: predictor_width {options.predictor_width} does not divide by 4 and by the "
                f"{heads} heads of the encoder"
            )
        places = (
            shared.given_gradients(model, view)
            if self.known
            else np.zeros((self.regions, model.components))
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(model.seed)
            encoder = shared.encoder(model, places)
            predictor = brain_jepa.Predictor(
                places,
                model.windows,
                width,
                options.predictor_width,
                options.predictor_depth,
                heads,
            )
        encoder.checkpointing = predictor.checkpointing = options.checkpointing
        self.encoder, self.predictor = encoder.to(device), predictor.to(device)
        first, last = options.ema
        self.average = EMA(
            self.encoder, lambda step: first + (last - first) * step / max(steps - 1, 1)
        )
        self.target = self.average.network
        self.network = nn.ModuleDict(
            {"encoder": encoder, "predictor": predictor, "target_encoder": self.target}
        )
        self.centre = self.scale = None

    def prepare(self, subjects):
        """Gradients, where no file has them, and statistics of all subjects, before the first step.

        Args:
            subjects: iterable of the scans of each subject, iterables of float32 (regions, time).

        Raises:
            InputError: a mean never changes between subjects, or no gradients can be computed.
        """
        robust, means = self.model.normalisation == "robust", []

        def noted():
            for scans in subjects:
                scans = list(scans)
                means.append(np.mean([scan.mean(1, dtype=float) for scan in scans], 0))
                yield scans

        if not self.known:
            places = gradients.diffusion_map(
                gradients.group_connectivity(noted()), self.model.components
            )
            for module in self.network.modules():
                if isinstance(module, brain_jepa.Positions):
                    module.gradients.copy_(torch.from_numpy(places))
        elif robust:
            for _ in noted():
                pass
        if robust:
            self.centre = np.median(means, 0).astype(np.float32)
            low, high = np.percentile(means, [25, 75], 0)
            self.scale = (high - low).astype(np.float32)
            if not (self.scale > 0).all():
                raise InputError(
                    "jepa: `normalisation: robust` divides by how far the means of subjects lie "
                    "apart, and those of a region do not; set `standardize: off` of the view"
                )

    def batch(self, scans, generator) -> dict[str, torch.Tensor]:
        """Crops and masks.

        Returns:
            series: float32 (b, regions, windows * 16).
            seen, wanted: int (b, n), tokens that the encoder sees and that are predicted; -1
                behind those of a row.

        Raises:
            InputError: a scan is shorter than a crop.
        """
        seed = torch.randint(2**62, (), generator=generator).item()
        rng = np.random.default_rng(seed)
        normalise = shared.Normalisation(self.model.normalisation, self.centre, self.scale)
        length = self.model.clip or self.model.windows * brain_jepa.PATCH
        at = brain_jepa.evenly(length, self.model.windows)
        series = np.stack([normalise(_crop(scan, length, rng))[:, at] for scan in scans])
        seen, wanted = self.masks(len(scans), rng)
        return {
            "series": torch.from_numpy(series.astype(np.float32, copy=False)),
            "seen": torch.from_numpy(seen),
            "wanted": torch.from_numpy(wanted),
        }

    def loss(self, batch, step):
        """Smooth L1 distance of predicted to target tokens, and the spread of the latter.

        A row has a token per region and window; target tokens have mean 0 and variance 1 over
        their features. `token_sd` is the standard deviation over tokens before that, averaged over
        features: near 0 the encoder tells nothing apart, whatever the loss.
        """
        with torch.no_grad():
            targets = self.target(batch["series"]).float()
        total = spread = 0.0
        for rows, n, m in _alike(batch["seen"], batch["wanted"]):
            seen, wanted = batch["seen"][rows, :n], batch["wanted"][rows, :m]
            target = targets[rows].take_along_dim(wanted[..., None], 1)
            tokens = self.encoder(batch["series"][rows], seen)
            predicted = self.predictor(tokens, seen, wanted).float()
            wanted = functional.layer_norm(target, target.shape[-1:])
            share = len(target) / len(targets)
            total = total + share * functional.smooth_l1_loss(predicted, wanted)
            spread = spread + share * target.std((0, 1)).mean()
        return total, {"token_sd": spread}

    def update(self, step):
        self.average.update(step)

    @torch.no_grad()
    def features(self, batch) -> torch.Tensor:
        """Mean over the tokens of the target encoder, float32 (b, width)."""
        return self.target(batch["series"]).float().mean(1)

    def weights(self) -> dict[str, torch.Tensor]:
        found = dict(self.target.state_dict())
        found["gradients"] = self.target.pos_embed_proj.gradients
        if self.centre is not None:
            found |= {
                "centre": torch.from_numpy(self.centre),
                "scale": torch.from_numpy(self.scale),
            }
        return found

    def groups(self) -> list[dict]:
        """Tensors of two and more axes decay; biases, and weights of norms, do not."""
        named = [*self.encoder.named_parameters(), *self.predictor.named_parameters()]
        decayed = {id(p) for name, p in named if p.ndim >= 2 and "bias" not in name}
        parameters = [p for _, p in named]
        return [
            {
                "params": [p for p in parameters if (id(p) in decayed) == decay],
                "name": "decayed" if decay else "free",
                "decay": decay,
            }
            for decay in (True, False)
        ]


class Masks:
    """Draws which tokens the encoder sees and which are predicted.

    An observed block of regions and windows is drawn; then targets: alpha, other regions at
    observed times; beta and gamma, a share of the observed and of the other regions at times
    before and after. The block loses all windows of alpha's regions and all regions at the others'
    times. What is seen and what is predicted never overlap.

    Args:
        regions, windows: of the grid.
        options: `Options`.

    Raises:
        InputError: a share is out of range, or faithful masks are asked for other windows than 10.
    """

    def __init__(self, regions, windows, options):
        self.regions, self.windows, self.options = regions, windows, options
        for block in ("observed", "alpha", "beta"):
            for axis in ("regions", "windows"):
                low, high = getattr(options, f"{block}_{axis}")
                if not 0 <= low <= high <= 1:
                    raise InputError(f"jepa: {block}_{axis}: [{low}, {high}] are no shares")
        if options.masks_batch < 1:
            raise InputError(f"jepa: masks_batch is {options.masks_batch}; it must be at least 1")
        if options.faithful and windows != FAITHFUL_WINDOWS:
            raise InputError(
                f"jepa: faithful masks are those of {FAITHFUL_WINDOWS} windows, not of {windows}; "
                "set `faithful: false`"
            )
        #: windows at either end that may be hidden; as many as are hidden at most
        self.side = max(1, int(np.ceil(options.beta_windows[1] * windows)) - 1)

    def __call__(self, n, rng) -> tuple[np.ndarray, np.ndarray]:
        """Tokens seen and tokens wanted by n rows, int64 (n, ·) each, -1 behind those of a row.

        Rows of one group of `masks_batch` have as many; what is too many is dropped, uniformly at
        random, or from the end if faithful.
        """
        size = self.options.masks_batch
        pairs = [
            pair for start in range(0, n, size) for pair in self._group(min(size, n - start), rng)
        ]
        return tuple(_padded(lists) for lists in zip(*pairs, strict=True))

    def _group(self, n, rng):
        sizes = {
            key: self._size(key, rng)
            for key in ("observed_regions", "observed_windows", "alpha_regions", "alpha_windows")
        }
        pairs = [self._drawn(sizes, rng) for _ in range(n)]
        least = [min(map(len, lists)) for lists in zip(*pairs, strict=True)]
        return [
            [self._cut(tokens, k, rng) for tokens, k in zip(pair, least, strict=True)]
            for pair in pairs
        ]

    def _cut(self, tokens, k, rng):
        if self.options.faithful:
            return tokens[:k]
        return np.sort(rng.choice(tokens, k, replace=False))

    def _size(self, key, rng):
        whole = self.regions if key.endswith("regions") else self.windows
        least = 0 if key == "beta_windows" else 1
        return max(least, int(whole * rng.uniform(*getattr(self.options, key))))

    def _drawn(self, sizes, rng):
        for _ in range(TRIES):
            seen, wanted = self._sample(sizes, rng)
            if len(seen) and len(wanted):
                return seen, wanted
        raise InputError(
            f"jepa: {self.windows} windows of {self.regions} regions are too few for these shares; "
            "lower `beta_windows`"
        )

    def _sample(self, sizes, rng):
        """Tokens seen and wanted by one row."""
        last = 0 if self.options.faithful else 1  # whether the last start may be drawn
        observed = rng.permutation(self.regions)[: sizes["observed_regions"]]
        width = sizes["observed_windows"]
        start = rng.integers(max(1, self.windows - width + last))
        seen = self._grid(observed, slice(start, start + width))
        other = rng.permutation(self.regions)[: sizes["alpha_regions"]]
        long = min(sizes["alpha_windows"], width)
        begin = start + rng.integers(max(1, width - long + last))
        blocks = [self._grid(other, slice(begin, begin + long))]
        seen[other] = False
        for first in (self.windows - self.side, 0):
            times = first + rng.permutation(self.side)[: self._size("beta_windows", rng)]
            blocks.append(self._grid(self._stratified(observed, other, rng), times))
            seen[:, times] = False
        if self.options.faithful:
            return np.flatnonzero(seen), np.concatenate([np.flatnonzero(b) for b in blocks])
        return np.flatnonzero(seen), np.flatnonzero(np.any(blocks, 0))

    def _stratified(self, observed, other, rng):
        """The same share of those regions that are seen, and of all others."""
        inside = np.zeros(self.regions, bool)
        inside[observed] = True
        inside[other] = self.options.faithful
        share = rng.uniform(*self.options.beta_regions)
        halves = (rng.permutation(np.flatnonzero(half)) for half in (inside, ~inside))
        return np.concatenate([half[: int(share * len(half))] for half in halves])

    def _grid(self, regions, windows):
        grid = np.zeros((self.regions, self.windows), bool)
        row = np.zeros(self.windows, bool)
        row[windows] = True
        grid[regions] = row
        return grid


def _crop(scan, length, rng):
    frames = scan.shape[1]
    if frames < length:
        raise InputError(
            f"jepa: a scan has {frames} frames, a crop {length}; leave it out, or lower `windows` "
            "or `clip` of the backbone"
        )
    start = rng.integers(frames - length + 1)
    return scan[:, start : start + length]


def _padded(lists):
    padded = np.full((len(lists), max(map(len, lists))), -1, np.int64)
    for row, tokens in zip(padded, lists, strict=True):
        row[: len(tokens)] = tokens
    return padded


def _alike(*padded):
    """Rows with equally many tokens that follow each other: (slice, number of each)."""
    counts = torch.stack([(tokens >= 0).sum(1) for tokens in padded], 1).tolist()
    start = 0
    for end in range(1, len(counts) + 1):
        if end == len(counts) or counts[end] != counts[start]:
            yield slice(start, end), *counts[start]
            start = end
