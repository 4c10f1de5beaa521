"""The average of a network over its training."""

import copy

import torch

from engram.errors import InputError


class EMA:
    """Exponential moving average of a network's parameters.

    After each step: average = decay * average + (1 - decay) * parameter. Buffers, such as the
    statistics of batch normalisation, are those of the network. It averages the weights that are
    kept, or is the teacher of self-distillation and JEPA.

    Attributes:
        network: the average, a copy in evaluation mode whose parameters take no gradient.

    Args:
        network: module that is trained, whole or in part, on its device.
        decay: float in [0, 1], or a function of the step (int, from 0 over all epochs) that
            gives one.

    Raises:
        InputError: the decay is out of range; of a function, when it is.
    """

    def __init__(self, network, decay):
        self.decay = decay if callable(decay) else lambda step: decay
        self._share(0)
        self._trained = network
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step):
        """Take in the parameters as they are after step `step`."""
        averages, trained = ([*n.parameters()] for n in (self.network, self._trained))
        torch._foreach_lerp_(averages, trained, self._share(step))
        for ours, theirs in zip(self.network.buffers(), self._trained.buffers(), strict=True):
            ours.copy_(theirs)

    def _share(self, step):
        """What the newest parameters count."""
        decay = self.decay(step)
        if not 0 <= decay <= 1:
            raise InputError(f"EMA: the decay of step {step} is {decay}; it must be in [0, 1]")
        return 1 - decay
