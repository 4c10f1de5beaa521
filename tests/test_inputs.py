"""Steps that heads fit on their inputs: tangent space beside SciPy, PCA beside scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import inv, logm, sqrtm
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from test_heads import fit, task

from engram.backbones import connectome
from engram.errors import InputError
from engram.measures import tangent
from engram.planning import components
from engram.training import inputs, subject_weights

R = 5
UPPER = np.triu_indices(R)


def matrices(n=7, seed=0):
    """Positive definite, and far from each other."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n, R, 8)) * np.exp(rng.standard_normal((n, R, 1)))
    return factors @ factors.swapaxes(1, 2) / 8


def packed(these):
    return these[:, UPPER[0], UPPER[1]]


# ---- the tangent space --------------------------------------------------------------------


def test_of_two_matrices_the_geometric_mean_has_a_closed_form():
    a, b = matrices(2)
    root = sqrtm(a)
    expected = root @ sqrtm(inv(root) @ b @ inv(root)) @ root
    found = tangent.geometric_mean(packed(np.stack([a, b])), np.ones(2))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_at_the_geometric_mean_tangent_vectors_cancel():
    these, weights = matrices(), np.arange(1.0, 8)
    mean = tangent.geometric_mean(packed(these), weights)
    whitening = inv(sqrtm(mean))
    logs = [logm(whitening @ one @ whitening) for one in these]
    np.testing.assert_allclose(np.average(logs, axis=0, weights=weights), 0, atol=1e-6)


