"""What a backbone takes and a view gives: converted to the same features, or refused."""

import numpy as np
import pandas as pd
import pytest
from scipy import signal

from engram import store
from engram.backbones import extract
from engram.errors import InputError
from engram.frozen import contract, fitted
from engram.planning import components
from engram.readers.atlases import ATLASES
from engram.recording import Recording, Signal
from engram.store import Rows
from engram.views import render

SEVEN, SEVENTEEN, TIAN = (
    ATLASES[name] for name in ("schaefer400_7n", "schaefer400_17n", "tian_s3")
)
WANTED = ["schaefer400_7n", "tian_s3"]
SERIES = {
    "what": "timeseries",
    "axes": 2,
    "modality": "fmri",
    "unit": "BOLD",
    "normalisation": "none",
    "row": "scan",
    "band": None,
}


def series(names=(*SEVEN, *TIAN), frames=40, rows=2, seed=0):
    """Values (row, region, time) that a region has whatever its position: drawn by its name."""
    found = np.empty((rows, len(names), frames), np.float32)
    for i, name in enumerate(names):
        number = sum(name.encode()) * 1000 + len(name)
        found[:, i] = np.random.default_rng([seed, number]).normal(100, 5, (rows, frames))
    return found


def features(folder, array, takes, names=(*SEVEN, *TIAN), tr=2.0, kind="identity", **stated):
    """What `kind` makes of rows whose view states `stated`."""
    facts = {"channels": list(names), "sfreq": 1 / tr, "tr": tr, "frames": array.shape[-1]}
    header = SERIES | facts | {"missing": [], "coverage": [len(names)] * 2} | stated
    index = [f"sub-01/scan-{i:02d}/window-0000" for i in range(len(array))]
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame({"subject": "sub-01", "exclude": ""}, index=index)
    store.write(folder / "view.h5", Rows(array, table, header))
    spec = {"backbone": {"kind": kind}, "takes": takes}
    extract(folder / "view.h5", None, folder / "features.h5", spec, {}, "cpu")
    return store.open(folder / "features.h5")


def flattened(array):
    return array.reshape(len(array), -1)


# ---- converted ------------------------------------------------------------------------


def test_regions_come_in_the_order_of_the_model_whatever_order_they_had(tmp_path):
    array, names = series(), np.array([*SEVEN, *TIAN])
    shuffled = np.random.default_rng(1).permutation(len(names))
    right = features(tmp_path / "a", array, {"channels": WANTED})
    found = features(tmp_path / "b", array[:, shuffled], {"channels": WANTED}, names[shuffled])
    np.testing.assert_array_equal(right[:], flattened(array))
    np.testing.assert_array_equal(found[:], right[:])
    assert right.header["input"] == {"coverage": [450, 450], "missing": [], "converted": []}
    assert found.header["input"]["converted"] == ["450 of 450 channels put in order by name"]


def test_parcels_in_the_order_of_17_networks_are_those_of_7(tmp_path):
    """The published tables of one model have subcortex first and the other order behind it."""
    names = [*TIAN, *SEVENTEEN]
    array = series(names)
    found = features(tmp_path / "a", array, {"channels": ["schaefer400_17n"]}, names)[:]
    np.testing.assert_array_equal(found, flattened(array[:, 50:]))
    as_seven = features(tmp_path / "b", array, {"channels": ["schaefer400_7n"]}, names)[:]
    again = features(
        tmp_path / "c", as_seven.reshape(2, 400, -1), {"channels": ["schaefer400_17n"]}, SEVEN
    )[:]
    assert not np.array_equal(as_seven, found)
    np.testing.assert_array_equal(again, found)


def test_a_missing_atlas_is_zero_and_counted(tmp_path):
    takes = {"channels": [*WANTED, "buckner7"], "coverage": 0.9}
    array = series()
    found = features(tmp_path / "a", array, takes)
    assert found.header["input"]["coverage"] == [450, 457]
    assert found.header["input"]["missing"] == list(ATLASES["buckner7"])
    assert found.header["nodes"] == [*SEVEN, *TIAN]  # identity leaves out what is missing
    np.testing.assert_array_equal(found[:], flattened(array))


def test_zeros_of_the_view_count_as_missing(tmp_path):
    array, gone = series(), [3, 401]
    names = [*SEVEN, *TIAN]
    array[:, gone] = 0
    stated = {"missing": [names[i] for i in gone], "coverage": [448, 450]}
    takes = {"channels": WANTED, "coverage": 0.9}
    found = features(tmp_path / "a", array, takes, **stated)
    assert found.header["input"]["coverage"] == [448, 450]
    assert found.header["input"]["missing"] == stated["missing"]


def test_volts_become_microvolts(tmp_path):
    array = series()
    found = features(tmp_path / "a", array * 1e-6, {"unit": "uV"}, unit="V")
    np.testing.assert_allclose(found[:], flattened(array), rtol=1e-6)
    assert found.header["input"]["converted"] == ["from V to uV"]


