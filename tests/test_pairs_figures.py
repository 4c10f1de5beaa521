"""The figures of a retrieval experiment: nearest pictures, curves, importance; their stage."""

import dataclasses
import json

import matplotlib.colors
import numpy as np
import pytest
import retrieving
import scipy.stats
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engram import store
from engram.errors import InputError
from engram.figures import style, visible
from engram.figures.gallery_figure import BAD, BY_LOT, GOOD, examples, gallery_figure
from engram.figures.importance_figure import importance_figure
from engram.figures.plot import plot
from engram.figures.repetitions_figure import repetitions_figure
from engram.figures.retrieval_figure import retrieval_figure
from engram.figures.training_figure import at_chosen, history, training_figure
from engram.heads.adapter import Options
from engram.planning.plan import Plan


@pytest.fixture
def predicted():
    return retrieving.predictions(np.random.default_rng(1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    retrieving.write(folder)
    return folder


@pytest.fixture
def scored(finished):
    return json.loads((finished / "scores/things_nice.json").read_text())


@pytest.fixture
def header(finished):
    return store.open(finished / "predictions/things_nice.h5").header


@pytest.fixture
def importance(finished):
    return json.loads((finished / "importance/things_nice.json").read_text())


def value_of(scored):
    return {row["metric"]: row["value"] for row in scored["metrics"]}


# ---- seen and nearest -----------------------------------------------------------------


def by_hand(predicted, name):
    """Candidates of one picture, most similar first, with their mean similarity; by loops."""
    found = {}
    for column, candidate in enumerate(predicted.header["candidates"]):
        values = [
            float(predicted.array[row, run, column])
            for row, shown in enumerate(predicted.table["stimulus"])
            for run, facts in enumerate(predicted.header["runs"])
            if shown == name and not facts["shuffled"] and not predicted.table["fewer"].iloc[row]
        ]
        found[candidate] = sum(values) / len(values)
    return sorted(found.items(), key=lambda item: -item[1])


def test_nearest_and_ranks_are_those_of_brute_force(predicted):
    chosen = examples(predicted, n=8)
    assert len({one["name"] for one in chosen}) == 8
    for one in chosen:
        ordered = [name for name, _ in by_hand(predicted, one["name"])]
        assert one["nearest"] == ordered[:5]
        assert one["rank"] == 1 + ordered.index(one["name"])


def test_runs_with_shuffled_pairs_do_not_count(predicted):
    before = examples(predicted)
    shuffled = [run["shuffled"] for run in retrieving.RUNS]
    predicted.array[:, shuffled] = 100 * np.random.default_rng(0).random(
        predicted.array[:, shuffled].shape
    )
    assert examples(predicted) == before


def test_half_are_drawn_by_lot_the_others_are_as_many_good_as_bad(predicted):
    chosen = examples(predicted, n=8, seed=3)
    assert [one["why"] for one in chosen] == [BY_LOT] * 4 + [GOOD] * 2 + [BAD] * 2
    assert examples(predicted, n=8, seed=3) == chosen
    assert examples(predicted, n=8, seed=4) != chosen
    lot = {one["name"] for one in chosen[:4]}
    ranks = {
        name: [n for n, _ in by_hand(predicted, name)].index(name) + 1
        for name in predicted.table["stimulus"].unique()
        if name not in lot
    }
    low, high = np.quantile(list(ranks.values()), [0.25, 0.75])
    assert all(one["rank"] <= low for one in chosen[4:6])
    assert all(one["rank"] >= high for one in chosen[6:])
    assert low < high


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_pictures_are_each_shown_once_at_most(count):
    few = retrieving.predictions(np.random.default_rng(0), pictures=count)
    chosen = examples(few)
    assert 1 <= len({one["name"] for one in chosen}) == len(chosen) <= count
    assert all(len(one["nearest"]) == min(count, 5) for one in chosen)


def test_the_true_picture_alone_is_framed(predicted):
    rows = retrieving.photographs(np.random.default_rng(0))
    by_name = dict(zip(rows.table.index, rows.array, strict=True))
    chosen = examples(predicted)
    made = gallery_figure(chosen, by_name, rows.header)
    green = matplotlib.colors.to_rgba(style.GREEN)
    drawn = iter(made.axes)
    framed = 0
    for one in chosen:
        seen, *near = [next(drawn) for _ in range(6)]
        assert f"rank {one['rank']:g}" in seen.get_xlabel()
        np.testing.assert_array_equal(seen.images[0].get_array(), by_name[one["name"]])
        for place, (axes, name) in enumerate(zip(near, one["nearest"], strict=True), 1):
            spine = axes.spines["top"]
            has_frame = spine.get_visible() and spine.get_edgecolor() == green
            assert has_frame == (name == one["name"])
            assert axes.get_xlabel() == str(place)
            np.testing.assert_array_equal(axes.images[0].get_array(), by_name[name])
            framed += has_frame
    assert next(drawn, None) is None
    assert framed == sum(one["rank"] <= 5 for one in chosen)
    assert 0 < framed < len(chosen)


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_pictures_say_so(predicted, simulated):
    rows = retrieving.photographs(np.random.default_rng(0))
    by_name = dict(zip(rows.table.index, rows.array, strict=True))
    made = gallery_figure(examples(predicted), by_name, rows.header, simulated=simulated)
    assert ("SIMULATED DATA" in [text.get_text() for text in made.texts]) == simulated


def test_only_the_rows_wanted_are_read(tmp_path):
    rows = retrieving.photographs(np.random.default_rng(0))
    store.write(tmp_path / "stimulus.h5", rows)
    wanted = [rows.table.index[7], rows.table.index[2]]
    found, _ = visible.load([tmp_path / "stimulus.h5"], wanted)
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], rows.array[rows.table.index.get_loc(name)])


