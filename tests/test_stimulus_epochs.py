"""Trials x stimuli: files as THINGS-MEG is published, read against grouping by brute force."""

import io
import os
import re
import zipfile
from collections import defaultdict
from pathlib import Path

import checkouts
import mne
import numpy as np
import pandas as pd
import pytest
import scipy.io
import yaml
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from engram import store, views
from engram.datasets import read
from engram.errors import InputError
from engram.planning import specs
from engram.readers.trial_tables import stimulus_name
from engram.store import Rows
from engram.tasks import train

ROOT = Path(__file__).parents[1]
CHANNELS = ("MRO11-1609", "MLC11-1609", "MZF01-1609", "MLT23-1609")  # of CTF, out of order
SFREQ, START, SAMPLES = 200.0, -0.1, 61
STUDY = yaml.safe_load((ROOT / "config/studies/things_meg.yaml").read_text())
DATASET = STUDY["datasets"]["things_meg"]
THINGS = {
    key: DATASET[key] for key in DATASET if key == "kind" or key not in specs.DATASET_KEYS
} | {"unlisted": "refuse"}
NAMES = ("aardvark", "bat1", "coat_rack", "drum", "eel", "fan")


def shown(seed=0):
    """What one subject saw, in an order of its own, with the columns that are published.

    Three images of six concepts once, but one of them twice; one image of two of these concepts
    and of one other four times, but one of them three times; four catch trials.
    """
    lines = []
    for number, concept in enumerate(NAMES, 1):
        for image in range(1, 4):
            path = f"images_meg/{concept}/{concept}_{image:02d}s.jpg"
            lines += [(path, "exp", 10 * number + image, number)] * (
                1 + (path.endswith("eel_02s.jpg"))
            )
    for number, concept in ((2, "bat1"), (3, "coat_rack"), (7, "zoo")):
        path = f"images_test_meg/{concept}_16s.jpg"
        lines += [(path, "test", 10 * number + 9, number)] * (3 if concept == "zoo" else 4)
    lines += [(f"images_catch_meg/catch{i:03d}.jpg", "catch", np.nan, np.nan) for i in range(4)]
    order = np.random.default_rng(seed).permutation(len(lines))
    columns = ["image_path", "trial_type", "things_image_nr", "things_category_nr"]
    return pd.DataFrame([lines[i] for i in order], columns=columns)


def signals(n, seed=0, channels=4):
    values = 3 * np.random.default_rng([seed, n]).standard_normal((n, channels, SAMPLES))
    return values.astype(np.float32)


def epochs_of(array, table, channels=CHANNELS, kind="mag", metadata=True, start=START):
    info = mne.create_info(list(channels), SFREQ, kind)
    codes = table["things_image_nr"].fillna(999999).astype(int)
    events = np.stack([np.arange(len(table)), np.zeros(len(table), int), codes], 1)
    held = table if metadata else None
    return mne.EpochsArray(
        array, info, events, start, metadata=held, proj=False, baseline=None, verbose="error"
    )


