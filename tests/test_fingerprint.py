"""Subjects found again from another half: brute force, closed forms, and rows that overlap."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scoring import table

from engram.measures.fingerprint import halves, identification, wilson


def planted(facts, strength, d=40, seed=0):
    rng = np.random.default_rng(seed)
    subject = pd.factorize(facts["subject"])[0]
    own = rng.standard_normal((subject.max() + 1, d))
    return rng.standard_normal((len(facts), d)) + strength * own[subject]


def apart(**sizes):
    """Rows whose seconds touch and do not overlap."""
    facts = table(**sizes)
    return facts.assign(start=facts["onset"], stop=facts["onset"] + 15)


@pytest.mark.parametrize("strength", [0.0, 0.3, 3.0])
def test_identification_is_that_of_correlated_means_searched_one_by_one(strength):
    facts = apart(subjects=7, scans=2, windows=6)
    x = planted(facts, strength)
    found = identification(x, facts)
    late = (facts["window"] >= 3).to_numpy()
    names = sorted(facts["subject"].unique())
    means = [
        [x[part & (facts["subject"] == name).to_numpy()].mean(0) for name in names]
        for part in (~late, late)
    ]
    hits = []
    for i, name in enumerate(names):
        for here, there in (means, means[::-1]):
            r = [np.corrcoef(here[i], one)[0, 1] for one in there]
            hits.append(names[int(np.argmax(r))] == name)
    assert found["accuracy"] == pytest.approx(np.mean(hits))
    assert (found["chance"], found["subjects"]) == (1 / 7, 7)
    if strength == 3:
        assert found["accuracy"] == 1
        assert 0.5 < found["low"] < found["high"] == 1


def test_in_noise_a_subject_is_found_as_often_as_chance_says():
    facts = apart(subjects=10, scans=1, windows=4)
    found = [identification(planted(facts, 0, seed=s), facts)["accuracy"] for s in range(100)]
    assert np.mean(found) == pytest.approx(0.1, abs=0.03)


def test_halves_share_no_second():
    facts = table(subjects=3, scans=2, windows=9)
    first, second = halves(facts)
    assert not (first & second).any()
    for _, scan in facts.groupby(["subject", "scan"]):
        at = facts.index.get_indexer(scan.index)
        assert first[at].sum() >= 1
        assert scan["stop"][first[at]].max() <= scan["start"][second[at]].min()
        overlapping = ~first[at] & ~second[at]
        assert (scan["stop"][overlapping] > scan["start"][second[at]].min()).all()


def test_scans_that_are_one_row_each_are_dealt_out_whole():
    facts = table(subjects=3, scans=3, windows=1)
    facts = facts[(facts["subject"] != "sub-02") | (facts["scan"] == facts["scan"].min())]
    first, second = halves(facts)
    scan = facts["scan"].to_numpy(str)
    several = (facts["subject"] != "sub-02").to_numpy()
    earliest = scan == sorted(scan)[0]
    assert (first == (several & earliest)).all()
    assert (second == (several & ~earliest)).all()
    assert identification(planted(facts, 5), facts)["subjects"] == 2


def test_of_two_scans_the_first_by_name_is_the_first_half():
    first, second = halves(table(subjects=3, scans=2, windows=1))
    assert first.tolist() == [True, False] * 3
    assert second.tolist() == [False, True] * 3


def test_features_are_compared_without_their_mean():
    facts = apart(subjects=3, scans=1, windows=2)
    x = planted(facts, 5) + 1e3 * np.arange(1, 7)[:, None]
    assert identification(x, facts)["accuracy"] == 1


def test_a_subject_alone_and_features_that_never_vary_find_nobody():
    facts = apart(subjects=4, scans=1, windows=4)
    assert identification(np.ones((16, 5)), facts)["accuracy"] == 0
    one = facts[facts["subject"] == "sub-01"]
    assert np.isnan(identification(planted(one, 1), one)["accuracy"])


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (5, 12), (12, 12)])
def test_the_interval_is_that_of_scipy(hits, n):
    expected = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
