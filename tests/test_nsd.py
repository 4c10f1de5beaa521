"""Simulated NSD through the stages, against the published files read and averaged by hand."""

import dataclasses
import json
import tracemalloc
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from nsd_study import CONFIG, DATASET, Study
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import loadmat
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from engram import datasets, store
from engram.datasets import nsd, simulated_nsd
from engram.errors import InputError
from engram.planning import configuration
from engram.planning.plan import Plan
from engram.recording import Responses
from engram.views import betas

ROOT = Path(__file__).parents[1]
SESSIONS, TRIALS = 8, 60


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("nsd"))


@pytest.fixture(scope="module")
def by_hand(study):
    """int16 (trial, voxel) of subj01, stimulus of each trial from 0, and the shared ones."""
    raw = study.folder / "resources/raw/nsd"
    study.raw("subj01")
    design = loadmat(raw / "nsd_expdesign.mat")
    inside = nibabel.load(raw / "subj01/roi/nsdgeneral.nii.gz").get_fdata() > 0
    trials = []
    for number in range(1, SESSIONS + 1):
        with h5py.File(raw / f"subj01/betas/betas_session{number}.hdf5") as file:
            trials.append(file["betas"][:].transpose(0, 3, 2, 1)[:, inside])
    seen = [int(design["subjectim"][0, int(i) - 1]) - 1 for i in design["masterordering"][0]]
    shared = {int(i) - 1 for i in design["sharedix"][0]}
    return np.concatenate(trials), np.array(seen), shared


def averages(trials, seen, shared):
    """{(split, id): mean over its trials}, in the order that rows have."""
    found = {}
    for split in ("train", "test"):
        for i in sorted({i for i in seen if (i in shared) == (split == "test")}):
            found[split, i] = trials[seen == i].mean(0)
    return found


# ---- betas --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "protocol", "sessions"), [("betas", "nsd40", 8), ("betas37", "nsd37", 5)]
)
def test_rows_are_images_averaged_and_z_scored_by_training_images(
    study, by_hand, view, protocol, sessions
):
    trials, seen, shared = by_hand
    n = sessions * TRIALS
    expected = averages(trials[:n] / 300, seen[:n], shared)
    found = study.render("subj01", view)
    assert found.table.index.tolist() == [f"subj01/{s}/nsd-{i:05d}" for s, i in expected]
    assert found.table["stimulus"].tolist() == [f"{s}/nsd-{i:05d}" for s, i in expected]
    assert found.table["split"].tolist() == [split for split, _ in expected]
    assert found.table["repetitions"].tolist() == [(seen[:n] == i).sum() for _, i in expected]
    values = np.array(list(expected.values()))
    train = values[[split == "train" for split, _ in expected]]
    assert found.dtype == np.float32
    assert_allclose(found[:], (values - train.mean(0)) / train.std(0, ddof=1), atol=2e-6)
    header = found.header
    assert header["protocol"] == protocol
    assert header["zscore"] == "each voxel over the averages of the training images"
    assert (header["recorded"]["sessions"], header["recorded"]["trials"]) == (sessions, n)
    assert header["simulated"] is True


@pytest.mark.parametrize("zscore", ["session", "session_all"])
def test_sessions_are_z_scored_before_repetitions_are_averaged(study, by_hand, zscore):
    trials, seen, shared = by_hand
    scored = np.empty(trials.shape)
    for at in np.split(np.arange(len(trials)), SESSIONS):
        used = at if zscore == "session_all" else [i for i in at if seen[i] not in shared]
        scored[at] = (trials[at] - trials[used].mean(0)) / trials[used].std(0, ddof=1)
    found = study.render("subj01", "betas", zscore=zscore)
    assert_allclose(found[:], list(averages(scored, seen, shared).values()), atol=2e-6)
    assert ("test trials included" in found.header["zscore"]) == (zscore == "session_all")
    assert found.header["unit"] == "SD of the session"


def test_without_z_scores_rows_are_percent_signal_change(study, by_hand):
    expected = averages(by_hand[0] / 300, *by_hand[1:])
    found = study.render("subj01", "betas", zscore="none")
    assert_allclose(found[:], list(expected.values()), rtol=2e-7, atol=1e-9)
    assert found.header["unit"] == "percent signal change"


