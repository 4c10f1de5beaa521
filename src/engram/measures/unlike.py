"""How unlike the rows that a model was fitted on new rows are.

Two distances of multivariate process control (Jackson & Mudholkar 1979. Control procedures for
residuals associated with principal component analysis. Technometrics 21): Hotelling's T2 within the
first principal components of the known rows, and the squared residual outside them. Each is
divided by the 99 % quantile of rows of subjects who were left out, so that 1 is what one row in a
hundred of a new subject from the same population reaches; or by that of the known rows, where it is
larger: components of few rows fit these better than any others.
"""

import numpy as np

COMPONENTS = 32
FEATURES = 4096  # of a row, evenly spaced, at most
ROWS = 4000  # that are known, evenly spaced, at most
READ = 256  # of them at once
GROUPS = 5  # of subjects that are left out in turn
QUANTILE = 0.99
SPARE, PASSES = 10, 4  # of the search for components: vectors beside them, rounds


def reference(x, subjects, rows=None) -> dict[str, np.ndarray]:
    """What is kept of the known rows.

    Args:
        x: (n, ...), a row each, an array or an object with `shape` that reads the rows asked for,
            block by block.
        subjects: of each known row, (m,); with a single one nothing can be left out, and the limits
            are those of the known rows themselves.
        rows: int (m,), which rows are known; None: all.

    Returns:
        `mean`, `sd` (features,), `axes` (components, features) and `variance` (components,) of
        standardised rows, and `limits` (2,), the quantiles of both distances; float32; and `shape`
        of a row, int64.
    """
    known = np.arange(x.shape[0]) if rows is None else np.asarray(rows)
    few = np.unique(np.linspace(0, len(known) - 1, min(len(known), ROWS)).astype(int))
    blocks = [known[few[start : start + READ]] for start in range(0, len(few), READ)]
    rows, subjects = np.concatenate([_flat(x[one]) for one in blocks]), np.asarray(subjects)[few]
    names = np.unique(subjects)
    number = np.searchsorted(names, subjects) % min(GROUPS, len(names))
    groups = [number == g for g in range(number.max() + 1)]
    found = _fitted(rows)
    limits = np.quantile(_distances(found, rows), QUANTILE, axis=0)
    if len(groups) > 1:
        left_out = [_distances(_fitted(rows[~own]), rows[own]) for own in groups]
        limits = np.maximum(limits, np.quantile(np.concatenate(left_out), QUANTILE, axis=0))
    found["limits"] = np.where(limits > 0, limits, 1.0)
    found = {name: np.asarray(value, np.float32) for name, value in found.items()}
    return found | {"shape": np.array(x.shape[1:], np.int64)}


def distance(known, x) -> np.ndarray:
    """The larger of both distances of each row, in units of its limit; float32 (n,).

    NaN where a row holds a value that is not finite.

    Args:
        known: from `reference`.
        x: (n, ...), rows of the same shape.
    """
    parts = [x[start : start + ROWS] for start in range(0, len(x), ROWS)]
    found = [(_distances(known, _flat(part)) / known["limits"]).max(1) for part in parts]
    return np.concatenate(found or [np.zeros(0)]).astype(np.float32)


def placed(known, x) -> np.ndarray:
    """Rows standardised as the known rows are; of wide ones their first principal components.

    Args: as of `distance`.

    Returns:
        float32 (n, d), d at most `COMPONENTS`.
    """
    z = (_flat(x) - known["mean"]) / known["sd"]
    return (z if z.shape[1] <= COMPONENTS else z @ known["axes"].T).astype(np.float32)


def _flat(x):
    x = np.asarray(x)
    x = x.reshape(len(x), -1)
    few = np.unique(np.linspace(0, x.shape[1] - 1, min(x.shape[1], FEATURES)).astype(int))
    return x[:, few].astype(np.float32)


def _fitted(rows):
    mean, sd = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
    sd = np.where(sd > 0, sd, 1.0)
    z = (rows - mean.astype(np.float32)) / sd.astype(np.float32)
    n, d = z.shape
    axes, values = _principal(z, min(COMPONENTS, max(1, min(n - 1, d) // 2)))
    there = values > np.finfo(np.float32).eps * max(values[0], 1e-12)
    return {"mean": mean, "sd": sd, "axes": axes[there], "variance": values[there] / max(n - 1, 1)}


def _principal(z, k):
    """First k right singular vectors (k, d) of z, and squared singular values, nearly.

    Subspace iteration from a random start that is always the same (Halko, Martinsson & Tropp 2011.
    SIAM Review 53, algorithm 4.4): the decompositions of all rows took ten times as long.
    """
    n, d = z.shape
    start = np.random.default_rng(0).standard_normal((d, min(k + SPARE, n, d)), np.float32)
    found = np.linalg.qr(z @ start)[0]
    for _ in range(PASSES):
        found = np.linalg.qr(z @ np.linalg.qr(z.T @ found)[0])[0]
    small = (found.T @ z).astype(np.float64)
    values, vectors = np.linalg.eigh(small @ small.T)
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
    length = np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))
    return vectors.T @ small / length[:, None], values


def _distances(known, rows):
    """T2 by component and mean squared residual of each row, float64 (n, 2)."""
    z = (rows - known["mean"]) / known["sd"]
    scores = z @ known["axes"].T
    outside = (z**2).sum(1) - (scores**2).sum(1)
    t2 = (scores**2 / known["variance"]).mean(1)
    return np.stack([t2, np.maximum(outside, 0) / z.shape[1]], 1)
