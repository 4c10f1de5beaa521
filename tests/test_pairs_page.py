"""The part of the report that shows retrieval: from hand-made experiments, and from real ones."""

import copy
import html.parser
import json

import numpy as np
import pairing
import pytest
import retrieving
import study

from engram import store
from engram.figures import page, pairs_page


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
        self.skip = tag in ("style", "script", "svg", "title")
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


def arguments(folder, spec):
    """Arguments of `page.render`."""
    scored = {n: json.loads((folder / f"scores/{n}.json").read_text()) for n in spec["experiments"]}
    headers = {n: store.open(folder / f"predictions/{n}.h5").header for n in scored}
    return scored, headers, {}, spec


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return arguments(folder, retrieving.write(folder))


@pytest.fixture
def whole(written):
    return copy.deepcopy(written)


@pytest.fixture(scope="module")
def of_all_kinds(tmp_path_factory):
    """All four experiments, the published one and that of new subjects included."""
    folder = tmp_path_factory.mktemp("all")
    return arguments(folder, retrieving.write(folder, experiments=tuple(retrieving.EXPERIMENTS)))


# ---- real outputs -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    repetitions = {"test": 6}
    return pairing.run(tmp_path_factory.mktemp("real"), noise=1.5, repetitions=repetitions)


def form(value):
    """Names and kinds of all that a value consists of; subjects are alike."""
    if isinstance(value, dict):
        of_subjects = bool(value) and all(key.startswith("sub-") for key in value)
        keys = {"subject": next(iter(value))} if of_subjects else {key: key for key in value}
        return {name: form(value[key]) for name, key in keys.items()}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


@pytest.mark.parametrize("name", ["things_plain", "things_published"])
def test_hand_made_experiments_have_the_form_of_real_ones(real, of_all_kinds, name):
    scored, headers, *_ = of_all_kinds
    found = store.open(real[0] / f"predictions/{name}.h5").load()
    found.header.pop("made_by")
    expected = {key: headers[name][key] for key in headers[name] if key != "made_by"}
    assert form(expected) == form(found.header)
    assert form(scored[name]) == form(json.loads((real[0] / f"scores/{name}.json").read_text()))
    made = retrieving.predictions(np.random.default_rng(0))
    assert set(made.table) == set(found.table)
    assert made.array.dtype == found.array.dtype
    assert made.array.shape[1] == found.array.shape[1]


def test_a_real_experiment_reaches_the_page(real):
    folder, spec = real
    read = Reader((folder / "report.html").read_text())
    scored, headers, *_ = arguments(folder, spec)
    top1 = {name: f"{one['metrics'][0]['value']:.3f}" for name, one in scored.items()}
    rows = read.tables[0][1:]
    assert [row[0].split(" epochs")[0] for row in rows] == ["Linear", "NICE, as published"]
    assert [row[1].split()[0] for row in rows] == list(top1.values())
    assert sum(link.startswith("data:image/svg+xml;base64") for link in read.links) == 8
    assert sum(link.startswith("data:image/png;base64") for link in read.links) == 2
    text = " ".join(read.words)
    assert f"top-1 {float(top1['things_plain']):.3f}" in text
    assert "chance 0.050" in text
    assert "Epochs chosen on held-out concepts" in text
    assert "Epochs chosen on the test pictures" in text
    for fold in ("sub-01", "sub-02"):
        epochs = headers["things_plain"]["chosen"]["epoch"][fold]
        assert f"{fold}: {epochs[0]} (seed 0), {epochs[1]} (seed 1), {epochs[2]} (control)" in text


def test_three_candidates_reach_the_page(tmp_path):
    folder, _ = pairing.run(tmp_path, test=3)
    read = Reader((folder / "report.html").read_text())
    assert [row[2] for row in read.tables[0][1:]] == ["–", "–"]  # there is no top-5
    svg = (folder / "figures/things_plain/repetitions.svg").read_text()
    assert "there is no curve" in svg


# ---- tables -------------------------------------------------------------------------------


