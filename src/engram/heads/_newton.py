"""Multinomial logistic regression of many label series over the same rows, solved at once.

Newton's method on all series together: the products of features that their Hessians are weighted
sums of are the same, so that a step is one matrix product (Bishop 2006, section 4.3.4). What is
minimised is scikit-learn's objective, C sum_i w_i loss_i + |W|^2 / 2 with a free intercept.
"""

import numpy as np
from scipy.special import log_softmax

STEPS = 100
HALVINGS = 30
TOLERANCE = 1e-7  # of the gradient, relative to C times the sum of the weights


def coefficients(x, y, of_class, c) -> tuple[np.ndarray, np.ndarray]:
    """Weights (m, classes, d) and biases (m, classes); a class not in a series gets no chance.

    Args:
        x: float (n, d), standardised.
        y: int (m, n), the classes of the rows in m series.
        of_class: float (m, classes), weight of each class in each series.
        c: float (m,), inverse strength of the penalty.
    """
    (m, k), d = of_class.shape, x.shape[1]
    weight, bias = np.zeros((m, k, d)), np.full((m, k), -np.inf)
    there = np.stack([(y == label).any(1) for label in range(k)], 1)
    products = None
    for kinds in np.unique(there, axis=0):
        own, labels = np.flatnonzero((there == kinds).all(1)), np.flatnonzero(kinds)
        if len(labels) == 1:
            bias[own, labels[0]] = 0
            continue
        design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
        if products is None:
            products = (design[:, :, None] * design[:, None]).reshape(len(x), -1)
        rows = np.take_along_axis(of_class[own], y[own], 1) * c[own, None]
        found = _solved(
            design, products, np.searchsorted(labels, y[own]), rows, _basis(len(labels))
        )
        weight[np.ix_(own, labels)], bias[np.ix_(own, labels)] = found[..., :-1], found[..., -1]
    return weight, bias


def _basis(k):
    """Logits (.., k) = parameters (.., k - 1) @ basis; they sum to 0, as those of a softmax may.

    Orthonormal, so that the penalty is that of all k weights; of two classes the one parameter is
    the difference of both logits, whose square scikit-learn penalises.
    """
    if k == 2:
        return np.array([[-0.5, 0.5]])
    return np.linalg.svd(np.eye(k) - 1 / k)[2][: k - 1]


def _solved(design, products, y, rows, basis):
    """Coefficients (m, k, d + 1), the intercept last; `rows` are weights (m, n) of rows."""
    m, (free, k), d = len(y), basis.shape, design.shape[1]
    penalty = np.r_[np.ones(d - 1), 0.0]
    truth = (y[..., None] == np.arange(k)).astype(float)
    beta, active = np.zeros((m, free, d)), np.arange(m)
    value, p = _objective(beta, design, truth, rows, basis, penalty)
    for _ in range(STEPS):
        own, off = beta[active], (rows[active, :, None] * (p - truth[active])) @ basis.T
        gradient = off.transpose(0, 2, 1) @ design + penalty * own
        moving = np.abs(gradient).max((1, 2)) > TOLERANCE * (1 + rows[active].sum(1))
        active, own, p, gradient = active[moving], own[moving], p[moving], gradient[moving]
        if not len(active):
            break
        hessian = _hessian(products, p, rows[active], basis, penalty)
        step = np.linalg.solve(hessian, gradient.reshape(len(active), -1, 1))
        step, size = step.reshape(gradient.shape), np.ones((len(active), 1, 1))
        before = value[active] + 1e-12 * np.abs(value[active])
        for _ in range(HALVINGS):
            tried = own - size * step
            new, p = _objective(tried, design, truth[active], rows[active], basis, penalty)
            if not (new > before).any():
                break
            size[new > before] /= 2
        beta[active], value[active] = tried, new
    return np.einsum("mfd,fk->mkd", beta, basis)


def _objective(beta, design, truth, rows, basis, penalty):
    """(value (m,), probabilities (m, n, k))."""
    logits = (design @ beta.transpose(0, 2, 1)) @ basis
    logs = log_softmax(logits, axis=2)
    loss = -(rows * (logs * truth).sum(2)).sum(1)
    return loss + 0.5 * (penalty * beta**2).sum((1, 2)), np.exp(logs)


def _hessian(products, p, rows, basis, penalty):
    m, free, d = len(p), len(basis), len(penalty)
    mean = p @ basis.T
    found = np.empty((m, free, d, free, d))
    for a in range(free):
        for b in range(a, free):
            weight = rows * (p @ (basis[a] * basis[b]) - mean[..., a] * mean[..., b])
            block = (weight @ products).reshape(m, d, d)
            found[:, a, :, b], found[:, b, :, a] = block, block
        found[:, a, :, a] += np.diag(penalty)
    return found.reshape(m, free * d, free * d)
