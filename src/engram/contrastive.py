"""Contrastive alignment of EEG with image features: loss, schedule, training loop, similarity.

An EEG encoder and a projector map an epoch to a vector, a projector or nothing maps the features
of its image to another, and a symmetric InfoNCE loss brings pairs together (Radford et al. 2021).
Choices are made on validation epochs; rows that neither train nor validate are never read.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from engram import eeg_encoders, retrieval, training
from engram.errors import InputError
from engram.progress import progress

LARGEST_SCALE = 100.0
MASKS = ("none", "image", "concept")
SCORES = ("mrr", "top5_200")
DRAWS, DRAWN = 20, 200
READ, BLOCK = 256, 1024  # epochs at once: while they are prepared, in the network


@dataclass(frozen=True)
class Options:
    """Options of `fit`.

    Attributes:
        encoder: name for `engram.eeg_encoders.make`.
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
        score: "mrr", mean reciprocal rank among all validation images, or "top5_200", top-5
            among 200 of them, mean of 20 fixed draws.
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


@dataclass(frozen=True)
class Rows:
    """What every row of the EEG is, and which rows are used.

    Attributes:
        image: int (n,), row of the targets that the subject saw.
        train, validation: rows of the EEG, int arrays; without validation rows the last epoch
            is kept.
        concept: int (n,), for mask "concept"; None: unknown.
        subject: int (n,), for encoders that know subjects; None: unknown.
    """

    image: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    concept: np.ndarray | None = None
    subject: np.ndarray | None = None


