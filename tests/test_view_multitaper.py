"""Spectrogram views: which columns a window gets, what is excluded, how they look."""

import dataclasses
import json
from math import lcm

import matplotlib
import numpy as np
import pytest
import scipy.signal
from PIL import Image
from scipy.signal.windows import dpss

from engram.errors import InputError
from engram.recording import Recording, Signal, Windows
from engram.signals import image, multitaper
from engram.views.multitaper import Options, render

SFREQ = 100.0
WINDOWS = Windows(length=30, step=15)
REGIONS = ("Thalamus", "Cuneus", "ventricles")
SLOW = Options(
    signal="fmri", window=60.9, step=2.1, time_bandwidth=2, n_tapers=3, min_nfft=256,
    fmin=0.01, fmax=0.23, limits=(-40, 20), lag=5,
)  # fmt: skip


def noise(*shape, seed=1):
    return np.random.default_rng(seed).normal(0, 10, shape).astype(np.float32)


def recording(eeg=None, fmri=None, seconds=120, start=0.0, **facts):
    signals = {}
    if eeg is not None:
        names = ("Fz", "Cz", "O1", "O2")[: len(eeg)]
        signals["eeg"] = Signal(eeg, SFREQ, names, "uV", start)
    if fmri is not None:
        signals["fmri"] = Signal(fmri, 1 / 2.1, REGIONS[: len(fmri)], "%", start)
    return Recording("sub-01", "scan-01", seconds, signals, **facts)


def expected_image(series, sfreq, size, hop, first, columns, nw, k, nfft, fmin, fmax):
    """One image by SciPy, from no more samples than it needs: rows upwards in frequency."""
    piece = series[first : first + (columns - 1) * hop + size].astype(float)
    parts = [
        scipy.signal.spectrogram(
            piece, sfreq, window=taper, noverlap=size - hop, nfft=nfft, detrend="linear"
        )
        for taper in dpss(size, nw, k)
    ]
    freqs = parts[0][0]
    here = (freqs >= fmin) & (freqs <= fmax)
    power = np.mean([part[2] for part in parts], axis=0)[here]
    assert power.shape[1] == columns
    return power[::-1], freqs[here][::-1]


# ---- columns ----------------------------------------------------------------------------


def test_eeg_windows_hold_the_columns_that_lie_wholly_inside():
    eeg = noise(2, 12000)
    rows = render(recording(eeg), WINDOWS, Options())
    assert rows.array.shape == (7, 177, 27)  # 0.5859 to 34.96 Hz in steps of 100 / 512
    assert rows.array.dtype == np.float16
    assert list(rows.table.index) == [f"sub-01/scan-01/window-{i:04d}" for i in range(7)]
    for i, onset in enumerate(range(0, 91, 15)):
        powers, freqs = zip(
            *(expected_image(c, SFREQ, 400, 100, onset * 100, 27, 3, 5, 512, 0.5, 35) for c in eeg),
            strict=True,
        )
        expected = 10 * np.log10(np.mean(powers, axis=0))
        np.testing.assert_allclose(rows.array[i], expected, atol=0.02)
    np.testing.assert_allclose(rows.header["frequencies"], freqs[0])
    np.testing.assert_allclose(rows.header["times"], np.arange(2, 29))
    np.testing.assert_array_equal(rows.table["start"], np.arange(7) * 15)
    np.testing.assert_array_equal(rows.table["stop"], np.arange(7) * 15 + 30)
    assert (rows.table["exclude"] == "").all()


def test_a_window_depends_on_its_own_samples_alone():
    eeg = noise(1, 12000)
    other = noise(1, 12000, seed=2)
    other[:, 3000:6000] = eeg[:, 3000:6000]
    one, two = (render(recording(x), WINDOWS, Options()).array for x in (eeg, other))
    np.testing.assert_array_equal(one[2], two[2])
    assert np.abs(one[1] - two[1]).max() > 3


