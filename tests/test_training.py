"""What heads share: schedule, class weights, metrics and statistics, against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.utils.class_weight import compute_class_weight

from engram import training


@pytest.mark.parametrize("total", [2, 3, 10, 35, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.9])
def test_schedule_is_continuous_reaches_its_base_and_ends_at_its_final_rate(total, warmup):
    def rate(step):
        return training.schedule(step, total, warmup=warmup, base=7e-4, start=1e-6, final=2e-6)

    rates = np.array([rate(step) for step in range(total)])
    peak = int(rates.argmax())
    assert rates[peak] == 7e-4
    assert rates[-1] == pytest.approx(2e-6, rel=1e-12)
    assert peak == pytest.approx(warmup * (total - 1), abs=1)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    longest = np.pi / 2 / (total - 1 - peak)
    rise = 1 / max(peak, 1)
    assert np.abs(np.diff(rates)).max() <= 7e-4 * max(longest, rise) * (1 + 1e-9)
    if peak:
        assert rates[0] == 1e-6


def test_every_run_and_fold_has_a_seed_of_its_own():
    seeds = {training.seed(run, fold) for run in range(20) for fold in ("sub-01", "sub-02", "all")}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert training.seed(3, "sub-01") == training.seed(3, "sub-01")


def test_class_weights_are_those_of_scikit_learn():
    y = np.array([0, 0, 0, 2, 2, 0, 2, 1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(training.class_weights(y, 3), expected)
    without = compute_class_weight("balanced", classes=np.array([0, 2]), y=y[y != 1])
    expected = [without[0], 0, without[1]]
    np.testing.assert_allclose(training.class_weights(y[y != 1], 3), expected)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", ["random", "constant", "one true class", "absent class"])
def test_metrics_are_those_of_scikit_learn(classes, kind):
    rng = np.random.default_rng(1)
    y, predicted = rng.integers(0, classes, (2, 50))
    if kind == "constant":
        predicted[:] = 1
    if kind == "one true class":
        y[:] = 1
    if kind == "absent class":
        y[y == 0], predicted[predicted == 0] = 1, 1
    counts = training.confusion(y, predicted, classes)
    np.testing.assert_array_equal(
        counts, reference.confusion_matrix(y, predicted, labels=np.arange(classes))
    )
    found = training.metrics(counts)
    options = {"average": "macro", "zero_division": 0}
    assert found["mAR"] == pytest.approx(reference.recall_score(y, predicted, **options))
    assert found["mF1"] == pytest.approx(reference.f1_score(y, predicted, **options))
    assert found["mPrecision"] == pytest.approx(reference.precision_score(y, predicted, **options))
    each = [reference.accuracy_score(y == c, predicted == c) for c in set(y) | set(predicted)]
    assert found["mAC"] == pytest.approx(np.mean(each))
    recall = [np.mean(predicted[y == c] == c) for c in set(y)]
    assert training.balanced_accuracy(counts) == pytest.approx(np.mean(recall))


def test_binary_mac_is_accuracy_also_of_a_constant_predictor():
    counts = training.confusion(np.array([0, 1, 1]), np.array([1, 1, 1]), 2)
    assert training.metrics(counts)["mAC"] == pytest.approx(2 / 3)


def test_metrics_of_many_models_at_once():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 9, (5, 3, 3))
    together = training.metrics(counts)
    for i, one in enumerate(counts):
        for name, value in training.metrics(one).items():
            assert together[name][i] == pytest.approx(value)


def test_statistics_come_from_the_given_rows_and_leave_constant_features_alone():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    x[:10, 1] = 5
    mean, sd = training.statistics(x, np.arange(10))
    np.testing.assert_allclose(mean, x[:10].mean(0), rtol=1e-5)
    np.testing.assert_allclose(sd[[0, 2]], x[:10].std(0)[[0, 2]], rtol=1e-5)
    assert sd[1] == 1
