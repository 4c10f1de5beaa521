"""One training loop that is given its step and its validation, as timm's tasks are.

Every epoch passes once over the rows, in an order drawn anew; then the validation says how good
the network is, and the best epoch is kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from engram.errors import InputError
from engram.progress import progress
from engram.store.overlap import Overlap
from engram.training import ranks
from engram.training.checkpoint import Checkpoint
from engram.training.ema import EMA
from engram.training.step import Recorded, Step

NAMED = 3  # rows of a batch that a message names


@dataclass(frozen=True)
class Learner:
    """What is trained.

    Attributes:
        network: module on its device. What training changes is in its parameters and buffers, in
            the optimiser and in `ema`: a checkpoint holds these.
        loss: positions int64 (b,) of rows, on that device -> mean loss of these rows, a scalar
            tensor, or (loss, {name: scalar tensor}) with further means to record. It may be asked
            for a part of a batch. Its random numbers come from torch's global state.
        optimiser: of the parameters that train; a group may have a "name" beside its options.
        rates: step, int from 0 over all epochs -> learning rate of each group, floats.
        ema: average that follows the steps; if there is one, it is validated and kept.
        decays: step -> weight decay of each group, floats; None: as the optimiser has it.
        draw: (positions int64 (b,) of a whole batch on the CPU, step) -> dict of CPU tensors, whose
            first axis is that of the batch. `loss` is then given (its part of these on the
            device, step). It is called in another thread, one step ahead, and must depend on
            nothing but its arguments.
        after: step -> None, called after the optimiser's step, e.g. for a teacher that follows.
        names: of the rows, for messages; None: their positions.
    """

    network: nn.Module
    loss: Callable
    optimiser: torch.optim.Optimizer
    rates: Callable
    ema: EMA | None = None
    decays: Callable | None = None
    draw: Callable | None = None
    after: Callable | None = None
    names: Sequence | None = None


@dataclass(frozen=True)
class Settings:
    """How it is trained.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows a step at most, those of all ranks and parts together.
        accumulate: parts of a rank's share of a batch that go through the network one by one;
            the gradient is that of the batch if the loss of a row does not depend on others.
        patience: epochs without a better score after which training stops; 0 = never.
        clip_gradient: largest L2 norm of the gradient of a batch; 0 = no clipping.
        recorded: replay the kernels of a step, which the loss then launches alike for all
            batches of one size; on a GPU, with one rank, without `decays` and `draw`.
        until: epochs after which training stops, its rates being those of all; 0 = all.
        watched: look in every step whether loss and gradient are finite, for which a GPU is waited.
    """

    epochs: int
    batch_size: int
    accumulate: int = 1
    patience: int = 0
    clip_gradient: float = 0.0
    recorded: bool = False
    watched: bool = False
    until: int = 0


@dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes:
        epoch: the one that is kept, from 0.
        score: of that epoch; NaN if the validation gives none.
        state: tensors by name of the network, or of its average, after that epoch.
        curves: one dict an epoch: epoch, loss and further means over rows, what the validation
            gave, and {name}_lr of named groups in the last step.
    """

    epoch: int
    score: float
    state: dict[str, torch.Tensor]
    curves: list[dict]


def fit(
    learner, validate, settings, n, name="training", checkpoint=None, bar=None, told=None
) -> Trained:
    """Train until the last epoch, or until patience ends; the network is left as it is then.

    Under ranks every process calls this alike. Each takes its share of every batch, gradients
    are means over the batch, and `validate` counts as rank 0 sees it. Random numbers come from
    torch's global state, which the caller seeds.

    Args:
        learner: Learner.
        validate: module in evaluation mode -> dict of floats; the epoch whose "score" is highest
            is kept, or the last one if there is no "score".
        settings: Settings.
        n: number of rows.
        name: says at the bar and in errors what is trained.
        checkpoint: Checkpoint, or None. If its file is there, training goes on from it.
        bar: of `engram.progress`, which counts rows; None: one of its own.
        told: called with the curves so far after every epoch, before the checkpoint is written.

    Raises:
        InputError: a setting is out of range, the checkpoint is damaged or of another training,
            or training diverged: the loss, a weight or the score is not finite.
    """
    _check(settings, n)
    if bar is None:
        with progress(settings.epochs * n, name) as bar:
            return fit(learner, validate, settings, n, name, checkpoint, bar, told)
    return _Run(learner, validate, settings, n, name, checkpoint, bar, told).run()


def _check(settings, n):
    for key, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("patience", 0)):
        if getattr(settings, key) < least:
            raise InputError(f"{key} is {getattr(settings, key)}; it must be at least {least}")
    if n // max(_steps(settings, n), 1) < ranks.size() * settings.accumulate:
        raise InputError(
            f"{n} rows in batches of {settings.batch_size} are too few for {ranks.size()} ranks "
            f"and accumulate: {settings.accumulate}; raise batch_size or lower accumulate"
        )
    if settings.recorded and ranks.size() > 1:
        raise InputError("steps are recorded in one process only; train without torchrun")


