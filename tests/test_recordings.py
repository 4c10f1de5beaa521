"""Real file formats, written here and read back; every kind of bad file refused by name."""

import edfio
import mne
import numpy as np
import pytest
from PIL import Image

from engram.datasets import eeg_recordings, osf_vigilance, read
from engram.errors import InputError

SFREQ = 128


def signals(seconds=60, channels=("Fp1", "Oz"), sfreq=SFREQ, seed=0):
    """uV, (channel, time)."""
    return np.random.default_rng(seed).normal(0, 20, (len(channels), seconds * sfreq))


def write_edf(path, data, channels=("Fp1", "Oz"), sfreq=SFREQ, stage=None, annotations=()):
    parts = [
        edfio.EdfSignal(x, sfreq, label=name, physical_dimension="uV", physical_range=(-500, 500))
        for x, name in zip(data, channels, strict=True)
    ]
    if stage is not None:
        parts.append(
            edfio.EdfSignal(np.asarray(stage, float), 1, label="Stage", physical_range=(0, 10))
        )
    edfio.Edf(parts, annotations=[edfio.EdfAnnotation(*a) for a in annotations]).write(path)


def row(path, **facts):
    return {"subject": "s1", "scan": "a", "file": path.name, "path": str(path), **facts}


def read_one(path, **options):
    (found,) = eeg_recordings.read("s1", [row(path)], eeg_recordings.Options(**options))
    return found


def test_edf_comes_in_microvolts(tmp_path):
    data = signals()
    write_edf(tmp_path / "a.edf", data)
    found = read_one(tmp_path / "a.edf", channels=["Oz"])
    eeg = found.signals["eeg"]
    assert (eeg.channels, eeg.sfreq, eeg.unit) == (("Oz",), SFREQ, "uV")
    assert found.duration == 60
    step = 1000 / 65535  # of the 16-bit file
    np.testing.assert_allclose(eeg.data[0], data[1], atol=step)


def test_fif_comes_in_microvolts(tmp_path):
    data = signals()
    info = mne.create_info(["Fp1", "Oz", "ECG"], SFREQ, ["eeg", "eeg", "ecg"])
    raw = mne.io.RawArray(np.vstack([data, data[:1]]) * 1e-6, info, verbose="error")
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    eeg = read_one(tmp_path / "a_raw.fif").signals["eeg"]
    assert eeg.channels == ("Fp1", "Oz")
    np.testing.assert_allclose(eeg.data, data, rtol=1e-5)


def test_annotations_of_a_cropped_file_stand_on_its_own_clock(tmp_path):
    info = mne.create_info(["Fp1", "Oz"], SFREQ, "eeg")
    raw = mne.io.RawArray(signals() * 1e-6, info, verbose="error")
    raw.set_meas_date(1_600_000_000)
    raw.set_annotations(mne.Annotations([15.0], [2.0], ["blink"], raw.info["meas_date"]))
    raw.crop(tmin=10.0).save(tmp_path / "a_raw.fif", verbose="error")
    (event,) = read_one(tmp_path / "a_raw.fif").events.itertuples()
    assert (event.onset, event.duration, event.description) == (5.0, 2.0, "blink")


def test_everything_known_about_time_becomes_events(tmp_path):
    stage = [3] * 20 + [4] * 40
    write_edf(tmp_path / "a.edf", signals(), stage=stage, annotations=[(5.0, 2.0, "blink")])
    options = eeg_recordings.Options(
        channels=["Oz"],
        event_channels=["Stage"],
        protocol=[[0, 30, "video"], [30, 90, "eyes closed"], [90, 120, "never"]],
        conditions=["state"],
    )
    (found,) = eeg_recordings.read("s1", [row(tmp_path / "a.edf", state="awake")], options)
    events = {e.description: (e.onset, e.duration) for e in found.events.itertuples()}
    assert events == {
        "blink": (5, 2),
        "Stage:3": (0, 20),
        "Stage:4": (20, 40),
        "protocol:video": (0, 30),
        "protocol:eyes closed": (30, 30),
        "state:awake": (0, 60),
    }
    assert found.signals["eeg"].sfreq == SFREQ


def test_resampling_keeps_a_tone(tmp_path):
    t = np.arange(60 * 256) / 256
    write_edf(tmp_path / "a.edf", [50 * np.sin(2 * np.pi * 10 * t)], ["Oz"], 256)
    eeg = read_one(tmp_path / "a.edf", channels=["Oz"], sfreq=100.0).signals["eeg"]
    expected = 50 * np.sin(2 * np.pi * 10 * np.arange(6000) / 100)
    np.testing.assert_allclose(eeg.data[0, 200:-200], expected[200:-200], atol=0.1)


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "a.edf").write_bytes(b"not an EDF" * 100)
    with pytest.raises(InputError, match=r"a\.edf: not a recording that MNE can read"):
        read_one(tmp_path / "a.edf")


def test_a_truncated_header_is_named(tmp_path):
    write_edf(tmp_path / "a.edf", signals())
    (tmp_path / "a.edf").write_bytes((tmp_path / "a.edf").read_bytes()[:300])
    with pytest.raises(InputError, match=r"a\.edf: not a recording"):
        read_one(tmp_path / "a.edf")


def test_a_missing_channel_is_named(tmp_path):
    write_edf(tmp_path / "a.edf", signals())
    with pytest.raises(InputError, match=r"a\.edf: no channel Pz; there is Fp1, Oz"):
        read_one(tmp_path / "a.edf", channels=["Oz", "Pz"])


def test_a_flat_channel_is_named(tmp_path):
    data = signals()
    data[1] = 3.0
    write_edf(tmp_path / "a.edf", data)
    with pytest.raises(InputError, match=r"a\.edf.*Oz"):
        read_one(tmp_path / "a.edf", channels=["Fp1", "Oz"])


