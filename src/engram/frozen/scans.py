"""Rows of a view of ROI series as torch models take them."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Series:
    """From the rows of a view of series to what a torch model sees: the same, on its device.

    Attributes:
        regions, frames: of a row.
        device: "cpu" or "cuda".
    """

    regions: int
    frames: int
    device: str

    @classmethod
    def of(cls, view, device):
        return cls(len(view["channels"]), view["frames"], device)

    def __call__(self, rows) -> torch.Tensor:
        """float32 (b, roi, time)."""
        return torch.from_numpy(np.ascontiguousarray(rows, np.float32)).to(self.device)

    def probe(self) -> torch.Tensor:
        """One fixed row, waves of another frequency in each region."""
        region, frame = np.arange(1, self.regions + 1)[:, None], np.arange(1, self.frames + 1)
        return self(np.sqrt(2) * np.sin(0.013 * region * frame + 0.11 * region)[None])

    def fingerprint(self) -> str:
        """Digest of `probe()`."""
        return hashlib.sha256(self.probe().cpu().numpy().tobytes()).hexdigest()[:16]

    def facts(self) -> dict:
        """What stands in the header of a feature store."""
        return {"regions": self.regions, "frames": self.frames}
