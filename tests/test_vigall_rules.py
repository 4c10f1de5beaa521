"""The rules of VIGALL-like staging, each against its text spelled out again or a closed form."""

import cmath
import math

import numpy as np
import pandas as pd
import pytest

from engram.recording import Recording, Signal, Windows
from engram.signals import vigall

SFREQ = 200
CHANNELS = ("O1", "O2", "P3", "P4", "T7", "T8", "F3", "F4")


def tone(frequency, seconds, amplitude=1.0, sfreq=SFREQ):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sfreq)) / sfreq)


# ---- decisions, spelled out -------------------------------------------------------------


def spelled_out(al, dt, threshold, slow_eye):
    """The decision of one second, in the order of the text."""
    occ, par, tem, fro = al
    if any(a >= threshold for a in al) and any(a >= 2 * d for a, d in zip(al, dt, strict=True)):
        if occ > par and occ > tem and occ > fro:
            return "A1"
        if tem > 4 * fro or par > 4 * fro:
            return "A2"
        return "A3"
    if any(d > 2 * threshold for d in dt):
        return "B2/3"
    return "B1" if slow_eye in (None, True) else "0"


@pytest.mark.parametrize("detection", [True, False])
def test_decisions_follow_the_text(detection):
    rng = np.random.default_rng(1)
    alpha, delta_theta = np.exp(rng.normal(0, 1.5, (2, 4, 3000)))
    slow_eye = rng.random(3000) < 0.5 if detection else None
    found = vigall.decide(alpha, delta_theta, 2.0, slow_eye)
    expected = [
        spelled_out(alpha[:, i], delta_theta[:, i], 2.0, bool(slow_eye[i]) if detection else None)
        for i in range(3000)
    ]
    assert found.tolist() == expected
    assert set(expected) == {"A1", "A2", "A3", "B1", "B2/3"} | ({"0"} if detection else set())


def test_equality_at_a_threshold_is_alpha_but_not_delta_theta():
    ones, zeros = np.ones((4, 1)), np.zeros((4, 1))
    assert vigall.decide(2 * ones, ones, 2.0, np.array([False])).tolist() == ["A3"]
    assert vigall.decide(zeros, 4 * ones, 2.0, np.array([False])).tolist() == ["0"]
    assert vigall.decide(zeros, 4.01 * ones, 2.0, np.array([False])).tolist() == ["B2/3"]


def test_the_reduced_form_knows_a_b_and_0():
    alpha = np.array([3.0, 3.0, 1.0, 1.0, 2.0])
    delta_theta = np.array([1.0, 5.0, 5.0, 1.0, 1.0])
    assert vigall.decide_reduced(alpha, delta_theta, 2.0).tolist() == ["A", "B", "B", "0", "A"]


@pytest.mark.parametrize(
    ("stages", "marks", "expected"),
    [
        (["0"] * 40, [3], ["0"] * 3 + ["C"] * 30 + ["0"] * 7),
        (["B1"] * 5 + ["A3"] + ["B1"] * 4, [2], ["B1"] * 2 + ["C"] * 3 + ["A3"] + ["B1"] * 4),
        (["B2/3"] * 3 + ["X"] * 2 + ["B1"] * 3, [1], ["B2/3"] + ["C"] * 2 + ["X"] * 2 + ["C"] * 3),
        (["A1"] * 3 + ["0"] * 2, [1], ["A1", "C", "A1", "0", "0"]),
        (["0"] * 50, [0, 10], ["C"] * 40 + ["0"] * 10),
        (["X"] * 29 + ["0"] * 3, [0], ["C"] + ["X"] * 28 + ["C"] + ["0"] * 2),
        (["0"] * 5, [], ["0"] * 5),
    ],
)
def test_sleep_onset_goes_on_until_alpha_or_29_seconds(stages, marks, expected):
    marked = np.isin(np.arange(len(stages)), marks)
    assert vigall.sleep_onset(stages, marked).tolist() == expected


# ---- individual alpha frequency ----------------------------------------------------------


@pytest.mark.parametrize("frequency", [8.2, 9.3, 10.0, 11.7, 13.5])
@pytest.mark.parametrize("sfreq", [100, 250])
def test_frequency_of_a_tone(frequency, sfreq):
    data = np.stack([tone(frequency, 30, 20, sfreq)] * 2)
    assert vigall.individual_alpha(data, sfreq, np.ones(30, bool))[0] == frequency


