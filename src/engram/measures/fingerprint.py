"""Is a subject found again, without any label, from another half of what was recorded of it?

Identification by connectomes (Finn et al., Nature Neuroscience 2015), of any features.
"""

import numpy as np
from scipy.special import ndtri


def halves(table) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are in the first, and which in the second half of a scan, bool (n,) each.

    Rows of the first half that share seconds with one of the second are in neither.  Scans that are
    one row each are dealt out whole: those of a subject that come first by name are its first half.

    Args:
        table: n rows with subject, scan, onset, start and stop (s).
    """
    scan = [table["subject"], table["scan"]]
    second = table["onset"] > table["onset"].groupby(scan).transform("median")
    begins = table["start"].where(second).groupby(scan).transform("min")
    first = ~second & (table["stop"] <= begins + 1e-6)
    whole = table[table.groupby(["subject", "scan"])["onset"].transform("size") == 1]
    place = whole.groupby("subject")["scan"].rank("dense")
    later = place > place.groupby(whole["subject"]).transform("max") / 2
    several = place.groupby(whole["subject"]).transform("max") > 1
    second.loc[whole.index], first.loc[whole.index] = later & several, ~later & several
    return first.to_numpy(), second.to_numpy()


def identification(space, table, confidence=0.95) -> dict:
    """Share of subjects whose halves are more alike than the halves of any two subjects.

    Each half of a subject is the mean of its rows; each is looked for among the other halves of
    all subjects, by Pearson's correlation over the features.  A tie with another subject is a miss.

    Args:
        space: float (n, d).
        table: as for `halves`.
        confidence: of the interval.

    Returns:
        accuracy, mean over both directions; low and high, the ends of its interval (Wilson 1927),
        as if subjects were independent trials; chance, 1 / subjects; subjects, how many have both
        halves.  NaN where fewer than two have.
    """
    subject = table["subject"].to_numpy(str)
    parts = halves(table)
    names = np.intersect1d(*(subject[part] for part in parts))
    if len(names) < 2:
        return dict.fromkeys(("accuracy", "low", "high", "chance"), np.nan) | {
            "subjects": len(names)
        }
    one, other = (
        np.stack([space[part & (subject == name)].mean(0) for name in names]) for part in parts
    )
    alike = _unit(one) @ _unit(other).T
    own, others = np.diagonal(alike), alike.copy()
    np.fill_diagonal(others, -np.inf)
    accuracy = float(np.mean([own > others.max(axis) for axis in (0, 1)]))
    low, high = wilson(accuracy, len(names), confidence)
    return {
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "chance": 1 / len(names),
        "subjects": len(names),
    }


def _unit(rows):
    """Rows centred, of length 1; rows of zeros where nothing varies."""
    rows = rows - rows.mean(1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def wilson(share, n, confidence=0.95) -> tuple[float, float]:
    """Interval of a share of n trials (Wilson, JASA 1927)."""
    z = float(ndtri((1 + confidence) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