def test_test_trials_move_no_training_row(study, by_hand):
    """Other betas of shared images leave every training row as it was."""
    given = study.read("subj01")
    test = (given.trials["split"] == "test").to_numpy()

    def other(number):
        at = given.trials["session"] == number
        return np.where(test[at, None], given.sessions[number] // 2 + 40, given.sessions[number])

    moved = Responses(
        **{**vars(given), "sessions": {number: other(number) for number in given.sessions}}
    )
    for zscore in ("training", "session"):
        options = betas.Options("nsd40", zscore)
        one, two = (betas.render(r, None, options) for r in (given, moved))
        train = (one.table["split"] == "train").to_numpy()
        assert_array_equal(one.array[train], two.array[train])
        assert not np.isclose(one.array[~train], two.array[~train]).all()


def test_single_trials_are_as_published(study, by_hand):
    trials, seen, shared = by_hand
    found = study.render("subj01", "betas", average=False, zscore="none")
    assert found.dtype == np.int16
    assert_array_equal(found[:], trials)
    counts = {}
    for i, name in zip(seen, found.table.index, strict=True):
        counts[i] = counts.get(i, 0) + 1
        split = "test" if i in shared else "train"
        assert name == f"subj01/{split}/nsd-{i:05d}/repetition-{counts[i]}"
    assert found.table["session"].tolist() == np.repeat(np.arange(1, 9), TRIALS).tolist()
    with pytest.raises(InputError, match="set `zscore: none` with `average: false`"):
        study.render("subj01", "betas", average=False)


def test_nifti_and_hdf5_give_the_same_rows(study, tmp_path):
    files = [file.replace(".hdf5", ".nii.gz") for file in DATASET["files"]]
    found = Study(tmp_path, files=files).render("subj02", "betas37")
    expected = study.render("subj02", "betas37")
    assert_array_equal(found[:], expected[:])
    assert found.table.equals(expected.table)


def test_memory_is_that_of_the_rows_and_a_session():
    """Twenty sessions of 200 trials, whose trials together are five times the rows."""
    sessions, trials, p = 20, 200, 500
    stimuli = np.random.default_rng(0).permutation(np.repeat(np.arange(400), 10))

    class Sessions(dict):
        def __missing__(self, number):
            rng = np.random.default_rng(number)
            return rng.integers(-999, 999, (trials, p), np.int16)

    given = Responses(
        "subj01",
        Sessions(dict.fromkeys(())),
        pd.DataFrame({
            "session": np.repeat(np.arange(1, sessions + 1), trials),
            "split": np.where(stimuli < 40, "test", "train"),
            "stimulus": [f"x/{i:03d}" for i in stimuli],
        }),
        pd.DataFrame(index=[f"subj01/voxel-{i}" for i in range(p)]),
        {"nsd40": sessions}, 300, "percent signal change",
    )  # fmt: skip
    Sessions.__contains__ = lambda self, number: 1 <= number <= sessions
    betas.render(given, None, betas.Options("nsd40"))  # imports and caches do not count
    tracemalloc.start()
    rows = betas.render(given, None, betas.Options("nsd40"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    block = betas.BLOCK * p * 8
    assert peak < rows.array.nbytes + 3 * block + 3 * 2 * trials * p
    assert peak < 0.8 * 2 * sessions * trials * p + rows.array.nbytes


def test_patterns_of_regions_are_their_voxels_by_hand(study, capsys):
    """From the files of labels; V3 is empty, and words have no file in this study."""
    found = study.render("subj01", "betas", regions=True)
    plain = study.render("subj01", "betas")
    images = len(plain)
    assert_array_equal(found[:images], plain[:])
    raw = study.folder / "resources/raw/nsd/subj01/roi"
    labels = {
        name: nibabel.load(raw / f"{name}.nii.gz").get_fdata().astype(int)
        for name in ("nsdgeneral", "prf-visualrois", "floc-faces")
    }
    inside = labels["nsdgeneral"] > 0
    own = {
        "V1": np.isin(labels["prf-visualrois"], (1, 2))[inside],
        "V2": np.isin(labels["prf-visualrois"], (3, 4))[inside],
        "hV4": (labels["prf-visualrois"] == 7)[inside],
        "faces": (labels["floc-faces"] > 0)[inside],
    }
    table = found.table.iloc[images:]
    assert [*table["concept"]] == [
        name for region in own for name in (region, f"as many voxels as {region}")
    ]
    assert set(table["exclude"]) == set(table["split"]) == {"region"}
    array = found[images:]
    for i, (region, expected) in enumerate(own.items()):
        assert_array_equal(array[2 * i], expected)
        assert array[2 * i + 1].sum() == expected.sum()
        assert (array[2 * i + 1] != expected).any()
        assert table.index[2 * i] == f"subj01/region/{region}"
    facts = found.header["recorded"]["regions"]
    assert facts["voxels"] == {name: one.sum() for name, one in own.items()}
    assert facts["small"] == {"V3": 0}
    assert facts["absent"] == ["prf-eccrois", "floc-words", "floc-places", "floc-bodies"]
    assert ["V1", "faces", (own["V1"] & own["faces"]).sum()] in facts["share"]
    told = capsys.readouterr().out
    assert "subj01: region V3 has 0 voxels, fewer than 20; left out" in told
    assert "regions V1 and faces share" in told


def test_patterns_of_regions_need_z_scores_and_voxels(study):
    with pytest.raises(InputError, match="set `zscore: training` with `regions: true`"):
        study.render("subj01", "betas", regions=True, zscore="session")
    responses = study.read("subj01")
    few = responses.voxels.drop(columns=["prf-visualrois", "floc-faces"])
    options = betas.Options("nsd40", regions=True)
    with pytest.raises(InputError, match="no region has 20 voxels"):
        betas.render(dataclasses.replace(responses, voxels=few), None, options)


# ---- voxels -------------------------------------------------------------------------------


def test_variances_are_those_of_an_analysis_of_variance(study, by_hand):
    trials, seen, shared = by_hand
    groups = [trials[seen == i] / 300 for i in sorted(set(seen) - shared)]
    n, k = sum(map(len, groups)), len(groups)
    means = np.array([group.mean(0) for group in groups])
    sizes = np.array(list(map(len, groups)))[:, None]
    within = sum(((group - group.mean(0)) ** 2).sum(0) for group in groups) / (n - k)
    grand = np.concatenate(groups).mean(0)
    among = (sizes * (means - grand) ** 2).sum(0) / (k - 1)
    each = (n - (sizes**2).sum() / n) / (k - 1)
    signal = np.maximum(among - within, 0) / each
    found = study.render("subj01", "voxels")
    assert_allclose(found.table["noise"], np.sqrt(within), rtol=1e-6)
    assert_allclose(found.table["signal"] ** 2, signal, atol=1e-6)
    assert_allclose(found[:], signal / (signal + within / 3), atol=1e-5)
    assert found.table["exclude"].eq("").all()


def test_signal_and_noise_are_those_of_the_simulation(study):
    options = simulated_nsd.Options()
    found = study.render("subj01", "voxels").table
    pattern = simulated_nsd.patterns("subj01", options)
    true = (simulated_nsd.code(options) @ pattern).var(0)
    assert_allclose((found["noise"] ** 2).mean(), 1, rtol=0.02)
    assert_allclose((found["signal"] ** 2).mean(), true.mean(), rtol=0.15)
    assert np.corrcoef(found["signal"] ** 2, true)[0, 1] > 0.8


def test_unequal_repetitions_count_in_the_ceiling(study, by_hand):
    _, seen, shared = by_hand
    found = study.render("subj01", "voxels", protocol="nsd37")
    seen = seen[: 5 * TRIALS]
    share = np.mean([1 / (seen == i).sum() for i in set(seen) & shared])
    signal, noise = found.table["signal"] ** 2, found.table["noise"] ** 2
    assert_allclose(found[:], signal / (signal + noise * share), atol=1e-5)


def test_voxels_know_their_place_and_regions(study):
    found = study.render("subj02", "voxels").table
    raw = study.folder / "resources/raw/nsd/subj02/roi"
    general = nibabel.load(raw / "nsdgeneral.nii.gz")
    faces = nibabel.load(raw / "floc-faces.nii.gz").get_fdata()
    at = np.argwhere(general.get_fdata() > 0)
    assert_allclose(
        found[["x", "y", "z"]], nibabel.affines.apply_affine(general.affine, at), atol=1e-5
    )
    assert found["floc-faces"].tolist() == [faces[tuple(xyz)] for xyz in at]
    assert set(found["prf-visualrois"]) - {5, 6} == {0, 1, 2, 3, 4, 7}
    flat = np.ravel_multi_index(at.T, faces.shape)
    assert found.index.tolist() == [f"subj02/voxel-{i:07d}" for i in flat]


# ---- stimuli ------------------------------------------------------------------------------


def test_every_row_finds_its_photograph_and_its_captions(study):
    pictures, captions = (study.render("stimuli", view) for view in ("photograph", "caption"))
    with h5py.File(study.folder / "resources/raw/nsd/nsd_stimuli.hdf5") as file:
        brick = file["imgBrick"][:]
    ids = [int(name[-5:]) for name in pictures.table.index]
    assert ids != sorted(ids)
    assert len(ids) == len(brick)
    assert_array_equal(pictures[:], brick[ids])
    options = simulated_nsd.Options()
    for name, text in captions.table["caption"].items():
        words = simulated_nsd.looks(options)[1][int(name[-5:])]
        assert text == "A {colour} {shape} at the {place}.".format(**words)
    for unit in study.plan.units("nsd"):
        rows = study.render(unit, "betas").table
        for stimuli in (pictures, captions):
            here, there = store.align(rows, stimuli.table, link="stimulus")
            assert len(here) == len(rows)
            splits = stimuli.table["split"].to_numpy()[there]
            assert splits.tolist() == rows["split"].tolist()


def test_all_captions_of_a_photograph_are_lines_of_one_text(study, tmp_path):
    found = study.render("stimuli", "caption", every=True)
    texts = [row.tobytes().rstrip(b"\0").decode() for row in found[:]]
    ids = [int(name[-5:]) for name in found.table.index]
    assert [len(text.split("\n")) for text in texts] == [5 if i % 7 else 3 for i in ids]
    assert found.header["captions"] == "all, one a line"
    shared = {"stimuli": ["nsd_expdesign.mat", "nsd_stimuli.hdf5", nsd.CURATED]}
    curated = Study(tmp_path, shared=shared).render("stimuli", "caption", every=True)
    assert_array_equal(curated[:], found[:])


def test_stimuli_are_those_of_the_sessions_and_subjects(study, by_hand):
    _, seen, shared = by_hand
    changed = Study(study.folder, sessions=["1", "2"], subjects=["subj01"])
    found = changed.read("stimuli").table
    shown = set(seen[: 2 * TRIALS])
    assert {int(name[-5:]) for name in found.index} == shown
    assert (found["split"] == "test").sum() == len(shown & shared)


# ---- what can be told from them -----------------------------------------------------------


@pytest.mark.parametrize("view", ["betas", "betas37"])
def test_ridge_regression_reaches_the_predicted_interval(study, view):
    features = study.extract("photograph/pixels")
    rows = study.render("subj01", view)
    here, there = store.align(rows.table, features.table, link="stimulus")
    x, y = rows[here], features[there]
    y = (y - y.mean(0)) / y.std(0)
    train = rows.table["split"].to_numpy()[here] == "train"
    attainable = rows.header["attainable"][rows.header["protocol"]]
    model = RidgeCV(alphas=np.logspace(-1, 6, 15)).fit(x[train], y[train])
    told = model.predict(x[~train])
    errors, spread = ((y[~train] - one) ** 2 for one in (told, y[train].mean(0)))
    reached = (1 - errors.sum(0) / spread.sum(0)).mean()
    assert attainable["r2"]["low"] < reached < attainable["r2"]["high"]
    r = np.corrcoef(told, y[~train])[: len(told), len(told) :]
    two_way = (r < np.diag(r)[:, None]).sum(1).mean() / (len(r) - 1)
    assert attainable["two_way"]["low"] <= two_way <= attainable["two_way"]["high"]
    shuffled = np.random.default_rng(0).permutation(y[train])
    none = RidgeCV(alphas=np.logspace(-1, 6, 15)).fit(x[train], shuffled).predict(x[~train])
    assert r2_score(y[~train], none) < 0.05


# ---- bad input ----------------------------------------------------------------------------


def test_a_session_that_a_protocol_takes_has_to_be_there(study):
    short = Study(study.folder, sessions=["1", "2", "3", "4", "6", "7", "8"])
    told = "protocol nsd37 takes sessions 1 to 5, and session 5 is not there .1 missing."
    with pytest.raises(InputError, match=f"subj01: {told}"):
        short.render("subj01", "betas37")
    first = Study(study.folder, sessions=["1", "2", "3", "4", "5"])
    assert len(first.render("subj01", "betas37"))
    with pytest.raises(InputError, match="sessions 1 to 8, and session 6 is not there .3 missing."):
        first.render("subj01", "voxels")


ONE = {"units": ["subj01"], "subjects": ["subj01"], "sessions": ["1", "2", "3", "4"], "people": 1,
       "planned": 4, "images": 40, "shared_images": 10, "voxels": 60}  # fmt: skip


@pytest.fixture
def own(tmp_path):
    """A smaller study whose files may be damaged."""
    this = Study(tmp_path, **ONE)
    this.raw("subj01")
    return this, tmp_path / "resources/raw/nsd"


def test_constant_voxels_are_left_out_and_named(own):
    this, raw = own
    given = this.read("subj01")
    names, at = given.voxels.index, np.argwhere(given.sessions.mask.volume)
    for number in range(1, 5):
        with h5py.File(raw / f"subj01/betas/betas_session{number}.hdf5", "r+") as file:
            for column in (0, 7):
                x, y, z = at[column]
                file["betas"][:, z, y, x] = -5
            x, y, z = at[9]
            if number < 4:
                file["betas"][:, z, y, x] = 12
    found = this.render("subj01", "betas")
    assert found.header["recorded"]["constant"] == [names[0], names[7]]
    assert found.shape[1] == len(names) - 2
    assert np.isfinite(found[:]).all()
    voxels = this.render("subj01", "voxels").table
    assert voxels.index[voxels["exclude"] == "constant"].tolist() == [names[0], names[7]]
    scored = this.render("subj01", "betas", zscore="session")
    assert np.isfinite(scored[:]).all()
    assert scored.shape == found.shape
    single = this.render("subj01", "betas", zscore="none", average=False)
    assert single.header["recorded"] == found.header["recorded"]


def test_betas_without_any_change_are_refused(study):
    given = study.read("subj01")
    still = dict.fromkeys(given.sessions, np.full((TRIALS, len(given.voxels)), 7, np.int16))
    given = Responses(**{**vars(given), "sessions": still})
    for options in (betas.Options(), betas.Options(average=False, zscore="none")):
        with pytest.raises(InputError, match="subj01: none of 200 voxels changes"):
            betas.render(given, None, options)


def write(path, values, affine=simulated_nsd.AFFINE):
    nibabel.save(nibabel.Nifti1Image(values, affine, dtype=values.dtype), path)


def test_masks_that_do_not_fit_are_refused(own):
    this, raw = own
    path, labels = raw / "subj01/roi/nsdgeneral.nii.gz", np.zeros((10, 11, 9), np.int16)
    write(path, labels)
    with pytest.raises(InputError, match="nsdgeneral.nii.gz: no voxel has a positive label"):
        this.render("subj01", "betas")
    labels[3:5] = 1
    write(path, labels[:, :, :8])
    with pytest.raises(InputError, match=r"visualrois.nii.gz: its shape .* is not that of"):
        this.render("subj01", "betas")
    moved = simulated_nsd.AFFINE.copy()
    moved[1, 3] += 1.8
    write(path, labels, moved)
    with pytest.raises(InputError, match=r"visualrois.nii.gz: its affine .* is not that of"):
        this.render("subj01", "betas")
    for name in ("prf-visualrois", "floc-faces"):
        write(raw / f"subj01/roi/{name}.nii.gz", labels[:, :, :8])
    write(path, labels[:, :, :8])
    with pytest.raises(InputError, match=r"session1.hdf5: it holds int16 \(30, 9, 11, 10\), not"):
        this.render("subj01", "betas")


def test_files_that_end_early_are_refused(own):
    this, raw = own
    this.raw("stimuli")
    for unit, view, name in (
        ("subj01", "betas", "subj01/betas/betas_session3.hdf5"),
        ("stimuli", "photograph", "nsd_stimuli.hdf5"),
        ("stimuli", "caption", "captions_val2017.json"),
    ):
        data = (raw / name).read_bytes()
        (raw / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=rf"{name}: .*(download it|fetch the file) again"):
            this.render(unit, view)
        (raw / name).write_bytes(data)
    (raw / "nsd_stimuli.hdf5").unlink()
    with h5py.File(raw / "nsd_stimuli.hdf5", "w") as file:
        file["imgBrick"] = np.zeros((20, 64, 64, 3), np.uint8)
    with pytest.raises(InputError, match=r"it holds uint8 \(20, 64, 64, 3\), not uint8 \(40, 64"):
        this.render("stimuli", "photograph")


def test_photographs_without_captions_are_refused(own):
    this, raw = own
    this.raw("stimuli")
    without = Study(this.folder, **ONE, shared={"stimuli": DATASET["shared"]["stimuli"][:2]})
    with pytest.raises(InputError, match="stimuli: this dataset has no captions"):
        without.render("stimuli", "caption")
    path = raw / "captions_val2017.json"
    annotations = json.loads(path.read_text())["annotations"]
    lost = annotations[0]["image_id"]
    left = [one for one in annotations if one["image_id"] != lost]
    path.write_text(json.dumps({"annotations": left}))
    with pytest.raises(InputError, match=rf"stimulus \d+, photograph val2017 {lost} of COCO, has"):
        this.render("stimuli", "caption")


@pytest.mark.parametrize(
    ("changed", "unit", "told"),
    [
        ({"subjects": ["subj02"]}, "subj01", "unit subj01 is not one of `subjects` .subj02."),
        ({"subjects": ["subj03"]}, "subj01", "'subj03' is no subject; they are called subj01 to"),
        ({"files": DATASET["files"][1:]}, "subj01", "unit subj01 needs one file nsd_expdesign.mat"),
        ({"files": [DATASET["files"][0], DATASET["files"][-1]]}, "subj01", "needs the mask nsdgen"),
        ({"files": DATASET["files"][:-1]}, "subj01", "needs files betas_session"),
        ({"sessions": ["1", "01"]}, "subj01", "are one session; name it once"),
        ({"sessions": ["0"]}, "stimuli", "'0' is no number of a session"),
        ({"planned": 7}, "stimuli", "160 images, 40 of them shared, 3 repetitions and 7 sessions"),
        ({"voxels": 600}, "stimuli", "600 voxels; there have to be some"),
        ({"size": 63}, "stimuli", "size 63; pictures have an even number"),
        (
            {"shared": {"stimuli": [*DATASET["shared"]["stimuli"], nsd.CURATED]}},
            "stimuli", "captions come from COCO_73k_annots_curated.npy or from COCO; name one",
        ),
        (
            {"shared": {"stimuli": DATASET["shared"]["stimuli"][:4]}},
            "stimuli", r"0 files hold its captions; name one file captions_val2017.json",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(study, tmp_path, changed, unit, told):
    folder = tmp_path if changed.keys() & {"planned", "voxels", "size"} else study.folder
    with pytest.raises(InputError, match=told):
        Study(folder, **changed).read(unit)


# ---- planning -----------------------------------------------------------------------------


def test_a_study_names_these_views_as_any_other():
    this = {"dataset": "nsd", "x": "betas", "y": "photograph/pixels", "head": "nice"}
    named = {"run": ["seen"], "experiments": {"seen": this | {"seeds": 1, "baseline": "none"}}}
    config = CONFIG | named | {"heads": {"nice": {"kind": "nice"}}, "checkpoints": {}}
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text("utf-8"))
    configuration.check(config, schema)
    plan = Plan(config)
    assert plan.x("seen") == [f"results/views/nsd/{unit}/betas.h5" for unit in DATASET["units"]]
    assert plan.y("seen") == ["results/features/nsd/stimuli/photograph/pixels.h5"]
    names = {"dataset": "nsd", "unit": "subj01", "view": "betas"}
    assert plan.modules("render", **names) == [
        "engram.datasets.simulated_nsd",
        "engram.views.betas",
    ]
    assert len(plan.raw("nsd", "subj01")) == 12
    assert plan.raw("nsd", "stimuli")[:2] == [
        "resources/raw/nsd/nsd_expdesign.mat", "resources/raw/nsd/nsd_stimuli.hdf5",
    ]  # fmt: skip
    assert {tuple(row) for row in plan.spec("render", **names)["rows"]} == {("file",)}


def published():
    """The dataset as the docstring of its kind has it."""
    text = nsd.__doc__[nsd.__doc__.index("    terms:") : nsd.__doc__.index("Stimuli are called")]
    sessions = json.dumps([f"{i:02d}" for i in range(1, 41)])
    return {"kind": "nsd", **yaml.safe_load(text.replace('["01", "02", ..., "40"]', sessions))}


def test_the_published_dataset_waits_for_its_terms():
    dataset = published() | {"source": {"s3": "natural-scenes-dataset", "region": "us-east-2"}}
    config = CONFIG | {"datasets": {"nsd": dataset}}
    with pytest.raises(InputError, match="Natural Scenes Dataset Terms and Conditions.*terms_acce"):
        Plan(config).raw("nsd", "subj01")
    dataset["terms_accepted"] = True
    found = Plan(config).raw("nsd", "subj05")
    assert len(found) == 42
    assert found[-1] == (
        "resources/raw/nsd/nsddata_betas/ppdata/subj05/func1pt8mm/betas_fithrf_GLMdenoise_RR/"
        "betas_session40.hdf5"
    )
    with pytest.raises(InputError, match="by_hand/nsd/captions_train2017.json is missing"):
        Plan(config).raw("nsd", "stimuli")


def test_sizes_of_the_published_experiment(tmp_path):
    """All eight subjects in the published shape of the design; counts by the definition."""
    rng = np.random.default_rng(0)
    stimuli = rng.permutation(73_000) + 1
    common = np.sort(stimuli[:1000])
    design = {
        "masterordering": rng.permutation(np.repeat(np.arange(10_000) + 1, 3))[None],
        "subjectim": np.hstack([np.tile(common, (8, 1)), stimuli[1000:].reshape(8, 9000)]),
        "sharedix": common[None],
    }
    from scipy.io import savemat

    savemat(tmp_path / "nsd_expdesign.mat", design)
    roi = tmp_path / "roi"
    roi.mkdir()
    labels = np.zeros((4, 3, 2), np.int16)
    labels[1] = 1
    write(roi / "nsdgeneral.nii.gz", labels)
    rows = [{"file": "nsd_expdesign.mat"}, {"file": "roi/nsdgeneral.nii.gz"}]
    rows += [{"file": f"betas_session{i:02d}.hdf5"} for i in range(1, 41)]
    spec = {"dataset": {"kind": "nsd", "sessions": ["01"], "subjects": ["subj01", "subj04"]}}
    for unit, sessions in (("subj01", (37, 40)), ("subj04", (27, 30))):
        paths = [tmp_path / row["file"] for row in rows]
        (found,) = datasets.read(spec | {"unit": unit, "rows": rows}, paths)
        for protocol, n in zip(("nsd37", "nsd40"), sessions, strict=True):
            trials = betas.chosen(found, protocol)
            order = design["masterordering"][0, : 750 * n]
            assert len(trials) == 750 * n
            assert (trials["split"] == "test").sum() == (order <= 1000).sum()
            assert trials["stimulus"].nunique() == len(set(order))
