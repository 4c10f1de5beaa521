"""LPIPS: activations of AlexNet, weighted by how people judge small differences of pictures.

Zhang, R., Isola, P., Efros, A. A. et al. (2018). The unreasonable effectiveness of deep features as
a perceptual metric. CVPR. arXiv:1801.03924; version 0.1, which scales its input.

The distance of two pictures is a sum over five layers of weighted squared differences of
activations whose channels have length 1, averaged over places. Its features here are these
activations times the roots of weight and places, so that the squared distance of two rows is LPIPS
itself and a picture goes through the network once, whatever it is compared with. Of the package
`lpips` only the file of its 1152 weights is read; its AlexNet, which it downloads without a
checksum, has a checkpoint here.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision import models

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, pictures

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}
ALIKE_BY = "squared"
FILES = ("linear",)

PUBLISHED = pictures.Published(
    size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bilinear"
)
#: Layers of AlexNet behind whose ReLU activations are taken, and their channels.
TAPS = {1: 64, 4: 192, 7: 384, 9: 256, 11: 256}
EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.

    Attributes:
        model: the network, `alexnet`.
        linear: file of the weights of the layers, `alex.pth` of version 0.1; by default that of the
            installed package `lpips`. Not read where `weights` is `random`: all weigh the same.
    """

    model: str = "alexnet"
    linear: str | None = None


def load(options, weights, view, device) -> backbone.Frozen:
    """The model, ready to encode rows of a view; 484 992 features at 224 pixels.

    Args:
        options: `Options`.
        weights: path of torchvision's AlexNet; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: another network is asked for, a file is missing or does not fit.
    """
    backbone.known_name(options.model, ["alexnet"], "LPIPS")
    model = backbone.build(Lpips, options, weights)
    if weights:
        tensors = checkpoints.without(checkpoints.read(weights), ("classifier",))
        tensors = checkpoints.below(tensors, "features.")
        checkpoints.load_strictly(model.trunk, tensors, weights, "AlexNet")
        model.weigh(linear(options.linear))
    preprocessing = pictures.preprocessing(options, PUBLISHED, view, device)
    return backbone.Frozen(model, preprocessing, options, weights, device)


def linear(path=None) -> list[torch.Tensor]:
    """The published weights of the channels of each layer, none below 0.

    Args:
        path: of the file; None: that of the package `lpips`, which is not imported.

    Raises:
        InputError: it is missing, or holds something else.
    """
    if path is None:
        found = importlib.util.find_spec("lpips")
        if found is None:
            raise InputError(
                "backbone lpips: the package lpips, whose weights it reads, is not installed; "
                "install it, or name its file weights/v0.1/alex.pth as `linear`"
            )
        path = Path(found.submodule_search_locations[0]) / "weights/v0.1/alex.pth"
    tensors = checkpoints.read(path)
    shapes = {f"lin{i}.model.1.weight": (1, n, 1, 1) for i, n in enumerate(TAPS.values())}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
        raise InputError(f"{path}: does not hold the five layers of LPIPS on AlexNet")
    found = [tensors[name].flatten() for name in shapes]
    if min(one.min() for one in found) < 0:
        raise InputError(f"{path}: a weight of LPIPS is below 0")
    return found


class Lpips(torch.nn.Module):
    """Weighted activations of AlexNet, flat, in the order of the layers.

    Attributes:
        trunk: `features` of torchvision's AlexNet, up to its last ReLU; roots: of the weights of
            all channels, (1152,).
    """

    def __init__(self):
        super().__init__()
        self.trunk = models.alexnet(weights=None).features[: max(TAPS) + 1]
        self.register_buffer("roots", torch.ones(sum(TAPS.values())))

    def weigh(self, weights):
        """Give each layer its weights, a tensor (channels,) each."""
        self.roots.copy_(torch.cat(weights).sqrt())

    def forward(self, images):
        """Features (b, d) of images (b, 3, h, w)."""
        found, roots = [], dict(zip(TAPS, self.roots.split([*TAPS.values()]), strict=True))
        for i, layer in enumerate(self.trunk):
            images = layer(images)
            if i in TAPS:
                length = images.square().sum(1, keepdim=True).sqrt()
                places = images.shape[2] * images.shape[3]
                scaled = images / (length + EPSILON) * roots[i][:, None, None] / places**0.5
                found.append(scaled.flatten(1))
        return torch.cat(found, 1)