def test_fmri_windows_hold_the_columns_whose_centre_lies_in_the_delayed_window():
    fmri = noise(3, 200)
    options = dataclasses.replace(SLOW, regions=["ventricles", "Thalamus"])
    rows = render(recording(fmri=fmri, seconds=420), WINDOWS, options)
    n, region, _, columns = rows.array.shape
    assert (n, region, columns) == (27, 2, 14)
    seen = 0
    for i in range(n):
        centres = [j * 2.1 + 30.45 for j in range(172)]
        mine = [j for j, c in enumerate(centres) if i * 15 + 5 - 1e-9 <= c][:14]
        inside = i * 15 + 5 >= 30.45 - 2.1 + 1e-9 and len(mine) == 14
        assert (rows.table["exclude"].iloc[i] == "") == inside
        if not inside:
            continue
        seen += 1
        assert centres[mine[-1]] < i * 15 + 5 + 30
        for image_, name in zip(rows.array[i], options.regions, strict=True):
            power, freqs = expected_image(
                fmri[REGIONS.index(name)], 1 / 2.1, 29, 1, mine[0], 14, 2, 3, 256, 0.01, 0.23
            )
            np.testing.assert_allclose(image_, 10 * np.log10(power), atol=0.02)
        assert rows.table["start"].iloc[i] == pytest.approx(centres[mine[0]] - 30.45)
        assert rows.table["stop"].iloc[i] == pytest.approx(centres[mine[-1]] + 30.45)
    assert seen == 22
    assert rows.header["regions"] == ["ventricles", "Thalamus"]
    assert rows.header["lag_s"] == 5
    assert rows.header["support_s"] == pytest.approx([30.45, 30.45])
    np.testing.assert_allclose(rows.header["times"], 5 + 2.1 * np.arange(14))
    np.testing.assert_allclose(rows.header["frequencies"], freqs)


def test_rows_without_data_are_excluded_and_finite():
    rows = render(recording(fmri=noise(2, 200), seconds=420), WINDOWS, SLOW)
    outside = (rows.table["exclude"] == "outside recording").to_numpy()
    assert outside.any()
    assert np.isfinite(rows.array).all()
    assert (rows.array[0, :, 0] == -40).all()


def test_a_signal_that_starts_late_keeps_the_clock_of_the_recording():
    eeg = noise(1, 12000)
    late = render(recording(eeg[:, 1500:], start=15.0), WINDOWS, Options())
    whole = render(recording(eeg), WINDOWS, Options())
    assert late.table["exclude"].tolist() == ["outside recording"] + [""] * 6
    np.testing.assert_array_equal(late.array[1:], whole.array[1:])


def test_windows_beyond_the_end_of_the_signal_are_excluded():
    rows = render(recording(noise(1, 9000)), WINDOWS, Options())
    assert rows.table["exclude"].tolist() == [""] * 5 + ["outside recording"] * 2


def test_the_lag_moves_the_image_and_its_support():
    eeg = noise(1, 12000)
    lagged = render(recording(eeg), WINDOWS, Options(lag=15))
    plain = render(recording(eeg), WINDOWS, Options())
    np.testing.assert_array_equal(lagged.array[:-1], plain.array[1:])
    assert lagged.table["exclude"].iloc[-1] == "outside recording"
    assert lagged.table["start"].iloc[0] == 0
    assert lagged.table["stop"].iloc[0] == 45
    assert lagged.header["times"][0] == 17


def test_steps_that_miss_the_onsets_say_so_in_start_and_stop():
    rows = render(recording(noise(1, 12000)), WINDOWS, Options(step=2.3))
    columns = int((30 - 4) / 2.3) + 1
    assert rows.array.shape[2] == columns
    first = np.ceil(np.arange(7) * 15 / 2.3 - 1e-9) * 2.3
    stop = first + (columns - 1) * 2.3 + 4
    np.testing.assert_allclose(rows.table["stop"], np.maximum(stop, np.arange(7) * 15 + 30))
    np.testing.assert_allclose(rows.table["start"], np.arange(7) * 15)


@pytest.mark.parametrize("length", [4, 4.8])
def test_a_window_as_long_as_the_support_has_one_column_that_begins_with_it(length):
    eeg = noise(1, 3000)
    rows = render(recording(eeg, seconds=30), Windows(length, 5), Options())
    assert rows.array.shape[2] == 1
    power, _ = expected_image(eeg[0], SFREQ, 400, 100, 500, 1, 3, 5, 512, 0.5, 35)
    np.testing.assert_allclose(rows.array[1], 10 * np.log10(power), atol=0.02)


def test_onsets_that_floats_miss_by_a_hair_are_met():
    """3 x 1.1 s over steps of 0.3 s is 11.000000000000002 in doubles."""
    eeg = noise(1, 3000)
    rows = render(recording(eeg, seconds=30), Windows(6, 1.1), Options(step=0.3))
    later = render(recording(eeg[:, 330:], seconds=26.7), Windows(6, 1.1), Options(step=0.3))
    np.testing.assert_allclose(rows.array[3], later.array[0], atol=0.02)


