"""How well vectors of one kind find their counterparts of another: ranks, scores, inference.

Everything starts from a similarity matrix (n queries, m candidates) and the candidate that is
true of each query. The candidates are the caller's and never depend on batches. Pure NumPy.
"""

import numpy as np

from engram.errors import InputError

KS = (1, 3, 5)
WAYS = (2, 4, 10, 50, 100)
REPETITIONS = (1, 2, 5, 10, 20, 40)
TOLERANCE = 1e-12


# ---- scores -----------------------------------------------------------------------------


def ranks(similarity, truth=None) -> np.ndarray:
    """Rank of the true candidate of every query, 1 = best; a tie counts half.

    Args:
        similarity: float (n, m), the larger the closer.
        truth: int (n,), the true column of each row; None: the diagonal of a square matrix.

    Returns:
        float (n,): 1 + candidates that are closer + half of the others that are as close.

    Raises:
        InputError: a value is NaN, or the matrix is not square and `truth` is not given.
    """
    similarity, truth = _checked(similarity, truth)
    own = np.take_along_axis(similarity, truth[:, None], 1)
    return 1 + (similarity > own).sum(1) + ((similarity == own).sum(1) - 1) / 2


def scores(ranks, candidates) -> dict[str, float]:
    """Mean scores of ranks (n,) among `candidates`, by name.

    top1, top3, top5: share of ranks not above k; mrr: mean of 1 / rank; median_rank, mean_rank;
    2-way ... 100-way: `k_way`, for k up to the number of candidates.
    """
    ranks = np.asarray(ranks, float)
    found = {f"top{k}": float((ranks <= k).mean()) for k in KS if k <= candidates}
    found |= {"mrr": float((1 / ranks).mean()), "median_rank": float(np.median(ranks))}
    found["mean_rank"] = float(ranks.mean())
    ways = [k for k in WAYS if k <= candidates]
    return found | {f"{k}-way": float(k_way(ranks, candidates, k).mean()) for k in ways}


def chance(candidates) -> dict[str, float]:
    """What `scores` gives in the mean if the true candidate is any with equal probability."""
    every = np.arange(1, candidates + 1)
    found = {f"top{k}": k / candidates for k in KS if k <= candidates}
    middle = (candidates + 1) / 2
    found |= {"mrr": float((1 / every).mean()), "median_rank": middle, "mean_rank": middle}
    return found | {f"{k}-way": 1 / k for k in WAYS if k <= candidates}


def k_way(ranks, candidates, k) -> np.ndarray:
    """Probability to be closest among k: the true candidate and k - 1 others drawn at random.

    C(N - r, k - 1) / C(N - 1, k - 1) for rank r of N candidates, in place of drawing. A rank
    between two whole ones, from a tie, has the mean of both: what a tie of two gives if it is
    broken at random.

    Args:
        ranks: float (n,), 1 to `candidates`, multiples of one half.
        candidates: N.
        k: 2 to N.

    Returns:
        float (n,).
    """
    every = np.arange(1, candidates + 1)
    factors = [(candidates - every - j) / (candidates - 1 - j) for j in range(k - 1)]
    of_rank = np.prod(np.maximum(factors, 0), 0)
    ranks = np.asarray(ranks, float)
    low, high = np.floor(ranks).astype(int), np.ceil(ranks).astype(int)
    return (of_rank[low - 1] + of_rank[high - 1]) / 2


def repetition_counts(n) -> list[int]:
    """How many of n repetitions of a test picture are averaged in the points of a curve."""
    return [count for count in REPETITIONS if count < n] + [n]


# ---- inference --------------------------------------------------------------------------


def permutation(similarities, truth=None, score=None, resamples=1000, seed=0):
    """A score under random pairings of candidates with what was shown, and the p of the true one.

    A pairing exchanges the candidates for all queries alike: subjects who were shown the same
    pictures respond alike to them, so that their rows may not be exchanged one by one.

    Args:
        similarities: float (n, m), or several, (runs, n, m), whose scores are averaged.
        truth: as for `ranks`.
        score: maps ranks (n,) to a number, the larger the better; None: top-1.
        resamples: random pairings.
        seed: of these.

    Returns:
        (observed, null float (resamples,), p), p = (1 + null >= observed) / (1 + resamples).
    """
    similarities = np.asarray(similarities)
    runs = [_checked(one, truth) for one in similarities.reshape(-1, *similarities.shape[-2:])]
    truth = runs[0][1]
    score = score or (lambda found: float((found <= 1).mean()))
    columns = np.unique(truth)
    tables = [
        np.stack([ranks(similarity, np.full(len(truth), c)) for c in columns], 1)
        for similarity, _ in runs
    ]
    at, rows = np.searchsorted(columns, truth), np.arange(len(truth))
    rng = np.random.default_rng(seed)

    def of(order):
        return float(np.mean([score(table[rows, order[at]]) for table in tables]))

    null = np.array([of(rng.permutation(len(columns))) for _ in range(resamples)])
    observed = of(np.arange(len(columns)))
    p = (1 + (null >= observed - TOLERANCE).sum()) / (1 + resamples)
    return observed, null, float(p)


def _checked(similarity, truth):
    similarity = np.asarray(similarity)
    if np.isnan(similarity).any():
        row = int(np.argwhere(np.isnan(similarity))[0, 0])
        raise InputError(f"similarity: row {row} holds NaN; the vectors must be finite, not zero")
    if truth is None:
        if similarity.shape[0] != similarity.shape[1]:
            raise InputError(
                f"similarity: {similarity.shape[0]} rows, {similarity.shape[1]} columns; "
                "give the true column of each row"
            )
        truth = np.arange(len(similarity))
    return similarity, np.asarray(truth)
