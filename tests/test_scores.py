"""Scores against scikit-learn, SciPy, closed forms and enumeration."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
from scoring import CLASSES, blocks, random_probabilities, reference, table

from engram.measures import inference
from engram.scores import classification, sample

# ---- T10: scores of one subject ------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 5])
def test_scores_equal_scikit_learn_for_every_arrangement_and_run(k):
    rng = np.random.default_rng(k)
    p = random_probabilities(rng, 60, 3, k)
    labels = np.stack([rng.permutation(np.arange(60) % k) for _ in range(4)])
    found = classification.scores(labels, p)
    for i, y in enumerate(labels):
        for run in range(3):
            for name, value in reference(y, p[:, run]).items():
                assert found[name][i, run] == pytest.approx(value, abs=1e-12), name


def test_scores_equal_scikit_learn_with_tied_and_constant_predictions():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(50) % 5 < 2).astype(int)
    half = rng.integers(0, 4, 50) / 4
    tied = np.stack([1 - half, half], 1)
    for p in (tied, np.tile([0.9, 0.1], (50, 1)), np.tile([0.0, 1.0], (50, 1))):
        found = classification.scores(y[None], p[:, None])
        for name, value in reference(y, p).items():
            assert found[name][0, 0] == pytest.approx(value, abs=1e-12), name


def test_constant_prediction_is_chance_and_never_half_of_it():
    y = np.repeat([0, 1], [30, 10])
    found = classification.scores(y[None], np.tile([1.0, 0.0], (40, 1, 1)))
    assert found["balanced_accuracy"] == found["auc"] == 0.5
    assert found["kappa"] == 0
    assert found["accuracy"] == 0.75


def test_one_class_leaves_only_scores_that_need_no_second():
    rng = np.random.default_rng(1)
    y, p = np.ones(20, int), random_probabilities(rng, 20, 2, 2)
    found = classification.scores(y[None], p)
    for name in ("balanced_accuracy", "auc", "macro_f1", "kappa"):
        assert np.isnan(found[name]).all()
    assert found["accuracy"][0, 1] == np.mean(p[:, 1].argmax(1) == 1)
    assert found["brier"][0, 0] == pytest.approx(np.mean((p[:, 0, 1] - 1) ** 2))


def test_absent_class_does_not_enter_the_means():
    rng = np.random.default_rng(2)
    y, p = rng.integers(0, 2, 40), random_probabilities(rng, 40, 1, 3)
    found = classification.scores(y[None], p)
    predicted = p[:, 0].argmax(1)
    recalls = [np.mean(predicted[y == c] == c) for c in (0, 1)]
    aucs = [sk.roc_auc_score(y == c, p[:, 0, c]) for c in (0, 1)]
    assert found["balanced_accuracy"][0, 0] == pytest.approx(np.mean(recalls))
    assert found["auc"][0, 0] == pytest.approx(np.mean(aucs))
    assert found["macro_f1"][0, 0] == pytest.approx(sk.f1_score(y, predicted, average="macro"))


def test_scores_in_blocks_equal_scores_at_once(monkeypatch):
    rng = np.random.default_rng(3)
    p, groups = random_probabilities(rng, 90, 2, 2), rng.integers(0, 3, 90)
    labels = rng.integers(0, 2, (13, 90))
    whole = classification.scores_by_group(labels, p, groups)
    monkeypatch.setattr(classification, "BLOCK", 400)
    for name, values in classification.scores_by_group(labels, p, groups).items():
        np.testing.assert_allclose(values, whole[name], atol=1e-12)
        assert values.shape == (3, 13, 2)


@pytest.mark.parametrize("k", [2, 4])
def test_calibration_error_by_brute_force(k):
    rng = np.random.default_rng(k)
    p, y = random_probabilities(rng, 300, 1, k, decimals=2)[:, 0], rng.integers(0, k, 300)
    p[:5], y[:5] = np.eye(k)[0], 0
    expected = 0.0
    for low in range(10):
        inside = [
            i for i in range(300)
            if low <= p[i].max() * 10 < low + 1 or (low == 9 and p[i].max() == 1)
        ]  # fmt: skip
        if inside:
            confidence = sum(p[i].max() for i in inside) / len(inside)
            accuracy = sum(int(p[i].argmax() == y[i]) for i in inside) / len(inside)
            expected += len(inside) / 300 * abs(accuracy - confidence)
    bins = classification.calibration(y, p)
    assert classification.calibration_error(bins) == pytest.approx(expected, abs=1e-12)
    assert bins["n"].sum() == 300


def test_calibration_error_of_known_cases():
    y = np.repeat([0, 1], [8, 2])
    honest, sure = np.tile([0.8, 0.2], (10, 1)), np.tile([1.0, 0.0], (10, 1))
    for p, expected in ((honest, 0.0), (sure, 0.2)):
        bins = classification.calibration(y, p)
        assert classification.calibration_error(bins) == pytest.approx(expected, abs=1e-12)


def test_confusion_is_the_mean_over_runs_with_truth_in_rows():
    rng = np.random.default_rng(4)
    y, p = rng.integers(0, 3, 50), random_probabilities(rng, 50, 2, 3)
    expected = [sk.confusion_matrix(y, p[:, run].argmax(1), labels=range(3)) for run in (0, 1)]
    np.testing.assert_allclose(classification.confusion(y, p), np.mean(expected, 0))


def test_prior_counts_only_the_other_folds():
    y, folds = np.array([0, 0, 0, 1, 1, 0]), np.array(list("aabbbc"))
    expected = {"a": [2 / 4, 2 / 4], "b": [3 / 3, 0], "c": [3 / 5, 2 / 5]}
    found = classification.prior(y, folds, 2)
    np.testing.assert_allclose(found[:, 0], [expected[f] for f in folds])
    alone = classification.prior(y, np.array(["a"] * 6), 2)
    np.testing.assert_allclose(alone[:, 0], [[4 / 6, 2 / 6]] * 6)


# ---- intervals and tests ---------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.95, 0.8])
@pytest.mark.parametrize("n", [2, 5, 30])
def test_intervals_and_tests_of_subjects_are_students_t(n, confidence):
    values = np.random.default_rng(n).normal(0.3, 0.1, n)
    sem = scipy.stats.sem(values)
    expected = scipy.stats.t.interval(confidence, n - 1, values.mean(), sem)
    assert inference.interval(values, (-9, 9), confidence, False) == pytest.approx(expected)
    assert inference.t_test(values, False) == pytest.approx(
        scipy.stats.ttest_1samp(values, 0).pvalue
    )
    wider = sem * np.sqrt(1 + n / (n - 1))  # s sqrt(1/n + 1/(n - 1))
    expected = scipy.stats.t.interval(confidence, n - 1, values.mean(), wider)
    assert inference.interval(values, (-9, 9), confidence, True) == pytest.approx(expected)
    p = 2 * scipy.stats.t.sf(values.mean() / wider, n - 1)
    assert inference.t_test(values, True) == pytest.approx(p)


def test_an_interval_stays_in_the_range_of_the_score():
    assert inference.interval(np.array([0.2, 1.0]), (0, 1), 0.95, True) == (0, 1)
    assert np.isnan(inference.interval(np.array([0.7]), (0, 1), 0.95, False)[0])
    assert np.isnan(inference.t_test([0.1], True))
    assert inference.t_test(np.zeros(5), True) == 1
    assert inference.t_test(np.full(5, 0.1), True) == 0


def test_the_interval_of_a_score_near_its_limit_bends_away_from_it():
    """By hand, from Student's t and the derivative of the logit."""
    values = np.array([0.84, 1.0, 0.97, 0.9])
    mean, sem = values.mean(), scipy.stats.sem(values)
    half = scipy.stats.t.ppf(0.975, 3) * sem / (mean * (1 - mean))
    expected = [1 / (1 + np.exp(-(np.log(mean / (1 - mean)) + side * half))) for side in (-1, 1)]
    found = inference.bounded_interval(values, (0, 1), 0.95, False)
    assert found == pytest.approx(expected)
    assert mean - found[0] > found[1] - mean > 0
    twice = inference.bounded_interval(2 * values - 1, (-1, 1), 0.95, False)  # as kappa
    assert twice == pytest.approx(2 * np.array(found) - 1)
    assert inference.bounded_interval(np.ones(4), (0, 1), 0.95, True) == (1, 1)
    assert np.isnan(inference.bounded_interval(np.array([0.7]), (0, 1), 0.95, True)).all()