@pytest.mark.parametrize(
    "chosen",
    [
        {"detrend": "off"},
        {"detrend": "constant"},
        {"weighting": "eigen", "time_bandwidth": 2.5},
        {"weighting": "adapt", "n_tapers": 3},
        {"min_nfft": 1500},
        {"fmin": 8.0, "fmax": 12.0},
    ],
)
def test_every_option_of_the_spectrogram_reaches_it(chosen):
    eeg = noise(1, 6000) + np.linspace(0, 90, 6000, dtype=np.float32)
    rows = render(recording(eeg, seconds=60), WINDOWS, Options(**chosen))
    settings = {"window": 4, "time_bandwidth": 3, "n_tapers": 5, "fmin": 0.5, "fmax": 35} | chosen
    power, _, freqs = multitaper.spectrogram(eeg[0, 1500:4500], SFREQ, **settings)
    np.testing.assert_allclose(rows.array[1], 10 * np.log10(power.T[::-1]), atol=0.02)
    np.testing.assert_allclose(rows.header["frequencies"], freqs[::-1])


@pytest.mark.parametrize(("fmax", "held"), [(49, True), (50, True), (50.1, False), (60, False)])
def test_a_frequency_that_the_rate_does_not_hold_is_refused(fmax, held):
    given, options = recording(noise(1, 6000), seconds=60), Options(fmax=fmax)
    if held:
        assert fmax - 0.2 < render(given, WINDOWS, options).header["frequencies"][0] <= fmax
        return
    with pytest.raises(InputError, match="sub-01/scan-01: 100 samples per second .* to 50 Hz, but"):
        render(given, WINDOWS, options)


def test_the_header_states_the_channels_whatever_their_order_and_whichever_are_bad():
    def stated(*names, bad=(), **options):
        eeg = Signal(noise(len(names), 3000), SFREQ, names, "uV", bad=bad)
        this = Recording("sub-01", "scan-01", 30, {"eeg": eeg})
        return render(this, WINDOWS, Options(**options)).header["channels"]

    assert stated("Fz", "Oz") == stated("Oz", "Fz") == stated("Oz", bad=("Fz",)) == ["Fz", "Oz"]
    assert stated("Fz", "Cz") == stated("Fz", "Cz", "Oz", channels=["Fz", "Cz"]) == ["Cz", "Fz"]
    assert stated("Fz", "Cz", bad=("Oz",), channels=["Fz", "Cz"]) == ["Cz", "Fz"]


# ---- quality ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"amplitude": 25.0}, "amplitude"), ({"jump": 25.0}, "jump"), ({"flat": 200.0}, "flat")],
)
def test_the_limits_of_artefacts_are_those_of_the_options(limit, reason):
    rows = render(recording(noise(1, 6000), seconds=60), WINDOWS, Options(**limit))
    assert set(rows.table["exclude"]) == {reason}


def test_artefacts_are_excluded_by_reason_and_stay_finite():
    eeg = noise(2, 24000)
    eeg[0, 4600:4900] = 0
    eeg[:, 9800] = np.nan
    eeg[1, 16000] = 500
    eeg[1, 20900:21000] += 900 * np.hanning(100).astype(np.float32)
    rows = render(recording(eeg, seconds=240), Windows(30, 30), Options())
    assert rows.table["exclude"].tolist() == [
        "", "flat", "", "not finite", "", "amplitude", "amplitude", "",
    ]  # fmt: skip
    assert np.isfinite(rows.array).all()


def test_a_bad_channel_is_not_averaged_into_the_rows_in_which_it_is_bad():
    """One of four channels jumps in one row: it is the average of the other three there."""
    eeg = noise(4, 12000)
    clean = render(recording(eeg[[0, 2, 3]]), WINDOWS, Options())
    whole = render(recording(eeg), WINDOWS, Options())
    eeg[1, 1500] += 500
    found = render(recording(eeg), WINDOWS, Options(bad_share=0.25))
    hit = (found.table["start"] <= 15) & (found.table["stop"] > 15)
    assert hit.sum() == 2
    assert (found.table["exclude"] == "").all()
    np.testing.assert_allclose(found.array[hit], clean.array[hit], atol=0.01)
    np.testing.assert_allclose(found.array[~hit], whole.array[~hit], atol=0.01)
    strict = render(recording(eeg), WINDOWS, Options(bad_share=0.24))
    assert list(strict.table["exclude"]) == list(np.where(hit, "amplitude", ""))
    of_regions = render(recording(eeg), WINDOWS, Options(regions=["Fz", "Cz"]))
    assert list(of_regions.table["exclude"]) == list(np.where(hit, "amplitude", ""))


