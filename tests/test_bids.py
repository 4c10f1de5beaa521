"""Manifests of BIDS folders that mne-bids wrote, and what is read by them, against mne-bids."""

import csv
import warnings

import mne
import mne_bids
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from engram import datasets
from engram.cli import main
from engram.cli.manifests import bids
from engram.errors import InputError
from engram.planning.plan import Plan
from engram.readers import bids_events

SFREQ, TR, FRAMES = 100.0, 2.0, 12
PEOPLE = "participant_id\tage\tsex\nsub-01\t34\tF\nsub-02\tn/a\tM\n"


def write_eeg(root, subject, run=None, session=None, events=True):
    info = mne.create_info(["O1", "O2", "HEOG"], SFREQ, ["eeg", "eeg", "eog"])
    values = np.random.default_rng(int(subject)).normal(0, 2e-5, (3, 4000))
    raw = mne.io.RawArray(values, info, verbose="error")
    onsets = [3.5 + TR * i for i in range(FRAMES)]
    if events:
        raw.set_annotations(
            mne.Annotations([*onsets, 20], [0] * FRAMES + [5], ["R128"] * FRAMES + ["eyes"])
        )
    raw.info["line_freq"] = 50
    path = mne_bids.BIDSPath(
        subject=subject, session=session, task="rest", run=run, datatype="eeg", root=root
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mne_bids.write_raw_bids(
            raw, path, allow_preload=True, format="BrainVision", overwrite=True, verbose="error"
        )
    return values


def write_fmri(folder, subject, stem="task-rest", session=None, bold=True, space="MNI"):
    func = folder / f"sub-{subject}" / (f"ses-{session}" if session else "") / "func"
    func.mkdir(parents=True, exist_ok=True)
    name = f"sub-{subject}_{f'ses-{session}_' if session else ''}{stem}"
    values = np.random.default_rng(int(subject)).normal(100, 1, (3, 4, 2, FRAMES))
    if bold:
        path = func / f"{name}_space-{space}_desc-preproc_bold.nii.gz"
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), path)
        confounds = func / f"{name}_desc-confounds_timeseries.tsv"
        pd.DataFrame({"csf": values[0, 0, 0]}).to_csv(confounds, sep="\t", index=False)
        return path
    path = func / f"{name}_space-{space}_seg-own_timeseries.tsv"
    table = pd.DataFrame(values[0, :2, 0].T, columns=["Thalamus", "Cuneus"])
    table.to_csv(path, sep="\t", index=False)
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Three subjects: one of both, one with fMRI of both runs, one with EEG alone."""
    root = tmp_path_factory.mktemp("bids")
    values = {subject: write_eeg(root, subject, run="01") for subject in ("01", "02", "03")}
    (root / "participants.tsv").write_text(PEOPLE)
    derived = root / "derivatives/fmriprep"
    write_fmri(derived, "01", "task-rest_run-1", bold=False)
    write_fmri(derived, "02", "task-rest_run-1", bold=False)
    write_fmri(derived, "02", "task-rest_run-2", bold=False)
    (root / "sub-01/func").mkdir()
    nib.save(
        nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)),
        root / "sub-01/func/sub-01_task-rest_run-1_bold.nii.gz",
    )
    return root, values


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_eeg_and_derived_tables_of_one_run_are_one_line(both, tmp_path, capsys):
    root, _ = both
    assert main(["manifest", "bids", str(root), "-o", str(tmp_path / "m.csv")]) is None
    found = lines(tmp_path / "m.csv")
    named = [(one["subject"], one["scan"], bool(one["eeg"]), bool(one["fmri"])) for one in found]
    assert named == [
        ("sub-01", "task-rest_run-1", True, True), ("sub-02", "task-rest_run-1", True, True),
        ("sub-02", "task-rest_run-2", False, True), ("sub-03", "task-rest_run-1", True, False),
    ]  # fmt: skip
    assert found[0]["eeg"] == "sub-01/eeg/sub-01_task-rest_run-01_eeg.vhdr"
    assert [(one["age"], one["sex"]) for one in found] == [
        ("34", "F"), ("n/a", "M"), ("n/a", "M"), ("n/a", "n/a"),
    ]  # fmt: skip
    said = capsys.readouterr().err
    for line in (
        "3 subjects, 3 sessions, 4 scans: 2 of EEG and fMRI, 1 of EEG alone, 1 of fMRI alone",
        "facts of participants.tsv: age, sex",
        "not in participants.tsv, so that nothing is known of them: sub-03",
        "left out: 1 files",
        "sub-01_task-rest_run-1_bold.nii.gz: raw BOLD; preprocess it",
        "kind: paired",
    ):
        assert line in said


def test_what_is_read_by_the_manifest_is_what_mne_bids_reads(both, tmp_path):
    root, _ = both
    bids(root, tmp_path / "m.csv")
    dataset = {
        "kind": "paired", "folder": str(root), "manifest": str(tmp_path / "m.csv"),
        "windows": {"length": 10, "step": 5}, "triggers": "R128", "eeg": {"eog": ["HEOG"]},
        "fmri": {"kind": "roi_series", "tr": TR}, "carry": {"age": "number"},
    }  # fmt: skip
    plan = Plan({"datasets": {"here": dataset}, "views": {"eeg": {"kind": "multitaper"}}})
    spec = plan.spec("render", dataset="here", unit="sub-01", view="eeg")
    (found,) = datasets.read(spec, plan.raw("here", "sub-01"))
    path = mne_bids.BIDSPath(subject="01", task="rest", run="01", datatype="eeg", root=root)
    raw = mne_bids.read_raw_bids(path, verbose="error")
    cut = raw.get_data(["O1", "O2"], units="uV")[:, 350 : 350 + round(FRAMES * TR * SFREQ)]
    np.testing.assert_allclose(found.signals["eeg"].data, cut, atol=0.1)
    assert found.signals["eeg"].channels == ("O1", "O2")
    assert found.facts == {"age": "34"}
    of = found.events
    read = {(round(on, 3), dur, text) for on, dur, text in of.itertuples(index=False)}
    asked = {(round(a["onset"] - 3.5, 3), a["duration"], a["description"]) for a in raw.annotations}
    assert len(asked) == FRAMES + 1
    assert asked <= read
    assert (of["description"] == "R128").sum() == FRAMES  # not once more by the markers of the file


def test_bold_images_come_with_their_confounds_and_one_space(tmp_path, capsys):
    for subject in ("01", "02"):
        for space in ("MNI", "T1w"):
            write_fmri(tmp_path, subject, "task-rest", session="a", space=space)
    with pytest.raises(InputError, match="several spaces, MNI, T1w; choose one with --space"):
        bids(tmp_path)
    events = tmp_path / "sub-01/ses-a/func/sub-01_ses-a_task-rest_events.tsv"
    events.write_text("onset\tduration\ttrial_type\n2\t8\tface\n")
    bids(tmp_path, tmp_path / "m.csv", space="MNI")
    found = lines(tmp_path / "m.csv")
    assert [one["scan"] for one in found] == ["ses-a_task-rest"] * 2
    stem = "sub-01/ses-a/func/sub-01_ses-a_task-rest"
    assert found[0]["fmri"] == f"{stem}_space-MNI_desc-preproc_bold.nii.gz"
    assert found[0]["confounds"] == f"{stem}_desc-confounds_timeseries.tsv"
    assert found[0]["session"] == "a"
    assert [one["labels"] for one in found] == [f"{stem}_events.tsv", ""]
    said = capsys.readouterr().err
    assert "no participants.tsv" in said
    assert "left out: 2 files" in said
    assert "T1w_desc-preproc_bold.nii.gz: in space T1w" in said
    assert "kind: bold_images" in said


def test_of_several_tables_of_a_scan_one_is_chosen_by_its_name(tmp_path, capsys):
    write_fmri(tmp_path, "01", "task-rest_res-2", session="a", bold=False)
    write_fmri(tmp_path, "01", "task-rest_res-4", session="a", bold=False)
    write_fmri(tmp_path, "02", "task-rest", bold=False)
    with pytest.raises(
        InputError, match="two files of one scan; choose with --match what the name"
    ):
        bids(tmp_path)
    assert main(["manifest", "bids", str(tmp_path), "--match", "res-4"]) is None
    found = capsys.readouterr()
    (line,) = found.out.splitlines()[1:]
    assert "res-4" in line
    assert "res-2_space-MNI_seg-own_timeseries.tsv: has no res-4 in its name" in found.err
    assert "sub-02_task-rest_space-MNI_seg-own_timeseries.tsv: belongs to no session" in found.err


def test_what_mne_bids_pipeline_cleaned_is_listed_and_what_it_had_before_is_not(tmp_path, capsys):
    (tmp_path / "sub-01/eeg").mkdir(parents=True)
    for name in ("proc-filt_raw.fif", "proc-clean_raw.fif", "proc-clean_epo.fif"):
        (tmp_path / f"sub-01/eeg/sub-01_task-rest_{name}").touch()
    bids(tmp_path)
    found = capsys.readouterr()
    assert found.out.splitlines() == [
        "subject,scan,eeg,task",
        "sub-01,task-rest,sub-01/eeg/sub-01_task-rest_proc-clean_raw.fif,rest",
    ]
    assert "sub-01_task-rest_proc-filt_raw.fif: not cleaned (proc-clean)" in found.err
    assert "kind: eeg_recordings" in found.err


def test_what_cannot_be_a_manifest_is_one_line(both, tmp_path, capsys):
    root, _ = both
    assert main(["manifest", "bids", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no BIDS folder, for there is no")
    (tmp_path / "m.csv").write_text("mine")
    assert main(["manifest", "bids", str(root), "-o", str(tmp_path / "m.csv")]) == 1
    assert "m.csv: is there already; name another, or overwrite it with --force" in (
        capsys.readouterr().err
    )
    assert (tmp_path / "m.csv").read_text() == "mine"
    assert not main(["manifest", "bids", str(root), "-o", str(tmp_path / "m.csv"), "--force"])
    assert len(lines(tmp_path / "m.csv")) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: write_fmri(root, "01"), "BOLD images, .* and tables of .* --fmri bold"),
        (lambda root: write_fmri(root, "01", "task-rest_res-2", bold=False), "two files of one"),
        (lambda root: (root / "participants.tsv").write_text("id\nsub-01\n"), "no column partici"),
        (lambda root: (root / "participants.tsv").write_text(PEOPLE + "sub-01\t1\tF\n"),
         "participants.tsv, line 4: participant 01 stands there twice"),
    ],
)  # fmt: skip
def test_folders_that_say_two_things_are_refused(tmp_path, change, message):
    write_fmri(tmp_path, "01", bold=False)
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        bids(tmp_path)


def test_events_of_bids_are_read_by_their_columns(tmp_path):
    path = tmp_path / "e.tsv"
    path.write_text("onset\tduration\ttrial_type\n1.5\tn/a\ta\n-2\t1\tb\n3\t2\tn/a\n4\t2\tc\n")
    assert bids_events.read(path) == [(1.5, 0.0, "a"), (4.0, 2.0, "c")]
    path.write_text("onset\tduration\tvalue\n1\t0\t7\n")
    assert bids_events.read(path) == [(1.0, 0.0, "7")]
    path.write_text("onset\tduration\n1\t0\n")
    assert bids_events.read(path) == []
    path.write_text("onset\tvalue\nsoon\t1\n")
    with pytest.raises(InputError, match="e.tsv, line 2: 'soon' is no number of seconds"):
        bids_events.read(path)
    path.write_text("start\tvalue\n1\t1\n")
    with pytest.raises(InputError, match="e.tsv: no column `onset`"):
        bids_events.read(path)
