"""THINGS-EEG2: the published files, pickles that must not run, recordings, bad input."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from test_epoching import reference

from engram import store, views
from engram.datasets import read, things_eeg2
from engram.errors import InputError
from engram.planning import plan
from engram.readers import array_pickles
from engram.signals import epoching

ROOT = Path(__file__).parents[1]
PUBLISHED = "Pz P3 P7 O1 Oz O2 P4 P8 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2".split()  # noqa: SIM905
ORDER = "P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2".split()  # noqa: SIM905
TIMES = np.arange(-20, 80) / 100
N = {"train": 8, "test": 3}
FILES = ("sub-01/preprocessed_eeg_training.npy", "sub-01/preprocessed_eeg_test.npy")


def metadata(**changed):
    """Four concepts of two training images, three test concepts; not in alphabetical order."""
    train = [f"{i:05d}_{name}" for i, name in enumerate(["aardvark", "abacus", "ant", "zoo"], 1)]
    test = [f"{i:05d}_{name}" for i, name in enumerate(["yak", "axe", "bee"], 1)]
    content = {
        "train_img_concepts": [concept for concept in train for _ in range(2)],
        "train_img_files": [f"{c[6:]}_{k}.jpg" for c in train for k in ("09s", "01b")],
        "train_img_concepts_THINGS": [concept for concept in train for _ in range(2)],
        "test_img_concepts": test,
        "test_img_files": [f"{concept[6:]}_02s.jpg" for concept in test],
        "test_img_concepts_THINGS": [f"{i:05d}_{c[6:]}" for i, c in enumerate(test, 101)],
    }
    return content | changed


def epochs(split, channels=PUBLISHED, times=TIMES, samples=100, repetitions=4, seed=0, **changed):
    rng = np.random.default_rng([seed, N[split]])
    data = rng.standard_normal((N[split], repetitions, len(channels), samples))
    return {
        "preprocessed_eeg_data": data,
        "ch_names": list(channels),
        "times": times,
        **changed,
    }


def saved(path, content, how=np.save):
    path.parent.mkdir(parents=True, exist_ok=True)
    if how is np.save:
        np.save(path, content, allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(content, protocol=4))


def written(folder, train=None, test=None, meta=None, how=np.save):
    """What `read` needs, of one subject."""
    saved(folder / FILES[0], train or epochs("train"), how)
    saved(folder / FILES[1], test or epochs("test", repetitions=6), how)
    saved(folder / "image_metadata.npy", meta or metadata())
    return found(folder, "sub-01", [*FILES, "image_metadata.npy"])


def found(folder, unit, files, **options):
    rows = [{"unit": unit, "file": file} for file in files]
    spec = {"dataset": {"kind": "things_eeg2", **options}, "unit": unit, "rows": rows}
    return read(spec, [folder / file for file in files])


def rendered(folder, given, kind="epochs", **options):
    spec = {"unit": "x", "view": {"kind": kind, **options}, "windows": None}
    views.render(given, folder / "view.h5", spec, {})
    return store.open(folder / "view.h5").load()


# ---- published epochs ---------------------------------------------------------------------


def test_rows_get_their_names_from_the_list_and_channels_one_order(tmp_path):
    rows = rendered(tmp_path, written(tmp_path))
    assert rows.table.index.tolist()[:3] == [
        "sub-01/train/00001_aardvark/aardvark_09s",
        "sub-01/train/00001_aardvark/aardvark_01b",
        "sub-01/train/00002_abacus/abacus_09s",
    ]
    assert rows.table.index[-3] == "sub-01/test/00001_yak/yak_02s"
    assert rows.header["channels"] == ORDER
    assert_allclose(rows.header["times"], TIMES)
    at = [PUBLISHED.index(name) for name in ORDER]
    parts = [epochs("train"), epochs("test", repetitions=6)]
    expected = [part["preprocessed_eeg_data"].mean(1)[:, at] for part in parts]
    assert_allclose(rows.array, np.concatenate(expected), atol=1e-6)
    assert "test trials" in rows.header["whitening"]


def test_subjects_whose_files_order_channels_differently_agree(tmp_path):
    other = list(reversed(PUBLISHED))
    one = rendered(tmp_path, written(tmp_path))
    flipped = [
        epochs(split, repetitions=r) | {"ch_names": other}
        for split, r in (("train", 4), ("test", 6))
    ]
    for part in flipped:
        part["preprocessed_eeg_data"] = part["preprocessed_eeg_data"][:, :, ::-1]
    two = rendered(tmp_path, written(tmp_path, *flipped))
    assert one.header["channels"] == two.header["channels"]
    assert_array_equal(one.array, two.array)


def test_the_variant_of_nice_is_read_under_the_same_names(tmp_path):
    """A bare pickle, 63 channels, 250 samples, of which the 300 times name the last ones."""
    known = {
        "channels": things_eeg2.CHANNELS,
        "times": np.arange(-50, 250) / 250,
        "samples": 250,
    }
    train, test = epochs("train", **known), epochs("test", **known)
    given = written(tmp_path, train, test, how=pickle.dump)
    rows = rendered(tmp_path, given)
    assert rows.array.shape == (11, 63, 250)
    assert rows.header["sfreq"] == 250
    assert_allclose(rows.header["times"], np.arange(250) / 250, atol=1e-9)
    assert_allclose(rows.array[:8], train["preprocessed_eeg_data"].mean(1), atol=1e-6)
    posterior = rendered(tmp_path, given, channels=ORDER)
    assert_array_equal(posterior.array, rows.array[:, -17:])


def test_large_arrays_stay_in_the_file(tmp_path):
    given = written(tmp_path, epochs("train", repetitions=40))
    assert isinstance(given[0].data, np.memmap)
    expected = epochs("train", repetitions=40)["preprocessed_eeg_data"]
    assert_array_equal(given[0].data, expected)
    with pytest.raises(ValueError, match="read-only"):
        given[0].data[0] = 0


def without(content, key):
    return {name: value for name, value in content.items() if name != key}


def short(split):
    content = epochs(split)
    return content | {"preprocessed_eeg_data": content["preprocessed_eeg_data"][:-1]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train": short("train")}, r"training.npy: 7 images, but image_metadata.npy lists 8"),
        ({"test": short("test")}, r"test.npy: 2 images, but image_metadata.npy lists 3"),
        ({"train": without(epochs("train"), "times")}, r"training.npy: no times in it"),
        ({"train": epochs("train", times=TIMES[1:])}, r"99 times for 100 samples"),
        ({"train": epochs("train", times=TIMES**3)}, r"not evenly spaced"),
        ({"train": epochs("train", ["Foo", *PUBLISHED[1:]])}, r"Foo, which is not one of the 63"),
        ({"train": epochs("train", ch_names=PUBLISHED[1:])}, r"16 channel names for 17"),
        ({"train": epochs("train", ["Oz", "Oz", *PUBLISHED[2:]])}, r"17 channel names for 17"),
        ({"test": epochs("test", PUBLISHED[:9])}, r"sub-01: training and test differ in channels"),
        ({"test": epochs("test", times=TIMES + 0.1)}, r"training and test differ in start"),
        ({"test": epochs("test", times=2 * TIMES)}, r"training and test differ in sfreq"),
        ({"train": epochs("train", preprocessed_eeg_data=np.zeros(3))}, r"epochs are no array"),
        ({"meta": without(metadata(), "test_img_files")}, r"metadata.npy: no test_img_files in it"),
        ({"meta": metadata(train_img_files=["a.jpg"])}, r"lists of different lengths"),
        ({"meta": metadata(train_img_files=["a.jpg"] * 8)}, r"an image is listed twice"),
        (
            {"meta": metadata(test_img_concepts_THINGS=["00002_abacus", "x", "y"])},
            r"00002_abacus is a concept of training and of test images",
        ),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_each_other_are_refused(tmp_path, changed, said):
    with pytest.raises(InputError, match=said):
        written(tmp_path, **changed)


def test_a_value_that_is_not_finite_is_named(tmp_path):
    content = epochs("train")
    content["preprocessed_eeg_data"][2, 1, 0, 0] = np.nan
    given = written(tmp_path, content)
    with pytest.raises(InputError, match=r"sub-01/train: train/00002_abacus/abacus_09s holds"):
        rendered(tmp_path, given)


def test_a_file_that_is_not_listed_is_asked_for(tmp_path):
    written(tmp_path)
    with pytest.raises(InputError, match=r"sub-01 needs one file preprocessed_eeg_test.npy"):
        found(tmp_path, "sub-01", [FILES[0], "image_metadata.npy"])


# ---- pickles ------------------------------------------------------------------------------


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


class Command(Touch):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def hostile(path, how):
    """Pickles that act on loading, in every place a published file has."""
    act = (Touch if how is np.save else Command)(path)
    yield act
    yield epochs("train") | {"times": act}
    yield epochs("train") | {"ch_names": [act]}
    yield epochs("train") | {"preprocessed_eeg_data": np.array([act], object)}
    yield {act.path: [(1, {"deep": act})]}


@pytest.mark.parametrize("how", [np.save, pickle.dump])
def test_a_pickle_that_acts_is_refused_and_does_not_act(tmp_path, how):
    target, file = tmp_path / "touched", tmp_path / "x.npy"
    for content in hostile(target, how):
        saved(file, content, how)
        with pytest.raises(InputError, match=r"x.npy: not a pickle of plain arrays \(it asks for"):
            array_pickles.load(file)
        assert not target.exists()
    saved(file, next(hostile(target, how)), how)
    np.load(file, allow_pickle=True)  # what the check is about
    assert target.exists()


def test_reading_a_subject_refuses_a_pickle_that_acts(tmp_path):
    with pytest.raises(InputError, match=r"training.npy: .* asks for _?io.open"):
        written(tmp_path, epochs("train") | {"ch_names": Touch(tmp_path / "touched")})
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'touch touched'\ntR.",
        b"(S'touch touched'\nios\nsystem\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04P0\n.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-8\x86R.",
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93N}\x8c\x08__init__Ns\x86b.",
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x03V99\x89\x88\x87R.",
        b"",
        b"\x80\x04",
        b"\x93NUMPY\x01\x00",
        b"not a pickle at all",
    ],
)
def test_whatever_else_a_pickle_asks_for_is_refused(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"x.npy: not a pickle of plain arrays"):
        array_pickles.load("x.npy")
    assert os.listdir() == ["x.npy"]


def zoo():
    rng = np.random.default_rng(0)
    return {
        "large": rng.standard_normal((200, 700)),
        "fortran": np.asfortranarray(rng.standard_normal((300, 500))),
        "turned": rng.standard_normal((60, 50, 70)).transpose(1, 2, 0),
        "big-endian": np.arange(200_000, dtype=">i4"),
        "half": rng.standard_normal((3, 4)).astype(np.float16),
        "empty": np.empty((0, 5)),
        "texts": np.array(["a", "bcd"]),
        "objects": np.array([["a", None], [3, 4.5]], object, order="F"),
        "one": np.array(None, object),
        "single": np.array([["x"]], object),
        "scalar": np.float32(2.5),
        "text": np.str_("Oz"),
        "nested": [{"x": (1, 2.5, "y", None, True)}, np.arange(3)],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "np.save"])
def test_arrays_are_read_as_pickle_reads_them(tmp_path, protocol):
    content = zoo()
    if protocol == 2:  # spells bytes as texts, which takes too long for large arrays
        content = {key: content[key] for key in ("half", "texts", "scalar", "nested")}
    if protocol == 5:  # hands arrays over by another way
        content = {key: content[key] for key in ("scalar", "text")}
    path = tmp_path / "zoo.npy"
    if protocol == "np.save":
        np.save(path, content, allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(content, protocol))
    read_back = array_pickles.load(path)
    assert list(read_back) == list(content)
    for key, value in content.items():
        if key in ("nested", "objects", "one", "single"):
            assert str(read_back[key]) == str(value if key == "nested" else value.tolist())
        else:
            assert_array_equal(read_back[key], value)
            assert np.asarray(read_back[key]).dtype == np.asarray(value).dtype


def test_a_file_with_a_long_header_is_read(tmp_path):
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, np.array({"a": 1}), version=(2, 0), allow_pickle=True)
    assert array_pickles.load(tmp_path / "x.npy") == {"a": 1}


def test_a_file_that_ends_too_early_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, zoo(), allow_pickle=True)
    for size in (100, 5000, path.stat().st_size - 1):
        (tmp_path / "cut.npy").write_bytes(path.read_bytes()[:size])
        with pytest.raises(InputError, match=r"cut.npy: not a pickle of plain arrays"):
            array_pickles.load(tmp_path / "cut.npy")


def test_an_array_without_names_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"an array without names"):
        array_pickles.load(tmp_path / "x.npy")


# ---- photographs --------------------------------------------------------------------------


def image_files(meta):
    for split, folder in (("train", "training_images"), ("test", "test_images")):
        listed = zip(meta[f"{split}_img_concepts"], meta[f"{split}_img_files"], strict=True)
        for i, (concept, file) in enumerate(listed):
            content = io.BytesIO()
            Image.new("RGB", (9, 7), (20 * i, 0, 255 * (split == "test"))).save(content, "png")
            yield f"{folder}/{concept}/{file}", content.getvalue()


def archived(folder, files):
    """The files in one archive a split, in another order, among what macOS leaves."""
    folder.mkdir(exist_ok=True)
    for name in ("training_images", "test_images"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr(f"__MACOSX/{name}/._x.jpg", b"")
            archive.writestr(f"{name}/.DS_Store", b"")
            for path, content in reversed(files.items()):
                if path.startswith(f"{name}/"):
                    archive.writestr(path, content)
    saved(folder / "image_metadata.npy", metadata())
    return ["image_metadata.npy", "training_images.zip", "test_images.zip"]


def unpacked(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    saved(folder / "image_metadata.npy", metadata())
    return ["image_metadata.npy", "training_images", "test_images"]


@pytest.mark.parametrize("lay", [archived, unpacked])
def test_photographs_are_found_by_name(tmp_path, lay):
    names = lay(tmp_path, dict(image_files(metadata())))
    rows = rendered(tmp_path, found(tmp_path, "stimuli", names), "photograph", size=[4, 4])
    assert rows.table.index[0] == "train/00001_aardvark/aardvark_09s"
    assert rows.array[:, 0, 0, 0].tolist() == [0, 20, 40, 60, 80, 100, 120, 140, 0, 20, 40]
    assert rows.array[:, 0, 0, 2].tolist() == [0] * 8 + [255] * 3
    assert rows.table["caption"].iloc[[0, -1]].tolist() == ["aardvark", "bee"]
    trials = rendered(tmp_path, written(tmp_path))
    assert set(trials.table["stimulus"]) == set(rows.table.index)


@pytest.mark.parametrize("lay", [archived, unpacked])
def test_images_other_than_those_listed_are_refused(tmp_path, lay):
    files = dict(image_files(metadata()))
    gone = "training_images/00003_ant/ant_01b.jpg"
    names = lay(tmp_path / "a", {path: files[path] for path in files if path != gone})
    with pytest.raises(InputError, match=r"lacks 00003_ant/ant_01b.jpg; .* lists 8 .* 7 are there"):
        found(tmp_path / "a", "stimuli", names)
    names = lay(tmp_path / "b", files | {"test_images/00004_cat/cat_01b.jpg": b"x"})
    with pytest.raises(InputError, match=r"holds 00004_cat/cat_01b.jpg, which is not listed"):
        found(tmp_path / "b", "stimuli", names)


def test_a_broken_archive_is_refused(tmp_path):
    names = archived(tmp_path, dict(image_files(metadata())))
    (tmp_path / "test_images.zip").write_bytes(b"PK\x03\x04broken")
    with pytest.raises(InputError, match=r"test_images.zip: not a readable zip archive"):
        found(tmp_path, "stimuli", names)


def test_an_encrypted_archive_is_refused(tmp_path):
    names = archived(tmp_path, dict(image_files(metadata())))
    archive = tmp_path / "test_images.zip"
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of the first file in the directory
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"test_images.zip: is encrypted; unpack it"):
        found(tmp_path, "stimuli", names)


# ---- recordings ---------------------------------------------------------------------------


def raw(shown, seed, mix, gap=0.3, noise=1.0, sfreq=1000):
    """A recording in which image k is followed, 200 ms later, by a pulse of height k on Oz."""
    rng = np.random.default_rng(seed)
    n = round((2 + gap * len(shown)) * sfreq)
    names = [*things_eeg2.CHANNELS, "stim"]
    data = np.zeros((64, n))
    data[:-1] = noise * mix @ rng.standard_normal((63, n))
    oz = names.index("Oz")
    for i, code in enumerate(shown):
        at = round((0.5 + i * gap) * sfreq)
        data[-1, at : at + 5] = code
        bump = np.exp(-(((np.arange(400) - 200) / 15) ** 2) / 2)
        data[oz, at : at + 400] += (0 if code == 99999 else code) * bump
    return {
        "raw_eeg_data": data,
        "ch_names": names,
        "ch_types": ["eeg"] * 63 + ["stim"],
        "sfreq": sfreq,
        "highpass": 0.01,
        "lowpass": 100,
    }


def sessions(folder, shown, noise=1.0, mixes=None, gap=0.3):
    """Raw files of one subject; `shown` gives the training and the test codes of each session."""
    saved(folder / "image_metadata.npy", metadata())
    names = []
    for i, (train, test) in enumerate(shown, 1):
        mix = np.eye(63) if mixes is None else mixes[i - 1]
        for name, codes in (("training", train), ("test", test)):
            file = f"sub-01/ses-{i:02d}/raw_eeg_{name}.npy"
            saved(folder / file, raw(codes, [i, len(codes)], mix, gap, noise=noise))
            names.append(file)
    return [*names, "image_metadata.npy"]


SHOWN = [
    ([1, 3, 99999, 5, 1, 3, 5, 3, 7, 7], [2, 1, 3, 2, 1, 3]),
    ([2, 4, 4, 2, 6, 99999, 6, 8, 8, 1, 1], [1, 1, 2, 2, 3, 3]),
]


def test_any_number_of_sessions_makes_epochs(tmp_path):
    files = sessions(tmp_path, SHOWN, noise=0.01)
    train, test = found(tmp_path, "sub-01", files, recordings="raw")
    assert train.table.index[6] == "train/00004_zoo/zoo_09s"
    assert train.table["repetitions"].tolist() == [4, 2, 2, 2, 2, 2, 2, 2]
    assert test.table["repetitions"].tolist() == [4, 4, 4]
    assert train.channels == tuple(ORDER)
    (one, two) = found(tmp_path, "sub-01", [*files[:2], files[-1]], recordings="raw")
    assert [name.split("/")[-1] for name in one.table.index] == [
        "aardvark_09s", "abacus_09s", "ant_09s", "zoo_09s"
    ]  # fmt: skip
    assert len(two.table) == 3
    rows = rendered(tmp_path, [train, test])
    assert rows.array.shape == (11, 17, 100)
    assert np.isfinite(rows.array).all()
    assert rows.header["whitening"] == "training trials"


@pytest.mark.parametrize(("cut", "start", "samples"), [("original", -0.2, 100), ("nice", 0, 250)])
def test_pulses_stand_where_and_with_the_image_they_were_planted(tmp_path, cut, start, samples):
    """Image k has a pulse of height k 200 ms after it: position and order at once."""
    shown = [([3, 8, 1, 99999, 5, 2, 7, 7, 6, 4, 8, 2, 1, 6, 5, 3, 4], [2, 3, 1, 2, 1, 3])]
    files = sessions(tmp_path, shown, noise=0.02, gap=1.2)
    given = found(tmp_path, "sub-01", files, recordings="raw", cut=cut)
    rows = rendered(tmp_path, given, channels=["Oz"], tmax=0.3)
    assert given[0].data.shape[2:] == ((17 if cut == "original" else 63), samples)
    times = np.array(rows.header["times"])
    assert times[0] == pytest.approx(start)
    peak = rows.array[:, 0].argmax(-1)
    assert_allclose(times[peak], 0.2, atol=1e-9)
    heights = rows.array[:, 0].max(-1)
    assert_allclose(heights[:8] / heights[0], np.arange(1, 9), rtol=0.1)
    assert_allclose(heights[8:] / heights[8], np.arange(1, 4), rtol=0.1)


def test_no_more_repetitions_than_published_are_kept_in_a_session(tmp_path):
    files = sessions(tmp_path, [([1, 1, 1, 2, 2], [1] * 21 + [2, 2, 3])])
    train, test = found(tmp_path, "sub-01", files, recordings="raw")
    assert train.table["repetitions"].tolist() == [2, 2]
    assert test.table["repetitions"].tolist() == [20, 2, 1]


def test_the_seed_chooses_the_repetitions_and_their_order(tmp_path):
    """Image 1 is shown three times a session, of which two are kept; image 2 once."""
    files = sessions(tmp_path, [([1, 1, 1, 2], [1, 1])] * 2)
    given = [found(tmp_path, "sub-01", files, recordings="raw", seed=s)[0].data for s in range(4)]
    again = found(tmp_path, "sub-01", files, recordings="raw", seed=0)[0].data
    assert_array_equal(again, given[0])
    pulse = np.array([[epoch[-2, 35:45].mean() for epoch in data[0]] for data in given])
    kept = {tuple(sorted(row.round(3))) for row in pulse}
    assert len(kept) > 1

    def like(one, other):
        return np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]

    one, two = given[0][1, :2]
    assert {like(data[1, 0], one) > like(data[1, 0], two) for data in given} == {True, False}


def test_training_and_test_are_of_the_same_sessions(tmp_path):
    files = sessions(tmp_path, SHOWN)
    less = [file for file in files if "ses-02/raw_eeg_test" not in file]
    with pytest.raises(InputError, match="sub-01: training and test come from different sessions"):
        found(tmp_path, "sub-01", less, recordings="raw")


def test_a_recording_with_a_gap_is_refused(tmp_path):
    files = sessions(tmp_path, SHOWN[:1])
    content = raw([1, 1, 3, 3], 0, np.eye(63))
    content["raw_eeg_data"][content["ch_names"].index("Oz"), 900] = np.nan
    saved(tmp_path / files[0], content)
    with pytest.raises(InputError, match=r"raw_eeg_training.npy: holds values that are not finite"):
        found(tmp_path, "sub-01", files, recordings="raw")


def whitened(folder, shown, mix, **options):
    files = sessions(folder, shown, mixes=[mix] * len(shown))
    return found(folder, "sub-01", files, recordings="raw", **options)


def test_test_trials_do_not_touch_the_training_trials_unless_asked(tmp_path):
    other = [(train, [code for code in test if code < 3]) for train, test in SHOWN]
    for whiten_with, same in (("training", True), ("both", False)):
        one, two = (
            whitened(tmp_path / name, shown, np.eye(63), whiten_with=whiten_with)[0].data
            for name, shown in (("a", SHOWN), ("b", other))
        )
        assert np.array_equal(one, two, equal_nan=True) == same


def of_repetitions(array, counts):
    """Noise covariance across repetitions by scikit-learn, a mean over times, then conditions."""
    return np.mean(
        [
            np.mean([reference(array[i, :n, :, t].astype(float)) for t in range(array.shape[3])], 0)
            for i, n in enumerate(counts)
            if n > 1
        ],
        0,
    )


@pytest.mark.parametrize("whiten_with", ["training", "both"])
def test_whitening_is_by_the_mean_of_the_covariances_asked_for(tmp_path, whiten_with):
    given = whitened(tmp_path, SHOWN[:1], np.eye(63), whiten_with=whiten_with)
    cut, channels = things_eeg2.CUTS["original"]
    found = {}
    for split, name in things_eeg2.SPLITS.items():
        content = array_pickles.load(tmp_path / f"sub-01/ses-01/raw_eeg_{name}.npy")
        data, names = content["raw_eeg_data"], list(content["ch_names"])
        array, codes = epoching.epochs(data, names, 1000.0, channels, cut)
        found[split] = epoching.by_condition(array, codes, things_eeg2.MOST[split], 0)[1:]
    used = ["train", "test"] if whiten_with == "both" else ["train"]
    covariance = np.mean([of_repetitions(*found[split]) for split in used], 0)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    for trials, split in zip(given, ("train", "test"), strict=True):
        expected = np.einsum("cd,nrdt->nrct", root, found[split][0].astype(float))
        ours = np.asarray(trials.data, float)
        assert_allclose(np.nanmean(ours, 1), np.nanmean(expected, 1), rtol=1e-3, atol=1e-3)


def test_each_session_is_whitened_on_its_own(tmp_path):
    """The noise of the second session, ten times that of the first, ends with variance 1."""
    rng = np.random.default_rng(0)
    mix = np.eye(63) + 0.1 * rng.standard_normal((63, 63))
    shown = [([k for k in range(1, 9) for _ in range(2)], [1, 1, 2, 2])] * 2
    files = sessions(tmp_path, shown, mixes=[mix, 10 * mix])
    for i in (0, 1):
        used = [*files[2 * i : 2 * i + 2], files[-1]]
        train, _ = found(tmp_path, "sub-01", used, recordings="raw", cut="nice")
        noise = train.data[..., 60:].transpose(2, 0, 1, 3).reshape(63, -1)
        oz = train.channels.index("Oz")
        variance = np.delete(noise.var(1), oz)
        assert_allclose(variance, 1, atol=0.35)
        correlation = np.corrcoef(np.delete(noise, oz, 0))
        assert np.abs(correlation - np.eye(62)).mean() < 0.1


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([([1, 1, 2, 2, 9, 9], [1, 1])], r"train images 1 to 9 were shown, but .* lists 8"),
        ([([99999], [1, 1])], r"ses-01/raw_eeg_training.npy: .* no event but targets"),
        ([([1, 2, 3], [1, 1])], r"ses-01/raw_eeg_training.npy: no condition has two repetitions"),
    ],
)
def test_recordings_that_do_not_fit_are_named(tmp_path, shown, said):
    files = sessions(tmp_path, shown)
    with pytest.raises(InputError, match=said):
        found(tmp_path, "sub-01", files, recordings="raw")


def test_channels_that_a_recording_lacks_are_named(tmp_path):
    files = sessions(tmp_path, SHOWN[:1])
    content = raw([1, 1], 0, np.eye(63))
    content["ch_names"][content["ch_names"].index("PO8")] = "EMG"
    saved(tmp_path / files[0], content)
    with pytest.raises(InputError, match=r"training.npy: no channel PO8; there is Fp1"):
        found(tmp_path, "sub-01", files, recordings="raw")


# ---- in a plan ----------------------------------------------------------------------------


def planned(folder):
    text = f"""
      things:
        kind: things_eeg2
        units: [sub-01, sub-02]
        folder: {folder}
        files: ["{{unit}}/preprocessed_eeg_training.npy", image_metadata.npy]
        shared: {{stimuli: [image_metadata.npy, training_images]}}
    """
    config = {"datasets": yaml.safe_load(text), "store": "h5"}
    config["views"] = {"photograph": {"kind": "photograph", "unit": "stimuli"}}
    return plan.Plan(config)


def test_the_stimuli_are_a_unit_that_all_subjects_share(tmp_path):
    this = planned(tmp_path)
    unpacked(tmp_path, dict(image_files(metadata())))
    assert this.units("things") == ["sub-01", "sub-02"]
    assert this.shared("things") == ["stimuli"]
    assert this.raw("things", "stimuli") == [
        str(tmp_path / name) for name in ("image_metadata.npy", "training_images")
    ]
    path = "results/views/things/stimuli/photograph.h5"
    assert this.store("things", "sub-02", "photograph") == path
    spec = this.spec("render", dataset="things", unit="stimuli", view="photograph")
    assert [row["file"] for row in spec["rows"]] == ["image_metadata.npy", "training_images"]
    assert "shared" not in spec["dataset"]
    row = this.spec("download", shelf="raw", name="things", file="image_metadata.npy")["row"]
    assert row == {"unit": "stimuli", "file": "image_metadata.npy"}
    with pytest.raises(InputError, match=r"sub-01/preprocessed_eeg_training.npy is missing"):
        this.raw("things", "sub-01")


def test_shared_files_are_a_list_by_unit(tmp_path):
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    components = schema["$defs"]["components"]
    datasets = planned(tmp_path).config["datasets"]
    jsonschema.validate(datasets, components)
    datasets["things"]["shared"] = ["training_images"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(datasets, components)