def searched_slowly(data, sfreq, usable):
    """The search, spelled out with sums over samples instead of an FFT."""
    n, best = 10 * sfreq, None
    for second in range(min(len(usable), 900) - 9):
        if not all(usable[second : second + 10]):
            continue
        cut = data[:, second * sfreq : second * sfreq + n]
        power = {
            k: sum(
                abs(np.sum(x * np.exp([-2j * cmath.pi * k * t / n for t in range(n)]))) ** 2
                for x in cut
            )
            for k in range(30, 140)
        }
        total = sum(power[k] for k in range(80, 140))
        centre = round(sum(k * power[k] for k in range(80, 140)) / total)
        if sum(power[k] for k in range(30, 65)) / 35 >= power[centre]:
            continue
        moment = sum(k / 10 * power[k] for k in range(80, 140))
        if best is None or moment > best[0]:
            best = moment, second, power
    if best is None:
        return None
    _, second, power = best
    edge = max(range(80, 120), key=lambda e: sum(power[k] for k in range(e, e + 21)))
    band = range(edge, edge + 21)
    iaf = sum(k * power[k] for k in band) / sum(power[k] for k in band)
    return math.floor(iaf) / 10, second


@pytest.mark.parametrize("seed", range(4))
def test_the_search_follows_the_text(seed):
    rng = np.random.default_rng(seed)
    sfreq, seconds = 64, 24
    t = np.arange(seconds * sfreq) / sfreq
    alpha = np.sin(2 * np.pi * rng.uniform(8, 12) * t + 0.5 * np.cumsum(rng.normal(0, 0.3, len(t))))
    data = alpha * (1 + np.sin(t / 3)) + rng.normal(0, 1.5, (2, len(t)))
    usable = np.ones(seconds, bool)
    usable[rng.integers(seconds)] = False
    expected = searched_slowly(data, sfreq, usable)
    assert expected is not None
    assert vigall.individual_alpha(data, sfreq, usable) == expected


def test_windows_that_touch_bad_seconds_are_passed_over():
    data = np.concatenate([tone(9.0, 20, 10, 100), tone(11.0, 20, 50, 100)])[None]
    usable = np.ones(40, bool)
    assert vigall.individual_alpha(data, 100, usable)[0] == 11.0
    usable[27] = False
    assert vigall.individual_alpha(data, 100, usable)[1] >= 28
    usable[[20, 34]] = False
    assert vigall.individual_alpha(data, 100, usable)[0] == 9.0
    usable[9] = False
    assert vigall.individual_alpha(data, 100, usable)[1] == 10
    usable[19] = False
    assert vigall.individual_alpha(data, 100, usable) is None


def test_only_the_first_900_seconds_are_searched():
    data = np.concatenate([tone(9.0, 895, 10, 50), tone(11.0, 25, 100, 50)])[None]
    frequency, second = vigall.individual_alpha(data, 50, np.ones(920, bool))
    assert second == 890
    data[:, 900 * 50 :] *= 10
    assert vigall.individual_alpha(data, 50, np.ones(920, bool)) == (frequency, second)


@pytest.mark.parametrize(("theta", "shown"), [(2.9, True), (3, False), (6.4, False), (6.5, True)])
def test_theta_of_3_to_6_4_hz_hides_alpha(theta, shown):
    data = (tone(theta, 20, 40) + tone(10, 20, 3))[None]
    found = vigall.individual_alpha(data, SFREQ, np.ones(20, bool))
    assert (found is not None) == shown


def test_marks_are_passed_over_in_the_search():
    data = np.concatenate([tone(9, 20, 10), tone(11, 20, 50)])
    eeg = Signal(np.outer([1, -1] * 4, data), SFREQ, CHANNELS, "uV")
    assert vigall.stage(eeg).attrs["iaf"] == 11.0
    assert vigall.stage(eeg, marks=[20.5, 26, 34]).attrs["iaf"] == 9.0


def test_the_alpha_band_is_2_hz_to_both_sides():
    data = np.concatenate([tone(12, 20, 40), tone(13, 20, 20), tone(9, 20, 20)])
    staged = vigall.stage(Signal(np.outer([1, -1] * 4, data), SFREQ, CHANNELS, "uV"))
    assert staged.attrs["iaf"] == 12.0
    for start, frequency in ((0, 12), (20, 13), (40, 9)):
        expected = (40 if frequency == 12 else 20) ** 2 / 2 * passed(frequency, 10, 14)
        found = staged["alpha_occipital"][start + 5 : start + 15]
        np.testing.assert_allclose(found, expected, rtol=0.01)


