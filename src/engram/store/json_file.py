"""JSON files of numbers: NaN, which JSON lacks, is null."""

import json

import numpy as np
import pandas as pd

from engram import store


def write(data, path):
    """Write `data`, dicts and lists of numbers, texts and arrays, as JSON."""
    with store.replaced(path) as temporary:
        temporary.write_text(json.dumps(_plain(data), allow_nan=False), encoding="utf-8")


def _plain(value):
    """`value` as JSON can hold it: NaN is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray | pd.Series):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value
