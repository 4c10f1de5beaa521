"""Rows of ROI series against closed forms and SciPy; what they are made of, by name."""

import numpy as np
import pytest
from scipy import signal as filters

from engram import store
from engram.backbones import extract
from engram.errors import InputError
from engram.readers.atlases import ATLASES, named, same
from engram.recording import Recording, Signal, Windows
from engram.views import render as render_view
from engram.views import timeseries

NAMES = ("Thalamus", "Cuneus", "Precuneus", "Insula")


def recording(data, tr=2.0, names=NAMES, name="scan-01"):
    fmri = Signal(np.asarray(data, np.float32), 1 / tr, tuple(names), "BOLD")
    return Recording("sub-01", name, fmri.stop, {"fmri": fmri})


def noise(regions=4, frames=200, seed=0):
    rng = np.random.default_rng(seed)
    return 1e4 + 50 * rng.normal(size=(regions, frames)).cumsum(1) / 7


def whole(found):
    return Windows(found.duration, found.duration)


def rendered(data, windows=None, names=NAMES, **options):
    found = recording(data, names=names)
    return timeseries.render(found, windows or whole(found), timeseries.Options(**options))


def zscored(data):
    return (data - data.mean(-1, keepdims=True)) / data.std(-1, keepdims=True)


def test_a_whole_scan_is_a_row_that_is_standardised_by_region():
    data = noise()
    rows = rendered(data)
    assert rows.array.shape == (1, 4, 200)
    np.testing.assert_allclose(rows.array[0], zscored(data.astype(np.float32)), atol=1e-4)
    facts = ("what", "axes", "tr", "unit", "channels", "missing", "coverage", "band", "resampled")
    assert [rows.header[key] for key in facts] == [
        *("timeseries", 2, 2.0, "z", list(NAMES), [], [4, 4], None, None)
    ]


def test_windows_are_cut_where_their_onset_says():
    data = noise()
    rows = rendered(data, Windows(40, 10), standardize="off")
    first = (rows.table["onset"].to_numpy() / 2).astype(int)
    assert first.tolist() == list(range(0, 181, 5))
    for row, start in zip(rows.array, first, strict=True):
        np.testing.assert_array_equal(row, data[:, start : start + 20].astype(np.float32))


def test_a_window_begins_at_the_frame_nearest_to_its_onset():
    data = noise()
    rows = rendered(data, Windows(40, 3), standardize="off")
    np.testing.assert_array_equal(rows.array[1], data[:, 2:22].astype(np.float32))
    np.testing.assert_array_equal(rows.array[5], data[:, 8:28].astype(np.float32))


def test_the_last_window_ends_with_the_scan_however_its_frames_are_rounded():
    found = recording(noise(frames=299), 1.0)
    options = timeseries.Options(tr=2.0, resampling="nearest", standardize="off")
    rows = timeseries.render(found, Windows(20, 1), options)
    assert rows.array.shape[-1] == 9  # the last begins at frame 140 of 149
    expected = found.signals["fmri"].data[:, 280:298:2]
    np.testing.assert_array_equal(rows.array[-1], expected)


@pytest.mark.parametrize(
    ("standardize", "normalisation", "unit"),
    [("scan", "scan", "z"), ("window", "row", "z"), ("off", "none", "BOLD")],
)
def test_the_header_says_what_was_standardised(standardize, normalisation, unit):
    header = rendered(noise(), standardize=standardize).header
    assert (header["normalisation"], header["unit"]) == (normalisation, unit)
    assert header["transductive"] == (standardize == "scan")


