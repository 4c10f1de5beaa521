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


def test_bootstrap_draws_subjects_and_images(rng):
    values = (rng.random((6, 40)) < 0.4).astype(float)
    means = []
    for _ in range(4000):
        subjects, images = rng.integers(0, 6, 6), rng.integers(0, 40, 40)
        means.append(values[np.ix_(subjects, images)].mean())
    for confidence, ends in ((0.95, [0.025, 0.975]), (0.5, [0.25, 0.75]), (0.8, [0.1, 0.9])):
        found = inference.bootstrap(values, confidence)
        assert found == pytest.approx(np.quantile(means, ends), abs=0.006)
    assert inference.bootstrap(values) == inference.bootstrap(values, 0.95, 10_000, seed=0)


def test_bootstrap_covers_both_factors(rng):
    """95 % of intervals hold the truth when subjects and images both differ."""
    hits = 0
    for _ in range(200):
        values = rng.normal(size=(12, 1)) + rng.normal(size=(1, 50)) + rng.normal(size=(12, 50))
        low, high = inference.bootstrap(values, resamples=400)
        hits += low <= 0 <= high
    assert 0.87 <= hits / 200 <= 0.99


def test_bootstrap_repeats():
    values = np.random.default_rng(1).normal(size=(5, 20))
    assert inference.bootstrap(values) == inference.bootstrap(values)


@pytest.mark.parametrize("n", [2, 4, 10])
def test_sign_flips_are_scipys(rng, n):
    differences = rng.normal(size=n) + 0.5
    exact = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert inference.sign_flip(differences) == pytest.approx(exact.pvalue)


def test_sign_flips_of_many_subjects(rng):
    differences = rng.normal(size=40) + 0.3
    p = inference.sign_flip(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.03)
    assert math.isnan(inference.sign_flip([]))


def test_of_many_subjects_the_observed_pattern_counts_too():
    assert inference.sign_flip(np.full(20, 0.1)) == pytest.approx(1 / 10_001)
    assert inference.sign_flip(np.full(17, -0.1), resamples=100) == pytest.approx(1 / 101)


@pytest.mark.parametrize("n", [2, 11, 16])
def test_sign_flips_are_two_sided_and_exact_up_to_16_subjects(n):
    for sign in (1, -1):
        assert inference.sign_flip(np.full(n, sign * 0.1)) == pytest.approx(2 / 2**n, rel=1e-12)
    assert inference.sign_flip(np.zeros(n)) == 1
    one_against = np.full(n, 0.1)
    one_against[-1] *= -1  # as unequal: either sign of the others, any one of n
    assert inference.sign_flip(one_against) == pytest.approx(min(2 * (n + 1) / 2**n, 1), rel=1e-12)


def test_seeds_of_inference_are_used(rng):
    values = rng.normal(size=(20, 30))
    assert inference.bootstrap(values, seed=1) != inference.bootstrap(values, seed=2)
    weak = values.mean(1)
    assert inference.sign_flip(weak, seed=1) != inference.sign_flip(weak, seed=2)
    square = rng.normal(size=(20, 20))
    one, two = (ranking.permutation(square, seed=s)[1] for s in (1, 2))
    assert (one != two).any()


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
