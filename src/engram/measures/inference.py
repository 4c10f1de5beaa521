"""Uncertainty and chance: intervals over subjects, permutation and sign-flip tests."""

import itertools

import numpy as np
from scipy.special import stdtr, stdtrit

FEW_SUBJECTS = 10  # below it the bootstrap is too narrow, and Student's t takes its place
EXACT_SUBJECTS = 16  # up to it every sign pattern is enumerated
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
    low, high = np.clip(t_interval(values, confidence), *limits)
    return float(low), float(high), "t"


def t_interval(values, confidence=0.95) -> tuple[float, float]:
    """Student's t interval of a mean; `values` float (n,), two at least."""
    n = len(values)
    half = stdtrit(n - 1, (1 + confidence) / 2) * np.std(values, ddof=1) / np.sqrt(n)
    return float(np.mean(values) - half), float(np.mean(values) + half)


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
        y: int (rows,), or float where labels are numbers.
        table: rows with subject, scan and window.
        n: number of series.
        rng: Generator.

    Returns:
        (n, rows), int16 or, of numbers, float64.
    """
    moved = np.tile(y if y.dtype.kind == "f" else y.astype(np.int16), (n, 1))
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


def jackknife(statistic, n, confidence=0.95) -> tuple[float, float, float, float]:
    """Interval and test of a statistic of n subjects by leaving out each of them in turn.

    Student's t on the pseudo-values n s - (n - 1) s_i (Tukey 1958), centred on the statistic
    itself; of a mean it is the t interval. The statistic should be on a scale on which it is
    nearly normal.

    Args:
        statistic: of an int array of subjects, a float.
        n: number of subjects.
        confidence: of the interval.

    Returns:
        (statistic of all, low, high, two-sided p of 0); NaN but for the first where there are
        fewer than three subjects or one that cannot be left out.
    """
    every = np.arange(n)
    value = statistic(every)
    left = np.array([statistic(np.delete(every, i)) for i in every if n > 2])
    if n < 3 or np.isnan([value, *left]).any():
        return value, np.nan, np.nan, np.nan
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    half = stdtrit(n - 1, (1 + confidence) / 2) * error
    p = 2 * stdtr(n - 1, -abs(value) / error) if error > 0 else float(value == 0)
    return value, value - half, value + half, float(p)


def permutation_p(value, null) -> float:
    """p = (1 + number of null values at least as large as `value`) / (1 + number of them).

    Phipson & Smyth, Stat Appl Genet Mol Biol 2010.  A null value that is undefined counts as
    at least as large.

    Args:
        value: observed; NaN has no p.
        null: float (m,).
    """
    if np.isnan(value):
        return np.nan
    return float((1 + np.sum(~(null < value - TOLERANCE))) / (1 + len(null)))


def smallest_p(y, labels) -> float:
    """The p that no score can fall below: arrangements equal to the truth tie with it."""
    return float((1 + (labels == y).all(1).sum()) / (1 + len(labels)))


def mean_defined(values, axis=None):
    """Mean over the values that are not NaN; NaN where there is none."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)


def bootstrap(values, confidence=0.95, resamples=10_000, seed=0) -> tuple[float, float]:
    """Percentile interval of a mean over subjects and images, both drawn with replacement.

    All subjects see the same images, so that images are a random factor like subjects; the
    binomial error of a subject alone would be too small (Owen 2007, "pigeonhole bootstrap").

    Args:
        values: float (subjects, images), e.g. whether an image was found; seeds averaged.
        confidence: of the interval.
        resamples: draws.
        seed: of the draws.

    Returns:
        (low, high).
    """
    values = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    subjects, images = (rng.multinomial(n, np.full(n, 1 / n), resamples) for n in values.shape)
    means = ((subjects @ values) * images).sum(1) / values.size
    tail = (1 - confidence) / 2
    return tuple(float(q) for q in np.quantile(means, [tail, 1 - tail]))


def sign_flip(differences, resamples=10_000, seed=0) -> float:
    """Two-sided p of the mean of paired differences over subjects, whose signs are exchangeable.

    All 2^n patterns of signs up to 16 subjects; beyond, random patterns and the observed one.

    Args:
        differences: float (subjects,), e.g. top-1 of one encoder minus that of another.
        resamples: random patterns.
        seed: of these.

    Returns:
        p; NaN without subjects.
    """
    differences = np.asarray(differences, float)
    n = len(differences)
    if n == 0:
        return np.nan
    if n <= EXACT_SUBJECTS:
        signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    else:
        drawn = np.random.default_rng(seed).choice((-1, 1), (resamples, n))
        signs = np.vstack([np.ones((1, n)), drawn])
    return float((np.abs(signs @ differences) >= abs(differences.sum()) - TOLERANCE).mean())


def holm(p) -> np.ndarray:
    """P values adjusted for the number of tests, by Holm's step-down procedure.

    Args:
        p: p values of one family of tests, shape (n,); NaN where no test was made.

    Returns:
        Adjusted p values, shape (n,), NaN where `p` is.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    steps = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
