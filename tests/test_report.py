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
    assert "2 experiments on Simulated vigilance: 6 subjects, 6 scans, 120 windows." in text
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
    lead = "Balanced accuracy from 0.71 to 0.78, by chance 0.50."
    assert lead in " ".join(Reader(page.render(scored, *others)).text)
    scored["clip"]["flags"].append("leaks")
    text = " ".join(Reader(page.render(scored, *others)).text)
    assert "Balanced accuracy 0.71, by chance 0.50; 1 more with a split that leaks." in text
    assert "0.780" in text  # in its row it stays


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
    assert all(link.startswith(("#", "data:")) for link in read.links)
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
    assert "→ state" in text
    assert "→ vigall" in text
    assert "0.004" in text  # alone in its group: nothing to adjust
