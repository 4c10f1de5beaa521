"""What a finished study says: the page and the scalars for TensorBoard."""

import copy
import html.parser
import json

import numpy as np
import pandas as pd
import pytest
import study
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engram import store
from engram.errors import InputError
from engram.figures import page
from engram.figures.classes import scalars
from engram.figures.plot import plot
from engram.store import Rows

# ---- TensorBoard ----------------------------------------------------------------------


def test_scalars_are_means_over_folds_under_the_published_tags():
    curves = pd.DataFrame(
        {
            "fold": [*"aabbcc"], "run": 0, "epoch": [0, 1] * 3, "lr": [4, 2] * 3,
            "train_loss": [1, 0.5, 1, 0.5, 4, 2], "loss_fmri_prediction": [5, 2, 1, 1, 0, 0],
            "train_mAC": [0.5, 0.7, 0.6, 0.8, 0.55, 0.75],
            "validation_mF1": [0.4, 0.5, 0.6, 0.9, 0.5, 0.7],
            "validation_loss": np.nan,
        }
    )  # fmt: skip
    scored = {
        "metrics": [
            {"metric": "balanced_accuracy", "value": 0.7},
            {"metric": "accuracy", "value": None},
            {"metric": "macro_f1", "value": np.nan},
        ],
        "macro_precision": 0.65,
    }
    control = curves.assign(run=1, train_loss=9.0)
    header = {"curves": pd.concat([curves, control]).to_dict("list"),
              "runs": [{"shuffled": False}, {"shuffled": True}]}  # fmt: skip
    predicted = Rows(None, None, header)
    found = {(tag, step): value for tag, step, value in scalars(scored, predicted)}
    assert found == pytest.approx(
        {
            ("Train/lr", 0): 4, ("Train/lr", 1): 2,
            ("Train/loss", 0): 2, ("Train/loss", 1): 1,
            ("Train_details/loss_fmri_prediction", 0): 2,
            ("Train_details/loss_fmri_prediction", 1): 1,
            ("Train/mAC", 0): 0.55, ("Train/mAC", 1): 0.75,
            ("Validation/mF1", 0): 0.5, ("Validation/mF1", 1): 0.7,
            ("Test/mAR", 1): 0.7, ("Test/mPrecision", 1): 0.65,
        }
    )  # fmt: skip


def test_what_differs_from_the_training_data_stands_beside_the_scores(tmp_path):
    spec = study.write(tmp_path)
    scored = {
        n: json.loads((tmp_path / f"scores/{n}.json").read_text()) for n in ("bandpower", "clip")
    }
    scored["clip"]["applied"] = {
        "model": "bandpower", "dataset": "Another", "rows": 90, "subjects": 6, "remembered": [],
        "stated": [{"of": "x/clip", "fact": "settings.sfreq", "model": "128", "here": "100"}],
        "labels": [], "unlike": {"share": 0.25, "median": 0.61, "subjects": {}},
        "classes": {"model": {"drowsy": 0.5, "alert": 0.5}, "here": {"drowsy": 0.2, "alert": 0.8}},
    }  # fmt: skip
    scored["clip"]["majority_of_model"] = dict.fromkeys(study.METRICS, 0.47)
    for row in scored["clip"]["metrics"]:
        row |= {"control": None, "control_p": None}
    headers = {n: store.open(tmp_path / f"predictions/{n}.h5").header for n in scored}
    text = page.render(scored, headers, {}, spec)
    (there, here) = text.split("Training data and these")
    assert "25 % are less like" in there
    for cell in ("settings.sfreq", "128", "100", "share of alert", "0.50", "0.80"):
        assert cell in here
    assert "where bandpower was trained" in text
    assert "0.470" in text


def test_plot_writes_everything_it_declares(tmp_path):
    study.write(tmp_path)
    names = {
        name: tmp_path / f"figures/{name}.svg"
        for name in ("subjects", "confusion", "curves", "examples")
    }
    events = tmp_path / "figures/events.out.tfevents.0.engram"
    view = sorted(tmp_path.glob("views/*/spectrogram.h5"))
    plot(
        tmp_path / "scores/clip.json",
        tmp_path / "predictions/clip.h5",
        view,
        [],
        names | {"events": events},
        {"task": "classes"},
    )
    assert all(path.read_text().startswith("<?xml") for path in names.values())
    history = pd.DataFrame(store.open(tmp_path / "predictions/clip.h5").header["curves"])
    found = EventAccumulator(str(events)).Reload()
    real = history[history["run"] == 0].groupby("epoch")["train_loss"].mean()
    shown = [event.value for event in found.Scalars("Train/loss")]
    np.testing.assert_allclose(shown, real, rtol=1e-6)
    (settings,) = found.Tensors("hyperparameters")
    assert b'"dropout": 0.2' in settings.tensor_proto.string_val[0]