def test_intervals_of_subjects_that_train_each_other_hold_the_truth():
    """Means that share a part: correlation 1/n between subjects, which Student's t ignores."""
    rng, hits = np.random.default_rng(0), np.zeros(2)
    n, studies = 10, 2000
    common = rng.normal(0, np.sqrt(1 / n), (studies, 1))
    values = common + rng.normal(0, np.sqrt(1 - 1 / n), (studies, n))
    for one in values:
        for shared in (False, True):
            low, high = inference.interval(one, (-9, 9), 0.95, shared)
            hits[int(shared)] += low <= 0 <= high
    assert hits[0] / studies < 0.89
    assert 0.935 < hits[1] / studies < 0.965


def test_permutation_p_counts_ties_and_the_observed_value():
    null = np.array([0.4, 0.5, 0.5, 0.6, 0.7])
    assert classification.permutation_p("accuracy", 0.6, null, False) == 3 / 6
    assert classification.permutation_p("brier", 0.5, null, False) == 4 / 6
    assert classification.permutation_p("accuracy", 0.9, null, False) == 1 / 6
    assert classification.permutation_p("accuracy", 0.9, np.append(null, np.nan), False) == 2 / 7
    assert np.isnan(classification.permutation_p("accuracy", np.nan, null, False))
    # of 0.54 +- the deviations times 1.25: 0.365, 0.49, 0.49, 0.615, 0.74
    assert classification.permutation_p("accuracy", 0.72, null, True) == 2 / 6
    assert classification.permutation_p("accuracy", 0.72, null, False) == 1 / 6
    assert classification.permutation_p("brier", 0.38, null, True) == 2 / 6


