"""One step of training: launched kernel by kernel, or recorded on a GPU."""

import torch
from torch import nn

from engram.training import ranks

EAGER = 3  # steps of a size before it is recorded: libraries set themselves up in the first


class Step:
    """One step of training: a batch, its loss and gradient, an update.

    Attributes:
        totals: sums over the rows of this rank since `forget`, scalar tensors by name.
    """

    def __init__(self, learner, settings):
        self.learner, self.settings = learner, settings
        self.loss, self.optimiser = learner.loss, learner.optimiser
        self.parameters = [p for p in learner.network.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.totals = {}

    def __call__(self, step, at, drawn=None):
        """Train on the rows at positions `at`, all ranks together.

        Args:
            step: number of the step, from 0 over all epochs.
            at: int64 (b,), on the device.
            drawn: what `draw` of the learner made of these rows.

        Raises:
            FloatingPointError: the loss or its gradient is not finite, if that is watched; nothing
                was changed.
        """
        self._set("lr", self.learner.rates(step))
        if self.learner.decays:
            self._set("weight_decay", self.learner.decays(step))
        self._update(at, self._parts(at, drawn, step))

    def forget(self):
        for total in self.totals.values():
            total.zero_()

    def means(self, n):
        """Means over the n rows of all ranks, floats by name."""
        ranks.add([*self.totals.values()])
        # In the order of a checkpoint, so that a training that goes on writes the same files.
        return {name: float(self.totals[name]) / n for name in sorted(self.totals)}

    def _set(self, key, values):
        for group, value in zip(self.optimiser.param_groups, values, strict=True):
            group[key] = value

    def _parts(self, at, drawn=None, step=None):
        """(rows, arguments of the loss) of each part of this rank's share of a batch."""
        if drawn is None:
            return [(len(part), (part,)) for part in self._cut(at)]
        columns = [self._cut(values) for values in drawn.values()]
        return [
            (len(part[0]), (dict(zip(drawn, part, strict=True)), step))
            for part in zip(*columns, strict=True)
        ]

    def _cut(self, whole):
        share = whole.tensor_split(ranks.size())[ranks.rank()]
        return share.tensor_split(self.settings.accumulate)

    def _update(self, at, parts):
        self.optimiser.zero_grad()
        lost = 0.0
        for n, arguments in parts:
            loss = self._loss(n, arguments)
            loss = loss if n == len(at) else loss * (n / len(at))
            loss.backward()
            lost = lost + loss.detach()
        ranks.add_gradients(self.parameters)
        norm = None
        if self.settings.clip_gradient:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_gradient)
        if self.settings.watched:
            self._refuse_not_finite(lost, norm)
        self.optimiser.step()

    def _refuse_not_finite(self, loss, norm):
        """Of the sum over ranks, so that all of them stop."""
        if norm is None:
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        seen = (loss + norm).double()
        ranks.add([seen])
        if not torch.isfinite(seen):
            raise FloatingPointError

    def _loss(self, n, arguments):
        if len(arguments) > 1:
            batch, step = arguments
            batch = {name: v.to(self.device, non_blocking=True) for name, v in batch.items()}
            arguments = batch, step
        found = self.loss(*arguments)
        loss, more = found if isinstance(found, tuple) else (found, {})
        for name, value in {"loss": loss, **more}.items():
            if name not in self.totals:
                self.totals[name] = torch.zeros((), device=value.device)
            self.totals[name] += value.detach() * n
        return loss


class Recorded(Step):
    """A step whose kernels the GPU plays again at once, without being told one by one.

    A step of a small network is some 300 small kernels; launching them takes longer than running
    them. There is a recording for each size of a batch.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.stream, self.seen, self.recordings = torch.cuda.Stream(), {}, {}
        for group in self.optimiser.param_groups:  # a number would be recorded as it is now
            group.update(lr=torch.zeros((), device="cuda"), capturable=True)

    def __call__(self, step, at, drawn=None):
        rates = self.learner.rates(step)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"].fill_(rate)
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
            self._update(at, self._parts(at))
        torch.cuda.current_stream().wait_stream(self.stream)

    def _record(self, at):
        graph, positions = torch.cuda.CUDAGraph(), at.clone()
        self.optimiser.zero_grad()
        with torch.cuda.graph(graph, stream=self.stream):
            self._update(positions, self._parts(positions))
        return graph, positions
