"""Multitaper spectrograms against published values, SciPy, MNE and closed forms."""

import json
from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.signal
from scipy.signal.windows import dpss

from engram.errors import InputError
from engram.signals import multitaper
from engram.signals.multitaper import decibels, slepian, spectrogram

CASES = json.loads((Path(__file__).parent / "data/mt_golden.json").read_text())["cases"]
VIGILANCE = {
    "window": 4, "step": 1, "time_bandwidth": 3, "n_tapers": 5, "fmin": 0.5, "fmax": 35,
}  # fmt: skip


def chirps(sfreq, n):
    """The closed form that the golden values belong to."""
    k = np.arange(n)
    t = k / sfreq
    return (
        20 * np.sin(2 * np.pi * 10 * t) * (1 + 0.5 * np.cos(2 * np.pi * 0.1 * t))
        + 5 * np.cos(2 * np.pi * 2.5 * t)
        + 0.4 * t
        + 8 * np.sin(2 * np.pi * (5 * t + 0.4 * t**2))
        + 3 * np.cos(1.7e-3 * k**2)
    )


def golden(case, dtype):
    fmin, fmax = case["freq_range"] or (0, None)
    return spectrogram(
        chirps(case["fs"], case["fs"] * case["seconds"]).astype(dtype),
        case["fs"],
        window=case["window_s"],
        step=case["step_s"],
        time_bandwidth=case["TW"],
        n_tapers=case["K"],
        fmin=fmin,
        fmax=fmax,
        detrend=case["detrend"],
        weighting=case["weighting"],
        min_nfft=case["min_nfft"],
    )


def noise(*shape):
    return np.random.default_rng(7).standard_normal(shape)


def test_the_golden_file_holds_every_weighting_with_every_detrending():
    assert len(CASES) == 72
    assert len({(case["weighting"], case["detrend"], case["fs"]) for case in CASES}) == 27


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['fs']}-{c['weighting']}-{c['detrend']}")
def test_golden_values_in_double_precision(case):
    power, times, freqs = golden(case, np.float64)
    assert [*power.shape[::-1]] == case["shape"]
    assert [times[0], times[-1]] == [case["t_first"], case["t_last"]]
    assert [freqs[0], freqs[-1]] == [case["f_first"], case["f_last"]]
    assert freqs[1] - freqs[0] == case["df"]
    seen, expected = power[np.ix_(case["cols"], case["rows"])].T, np.array(case["values"])
    # adaptive weights contain 1 - concentration, which rounding leaves few digits of: values
    # far below the peak carry that error, whatever the implementation
    below = 1e-12 * power.max() if case["weighting"] == "adapt" else 0
    np.testing.assert_allclose(seen, expected, rtol=1e-9, atol=below)
    assert np.abs(seen - expected).max() < 1e-12 * power.max()
    assert power.sum() == pytest.approx(case["total"], rel=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['fs']}-{c['weighting']}-{c['detrend']}")
def test_golden_values_in_single_precision(case):
    power, _, _ = golden(case, np.float32)
    assert power.dtype == np.float32
    seen, expected = power[np.ix_(case["cols"], case["rows"])].T, np.array(case["values"])
    assert np.abs(seen - expected).max() < 5e-6 * power.max()
    assert power.sum(dtype=float) == pytest.approx(case["total"], rel=5e-6)


def test_concentrations_of_the_tapers():
    """Published check values."""
    np.testing.assert_allclose(
        slepian(800, 3.0, 5)[1], [0.99999987, 0.99999076, 0.99971504, 0.99491497, 0.94614074],
        atol=5e-9,
    )  # fmt: skip
    np.testing.assert_allclose(slepian(1000, 5.0, 9)[1][-2:], [0.99034826, 0.92930525], atol=5e-9)
    np.testing.assert_allclose(slepian(6000, 15.0, 29)[1][-2:], [0.97654382, 0.89401091], atol=5e-9)