def test_another_rate_is_resampled_as_scipy_does(tmp_path):
    array = series(frames=120)
    found = features(tmp_path / "a", array, {"tr": 2.0}, tr=0.8)
    expected = signal.resample_poly(array, 2, 5, axis=-1, padtype="line")
    np.testing.assert_allclose(found[:], flattened(expected), rtol=1e-5)
    assert found.header["input"]["converted"] == ["resampled from a TR of 0.8 s to 2 s (polyphase)"]


@pytest.mark.parametrize(("wanted", "axes"), [("scan", -1), ("row", -1), ("global", (-2, -1))])
def test_values_of_a_whole_scan_are_standardised(wanted, axes, tmp_path):
    array = series() + np.arange(450, dtype=np.float32)[:, None]
    found = features(tmp_path / "a", array, {"normalisation": wanted})[:].reshape(array.shape)
    mean, sd = array.mean(axes, keepdims=True), array.std(axes, keepdims=True)
    np.testing.assert_allclose(found, (array - mean) / sd, atol=1e-3)


def test_windows_of_a_standardised_scan_are_standardised_over_the_row_if_that_is_asked(tmp_path):
    array = series()
    stated = {"row": "window", "normalisation": "scan", "unit": "z"}
    found = features(tmp_path / "a", array, {"normalisation": "row"}, **stated)[:]
    np.testing.assert_allclose(found.reshape(array.shape).std(-1), 1, rtol=1e-4)


def test_regions_that_are_missing_are_zero_wherever_they_stand():
    view = SERIES | {"channels": ["c", "a"], "frames": 3, "sfreq": 0.5}
    found = contract.fit({"channels": ["a", "b", "c"], "coverage": 0.5}, view, "any")
    np.testing.assert_array_equal(
        found(np.array([[[1, 2, 3], [4, 5, 6]]])), [[[4, 5, 6], [0, 0, 0], [1, 2, 3]]]
    )


def test_regions_behind_those_of_the_model_are_left_out():
    view = SERIES | {"channels": ["a", "b", "c"], "frames": 2, "sfreq": 0.5}
    found = contract.fit({"channels": ["a", "b"]}, view, "any")
    np.testing.assert_array_equal(found(np.arange(6).reshape(1, 3, 2)), [[[0, 1], [2, 3]]])


def test_a_lower_rate_leaves_less_of_a_band_and_fewer_frames():
    view = SERIES | {"channels": ["a"], "frames": 90, "sfreq": 1.0, "band": [0.01, 0.4]}
    found = contract.fit({"tr": 2.0, "frames": 45}, view, "any")
    assert [found.view[key] for key in ("tr", "sfreq", "frames", "band")] == [
        *(2.0, 0.5, 45, [0.01, 0.25])
    ]
    with pytest.raises(InputError, match="rows of 46 samples or more, but .* have 45"):
        contract.fit({"tr": 2.0, "frames": 46}, view, "any")


def test_what_was_standardised_says_so():
    found = contract.fit({"normalisation": "scan", "unit": "z"}, SERIES, "any")
    assert [found.view[key] for key in ("normalisation", "unit")] == ["scan", "z"]


@pytest.mark.parametrize("standardize", ["window", "off"])
def test_a_model_of_whole_scans_refuses_windows_that_know_no_scan(standardize, tmp_path):
    """Through the view and what Brain-Semantoks declares; standardised over the scan they fit."""
    takes = components.constant("engram.backbones.semantoks", "TAKES")
    takes = {key: takes[key] for key in ("modality", "tr", "band", "normalisation")}
    data = np.random.default_rng(0).normal(100, 5, (3, 200)).astype(np.float32)
    scan = Recording("s1", "a", 400.0, {"fmri": Signal(data, 0.5, ("a", "b", "c"), "BOLD")})

    def header(name, windows, how):
        view = {"kind": "timeseries", "band": [0.01, 0.1], "standardize": how}
        spec = {"unit": "s1", "view": view, "windows": windows}
        render([scan], tmp_path / f"{name}.h5", spec, {})
        return store.open(tmp_path / f"{name}.h5").header

    half = {"length": 200.0, "step": 200.0}
    with pytest.raises(InputError, match="variance 1 over the scan, of which a row is a part"):
        contract.fit(takes, header("window", half, standardize), "semantoks")
    for windows, how in ((half, "scan"), ("scan", standardize)):
        contract.fit(takes, header(f"{windows}-{how}"[:4] + how, windows, how), "semantoks")


def test_standardised_after_resampling(tmp_path):
    takes = {"tr": 2.0, "normalisation": "scan"}
    found = features(tmp_path / "a", series(frames=120), takes, tr=0.8)[:].reshape(2, 450, -1)
    np.testing.assert_allclose(found.std(-1), 1, rtol=1e-4)


def test_what_fits_is_left_as_it_is(tmp_path):
    array = series()
    takes = {
        "modality": ["fmri"], "channels": WANTED, "tr": 2.0, "unit": "BOLD",
        "normalisation": "none", "frames": 40, "band": [0.01, 0.1],
    }  # fmt: skip
    found = features(tmp_path / "a", array, takes, band=[0.01, 0.1])
    np.testing.assert_array_equal(found[:], flattened(array))
    assert found.header["input"]["converted"] == []


