"""What a retrieval experiment shows: nearest pictures, curves, importance, its part of the page."""

import copy
import dataclasses
import html.parser
import json

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
import retrieving
import study
from PIL import Image
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engram import store
from engram.errors import InputError
from engram.figures import page, pictures, style
from engram.figures.gallery import gallery
from engram.figures.gallery_figure import BAD, BY_LOT, GOOD, examples, gallery_figure
from engram.figures.importance_figure import drops, importance_figure
from engram.figures.report import report
from engram.figures.retrieval_figure import retrieval_figure
from engram.figures.training_figure import at_chosen, training_figure
from engram.heads.adapter import Options
from engram.plan import Plan


@pytest.fixture
def predicted():
    return retrieving.predictions(np.random.default_rng(1))


@pytest.fixture
def scored(predicted):
    return retrieving.scores("nice", predicted, np.random.default_rng(2), "plain")


# ---- seen and nearest -----------------------------------------------------------------


def by_hand(predicted, name):
    """Candidates of one picture, most similar first, with their mean similarity; by loops."""
    found = {}
    for column, candidate in enumerate(predicted.header["candidates"]):
        values = [
            float(predicted.array[row, run, column])
            for row, shown in enumerate(predicted.table["stimulus"])
            for run, facts in enumerate(predicted.header["runs"])
            if shown == name and not facts["shuffled"]
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
    found, _ = pictures.load([tmp_path / "stimulus.h5"], wanted)
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], rows.array[rows.table.index.get_loc(name)])


# ---- the other figures ----------------------------------------------------------------


def test_drops_are_means_with_t_intervals():
    full = {"a": 0.5, "b": 0.4, "c": 0.6}
    without = {"c": [0.1, 0.6], "a": [0.4, 0.5], "b": [0.2, 0.4]}
    each = np.array([[0.1, 0], [0.2, 0], [0.5, 0]])
    mean, low, high = drops(full, without)
    np.testing.assert_allclose(mean, each.mean(0), atol=1e-12)
    expected = stats.t.interval(0.95, 2, each[:, 0].mean(), stats.sem(each[:, 0]))
    np.testing.assert_allclose([low[0], high[0]], expected)
    assert np.isnan(drops({"a": 1}, {"a": [0.5]})[1]).all()


def test_channels_stand_in_the_order_of_what_they_cost(scored):
    made = importance_figure(scored["importance"])
    time, channels = made.axes
    shown = [label.get_text() for label in channels.get_yticklabels()]
    found = scored["importance"]
    cost = {
        name: np.mean([found["full"][s] - v[i] for s, v in found["channel"]["top1"].items()])
        for i, name in enumerate(found["channel"]["names"])
    }
    assert shown == sorted(cost, key=cost.get, reverse=True)[:20]
    lengths = [bar.get_width() for bar in channels.patches]
    np.testing.assert_allclose(lengths, [cost[name] for name in shown])
    middle = time.lines[-1].get_xdata()
    np.testing.assert_allclose(middle, np.arange(10) / 10 + 0.05)


@pytest.mark.parametrize("part", ["time", "channel"])
def test_what_was_not_measured_is_not_drawn(scored, part):
    assert len(importance_figure(scored["importance"] | {part: None}).axes) == 1
    assert importance_figure(None).axes == []


def test_training_has_a_line_a_seed_and_a_dot_a_choice(scored):
    made = training_figure(scored)
    curves = pd.DataFrame(scored["curves"])
    loss, top1 = made.axes[:2]
    lines = [line for line in loss.lines if len(line.get_xdata()) > 1]
    assert len(lines) == len(retrieving.RUNS)
    first = curves[~curves["shuffled"] & (curves["seed"] == 0)]
    expected = [first.loc[first["epoch"] == e, "loss"].mean() for e in range(20)]
    np.testing.assert_allclose(lines[0].get_ydata(), expected)
    points = {tuple(point) for point in np.round(top1.collections[0].get_offsets(), 9)}
    keys = ("fold", "seed", "shuffled", "epoch")
    values = {tuple(one[k] for k in keys): one["validation_top1"] for one in scored["curves"]}
    assert points == {
        (one["epoch"], round(values[tuple(one[k] for k in keys)], 9))
        for one in scored["chosen"]
        if not one["shuffled"]
    }


