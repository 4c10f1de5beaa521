"""That there is no difference, and which one would have been seen: SciPy, and simulated studies."""

import numpy as np
import pytest
from scipy import stats

from engram.measures import inference


def test_two_one_sided_tests_are_those_of_scipy():
    gained = np.random.default_rng(0).normal(0.01, 0.03, 9)
    for margin in (0.002, 0.05):
        sides = (
            stats.ttest_1samp(gained, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(gained, margin, alternative="less").pvalue,
        )
        found = inference.claims(gained, margin)["equivalence_p"]
        assert found == pytest.approx(max(sides))
        low, high = inference.t_interval(gained)
        again = inference.claims_of_interval(gained.mean(), low, high, 8, 0.95, margin)
        assert again == pytest.approx(inference.claims(gained, margin))


@pytest.mark.parametrize("n", [2, 4, 12])
def test_what_is_detectable_is_found_in_four_studies_of_five(n):
    """The least gain of which a t test has power 0.8: by simulation, at the true spread."""
    rng = np.random.default_rng(n)
    values = rng.standard_normal(n)
    values = (values - values.mean()) / values.std(ddof=1)
    least = inference.claims(values)["detectable"]
    studies = rng.normal(least, 1, (20000, n))
    assert (stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(
        0.8, abs=0.01
    )
    shared = inference.claims(values, shared=True)["detectable"]
    assert shared == pytest.approx(least * np.sqrt(1 + n / (n - 1)))


def test_no_difference_is_claimed_of_one_at_the_margin_in_a_twentieth():
    studies = np.random.default_rng(0).normal(0.05, 0.02, (4000, 6))
    p = [inference.claims(gained, 0.05)["equivalence_p"] for gained in studies]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.012)


def test_subjects_and_images_both_count():
    """Gains of subjects and images drawn at random: power and false claims by simulation."""
    rng, (n, m), (of_subject, of_image, rest) = np.random.default_rng(0), (8, 30), (0.3, 1.0, 1.0)

    def drawn(mean):
        parts = rng.normal(0, of_subject, (n, 1)), rng.normal(0, of_image, m)
        return mean + parts[0] + parts[1] + rng.normal(0, rest, (n, m))

    errors = np.sqrt([of_subject**2 / n + rest**2 / (n * m), of_image**2 / m])
    least = inference.detectable(errors, [n - 1, m - 1])
    found = [inference.crossed(drawn(least))[2] < 0.05 for _ in range(1500)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
    claimed = [inference.claims(drawn(0.8), 0.8)["equivalence_p"] < 0.05 for _ in range(1500)]
    assert np.mean(claimed) < 0.065
    middle = np.median([inference.claims(drawn(0))["detectable"] for _ in range(500)])
    assert middle == pytest.approx(least, rel=0.05)


def test_of_one_subject_nothing_is_claimed():
    found = inference.claims(np.array([0.1]), 0.05)
    assert np.isnan([found["detectable"], found["equivalence_p"]]).all()
    assert inference.claims(np.array([0.1]))["equivalence_p"] is None
    alike = inference.claims(np.full(5, 0.01), 0.05)
    assert alike == {"detectable": 0, "equivalence_p": 0}
