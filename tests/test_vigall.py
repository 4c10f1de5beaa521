"""VIGALL-like staging of constructed recordings, and the labels made from it."""

import numpy as np
import pandas as pd
import pytest

from engram.errors import InputError
from engram.recording import Recording, Signal, Windows
from engram.signals import vigall
from engram.views import vigall as view

SFREQ = 200
PAIRS = {
    "occipital": ("O1", "O2"),
    "parietal": ("P3", "P4"),
    "temporal": ("T7", "T8"),
    "frontal": ("F3", "F4"),
}
CHANNELS = tuple(name for pair in PAIRS.values() for name in pair)

#: Amplitudes in uV of alpha (10 Hz) and theta (5 Hz) at occipital, parietal, temporal, frontal.
#: The strongest occipital alpha is 40 uV: M = 800 uV^2, thresholds 160 and 320 uV^2, that is
#: amplitudes of 17.9 and 25.3 uV.
BLOCKS = {
    "A1": ([40, 20, 15, 10], [5, 5, 5, 5]),
    "A2 parietal": ([20, 40, 10, 10], [5, 5, 5, 5]),
    "A2 temporal": ([20, 10, 40, 10], [5, 5, 5, 5]),
    "A3": ([20, 30, 30, 38], [5, 5, 5, 5]),
    "A1 two lobes": ([30, 5, 5, 5], [30, 5, 1, 1]),  # 2 delta-theta is met by temporal alone
    "0": ([5, 5, 5, 5], [5, 5, 5, 5]),
    "0 below": ([16, 10, 10, 10], [5, 5, 5, 22]),
    "B1": ([5, 5, 5, 5], [5, 5, 5, 5]),
    "0 after": ([5, 5, 5, 5], [5, 5, 5, 5]),
    "B2/3": ([5, 5, 5, 5], [5, 5, 5, 30]),
    "B2/3 with alpha": ([40, 20, 20, 20], [40, 40, 40, 40]),
}
SECONDS = 30  # of a block


def inside(block):
    """Seconds of a block, its borders left out (slow eye movements reach 12 s)."""
    start = list(BLOCKS).index(block) * SECONDS
    return slice(start + 13, start + SECONDS - 13)


def tone(frequency, seconds, amplitude=1.0, sfreq=SFREQ):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sfreq)) / sfreq)


def constructed():
    """EEG and EOG of all blocks; pairs have opposite signs, so the average reference is zero."""
    n = len(BLOCKS) * SECONDS
    waves = {"alpha": tone(10, n), "theta": tone(5, n)}
    beta = tone(25, n, 5)
    rows = []
    for lobe in range(4):
        alpha = np.repeat([amplitudes[0][lobe] for amplitudes in BLOCKS.values()], SECONDS * SFREQ)
        theta = np.repeat([amplitudes[1][lobe] for amplitudes in BLOCKS.values()], SECONDS * SFREQ)
        x = alpha * waves["alpha"] + theta * waves["theta"] + beta
        rows += [x, -x]
    eog = tone(3, n, 20)
    movement = slice((inside("B1").start - 3) * SFREQ, (inside("B1").stop + 3) * SFREQ)
    eog[movement] += tone(0.25, n, 150)[movement]
    return (
        Signal(np.array(rows), SFREQ, CHANNELS, "uV"),
        Signal(eog[None], SFREQ, ("HEOG",), "uV"),
    )


# ---- stages of constructed segments -----------------------------------------------------


@pytest.fixture(scope="module")
def staged():
    return vigall.stage(*constructed())


@pytest.mark.parametrize("block", BLOCKS)
def test_constructed_segments_get_their_stage(staged, block):
    assert set(staged["stage"][inside(block)]) == {block.split()[0]}


def test_thresholds_and_frequency_of_the_constructed_recording(staged):
    assert staged.attrs["iaf"] == 10.0
    assert staged.attrs["alpha_threshold"] == pytest.approx(0.2 * 40**2 / 2, rel=0.02)
    assert staged.attrs["delta_theta_threshold"] == 2 * staged.attrs["alpha_threshold"]
    assert len(staged) == len(BLOCKS) * SECONDS
    np.testing.assert_array_equal(staged["onset"], np.arange(len(staged)))


@pytest.mark.parametrize("band", ["alpha", "delta_theta"])
@pytest.mark.parametrize("block", ["A1", "A3", "B2/3"])
def test_powers_are_those_of_the_sinusoids(staged, block, band):
    amplitudes = BLOCKS[block][("alpha", "delta_theta").index(band)]
    for lobe, amplitude in zip(PAIRS, amplitudes, strict=True):
        power = staged[f"{band}_{lobe}"][inside(block)]
        np.testing.assert_allclose(power, amplitude**2 / 2, rtol=0.05)