# ---- the page ---------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path):
    """Arguments of `page.render`."""
    spec = study.write(tmp_path)
    scored = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("scores/*.json")}
    headers = {path.stem: store.open(path).header for path in tmp_path.glob("predictions/*.h5")}
    return scored, headers, {}, spec


class Reader(html.parser.HTMLParser):
    """The text of a page, its ids and the addresses it names."""

    def __init__(self, text):
        super().__init__()
        self.text, self.ids, self.links, self.skip = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.skip = tag in ("script", "style")
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]

    def handle_endtag(self, tag):
        self.skip = False

    def handle_data(self, data):
        if not self.skip:
            self.text.append(" ".join(data.split()))


def test_page_shows_scores_beside_baselines_and_controls(whole):
    read = Reader(page.render(*whole))
    text = " ".join(read.text)
    assert "6 subjects, 6 scans, 120 windows." in text
    for expected in (
        "0.780",
        "0.720 to 0.840",
        "0.492",
        "+0.070",
        "4 artefact, 7 both states",
        "Cohen's κ",
    ):
        assert expected in text
    assert "0.008" in text  # 0.004, adjusted for two experiments
    assert "0.031" in text  # one comparison with a baseline: nothing to adjust
    assert "Only 6 subjects: intervals are wide." in text
    assert "engram.heads.adapter@1a2b3c4d" in text


def test_the_first_line_counts_no_score_of_a_split_that_leaks(whole):
    scored, *others = copy.deepcopy(whole)
    lead = (
        "In simulated data, “Band power, linear” tells drowsy from alert in new subjects (balanced "
        "accuracy 0.71, 0.65 to 0.77; chance 0.50)"
    )
    adds = "; CLIP + adapter (random weights) adds to it (+0.07, +0.01 to +0.13)."
    assert lead + adds in " ".join(Reader(page.render(scored, *others)).text)
    scored["clip"]["flags"].append("leaks")
    read = Reader(page.render(scored, *others))
    text = " ".join(read.text)
    assert f"{lead}. 1 more experiment, marked, says nothing of new data." in text
    assert "0.780" in text  # in its row it stays, below the others
    assert [i for i in read.ids if i in scored] == ["bandpower", "clip"]


def test_chance_is_the_null_with_its_band_beside_the_majority(whole):
    scored, *others = copy.deepcopy(whole)
    first = scored["clip"]["metrics"][0]
    first |= {"chance": 0.461, "null_low": 0.402, "null_high": 0.524, "p": 0.02}
    scored["clip"]["null"] = {"kind": "refitted", "n": 40, "floor": 0.02}
    text = page.render(scored, *others)
    row = text.partition('class="headline"')[2].partition("CLIP + adapter</a>")[2]
    row = row.partition("</tr>")[0]
    for said in ("0.461", "0.402 to 0.524", "majority 0.530", "at its floor", 'class="null"'):
        assert said in row
    assert "No p below 0.020 is possible" in row
    assert "trained again on each of 40 series of labels shifted in time" in text
    first["control"] = 0.78
    assert "as high as the score" not in row
    assert "as high as the score" in page.render(scored, *others)


def test_a_warning_of_all_experiments_stands_once(whole):
    scored, *others = copy.deepcopy(whole)
    scored["clip"]["warnings"].append("Only clip.")
    text = page.render(scored, *others)
    assert text.count("Only 6 subjects: intervals are wide.") == 1
    assert text.count("<li>Only clip.</li>") == 1
    assert text.index("Only 6 subjects") < text.index('class="headline"') < text.index("Only clip.")
    assert text.count("1 warning<") == 2  # in the row, and in the line that opens the experiment


def test_what_else_could_explain_a_score_stands_with_it(whole):
    scored, *others = copy.deepcopy(whole)
    rival = {"name": "clock", "of": ["clock"], "metric": "balanced_accuracy", "value": 0.612,
             "low": 0.5, "high": 0.7, "difference": 0.168, "difference_low": 0.1,
             "difference_high": 0.2, "difference_p": 0.003, "subjects": {}}  # fmt: skip
    without = {"of": ["subject"], "value": 0.641, "low": 0.6, "high": 0.7, "difference": -0.02,
               "difference_p": 0.4}  # fmt: skip
    model = {"model": "ridge on the features", "metric": "balanced_accuracy", "value": 0.661}
    scored["clip"] |= {
        "rivals": [rival],
        "sensitivity": model | {"subject_share": 0.37, "without": [without]},
        "learning_curve": [
            {"subjects": n, "value": v, "low": v - 0.1, "high": v + 0.1, "seed_sd": None}
            for n, v in ((2, 0.551), (4, 0.662))
        ],
    }
    scored["clip"]["probes"]["near_copies"] = {
        "pairs": 17, "between": 3, "examples": [["sub-01/a", "sub-02/b"]],
    }  # fmt: skip
    text = page.render(scored, *others)
    shown = text.partition('<article id="clip">')[2]
    for said in ("clock", "0.612", "+0.168", "0.003", "37 %", "ridge on the features", "0.641",
                 "17 <small>3 between", "sub-01/a and sub-02/b", "2 subjects: 0.551"):  # fmt: skip
        assert said in shown
    (drawn,) = [part.partition("</svg>")[0] for part in text.split('<figure class="learning">')[1:]]
    assert drawn.count("<circle") == 2
    assert "What else could explain it" not in page.render(*whole)