@pytest.mark.parametrize("c", [0.1, 0.4])
def test_the_absolute_threshold_is_a_share_of_the_mean_alpha_of_the_best_seconds(c):
    """Alpha that waxes and wanes within the ten seconds, so that a mean is no maximum."""
    waning = 1.1 + np.sin(2 * np.pi * np.arange(30 * SFREQ) / SFREQ / 7)
    data = np.outer([1, -1] * 4, waning * tone(10, 30, 20))
    staged = vigall.stage(Signal(data, SFREQ, CHANNELS, "uV"), c=c)
    _, first = vigall.individual_alpha(data[:2], SFREQ, np.ones(30, bool))
    best = staged["alpha_occipital"].to_numpy()[first : first + 10]
    assert best.max() > 1.5 * best.mean()
    assert staged.attrs["alpha_threshold"] == pytest.approx(c * best.mean())
    assert staged.attrs["delta_theta_threshold"] == pytest.approx(2 * c * best.mean())


def test_published_thresholds():
    assert vigall.current_density_threshold(40_000) == 50_000
    assert vigall.current_density_threshold(4_500_000) in (149_999, 150_000)
    assert vigall.current_density_threshold(200_000) == int(50_000 * 5 ** (1.0986123 / 4.7229532))


# ---- signals ----------------------------------------------------------------------------


def passed(frequency, low, high):
    """Share of power that a Butterworth band-pass of order 4 leaves after two runs, which falls
    with f^16 or 48 dB an octave (closed form, stretched by the bilinear transform)."""
    f, low, high = (math.tan(math.pi * x / SFREQ) for x in (frequency, low, high))
    once = 1 / (1 + ((f**2 - low * high) / (f * (high - low))) ** 8)
    return once**2


@pytest.mark.parametrize("frequency", [2, 3, 4.6, 6.5, 7, 9, 14])
def test_bands_are_cut_out_by_a_filter_of_48_db_an_octave(frequency):
    data = tone(frequency, 60, math.sqrt(2))[None]
    found = vigall._lobe_powers(data, SFREQ, vigall.DELTA_THETA, {"all": [0]})[0, 20:40]
    assert found.mean() == pytest.approx(passed(frequency, 3, 7), rel=1e-3)


def bump(height, sfreq=100, seconds=200, at=100):
    return height * np.exp(-((np.arange(seconds * sfreq) / sfreq - at) ** 2) / 2)


def test_slow_eye_movements_reach_six_seconds_to_both_sides():
    """A Gaussian of 400 uV and 1 s passes 200 uV at 98.82 s; its range over the last 6 s falls
    below at 107.18 s; with 6 s on both sides that is 92.82 to 113.18 s."""
    (interval,) = vigall.slow_eye_movements(Signal(bump(400)[None], 100, ("HEOG",), "uV"))
    np.testing.assert_allclose(interval, (92.82, 113.18), atol=0.1)
    flagged = vigall.touched(np.arange(200.0), [interval])
    assert np.flatnonzero(flagged).tolist() == list(range(92, 114))


def test_slow_eye_movements_need_200_uv_and_be_slow():
    assert vigall.slow_eye_movements(Signal(bump(190)[None], 100, ("HEOG",), "uV")) == []
    fast = tone(2, 100, 1000, 100)[None]
    assert vigall.slow_eye_movements(Signal(fast, 100, ("HEOG",), "uV")) == []


def test_slow_eye_movements_of_two_channels_on_their_own_clock():
    data = np.stack([bump(200), -bump(200)]) + 3000 + np.linspace(0, 500, 20_000)
    pair = Signal(data, 100, ("left", "right"), "uV", start=7.0)
    (interval,) = vigall.slow_eye_movements(pair)
    np.testing.assert_allclose(interval, (99.82, 120.18), atol=0.1)


def test_two_slow_eye_movements_are_two_intervals():
    both = bump(400, at=60) + bump(400, at=140)
    found = vigall.slow_eye_movements(Signal(both[None], 100, ("HEOG",), "uV"))
    np.testing.assert_allclose(found, [(52.82, 73.18), (132.82, 153.18)], atol=0.15)


def test_movements_that_touch_are_one_interval():
    """Each is seen for 8.4 s and reaches 6 s to both sides: 9.6 s between them are bridged."""
    both = bump(400, at=60) + bump(400, at=78)
    found = vigall.slow_eye_movements(Signal(both[None], 100, ("HEOG",), "uV"))
    np.testing.assert_allclose(found, [(52.82, 91.18)], atol=0.15)


def test_missing_samples_of_an_eog_with_an_offset_are_no_movement():
    data = 3000 + tone(3, 60, 20, 100)
    data[2000:2100] = np.nan
    assert vigall.slow_eye_movements(Signal(data[None], 100, ("HEOG",), "uV")) == []


