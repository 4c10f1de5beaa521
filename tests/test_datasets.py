"""The simulation against its closed forms, and classifiers against the best possible rule."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import signal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from engram.datasets import read, simulated_bayes
from engram.datasets import simulated_vigilance as simulated
from engram.downloads import download
from engram.errors import InputError

ONSETS, LENGTH = 15.0 * np.arange(45), 30.0
SIGNALS = ("eeg", "eog", "fmri")


def made(folder, unit="sub-01", **options):
    """The bytes that stage `download` leaves, and the recordings that are read from them."""
    path = folder / f"{unit}.npz"
    dataset, row = {"kind": "simulated_vigilance", **options}, {"unit": unit, "file": path.name}
    download(path, {"dataset": dataset, "row": row})
    recordings = read({"dataset": dataset, "unit": unit, "rows": [row]}, [path])
    return path.read_bytes(), recordings


def state_at(scan, times):
    """1 where drowsy, from the published intervals of a scan."""
    last = np.searchsorted(scan["onset"], times, side="right") - 1
    return scan["state"][last]


def alert_share(recording):
    """Share of each window that the events call alert."""
    alert = recording.events[recording.events["description"] == "alert"]
    begin, end = alert["onset"].to_numpy(), (alert["onset"] + alert["duration"]).to_numpy()
    overlap = np.minimum(end, ONSETS[:, None] + LENGTH) - np.maximum(begin, ONSETS[:, None])
    return overlap.clip(0).sum(1) / LENGTH


# ---- files ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(tmp_path):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, _ = made(tmp_path, "sub-02", duration=120.0)
    made(tmp_path, "sub-01", duration=120.0)
    again, _ = made(tmp_path, "sub-02", duration=120.0)
    other, _ = made(tmp_path, "sub-02", duration=120.0, seed=1)
    assert first == again != other
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_a_unit_holds_its_scans_marked_as_simulated(tmp_path):
    _, recordings = made(tmp_path, scans=3)
    assert [r.name for r in recordings] == [f"sub-01/scan-0{i}" for i in (1, 2, 3)]
    for recording in recordings:
        eeg, eog, fmri = (recording.signals[name] for name in SIGNALS)
        assert recording.origin["simulated"] is True
        assert recording.duration == eeg.stop == eog.stop == 690
        assert 690 <= fmri.stop < 690 + 2.1
        assert {"Thalamus", "ventricles"} < set(fmri.channels)
        assert (eeg.data.dtype, eeg.unit, eeg.sfreq) == (np.float32, "uV", 128)
        assert set(recording.events["description"]) == {"alert", "drowsy"}
        assert recording.events["duration"].sum() == pytest.approx(690)
    assert not np.allclose(recordings[0].signals["eeg"].data, recordings[1].signals["eeg"].data)


def test_signals_and_events_are_read_under_their_names(tmp_path):
    _, (recording,) = made(tmp_path, scans=1, duration=120.0)
    scan = simulated.simulate("sub-01", 0, simulated.Options(scans=1, duration=120.0))
    for name, channels in (("eeg", simulated.CHANNELS), ("fmri", simulated.REGIONS)):
        this = recording.signals[name]
        assert this.channels == tuple(channels)
        np.testing.assert_array_equal(this.data, scan[name])
    assert recording.events["description"].tolist() == [simulated.STATES[i] for i in scan["state"]]
    np.testing.assert_array_equal(recording.events["onset"], scan["onset"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "sub-01.npz"
    path.write_bytes(content)
    spec = {"dataset": {"kind": "simulated_vigilance"}, "unit": "sub-01",
            "rows": [{"file": "sub-01.npz"}]}  # fmt: skip
    with pytest.raises(InputError, match=r"sub-01\.npz: not what the simulation"):
        read(spec, [path])


def test_files_that_cannot_be_fetched_are_asked_for(tmp_path):
    spec = {"dataset": {"kind": "eeg_recordings"}, "row": {"file": "a.edf"}}
    with pytest.raises(InputError, match=r"a\.edf: data of kind .* set `source` .* or `folder`"):
        download(tmp_path / "a.edf", spec)
    assert not list(tmp_path.iterdir())


# ---- the model --------------------------------------------------------------------------


@pytest.mark.parametrize("state", simulated.STATES)
def test_the_spectrum_of_a_state_is_what_psd_says(state, monkeypatch):
    monkeypatch.setattr(simulated, "FLUCTUATION", (1e-9, 1e-9))
    options = simulated.Options(duration=6000.0)
    scan = simulated.simulate("sub-03", 0, options)
    wanted = state_at(scan, np.arange(6000)) == simulated.STATES.index(state)
    inside = [t for t in range(5, 5980, 10) if wanted[t - 5 : t + 15].all()]
    segments = np.stack([scan["eeg"][:, 128 * t : 128 * (t + 10)] for t in inside])
    frequencies, power = signal.welch(segments, 128, nperseg=512)
    band = (frequencies >= 2) & (frequencies <= 40)
    free = [list(simulated.CHANNELS).index(name) for name in simulated.BLINK_FREE]
    expected = simulated.psd("sub-03", state, frequencies[band], options)[free]
    ratio = power.mean(0)[free][:, band] / expected
    assert_allclose(ratio, 1, atol=0.25)
    assert_allclose(ratio.mean(1), 1, atol=0.03)


def test_fluctuations_raise_the_mean_of_the_rhythm_as_a_log_normal_does(monkeypatch):
    this, options = simulated.subject("sub-01", simulated.Options()), simulated.Options()
    peak = np.array([this.iaf])
    with_them = simulated.psd("sub-01", "alert", peak, options)[-1, 0]
    monkeypatch.setattr(simulated, "FLUCTUATION", (0.0, 0.0))
    without = simulated.psd("sub-01", "alert", peak, options)[-1, 0]
    draws = 10 ** (4.0 * np.random.default_rng(0).standard_normal(400_000) / 10)
    background = 10 ** (this.gain / 10) * ((10 / this.iaf) ** this.slope + 0.02)
    assert (with_them - background) / (without - background) == pytest.approx(
        draws.mean(), rel=0.01
    )


def test_drowsiness_lowers_alpha_and_raises_theta_as_much_as_stated():
    options = simulated.Options()
    for unit in (f"sub-{i:02d}" for i in range(50)):
        this = simulated.subject(unit, options)
        assert 8 <= this.iaf <= 12
        assert 3 <= this.alpha_drop <= 10
        assert 3 <= this.theta_rise <= 6
    o1, f3 = list(simulated.CHANNELS).index("O1"), list(simulated.CHANNELS).index("F3")
    peaks = np.array([this.iaf, 5.5])
    change = [simulated.psd(unit, state, peaks, options) for state in simulated.STATES]
    change = 10 * np.log10(change[1] / change[0])
    assert -this.alpha_drop < change[o1, 0] < -this.alpha_drop + 1
    assert this.theta_rise - 1.5 < change[f3, 1] < this.theta_rise


def stays(days=5, **options):
    """Lengths of the stays in each state, over days: scan 0."""
    options = simulated.Options(duration=days * 86_400.0, **options)
    switches, first = simulated._path(np.random.default_rng(0), options, 0)
    lengths = np.diff(switches)
    return {state: lengths[(1 + first + i) % 2 :: 2] for i, state in enumerate(simulated.STATES)}


def test_stays_last_30_to_300_seconds():
    both = np.concatenate([*stays().values()])
    assert 30 <= both.min() < 40
    assert 299 < both.max() <= 300
    assert both.mean() == pytest.approx(210, rel=0.03)


def test_without_effect_the_state_touches_no_signal(monkeypatch):
    """Another path of the state, nothing else: the signals stay as they are, bit by bit."""

    def both(effect):
        options = simulated.Options(effect=effect, duration=300.0)
        one = simulated.simulate("sub-01", 0, options)
        with monkeypatch.context() as patch:
            patch.setattr(simulated, "_path", lambda *_: (np.array([100.0, 170.0]), 1))
            return one, simulated.simulate("sub-01", 0, options)

    one, two = both(0.0)
    assert one["onset"].tolist() != two["onset"].tolist()
    for name in SIGNALS:
        np.testing.assert_array_equal(one[name], two[name])
    one, two = both(1.0)
    for name in SIGNALS:
        assert np.abs(one[name] - two[name]).max() > 0.1


def test_the_slow_wave_follows_drowsiness_after_the_response_delay():
    options = simulated.Options(effect=30.0, duration=8000.0)
    scan = simulated.simulate("sub-01", 0, options)
    thalamus, frontal = (scan["fmri"][list(simulated.REGIONS).index(r)]
                         for r in ("Thalamus", "Superior frontal gyrus"))  # fmt: skip
    assert thalamus.std() > 2 * frontal.std()
    frequencies, power = signal.welch(thalamus, 1 / simulated.TR, nperseg=512)
    assert frequencies[power.argmax()] == pytest.approx(0.05, abs=0.005)
    envelope = np.abs(signal.hilbert(thalamus))
    times = simulated.TR * np.arange(100, len(envelope) - 100)
    lags = np.arange(0, 15.0)
    match = [np.corrcoef(envelope[100:-100], state_at(scan, times - lag))[0, 1] for lag in lags]
    assert 4 <= lags[np.argmax(match)] <= 8


def test_eyes_roll_slowly_when_drowsy_and_blink_when_alert():
    scan = simulated.simulate("sub-01", 0, simulated.Options(duration=3000.0))
    drowsy = state_at(scan, np.arange(len(scan["eog"][0])) / 128).astype(bool)
    slow = signal.sosfiltfilt(signal.butter(2, 0.5, fs=128, output="sos"), scan["eog"][0])
    assert np.ptp(slow[~drowsy]) < np.ptp(slow[drowsy])
    assert slow[drowsy].std() > 5 * slow[~drowsy].std()
    smooth = signal.sosfiltfilt(
        signal.butter(2, [1, 8], "band", fs=128, output="sos"), scan["eeg"][0]
    )
    peaks, _ = signal.find_peaks(smooth, height=50, distance=32)
    rate = [np.mean(~drowsy[peaks]) / np.mean(~drowsy), np.mean(drowsy[peaks]) / np.mean(drowsy)]
    assert rate[0] > 2 * rate[1]


def test_label_noise_is_the_share_of_epochs_that_are_wrong():
    clean, noisy = (
        simulated.simulate("sub-01", 0, simulated.Options(duration=9000.0, label_noise=p))
        for p in (0.0, 0.2)
    )
    times = np.arange(9000) + 0.5
    wrong = (state_at(clean, times) != state_at(noisy, times)).reshape(-1, 30)
    assert set(wrong.mean(1)) == {0, 1}
    assert wrong.mean() == pytest.approx(0.2, abs=0.05)
    for name in SIGNALS:
        np.testing.assert_array_equal(clean[name], noisy[name])


def test_the_confound_shifts_gain_and_share_of_drowsiness_together():
    confounded = stays(session_confound=1.0)
    alert, drowsy = (confounded[state].sum() for state in simulated.STATES)
    assert drowsy / (alert + drowsy) == pytest.approx(0.6, abs=0.01)
    options = simulated.Options(session_confound=1.0, effect=0.0)
    psd = [simulated.psd("sub-01", "alert", np.array([10.0]), options, scan=i) for i in (0, 1)]
    assert 10 * np.log10(psd[1] / psd[0]).mean() == pytest.approx(3, abs=0.1)
    fmri = [simulated.simulate("sub-01", i, options)["fmri"] for i in range(8)]
    gain = [20 * np.log10(np.mean([x.std() for x in fmri[i::2]])) for i in (0, 1)]
    assert gain[1] - gain[0] == pytest.approx(3, abs=0.5)


def test_without_subject_effect_subjects_differ_in_what_drowsiness_does_alone():
    options = simulated.Options(subject_effect=0.0)
    one, two = (simulated.subject(unit, options) for unit in ("sub-01", "sub-02"))
    assert (one.iaf, one.gain, one.slope) == (two.iaf, two.gain, two.slope) == (10, 0, 1.2)
    assert one.alpha_drop != two.alpha_drop


# ---- the best rule ----------------------------------------------------------------------


def test_the_recursion_sums_over_every_path_of_the_fluctuations():
    rng = np.random.default_rng(0)
    grid, k = 2, 3
    likelihood = rng.uniform(0.1, 1, (1, k, grid, grid))
    start = np.array([0.3, 0.7])
    kernel = np.array([[0.8, 0.2], [0.4, 0.6]])
    total = 0.0
    pairs = list(itertools.product(range(grid), repeat=2))
    for path in itertools.product(pairs, repeat=k):
        p = start[path[0][0]] * start[path[0][1]] * likelihood[0, 0][path[0]]
        for i in range(1, k):
            (a, b), (c, d) = path[i - 1], path[i]
            p *= kernel[a, c] * kernel[b, d] * likelihood[0, i][c, d]
        total += p
    forward = simulated_bayes._forward(likelihood, start, kernel)
    backward = simulated_bayes._backward(likelihood, kernel)
    for i in range(k + 1):
        assert (forward[0, i] * backward[0, i]).sum() == pytest.approx(total)


def test_the_best_rule_knows_nothing_when_there_is_no_effect(tmp_path):
    _, (recording,) = made(tmp_path, effect=0.0, scans=1)
    options = simulated.Options(effect=0.0, scans=1)
    posterior = simulated_bayes.bayes(recording, ONSETS, LENGTH, options)
    assert_allclose(posterior, 0.5, atol=1e-6)


def test_wrong_labels_make_the_best_rule_less_sure(tmp_path):
    """Of p wrong labels, a window is published as alert with P (1 - p) + (1 - P) p."""
    _, (recording,) = made(tmp_path, scans=1, duration=90.0)
    one, two = (
        simulated_bayes.bayes(recording, [0.0, 30.0], LENGTH, simulated.Options(label_noise=p))
        for p in (0.0, 0.2)
    )
    assert_allclose(two, one * 0.8 + (1 - one) * 0.2)


def test_a_window_that_is_half_alert_is_alert_for_a_small_share_alone(tmp_path):
    """Its subject falls asleep in the middle of it."""
    _, (_, recording) = made(tmp_path)
    events = recording.events
    switch = events["onset"][events["description"] == "drowsy"].iloc[-1]
    little, much = (
        simulated_bayes.bayes(recording, [switch - 15], LENGTH, simulated.Options(), 1, theta)
        for theta in (0.1, 0.9)
    )
    assert little > 0.9
    assert much < 0.1


def test_windows_that_may_hold_two_switches_are_refused(tmp_path):
    _, (recording,) = made(tmp_path, scans=1, duration=60.0)
    with pytest.raises(ValueError, match="more than one switch"):
        simulated_bayes.bayes(recording, [0.0], 45.0, simulated.Options())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Log band power, label, subject and best posterior of the windows of 8 subjects."""
    folder, options, parts = tmp_path_factory.mktemp("cohort"), simulated.Options(), []
    for number in range(8):
        _, recordings = made(folder, f"sub-{number + 1:02d}")
        for scan, recording in enumerate(recordings):
            label = alert_share(recording) >= 0.5
            posterior = simulated_bayes.bayes(recording, ONSETS, LENGTH, options, scan)
            parts.append((band_power(recording), label, np.full(45, number), posterior))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def band_power(recording):
    """dB in four bands of the blink-free channels, averaged over a window, (45, 20)."""
    eeg = recording.signals["eeg"]
    used = [eeg.channels.index(name) for name in simulated.BLINK_FREE]
    rows = []
    for onset in ONSETS:
        first = round(onset * eeg.sfreq)
        window = eeg.data[used, first : first + round(LENGTH * eeg.sfreq)]
        f, _, power = signal.spectrogram(window, eeg.sfreq, "hann", 512, 384)
        bands = [(f >= low) & (f < high) for low, high in ((1, 4), (4, 8), (8, 13), (13, 30))]
        rows.append([10 * np.log10(power[:, band].mean(1)).mean(1) for band in bands])
    return np.array(rows).reshape(len(rows), -1)


def by_subject(y, predicted, subjects):
    each = [
        balanced_accuracy_score(y[subjects == s], predicted[subjects == s]) for s in set(subjects)
    ]
    return np.mean(each)


def test_band_power_comes_close_to_the_best_rule_in_new_subjects(cohort):
    x, y, subjects, posterior = cohort
    predicted = np.empty(len(y), bool)
    for subject in np.unique(subjects):
        test = subjects == subject
        model = LogisticRegression(C=0.03, class_weight="balanced", max_iter=1000)
        model = make_pipeline(StandardScaler(), model).fit(x[~test], y[~test])
        predicted[test] = model.predict(x[test])
    best = by_subject(y, posterior >= 0.5, subjects)
    reached = by_subject(y, predicted, subjects)
    assert 0.85 < best < 0.975
    assert best - 0.03 < reached < best + 0.01


def test_the_posterior_is_calibrated(cohort):
    _, y, _, posterior = cohort
    assert np.mean((posterior - y) ** 2) == pytest.approx(
        np.mean(posterior * (1 - posterior)), abs=0.01
    )
    sure = np.abs(posterior - 0.5) > 0.4
    assert sure.mean() > 0.7
    assert (y == (posterior > 0.5))[sure].mean() > 0.97