def saved(path, *given, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    epochs_of(*given, **options).save(path, verbose="error")
    return path


def found(name, paths, **changed):
    rows = [{"unit": name, "file": path.name} for path in paths]
    return read({"dataset": THINGS | changed, "unit": name, "rows": rows}, paths)


def subject(folder, unit="P1", seed=0, **changed):
    """(signals, table, trials) of a subject, written and read."""
    table = shown(seed)
    array = signals(len(table), seed)
    path = saved(folder / f"preprocessed_{unit}-epo.fif", array, table)
    return array, table, found(unit, [path], **changed)


def stem(path):
    return path.split("/")[-1].removesuffix(".jpg")


def grouped(array, table, kind, concepts=None):
    """Epochs of each image in the order they were recorded, {name: (repetition, channel, time)}."""
    groups = defaultdict(list)
    for epoch, path, trial_type in zip(
        array, table["image_path"], table["trial_type"], strict=True
    ):
        name = stem(path)
        if trial_type == kind and (concepts is None or name.rsplit("_", 1)[0] in concepts):
            groups[name].append(epoch)
    return {name: np.stack(groups[name]) for name in sorted(groups)}


def rendered(folder, given, kind="epochs", **options):
    spec = {"unit": "x", "view": {"kind": kind, **options}, "windows": None}
    views.render(given, folder / "view.h5", spec, {})
    return store.open(folder / "view.h5").load()


# ---- trials -------------------------------------------------------------------------------

TRAINED = ("aardvark", "drum", "eel", "fan")  # bat1 and coat_rack are tested
IN_ORDER = sorted(CHANNELS)
AT = [CHANNELS.index(name) for name in IN_ORDER]


@pytest.mark.parametrize("seed", [0, 1])
def test_trials_of_an_image_are_its_repetitions(tmp_path, seed):
    array, table, (train, test) = subject(tmp_path, seed=seed)
    for given, split, expected in (
        (train, "train", grouped(array, table, "exp", TRAINED)),
        (test, "test", grouped(array, table, "test")),
    ):
        assert given.table.index.tolist() == [f"{split}/{name}" for name in expected]
        assert given.table["stimulus"].tolist() == given.table.index.tolist()
        assert given.table["concept"].tolist() == [n.rsplit("_", 1)[0] for n in expected]
        assert given.table["repetitions"].tolist() == [len(one) for one in expected.values()]
        values = given.data[:]
        for row, epochs in zip(values, expected.values(), strict=True):
            assert_allclose(row[: len(epochs)], epochs[:, AT], rtol=1e-6)
            assert np.isnan(row[len(epochs) :]).all()
        assert values.shape == given.data.shape
        assert (given.channels, given.order) == (tuple(IN_ORDER), tuple(IN_ORDER))
        assert (given.sfreq, given.start, given.unit) == (SFREQ, START, "SD of the baseline")
    assert train.table["repetitions"].to_dict()["train/eel_02s"] == 2
    assert test.table["repetitions"].tolist() == [4, 4, 3]


def test_a_view_averages_what_was_planted(tmp_path):
    array, table, given = subject(tmp_path)
    rows = rendered(tmp_path, given, tmin=0.0, tmax=0.2, clip=4.0)
    groups = grouped(array, table, "exp", TRAINED) | grouped(array, table, "test")
    assert rows.array.shape == (len(groups), 4, 41)
    assert_allclose(rows.header["times"], np.arange(41) / SFREQ, atol=1e-9)
    for row, epochs in zip(rows.array, groups.values(), strict=True):
        assert_allclose(row, epochs[:, AT, 20:].clip(-4, 4).mean(0), atol=1e-5)
    assert rows.header["channels"] == IN_ORDER
    assert rows.header["unit"] == "SD of the baseline"
    assert rows.table["clipped"].sum() > 0
    single = rendered(tmp_path, given, average={"train": 0, "test": 3})
    assert "P1/train/eel_02s/repetition-02" in single.table.index
    assert (single.table["split"] == "train").sum() == 13


def test_two_subjects_stand_side_by_side_whatever_their_order_of_channels(tmp_path):
    paths = []
    for unit, order in (("P1", CHANNELS), ("P2", CHANNELS[::-1])):
        table = shown(len(paths))
        path = saved(tmp_path / f"{unit}-epo.fif", signals(len(table)), table, order)
        rendered(tmp_path, found(unit, [path]))
        paths.append((tmp_path / "view.h5").rename(tmp_path / f"{unit}.h5"))
    rows = store.load(paths)
    assert rows.table["subject"].value_counts().to_dict() == {"P1": 15, "P2": 15}


@pytest.mark.parametrize(
    ("suffix", "form"),
    [(".csv", {}), (".tsv", {"sep": "\t"}), (".csv", {"sep": ";", "encoding": "utf-8-sig"}),
     (".csv", {"sep": "\t", "encoding": "utf-16"}), (".tsv", {"sep": "\t", "na_rep": "n/a"})],
)  # fmt: skip
def test_a_table_beside_the_epochs_says_the_same_as_their_metadata(tmp_path, suffix, form):
    array, table, expected = subject(tmp_path)
    path = saved(tmp_path / "a-epo.fif", array, table, metadata=False)
    table.assign(artefact=None).to_csv(tmp_path / f"a{suffix}", index=False, **form)
    columns = {"event": "things_image_nr", "exclude": "artefact"}
    columns = THINGS["trial_columns"] | columns
    given = found("P1", [path, tmp_path / f"a{suffix}"], trial_columns=columns)
    for one, other in zip(given, expected, strict=True):
        assert one.table.equals(other.table)
        assert_array_equal(one.data[:], other.data[:])


def test_a_table_may_hold_the_epochs_that_were_dropped(tmp_path):
    table = shown()
    array = signals(len(table))
    bad = np.flatnonzero((table["trial_type"] == "exp").to_numpy())[[0, 5]]
    epochs = epochs_of(array, table, metadata=False)
    epochs.drop(bad, verbose="error").save(tmp_path / "a-epo.fif", verbose="error")
    table.to_csv(tmp_path / "a.csv", index=False)
    given = found("P1", [tmp_path / "a-epo.fif", tmp_path / "a.csv"])
    kept = np.delete(array, bad, 0), table.drop(index=bad)
    expected = grouped(*kept, "exp", TRAINED)
    assert [name.split("/")[1] for name in given[0].table.index] == list(expected)
    for row, one in zip(given[0].data[:], expected.values(), strict=True):
        assert_allclose(row[: len(one)], one[:, AT], rtol=1e-6)


def test_sessions_in_files_of_their_own_are_one_subject(tmp_path):
    table = shown()
    array, half = signals(len(table)), len(table) // 2
    paths = [
        saved(tmp_path / "ses-01_epo.fif", array[:half], table[:half]),
        saved(tmp_path / "ses-02_epo.fif", array[half:, ::-1], table[half:], CHANNELS[::-1]),
    ]
    _, _, whole = subject(tmp_path)
    for one, other in zip(found("P1", paths), whole, strict=True):
        assert one.table.equals(other.table)
        assert_array_equal(one.data[:], other.data[:])


@pytest.mark.parametrize("naming", ["neuromag", "bids"])
def test_a_file_that_mne_has_split_is_read_once(tmp_path, naming):
    table = pd.concat([shown(seed) for seed in range(12)], ignore_index=True)
    array = signals(len(table), channels=40)
    channels = [f"MLT{i:02d}" for i in range(40)]
    epochs = epochs_of(array, table, channels)
    name = "a-epo.fif" if naming == "neuromag" else "sub-01_epo.fif"
    epochs.save(tmp_path / name, split_size=1_200_000, split_naming=naming, verbose="error")
    paths = sorted(tmp_path.glob("*.fif"), reverse=True)
    assert len(paths) > 2
    given = found("P1", paths)
    expected = grouped(array, table, "exp", TRAINED)
    assert given[0].table["repetitions"].tolist() == [len(one) for one in expected.values()]
    values = given[0].data[4:6]
    for row, one in zip(values, [*expected.values()][4:6], strict=True):
        assert_allclose(row[: len(one)], one, rtol=1e-6)
    first = next(path for path in paths if "-epo." in path.name or "split-01" in path.name)
    others = [path for path in paths if path != first]
    with pytest.raises(InputError, match=r"the first part of this file is missing"):
        found("P1", others)
    others[0].unlink()
    with pytest.raises(InputError, match=r"not epochs that MNE can read .* every part of it"):
        found("P1", [first])


def test_physical_values_get_their_usual_units(tmp_path):
    table = shown()
    array = 1e-13 * signals(len(table))
    kinds = ["mag", "mag", "grad", "eeg"]
    path = saved(tmp_path / "a-epo.fif", array, table, kind=kinds)
    for picks, unit, factor, at in (
        (["mag"], "fT", 1e15, [1, 0]),
        (["grad"], "fT/cm", 1e13, [2]),
        (["eeg"], "uV", 1e6, [3]),
        (["MRO11-1609", "MLC11-1609"], "fT", 1e15, [0, 1]),
        (["meg"], "fT, fT/cm", [[1e15], [1e15], [1e13]], [1, 0, 2]),
    ):
        train, _ = found("P1", [path], picks=picks, unit_of_values=None)
        assert train.unit == unit
        assert train.channels == tuple(np.array(CHANNELS)[at])
        first = next(iter(grouped(array, table, "exp", TRAINED).values()))
        assert_allclose(train.data[:1][0, 0], first[0, at] * factor, rtol=1e-5)


def test_bad_channels_and_marked_trials_stay_out(tmp_path, capsys):
    table = shown().assign(artefact=0)
    table.loc[table["image_path"].str.contains("fan_01|eel_02|catch000"), "artefact"] = 1
    epochs = epochs_of(signals(len(table)), table)
    epochs.info["bads"] = ["MLC11-1609"]
    epochs.save(tmp_path / "a-epo.fif", verbose="error")
    columns = THINGS["trial_columns"] | {"exclude": "artefact"}
    train, _ = found("P1", [tmp_path / "a-epo.fif"], trial_columns=columns)
    assert "MLC11-1609" not in train.channels
    assert not {"train/fan_01s", "train/eel_02s"} & set(train.table.index)
    assert (
        "P1: 21 of 34 trials; left out: 3 (artefact), 6 (concept is tested), 4 (trial_type is"
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("1", "0"), ("x", ""), (1.0, 0.0)])
def test_a_mark_is_anything_but_empty_zero_or_false(tmp_path, yes, no):
    table = shown()
    marked = table["image_path"].str.contains("fan_01")
    path = saved(tmp_path / "a-epo.fif", signals(len(table)), table, metadata=False)
    table.assign(artefact=np.where(marked, yes, no)).to_csv(tmp_path / "a.csv", index=False)
    columns = THINGS["trial_columns"] | {"exclude": "artefact"}
    train, _ = found("P1", [path, tmp_path / "a.csv"], trial_columns=columns)
    _, _, (whole, _) = subject(tmp_path)
    assert set(whole.table.index) - set(train.table.index) == {"train/fan_01s"}


