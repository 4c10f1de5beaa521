"""What stands beside the signals: names of pictures, files of labels, rates within a file."""

import unicodedata

import edfio
import numpy as np
import pytest
from PIL import Image

from engram.datasets import osf_vigilance, read
from engram.errors import InputError

# ---- published pictures: what the name of a file says -------------------------------------


def pictures(folder, *names, labels=45):
    """Rows of one scan with these pictures, 690 units of time wide."""
    for name in names:
        Image.new("RGB", (2070, 4), (200, 10, len(name))).save(folder / f"sub01-scan01_{name}.png")
    np.save(folder / "sub01-scan01_vigall.npy", np.zeros((labels, 1)))
    files = [f"sub01-scan01_{name}.png" for name in names] + ["sub01-scan01_vigall.npy"]
    rows = [{"file": file, "path": str(folder / file)} for file in files]
    for row in rows:
        if row["file"].endswith("_fmri_spectrogram.png"):
            row["regions"] = row["file"].split("_")[1]
    return osf_vigilance.read("sub01-scan01", rows, osf_vigilance.Options())


def test_a_picture_of_no_region_is_told_by_its_name(tmp_path):
    (found,) = pictures(tmp_path, "eeg_spectrogram", "average_filtered_spectrogram")
    assert found.pictures["eeg"]["eeg"].pixels[0, 0].tolist() == [200, 10, 15]
    assert found.pictures["fmri"]["average filtered"].pixels[0, 0].tolist() == [200, 10, 28]
    with pytest.raises(InputError, match=r"sub01-scan01_other\.png: not a published picture"):
        pictures(tmp_path, "eeg_spectrogram", "other")


@pytest.mark.parametrize(
    "other", ["HESCHL'S gyrus", "Heschl\N{RIGHT SINGLE QUOTATION MARK}s gyrus"]
)
def test_regions_that_differ_in_case_or_apostrophe_are_ambiguous(tmp_path, other):
    wanted = "Heschl's gyrus_fmri_spectrogram"
    (found,) = pictures(tmp_path, "eeg_spectrogram", wanted, "Thalamus_fmri_spectrogram")
    assert set(found.pictures["fmri"]) == {"Heschl's gyrus", "Thalamus"}
    (tmp_path / f"sub01-scan01_{other}_fmri_spectrogram.png").touch()
    with pytest.raises(InputError, match="the region is ambiguous, there is .* and .*Heschl"):
        pictures(tmp_path, "eeg_spectrogram", wanted)


def test_a_region_spelt_with_another_accent_is_the_same(tmp_path):
    composed = unicodedata.normalize("NFC", "Broca \N{LATIN SMALL LETTER E WITH ACUTE}")
    composed, apart = (
        f"{unicodedata.normalize(form, composed)}_fmri_spectrogram" for form in ("NFC", "NFD")
    )
    (tmp_path / f"sub01-scan01_{apart}.png").touch()
    with pytest.raises(InputError, match="the region is ambiguous"):
        pictures(tmp_path, "eeg_spectrogram", composed)


def test_pictures_of_one_scan_have_one_shape(tmp_path):
    for name, height in (("eeg_spectrogram", 4), ("Thalamus_fmri_spectrogram", 5)):
        Image.new("RGB", (2070, height)).save(tmp_path / f"sub01-scan01_{name}.png")
    rows = [{"file": path.name, "path": str(path)} for path in sorted(tmp_path.iterdir())]
    rows[0]["regions"] = "Thalamus"
    with pytest.raises(InputError, match=r"sub01-scan01: pictures of different shapes: .*4.*5"):
        osf_vigilance.read("sub01-scan01", rows, osf_vigilance.Options())


def test_published_labels_are_one_a_window(tmp_path):
    with pytest.raises(InputError, match=r"vigall\.npy: 44 labels, but 690 units .* 45 windows"):
        pictures(tmp_path, "eeg_spectrogram", labels=44)


# ---- recordings: labels beside the file, rates within it ------------------------------------


def recorded(folder, labels=None, channels=("Fp1",), **rates):
    """One EDF recording of 60 s and, if given, its file of labels."""
    rng, rates = np.random.default_rng(0), rates or {"Fp1": 128}
    parts = [
        edfio.EdfSignal(rng.normal(0, 20, 60 * rate), rate, label=name, physical_dimension="uV")
        for name, rate in rates.items()
    ]
    edfio.Edf(parts).write(folder / "a.edf")
    row, paths = {"subject": "s", "scan": "x", "file": "a.edf"}, [folder / "a.edf"]
    if labels is not None:
        (folder / "a.csv").write_text(labels)
        row["labels"] = "a.csv"
        paths.append(folder / "a.csv")
    dataset = {"kind": "eeg_recordings", "channels": channels and list(channels)}
    (found,) = read({"dataset": dataset, "unit": "s", "rows": [row]}, paths)
    return found


def test_labels_beside_a_recording_are_read_by_window_or_by_time(tmp_path):
    assert recorded(tmp_path).labels is None
    by_window = recorded(tmp_path, "window,label\n1,1\n0,0\n2,\n")
    assert by_window.labels.tolist() == [0, 1, -1]
    by_time = recorded(tmp_path, "onset,duration,label\n0,20,alert\n20,40,drowsy\n")
    assert by_time.events.to_numpy().tolist() == [[0, 20, "alert"], [20, 40, "drowsy"]]


def test_a_bad_file_of_labels_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv, line 2: duration 'long' is no number"):
        recorded(tmp_path, "onset,duration,label\n0,long,alert\n")


@pytest.mark.parametrize("channels", [("Fp1", "Oz"), None])
def test_channels_of_different_rates_do_not_stand_side_by_side(tmp_path, channels):
    with pytest.raises(InputError, match=r"a\.edf: .*Fp1: 128 .*Oz: 256 .* in `channels`"):
        recorded(tmp_path, None, channels, Fp1=128, Oz=256)
    assert recorded(tmp_path, None, ("Oz",), Fp1=128, Oz=256).signals["eeg"].sfreq == 256