def test_null_scores_are_scikit_learn_on_shifted_labels():
    rng = np.random.default_rng(6)
    facts = table(subjects=3)
    y = np.concatenate([blocks(rng, 30) for _ in range(6)])
    p = random_probabilities(rng, len(y), 2, 2)
    subjects = facts["subject"].to_numpy()
    groups = np.unique(subjects, return_inverse=True)[1]
    labels = inference.arrangements(y, facts, 20, rng)
    null = classification.null_scores(labels, p, groups)["auc"]
    for i, shifted in enumerate(labels):
        for name in np.unique(facts["scan"] + subjects):
            scan = (facts["scan"] + subjects) == name
            assert shifted[scan].sum() == y[scan].sum()
        expected = [
            sk.roc_auc_score(shifted[subjects == s], p[subjects == s, 1, 1])
            for s in np.unique(subjects)
        ]
        assert null[i, 1] == pytest.approx(np.mean(expected))


def test_scan_constant_labels_stay_within_the_subject():
    facts, y = table(subjects=2, scans=3, windows=4), np.repeat([0, 0, 1, 1, 1, 0], 4)
    order = np.random.default_rng(0).permutation(24)
    labels = inference.arrangements(y[order], facts.iloc[order], 600, np.random.default_rng(0))
    back = np.argsort(order)
    scans = labels[:, back].reshape(600, 6, 4)
    assert (scans == scans[:, :, :1]).all()
    assert (scans[:, :3, 0].sum(1) == 1).all()
    assert (scans[:, 3:, 0].sum(1) == 2).all()
    assert len(np.unique(scans[:, :, 0], axis=0)) == 9
    assert inference.smallest_p(y[order], labels) == pytest.approx(1 / 9, abs=0.04)


def test_subject_constant_labels_move_between_subjects():
    facts, y = table(subjects=4, scans=2, windows=3), np.repeat([0, 0, 0, 1], 6)
    labels = inference.arrangements(y, facts, 400, np.random.default_rng(0))
    subjects = labels.reshape(400, 4, 6)
    assert (subjects == subjects[:, :, :1]).all()
    assert (subjects[:, :, 0].sum(1) == 1).all()
    assert inference.smallest_p(y, labels) == pytest.approx(1 / 4, abs=0.07)


def test_shifts_are_rotations_in_window_order_and_all_occur():
    facts, y = table(subjects=1, scans=2, windows=7), np.array([0, 1, 0, 0, 1, 1, 0] * 2)
    order = np.random.default_rng(1).permutation(14)
    labels = inference.arrangements(y[order], facts.iloc[order], 500, np.random.default_rng(0))
    rotations = {tuple(np.roll(y[:7], shift)) for shift in range(7)}
    for scan in (slice(0, 7), slice(7, 14)):
        assert {tuple(row) for row in labels[:, np.argsort(order)][:, scan]} == rotations


def test_permutation_p_of_one_scan_is_the_share_of_its_rotations():
    rng = np.random.default_rng(7)
    facts, y = table(subjects=1, scans=1, windows=24), np.repeat([0, 1, 0, 1], [7, 5, 3, 9])
    p = np.stack([1 - rng.random(24), rng.random(24)], 1)[:, None]
    p[:, 0, 1] += 0.3 * y
    every = [sk.roc_auc_score(np.roll(y, shift), p[:, 0, 1]) for shift in range(24)]
    expected = np.mean(np.array(every) >= every[0] - 1e-12)
    labels = inference.arrangements(y, facts, 4000, rng)
    null = classification.null_scores(labels, p, np.zeros(24, int))["auc"][:, 0]
    assert classification.permutation_p("auc", every[0], null, False) == pytest.approx(
        expected, abs=0.03
    )
    assert inference.smallest_p(y, labels) == pytest.approx(1 / 24, abs=0.015)