def test_a_window_can_be_standardised_by_itself():
    rows = rendered(noise(), Windows(40, 40), standardize="window")
    np.testing.assert_allclose(rows.array.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(rows.array.std(-1), 1, atol=1e-4)
    assert not rows.header["transductive"]


def test_a_band_is_that_of_butterworth_forward_and_backward():
    data = noise()
    rows = rendered(data, band=[0.01, 0.1], standardize="off")
    b, a = filters.butter(5, [0.01, 0.1], "bandpass", fs=0.5)
    expected = filters.filtfilt(b, a, data, axis=-1)
    # both start from what they make of the ends of the scan
    np.testing.assert_allclose(rows.array[0, :, 60:140], expected[:, 60:140], atol=0.5)
    power = np.abs(np.fft.rfft(rows.array[0])) ** 2
    frequencies = np.fft.rfftfreq(200, 2.0)
    assert power[:, frequencies > 0.15].sum() < 1e-3 * power.sum()
    assert rows.header["band"] == [0.01, 0.1]


def test_a_filter_widens_what_a_window_rests_on():
    near = rendered(noise(), Windows(40, 40), band=[0.01, 0.1]).table
    assert (near["start"] < near["onset"] - 20).all()
    assert (near["stop"] > near["onset"] + 60).all()


@pytest.mark.parametrize("method", ["linear", "nearest", "polyphase"])
def test_another_tr_keeps_a_slow_wave(method):
    times = 0.735 * np.arange(490)
    data = np.sin(2 * np.pi * 0.02 * times + np.arange(4)[:, None])
    found = recording(data, 0.735)
    options = timeseries.Options(tr=2.0, resampling=method, standardize="off")
    rows = timeseries.render(found, whole(found), options)
    assert rows.array.shape[-1] == int(490 * 0.735 / 2.0)
    at = 2.0 * np.arange(rows.array.shape[-1])
    expected = np.sin(2 * np.pi * 0.02 * at + np.arange(4)[:, None])
    inner = slice(10, -10)
    assert np.abs(rows.array[0] - expected)[:, inner].max() < {"nearest": 0.06}.get(method, 0.01)
    assert rows.header["resampled"] == {"from_tr": pytest.approx(0.735), "method": method}
    assert rows.header["tr"] == 2.0


def test_polyphase_removes_what_a_longer_tr_cannot_hold_and_linear_folds_it():
    data = np.sin(2 * np.pi * 0.4 * 0.735 * np.arange(490)) * np.ones((4, 1))
    found = recording(data, 0.735)

    def left(method):
        options = timeseries.Options(tr=2.0, resampling=method, standardize="off")
        return timeseries.render(found, whole(found), options).array[0, :, 10:-10].std()

    assert left("polyphase") < 0.02
    assert left("linear") > 0.2


def test_longer_and_shorter_scans_become_rows_of_one_length():
    shorter = rendered(noise(), length=100, standardize="off").array
    np.testing.assert_array_equal(shorter, noise()[None, :, :100].astype(np.float32))
    with pytest.raises(InputError, match="has 200 frames of 2 s, `length` of .* 300"):
        rendered(noise(), length=300)
    rows = rendered(noise(), length=300, pad=True)
    assert rows.table["frames"].tolist() == [200]
    assert (rows.array[0, :, 200:] == 0).all()


def test_a_scan_shorter_than_a_window_is_refused():
    spec = {"unit": "u", "view": {"kind": "timeseries"}, "windows": {"length": 600, "step": 600}}
    with pytest.raises(InputError, match="400 s are shorter than one window of 600 s"):
        render_view([recording(noise())], "never.h5", spec, {})


# ---- order and coverage -------------------------------------------------------------------


def test_parcels_are_put_in_order_by_name_from_either_order():
    """Each region carries its own number, so that a wrong order shows."""
    seven, seventeen = ATLASES["schaefer400_7n"], ATLASES["schaefer400_17n"]
    number = {name: i + 1.0 for i, name in enumerate(seven)}
    wave = np.sin(np.arange(20))
    data = np.stack([number[same(name)] * wave for name in seventeen])
    rows = rendered(data, names=seventeen, regions=["schaefer400_7n"], standardize="off")
    np.testing.assert_allclose(rows.array[0], np.arange(1, 401)[:, None] * wave, rtol=1e-6)
    assert rows.header["channels"] == list(seven)


def test_a_missing_atlas_is_zero_and_named_in_the_header():
    names = named(["tian_s3", "schaefer400_17n"])
    rows = rendered(
        noise(450),
        names=names,
        regions=["schaefer400_7n", "tian_s3", "buckner7"],
        coverage=0.95,
    )
    assert rows.header["missing"] == list(ATLASES["buckner7"])
    assert rows.header["coverage"] == [450, 457]
    assert (rows.array[0, 450:] == 0).all()
    np.testing.assert_allclose(rows.array[0, :450].std(-1), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": ["Cuneus", "Hippocampus"]}, "has 1 of the 2 regions .* 'Hippocampus'"),
        ({"regions": ["Cunaeus", "Insula"]}, "first missing 'Cunaeus' .did you mean 'Cuneus'"),
        ({"regions": ["Insula", "Insula"]}, "'Insula' is named twice"),
        ({"without": ["Hippocampus"]}, "without: 'Hippocampus' is none of the regions"),
        ({"without": ["Insula"], "regions": ["Insula", "Cuneus"]}, "has 1 of the 2 regions"),
        ({"signal": "eeg"}, "no signal 'eeg'; there is fmri"),
        ({"band": [0.01, 0.3]}, "band: 0.01 to 0.3 Hz does not lie between 0 and 0.25 Hz"),
        ({"band": [0.01, 0.25]}, "does not lie between 0 and 0.25 Hz"),
        ({"coverage": 0}, "coverage: 0 is not a share"),
        ({"tr": 2000}, "tr: 2000 s between frames"),
    ],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises(InputError, match="sub-01/scan-01: .*" + message):
        rendered(noise(), **options)


def test_a_scan_too_short_for_a_filter_is_refused():
    with pytest.raises(InputError, match="20 frames are too few for a filter of order 5"):
        rendered(noise(frames=20), band=[0.01, 0.1])


def test_a_parcel_under_both_of_its_names_is_refused():
    seventeen = ATLASES["schaefer400_17n"][0]
    with pytest.raises(InputError, match="two of the regions of the recording are one parcel"):
        rendered(noise(2), names=(seventeen, same(seventeen)), regions=[seventeen])


def test_a_constant_region_is_refused():
    data = noise()
    data[2] = 7
    with pytest.raises(InputError, match="'Precuneus' never changes"):
        rendered(data)


# ---- backbones ------------------------------------------------------------------------------


def features(tmp_path, backbone, data=None, names=NAMES, **view):
    """The features of scans, a row each, through the doors of the stages."""
    data = noise(len(names)) if data is None else data
    data = data if data.ndim == 3 else data[None]
    scans = [recording(one, names=names, name=f"scan-{i}") for i, one in enumerate(data)]
    spec = {"unit": "sub-01", "view": {"kind": "timeseries", **view}, "windows": "scan"}
    render_view(scans, tmp_path / "view.h5", spec, {})
    spec = {"backbone": backbone}
    extract(tmp_path / "view.h5", None, tmp_path / "features.h5", spec, {}, "cpu")
    return store.open(tmp_path / "features.h5")


def test_the_header_says_whether_a_row_is_a_whole_scan(tmp_path):
    for windows, row in (("scan", "scan"), ({"length": 100.0, "step": 100.0}, "window")):
        spec = {"unit": "sub-01", "view": {"kind": "timeseries"}, "windows": windows}
        render_view([recording(noise())], tmp_path / f"{row}.h5", spec, {})
        assert store.open(tmp_path / f"{row}.h5").header["row"] == row


def test_a_connectome_is_that_of_numpy(tmp_path):
    data = np.stack([noise(seed=i) for i in range(5)])
    found = features(tmp_path, {"kind": "connectome"}, data, standardize="off")
    upper = np.triu_indices(4, 1)
    expected = [np.arctanh(np.corrcoef(one.astype(np.float32))[upper]) for one in data]
    np.testing.assert_allclose(found[:], expected, rtol=1e-3, atol=1e-4)
    assert found.header["nodes"] == list(NAMES)


def test_partial_correlations_are_those_of_scikit_learn(tmp_path):
    from sklearn.covariance import LedoitWolf

    data = zscored(noise(frames=60))
    found = features(tmp_path, {"kind": "connectome", "measure": "partial"}, data)
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(data.T).covariance_)
    scale = np.sqrt(np.diag(precision))
    expected = (-precision / np.outer(scale, scale))[np.triu_indices(4, 1)]
    np.testing.assert_allclose(np.tanh(found[0]), expected, atol=1e-4)


