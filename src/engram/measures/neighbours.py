"""How far a latent space groups rows by state, and how far by subject."""

import numpy as np
from sklearn.metrics import pairwise_distances_chunked, silhouette_score


def purity(latent, labels, own=None, k=20) -> tuple[float, float]:
    """Share of a row's `k` nearest rows (cosine) that carry its label, and the share by chance.

    Chance is the share of a row's label among all rows that could have been its neighbours.

    Args:
        latent: rows in the latent space, shape (n, d).
        labels: the label of each row, shape (n,).
        own: group of each row, shape (n,); rows of the same group are no neighbours.  By
            default every row but itself can be one.
        k: neighbours; fewer where fewer rows can be neighbours.

    Returns:
        (purity, chance), means over rows; NaN if no row has a possible neighbour with its label,
        such as by subject where every subject has one row.
    """
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    groups = np.arange(len(codes)) if own is None else np.unique(own, return_inverse=True)[1]

    def of_chunk(distances, start):
        rows = slice(start, start + len(distances))
        allowed = groups[rows, None] != groups
        same = codes[rows, None] == codes
        distances = np.where(allowed, distances, np.inf)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
        valid = np.take_along_axis(allowed, nearest, axis=1)
        hits = (np.take_along_axis(same, nearest, axis=1) & valid).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return hits / valid.sum(axis=1), (same & allowed).sum(axis=1) / allowed.sum(axis=1)

    parts = pairwise_distances_chunked(latent, metric="cosine", reduce_func=of_chunk)
    found, chance = map(np.concatenate, zip(*parts, strict=True))
    if not np.nansum(chance):
        return np.nan, np.nan
    return float(np.nanmean(found)), float(np.nanmean(chance))


def silhouette(latent, labels) -> float:
    """Mean silhouette (cosine) of the rows grouped by `labels`; NaN if there is one group only.

    Source: Rousseeuw, J. Comput. Appl. Math. 20 (1987) 53-65.
    """
    if not 1 < len(set(labels)) < len(latent):
        return np.nan
    return float(silhouette_score(latent, labels, metric="cosine"))


def summary(latent, table) -> list[dict]:
    """What the map's companion table says: purity and silhouette by state and by subject.

    Args:
        latent: shape (n, d).
        table: n rows with columns `state` and `subject`.
    """
    state, subject = table["state"].to_numpy(), table["subject"].to_numpy()
    questions = (
        ("state", "all windows", state, None),
        ("state", "windows of other subjects", state, subject),
        ("subject", "all windows", subject, None),
    )
    lines = []
    for name, among, labels, own in questions:
        value, chance = purity(latent, labels, own)
        width = None if own is not None else silhouette(latent, labels)
        lines.append(
            {"by": name, "among": among, "purity": value, "chance": chance, "silhouette": width}
        )
    return lines