def test_a_stretch_without_power_is_excluded_whatever_the_rules_say():
    fmri = noise(1, 200)
    fmri[:, 60:100] = 0
    rows = render(recording(fmri=fmri, seconds=420), WINDOWS, SLOW)
    assert "flat" in set(rows.table["exclude"])
    silent = fmri.copy()
    silent[:, 60:100] = 3.0
    assert np.isfinite(render(recording(fmri=silent, seconds=420), WINDOWS, SLOW).array).all()


def test_thresholds_are_uv_of_eeg_only():
    fmri = 1e4 + 50 * noise(1, 200)
    fmri[0, 100:103] = fmri[0, 100]  # a scan a 2.1 s that is like the one before is not flat
    rows = render(recording(fmri=fmri, seconds=420), WINDOWS, SLOW)
    assert set(rows.table["exclude"]) == {"", "outside recording"}
    assert rows.header["modality"] == "fmri"


# ---- channels, limits, header --------------------------------------------------------------


def test_the_order_of_the_channels_in_the_file_does_not_matter():
    eeg = noise(4, 12000)
    signal = recording(eeg).signals["eeg"]
    turned = dataclasses.replace(signal, data=eeg[::-1], channels=signal.channels[::-1])
    options = Options(regions=["O2", "Fz"])
    one = render(recording(eeg), WINDOWS, options)
    two = render(Recording("sub-01", "scan-01", 120, {"eeg": turned}), WINDOWS, options)
    np.testing.assert_array_equal(one.array, two.array)
    chosen = render(recording(eeg), WINDOWS, Options(channels=["O2"]))
    np.testing.assert_array_equal(chosen.array, one.array[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(signal="meg"), "no signal 'meg'; there is eeg"),
        (Options(channels=["Oz"]), r"channels: no 'Oz'; .*there is Fz, Cz, O1, O2"),
        (Options(regions=["fz"]), r"regions: no 'fz'; did you mean 'Fz'\?"),
        (Options(regions=[]), "regions: the list is empty"),
        (Options(regions=["O1"], channels=["O1"]), "one or the other"),
        (Options(limits=(3, 3)), "limits"),
        (Options(limits="scan"), "limits"),
        (Options(size=(0, 5)), "size"),
        (Options(cmap="virdis"), "did you mean 'viridis'"),
        (Options(n_tapers=9), "n_tapers 9"),
    ],
)
def test_a_mistake_in_the_options_names_the_recording(options, message):
    with pytest.raises(InputError, match="sub-01/scan-01: .*" + message):
        render(recording(noise(4, 12000)), WINDOWS, options)


def test_a_name_that_two_regions_have_is_refused():
    signal = Signal(noise(2, 200), 1 / 2.1, ("Cuneus", "Cuneus"), "%")
    with pytest.raises(InputError, match="sub-01/scan-01: regions: 'Cuneus' is ambiguous, 2 have"):
        render(
            Recording("sub-01", "scan-01", 420, {"fmri": signal}),
            WINDOWS,
            dataclasses.replace(SLOW, regions=["Cuneus"]),
        )


def test_a_channel_that_carries_nothing_is_refused_unless_it_is_left_out():
    eeg = noise(4, 12000)
    eeg[2] = np.nan
    with pytest.raises(InputError, match="sub-01/scan-01: signal 'eeg': channel 'O1'"):
        render(recording(eeg), WINDOWS, Options())
    assert np.isfinite(render(recording(eeg), WINDOWS, Options(channels=["Fz", "O2"])).array).all()


def test_a_recording_that_is_too_short_is_named():
    with pytest.raises(InputError, match="sub-01/scan-01: lasts 20 s"):
        render(recording(noise(1, 2000), seconds=20), WINDOWS, Options())
    with pytest.raises(InputError, match="sub-01/scan-01: .*shorter than one window"):
        render(recording(noise(1, 300)), WINDOWS, Options())


