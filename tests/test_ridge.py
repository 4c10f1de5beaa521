"""Ridge regression of many targets against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from engram import store
from engram.errors import InputError
from engram.store import Rows
from engram.training import ridge

KNOWN, NEW = np.arange(60), np.arange(60, 80)
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
ALPHAS = (3.0, 100.0, 1e4)


@pytest.fixture(autouse=True)
def blocks(monkeypatch):
    """Blocks so small that every kind of edge occurs."""
    monkeypatch.setattr(ridge, "BLOCK_BYTES", 50_000)
    monkeypatch.setattr(ridge, "BUNCH_BYTES", 7 * 4 * 70)


def drawn(features, format_="float64"):
    """Features far from 0 of which the targets know, as they are stored."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, features)) + 3
    y = x[:, :5] @ rng.normal(size=(5, 70)) + rng.normal(size=(80, 70)) + 10
    return x.astype(format_), y.astype(format_)


def joined(blocks):
    return np.concatenate([values for _, values in blocks], axis=1)


def close(found, expected, dtype, of=None):
    """Within the tolerance of the largest deviation from the mean, and two bits of rounding."""
    of = expected if of is None else of
    scale = np.abs(of - of.mean(0)).max()
    bits = 4 * np.finfo(dtype).eps
    assert_allclose(found, expected, rtol=bits, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("format_", ["float64", "float16"])
@pytest.mark.parametrize("features", [200, 60, 40])
def test_predictions_and_coefficients_are_those_of_scikit_learn(features, format_, dtype):
    x, y = drawn(features, format_)
    design = ridge.Design(x, KNOWN, NEW, dtype)
    for alpha in ALPHAS:
        expected = Ridge(alpha=alpha).fit(x[KNOWN].astype(float), y[KNOWN].astype(float))
        weights = design.weights(alpha)
        assert weights.dtype == dtype
        predicted = joined(ridge.summed(weights, y, KNOWN, size=15_000))
        close(predicted, expected.predict(x[NEW].astype(float)), dtype)
        weights = design.coefficients(alpha, x, KNOWN)
        coefficients = joined(ridge.summed(weights, y, KNOWN)).T
        assert_allclose(
            coefficients, expected.coef_, rtol=0, atol=TOLERANCE[dtype] * np.ptp(expected.coef_)
        )
        mean = joined(ridge.summed(np.full((1, 60), 1 / 60, dtype), y, KNOWN))[0]
        assert_allclose(mean - coefficients @ design.mean, expected.intercept_, rtol=2e-4)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("features", [200, 40])
def test_models_without_a_fold_are_those_of_scikit_learn(features, dtype):
    x, y = drawn(features)
    design = ridge.Design(x, KNOWN, NEW, dtype)
    split = KFold(5, shuffle=True, random_state=0)
    folds = [test for _, test in split.split(KNOWN)]
    chosen = np.array([2, 3, 11, 40, 59])
    for alpha in ALPHAS:
        residuals = design.residuals(alpha)
        fitted = Ridge(alpha=alpha).fit(x[KNOWN], y[KNOWN])
        left = residuals @ (y[KNOWN] - y[KNOWN].mean(0)).astype(dtype)
        close(left, y[KNOWN] - fitted.predict(x[KNOWN]), dtype)
        expected = cross_val_predict(Ridge(alpha=alpha), x[KNOWN], y[KNOWN], cv=split)
        close(ridge.without(residuals, folds, y[KNOWN].astype(dtype)), expected, dtype, y)
        weights = ridge.weights_without(residuals, folds, chosen)
        close(joined(ridge.summed(weights, y, KNOWN)), expected[chosen], dtype, y)


def test_some_targets_can_have_a_penalty_of_their_own():
    x, y = drawn(200)
    design, found = ridge.Design(x, KNOWN, NEW, "float64"), np.full((20, 70), np.nan)
    parts = np.split(np.random.default_rng(3).permutation(70), [13, 37])
    for alpha, columns in zip((1.0, 500.0, 30.0), parts, strict=True):
        weights = design.weights(alpha)
        for own, told in ridge.summed(weights, y, KNOWN, columns, size=20 * 8 * 11):
            found[:, own] = told
    alphas = np.empty(70)
    for alpha, columns in zip((1.0, 500.0, 30.0), parts, strict=True):
        alphas[columns] = alpha
    close(found, Ridge(alpha=alphas).fit(x[KNOWN], y[KNOWN]).predict(x[NEW]), "float64")


def test_rows_are_read_from_stores_in_any_order(tmp_path):
    x, y = drawn(200, "float32")
    table = pd.DataFrame(index=[f"row-{i:02d}" for i in range(80)])
    for name, values in (("x", x), ("y", y.reshape(80, 7, 10))):
        store.write(tmp_path / f"{name}.h5", Rows(values, table, {}))
    read = {name: store.Stacked([tmp_path / f"{name}.h5"]) for name in ("x", "y")}
    rows = np.random.default_rng(1).permutation(80)
    design = ridge.Design(read["x"], rows[:60], rows[60:])
    found = joined(ridge.summed(design.weights(50.0), read["y"], rows[:60]))
    expected = Ridge(alpha=50.0).fit(x[rows[:60]].astype(float), y[rows[:60]].astype(float))
    close(found, expected.predict(x[rows[60:]].astype(float)), "float32")


def test_features_that_never_change_say_nothing():
    x, y = drawn(100)
    x[:60, 7] = 4.0  # but over the rows to predict they do
    design = ridge.Design(x, KNOWN, NEW, "float64")
    found = joined(ridge.summed(design.weights(10.0), y, KNOWN))
    expected = Ridge(alpha=10.0).fit(np.delete(x, 7, 1)[KNOWN], y[KNOWN])
    close(found, expected.predict(np.delete(x, 7, 1)[NEW]), "float64")
    with pytest.raises(InputError, match="none of 5 features changes"):
        ridge.Design(np.ones((80, 5)), KNOWN, NEW)


def test_what_cannot_be_solved_is_refused():
    x, y = drawn(20)
    with pytest.raises(InputError, match="needs two at least"):
        ridge.Design(x, KNOWN[:1], NEW)
    x = np.repeat(x[:, :1], 100, axis=1)
    with pytest.raises(InputError, match="alpha 0 cannot be solved in float32; raise alpha"):
        ridge.Design(x, KNOWN, NEW).weights(0)
    y[30, 60] = np.nan
    with pytest.raises(InputError, match="NaN"):
        list(ridge.summed(np.full((1, 60), 1 / 60), y, KNOWN))