@pytest.mark.parametrize("detrend", ["linear", "constant", "off"])
def test_scipy_averaged_over_tapers_is_the_same(detrend):
    x = noise(3, 128 * 40) + np.linspace(0, 50, 128 * 40)
    power, times, freqs = spectrogram(x, 128, **VIGILANCE | {"detrend": detrend})
    parts = [
        scipy.signal.spectrogram(
            x, 128, window=taper, noverlap=3 * 128, nfft=512, scaling="density",
            detrend=False if detrend == "off" else detrend,
        )
        for taper in dpss(512, 3, 5)
    ]  # fmt: skip
    here = (parts[0][0] >= 0.5) & (parts[0][0] <= 35)
    expected = np.mean([part[2] for part in parts], axis=0)[:, here]
    np.testing.assert_allclose(power, expected.swapaxes(1, 2), rtol=1e-10)
    np.testing.assert_allclose(times, parts[0][1])
    np.testing.assert_allclose(freqs, parts[0][0][here])


def test_mne_is_the_same_up_to_its_definition(monkeypatch):
    """MNE takes out the mean, does not pad, keeps tapers with concentration above 0.9, weighs
    by concentration over its sum, and its tapers are periodic."""
    sfreq, n = 256, 1024  # a power of two: no padding
    x = noise(n) + 3
    theirs, their_freqs = mne.time_frequency.psd_array_multitaper(
        x, sfreq, fmin=1, fmax=40, bandwidth=2 * 3 / 4, normalization="full", verbose="error"
    )
    settings = VIGILANCE | {"fmin": 1, "fmax": 40, "detrend": "constant", "weighting": "eigen"}

    def ours():
        power, _, freqs = spectrogram(x, sfreq, **settings)
        np.testing.assert_allclose(freqs, their_freqs)
        _, kept = multitaper.slepian(n, 3.0, 5)
        return power[0] * 5 / kept.sum()

    symmetric = ours()
    periodic = mne.time_frequency.multitaper.dpss_windows(n, 3, 5, sym=False, low_bias=True)
    monkeypatch.setattr(multitaper, "slepian", lambda *_: periodic)
    np.testing.assert_allclose(ours(), theirs, rtol=1e-10)
    np.testing.assert_allclose(symmetric, theirs, rtol=0.05)
    assert np.abs(symmetric / theirs - 1).max() > 1e-3


def test_white_noise_integrates_to_its_variance():
    power, _, freqs = spectrogram(noise(200 * 400), 200, detrend="off")
    assert power.mean(0).sum() * (freqs[1] - freqs[0]) == pytest.approx(1, abs=0.01)


def test_a_sine_has_half_its_squared_amplitude_as_power():
    t = np.arange(200 * 20) / 200
    power, _, freqs = spectrogram(6 * np.sin(2 * np.pi * 10 * t), 200)
    near = (freqs > 8) & (freqs < 12)
    assert power[:, near].sum(1) * freqs[1] == pytest.approx(18, rel=2e-3)
    assert np.abs(freqs[power.argmax(1)] - 10).max() <= 1.0  # half the main lobe of 2 Hz


@pytest.mark.parametrize("weighting", ["unity", "eigen", "adapt"])
def test_a_window_of_zeros_has_no_power_and_one_with_nan_is_nan(weighting):
    x = noise(2, 200 * 30)
    clean, times, _ = spectrogram(x, 200, **VIGILANCE, weighting=weighting)
    x[0, 1000:2000] = 0
    x[0, 3100] = np.nan
    x[0, 5999] = np.inf
    power, _, _ = spectrogram(x, 200, **VIGILANCE, weighting=weighting)
    first = (times - 2) * 200
    zero = (first >= 1000) & (first + 800 <= 2000)
    unknown = ((first <= 3100) & (first + 800 > 3100)) | (first + 800 > 5999)
    untouched = ~unknown & ((first + 800 <= 1000) | (first >= 2000))
    assert zero.sum() == 2
    assert unknown.sum() == 5
    assert (power[0, zero] == 0).all()
    assert np.isnan(power[0, unknown]).all()
    np.testing.assert_array_equal(np.isnan(power[0]).any(1), unknown)
    np.testing.assert_allclose(power[0, untouched], clean[0, untouched], rtol=1e-12)
    np.testing.assert_array_equal(power[1], clean[1])
    assert np.isneginf(decibels(power[0, zero])).all()
    assert np.isnan(decibels(power[0, unknown])).all()