# ---- sample ------------------------------------------------------------------------------


def test_autocorrelation_is_the_mean_over_scans_and_ignores_row_order():
    rng = np.random.default_rng(8)
    facts = table(subjects=2, scans=2, windows=50)
    values = np.cumsum(rng.standard_normal((200, 1)), 0)
    expected = []
    for scan in range(4):
        v = values[50 * scan : 50 * scan + 50, 0]
        v = v - v.mean()
        expected.append(sum(v[i] * v[i + 1] for i in range(49)) / sum(v**2))
    order = rng.permutation(200)
    found = sample.autocorrelation(values[order], facts.iloc[order])
    assert found == pytest.approx(np.mean(expected))


def test_autocorrelation_recovers_a_first_order_chain_despite_gaps():
    rng = np.random.default_rng(9)
    facts = table(subjects=4, scans=1, windows=2000)
    values = np.zeros((8000, 2))
    noise = rng.standard_normal((8000, 2))
    for i in range(1, 8000):
        values[i] = 0.7 * values[i - 1] + noise[i]
    kept = rng.random(8000) < 0.6
    assert sample.autocorrelation(values, facts) == pytest.approx(0.7, abs=0.03)
    assert sample.autocorrelation(values[kept], facts[kept]) == pytest.approx(0.7, abs=0.05)


def test_description_of_a_small_sample():
    facts = table(subjects=2, scans=2, windows=6)
    y = np.array([0, 0, 1, 1, 0, 0] + [1] * 6 + [0, 1, 0, 1, 0, 1] + [0, 0, 0, 1, 1, 1])
    found = sample.describe(y, facts, CLASSES, {"artefact": 3})
    assert (found["subjects"], found["scans"], found["windows"]) == (2, 4, 24)
    assert found["label_switches"] == 2 + 0 + 5 + 1
    assert found["constant_scans"] == ["sub-00/scan-1"]
    assert found["scans_table"][1]["counts"] == {"drowsy": 0, "alert": 6}
    centred = [c - c.mean() for c in (y[:6], y[12:18], y[18:])]
    expected = np.mean([np.sum(c[1:] * c[:-1]) / np.sum(c**2) for c in centred])
    assert found["label_autocorrelation"] == pytest.approx(expected)


def test_a_description_of_many_classes_of_which_one_is_absent():
    facts, names = table(subjects=1, scans=2, windows=6), list("abcd")
    y = np.array([0, 0, 1, 2, 2, 0, 2, 1, 1, 1, 0, 0])
    found = sample.describe(y, facts, names, {})
    assert found["scans_table"][0]["counts"] == {"a": 3, "b": 1, "c": 2, "d": 0}
    each = []
    for series in (y[:6], y[6:]):
        shown = np.eye(4)[series] - np.eye(4)[series].mean(0)
        each.append((shown[1:] * shown[:-1]).sum() / (shown**2).sum())
    assert found["label_autocorrelation"] == pytest.approx(np.mean(each))
    assert found["constant_scans"] == []


def test_windows_of_another_scan_or_subject_follow_nothing():
    """Windows are counted on through all scans."""
    facts = table(subjects=2, scans=2, windows=3).assign(window=np.arange(12))
    y = np.repeat([0, 1, 0, 1], 3)
    assert sample.describe(y, facts, CLASSES, {})["label_switches"] == 0
    same = facts.assign(scan="one")  # of two subjects
    assert sample.describe(y, same, CLASSES, {})["label_switches"] == 2


def test_a_gap_is_no_switch():
    facts, y = table(subjects=1, scans=1, windows=6), np.array([0, 0, 0, 1, 1, 1])
    assert sample.describe(y, facts, CLASSES, {})["label_switches"] == 1
    kept = [0, 1, 4, 5]
    assert sample.describe(y[kept], facts.iloc[kept], CLASSES, {})["label_switches"] == 0


def test_effective_sample_size():
    assert sample.effective_sample_size(300, 0.5, 10) == pytest.approx(100)
    assert sample.effective_sample_size(300, -0.5, 10) == 300
    assert sample.effective_sample_size(300, np.nan, 10) == 10