def test_page_says_over_what_scores_are_taken(whole):
    scored, *others = whole
    within, over = "within each subject", "over all subjects, each of whom counts once"
    text = " ".join(Reader(page.render(scored, *others)).text)
    assert within in text
    assert over not in text
    pooled = {name: {**this, "pooled": True} for name, this in scored.items()}
    text = " ".join(Reader(page.render(pooled, *others)).text)
    assert over in text
    assert "score is taken within each subject" not in text


def test_page_shows_the_card_of_a_model_that_is_kept_and_leads_to_its_files(whole):
    kept = {
        "file": {"name": "clip.safetensors"},
        "not_for": [{"because": "chance", "text": "Anything: 0.5 is chance."}],
        "sections": [{"title": "What it takes", "lines": [["unit", "dB < 3"]]}],
        "use": {"python": "import engram", "console": "engram apply"},
    }
    text = page.render(*whole, cards={"clip": kept})
    sections = text.split('<details class="kept">')
    assert len(sections) == 2  # `bandpower` keeps none
    section = sections[1].partition("</details>")[0]
    assert text.index('<article id="clip">') < text.index(section)
    read = Reader(section)
    assert read.links == ["models/clip.md", "models/clip.json", "models/clip.safetensors"]
    for said in ("Anything: 0.5 is chance.", "What it takes", "dB < 3", "engram apply"):
        assert said in read.text


def test_page_names_no_address_outside_itself(whole):
    read = Reader(page.render(*whole))
    beside = ("scores.csv", "methods.md")
    assert all(link.startswith(("#", "data:")) or link in beside for link in read.links)
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("leaks", "LEAKS: random windows"),
        ("simulated", "simulated data"),
        ("random_weights", "random weights"),
        ("circular", "labels from the same EEG"),
        ("incomplete", "channels missing"),
    ],
)
def test_badges_say_what_a_number_is_not(whole, key, text):
    scored, headers, figures, spec = copy.deepcopy(whole)
    for name in spec["experiments"]:
        scored[name]["flags"] = []
    assert text not in Reader(page.render(scored, headers, figures, spec)).text
    scored["clip"]["flags"] = [key]
    shown = Reader(page.render(scored, headers, figures, spec)).text
    assert shown.count(text) == 3  # on top, in the table, at the experiment


def test_what_the_rows_lack_is_said_at_the_experiment(whole):
    scored, headers, figures, spec = copy.deepcopy(whole)
    scored["clip"]["inputs"] = {"series/clip": ["443 of 450 channels, without a", "from V to uV"]}
    text = Reader(page.render(scored, headers, figures, spec)).text
    assert sum("443 of 450 channels, without a; from V to uV" in part for part in text) == 1


def test_page_escapes_what_people_typed(whole):
    scored, headers, figures, spec = whole
    spec["title"] = spec["experiments"]["clip"]["title"] = "<script>alert(1)</script>"
    written = page.render(scored, headers, figures, spec)
    assert "<script>alert" not in written
    assert "&lt;script&gt;alert" in written


def test_undefined_scores_are_a_dash(whole):
    scored, headers, figures, spec = whole
    for row in scored["clip"]["metrics"]:
        row |= dict.fromkeys(
            (
                "value",
                "low",
                "high",
                "p",
                "seed_sd",
                "control",
                "baseline",
                "difference",
                "difference_p",
            )
        )
        row["subjects"] = dict.fromkeys(row["subjects"])
    scored["clip"]["probes"] = None
    assert "–" in Reader(page.render(scored, headers, figures, spec)).text


def test_experiments_stand_in_the_order_of_the_scores(whole):
    scored, headers, figures, spec = whole
    order = ["clip", "bandpower"]
    again = {name: scored[name] for name in order}
    read = Reader(page.render(again, headers, figures, spec))
    assert [i for i in read.ids if i in order] == order


def test_an_experiment_without_scores_is_refused(whole):
    scored, headers, figures, spec = whole
    del scored["clip"]
    with pytest.raises(InputError, match="no scores or no predictions of experiment 'clip'"):
        page.render(scored, headers, figures, spec)


def test_experiments_are_grouped_by_dataset_and_target(whole):
    scored, headers, figures, spec = whole
    spec["experiments"]["clip"]["y"] = "vigall"
    text = Reader(page.render(scored, headers, figures, spec)).text
    assert any("→ state" in part for part in text)
    assert any("→ vigall" in part for part in text)
    assert "0.004" in text  # alone in its group: nothing to adjust