def test_an_average_reference_is_taken(staged):
    eeg, eog = constructed()
    shared = Signal(eeg.data + tone(6, len(staged), 50), SFREQ, CHANNELS, "uV")
    pd.testing.assert_frame_equal(vigall.stage(shared, eog), staged)


def test_scores_run_from_seven_to_one(staged):
    expected = {"0": 7, "A1": 6, "A2": 5, "A3": 4, "B1": 3, "B2/3": 2}
    for stage, score in staged[["stage", "score"]].drop_duplicates().itertuples(index=False):
        assert score == expected[stage]
    assert vigall.SCORES["C"] == 1
    assert np.isnan(vigall.SCORES["X"])


def test_a_smaller_c_finds_more_alpha():
    eeg, eog = constructed()
    alpha = [
        vigall.stage(eeg, eog, c=c)["stage"].str.startswith("A").sum() for c in (0.1, 0.2, 0.9)
    ]
    assert alpha[0] > alpha[1] > alpha[2] > 0
    assert set(vigall.stage(eeg, eog, c=0.1)["stage"][inside("0 below")]) == {"A1"}


def test_without_eog_quiet_seconds_are_b1():
    stages = vigall.stage(constructed()[0])["stage"]
    assert set(stages[inside("0")]) == {"B1"}
    assert "0" not in set(stages)


def test_bad_seconds_and_marks():
    eeg, eog = constructed()
    data = eeg.data.copy()
    start = list(BLOCKS).index("B2/3") * SECONDS
    data[3, (start + 6) * SFREQ + 50] = np.nan
    data[5, (start + 9) * SFREQ : (start + 10) * SFREQ] *= 40
    given = vigall.stage(
        Signal(data, SFREQ, CHANNELS, "uV"),
        eog,
        marks=[start + 3.2],
        bad=[(start + 12.5, start + 14)],
    )["stage"].tolist()
    assert given[start + 2] == "B2/3"
    assert given[start + 3 : start + 6] == ["C"] * 3
    assert given[start + 6] == "X"
    assert given[start + 9] == "X"
    assert given[start + 11 : start + 15] == ["C", "X", "X", "C"]
    assert given[start + 15 : start + 30] == ["C"] * 15


def test_seconds_that_the_eog_does_not_cover_are_not_classified():
    eeg, eog = constructed()
    later = Signal(eog.data[:, 10 * SFREQ : 60 * SFREQ], SFREQ, eog.channels, "uV", start=10.0)
    stages = vigall.stage(eeg, later)["stage"]
    assert set(stages[:10]) | set(stages[60:]) == {"X"}
    assert "X" not in set(stages[10:60])


def test_the_clock_of_the_recording_counts():
    eeg, eog = constructed()
    shifted = [Signal(s.data, s.sfreq, s.channels, s.unit, start=2.5) for s in (eeg, eog)]
    moved = vigall.stage(*shifted, marks=[302.6])
    np.testing.assert_array_equal(moved["onset"], 2.5 + np.arange(len(moved)))
    assert moved["stage"].tolist() == vigall.stage(eeg, eog, marks=[300.1])["stage"].tolist()


def test_without_alpha_there_is_no_threshold_and_no_stage():
    rng = np.random.default_rng(0)
    theta = np.outer([1, -1] * 4, tone(5, 60, 40)) + rng.normal(0, 1, (8, 60 * SFREQ))
    staged = vigall.stage(Signal(theta, SFREQ, CHANNELS, "uV"))
    assert np.isnan(staged.attrs["iaf"])
    assert np.isnan(staged.attrs["alpha_threshold"])
    assert set(staged["stage"]) == {"X"}


def test_sampling_rates_that_do_not_divide():
    rate = 173.61
    n = int(60 * rate)
    wave = 30 * np.sin(2 * np.pi * 9.3 * np.arange(n) / rate)
    data = np.outer([1, -1, 0.5, -0.5, 0.5, -0.5, 0.4, -0.4], wave)
    staged = vigall.stage(Signal(data, rate, CHANNELS, "uV"))
    assert len(staged) == 59
    assert staged.attrs["iaf"] == pytest.approx(9.3, abs=0.1001)
    np.testing.assert_allclose(staged["alpha_occipital"][3:-3], 450, rtol=0.05)


