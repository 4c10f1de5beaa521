"""Labels and pictures of windows against rules written out second by second."""

import numpy as np
import pandas as pd
import pytest

from engram.errors import InputError
from engram.recording import Picture, Recording, Windows
from engram.views import annotations, picture, window_labels

WINDOWS = Windows(30, 15)


def recording(events=(), duration=300.0, **facts):
    table = pd.DataFrame(events, columns=["onset", "duration", "description"])
    return Recording("sub-01", "scan-01", duration, events=table, **facts)


def brute_force(events, classes, onset, length=30, rate=10):
    """Share of the second class among the labelled tenths of a second of a window, and how many."""
    times = onset + (np.arange(length * rate) + 0.5) / rate
    inside = [
        np.any([(times > a) & (times < a + d) for a, d, name in events if name == c], axis=0)
        for c in classes
    ]
    counts = [np.sum(np.broadcast_to(i, len(times))) for i in inside]
    labelled = sum(counts)
    return (counts[1] / labelled if labelled else np.nan), labelled / (length * rate)


def test_a_label_is_the_state_of_most_of_the_labelled_seconds():
    events = [(0, 40, "drowsy"), (40, 95, "alert"), (160, 60, "drowsy"), (228, 72, "alert")]
    rows = annotations.render(
        recording(events), WINDOWS, annotations.Options(classes=["drowsy", "alert"])
    )
    assert rows.header["classes"] == ["drowsy", "alert"]
    for label, fact in zip(rows.array, rows.table.itertuples(), strict=True):
        share, labelled = brute_force(events, ["drowsy", "alert"], fact.onset)
        assert fact.score == pytest.approx(share)
        assert label == (-1 if labelled < 0.5 else int(share >= 0.5))
        assert fact.exclude == ("unlabelled" if labelled < 0.5 else "")
    assert {"", "unlabelled"} == set(rows.table["exclude"])


@pytest.mark.parametrize("theta", [0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("min_valid", [0.2, 0.5, 0.9, 1.0])
def test_theta_and_min_valid_are_the_borders_of_a_label(theta, min_valid):
    events = [(0, 31, "drowsy"), (31, 76, "alert"), (115, 11, "alert"), (126, 40, "drowsy"),
              (190, 8, "alert"), (228, 72, "alert")]  # fmt: skip
    options = annotations.Options(classes=["drowsy", "alert"], theta=theta, min_valid=min_valid)
    rows = annotations.render(recording(events), WINDOWS, options)
    for label, fact in zip(rows.array, rows.table.itertuples(), strict=True):
        share, labelled = brute_force(events, ["drowsy", "alert"], fact.onset)
        short = labelled < min_valid - 1e-9
        assert fact.exclude == ("unlabelled" if short else "")
        assert label == (-1 if short else int(share >= theta))


def test_an_event_inside_another_does_not_end_it():
    events = [(0, 20, "alert"), (5, 5, "alert"), (20, 10, "drowsy")]
    options = annotations.Options(classes=["drowsy", "alert"])
    rows = annotations.render(recording(events, 30.0), WINDOWS, options)
    assert rows.table["score"].tolist() == pytest.approx([20 / 30])


@pytest.mark.parametrize(("alert", "excluded"), [(9, ""), (10, "ambiguous"), (20, "ambiguous"),
                                                (21, ""), (22, "")])  # fmt: skip
def test_the_borders_of_the_ambiguous_band_are_not_ambiguous(alert, excluded):
    events = [(0, alert, "alert"), (alert, 30 - alert, "drowsy")]
    options = annotations.Options(classes=["drowsy", "alert"], ambiguous=[0.3, 0.7])
    rows = annotations.render(recording(events, 30.0), WINDOWS, options)
    assert rows.table["exclude"].tolist() == [excluded]
    assert rows.array[0] == (-1 if excluded else int(alert >= 15))


def test_a_window_without_a_labelled_second_has_no_score_and_is_no_ambiguous_one():
    events = [(0, 30, "alert"), (270, 30, "drowsy")]
    options = annotations.Options(classes=["drowsy", "alert"], ambiguous=[0.3, 0.7])
    rows = annotations.render(recording(events), WINDOWS, options)
    at = rows.table["onset"].isin([60.0, 120.0]).to_numpy()
    assert np.isnan(rows.table["score"][at]).all()
    assert set(rows.table["exclude"][at]) == {"unlabelled"}
    assert set(rows.array[at]) == {-1}


@pytest.mark.parametrize("alert", [[(0, 20), (0, 20), (10, 10)], [(0, 10.5), (10, 10)]])
def test_events_that_overlap_count_once(alert):
    events = [*((start, length, "alert") for start, length in alert), (20, 10, "drowsy")]
    options = annotations.Options(classes=["drowsy", "alert"])
    rows = annotations.render(recording(events, 30.0), WINDOWS, options)
    assert rows.table["score"].tolist() == pytest.approx([20 / 30])


def test_ambiguous_windows_are_excluded_and_counted():
    events = [(0, 45, "drowsy"), (45, 255, "alert")]
    options = annotations.Options(classes=["drowsy", "alert"], ambiguous=[0.3, 0.7])
    rows = annotations.render(recording(events), WINDOWS, options)
    assert rows.table["exclude"].tolist().count("ambiguous") == 1
    assert rows.array[rows.table["onset"] == 30].tolist() == [-1]


def test_a_class_is_meant_by_the_events_listed_for_it():
    events = [(0, 150, "Stage:3"), (150, 150, "Stage:4")]
    options = annotations.Options(
        classes=["light", "deep"], events={"light": ["Stage:3"], "deep": ["Stage:4"]}
    )
    rows = annotations.render(recording(events), WINDOWS, options)
    assert rows.array[[0, -1]].tolist() == [0, 1]


def test_three_classes_take_the_largest_share():
    events = [(0, 12, "a"), (12, 10, "b"), (22, 8, "c")]
    rows = annotations.render(
        recording(events, 30.0), WINDOWS, annotations.Options(classes=["c", "b", "a"])
    )
    assert rows.array.tolist() == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["sleep", "wake"]}, r"sub-01/scan-01: no event .*; there is alert, drowsy"),
        ({"classes": ["alert"]}, "needs at least two"),
        ({"classes": ["alert", "drowsy"], "events": {"alrt": []}}, "'alrt' is none of the classes"),
        ({"classes": ["alert", "drowsy", "x"], "ambiguous": [0.3, 0.7]}, "exactly two classes"),
    ],
)
def test_wrong_options_are_named(options, message):
    events = [(0, 100, "alert"), (100, 200, "drowsy")]
    with pytest.raises(InputError, match=message):
        annotations.render(recording(events), WINDOWS, annotations.Options(**options))