def test_epochs_are_read_in_blocks(tmp_path, monkeypatch):
    from engram.views import epochs

    _, _, given = subject(tmp_path)
    whole = rendered(tmp_path, given)
    asked = []
    monkeypatch.setattr(epochs, "BLOCK", 2 * given[0].data[:1].nbytes)
    original = mne.epochs.EpochsFIF.get_data

    def noted(self, picks, item, **options):
        asked.append(len(item))
        return original(self, picks, item, **options)

    monkeypatch.setattr(mne.epochs.EpochsFIF, "get_data", noted)
    assert_array_equal(rendered(tmp_path, given).array, whole.array)
    assert max(asked) <= 4
    assert len(asked) > 5


def eeglab(path, array, codes):
    """Epochs as EEGLAB saves them: uV, one event an epoch, at time 0."""
    n, channels, samples = array.shape
    zero = round(-START * SFREQ)
    events = [
        {"type": code, "latency": float(i * samples + zero + 1), "epoch": i + 1, "duration": 0}
        for i, code in enumerate(codes)
    ]
    content = {
        "data": 1e6 * array.transpose(1, 2, 0),
        **{"trials": n, "nbchan": channels, "pnts": samples, "srate": SFREQ},
        **{"xmin": START, "xmax": START + (samples - 1) / SFREQ, "setname": "a"},
        "chanlocs": np.array([(f"E{i}",) for i in range(channels)], [("labels", object)]),
        "event": _struct(events),
        "epoch": _struct(
            [{"event": i, "eventtype": c, "eventlatency": 0} for i, c in enumerate(codes, 1)]
        ),
        "urevent": [],
    }
    scipy.io.savemat(path, {"EEG": content}, appendmat=False)
    return path


