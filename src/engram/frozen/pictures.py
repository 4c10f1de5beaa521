"""What is particular to backbones of pictures: from rows to the tensor that a model sees.

A row fills the whole input of the model: it is resized to the model's height and width, its
aspect ratio is not kept and nothing is cropped.  The usual short-side resize with a centre
crop would cut away what stands at the edges of a spectrogram: the lowest and the highest
frequencies.
"""

import functools
import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import embedding, interpolate

from engram.errors import InputError
from engram.frozen import backbone
from engram.signals.image import colour_table


@dataclass(frozen=True, kw_only=True)
class Options(backbone.Options):
    """Options of every torch backbone of pictures.

    Attributes:
        size: height and width of the model's input in pixels; by default as published.
        interpolation: how images are resized; by default as published.
        mean, std: of each colour on the scale 0..1; by default as published.
        mode: resize batches on the `device`, or one by one with Pillow as `reference`.
    """

    size: list[int] | None = None
    interpolation: Literal["bicubic", "bilinear", "lanczos"] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    mode: Literal["device", "reference"] = "device"


@dataclass(frozen=True)
class Published:
    """How a model expects its images, where the configuration does not say otherwise.

    Attributes:
        size: (height, width), pixels.
        mean, std: of each channel on the scale 0..1.
        interpolation: "bicubic", "bilinear" or "lanczos".
        grey: the model takes one channel, (n, 1, h, w), instead of three.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    grey: bool = False


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a row before the model, equal for all rows.

    Attributes:
        size: (height, width) of the model's input, pixels.
        mean, std: of each of the colours red, green, blue on the scale 0..1.
        limits: dB that map to the two ends of the colour table; None for pictures.
        cmap: matplotlib name of the colour table; None for pictures.
        interpolation: "bicubic", "bilinear" or "lanczos", antialiased.
        grey: give one channel instead of three: dB scaled to 0..255 without the colour table,
            or the luma of a picture.
        mode: "device" resizes batches of uint8 tensors; "reference" resizes one image after
            the other with Pillow, on the CPU, for numbers that must match published ones.
        device: "cpu" or "cuda".
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    limits: tuple[float, float] | None = None
    cmap: str | None = None
    interpolation: str = "bicubic"
    grey: bool = False
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
        """Input of the model, float32 (n, 3 or 1, height, width) on `device`.

        Args:
            rows: spectrograms in dB, float (n, h, w); or pictures, RGB, uint8 (n, h, w, 3).

        Raises:
            InputError: pictures are of another number format, and so of an unknown scale.
        """
        if self.limits is None and rows.dtype != np.uint8:
            raise InputError(
                f"view: its pictures are {rows.dtype}, of which nobody knows whether they reach "
                "to 1 or to 255; store uint8"
            )
        rows = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        resized = resize if self.mode == "device" else resize_with_pillow
        images = resized(self._pixels(rows).permute(0, 3, 1, 2), self.size, self.interpolation)
        return normalise(images, self.mean, self.std)

    def _pixels(self, rows):
        """uint8 (n, h, w, channel)"""
        if self.limits is None:
            return to_luma(rows) if self.grey else rows
        coloured = to_rgb(rows, self.limits, "gray" if self.grey else self.cmap)
        return coloured[..., :1] if self.grey else coloured

    def probe(self) -> torch.Tensor:
        """Input of the model made of one fixed image."""
        picture = (np.arange(61 * 97 * 3) * 37 % 256).astype(np.uint8).reshape(1, 61, 97, 3)
        if self.limits is not None:
            low, high = self.limits
            picture = (low + (high - low) * picture[..., 0] / 255).astype(np.float16)
        return self(picture)

    def fingerprint(self) -> str:
        """Digest of `probe()`: tells any change of the preprocessing."""
        return hashlib.sha256(self.probe().cpu().numpy().tobytes()).hexdigest()[:16]

    def facts(self) -> dict:
        """What stands in the header of a feature store."""
        return {
            "size": list(self.size),
            "aspect": "not kept, nothing cropped",
            "interpolation": f"{self.interpolation}, antialiased",
            "mean": list(self.mean),
            "std": list(self.std),
            "limits": None if self.limits is None else list(self.limits),
            "cmap": None if self.grey else self.cmap,
            "grey": self.grey,
            "mode": self.mode,
        }


def preprocessing(options, published, view, device) -> Preprocessing:
    """What happens to the rows of a view before a model: as published, or as `options` say."""
    return Preprocessing.of(
        view,
        size=tuple(options.size or published.size),
        mean=tuple(options.mean or published.mean),
        std=tuple(options.std or published.std),
        interpolation=options.interpolation or published.interpolation,
        grey=published.grey,
        mode=options.mode,
        device=device,
    )


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


def to_luma(pictures) -> torch.Tensor:
    """Brightness of RGB pictures (ITU-R BT.601), uint8 (n, h, w, 3) -> uint8 (n, h, w, 1)."""
    share = torch.tensor([0.299, 0.587, 0.114], device=pictures.device)
    return (pictures.float() @ share).round_().byte().unsqueeze(-1)


def resize(images, size, interpolation="bicubic") -> torch.Tensor:
    """Resize with antialiasing, uint8 (n, c, h, w) -> uint8 (n, c, *size).

    Pillow's own result differs by at most two grey levels.
    """
    if images.device.type == "cpu" and interpolation != "lanczos":
        return interpolate(images, size, mode=interpolation, antialias=True)
    return resize_by_matrix(images, size, interpolation)


def resize_by_matrix(images, size, interpolation="bicubic") -> torch.Tensor:
    """The same as `resize` as two matrix products: for GPUs and for lanczos.

    Horizontal first and rounded to uint8 in between, as Pillow does.
    """
    rows, columns = (
        resize_weights(old, new, interpolation).to(images.device)
        for old, new in zip(images.shape[2:], size, strict=True)
    )
    wide = (images.float() @ columns.T).add_(0.5).floor_().clamp_(0, 255)
    return (rows @ wide).add_(0.5).floor_().clamp_(0, 255).byte()


@functools.cache
def resize_weights(old, new, interpolation) -> torch.Tensor:
    """Share of each old pixel in each new one, float32 (new, old); rows sum to 1.

    The kernel is centred on the new pixel and widened by the scale where the image shrinks.
    """
    kernel, reach = KERNELS[interpolation]
    scale = old / new
    distance = (np.arange(old) + 0.5) - (np.arange(new)[:, None] + 0.5) * scale
    x = np.abs(distance) / max(scale, 1)
    weights = np.where(x < reach, kernel(x), 0)
    return torch.from_numpy((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def _cubic(x):
    """Keys (1981), a = -1/2."""
    return np.where(x < 1, (1.5 * x - 2.5) * x**2 + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2)


#: Kernel of the distance in pixels, and the distance from which it is 0.
KERNELS = {
    "bilinear": (lambda x: 1 - x, 1),
    "bicubic": (_cubic, 2),
    "lanczos": (lambda x: np.sinc(x) * np.sinc(x / 3), 3),
}


def resize_with_pillow(images, size, interpolation="bicubic") -> torch.Tensor:
    """The same as `resize`, by Pillow, image by image.

    One axis a call: from version 13 on, Pillow itself resizes some shapes vertically first,
    which changes pixels by up to 20 grey levels; published numbers are older than that.
    """
    height, width = size
    method = Image.Resampling[interpolation.upper()]
    channels = images.shape[1]
    resized = [
        Image.fromarray(image[..., 0] if channels == 1 else image)
        .resize((width, image.shape[0]), method)
        .resize((width, height), method)
        for image in images.permute(0, 2, 3, 1).cpu().numpy()
    ]
    pixels = np.stack([np.asarray(image) for image in resized])
    pixels = torch.from_numpy(pixels.reshape(-1, height, width, channels))
    return pixels.permute(0, 3, 1, 2).to(images.device)


def normalise(images, mean, std) -> torch.Tensor:
    """uint8 (n, c, h, w) -> float32: scaled to 0..1, minus `mean`, divided by `std`."""
    mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (mean, std))
    return images.contiguous().float().div_(255).sub_(mean).div_(std)