def test_the_last_window_that_fits_is_there_although_floats_fall_short():
    """0.7 s over 0.1 s is 6.999999999999999 in doubles."""
    this = Windows(0.3, 0.1)
    np.testing.assert_allclose(this.onsets(recording(duration=1.0)), np.arange(8) / 10)
    assert len(this.onsets(recording(duration=0.29))) == 0
    table = this.table(recording(duration=0.4), support=(0.2, 0.05))
    np.testing.assert_allclose(table["start"], [-0.2, -0.1])
    np.testing.assert_allclose(table["stop"], [0.35, 0.45])


# ---- published labels ---------------------------------------------------------------------


def test_690_units_give_45_windows():
    labels = np.arange(45) % 2
    rows = window_labels.render(
        recording(duration=690.0, labels=labels), WINDOWS, window_labels.Options()
    )
    assert rows.array.tolist() == labels.tolist()
    assert rows.table["onset"].tolist() == [15.0 * i for i in range(45)]


def test_a_missing_label_is_excluded():
    labels = np.array([0, -1, 1, 1])
    rows = window_labels.render(
        recording(duration=75.0, labels=labels), WINDOWS, window_labels.Options()
    )
    assert rows.table["exclude"].tolist() == ["", "unlabelled", "", ""]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "has no label file"),
        (np.zeros(44, int), "44 labels in its label file, but 45 windows"),
        (np.full(45, 2), "label 2, but `classes` names only drowsy, alert"),
    ],
)
def test_wrong_labels_are_named(labels, message):
    with pytest.raises(InputError, match=f"sub-01/scan-01: .*{message}"):
        window_labels.render(
            recording(duration=690.0, labels=labels), WINDOWS, window_labels.Options()
        )


@pytest.mark.parametrize("derived_from", [None, "eeg"])
def test_labels_made_from_a_modality_say_so(derived_from):
    options = window_labels.Options(classes=["a", "b"], derived_from=derived_from)
    rows = window_labels.render(
        recording(duration=75.0, labels=np.array([0, 1, 1, 0])), WINDOWS, options
    )
    assert rows.header.get("derived_from") == derived_from
    assert rows.header["classes"] == ["a", "b"]


# ---- pictures -----------------------------------------------------------------------------


def test_a_window_is_the_whole_height_and_its_own_seconds():
    pixels = np.zeros((57, 2070, 3), np.uint8)
    pixels[..., 0] = np.arange(2070)[None] // 9
    pixels[..., 1] = np.arange(57)[:, None]
    this = recording(duration=690.0, pictures={"eeg": {"eeg": Picture(pixels, 1 / 3)}})
    rows = picture.render(this, WINDOWS, picture.Options())
    assert rows.array.shape == (45, 57, 90, 3)
    assert rows.header["seconds_per_column"] == 1 / 3
    for i in (0, 7, 44):
        np.testing.assert_array_equal(rows.array[i], pixels[:, 45 * i : 45 * i + 90])


def test_regions_are_taken_by_name_whatever_their_order():
    red, blue = np.zeros((2, 4, 90, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    there = {"blue": Picture(blue, 1 / 3), "red": Picture(red, 1 / 3)}
    this = recording(duration=30.0, pictures={"fmri": there})
    options = picture.Options(modality="fmri", regions=["red", "blue"])
    rows = picture.render(this, WINDOWS, options)
    assert rows.array.shape == (1, 2, 4, 90, 3)
    assert rows.array[0, 0, 0, 0].tolist() == [255, 0, 0]
    with pytest.raises(InputError, match="no fmri picture rd; there is blue, red"):
        picture.render(this, WINDOWS, picture.Options(modality="fmri", regions=["rd"]))


def test_a_window_that_is_no_whole_pixel_is_refused():
    this = recording(
        duration=690.0, pictures={"eeg": {"eeg": Picture(np.zeros((5, 2070, 3), "u1"), 1 / 3)}}
    )
    with pytest.raises(InputError, match=r"length of a window is 60\.3 pixels"):
        picture.render(this, Windows(20.1, 15), picture.Options())