def test_the_reduced_form_on_one_channel():
    eeg, _ = constructed()
    stages = vigall.stage(Signal(eeg.data[:1], SFREQ, ("O1",), "uV"), reduced=True)
    assert set(stages["stage"][inside("A1")]) == {"A"}
    assert set(stages["stage"][inside("0")]) == {"0"}
    assert set(stages["stage"][inside("B2/3 with alpha")]) == {"B"}
    assert set(stages["stage"]) == {"A", "B", "0"}
    np.testing.assert_allclose(stages["alpha_channels"][inside("A1")], 800, rtol=0.02)


def test_missing_samples_do_not_spread():
    eeg, eog = constructed()
    data = eeg.data.copy()
    data[:, 100 * SFREQ + 3 : 100 * SFREQ + 9] = np.nan
    given, whole = vigall.stage(Signal(data, SFREQ, CHANNELS, "uV"), eog), vigall.stage(eeg, eog)
    assert given["stage"][100] == "X"
    others = np.arange(len(given)) != 100
    assert (given["stage"][others] == whole["stage"][others]).all()


# ---- the view ---------------------------------------------------------------------------


def recording(**changed):
    eeg, eog = constructed()
    duration = float(len(BLOCKS) * SECONDS)
    facts = {"signals": {"eeg": eeg, "eog": eog}, "origin": {"simulated": True}, **changed}
    return Recording("sub-01", "scan-02", duration, **facts)


def test_the_view_labels_windows():
    rows = view.render(recording(), Windows(SECONDS, SECONDS), view.Options())
    expected = [1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0]
    assert rows.array.dtype == np.int8
    assert rows.array.tolist() == expected
    assert rows.table.index[3] == "sub-01/scan-02/window-0003"
    assert rows.table["score"].iloc[0] > 0.9
    assert rows.table["arousal"].iloc[0] == pytest.approx(6, abs=0.2)
    assert (rows.table["iaf"] == 10.0).all()
    assert rows.header["classes"] == ["drowsy", "alert"]
    assert rows.header["derived_from"] == "eeg"
    assert "VIGALL-like" in rows.header["method"]
    assert rows.header["simulated"] is True
    assert rows.header["settings"]["c"] == 0.2


def test_a_share_of_alert_seconds_is_judged_by_the_options_of_the_view():
    """Windows of 60 s: A3 then A1 of two lobes; then 0, 0 below; B1, 0; B2/3 twice."""
    blocks = Windows(60, 60)
    plain = view.render(recording(), blocks, view.Options())
    share = plain.table["score"].to_numpy()
    mixed = int(np.argmin(abs(share - 0.6)))
    assert 0.2 < share[mixed] < 0.8
    for theta in (share[mixed] - 0.01, share[mixed] + 0.01):
        rows = view.render(recording(), blocks, view.Options(theta=theta))
        assert rows.array[mixed] == (share[mixed] >= theta)
    band = [share[mixed] - 0.05, share[mixed] + 0.05]
    rows = view.render(recording(), blocks, view.Options(ambiguous=band))
    assert (rows.table["exclude"].iloc[mixed], rows.array[mixed]) == ("ambiguous", -1)
    bad = pd.DataFrame({"onset": [10.0], "duration": [12.0], "description": ["bad"]})
    for min_valid, reason in ((0.79, ""), (0.81, "too few valid seconds")):
        options = view.Options(bad=["bad"], min_valid=min_valid)
        rows = view.render(recording(events=bad), blocks, options)
        assert rows.table["exclude"].iloc[0] == reason


@pytest.mark.parametrize("option", [{"amplitude": 20.0}, {"flat": 90.0}, {"jump": 4.0}])
def test_the_view_hands_the_limits_of_artefacts_on(option):
    """A1 has 80 uV from peak to peak, and up to 13 uV between samples."""
    rows = view.render(recording(), Windows(SECONDS, SECONDS), view.Options(**option))
    assert rows.table["exclude"].iloc[0] in ("no alpha rhythm found", "too few valid seconds")


def test_the_view_hands_the_alpha_threshold_on():
    below = list(BLOCKS).index("0 below")
    found = [
        view.render(recording(), Windows(SECONDS, SECONDS), view.Options(c=c)).table["arousal"]
        for c in (0.1, 0.2)
    ]
    assert found[0].iloc[below] < found[1].iloc[below]


def test_the_eog_keeps_its_own_clock_in_the_view():
    eeg, eog = constructed()
    late = Signal(eog.data[:, 10 * SFREQ :], SFREQ, eog.channels, "uV", start=10.0)
    given = recording(signals={"eeg": eeg, "eog": late})
    rows = view.render(given, Windows(10, 10), view.Options())
    whole = view.render(recording(), Windows(10, 10), view.Options())
    assert rows.table["exclude"].iloc[0] == "too few valid seconds"
    assert rows.table["arousal"].iloc[1:].tolist() == whole.table["arousal"].iloc[1:].tolist()


