"""What may explain a label without any recording: the clock and facts of scans, as numbers.

What the numbers mean (which texts there are, mean and deviation, the longest scan) is taken from
some rows, those that train, and holds for all.
"""

import numpy as np
import pandas as pd

from engram.errors import InputError

CLOCK = "clock"
SCAN = "scan"  # which it is, of those that training has seen
TERMS = 4  # half waves over a scan


def fitted(table, of, rows) -> dict:
    """What columns mean, by the rows that train.

    Args:
        table: n rows with subject, scan, onset (s) and the columns `of`.
        of: names of columns, `CLOCK` and `SCAN`.
        rows: positions of the rows that train.

    Returns:
        JSON-able, by name: of the clock `longest` (the latest onset, s) and `scans` (how many a
        subject has at most, less one); of numbers `mean` and `sd`; of texts `values`.

    Raises:
        InputError: a column is not there.
    """
    return {name: _meant(table, name, rows) for name in of}


def _meant(table, name, rows):
    if name == CLOCK:
        those = table.iloc[rows]
        return {"longest": float(those["onset"].max()), "scans": int(_order(those).max())}
    if name == SCAN:
        return {"values": sorted(set(_scans(table)[rows]))}
    if name not in table:
        raise InputError(
            f"the rows have no column {name!r}; name it in `carry` of the dataset, with its type"
        )
    known = table[name].iloc[rows]
    if not _is_number(table[name]):
        return {"values": sorted(set(known.astype(str)) - {""})}
    numbers = known.to_numpy(float)
    numbers = numbers[np.isfinite(numbers)]
    sd = numbers.std() if len(numbers) else 0.0
    mean = numbers.mean() if len(numbers) else 0.0
    return {"mean": float(mean), "sd": float(sd) if sd > 0 else 1.0}


def design(table, state) -> np.ndarray:
    """The columns as numbers, float64 (n, k).

    The clock is a cosine series, `TERMS` half waves each over the scan and over the longest scan,
    and two over the order of a subject's scans by name. A number is standardised, one that is
    missing is the mean, and a column says so. A text is one column for each value; one that is
    missing, or not among those that train, is none of them.

    Args:
        table: n rows, as of `fitted`; whole scans, by which the relative time goes.
        state: from `fitted`.
    """
    return np.hstack([np.zeros((len(table), 0)), *(_numbers(table, *one) for one in state.items())])


def _numbers(table, name, state):
    if name == CLOCK:
        return _waves(table, **state)
    if "values" in state:
        found = _scans(table) if name == SCAN else table[name].astype(str).to_numpy(str)
        return (found[:, None] == np.array(state["values"], str)).astype(float)
    numbers = table[name].to_numpy(float)
    there = np.isfinite(numbers)
    standard = (np.where(there, numbers, state["mean"]) - state["mean"]) / state["sd"]
    return np.stack([standard, ~there], 1).astype(float)


def _waves(table, longest, scans):
    onset, of = table["onset"].to_numpy(float), table.groupby(["subject", "scan"])["onset"]
    first, last = (of.transform(end).to_numpy(float) for end in ("min", "max"))
    place = np.where(last > first, (onset - first) / np.where(last > first, last - first, 1), 0.5)
    since = np.clip(onset / longest, 0, 1) if longest > 0 else np.zeros(len(onset))
    order = np.clip(_order(table) / scans, 0, 1) if scans else np.zeros(len(onset))
    times = (place, TERMS), (since, TERMS), (order, 2)
    waves = [np.cos(np.pi * k * time) for time, terms in times for k in range(1, terms + 1)]
    return np.stack(waves, 1)


def _scans(table):
    return (table["subject"].astype(str) + "/" + table["scan"].astype(str)).to_numpy(str)


def _order(table):
    """Place of each row's scan among those of its subject, by name, from 0."""
    scans = table.groupby("subject")["scan"]
    return scans.transform(lambda names: pd.factorize(names, sort=True)[0]).to_numpy(int)


def empty(table, of) -> dict[str, int]:
    """Rows that lack a fact, by column, of those that some row lacks."""
    missing = {name: _missing(table[name]) for name in of if name not in (CLOCK, SCAN)}
    return {name: int(lacks.sum()) for name, lacks in missing.items() if lacks.any()}


def _missing(column):
    if _is_number(column):
        return ~np.isfinite(column.to_numpy(float))
    return (column.astype(str) == "").to_numpy()


def _is_number(column):
    return pd.api.types.is_numeric_dtype(column)