def test_of_matrices_that_commute_the_geometric_mean_is_that_of_their_eigenvalues():
    values = np.random.default_rng(0).uniform(0.1, 9, (6, R))
    axes = np.linalg.qr(np.random.default_rng(1).standard_normal((R, R)))[0]
    these = (axes * values[:, None]) @ axes.T
    expected = (axes * np.exp(np.log(values).mean(0))) @ axes.T
    found = tangent.geometric_mean(packed(these), np.ones(6))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_vectors_are_logarithms_as_long_as_the_matrices():
    these = matrices()
    reference = these[3]
    whitening = inv(sqrtm(reference))
    found = tangent.tangent(packed(these), reference)
    for one, vector in zip(these, found, strict=True):
        expected = logm(whitening @ one @ whitening)
        scaled = np.where(np.eye(R, dtype=bool), expected, np.sqrt(2) * expected)
        np.testing.assert_allclose(vector, scaled[UPPER], rtol=1e-5, atol=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(np.linalg.norm(expected), rel=1e-5)
    np.testing.assert_allclose(found[3], 0, atol=1e-6)


def test_matrices_that_memory_does_not_hold_at_once_give_the_same(monkeypatch):
    these, weights = packed(matrices()), np.arange(1.0, 8)
    mean = tangent.geometric_mean(these, weights)
    vectors, lowest = tangent.tangent(these, mean), tangent.lowest(these)
    monkeypatch.setattr(tangent, "BLOCK", 16 * these.shape[1] * 2)  # two matrices
    np.testing.assert_allclose(tangent.geometric_mean(these, weights), mean, rtol=1e-6)
    np.testing.assert_allclose(tangent.tangent(these, mean), vectors, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(tangent.lowest(these), lowest)


# ---- fitted on some rows only -----------------------------------------------------------


def covariances(seeds=1):
    """A task whose rows are covariances that show the class."""
    this = task("linear", seeds=seeds)
    rng = np.random.default_rng(0)
    mixing = np.eye(R) + 0.6 * this.y[:, None, None] * np.eye(R, k=1)
    series = mixing @ rng.standard_normal((len(this.y), R, 30))
    x = packed(connectome.covariances(series - series.mean(-1, keepdims=True)))
    return replace(this, x=[x], headers=[{"what": "features", "measure": "covariance"}])


def test_the_reference_is_the_mean_of_the_rows_that_are_fitted_on_each_subject_counting_once():
    this = covariances()
    rows = this.folds[0].train[5:]
    found, state = inputs.Inputs(this, inputs.Options(space="tangent")).fitted(rows)
    weights = subject_weights(this.table["subject"].to_numpy(str)[rows])
    reference = tangent.geometric_mean(this.x[0][rows], weights)
    np.testing.assert_allclose(state["reference.0"], reference)
    np.testing.assert_allclose(found, tangent.tangent(this.x[0], reference))


@pytest.mark.parametrize("features", [6, 200])
def test_principal_components_are_those_of_scikit_learn(features):
    this = task("linear", seeds=1, d=features)
    x, rows = this.x[0], this.folds[1].train
    found, state = inputs.Inputs(this, inputs.Options(components=4)).fitted(rows)
    scaler = StandardScaler().fit(x[rows])
    pca = PCA(4, svd_solver="full").fit(scaler.transform(x[rows]))
    expected = pca.transform(scaler.transform(x))
    sign = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * sign, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        (x - state["centre.0"]) / state["scale.0"] @ state["axes.0"].T, found
    )


def test_as_many_components_as_there_are_and_none_of_rounding():
    this = task("linear", seeds=1, d=200)
    fewest = min(len(fold.train) for fold in this.folds)
    this.x[0][:] = this.x[0][:3].repeat(len(this.y) // 3, axis=0)
    found, _ = inputs.Inputs(this, inputs.Options(components=1000)).fitted(this.folds[0].train)
    assert found.shape[1] == fewest - 1
    assert (found[:, :2].std(0) > 1).all()
    assert (found[:, 2:] == 0).all()


def test_each_source_has_components_of_its_own():
    this = task("linear", seeds=1)
    both = replace(this, x=[this.x[0], this.x[0] * 1e3], sources=["a", "b"], headers=[{}, {}])
    found, _ = inputs.Inputs(both, inputs.Options(components=2)).fitted(this.folds[0].train)
    np.testing.assert_allclose(found[:, :2], found[:, 2:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "forest"])
@pytest.mark.parametrize(
    "step", [{"space": "tangent"}, {"components": 3}, {"without_subject": True}]
)
def test_no_step_of_a_head_feels_the_test_rows(kind, step):
    this = covariances()
    this = replace(this, folds=this.folds[:1])
    x = this.x[0].copy()
    x[this.folds[0].test] = packed(matrices(len(this.folds[0].test)))
    one, two = (fit(kind, these, **step) for these in (this, replace(this, x=[x])))
    fitted = {"space": "reference.0", "components": "axes.0", "without_subject": "take.0"}
    assert set(one.state) > {fitted[name] for name in step}
    for name, values in one.state.items():
        np.testing.assert_array_equal(values, two.state[name])
    assert (one.outputs != two.outputs).any()


@pytest.mark.parametrize("kind", ["linear", "forest"])
def test_heads_learn_in_the_tangent_space_and_are_read_again_to_predict(kind):
    this = covariances()
    found = fit(kind, this, space="tangent", components=3)
    right = found.outputs[:, 0].argmax(1) == this.y
    assert right.mean() > 0.8
    head = components.module("heads", kind)
    for f, fold in enumerate(this.folds):
        kept = {name: values[f, :1] for name, values in found.state.items()}
        said = head.predict(kept, [this.x[0][fold.test]], this, None, "cpu")[0]
        np.testing.assert_allclose(said, found.outputs[fold.test, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "forest"])
def test_heads_learn_without_the_subject_and_are_read_again_to_predict(kind):
    this = task("linear", seeds=1, d=30)
    subjects = this.table["subject"].to_numpy(str)
    own = np.random.default_rng(0).standard_normal((len(subjects), 30))
    own = own[np.unique(subjects, return_inverse=True)[1]]
    this = replace(this, x=[(this.x[0] + 5 * own).astype(np.float32)])
    source, rows = inputs.Inputs(this, inputs.Options(without_subject=True)), this.folds[0].known
    left, _ = source.fitted(rows)
    for name in np.unique(subjects[rows]):
        means = left[rows][subjects[rows] == name].mean(0)
        np.testing.assert_allclose(means, left[rows][subjects[rows] != name].mean(0), atol=2e-2)
    found = fit(kind, this, without_subject=True, components=5)
    head = components.module("heads", kind)
    for f, fold in enumerate(this.folds):
        kept = {name: values[f, :1] for name, values in found.state.items()}
        said = head.predict(kept, [this.x[0][fold.test]], this, None, "cpu")[0]
        np.testing.assert_allclose(said, found.outputs[fold.test, 0], atol=1e-5)


def test_a_label_that_is_the_subject_has_nothing_left_without_the_subject():
    this = task("linear", seeds=1)
    whole = np.unique(this.table["subject"], return_inverse=True)[1] % 2
    with pytest.raises(InputError, match="every subject has one class or number"):
        fit("linear", replace(this, y=whole), without_subject=True)


def test_what_has_no_tangent_space_is_refused_by_name():
    with pytest.raises(InputError, match=r"a: .*`space: tangent` needs covariances.*connectome"):
        fit("linear", task("linear"), space="tangent")
    this = covariances()
    this.x[0][3] = 1.0
    with pytest.raises(InputError, match=f"covariance of {this.table.index[3]} has no inverse"):
        fit("linear", this, space="tangent")
    with pytest.raises(InputError, match="components is 0; keep 1 at least"):
        fit("linear", task("linear"), components=0)