def test_limits_of_the_scan_are_percentiles_and_declared():
    eeg = noise(1, 12000)
    plain = render(recording(eeg), WINDOWS, Options())
    scaled = render(recording(eeg), WINDOWS, Options(limits="recording"))
    low, high = scaled.table["limit_low"].iloc[0], scaled.table["limit_high"].iloc[0]
    power, _ = expected_image(eeg[0], SFREQ, 400, 100, 0, 117, 3, 5, 512, 0.5, 35)
    np.testing.assert_allclose([low, high], np.percentile(10 * np.log10(power), [5, 98]), atol=1e-3)
    np.testing.assert_allclose(
        scaled.array, (plain.array.astype(float) - low) / (high - low), atol=2e-3
    )
    assert scaled.header["limits"] == [0, 1]
    assert scaled.header["transductive"]
    assert "percentile" in scaled.header["unit"]
    assert not plain.header["transductive"]


def test_standardizing_takes_level_and_offset_away():
    fmri = noise(2, 200)
    louder = fmri * np.float32([[8.0], [1.0]]) + np.float32(100)
    options = dataclasses.replace(SLOW, regions=["Thalamus", "Cuneus"], standardize=True)
    one, two = (render(recording(fmri=x, seconds=420), WINDOWS, options) for x in (fmri, louder))
    np.testing.assert_allclose(one.array, two.array, atol=0.05)
    plain = dataclasses.replace(options, standardize=False)
    quiet, loud = (
        render(recording(fmri=x, seconds=420), WINDOWS, plain).array[5] for x in (fmri, louder)
    )
    np.testing.assert_allclose(loud[0] - quiet[0], 20 * np.log10(8), atol=0.05)
    assert one.header["transductive"]
    assert one.header["unit"] == "dB re 1/Hz, standardised"


def test_the_header_says_how_it_was_made_and_survives_json():
    origin = {"simulated": True}
    header = render(recording(noise(1, 12000), origin=origin), WINDOWS, Options()).header
    assert json.loads(json.dumps(header))["settings"]["nfft"] == 512
    assert (header["what"], header["axes"]) == ("spectrogram", 2)
    assert header["modality"] == "eeg"
    assert header["unit"] == "dB re 1 uV^2/Hz"
    assert header["limits"] == [-20, 40]
    assert header["seconds_per_column"] == 1
    assert header["simulated"] is True
    assert header["settings"]["sfreq"] == SFREQ


def test_resized_images_keep_the_whole_band_and_time():
    eeg = noise(1, 12000)
    plain = render(recording(eeg), WINDOWS, Options())
    small = render(recording(eeg), WINDOWS, Options(size=(59, 9)))
    assert small.array.shape[1:] == (59, 9)
    bins = plain.array.shape[1]
    factor = bins // 59
    assert bins == factor * 59
    expected = plain.array.astype(float).reshape(7, 59, factor, 9, 3).mean((2, 4))
    np.testing.assert_allclose(small.array, expected, atol=0.03)
    rows = np.reshape(plain.header["frequencies"], (59, factor)).mean(1)
    np.testing.assert_allclose(small.header["frequencies"], rows)
    np.testing.assert_allclose(small.header["times"], np.arange(3, 28, 3))
    assert small.header["seconds_per_column"] == 3


# ---- pictures ---------------------------------------------------------------------------


@pytest.mark.parametrize("tone", [2, 6, 10, 20, 30])
def test_a_tone_of_every_band_is_visible(tone):
    eeg = noise(1, 12000)
    sounding = eeg + 10 * np.sin(2 * np.pi * tone * np.arange(12000) / SFREQ).astype(np.float32)
    pictures = []
    for x in (eeg, sounding):
        rows = render(recording(x), WINDOWS, Options(limits=(-20, 40)))
        pictures.append(image.render(rows.array, (-20, 40), size=(224, 224)).astype(int))
    freqs = np.array(rows.header["frequencies"])
    centre = np.argmin(np.abs(freqs - tone)) / len(freqs) * 224
    half = 0.75 / (freqs[0] - freqs[-1]) * 224  # half a main lobe
    away = np.abs(np.arange(224) - centre)
    brighter = (pictures[1] - pictures[0]).sum(-1).mean((0, 2))
    assert brighter[away < 0.75 * half].min() > 20  # grey levels
    assert brighter[away < half].mean() > 20
    assert np.abs(brighter[away > 2 * half + 3]).max() < 2