def _struct(dicts):
    names = list(dicts[0])
    return np.array([tuple(one.values()) for one in dicts], [(name, object) for name in names])


def test_epochs_of_eeglab_are_read_with_a_table(tmp_path):
    table = shown()
    array = 1e-6 * signals(len(table))
    codes = [f"image {i}" for i in table["things_image_nr"].fillna(0).astype(int)]
    path = eeglab(tmp_path / "a.set", array, codes)
    table.assign(code=codes).to_csv(tmp_path / "a.csv", index=False)
    columns = THINGS["trial_columns"] | {"event": "code"}
    train, test = found(
        "P1", [path, tmp_path / "a.csv"], picks=["eeg"], unit_of_values=None, trial_columns=columns
    )
    for row, one in zip(test.data[:], grouped(array, table, "test").values(), strict=True):
        assert_allclose(row[: len(one)], 1e6 * one, rtol=1e-5)
    assert (train.unit, train.start, train.sfreq) == ("uV", START, SFREQ)


# ---- trials that do not fit ---------------------------------------------------------------


def broken(**changed):
    return lambda table: table.assign(**changed)


def without(column):
    return lambda table: table.drop(columns=column)


def first_of(kind, **cells):
    def change(table):
        i = table.index[table["trial_type"] == kind][0]
        return table.assign(
            **{key: table[key].where(table.index != i, value) for key, value in cells.items()}
        )

    return change


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (without("image_path"), {}, r"a-epo.fif: no column image_path; there is trial_type"),
        (broken(trial_type="rest"), {}, r"no training or test trial; .* trial_type holds rest"),
        (
            lambda table: table.replace("test", "other"),
            {},
            r"P1: no trial of split test is left; correct `splits.test`",
        ),
        (
            first_of("exp", image_path=None),
            {"trial_columns": THINGS["trial_columns"], "concept_pattern": None},
            r"a-epo.fif: trial \d+ has no stimulus",
        ),
        (
            first_of("exp", image_path="images_meg/noname.jpg"),
            {},
            r"a-epo.fif: trial \d+ has no concept; .* correct `concept_pattern`",
        ),
        (broken(), {"drop_test_concepts": False}, r"concept \w+ is of training \(\w+\) and of"),
        (
            first_of("test", things_category_nr=1),
            {
                "trial_columns": THINGS["trial_columns"] | {"concept": "things_category_nr"},
                "concept_pattern": None,
            },
            r"P1: stimulus \w+_16s has two concepts",
        ),
        (broken(), {"picks": ["eeg"]}, r"no good channel eeg; there is mag: MRO11-1609"),
        (broken(), {"picks": ["mag", "O1"]}, r"no good channel O1; there is mag"),
        (broken(), {"concept_pattern": "(a"}, r"`concept_pattern` is no regular expression"),
        (broken(), {"concept_pattern": "a+"}, r"`concept_pattern` needs a group"),
        (broken(), {"trial_columns": {"stimulus": "x"}}, r"the columns `stimulus` and `split`"),
    ],
)  # fmt: skip
def test_trials_that_do_not_fit_are_refused(tmp_path, change, options, said):
    table = change(shown())
    codes = table.get("things_image_nr", shown()["things_image_nr"])
    path = saved(tmp_path / "a-epo.fif", signals(len(table)), table.assign(things_image_nr=codes))
    with pytest.raises(InputError, match=said):
        found("P1", [path], **options)


