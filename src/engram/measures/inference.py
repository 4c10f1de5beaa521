"""Uncertainty and chance: intervals over subjects and images, permutation tests.

Subjects whose models were trained on each other's data do not have independent scores: a mean over
them varies more than their spread tells. Its variance is taken as s^2 (1/n + 1/(n - 1)) instead of
s^2 / n, with Student's t: n_test / n_train = 1 / (n - 1) of leaving one subject out (Nadeau &
Bengio 2003. Inference for the generalization error. Machine Learning 52), and the same for groups
of subjects, of which a fold trains on all others. `benchmarks/inference.py` simulates how often
such intervals hold the truth and such tests reject it.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit, nctdtrinc, stdtr, stdtrit

TOLERANCE = 1e-9  # equal arrangements summed in another order still count as equal

#: By how much a null of fixed predictions is too narrow where subjects train each other's folds:
#: in simulated studies of nothing 4 to 20 subjects needed 1.05 to 1.22 (benchmarks/inference.py).
WIDENED = 1.25


def interval(values, limits, confidence, shared) -> tuple[float, float]:
    """Confidence interval of a mean over subjects, by Student's t.

    Args:
        values: float (subjects,), no NaN.
        limits: (lowest, highest) value possible; the interval is cut there.
        confidence: e.g. 0.95.
        shared: whether models of subjects were trained on each other's data.

    Returns:
        (low, high); NaN for fewer than two subjects.
    """
    if len(values) < 2:
        return np.nan, np.nan
    low, high = np.clip(t_interval(values, confidence, shared), *limits)
    return float(low), float(high)


def bounded_interval(values, limits, confidence, shared) -> tuple[float, float]:
    """Confidence interval of a mean score over subjects, on the logit scale of its range.

    Student's t of the mean as in `interval`, carried to log((mean - lowest) / (highest - mean)) by
    the delta method and back, so that it never leaves the range (Brown, Cai & DasGupta 2001.
    Interval estimation for a binomial proportion. Statistical Science 16). Near a limit the scores
    of subjects crowd together, whatever the model of another study would have reached: a plain
    interval of 4 subjects held the truth in 90 %.

    Args, returns: as of `interval`; both limits are finite.
    """
    if len(values) < 2:
        return np.nan, np.nan
    return bounded(*t_interval(values, confidence, shared), limits)


def bounded(low, high, limits) -> tuple[float, float]:
    """The interval around a score on the logit scale of its range, see `bounded_interval`.

    Args:
        low, high: a symmetric interval, which may leave the range; NaN stay.
        limits: (lowest, highest) value possible, both finite.
    """
    lowest, highest = limits
    share, half = ((low + high) / 2 - lowest) / (highest - lowest), (high - low) / 2
    if not TOLERANCE < share < 1 - TOLERANCE:
        return tuple(np.clip([low, high], *limits).tolist())
    half = half / (highest - lowest) / (share * (1 - share))
    ends = expit(logit(share) + np.array([-half, half]))
    return tuple((lowest + (highest - lowest) * ends).tolist())


def train_each_other(table) -> bool:
    """Whether models of subjects were trained on each other's rows, as those of folds are.

    Args:
        table: of predictions, with the `fold` that tests each row; an applied model has one.
    """
    return "fold" in table and table["fold"].nunique() > 1


def kind(shared, what="t") -> str:
    """What an interval is called in a table: by `interval`, or another way."""
    return f"corrected {what}" if shared else what


def t_interval(values, confidence=0.95, shared=False) -> tuple[float, float]:
    """Student's t interval of a mean; `values` float (n,), two at least; see `interval`."""
    half = stdtrit(len(values) - 1, (1 + confidence) / 2) * _error(values, shared)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def t_test(differences, shared) -> float:
    """Two-sided p of a mean of paired differences over subjects, by Student's t.

    Args:
        differences: float (subjects,).
        shared: see `interval`.

    Returns:
        p; 1 where nothing differs, NaN for fewer than two subjects.
    """
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        return np.nan
    mean, error = differences.mean(), _error(differences, shared)
    if error <= TOLERANCE:
        return float(abs(mean) <= TOLERANCE)
    return float(2 * stdtr(len(differences) - 1, -abs(mean) / error))


def _error(values, shared):
    n = len(values)
    return np.std(values, ddof=1) / np.sqrt(n) * _wider(n, shared)


