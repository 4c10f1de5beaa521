"""A model applied to recordings without labels: files in, a table, pictures and a summary out."""

import re
import shutil
import subprocess
from dataclasses import replace

import forked
import mne
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file
from test_plan import SCHEMA, merge
from test_plan import read as read_yaml
from test_specs import Study

import engram
from engram.backbones import extract
from engram.backbones.timm import timm
from engram.cli import main
from engram.datasets import read, simulated_vigilance
from engram.downloads import download
from engram.errors import InputError
from engram.planning import configuration
from engram.planning.plan import Plan
from engram.trained import found

SFREQ, BLOCK, BLOCKS = 100, 30, 4
NAMES = ("Fp1", "O1")
CLASSES = ["open", "closed"]
SUBJECTS = [f"s{i}" for i in range(1, 6)]
CONFIG = {
    "datasets": {
        "night": {
            "kind": "eeg_recordings", "title": "Blocks", "manifest": "table.csv",
            "windows": {"length": 10, "step": 10},
            "protocol": [[BLOCK * i, BLOCK * (i + 1), CLASSES[i % 2]]
                         for i in range(BLOCKS)],
        },
        "again": {
            "kind": "eeg_recordings", "title": "New", "manifest": "new.csv",
            "windows": {"length": 10, "step": 10}, "channels": ["Fp1", "O1"],
        },
    },
    "views": {
        "spectrogram": {"kind": "multitaper", "fmax": 30, "amplitude": 5000, "jump": 5000},
        "eyes": {
            "kind": "annotations", "classes": CLASSES,
            "events": {"open": ["protocol:open"], "closed": ["protocol:closed"]},
        },
    },
    "backbones": {
        "bands": {"kind": "bandpower", "bands": {"alpha": [8, 12], "beta": [16, 28]}},
        "vit": {"kind": "timm", "model": "test_vit.r160_in1k", "size": [32, 32], "batch": 8},
    },
    "heads": {"linear": {"kind": "linear", "c": [0.1, 1.0]}},
    "experiments": {
        name: {"dataset": "night", "x": f"spectrogram/{name}", "y": "eyes", "head": "linear",
               "seeds": 1, "baseline": "none"}
        for name in ("bands", "vit")
    },
}  # fmt: skip


def signals(seed, sfreq=SFREQ, scale=1.0, names=NAMES):
    """Noise, and at the back alpha while eyes are closed; uV, and which second is closed."""
    times = np.arange(BLOCK * BLOCKS * sfreq) / sfreq
    closed = times // BLOCK % 2 == 1
    rng = np.random.default_rng(seed)
    slow = rng.normal(0, 10 * np.sqrt(sfreq / SFREQ), (len(names), len(times)))
    alpha = 15 * closed * np.sin(2 * np.pi * 10 * times)
    gain = np.array([[{"O1": 1.0}.get(name.split("-")[0], 0.2)] for name in names])
    return scale * (slow + gain * alpha)


def fif(path, data, names=NAMES, sfreq=SFREQ):
    info = mne.create_info([*names], sfreq, "eeg", verbose="error")
    made = mne.io.RawArray(data * 1e-6, info, verbose="error")
    made.save(path, overwrite=True, verbose="error")
    return path