def test_a_sample_that_is_not_finite_is_named(tmp_path):
    table = shown()
    array = signals(len(table))
    at = table.index[table["image_path"].str.endswith("drum_02s.jpg")][0]
    array[at, 2, 7] = np.nan
    given = found("P1", [saved(tmp_path / "a-epo.fif", array, table)])
    with pytest.raises(InputError, match=r"P1/train: train/drum_02s holds values that are not"):
        rendered(tmp_path, given)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"channels": ("MZO01-1609", *CHANNELS[1:])}, r"b-epo.fif: only one has the channel M\w+"),
        ({"start": -0.05}, r"b-epo.fif: epochs differ in sampling rate, length or start"),
    ],
)
def test_files_of_a_subject_have_the_same_channels_and_clock(tmp_path, changed, said):
    table = shown()
    array = signals(len(table))
    paths = [
        saved(tmp_path / "a-epo.fif", array, table),
        saved(tmp_path / "b-epo.fif", array, table, **changed),
    ]
    with pytest.raises(InputError, match=said):
        found("P1", paths)


def test_tables_that_are_no_match_for_the_epochs_are_refused(tmp_path):
    table = shown()
    path = saved(tmp_path / "a-epo.fif", signals(len(table)), table, metadata=False)
    listed = tmp_path / "a.csv"
    table[1:].to_csv(listed, index=False)
    with pytest.raises(InputError, match=r"a.csv: 33 lines for 34 epochs in .*a-epo.fif"):
        found("P1", [path, listed])
    table[::-1].to_csv(listed, index=False)
    columns = THINGS["trial_columns"] | {"event": "things_image_nr"}
    with pytest.raises(InputError, match=r"epoch \d+ has the event \d+, but its line says \d+"):
        found("P1", [path, listed], trial_columns=columns)
    with pytest.raises(InputError, match=r"a-epo.fif: the epochs carry no metadata"):
        found("P1", [path])
    with pytest.raises(InputError, match=r"1 files of epochs and 2 tables"):
        found("P1", [path, listed, listed])
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"a.csv: is no text in UTF-8"):
        found("P1", [path, listed])
    path.write_bytes(b"not epochs")
    with pytest.raises(InputError, match=r"a-epo.fif: not epochs that MNE can read"):
        found("P1", [path])


