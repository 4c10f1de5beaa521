"""The stage `evaluate` on small stores, and the probes of its inputs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import retrieving
import sklearn.metrics as sk
import yaml
from scipy import stats
from scipy.special import expit, logit
from scoring import experiment, inputs, reference, switching, table

from engram import store
from engram.errors import InputError
from engram.scores import probes
from engram.scores.caveats import caveats
from engram.scores.evaluation import COLUMNS, evaluate
from engram.scores.settings import Settings
from engram.store import Rows

# ---- probes ------------------------------------------------------------------------------


def test_probes_find_what_was_planted_and_nothing_in_noise():
    rng = np.random.default_rng(10)
    facts = table(subjects=5, scans=2, windows=60)
    noise = rng.standard_normal((600, 12))
    subject = pd.factorize(facts["subject"])[0]
    marked, drifting = noise.copy(), noise.copy()
    marked += 3 * rng.standard_normal((5, 12))[subject]
    drifting[:, 0] += facts["window"] / 5
    assert probes.subject_identity(marked, facts)["balanced_accuracy"] > 0.95
    assert probes.subject_identity(noise, facts)["balanced_accuracy"] == pytest.approx(0.2, abs=0.1)
    assert probes.subject_identity(noise, facts)["chance"] == 0.2
    assert probes.time_in_scan(drifting, facts)["r2"] > 0.8
    assert probes.time_in_scan(noise, facts)["r2"] == pytest.approx(0, abs=0.05)


def test_time_probe_is_tested_on_unseen_subjects():
    rng = np.random.default_rng(11)
    facts = table(subjects=4, scans=1, windows=40)
    subject = pd.factorize(facts["subject"])[0]
    own = np.zeros((160, 4))  # time in a column that no other subject uses
    own[np.arange(160), subject] = facts["window"]
    own += 0.01 * rng.standard_normal((160, 4))
    assert probes.time_in_scan(own, facts)["r2"] < 0.1


def test_identity_probe_drops_training_windows_that_share_data_with_test_windows():
    rng = np.random.default_rng(12)
    facts = table(subjects=3, scans=1, windows=20)
    subject = pd.factorize(facts["subject"])[0]
    told = (facts["window"] >= 9).to_numpy()  # window 9 shares data with 10, the first tested
    features = 0.1 * rng.standard_normal((60, 4)) + np.eye(3, 4)[subject] * told[:, None]
    assert probes.subject_identity(features, facts)["balanced_accuracy"] < 0.7
    apart = facts.assign(stop=facts["start"] + 15)
    assert probes.subject_identity(features, apart)["balanced_accuracy"] == 1


def test_subjects_without_a_second_half_are_not_asked_for():
    facts = table(subjects=3, scans=1, windows=20)
    facts = facts[(facts["subject"] != "sub-02") | (facts["window"] == 0)]
    subject = pd.factorize(facts["subject"])[0]
    features = np.eye(3)[subject] + 0.1 * np.random.default_rng(0).standard_normal((41, 3))
    found = probes.subject_identity(features, facts)
    assert found == {"balanced_accuracy": 1.0, "chance": 1 / 2}


def test_probes_of_a_single_subject_are_undefined():
    facts = table(subjects=1)
    features = np.random.default_rng(0).standard_normal((60, 3))
    assert np.isnan(probes.subject_identity(features, facts)["balanced_accuracy"])
    assert np.isnan(probes.time_in_scan(features, facts)["r2"])


@pytest.mark.parametrize("shape", [(3, 50, 90), (3, 2, 33, 47), (3, 5, 4)])
def test_images_are_reduced_to_block_means(shape):
    values = np.random.default_rng(13).standard_normal(shape).astype(np.float16)
    found = probes.reduce(values)
    images = values.reshape(3, -1, *shape[-2:]).astype(float)
    side = int(np.sqrt(512 / images.shape[1]))
    expected = []
    for image in images.reshape(-1, *shape[-2:]):
        rows = [i * shape[-2] // min(side, shape[-2]) for i in range(min(side, shape[-2]))]
        columns = [i * shape[-1] // min(side, shape[-1]) for i in range(min(side, shape[-1]))]
        for top, bottom in zip(rows, [*rows[1:], shape[-2]], strict=True):
            for left, right in zip(columns, [*columns[1:], shape[-1]], strict=True):
                expected.append(image[top:bottom, left:right].mean())
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)
    assert found.shape[1] <= 512


def test_pictures_keep_their_colours_apart():
    red = np.zeros((1, 20, 30, 3), np.uint8)
    red[..., 0] = 200
    assert set(probes.reduce(red).ravel()) == {0, 200}
    assert probes.reduce(red)[0, : 13 * 13].tolist() == [200] * 169


# ---- the stage ---------------------------------------------------------------------------

SPEC = {
    "task": "classes",
    "experiment": "eeg_clip",
    "baseline": None,
    "generalises_to": "new subjects",
    "evaluation": {"permutations": 200},
}


def scored(folder, predictions, x=None, beside=(), **spec):
    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    settings = {"probes": x is not None} | SPEC["evaluation"] | spec.pop("evaluation", {})
    path = folder / "scores.json"
    evaluate(predictions, list(beside), x or {}, path, SPEC | {"evaluation": settings} | spec)
    return json.loads(path.read_text(), parse_constant=refuse)


def metric(result, name):
    return next(row for row in result["metrics"] if row["metric"] == name)


def test_values_are_means_over_subjects_of_means_over_seeds(tmp_path):
    rng = np.random.default_rng(20)
    facts = table(subjects=11)
    y = switching(rng, facts)
    path = experiment(tmp_path, rng, facts, y, gain=1)
    result = scored(tmp_path, path)
    p = store.open(path)[:].astype(float)
    each = {
        subject: [reference(y[at], p[at, run])["auc"] for run in (0, 1)]
        for subject, at in facts.groupby("subject").indices.items()
    }
    auc = metric(result, "auc")
    assert auc["subjects"] == {s: pytest.approx(np.mean(v), abs=1e-6) for s, v in each.items()}
    runs = np.array(list(each.values()))
    assert auc["value"] == pytest.approx(runs.mean(), abs=1e-6)
    assert auc["seed_sd"] == pytest.approx(runs.mean(0).std(ddof=1), abs=1e-6)
    assert auc["interval"] == "corrected t"
    assert auc["low"] < auc["value"] < auc["high"]
    assert auc["p"] == pytest.approx(1 / 201)
    assert auc["chance"] == pytest.approx(0.5, abs=0.05)
    assert auc["subject_sd"] == pytest.approx(runs.mean(1).std(ddof=1), abs=1e-6)
    precision = [
        sk.precision_score(y[at], p[at, run].argmax(1), average="macro", zero_division=0)
        for at in facts.groupby("subject").indices.values()
        for run in (0, 1)
    ]
    assert result["macro_precision"] == pytest.approx(np.mean(precision))
    assert auc["control"] == pytest.approx(0.5, abs=0.1)
    assert auc["baseline"] is auc["difference_p"] is None
    confusion = np.mean([sk.confusion_matrix(y, p[:, run].argmax(1)) for run in (0, 1)], 0)
    np.testing.assert_allclose(result["confusion"], confusion)
    assert sum(b["n"] for b in result["calibration"]) == pytest.approx(len(y))
    assert result["runs"][2]["shuffled"]
    assert result["warnings"] == []


def test_chance_is_the_mean_score_over_all_shifts_of_every_scan(tmp_path):
    """Against going through all shifts; labels that are mostly of one class are easy to guess."""
    rng = np.random.default_rng(31)
    facts = table(subjects=4, windows=20)
    y = (facts["window"] % 20 < 15).to_numpy(int)
    path = experiment(tmp_path, rng, facts, y, gain=2.0)
    found = metric(scored(tmp_path, path, evaluation={"permutations": 2000}), "accuracy")
    predicted = store.open(path)[:][:, :2].argmax(2)
    of_scan = {}
    for (subject, _), at in facts.groupby(["subject", "scan"]).indices.items():
        shifts = [(predicted[at] == np.roll(y[at], k)[:, None]).mean() for k in range(len(at))]
        of_scan.setdefault(subject, []).append(np.mean(shifts))
    assert found["chance"] == pytest.approx(np.mean(list(of_scan.values())), abs=0.005)


def test_every_score_has_the_same_columns(tmp_path):
    rng = np.random.default_rng(32)
    facts = table(subjects=3)
    result = scored(tmp_path, experiment(tmp_path, rng, facts, switching(rng, facts)))
    assert {tuple(row) for row in result["metrics"]} == {COLUMNS}
    retrieving.write(tmp_path)
    result = retrieving.scores(tmp_path, "things_nice")
    assert {tuple(row) for row in result["metrics"]} == {COLUMNS}


def test_the_majority_class_of_training_stands_beside_the_scores(tmp_path):
    rng = np.random.default_rng(33)
    facts = table(subjects=4)
    y = (facts["window"] < 10).to_numpy(int)
    majority = scored(tmp_path, experiment(tmp_path, rng, facts, y))["majority"]
    assert majority["accuracy"] == pytest.approx(2 / 3)
    assert majority["balanced_accuracy"] == 0.5


def test_row_order_changes_nothing(tmp_path):
    rng = np.random.default_rng(21)
    facts = table()
    y = switching(rng, facts)
    x = inputs(tmp_path, rng, facts)
    first = experiment(tmp_path, rng, facts, y)
    before = scored(tmp_path, first, x)
    rows = store.open(first).load()
    order = rng.permutation(len(y))
    store.write(first, Rows(rows.array[order], rows.table.iloc[order], rows.header))
    after = scored(tmp_path, first, x)
    for one, other in zip(before["metrics"], after["metrics"], strict=True):
        assert other["p"] == pytest.approx(one["p"])
        assert other["value"] == pytest.approx(one["value"])
        assert other["subjects"] == pytest.approx(one["subjects"])
    for key, value in before["sample"].items():
        assert after["sample"][key] == (pytest.approx(value) if isinstance(value, float) else value)


def test_a_score_of_the_recording_has_no_interval(tmp_path):
    rng = np.random.default_rng(3)
    facts = table(subjects=4)
    path = experiment(tmp_path, rng, facts, switching(rng, facts))
    rows = store.open(path).load()
    assert metric(scored(tmp_path, path), "auc")["interval"] is not None
    store.write(path, type(rows)(rows.array, rows.table, rows.header | {"flags": ["recording"]}))
    result = scored(tmp_path, path)
    for row in result["metrics"]:
        assert row["low"] is row["high"] is row["interval"] is None
    assert any("to recognise the recording" in text for text in result["warnings"])


def test_baseline_is_compared_on_shared_rows_by_subject(tmp_path):
    rng = np.random.default_rng(22)
    facts = table(subjects=8)
    y = switching(rng, facts)
    better = experiment(tmp_path, rng, facts, y, gain=1.5)
    kept = facts["window"] < 25
    worse = experiment(tmp_path, rng, facts[kept], y[kept], gain=0.3, name="baseline")
    result = scored(tmp_path, better, beside=[worse], baseline="eeg_bandpower")
    row = metric(result, "accuracy")
    a, b = store.open(better)[:][kept], store.open(worse)[:]
    right = [(p[:, :2].argmax(2) == y[kept][:, None]).mean(1) for p in (a, b)]
    by = facts["subject"][kept].to_numpy()
    differences = pd.Series(right[0] - right[1]).groupby(by).mean()
    assert row["baseline"] == pytest.approx(pd.Series(right[1]).groupby(by).mean().mean())
    assert row["difference"] == pytest.approx(differences.mean())
    error = differences.std(ddof=1) * np.sqrt(1 / 8 + 1 / 7)  # they train each other's models
    p = 2 * stats.t.sf(abs(differences.mean()) / error, 7)
    assert row["difference_p"] == pytest.approx(p, rel=1e-4)
    least = differences.std(ddof=1) * np.sqrt(1 / 8 + 1 / 7)
    power = stats.nct.sf(stats.t.isf(0.025, 7), 7, row["detectable"] / least)
    assert power == pytest.approx(0.8, abs=1e-4)
    assert all(row["equivalence_p"] is None for row in result["metrics"])
    assert result["baseline"] == "eeg_bandpower"
    assert result["baseline_rows"] == kept.sum()
    assert any("both predict" in warning for warning in result["warnings"])


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_a_loss_against_the_baseline_has_an_interval_that_shows_it(tmp_path, confidence):
    """Corrected t of the differences of subjects, by SciPy; a subject of one class has none."""
    rng = np.random.default_rng(31)
    facts = table(subjects=7)
    y = np.where(facts["subject"] == "sub-03", 1, switching(rng, facts))
    worse = experiment(tmp_path, rng, facts, y, gain=0.2)
    better = experiment(tmp_path, rng, facts, y, gain=1.0, name="baseline")
    settings = {"confidence": confidence, "permutations": 99, "margin": 0.4}
    result = scored(tmp_path, worse, beside=[better], baseline="b", evaluation=settings)
    row = metric(result, "balanced_accuracy")
    values = []
    for path in (worse, better):
        p = store.open(path)[:]
        values.append([
            np.mean([sk.balanced_accuracy_score(y[at], p[at, run].argmax(1)) for run in (0, 1)])
            for subject, at in facts.groupby("subject").indices.items() if subject != "sub-03"
        ])  # fmt: skip
    own, gained = np.array(values[0]), np.subtract(*values)
    for name, one in (("value", own), ("difference", gained)):
        assert row[name] == pytest.approx(one.mean())
        n, error = len(one), one.std(ddof=1) * np.sqrt(1 / len(one) + 1 / (len(one) - 1))
        low, high = stats.t.interval(confidence, n - 1, one.mean(), error)
        if name == "value":  # by the delta method on the scale of the logit
            slope = one.mean() * (1 - one.mean())
            low, high = expit(logit(one.mean()) + (np.array([low, high]) - one.mean()) / slope)
        keys = ("difference_low", "difference_high") if name == "difference" else ("low", "high")
        assert [row[key] for key in keys] == pytest.approx([low, high])
    away = (0.4 - abs(gained.mean())) / error
    assert row["equivalence_p"] == pytest.approx(stats.t.sf(away, n - 1))
    assert metric(result, "accuracy")["equivalence_p"] is None
    assert row["difference_low"] < row["difference"] < 0
    assert row["interval"] == "corrected t"
    assert row["seed_sd"] > 0
    assert result["undefined"] == ["sub-03"]
    assert metric(result, "accuracy")["subjects"]["sub-03"] is not None


def test_shifted_labels_are_as_many_as_asked_for(tmp_path):
    rng = np.random.default_rng(32)
    facts = table(subjects=10)
    y = switching(rng, facts)
    path = experiment(tmp_path, rng, facts, y, gain=2)
    result = scored(tmp_path, path, evaluation={"permutations": 49})
    assert metric(result, "auc")["p"] == result["p_min"] == 1 / 50
    assert result["probes"] is None
    assert result["flags"] == ["simulated"]
    assert result["generalises_to"] == "new subjects"


def test_settings_are_those_that_the_schema_says():
    schema = Path(__file__).parents[1] / "workflow/schemas/config.schema.yaml"
    said = yaml.safe_load(schema.read_text())["properties"]["evaluation"]["properties"]
    used = {name: one for name, one in said.items() if not one.get("deprecated")}
    assert dataclasses.asdict(Settings()) == {name: one["default"] for name, one in used.items()}


def test_majority_and_calibration_by_hand(tmp_path):
    rng = np.random.default_rng(33)
    facts = table(subjects=5)
    y = switching(rng, facts)
    path = experiment(tmp_path, rng, facts, y)
    result = scored(tmp_path, path)
    subject = facts["subject"].to_numpy()
    brier, accuracy = [], []
    for name in np.unique(subject):
        share = y[subject != name].mean()
        own = y[subject == name]
        brier.append(np.mean((share - own) ** 2))
        accuracy.append(np.mean(own == (share > 0.5)))
    assert result["majority"]["brier"] == pytest.approx(np.mean(brier))
    assert result["majority"]["accuracy"] == pytest.approx(np.mean(accuracy))
    p = store.open(path)[:][:, :2]
    sure, right = p.max(2), p.argmax(2) == y[:, None]
    for row in result["calibration"]:
        inside = (sure >= row["low"]) & ((sure < row["high"]) | (row["high"] == 1))
        assert row["n"] == pytest.approx(inside.sum() / 2)
        if inside.any():
            assert row["accuracy"] == pytest.approx(right[inside].mean())
            assert row["confidence"] == pytest.approx(sure[inside].mean(), rel=1e-6)


# ---- caveats -----------------------------------------------------------------------------


def plain():
    """Scores that nothing is said about."""
    return {
        "flags": ["simulated"],
        "generalises_to": "new time blocks of known subjects, purged",
        "sample": {"subjects": 10, "scans": 20, "windows": 100, "excluded": {"a": 60, "b": 40},
                   "constant_scans": []},
        "metrics": [{"control": 0.6, "control_p": 0.026}],
        "pooled": False, "undefined": [], "p_min": 0.05, "rivals": [],
        "baseline": "power", "baseline_rows": 100,
        "probes": {"duplicate_windows": 0, "time_in_scan": {"r2": 0.1},
                   "near_copies": {"pairs": 0, "between": 0, "examples": []},
                   "subject_identity": {"balanced_accuracy": 0.2, "chance": 0.1}},
    }  # fmt: skip


RIVAL = {
    "name": "confounds, clock", "of": ["clock", "age"], "value": 0.6, "empty": {},
    "difference": 0.05, "difference_low": -0.01, "difference_high": 0.11,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"flags": ["leaks"]}, "The split leaks"),
        ({"flags": ["simulated", "circular"]}, "derived from the same EEG"),
        ({"sample": {"excluded": {"a": 61, "b": 40}}}, "101 of 201 windows were excluded"),
        ({"sample": {"constant_scans": list("abcde")}}, "in 5 of 20 scans (a, b, c, d, e): "),
        ({"sample": {"constant_scans": list("abcdef")}}, "(a, b, c, d, e and 1 more): "),
        ({"undefined": ["x"]}, "1 of 10 subjects have windows of one class only (x)"),
        ({"pooled": True, "undefined": ["x"]}, "are pooled over subjects"),
        ({"sample": {"subjects": 9}}, "Only 9 subjects: "),
        ({"sample": {"subjects": 1}}, "Only 1 subject: "),
        ({"p_min": 0.051}, "no p below 0.051"),
        ({"metrics": {"control_p": 0.025}}, "scores 0.60 balanced accuracy (p = 0.025), above"),
        ({"metrics": {"control_p": None}}, None),
        ({"baseline_rows": 99}, "with power rests on the 99 of 100 windows"),
        ({"baseline_rows": None}, None),
        ({"probes": {"duplicate_windows": 1}}, "1 windows are exact copies"),
        ({"probes": {"near_copies": {"between": 2, "examples": [["a", "b"], ["c", "d"]]}}},
         "are nearly the same, such as a and b"),
        ({"probes": {"time_in_scan": {"r2": 0.11}}}, "tell the time within the scan (R² 0.11)"),
        ({"probes": {"time_in_scan": {"r2": None}}}, None),
        ({"rivals": [RIVAL]}, "Clock, age alone, without the inputs, scores 0.60: that the "
         "experiment has more is not shown (+0.05, -0.01 to +0.11)."),
        ({"rivals": [RIVAL | {"difference_low": 0.01}]}, None),
        ({"rivals": [RIVAL | {"difference_low": None}]}, None),
        ({"rivals": [RIVAL | {"difference_low": 0.01, "empty": {"age": 3}}]}, "3 rows lack age: "),
        ({"probes": {"subject_identity": {"balanced_accuracy": 0.21, "chance": 0.1}}},
         "tell subjects apart (0.21 balanced accuracy, chance 0.10)"),
        ({"probes": {"subject_identity": {"balanced_accuracy": 0.21, "chance": 0.1}},
          "generalises_to": "new subjects"}, None),
        ({"probes": {"subject_identity": {"balanced_accuracy": None, "chance": None}}}, None),
    ],
    ids=str,
)  # fmt: skip
def test_each_caveat_is_said_where_it_holds_and_only_there(change, says):
    result = plain()
    for key, value in change.items():
        if isinstance(value, dict):
            part = result[key][0] if key == "metrics" else result[key]
            part |= value
        else:
            result[key] = value
    said = caveats(result)
    assert len(said) == (says is not None)
    assert all(says in text for text in said)
    assert caveats(plain() | {"probes": None}) == []


def test_subjects_with_one_class_are_left_out_and_listed(tmp_path):
    rng = np.random.default_rng(23)
    facts = table()
    y = np.where(facts["subject"] == "sub-02", 1, switching(rng, facts))
    result = scored(tmp_path, experiment(tmp_path, rng, facts, y))
    row = metric(result, "balanced_accuracy")
    assert result["undefined"] == ["sub-02"]
    assert row["subjects"]["sub-02"] is None
    assert row["value"] == pytest.approx(np.mean([v for v in row["subjects"].values() if v]))
    assert result["sample"]["constant_scans"] == ["sub-02/scan-0", "sub-02/scan-1"]
    assert [w for w in result["warnings"] if "one class only (sub-02)" in w]
    assert [w for w in result["warnings"] if "never changes in 2 of 12 scans" in w]
    assert [w for w in result["warnings"] if "Only 6 subjects" in w]


@pytest.mark.parametrize("windows", [1, 30])
def test_a_class_of_the_subject_is_scored_over_subjects_each_of_whom_counts_once(tmp_path, windows):
    rng = np.random.default_rng(24)
    facts = table(subjects=12, scans=1, windows=windows).iloc[: 12 * windows - windows // 2]
    y = (pd.factorize(facts["subject"])[0] % 3 == 0).astype(int)
    path = experiment(tmp_path, rng, facts, y, gain=1)
    other = experiment(tmp_path, rng, facts, y, gain=0.1, name="other")
    result = scored(tmp_path, path, beside=[other], baseline="other")

    def averaged(path):
        of_row = pd.DataFrame(store.open(path)[:][:, :2, 1].astype(float))
        return of_row.groupby(facts["subject"].to_numpy()).mean().to_numpy()

    p, q, truth = averaged(path), averaged(other), np.arange(12) % 3 == 0
    auc, before = ([sk.roc_auc_score(truth, v[:, run]) for run in (0, 1)] for v in (p, q))
    row = metric(result, "auc")
    assert result["pooled"]
    assert row["interval"] == "corrected jackknife"
    assert row["value"] == pytest.approx(np.mean(auc), abs=1e-6)
    assert row["seed_sd"] == pytest.approx(np.std(auc, ddof=1), abs=1e-6)
    assert row["low"] <= row["value"] <= row["high"]
    assert result["p_min"] == pytest.approx(1 / 495, abs=0.01)  # 12 over 4 arrangements
    assert row["baseline"] == pytest.approx(np.mean(before), abs=1e-6)
    assert row["difference"] == pytest.approx(np.mean(auc) - np.mean(before), abs=1e-6)
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    recall = [[(p[truth == k, run] > 0.5) == k for k in (0, 1)] for run in (0, 1)]
    recall = np.mean([[np.mean(one) for one in each] for each in recall])
    assert metric(result, "balanced_accuracy")["value"] == pytest.approx(recall)
    right = np.mean([(p[:, run] > 0.5) == truth for run in (0, 1)])
    assert metric(result, "accuracy")["value"] == pytest.approx(right)
    assert np.sum(result["confusion"]) == pytest.approx(12)
    assert result["sample"]["windows"] == result["baseline_rows"] == len(facts)
    assert (row["subjects"], len(result["undefined"])) == ({}, 12)
    assert [w for w in result["warnings"] if "pooled" in w]
    assert not [w for w in result["warnings"] if "never changes" in w]


def test_a_class_of_the_subject_is_left_out_with_it_from_intervals_and_gains(tmp_path):
    """By brute force, subjects being trained on each other; and nothing is gained over oneself."""
    rng = np.random.default_rng(27)
    facts = table(subjects=16, scans=1, windows=1)
    y = np.arange(16) % 2
    path = experiment(tmp_path, rng, facts, y, gain=2)
    other = experiment(tmp_path, rng, facts, y, gain=0.0, name="other")
    row = metric(scored(tmp_path, path, beside=[other], baseline="other"), "balanced_accuracy")
    predicted = [store.open(one)[:][:, :2, 1] > 0.5 for one in (path, other)]

    def of(p, at):
        return np.mean([sk.balanced_accuracy_score(y[at], p[at, r]) for r in (0, 1)])

    def half(statistic):
        left = np.array([statistic(np.delete(np.arange(16), i)) for i in range(16)])
        error = np.sqrt(15 / 16 * np.sum((left - left.mean()) ** 2) * (1 + 16 / 15))
        return stats.t.isf(0.025, 15) * error

    def more(at):
        return of(predicted[0], at) - of(predicted[1], at)

    every = np.arange(16)
    gain, around = more(every), half(more)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(
        (gain - around, gain + around)
    )
    p = 2 * stats.t.sf(gain / around * stats.t.isf(0.025, 15), 15)
    assert row["difference_p"] == pytest.approx(p)
    score = row["value"]
    ends = np.log(score / (1 - score)) + np.array([-1, 1]) * half(
        lambda at: of(predicted[0], at)
    ) / (score * (1 - score))
    assert (row["low"], row["high"]) == pytest.approx(tuple(1 / (1 + np.exp(-ends))))
    itself = metric(scored(tmp_path, path, beside=[path], baseline="itself"), "auc")
    assert (itself["difference"], itself["difference_p"]) == (0, 1)


def test_of_rows_that_are_whole_scans_no_probe_asks_for_the_time():
    facts = table(subjects=8, scans=1, windows=1)
    features = np.random.default_rng(0).standard_normal((8, 3))
    assert np.isnan(probes.time_in_scan(features, facts)["r2"])
    assert np.isnan(probes.subject_identity(features, facts)["balanced_accuracy"])


def test_sessions_of_both_classes_within_subjects_need_no_pooling(tmp_path):
    rng = np.random.default_rng(25)
    facts = table(subjects=3)
    y = (facts["scan"] == "scan-1").to_numpy(int)
    result = scored(tmp_path, experiment(tmp_path, rng, facts, y, gain=2))
    row = metric(result, "balanced_accuracy")
    assert not result["pooled"]
    assert len(row["subjects"]) == 3
    assert result["p_min"] == pytest.approx(1 / 8, abs=0.07)
    assert row["p"] == result["p_min"]
    assert [w for w in result["warnings"] if "no p below" in w]
    assert result["sample"]["label_autocorrelation"] is None
    assert result["sample"]["effective_sample_size"] == 6


def test_warnings_of_flags_exclusions_and_controls(tmp_path):
    rng = np.random.default_rng(26)
    facts = table(subjects=12)
    y = switching(rng, facts)
    plain = scored(tmp_path, experiment(tmp_path, rng, facts, y, gain=1))
    assert plain["warnings"] == []
    flagged = experiment(
        tmp_path, rng, facts, y, flags=["leaks", "circular"], excluded={"artefact": 10 * len(y)}
    )
    text = " ".join(scored(tmp_path, flagged)["warnings"])
    for phrase in ("split leaks", "derived from the same EEG", "windows were excluded"):
        assert phrase in text
    rows = store.open(flagged).load()
    rows.header["runs"] = [{"seed": i, "shuffled": i == 0} for i in range(3)]
    store.write(flagged, Rows(rows.array, rows.table.assign(y_shuffled=y), rows.header))
    result = scored(tmp_path, flagged)
    assert metric(result, "balanced_accuracy")["control_p"] == pytest.approx(1 / 201)
    assert [w for w in result["warnings"] if "trained on moved labels" in w]


def test_probes_stand_in_the_scores(tmp_path):
    rng = np.random.default_rng(27)
    facts = table(subjects=10)
    y = switching(rng, facts)
    path, x = experiment(tmp_path, rng, facts, y), inputs(tmp_path, rng, facts)
    found = scored(tmp_path, path, x)
    assert found["probes"]["subject_identity"]["chance"] == 0.1
    assert found["probes"]["duplicate_windows"] == 0
    assert abs(found["probes"]["feature_autocorrelation"]) < 0.1
    first = x["spectrogram/clip"][0]
    rows = store.open(first).load()
    rows.array[5:8] = rows.array[0]
    store.write(first, rows)
    copied = scored(tmp_path, path, x)
    assert copied["probes"]["duplicate_windows"] == 3
    assert [w for w in copied["warnings"] if w.startswith("3 windows are exact copies")]
    other = [w.with_name(f"other-{w.name}") for w in x["spectrogram/clip"]]
    for one, two in zip(x["spectrogram/clip"], other, strict=True):
        rows = store.open(one).load()
        store.write(two, Rows(rng.standard_normal((len(rows.array), 6, 40, 50)), rows.table, {}))
    assert scored(tmp_path, path, x | {"b": other})["probes"]["duplicate_windows"] == 0


def test_planted_time_and_identity_are_found_whatever_the_order_of_rows(tmp_path):
    rng = np.random.default_rng(30)
    facts = table(subjects=5)
    y = switching(rng, facts)
    path, x = experiment(tmp_path, rng, facts, y), inputs(tmp_path, rng, facts)
    for i, store_path in enumerate(x["spectrogram/clip"]):
        rows = store.open(store_path).load()
        order = rng.permutation(len(rows.array))
        values, shuffled = rows.array[order], rows.table.iloc[order]
        values[:, 0] += shuffled["window"]
        values[:, 1] += 20 * (i % 5 == 1)
        values[:, 2] += 20 * (i % 5 == 2)
        store.write(store_path, Rows(values, shuffled, {}))
    new = scored(tmp_path, path, x)
    known = scored(tmp_path, path, x, generalises_to="new time blocks of known subjects, purged")
    assert new["probes"]["time_in_scan"]["r2"] > 0.8
    assert new["probes"]["subject_identity"]["balanced_accuracy"] > 0.5
    assert [w for w in new["warnings"] if "tell the time within the scan" in w]
    assert not [w for w in new["warnings"] if "tell subjects apart" in w]
    assert [w for w in known["warnings"] if "tell subjects apart" in w]


def test_wide_features_are_projected(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "DIMS", 4)
    rng = np.random.default_rng(28)
    facts = table(subjects=3)
    x = inputs(tmp_path, rng, facts, dims=30)
    seen = []
    monkeypatch.setattr(probes, "time_in_scan", lambda f, t: seen.append(f.shape))
    probes.probe(x, facts, rng)
    assert seen == [(180, 4)]


def test_mistakes_are_named(tmp_path):
    rng = np.random.default_rng(29)
    facts = table()
    y = switching(rng, facts)
    path = experiment(tmp_path, rng, facts, y)
    with pytest.raises(InputError, match=r"evaluation\.margin: -0\.1 is no margin"):
        scored(tmp_path, path, evaluation={"margin": -0.1})
    with pytest.raises(InputError, match=r"evaluation\.permutation: unknown key"):
        scored(tmp_path, path, evaluation={"permutation": 100})
    other = experiment(tmp_path, rng, facts, 1 - y, name="other")
    with pytest.raises(InputError, match=r"other\.h5: the baseline predicts other labels"):
        scored(tmp_path, path, beside=[other], baseline="other")
    renamed = experiment(tmp_path, rng, facts, y, name="other", classes=["drowsy", "asleep"])
    with pytest.raises(InputError, match=r"other\.h5: the baseline predicts other labels"):
        scored(tmp_path, path, beside=[renamed], baseline="other")
    for wrong in (-1, 2):
        rows = store.open(renamed).load()
        rows.table.iloc[4, rows.table.columns.get_loc("y")] = wrong
        store.write(renamed, rows)
        with pytest.raises(InputError, match="`y` must be 0 to 1 in every row"):
            scored(tmp_path, renamed)
        rows.table.iloc[4, rows.table.columns.get_loc("y")] = 0
        store.write(renamed, rows)
    x = inputs(tmp_path, rng, facts)
    with pytest.raises(InputError, match="spectrogram/clip: no row sub-05"):
        scored(tmp_path, path, {"spectrogram/clip": x["spectrogram/clip"][:5]})
    rows = store.open(path).load()
    rows.array[3, 0] = np.nan
    store.write(path, rows)
    with pytest.raises(InputError, match="without a prediction"):
        scored(tmp_path, path)
    only = experiment(tmp_path, rng, facts, y, name="only", runs=(True,))
    with pytest.raises(InputError, match="shuffled labels, none to score"):
        scored(tmp_path, only)


def test_the_control_is_scored_against_the_labels_it_was_trained_on(tmp_path):
    rng = np.random.default_rng(27)
    facts = table()
    y = switching(rng, facts)
    path = experiment(tmp_path, rng, facts, y)
    rows = store.open(path).load()
    moved = rows.table["y_shuffled"].to_numpy()
    rows.array[:, 2] = np.stack([1 - moved, moved], axis=1)  # the control knows its own labels
    store.write(path, rows)
    assert metric(scored(tmp_path, path), "balanced_accuracy")["control"] == 1
    rows.array[:, 2] = np.stack([1 - y, y], axis=1)  # the control knows the true ones
    store.write(path, rows)
    expected = np.mean(
        [
            sk.balanced_accuracy_score(moved[at], y[at])
            for at in facts.groupby("subject").indices.values()
        ]
    )
    found = metric(scored(tmp_path, path), "balanced_accuracy")["control"]
    assert found == pytest.approx(expected)
