"""Rows of the inputs that are nearly the same, in different subjects or sides of the folds."""

import numpy as np

ALIKE = 0.999  # cosine of standardised inputs above which rows may be copies
CHANCE = 0.001  # pairs that are taken for copies by chance, at most, in a whole experiment
WIDTH = 128  # numbers of a row that are searched
BLOCK = 1024  # rows that are compared with all at once
EXAMPLES = 5


def near_copies(x, table, rng) -> dict:
    """Pairs of rows that are much more alike than rows of different subjects ever are.

    The nearest row of another subject is compared with the nearest of a third one. Of rows that
    have nothing to do with each other the quotient of these distances, m, is beyond r with
    probability r^-d, d being the intrinsic dimension of the rows (Facco et al. 2017. Estimating
    the intrinsic dimension of datasets by a minimal neighborhood information. Scientific Reports
    7), which the lower quartile of m gives. A pair is a copy where that is less than `CHANCE` / n
    and its cosine is above `ALIKE`. Neighbours in time are never compared. Where folds share scans,
    scans are compared likewise, around the mean of their subject. Of few features, which chance
    brings close, no copy is told.

    Args:
        x: float32 (n, d), standardised.
        table: n rows with subject, scan and fold, indexed by name.
        rng: Generator, projects wide inputs for the search.

    Returns:
        pairs; between, those across subjects or sides of a fold; examples, 5 pairs of names at
        most.
    """
    subject, scan = (table[column].to_numpy(str) for column in ("subject", "scan"))
    of_subject = np.unique(subject, return_inverse=True)[1]
    pairs = _copies(x, of_subject, rng)
    fold = table["fold"].to_numpy(str) if "fold" in table else subject
    if "fold" in table and (table.groupby(["subject", "scan"])["fold"].nunique() > 1).any():
        of_scan = np.unique(np.stack([subject, scan]), axis=1, return_inverse=True)[1].ravel()
        pairs |= _copies(x, of_scan, rng, around=of_subject)
    pairs, names = sorted(pairs), table.index
    across = [
        (one, other)
        for one, other in pairs
        if subject[one] != subject[other] or fold[one] != fold[other]
    ]
    examples = [[names[one], names[other]] for one, other in across[:EXAMPLES]]
    return {"pairs": len(pairs), "between": len(across), "examples": examples}


def of_pictures(features, concepts, test, names, rng) -> dict:
    """Pictures of training and of test that are nearly the same, as one under two names is.

    Args:
        features: float (m, d) of the pictures.
        concepts: m names of what they show; pictures of one concept may be alike.
        test: bool (m,), which of them are tested.
        names: m names.
        rng: as for `near_copies`.

    Returns:
        As `near_copies`; between are pairs of a training and a test picture.
    """
    sd = features.std(0)
    x = ((features - features.mean(0)) / np.where(sd > 0, sd, 1)).astype(np.float32)
    pairs = sorted(_copies(x, np.unique(concepts, return_inverse=True)[1], rng))
    across = [(one, other) for one, other in pairs if test[one] != test[other]]
    examples = [[str(names[one]), str(names[other])] for one, other in across[:EXAMPLES]]
    return {"pairs": len(pairs), "between": len(across), "examples": examples}


def _copies(x, groups, rng, around=None):
    """Pairs of rows of different groups; distances are taken without the means of `around`."""
    if groups.max() < 2:
        return set()
    searched = x if around is None else x - _means(x, around)
    least, nearest, second = _nearest(_narrow(searched, rng), groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = np.sqrt(second / least)
    quartile = np.quantile(beyond, 0.25)
    if not quartile > 1:
        return set()
    dimension = np.log(1 / 0.75) / np.log(quartile)
    there = np.flatnonzero(dimension * np.log(beyond) > np.log(len(x) / CHANCE))
    there = there[_cosine(x[there], x[nearest[there]]) > ALIKE]
    return {tuple(sorted((int(i), int(nearest[i])))) for i in there}


def _means(x, groups):
    sums = np.zeros((groups.max() + 1, x.shape[1]), x.dtype)
    np.add.at(sums, groups, x)
    return (sums / np.bincount(groups)[:, None].astype(x.dtype))[groups]


def _narrow(x, rng):
    if x.shape[1] <= WIDTH:
        return x
    random = rng.standard_normal((x.shape[1], WIDTH), dtype=np.float32)
    return x @ random / np.sqrt(np.float32(WIDTH))


def _nearest(x, groups):
    """Of each row the squared distance to the nearest row of another group, which that is, and the
    squared distance to the nearest of a third group; (n,) each.
    """
    order = np.argsort(groups, kind="stable")
    x, of = np.asarray(x, np.float32)[order], groups[order]
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    length = (x**2).sum(1)
    least, second, nearest = np.empty(len(x)), np.empty(len(x)), np.empty(len(x), int)
    for start in range(0, len(x), BLOCK):
        at = slice(start, start + BLOCK)
        squares = length[at, None] + length - 2 * (x[at] @ x.T)
        np.maximum(squares, 1e-5 * length[at, None], out=squares)  # below is rounding
        of_group = np.minimum.reduceat(squares, starts, axis=1)
        rows = np.arange(len(squares))
        of_group[rows, of[at]] = np.inf
        first = of_group.argmin(1)
        least[at] = of_group[rows, first]
        for row, group in zip(rows, first, strict=True):
            end = starts[group + 1] if group + 1 < len(starts) else len(x)
            own = slice(starts[group], end)
            nearest[start + row] = starts[group] + squares[row, own].argmin()
        of_group[rows, first] = np.inf
        second[at] = of_group.min(1)
    back = np.empty(len(x), int)
    back[order] = np.arange(len(x))
    return least[back], order[nearest][back], second[back]


def _cosine(one, other):
    products, lengths = (one * other).sum(1), (one**2).sum(1) * (other**2).sum(1)
    return products / np.sqrt(np.maximum(lengths, np.finfo(np.float32).tiny))