# ---- the other figures ----------------------------------------------------------------


def test_channels_stand_in_the_order_of_what_they_cost(importance):
    made = importance_figure(importance)
    time, channels = made.axes
    shown = [label.get_text() for label in channels.get_yticklabels()]
    found = importance["channel"]
    cost = dict(zip(found["names"], found["lost"], strict=True))
    assert shown == sorted(cost, key=cost.get, reverse=True)[:20]
    lengths = [bar.get_width() for bar in channels.patches]
    np.testing.assert_allclose(lengths, [cost[name] for name in shown])
    (lines,) = channels.collections
    ends = {name: segment[:, 0] for name, segment in zip(shown, lines.get_segments(), strict=True)}
    at = found["names"].index(shown[3])
    np.testing.assert_allclose(ends[shown[3]], [found["low"][at], found["high"][at]])
    middle = time.lines[-1].get_xdata()
    np.testing.assert_allclose(middle, np.arange(10) / 10 + 0.05)


@pytest.mark.parametrize("part", ["time", "channel"])
def test_what_was_not_measured_is_not_drawn(importance, part):
    assert len(importance_figure(importance | {part: None}).axes) == 1
    assert importance_figure(None).axes == []


def test_one_subject_has_no_interval(importance):
    for part in ("time", "channel"):
        importance[part] |= {"low": None, "high": None}
    assert [len(axes.collections) for axes in importance_figure(importance).axes] == [0, 0]


def test_training_has_a_line_a_seed_and_a_dot_a_choice(header):
    made = training_figure(header)
    curves = history(header)
    loss, top1 = made.axes[:2]
    lines = [line for line in loss.lines if len(line.get_xdata()) > 1]
    assert len(lines) == len(retrieving.RUNS)
    first = curves[~curves["shuffled"] & (curves["seed"] == 0)]
    expected = [first.loc[first["epoch"] == e, "loss"].mean() for e in range(20)]
    np.testing.assert_allclose(lines[0].get_ydata(), expected)
    points = {tuple(point) for point in np.round(top1.collections[0].get_offsets(), 9)}
    assert points == {
        (row["epoch"], round(row["validation_top1"], 9))
        for row in curves.to_dict("records")
        if not row["shuffled"]
        and header["chosen"]["epoch"][row["fold"]][row["run"]] == row["epoch"]
    }


def test_epochs_without_validation_have_no_dot(header):
    column = header["curves"]["validation_top1"]
    for i, epoch in enumerate(header["curves"]["epoch"]):
        column[i] = None if epoch % 2 else column[i]
    found = at_chosen(history(header), header["chosen"]["epoch"], "validation_top1")
    assert (found["epoch"] % 2 == 0).all()
    training_figure(header)
    assert training_figure(header | {"curves": {}}).axes == []


def test_retrieval_shows_every_subject_and_every_k(scored):
    left, right = retrieval_figure(scored).axes
    dots = left.collections[1].get_offsets()  # after the band of what is attainable
    assert sorted(dots[:, 0]) == pytest.approx(sorted(scored["metrics"][0]["subjects"].values()))
    (line,) = (
        line
        for line in right.lines
        if line.get_color() == style.BLUE and line.get_xdata()[0] != line.get_xdata()[-1]
    )
    value = value_of(scored)
    expected = {2: value["2_way"], 4: value["4_way"], 10: value["10_way"], 40: value["top1"]}
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == pytest.approx(expected)


