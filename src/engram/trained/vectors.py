"""Vectors that a model of each subject says of rows, block of numbers by block."""

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

from engram import store
from engram.errors import InputError
from engram.planning import components

#: Tensors that are read when they are used, for memory may not hold them.
LARGE = "/coefficients"


def predict(model, x, subject) -> pd.DataFrame:
    """A line a row, a column a number; see `Model.predict`.

    Raises:
        InputError: the rows are not what the model was fitted on, or there is no model of the
            subject.
    """
    rows, table = _rows(model, x)
    subject = _subject(model, table, subject)
    usable = np.flatnonzero(table["exclude"] == "")
    parts = [values for _, values in blocks(model, rows[usable], subject)]
    found = pd.DataFrame(np.concatenate(parts, axis=1), table.index[usable])
    return table.join(found)


def blocks(model, rows, subject):
    """What the model of a subject says: (slice, (n, numbers of the slice)), one after the other.

    Predictions are as they are scored, not rescaled. Coefficients are read for each block alone.

    Args:
        model: `Model` of vectors.
        rows: (n, ...).
        subject: whose model is asked.

    Raises:
        InputError: the rows have another width, or a value is not finite.
    """
    head, options = components.options("heads", model.facts["head"])
    number = model.facts["kept"]["candidate"] if "x" in model.facts["chosen"] else None
    prefix = ("" if number is None else f"{number}/") + f"{subject}/"
    with safe_open(model.path, "np") as file:
        state = {
            name.removeprefix(prefix): file.get_slice(name)
            if name.endswith(LARGE)
            else file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118
            if name.startswith(prefix)
        }
        rows = np.asarray(rows, np.float32).reshape(len(rows), -1)
        wanted = head.width_of_rows(state)
        if rows.shape[1] != wanted:
            raise InputError(
                f"{model.path.name}: the model of {subject} is of rows of {wanted} numbers, these "
                f"have {rows.shape[1]}"
            )
        if not np.isfinite(rows).all():
            raise InputError(f"{model.path.name}: rows hold NaN or infinite values; exclude them")
        yield from head.vectors(state, rows, model, options)


def _rows(model, x):
    """Rows of x in memory, of one store or an array, and their table."""
    (source,) = model.sources
    x = x[source] if isinstance(x, dict) else x
    if isinstance(x, np.ndarray):
        return x, pd.DataFrame({"exclude": ""}, index=[f"row-{i:06d}" for i in range(len(x))])
    paths = [x] if isinstance(x, str | Path) else list(x)
    for path in paths:
        model.check(source, store.open(path).header, path)
    found = store.load(paths)
    return found.array, found.table.assign(exclude=found.table.get("exclude", ""))


def _subject(model, table, subject):
    """Whose model is asked: who is named, else whose the rows are, else the only one."""
    names = model.facts["kept"]["models"]
    given = {subject} if subject else {*table.get("subject", pd.Series(names)).astype(str)}
    if len(given) != 1 or not given <= {*names}:
        raise InputError(
            f"{model.path.name}: has a model a subject, of {', '.join(names)}; give the rows of "
            f"one of them, or `subject`, not {', '.join(sorted(given))}"
        )
    return given.pop()
