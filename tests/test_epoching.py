"""From recordings to whitened epochs, against MNE, scikit-learn, planted pulses, closed forms."""

import mne
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import linalg
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler
from sklearn.utils import shuffle

from engram.errors import InputError
from engram.signals import epoching

NAMES = ["Fp1", "O1", "Oz", "stim"]
SHORT = epoching.Cut(-0.2, 0.8, 100.0, -0.2, "time")


def recording(events, seconds=30.0, noise=1.0, seed=0):
    """(4, n) at 1000 Hz with events (s, code) of 4 ms on the stimulus channel."""
    data = noise * np.random.default_rng(seed).standard_normal((4, round(seconds * 1000)))
    data[3] = 0
    for onset, code in events:
        at = round(onset * 1000)
        data[3, at : at + 4] = code
    return data


def cut(data, cut=SHORT, channels=("O1", "Oz"), sfreq=1000.0, names=NAMES):
    return epoching.epochs(data, names, sfreq, channels, cut)


# ---- epochs -------------------------------------------------------------------------------


def test_epochs_are_those_of_mne_in_one_piece(monkeypatch):
    onsets = np.arange(1, 28, 0.2)
    codes = np.random.default_rng(1).integers(1, 9, len(onsets))
    codes[5] = epoching.TARGET
    data = recording(zip(onsets, codes, strict=True))
    monkeypatch.setattr(epoching, "BLOCK", 7)
    found, found_codes = cut(data)
    raw = mne.io.RawArray(data, mne.create_info(NAMES, 1000.0, ["eeg"] * 3 + ["stim"]))
    events = mne.find_events(raw, "stim")
    events = events[events[:, 2] != 99999]
    whole = mne.Epochs(raw.pick(["O1", "Oz"]), events, tmin=-0.2, tmax=0.799, preload=True)
    whole.resample(100, npad=500, window="boxcar", pad="edge")
    assert found.dtype == np.float32
    assert_allclose(found, whole.get_data(), atol=1e-5)
    assert_array_equal(found_codes, np.delete(codes, 5))


@pytest.mark.parametrize(
    ("kind", "samples", "first"), [(epoching.ORIGINAL, 100, -0.2), (epoching.NICE, 250, 0.0)]
)
def test_a_pulse_stands_where_it_was_planted(kind, samples, first):
    events = [(2.0, 1), (4.0, 2)]
    data = recording(events, noise=0.0)
    times = np.arange(data.shape[1]) / 1000
    for onset, _ in events:
        for channel, delay in ((1, 0.1), (2, 0.4)):
            data[channel] += np.exp(-(((times - onset - delay) / 0.02) ** 2) / 2)
    found, _ = cut(data, kind)
    assert found.shape == (2, 2, samples)
    axis = first + np.arange(samples) / kind.sfreq
    for epoch in found:
        assert axis[epoch[0].argmax()] == pytest.approx(0.1)
        assert axis[epoch[1].argmax()] == pytest.approx(0.4)
        expected = np.exp(-(((axis - 0.4) / 0.02) ** 2) / 2)
        assert_allclose(epoch[1], expected, atol=0.01)


def test_the_mean_before_the_event_is_taken_away():
    data = recording([(2.0, 1)], noise=0.0)
    data[1] += 7
    data[1, 2001:] += 3
    found, _ = cut(data)
    assert_allclose(found[0, 0, 2:11], 0, atol=0.05)
    assert_allclose(found[0, 0, 30:95], 3, atol=0.05)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (recording([]), "no event but targets"),
        (recording([(3.0, epoching.TARGET)]), "no event but targets"),
        (recording([(0.1, 1)]), "closer to an end"),
        (recording([(29.5, 1)]), "closer to an end"),
    ],
)
def test_recordings_without_whole_epochs_are_refused(data, said):
    with pytest.raises(InputError, match=said):
        cut(data)


def test_the_first_and_the_last_whole_epoch_are_taken():
    assert cut(recording([(0.2, 1), (29.2, 2)]))[0].shape == (2, 2, 100)
    for onset in (0.199, 29.201):
        with pytest.raises(InputError, match="closer to an end"):
            cut(recording([(onset, 1)]))


def test_channels_stand_in_the_order_asked_for():
    data = recording([(3.0, 1)])
    one, two = cut(data, channels=("Oz", "Fp1")), cut(data, channels=("Fp1", "Oz"))
    assert_array_equal(one[0][:, ::-1], two[0])


def test_missing_channels_and_slow_recordings_are_refused():
    data = recording([(3.0, 1)])
    with pytest.raises(InputError, match="no channel O2; there is Fp1, O1, Oz, stim"):
        cut(data, channels=("O1", "O2"))
    with pytest.raises(InputError, match="80 samples per second; epochs need at least 100"):
        cut(data, sfreq=80.0)


# ---- repetitions --------------------------------------------------------------------------


def test_the_order_is_that_of_the_published_code():
    for n in (1, 2, 5, 83):
        expected = shuffle(np.arange(n), random_state=20200220)
        assert_array_equal(epoching.shuffled(np.arange(n), 20200220), expected)


