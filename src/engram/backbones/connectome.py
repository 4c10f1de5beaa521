"""Functional connectivity: how alike the series of each two regions are, the baseline of fMRI.

Fisher's z of the correlations, the upper triangle row by row.  The tangent space of covariances is
no backbone: its reference point is a mean over subjects, which heads with `space: tangent` fit on
the training subjects of each fold, from the covariances that are stored here.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engram.errors import InputError
from engram.frozen.series import regions
from engram.readers.atlases import network

DEVICE = "cpu"

TAKES = {"what": {"timeseries": ["channels", "unit"]}}

BATCH_BYTES = 32 << 20  # of matrices in memory at once, about
LIMIT = 0.999999  # correlations are cut there, as Fisher's z of 1 is infinite


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        measure: `correlation` of two regions; `partial`, that of what all others do not
            explain, from a covariance shrunk as Ledoit and Wolf (2004) prescribe; or that
            `covariance` itself, for heads with `space: tangent`.
        standardized: of covariances: give each series variance 1 first. Otherwise they keep their
            variances, which of EEG are its power, and one that is 0 throughout a row stands there
            with the mean variance of the others, alike to none.
        level: of each two `region`, or of each two `network`, whose regions are averaged first;
            networks are read off the names of Schaefer, Tian and Buckner.
    """

    measure: Literal["correlation", "partial", "covariance"] = "correlation"
    standardized: bool = True
    level: Literal["region", "network"] = "region"


def load(options, weights, view, device) -> "Connectome":
    """Connectomes of the rows of a view of series.

    Args:
        options: `Options`.
        weights: None, there are none.
        view: header of the view store.
        device: not used.

    Raises:
        InputError: the view holds fewer than two regions or networks, or variances are to be kept
            in what has none.
    """
    if not options.standardized and options.measure != "covariance":
        raise InputError(
            f"backbone connectome: a {options.measure} has no variances to keep; set `measure: "
            "covariance`, or leave `standardized` out"
        )
    present = regions(view)
    groups, names = _groups(view, present, options)
    if len(names) < 2:
        raise InputError(f"backbone connectome: needs 2 regions, the view holds {len(names)}")
    unit = "z" if options.standardized else f"{view['unit']}^2"
    return Connectome(options, present, groups, names, unit)


def _groups(view, present, options):
    """(average over regions (group, region) or None, names of the groups)."""
    names = [view["channels"][i] for i in present]
    if options.level == "region":
        return None, names
    of_region = [network(name) for name in names]
    if "" in of_region:
        raise InputError(
            f"backbone connectome: the name {names[of_region.index('')]!r} says no network; use "
            "`level: region`"
        )
    groups = list(dict.fromkeys(of_region))
    inside = np.array([[one == group for one in of_region] for group in groups], np.float32)
    return inside / inside.sum(1, keepdims=True), groups


class Connectome:
    """Backbone without weights.

    Attributes:
        shape: (edges,), each two of n regions once: n (n - 1) / 2; of covariances each region
            with itself too: n (n + 1) / 2.
        dtype, batch: number format in the store, rows a call.
        facts: for the header; `nodes` names the regions, edge (i, j) with i < j comes in the order
            of `numpy.triu_indices(n, 1)`; of covariances i <= j in that of `triu_indices(n)`.
    """

    def __init__(self, options, present, groups, names, unit):
        n = len(names)
        self.measure, self.present, self.groups = options.measure, present, groups
        self.kept = not options.standardized
        whole = options.measure == "covariance"
        self.edges = np.flatnonzero(np.triu(np.ones((n, n), bool), 0 if whole else 1))
        self.shape, self.dtype = (len(self.edges),), "float32"
        self.batch = int(np.clip(BATCH_BYTES // (4 * n * n), 1, 256))
        self.facts = {
            "weights": "none",
            "measure": options.measure,
            "level": options.level,
            "nodes": names,
            "unit": f"shrunk covariance, {unit}" if whole else "Fisher z",
        }

    def __call__(self, rows):
        """Features, float32 (b, edges), of series (b, roi, time)."""
        data = rows[:, self.present].astype(np.float32, copy=False)
        data = data - data.mean(-1, keepdims=True, dtype=np.float64).astype(np.float32)
        if self.groups is not None:
            data = self.groups @ data
        measure = with_variances if self.kept else MEASURES[self.measure]
        chosen = measure(data).reshape(len(rows), -1)[:, self.edges]
        if self.measure == "covariance":
            return chosen
        return np.arctanh(np.clip(chosen, -LIMIT, LIMIT, out=chosen), out=chosen)

    def check(self):
        """There are no weights that could change."""


def correlations(data) -> np.ndarray:
    """Pearson correlations (b, roi, roi) of centred series (b, roi, time)."""
    unit = data / np.sqrt(np.einsum("brt,brt->br", data, data))[..., None]
    return unit @ unit.swapaxes(-1, -2)


def partial(data) -> np.ndarray:
    """Partial correlations (b, roi, roi) of centred series (b, roi, time), standardised first."""
    precision = np.linalg.inv(_shrunk(data))
    scale = 1 / np.sqrt(np.einsum("brr->br", precision))
    return (-precision * scale[:, None] * scale[..., None]).astype(np.float32)


def covariances(data) -> np.ndarray:
    """Shrunk covariances (b, roi, roi) of centred series (b, roi, time), standardised first."""
    return _shrunk(data).astype(np.float32)


def with_variances(data) -> np.ndarray:
    """Shrunk covariances (b, roi, roi) of centred series (b, roi, time), as they are.

    Each row is divided by the root of its mean variance, shrunk, and multiplied again. A series
    that is 0 has no place there.
    """
    found = np.empty((len(data), data.shape[1], data.shape[1]), np.float32)
    for one, series in zip(found, data, strict=True):
        there = np.flatnonzero((series != 0).any(-1))
        one[:] = np.eye(len(one))
        if len(there):
            series = series[there].astype(np.float64)
            scale = (series**2).mean()
            one[np.ix_(there, there)] = _shrunk_one(series / np.sqrt(scale))
            one *= scale
    return found


def _shrunk(data):
    """(1 - s) C + s I, where C, of standardised series, has the mean variance 1; float64."""
    found = np.empty((len(data), data.shape[1], data.shape[1]))
    for one, series in zip(found, data, strict=True):
        series = series.astype(np.float64)
        one[:] = _shrunk_one(series / np.sqrt((series**2).mean(-1, keepdims=True)))
    return found


def _shrunk_one(series):
    """Of one row, centred float64 (roi, time) with mean variance 1."""
    found = series @ series.T / series.shape[-1]
    share = shrinkage(series, found)
    found *= 1 - share
    found[np.diag_indices_from(found)] += share
    return found


def shrinkage(series, covariance) -> float:
    """The share of the identity that Ledoit and Wolf (2004) add, for mean variance 1.

    Args:
        series: centred (roi, time).
        covariance: of them, (roi, roi), divided by the number of frames.
    """
    n, frames = series.shape
    distance = (covariance**2).sum() / n - 1  # of the covariance from the identity
    squares = series**2
    error = ((squares.sum(0) ** 2).sum() / frames - (covariance**2).sum()) / (n * frames)
    return float(min(error, distance) / distance) if distance > 0 else 0.0


MEASURES = {"correlation": correlations, "partial": partial, "covariance": covariances}
