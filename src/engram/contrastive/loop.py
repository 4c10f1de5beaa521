"""Contrastive training: loss, schedule and validation, for `engram.training.loop`."""

import math
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch

from engram import training
from engram.contrastive.data import Data, Pairs, check_data
from engram.contrastive.network import Model, Network, embedded, info_nce
from engram.contrastive.options import LARGEST_SCALE, check_options
from engram.errors import InputError
from engram.measures import ranking
from engram.precision import multiplies_bf16
from engram.progress import progress
from engram.training import loop, ranks

DRAWS, DRAWN = 20, 200


def fit(eeg, targets, rows, options, seeds, device, control=None, until=0) -> list[Model]:
    """Train one model a seed, one after the other, on the same resident data.

    Side by side they would save a twentieth of a step, and only if all saw the same batches. On
    the CPU the same seed gives the same weights, whatever else the process does; the global
    random state stays as it was.

    Args:
        eeg: (n, channel, time), or (n, repetition, channel, time), which is averaged over
            repetitions except under `sub_average`; any float type. It needs `shape` and rows by
            an int array, which are asked for in blocks: a memory-mapped array or rows of stores
            will do.
        targets: image features (m, d), or a list of these from several image encoders, which
            stand side by side, each divided by its root mean square over training images.
        rows: Rows.
        options: Options.
        seeds: ints.
        device: "cpu" or "cuda".
        control: int (n,), other images in place of `rows.image`; gives one more model, the
            last, of the first seed.
        until: epochs after which training stops, its rates being those of all; 0 = all.

    Raises:
        InputError: sizes do not agree, a value that is used is not finite, an option is out of
            range, or training diverged.
    """
    targets = targets if isinstance(targets, list | tuple) else [targets]
    check_options(options)
    if ranks.size() > 1:
        raise InputError("contrastive: InfoNCE needs whole batches; train without torchrun")
    check_data(eeg, targets, rows, options)
    data = Data(eeg, targets, rows, options, device)
    runs = [(seed, None) for seed in seeds] + [(seeds[0], control)] * (control is not None)
    models = []
    total = options.epochs * len(rows.train) * len(runs)
    with progress(total, "align EEG with images") as bar:
        for seed, image in runs:
            pairs = Pairs(data, image, options.mask)
            with torch.random.fork_rng([torch.cuda.current_device()] if device == "cuda" else []):
                torch.manual_seed(seed)
                models.append(_train(data, pairs, options, seed, bar, until))
    return models


def _train(data, pairs, options, seed, bar, until):
    """One model; random numbers come from the global state, which the caller has seeded."""
    network = Network(data.channels, data.times, data.widths, options)
    network.target_scale.copy_(data.target_scale)
    network.to(data.device)
    steps = -(-len(data.train) // options.batch_size)
    optimiser = torch.optim.AdamW(_groups(network, options), lr=0.0, fused=True)
    optimiser.register_step_post_hook(lambda *_: _limit(network.log_scale))
    learner = loop.Learner(
        network,
        _Loss(network, data, pairs, options, -(-len(data.train) // steps)),
        optimiser,
        lambda step: _rates(optimiser, schedule(step, options.epochs * steps, steps, options)),
    )
    settings = loop.Settings(
        options.epochs,
        options.batch_size,
        patience=options.patience,
        clip_gradient=options.clip_gradient,
        recorded=data.device == "cuda",
        until=until,
    )

    def validate(network):
        similarity = _similarity(network, data, pairs, options)
        if not np.isfinite(similarity).all():
            return {"score": math.nan}
        temperature = math.exp(-network.log_scale.item())
        return _scores(similarity, pairs.truth, options) | {"temperature": temperature}

    name = f"contrastive: seed {seed}"
    trained = loop.fit(learner, validate, settings, len(data.train), name, bar=bar)
    network.load_state_dict(trained.state)
    curves = pd.DataFrame([{"seed": seed, **row} for row in trained.curves])
    return Model(network.eval(), seed, trained.epoch, trained.score, curves)


@torch.no_grad()
def _limit(log_scale):
    """Above the limit the loss has no gradient that leads back."""
    log_scale.clamp_(max=math.log(LARGEST_SCALE))


class _Loss:
    """Loss of a batch, which InfoNCE needs whole: the others are its negatives.

    Batches are written into the same buffers again and again: fresh memory costs thrice as much.
    """

    def __init__(self, network, data, pairs, options, size):
        self.network, self.data, self.pairs, self.options = network, data, pairs, options
        self.x = data.train.new_empty(size, *data.train.shape[1:])
        self.targets = data.targets.new_empty(size, data.targets.shape[1])

    def __call__(self, at):
        x, targets, group, subject = self._batch(at)
        with _autocast(self.options, x.device.type):
            a, b = self.network.eeg(x, subject), self.network.image(targets)
        return info_nce(a, b, self.network.log_scale, group, self.options.centre)

    def _batch(self, at):
        """Epochs, targets, groups and subjects."""
        data, pairs, n = self.data, self.pairs, len(at)
        x = torch.index_select(data.train, 0, at, out=self.x[:n])
        if self.options.sub_average:
            x = some_repetitions(x, self.options.sub_average)
        targets = torch.index_select(data.targets, 0, pairs.image[at], out=self.targets[:n])
        parts = (None if part is None else part[at] for part in (pairs.group, data.subject))
        return x, targets, *parts


def _groups(network, options):
    """Parameters with the two learning rates, with and without decay."""
    inside = {id(p) for p in network.encoder.parameters()}
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if (id(p) in inside) == of_encoder and (p.ndim > 1) == w],
            "weight_decay": options.weight_decay if w else 0.0,
            "name": name,
        }
        for name, of_encoder in (("encoder", True), ("projector", False))
        for w in (True, False)
    ]
    return [group for group in groups if group["params"]]


