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
        self.loss, self.optimiser, self.settings = learner.loss, learner.optimiser, settings
        self.parameters = [p for p in learner.network.parameters() if p.requires_grad]
        self.totals = {}

    def __call__(self, at, rates):
        """Train on the rows at positions `at`, all ranks together."""
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        self._update(at)

    def forget(self):
        for total in self.totals.values():
            total.zero_()

    def means(self, n):
        """Means over the n rows of all ranks, floats by name."""
        ranks.add([*self.totals.values()])
        return {name: float(total) / n for name, total in self.totals.items()}

    def _update(self, at):
        self.optimiser.zero_grad()
        share = at.tensor_split(ranks.size())[ranks.rank()]
        for part in share.tensor_split(self.settings.accumulate):
            loss = self._loss(part)
            (loss if len(part) == len(at) else loss * (len(part) / len(at))).backward()
        ranks.add_gradients(self.parameters)
        if self.settings.clip_gradient:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_gradient)
        self.optimiser.step()

    def _loss(self, at):
        found = self.loss(at)
        loss, more = found if isinstance(found, tuple) else (found, {})
        for name, value in {"loss": loss, **more}.items():
            if name not in self.totals:
                self.totals[name] = torch.zeros((), device=value.device)
            self.totals[name] += value.detach() * len(at)
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

    def __call__(self, at, rates):
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
            self._update(at)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _record(self, at):
        graph, positions = torch.cuda.CUDAGraph(), at.clone()
        self.optimiser.zero_grad()
        with torch.cuda.graph(graph, stream=self.stream):
            self._update(positions)
        return graph, positions