# ---- photographs --------------------------------------------------------------------------


def image_files(names=NAMES):
    """THINGS: a folder a concept, with the images of the tests and some that nobody saw."""
    for number, concept in enumerate((*names, "zoo")):
        for image in (1, 2, 3, 16):
            content = io.BytesIO()
            Image.new("RGB", (8, 8), (30 * number, 10 * image, 0)).save(content, "png")
            yield f"object_images/{concept}/{concept}_{image:02d}s.jpg", content.getvalue()


def written(folder, files, archive=False):
    """A folder or archive of photographs, and the table of one subject."""
    folder.mkdir(exist_ok=True)
    shown(5).to_csv(folder / "trials.csv", index=False)
    if archive:
        with zipfile.ZipFile(folder / "images.zip", "w") as zipped:
            for name, content in {**files, "object_images/LICENSE.txt": b""}.items():
                zipped.writestr(name, content)
        return [folder / "trials.csv", folder / "images.zip"]
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return [folder / "trials.csv", folder / "object_images"]


@pytest.mark.parametrize("archive", [False, True])
def test_photographs_go_by_the_names_of_the_trials(tmp_path, archive):
    files = dict(image_files())
    paths = written(tmp_path / "images", files, archive)
    rows = rendered(tmp_path, found("stimuli", paths, unlisted="skip"), "photograph", size=[4, 4])
    _, _, trials = subject(tmp_path)
    names = sorted([*trials[0].table.index, *trials[1].table.index])
    assert rows.table.index.tolist() == names
    for name, split, concept, row in zip(
        rows.table.index, rows.table["split"], rows.table["concept"], rows.array, strict=True
    ):
        own = name.split("/")[1]
        assert (split, concept) == (name.split("/")[0], own.rsplit("_", 1)[0])
        content = files[f"object_images/{concept}/{own}.jpg"]
        assert_array_equal(row[0, 0], np.asarray(Image.open(io.BytesIO(content)))[0, 0])


