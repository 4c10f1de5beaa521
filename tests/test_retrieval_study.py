"""The shipped study of simulated retrieval: whole but small, and half as large as shipped."""

import json
import re

import checkouts
import pytest
import yaml

from engram import datasets, store, views
from engram.backbones import extract
from engram.datasets import simulated_things
from engram.scores.evaluation import evaluate
from engram.tasks import train

STUDY = yaml.safe_load((checkouts.ROOT / "config/studies/things_eeg2_simulated.yaml").read_text())
RUN = ["things_pixels", "things_new_subject", "things_published"]
SMALL = {
    "study": "small",
    "run": RUN,
    "datasets": {
        "things": {"units": ["sub-01", "sub-02"], "train_concepts": 12, "train_images": 2,
                   "test_concepts": 10, "test_repetitions": 3, "size": 32, "snr": 5.0},
    },
    "views": {"stimulus": {"size": [32, 32]}},
    "heads": {name: {"epochs": 2} for name in ("nice", "nice_published")},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the study ran to its report, on few pictures and for two epochs."""
    folder = checkouts.copy(tmp_path_factory.mktemp("retrieval"))
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    run = snakemake(folder)
    assert run.returncode == 0, run.stdout
    return folder


def snakemake(folder, *arguments, also=()):
    studies = ["config/studies/things_eeg2_simulated.yaml", "small.yaml", *also]
    return checkouts.snakemake(folder, "--cores", "2", "--configfile", *studies, *arguments)


def test_the_study_runs_to_its_report_and_then_has_nothing_to_do(finished):
    page = (finished / "results/small/report.html").read_text()
    for experiment in RUN:
        assert STUDY["experiments"][experiment]["title"].replace('"', "") in page
    assert "simulated data" in page
    assert "protocol: published" in page
    again = snakemake(finished, "-n")
    assert "Nothing to be done" in again.stdout


def test_the_published_protocol_is_marked_and_stands_beside_the_clean_one(finished):
    scores = {
        path.stem: json.loads(path.read_text())
        for path in (finished / "results/small/scores").glob("*.json")
    }
    assert {n for n, one in scores.items() if "published_protocol" in one["flags"]} == {
        "things_published"
    }
    assert scores["things_published"]["baseline"] == "things_pixels"
    assert all("simulated" in one["flags"] for one in scores.values())
    assert "random_weights" not in scores["things_pixels"]["flags"]


def test_folds_are_those_that_the_study_asks_for(finished):
    """Within a subject unless another way is named: a default of labels must not slip in."""
    scores = {}
    for name in RUN:
        scores[name] = json.loads((finished / f"results/small/scores/{name}.json").read_text())
        log = (finished / f"results/small/logs/train/{name}.log").read_text()
        rows = {"leave_one_subject_out": 24, "pooled": 68}  # 24 of a subject; 2 x 10 of the test
        kind = STUDY["experiments"][name].get("folds", "within")
        assert f": {rows.get(kind, 24)} epochs, at most" in log
    assert "a known subject" in scores["things_pixels"]["generalises_to"]
    assert "new subjects" in scores["things_new_subject"]["generalises_to"]
    folds = store.open(finished / "results/small/predictions/things_published.h5").table["fold"]
    assert set(folds) == {"pooled"}


def test_only_what_a_within_subject_head_reaches_is_predicted(finished):
    scores = {
        path.stem: json.loads(path.read_text())
        for path in (finished / "results/small/scores").glob("*.json")
    }
    assert scores["things_pixels"]["attainable"]["counts"] == [1, 2, 3]
    assert scores["things_new_subject"]["attainable"] is None


EVERY = set(RUN)
NICE = EVERY - {"things_published"}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"heads": {"nice": {"dropout": 0.4}}},
         {"train": NICE, "occlude": NICE, "evaluate": EVERY, "card": EVERY,
          "plot_pairs": EVERY}),
        ({"backbones": {"pixels": {"grid": 4}}},
         {"extract": 1, "train": EVERY, "occlude": EVERY, "evaluate": EVERY, "card": EVERY,
          "plot_pairs": EVERY}),
    ],
    ids=["head option", "backbone option"],
)  # fmt: skip
def test_a_change_reruns_what_it_touches_and_nothing_else(finished, tmp_path, change, stages):
    (tmp_path / "change.yaml").write_text(yaml.safe_dump(change))
    listed = snakemake(finished, "-n", also=[tmp_path / "change.yaml"])
    assert listed.returncode == 0, listed.stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", listed.stdout, re.M))
    expected = {name: n if isinstance(n, int) else len(n) for name, n in stages.items()}
    assert {k: int(v) for k, v in counts.items()} == expected | {
        "report": 1, "all": 1, "total": sum(expected.values()) + 2
    }  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Scores of `things_pixels` on half its pictures, of one subject and one seed."""
    folder = tmp_path_factory.mktemp("measured")
    things = STUDY["datasets"]["things"]
    half = simulated_things.Options(train_concepts=100, test_concepts=100)
    rendered = {}
    for unit, files, view in (
        ("sub-01", things["files"], "epochs"),
        ("stimuli", things["shared"]["stimuli"], "stimulus"),
    ):
        rows = [{"unit": unit, "file": file.format(unit=unit)} for file in files]
        for row in rows:
            path = folder / row["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            simulated_things.make(path, row, half)
        paths = [str(folder / row["file"]) for row in rows]
        spec = {"unit": unit, "rows": rows, "dataset": {"kind": things["kind"]}}
        options = {key: STUDY["views"][view][key] for key in STUDY["views"][view] if key != "unit"}
        spec |= {"view": options, "windows": None}
        rendered[view] = folder / f"{view}.h5"
        views.render(datasets.read(spec, paths), rendered[view], spec, {})
    features = folder / "stimulus/pixels.h5"
    backbone = {"backbone": {"kind": "pixels"}}
    extract(rendered["stimulus"], None, features, backbone, {}, "cpu")
    outputs = [folder / name for name in ("m.safetensors", "p.h5", "l.h5")]
    spec = {"task": "pairs", "experiment": {"seeds": 1}, "candidates": [["epochs"]]}
    spec |= {"head": STUDY["heads"]["nice"]}
    x, y = {"epochs": [rendered["epochs"]]}, {"stimulus/pixels": [features]}
    train(x, y, *outputs, spec, {}, "cpu")
    facts = {"task": "pairs", "experiment": "e", "baseline": None, "evaluation": {}}
    facts |= {"generalises_to": "new pictures"}
    evaluate(outputs[1], [], {}, folder / "s.json", facts)
    return json.loads((folder / "s.json").read_text())


def test_what_is_measured_lies_in_the_interval_that_the_simulation_predicts(measured):
    predicted, curve = measured["attainable"], measured["repetitions"]
    assert predicted["counts"] == curve["counts"] == [1, 2, 5, 10, 20]
    for name in ("top1", "top5"):
        low, high = predicted[name]["low"], predicted[name]["high"]
        for least, value, most in zip(low, curve[name]["sub-01"], high, strict=True):
            assert least <= value <= most
    assert measured["metrics"][0]["control"] <= 0.03
    assert measured["metrics"][0]["p"] < 0.01


def test_the_prediction_is_neither_empty_nor_everything(measured):
    predicted = measured["attainable"]["top1"]
    for low, high in zip(predicted["low"][1:], predicted["high"][1:], strict=True):
        assert 0.01 * 4 < low < high - 0.1
    assert predicted["high"][0] < 0.3