def _wider(n, shared):
    """By how much errors grow where models of n subjects were trained on each other's data."""
    return np.sqrt(1 + n / (n - 1)) if shared else 1.0


def percentile_interval(values, confidence) -> tuple[float, float]:
    """The middle `confidence` of values, such as those of a null; NaN are left out."""
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


def jackknife(statistic, n, confidence=0.95, shared=False) -> tuple[float, float, float, float]:
    """Interval and test of a statistic of n subjects by leaving out each of them in turn.

    Student's t on the pseudo-values n s - (n - 1) s_i (Tukey 1958), centred on the statistic
    itself; of a mean it is the t interval. The statistic should be on a scale on which it is
    nearly normal.

    Args:
        statistic: of an int array of subjects, a float.
        n: number of subjects.
        confidence: of the interval.
        shared: see `interval`.

    Returns:
        (statistic of all, low, high, two-sided p of 0); NaN but for the first where there are
        fewer than three subjects or one that cannot be left out.
    """
    every = np.arange(n)
    value = statistic(every)
    left = np.array([statistic(np.delete(every, i)) for i in every if n > 2])
    if n < 3 or np.isnan([value, *left]).any():
        return value, np.nan, np.nan, np.nan
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()) * _wider(n, shared)
    half = stdtrit(n - 1, (1 + confidence) / 2) * error
    p = 2 * stdtr(n - 1, -abs(value) / error) if error > 0 else float(value == 0)
    return value, value - half, value + half, float(p)


def permutation_p(value, null, widened=1.0) -> float:
    """p = (1 + number of null values at least as large as `value`) / (1 + number of them).

    Phipson & Smyth, Stat Appl Genet Mol Biol 2010.  A null value that is undefined counts as
    at least as large.

    Args:
        value: observed; NaN has no p.
        null: float (m,).
        widened: by how much deviations of the null from its mean are stretched, see `WIDENED`.
    """
    if np.isnan(value):
        return np.nan
    if widened != 1:
        null = null + (widened - 1) * (null - mean_defined(null))
    return float((1 + np.sum(~(null < value - TOLERANCE))) / (1 + len(null)))


def smallest_p(y, labels) -> float:
    """The p that no score can fall below: arrangements equal to the truth tie with it."""
    return float((1 + (labels == y).all(1).sum()) / (1 + len(labels)))


