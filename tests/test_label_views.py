"""Labels and pictures of windows against rules written out second by second."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from engram.errors import InputError
from engram.recording import Picture, Recording, Signal, Windows
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


# ---- events without duration ----------------------------------------------------------------

MARKERS = [(0, 0, "drowsy"), (75, 0, "alert"), (160, 0, "drowsy"), (228, 0, "alert")]
STAYS = [(0, 75, "drowsy"), (75, 85, "alert"), (160, 68, "drowsy"), (228, 72, "alert")]


def labels(events, /, seconds=300.0, windows=WINDOWS, rate=None, **options):
    options = {"classes": ["drowsy", "alert"], "min_valid": 1.0} | options
    signals = {}
    if rate:
        data = np.zeros((1, round(seconds * rate)), np.float32)
        signals["eeg"] = Signal(data, rate, ("Oz",), "uV")
    this = recording(events, seconds, signals=signals)
    return annotations.render(this, windows, annotations.Options(**options))


def same(one, other):
    np.testing.assert_array_equal(one.array, other.array)
    assert one.table["exclude"].tolist() == other.table["exclude"].tolist()
    np.testing.assert_allclose(one.table["score"], other.table["score"], atol=1e-9)


@pytest.mark.parametrize(
    "events",
    [
        MARKERS,
        MARKERS[::-1],
        [*MARKERS, (30, 0, "blink"), (100, 20, "noise"), (200, 0, "stop")],
        [*MARKERS, (20, 0, "drowsy"), (75, 0, "alert")],
        [*MARKERS, (300, 0, "drowsy"), (400, 0, "alert")],
        [MARKERS[0], STAYS[1], *MARKERS[2:]],
        [(onset, np.nan, name) for onset, _, name in MARKERS],
    ],
    ids=["sorted", "unsorted", "others between", "repeated", "beyond", "mixed", "missing"],
)
def test_an_event_without_duration_lasts_until_the_next_that_means_a_class(events):
    same(labels(events, duration="until_next"), labels(STAYS))


def test_what_an_event_means_and_what_ends_it_are_told_by_descriptions():
    events = [(0, 0, "S  1"), (75, 0, "S  2"), (150, 0, "S  9"), (180, 0, "S  1")]
    means = {"drowsy": ["S  1"], "alert": ["S  2", "S  3"]}
    stays = [(0, 75, "drowsy"), (75, 75, "alert"), (180, 120, "drowsy")]
    found = labels(events, duration="until_next", events=means, ends=["S  9", "S 10"])
    same(found, labels(stays))
    stays[1] = (75, 105, "alert")
    same(labels(events, duration="until_next", events=means), labels(stays))


def test_an_event_with_a_duration_keeps_it():
    events = [(0, 0, "drowsy"), (75, 20, "alert"), (160, 0, "drowsy")]
    stays = [(0, 75, "drowsy"), (75, 20, "alert"), (160, 140, "drowsy")]
    same(labels(events, duration="until_next"), labels(stays))


def test_events_without_duration_may_last_some_seconds_each():
    stays = [(0, 50, "drowsy"), (75, 50, "alert"), (160, 50, "drowsy"), (228, 50, "alert")]
    same(labels(MARKERS, duration=50), labels(stays))
    same(labels([*MARKERS[:2], *stays[2:]], duration=50.0), labels(stays))


def test_a_second_that_two_classes_claim_has_none():
    events = [(0, 40, "drowsy"), (20, 100, "alert"), (90, 60, "drowsy"), (150, 150, "alert")]
    clear = [(0, 20, "drowsy"), (40, 50, "alert"), (120, 30, "drowsy"), (150, 150, "alert")]
    for min_valid in (0.3, 0.5, 1.0):
        same(labels(events, min_valid=min_valid), labels(clear, min_valid=min_valid))
    with pytest.raises(InputError, match="no second of a window has one class alone"):
        labels([(0, 300, "drowsy"), (0, 300, "alert")])


def test_a_window_without_a_label_is_out_even_if_none_has_to_be_there():
    rows = labels([(0, 30, "drowsy"), (270, 30, "alert")], min_valid=0.0)
    assert rows.table["exclude"].tolist() == ["", ""] + ["unlabelled"] * 15 + ["", ""]
    assert rows.array.tolist() == [0, 0] + [-1] * 15 + [1, 1]


@pytest.mark.parametrize(
    ("events", "options", "message"),
    [
        (MARKERS, {}, "4 of 4 events have no duration, first 'drowsy' at 0 s.*`until_next`"),
        ([*STAYS[:3], MARKERS[3]], {}, "1 of 4 events have no duration, first 'alert' at 228 s"),
        (
            [*MARKERS, (75, 0, "drowsy")],
            {"duration": "until_next"},
            "events of two classes without duration begin at 75 s",
        ),
        ([(1000 * a, 0, name) for a, _, name in MARKERS], {"duration": "until_next"},
         r"3 of 4 events begin after its end, first at 75000 s of 300 s.*seconds"),
        ([(0, 9, "Drowsy"), (9, 9, "alert")], {}, "no event 'drowsy', but 'Drowsy'; write both"),
        ([(0, 9, "0.0"), (9, 9, "1.0")], {"classes": ["0", "1"]}, "no event '0', but '0.0'"),
        ([(0, 9, "eyes  shut"), (9, 9, "b")], {"classes": ["eyes shut", "b"]},
         "no event 'eyes shut', but 'eyes  shut'"),
    ],
)  # fmt: skip
def test_events_that_say_too_little_are_refused(events, options, message):
    with pytest.raises(InputError, match=f"sub-01/scan-01: {message}"):
        labels(events, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": 0}, "duration: 0 is no length"),
        ({"duration": float("inf")}, "duration: inf is no length"),
        ({"ends": ["x"]}, "ends: has a meaning under"),
        ({"events": {"drowsy": ["alert"]}}, "'alert' stands there twice"),
        ({"classes": ["alert", "drowsy", "alert"]}, "'alert' stands there twice"),
    ],
)
def test_options_of_durations_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        labels(STAYS, **options)


# ---- rounding ---------------------------------------------------------------------------------


def exact(events, classes, onset, length):
    """Seconds of each class alone in a window, as fractions."""
    within = [(max(a, onset), min(a + d, onset + length), name) for a, d, name in events]
    edges = sorted({onset, onset + length} | {t for a, b, _ in within if a < b for t in (a, b)})
    seconds = dict.fromkeys(classes, Fraction(0))
    for a, b in pairwise(edges):
        here = {name for c, d, name in within if c <= a and b <= d}
        if len(here) == 1:
            seconds[here.pop()] += b - a
    return [seconds[name] for name in classes]


def stays(rng, seconds, gaps=False):
    """Events whose ends are thirds, sevenths or 128ths of a second, one after the other."""
    at, events = Fraction(0), []
    while at < seconds:
        length = Fraction(int(rng.integers(1, 150)), int(rng.choice([3, 7, 128])))
        length = min(length, seconds - at)
        if not (gaps and rng.random() < 0.3):
            events.append((at, length, ["drowsy", "alert", "asleep"][rng.integers(3)]))
        at += length
    return events


ROUNDED = {
    "floats": float,
    "microseconds": lambda t: round(float(t), 6),
    "milliseconds": lambda t: round(float(t), 3),
    "samples": lambda t: round(t * 128) / 128,
    "down to samples": lambda t: int(t * 128) / 128,
}


@pytest.mark.parametrize("rounded", ROUNDED)
@pytest.mark.parametrize("length", [1, 2, 5, 20])
def test_a_window_that_is_labelled_throughout_is_not_lost_to_rounding(rounded, length):
    rng, off = np.random.default_rng(length), ROUNDED[rounded]
    for classes in (["drowsy", "alert", "asleep"], ["asleep", "drowsy", "alert"]):
        events = stays(rng, 120)
        rows = labels(
            [(off(a), off(d), name) for a, d, name in events],
            120.0, Windows(length, length / 2), 128, classes=classes,
        )  # fmt: skip
        assert set(rows.table["exclude"]) == {""}
        for label, onset in zip(rows.array, rows.table["onset"], strict=True):
            seconds = exact(events, classes, Fraction(onset), length)
            assert seconds[label] >= max(seconds) - Fraction(length, 10)
            if sum(s >= max(seconds) - Fraction(length, 10) for s in seconds) == 1:
                assert label == seconds.index(max(seconds))


def test_a_window_with_a_gap_is_left_out_and_no_other():
    rng = np.random.default_rng(0)
    for length, min_valid in [(1, 1.0), (5, 0.9), (10, 0.5)]:
        events = stays(rng, 120, gaps=True)
        classes = ["drowsy", "alert", "asleep"]
        rows = labels(
            [(float(a), float(d), name) for a, d, name in events],
            120.0, Windows(length, 0.5), 1000, classes=classes, min_valid=min_valid,
        )  # fmt: skip
        out = []
        for onset in rows.table["onset"]:
            known = sum(exact(events, classes, Fraction(onset), length))
            out.append(known == 0 or known < Fraction(min_valid) * length - Fraction(1, 1000))
        assert (rows.table["exclude"] == "unlabelled").tolist() == out
        assert 0 < sum(out) < len(out)


@pytest.mark.parametrize("off", [-7e-3, -1e-3, -1e-6, 0.0, 1e-6, 1e-3, 7e-3])
def test_a_border_that_is_met_but_for_rounding_is_met(off):
    events = [(0, 15 + off, "drowsy"), (15 + off, 15 - off, "alert")]
    assert labels(events, 30.0, rate=128).array.tolist() == [1]
    assert labels(events, 30.0, rate=128, ambiguous=[0.5, 0.9]).array.tolist() == [1]
    events = [(0, 15 - off, "drowsy"), (25, 5, "blink")]
    assert labels(events, 30.0, rate=128, min_valid=0.5).array.tolist() == [0]


def test_a_gap_of_more_than_rounding_is_one():
    """A sample is 8 ms at 128 Hz; slow signals do not make it longer than 20 ms."""
    for rate, gap, reason in [(128, 0.007, ""), (128, 0.009, "unlabelled"), (None, 0.001, ""),
                              (None, 0.002, "unlabelled"), (0.5, 0.03, "unlabelled")]:  # fmt: skip
        events = [(0, 20 - gap, "drowsy"), (20, 10, "alert")]
        assert labels(events, 30.0, rate=rate).table["exclude"].tolist() == [reason]
        events = [(gap, 30 - gap, "drowsy")]
        assert labels(events, 30.0, rate=rate).table["exclude"].tolist() == [reason]


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