@dataclass(frozen=True)
class Model:
    """One trained model.

    Attributes:
        network: `Network` in evaluation mode, on the device it was trained on.
        seed: of its initialisation, order and dropout.
        epoch: the one whose parameters it has, from 0.
        score: validation score of that epoch; NaN without validation rows.
        curves: one row an epoch: seed, epoch, loss, validation_mrr, validation_top1,
            validation_top5, score, temperature, encoder_lr, projector_lr.
    """

    network: nn.Module
    seed: int
    epoch: int
    score: float
    curves: pd.DataFrame

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors by name on the CPU, as `safetensors.torch.save_file` wants them."""
        state = self.network.state_dict()
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}


class Network(nn.Module):
    """Both sides of the alignment and the temperature.

    Args:
        channels, times: size of an epoch.
        widths: features of each image encoder; the targets have them side by side.
        options: Options.

    `load_state_dict` of `Model.state` restores a trained one.
    """

    def __init__(self, channels, times, widths, options):
        super().__init__()
        d = options.projector_dim if options.image_head else sum(widths)
        self.centre = options.centre
        self.encoder = eeg_encoders.make(
            options.encoder, channels, times, options.layout, **options.encoder_options
        )
        if not options.eeg_head and self.encoder.d != d:
            raise InputError(
                f"contrastive: the encoder gives {self.encoder.d} features, the common space has "
                f"{d}; set eeg_head: true or the same width"
            )
        self.eeg_head = (
            eeg_encoders.projector(self.encoder.d, d, options.dropout)
            if options.eeg_head
            else nn.Identity()
        )
        self.image_head = (
            eeg_encoders.projector(sum(widths), d, options.image_dropout)
            if options.image_head
            else nn.Identity()
        )
        log_scale = torch.tensor(math.log(1 / options.temperature))
        self.log_scale = nn.Parameter(log_scale, requires_grad=options.learn_temperature)
        self.register_buffer("target_scale", torch.ones(sum(widths)))

    def eeg(self, x, subject=None):
        """Vectors (b, d) of prepared epochs, see `engram.eeg_encoders.Encoder`."""
        return self.eeg_head(self.encoder.features(x, subject))

    def image(self, targets):
        """Vectors (b, d) of image features (b, sum of widths)."""
        return self.image_head(targets * self.target_scale)


# ---- loss and schedule ------------------------------------------------------------------


def info_nce(a, b, log_scale, groups=None, centre=False):
    """Symmetric InfoNCE loss of pairs (a[i], b[i]) against all others of the batch, a scalar.

    The mean of two cross-entropies, of the rows and of the columns of scale * cos(a, b), whose
    true class is the diagonal.

    Args:
        a, b: vectors (n, d).
        log_scale: logarithm of the scale (one over the temperature), a scalar tensor; the
            scale is 100 at most.
        groups: int (n,); two different rows of one group are no negatives of each other.
        centre: see `normalised`.
    """
    scale = log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()
    logits = scale * (normalised(a, centre) @ normalised(b, centre).T)
    own = logits.diagonal()
    if groups is not None:
        same = groups[:, None] == groups[None]
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, -torch.inf)
    return ((logits.logsumexp(0) + logits.logsumexp(1)) / 2 - own).mean()


def normalised(vectors, centre=False):
    """Vectors (n, d) in float32 or wider, of L2 norm 1; centred: first less their own mean."""
    vectors = vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors
    if centre:
        vectors = vectors - vectors.mean(1, keepdim=True)
    return F.normalize(vectors, dim=1)


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


# ---- training ---------------------------------------------------------------------------


def fit(eeg, targets, rows, options, seeds, device) -> list[Model]:
    """Train one model a seed, one after the other, on the same resident data.

    Side by side they would save a twentieth of a step, and only if all saw the same batches. On
    the CPU the same seed gives the same weights, whatever else the process does; the global
    random state stays as it was.

    Args:
        eeg: (n, channel, time), or (n, repetition, channel, time), which is averaged over
            repetitions except under `sub_average`; any float type, may be memory-mapped.
        targets: image features (m, d), or a list of these from several image encoders, which
            stand side by side, each divided by its root mean square over training images.
        rows: Rows.
        options: Options.
        seeds: ints.
        device: "cpu" or "cuda".

    Raises:
        InputError: sizes do not agree, a value that is used is not finite, an option is out of
            range, or the loss diverged.
    """
    targets = targets if isinstance(targets, list | tuple) else [targets]
    check_options(options)
    _check_data(eeg, targets, rows, options)
    data = _Data(eeg, targets, rows, options, device)
    steps = -(-len(rows.train) // options.batch_size)
    models = []
    with progress(options.epochs * len(seeds), "align EEG with images", "epochs") as bar:
        for seed in seeds:
            devices = [torch.cuda.current_device()] if device == "cuda" else []
            with torch.random.fork_rng(devices):
                torch.manual_seed(seed)
                models.append(_train(data, options, seed, steps, bar))
    return models


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


def _check_data(eeg, targets, rows, options):
    if options.mask == "concept" and rows.concept is None:
        raise InputError("contrastive: mask is 'concept', but the rows have no concept")
    if options.sub_average and (eeg.ndim != 4 or options.sub_average > eeg.shape[1]):
        raise InputError(
            f"contrastive: sub_average is {options.sub_average}, but the EEG has shape "
            f"{tuple(eeg.shape)}; it needs (n, repetition, channel, time) and as many repetitions"
        )
    if eeg.ndim not in (3, 4):
        raise InputError(f"contrastive: EEG of shape {tuple(eeg.shape)}; expected 3 or 4 axes")
    if len(rows.image) != len(eeg):
        raise InputError(f"contrastive: {len(eeg)} epochs, but images of {len(rows.image)}")
    if len(rows.train) < 2:
        raise InputError(f"contrastive: {len(rows.train)} training epochs; two are the least")
    images = rows.image[np.concatenate([rows.train, rows.validation])]
    if images.min() < 0 or images.max() >= min(map(len, targets)) or len({*map(len, targets)}) > 1:
        raise InputError(
            f"contrastive: the targets have {[*map(len, targets)]} rows, the EEG names images "
            f"{images.min()} to {images.max()}; every image needs one row in all targets"
        )
    if np.intersect1d(rows.train, rows.validation).size:
        raise InputError("contrastive: an epoch is in training and validation")


class _Data:
    """What training reads, resident on the device, prepared once for all seeds.

    Attributes:
        widths, channels, times: sizes, for `Network`.
        train, validation: prepared epochs (n, [repetition,] channel, time).
        targets: float32 (m, sum of widths); target_scale: float32 (sum of widths,).
        image, group, subject: of training epochs, int (n,); the latter two may be None.
        candidates: images of validation epochs, int (m',); truth: column of each, NumPy.
    """

    def __init__(self, eeg, targets, rows, options, device):
        def ints(values, of):
            return None if values is None else torch.as_tensor(values[of], device=device).long()

        self.device, self.channels, self.times = device, *eeg.shape[-2:]
        self.widths = [part.shape[1] for part in targets]
        with torch.random.fork_rng([]):
            encoder = eeg_encoders.make(
                options.encoder,
                self.channels,
                self.times,
                options.layout,
                **options.encoder_options,
            )
        average = eeg.ndim == 4 and not options.sub_average
        self.train = prepared(encoder, eeg, rows.train, device, average)
        self.validation = prepared(encoder, eeg, rows.validation, device, eeg.ndim == 4)
        used = np.unique(rows.image[np.concatenate([rows.train, rows.validation])])
        self.targets = _side_by_side(targets, used).to(device)
        self.target_scale = _scales(targets, np.unique(rows.image[rows.train])).to(device)
        groups = {"none": None, "image": rows.image, "concept": rows.concept}[options.mask]
        self.image, self.group = ints(rows.image, rows.train), ints(groups, rows.train)
        self.subject = ints(rows.subject, rows.train)
        self.validation_subject = ints(rows.subject, rows.validation)
        images, self.truth = np.unique(rows.image[rows.validation], return_inverse=True)
        self.candidates = torch.as_tensor(images, device=device).long()


@torch.no_grad()
def prepared(encoder, eeg, rows, device, average):
    """Epochs of `rows` as `encoder.features` wants them, float32 on the device.

    Works in blocks, so that memory holds the result and one block.

    Args:
        encoder: `engram.eeg_encoders.Encoder`.
        eeg: (n, channel, time) or (n, repetition, channel, time).
        rows: int array.
        device: where the result is.
        average: take the mean over repetitions.

    Raises:
        InputError: a value is not finite.
    """
    out = None
    for first in range(0, len(rows), READ):
        block = torch.as_tensor(np.asarray(eeg[rows[first : first + READ]], np.float32))
        finite = block.isfinite().flatten(1).all(1)
        if not finite.all():
            bad = rows[first + int(finite.logical_not().nonzero()[0])]
            raise InputError(f"contrastive: epoch {bad} holds NaN or infinite values; exclude it")
        block = (block.mean(1) if average else block).to(device)
        block = encoder.prepare(block.flatten(0, -3)).unflatten(0, block.shape[:-2])
        out = block.new_empty(len(rows), *block.shape[1:]) if out is None else out
        out[first : first + READ] = block
    return torch.empty(0, device=device) if out is None else out


def _side_by_side(targets, used):
    """All targets float32 (m, sum of widths); the rows in `used` must be finite."""
    table = torch.cat([torch.as_tensor(np.asarray(part, np.float32)) for part in targets], 1)
    finite = table[torch.as_tensor(used)].isfinite().all(1).numpy()
    if not finite.all():
        raise InputError(f"contrastive: the target of image {used[~finite][0]} is not finite")
    return table


def _scales(targets, images):
    """One over the root mean square of each of several encoders, (sum of widths,); 1 of one."""
    if len(targets) == 1:
        return torch.ones(targets[0].shape[1])
    parts = [np.asarray(part[images], np.float64) for part in targets]
    parts = [np.full(p.shape[1], 1 / max(np.sqrt((p**2).mean()), 1e-12)) for p in parts]
    return torch.as_tensor(np.concatenate(parts), dtype=torch.float32)


def _train(data, options, seed, steps, bar):
    """One model; random numbers come from the global state, which the caller has seeded."""
    network = Network(data.channels, data.times, data.widths, options)
    network.target_scale.copy_(data.target_scale)
    network.to(data.device)
    optimiser = _optimiser(network, options)
    batches = _Batches(data, options, steps)
    best, kept, highest, records = None, 0, -math.inf, []
    for epoch in range(options.epochs):
        loss, rates = _epoch(network, batches, optimiser, options, epoch)
        similarity = _validate(network, data, options)
        finite = all(value.isfinite().all() for value in network.state_dict().values())
        if not (finite and math.isfinite(loss) and np.isfinite(similarity).all()):
            raise InputError(
                f"contrastive: training of seed {seed} diverged in epoch {epoch}: the loss "
                "or a vector is not finite; lower encoder_lr and projector_lr"
            )
        scores = _scores(similarity, data.truth, options)
        score = scores.get("score", float(epoch))  # without validation the last epoch is best
        temperature = math.exp(-network.log_scale.item())
        records.append(
            {"seed": seed, "epoch": epoch, "loss": loss, **scores, "temperature": temperature}
            | dict(zip(("encoder_lr", "projector_lr"), rates, strict=True))
        )
        bar.update(1)
        if score > highest:
            kept, highest = epoch, score
            best = {name: value.clone() for name, value in network.state_dict().items()}
        if options.patience and epoch - kept >= options.patience:
            bar.update(options.epochs - epoch - 1)
            break
    network.load_state_dict(best)
    score = highest if len(data.truth) else math.nan
    return Model(network.eval(), seed, kept, score, pd.DataFrame(records))


def _optimiser(network, options):
    """AdamW whose groups are those of the two learning rates, with and without decay."""
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
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, fused=True)


def _epoch(network, batches, optimiser, options, epoch):
    """One pass over the training epochs: mean loss, and the learning rates of the last step."""
    network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    total, steps = 0.0, batches.steps
    for step, (x, targets, group, subject) in enumerate(batches.epoch()):
        with _autocast(options, x.device.type):
            a, b = network.eeg(x, subject), network.image(targets)
        loss = info_nce(a, b, network.log_scale, group, options.centre)
        optimiser.zero_grad()
        loss.backward()
        if options.clip_gradient:
            nn.utils.clip_grad_norm_(parameters, options.clip_gradient)
        rates = schedule(epoch * steps + step, options.epochs * steps, steps, options)
        for g in optimiser.param_groups:
            g["lr"] = rates[0] if g["of_encoder"] else rates[1]
        optimiser.step()
        with torch.no_grad():  # above the limit the loss has no gradient that leads back
            network.log_scale.clamp_(max=math.log(LARGEST_SCALE))
        total += loss.detach() * len(x)
    return float(total) / len(batches.data.train), rates


class _Batches:
    """Batches in buffers that are written again and again: fresh memory costs thrice as much."""

    def __init__(self, data, options, steps):
        self.data, self.steps, self.sub_average = data, steps, options.sub_average
        size = -(-len(data.train) // steps)
        self.x = data.train.new_empty(size, *data.train.shape[1:])
        self.targets = data.targets.new_empty(size, data.targets.shape[1])

    def epoch(self):
        """Epochs, targets, groups and subjects of each batch, in random order.

        Sizes of batches differ by one at most.
        """
        data = self.data
        order = torch.randperm(len(data.train)).to(data.device)
        for at in order.tensor_split(self.steps):
            x = torch.index_select(data.train, 0, at, out=self.x[: len(at)])
            if self.sub_average:
                x = _some_repetitions(x, self.sub_average)
            images = data.image[at]
            targets = torch.index_select(data.targets, 0, images, out=self.targets[: len(at)])
            parts = (None if part is None else part[at] for part in (data.group, data.subject))
            yield x, targets, *parts


def _some_repetitions(x, k):
    """Mean of k repetitions of x (b, repetition, channel, time), drawn for each row."""
    b, repetitions = x.shape[:2]
    chosen = torch.rand(b, repetitions).argsort(1) < k
    weights = chosen.to(x.device, x.dtype) / k
    return torch.bmm(weights[:, None], x.flatten(2)).view(b, *x.shape[2:])


def _autocast(options, device):
    if options.bf16 and has_bf16(device):
        return torch.autocast(device, torch.bfloat16)
    return nullcontext()


def has_bf16(device) -> bool:
    """Whether the hardware multiplies matrices in bfloat16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


# ---- similarity -------------------------------------------------------------------------


@torch.no_grad()
def _embedded(function, centre, *tensors, block=BLOCK):
    """Normalised vectors of a function of rows, in blocks."""
    blocks = zip(*(_split(tensor, block) for tensor in tensors), strict=False)
    return torch.cat([normalised(function(*parts), centre) for parts in blocks])


def _split(tensor, block):
    """Blocks of a tensor; of None, None without end."""
    return iter(lambda: None, 0) if tensor is None else tensor.split(block)


def _validate(network, data, options):
    """Cosine of validation epochs with their images, (n, m); empty without any."""
    network.eval()
    if not len(data.truth):
        return np.empty((0, 0))
    a = _embedded(network.eeg, options.centre, data.validation, data.validation_subject)
    b = _embedded(network.image, options.centre, data.targets[data.candidates])
    return (a @ b.T).cpu().numpy()


def _scores(similarity, truth, options):
    """Columns of the curves; empty without validation epochs."""
    if not len(truth):
        return {}
    ranks = retrieval.ranks(similarity, truth)
    mrr = float((1 / ranks).mean())
    return {
        "validation_mrr": mrr,
        "validation_top1": float((ranks <= 1).mean()),
        "validation_top5": float((ranks <= 5).mean()),
        "score": mrr if options.score == "mrr" else top5_of_draws(similarity, truth),
    }


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
            found.append(
                (retrieval.ranks(part, np.searchsorted(columns, truth[inside])) <= 5).mean()
            )
    return float(np.mean(found))


@torch.no_grad()
def similarity(model, eeg, targets, subject=None, block=BLOCK) -> np.ndarray:
    """Cosine of every epoch with every image in the common space of a model.

    Args:
        model: Model.
        eeg: (n, channel, time), or (n, repetition, channel, time), which is averaged.
        targets: image features (m, d), or a list of these as in training.
        subject: int (n,), for encoders that know subjects.
        block: rows at once.

    Returns:
        float32 (n, m).

    Raises:
        InputError: a value is not finite.
    """
    network, device = model.network.eval(), model.network.log_scale.device
    targets = targets if isinstance(targets, list | tuple) else [targets]
    subject = None if subject is None else torch.as_tensor(subject, device=device).long()
    x = prepared(network.encoder, eeg, np.arange(len(eeg)), device, eeg.ndim == 4)
    images = _side_by_side(targets, np.arange(len(targets[0]))).to(device)
    a = _embedded(network.eeg, network.centre, x, subject, block=block)
    b = _embedded(network.image, network.centre, images, block=block)
    return torch.cat([part @ b.T for part in a.split(block)]).cpu().numpy()