def test_epochs_without_validation_have_no_dot(scored):
    for one in scored["curves"]:
        one["validation_top1"] = None if one["epoch"] % 2 else one["validation_top1"]
    curves = pd.DataFrame(scored["curves"])
    assert (at_chosen(curves, scored["chosen"], "validation_top1")["epoch"] % 2 == 0).all()
    training_figure(scored)
    assert training_figure(scored | {"curves": [], "chosen": []}).axes == []
    assert len(training_figure(scored | {"chosen": []}).axes) == 4


def test_retrieval_shows_every_subject_and_every_k(scored):
    left, right = retrieval_figure(scored).axes
    dots = left.collections[1].get_offsets()  # after the band of what is attainable
    assert sorted(dots[:, 0]) == pytest.approx(sorted(one["top1"] for one in scored["subjects"]))
    (line,) = (
        line
        for line in right.lines
        if line.get_color() == style.BLUE and line.get_xdata()[0] != line.get_xdata()[-1]
    )
    value = {name: row["value"] for name, row in scored["metrics"].items()}
    expected = {2: value["2_way"], 4: value["4_way"], 10: value["10_way"], 40: value["top1"]}
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == pytest.approx(expected)


def test_scores_with_gaps_are_drawn(scored):
    for row in scored["metrics"].values():
        row |= {"interval": None, "control": None}
    scored["metrics"]["top3"]["value"] = None
    for one in scored["subjects"]:
        one["top5"] = None
    left, _ = retrieval_figure(scored | {"attainable": None}).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["Top-1", "Top-5"]


# ---- the stage ------------------------------------------------------------------------


def test_gallery_writes_everything_it_declares(tmp_path):
    retrieving.write(tmp_path)
    made = retrieving.outputs(tmp_path, "things_nice")
    inputs = (tmp_path / "scores/things_nice.json", tmp_path / "predictions/things_nice.h5")
    gallery(*inputs, [tmp_path / "views/stimuli/stimulus.h5"], **made)
    for name in ("retrieval", "training", "importance"):
        assert made[name].read_text().startswith("<?xml")
    with Image.open(made["gallery"]) as image:
        assert image.width > 1000
    found = EventAccumulator(str(made["events"])).Reload()
    scored = json.loads(inputs[0].read_text())
    curves = pd.DataFrame(scored["curves"])
    own = curves[~curves["shuffled"] & (curves["seed"] == 1)].groupby("epoch")
    for tag, column in (("Train/loss", "loss"), ("Validation/top5", "validation_top5")):
        shown = [event.value for event in found.Scalars(f"{tag}/seed 1")]
        np.testing.assert_allclose(shown, own[column].mean(), rtol=1e-6)
    (test,) = found.Scalars("Test/top1")
    assert (test.step, test.value) == (19, pytest.approx(scored["metrics"]["top1"]["value"]))
    (settings,) = found.Tensors("hyperparameters")
    shown = json.loads(settings.tensor_proto.string_val[0].decode().strip("`"))
    assert shown["head"] == dataclasses.asdict(Options(dropout=0.2)) | {"kind": "adapter"}
    before = made["gallery"].read_bytes()
    gallery(*inputs, [tmp_path / "views/stimuli/stimulus.h5"], **made)
    assert made["gallery"].read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("what", "holds no similarities"),
        ("candidates", "thing3_01 was shown but is no candidate"),
        ("pictures", "lacks the picture"),
    ],
)
def test_stores_that_do_not_fit_are_refused(tmp_path, change, message):
    retrieving.write(tmp_path)
    path, view = tmp_path / "predictions/things_nice.h5", tmp_path / "views/stimuli/stimulus.h5"
    rows = store.open(view if change == "pictures" else path).load()
    if change == "what":
        rows.header["what"] = "probabilities"
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
        gallery(tmp_path / "scores/things_nice.json", path, [view], **made)
    assert not made["retrieval"].parent.exists()


