"""A simulated study of a number, from recordings to the page: it finds what was put in, no more."""

import json

import numpy as np
import pytest
from test_specs import CONFIG, PEOPLE, Study

from engram import store
from engram.figures.plot import plot
from engram.figures.report import report
from engram.scores.evaluation import evaluate
from engram.store import Rows

SHARE = 0.8
UNITS = [f"sub-{i:02d}" for i in range(1, 25)]
EXPERIMENTS = {
    "power": {
        "title": "Band power", "dataset": "people", "x": "spectrogram/bands", "y": "trait",
        "head": "linear", "seeds": 1, "baseline": "noise",
    },
    "noise": {
        "title": "Another subject's power", "dataset": "people", "x": "spectrogram/others",
        "y": "trait", "head": "linear", "seeds": 1, "baseline": "none",
    },
    "side": {
        "title": "Side", "dataset": "people", "x": "spectrogram/bands", "y": "group",
        "head": "linear", "seeds": 1, "folds": "group_kfold", "baseline": "none",
    },
}  # fmt: skip


class People(Study):
    """Simulated subjects whose gain explains a share of their trait."""

    def __init__(self, folder):
        views = CONFIG["views"] | {
            "group": {"kind": "fact", "column": "group", "classes": ["low", "high"]}
        }
        people = PEOPLE | {"units": UNITS, "trait_r2": SHARE}
        bands = {
            "kind": "bandpower",
            "bands": {"theta": [4, 7], "alpha": [8, 12], "beta": [16, 28]},
        }
        backbones = {"bands": bands, "others": bands}
        heads = CONFIG["heads"] | {"linear": {"kind": "linear", "c": [0.1, 1.0]}}
        changed = {"datasets": {"people": people}, "views": views, "backbones": backbones}
        changed |= {"experiments": EXPERIMENTS, "heads": heads}
        made_by = {"spec": {"head": {"kind": "linear"}}, "versions": {}, "device": "cpu"}
        super().__init__(folder, CONFIG | changed, made_by)

    def run(self):
        for unit in UNITS:
            for view in ("spectrogram", "trait", "group"):
                self.render("people", unit, view)
            self.extract("people", unit, "spectrogram/bands")
        self.exchange()
        made = {name: self.train(name)[1] for name in EXPERIMENTS}
        for name in EXPERIMENTS:
            spec = self.plan.spec("evaluate", experiment=name)
            spec["evaluation"] = {"permutations": 200, "probes": False}
            beside = [made["noise"]] if name == "power" else []
            evaluate(made[name], beside, {}, self.path(f"scores/{name}.json"), spec)
        return made

    def exchange(self):
        """Features of the subject before, under the names of each: they know nothing of it."""
        read = [store.open(self.path(self.stored(u, "bands"))).load() for u in UNITS]
        for unit, own, other in zip(UNITS, read, read[1:] + read[:1], strict=True):
            made = self.path(self.stored(unit, "others"))
            store.write(made, Rows(other.array, own.table, own.header))

    def stored(self, unit, backbone):
        return self.plan.store("people", unit, f"spectrogram/{backbone}")

    def scores(self, name):
        return json.loads(self.path(f"scores/{name}.json").read_text("utf-8"))

    def shown(self, made):
        """The report of the experiments with numbers, its page."""
        figures, names = [], ("power", "noise")
        for name in names:
            paths = {f: self.path(f"figures/{name}/{f}.svg") for f in ("predicted", "residuals")}
            events = self.path(f"figures/{name}/events.out.tfevents.0.engram")
            scores = self.path(f"scores/{name}.json")
            plot(scores, made[name], [], [], paths | {"events": events}, {"task": "values"})
            figures += paths.values()
        experiments = {n: EXPERIMENTS[n] | {"dataset_title": "Simulated people"} for n in names}
        page = self.path("report.html")
        stores = [self.named(name, made[name]) for name in names]
        scores = [self.path(f"scores/{name}.json") for name in names]
        report(scores, stores, figures, page, {"title": "Traits", "experiments": experiments})
        return page

    def named(self, name, made):
        """The store of predictions called after its experiment, as in a study."""
        path = self.path(f"predictions/{name}.h5")
        path.write_bytes(made.read_bytes())
        return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    this = People(tmp_path_factory.mktemp("people"))
    this.html = this.shown(this.run())
    return this


def metric(scores, name):
    return next(row for row in scores["metrics"] if row["metric"] == name)


def test_band_power_explains_what_the_gain_does_and_no_more(study):
    row = metric(study.scores("power"), "r2")
    assert row["low"] < SHARE
    assert row["value"] == pytest.approx(SHARE, abs=0.2)
    assert row["p"] < 0.01
    assert row["control"] < 0.3
    r = metric(study.scores("power"), "pearson_r")["value"]
    assert r == pytest.approx(SHARE**0.5, abs=0.12)
    mae = metric(study.scores("power"), "mae")
    assert mae["value"] < mae["chance"]
    assert metric(study.scores("power"), "r2")["difference_p"] < 0.05
    assert mae["difference_p"] < 0.05


def test_features_of_somebody_else_explain_nothing(study):
    row = metric(study.scores("noise"), "r2")
    assert row["value"] < 0.3
    assert row["p"] > 0.05


def test_the_side_of_the_mean_is_told_as_often_as_the_share_allows(study):
    scores = study.scores("side")
    expected = 0.5 + np.arcsin(np.sqrt(SHARE)) / np.pi
    assert metric(scores, "balanced_accuracy")["value"] == pytest.approx(expected, abs=0.15)
    assert metric(scores, "balanced_accuracy")["interval"] == "corrected jackknife"
    assert scores["sample"]["subjects"] == len(UNITS)


def test_the_page_shows_every_subject_and_every_score(study):
    text = study.html.read_text("utf-8")
    scores = study.scores("power")
    for one in scores["people"]:
        assert f"{one['subject']}: {one['predicted']:.2f}, true {one['true']:.2f}" in text
    assert text.count('<circle class="mean"') >= 2 * len(UNITS)
    for name in ("r2", "pearson_r", "spearman_r", "mae"):
        assert f"{metric(scores, name)['value']:.2f}" in text
    assert "Can trait be predicted, in new subjects?" in text
    assert "simulated data" in text
    assert "is a baseline itself" in text


def test_figures_and_scalars_are_there_and_the_same_again(study):
    made = sorted(study.folder.glob("figures/power/*"))
    assert [path.name for path in made] == [
        "events.out.tfevents.0.engram", "predicted.svg", "residuals.svg"
    ]  # fmt: skip
    before = [path.read_bytes() for path in made]
    paths = {path.stem: path for path in made[1:]} | {"events": made[0]}
    plot(
        study.path("scores/power.json"), study.path("predictions/power.h5"), [], [], paths,
        {"task": "values"},
    )  # fmt: skip
    assert [path.read_bytes() for path in made] == before
    assert b"Test/pearson_r" in before[0]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_window_and_names_a_subject_on_its_dot(study, page, width):
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(study.html.as_uri())
    page.locator("#power > details > summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dots = page.locator("#power .scatter circle")
    assert dots.count() == len(UNITS)
    assert dots.first.locator("title").text_content().startswith("sub-01: ")
    box = page.locator("#power .scatter").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    page.locator("#power summary", has_text="Every subject").click()
    assert page.locator("#power table.narrow tbody tr").count() == len(UNITS)
    assert not problems
