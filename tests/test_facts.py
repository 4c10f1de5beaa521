"""Facts of subjects and scans: from a manifest or a simulation to rows, and what is refused."""

import csv
import dataclasses
import math

import mne
import numpy as np
import pandas as pd
import pytest

from engram import datasets, store, views
from engram.datasets import simulated_vigilance
from engram.errors import InputError
from engram.planning import facts
from engram.planning.components import options
from engram.planning.plan import Plan, task_of
from engram.recording import Recording, Windows
from engram.scores import evaluation
from engram.views import fact

LINES = [
    # subject, scan, file, age, sex
    ("sub-01", "one", "a.fif", "34", "F"),
    ("sub-01", "two", "b.fif", "34.0", "F"),
    ("sub-02", "one", "c.fif", "n/a", "M"),
    ("sub-03", "one", "d.fif", "61.5", "M"),
]
VIEWS = {
    "age": {"kind": "fact", "column": "age", "measured_in": "years"},
    "sex": {
        "kind": "fact", "column": "sex", "classes": ["female", "male"],
        "values": {"female": ["F"], "male": ["M", "m"]},
    },
    "spectrogram": {"kind": "multitaper", "signal": "eeg"},
}  # fmt: skip


class Study:
    """A manifest in a folder, and the plan of a dataset that it lists."""

    def __init__(self, folder, lines=LINES, header=("subject", "scan", "file", "age", "sex")):
        self.folder, self.header, self.lines = folder, list(header), [list(one) for one in lines]

    @property
    def plan(self):
        path = self.folder / "scans.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([self.header, *self.lines])
        dataset = {
            "kind": "eeg_recordings", "folder": str(self.folder), "manifest": "scans.csv",
            "windows": {"length": 10, "step": 5},
        }  # fmt: skip
        return Plan({"datasets": {"here": dataset}, "views": dict(VIEWS)})

    def check(self, view, **changes):
        plan = self.plan
        plan.config["views"][view] = VIEWS[view] | changes
        facts.check(plan, view, "here")

    def rows(self, view, unit="sub-01"):
        return self.plan.spec("render", dataset="here", unit=unit, view=view)["rows"]


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


# ---- what a cell means ------------------------------------------------------------------


def of(**changes):
    return options("views", {"kind": "fact", "column": "age"} | changes)[1]


@pytest.mark.parametrize(
    ("text", "number"),
    [("34", 34.0), (" 34.50 ", 34.5), ("-.5", -0.5), ("1e3", 1000.0), (57.25, 57.25), ("n/a", None),
     ("", None), ("NaN", None), (math.nan, None)],
)  # fmt: skip
def test_a_cell_is_a_number_or_missing(text, number):
    assert facts.read(text, of()) == number


