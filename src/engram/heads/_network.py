"""A backbone that trains, under batch norm and a linear layer."""

import copy
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import nn

from engram.signals.augmentation import augmented

#: What a module may be that holds the blocks of a model, one after the other.
LISTS = (nn.ModuleList, nn.Sequential)


class Network(nn.Module):
    """A backbone, batch norm and a linear layer.

    Args:
        frozen: what `load` of a torch backbone gives.
        convert: rows of the view -> rows that it takes.
        axes: number of axes of what it takes; those of a row before them, such as regions, give
            features side by side.
        outputs: classes, or 1.
        augment: levels, of crops that are trained on.
        device: "cpu" or "cuda".
    """

    def __init__(self, frozen, convert, axes, outputs, augment, device):
        super().__init__()
        self.backbone, self.convert = frozen.model, convert
        self.axes, self.outputs = axes, outputs
        self.prepare = frozen.preprocessing
        self.encode = lambda inputs: frozen.features(inputs)  # no module of this one
        crops, change = frozen.crops, partial(augmented, levels=augment)
        self.each = crops.each if crops else self.encode
        self.one = partial(crops.one, change=change) if crops else self.encode
        self.start = copy.deepcopy(frozen.model.state_dict())
        self.norm = self.last = None
        self.idle = False
        self.device = device

    def begin(self, rows):
        """The weights of the backbone as they were, and a new last layer.

        Args:
            rows: two rows of the view.
        """
        self.norm = self.last = None
        self.idle = False
        self.backbone.load_state_dict(self.start)
        self.backbone.requires_grad_(True)
        with torch.no_grad():
            width = self.latent(rows).shape[1]
        self._end(width)
        nn.init.trunc_normal_(self.last.weight, std=2e-5)
        nn.init.zeros_(self.last.bias)

    def restore(self, state):
        """The network whose `state_dict` is given, as arrays by name, in evaluation mode."""
        self._end(state["last.weight"].shape[1])
        self.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
        self.eval()

    def _end(self, width):
        self.norm = nn.BatchNorm1d(width).to(self.device)
        self.last = nn.Linear(width, self.outputs).to(self.device)

    def train(self, mode=True):
        super().train(False)
        self.norm.train(mode)
        return self

    @torch.no_grad()
    def settle(self, rows, size):
        """Give the batch norm the statistics of training rows, or their crops, `size` at once."""
        starts = range(0, len(rows), size)
        latent = torch.cat([self.latent(rows[i : i + size], self.each) for i in starts])
        latent = latent.reshape(-1, self.norm.num_features)
        self.norm.running_mean.copy_(latent.mean(0))
        self.norm.running_var.copy_(latent.var(0))

    def latent(self, rows, how=None):
        """Features (b, d) of rows of the view, an array (b, ...); `how` makes others of them."""
        rows = np.asarray(rows)
        flat = rows.reshape(-1, *rows.shape[rows.ndim - self.axes :])
        with torch.no_grad() if self.idle else nullcontext():
            found = (how or self.encode)(self.prepare(self.convert(flat)))
        return found.reshape(len(rows), -1).float()

    def forward(self, rows):
        how = self.one if self.norm.training else self.encode
        return self.last(self.norm(self.latent(rows, how)))


def depths(model) -> tuple[dict[str, int], int]:
    """How far from the input each parameter of a model is, and the depth of the last ones.

    Blocks are the children of a list of like modules: of the one that is called `blocks`, or else
    that holds most parameters. What is registered before the first of them, embeddings and
    tokenizers, is 0, block i is i + 1, and what comes after the last is one more. A model without
    such a list has its children for blocks.
    """
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LISTS) and len({type(child) for child in module}) == 1
        and (len(module) > 1 or name.endswith("blocks"))
    }  # fmt: skip

    def inner(name):
        return any(name.startswith(f"{one}.".lstrip(".")) for one in lists if one != name)

    def held(name):
        return name.endswith("blocks"), sum(p.numel() for p in lists[name].parameters())

    prefix = max((name for name in lists if not inner(name)), key=held, default="")
    starts = [
        f"{prefix}.{name}.".lstrip(".") for name, _ in lists.get(prefix, model).named_children()
    ]
    found, at = {}, 0
    for name, _ in model.named_parameters():
        inside = [i + 1 for i, start in enumerate(starts) if name.startswith(start)]
        if inside:
            at = inside[0]
        elif at and lists:
            at = len(starts) + 1
        found[name] = at
    return found, max(found.values())
