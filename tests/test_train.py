"""The stage `train` on stores in a folder: what is refused, what is written, what leaks."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from toy import CLASSES, QUICK, SUBJECTS, features, labels, table

from engram import flags, splits, store
from engram.errors import InputError
from engram.heads import linear
from engram.store import Rows
from engram.tasks import classes, train


class Study:
    """Stores of one experiment in a folder, one file a subject."""

    def __init__(self, folder, sources=("spectrogram/clip",)):
        self.folder, self.table = folder, table()
        self.y = labels(self.table)
        self.sources = list(sources)
        self.x = {s: features(self.table, self.y, seed=i) for i, s in enumerate(sources)}
        view = {"what": "spectrogram", "modality": "eeg", "simulated": True}
        self.headers = {s: {"what": "features", "view": view} for s in sources}
        self.tables = {s: self.table.copy() for s in sources}
        self.label_header = {"what": "labels", "classes": CLASSES}
        self.order = np.arange(len(self.table))
        self.recipe = {}

    def write(self):
        paths = {source: [] for source in [*self.sources, "state"]}
        facts = {source: self.tables[source].iloc[self.order] for source in self.sources}
        for subject in SUBJECTS:
            for source in self.sources:
                own = (facts[source]["subject"] == subject).to_numpy()
                rows = Rows(
                    self.x[source][self.order][own], facts[source][own], self.headers[source]
                )
                paths[source].append(self.folder / f"features/{subject}/{source}.h5")
                store.write(paths[source][-1], rows)
            own = (self.table["subject"] == subject).to_numpy()
            paths["state"].append(self.folder / f"views/{subject}/state.h5")
            store.write(paths["state"][-1], Rows(self.y[own], self.table[own], self.label_header))
        return paths

    def train(self, name="one", head="linear", candidates=None, **experiment):
        paths = self.write()
        y = paths.pop("state")
        names = (f"model/{name}", f"predictions/{name}.h5", f"latents/{name}.h5")
        made = [self.folder / one for one in names]
        spec = {
            "task": "classes",
            "experiment": {"dataset": "d", "y": "state", "head": "h", "seeds": 2, **experiment},
            "candidates": candidates or [self.sources],
            "head": QUICK[head],
            "recipe": self.recipe,
        }
        train(paths, {"state": y}, *made, spec, {"inputs": {"a": "1"}}, "cpu")
        return (made[0], *(store.open(path).load() for path in made[1:]))


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def test_predictions_hold_every_row_with_its_class_and_the_fold_that_tests_it(study):
    _, predictions, _ = study.train()
    table, header = predictions.table, predictions.header
    assert list(table.index) == sorted(study.table.index)
    assert predictions.array.shape == (120, 3, 2)
    assert predictions.array.dtype == np.float32
    expected = pd.Series(study.y, study.table.index)[table.index]
    np.testing.assert_array_equal(table["y"], expected)
    np.testing.assert_array_equal(table["fold"], table["subject"])
    np.testing.assert_array_equal(table["onset"], study.table["onset"][table.index])
    assert header["runs"] == [
        {"seed": 0, "shuffled": False},
        {"seed": 1, "shuffled": False},
        {"seed": 0, "shuffled": True},
    ]
    assert header["classes"] == CLASSES
    assert header["sources"] == ["spectrogram/clip"]
    assert header["excluded"] == {}
    assert set(header["chosen"]["c"]) == set(SUBJECTS)
    assert header["curves"] == {}
    assert header["made_by"] == {"inputs": {"a": "1"}}
    right = predictions.array.argmax(2) == table["y"].to_numpy()[:, None]
    assert right[:, 0].mean() > 0.85
    assert right[:, 2].mean() < 0.75


def test_rows_of_one_class_are_refused(study):
    study.y[:] = 1
    with pytest.raises(InputError, match=f"every usable row is {CLASSES[1]!r}; there is nothing"):
        study.train()


def test_the_control_run_is_scored_by_labels_shifted_in_time(study):
    table = study.train()[1].table
    y, moved = table["y"].to_numpy(), table["y_shuffled"].to_numpy()
    np.testing.assert_array_equal(moved, splits.control(y, table, np.random.default_rng(0)))
    for _, scan in table.groupby(["subject", "scan"]):
        series = scan.sort_values("window")
        before, after = series["y"].to_numpy(), series["y_shuffled"].to_numpy()
        assert (before != after).any()
        assert any((np.roll(before, k) == after).all() for k in range(1, len(before)))


def test_the_control_has_no_say_in_the_choice_of_input(tmp_path):
    """One source shows the classes, the other the moved ones, and the classes with mistakes."""
    study = Study(tmp_path, ["true/x", "both/x"])
    moved = splits.control(study.y, study.table, np.random.default_rng(0))
    mistaken = study.y ^ (study.table["window"].to_numpy() % 6 == 2)
    study.x["true/x"] = features(study.table, study.y, effect=20.0, d=2, seed=5)
    study.x["both/x"] = features(study.table, mistaken, effect=20.0, d=2, seed=6)
    study.x["both/x"][:, 1] += 20 * moved
    for first, second in (("true/x", "both/x"), ("both/x", "true/x")):
        header = study.train(candidates=[[first], [second]], seeds=1)[1].header
        assert header["chosen"]["x"] == {name: ["true/x"] for name in SUBJECTS}


def test_a_class_beyond_those_named_is_refused(study):
    study.y[9] = 2
    with pytest.raises(InputError, match="window-0009 has no class"):
        study.train()


def test_inputs_left_out_of_the_first_source_and_of_the_second_count_once(tmp_path):
    study = Study(tmp_path, ["a/x", "b/x"])
    rows = study.table.index
    study.tables["a/x"].loc[rows[0:2], "exclude"] = "artefact"
    study.tables["b/x"].loc[rows[1:4], "exclude"] = "motion"
    study.tables["a/x"] = study.tables["a/x"].rename(index={rows[31]: "else"})
    study.tables["b/x"] = study.tables["b/x"].rename(index={rows[30]: "else", rows[31]: "other"})
    header = study.train()[1].header
    counted = {"artefact": 2, "motion": 2, "not in a/x": 1, "not in b/x": 1}
    assert header["excluded"] == counted


def test_latents_say_which_part_each_row_plays_in_the_first_fold(study):
    _, _, latents = study.train()
    subjects = latents.table.groupby("part")["subject"].unique()
    assert list(subjects["test"]) == ["sub-01"]
    assert len(subjects["validation"]) == 1
    assert len(subjects["train"]) == 3
    assert latents.array.shape == (120, 6)
    fitted = latents.table["part"].isin(["train", "validation"]).to_numpy()
    np.testing.assert_allclose(latents.array[fitted].mean(0), 0, atol=1e-5)
    blocked = study.train("blocks", folds={"kind": "blocked", "n": 4})[2]
    assert set(blocked.table["part"]) == {"train", "validation", "test", "purged"}


@pytest.mark.parametrize("wide", ["spectrogram/clip", "fmri/clip"])
def test_no_second_of_any_source_is_trained_on_and_tested(tmp_path, wide):
    """One source rests on more seconds than the labels; by brute force over pairs of rows."""
    study = Study(tmp_path, ["spectrogram/clip", "fmri/clip"])
    support = study.table.assign(start=study.table["start"] - 10, stop=study.table["stop"] + 10)
    study.tables[wide] = support
    table = study.train("blocks", folds={"kind": "blocked", "n": 4})[2].table
    test = support.loc[table.index[table["part"] == "test"]]
    others = support.loc[table.index[table["part"].isin(["train", "validation"])]]
    assert len(test)
    assert len(others)
    for _, row in test.iterrows():
        same = others[(others["subject"] == row["subject"]) & (others["scan"] == row["scan"])]
        overlaps = (same["start"] < row["stop"]) & (same["stop"] > row["start"])
        assert not overlaps.any()


def test_no_fold_shares_the_148_seconds_that_a_view_of_fmri_needs(tmp_path, monkeypatch):
    """Labels are of 30 s, an image of fMRI of these and the 118 s before, in every fold."""
    study, folds = Study(tmp_path, ["spectrogram/clip", "fmri/clip"]), []
    study.table = table(SUBJECTS[:2], windows=96)
    study.y, study.order = labels(study.table), np.arange(len(study.table))
    study.x = {source: features(study.table, study.y) for source in study.sources}
    before = study.table["start"] - 118
    study.tables = {
        "spectrogram/clip": study.table,
        "fmri/clip": study.table.assign(start=before),
    }
    fit = linear.fit
    monkeypatch.setattr(linear, "fit", lambda t, *rest: folds.extend(t.folds) or fit(t, *rest))
    names = study.train("blocks", folds={"kind": "blocked", "n": 4})[1].table.index
    facts = study.table.assign(start=before).loc[names]
    subject, start, stop = (facts[c].to_numpy() for c in ("subject", "start", "stop"))
    blocks = [fold for fold in folds if len(fold.test)]  # without that of the model that is kept
    assert len(blocks) == 4
    for fold in blocks:
        assert len(fold.train)
        for one, other in ((fold.known, fold.test), (fold.train, fold.validation)):
            one, other = one[:, None], other[None]
            together = (start[one] < stop[other]) & (stop[one] > start[other])
            assert not (together & (subject[one] == subject[other])).any()


def test_the_model_file_is_safetensors_that_explain_themselves(study):
    path, predictions, _ = study.train(head="adapter")
    with safe_open(path, "np") as file:
        facts = json.loads(file.metadata()["engram"])
        weight = file.get_tensor("layers.0.weight")
    assert weight.shape == (5, 3, 6, 8)
    assert facts["folds"] == SUBJECTS
    assert facts["made_by"]["inputs"] == {"a": "1"}
    assert facts["runs"] == predictions.header["runs"]
    curves = pd.DataFrame(predictions.header["curves"])
    assert len(curves) == 5 * 3 * 15
    names = [
        f"{p}_{m}" for p in ("train", "validation") for m in ("mAC", "mAR", "mF1", "mPrecision")
    ]
    assert {"fold", "run", "epoch", "lr", "train_loss", "validation_loss", *names} <= set(curves)
    best = curves.loc[curves.groupby(["fold", "run"])["validation_loss"].idxmin()]
    found = best.set_index(["fold", "run"])["epoch"].unstack()
    assert found.to_dict("index") == {
        fold: dict(enumerate(epochs)) for fold, epochs in facts["chosen"]["epoch"].items()
    }


def test_files_of_a_rerun_are_the_same_bytes(study):
    study.train("one", head="adapter")
    study.train("two", head="adapter")
    for part in ("model", "predictions", "latents"):
        one, two = (next((study.folder / part).glob(f"{name}*")) for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("head", ["adapter", "forest"])
def test_the_order_of_rows_in_stores_does_not_matter(tmp_path, head):
    plain, mixed = Study(tmp_path / "a"), Study(tmp_path / "b")
    mixed.order = np.random.default_rng(0).permutation(len(mixed.table))
    one, two = plain.train(head=head)[1], mixed.train(head=head)[1]
    assert list(one.table.index) == list(two.table.index)
    assert one.array.tobytes() == two.array.tobytes()


def test_a_row_keeps_its_class_scan_and_time_through_a_hundred_shuffles(tmp_path, monkeypatch):
    """Features that spell out what a row is, read back beside labels and facts of the row."""
    study = Study(tmp_path, ["a/x", "b/x"])
    number = study.table["subject"].factorize()[0]
    truth = np.stack([number, study.table["window"], study.table["onset"], study.y], 1)
    study.x = {s: truth.astype(np.float32) for s in study.sources}
    paths = study.write()
    y = paths.pop("state")
    rng = np.random.default_rng(0)
    stored = {tuple(one): store.load(one) for one in [*paths.values(), y]}

    def shuffled(paths):
        rows = stored[tuple(paths)]
        order = rng.permutation(len(rows.table))
        return Rows(rows.array[order], rows.table.iloc[order], rows.header)

    monkeypatch.setattr(store, "load", shuffled)
    for _ in range(100):
        loaded, _ = classes.load(paths, {"state": y}, {})
        facts = loaded.table
        for x in loaded.x:
            np.testing.assert_array_equal(x[:, 0], facts["subject"].factorize()[0])
            np.testing.assert_array_equal(x[:, 1], facts["window"])
            np.testing.assert_array_equal(x[:, 2], facts["onset"])
            np.testing.assert_array_equal(x[:, 3], loaded.y)


def test_where_nothing_is_left_the_view_the_channel_and_the_key_are_named(study):
    table = study.table.assign(exclude="amplitude", bad_channels="Fp1")
    table.iloc[:30, [table.columns.get_loc(c) for c in ("exclude", "bad_channels")]] = "", "Oz, T7"
    table.loc[table.index[30:50], "bad_channels"] = "Fp1, Oz"
    study.tables[study.sources[0]] = table
    study.table.loc[table.index[:30], "exclude"] = "unlabelled"
    with pytest.raises(InputError) as caught:
        study.train()
    assert str(caught.value) == (
        "no usable row of 120: view state leaves out 30 (unlabelled 30) and view spectrogram "
        "leaves out 90 (amplitude 90; channel Fp1 in 90, Oz in 20); no row is usable in all of "
        "them; raise `amplitude` of the view spectrogram, or its `bad_share` if few channels do it"
    )


def test_rows_left_out_are_counted_by_reason(study):
    source = study.sources[0]
    rows = study.table.index
    study.tables[source].loc[rows[3:6], "exclude"] = "artefact"
    study.table.loc[rows[5:9], "exclude"] = "both states"
    study.y[5:9] = -1
    study.x[source][3] = np.nan
    study.tables[source] = study.tables[source].rename(index={rows[20]: "another"})
    _, predictions, _ = study.train()
    assert predictions.header["excluded"] == {
        "both states": 4, "artefact": 2, "not in spectrogram/clip": 1,
    }  # fmt: skip
    assert len(predictions.table) == 120 - 7
    assert not set(predictions.table.index) & {*rows[3:9], rows[20]}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.x[s.sources[0]].__setitem__((7, 2), np.inf),
         r"spectrogram/clip: 1 usable rows hold NaN.*sub-01/scan-01/window-0007"),
        (lambda s: s.y.__setitem__(9, -1), "window-0009 has no class"),
        (lambda s: s.table.__setitem__("exclude", "artefact"),
         r"no usable row of 120: view state leaves out 120 \(artefact 120\)"),
        (lambda s: s.label_header.__setitem__("what", "spectrogram"), "expected labels"),
        (lambda s: s.tables.__setitem__(
            s.sources[0], s.table.set_index("x" + s.table.index)), "share no row name"),
        (lambda s: s.y.__setitem__(slice(None), np.repeat([1, 0, 0, 0, 0], 24)),
         "fold sub-01: no training row of class alert"),
        (lambda s: s.table.loc.__setitem__((s.table.subject > "sub-02", "exclude"), "short"),
         "2 subjects"),
    ],
)  # fmt: skip
def test_bad_stores_are_refused_in_one_sentence(study, spoil, message):
    spoil(study)
    with pytest.raises(InputError, match=message):
        study.train()
    assert not (study.folder / "predictions").exists()


@pytest.mark.parametrize("column", ["onset", "duration"])
def test_rows_of_one_name_are_of_the_same_seconds(study, column):
    source, wrong = study.sources[0], study.table.index[70]
    for one in (study.table, study.tables[source]):
        one["onset"], one["duration"] = 15.0 * one["window"], 30.0
    study.tables[source].loc[wrong, column] += 5
    with pytest.raises(InputError, match=f"{source}: {wrong} has the {column} .* same `windows`"):
        study.train()


def test_stores_of_another_source_are_refused(tmp_path):
    """Sources told apart by position alone would trade their names in silence."""
    paths = Study(tmp_path, ["spectrogram/clip", "fmri_spectrogram/clip"]).write()
    y = paths.pop("state")
    swapped = dict(zip(paths, [*paths.values()][::-1], strict=True))
    with pytest.raises(
        InputError, match=r"fmri_spectrogram/clip.h5: .* no store of spectrogram/cl"
    ):
        classes.load(swapped, {"state": y}, {})


def test_classes_must_agree_between_units(study):
    paths = study.write()
    y = paths.pop("state")
    rows = store.open(y[2]).load()
    store.write(y[2], Rows(rows.array, rows.table, {"what": "labels", "classes": ["alert", "x"]}))
    with pytest.raises(InputError, match=r"sub-03.*classes"):
        classes.load(paths, {"state": y}, {})


def test_headers_warn_of_simulation_random_weights_leaks_and_circles(study):
    source = study.sources[0]
    header = study.train()[1].header
    assert header["flags"] == ["simulated"]
    study.headers[source] = {"view": {"modality": "fmri"}, "weights": "random"}
    study.label_header["derived_from"] = "eeg"
    header = study.train(folds="random_windows")[1].header
    assert header["flags"] == ["leaks", "random_weights"]
    study.headers[source] = {"view": {"modality": "eeg"}, "weights": "ViT.safetensors"}
    header = study.train()[1].header
    assert header["flags"] == ["circular"]


def test_folds_that_leak_are_named_in_either_form(study):
    for how in ("random_windows", {"kind": "random_windows", "n": 4}):
        assert study.train(folds=how)[1].header["flags"] == ["leaks", "simulated"]
    for how in ("blocked", {"kind": "blocked", "n": 4}, {"kind": "group_kfold", "n": 3}):
        assert study.train(folds=how)[1].header["flags"] == ["simulated"]


def test_blocks_of_scans_with_one_label_each_test_the_recording(study):
    """Two scans a subject, each of one class: to tell the scans apart is enough."""
    half = study.table["window"] >= 12
    study.table["scan"] = np.where(half, "scan-02", "scan-01")
    study.tables = {source: study.table.copy() for source in study.sources}
    study.y = half.to_numpy().astype(np.int8)
    blocked = study.train(folds={"kind": "blocked", "n": 4})[1].header
    assert blocked["flags"] == ["recording", "simulated"]
    assert flags.inflated(blocked["flags"])
    assert study.train()[1].header["flags"] == ["simulated"]
    study.y[0] = 1
    assert study.train(folds={"kind": "blocked", "n": 4})[1].header["flags"] == ["simulated"]


def test_views_that_are_scaled_by_a_whole_scan_are_said(study):
    study.headers[study.sources[0]]["view"]["transductive"] = True
    assert study.train()[1].header["flags"] == ["simulated", "transductive"]


def test_one_of_two_sources_is_enough_for_a_warning(tmp_path):
    study = Study(tmp_path, ["a/x", "b/x"])
    study.headers["a/x"] = {"view": {"modality": "eeg"}, "weights": "ViT.safetensors"}
    study.headers["b/x"] = {"view": {"modality": "fmri", "simulated": True}, "weights": "random"}
    study.label_header["derived_from"] = "eeg"
    header = study.train()[1].header
    assert header["flags"] == ["simulated", "random_weights", "circular"]


def test_what_the_rows_lack_and_what_was_converted_is_said(study):
    said = study.train()[1].header
    assert (said["inputs"], said["flags"]) == ({}, ["simulated"])
    source = study.sources[0]
    study.headers[source] |= {"input": {
        "coverage": [443, 450], "missing": list("abcdefg"), "converted": ["from V to uV"],
    }}  # fmt: skip
    said = study.train()[1].header
    assert said["inputs"] == {
        source: ["443 of 450 channels, without a, b, c, d, e and 2 more", "from V to uV"]
    }
    assert said["flags"] == ["simulated", "incomplete"]
    del study.headers[source]["input"]
    study.headers[source]["view"] = {"coverage": [4, 5], "missing": ["b"], "modality": "fmri"}
    said = study.train()[1].header
    assert said["inputs"] == {source: ["4 of 5 channels, without b"]}
    assert said["flags"] == ["incomplete"]


@pytest.mark.parametrize("head", ["linear", "adapter"])
def test_each_fold_chooses_its_input_on_validation_rows(tmp_path, head):
    study = Study(tmp_path, ["noise/x", "signal/x"])
    study.x["noise/x"] = features(study.table, study.y, effect=0.0, seed=5)
    every = [["noise/x"], ["signal/x"]]
    model, chosen, latents = study.train("choose", head, candidates=every)
    assert chosen.header["chosen"]["x"] == {name: ["signal/x"] for name in SUBJECTS}
    _, alone, _ = study.train("alone", head, candidates=every[1:])
    assert chosen.array.tobytes() == alone.array.tobytes()
    own = {name: value for name, value in chosen.header["chosen"].items() if name != "x"}
    assert own == alone.header["chosen"]
    assert latents.header["sources"] == ["signal/x"]
    assert len(pd.DataFrame(chosen.header["curves"])) == len(pd.DataFrame(alone.header["curves"]))
    with safe_open(model, "np") as file:
        assert {name[:2] for name in file.keys()} - {"fa", "ke"} == {"0/", "1/"}  # noqa: SIM118


def test_the_choice_of_input_sees_no_test_row(tmp_path):
    """A source that gives the class away in one subject alone is not chosen for it."""
    study = Study(tmp_path, ["signal/x", "trap/x"])
    study.x["trap/x"] = features(study.table, study.y, effect=0.0, seed=5)
    first = (study.table["subject"] == "sub-01").to_numpy()
    study.x["trap/x"][first, 0] = 20.0 * study.y[first]
    _, chosen, _ = study.train(candidates=[["signal/x"], ["trap/x"]])
    assert chosen.header["chosen"]["x"]["sub-01"] == ["signal/x"]


def test_a_fold_is_predicted_by_the_input_that_it_chose(tmp_path):
    study = Study(tmp_path, ["one/x", "other/x"])
    x, later = study.x["one/x"], (study.table["subject"] > "sub-03").to_numpy()
    noise = features(study.table, study.y, effect=0.0, seed=5)
    study.x["one/x"] = np.where(later[:, None], noise, x)
    study.x["other/x"] = np.where(later[:, None], x, noise)
    every = [["one/x"], ["other/x"]]
    _, found, _ = study.train("choose", candidates=every)
    alone = {one[0]: study.train(one[0][:3], candidates=[one])[1] for one in every}
    choices = found.header["chosen"]["x"]
    assert {one for (one,) in choices.values()} == {"one/x", "other/x"}
    for fold, (chosen,) in choices.items():
        rows = (found.table["fold"] == fold).to_numpy()
        np.testing.assert_array_equal(found.array[rows], alone[chosen].array[rows])


def test_a_published_split_is_kept(study):
    """Rows of its test part alone are predicted; those of its training part alone are learned."""
    study.table["split"] = np.where(study.table["window"] % 3 == 0, "test", "train")
    _, predictions, latents = study.train(folds={"kind": "group_kfold", "n": 3})
    tested = study.table.index[study.table["split"] == "test"]
    assert sorted(predictions.table.index) == sorted(tested)
    assert np.isfinite(predictions.array).all()
    assert predictions.array.sum(2) == pytest.approx(np.ones(predictions.array.shape[:2]))
    learned = latents.table["part"].isin(["train", "validation"])
    assert set(study.table["split"][latents.table.index[learned]]) == {"train"}
    assert not predictions.table["subject"].isin(latents.table["subject"][learned]).all()


def test_a_published_split_without_test_rows_of_anyone_is_refused(study):
    study.table["split"] = "train"
    with pytest.raises(InputError, match="no row of the published split is for testing"):
        study.train()


@pytest.mark.parametrize("how", [{"kind": "group_kfold", "n": 3}, {"kind": "blocked", "n": 4}])
def test_a_row_names_the_fold_that_tested_it(study, how):
    table = study.train(folds=how)[1].table
    folds = splits.make(table, table["y"].to_numpy(), how, seed=0)
    assert len({fold.name for fold in folds}) == how["n"]
    for fold in folds:
        assert set(table["fold"].iloc[fold.test]) == {fold.name}


@pytest.mark.parametrize(
    ("seen", "flagged"),
    [(["sub-02"], True), ("UK Biobank", True), (["sub-77"], False), ([], False)],
)
def test_subjects_that_weights_have_seen_are_a_flag(study, seen, flagged):
    header = study.headers["spectrogram/clip"]
    study.headers["spectrogram/clip"] = header | {"seen": seen}
    _, predictions, _ = study.train()
    assert ("seen" in predictions.header["flags"]) == flagged
    assert flags.inflated(predictions.header["flags"]) == flagged
