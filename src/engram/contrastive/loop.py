"""The training loop: one step, schedule, validation, the epoch that is kept."""

import math
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
from torch import nn

from engram import training
from engram.contrastive.data import Data, Pairs, check_data
from engram.contrastive.network import Model, Network, embedded, info_nce
from engram.contrastive.options import LARGEST_SCALE, check_options
from engram.errors import InputError
from engram.measures import ranking
from engram.precision import multiplies_bf16
from engram.progress import progress

DRAWS, DRAWN = 20, 200
EAGER = 3  # steps of a size before it is recorded: libraries set themselves up in the first


def fit(eeg, targets, rows, options, seeds, device, control=None) -> list[Model]:
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

    Raises:
        InputError: sizes do not agree, a value that is used is not finite, an option is out of
            range, or the loss diverged.
    """
    targets = targets if isinstance(targets, list | tuple) else [targets]
    check_options(options)
    check_data(eeg, targets, rows, options)
    data = Data(eeg, targets, rows, options, device)
    runs = [(seed, None) for seed in seeds] + [(seeds[0], control)] * (control is not None)
    models = []
    with progress(options.epochs * len(runs), "align EEG with images", "epochs") as bar:
        for seed, image in runs:
            pairs = Pairs(data, image, options.mask)
            with torch.random.fork_rng([torch.cuda.current_device()] if device == "cuda" else []):
                torch.manual_seed(seed)
                models.append(_train(data, pairs, options, seed, bar))
    return models


def _train(data, pairs, options, seed, bar):
    """One model; random numbers come from the global state, which the caller has seeded."""
    network = Network(data.channels, data.times, data.widths, options)
    network.target_scale.copy_(data.target_scale)
    network.to(data.device)
    steps = -(-len(data.train) // options.batch_size)
    step = (_Recorded if data.device == "cuda" else _Step)(network, data, pairs, options, steps)
    best, kept, highest, records = None, 0, -math.inf, []
    for epoch in range(options.epochs):
        loss, rates = _epoch(step, options, epoch, steps)
        similarity = _validate(network, data, pairs, options)
        finite = torch.stack([value.isfinite().all() for value in network.state_dict().values()])
        if not (finite.all() and math.isfinite(loss) and np.isfinite(similarity).all()):
            raise InputError(
                f"contrastive: training of seed {seed} diverged in epoch {epoch}: the loss "
                "or a vector is not finite; lower encoder_lr and projector_lr"
            )
        scores = _scores(similarity, pairs.truth, options)
        score = scores.get("score", float(epoch))  # without validation the last epoch is best
        temperature = math.exp(-network.log_scale.item())
        records.append(
            {"seed": seed, "epoch": epoch, "loss": loss, **scores, "temperature": temperature}
            | dict(zip(("encoder_lr", "projector_lr"), rates, strict=True))
        )
        bar.set_postfix(seed=seed, loss=f"{loss:.3f}", score=f"{score:.3f}", refresh=False)
        bar.update(1)
        if score > highest:
            kept, highest = epoch, score
            best = {name: value.clone() for name, value in network.state_dict().items()}
        if options.patience and epoch - kept >= options.patience:
            bar.update(options.epochs - epoch - 1)
            break
    network.load_state_dict(best)
    score = highest if len(pairs.truth) else math.nan
    return Model(network.eval(), seed, kept, score, pd.DataFrame(records))


def _epoch(step, options, epoch, steps):
    """One pass over the training epochs: mean loss, and the learning rates of the last step.

    Batches are drawn without replacement; their sizes differ by one at most.
    """
    step.network.train()
    step.total.zero_()
    order = torch.randperm(len(step.data.train)).to(step.data.device)
    for i, at in enumerate(order.tensor_split(steps)):
        rates = schedule(epoch * steps + i, options.epochs * steps, steps, options)
        step(at, rates)
    return float(step.total) / len(order), rates


# ---- one step ---------------------------------------------------------------------------


class _Step:
    """One step of training: a batch, its loss and gradient, an update.

    Batches are written into the same buffers again and again: fresh memory costs thrice as much.

    Attributes:
        total: sum over rows of the loss since it was last set to zero, a scalar tensor.
    """

    def __init__(self, network, data, pairs, options, steps):
        self.network, self.data, self.pairs, self.options = network, data, pairs, options
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = self._optimiser(_groups(network, options))
        size = -(-len(data.train) // steps)
        self.x = data.train.new_empty(size, *data.train.shape[1:])
        self.targets = data.targets.new_empty(size, data.targets.shape[1])
        self.total = torch.zeros((), device=data.device)

    def __call__(self, at, rates):
        """Train on the epochs at positions `at`, under learning rates (encoder, projectors)."""
        for group in self.optimiser.param_groups:
            group["lr"] = rates[0] if group["of_encoder"] else rates[1]
        self._step(at)

    @staticmethod
    def _optimiser(groups):
        return torch.optim.AdamW(groups, lr=0.0, fused=True)

    def _step(self, at):
        x, targets, group, subject = self._batch(at)
        with _autocast(self.options, x.device.type):
            a, b = self.network.eeg(x, subject), self.network.image(targets)
        loss = info_nce(a, b, self.network.log_scale, group, self.options.centre)
        self.optimiser.zero_grad()
        loss.backward()
        if self.options.clip_gradient:
            nn.utils.clip_grad_norm_(self.parameters, self.options.clip_gradient)
        self.optimiser.step()
        with torch.no_grad():  # above the limit the loss has no gradient that leads back
            self.network.log_scale.clamp_(max=math.log(LARGEST_SCALE))
        self.total += loss.detach() * len(x)

    def _batch(self, at):
        """Epochs, targets, groups and subjects."""
        data, pairs, n = self.data, self.pairs, len(at)
        x = torch.index_select(data.train, 0, at, out=self.x[:n])
        if self.options.sub_average:
            x = some_repetitions(x, self.options.sub_average)
        targets = torch.index_select(data.targets, 0, pairs.image[at], out=self.targets[:n])
        parts = (None if part is None else part[at] for part in (pairs.group, data.subject))
        return x, targets, *parts


class _Recorded(_Step):
    """A step whose kernels the GPU plays again at once, without being told one by one.

    A step is some 300 small kernels; launching them takes longer than running them. There is a
    recording for each size of a batch.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.stream, self.seen, self.recordings = torch.cuda.Stream(), {}, {}

    @staticmethod
    def _optimiser(groups):
        optimiser = torch.optim.AdamW(groups, lr=0.0, fused=True, capturable=True)
        for group in optimiser.param_groups:  # a number would be recorded as it is now
            group["lr"] = torch.zeros((), device="cuda")
        return optimiser

    def __call__(self, at, rates):
        for group in self.optimiser.param_groups:
            group["lr"].fill_(rates[0] if group["of_encoder"] else rates[1])
        n = len(at)
        self.seen[n] = self.seen.get(n, 0) + 1
        if self.seen[n] <= EAGER:
            self._aside(at)
            return
        if n not in self.recordings:
            self.recordings[n] = self._record(at)
        graph, positions = self.recordings[n]
        positions.copy_(at)
        graph.replay()

    def _aside(self, at):
        """A step on a stream of its own, as what is recorded later must have run before."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self._step(at)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _record(self, at):
        graph, positions = torch.cuda.CUDAGraph(), at.clone()
        self.optimiser.zero_grad()
        with torch.cuda.graph(graph, stream=self.stream):
            self._step(positions)
        return graph, positions


def _groups(network, options):
    """Parameters with the two learning rates, with and without decay."""
    inside = {id(p) for p in network.encoder.parameters()}
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if (id(p) in inside) == of_encoder and (p.ndim > 1) == w],
            "weight_decay": options.weight_decay if w else 0.0,
            "of_encoder": of_encoder,
        }
        for of_encoder in (True, False)
        for w in (True, False)
    ]
    return [group for group in groups if group["params"]]


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


def _validate(network, data, pairs, options):
    """Cosine of validation epochs with their images, (n, m); empty without any."""
    network.eval()
    if not len(pairs.truth):
        return np.empty((0, 0))
    a = embedded(network.eeg, options.centre, data.validation, data.validation_subject)
    b = embedded(network.image, options.centre, data.targets[pairs.candidates])
    return (a @ b.T).cpu().numpy()


def _scores(similarity, truth, options):
    """Columns of the curves; empty without validation epochs."""
    if not len(truth):
        return {}
    ranks = ranking.ranks(similarity, truth)
    found = {
        "validation_mrr": float((1 / ranks).mean()),
        "validation_top1": float((ranks <= 1).mean()),
        "validation_top5": float((ranks <= 5).mean()),
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