class Night(Study):
    """A study of five subjects, whose models are trained by its stages."""

    def __init__(self, folder):
        raw = folder / "raw"
        raw.mkdir()
        for i, subject in enumerate(SUBJECTS):
            fif(raw / f"{subject}_raw.fif", signals(i))
        lines = [f"{subject},a,{subject}_raw.fif" for subject in SUBJECTS]
        (raw / "table.csv").write_text("\n".join(["subject,scan,file", *lines]))
        (raw / "new.csv").write_text("subject,scan,file\nnew,a,new_raw.fif\n")
        save_file(timm.create_model("test_vit.r160_in1k", num_classes=0).state_dict(),
                  folder / "w.safetensors")  # fmt: skip
        datasets = {n: one | {"folder": str(raw)} for n, one in CONFIG["datasets"].items()}
        vit = CONFIG["backbones"]["vit"] | {"weights": str(folder / "w.safetensors")}
        backbones = CONFIG["backbones"] | {"vit": vit}
        changed = {"datasets": datasets, "backbones": backbones, "run": ["bands"]}
        super().__init__(folder, CONFIG | changed)

    def extract(self, dataset, unit, source):
        view, _, backbone = source.partition("/")
        spec = self.plan.spec("extract", backbone=backbone, dataset=dataset)
        paths = (self.path(self.plan.store(dataset, unit, one)) for one in (view, source))
        view, features = paths
        extract(view, self.plan.weights(backbone) or None, features, spec, {}, "cpu")
        return features

    def model(self, name):
        """The model file of an experiment, where a workflow leaves it."""
        for unit in SUBJECTS:
            self.extract("night", unit, f"spectrogram/{name}")
        made = self.path(f"results/night/models/{name}.safetensors")
        shutil.copy(self.train(name)[0], made)
        return made


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    this = Night(tmp_path_factory.mktemp("night"))
    for unit in SUBJECTS:
        for view in ("spectrogram", "eyes"):
            this.render("night", unit, view)
    # More channels than the model knows, in another order and spelling.
    names = ("EEG O1-REF", "Cz", "FP1")
    this.new = fif(this.folder / "raw/new_raw.fif", signals(9, names=("O1", "Cz", "Fp1")), names)
    return this


@pytest.fixture(scope="module")
def bands(night):
    return night.model("bands")


@pytest.fixture(scope="module")
def reference(night, bands):
    """What the model says of the features that the stages make of the new recording."""
    night.render("again", "new", "spectrogram")
    features = night.extract("again", "new", "spectrogram/bands")
    return engram.load_model(bands).predict(features)


def apply(capsys, *arguments):
    """Exit status, stdout and stderr of the command."""
    status = main(["apply", *map(str, arguments)]) or 0
    return status, *capsys.readouterr()


CLOSED = np.repeat([False, True] * 2, 3)


def test_a_recording_gets_what_the_stages_and_the_head_would_say(night, bands, reference):
    assert ((reference["class"] == "closed") == CLOSED).all()
    table = engram.load_model(bands).predict(night.new)
    columns = ["onset", "duration", "exclude", "class", "p_open", "p_closed", "spread", "unlike"]
    pd.testing.assert_frame_equal(
        table[columns].reset_index(drop=True), reference[columns].reset_index(drop=True)
    )
    (recording,) = read(night.plan.spec("render", dataset="again", unit="new", view="spectrogram"),
                        [night.new])  # fmt: skip
    eeg = recording.signals["eeg"]
    doubled = replace(eeg, data=eeg.data[[0, 1, 0]], channels=("Fp1", "O1", "FP1"))
    with pytest.raises(InputError, match="several channels are Fp1"):
        engram.load_model(bands).predict(replace(recording, signals={"eeg": doubled}))
    again = engram.load_model(bands).predict(recording)
    assert list(again.index) == list(reference.index)
    pd.testing.assert_frame_equal(again[columns], reference[columns])


