"""What was found, in sentences: scores made by hand, and the sentence that each must give."""

import pytest

from engram.figures import findings
from engram.figures.comparison_page import found as found_of_comparison
from engram.figures.findings import found
from engram.figures.groups import adjust, asked
from engram.figures.scores_table import table

KNOWN = "new time blocks of known subjects, purged"


def row(value, low, high, p=0.001, chance=0.5, metric="balanced_accuracy", **more):
    nothing = ("control", "control_p", "baseline", "difference", "difference_low",
               "difference_high", "difference_p", "detectable", "equivalence_p")  # fmt: skip
    own = {"metric": metric, "value": value, "low": low, "high": high, "p": p, "chance": chance}
    return dict.fromkeys(nothing) | own | more


def gain(difference, low, high, p, **more):
    names = ("difference", "difference_low", "difference_high", "difference_p")
    return dict(zip(names, (difference, low, high, p), strict=True)) | more


def experiment(name, line, *, baseline=None, flags=(), task="classes", **scores):
    scores = {
        "classes": ["closed", "open"], "generalises_to": "new subjects", "baseline": baseline,
        "flags": flags, "metrics": [line], "warnings": [],
    } | scores  # fmt: skip
    titles = {"bands": "Band power", "clip": "CLIP", "vit": "ViT, large"}
    return {
        "name": name, "title": titles.get(name, name), "task": task, "flags": list(flags),
        "config": {}, "scores": scores, "target": "photograph/clip",
    }  # fmt: skip


def answers(*experiments):
    return [one["answer"] for one in found(list(experiments))]


BANDS = experiment("bands", row(0.67, 0.58, 0.76))
NOT_MORE = gain(-0.01, -0.12, 0.10, 0.8)
TOLD = "Band power tells closed from open in new subjects"


def clip(line, **more):
    return experiment("clip", line, baseline="bands", **more)


def test_a_baseline_that_tells_and_models_that_add_nothing():
    of_clip = clip(row(0.66, 0.55, 0.77, **NOT_MORE))
    of_vit = experiment(
        "vit", row(0.6, 0.52, 0.7, **gain(-0.07, -0.2, 0.06, 0.2)), baseline="bands"
    )
    (told,) = found([of_clip, BANDS, of_vit])
    assert told["question"] == "Closed or open, in new subjects?"
    assert told["answer"] == (
        f"{TOLD} (balanced accuracy 0.67, 0.58 to 0.76; chance 0.50); none of 2 others was shown "
        "to add to it (best CLIP, −0.01, −0.12 to +0.10)."
    )


@pytest.mark.parametrize(
    ("line", "clause"),
    [
        (NOT_MORE, "CLIP was not shown to add to it (−0.01, −0.12 to +0.10)"),
        (gain(0.1, 0.02, 0.18, 0.02), "CLIP adds to it (+0.10, +0.02 to +0.18)"),
        (gain(0.1, 0.02, 0.18, 0.06), "CLIP was not shown to add to it (+0.10, +0.02 to +0.18)"),
        (gain(-0.1, -0.18, -0.02, 0.02), "CLIP falls short of it (−0.10, −0.18 to −0.02)"),
        (
            NOT_MORE | {"detectable": 0.14},
            "CLIP was not shown to add to it (−0.01, −0.12 to +0.10; a gain of 0.14 shows in "
            "4 of 5 such studies)",
        ),
        (
            NOT_MORE | {"detectable": 0.14, "equivalence_p": 0.03},
            "CLIP adds nothing to it beyond the margin of 0.1 (−0.01, −0.12 to +0.10)",
        ),
    ],
)
def test_what_a_model_adds(line, clause):
    of_clip = clip(row(0.66, 0.4, 0.77, **line), settings={"margin": 0.1})
    (told,) = answers(BANDS, of_clip)
    assert told == f"{TOLD} (balanced accuracy 0.67, 0.58 to 0.76; chance 0.50); {clause}."


def test_gains_are_adjusted_over_all_of_the_question():
    lines = [row(0.7, 0.6, 0.8, **gain(d, 0.01, 0.2, 0.03)) for d in (0.1, 0.11)]
    (told,) = answers(BANDS, clip(lines[0]), experiment("vit", lines[1], baseline="bands"))
    assert "none of 2 others was shown to add to it (best “ViT, large”, +0.11" in told
    lines[1]["difference_p"] = 0.02  # 0.04 after Holm; the other stays at 0.03
    (told,) = answers(BANDS, clip(lines[0]), experiment("vit", lines[1], baseline="bands"))
    assert "2 of 2 others add to it (most “ViT, large”, +0.11, +0.01 to +0.20)." in told
    lines[0]["difference_p"] = 0.3
    (told,) = answers(BANDS, clip(lines[0]), experiment("vit", lines[1], baseline="bands"))
    assert "1 of 2 others adds to it (most “ViT, large”, +0.11, +0.01 to +0.20)." in told


