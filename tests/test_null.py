"""No effect, no finding: autocorrelated labels beside autocorrelated features that ignore them."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression

from engram.measures import inference
from engram.scores import classification
from engram.scores.classification import mean_defined

SEEDS, SUBJECTS, SCANS, WINDOWS, FEATURES, PERMUTATIONS = 80, 6, 2, 60, 3, 99


def simulate(rng):
    """One null study: semi-Markov labels, first-order chains as features, subject offsets."""
    table = pd.DataFrame(
        [
            (f"sub-{s}", f"scan-{c}", w)
            for s in range(SUBJECTS)
            for c in range(SCANS)
            for w in range(WINDOWS)
        ],
        columns=["subject", "scan", "window"],
    )
    y = np.concatenate([semi_markov(rng) for _ in range(SUBJECTS * SCANS)])
    noise = rng.standard_normal((SUBJECTS * SCANS, WINDOWS, FEATURES))
    x = noise / np.sqrt(1 - 0.8**2)
    for t in range(1, WINDOWS):
        x[:, t] = 0.8 * x[:, t - 1] + noise[:, t]
    offsets = np.repeat(rng.standard_normal((SUBJECTS, FEATURES)), SCANS * WINDOWS, axis=0)
    return table, y, x.reshape(-1, FEATURES) + offsets


def semi_markov(rng):
    """Two states in turn, each for 2 to 20 windows."""
    lengths = rng.integers(2, 21, WINDOWS)
    state = (np.arange(WINDOWS) + rng.integers(2)) % 2
    start = rng.integers(20)
    return np.repeat(state, lengths)[start : start + WINDOWS]


def leave_one_subject_out(x, y, subjects):
    """Out-of-fold probabilities (n, 1, 2) of a logistic regression."""
    p = np.empty((len(y), 1, 2))
    for subject in np.unique(subjects):
        test = subjects == subject
        model = LogisticRegression(class_weight="balanced").fit(x[~test], y[~test])
        p[test, 0] = model.predict_proba(x[test])
    return p


def p_of(y, p, labels, groups, shared=False):
    """(balanced accuracy, its p under the arrangements `labels`)."""
    value = mean_defined(classification.observed(y, p, groups)["balanced_accuracy"])
    null = classification.null_scores(labels, p, groups)["balanced_accuracy"][:, 0]
    return value, classification.permutation_p("balanced_accuracy", value, null, shared)


@pytest.fixture(scope="module")
def studies():
    """Columns of SEEDS studies: the value, and its p when trained and tested in three ways."""
    found = []
    for seed in range(SEEDS):
        rng = np.random.default_rng([11, seed])
        table, y, x = simulate(rng)
        subjects = table["subject"].to_numpy()
        groups = pd.factorize(subjects)[0]
        shifted = inference.arrangements(y, table, PERMUTATIONS, rng)
        free = np.tile(y, (PERMUTATIONS, 1))
        for group in range(SUBJECTS):
            free[:, groups == group] = rng.permuted(free[:, groups == group], axis=1)
        p = leave_one_subject_out(x, y, subjects)
        value, out_of_fold = p_of(y, p, shifted, groups, shared=True)
        _, other_y, other_x = simulate(rng)
        model = LogisticRegression(class_weight="balanced").fit(other_x, other_y)
        _, other_cohort = p_of(y, model.predict_proba(x)[:, None], shifted, groups)
        found.append((value, out_of_fold, other_cohort, p_of(y, p, free, groups)[1]))
    columns = ["value", "out_of_fold", "other_cohort", "free"]
    return pd.DataFrame(found, columns=columns)


def test_balanced_accuracy_of_nothing_is_one_half(studies):
    values = studies["value"]
    assert abs(values.mean() - 0.5) < 2 * values.std() / np.sqrt(SEEDS)
    assert values.std() > 0.005


def test_p_under_shifts_is_uniform(studies):
    assert scipy.stats.kstest(studies["other_cohort"], "uniform").pvalue > 0.01


def test_p_where_subjects_train_each_other_is_not_too_small(studies):
    p = studies["out_of_fold"]
    assert scipy.stats.kstest(p, "uniform", alternative="greater").pvalue > 0.05


def test_p_under_free_permutation_is_not(studies):
    """What autocorrelation does to a test that ignores it."""
    assert scipy.stats.kstest(studies["free"], "uniform").pvalue < 0.01
    assert (studies["free"] < 0.05).mean() > 0.1