def test_the_command_writes_a_table_a_picture_and_a_page(night, bands, reference, tmp_path, capsys):
    status, out, err = apply(capsys, bands, night.new, "-o", tmp_path)
    assert status == 0
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert list(table) == ["recording", "onset", "duration", "class", "p_open", "p_closed",
                           "spread", "unlike", "usable"]  # fmt: skip
    assert set(table["recording"]) == {"new_raw"}
    np.testing.assert_allclose(table["p_closed"], reference["p_closed"], rtol=1e-5)
    np.testing.assert_array_equal(table["onset"], reference["onset"])
    np.testing.assert_array_equal(
        table["usable"], np.where(reference["unlike"] > 1, "unlike", "yes")
    )
    assert (tmp_path / "pictures/new_raw.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "summary.html").read_text("utf-8")
    for words in ("pictures/new_raw.png", "Cz (eeg)", "linear on spectrogram/bands"):
        assert words in page
    used = table[table["usable"] == "yes"]
    shares = [len(used) / 12, 1 - len(used) / 12, *((used["class"] == c).mean() for c in CLASSES)]
    assert out.splitlines()[1].split() == ["new_raw", "2.0", *(f"{share:.0%}" for share in shares)]
    assert "left out: Cz (eeg)" in err


def test_a_second_call_does_again_what_changed_and_nothing_else(night, bands, tmp_path):
    files = [tmp_path / f"in/{name}_raw.fif" for name in ("one", "two")]
    files[0].parent.mkdir()
    for i, file in enumerate(files):
        fif(file, signals(20 + i))
    out = tmp_path / "out"
    run = ["apply", str(bands), str(files[0].parent), "-o", str(out)]
    made = [out / f"recordings/{one}_raw/spectrogram/bands.h5" for one in ("one", "two")]
    main(run)
    first = [made[0].stat().st_mtime_ns, made[1].stat().st_mtime_ns]
    table = (out / "predictions.csv").read_bytes()
    (out / "predictions.csv").unlink()
    main(run)
    assert [made[0].stat().st_mtime_ns, made[1].stat().st_mtime_ns] == first
    assert (out / "predictions.csv").read_bytes() == table
    fif(files[1], signals(30))
    (out / "pictures/two_raw.png").unlink()
    main(run)
    assert made[0].stat().st_mtime_ns == first[0]
    assert made[1].stat().st_mtime_ns != first[1]
    assert (out / "predictions.csv").read_bytes() != table


HOLD = """
import sys
from engram.disk import held
with held(sys.argv[1]):
    print("holds", flush=True)
    sys.stdin.readline()
"""


def test_a_call_waits_for_one_that_writes_to_the_same_folder(night, bands, tmp_path):
    out, pipe = tmp_path / "out", subprocess.PIPE
    first, second = (
        [forked.python(), *arguments]
        for arguments in (
            ["-c", HOLD, out / "predictions.csv"],
            ["-m", "engram", "apply", bands, night.new, "-o", out],
        )
    )
    first = subprocess.Popen(first, stdin=pipe, stdout=pipe, text=True)
    assert first.stdout.readline() == "holds\n"
    second = subprocess.Popen(second, stdout=pipe, stderr=pipe, text=True)
    assert "predictions.csv: waiting for another process that writes it" in second.stderr.readline()
    assert not [*out.glob("recordings/*")]
    first.communicate("go on\n")
    said = second.communicate()
    assert second.returncode == 0, said
    assert {path.name for path in out.iterdir()} == {
        "applied.json", "pictures", "predictions.csv", "recordings", "summary.html"
    }  # fmt: skip


def test_a_recording_that_is_unlike_is_said_and_counts_in_no_share(bands, tmp_path, capsys):
    noise = np.random.default_rng(5).normal(0, 50, (2, 12000))
    fif(tmp_path / "noise_raw.fif", noise)
    status, _, err = apply(capsys, bands, tmp_path / "noise_raw.fif", "-o", tmp_path / "out")
    assert status == 0
    assert "warning: noise_raw is unlike the training data: 100% of its windows" in err
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    assert (table["unlike"] > 1).all()
    assert (table["usable"] == "unlike").all()
    assert "noise_raw is unlike the training data" in (tmp_path / "out/summary.html").read_text()


def test_windows_that_cannot_be_used_have_a_reason_and_no_class(bands, tmp_path, capsys):
    flat = signals(7)
    flat[:, 3000:5000] = 0
    fif(tmp_path / "flat_raw.fif", flat)
    apply(capsys, bands, tmp_path / "flat_raw.fif", "-o", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    assert (table["usable"] == "flat").tolist() == [False] * 3 + [True] * 2 + [False] * 7
    assert (table["class"].isna() == (table["usable"] == "flat")).all()
    fif(tmp_path / "none_raw.fif", np.tile(np.where(np.arange(12000) % 1000, 0, 50.0), (2, 1)))
    status, said, err = apply(capsys, bands, tmp_path / "none_raw.fif", "-o", tmp_path / "none")
    assert status == 0
    assert "warning: none_raw has no usable window: flat (12)" in err
    assert said.splitlines()[1].split() == ["none_raw", "2.0", "0%", "0%", "–", "–"]


def test_another_rate_is_converted_where_it_holds_what_is_read(night, bands, tmp_path, capsys):
    model = engram.load_model(bands)
    fif(tmp_path / "fast_raw.fif", signals(9, 250), sfreq=250)
    assert ((model.predict(tmp_path / "fast_raw.fif")["class"] == "closed") == CLOSED).all()
    apply(capsys, bands, tmp_path / "fast_raw.fif", "-o", tmp_path / "out")
    assert "eeg from 250 to 100 samples per second" in (tmp_path / "out/summary.html").read_text()
    fif(tmp_path / "slow_raw.fif", signals(9, 50), sfreq=50)
    with pytest.raises(InputError, match=r"50 samples per second .* to 25 Hz, .* up to 30 Hz"):
        model.predict(tmp_path / "slow_raw.fif")


def test_a_file_that_cannot_be_used_is_one_line_and_others_go_on(night, bands, tmp_path, capsys):
    files = tmp_path / "in"
    files.mkdir()
    (files / "damaged.edf").write_bytes(b"0       nothing")
    (files / "empty").mkdir()
    fif(files / "back_raw.fif", signals(1)[1:], names=("O1",))
    fif(files / "good_raw.fif", signals(1))
    store = night.path(night.plan.store("night", "s1", "spectrogram/bands"))
    (tmp_path / "cut.h5").write_bytes(store.read_bytes()[:-500])
    given = [tmp_path / "cut.h5", files, files / "empty", tmp_path / "nowhere.edf"]
    status, _, err = apply(capsys, bands, *given, "-o", tmp_path / "out")
    assert status == 1
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 6
    assert re.search(r"error: \S+cut\.h5: not a readable store", err)
    assert re.search(r"error: \S+empty: no recording in this folder; those of eeg end in", err)
    assert re.search(r"error: \S+nowhere\.edf: no such file", err)
    assert re.search(r"error: \S+back_raw\.fif: no channel Fp1; there is O1", err)
    assert re.search(r"error: \S+damaged\.edf: ", err)
    assert lines[-1] == "error: 5 of 6 cannot be used; each is said above"
    assert set(pd.read_csv(tmp_path / "out/predictions.csv")["recording"]) == {"good_raw"}
    status, _, err = apply(capsys, bands, files / "empty", "-o", tmp_path / "two")
    assert status == 1
    assert "no recording in this folder" in err.splitlines()[-1]


def test_what_is_no_model_for_recordings_is_refused(night, bands, tmp_path, capsys):
    for given, words in ((night.new, "is no model that Engram wrote"), ("x", "no such file")):
        status, _, err = apply(capsys, given, night.new, "-o", tmp_path / "out")
        assert status == 1
        assert words in err
    apply(capsys, bands, night.new, "-o", tmp_path / "out")
    other = tmp_path / "other.safetensors"
    other.write_bytes(bands.read_bytes().replace(b"fitted again", b"fitted AGAIN"))
    status, _, err = apply(capsys, other, night.new, "-o", tmp_path / "out")
    assert status == 1
    assert re.search(r"out: holds results of another model, \S+bands\.safetensors; name", err)
    status, _, err = apply(capsys, bands, night.new, "-o", tmp_path / "b", "--set", "furlong=1")
    assert "has no option 'furlong'; there is " in err
    odd = ["--set", "types={O1: ecg}", "--set", "unit"]
    assert "write OPTION=VALUE" in apply(capsys, bands, night.new, "-o", tmp_path / "b", *odd)[2]


def test_stores_of_features_and_of_views_are_taken_too(night, bands, reference, tmp_path, capsys):
    view, features = (
        night.path(night.plan.store("again", "new", one))
        for one in ("spectrogram", "spectrogram/bands")
    )
    for path in (view, features):
        status, _, _ = apply(capsys, bands, path, "-o", tmp_path / path.parent.name)
        assert status == 0
        table = pd.read_csv(tmp_path / path.parent.name / "predictions.csv")
        np.testing.assert_allclose(table["p_closed"], reference["p_closed"], rtol=1e-5)


def test_weights_are_those_that_the_model_was_fitted_with(night, tmp_path, capsys):
    model = night.model("vit")
    night.render("again", "new", "spectrogram")
    features = night.extract("again", "new", "spectrogram/vit")
    expected = engram.load_model(model).predict(features)
    table = engram.load_model(model).predict(night.new)
    np.testing.assert_allclose(table["p_closed"], expected["p_closed"], atol=1e-6)
    weights = night.folder / "w.safetensors"
    kept = weights.read_bytes()
    try:
        other = timm.create_model("test_vit.r160_in1k", num_classes=0).state_dict()
        save_file({name: 1.1 * values for name, values in other.items()}, weights)
        _, _, err = apply(capsys, model, night.new, "-o", tmp_path / "out")
        assert re.search(r"w\.safetensors: is not what vit\.safetensors .* `weights_sha256`", err)
        weights.unlink()
        _, _, err = apply(capsys, model, night.new, "-o", tmp_path / "out")
        assert re.search(r"w\.safetensors: the weights of vit, .* are not there", err)
    finally:
        weights.write_bytes(kept)


# ---- files ------------------------------------------------------------------------------


def test_a_folder_holds_recordings_and_their_parts_are_none(tmp_path):
    for name in ("a/x.vhdr", "a/x.vmrk", "a/x.eeg", "b/x.edf", "b/.hidden.edf", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("DataFile=x.eeg\nMarkerFile=x.vmrk\n")
    (tmp_path / "c.ds").mkdir()
    (tmp_path / "c.ds/c.edf").write_text("")
    for name in ("long_raw.fif", "long_raw-1.fif", "long_raw-2.fif"):
        (tmp_path / name).write_text("")
    named, failed = found.recordings([tmp_path], ["eeg"])
    assert failed == {}
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in named.items()} == {
        "x.vhdr": "a/x.vhdr", "x.edf": "b/x.edf", "c": "c.ds", "long_raw": "long_raw.fif",
    }  # fmt: skip
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x.edf").write_text("")
    named, _ = found.recordings([tmp_path / "b", tmp_path / "d"], ["eeg"])
    assert [*named] == ["b_x.edf", "d_x.edf"]


def test_a_simulated_file_says_how_long_its_scans_are(tmp_path):
    dataset = {"kind": "simulated_vigilance", "scans": 3, "duration": 62.0}
    download(tmp_path / "u.npz", {"dataset": dataset, "row": {"unit": "u", "file": "u.npz"}})
    told = simulated_vigilance.told_by(tmp_path / "u.npz")
    assert told == {"scans": 3, "duration": 62.0}
    (tmp_path / "v.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"v\.npz: not what the simulation"):
        simulated_vigilance.told_by(tmp_path / "v.npz")


# ---- in the workflow --------------------------------------------------------------------


def planned(tmp_path, **asked):
    """The plan of the vocabulary with one entry under `predict`, checked."""
    config = merge(read_yaml("config/config.yaml"), read_yaml("config/backbones.yaml"))
    (tmp_path / "a.edf").write_bytes(b"")
    files = {"model": "eeg_bandpower", "files": str(tmp_path)}
    config["predict"] = {"night": files | asked}
    configuration.check(config, SCHEMA)
    return Plan(config)


def test_a_study_applies_its_models_to_recordings(tmp_path):
    plan = planned(tmp_path)
    assert plan.predictions() == [
        "results/demo/applied/night/predictions.csv", "results/demo/applied/night/summary.html",
    ]  # fmt: skip
    assert plan.predicting_model("night") == "results/demo/models/eeg_bandpower.safetensors"
    assert plan.predicting_card("night") == ["results/demo/models/eeg_bandpower.json"]
    assert plan.predicted_recordings("night") == [str(tmp_path / "a.edf")]
    assert plan.spec("predict", predicted="night") == {"files": [str(tmp_path)], "options": {}}
    assert plan.predicting_weights("night") == []
    (tmp_path / "w.safetensors").write_bytes(b"")
    modules = plan.modules("predict", predicted="night")
    assert {"engram.views.multitaper", "engram.heads.linear", "engram.datasets.roi_series"} < {
        *modules
    }
    assert modules[-1] == "engram.backbones.bandpower"
    assert plan.gpus("predict", predicted="night") == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"model": "eeg_bandpowr"}, r"predict\.night\.model: .*'eeg_bandpowr'.*eeg_bandpower"),
        ({"files": []}, "predict"),
        ({"file": "x"}, r"predict\.night.*file"),
    ],
)
def test_what_is_wrong_under_predict_is_said(tmp_path, asked, words):
    with pytest.raises(InputError, match=words):
        planned(tmp_path, **asked)