# ---- refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("takes", "stated", "message"),
    [
        ({"modality": ["eeg"]}, {}, "backbone identity: takes eeg, but the view holds fmri"),
        ({"modality": ["fmri"]}, {"modality": None}, "takes fmri, but the view holds None"),
        (
            {"channels": WANTED}, {"missing": [TIAN[-1]]},
            "takes 450 channels, of which the view has 449, first missing 'aGP-lh'",
        ),
        ({"channels": [*WANTED, "buckner7"]}, {}, "takes 457 channels, of which the view has 450"),
        (
            {"channels": [*WANTED, "buckner7"], "coverage": 0.99}, {},
            "first missing 'Cerebellum_Vis'; below a coverage of 0.99",
        ),
        ({"band": [0.01, 0.1]}, {}, r"takes series of 0.01 to 0.1 Hz, but the view was not filt"),
        ({"band": [0.01, 0.1]}, {"band": [0.01, 0.2]}, "but the view passed 0.01 to 0.2 Hz"),
        ({"band": [0.01, 0.1]}, {"band": [0.01, 0.11]}, "but the view passed 0.01 to 0.11 Hz"),
        ({"normalisation": "scan"}, {"row": "window"}, "over the scan, of which a row is a part"),
        (
            {"normalisation": "scan"}, {"settings": {"length": 40}},
            "over the scan, of which a row is a part",
        ),
        ({"normalisation": "global"}, {"normalisation": "scan"}, "which cannot be undone"),
        ({"normalisation": "none"}, {"normalisation": "row"}, "set `standardize: off`"),
        ({"unit": "uV"}, {}, "takes values in uV, but those of the view are in BOLD"),
        ({"unit": "V"}, {"unit": "V^2/Hz"}, "takes values in V, but those .* are in V.2/Hz"),
        (
            {"normalisation": "row"}, {"settings": {"pad": True}},
            "takes values whose normalisation is row; rows that were padded are not converted",
        ),
        ({"frames": 41}, {}, "takes rows of 41 samples or more, but those of the view have 40"),
        ({"tr": 1.0}, {"settings": {"pad": True}}, "rows that were padded are not converted"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused_in_one_line(takes, stated, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        features(tmp_path / "a", series(), takes, **stated)
    assert "\n" not in str(error.value)
    assert "view.h5: backbone identity" in str(error.value)
    assert not (tmp_path / "a/features.h5").exists()


@pytest.mark.parametrize("kind", components.kinds("backbones"))
def test_rows_of_another_kind_are_refused_before_a_model_is_made(kind, tmp_path):
    facts = {"what": "labels", "axes": 2}
    table = pd.DataFrame({"exclude": [""]}, index=["a"])
    store.write(tmp_path / "view.h5", Rows(np.ones((1, 4, 9), np.float32), table, facts))
    model = {"model": "any"} if components.fields("backbones", kind).get("model", [0, 0])[1] else {}
    spec = {"backbone": {"kind": kind, **model}}
    with pytest.raises(InputError, match=f"backbone {kind} takes .* rows, but .* labels rows"):
        extract(tmp_path / "view.h5", None, tmp_path / "features.h5", spec, {}, "cpu")


@pytest.mark.parametrize("what", ["picture", "spectrogram", "features"])
def test_rows_that_no_kind_names_are_refused_whatever_they_are(what):
    with pytest.raises(InputError, match=f"connectome takes timeseries rows, .* holds {what} rows"):
        fitted.fit({"backbone": {"kind": "connectome"}}, {"what": what, "channels": ["a"]})


@pytest.mark.parametrize("stated", [{}, {"limits": None}, {"limits": []}])
def test_a_fact_that_a_view_does_not_state_is_asked_for(stated):
    spec = {"backbone": {"kind": "identity"}, "takes": {"what": {"spectrogram": ["limits"]}}}
    with pytest.raises(InputError, match="needs a view that states `limits`, but this spectrogram"):
        fitted.fit(spec, SERIES | {"what": "spectrogram"} | stated)


@pytest.mark.parametrize("takes", [{"frames": 3}, {"tr": 2.0}, {"channels": ["a"]}])
def test_what_pictures_do_not_have_cannot_be_asked_of_them(takes):
    (key,) = takes
    with pytest.raises(InputError, match=f"of a certain `{key}`, but this picture states no"):
        contract.fit(takes, {"what": "picture"}, "any")


def test_decibels_are_those_of_any_unit_but_no_shares_of_limits(tmp_path):
    facts = {"what": "spectrogram", "frequencies": list(np.arange(40.0, 0, -1))}
    array = series([f"{i}" for i in range(40)])
    features(tmp_path / "a", array, {}, kind="bandpower", unit="dB re 1 uV^2/Hz", **facts)
    with pytest.raises(InputError, match="takes values in dB, but those of the view are in 0 to 1"):
        features(tmp_path / "b", array, {}, kind="bandpower", unit="0 to 1: 5th to 98th", **facts)