def test_events_mark_sleep_onset_and_bad_stretches():
    quiet, theta = (list(BLOCKS).index(name) * SECONDS for name in ("0", "B2/3"))
    events = pd.DataFrame(
        {
            "onset": [float(theta), quiet + 5.0],
            "duration": [1.0, 20.0],
            "description": ["K", "movement"],
        }
    )
    options = view.Options(marks=["K", "S"], bad=["movement"])
    rows = view.render(recording(events=events), Windows(SECONDS, SECONDS), options)
    assert rows.table["arousal"].iloc[theta // SECONDS] == 1.0
    assert rows.table["exclude"].iloc[quiet // SECONDS] == "too few valid seconds"
    assert rows.array[quiet // SECONDS] == -1
    plain = view.render(recording(events=events), Windows(SECONDS, SECONDS), view.Options())
    assert plain.table["arousal"].iloc[theta // SECONDS] > 1.5
    assert plain.array[quiet // SECONDS] == 1


def test_a_recording_without_alpha_is_excluded_with_that_reason():
    rng = np.random.default_rng(0)
    theta = np.outer([1, -1] * 4, tone(5, 60, 40)) + rng.normal(0, 1, (8, 60 * SFREQ))
    signals = {"eeg": Signal(theta, SFREQ, CHANNELS, "uV")}
    rows = view.render(Recording("s", "1", 60.0, signals), Windows(30, 15), view.Options(eog=None))
    assert set(rows.table["exclude"]) == {"no alpha rhythm found"}
    assert set(rows.array) == {-1}


def test_the_reduced_form_takes_named_channels():
    scalp = recording(signals={"scalp": constructed()[0]})
    options = view.Options(signal="scalp", reduced=["O1", "O2"])
    rows = view.render(scalp, Windows(SECONDS, SECONDS), options)
    assert rows.header["derived_from"] == "eeg"
    assert rows.array[0] == 1
    assert rows.array[-1] == 0
    assert "reduced" in rows.header["method"]
    assert (rows.table["start"] == rows.table["onset"]).all()


def test_support_covers_the_slow_eye_movements():
    row = view.render(recording(), Windows(30, 15), view.Options()).table.iloc[2]
    assert (row["start"], row["stop"]) == (18.0, 66.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"signal": "meg"}, r"sub-01/scan-02: no signal 'meg' \(there is eeg, eog\).*`signal`"),
        ({"eog": "eyes"}, r"sub-01/scan-02: no signal 'eyes'.*`eog`"),
        ({"heog": ["left", "right"]}, r"sub-01/scan-02: no channel left, right .*HEOG.*`heog`"),
        ({"reduced": ["Cz"]}, r"sub-01/scan-02: no channel Cz .*`reduced`"),
        ({"reduced": ["O1", "O2", "P3"]}, "sub-01/scan-02: 3 channels.*one or two"),
        ({"theta": 1.5}, "theta: 1.5"),
        ({"min_valid": -1}, "min_valid: -1"),
        ({"ambiguous": [0.7, 0.3]}, "ambiguous"),
        ({"c": 0}, "c is 0"),
    ],
)
def test_what_is_wrong_is_named(options, said):
    with pytest.raises(InputError, match=said):
        view.render(recording(), Windows(30, 15), view.Options(**options))


def test_lobes_without_a_channel_are_named():
    eeg, eog = constructed()
    keep = [i for i, name in enumerate(CHANNELS) if name not in ("O1", "O2", "T7", "T8")]
    fewer = Signal(eeg.data[keep], SFREQ, tuple(CHANNELS[i] for i in keep), "uV")
    said = r"sub-01/scan-02: no channel for occipital \(one of O1 O2\), temporal \(one of T7 T8.*F3"
    with pytest.raises(InputError, match=said):
        view.render(recording(signals={"eeg": fewer, "eog": eog}), Windows(30, 15), view.Options())


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        (Signal(np.zeros((8, 9000)), 30, CHANNELS, "uV"), "30 Hz"),
        (Signal(np.zeros((8, 9000)), 100, CHANNELS, "V"), "'V'"),
        (Signal(np.zeros((8, 99)), 100, CHANNELS, "uV"), "less than one second"),
    ],
)
def test_signals_that_cannot_be_staged_are_refused(signal, said):
    with pytest.raises(InputError, match=said):
        vigall.stage(signal)
