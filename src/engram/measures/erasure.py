"""Taking out of inputs what is linear in the subject, or in numbers such as the clock.

All of it is fitted on rows that train and has a closed form.
"""

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage


def subject_axes(x, subjects) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What erases the linear subject axes: least-squares concept erasure (LEACE).

    x' = x - A (A' S^-1 A)^+ A' S^-1 (x - m) with A the means of subjects around m, their mean, and
    S the covariance of rows, shrunk as Ledoit and Wolf do (Belrose et al. 2023. LEACE: Perfect
    linear concept erasure in closed form. NeurIPS; any S that has an inverse erases). No
    linear model then tells these subjects apart. Of more axes than half the features the largest
    half is taken, for else nothing would be left.

    Args:
        x: float (n, d), rows that train.
        subjects: (n,).

    Returns:
        (centre (d,), take (d, axes), put (axes, d)), for `erased`.
    """
    _, of_row, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), x.shape[1]))
    np.add.at(means, of_row, x)
    means /= counts[:, None]
    centre = means.mean(0)
    axes = (means - centre).T
    spread = x - x.mean(0)
    covariance, shrunk = spread.T @ spread / len(x), ledoit_wolf_shrinkage(spread, True)
    level = max(np.trace(covariance) / len(covariance), np.finfo(float).tiny)
    covariance *= 1 - shrunk
    covariance[np.diag_indices(len(covariance))] += max(shrunk, 1e-6) * level
    solved = np.linalg.solve(covariance, axes)
    values, vectors = np.linalg.eigh(axes.T @ solved)
    most = min(len(counts) - 1, max(x.shape[1] // 2, 1))
    kept = np.flatnonzero(values > 1e-9 * max(values.max(), np.finfo(float).tiny))[::-1][:most]
    put = (axes @ vectors[:, kept]).T / values[kept][:, None]
    return centre, solved @ vectors[:, kept], put


def erased(x, centre, take, put) -> np.ndarray:
    """Rows without the axes that `subject_axes` found; float (n, d)."""
    return x - ((x - centre) @ take) @ put


def regressed(x, z, rows) -> np.ndarray:
    """Rows without what is linear in z, by least squares on the rows that train; float (n, d).

    Confounds are to be taken out so, within the rows that train (Snoek et al. 2019. How to control
    for confounds in decoding analyses of neuroimaging data. NeuroImage 184).

    Args:
        x: float (n, d); z: float (n, k); rows: those that train.
    """
    mean = z[rows].mean(0)
    slopes = np.linalg.lstsq(z[rows] - mean, x[rows] - x[rows].mean(0), rcond=1e-8)[0]
    return x - (z - mean) @ slopes


def subject_share(x, table) -> float:
    """Share of the variance of inputs that lies between subjects.

    Both variances are means of products of rows that share no noise, so that few or slow rows do
    not make subjects differ: between subjects, of the means of two halves of a subject, m1 m2; both
    against the products of means of different subjects. Halves are every other scan, or of a
    single scan the first and the second half.

    Args:
        x: float (n, d), standardised.
        table: n rows with subject, scan, start and stop.

    Returns:
        From 0 to 1; NaN unless two subjects have two halves.
    """
    halves, squares = [], []
    for rows in table.groupby("subject").indices.values():
        parts = _halves(table.iloc[rows])
        if parts is not None:
            halves.append([x[rows[part]].mean(0) for part in parts])
            squares.append((x[rows] ** 2).sum(1).mean())
    if len(halves) < 2:
        return np.nan
    one, other = np.array(halves).swapaxes(0, 1)
    products, n = one @ other.T, len(one)
    apart = (products.sum() - np.trace(products)) / (n * (n - 1))
    whole = np.mean(squares) - apart
    return float(np.clip((np.trace(products) / n - apart) / whole, 0, 1)) if whole > 0 else np.nan


def _halves(table):
    """Positions of two halves of the rows of a subject that share no seconds, or None."""
    scan = np.unique(table["scan"].to_numpy(str), return_inverse=True)[1]
    if scan.max() > 0:
        return [np.flatnonzero(scan % 2 == half) for half in (0, 1)]
    start, stop = table["start"].to_numpy(float), table["stop"].to_numpy(float)
    later = start > np.median(start)
    if not later.any():
        return None
    parts = [np.flatnonzero(~later & (stop <= start[later].min())), np.flatnonzero(later)]
    return parts if len(parts[0]) else None
