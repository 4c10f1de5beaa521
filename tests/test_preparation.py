"""What is done to EEG before windows are cut, against MNE itself and by hand."""

import mne
import numpy as np
import pytest
from test_recordings import SFREQ, row, write_edf

from engram.datasets import eeg_recordings
from engram.errors import InputError
from engram.signals import preparation

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "M1", "M2"]


def eeg(seconds=20, seed=0):
    """Channels that share much of their signal, uV (channel, time)."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, 5, (len(NAMES), seconds * SFREQ))
    return np.cumsum(rng.normal(0, 1, seconds * SFREQ)) + own


def prepared(data, bad=(), **options):
    options = preparation.Options(**options)
    return preparation.prepare("a.edf", data, SFREQ, NAMES, list(bad), options)


def raw(data, bads=()):
    found = mne.io.RawArray(data, mne.create_info(NAMES, SFREQ, "eeg"), verbose="error")
    found.set_montage("colin27_1005", verbose="error")
    found.info["bads"] = list(bads)
    return found


def test_by_default_nothing_is_done():
    data = eeg()
    np.testing.assert_array_equal(prepared(data).data, data)
    assert preparation.settings(preparation.Options()) is None


def test_filters_are_those_of_mne_and_take_away_what_they_should():
    times = np.arange(20 * SFREQ) / SFREQ
    tones = {0.2: 40.0, 10.0: 10.0, 50.0: 30.0}
    data = sum(a * np.sin(2 * np.pi * f * times) for f, a in tones.items()) + np.zeros((12, 1))
    found = prepared(data, highpass=4.0, lowpass=60.0, notch=50.0).data
    expected = raw(data).filter(4.0, 60.0, verbose="error").notch_filter([50.0], verbose="error")
    np.testing.assert_allclose(found, expected.get_data(), atol=1e-9)
    middle = found[0, 5 * SFREQ : 15 * SFREQ]
    power = np.abs(np.fft.rfft(middle)) / len(middle) * 2
    np.testing.assert_allclose(power[[2, 100, 500]], [0, 10, 0], atol=0.15)


def test_gaps_are_never_filtered_across_and_short_pieces_are_left_out():
    data = eeg(30)
    data[:, 15 * SFREQ : 16 * SFREQ] = np.nan
    data[:, 17 * SFREQ : 18 * SFREQ] = np.nan
    found = prepared(data, highpass=1.0)
    alone = prepared(data[:, : 15 * SFREQ], highpass=1.0).data
    np.testing.assert_array_equal(found.data[:, : 15 * SFREQ], alone)
    assert np.isnan(found.data[:, 15 * SFREQ : 18 * SFREQ]).all()
    assert found.facts["too_short"].startswith("1 s between gaps")


def test_channels_that_deviate_are_found_by_their_robust_spread():
    data = eeg()
    data[3] *= 40
    data[7] = 0
    found = prepared(data, bad_deviation=5.0)
    assert found.facts["deviating"] == ["F4", "P4"]
    assert found.bad == ("F4", "P4")
    kept = [i for i in range(12) if i not in (3, 7)]
    np.testing.assert_array_equal(found.data, data[kept])
    assert not preparation.deviating(eeg(seed=1), 5.0).any()


def test_bad_channels_are_interpolated_as_mne_does_and_gaps_stay():
    data = eeg()
    expected = raw(data, ["C3", "O2"]).interpolate_bads(verbose="error").get_data()
    found = prepared(data, ["C3", "O2"], interpolate=True)
    assert found.channels == tuple(NAMES)
    assert (found.bad, found.facts["interpolated"]) == ((), ["C3", "O2"])
    np.testing.assert_allclose(found.data, expected, atol=1e-9)
    data[:, 100:200] = np.nan
    gap = prepared(data, ["C3", "O2"], interpolate=True).data
    assert np.isnan(gap[:, 100:200]).all()
    np.testing.assert_allclose(gap[:, 200:], expected[:, 200:], atol=1e-9)


@pytest.mark.parametrize(
    ("reference", "by_mne"),
    [
        ("average", lambda r: mne.set_eeg_reference(r, "average", verbose="error")[0]),
        (
            "mastoids",
            lambda r: mne.set_eeg_reference(r, ["M1", "M2"], verbose="error")[0].drop_channels(
                ["M1", "M2"]
            ),
        ),
        (
            [["Fp1", "F3"], ["C3", "P3"]],
            lambda r: mne.set_bipolar_reference(
                r, ["Fp1", "C3"], ["F3", "P3"], verbose="error"
            ).pick(["Fp1-F3", "C3-P3"]),
        ),
    ],
)
def test_references_are_those_of_mne(reference, by_mne):
    data = eeg()
    found, expected = prepared(data, reference=reference), by_mne(raw(data))
    assert list(found.channels) == expected.ch_names
    np.testing.assert_allclose(found.data, expected.get_data(), atol=1e-9)


def test_steps_come_in_the_stated_order():
    """Filter, then find and interpolate what deviates, then the average, by MNE step by step."""
    data = eeg()
    data[3] *= 40
    found = prepared(
        data, bad_deviation=5.0, interpolate=True, reference="average", highpass=2.0
    ).data
    expected = raw(data).filter(2.0, None, verbose="error")
    expected.info["bads"] = ["F4"]
    expected.interpolate_bads(verbose="error")
    expected.set_eeg_reference("average", verbose="error")
    np.testing.assert_allclose(found, expected.get_data(), atol=1e-9)


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        ((), {"highpass": 70.0}, "`highpass` is 70 Hz; with 128 samples .* between 0 and 64"),
        ((), {"highpass": 9.0, "lowpass": 8.0}, "`highpass` 9 Hz is not below `lowpass` 8 Hz"),
        ((), {"notch": [64.0]}, "`notch` is 64 Hz"),
        ((), {"highpass": 0.05}, "20 s are shorter than the filters"),
        (NAMES, {}, "every EEG channel .* is bad; correct `bads`"),
        (["Quux"], {"interpolate": True}, "Quux has no place in the 10-05 system"),
        (NAMES[:9], {"interpolate": True}, "3 good channels are too few to interpolate"),
        ((), {"reference": "vertex"}, "`reference` is 'vertex'; use average, mastoids or a list"),
        (["M1"], {"reference": "mastoids"}, "needs M1 and M2, or A1 and A2"),
        (["C3"], {"reference": [["C3", "P3"]]}, "names C3, which is no channel or bad"),
        ((), {"reference": [["C3"]]}, r"lists \['C3'\]; a pair has two channels"),
    ],
)
def test_what_does_not_suit_the_recording_is_one_clear_error(bad, options, message):
    with pytest.raises(InputError, match=message):
        prepared(eeg(), bad, **options)


def test_a_recording_comes_prepared_and_its_header_says_how(tmp_path):
    data = eeg()
    write_edf(tmp_path / "a.edf", data, NAMES)
    options = eeg_recordings.Options(highpass=2.0, bads=["T7"], reference="average", sfreq=64)
    (found,) = eeg_recordings.read("s1", [row(tmp_path / "a.edf", bads="O1; O2")], options)
    names = [name for name in NAMES if name not in ("O1", "O2")]
    assert sorted(found.signals["eeg"].channels) == sorted(names)
    assert found.signals["eeg"].bad == ("O1", "O2")
    assert found.signals["eeg"].sfreq == 64
    assert found.origin["prepared"]["highpass"] == 2.0
    assert found.origin["prepared"]["order"][0] == "filters"
    expected = raw(data).pick(names).filter(2.0, None, verbose="error")
    expected.set_eeg_reference("average", verbose="error").resample(64, verbose="error")
    at = [names.index(name) for name in found.signals["eeg"].channels]
    np.testing.assert_allclose(
        found.signals["eeg"].data[:, 64:-64], expected.get_data()[at][:, 64:-64], atol=0.1
    )
    (as_it_is,) = eeg_recordings.read("s1", [row(tmp_path / "a.edf")], eeg_recordings.Options())
    assert as_it_is.origin["prepared"] == "as recorded"
    with pytest.raises(InputError, match="the manifest calls Fp9 bad"):
        eeg_recordings.read("s1", [row(tmp_path / "a.edf", bads="Fp9")], options)