def _steps(settings, n):
    """Steps of an epoch; their batches differ in size by one row at most."""
    return -(-n // settings.batch_size)


class _Run:
    """A training and how far it is: `epoch`, and the steps of it that are `done`."""

    def __init__(self, learner, validate, settings, n, name, checkpoint, bar, told):
        self.learner, self.validate, self.settings, self.n = learner, validate, settings, n
        self.told = told
        self.name, self.checkpoint, self.bar = name, checkpoint or Checkpoint(None), bar
        self.steps = _steps(settings, n)
        self.device = next(learner.network.parameters()).device
        self.step = (Recorded if settings.recorded else Step)(learner, settings)
        self.judged = learner.ema.network if learner.ema else learner.network
        self.epoch, self.done, self.order = 0, 0, torch.empty(0, dtype=torch.long)
        self.kept, self.best, self.curves = 0, {}, []

    def run(self):
        self._start()
        while not self._ended():
            self._pass()
            self._judge()
            self.checkpoint.write(self)
        self.bar.update((self.settings.epochs - self.epoch) * self.n)
        score = self.curves[self.kept].get("score", math.nan)
        best = self.best or {name: v.clone() for name, v in self.judged.state_dict().items()}
        return Trained(self.kept, score, best, self.curves)

    def _start(self):
        self.bar.disable |= ranks.rank() > 0
        networks = (self.learner.network, self.judged)
        ranks.follow([value for network in networks for value in network.state_dict().values()])
        if ranks.rank():
            torch.manual_seed(torch.initial_seed() + ranks.rank())
        self.checkpoint.read(self)
        seen = self.epoch * self.n + sum(map(len, self._batches()[: self.done]))
        self.bar.initial, self.bar.n = self.bar.initial + seen, self.bar.n + seen

    def _ended(self):
        patience = self.settings.patience
        waited = self.epoch - 1 - self.kept
        last = self.settings.until or self.settings.epochs
        return self.epoch == last or 0 < patience <= waited

    def _batches(self):
        return self.order.tensor_split(self.steps)

    def _pass(self):
        """The steps of this epoch that are not done."""
        self.learner.network.train()
        if not self.done:
            self.step.forget()
            self.order = torch.randperm(self.n).to(self.device)
            ranks.follow([self.order])
        for step, at, drawn in self._drawn():
            try:
                self.step(step, at, drawn)
            except FloatingPointError:
                raise InputError(self._lost(step, at)) from None
            if self.learner.ema:
                self.learner.ema.update(step)
            if self.learner.after:
                self.learner.after(step)
            self.done += 1
            self.bar.update(len(at))
            if self.checkpoint.every and (step + 1) % self.checkpoint.every == 0:
                self.checkpoint.write(self)

    def _drawn(self):
        """(step, positions, what is drawn of them) of the steps of this epoch that are not done."""
        first = self.epoch * self.steps + self.done
        batches = [*enumerate(self._batches()[self.done :], first)]
        if not self.learner.draw:
            yield from ((step, at, None) for step, at in batches)
            return
        with Overlap() as overlap:
            draw = self.learner.draw
            for (step, at), drawn in overlap.ahead(lambda one: draw(one[1].cpu(), one[0]), batches):
                yield step, at, drawn

    def _lost(self, step, at):
        """What is said of a step whose loss is not finite."""
        rows = [str(self.learner.names[i] if self.learner.names else i) for i in at.tolist()]
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        saved = self.checkpoint.saved(self.steps)
        return (
            f"{self.name}: the loss or its gradient is not finite in step {step}, epoch "
            f"{self.epoch}, on {', '.join(rows[:NAMED])}{more}; {saved}; look at these rows, or "
            "start anew with a lower learning rate"
        )

    def _judge(self):
        """Validate this epoch, and keep it if it is the best."""
        means = self.step.means(self.n)
        ranks.follow([*self.learner.network.buffers(), *self.judged.buffers()])
        finite = [v.isfinite().all() for v in self.learner.network.state_dict().values()]
        score = math.nan
        if math.isfinite(means["loss"]) and torch.stack(finite).all():
            with torch.no_grad():
                found = {key: float(v) for key, v in self.validate(self.judged.eval()).items()}
            score = self._of_rank_0(found.get("score", float(self.epoch)))
        rates = self._rates()
        if not math.isfinite(score):
            raise InputError(
                f"{self.name} diverged in epoch {self.epoch}: the loss, a weight or the score is "
                f"not finite; lower {' and '.join(rates) or 'the learning rate'}"
            )
        if self.epoch == 0 or score > self.curves[self.kept].get("score", float(self.kept)):
            self.kept = self.epoch
            if "score" in found:  # else the last epoch is kept, as it is
                self.best = {name: v.clone() for name, v in self.judged.state_dict().items()}
        scored = {"score": score} if "score" in found else {}
        self.curves.append({"epoch": self.epoch, **means, **found, **scored, **rates})
        self.bar.set_postfix(loss=f"{means['loss']:.3g}", score=f"{score:.3g}", refresh=False)
        self.epoch, self.done = self.epoch + 1, 0
        if self.told:
            self.told(self.curves)

    def _rates(self):
        """Learning rates of named groups in the last step of this epoch."""
        rates = self.learner.rates((self.epoch + 1) * self.steps - 1)
        groups = zip(self.learner.optimiser.param_groups, rates, strict=True)
        return {f"{group['name']}_lr": float(rate) for group, rate in groups if "name" in group}

    def _of_rank_0(self, value):
        value = torch.tensor(value, dtype=torch.float64, device=self.device)
        ranks.follow([value])
        return value.item()
