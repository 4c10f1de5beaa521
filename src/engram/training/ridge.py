"""Exact ridge regression of very many targets, in bounded memory.

Minimises |Y - X B - 1 b|^2 + alpha |B|^2 over B and the intercept b, for every column of Y at
once. Whatever Y is, a prediction is a fixed weighted sum of the rows of Y, with weights that sum
to 1: they come from X alone, by one factorisation an alpha, of features where these are fewer than
rows and of rows where rows are fewer (Saunders et al., ICML 1998). So X is read block of columns by
block, Y block of rows by block, and neither Y nor the coefficients (targets x features) are held.

The residuals of models that were fitted without some rows F, from the one model of all rows:
Q_FF^-1 (Q Y)_F, Q being what maps Y to its residuals (An, Liu & Venkatesh, Pattern Recognition 40,
2007).
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, get_blas_funcs, lapack
from threadpoolctl import threadpool_limits

from engram.errors import InputError

BLOCK_BYTES = 640 << 20  # of a block of columns of X, or of sums over rows of Y
BUNCH_BYTES = 128 << 20  # of rows that are read at a time


@dataclass(frozen=True)
class Columns:
    """Some columns of a source, flattened, as if they were all.

    Attributes:
        source: (rows, ...), as of `read`.
        columns: a slice or int (k,).
    """

    source: object
    columns: object

    @property
    def shape(self):
        width = int(np.prod(self.source.shape[1:], dtype=int))
        return (self.source.shape[0], np.empty(width, bool)[self.columns].size)

    @property
    def path(self):
        return self.source.path

    def __getitem__(self, rows) -> np.ndarray:
        values = np.asarray(self.source[rows])
        return values.reshape(len(values), -1)[:, self.columns]


class Design:
    """What the rows to fit on and the rows to predict are to ridge regression.

    Attributes:
        n, m, p: rows to fit on, rows to predict, features.
        mean: float64 (p,), of the features over the rows to fit on.
    """

    def __init__(self, x, known, new, dtype="float32"):
        """Read the rows.

        Args:
            x: (rows, ...) of any float format: an array, or an object with `shape` that reads the
                rows asked for, such as `store.Stacked`. Read as often as its columns have blocks.
            known, new: int, positions of the rows to fit on and to predict.
            dtype: "float32" or "float64", of everything that is computed.

        Raises:
            InputError: a value is not finite, or none of the features changes.
        """
        self.n, self.m, self.dtype = len(known), len(new), np.dtype(dtype)
        self.p = int(np.prod(x.shape[1:], dtype=int))
        if self.n < 2:
            raise InputError(f"ridge regression of {self.n} rows; it needs two at least")
        self._dual, rows, means = self.p >= self.n, np.concatenate([known, new]), []
        size = min(self.n, self.p)
        self._gram = np.zeros((size, size), self.dtype, order="F")  # its lower triangle
        self._cross = np.zeros((self.m, self.n), self.dtype) if self._dual else None
        width = _columns(len(rows), self.dtype) if self._dual else self.p
        for columns in spans(self.p, width):
            block = read(x, rows, self.dtype, columns)
            means.append(centre(block, self.n))
            train, test = block[: self.n], block[self.n :]
            self._gram = _syrk(train.T, self._gram, of_columns=self._dual)
            if self._dual:
                self._cross += test @ train.T
            else:
                self._train, self._new = train, test
        self.mean = np.concatenate(means)
        if not self._gram.diagonal().any():
            raise InputError(
                f"none of {self.p} features changes over the {self.n} rows to fit on; nothing can "
                "be predicted from them"
            )

    def weights(self, alpha) -> np.ndarray:
        """Weights (m, n) of the rows of Y in each prediction; they sum to 1."""
        factor = _factor(self._gram.copy(order="F"), alpha)
        if self._dual:
            found = np.ascontiguousarray(cho_solve((factor, True), self._cross.T).T)
        else:
            found = self._new @ cho_solve((factor, True), self._train.T)
        return _centred(found) + self.dtype.type(1 / self.n)

    def residuals(self, alpha) -> np.ndarray:
        """What maps Y to the residuals of the fit: symmetric (n, n), with rows that sum to 0."""
        factor = _factor(self._gram.copy(order="F"), alpha)
        if self._dual:  # I - K (K + alpha I)^-1
            (potri,) = lapack.get_lapack_funcs(("potri",), (factor,))
            with _one_thread():
                found = potri(factor, lower=1, overwrite_c=1)[0]
            found *= self.dtype.type(alpha)
        else:
            (trtrs,) = lapack.get_lapack_funcs(("trtrs",), (factor,))
            half = trtrs(factor, self._train.T, lower=1)[0]
            found = _syrk(half, np.zeros((self.n, self.n), self.dtype, order="F"), True)
            np.negative(found, out=found)
            found[np.diag_indices(self.n)] += 1
        _mirror(found)
        return _centred(_centred(found).T).T

    def coefficients(self, alpha, x, known) -> np.ndarray:
        """Weights (p, n) of the rows of Y in each coefficient; they sum to 0.

        Args:
            alpha: the penalty.
            x, known: as of `__init__`; where p >= n they are read again.
        """
        factor = _factor(self._gram.copy(order="F"), alpha)
        if not self._dual:
            return _centred(np.ascontiguousarray(cho_solve((factor, True), self._train.T)))
        block = read(x, known, self.dtype)
        centre(block, self.n)
        (trsm,) = get_blas_funcs(("trsm",), (block,))
        # (K + alpha I)^-1 X in the memory of X, whose transpose BLAS takes for its own
        for transposed in (1, 0):
            block = trsm(1, factor, block.T, side=1, lower=1, trans_a=transposed, overwrite_b=1).T
        return _centred(block.T)


def kernel(x, n, dtype) -> tuple[np.ndarray, np.ndarray]:
    """Inner products of the first `n` rows, (n, n), and of the others with these, (m, n).

    Features are centred by the first `n` rows, and read block by block.

    Args:
        x: (n + m, ...), as of `Design`.
        n, dtype: as of `Design`.
    """
    rows = np.arange(x.shape[0])
    found = np.zeros((len(rows), n), dtype)
    for columns in spans(int(np.prod(x.shape[1:], dtype=int)), _columns(len(rows), found.dtype)):
        block = read(x, rows, found.dtype, columns)
        centre(block, n)
        found += block @ block[:n].T
    return found[:n], found[n:]


def _columns(rows, dtype):
    """Columns of a block."""
    return max(BLOCK_BYTES // (rows * dtype.itemsize), 1)


def without(residuals, folds, y) -> np.ndarray:
    """Predictions (n, k) of every row by the model that was fitted without the fold it is in.

    Args:
        residuals: (n, n), from `Design.residuals`.
        folds: int arrays that together hold every row once.
        y: (n, k), of the dtype of `residuals`.
    """
    mean = y.mean(0, dtype=float).astype(y.dtype)
    found, left = y.copy(), residuals @ (y - mean)
    for rows in folds:
        own = _factor(np.asfortranarray(residuals[np.ix_(rows, rows)]), 0)
        found[rows] -= cho_solve((own, True), left[rows])
    return found


def weights_without(residuals, folds, chosen) -> np.ndarray:
    """Weights (k, n) of the rows of Y in the predictions of `without`, of k chosen rows."""
    found = np.zeros((len(chosen), len(residuals)), residuals.dtype)
    for rows in folds:
        at = np.flatnonzero(np.isin(chosen, rows))
        picked = np.zeros((len(rows), len(at)), residuals.dtype)
        picked[np.searchsorted(rows, chosen[at]), np.arange(len(at))] = 1
        own = _factor(np.asfortranarray(residuals[np.ix_(rows, rows)]), 0)
        found[at] = -cho_solve((own, True), picked).T @ residuals[rows]
        found[np.ix_(at, rows)] = 0  # but for rounding
    return found


def summed(weights, y, rows, columns=None, size=BLOCK_BYTES):
    """Weighted sums of the rows of Y, block of columns by block: (columns, (k, columns)).

    Args:
        weights: (k, n).
        y: (m, ...) of any float format, an array or an object with `shape` that reads the rows
            asked for; read as often as there are blocks.
        rows: int (n,), the rows of `y` that are summed.
        columns: int (c,), those that are summed; by default all, and then blocks are slices.
        size: bytes of the sums that are held.
    """
    k, dtype = len(weights), weights.dtype
    total = weights.sum(1, dtype=float).astype(dtype)
    length = int(np.prod(y.shape[1:], dtype=int)) if columns is None else len(columns)
    for block in spans(length, max(size // (k * dtype.itemsize), 1)):
        own = block if columns is None else columns[block]
        found, offset = np.zeros((k, block.stop - block.start), dtype), None
        parts = list(bunches(y, len(rows)))
        # The same for all, since new pages cost as much as reading.
        memory = np.empty((parts[0].stop, found.shape[1]), dtype)
        (gemm,) = get_blas_funcs(("gemm",), (memory,))
        for part in parts:
            values = _fill(memory[: part.stop - part.start], y, rows[part], own)
            # Sums of what is near 0 round less.
            offset = values.mean(0, dtype=float).astype(dtype) if offset is None else offset
            values -= offset
            some = np.ascontiguousarray(weights[:, part])
            # found += some @ values, in place: its transpose is what BLAS takes for a matrix
            found = gemm(1, values.T, some.T, beta=1, c=found.T, overwrite_c=1).T
        memory = values = None
        for one, times in zip(found, total, strict=True):
            one += times * offset
        _refuse_infinite(found)  # as is any sum that a NaN is part of
        yield own, found
        found = None  # before there are others


def read(source, rows, dtype, columns=slice(None)) -> np.ndarray:
    """Some columns of some rows, flattened, as numbers of `dtype`: (rows, columns).

    Raises:
        InputError: a value is not finite.
    """
    width = int(np.prod(source.shape[1:], dtype=int))
    found = np.empty((len(rows), np.empty(width, bool)[columns].size), dtype)
    for part in bunches(source, len(rows)):
        _refuse_infinite(_fill(found[part], source, rows[part], columns))
    return found


def _fill(memory, source, rows, columns):
    """Some columns of some rows, flattened, into an array of their shape."""
    memory[:] = np.asarray(source[rows]).reshape(len(rows), -1)[:, columns]
    return memory


def _refuse_infinite(values):
    if not np.isfinite(values.sum()):
        raise InputError("ridge regression: a row holds NaN or infinite values")


def moments(source, rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n) of each column over some rows, float64.

    Args:
        source: as of `read`.
        rows: int (n,); a row that comes twice counts twice.
    """
    total = squares = shift = 0
    for part in bunches(source, len(rows), BUNCH_BYTES // 8):  # in double precision, twice
        values = read(source, rows[part], np.float64)
        shift = values[0].copy() if part.start == 0 else shift
        values -= shift
        total, squares = total + values.sum(0), squares + (values**2).sum(0)
    mean = total / len(rows)
    return shift + mean, np.sqrt(np.maximum(squares / len(rows) - mean**2, 0))


def folds(stimuli, folds) -> list[np.ndarray]:
    """Rows of each fold, drawn at random; all rows of a stimulus are in one.

    Args:
        stimuli: Series (n,), the stimulus of each row.
        folds: how many.

    Raises:
        InputError: there are fewer stimuli than folds.
    """
    of_row = stimuli.factorize()[0]
    n = of_row.max() + 1
    if n < folds:
        raise InputError(f"heads: {n} training images, fewer than `folds`; set fewer folds")
    order = np.random.default_rng(0).permutation(n)
    return [np.flatnonzero(np.isin(of_row, some)) for some in np.array_split(order, folds)]


def spans(length, width) -> list[slice]:
    """Slices of `width` that together are 0 to `length`; the last may be shorter."""
    return [slice(a, min(a + width, length)) for a in range(0, length, width)]


def centre(values, n) -> np.ndarray:
    """Subtract from each column the mean of its first `n` rows, in place; gives the means."""
    found = 0
    for _ in range(2):  # what rounding leaves of a mean would count n times in a sum
        mean = values[:n].mean(0, dtype=float)
        values -= mean.astype(values.dtype)
        found = found + mean
    return found


def _centred(weights):
    """Subtract the mean of each row, in place: they sum to 0, but for rounding."""
    weights -= weights.mean(1, dtype=float).astype(weights.dtype)[:, None]
    return weights


def bunches(source, n, size=None):
    """Slices of `n` rows of a source, of about `size` bytes each in single precision."""
    width = int(np.prod(source.shape[1:], dtype=int))
    return spans(n, max((size or BUNCH_BYTES) // (4 * max(width, 1)), 1))


def _syrk(a, c, of_columns):
    """The lower triangle of c + a^T a or c + a a^T, in the memory of c; `a` in Fortran's order."""
    (syrk,) = get_blas_funcs(("syrk",), (a,))
    return syrk(1, a, beta=1, c=c, trans=int(of_columns), lower=1, overwrite_c=1)


def _factor(gram, alpha):
    """Cholesky factor of the lower triangle of a matrix, alpha added to its diagonal, in place."""
    gram[np.diag_indices(len(gram))] += gram.dtype.type(alpha)
    (potrf,) = lapack.get_lapack_funcs(("potrf",), (gram,))
    with _one_thread():
        factor, info = potrf(gram, lower=1, clean=0, overwrite_a=1)
    if info:
        raise InputError(
            f"ridge regression with alpha {alpha:g} cannot be solved in {gram.dtype}; raise alpha, "
            "or set `precision: float64`"
        )
    return factor


def _one_thread():
    """Threads of LAPACK wait for each other without rest: on a busy machine two cost ten times."""
    return threadpool_limits(1, user_api="blas")


def _mirror(a):
    """Copy the lower triangle of a matrix over its upper one, in place."""
    for rows in spans(len(a), 1024):
        a[rows, rows.stop :] = a[rows.stop :, rows].T
        block = a[rows, rows]
        upper = np.triu_indices(len(block), 1)
        block[upper] = block.T[upper]