def test_artefacts():
    data = np.tile(tone(10, 12, 30), (3, 1))
    data[0, 2 * SFREQ + 50 : 2 * SFREQ + 150] += np.hanning(100) * 400  # large
    data[1, 4 * SFREQ : 5 * SFREQ] = 12.0  # flat
    data[2, 7 * SFREQ :] += 130  # a step between two seconds
    data[2, 9 * SFREQ + 3] = np.inf
    bad = vigall.artefacts(data, SFREQ)
    assert np.flatnonzero(bad).tolist() == [2, 4, 6, 7, 9]
    assert np.flatnonzero(vigall.artefacts(data, SFREQ, amplitude=1000)).tolist() == [4, 6, 7, 9]
    assert np.flatnonzero(vigall.artefacts(data, SFREQ, flat=0)).tolist() == [2, 6, 7, 9]
    assert np.flatnonzero(vigall.artefacts(data, SFREQ, jump=200)).tolist() == [2, 4, 9]


# ---- windows ----------------------------------------------------------------------------


def second_by_second(stages):
    scores = [vigall.SCORES[name] for name in stages]
    return pd.DataFrame(
        {"onset": np.arange(len(stages), dtype=float), "stage": stages, "score": scores}
    )


def test_windows_of_30_s_every_15_s_in_690_s_are_45():
    recording = Recording("sub-01", "scan-01", 690.0)
    onsets = Windows(30, 15).onsets(recording)
    labels, fraction, score, exclude = vigall.window_labels(
        second_by_second(["A1"] * 345 + ["B1"] * 345), onsets, 30
    )
    assert len(labels) == len(fraction) == len(score) == len(exclude) == 45
    assert labels.tolist() == [1] * 23 + [0] * 22  # the 23rd is half alert: 330 to 360 s
    assert fraction[22] == 0.5
    assert score[22] == 4.5


@pytest.mark.parametrize("theta", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("ambiguous", [None, [0.3, 0.7]])
def test_window_labels_follow_the_text(theta, ambiguous):
    rng = np.random.default_rng(3)
    names = ["0", "A1", "A2", "A3", "B1", "B2/3", "C", "X", "X", "X", "X"]
    stages = np.repeat(rng.choice(names, 120), rng.integers(1, 12, 120))
    onsets = np.arange(0, len(stages) - 20, 10)
    found = vigall.window_labels(second_by_second(stages), onsets, 20, theta, 0.5, ambiguous)
    for onset, label, fraction, score, exclude in zip(onsets, *found, strict=True):
        cut = [s for s in stages[onset : onset + 20] if s != "X"]
        alert = [s for s in cut if s in ("0", "A1", "A2", "A3")]
        if cut:
            assert fraction == pytest.approx(len(alert) / len(cut))
            assert score == pytest.approx(sum(vigall.SCORES[s] for s in cut) / len(cut))
        if len(cut) < 10:
            assert (label, exclude) == (-1, "too few valid seconds")
        elif ambiguous and 0.3 < len(alert) / len(cut) < 0.7:
            assert (label, exclude) == (-1, "ambiguous")
        else:
            assert (label, exclude) == (len(alert) / len(cut) >= theta, "")
    assert found[0].dtype == np.int8
    assert set(found[0]) == {-1, 0, 1}


def test_the_borders_of_the_ambiguous_band_are_not_ambiguous():
    stages = second_by_second(["0"] * 3 + ["B1"] * 7 + ["0"] * 7 + ["B1"] * 3 + ["0", "B1"] * 5)
    labels, _, _, exclude = vigall.window_labels(stages, [0, 10, 20], 10, 0.5, 0.5, [0.3, 0.7])
    assert exclude == ["", "", "ambiguous"]
    assert labels.tolist() == [0, 1, -1]


def test_windows_without_a_valid_second_have_no_score():
    labels, fraction, score, exclude = vigall.window_labels(
        second_by_second(["X"] * 10), [0.0], 10, min_valid=0.0
    )
    assert labels.tolist() == [-1]
    assert np.isnan([*fraction, *score]).all()
    assert exclude == ["too few valid seconds"]


def test_a_second_belongs_to_the_window_that_holds_its_middle():
    stages = second_by_second(["B1"] + ["A1"] * 15)
    _, fraction, *_ = vigall.window_labels(stages, [0.5, 0.6], 10)
    assert fraction.tolist() == [0.9, 1.0]  # seconds 0 to 9, and 1 to 10
    _, fraction, *_ = vigall.window_labels(second_by_second(["A1"] * 10 + ["B1"] * 2), [0.5], 10)
    assert fraction.tolist() == [1.0]


def test_windows_beyond_the_signal_count_missing_seconds_as_not_valid():
    stages = second_by_second(["A1"] * 14)
    _, _, _, exclude = vigall.window_labels(stages, [0.0, 5.0], 15, min_valid=0.9)
    assert exclude == ["", "too few valid seconds"]


def test_reduced_stages_are_labelled():
    labels, *_ = vigall.window_labels(second_by_second(["A"] * 10 + ["B"] * 10), [0, 10], 10)
    assert labels.tolist() == [1, 0]
