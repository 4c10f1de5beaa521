"""From the rows of a view to the tensor that an image model sees: in batches, on the device.

A row fills the whole input of the model: it is resized to the model's height and width, its
aspect ratio is not kept and nothing is cropped.  The usual short-side resize with a centre
crop would cut away what stands at the edges of a spectrogram: the lowest and the highest
frequencies.
"""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import embedding, interpolate

from engram.errors import InputError
from engram.signals.image import colour_table


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a row before the model, equal for all rows.

    Attributes:
        size: (height, width) of the model's input, pixels.
        mean, std: of each of the colours red, green, blue on the scale 0..1.
        limits: dB that map to the two ends of the colour table; None for pictures.
        cmap: matplotlib name of the colour table; None for pictures.
        mode: "device" resizes batches of uint8 tensors; "reference" resizes one image after
            the other with Pillow, on the CPU, for numbers that must match published ones.
        device: "cpu" or "cuda".
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    limits: tuple[float, float] | None = None
    cmap: str | None = None
    mode: str = "device"
    device: str = "cpu"

    @staticmethod
    def of(view, **model) -> "Preprocessing":
        """The preprocessing of a view for a model.

        Args:
            view: header of a view store, of spectrograms or of pictures.
            model: the other attributes.

        Raises:
            InputError: the header of a spectrogram lacks `limits` or a known `cmap`.
        """
        if view["what"] == "picture":
            return Preprocessing(**model)
        low, high = view.get("limits") or (0, 0)
        if not low < high:
            raise InputError(f"view: `limits` must be [low, high] in dB, got {view.get('limits')}")
        colour_table(view.get("cmap"))
        return Preprocessing(limits=(low, high), cmap=view["cmap"], **model)

    def __call__(self, rows) -> torch.Tensor:
        """Input of the model, float32 (n, 3, height, width) on `device`.

        Args:
            rows: spectrograms in dB, float (n, h, w); or pictures, RGB, uint8 (n, h, w, 3).
        """
        rows = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        images = rows if self.limits is None else to_rgb(rows, self.limits, self.cmap)
        images = images.permute(0, 3, 1, 2)
        resized = resize if self.mode == "device" else resize_with_pillow
        return normalise(resized(images, self.size), self.mean, self.std)

    def fingerprint(self) -> str:
        """Digest of the output on a fixed image: tells any change of the preprocessing."""
        picture = (np.arange(61 * 97 * 3) * 37 % 256).astype(np.uint8).reshape(1, 61, 97, 3)
        if self.limits is not None:
            low, high = self.limits
            picture = (low + (high - low) * picture[..., 0] / 255).astype(np.float16)
        return hashlib.sha256(self(picture).cpu().numpy().tobytes()).hexdigest()[:16]

    def facts(self) -> dict:
        """What stands in the header of a feature store."""
        return {
            "size": list(self.size),
            "aspect": "not kept, nothing cropped",
            "interpolation": "bicubic, antialiased",
            "mean": list(self.mean),
            "std": list(self.std),
            "limits": None if self.limits is None else list(self.limits),
            "cmap": self.cmap,
            "mode": self.mode,
        }


@functools.cache
def to_rgb(rows, limits, cmap) -> torch.Tensor:
    """Colour spectrograms as matplotlib would with `vmin, vmax = limits`.

    Args:
        rows: float tensor (n, h, w), dB; beyond the limits the end colours are used.
        limits: (low, high) dB.
        cmap: matplotlib name of the colour map.

    Returns:
        uint8 tensor (n, h, w, 3), RGB, on the device of `rows`.
    """
    low, high = limits
    level = (rows.float() - low).div_(high - low).mul_(256).nan_to_num_(0).clamp_(0, 255)
    return embedding(level.int(), torch.from_numpy(colour_table(cmap)).to(rows.device))


def resize(images, size) -> torch.Tensor:
    """Bicubic resize with antialiasing, uint8 (n, 3, h, w) -> uint8 (n, 3, *size).

    Pillow's own result differs by at most two grey levels.
    """
    if images.device.type == "cpu":
        return interpolate(images, size, mode="bicubic", antialias=True)
    return resize_as_float(images, size)


def resize_as_float(images, size) -> torch.Tensor:
    """The same as `resize`, for devices that cannot interpolate uint8.

    Horizontal first and rounded to uint8 in between, as Pillow does.
    """
    for shape in ((images.shape[2], size[1]), size):
        pixels = interpolate(images.float(), shape, mode="bicubic", antialias=True)
        images = pixels.round_().clamp_(0, 255).byte()
    return images


def resize_with_pillow(images, size) -> torch.Tensor:
    """The same as `resize`, by Pillow, image by image.

    One axis a call: from version 13 on, Pillow itself resizes some shapes vertically first,
    which changes pixels by up to 20 grey levels; published numbers are older than that.
    """
    height, width = size
    resized = [
        Image.fromarray(image)
        .resize((width, image.shape[0]), Image.Resampling.BICUBIC)
        .resize((width, height), Image.Resampling.BICUBIC)
        for image in images.permute(0, 2, 3, 1).cpu().numpy()
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized]))
    return pixels.permute(0, 3, 1, 2).to(images.device)


def normalise(images, mean, std) -> torch.Tensor:
    """uint8 (n, 3, h, w) -> float32: scaled to 0..1, minus `mean`, divided by `std`."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (mean, std))
    return images.contiguous().float().div_(255).sub_(mean).div_(std)