def _rates(optimiser, rates):
    """Learning rate of each group, from those of (encoder, projectors)."""
    rates = dict(zip(("encoder", "projector"), rates, strict=True))
    return [rates[group["name"]] for group in optimiser.param_groups]


def some_repetitions(x, k):
    """Mean of k repetitions of x (b, repetition, channel, time), drawn for each row."""
    b, repetitions = x.shape[:2]
    chosen = torch.rand(b, repetitions, device=x.device).argsort(1) < k
    weights = chosen.to(x.dtype) / k
    return torch.bmm(weights[:, None], x.flatten(2)).view(b, *x.shape[2:])


def _autocast(options, device):
    if options.bf16 and multiplies_bf16(device):
        return torch.autocast(device, torch.bfloat16)
    return nullcontext()


def schedule(step, total, epoch_steps, options) -> tuple[float, float]:
    """Learning rates (encoder, projectors) of one step: linear warm-up, then half a cosine.

    Each has its own warm-up and continues with a cosine over the steps that are left, so that
    both are continuous and `final_lr` in the last step.

    Args:
        step: 0 to total - 1.
        total: steps of the whole training, warm-up included.
        epoch_steps: steps of an epoch.
        options: Options.
    """
    return tuple(
        training.schedule(
            step,
            total,
            warmup=warmup * epoch_steps / max(total - 1, 1),
            base=base,
            start=base * options.warmup_start,
            final=options.final_lr,
        )
        for base, warmup in (
            (options.encoder_lr, options.encoder_warmup),
            (options.projector_lr, options.projector_warmup),
        )
    )


# ---- validation -------------------------------------------------------------------------


def _similarity(network, data, pairs, options):
    """Cosine of validation epochs with their images, (n, m); empty without any."""
    if not len(pairs.truth):
        return np.empty((0, 0))
    a = embedded(network.eeg, options.centre, data.validation, data.validation_subject)
    b = embedded(network.image, options.centre, data.targets[pairs.candidates])
    return (a @ b.T).cpu().numpy()


def _scores(similarity, truth, options):
    """Columns of the curves; empty without validation epochs."""
    if not len(truth):
        return {}
    place = ranking.ranks(similarity, truth)
    found = {
        "validation_mrr": float((1 / place).mean()),
        "validation_top1": float((place <= 1).mean()),
        "validation_top5": float((place <= 5).mean()),
    }
    by_draws = options.score == "top5_200"
    score = top5_of_draws(similarity, truth) if by_draws else found[f"validation_{options.score}"]
    return found | {"score": score}


def top5_of_draws(similarity, truth) -> float:
    """Top-5 among 200 candidates, mean over 20 draws that are always the same.

    Args:
        similarity: (n, m); with up to 200 candidates all are taken, once.
        truth: int (n,), the true column of each row.
    """
    m = similarity.shape[1]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS if m > DRAWN else 1):
        columns = np.sort(rng.choice(m, min(m, DRAWN), replace=False))
        inside = np.isin(truth, columns)
        if inside.any():
            part = similarity[inside][:, columns]
            found.append((ranking.ranks(part, np.searchsorted(columns, truth[inside])) <= 5).mean())
    return float(np.mean(found))
