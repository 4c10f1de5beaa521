"""Uncertainty and chance: intervals over subjects, permutation and sign-flip tests."""

import itertools

import numpy as np
from scipy.special import stdtrit

from engram.scores.classification import (
    LOWER_IS_BETTER,
    mean_defined,
    scores_by_group,
)

FEW_SUBJECTS = 10  # below it the bootstrap is too narrow, and Student's t takes its place
EXACT_SUBJECTS = 15  # up to it every sign pattern is enumerated
SIGN_FLIPS = 10_000
TOLERANCE = 1e-9  # equal arrangements summed in another order still count as equal


def interval(values, limits, confidence, resamples, rng) -> tuple[float, float, str]:
    """Confidence interval of a mean over subjects.

    Percentile bootstrap of subjects from ten subjects on; Student's t below.

    Args:
        values: float (subjects,), no NaN.
        limits: (lowest, highest) value possible; the interval is cut there.
        confidence: e.g. 0.95.
        resamples: of the bootstrap.
        rng: Generator.

    Returns:
        (low, high, "bootstrap" or "t"); NaN limits for fewer than two subjects.
    """
    n = len(values)
    if n >= FEW_SUBJECTS:
        means = values[rng.integers(n, size=(resamples, n))].mean(1)
        return *percentile_interval(means, confidence), "bootstrap"
    if n < 2:
        return np.nan, np.nan, "t"
    half = stdtrit(n - 1, (1 + confidence) / 2) * values.std(ddof=1) / np.sqrt(n)
    low, high = np.clip([values.mean() - half, values.mean() + half], *limits)
    return float(low), float(high), "t"


def percentile_interval(values, confidence) -> tuple[float, float]:
    """The middle `confidence` of bootstrap values; NaN are left out."""
    if np.isnan(values).all():
        return np.nan, np.nan
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def arrangements(y, table, n, rng) -> np.ndarray:
    """`n` label series under the null, which keep the dependence in time.

    Each scan's labels, in the order of its windows, are rotated by any number of windows, none
    included: leaving out small shifts, as the control for training does, would make p too
    small, for the null must hold every rotation that the truth could have been.  Labels that are
    constant over their scan are permuted over such scans of the subject instead, and those that
    are constant over their subject over such subjects: the levels at which they vary.

    Args:
        y: int (rows,).
        table: rows with subject, scan and window.
        n: number of series.
        rng: Generator.

    Returns:
        int16 (n, rows).
    """
    moved = np.tile(y.astype(np.int16), (n, 1))
    window, whole_subjects = table["window"].to_numpy(), []
    for rows in table.groupby("subject").indices.values():
        rows = rows[np.argsort(window[rows], kind="stable")]
        scans = [rows[at] for at in table.iloc[rows].groupby("scan").indices.values()]
        constant = [at for at in scans if len(set(y[at])) == 1]
        for at in scans:
            if len(set(y[at])) > 1:
                shifts = rng.integers(len(at), size=(n, 1))
                moved[:, at] = y[at][(np.arange(len(at)) - shifts) % len(at)]
        if len(set(y[rows])) == 1:
            whole_subjects.append(rows)
        _exchange(moved, y, constant, rng)
    _exchange(moved, y, whole_subjects, rng)
    return moved


def _exchange(moved, y, blocks, rng):
    """Permute the labels of blocks of rows, each of one label, in every series."""
    values = rng.permuted(np.tile([y[at[0]] for at in blocks], (len(moved), 1)), axis=1)
    for at, value in zip(blocks, values.T, strict=True):
        moved[:, at] = value[:, None]


def null_scores(labels, probabilities, groups) -> dict[str, np.ndarray]:
    """Mean over groups of every score under each arrangement, float (m, runs) by name.

    Predictions stay as they are; training is not repeated.  Where subjects train each other's
    folds, their scores move together more than this null knows, and p is somewhat too small:
    in simulated studies of nothing, 6 subjects and a linear model, 8 % fell below 0.05; with a
    model trained on other people, 5 to 6 %.
    """
    found = scores_by_group(labels, probabilities, groups)
    return {name: mean_defined(values, 0) for name, values in found.items()}


def permutation_p(name, value, null) -> float:
    """p = (1 + number of null values at least as good as `value`) / (1 + number of them).

    Phipson & Smyth, Stat Appl Genet Mol Biol 2010.  A null value that is undefined counts as
    at least as good.

    Args:
        name: of the score, which says whether lower is better.
        value: observed.
        null: float (m,).
    """
    if np.isnan(value):
        return np.nan
    sign = -1 if name in LOWER_IS_BETTER else 1
    worse = sign * null < sign * value - TOLERANCE
    return float((1 + np.sum(~worse)) / (1 + len(null)))


def smallest_p(y, labels) -> float:
    """The p that no score can fall below: arrangements equal to the truth tie with it."""
    return float((1 + (labels == y).all(1).sum()) / (1 + len(labels)))


def sign_flip_p(differences, rng) -> float:
    """Two-sided p of a mean of paired differences, each of which may have had either sign.

    All sign patterns up to 15 subjects, so that the smallest p is 2^(1 - n); beyond, 10,000
    random patterns with p = (1 + #) / (1 + 10000).

    Args:
        differences: float (subjects,), no NaN.
        rng: Generator, used beyond 15 subjects.

    Returns:
        p; NaN without subjects.
    """
    n = len(differences)
    if n == 0:
        return np.nan
    exact = n <= EXACT_SUBJECTS
    if exact:
        signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    else:
        signs = rng.choice((-1, 1), size=(SIGN_FLIPS, n))
    extreme = np.abs(signs @ differences) >= abs(differences.sum()) - TOLERANCE
    return float(extreme.mean() if exact else (1 + extreme.sum()) / (1 + SIGN_FLIPS))