def test_what_is_not_told_and_the_best_that_was_tried():
    bands = experiment("bands", row(0.52, 0.45, 0.6, p=0.3))
    of_clip = clip(row(0.55, 0.49, 0.61, p=0.04, **gain(0.03, -0.1, 0.2, 0.5)))
    assert answers(bands) == [
        "Closed could not be told from open in new subjects (Band power, balanced accuracy 0.52, "
        "0.45 to 0.60; chance 0.50; p 0.300)."
    ]
    assert answers(bands, of_clip) == [
        "Closed could not be told from open in new subjects (best of 2: CLIP, balanced accuracy "
        "0.55, 0.49 to 0.61; chance 0.50; p 0.080)."
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (row(0.6, 0.51, 0.7, p=0.05), True),
        (row(0.6, 0.51, 0.7, p=0.051), False),
        (row(0.6, 0.49, 0.7, p=0.001), False),  # the interval holds chance
        (row(0.6, None, None, p=0.001), False),  # as of a label that is the recording
        (row(0.6, 0.51, 0.7, p=None), False),
        (row(0.6, 0.51, 0.7, p=0.001, chance=0.52), False),
    ],
)
def test_something_is_told_if_p_and_the_interval_say_so(line, told):
    (said,) = answers(experiment("bands", line))
    assert said.startswith("Band power tells") is told
    assert ("could not be told" in said) is not told


def test_a_p_that_cannot_be_small_says_so():
    line = row(0.9, 0.7, 1.0, p=0.125)
    (said,) = answers(experiment("bands", line, null={"floor": 0.125}))
    assert said.endswith("chance 0.50; p 0.125, which cannot be below 0.125).")
    null = {"floor": 0.02}  # 0.06 of three, after Holm
    three = [
        experiment(name, row(0.9 - i / 10, 0.7, 1.0, p=0.02), null=null)
        for i, name in enumerate(("bands", "clip", "vit"))
    ]
    (said,) = answers(*three)
    assert said.endswith("chance 0.50; p 0.060, which cannot be below 0.060).")
    (said,) = answers(*three[:2])
    assert said.startswith("Band power tells")


def test_p_in_the_table_of_scores_is_adjusted_over_the_honest_experiments_of_a_question():
    """As on the page: other scopes, and scores that are inflated, are families of their own."""
    config = {"dataset_title": "d", "x": "v/b", "y": "state", "head": "linear"}
    facts = {"null": None, "sample": {"subjects": 6}, "runs": [{"seed": 0}]}
    scored = {
        "one": experiment("one", row(0.6, 0.5, 0.7, p=0.01), **facts),
        "two": experiment("two", row(0.6, 0.5, 0.7, p=0.02), **facts),
        "known": experiment("known", row(0.6, 0.5, 0.7, p=0.03), **facts, generalises_to=KNOWN),
        "leaks": experiment("leaks", row(0.9, 0.8, 1.0, p=0.04), **facts, flags=["leaks"]),
    }
    found = table(
        {name: {"task": "classes"} | this["scores"] for name, this in scored.items()},
        {"experiments": dict.fromkeys(scored, config)},
    )
    assert found["p_holm"].tolist() == [0.02, 0.02, 0.03, 0.04]


def test_a_small_p_beside_an_interval_that_holds_chance_is_no_contradiction():
    (said,) = answers(experiment("bands", row(0.7, 0.48, 0.85, p=0.01)))
    assert said.endswith("; p 0.010, but the interval does not lie above chance).")


def test_numbers_are_not_predicted_by_who_is_worse_than_their_mean():
    """Models of moved numbers are worse still, so that p is small and the interval above chance."""
    line = row(-0.02, -0.1, 0.2, p=0.01, chance=-0.2, metric="r2")
    (said,) = answers(experiment("bands", line, task="values", column="age"))
    assert said.startswith("Age could not be predicted in new subjects (Band power, R² −0.02")


def test_a_model_that_tells_what_its_baseline_does_not():
    bands = experiment("bands", row(0.52, 0.45, 0.6, p=0.3))
    of_clip = clip(row(0.7, 0.6, 0.8, **gain(0.18, 0.05, 0.3, 0.01)), flags=["random_weights"])
    assert answers(bands, of_clip) == [
        "CLIP (random weights) tells closed from open in new subjects (balanced accuracy 0.70, "
        "0.60 to 0.80; chance 0.50); it adds to Band power (+0.18, +0.05 to +0.30)."
    ]


def test_scores_that_are_inflated_take_no_part():
    leaky = experiment("leaky", row(0.99, 0.98, 1.0), flags=["leaks"], generalises_to="LEAKS: x")
    assert answers(leaky, BANDS) == [
        f"{TOLD} (balanced accuracy 0.67, 0.58 to 0.76; chance 0.50). 1 more experiment, marked, "
        "says nothing of new data."
    ]
    assert answers(leaky) == ["Nothing is said of new data: LEAKS: random windows."]


