"""`engram check` says before a run what the stages find and refuse."""

import json
import pickle

import mne
import numpy as np
import pandas as pd
import pytest
import yaml

from engram import backbones, datasets, store, views
from engram.cli import checking, configuration, looking, main
from engram.datasets import simulated_vigilance
from engram.errors import InputError
from engram.planning.plan import Plan
from engram.tasks import classes

RATE, SECONDS = 80, 120
NAMES = ["Fp1", "Cz", "Oz"]
SUBJECTS = ("s1", "s2", "s3", "s4")


def recorded(path, rate=RATE, seconds=SECONDS, names=NAMES, spoil=None, marks=True):
    """A FIF file of noise whose eyes are closed in its second half, written by MNE."""
    data = np.random.default_rng(len(path.name)).normal(0, 15e-6, (len(names), rate * seconds))
    if spoil:
        spoil(data)
    info = mne.create_info(list(names), rate, "eeg", verbose="error")
    made = mne.io.RawArray(data, info, verbose="error")
    half = seconds / 2
    if marks:
        made.set_annotations(
            mne.Annotations([0, half, 5], [half, half, 2], ["open", "closed", "BAD"])
        )
    made.save(path, overwrite=True, verbose="error")


STUDY = {
    "run": ["alert"],
    "datasets": {
        "own": {
            "kind": "eeg_recordings",
            "folder": "files",
            "manifest": "files/own.csv",
            "windows": {"length": 10, "step": 10},
        }
    },
    "views": {
        "picture": {"kind": "multitaper", "fmax": 30},
        "eyes": {"kind": "annotations", "classes": ["open", "closed"]},
    },
    "experiments": {
        "alert": {
            "dataset": "own",
            "x": "picture",
            "y": "eyes",
            "head": "cnn",
            "baseline": "none",
        }
    },
}


class Study:
    """A study of recordings in a folder of their own, to be spoiled."""

    def __init__(self, folder):
        self.folder, self.config = folder, json.loads(json.dumps(STUDY))
        (folder / "files").mkdir()
        for subject in SUBJECTS:
            recorded(folder / f"files/{subject}_raw.fif")
        self.rows = [{"subject": s, "scan": "a", "file": f"{s}_raw.fif"} for s in SUBJECTS]

    def check(self, *options):
        """Exit status, and what the page says."""
        (self.folder / "study.yaml").write_text(yaml.safe_dump(self.config))
        pd.DataFrame(self.rows).to_csv(self.folder / "files/own.csv", index=False)
        status = main(["check", "study.yaml", "--jobs", "1", *options])
        return status, json.loads((self.folder / "check/index.json").read_text())

    def refused(self):
        """What is said of all that a run would refuse."""
        status, found = self.check("--no-pictures")
        assert status == bool(found["refused"])
        return [one["text"] for one in found["refused"]]

    def plan(self):
        return Plan({"backbones": {}, "heads": {"cnn": {"kind": "cnn"}}} | self.config)

    def run(self):
        """The stages render and train, as far as rows are loaded."""
        plan = self.plan()
        for unit in plan.units("own"):
            for view in ("picture", "eyes"):
                spec = plan.spec("render", dataset="own", unit=unit, view=view)
                recordings = datasets.read(spec, plan.raw("own", unit))
                views.render(recordings, plan.store("own", unit, view), spec, {})
        x, y = ({v: plan.stores("alert", v)} for v in ("picture", "eyes"))
        return classes.load(x, y, plan.spec("train", experiment="alert")["experiment"])


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Study(tmp_path)


def loud(data):
    """Jumps of 0.2 V at Oz all the time."""
    data[2, ::16] += 0.2


