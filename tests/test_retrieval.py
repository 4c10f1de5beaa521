"""Retrieval scores against brute force, drawing and closed forms."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from engram.errors import InputError
from engram.measures import inference, ranking


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def brute_rank(row, true):
    better = sum(1 for j, s in enumerate(row) if j != true and s > row[true])
    equal = sum(1 for j, s in enumerate(row) if j != true and s == row[true])
    return 1 + better + equal / 2


def test_ranks_by_counting(rng):
    similarity = rng.integers(0, 12, (30, 25)).astype(float)  # many ties
    truth = rng.integers(0, 25, 30)
    expected = [brute_rank(row, t) for row, t in zip(similarity, truth, strict=True)]
    np.testing.assert_array_equal(ranking.ranks(similarity, truth), expected)
    without_ties = rng.normal(size=(20, 20))
    scipys = stats.rankdata(-without_ties, axis=1).diagonal()
    np.testing.assert_array_equal(ranking.ranks(without_ties), scipys)


def test_all_tied_is_the_middle():
    assert (ranking.ranks(np.zeros((5, 5))) == 3).all()


def test_order_of_queries_and_candidates_does_not_matter(rng):
    similarity = rng.normal(size=(40, 40)) + np.eye(40)
    order = rng.permutation(40)
    moved = ranking.ranks(similarity[order][:, order])
    np.testing.assert_array_equal(moved, ranking.ranks(similarity)[order])
    columns = rng.permutation(40)
    moved = ranking.ranks(similarity[:, columns], np.argsort(columns))
    np.testing.assert_array_equal(moved, ranking.ranks(similarity))


def test_directions_are_told_apart():
    similarity = np.array([[3.0, 2, 1], [4, 2, 1], [5, 2, 1]])
    assert ranking.ranks(similarity).tolist() == [1, 2, 3]
    assert ranking.ranks(similarity.T).tolist() == [3, 2, 2]


def test_scores_of_known_ranks():
    found = ranking.scores([1, 1.5, 4, 120], 200)
    assert found["top1"] == 0.25
    assert found["top3"] == 0.5
    assert found["top5"] == 0.75
    assert found["mrr"] == pytest.approx((1 + 1 / 1.5 + 1 / 4 + 1 / 120) / 4)
    assert found["median_rank"] == 2.75
    assert found["mean_rank"] == 31.625
    assert {name for name in found if "way" in name} == {
        f"{k}-way" for k in (2, 4, 10, 50, 100)
    }  # fmt: skip


# ---- k-way ------------------------------------------------------------------------------


@pytest.mark.parametrize("k", ranking.WAYS)
def test_k_way_is_the_ratio_of_binomials(k):
    n = 200
    expected = [math.comb(n - r, k - 1) / math.comb(n - 1, k - 1) for r in range(1, n + 1)]
    np.testing.assert_allclose(ranking.k_way(np.arange(1, n + 1), n, k), expected, atol=1e-14)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_k_way_by_every_draw(rng, k):
    """All draws of k - 1 others, a tie of two broken by a fair coin."""
    row = np.array([5.0, 4, 4, 3, 2, 1, 0])
    for true in (0, 1, 3, 6):
        others = [j for j in range(7) if j != true]
        wins = []
        for drawn in itertools.combinations(others, k - 1):
            best = max(row[j] for j in drawn)
            wins.append(1.0 if row[true] > best else 0.5 if row[true] == best else 0.0)
        rank = ranking.ranks(row[None], [true])
        assert ranking.k_way(rank, 7, k)[0] == pytest.approx(np.mean(wins))


def test_k_way_by_drawing(rng):
    similarity = rng.normal(size=(60, 60)) + 1.5 * np.eye(60)
    wins = []
    for _ in range(300):
        for i, row in enumerate(similarity):
            others = rng.choice(np.delete(np.arange(60), i), 9, replace=False)
            wins.append(row[i] > row[others].max())
    closed = ranking.scores(ranking.ranks(similarity), 60)["10-way"]
    assert closed == pytest.approx(np.mean(wins), abs=4 * np.sqrt(0.25 / len(wins)))


# ---- chance -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 60, 200])
def test_chance_is_the_mean_over_all_ranks(n):
    """Exactly: a true candidate that is anywhere with the same probability."""
    assert ranking.chance(n) == pytest.approx(ranking.scores(np.arange(1, n + 1), n))


def test_hits_by_chance_are_binomial(rng):
    hits = [(ranking.ranks(rng.normal(size=(50, 50))) <= 5).sum() for _ in range(400)]
    observed = np.bincount(hits, minlength=16)
    expected = stats.binom.pmf(np.arange(16), 50, 0.1) * 400
    bins = [slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6), slice(6, 7), slice(7, 9)]
    counts = [[part[b].sum() for b in bins] for part in (observed, expected)]
    counts = [[*c, 400 - sum(c)] for c in counts]
    assert stats.chisquare(*counts).pvalue > 1e-3


# ---- inference --------------------------------------------------------------------------


def test_the_mean_of_one_image_or_subject_has_students_t(rng):
    column, line = rng.normal(0.4, 1, (9, 1)), rng.normal(0.4, 1, (1, 9))
    test = stats.ttest_1samp(column[:, 0], 0)
    for values in (column, line):
        values = values.copy()
        values.ravel()[:] = column.ravel()
        low, high, p = inference.crossed(values)
        assert (low, high) == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert p == pytest.approx(test.pvalue)


def test_subjects_alone_matter_where_images_do_not(rng):
    """Every subject answers alike for all images but for noise: a t interval of their means."""
    values = rng.normal(size=(8, 1)) + 1e-3 * rng.normal(size=(8, 400))
    test = stats.ttest_1samp(values.mean(1), 0)
    low, high, p = inference.crossed(values)
    assert (low, high) == pytest.approx(tuple(test.confidence_interval(0.95)), rel=1e-3)
    assert p == pytest.approx(test.pvalue, rel=1e-2)
    shared = inference.crossed(values, shared=True)
    assert shared[1] - shared[0] == pytest.approx((high - low) * np.sqrt(1 + 8 / 7), rel=1e-3)


@pytest.mark.parametrize("subjects", [2, 3, 6, 12])
def test_intervals_hold_the_truth_when_subjects_and_images_both_differ(rng, subjects):
    hits = rejected = 0
    for _ in range(600):
        values = (
            0.5 * rng.normal(size=(subjects, 1))
            + rng.normal(size=(1, 50))
            + rng.normal(size=(subjects, 50))
        )
        low, high, p = inference.crossed(values)
        hits += low <= 0 <= high
        rejected += p < 0.05
    assert 0.92 <= hits / 600 <= 0.99
    assert rejected == 600 - hits


def test_an_interval_over_images_is_cut_at_what_is_possible(rng):
    low, high, _ = inference.crossed(rng.random((3, 20)) < 0.05, (0, 1))
    assert low == 0
    assert high < 1
    assert inference.crossed(np.ones((3, 4)), (0, 1)) == (1, 1, 0)
    assert inference.crossed(np.zeros((3, 4)), (-1, 1)) == (0, 0, 1)


def test_seeds_of_inference_are_used(rng):
    square = rng.normal(size=(20, 20))
    one, two = (ranking.permutation(square, seed=s)[1] for s in (1, 2))
    assert (one != two).any()


def test_pictures_are_exchanged_for_all_subjects_alike(rng):
    """Subjects respond alike to a picture: rows that are exchanged one by one reject too often."""
    rejected = 0
    for _ in range(200):
        common = rng.normal(size=(30, 30))
        similarity = np.concatenate([common + 0.3 * rng.normal(size=(30, 30)) for _ in range(4)])
        _, _, p = ranking.permutation(similarity, np.tile(np.arange(30), 4), resamples=99)
        rejected += p <= 0.05
    assert rejected <= 18


def test_the_score_of_several_runs_is_the_mean_of_each(rng):
    runs = rng.normal(size=(3, 20, 20)) + np.eye(20)
    observed, null, _ = ranking.permutation(runs, resamples=50)
    each = [ranking.permutation(one, resamples=50) for one in runs]
    assert observed == pytest.approx(np.mean([one[0] for one in each]))
    np.testing.assert_allclose(null, np.mean([one[1] for one in each], 0))


def test_a_permutation_counts_the_true_pairing_once(rng):
    found = ranking.permutation(np.eye(30), resamples=99)
    assert found[2] == pytest.approx(1 / 100)
    assert found[0] == 1
    assert len(found[1]) == 99
    assert len(ranking.permutation(np.eye(30))[1]) == 1000


def test_pairings_that_are_as_good_count():
    """Both queries are closest to the first candidate: either pairing finds one."""
    similarity = np.array([[2.0, 1.0], [2.0, 1.0]])
    observed, null, p = ranking.permutation(similarity, resamples=400)
    assert observed == 0.5  # the first query finds its own
    assert (null == 0.5).all()  # whichever way they are paired, one of two does
    assert p == 1


def test_repetition_counts_end_with_all_of_them():
    assert ranking.repetition_counts(80) == [1, 2, 5, 10, 20, 40, 80]
    assert ranking.repetition_counts(40) == [1, 2, 5, 10, 20, 40]
    assert ranking.repetition_counts(1) == [1]


def test_a_permutation_tells_signal_from_chance(rng):
    noise = rng.normal(size=(50, 50))
    observed, null, p = ranking.permutation(noise + 3 * np.eye(50))
    assert observed > 0.5
    assert p == pytest.approx(1 / 1001)
    assert null.mean() == pytest.approx(1 / 50, abs=0.005)


def test_p_of_permutations_is_uniform_under_the_null(rng):
    def mrr(found):
        return (1 / found).mean()

    ps = [
        ranking.permutation(rng.normal(size=(20, 20)), score=mrr, resamples=99)[2]
        for _ in range(200)
    ]
    assert stats.kstest(ps, "uniform").pvalue > 1e-3


def test_permutations_keep_queries_that_share_a_candidate(rng):
    truth = np.repeat(np.arange(5), 3)
    similarity = rng.normal(size=(15, 8)) + 4 * np.eye(8)[truth]
    observed, null, _ = ranking.permutation(similarity, truth)
    assert observed == (ranking.ranks(similarity, truth) <= 1).mean()
    assert null.mean() == pytest.approx(0.2, abs=0.03)  # a fifth of pairings keeps the candidate


def test_nan_is_refused():
    similarity = np.eye(3)
    similarity[1, 2] = np.nan
    with pytest.raises(InputError, match="row 1 holds NaN"):
        ranking.ranks(similarity)


def test_a_matrix_that_is_not_square_needs_the_truth():
    with pytest.raises(InputError, match="give the true column"):
        ranking.ranks(np.zeros((2, 3)))
