"""Pictures from epochs: train, evaluate and occlude on a small world whose code is known."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from scipy import stats

import engram
from engram import contrastive, store
from engram.cli import main
from engram.errors import InputError
from engram.heads import nice
from engram.scores.evaluation import evaluate
from engram.splits import Fold
from engram.store import Rows
from engram.tasks import epochs, occlusion, pairs, train
from engram.tasks.occlusion import occlude
from engram.trained import nearest
from engram.training import Run

CHANNELS, TIMES, WIDTH = 6, 30, 12
ACTIVE = slice(10, 16)  # samples that carry the code
HEAD = {
    "kind": "nice",
    "encoder": "mlp",
    "encoder_options": {"d": 96},
    "projector_dim": 24,
    "epochs": 25,
    "batch_size": 32,
    "dropout": 0.1,
    "image_dropout": 0.1,
}
OPTIONS = nice.Options(**{key: value for key, value in HEAD.items() if key != "kind"})
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


def scored(folder, baseline=(), **evaluation):
    spec = {"task": "pairs", "experiment": "e", "baseline": "b" if baseline else None,
            "generalises_to": "new", "evaluation": evaluation}  # fmt: skip
    evaluate(folder / "p.h5", baseline, {}, folder / "s.json", spec)
    return json.loads((folder / "s.json").read_text())


def metric(result, name="top1"):
    return next(row for row in result["metrics"] if row["metric"] == name)


@pytest.fixture(scope="module")
def within(tmp_path_factory):
    folder = tmp_path_factory.mktemp("within")
    return folder, World(folder).run()


@pytest.mark.parametrize("copied", [False, True])
def test_a_picture_under_two_names_is_named(tmp_path, copied):
    world = World(tmp_path)
    test = int(np.flatnonzero(world.pictures["split"] == "test")[4])
    if copied:
        own = world.features[test]
        world.features[17] = own + 0.01 * world.rng.normal(size=len(own)).astype(np.float32)
    world.run(epochs=1)
    result = scored(tmp_path)
    names = sorted(world.pictures.index[[17, test]])
    assert result["near_copies"]["between"] == int(copied)
    assert [sorted(pair) for pair in result["near_copies"]["examples"]] == [names] * copied
    assert sum("one picture under two names" in said for said in result["warnings"]) == copied


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
    found = json.loads(made.read_text())
    of_first = (within[1].array[:, 0].argmax(1) == truth(within[1])).reshape(2, -1).mean(1)
    assert [*found["full"].values()] == pytest.approx(of_first)
    starts = np.array(found["time"]["starts"])
    planted = (starts >= 0.1) & (starts < 0.155)
    for subject in SUBJECTS:
        lost = found["full"][subject] - np.array(found["time"]["top1"][subject])
        assert lost[planted].mean() > lost[~planted].mean() + 0.02
        assert abs(lost[~planted]).max() < 0.2
    assert found["channel"]["names"] == [f"E{i}" for i in range(CHANNELS)]
    assert found["channel"]["top1"].keys() == set(SUBJECTS)
    for kind in ("time", "channel"):
        each = [found["full"][s] - np.array(found[kind]["top1"][s]) for s in SUBJECTS]
        low, high = stats.t.interval(0.95, 1, np.mean(each, 0), stats.sem(each, 0))
        assert found[kind]["lost"] == pytest.approx(np.mean(each, 0))
        varies = np.std(each, 0) > 0
        assert np.array(found[kind]["low"])[varies] == pytest.approx(low[varies])
        assert np.array(found[kind]["high"])[varies] == pytest.approx(high[varies])


def truth(found):
    return [found.header["candidates"].index(name) for name in found.table["stimulus"]]


@pytest.mark.parametrize("n", [45, 7])
def test_importance_is_what_a_piece_contributes_by_hand(n):
    """Of a sum over samples, a piece that is set to zero takes away its own part of the sum."""
    rng = np.random.default_rng(0)
    eeg, weight = rng.normal(size=(3, 4, n)), rng.normal(size=(4, n))
    kept, times = eeg.copy(), -0.2 + np.arange(n) / 50
    header = {"times": times.tolist(), "channels": list("abcd")}
    found = occlusion._without(lambda x: {"s": float((x * weight).sum())}, eeg, header)
    np.testing.assert_array_equal(eeg, kept)
    part, pieces = (eeg * weight).sum(0), min(n, 20)
    assert found["full"]["s"] == pytest.approx(part.sum())
    np.testing.assert_allclose(found["channel"]["top1"]["s"], part.sum() - part.sum(1))
    starts = np.array(found["time"]["starts"])
    assert len(starts) == pieces
    assert starts[0] == times[0]
    assert found["time"]["width"] == pytest.approx(n / 50 / pieces)
    ends = [*starts[1:], np.inf]
    for start, end, value in zip(starts, ends, found["time"]["top1"]["s"], strict=True):
        inside = (times >= start - 1e-9) & (times < end - 1e-9)
        assert value == pytest.approx(part.sum() - part[:, inside].sum())


def test_the_epoch_that_is_kept_is_the_best_on_the_curve(within):
    header = within[1].header
    curves = pd.DataFrame(header["curves"]).set_index(["fold", "run"])
    assert header["chosen"].keys() == {"epoch"}
    assert header["chosen"]["epoch"].keys() == set(SUBJECTS)
    for fold, chosen in header["chosen"]["epoch"].items():
        assert len(chosen) == 3
        for run, epoch in enumerate(chosen):
            one = curves.loc[(fold, run)]
            assert epoch == one["epoch"].iloc[one["score"].argmax()]


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
    assert (top1["difference_p"] < 0.05) == (top1["difference_low"] > 0)
    assert top1["detectable"] > (top1["difference_high"] - top1["difference_low"]) / 2
    assert top1["equivalence_p"] is None
    assert metric(scored(folder, [tmp_path / "p.h5"], margin=1.0))["equivalence_p"] < 0.05


def test_the_model_file_gives_the_model_back(tmp_path, within):
    """It is read as a person would, and finds what was found."""
    folder, found = within
    with safe_open(folder / "m.safetensors", "np") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = json.loads(file.metadata()["engram"])
    assert facts["folds"] == [*SUBJECTS]
    assert facts["runs"] == found.header["runs"]
    state = {k: v for k, v in state.items() if not k.startswith(("kept/", "familiar/"))}
    assert {len(values) for values in state.values()} == {2}
    x = {"epochs": [folder / f"{subject}/epochs.h5" for subject in SUBJECTS]}
    task, _ = pairs.load(x, {"picture/net": [folder / "picture/net.h5"]}, specified()["experiment"])
    options = nice.Options(**{k: v for k, v in specified()["head"].items() if k != "kind"})
    for f, fold in enumerate(task.folds):
        model = nice.restored(task, state, f, 1, options, "cpu")
        again = nice.predicted(model, task.x[0][fold.test], task, f, fold.test)
        np.testing.assert_array_equal(again, found.array[(found.table["fold"] == fold.name), 1])


# ---- the model that is kept -------------------------------------------------------------


def test_models_of_the_folds_say_what_was_predicted(within):
    folder, found = within
    model = engram.load_model(folder / "m.safetensors")
    pictures = store.open(folder / "picture/net.h5").load()
    targets = [pictures.array[pictures.table.index.get_indexer(found.header["candidates"])]]
    for name in SUBJECTS:
        rows = store.open(folder / f"{name}/epochs.h5").load()
        test = (rows.table["split"] == "test").to_numpy()
        state, at = model.folds_of(name)
        asked = nearest.Asked(targets, None, [[name]] * len(at))
        said = nice.predict(state, [rows.array[test]], asked, OPTIONS, "cpu")
        expected = found.array[(found.table["fold"] == name).to_numpy(), :2]
        np.testing.assert_allclose(said.swapaxes(0, 1), expected, atol=1e-5)


@torch.no_grad()
def cosines(state, epochs, features):
    """Mean over models of the cosine of epochs and pictures, (n, m), by PyTorch."""
    found = []
    for m in range(2):
        net = contrastive.Network(CHANNELS, TIMES, [WIDTH], OPTIONS)
        net.load_state_dict({name: torch.as_tensor(values[m]) for name, values in state.items()})
        a = net.eval().eeg(net.encoder.prepare(torch.as_tensor(epochs)))
        found.append(torch.cosine_similarity(a[:, None], net.image(torch.as_tensor(features)), 2))
    return torch.stack(found).mean(0).numpy()


def test_the_nearest_pictures_of_a_gallery_are_those_of_brute_force(within):
    """Of test pictures, which no model has seen: most are found, with the cosine of all seeds."""
    folder, _ = within
    model = engram.load_model(folder / "m.safetensors")
    assert model.facts["kept"]["models"] == [*SUBJECTS]
    assert "test pictures unseen" in model.facts["kept"]["rule"]
    x = [folder / f"{name}/epochs.h5" for name in SUBJECTS]
    rows, pictures = store.load(x), store.open(folder / "picture/net.h5").load()
    shown = (pictures.table["split"] == "test").to_numpy()
    names = pictures.table.index[shown]
    gallery = folder / "gallery/picture/net.h5"
    store.write(gallery, Rows(pictures.array[shown], pictures.table[shown], pictures.header))
    table = model.predict(x, gallery=gallery)
    assert list(table.index) == list(rows.table.index)
    test = (table["split"] == "test").to_numpy()
    assert (table["picture_1"] == table["stimulus"])[test].mean() > 0.5
    for name in SUBJECTS:
        own = (table["subject"] == name).to_numpy()
        said = cosines(model.kept_of(name)[0], rows.array[own], pictures.array[shown])
        order = np.argsort(-said, 1)[:, :5]
        for i in range(5):
            assert list(table[f"picture_{i + 1}"][own]) == list(names[order[:, i]])
            expected = np.take_along_axis(said, order, 1)[:, i]
            np.testing.assert_allclose(table[f"similarity_{i + 1}"][own], expected, atol=1e-5)


def test_what_a_gallery_has_to_be(within, tmp_path):
    folder, _ = within
    model = engram.load_model(folder / "m.safetensors")
    epochs = folder / "sub-01/epochs.h5"
    with pytest.raises(InputError, match="give `gallery`, stores of picture/net"):
        model.predict(epochs)
    pictures = store.open(folder / "picture/net.h5").load()
    other = Rows(pictures.array, pictures.table, pictures.header | {"what": "picture"})
    store.write(tmp_path / "net.h5", other)
    with pytest.raises(InputError, match="is not what m.safetensors was fitted on as picture/net"):
        model.predict(epochs, gallery=tmp_path / "net.h5")
    stranger = store.open(epochs).load()
    table = stranger.table.assign(subject="sub-09")
    store.write(tmp_path / "epochs.h5", Rows(stranger.array, table, stranger.header))
    with pytest.raises(InputError, match="has a model a subject, of .* and none of sub-09"):
        model.predict(tmp_path / "epochs.h5", gallery=folder / "picture/net.h5")


def test_the_command_names_the_nearest_pictures_of_epochs(within, tmp_path):
    folder, _ = within
    gallery, epochs = folder / "picture/net.h5", folder / "sub-01/epochs.h5"
    run = ["apply", str(folder / "m.safetensors"), str(epochs), "-o", str(tmp_path)]
    assert main(run) == 1
    assert not main([*run, "--gallery", str(gallery)])
    table = pd.read_csv(tmp_path / "predictions.csv")
    expected = engram.load_model(folder / "m.safetensors").predict(epochs, gallery=gallery)
    assert list(table["row"]) == list(expected.index)
    assert list(table["picture_5"]) == list(expected["picture_5"])
    np.testing.assert_allclose(table["similarity_1"], expected["similarity_1"], rtol=1e-4)
    assert "nearest pictures of a gallery" in (tmp_path / "summary.html").read_text()


@pytest.mark.parametrize("folds", ["pooled", "leave_one_subject_out"])
def test_one_model_is_kept_of_all_subjects_and_it_never_sees_test_pictures(tmp_path, folds):
    task = loaded(World(tmp_path), folds)
    (fold,) = pairs.kept(task)
    assert list(fold.train) == [*np.flatnonzero(task.table["split"] == "train")]
    assert len(fold.validation) == len(fold.test) == 0


def test_an_epoch_chosen_before_gives_the_weights_that_validation_would_have_kept(tmp_path):
    task, none = loaded(World(tmp_path)), np.zeros(0, int)
    options = replace(OPTIONS, epochs=6)
    task = replace(task, folds=task.folds[:1], runs=task.runs[:1])
    (fold,) = task.folds
    wrong = task.y.copy()
    wrong[fold.validation] = np.roll(wrong[fold.validation], 9)
    found = nice.fit(replace(task, y=wrong, runs=[Run(0, False, wrong)]), options, "cpu")
    ((epoch,),) = found.facts["epoch"]
    assert epoch < 5
    kept = replace(task, folds=[Fold(fold.name, fold.train, none, none)], chosen={"epoch": epoch})
    again = nice.fit(kept, options, "cpu")
    assert again.facts == found.facts
    for name, values in again.state.items():
        np.testing.assert_array_equal(values, found.state[name])


# ---- what else is written, and refused --------------------------------------------------


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


def rewritten(path, change):
    """A store whose rows, a Rows, `change` takes and gives."""
    store.write(path, change(store.open(path).load()))


def renamed(column, before, after):
    def change(rows):
        table = rows.table.assign(**{column: rows.table[column].replace(before, after)})
        return Rows(rows.array, table, rows.header)

    return change


def test_a_picture_of_training_that_is_tested_under_another_concept_is_refused(tmp_path):
    world = World(tmp_path)
    x, y = world.write()
    rewritten(x["epochs"][0], renamed("stimulus", "test/t003/0", "train/c003/1"))
    refused(world, x, y, "stimulus train/c003/1 stands in training and in test")


def test_a_tested_picture_that_is_no_candidate_is_refused(tmp_path):
    world = World(tmp_path)
    x, y = world.write()
    shown = world.pictures["split"].where(world.pictures.index != "test/t003/0", "train")
    targets = Rows(world.features, world.pictures.assign(split=shown), {"what": "features"})
    store.write(y["picture/net"][0], targets)
    refused(world, x, y, "a picture of a test row is not of split 'test'")


def test_what_cannot_be_split_is_refused(tmp_path):
    world = World(tmp_path, train=10, test=3)
    x, y = world.write()
    how = {"folds": "leave_one_subject_out"}
    with pytest.raises(InputError, match="'leave_one_subject_out' with 1 subjects"):
        pairs.load({"epochs": x["epochs"][:1]}, y, how)
    rewritten(x["epochs"][1], renamed("split", "test", "other"))
    refused(world, {"epochs": x["epochs"][1:]}, y, "no usable row of split 'test'")
    refused(world, x, y, "fold sub-02: no usable row of split 'test'")


def test_excluded_epochs_are_as_if_they_were_not_there(tmp_path):
    """Predictions and everything beside them, against stores without these rows."""
    found, reasons = [], []
    for way in ("excluded", "absent"):
        world = World(tmp_path / way, train=15, test=6, repetitions={"train": 2, "test": 3})
        x, y = world.write()
        for path, bad in zip(x["epochs"], ([0, 1, 20, -4], [5, *range(-3, -19, -3)]), strict=True):
            rows = store.open(path).load()
            rows.array[bad] = 1e6
            rows.table.iloc[bad, rows.table.columns.get_loc("exclude")] = "artefact"
            kept = np.flatnonzero(rows.table["exclude"] == "")
            if way == "absent":
                rows = Rows(rows.array[kept], rows.table.iloc[kept], rows.header)
            store.write(path, rows)
        made = [world.folder / name for name in ("m.safetensors", "p.h5", "l.h5")]
        spec = specified(epochs=2) | {"experiment": {"seeds": 1}}
        train(x, y, *made, spec, {}, "cpu")
        predicted = store.open(made[1]).load()
        reasons.append(predicted.header.pop("excluded"))
        with safe_open(made[0], "np") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        found.append((predicted, state))
    (one, model), (other, its_model) = found
    assert reasons == [{"artefact": 11}, {}]
    assert one.array.tobytes() == other.array.tobytes()
    assert model.keys() == its_model.keys()
    for name, values in model.items():
        np.testing.assert_array_equal(values, its_model[name])
    assert one.table.equals(other.table)
    assert one.header == other.header
    assert one.header["counts"] == [1, 2]  # what every picture has


def test_what_the_head_is_told(tmp_path, monkeypatch):
    """Rows that train and validate, the control and the seeds, where the experiment says little."""
    told = []
    fit = contrastive.fit

    def noted(eeg, targets, rows, options, seeds, device, control, until):
        if control is not None:  # else the model that is kept
            told.append((rows, seeds, control))
        return fit(eeg, targets, rows, options, seeds, device, control, until)

    monkeypatch.setattr(contrastive, "fit", noted)
    world = World(tmp_path, train=20, test=4)
    x, y = world.write()
    attainable = {"counts": [1], "top1": {"low": [0.0], "high": [1.0]}}
    for path in x["epochs"]:
        rewritten(path, lambda rows: Rows(
            rows.array, rows.table, rows.header | {"attainable": attainable}))  # fmt: skip
    made = [tmp_path / name for name in ("m.safetensors", "p.h5", "l.h5")]
    spec = specified(epochs=1, mask="concept")
    train(x, y, *made, spec | {"experiment": {}}, {}, "cpu")
    header = store.open(made[1]).load().header
    assert header["runs"] == [
        *({"seed": seed, "shuffled": False} for seed in (0, 1, 2)),
        {"seed": 0, "shuffled": True},
    ]
    assert header["attainable"] == attainable
    assert len(told) == 2  # a model a subject
    for rows, seeds, control in told:
        assert seeds == [0, 1, 2]
        assert len(rows.image) == 60
        concept = np.array([int(name[7:10]) for name in world.pictures.index[rows.image]])
        assert len(set(concept[rows.validation])) == 4  # a fifth of 20 at most
        assert not set(concept[rows.validation]) & set(concept[rows.train])
        assert sorted([*rows.train, *rows.validation]) == list(range(60))
        same = rows.concept[:, None] == rows.concept
        np.testing.assert_array_equal(same, concept[:, None] == concept)
        for part in (rows.train, rows.validation):
            assert sorted(control[part]) == sorted(rows.image[part])
            assert (control[part] != rows.image[part]).mean() > 0.5
    told.clear()
    train(x, y, *made, spec | {"experiment": {"folds": {"kind": "pooled"}, "seeds": 1}}, {},
          "cpu")  # fmt: skip
    assert [len(rows.image) for rows, _, _ in told] == [120]
    pooled = store.open(made[1]).load()
    assert set(pooled.table["fold"]) == {"pooled"}
    assert pooled.header["attainable"] is None


def test_features_of_several_encoders_are_matched_by_name(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(9)]
    split = ["train"] * 4 + ["test"] * 3 + ["other"] * 2
    table = pd.DataFrame({"split": split, "concept": names, "exclude": ""}, index=names)
    values = {"a/one": rng.normal(size=(9, 3, 2)), "a/two": rng.normal(size=(9, 5))}
    y = {}
    for source, array in values.items():
        order = rng.permutation(9)
        y[source] = [tmp_path / f"{source}.h5"]
        rows = Rows(array[order].astype(np.float32), table.iloc[order], {"what": "features"})
        store.write(y[source][0], rows)
    found = epochs.pictures(y)
    for i, name in enumerate(found.table.index):
        assert found.table["split"].iloc[i] == table["split"][name]
        for features, stored in zip(found.features, values.values(), strict=True):
            expected = stored[names.index(name)].ravel()
            np.testing.assert_allclose(features[i], expected, rtol=1e-6)
    assert sorted(found.table.index[found.shown]) == ["p4", "p5", "p6"]


@pytest.mark.parametrize(
    ("weights", "simulated", "flags"),
    [
        (("one.pt", "random"), True, ["simulated", "random_weights"]),
        (("random", "one.pt"), False, ["random_weights"]),
        (("one.pt", None), False, []),
    ],
)
def test_any_encoder_of_random_weights_is_said(tmp_path, weights, simulated, flags):
    world = World(tmp_path, train=10, test=3)
    x, y = world.write()
    for path in x["epochs"]:
        rewritten(path, lambda rows: Rows(
            rows.array, rows.table, rows.header | {"simulated": simulated}))  # fmt: skip
    for source, drawn in zip(("picture/net", "picture/other"), weights, strict=True):
        y[source] = [tmp_path / f"{source}.h5"]
        header = {"what": "features", "weights": drawn}
        store.write(y[source][0], Rows(world.features, world.pictures, header))
    made = [tmp_path / name for name in ("m.safetensors", "p.h5", "l.h5")]
    train(x, y, *made, specified(epochs=1), {}, "cpu")
    header = store.open(made[1]).header
    assert header["flags"] == flags
    assert header["targets"] == ["picture/net", "picture/other"]


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
    for name in ("top1", "top5"):
        whole = metric(scored(folder), name)["subjects"]
        assert {s: curve[name][s][-1] for s in SUBJECTS} == pytest.approx(whole)


def test_averages_are_means_of_rows_by_brute_force(tmp_path):
    world = World(tmp_path, test=7, repetitions={"train": 2, "test": 4})
    mixed = np.random.default_rng(2).permutation(len(world._shown()))
    x, _ = world.write(order=mixed)
    read = epochs.Epochs(x["epochs"])
    rows = store.load(x["epochs"])
    assert read.counts == [1, 2, 4]
    tests = np.flatnonzero(read.table["split"] == "test")
    assert len(tests) == 2 * 7 * 3
    taken = set()
    for at, value in zip(tests, read[tests], strict=True):
        row = read.table.iloc[at]
        same = (rows.table["subject"] == row["subject"]) & (
            rows.table["stimulus"] == row["stimulus"]
        )
        own = rows.array[same.to_numpy()]
        assert len(own) == 4
        some = itertools.combinations(own, row["fewer"] or 4)
        assert min(abs(value - np.mean(one, 0)).max() for one in some) < 1e-6
        if row["fewer"] == 1:
            taken.add(int(abs(value - own).max((1, 2)).argmin()))
    assert len(taken) > 1  # not the first of all, which come from one session
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
    # of each of two subjects in its fold, and for the model that is kept
    assert shapes == [(480, CHANNELS, TIMES)] * 4 + [(120, 4, CHANNELS, TIMES)] * 4
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