def test_numbers_are_those_of_the_stages(study, capsys):
    recorded(study.folder / "files/s2_raw.fif", spoil=lambda data: loud(data[:, : 30 * RATE]))
    study.config["views"]["picture"]["bad_share"] = 0.0
    status, found = study.check()
    assert status == 0
    task, left_out = study.run()
    (dataset,) = found["datasets"]
    assert (dataset["subjects"], dataset["scans"]) == (4, 4)
    assert dataset["hours"] == pytest.approx(4 * SECONDS / 3600)
    for view in dataset["views"]:
        table = pd.concat(
            store.open(f"results/views/own/{s}/{view['name']}.h5").table for s in SUBJECTS
        )
        reasons = table["exclude"][table["exclude"] != ""]
        assert view["windows"] == len(table)
        assert view["left_out"] == len(reasons)
        counted = {one["reason"]: one["windows"] for one in view["reasons"]}
        assert counted == reasons.value_counts().to_dict()
    picture, _ = dataset["views"]
    channels = [one["channels"] for one in picture["reasons"] if one["reason"] != "BAD"]
    assert channels == [[["Oz", 2]]]
    labels = pd.concat(
        pd.Series(one[:], one.table["subject"])
        for one in (store.open(f"results/views/own/{s}/eyes.h5") for s in SUBJECTS)
    )
    for line in dataset["classes"]:
        own = labels[labels == STUDY["views"]["eyes"]["classes"].index(line["class"])]
        assert (line["windows"], line["subjects"]) == (len(own), own.index.nunique())
    (experiment,) = found["experiments"]
    assert experiment["excluded"] == left_out
    assert (experiment["rows"], experiment["folds"]) == (len(task.y), len(task.folds))
    assert [one["rows"] for one in experiment["classes"]] == np.bincount(task.y).tolist()
    recording = found["recordings"][1]
    assert recording["events"] == [["closed", 1, 60.0], ["open", 1, 60.0], ["BAD", 1, 2.0]]
    assert (study.folder / "check" / recording["picture"]).read_bytes()[1:4] == b"PNG"
    out = capsys.readouterr().out
    assert f"alert: {len(task.y)} rows of 4 subjects, 4 folds" in out
    page = (study.folder / "check/index.html").read_text()
    assert f'<td class="n" rowspan="2">{picture["windows"]}</td>' in page
    assert "raise <code>amplitude</code> of the view picture" in page


def shorter(study):
    recorded(study.folder / "files/s1_raw.fif", seconds=8)


def broken(study):
    (study.folder / "files/s1_raw.fif").write_bytes(b"no recording")


def gone(study):
    (study.folder / "files/s1_raw.fif").unlink()


def no_channel(study):
    study.config["datasets"]["own"]["channels"] = ["Pz"]


def two_rates(study):
    recorded(study.folder / "files/more_raw.fif", rate=100)
    study.rows.append({"subject": "s1", "scan": "b", "file": "more_raw.fif"})


def too_high(study):
    study.config["views"]["picture"]["fmax"] = 45


def no_events(study):
    recorded(study.folder / "files/s1_raw.fif", marks=False)


def rates_of_subjects(study):
    recorded(study.folder / "files/s3_raw.fif", rate=100)


def channels_of_subjects(study):
    recorded(study.folder / "files/s3_raw.fif", names=["Fp1", "Cz", "Pz"])


def one_class(study):
    study.config["views"]["eyes"]["events"] = {"open": ["open", "closed"], "closed": ["asleep"]}


def few_subjects(study):
    study.rows = study.rows[:2]


def all_loud(study):
    for subject in SUBJECTS:
        recorded(study.folder / f"files/{subject}_raw.fif", spoil=loud)
    study.config["views"]["picture"]["bad_share"] = 0.0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shorter, "shorten `windows`"),
        (broken, "not a recording that MNE can read"),
        (gone, "is missing"),
        (no_channel, "no channel Pz"),
        (two_rates, "set `sfreq` of the dataset"),
        (too_high, "`fmax` of the view"),
        (no_events, "no event means any of the classes"),
        (rates_of_subjects, "set `sfreq` of the dataset"),
        (channels_of_subjects, "name those that all have in `channels`"),
        (one_class, "every usable row is 'open'"),
        (few_subjects, "needs at least 3"),
        (all_loud, "raise `amplitude` of the view picture"),
    ],
)
def test_what_a_run_refuses_is_said_before_in_the_same_words(study, spoil, words):
    spoil(study)
    said = study.refused()
    with pytest.raises(InputError) as caught:
        study.run()
    assert words in str(caught.value)
    assert str(caught.value) in said