def test_the_tables_hold_the_scores(whole):
    scored = whole[0]["things_nice"]
    read = Reader(page.render(*whole))
    summary, pairs, every, subjects, *_ = read.tables
    by_name = retrieving.metrics(scored)
    value = {name: f"{row['value']:.3f}" for name, row in by_name.items()}
    assert [row[0].split()[0] for row in summary[1:]] == ["NICE", "Linear"]  # best first
    best = summary[1]
    assert best[1].startswith(value["top1"])
    assert best[2].startswith(value["top5"])
    assert best[3].startswith(value["mrr"])
    p = min(2 * max(whole[0][name]["metrics"][0]["p"] for name in whole[0]), 1)
    band = "{null_low:.3f} to {null_high:.3f}".format(**by_name["top1"])
    assert best[4:6] == [f"0.025 {band}", f"{by_name['top1']['control']:.3f}"]
    assert best[6].startswith(f"{p:.3f}")
    assert best[7] == "0.200 to 0.800 ✓ inside"
    paired, row = scored["paired"], by_name["top1"]
    gain = [row[f"difference{end}"] for end in ("", "_low", "_high")]
    assert [row[0] for row in pairs[1:]] == [
        "Linear new pictures, a known subject",
        "NICE over Linear new pictures, a known subject",
    ]
    assert pairs[1][2:] == ["is a baseline itself"]
    assert pairs[2][2:] == [
        "{:+.3f} {:+.3f} to {:+.3f}".format(*gain).replace("-", "−"),
        f"{row['difference_p']:.3f}",
        f"{paired['wilcoxon']:.3f}",
        f"{paired['mcnemar']['better']} better {paired['mcnemar']['worse']} worse, of 4",
    ]
    assert [row[0] for row in every[1:10]] == [
        "Top-1", "Top-3", "Top-5", "Mean reciprocal rank", "Median rank ↓", "Mean rank ↓", "2-way",
        "4-way", "10-way",
    ]  # fmt: skip
    assert every[1][1:] == [
        value["top1"], f"{row['low']:.3f} to {row['high']:.3f}", "0.025", f"{row['control']:.3f}",
        f"{row['seed_sd']:.3f}", f"{row['subject_sd']:.3f}", "0.200 to 0.800 ✓ inside",
    ]  # fmt: skip
    assert [every[i][3] for i in (5, 6)] == ["20.5", "20.5"]  # ranks by chance among 40
    assert every[10][0] == "Top-1, from the picture to its EEG"
    assert [row[0] for row in subjects[1:]] == retrieving.subjects()
    assert subjects[1][1] == f"{row['subjects']['sub-01']:.3f}"


def test_experiments_of_one_dataset_share_a_table_whatever_their_target(of_all_kinds):
    read = Reader(page.render(*of_all_kinds))
    assert [i for i in read.ids if i.startswith("pairs-")] == ["pairs-1"]
    rows = {row[0].split(" epochs")[0]: row[0] for row in read.tables[0][1:]}
    assert "→ stimulus/aligned · retrieval new pictures, a known subject" in rows["NICE"]
    assert "→ stimulus/clip · retrieval new pictures, a known subject" in rows["Linear"]
    assert "new pictures, new subjects" in rows["NICE, unseen people"]


def test_other_candidates_make_another_table(whole):
    whole[0]["things_nice"]["candidates"] = 39
    read = Reader(page.render(*whole))
    assert [i for i in read.ids if i.startswith("pairs-")] == ["pairs-1", "pairs-2"]


def test_a_published_experiment_stands_below_its_clean_one_and_is_not_counted(of_all_kinds):
    scored = of_all_kinds[0]
    value = {name: one["metrics"][0]["value"] for name, one in scored.items()}
    assert max(value, key=value.get) == "things_published"
    read = Reader(page.render(*of_all_kinds))
    summary, pairs = read.tables[:2]
    names = [row[0].split(" epochs")[0] for row in summary[1:]]
    assert names == ["NICE", "NICE, as published", "Linear", "NICE, unseen people"]
    assert "protocol: published, epoch chosen on test data" in summary[2][0]
    order = [row[0].split(" over")[0].split(" new")[0] for row in pairs[1:]]
    assert order == ["Linear", "NICE", "NICE, as published", "NICE, unseen people"]
    found = " ".join(read.words).partition("Which of 40 pictures was seen? THINGS")[0]
    assert "1 more experiment, marked, says nothing of new data." in found
    assert f"{value['things_published']:.3f}" not in found
    marks = [row[7].split()[-1] for row in summary[1:]]
    assert marks == ["inside", "0.800", "below", "–"]  # none where nothing is predicted


def test_a_published_experiment_without_a_clean_one_comes_last(whole):
    whole[0]["things_plain"]["flags"].append("published_protocol")
    whole[0]["things_nice"]["paired"] = None
    read = Reader(page.render(*whole))
    assert [row[0].split()[0] for row in read.tables[0][1:]] == ["NICE", "Linear"]
    whole[0]["things_nice"]["flags"].append("published_protocol")
    line = "Nothing is said of new data: protocol: published, epoch chosen on test data."
    assert line in Reader(page.render(*whole)).words


def test_gains_are_adjusted_over_their_table(of_all_kinds):
    scored, *others = copy.deepcopy(of_all_kinds)
    raw = {"things_nice": 0.01, "things_published": 0.04, "things_new": 0.02}
    for name, p in raw.items():
        scored[name]["metrics"][0]["difference_p"] = p
        scored[name]["paired"]["wilcoxon"] = p / 2
    rows = Reader(page.render(scored, *others)).tables[1][2:]
    assert [row[3:5] for row in rows] == [  # each is of a question of its own
        ["0.010", "0.005"], ["0.040", "0.020"], ["0.020", "0.010"],
    ]  # fmt: skip