def test_recordings_that_are_not_there_are_named(tmp_path):
    (tmp_path / "none").mkdir()
    for files, words in (("x.edf", "no file .*x.edf"), ("none", "the folder .*none is empty")):
        plan = planned(tmp_path, files=[str(tmp_path / files)])
        with pytest.raises(InputError, match=rf"predict\.night\.files: {words}"):
            plan.predicted_recordings("night")


# ---- series of regions ------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Six subjects, of whom two regions go together in half, and the file of their model."""
    folder = tmp_path_factory.mktemp("scans")
    lines = ["subject,scan,file,side"]
    for i in range(6):
        table(folder / f"s{i}.csv", i, together=i % 2)
        lines.append(f"s{i},rest,s{i}.csv,{('apart', 'together')[i % 2]}")
    (folder / "table.csv").write_text("\n".join(lines))
    given = {"kind": "roi_series", "folder": str(folder), "manifest": "table.csv", "tr": 2.0}
    usual = {"dataset": "rest", "head": "linear", "seeds": 1, "baseline": "none"}
    config = {
        "datasets": {"rest": given | {"windows": "scan"}},
        "views": {"rois": {"kind": "timeseries"},
                  "side": {"kind": "fact", "column": "side", "classes": ["apart", "together"]}},
        "backbones": {"fc": {"kind": "connectome"}},
        "heads": {"linear": {"kind": "linear", "c": [1.0]}},
        "experiments": {"fc": usual | {"x": "rois/fc", "y": "side"}},
    }  # fmt: skip
    study = Study(folder, config)
    for i in range(6):
        study.render("rest", f"s{i}", "side")
        study.render("rest", f"s{i}", "rois")
        study.extract("rest", f"s{i}", "rois/fc")
    return study, study.train("fc")[0]


