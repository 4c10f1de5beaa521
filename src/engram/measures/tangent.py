"""Covariance matrices as vectors of the tangent space at their geometric mean.

The space of positive definite matrices is curved; near a reference point, its tangent space is
flat, as linear models need it (Varoquaux et al., MICCAI 2010; Pennec et al., IJCV 2006).
"""

import numpy as np

BLOCK = 64 << 20  # bytes of matrices at once
TOLERANCE = 1e-7  # of the mean tangent vector at the geometric mean, a matrix entry
MOST_STEPS = 100


def unpacked(vectors) -> np.ndarray:
    """Symmetric float64 (n, r, r) of upper triangles, row by row, (n, r (r + 1) / 2)."""
    r = round((np.sqrt(8 * vectors.shape[1] + 1) - 1) / 2)
    upper = np.triu_indices(r)
    matrices = np.empty((len(vectors), r, r))
    matrices[:, upper[0], upper[1]] = matrices[:, upper[1], upper[0]] = vectors
    return matrices


def lowest(vectors) -> np.ndarray:
    """Smallest eigenvalue of each matrix, (n,)."""
    return np.concatenate([np.linalg.eigvalsh(unpacked(part))[:, 0] for part in _blocks(vectors)])


def geometric_mean(vectors, weights) -> np.ndarray:
    """The matrix with the least mean squared distance to others, (r, r).

    The distance is the affine-invariant one, |log(M^-1/2 C M^-1/2)|.  From exp of the mean log on,
    steps go along the mean tangent vector until that vanishes; their length is the one by which
    Bini and Iannazzo (Linear Algebra Appl. 2013, section 3) converge fastest in the worst case.

    Args:
        vectors: of positive definite matrices, (n, r (r + 1) / 2).
        weights: float (n,), of each.
    """
    weights = np.asarray(weights, float) / np.sum(weights)
    mean = _exponential(_mean_log(vectors, weights)[0])
    for _ in range(MOST_STEPS):
        root, whitening = _roots(mean)
        step, spread = _mean_log(vectors, weights, whitening)
        if np.sqrt((step**2).mean()) < TOLERANCE:
            break
        mean = root @ _exponential(2 / (1 + spread) * step) @ root
        mean = (mean + mean.T) / 2
    return mean


def tangent(vectors, reference) -> np.ndarray:
    """log(M^-1/2 C M^-1/2) of each C at the reference M, float32 (n, r (r + 1) / 2).

    Upper triangles row by row; what lies off the diagonal is multiplied by the square root of 2,
    so that lengths of vectors are those of matrices.
    """
    _, whitening = _roots(reference)
    row, column = np.triu_indices(len(reference))
    scale = np.where(row == column, 1.0, np.sqrt(2))
    found = np.empty(vectors.shape, np.float32)
    start = 0
    for part in _blocks(vectors):
        logs, _ = _logarithm(whitening @ unpacked(part) @ whitening)
        found[start : start + len(part)] = logs[:, row, column] * scale
        start += len(part)
    return found


def _mean_log(vectors, weights, whitening=None):
    """Mean logarithm (r, r), and how curved the space is around: 1 where all matrices are alike.

    The mean of coth(s / 2) s / 2, where s is the log of the condition number of a matrix.
    """
    total, curved, start = 0.0, 0.0, 0
    for part in _blocks(vectors):
        matrices = unpacked(part)
        if whitening is not None:
            matrices = whitening @ matrices @ whitening
        logs, values = _logarithm(matrices)
        share = weights[start : start + len(part)]
        half = np.maximum(values[:, -1] - values[:, 0], 1e-9) / 2
        total = total + np.tensordot(share, logs, 1)
        curved += share @ (half / np.tanh(half))
        start += len(part)
    return total, curved


def _blocks(vectors):
    rows = max(1, BLOCK // (16 * vectors.shape[1]))
    return (vectors[start : start + rows] for start in range(0, len(vectors), rows))


def _roots(matrix):
    """Square root and inverse square root."""
    values, axes = np.linalg.eigh(matrix)
    return (axes * np.sqrt(values)) @ axes.T, (axes / np.sqrt(values)) @ axes.T


def _exponential(matrix):
    values, axes = np.linalg.eigh(matrix)
    return (axes * np.exp(values)) @ axes.T


def _logarithm(matrices):
    """Logarithms (n, r, r), and those of the eigenvalues, ascending, (n, r)."""
    values, axes = np.linalg.eigh((matrices + matrices.swapaxes(-1, -2)) / 2)
    values = np.log(np.maximum(values, np.finfo(float).tiny))
    return (axes * values[:, None]) @ axes.swapaxes(-1, -2), values