def test_covariances_are_shrunk_as_by_scikit_learn_and_held_as_upper_triangles(tmp_path):
    from sklearn.covariance import LedoitWolf

    data = zscored(noise(frames=60))
    found = features(tmp_path, {"kind": "connectome", "measure": "covariance"}, data)
    expected = LedoitWolf(assume_centered=True).fit(data.T).covariance_
    np.testing.assert_allclose(found[0], expected[np.triu_indices(4)], atol=1e-5)


def test_partial_correlations_exist_with_more_regions_than_frames(tmp_path):
    names = [f"r{i}" for i in range(40)]
    data = noise(40, 20)
    found = features(tmp_path, {"kind": "connectome", "measure": "partial"}, data, names)
    assert found.shape == (1, 780)
    assert np.isfinite(found[:]).all()


def test_networks_are_correlations_of_their_means(tmp_path):
    names = ATLASES["schaefer400_7n"]
    data = zscored(noise(400, 50))
    found = features(tmp_path, {"kind": "connectome", "level": "network"}, data, names)
    of_region = np.array([name.split("_")[2] for name in names])
    means = [data[of_region == one].mean(0) for one in dict.fromkeys(of_region)]
    expected = np.arctanh(np.corrcoef(means)[np.triu_indices(7, 1)])
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_missing_regions_have_no_edges(tmp_path):
    view = {"regions": ["Thalamus", "Hippocampus", "Cuneus"], "coverage": 0.5}
    found = features(tmp_path, {"kind": "connectome"}, **view)
    assert found.header["nodes"] == ["Thalamus", "Cuneus"]
    assert found.shape == (1, 1)


