"""Pictures from epochs: train, evaluate and occlude on a small world whose code is known."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from scipy import stats

from engram import contrastive, store
from engram.errors import InputError
from engram.heads import nice
from engram.scores.evaluation import evaluate
from engram.store import Rows
from engram.tasks import epochs, pairs, train
from engram.tasks.occlusion import occlude

CHANNELS, TIMES, WIDTH = 6, 30, 12
ACTIVE = slice(10, 16)  # samples that carry the code
HEAD = {
    "kind": "nice",
    "encoder": "mlp",
    "projector_dim": 24,
    "epochs": 25,
    "batch_size": 32,
    "dropout": 0.1,
    "image_dropout": 0.1,
}
SUBJECTS = ("sub-01", "sub-02")


def specified(folds="within", **head):
    """The spec of stage `train`."""
    return {
        "task": "pairs",
        "experiment": {"folds": {"kind": folds, "validation_concepts": 6}, "seeds": 2},
        "candidates": [["epochs"]],
        "head": HEAD | head,
    }


class World:
    """Pictures with random features, and epochs that are a linear code of them plus noise.

    With `repetitions`, {split: number}, each is a row of its own.
    """

    def __init__(self, folder, noise=0.5, train=40, test=20, repetitions=None):
        self.folder, self.noise, self.repetitions = folder, noise, repetitions
        self.rng = np.random.default_rng(0)
        names = [f"train/c{i:03d}/{j}" for i in range(train) for j in range(3)]
        names += [f"test/t{i:03d}/0" for i in range(test)]
        self.pictures = pd.DataFrame(
            {
                "split": [name.split("/")[0] for name in names],
                "concept": [name.split("/")[1] for name in names],
                "exclude": "",
            },
            index=names,
        )
        self.features = self.rng.normal(size=(len(names), WIDTH)).astype(np.float32)

    def write(self, order=None):
        """Paths of the epoch stores, and of the features by source."""
        header = {"what": "features", "weights": "random"}
        targets = self.folder / "picture/net.h5"
        store.write(targets, Rows(self.features, self.pictures, header))
        pattern = self.rng.normal(size=(WIDTH, CHANNELS))
        paths = []
        for subject in SUBJECTS:
            shown = self._shown()
            eeg = self.rng.normal(0, self.noise, (len(shown), CHANNELS, TIMES))
            eeg[..., ACTIVE] += (self.features @ pattern)[shown, :, None] / 4
            table = self.pictures.iloc[shown].assign(subject=subject)
            table = table.assign(stimulus=table.index)
            table.index = [f"{subject}/{name}/{i}" for i, name in enumerate(table.index)]
            at = np.arange(len(table)) if order is None else order
            facts = {
                "what": "epochs",
                "simulated": True,
                "times": (np.arange(TIMES) / 100).tolist(),
                "channels": [f"E{i}" for i in range(CHANNELS)],
            }
            paths.append(self.folder / f"{subject}/epochs.h5")
            rows = Rows(eeg[at].astype(np.float32), table.iloc[at], facts)
            store.write(paths[-1], rows)
        return {"epochs": paths}, {"picture/net": [targets]}

    def _shown(self):
        """Row of the pictures that each row of the epochs shows."""
        counts = [(self.repetitions or {}).get(split, 1) for split in self.pictures["split"]]
        return np.repeat(np.arange(len(counts)), counts)

    def run(self, folds="within", order=None, **head):
        x, y = self.write(order)
        made = [self.folder / name for name in ("m.safetensors", "p.h5", "l.h5")]
        train(x, y, *made, specified(folds, **head), {"inputs": {}}, "cpu")
        return store.open(made[1]).load()


def scored(folder, baseline=()):
    spec = {"task": "pairs", "experiment": "e", "baseline": "b" if baseline else None,
            "generalises_to": "new", "evaluation": {}}  # fmt: skip
    evaluate(folder / "p.h5", baseline, {}, folder / "s.json", spec)
    return json.loads((folder / "s.json").read_text())


def metric(result, name="top1"):
    return next(row for row in result["metrics"] if row["metric"] == name)


@pytest.fixture(scope="module")
def within(tmp_path_factory):
    folder = tmp_path_factory.mktemp("within")
    return folder, World(folder).run()


def test_pictures_are_found_and_the_control_finds_none(within):
    folder, found = within
    result = scored(folder)
    assert metric(result)["value"] > 0.5
    assert metric(result)["control"] <= 0.15
    assert metric(result)["chance"] == 1 / 20
    assert metric(result)["p"] < 0.01
    assert found.array.shape == (40, 3, 20)
    assert result["flags"] == ["simulated", "random_weights"]


def test_scores_are_those_of_ranks_by_brute_force(within):
    folder, found = within
    candidates = found.header["candidates"]
    top1, control = [], []
    for row, name in zip(found.array, found.table["stimulus"], strict=True):
        best = [candidates[i] == name for i in row.argmax(1)]
        top1.append(np.mean(best[:2]))
        control.append(best[2])
    metrics = metric(scored(folder))
    assert metrics["value"] == pytest.approx(np.mean(top1))
    assert metrics["control"] == pytest.approx(np.mean(control))
    assert metrics["low"] < metrics["value"] < metrics["high"]


def test_what_the_encoder_needs_is_where_the_code_was_planted(within):
    folder, made = within[0], within[0] / "importance.json"
    x = {"epochs": [folder / f"{subject}/epochs.h5" for subject in SUBJECTS]}
    y = {"picture/net": [folder / "picture/net.h5"]}
    occlude(x, y, folder / "m.safetensors", made, specified(), "cpu")
    importance = json.loads(made.read_text())
    of_first = (within[1].array[:, 0].argmax(1) == truth(within[1])).reshape(2, -1).mean(1)
    assert [*importance["full"].values()] == pytest.approx(of_first)
    starts = np.array(importance["time"]["starts"])
    planted = (starts >= 0.1) & (starts < 0.155)
    for subject in SUBJECTS:
        lost = importance["full"][subject] - np.array(importance["time"]["top1"][subject])
        assert lost[planted].mean() > lost[~planted].mean() + 0.02
        assert abs(lost[~planted]).max() < 0.2
    assert importance["channel"]["names"] == [f"E{i}" for i in range(CHANNELS)]
    each = [importance["full"][s] - np.array(importance["time"]["top1"][s]) for s in SUBJECTS]
    low, high = stats.t.interval(0.95, 1, np.mean(each, 0), stats.sem(each, 0))
    assert importance["time"]["lost"] == pytest.approx(np.mean(each, 0))
    varies = np.std(each, 0) > 0
    assert np.array(importance["time"]["low"])[varies] == pytest.approx(low[varies])
    assert np.array(importance["time"]["high"])[varies] == pytest.approx(high[varies])


def truth(found):
    return [found.header["candidates"].index(name) for name in found.table["stimulus"]]


def test_the_order_of_rows_does_not_matter(tmp_path, within):
    order = np.random.default_rng(1).permutation(len(World(tmp_path).pictures))
    mixed = World(tmp_path).run(order=order)
    assert sorted(mixed.table.index) == sorted(within[1].table.index)
    assert metric(scored(tmp_path))["value"] > 0.5


def loaded(world, folds="within", order=None):
    x, y = world.write(order)
    return pairs.load(x, y, specified(folds)["experiment"])[0]


@pytest.mark.parametrize("folds", ["within", "pooled", "leave_one_subject_out"])
def test_every_fold_trains_on_the_subjects_it_should(tmp_path, folds):
    task = loaded(World(tmp_path), folds)
    subject = task.table["subject"].to_numpy(str)
    expected = {
        "within": {s: ({s}, {s}) for s in SUBJECTS},
        "pooled": {"pooled": ({*SUBJECTS}, {*SUBJECTS})},
        "leave_one_subject_out": {s: ({*SUBJECTS} - {s}, {s}) for s in SUBJECTS},
    }[folds]
    found = {f.name: ({*subject[f.train]}, {*subject[f.test]}) for f in task.folds}
    assert found == expected
    assert sorted(task.tested) == [*np.flatnonzero(task.table["split"] == "test")]


def test_validation_is_by_concept_and_never_holds_test_rows(tmp_path):
    task = loaded(World(tmp_path))
    concept, split = task.table["concept"].to_numpy(), task.table["split"].to_numpy()
    for fold in task.folds:
        assert not set(concept[fold.train]) & set(concept[fold.validation])
        assert len(set(concept[fold.validation])) == 6
        assert {*split[fold.train], *split[fold.validation]} == {"train"}
        assert len(fold.train) + len(fold.validation) == 120


def test_the_control_sees_the_same_pictures_with_other_epochs(tmp_path):
    """Within training, validation and test rows of each fold, one for all rows of a picture."""
    task = loaded(World(tmp_path, repetitions={"train": 2}), "pooled")
    run, fold = task.runs[-1], task.folds[0]
    moved = run.labels(0)
    assert run.shuffled
    for part in (fold.train, fold.validation, fold.test):
        assert sorted(moved[part]) == sorted(task.y[part])
        assert (moved[part] == task.y[part]).mean() < 0.1
    table = task.table.assign(moved=moved).groupby(["subject", "stimulus"])
    assert (table["moved"].nunique() == 1).all()


def test_the_published_protocol_is_labelled(tmp_path):
    World(tmp_path).run(select_on="test", epochs=3)
    result = scored(tmp_path)
    assert result["flags"] == ["published_protocol", "simulated", "random_weights"]
    assert any("optimistic" in text for text in result["warnings"])


def test_the_published_protocol_leaves_subjects_out_too(tmp_path):
    found = World(tmp_path).run(folds="leave_one_subject_out", select_on="test", epochs=1)
    assert found.array.shape == (40, 3, 20)


def test_the_published_protocol_draws_no_repetitions(tmp_path):
    with pytest.raises(InputError, match="sub_average needs `select_on: validation`"):
        World(tmp_path, repetitions={"train": 4}).run(select_on="test", sub_average=2)


def test_a_gain_is_paired_over_the_same_rows(tmp_path, within):
    folder, _ = within
    World(tmp_path, noise=3.0).run(epochs=3)
    top1 = metric(scored(folder, [tmp_path / "p.h5"]))
    alone = [metric(scored(f))["value"] for f in (folder, tmp_path)]
    assert top1["difference"] == pytest.approx(alone[0] - alone[1])
    assert top1["baseline"] == pytest.approx(alone[1])
    assert top1["difference_p"] == pytest.approx(0.5)  # two subjects: 2 of 4 patterns of signs


def test_the_model_file_gives_the_model_back(tmp_path, within):
    """It is read as a person would, and finds what was found."""
    folder, found = within
    with safe_open(folder / "m.safetensors", "np") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = json.loads(file.metadata()["engram"])
    assert facts["folds"] == [*SUBJECTS]
    assert facts["runs"] == found.header["runs"]
    assert {len(values) for values in state.values()} == {2}
    x = {"epochs": [folder / f"{subject}/epochs.h5" for subject in SUBJECTS]}
    task, _ = pairs.load(x, {"picture/net": [folder / "picture/net.h5"]}, specified()["experiment"])
    options = nice.Options(**{k: v for k, v in specified()["head"].items() if k != "kind"})
    for f, fold in enumerate(task.folds):
        model = nice.restored(task, state, f, 1, options, "cpu")
        again = nice.predicted(model, task.x[0][fold.test], task, f, fold.test)
        np.testing.assert_array_equal(again, found.array[(found.table["fold"] == fold.name), 1])


def test_latents_are_where_test_rows_lie_in_the_common_space(within):
    folder, found = within
    latents = store.open(folder / "l.h5").load()
    assert list(latents.table.index) == list(found.table.index)
    assert np.linalg.norm(latents.array, axis=1) == pytest.approx(np.ones(40), abs=1e-5)


def refused(world, x, y, message):
    made = [world.folder / name for name in ("m.safetensors", "p.h5", "l.h5")]
    with pytest.raises(InputError, match=message):
        train(x, y, *made, specified(epochs=1), {}, "cpu")
    assert not any(path.exists() for path in made)


def test_a_picture_without_features_is_named(tmp_path):
    world = World(tmp_path)
    x, y = world.write()
    rows = store.open(y["picture/net"][0]).load()
    store.write(y["picture/net"][0], Rows(rows.array[1:], rows.table.iloc[1:], rows.header))
    refused(world, x, y, "2 rows show pictures without features, first train/c000/0")


def test_a_concept_on_both_sides_is_refused(tmp_path):
    world = World(tmp_path)
    world.pictures["concept"] = world.pictures["concept"].replace("t003", "c003")
    refused(world, *world.write(), "concept c003 stands in training and in test")


# ---- repetitions ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repeated")
    return folder, World(folder, noise=1.5, repetitions={"test": 6}).run()


def test_test_repetitions_are_averaged_and_more_of_them_find_more(repeated):
    folder, found = repeated
    whole = found.table.index[found.table["fewer"] == 0]
    assert set(whole) == {
        f"{subject}/{name}" for subject in SUBJECTS for name in found.header["candidates"]
    }
    assert found.array.shape == (40 * 4, 3, 20)
    curve = scored(folder)["repetitions"]
    assert curve["counts"] == [1, 2, 5, 6]
    for subject in SUBJECTS:
        top1 = curve["top1"][subject]
        assert top1[-1] > top1[0] + 0.1
    whole = metric(scored(folder))["subjects"]
    assert {s: curve["top1"][s][-1] for s in SUBJECTS} == pytest.approx(whole)


def test_averages_are_means_of_rows_by_brute_force(tmp_path):
    world = World(tmp_path, test=7, repetitions={"train": 2, "test": 4})
    mixed = np.random.default_rng(2).permutation(len(world._shown()))
    x, _ = world.write(order=mixed)
    read = epochs.Epochs(x["epochs"])
    rows = store.load(x["epochs"])
    assert read.counts == [1, 2, 4]
    tests = np.flatnonzero(read.table["split"] == "test")
    assert len(tests) == 2 * 7 * 3
    for at, value in zip(tests, read[tests], strict=True):
        row = read.table.iloc[at]
        same = (rows.table["subject"] == row["subject"]) & (
            rows.table["stimulus"] == row["stimulus"]
        )
        own = rows.array[same.to_numpy()]
        assert len(own) == 4
        some = itertools.combinations(own, row["fewer"] or 4)
        assert min(abs(value - np.mean(one, 0)).max() for one in some) < 1e-6
    trained = np.flatnonzero(read.table["split"] == "train")[::7]
    names = [rows.table.index.get_loc(name) for name in read.table.index[trained]]
    np.testing.assert_array_equal(read[trained], rows.array[names])


def test_excluded_epochs_neither_train_nor_test(tmp_path):
    world = World(tmp_path, repetitions={"test": 3})
    x, y = world.write()
    for path in x["epochs"]:
        rows = store.open(path).load()
        table, array = rows.table.copy(), rows.array.copy()
        bad = np.arange(0, len(table), 5)
        table.iloc[bad, table.columns.get_loc("exclude")] = "artefact"
        array[bad] = 1e6
        store.write(path, Rows(array, table, rows.header))
    task, excluded = pairs.load(x, y, specified()["experiment"])
    every = np.arange(len(task.table))
    assert abs(task.x[0][every]).max() < 100
    assert excluded == {"artefact": 2 * len(bad)}


def test_training_repetitions_are_rows_or_drawn_for_every_step(tmp_path):
    world = World(tmp_path, repetitions={"train": 4, "test": 2})
    shapes = []
    fit = contrastive.fit

    def noted(eeg, *args):
        shapes.append(eeg.shape)
        return fit(eeg, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "fit", noted)
        world.run(epochs=2)
        drawn = world.run(epochs=12, sub_average=2)
    assert shapes == [(480, CHANNELS, TIMES)] * 2 + [(120, 4, CHANNELS, TIMES)] * 2
    assert metric(scored(tmp_path))["value"] > 0.3
    assert drawn.array.shape == (80, 3, 20)


def test_drawing_needs_as_many_repetitions_of_every_picture(tmp_path):
    world = World(tmp_path, repetitions={"train": 3})
    keep = np.delete(np.arange(len(world._shown())), 5)
    with pytest.raises(InputError, match="pictures have 2 to 3 repetitions"):
        world.run(order=keep, sub_average=2)


def test_an_encoder_is_told_which_subject_it_sees_and_of_a_new_one_nothing(tmp_path, monkeypatch):
    asked = []
    similarity = contrastive.similarity

    def noted(model, eeg, targets, subject=None):
        asked.append(None if subject is None else sorted(set(subject.tolist())))
        return similarity(model, eeg, targets, subject)

    monkeypatch.setattr(contrastive, "similarity", noted)
    long = {"encoder": "atms", "encoder_options": {"subjects": 2}, "epochs": 1}
    monkeypatch.setattr("test_pairs.TIMES", 90)
    World(tmp_path).run(folds="pooled", **long)
    assert asked
    assert all(subjects == [0, 1] for subjects in asked)
    asked.clear()
    World(tmp_path).run(folds="leave_one_subject_out", **long)
    assert asked
    assert all(subjects is None for subjects in asked)