def test_a_constant_window_has_no_power_once_its_mean_is_gone():
    power, _, _ = spectrogram(np.full(1000, 3.0), 200, detrend="constant", weighting="adapt")
    assert np.nan_to_num(power, nan=1).max() < 1e-20


def test_both_ends_of_the_frequency_range_are_included():
    _, _, freqs = spectrogram(noise(2560), 128, window=4, fmin=1, fmax=20)
    np.testing.assert_array_equal(freqs, np.arange(4, 81) / 4)
    _, _, freqs = spectrogram(noise(2560), 128, window=4)
    assert freqs[[0, -1]].tolist() == [0, 64]


def test_a_window_that_is_no_whole_number_of_samples_is_rounded_with_a_warning():
    window = pytest.warns(UserWarning, match=r"window of 4 s is 398\.4 samples at 99\.6 Hz; 398")
    with window, pytest.warns(UserWarning, match=r"step of 1 s is 99\.6 samples"):
        power, times, _ = spectrogram(noise(2000), 99.6, **VIGILANCE)
    assert len(power) == (2000 - 398) // 100 + 1
    np.testing.assert_allclose(times, (199 + 100 * np.arange(len(times))) / 99.6)


def test_a_frequency_beyond_nyquist_is_cut_off_with_a_warning():
    with pytest.warns(UserWarning, match="Nyquist"):
        _, _, freqs = spectrogram(noise(1000), 50, fmax=40)
    assert freqs[-1] == 25


def test_channels_are_independent_and_batches_invisible(monkeypatch):
    x = noise(3, 4000)
    power, _, _ = spectrogram(x, 200, **VIGILANCE)
    monkeypatch.setattr(multitaper, "CACHE_BYTES", 1)
    for one, series in zip(power, x, strict=True):
        np.testing.assert_allclose(spectrogram(series, 200, **VIGILANCE)[0], one, rtol=1e-9)


def test_default_number_of_tapers():
    x = noise(2000)
    default, _, _ = spectrogram(x, 200, time_bandwidth=3.5)
    np.testing.assert_array_equal(default, spectrogram(x, 200, time_bandwidth=3.5, n_tapers=6)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 30}, "shorter than one window of 6000 samples"),
        ({"window": 0}, "window of 0 s"),
        ({"step": -1}, "step of -1 s"),
        ({"fmin": 20, "fmax": 20}, "fmin 20 and fmax 20"),
        ({"fmin": -1}, "fmin -1"),
        ({"fmin": 0.51, "fmax": 0.52}, "no frequency bin in 0.51 to 0.52 Hz"),
        ({"n_tapers": 7}, "n_tapers 7; needs 1 to 2 x time_bandwidth = 6"),
        ({"n_tapers": 0}, "n_tapers 0"),
        ({"time_bandwidth": 0.5}, "time_bandwidth 0.5"),
        ({"time_bandwidth": 400}, "time_bandwidth 400"),
        ({"detrend": "line"}, "detrend 'line'; there is linear, constant, off"),
        ({"weighting": "flat"}, "weighting 'flat'"),
    ],
)
def test_what_cannot_be_computed_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        spectrogram(noise(4000), 200, **VIGILANCE | change)


def test_a_signal_of_three_axes_is_refused():
    with pytest.raises(InputError, match="shape"):
        spectrogram(noise(2, 2, 4000), 200)