def mean_defined(values, axis=None):
    """Mean over the values that are not NaN; NaN where there is none."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)


def crossed(values, limits=(-np.inf, np.inf), confidence=0.95, shared=False):
    """Interval and test of a mean over subjects and images, both drawn at random.

    All subjects see the same images, so that images are a random factor like subjects. In a
    crossed design without replication the variance of the grand mean is V_s + V_i, with V_s =
    MS_subjects / (subjects images) and V_i = (MS_images - MS_rest) / (subjects images) (Cornfield
    & Tukey 1956. Average values of mean squares in factorials. Ann Math Stat 27). Subjects are
    few and images many, so that each part has its own Student's t: half the width is
    sqrt(t_s^2 V_s + t_i^2 V_i) (Howe 1974. JASA 69); Satterthwaite's degrees of freedom held the
    truth in 88 % with two subjects.

    Args:
        values: float (subjects, images), e.g. whether an image was found; seeds averaged.
        limits: (lowest, highest) value possible; the interval is cut there.
        confidence: of the interval.
        shared: whether models of subjects were trained on each other's data, which adds to the
            variance of subjects as in `interval`.

    Returns:
        (low, high, two-sided p of 0); NaN where there is one subject and one image.
    """
    values = np.asarray(values, float)
    mean = values.mean()
    if values.shape[1] < 2:
        return (*interval(values[:, 0], limits, confidence, shared), t_test(values[:, 0], shared))
    free, (subjects, images) = _crossed_variances(values, shared)
    if subjects + images <= TOLERANCE**2:
        return float(mean), float(mean), float(abs(mean) <= TOLERANCE)

    def half(tail):
        return np.hypot(
            stdtrit(free[0], tail) * np.sqrt(subjects), stdtrit(free[1], tail) * np.sqrt(images)
        )

    width = half((1 + confidence) / 2)
    low, high = np.clip([mean - width, mean + width], *limits)
    beyond = _root(half, abs(mean))
    return float(low), float(high), float(2 * (1 - beyond))


def _crossed_variances(values, shared):
    """Degrees of freedom and variances of a mean over subjects and images, of each of the two."""
    (n, m), mean = values.shape, values.mean()
    of_subject, of_image = values.mean(1) - mean, values.mean(0) - mean
    rest = values - mean - of_subject[:, None] - of_image
    free = np.array([max(n - 1, 1), m - 1, max((n - 1) * (m - 1), 1)], float)
    squares = np.array([m * (of_subject**2).sum(), n * (of_image**2).sum(), (rest**2).sum()]) / free
    subjects = squares[0] * (1 + (n / (n - 1) if shared and n > 1 else 0)) / (n * m)
    return free[:2], np.array([subjects, max(squares[1] - squares[2], 0) / (n * m)])


def _root(half, wanted):
    """Tail at which an interval is so wide, from 0.5, to 1 where none that floats know is."""
    most = 1 - 1e-15
    if wanted <= 0 or half(most) <= wanted:
        return 0.5 if wanted <= 0 else 1.0
    return brentq(lambda tail: half(tail) - wanted, 0.5, most)


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


def claims(gained, margin=None, shared=False) -> dict:
    """What "no difference" rests on, of a gain that is paired by subject.

    Args:
        gained: float (subjects,), no NaN; or (subjects, images), both drawn at random, see
            `crossed`.
        margin: gains that are no larger count as none; None claims nothing.
        shared: see `interval`.

    Returns:
        dict with detectable, see there, and equivalence_p, that the true gain lies within
        `margin` of 0, by two one-sided tests (Schuirmann 1987. J Pharmacokinet Biopharm 15), None
        without a margin. NaN where there is no interval either.
    """
    gained = np.asarray(gained, float)
    if gained.ndim == 2 and gained.shape[1] < 2:
        gained = gained[:, 0]
    if gained.ndim == 1:
        if len(gained) < 2:
            return {"detectable": np.nan, "equivalence_p": margin and np.nan}
        errors, free = [_error(gained, shared)], [len(gained) - 1]
    else:
        free, variances = _crossed_variances(gained, shared)
        errors = np.sqrt(variances)
    p = None
    if margin is not None:  # of the nearer end of the margin, whose test is the harder one
        away = gained - np.copysign(margin, gained.mean())
        p = t_test(away, shared) if gained.ndim == 1 else crossed(away, shared=shared)[2]
        p = p / 2 if abs(gained.mean()) < margin else 1 - p / 2
    return {"detectable": detectable(errors, free), "equivalence_p": p}


def jackknifed_gain(statistic, n, confidence, margin=None, shared=False) -> dict:
    """What one statistic of n subjects has more than another, by `jackknife`.

    Args:
        statistic: of an int array of subjects, the difference.
        n, confidence, shared: as of `jackknife`; margin: as of `claims`.

    Returns:
        difference, difference_low, difference_high, difference_p, detectable and equivalence_p.
    """
    gain, low, high, p = jackknife(statistic, n, confidence, shared)
    return {
        "difference": gain,
        "difference_low": low,
        "difference_high": high,
        "difference_p": p,
        **claims_of_interval(gain, low, high, n - 1, confidence, margin),
    }


def claims_of_interval(gain, low, high, free, confidence, margin=None) -> dict:
    """As `claims`, of a gain whose interval is Student's t of `free` degrees of freedom, uncut."""
    error = (high - low) / 2 / stdtrit(free, (1 + confidence) / 2)
    p = None
    if margin is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            p = float(stdtr(free, np.divide(abs(gain) - margin, error)))
    return {"detectable": detectable([error], [free]), "equivalence_p": p}


def detectable(errors, free, power=0.8, level=0.05) -> float:
    """The least true mean that a two-sided t test would have shown with a power.

    The noncentral t distribution at which the test of as many degrees of freedom has that power,
    times the standard error. Of a mean with two random factors each part is taken so, and both
    are added as `crossed` adds the halves of its width.

    Args:
        errors: standard errors of the mean, one of each random factor.
        free: their degrees of freedom.
        power: share of studies that show it.
        level: of the test.
    """
    parts = [error * _noncentrality(f, power, level) for error, f in zip(errors, free, strict=True)]
    return float(np.hypot.reduce(parts))


def _noncentrality(free, power, level):
    """Mean, in standard errors, that a two-sided t test finds to lie above 0 with that power."""
    return nctdtrinc(free, 1 - power, stdtrit(free, 1 - level / 2))