def test_repetitions_stand_side_by_side_at_most_as_many_as_asked():
    codes = np.array([3, 1, 3, 3, 7, 1])
    array = np.arange(6.0)[:, None, None] * np.ones((6, 2, 3))
    conditions, found, counts = epoching.by_condition(array, codes, 2, 5)
    assert conditions.tolist() == [1, 3, 7]
    assert counts.tolist() == [2, 2, 1]
    assert set(found[0, :, 0, 0]) == {1, 5}
    expected = shuffle(np.array([0, 2, 3]), random_state=5, n_samples=2)
    assert_array_equal(found[1, :, 0, 0], expected)
    assert found[2, 0, 0, 0] == 4
    assert np.isnan(found[2, 1]).all()


def test_sessions_are_merged_by_condition_whatever_each_of_them_holds():
    def session(conditions, value):
        array = np.full((len(conditions), 2, 1, 1), float(value), np.float32)
        array[:, 1] += 0.5
        return np.array(conditions), array, np.array([2] * len(conditions))

    conditions, found, counts = epoching.merge([session([1, 2], 10), session([2, 5], 20)], 3)
    assert conditions.tolist() == [1, 2, 5]
    assert counts.tolist() == [2, 4, 2]
    assert set(found[0, :2].ravel()) == {10, 10.5}
    assert_array_equal(found[1].ravel(), shuffle([10, 10.5, 20, 20.5], random_state=3))
    assert set(found[2, :2].ravel()) == {20, 20.5}
    assert np.isnan(found[[0, 2], 2:]).all()


# ---- noise normalisation ------------------------------------------------------------------


def reference(samples):
    """What scikit-learn makes of one matrix (sample, channel)."""
    scaler = StandardScaler().fit(samples)
    scale = scaler.scale_
    return ledoit_wolf(scaler.transform(samples))[0] * np.outer(scale, scale)


@pytest.mark.parametrize("shape", [(4, 2, 5), (3, 20, 5), (2, 250, 8)])
def test_shrunk_covariances_are_those_of_scikit_learn(shape):
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(shape) @ rng.standard_normal((shape[2], shape[2])) + 3
    found = epoching.shrunk_covariances(samples)
    assert_allclose(found, [reference(one) for one in samples], rtol=1e-9, atol=1e-12)


def test_constant_channels_have_no_covariance():
    samples = np.random.default_rng(0).standard_normal((1, 30, 3))
    samples[..., 1] = 2
    found = epoching.shrunk_covariances(samples)[0]
    assert_allclose(found, reference(samples[0]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 1 << 20])
def test_the_noise_covariance_averages_over_times_or_epochs_then_conditions(batch, monkeypatch):
    monkeypatch.setattr(epoching, "BATCH", batch)
    array = np.random.default_rng(0).standard_normal((6, 3, 4, 7))
    counts = np.array([3, 3, 2, 3, 1, 2])
    array[2, 2:] = array[5, 2:] = array[4, 1:] = np.nan
    by_time = [
        np.mean([reference(array[i, :n, :, t]) for t in range(7)], 0)
        for i, n in enumerate(counts)
        if n > 1
    ]
    by_epoch = [
        np.mean([reference(array[i, r].T) for r in range(n)], 0) for i, n in enumerate(counts)
    ]
    assert_allclose(epoching.noise_covariance(array, counts, "time"), np.mean(by_time, 0))
    assert_allclose(epoching.noise_covariance(array, counts, "epochs"), np.mean(by_epoch, 0))


def test_a_single_repetition_tells_no_noise_from_signal():
    array = np.random.default_rng(0).standard_normal((6, 1, 4, 7))
    with pytest.raises(InputError, match="no condition has two repetitions"):
        epoching.noise_covariance(array, np.ones(6, int), "time")


def test_the_inverse_root_is_that_of_scipy():
    mix = np.random.default_rng(0).standard_normal((5, 9))
    covariance = mix @ mix.T
    root = epoching.inverse_root(covariance)
    assert_allclose(root, linalg.fractional_matrix_power(covariance, -0.5), atol=1e-10)
    assert_allclose(root @ covariance @ root, np.eye(5), atol=1e-10)


def test_copied_channels_cannot_be_whitened():
    with pytest.raises(InputError, match="singular"):
        epoching.inverse_root(np.ones((3, 3)))


@pytest.mark.parametrize(
    ("across", "repetitions", "times"), [("time", 3000, 2), ("epochs", 3, 3000)]
)
def test_whitened_noise_has_the_identity_for_covariance(across, repetitions, times):
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    noise = np.einsum("cd,nrdt->nrct", mix, rng.standard_normal((10, repetitions, 4, times)))
    evoked = 5 * rng.standard_normal((10, 1, 4, 1 if across == "epochs" else times))
    counts = np.full(10, repetitions)
    covariance = epoching.noise_covariance((noise + evoked).astype(np.float32), counts, across)
    root = epoching.inverse_root(covariance)
    white = epoching.whiten(noise.astype(np.float32), root)
    assert_allclose(np.cov(white.transpose(2, 0, 1, 3).reshape(4, -1)), np.eye(4), atol=0.03)
    assert white.dtype == np.float32
    assert_allclose(root @ mix @ mix.T @ root, np.eye(4), atol=0.1)
