"""Small statistics that several stages share."""

import numpy as np


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