def test_subjects_on_each_side_of_a_difference_are_named(study, capsys):
    rates_of_subjects(study)
    _, found = study.check("--quick")
    (one,) = found["refused"]
    assert [side["subjects"] for side in one["sides"]] == [["s1", "s2", "s4"], ["s3"]]
    assert "100 Hz; 3 channels (Cz, Fp1, Oz); uV: s3" in capsys.readouterr().out


def test_headers_alone_say_what_lies_in_files(study):
    study.config["datasets"]["own"]["bads"] = ["Cz"]
    _, whole = study.check("--no-pictures")
    status, quick = study.check("--quick")
    assert status == 0
    assert [one["views"] for one in quick["recordings"]] == [[]] * 4
    for one, other in zip(quick["recordings"], whole["recordings"], strict=True):
        for key in ("name", "duration", "signals", "left_out", "events", "bad"):
            assert one[key] == other[key]


def test_recordings_and_manifests_are_looked_at_without_a_study(study, capsys):
    pd.DataFrame(study.rows[:2]).to_csv("own.csv", index=False)
    for subject in SUBJECTS[:2]:
        (study.folder / f"files/{subject}_raw.fif").rename(f"{subject}_raw.fif")
    for targets in (["own.csv"], [f"{s}_raw.fif" for s in SUBJECTS[:2]]):
        assert main(["check", *targets, "--jobs", "1", "--no-pictures"]) == 0
        found = json.loads((study.folder / "check/index.json").read_text())
        assert [view["name"] for view in found["recordings"][1]["views"]] == ["spectrogram"]
        assert found["datasets"][0]["subjects"] == 2
    assert main(["check", "own.csv", "s1_raw.fif"]) == 1
    assert "one sort at a time" in capsys.readouterr().err


def test_rows_that_a_backbone_does_not_take_are_refused_before(study):
    study.config["backbones"] = {"band": {"kind": "bandpower", "takes": {"modality": ["fmri"]}}}
    study.config["experiments"]["alert"] |= {"x": "picture/band", "head": "linear"}
    (said,) = study.refused()
    spec = study.plan().spec("render", dataset="own", unit="s1", view="picture")
    path = study.plan().store("own", "s1", "picture")
    views.render(datasets.read(spec, ["files/s1_raw.fif"]), path, spec, {})
    extraction = study.plan().spec("extract", backbone="band", dataset="own")
    with pytest.raises(InputError, match="takes fmri, but the view holds eeg") as caught:
        backbones.load(store.open(path), extraction, None, "cpu")
    assert said == str(caught.value)


def test_numbers_of_a_manifest_are_a_range(study):
    for row, age in zip(study.rows, (20, 31.5, 40, 77), strict=True):
        row["age"] = age
    study.config["views"]["age"] = {"kind": "fact", "column": "age"}
    study.config["experiments"]["alert"] |= {"x": "picture/bandpower", "y": "age", "head": "linear"}
    study.config["experiments"]["alert"]["folds"] = "leave_one_subject_out"
    status, found = study.check("--no-pictures")
    assert status == 0
    (line,) = found["datasets"][0]["classes"]
    assert (line["class"], line["subjects"]) == ("20 to 77", 4)
    (experiment,) = found["experiments"]
    assert (experiment["rows"], experiment["folds"], experiment["classes"]) == (44, 4, [])


