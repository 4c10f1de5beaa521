"""How alike the spaces are that several models put the same rows in."""

import numpy as np
from scipy.spatial.distance import squareform


def centred_gram(features, debiased=True) -> np.ndarray:
    """Linear kernel of the rows of `features`, centred, as the pairs of different rows need it.

    With U-centring the inner product of two such vectors is, but for one factor that all pairs
    of spaces share, the unbiased estimate of HSIC; with double centring it is the biased one
    (Gretton et al. 2005).

    Args:
        features: (n, ...), every row one vector; n at least 4.
        debiased: whether to estimate without bias.

    Returns:
        float64 vector: the upper triangle, (n (n - 1) / 2,), times the square root of 2; and
        then, if biased, the diagonal, (n,).

    Source: Song, Smola, Gretton, Bedo, Borgwardt, JMLR 13 (2012) 1393-1434, eq. 5, in the form
    of Székely, Rizzo, Annals of Statistics 42 (2014) 2382-2412.
    """
    x = np.asarray(features, np.float64).reshape(len(features), -1)
    x = x - x.mean(axis=0)
    gram = x @ x.T
    if not debiased:
        return np.append(np.sqrt(2) * squareform(gram, checks=False), np.diagonal(gram))
    n = len(gram)
    np.fill_diagonal(gram, 0)
    sums = gram.sum(axis=0) / (n - 2)
    gram -= sums + sums[:, None] - sums.sum() / (n - 1)
    return np.sqrt(2) * squareform(gram, checks=False)


def linear_cka(spaces, debiased=True) -> np.ndarray:
    """Linear centred kernel alignment of every pair of spaces.

    1 for spaces that differ by a rotation and a scale, about 0 for independent ones; without
    the correction of the bias, independent spaces of many dimensions and few rows look alike.

    Args:
        spaces: arrays (n, ...), float, that hold the same n rows; n at least 4.
        debiased: whether to estimate HSIC without bias; then values may lie below 0.

    Returns:
        float64 (spaces, spaces), symmetric, 1 on the diagonal; NaN where a space is constant.

    Raises:
        ValueError: fewer than 4 rows.

    Source: Kornblith, Norouzi, Lee, Hinton, ICML (2019), with HSIC as in `centred_gram`.
    """
    if len(spaces[0]) < 4:
        raise ValueError("CKA needs at least 4 rows")
    grams = np.stack([_unit(centred_gram(space, debiased)) for space in spaces])
    return grams @ grams.T


def _unit(vector):
    length = np.linalg.norm(vector)
    return vector / length if length else np.full_like(vector, np.nan)


def stratified(strata, most, seed=0) -> np.ndarray:
    """Positions of at most `most` rows, ascending, every stratum by its share of the rows.

    Within a stratum rows are drawn by lot; shares are kept to within one row.

    Args:
        strata: label of each row, (n,).
        most: rows wanted; all n if there are no more.
        seed: of the draw.
    """
    n = len(strata)
    if n <= most:
        return np.arange(n)
    codes = np.unique(np.asarray(strata), return_inverse=True)[1]
    by_lot = np.random.default_rng(seed).permutation(n)
    ordered = by_lot[np.argsort(codes[by_lot], kind="stable")]
    return np.sort(ordered[np.arange(most) * n // most])