# ---- the page -------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Text of a page in order, its tables as rows of cells, ids and links."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tables, self.ids, self.links = [], [], [], []
        self.cell, self.skip = None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        self.skip = tag in ("style", "script")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.skip = False
        self.cell = None if tag in ("td", "th") else self.cell

    def handle_data(self, data):
        data = " ".join(data.split())
        if self.skip or not data:
            return
        self.words.append(data)
        if self.cell:
            row = self.tables[-1][-1]
            row[-1] = f"{row[-1]} {data}".strip()


@pytest.fixture
def whole(tmp_path):
    """Arguments of `page.render`."""
    spec = retrieving.write(tmp_path)
    scored = {
        n: json.loads((tmp_path / f"scores/{n}.json").read_text()) for n in spec["experiments"]
    }
    headers = {n: store.open(tmp_path / f"predictions/{n}.h5").header for n in scored}
    return scored, headers, {}, spec


def test_the_tables_hold_the_scores(whole):
    scored = whole[0]["things_nice"]
    read = Reader(page.render(*whole))
    summary, _, _, every, subjects = read.tables
    value = {name: f"{row['value']:.3f}" for name, row in scored["metrics"].items()}
    assert [row[0].split()[0] for row in summary[1:]] == ["NICE", "Linear"]  # best first
    best = summary[1]
    assert best[1].startswith(value["top1"])
    assert best[2].startswith(value["top5"])
    assert best[3].startswith(value["mrr"])
    assert best[4:7] == ["0.025", f"{scored['metrics']['top1']['control']:.3f}", "0.004"]
    assert best[7] == "+0.043 +0.012 to +0.079 p 0.031 over Linear"
    assert summary[2][7] == "–"
    assert [row[0] for row in every[1:9]] == [
        "Top-1", "Top-3", "Top-5", "Mean reciprocal rank", "Median rank ↓", "2-way", "4-way",
        "10-way",
    ]  # fmt: skip
    low, high = scored["metrics"]["top1"]["interval"]
    assert every[1][1:] == [
        value["top1"], f"{low:.3f} to {high:.3f}", "0.025",
        f"{scored['metrics']['top1']['control']:.3f}", "0.012", "0.046", "0.600 to 0.700",
    ]  # fmt: skip
    assert every[5][3] == "20.5"  # the median rank by chance among 40
    assert every[9][0] == "Top-1 from the picture to its EEG"
    assert [row[0] for row in subjects[1:]] == retrieving.subjects()
    first = next(one for one in scored["subjects"] if one["subject"] == "sub-01")
    assert subjects[1][2] == f"{first['top1']:.3f}"


def test_the_page_says_in_one_line_what_was_found(whole):
    low, high = (whole[0][n]["metrics"]["top1"]["value"] for n in ("things_plain", "things_nice"))
    line = (
        f"2 experiments on THINGS-EEG2, 4 subjects: top-1 among 40 pictures {low:.2f} to "
        f"{high:.2f}, by chance 0.025."
    )
    assert line in Reader(page.render(*whole)).words


def test_what_people_typed_is_escaped(whole):
    scored, headers, figures, spec = whole
    spec["experiments"]["things_nice"]["title"] = "<script>alert(1)</script>"
    scored["things_nice"]["protocol"] = "<b>by hand"
    written = page.render(scored, headers, figures, spec)
    assert "<script>alert" not in written
    assert "<b>by hand" not in written
    assert "Only &lt;4&gt; subjects" in written


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("simulated", "simulated data"),
        ("random_weights", "random weights"),
        ("leaks", "LEAKS: test pictures in training"),
        ("protocol", "protocol: published: selected on test images"),
    ],
)
def test_badges_stand_on_top_in_the_table_and_at_the_experiment(whole, key, text):
    scored, headers, figures, spec = copy.deepcopy(whole)
    for name in scored:
        scored[name]["simulated"] = headers[name]["simulated"] = False
    plain = Reader(page.render(scored, headers, figures, spec)).words
    assert text not in plain
    assert plain.count("protocol: clean") == 4  # of both experiments, and not on top
    changed = "published: selected on test images" if key == "protocol" else True
    scored["things_nice"][key] = changed
    assert Reader(page.render(scored, headers, figures, spec)).words.count(text) == 3