def test_colours_are_rgb_and_low_frequencies_lie_at_the_bottom():
    decibels = np.array([[-20.0, 40.0], [10.0, np.nan], [-99.0, 99.0]])
    pixels = image.render(decibels, (-20, 40), cmap="bwr")
    blue, red = [0, 0, 255], [255, 0, 0]
    assert pixels[0].tolist() == [blue, red]
    assert pixels[2].tolist() == [blue, red]
    assert pixels[1, 1].tolist() == blue
    expected = matplotlib.colormaps["viridis"](np.linspace(0, 1, 256), bytes=True)[:, :3]
    np.testing.assert_array_equal(image.colour_table("viridis"), expected)
    rising = np.arange(12.0).reshape(3, 4)  # (times, freqs)
    assert image.upright(rising).tolist() == [[3, 7, 11], [2, 6, 10], [1, 5, 9], [0, 4, 8]]


@pytest.mark.parametrize(("old", "new"), [(7, 3), (139, 64), (27, 27), (6, 2)])
def test_shrinking_averages_over_area(old, new):
    values = noise(5, old).astype(float)
    fine = np.repeat(values, lcm(old, new) // old, axis=1)  # both grids fall on this one
    expected = fine.reshape(5, new, -1).mean(2)
    np.testing.assert_allclose(image.resize(values, (5, new)), expected)
    np.testing.assert_allclose(image.resize(values.T, (new, 5)), expected.T)


@pytest.mark.parametrize(("old", "new"), [(3, 7), (27, 224), (5, 5)])
def test_growing_interpolates_between_pixel_centres(old, new):
    values = noise(old).astype(float)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    expected = np.interp(centres, np.arange(old), values)
    np.testing.assert_allclose(image.resize(values[None], (1, new))[0], expected)


def test_limits_that_do_not_ascend_are_refused():
    with pytest.raises(InputError, match="limits: 3 to 3 dB do not ascend"):
        image.render(np.zeros((2, 2)), (3, 3))


def test_a_picture_for_people_can_be_read_back(tmp_path):
    rows = render(recording(noise(1, 12000)), WINDOWS, Options())
    decibels, header = rows.array[3].astype(float), rows.header
    settings = header["settings"]
    image.to_png(
        tmp_path / "a.png", decibels, frequencies=header["frequencies"], times=header["times"],
        limits=header["limits"], settings=settings,
    )  # fmt: skip
    sidecar = json.loads((tmp_path / "a.json").read_text())
    assert sidecar["settings"] == json.loads(json.dumps(settings))
    assert sidecar["frequencies"] == header["frequencies"]
    assert sidecar["frequencies"][0] > sidecar["frequencies"][-1]
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert pixels.shape == (*decibels.shape, 3) == (*sidecar["size"], 3)
    table = matplotlib.colormaps[sidecar["cmap"]](np.arange(256), bytes=True)[:, :3].astype(int)
    level = np.abs(pixels[..., None, :].astype(int) - table).sum(-1).argmin(-1)
    low, high = sidecar["limits"]
    back = low + (level + 0.5) / 256 * (high - low)
    assert np.abs(back - np.clip(decibels, low, high)).max() < 1.5 * (high - low) / 256


def test_the_published_look_has_570_rows_and_three_columns_a_second(tmp_path):
    decibels = noise(139, 690)
    image.to_png(
        tmp_path / "scan.png", decibels, frequencies=np.linspace(35, 0.5, 139),
        times=np.arange(690), limits=(-20, 40), size=(570, 2070), cmap="jet",
    )  # fmt: skip
    assert Image.open(tmp_path / "scan.png").size == (2070, 570)
    assert json.loads((tmp_path / "scan.json").read_text())["size"] == [570, 2070]


@pytest.mark.parametrize(
    ("frequencies", "times", "message"),
    [
        ([1, 2, 3], [0, 1], "must descend"),
        ([3, 2, 1], [1, 0], "ascend"),
        ([2, 1], [0, 1], "shape"),
    ],
)
def test_a_picture_with_axes_the_wrong_way_is_refused(tmp_path, frequencies, times, message):
    with pytest.raises(InputError, match=message):
        image.to_png(
            tmp_path / "a.png", np.zeros((3, 2)), frequencies=frequencies, times=times,
            limits=(0, 1),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