@pytest.mark.parametrize("text", ["old", "34 years", "1_000", "inf", "٣", "0x1f", "12/3", "-999x"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="is no number; correct it, list it under `missing`"):
        facts.read(text, of())


def test_a_comma_is_no_point_and_a_code_is_missing_if_the_view_says_so():
    with pytest.raises(ValueError, match="'34,5' is no number; write a point, not a comma"):
        facts.read("34,5", of())
    assert facts.read("-999", of(missing=["-999"])) is None
    assert facts.read("-999", of()) == -999
    assert of().missing == list(facts.MISSING)  # of what every dataset carries


def test_a_cell_is_a_class_by_its_name_or_by_the_texts_that_mean_it():
    sex = of(classes=["female", "male"], values={"female": ["F", "f"]})
    assert [facts.read(text, sex) for text in ("F", "f", "male", "n/a")] == [0, 0, 1, None]
    for text in ("female", "m", "0"):
        with pytest.raises(ValueError, match="none of the classes female, male"):
            facts.read(text, sex)


# ---- a manifest, before anything runs ---------------------------------------------------


def test_a_column_that_is_one_fact_of_every_subject_is_taken(study):
    study.check("age")  # 34 and 34.0 are one number
    study.check("sex")


@pytest.mark.parametrize(
    ("line", "column", "text", "view", "message"),
    [
        (3, 3, "old", "age", r"scans.csv, line 5, column 'age': 'old' is no number"),
        (1, 3, "35", "age", r"line 3, column 'age': subject sub-01 is '35', but '34' in scan one, "
                            r"line 2; .*`per: scan`"),
        (1, 4, "M", "sex", r"line 3, column 'sex': subject sub-01 is 'M', but 'F' in scan one"),
        (2, 4, "x", "sex", r"line 4, column 'sex': 'x' is none of the classes female, male"),
    ],
)  # fmt: skip
def test_a_cell_that_is_no_such_fact_is_refused_by_its_line(
    study, line, column, text, view, message
):
    study.lines[line][column] = text
    with pytest.raises(InputError, match=message):
        study.check(view)


def test_scans_of_a_subject_may_differ_where_the_view_says_so(study):
    study.lines[1][3] = "35"
    study.check("age", per="scan")


def test_a_column_that_is_not_there_or_says_nothing_is_refused(study):
    with pytest.raises(InputError, match="no column 'iq', which view 'age' takes; there is"):
        study.check("age", column="iq")
    for line in study.lines:
        line[3], line[4] = "n/a", "M"
    with pytest.raises(InputError, match="column 'age': every line lacks it"):
        study.check("age")
    with pytest.raises(InputError, match="column 'sex': every line is 'male'"):
        study.check("sex")


def test_a_column_is_given_to_the_view_that_takes_it_and_to_no_other(study):
    assert [row["facts"] for row in study.rows("age")] == [{"age": "34"}, {"age": "34.0"}]
    assert [row["facts"] for row in study.rows("sex")] == [{"sex": "F"}] * 2
    before = study.rows("sex"), study.rows("spectrogram"), study.rows("age", "sub-03")
    assert all(row.keys() == {"subject", "scan", "file"} for row in before[1])
    study.lines[0][3] = study.lines[1][3] = "35"
    facts_of_plan = study.rows("sex"), study.rows("spectrogram"), study.rows("age", "sub-03")
    assert facts_of_plan == before


@pytest.mark.parametrize(
    ("y", "head", "task"),
    [("age", "linear", "values"), ("age", "forest", "values"), ("sex", "linear", "classes"),
     ("age", "adapter", None), (["age", "sex"], "linear", None)],
)  # fmt: skip
def test_the_task_follows_from_what_the_view_holds(y, head, task):
    config = {"views": VIEWS, "heads": {head: {"kind": head}}}
    if task:
        assert task_of({"y": y, "head": head}, config) == task
    else:
        with pytest.raises(InputError, match="values a view of numbers"):
            task_of({"y": y, "head": head}, config)


# ---- rows -------------------------------------------------------------------------------


def test_every_window_of_a_recording_carries_what_the_manifest_says_of_it(study):
    signal = np.random.default_rng(0).normal(0, 2e-5, (1, 2500))
    for line in study.lines:
        line[2] = f"{line[0]}_{line[1]}_raw.fif"
        raw = mne.io.RawArray(signal, mne.create_info(["EEG"], 100.0, "eeg"), verbose="error")
        raw.save(study.folder / line[2], verbose="error")
    plan, made = study.plan, {}
    for unit, view in (("sub-01", "age"), ("sub-02", "age"), ("sub-03", "sex")):
        spec = plan.spec("render", dataset="here", unit=unit, view=view)
        path = study.folder / f"{unit}-{view}.h5"
        views.render(datasets.read(spec, plan.raw("here", unit)), path, spec, {})
        made[unit] = store.open(path).load()
    known, lacking, male = made["sub-01"], made["sub-02"], made["sub-03"]
    assert list(known.table.index[[0, 3, 4]]) == [
        "sub-01/one/window-0000", "sub-01/one/window-0003", "sub-01/two/window-0000",
    ]  # fmt: skip
    assert known.array.dtype == np.float64
    assert known.array.tolist() == [34.0] * 8
    assert (known.header["what"], known.header["column"]) == ("values", "age")
    assert known.header["unit"] == "years"
    assert (known.table["exclude"] == "").all()
    assert np.isnan(lacking.array).all()
    assert set(lacking.table["exclude"]) == {"no age"}
    assert (male.array.dtype, set(male.array)) == (np.int8, {1})
    assert (male.header["what"], male.header["classes"]) == ("labels", ["female", "male"])


def test_facts_of_the_dataset_reach_every_table_with_one_type_each(study):
    signal = np.random.default_rng(0).normal(0, 2e-5, (1, 2500))
    for line in study.lines:
        line[2] = f"{line[0]}_{line[1]}_raw.fif"
        raw = mne.io.RawArray(signal, mne.create_info(["EEG"], 100.0, "eeg"), verbose="error")
        raw.save(study.folder / line[2], verbose="error")
    plan, types = study.plan, {"age": "number", "sex": "text"}
    plan.config["datasets"]["here"]["carry"] = types
    facts.check_carried(plan, "here")
    for view, extra in (("spectrogram", {"fmax": 40}), ("age", {})):
        plan.config["views"][view] = VIEWS[view] | extra
        tables = []
        for unit in ("sub-01", "sub-02"):
            spec = plan.spec("render", dataset="here", unit=unit, view=view)
            path = study.folder / f"{unit}-{view}.h5"
            views.render(datasets.read(spec, plan.raw("here", unit)), path, spec, {})
            assert store.open(path).header["facts"] == types
            tables.append(store.open(path).table)
        assert [one["age"].dtype for one in tables] == [np.float64] * 2
        assert set(tables[0]["age"]) == {34.0}
        assert tables[1]["age"].isna().all()
        assert [set(one["sex"]) for one in tables] == [{"F"}, {"M"}]


def test_facts_rerun_what_carries_them_and_nothing_else(study):
    def specs(facts):
        plan = study.plan
        plan.config["datasets"]["here"] |= {"carry": facts} if facts else {}
        return plan.spec("render", dataset="here", unit="sub-01", view="spectrogram")

    without, sex = specs({}), specs({"sex": "text"})
    assert "facts" not in without
    study.lines[0][3] = study.lines[1][3] = "35"
    assert specs({}) == without
    assert specs({"sex": "text"}) == sex
    study.lines[0][4] = "M"
    assert specs({}) == without
    assert specs({"sex": "text"}) != sex


@pytest.mark.parametrize(
    ("carried", "message"),
    [
        ({"iq": "number"}, r"scans.csv: no column 'iq', which `carry` of datasets.here names"),
        ({"sex": "number"}, r"scans.csv, line 2, column 'sex': 'F' is no number; "),
        ({"window": "text"}, r"datasets.here.carry: tables of rows have a column 'window'"),
    ],
)  # fmt: skip
def test_facts_that_cannot_be_carried_are_refused_before_anything_runs(study, carried, message):
    plan = study.plan
    plan.config["datasets"]["here"]["carry"] = carried
    with pytest.raises(InputError, match=message):
        facts.check_carried(plan, "here")


def test_a_fact_that_the_view_has_a_column_for_or_nobody_knows_is_refused(tmp_path):
    recording = Recording("sub-01", "one", 30.0, facts={"age": "34"})
    spec = {"unit": "all", "view": {"kind": "fact", "column": "age"}, "windows": "scan"}
    with pytest.raises(InputError, match="no fact 'site' is known of it; there is age; correct"):
        views.render([recording], tmp_path / "x.h5", spec | {"facts": {"site": "text"}}, {})


def test_scores_are_grouped_by_facts_that_a_few_groups_of_subjects_share():
    people = [f"sub-{i}" for i in range(6)]
    table = pd.DataFrame({
        "subject": np.repeat(people, 2), "site": np.repeat(["A", "B", "A", "B", "", "B"], 2),
        "age": np.repeat([20.0, 20, 30, 30, 30, math.nan], 2), "day": ["1", "2"] * 6,
        "code": np.repeat(people, 2),
    })  # fmt: skip
    scores = dict(zip(people, [0.5, 0.6, 0.7, 0.8, 0.9, math.nan], strict=True))
    metrics = [{"metric": "auc", "subjects": {}}, {"metric": "accuracy", "subjects": scores}]
    carried = dict.fromkeys(["site", "age", "day", "code"], "text")
    found = evaluation.groups(table, carried, metrics)
    lines = [
        (g["fact"], g["value"], g["metric"], g["subjects"], round(g["mean"], 9)) for g in found
    ]
    assert lines == [
        ("site", "A", "accuracy", 2, 0.6), ("site", "B", "accuracy", 2, 0.7),
        ("age", "20", "accuracy", 2, 0.55), ("age", "30", "accuracy", 3, 0.8),
    ]  # fmt: skip
    assert found[0]["sd"] == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert evaluation.groups(table, {"site": "text"}, metrics[:1]) == []


def test_a_fact_that_nobody_knows_is_refused():
    recording = Recording("sub-01", "one", 30.0, facts={"sex": "F"})
    with pytest.raises(InputError, match=r"sub-01/one: no fact 'age' is known of it; there is sex"):
        fact.render(recording, Windows(10, 5), of())
    with pytest.raises(InputError, match=r"sub-01/one: column 'sex': 'F' is no number"):
        fact.render(recording, Windows(10, 5), of(column="sex"))


def test_a_subject_of_a_cohort_with_two_facts_is_refused(tmp_path):
    """What a dataset itself knows; a manifest is checked before anything runs."""

    def render(*known, **changes):
        scans = [
            Recording("sub-01", f"scan-{i}", 30.0, facts={"age": one})
            for i, one in enumerate(known)
        ]
        view = {"kind": "fact", "column": "age"} | changes
        spec = {"unit": "all", "view": view, "windows": "scan"}
        views.render(scans, tmp_path / "age.h5", spec, {})
        return store.open(tmp_path / "age.h5")[:]

    np.testing.assert_array_equal(render(math.nan, "34", 34.0), [math.nan, 34, 34])
    with pytest.raises(InputError, match="sub-01/scan-2: age is 35, but '34' in sub-01/scan-1; "):
        render("n/a", "34", 35)
    np.testing.assert_array_equal(render("34", 35, per="scan"), [34, 35])


# ---- the simulated fact -----------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_gain_of_a_simulated_subject_explains_the_stated_share_of_its_trait(share):
    chosen = simulated_vigilance.Options(trait_r2=share)
    units = [f"sub-{i:04d}" for i in range(1500)]
    known = [simulated_vigilance.facts(unit, chosen) for unit in units]
    trait = np.array([one["trait"] for one in known])
    gain = np.array([simulated_vigilance.subject(unit, chosen).gain for unit in units])
    assert trait.mean() == pytest.approx(50, abs=1)
    assert trait.std() == pytest.approx(10, abs=0.6)
    r = np.corrcoef(trait, gain)[0, 1]
    assert r**2 == pytest.approx(share, abs=0.06)
    high = np.array([one["group"] == "high" for one in known])
    right = np.mean(high == (gain > 0))
    assert right == pytest.approx(0.5 + np.arcsin(np.sqrt(share)) / np.pi, abs=0.04)


def test_the_trait_moves_nothing_else_of_a_simulation():
    one, other = (simulated_vigilance.Options(duration=60.0, trait_r2=r) for r in (0.2, 0.9))
    a, b = (simulated_vigilance.simulate("sub-01", 0, o) for o in (one, other))
    assert all((a[name] == b[name]).all() for name in a)
    flat = dataclasses.replace(one, subject_effect=0.0)
    assert simulated_vigilance.facts("sub-01", flat) == simulated_vigilance.facts("sub-01", one)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(InputError, match="trait_r2 is 1.2; it must be a share"):
        simulated_vigilance.facts("sub-01", simulated_vigilance.Options(trait_r2=1.2))