def test_a_study_may_hold_both_kinds(whole, tmp_path):
    scored, headers, figures, spec = whole
    others = study.write(tmp_path / "other")
    for name in others["experiments"]:
        scored[name] = json.loads((tmp_path / f"other/scores/{name}.json").read_text())
        headers[name] = store.open(tmp_path / f"other/predictions/{name}.h5").header
    spec["experiments"] |= others["experiments"]
    read = Reader(page.render(scored, headers, figures, spec))
    wanted = ["things_plain", "things_nice", "bandpower", "clip"]
    assert sorted(i for i in read.ids if i in wanted) == sorted(wanted)
    assert len(read.ids) == len(set(read.ids))
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    text = " ".join(read.words)
    assert "2 experiments on Simulated vigilance: 6 subjects" in text
    assert "2 experiments on THINGS-EEG2, 4 subjects" in text


def test_scores_with_gaps_are_shown(whole):
    scored, headers, figures, spec = whole
    for one in scored.values():
        one |= {"p": None, "paired": None, "attainable": None, "reverse": None, "importance": None}
        for row in one["metrics"].values():
            row |= dict.fromkeys(("value", "interval", "control", "seed_sd", "subject_sd"))
    read = Reader(page.render(scored, headers, figures, spec))
    assert read.tables[0][1][1:4] == ["–", "–", "–"]
    assert "attainable" not in " ".join(read.words)


def test_several_targets_are_named_together(whole):
    whole[3]["experiments"]["things_nice"]["y"] = ["stimulus/clip", "caption/clip"]
    assert "→ stimulus/clip + caption/clip" in Reader(page.render(*whole)).words


def test_the_report_holds_the_figures(tmp_path):
    spec = retrieving.write(tmp_path)
    figures = []
    for name in spec["experiments"]:
        made = retrieving.outputs(tmp_path, name)
        view = [tmp_path / "views/stimuli/stimulus.h5"]
        gallery(tmp_path / f"scores/{name}.json", tmp_path / f"predictions/{name}.h5", view, **made)
        figures += [path for key, path in made.items() if key != "events"]
    report(
        [tmp_path / f"scores/{name}.json" for name in spec["experiments"]],
        [tmp_path / f"predictions/{name}.h5" for name in spec["experiments"]],
        figures,
        tmp_path / "report.html",
        spec,
    )
    links = Reader((tmp_path / "report.html").read_text()).links
    assert sum(link.startswith("data:image/svg+xml;base64") for link in links) == 6
    assert sum(link.startswith("data:image/png;base64") for link in links) == 2


# ---- the plan -------------------------------------------------------------------------

CONFIG = {
    "datasets": {"things": {"units": ["sub-01", "sub-02"], "shared": {"stimuli": ["a.zip"]}}},
    "views": {
        "epochs": {}, "state": {}, "stimulus": {"unit": "stimuli"}, "caption": {"unit": "stimuli"},
    },
    "experiments": {
        "found": {"dataset": "things", "x": "epochs", "y": "stimulus/clip", "baseline": "none"},
        "both": {
            "dataset": "things", "x": "epochs", "y": ["state", "caption/clip"], "baseline": "found",
        },
        "told": {"dataset": "things", "x": "epochs/bendr", "y": "state", "baseline": "none"},
    },
    "run": ["both", "told"],
}  # fmt: skip


def test_experiments_whose_target_is_features_look_for_pictures():
    plan = Plan(CONFIG)
    assert [plan.is_retrieval(name) for name in CONFIG["experiments"]] == [True, True, False]
    assert plan.candidate_pictures("found") == ["results/views/things/stimuli/stimulus.h5"]
    assert plan.candidate_pictures("both") == ["results/views/things/stimuli/caption.h5"]
    files = {
        name: [path.rpartition("/")[2] for path in plan.figures() if f"/{name}/" in path]
        for name in CONFIG["experiments"]
    }
    pictured = ["retrieval.svg", "training.svg", "importance.svg", "gallery.png"]
    assert files["found"] == files["both"] == pictured
    assert files["told"] == ["subjects.svg", "confusion.svg", "curves.svg", "examples.svg"]
    assert plan.spec("gallery", experiment="found") == {"experiment": "found"}