def test_scores_with_gaps_are_drawn(scored):
    scored["predicted"] = {}
    for row in scored["metrics"]:
        row |= {"low": None, "high": None, "control": None}
        row["value"] = None if row["metric"] == "top3" else row["value"]
        if row["metric"] == "top5":
            row["subjects"] = dict.fromkeys(row["subjects"])
    left, _ = retrieval_figure(scored).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["Top-1", "Top-5"]


@pytest.mark.parametrize(
    ("flags", "title"),
    [([], "Validation, top-1"), (["published_protocol"], "Test pictures, top-1")],
)
def test_curves_say_what_the_epoch_was_chosen_on(header, flags, title):
    made = training_figure(header | {"flags": flags})
    assert made.axes[1].get_title() == title


def curve(axes, colour, dashed=False):
    """Ordinates of the lines of one colour that are longer than a point."""
    return [
        np.array(line.get_ydata())
        for line in axes.lines
        if line.get_color() == colour
        and len(line.get_xdata()) > 2
        and (line.get_linestyle() != "-") == dashed
    ]


def test_repetitions_have_a_line_a_subject_and_what_is_attainable(scored):
    made = repetitions_figure(scored)
    for axes, name in zip(made.axes, ("top1", "top5"), strict=True):
        found = scored["repetitions"][name]
        each = curve(axes, style.GREY)
        np.testing.assert_allclose(each, [found[subject] for subject in sorted(found)])
        (mean,) = curve(axes, style.BLUE)
        np.testing.assert_allclose(mean, np.mean(each, axis=0))
        attainable = scored["attainable"][name]
        np.testing.assert_allclose(curve(axes, style.GREEN), [attainable["best"]])
        np.testing.assert_allclose(curve(axes, style.GREEN, dashed=True), [attainable["linear"]])
        band, intervals = axes.collections[:2]
        corners = {tuple(point) for point in np.round(band.get_paths()[0].vertices, 9)}
        for end in ("low", "high"):
            assert set(zip(retrieving.COUNTS, attainable[end], strict=True)) <= corners
        for (low, high), values in zip(intervals.get_segments(), np.transpose(each), strict=True):
            expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
            np.testing.assert_allclose((low[1], high[1]), np.clip(expected, 0, 1))
        (chance,) = {line.get_ydata()[0] for line in axes.lines if line.get_color() == style.INK
                     and len(line.get_xdata()) == 2}  # fmt: skip
        assert chance == int(name[3:]) / 40
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "5", "10", "20"]


def test_measured_data_have_no_band_and_one_subject_no_interval(scored):
    alone = {name: {"sub-01": scored["repetitions"][name]["sub-01"]} for name in ("top1", "top5")}
    found = {"counts": retrieving.COUNTS, "interval": None, **alone}
    made = repetitions_figure(scored | {"attainable": None, "repetitions": found})
    assert [len(axes.collections) for axes in made.axes] == [0, 0]
    words = [text.get_text() for text in made.legends[0].texts]
    assert words == ["one subject", "mean, 95 % interval over subjects", "chance"]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "not measured for this experiment"),
        ({"counts": [4], "top1": {"a": [0.1]}, "top5": {"a": [0.2]}}, "there is no curve"),
    ],
)
def test_a_single_number_of_repetitions_is_no_curve(scored, found, text):
    made = repetitions_figure(scored | {"repetitions": found})
    assert made.axes == []
    assert text in made.texts[0].get_text()


def test_among_four_pictures_there_is_no_top5(scored):
    assert len(repetitions_figure(scored | {"candidates": 4}).axes) == 1


# ---- the stage ------------------------------------------------------------------------