def test_each_question_has_a_sentence_of_its_own():
    known = experiment("clip", row(0.9, 0.8, 1.0, p=0.04), generalises_to=KNOWN)
    told = found([BANDS, known])
    assert [one["question"] for one in told] == [
        "Closed or open, in new subjects?",
        "Closed or open, in new time blocks of known subjects?",
    ]
    assert told[1]["answer"].startswith(
        "CLIP tells closed from open in new time blocks of known subjects (balanced accuracy 0.90"
    )  # 0.04 stays: each question is adjusted on its own


def test_simulated_data_is_said():
    line = row(0.5, 0.4, 0.6, p=0.5)
    (said,) = answers(experiment("bands", line, flags=["simulated"]))
    assert said.startswith("In simulated data, closed could not be told from open in new subjects")
    (said,) = answers(experiment("bands", row(0.67, 0.58, 0.76), flags=["simulated"]))
    assert said.startswith(f"In simulated data, {TOLD}")


def test_more_than_two_classes():
    (said,) = answers(
        experiment("bands", row(0.5, 0.4, 0.6, chance=0.33), classes=["W", "N1", "N2"])
    )
    assert said.startswith("Band power tells W, N1 and N2 apart in new subjects (")
    line = row(0.3, 0.2, 0.4, p=0.9, chance=0.33)
    (told,) = found([experiment("bands", line, classes=["W", "N1", "N2"])])
    assert told["question"] == "W, N1 or N2, in new subjects?"
    assert told["answer"].startswith("W, N1 and N2 could not be told apart in new subjects (")


def test_what_changes_the_reading_follows():
    control = experiment("bands", row(0.67, 0.58, 0.76, control=0.66, control_p=0.2))
    assert answers(control)[0].endswith("; but trained on shuffled labels it reaches 0.66 too.")
    leaks = experiment("bands", row(0.9, 0.85, 0.95, control=0.54, control_p=0.01))
    assert answers(leaks)[0].endswith(
        "; but trained on shuffled labels it reaches 0.54, above chance."
    )
    rival = {"name": "clock", "of": ["clock"], "value": 0.65, "low": 0.55, "high": 0.75,
             "difference": 0.02, "difference_p": 0.7}  # fmt: skip
    (said,) = answers(experiment("bands", row(0.67, 0.58, 0.76), rivals=[rival]))
    assert said.endswith("; but clock alone reaches 0.65, which it was not shown to exceed.")
    beaten = rival | {"difference": 0.1, "difference_p": 0.01}
    below = rival | {"low": 0.45}
    (said,) = answers(experiment("bands", row(0.67, 0.58, 0.76), rivals=[beaten, below]))
    assert "clock" not in said
    left = {"of": ["subject"], "value": 0.52, "low": 0.44, "high": 0.6}
    model = {"value": 0.66, "low": 0.57, "high": 0.75, "without": [left]}
    (said,) = answers(experiment("bands", row(0.67, 0.58, 0.76), sensitivity=model))
    assert said.endswith(
        "; without the subject a linear model reaches 0.52, not shown to be above chance."
    )
    model["low"] = 0.48  # nothing was there to be lost
    (said,) = answers(experiment("bands", row(0.67, 0.58, 0.76), sensitivity=model))
    assert "without" not in said


@pytest.mark.parametrize(
    ("control", "p", "high"),
    [(0.66, 0.2, True), (0.64, 0.2, False), (0.6, 0.01, True), (0.4, 0.01, False),
     (None, None, False)],
)  # fmt: skip
def test_a_control_is_as_high_by_its_share_or_by_its_own_p(control, p, high):
    line = row(0.67, 0.58, 0.76, control=control, control_p=p)
    assert findings.control_as_high(line) is high


def test_numbers_pictures_and_vectors():
    age = {"task": "values", "column": "age"}
    line = row(0.3, 0.1, 0.5, chance=0.0, metric="r2")
    (told,) = found([experiment("bands", line, **age)])
    assert told == {
        "question": "Can age be predicted, in new subjects?",
        "answer": "Band power predicts age in new subjects (R² 0.30, 0.10 to 0.50).",
    }
    (said,) = answers(experiment("bands", line | {"p": 0.2, "low": -0.1}, **age))
    assert said == (
        "Age could not be predicted in new subjects (Band power, R² 0.30, −0.10 to 0.50; p 0.200)."
    )
    of = {"generalises_to": "new pictures, a known subject"}
    line = row(0.25, 0.2, 0.3, chance=0.005, metric="top1")
    (told,) = found([experiment("clip", line, task="pairs", candidates=200, **of)])
    assert told["question"] == (
        "Which of 200 pictures was seen, for known subjects and new pictures?"
    )
    assert told["answer"] == (
        "CLIP tells which of 200 pictures was seen for known subjects and new pictures (top-1 "
        "0.250, 0.200 to 0.300; chance 0.005)."
    )
    line = row(0.03, 0.01, 0.05, chance=0.0, metric="r2")
    assert answers(experiment("clip", line, task="vectors", **of)) == [
        "CLIP predicts photograph/clip for known subjects and new pictures (R² 0.030, 0.010 to "
        "0.050)."
    ]
    line = row(0.8, 0.7, 0.9, metric="clip_two_way")
    assert answers(experiment("clip", line, task="pictures", **of)) == [
        "CLIP draws pictures like what was seen for known subjects and new pictures (clip 2-way "
        "0.80, 0.70 to 0.90; chance 0.50)."
    ]


