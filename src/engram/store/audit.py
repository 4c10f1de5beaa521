"""What is odd about the rows of a float array, found while they are written.

Signals that died, models that answer always alike and files that were copied twice show
here, before anything is trained on them.
"""

import hashlib
import sys

import numpy as np

from engram.store import layout

CODE_VERSION = 2

WORDS = {
    "not_finite": ("row is not finite", "rows are not finite"),
    "constant": ("row is constant", "rows are constant"),
    "duplicate": ("row is a duplicate of another", "rows are duplicates of others"),
}
FIRST = 3


class Audit:
    """Counts odd rows as blocks pass by, in order.

    Rows that the table excludes (a column `exclude` that is not "") are not counted.  A row
    that is not finite is nothing else; a row of a single value cannot be constant.

    Args:
        table: DataFrame of n rows, indexed by row name.
        shape, dtype: of the array; only float arrays of at least 2 dimensions are audited.
    """

    def __init__(self, table, shape, dtype):
        self._applies = np.dtype(dtype).kind == "f" and len(shape) > 1
        self._names = table.index
        reasons = layout.column(table["exclude"]) if "exclude" in table else [""] * len(table)
        self._used = np.array([reason == "" for reason in reasons], bool)
        self._digests = set()
        self._found = {kind: [0, []] for kind in WORDS}

    def add(self, start, values):
        """Look at the rows `values` (m, ...), the first of which is row `start`."""
        if not self._applies or not values.size:
            return
        values = np.ascontiguousarray(values).reshape(len(values), -1)
        used = self._used[start : start + len(values)]
        finite = np.isfinite(values).all(axis=1)
        self._count("not_finite", start, used & ~finite)
        if values.shape[1] > 1:
            same = (values == values[:, :1]).all(axis=1)
            self._count("constant", start, used & finite & same)
        self._count("duplicate", start, self._seen(values, used & finite))

    def _seen(self, values, rows):
        seen = np.zeros(len(values), bool)
        for i in np.flatnonzero(rows):
            digest = hashlib.sha256(values[i]).digest()
            seen[i] = digest in self._digests
            self._digests.add(digest)
        return seen

    def _count(self, kind, start, rows):
        found = self._found[kind]
        at = np.flatnonzero(rows)
        found[0] += len(at)
        found[1] += [str(name) for name in self._names[start + at[: FIRST - len(found[1])]]]

    def result(self) -> dict:
        """{kind: {"rows": how many, "first": at most 3 row names}}; {} if it does not apply."""
        if not self._applies:
            return {}
        return {kind: {"rows": n, "first": first} for kind, (n, first) in self._found.items()}


def warn(path, result):
    """Say on stderr what `result` of an audit found, one line a kind."""
    for kind, found in result.items():
        n, first = found["rows"], ", ".join(found["first"])
        if n:
            print(f"warning: {path}: {n} {WORDS[kind][n > 1]}, first {first}", file=sys.stderr)