def test_plot_writes_everything_it_declares(tmp_path):
    retrieving.write(tmp_path)
    made = retrieving.outputs(tmp_path, "things_nice")
    inputs = (tmp_path / "scores/things_nice.json", tmp_path / "predictions/things_nice.h5")
    drawn(tmp_path)
    for name in ("retrieval", "repetitions", "training", "importance"):
        assert made[name].read_text().startswith("<?xml")
    with Image.open(made["gallery"]) as image:
        assert image.width > 1000
    found = EventAccumulator(str(made["events"])).Reload()
    scored = json.loads(inputs[0].read_text())
    curves = history(store.open(inputs[1]).header)
    own = curves[~curves["shuffled"] & (curves["seed"] == 1)].groupby("epoch")
    columns = {
        "Train/loss": "loss",
        "Validation/top5": "validation_top5",
        "Validation/score": "score",
    }
    for tag, column in columns.items():
        shown = [event.value for event in found.Scalars(f"{tag}/seed 1")]
        np.testing.assert_allclose(shown, own[column].mean(), rtol=1e-6)
    (test,) = found.Scalars("Test/top1")
    assert (test.step, test.value) == (19, pytest.approx(value_of(scored)["top1"]))
    (settings,) = found.Tensors("hyperparameters")
    shown = json.loads(settings.tensor_proto.string_val[0].decode().strip("`"))
    assert shown["head"] == dataclasses.asdict(Options(dropout=0.2)) | {"kind": "adapter"}
    before = made["gallery"].read_bytes()
    drawn(tmp_path)
    assert made["gallery"].read_bytes() == before


def drawn(folder):
    name = "things_nice"
    plot(
        folder / f"scores/{name}.json",
        folder / f"predictions/{name}.h5",
        [folder / "views/stimuli/stimulus.h5"],
        [folder / f"importance/{name}.json"],
        retrieving.outputs(folder, name),
        {"task": "pairs"},
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("candidates", "thing3_01 was shown but is no candidate"),
        ("pictures", "lacks the picture"),
    ],
)
def test_stores_that_do_not_fit_are_refused(tmp_path, change, message):
    retrieving.write(tmp_path)
    path, view = tmp_path / "predictions/things_nice.h5", tmp_path / "views/stimuli/stimulus.h5"
    rows = store.open(view if change == "pictures" else path).load()
    if change == "candidates":
        named = rows.header["candidates"]
        named[named.index(retrieving.names()[3])] = "test/other"
    if change == "pictures":
        rows = type(rows)(rows.array[:4], rows.table[:4], rows.header)
    target = view if change == "pictures" else path
    target.unlink()
    store.write(target, rows)
    made = retrieving.outputs(tmp_path, "things_nice")
    with pytest.raises(InputError, match=message):
        drawn(tmp_path)
    assert not made["retrieval"].parent.exists()


# ---- the plan -------------------------------------------------------------------------

CONFIG = {
    "datasets": {"things": {"units": ["sub-01", "sub-02"], "shared": {"stimuli": ["a.zip"]}}},
    "views": {
        "epochs": {"kind": "epochs"}, "spectrogram": {"kind": "multitaper"},
        "state": {"kind": "annotations"}, "caption": {"kind": "captions", "unit": "stimuli"},
        "stimulus": {"kind": "photograph", "unit": "stimuli"},
    },
    "heads": {"nice": {"kind": "nice"}, "linear": {"kind": "linear"}},
    "experiments": {
        "found": {"dataset": "things", "x": "epochs", "y": "stimulus/clip", "head": "nice"},
        "both": {
            "dataset": "things", "x": "epochs", "y": ["caption/dino", "stimulus/clip"],
            "head": "nice", "baseline": "found",
        },
        "told": {"dataset": "things", "x": "spectrogram/vit", "y": "state", "head": "linear"},
    },
    "run": ["both", "told"],
}  # fmt: skip


def test_experiments_whose_target_is_features_look_for_pictures():
    plan = Plan(CONFIG)
    assert plan.tasks() == {"pairs": ["found", "both"], "classes": ["told"]}
    assert plan.pictures("found") == ["results/views/things/stimuli/stimulus.h5"]
    assert plan.pictures("both") == plan.pictures("found")  # captions are nothing to look at
    seen = [f"results/views/things/sub-0{i}/spectrogram.h5" for i in (1, 2)]
    assert plan.pictures("told") == seen
    files = {
        name: [path.rpartition("/")[2] for path in plan.figures() if f"/{name}/" in path]
        for name in CONFIG["experiments"]
    }
    pictured = [
        "retrieval.svg", "repetitions.svg", "training.svg", "importance.svg", "gallery.png",
    ]  # fmt: skip
    assert files["found"] == files["both"] == pictured
    assert files["told"] == ["subjects.svg", "confusion.svg", "curves.svg", "examples.svg"]
    assert plan.importance("found") == ["results/demo/importance/found.json"]
    assert plan.importance("told") == []
    assert plan.spec("plot", experiment="found") == {"experiment": "found", "task": "pairs"}