# ---- comparisons --------------------------------------------------------------------------


def member(name, line, baseline=False, **more):
    return line | {
        "experiment": name, "title": name, "is_baseline": baseline, "flags": [], "gain": None,
        "over_best": None,
    } | more  # fmt: skip


def comparison(*members, **more):
    return {"title": "Which?", "members": list(members)} | more


def over(difference, low, high, p, **more):
    keys = ("difference", "low", "high", "p", "detectable", "equivalence_p")
    return dict(zip(keys, (difference, low, high, p, None, None), strict=True)) | more


def test_a_comparison_is_about_the_best_baseline():
    found = found_of_comparison(
        comparison(
            member(
                "clip", row(0.7, 0.6, 0.8), over_best=over(0.03, -0.05, 0.11, 0.4, detectable=0.1)
            ),
            member(
                "vit", row(0.6, 0.51, 0.7), over_best=over(-0.07, -0.15, 0.01, 0.1, detectable=0.1)
            ),
            member("bands", row(0.67, 0.58, 0.76), baseline=True),
            member("leaky", row(0.99, 0.98, 1.0), flags=["leaks"]),
            best_baseline="bands",
        )
    )
    assert found == {
        "question": "Which?",
        "answer": "clip scores highest (balanced accuracy 0.70, 0.60 to 0.80); none of 2 models "
        "was shown to add to the best baseline, bands (best clip, +0.03, −0.05 to +0.11; a gain "
        "of 0.10 shows in 4 of 5 such studies).",
    }


def test_the_highest_score_of_those_above_chance_may_not_be_the_highest():
    wide = member("wide", row(0.8, 0.4, 0.95, p=0.3))
    found = found_of_comparison(comparison(member("sure", row(0.6, 0.55, 0.65)), wide))
    assert found["answer"].startswith("sure scores highest of those above chance (")


def test_a_comparison_without_a_best_baseline_and_what_weights_gain():
    line = row(0.6, 0.45, 0.75, p=0.2, **gain(0.08, -0.1, 0.2, 0.3))
    weights = over(0.1, 0.02, 0.2, 0.01, metric="balanced_accuracy")
    found = found_of_comparison(
        comparison(
            member("clip", line, gain=weights),
            member("bands", row(0.52, 0.4, 0.6, p=0.5), baseline=True),
        )
    )
    assert found["answer"] == (
        "No backbone was shown to be above chance (best clip, balanced accuracy 0.60, 0.45 to "
        "0.75); clip was not shown to add to bands (+0.08, −0.10 to +0.20); trained weights gain "
        "over random ones (clip, +0.10, +0.02 to +0.20)."
    )


# ---- order and adjustment -----------------------------------------------------------------


def test_rows_stand_in_the_order_of_the_question():
    leaky = experiment("leaky", row(0.9, 0.8, 1.0), flags=["leaks"], baseline="bands")
    twin = experiment("twin", row(0.5, 0.4, 0.6))
    twin["config"] = {"automatic": True}
    members = [leaky, twin, BANDS, clip(row(0.6, 0.5, 0.7))]
    for this, own in zip(members, ("few", "few", "few", "also"), strict=True):
        this["scores"]["warnings"] = ["all", own]
    group = asked(members)
    assert [this["name"] for this in group["experiments"]] == ["clip", "bands", "twin", "leaky"]
    assert group["warnings"] == ["all"]
    assert members[3]["warnings"] == ["also"]


def test_p_is_adjusted_over_the_honest_experiments_of_a_question():
    of_known = experiment("vit", row(0.9, 0.8, 1.0), generalises_to=KNOWN)
    leaky = experiment("leaky", row(0.9, 0.8, 1.0), flags=["leaks"])
    members = [BANDS, clip(row(0.6, 0.5, 0.7)), of_known, leaky]
    adjust(members, "p_holm", [0.01, 0.02, 0.03, 0.04])
    assert [this["p_holm"] for this in members] == [0.02, 0.02, 0.03, 0.04]