def test_photographs_that_do_not_fit_the_table_are_named(tmp_path):
    files = dict(image_files())
    gone = "object_images/drum/drum_02s.jpg"
    less = {name: content for name, content in files.items() if name != gone}
    paths = written(tmp_path / "a", less)
    with pytest.raises(InputError, match=r"no photograph drum_02s \(1 of 15 are missing\)"):
        found("stimuli", paths, unlisted="skip")
    twice = files | {"object_images/other/drum_02s.jpg": files[gone]}
    paths = written(tmp_path / "b", twice)
    with pytest.raises(InputError, match=r"drum_02s is there twice: .*drum/drum_02s.jpg and .*oth"):
        found("stimuli", paths, unlisted="skip")
    with pytest.raises(InputError, match=r"photograph aardvark_16s is listed nowhere \(7 such\)"):
        found("stimuli", written(tmp_path / "c", files))


def test_folders_say_what_no_table_says(tmp_path):
    """Of zoo the last image is a test, and the others are left out."""
    laid = {}
    for name, content in image_files():
        _, concept, file = name.split("/")
        split = "test" if file == "zoo_16s.jpg" else "exp"
        laid[f"object_images/{split}/{concept}/{file}"] = content
    folder = written(tmp_path, laid)[1]
    (given,) = found("stimuli", [folder], concept_pattern=None)
    names = [f"train/{c}_{i:02d}s" for c in NAMES for i in (1, 2, 3, 16)]
    assert given.table.index.tolist() == ["test/zoo_16s", *names]
    assert given.table["concept"].tolist() == ["zoo", *(c for c in NAMES for _ in range(4))]
    with pytest.raises(InputError, match=r"concept zoo is of training .* and of test"):
        found("stimuli", [folder], concept_pattern=None, drop_test_concepts=False)
    with pytest.raises(InputError, match=r"none lies in a folder exp or test; name a table"):
        found("stimuli", [folder / "test/zoo"])


def test_a_photograph_in_the_folder_of_its_split_is_its_own_concept(tmp_path):
    for split, name in (("exp", "a"), ("exp", "b"), ("test", "c")):
        (tmp_path / "images" / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / f"images/{split}/{name}.png")
    (given,) = found("stimuli", [tmp_path / "images"], concept_pattern=None)
    assert given.table["concept"].to_dict() == {"test/c": "c", "train/a": "a", "train/b": "b"}


def test_photographs_of_trials_that_one_subject_lost_are_listed(tmp_path):
    paths = written(tmp_path, dict(image_files()))
    table = pd.read_csv(paths[0])
    lost = table["image_path"].str.contains("drum")
    table.assign(artefact=lost).to_csv(paths[0], index=False)
    columns = THINGS["trial_columns"] | {"exclude": "artefact"}
    (given,) = found("stimuli", paths, unlisted="skip", trial_columns=columns)
    assert "train/drum_01s" in given.table.index


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("images_meg/bat1/bat1_01b.jpg", "bat1_01b"),
        (r"C:\images\bat1_01b.JPEG", "bat1_01b"),
        ("bat1_01b", "bat1_01b"),
        ("scene_0.5", "scene_0.5"),
    ],
)
def test_a_stimulus_goes_by_the_name_of_its_file(path, name):
    assert stimulus_name(path) == name


# ---- from files to found pictures ---------------------------------------------------------