def test_simulated_recordings_are_looked_at_once_they_are_there(study):
    short = {"units": ["sub-01", "sub-02", "sub-03"], "scans": 1, "duration": 150}
    study.config = {"run": ["fmri_bandpower"], "datasets": {"simulated": short}}
    status, found = study.check("--no-pictures")
    assert (status, found["datasets"][0]["not_here"], found["recordings"]) == (0, 3, [])
    (study.folder / "resources/raw/simulated").mkdir(parents=True)
    for unit in short["units"]:
        path = study.folder / f"resources/raw/simulated/{unit}.npz"
        options = simulated_vigilance.Options(scans=1, duration=150)
        simulated_vigilance.make(path, {"unit": unit}, options)
    _, found = study.check("--no-pictures")
    assert found["datasets"][0]["not_here"] == 0
    assert [one["name"] for one in found["recordings"]] == [f"sub-0{i}/scan-01" for i in (1, 2, 3)]
    plan = Plan(configuration(["study.yaml"]))
    spec = plan.spec("render", dataset="simulated", unit="sub-02", view="fmri_spectrogram")
    (rows,) = views.rendered(datasets.read(spec, plan.raw("simulated", "sub-02")), spec)
    (shown,) = [v for v in found["recordings"][1]["views"] if v["name"] == "fmri_spectrogram"]
    assert shown["windows"] == len(rows.table)
    assert shown["left_out"] == (rows.table["exclude"] != "").sum() > 0


def test_what_is_kept_of_a_recording_does_not_grow_with_its_samples(study):
    sizes = []
    for seconds in (60, 480):
        recorded(study.folder / "files/s1_raw.fif", seconds=seconds, marks=False)
        rows = [{"subject": "s1", "scan": "a", "file": "s1_raw.fif"}]
        spec = {"dataset": {"kind": "eeg_recordings"}, "windows": {"length": 60, "step": 60},
                "view": {"kind": "multitaper", "fmax": 30}, "unit": "s1", "rows": rows}  # fmt: skip
        asked = looking.Asked("own", "s1", rows, ["files/s1_raw.fif"], {"picture": spec})
        sizes.append(len(pickle.dumps(looking.look(asked))))
    assert sizes[1] - sizes[0] < 7 * 1000  # of 323 kB of samples
    assert sizes[0] < 20_000


def test_of_two_hundred_files_one_that_is_broken_is_refused_alone(study):
    recorded(study.folder / "files/s1_raw.fif", seconds=20, names=["Cz"], marks=False)
    study.rows = []
    for i in range(200):
        (study.folder / f"files/r{i}_raw.fif").hardlink_to(study.folder / "files/s1_raw.fif")
        study.rows.append({"subject": f"r{i:03d}", "scan": "a", "file": f"r{i}_raw.fif"})
    (study.folder / "files/r7_raw.fif").unlink()
    (study.folder / "files/r7_raw.fif").write_bytes(b"no recording")
    pd.DataFrame(study.rows).to_csv("files/own.csv", index=False)
    assert main(["check", "files/own.csv", "--jobs", "1", "--quick"]) == 1
    found = json.loads((study.folder / "check/index.json").read_text())
    assert [one["where"] for one in found["refused"]] == ["r007/a"]
    assert found["datasets"][0]["hours"] == pytest.approx(199 * 20 / 3600, rel=0.01)


class Deadly(looking.Asked):
    """What ends the process that is given it."""

    def __reduce__(self):
        import os

        return os._exit, (1,)


def test_a_file_that_ends_its_process_is_refused_alone(study, monkeypatch):
    fork = checking.multiprocessing.get_context("fork")
    monkeypatch.setattr(checking.multiprocessing, "get_context", lambda _: fork)
    rows = [{"subject": "s", "scan": "a", "file": "s1_raw.fif"}]
    spec = {"dataset": {"kind": "eeg_recordings"}, "windows": {"length": 10, "step": 10},
            "view": {"kind": "fact", "column": "x"}, "unit": "s", "rows": rows}  # fmt: skip
    kinds = [looking.Asked, Deadly, *[looking.Asked] * 4]
    asked = [kind("own", f"u{i}", rows, ["files/s1_raw.fif"], {"x": spec}, quick=True)
             for i, kind in enumerate(kinds)]  # fmt: skip
    found = [one for some in checking._each(asked, 2) for one in some]
    assert sorted(one.unit for one in found) == [f"u{i}" for i in range(6)]
    assert [one.unit for one in found if one.refused] == ["u1"]