def test_a_channel_of_nan_is_named(tmp_path):
    data = signals() * 1e-6
    data[1] = np.nan
    info = mne.create_info(["Fp1", "Oz"], SFREQ, "eeg")
    mne.io.RawArray(data, info, verbose="error").save(tmp_path / "a_raw.fif", verbose="error")
    with pytest.raises(InputError, match=r"a_raw\.fif.*Oz"):
        read_one(tmp_path / "a_raw.fif")


def test_sampling_rates_that_differ_are_named(tmp_path):
    write_edf(tmp_path / "a.edf", signals())
    write_edf(tmp_path / "b.edf", signals(sfreq=256), sfreq=256)
    rows = [row(tmp_path / "a.edf"), row(tmp_path / "b.edf")]
    options = eeg_recordings.Options(channels=["Oz"])
    with pytest.raises(InputError, match=r"b\.edf: 256 samples per second, .*a\.edf has 128"):
        eeg_recordings.read("s1", rows, options)


def test_a_condition_that_the_manifest_lacks_is_named(tmp_path):
    write_edf(tmp_path / "a.edf", signals())
    with pytest.raises(InputError, match=r"a\.edf: the manifest has no value in .*'state'"):
        read_one(tmp_path / "a.edf", conditions=["state"])


# ---- the published layout of the vigilance pictures ------------------------------------------

UNIT = "sub07-scan01"
REGIONS = ["Thalamus", "Heschl’s gyrus"]


@pytest.fixture
def published(tmp_path):
    """One scan in the published layout, with the extra pictures that are no regions."""
    for folder in ("eeg_spectrograms", "fmri_spectrograms", "vigall_out"):
        (tmp_path / folder).mkdir()
    colours = {"Thalamus": (255, 0, 0), "Heschl’s gyrus": (0, 255, 0)}
    for i, name in enumerate([*REGIONS, "global signal raw", "global signal clean"]):
        image = Image.new("RGB", (2070, 570), colours.get(name, (9, 9, i)))
        image.save(tmp_path / f"fmri_spectrograms/{UNIT}_{name}_fmri_spectrogram.png")
    Image.new("RGB", (2070, 570)).save(
        tmp_path / f"fmri_spectrograms/{UNIT}_average_filtered_spectrogram.png"
    )
    Image.new("RGB", (2070, 570), (0, 0, 255)).save(
        tmp_path / f"eeg_spectrograms/{UNIT}_eeg_spectrogram.png"
    )
    labels = (np.arange(45) % 3 > 0).astype(float)[:, None]
    np.save(tmp_path / f"vigall_out/{UNIT}_vigall.npy", labels)
    return tmp_path


def published_rows(folder, regions=REGIONS):
    eeg = {"file": f"eeg_spectrograms/{UNIT}_eeg_spectrogram.png", "unit": UNIT}
    fmri = [
        {"file": f"fmri_spectrograms/{UNIT}_{r}_fmri_spectrogram.png", "unit": UNIT, "regions": r}
        for r in regions
    ]
    labels = {"file": f"vigall_out/{UNIT}_vigall.npy", "unit": UNIT}
    rows = [eeg, *fmri, labels]
    spec = {"dataset": {"kind": "osf_vigilance", "regions": regions}, "unit": UNIT, "rows": rows}
    return spec, [folder / r["file"] for r in rows]


def test_the_published_layout_is_read_by_name_in_red_green_blue(published):
    (found,) = read(*published_rows(published))
    assert (found.subject, found.scan, found.duration) == ("sub07", "scan01", 690)
    assert found.pictures["eeg"]["eeg"].pixels[0, 0].tolist() == [0, 0, 255]
    assert found.pictures["fmri"]["Thalamus"].pixels[0, 0].tolist() == [255, 0, 0]
    assert found.pictures["fmri"]["Heschl’s gyrus"].pixels[0, 0].tolist() == [0, 255, 0]
    assert found.labels.tolist() == [int(i % 3 > 0) for i in range(45)]


def test_the_order_of_the_regions_does_not_matter(published):
    (one,) = read(*published_rows(published))
    (two,) = read(*published_rows(published, REGIONS[::-1]))
    for name in REGIONS:
        pictures = [this.pictures["fmri"][name].pixels for this in (one, two)]
        np.testing.assert_array_equal(*pictures)


def test_seconds_of_a_unit_are_explicit(published):
    spec, paths = published_rows(published)
    spec["dataset"]["seconds_per_unit"] = 2.1
    (found,) = read(spec, paths)
    assert found.duration == pytest.approx(1449)


def test_labels_that_are_pickled_are_not_loaded(published):
    path = published / f"vigall_out/{UNIT}_vigall.npy"
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"vigall\.npy: not a plain array"):
        read(*published_rows(published))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((45, 2)), r"labels of shape \(45, 2\)"),
        (np.full((45, 1), 3.0), "labels other than 0"),
    ],
)
def test_labels_of_another_form_are_named(published, labels, message):
    np.save(published / f"vigall_out/{UNIT}_vigall.npy", labels)
    with pytest.raises(InputError, match=rf"vigall\.npy: {message}"):
        read(*published_rows(published))


def test_a_broken_picture_is_named(published):
    path = published / f"eeg_spectrograms/{UNIT}_eeg_spectrogram.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"eeg_spectrogram\.png: not a readable image"):
        read(*published_rows(published))


def test_a_unit_must_name_subject_and_scan(published):
    with pytest.raises(InputError, match="expected a name like sub07-scan01"):
        osf_vigilance.read("seven", [], osf_vigilance.Options())