def table(path, seed, together, names="abc", frames=60):
    series = np.random.default_rng(seed).normal(size=(80, 4))
    series[:, 1] += 2 * together * series[:, 0]
    found = pd.DataFrame(series[:frames], columns=[*"abcd"])[[*names]]
    found.to_csv(path, index=False)
    return path


def test_a_table_of_series_is_read_as_those_of_the_training(scans, tmp_path):
    study, path = scans
    model = engram.load_model(path)
    expected = model.predict(study.path(study.plan.store("rest", "s1", "rois/fc")))
    columns = ["class", "p_apart", "p_together", "spread", "unlike"]
    for name, how in {"same": {}, "more": {"names": "cdba"}, "longer": {"frames": 75}}.items():
        said = model.predict(table(tmp_path / f"{name}.csv", 1, 1, **how))
        np.testing.assert_allclose(
            said[columns[1:]].astype(float), expected[columns[1:]].astype(float), rtol=1e-4
        )
    with pytest.raises(InputError, match=r"short/recording: fmri lasts 80 s, but .* of 120 s"):
        model.predict(table(tmp_path / "short.csv", 1, 1, frames=40))
    with pytest.raises(InputError, match=r"less/recording: has no channel c, .* there is a, b"):
        model.predict(table(tmp_path / "less.csv", 1, 1, names="ab"))