def test_scans_that_lack_different_regions_share_what_all_have_once_that_is_said(tmp_path):
    data = noise(3)
    scans = [
        recording(data, names=("Thalamus", "Cuneus", "Insula"), name="scan-01"),
        recording(data, names=("Thalamus", "Cuneus", "Precuneus"), name="scan-02"),
    ]
    view = {"kind": "timeseries", "regions": list(NAMES), "coverage": 0.5}
    spec = {"unit": "sub-01", "view": view, "windows": "scan"}
    with pytest.raises(InputError, match=r"scan-01 and .*scan-02 differ in `missing` \(\['Prec"):
        render_view(scans, tmp_path / "view.h5", spec, {})
    with pytest.raises(InputError, match="what any of them lacks in `without` of the view"):
        render_view(scans, tmp_path / "view.h5", spec, {})
    view["without"] = ["Insula", "Precuneus"]
    render_view(scans, tmp_path / "view.h5", spec, {})
    rows = store.open(tmp_path / "view.h5")
    assert rows.header["missing"] == ["Precuneus", "Insula"]
    assert rows.header["coverage"] == [2, 4]
    assert (rows[:][:, 2:] == 0).all()
    spec = {"backbone": {"kind": "connectome"}}
    extract(tmp_path / "view.h5", None, tmp_path / "fc.h5", spec, {}, "cpu")
    found = store.open(tmp_path / "fc.h5")
    assert found.header["nodes"] == ["Thalamus", "Cuneus"]
    expected = np.arctanh(np.corrcoef(data[:2])[0, 1])
    np.testing.assert_allclose(found[:], [[expected]] * 2, rtol=1e-4)


def test_statistics_of_regions_are_those_of_numpy(tmp_path):
    data = np.random.default_rng(0).normal(5, 2, (4, 200)).astype(np.float32)
    found = features(tmp_path, {"kind": "roi_statistics"}, data, standardize="off")
    columns = found.header["columns"]
    assert columns == ["mean", "sd", "autocorrelation", "power slow5", "power slow4"]
    by_name = dict(zip(columns, found[0].reshape(5, 4), strict=True))
    np.testing.assert_allclose(by_name["mean"], data.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(by_name["sd"], data.std(-1), rtol=1e-5)
    centred = data - data.mean(-1, keepdims=True)
    lagged = (centred[:, 1:] * centred[:, :-1]).sum(-1) / (centred**2).sum(-1)
    np.testing.assert_allclose(by_name["autocorrelation"], lagged, atol=1e-5)
    frequencies, density = filters.periodogram(data, 0.5, detrend="constant")
    inside = (frequencies >= 0.01) & (frequencies < 0.027)
    # the periodogram is one-sided and in units of 1/Hz: 2 / 0.5 Hz times ours
    expected = 10 * np.log10(density[:, inside].mean(-1) / 4)
    np.testing.assert_allclose(by_name["power slow5"], expected, atol=1e-3)


def test_identity_is_the_row_itself(tmp_path):
    found = features(tmp_path, {"kind": "identity"})
    np.testing.assert_array_equal(found[0], store.open(tmp_path / "view.h5")[0].ravel())


def test_a_band_that_the_rate_cannot_hold_is_refused(tmp_path):
    bands = {"kind": "roi_statistics", "bands": {"fast": [0.2, 0.3]}}
    with pytest.raises(InputError, match="bands.fast: 0.2 to 0.3 Hz; a row holds"):
        features(tmp_path, bands)
