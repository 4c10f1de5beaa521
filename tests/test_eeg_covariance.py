"""EEG windows as series, and their covariances: SciPy, scikit-learn, and a closed form."""

import dataclasses

import numpy as np
import pytest
from scipy import signal as filters
from sklearn.covariance import LedoitWolf

from engram.backbones import connectome
from engram.errors import InputError
from engram.recording import Recording, Signal, Windows
from engram.views import eeg_series, multitaper

SFREQ = 250.0
WINDOWS = Windows(10, 5)


def recording(channels=("Cz", "Oz", "Fz"), bad=(), seconds=60, **parts):
    rng = np.random.default_rng(0)
    data = rng.normal(0, 10, (len(channels), int(seconds * SFREQ)))
    data += 5 * np.sin(2 * np.pi * 10 * np.arange(data.shape[1]) / SFREQ)
    signal = Signal(data, SFREQ, tuple(channels), "uV", bad=tuple(bad))
    return Recording("sub-01", "scan-01", float(seconds), {"eeg": signal}, **parts)


def test_each_window_is_filtered_by_itself_and_thinned():
    this = recording()
    rows = eeg_series.render(this, WINDOWS, eeg_series.Options())
    data = this.signals["eeg"].data[[0, 2, 1]]  # Cz, Fz, Oz: by name
    assert rows.header["channels"] == ["Cz", "Fz", "Oz"]
    sections = filters.butter(4, (1, 35), "bandpass", fs=SFREQ, output="sos")
    cut = data[:, 1250:3750]
    wanted = filters.sosfiltfilt(sections, cut - cut.mean(1, keepdims=True))[:, ::2]
    np.testing.assert_allclose(rows.array[1], wanted, rtol=1e-5, atol=1e-4)
    assert rows.header["sfreq"] == 125
    assert rows.array.shape == (11, 3, 1250)
    assert rows.table["start"].tolist() == rows.table["onset"].tolist()
    changed = dataclasses.replace(this.signals["eeg"], data=this.signals["eeg"].data.copy())
    changed.data[:, 3750:] += 40  # what lies behind a window does not matter to it
    again = eeg_series.render(
        dataclasses.replace(this, signals={"eeg": changed}), WINDOWS, eeg_series.Options()
    )
    np.testing.assert_array_equal(again.array[1], rows.array[1])


def test_windows_are_those_of_the_spectrogram():
    """The same are left out, for the same reasons, and the same channels are bad in the others."""
    channels = tuple(f"E{i}" for i in range(8))
    this = recording(channels)
    data = this.signals["eeg"].data
    data[0, 2000:2100] += 900  # one channel of eight: left out of its windows alone
    data[:4, 9000:9100] = np.nan  # half of them: the window goes
    rows = eeg_series.render(this, WINDOWS, eeg_series.Options())
    other = multitaper.render(this, WINDOWS, multitaper.Options())
    for column in ("exclude", "bad_channels"):
        assert rows.table[column].tolist() == other.table[column].tolist()
    assert set(rows.table["exclude"]) == {"", "not finite"}
    hit = (rows.table["bad_channels"] == "E0").to_numpy()
    assert hit.any()
    assert (rows.array[hit][:, 0] == 0).all()
    assert (rows.array[hit][:, 1] != 0).any()
    assert np.isfinite(rows.array).all()


def test_a_channel_that_is_marked_bad_has_its_place():
    rows = eeg_series.render(recording(("Cz", "Oz"), bad=["Fz"]), WINDOWS, eeg_series.Options())
    assert rows.header["channels"] == ["Cz", "Fz", "Oz"]
    assert (rows.array[:, 1] == 0).all()
    named = eeg_series.Options(channels=["Oz", "Cz"])
    rows = eeg_series.render(recording(), WINDOWS, named)
    assert rows.header["channels"] == ["Oz", "Cz"]
    with pytest.raises(InputError, match="no 'Pz'; there is Cz, Oz, Fz"):
        eeg_series.render(recording(), WINDOWS, eeg_series.Options(channels=["Pz"]))
    with pytest.raises(InputError, match="band: 35 to 1 Hz"):
        eeg_series.render(recording(), WINDOWS, eeg_series.Options(band=(35, 1)))
    with pytest.raises(InputError, match="no signal 'eog'"):
        eeg_series.render(recording(), WINDOWS, eeg_series.Options(signal="eog"))


def covariances(rows, unit="uV"):
    options = connectome.Options(measure="covariance", standardized=False)
    view = {"channels": [f"E{i}" for i in range(rows.shape[1])], "unit": unit}
    backbone = connectome.load(options, None, view, "cpu")
    assert backbone.facts["unit"] == "shrunk covariance, uV^2"
    packed = backbone(rows)
    found = np.zeros((len(rows), rows.shape[1], rows.shape[1]))
    upper = np.triu_indices(rows.shape[1])
    found[:, upper[0], upper[1]] = found[:, upper[1], upper[0]] = packed
    return found


def test_covariances_keep_their_variances():
    """Ledoit and Wolf's of scikit-learn, for few frames and many."""
    rng = np.random.default_rng(1)
    for frames in (8, 400):
        rows = rng.normal(0, [[1], [3], [10], [2]], (3, 4, frames))
        rows[:, 1] += rows[:, 0]
        for one, found in zip(rows, covariances(rows), strict=True):
            np.testing.assert_allclose(found, LedoitWolf().fit(one.T).covariance_, rtol=1e-5)


def test_a_channel_without_data_is_alike_to_none():
    rows = np.random.default_rng(2).normal(0, 3, (2, 3, 200))
    rows[0, 1] = 0
    found, others = covariances(rows)[0], covariances(rows[:1][:, [0, 2]])[0]
    np.testing.assert_allclose(found[np.ix_([0, 2], [0, 2])], others, rtol=1e-6)
    centred = rows[0, [0, 2]] - rows[0, [0, 2]].mean(-1, keepdims=True)
    assert found[1, 1] == pytest.approx((centred**2).mean(), rel=1e-5)
    assert found[1, 0] == found[1, 2] == 0
    assert np.isfinite(covariances(np.zeros((1, 3, 50)))).all()


def test_only_covariances_have_variances_to_keep():
    with pytest.raises(InputError, match="a partial has no variances to keep"):
        connectome.load(
            connectome.Options(measure="partial", standardized=False), None, {"channels": []}, "cpu"
        )