def test_trials_of_the_shape_of_meg_train(tmp_path):
    """Simulated: a linear code of the features of each picture in 271 channels and 201 samples."""
    rng = np.random.default_rng(0)
    concepts = [f"thing{i}" for i in range(24)]
    lines = [(f"{c}/{c}_{k:02d}s.jpg", "exp") for c in concepts for k in (1, 2, 3)]
    lines += [(f"{c}_16s.jpg", "test") for c in concepts[:8] for _ in range(4)]
    order = rng.permutation(len(lines))
    table = pd.DataFrame([lines[i] for i in order], columns=["image_path", "trial_type"])
    table["things_image_nr"] = 1.0
    names = sorted({stem(path) for path in table["image_path"]})
    codes = dict(zip(names, rng.standard_normal((len(names), 6)).astype(np.float32), strict=True))
    pattern = rng.standard_normal((6, 271)) / 2
    array = rng.standard_normal((len(table), 271, 281)).astype(np.float32)
    for epoch, path in zip(array, table["image_path"], strict=True):
        epoch[:, 60:120] += (codes[stem(path)] @ pattern)[:, None]
    channels = [f"M{i:03d}" for i in range(271)]
    path = saved(tmp_path / "preprocessed_P1-epo.fif", array, table, channels)
    spec = {"unit": "P1", "view": STUDY["views"]["epochs"], "windows": None}
    x = [tmp_path / "P1/epochs.h5"]
    views.render(found("P1", [path]), x[0], spec, {})
    assert store.open(x[0]).shape == (16 * 3 + 8 * 4, 271, 201)  # test repetitions are rows
    shown_once = store.open(x[0]).table.drop_duplicates("stimulus")
    features = np.stack([codes[name.split("/")[1]] for name in shown_once["stimulus"]])
    pictures = shown_once[["split", "concept", "exclude"]].set_axis(shown_once["stimulus"])
    y = tmp_path / "stimulus/net.h5"
    store.write(y, Rows(features, pictures, {"what": "features", "weights": "random"}))
    head = STUDY["heads"]["nice"] | {"epochs": 8, "batch_size": 16, "dropout": 0.1}
    head |= {"projector_dim": 16, "image_dropout": 0.1}
    folds = {"kind": "within", "validation_concepts": 3}
    spec = {"task": "pairs", "experiment": {"folds": folds, "seeds": 1}, "head": head}
    spec |= {"candidates": [["epochs"]]}
    made = [tmp_path / name for name in ("m.safetensors", "p.h5", "l.h5")]
    train({"epochs": x}, {"stimulus/net": [y]}, *made, spec, {"inputs": {}}, "cpu")
    predicted = store.open(made[1]).load()
    whole = (predicted.table["fewer"] == 0).to_numpy()
    assert predicted.array[whole].shape == (8, 2, 8)
    candidates = predicted.header["candidates"]
    best = [candidates[i] for i in predicted.array[whole, 0].argmax(1)]
    assert np.mean(best == predicted.table["stimulus"][whole]) > 0.5  # chance: 1/8


# ---- the study of THINGS-MEG --------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """A copy of the workflow, and what THINGS-MEG consists of: paths of all files, by shelf."""
    checkouts.copy(tmp_path)
    parts = [
        f"preprocessed_P{i}-epo{part}.fif" for i in (1, 2, 3, 4) for part in ("", "-1", "-2", "-3")
    ]
    fetched = [f"derivatives/preprocessed/{name}" for name in parts]
    fetched += ["sourcedata/sample_attributes_P1.csv"]
    return tmp_path, {
        "raw": [Path("resources/raw/things_meg") / name for name in fetched],
        "by_hand": [Path("resources/by_hand/things_meg/object_images/bat1/bat1_01b.jpg")],
    }


def dry_run(folder):
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    given = ("--cores", "1", "--dry-run", "--configfile", "config/studies/things_meg.yaml")
    return checkouts.snakemake(folder, *given, environment=environment).stdout


def test_the_study_fetches_all_but_the_photographs(checkout):
    """They are under an agreement: a person puts them where no job overwrites them."""
    folder, files = checkout
    place = "resources/by_hand/things_meg/object_images"
    assert f"{place} is missing; put the data there" in dry_run(folder)
    for path in files["by_hand"]:
        (folder / path).parent.mkdir(parents=True)
        (folder / path).touch()
    planned = dry_run(folder)
    assert {str(path) for path in files["raw"]} < set(re.findall(r"output: (\S+)", planned))
    assert not re.search(rf"output: {place}", planned)
    for path in files["raw"]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    planned = dry_run(folder)
    assert not re.search(r"output: resources/(raw|by_hand)", planned)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE))
    assert (jobs["render"], jobs["train"], jobs["evaluate"]) == ("5", "6", "6")
    assert re.search(rf"input: .*sample_attributes_P1.csv, {place}$", planned, re.MULTILINE)
