"""Labels of a recording as a table beside it."""

import pandas as pd

from engram.errors import InputError


def read(path):
    """(labels of the windows or None, events) of a CSV file of labels."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable CSV file of labels ({error})") from None
    if {"window", "label"} <= set(table):
        return _by_window(path, table.sort_values("window")), []
    if {"onset", "duration", "label"} <= set(table):
        return None, _by_time(path, table)
    raise InputError(
        f"{path}: columns {', '.join(table)}; expected window and label, or onset, duration, label"
    )


def _by_window(path, table):
    if table["window"].tolist() != list(range(len(table))):
        raise InputError(f"{path}: windows are to be numbered 0, 1, ..., each once")
    labels = pd.to_numeric(table["label"], errors="coerce")
    if (labels.isna() & table["label"].notna()).any() or (labels.dropna() % 1 != 0).any():
        raise InputError(f"{path}: a label is the number of its class, 0, 1, ..., or empty")
    return labels.fillna(-1).to_numpy(int)


def _by_time(path, table):
    times = table[["onset", "duration"]].apply(pd.to_numeric, errors="coerce")
    if times.isna().any(axis=None):
        raise InputError(f"{path}: onset and duration are to be seconds, in every line")
    return zip(times["onset"], times["duration"], table["label"].astype(str), strict=True)
