"""Functional gradients: coordinates in which regions of alike connectivity lie near each other.

Margulies et al. (2016), PNAS 113:12574; the diffusion map after Coifman & Lafon (2006), Applied and
Computational Harmonic Analysis 21:5, with the defaults of BrainSpace (Vos de Wael et al. 2020,
Communications Biology 3:103).
"""

import numpy as np
from scipy import linalg

from engram.errors import InputError

LIMIT = 0.999999  # correlations are cut there, as Fisher's z of 1 is infinite


def group_connectivity(subjects) -> np.ndarray:
    """Mean correlation of each two regions, float64 (regions, regions), 1 on the diagonal.

    Fisher's z is averaged over the scans of a subject, then over subjects. A region that a scan
    lacks, whose series is constant, does not count there.

    Args:
        subjects: iterable of the scans of one subject each, iterables of (regions, time).

    Raises:
        InputError: no scan has both of some two regions.
    """
    total = count = 0.0
    for scans in subjects:
        mean, times = _mean_z(scans)
        total, count = total + np.where(times > 0, mean, 0), count + (times > 0)
    if not np.all(count > 0):
        raise InputError(
            "gradients: no scan has both of some two regions, or there is none at all; leave out "
            "regions that are missing, or give `gradients` a file"
        )
    mean = np.tanh(total / count)
    np.fill_diagonal(mean, 1.0)
    return mean


def _mean_z(scans):
    """Mean over scans of Fisher's z, (regions, regions), and how many scans have it."""
    total = count = np.zeros(())
    for scan in scans:
        data = np.asarray(scan, np.float64)
        data = data - data.mean(1, keepdims=True)
        size = np.sqrt((data**2).sum(1))
        data /= np.where(size > 0, size, 1)[:, None]
        there = size > 0
        z = np.arctanh(np.clip(data @ data.T, -LIMIT, LIMIT))
        total, count = total + z, count + np.outer(there, there)
    return total / np.maximum(count, 1), count


def diffusion_map(connectivity, components=30, sparsity=0.9, alpha=0.5) -> np.ndarray:
    """Gradients of regions, float64 (regions, components), the largest first.

    Each region keeps its largest connections; two regions are as alike as the normalised angle of
    what they keep, 1 - arccos(cosine) / pi. The gradients are right eigenvectors of the diffusion
    over this likeness, of mean square 1 in its stationary distribution, times l / (1 - l) for the
    eigenvalue l, which sums over all times. The largest value of each in size is positive.

    Args:
        connectivity: symmetric (regions, regions), such as `group_connectivity` gives.
        components: number of gradients.
        sparsity: share of its connections that each region loses.
        alpha: how far the density of regions is taken out, 0 not at all, 1 entirely.

    Raises:
        InputError: the matrix is not square, symmetric and finite, a region keeps no connection,
            or it has too few regions for the components.
    """
    matrix = np.asarray(connectivity, np.float64)
    n = len(matrix)
    if matrix.shape != (n, n) or not np.allclose(matrix, matrix.T, equal_nan=True):
        raise InputError(f"connectivity: shape {list(matrix.shape)}, not square and symmetric")
    if not np.isfinite(matrix).all():
        raise InputError("connectivity: a value is not finite; leave its region out")
    if not 0 < components < n:
        raise InputError(
            f"gradients: {components} components of {n} regions; at least 1 and fewer than regions"
        )
    likeness = _likeness(matrix, int((1 - sparsity) * n + 1e-9))
    density = likeness.sum(1) ** -alpha
    likeness *= np.outer(density, density)
    root = np.sqrt(likeness.sum(1))
    values, vectors = linalg.eigh(
        likeness / np.outer(root, root), subset_by_index=(n - 1 - components, n - 1)
    )
    values, vectors = values[::-1], vectors[:, ::-1] / root[:, None]
    share = values[1:] / values[0]
    gradients = vectors[:, 1:] / vectors[:, :1] * (share / (1 - share))
    largest = np.abs(gradients).argmax(0)
    return gradients * np.sign(gradients[largest, np.arange(components)])


def _likeness(matrix, kept):
    """Normalised angle between the `kept` largest connections of each two regions."""
    if kept < 1:
        raise InputError(f"gradients: {len(matrix)} regions are too few to keep any connection")
    at = np.argpartition(matrix, -kept, axis=1)[:, -kept:]
    rows = np.zeros_like(matrix)
    np.put_along_axis(rows, at, np.take_along_axis(matrix, at, 1), 1)
    size = np.sqrt((rows**2).sum(1, keepdims=True))
    if not (size > 0).all():
        raise InputError("connectivity: the connections of a region are all 0; leave it out")
    rows /= size
    return 1 - np.arccos(np.clip(rows @ rows.T, -1, 1)) / np.pi
