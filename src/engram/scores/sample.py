"""How much independent evidence there is: subjects, scans, label switches, autocorrelation."""

import numpy as np
import pandas as pd


def describe(y, table, classes, excluded) -> dict:
    """Facts about the scored windows, JSON-able.

    Args:
        y: int (n,), class of each row.
        table: n rows with subject, scan and window.
        classes: names of the classes.
        excluded: number of left-out rows by reason.
    """
    counts = pd.crosstab([table["subject"], table["scan"]], y)
    counts = counts.reindex(columns=range(len(classes)), fill_value=0)
    r = autocorrelation(y[:, None] == np.arange(len(classes)), table)
    neighbours, before = _neighbours(table)
    return {
        "subjects": int(table["subject"].nunique()),
        "scans": len(counts),
        "windows": len(y),
        "label_switches": int((y[neighbours] != y[before]).sum()),
        "label_autocorrelation": r,
        "effective_sample_size": effective_sample_size(len(y), r, len(counts)),
        "excluded": dict(excluded),
        "scans_table": [
            {
                "subject": subject,
                "scan": scan,
                "counts": dict(zip(classes, map(int, row), strict=True)),
            }
            for (subject, scan), row in zip(counts.index, counts.to_numpy(), strict=True)
        ],
        "constant_scans": [
            f"{subject}/{scan}"
            for (subject, scan), row in zip(counts.index, counts.to_numpy(), strict=True)
            if (row > 0).sum() == 1
        ],
    }


def autocorrelation(values, table) -> float:
    """Lag-1 autocorrelation, mean over scans.

    In each scan: sum of products of consecutive rows over the sum of squares, centred by the
    scan and summed over columns.  Windows that were left out break the sequence: only rows
    whose `window` differs by one count as consecutive, and their sum is scaled up to as many
    pairs as an unbroken scan has.  Scans in which nothing varies are left out.

    Args:
        values: (n, d); one-hot columns for labels.
        table: n rows with subject, scan and window.

    Returns:
        The mean; NaN if nothing varies anywhere.
    """
    values = np.asarray(values, float)
    found = []
    for at in table.groupby(["subject", "scan"]).indices.values():
        centred = values[at] - values[at].mean(0)
        later, earlier = _neighbours(table.iloc[at])
        squares = (centred**2).sum()
        if len(later) and squares > 1e-12 * max(1.0, (values[at] ** 2).sum()):
            products = (centred[later] * centred[earlier]).sum()
            found.append(products / squares * (len(at) - 1) / len(later))
    return float(np.mean(found)) if found else np.nan


def effective_sample_size(n, r, scans) -> float:
    """n (1 - r) / (1 + r): how many independent windows n windows in a first-order chain are.

    Negative r counts as none.  Where no scan's label varies, each scan is one observation.
    """
    if np.isnan(r):
        return float(scans)
    r = max(r, 0.0)
    return float(n * (1 - r) / (1 + r))


def _neighbours(table):
    """Positions (later, earlier) of rows that are consecutive windows of one scan."""
    order = np.lexsort((table["window"], table["scan"], table["subject"]))
    ordered = table.iloc[order]
    same = [(ordered[c].to_numpy()[1:] == ordered[c].to_numpy()[:-1]) for c in ("subject", "scan")]
    step = np.diff(ordered["window"].to_numpy()) == 1
    consecutive = same[0] & same[1] & step
    return order[1:][consecutive], order[:-1][consecutive]