def strips(written):
    """Circles and lines of every row of subjects, as they are written."""
    rows = written.split('class="headline pairs"')[1].split("</table>")[0].split("<tr")[2:]
    return [(row.count("<circle"), row.count('class="gain"'), row.count('class="loss"'))
            for row in rows]  # fmt: skip


def test_every_subject_is_a_dot_and_a_line_joins_it_to_itself(of_all_kinds):
    gains = [0, 0]
    for name in ("things_nice", "things_new"):
        of = of_all_kinds[0][name]["paired"]["subjects"].values()
        gains[name == "things_new"] = (sum(g > 1e-9 for g in of), sum(g < -1e-9 for g in of))
    found = strips(page.render(*of_all_kinds))
    assert found[0] == (4 + 1, 0, 0)  # a baseline: its subjects and their mean
    assert found[1] == (2 * 4 + 1, *gains[0])
    assert found[3] == (2 * 4 + 1, *gains[1])


def test_dots_of_the_baseline_lie_where_its_own_are(of_all_kinds):
    searches = pairs_page.groups(
        [
            page._experiment(name, config, of_all_kinds[0][name], of_all_kinds[1][name], {}, 0)
            for name, config in of_all_kinds[3]["experiments"].items()
        ]
    )
    members = {m["name"]: m for m in searches[0]["experiments"]}
    before = [before for _, _, before in members["things_nice"]["pairs"]]
    own = [value for _, value, _ in members["things_plain"]["pairs"]]
    assert before == pytest.approx(own)


# ---- the rest of the page -------------------------------------------------------------------


def test_the_page_says_in_one_line_what_was_found(whole):
    plain, nice = (whole[0][n]["metrics"][0] for n in ("things_plain", "things_nice"))
    plain |= {"p": 0.01, "low": 0.05}
    nice |= {"p": 0.01, "low": 0.05, "difference_low": 0.01, "difference_p": 0.04}
    line = (
        "In simulated data, Linear tells which of 40 pictures was seen for known subjects and new "
        f"pictures (top-1 {plain['value']:.3f}, 0.050 to {plain['high']:.3f}; chance 0.025); NICE "
        f"adds to it (+{nice['difference']:.3f}, +0.010 to +{nice['difference_high']:.3f})."
    )
    assert line in Reader(page.render(*whole)).words


def test_what_people_typed_is_escaped(whole):
    scored, headers, figures, spec = whole
    spec["experiments"]["things_nice"]["title"] = "<script>alert(1)</script>"
    scored["things_nice"]["warnings"] = ["Only <4> subjects"]
    chosen = headers["things_nice"]["chosen"]["epoch"]
    chosen["<b>by hand"] = chosen.pop("sub-01")
    written = page.render(scored, headers, figures, spec)
    assert "<script>alert" not in written
    assert "<b>by hand" not in written
    assert "Only &lt;4&gt; subjects" in written


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("simulated", "simulated data"),
        ("random_weights", "random weights"),
        ("published_protocol", "protocol: published, epoch chosen on test data"),
    ],
)
def test_badges_stand_on_top_in_the_table_and_at_the_experiment(whole, key, text):
    scored, headers, figures, spec = whole
    for one in scored.values():
        one["flags"] = []
    assert text not in Reader(page.render(scored, headers, figures, spec)).words
    scored["things_nice"]["flags"] = [key]
    found = Reader(page.render(scored, headers, figures, spec)).words.count(text)
    assert found == (4 if key == "published_protocol" else 3)  # beside its gain as well


def test_a_study_may_hold_both_kinds_in_tables_of_their_own(whole, tmp_path):
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
    assert "Drowsy or alert, in new subjects? Simulated vigilance" in text
    assert "Which of 40 pictures was seen, for known subjects and new pictures? THINGS-EEG2" in text
    titles = {name: this["title"] for name, this in spec["experiments"].items()}
    found, told = ({titles[n] for n in one} for one in (wanted[:2], wanted[2:]))
    for table in read.tables:
        cells = " | ".join(row[0] for row in table)
        assert not (any(t in cells for t in found) and any(t in cells for t in told))


def test_scores_with_gaps_are_shown(whole):
    scored, headers, figures, spec = whole
    for one in scored.values():
        one |= dict.fromkeys(("paired", "attainable", "repetitions")) | {"predicted": {}}
        for row in one["metrics"]:
            row |= {key: None for key in row if key not in ("metric", "subjects", "chance")}
    read = Reader(page.render(scored, headers, figures, spec))
    assert read.tables[0][1][1:4] == ["–", "–", "–"]
    text = " ".join(read.words)
    assert "predicted" not in text
    assert "Every subject top-1" in text


def test_several_targets_are_named_together(whole):
    whole[3]["experiments"]["things_nice"]["y"] = ["stimulus/clip", "caption/clip"]
    row = Reader(page.render(*whole)).tables[0][1][0]
    assert "→ stimulus/clip + caption/clip · retrieval" in row
