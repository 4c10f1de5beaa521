"""Every rule that makes a window unusable, on signals built to break it."""

import numpy as np
import pytest

from engram.errors import InputError
from engram.recording import Signal
from engram.signals.quality import check_channels, flagged, reasons

SFREQ = 100.0


def eeg(*shape):
    return np.random.default_rng(3).normal(0, 10, shape)


def by_brute_force(data, starts, length, flat, amplitude, jump, piece):
    """The same rules, window by window and sample by sample."""
    size, piece = round(length * SFREQ), round(piece * SFREQ)
    rest = max(4, round(0.02 * SFREQ))
    found = []
    for start in starts:
        first = round(start * SFREQ)
        if first < 0 or first + size > data.shape[1]:
            found.append("outside recording")
            continue
        window = data[:, first : first + size]
        clean = np.nan_to_num(window, posinf=0, neginf=0)
        whole = np.nan_to_num(data, posinf=0, neginf=0)
        pieces = [clean[:, i : i + piece] for i in range(size - piece + 1)]
        spans = np.array([np.ptp(p, axis=1) for p in pieces])
        rests = [
            (clean[c, i : i + rest] == extreme).all()
            for c in range(len(data))
            for extreme in (whole[c].min(), whole[c].max())
            for i in range(size - rest + 1)
        ]
        rules = {
            "not finite": not np.isfinite(window).all(),
            "flat": (spans <= flat).any(),
            "clipped": any(rests),
            "amplitude": (spans > amplitude).any(),
            "jump": (np.abs(np.diff(clean)) > jump).any(),
        }
        found.append(next((rule for rule, broken in rules.items() if broken), ""))
    return found


def broken():
    """Two channels, 60 s, one fault every ten seconds, some at the edge of a window."""
    x = eeg(2, 6000)
    x[0, 999] = np.nan
    x[1, 1500:1600] = 4.2
    x[0, 2700] = x[0, 2701] = 140
    x[1, 3480:3520] += 400 * np.hanning(40)
    x[0, 4400:4410] = 90
    x[0, 4700:4702] = 90
    x[1, 5900] = -np.inf
    return x


@pytest.mark.parametrize("length", [2.0, 5.0])
def test_the_rules_are_what_a_loop_over_samples_finds(length):
    x, starts = broken(), np.arange(-1, 60, 0.37)
    x[0] = np.minimum(x[0], 90)
    limits = {"flat": 0.5, "amplitude": 300.0, "jump": 95.0, "piece": 1.0}
    seen = reasons(x, SFREQ, starts, length, **limits)
    assert seen == by_brute_force(x, starts, length, **limits)
    assert {*seen} == {
        "", "outside recording", "not finite", "flat", "clipped", "amplitude", "jump",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda x: None, ""),
        (lambda x: x.__setitem__(250, np.nan), "not finite"),
        (lambda x: x.__setitem__(slice(200, 300), 1.0), "flat"),
        (lambda x: x.__setitem__(slice(200, 299), 1.0), ""),
        (lambda x: x.__setitem__(slice(200, 204), 60.0), "clipped"),
        (lambda x: x.__setitem__(slice(200, 204), -60.0), "clipped"),
        (lambda x: x.__setitem__(slice(200, 203), 60.0), ""),
        (lambda x: x.__iadd__(1000 * np.sin(np.arange(1000) / 16)), "amplitude"),
        (lambda x: x.__iadd__(1000 * np.sin(np.arange(1000) / 16 / 20)), ""),
        (lambda x: x.__setitem__(250, 140.0), "jump"),
    ],
)
def test_one_fault_gives_its_reason(fault, expected):
    x = eeg(1000)
    x[0], x[1] = 59, -59  # the extremes of the recording
    fault(x)
    assert reasons(x, SFREQ, [1.0], 8.0) == [expected]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, ""),
        ({"amplitude": 299.0}, "amplitude"),
        ({"jump": 99.0}, "jump"),
        ({"flat": 299.0}, ""),
        ({"flat": 300.0}, "flat"),
    ],
)
def test_what_reaches_a_limit_is_flat_but_neither_large_nor_a_jump(limits, expected):
    x = np.tile([0.0, 100, 200, 300, 200, 100], 200)
    assert reasons(x, SFREQ, [1.0], 8.0, **{"amplitude": 300.0, "jump": 100.0} | limits) == [
        expected
    ]


def test_pieces_shorter_than_a_rest_are_not_clipped():
    """Of 2 samples: a rest has 4."""
    x = np.array([3.0, 1, 5, 5, 5, 5, 5, 2, 0, 4])
    found = reasons(x, 0.5, [0.0, 4.0], 4.0, flat=-1, piece=None)
    assert found == ["", ""]


def test_a_window_is_left_out_when_more_than_a_share_of_its_channels_is_bad():
    """Against counting; of two groups one with too many is enough."""
    x, rng = eeg(8, 3000), np.random.default_rng(5)
    hits = np.zeros((8, 3), bool)
    for window, many in enumerate((1, 2, 3)):
        for channel in rng.permutation(8)[:many]:
            x[channel, 1000 * window + 500] = 200
            hits[channel, window] = True
    starts = [0.0, 10.0, 20.0]
    flags = flagged(x, SFREQ, starts, 9.99)
    np.testing.assert_array_equal(flags["jump"], hits)
    for share in (0.0, 0.125, 0.25, 0.3, 0.5):
        expected = np.where(hits.sum(0) > share * 8, "jump", "").tolist()
        assert reasons(x, SFREQ, starts, 9.99, share=share) == expected
    groups = [[0, 1, 2, 3], [4, 5, 6, 7]]
    expected = [any(hits[g, w].sum() > 0.25 * 4 for g in groups) for w in range(3)]
    found = reasons(x, SFREQ, starts, 9.99, share=0.25, groups=groups)
    assert [one != "" for one in found] == expected


def test_a_fault_counts_only_where_it_is():
    x = eeg(2, 6000)
    x[1, 3000] = np.nan
    assert reasons(x, SFREQ, [20.0, 20.01, 30.0, 30.01], 10.0) == [
        "", "not finite", "not finite", "",
    ]  # fmt: skip


def test_the_ends_of_a_recording_belong_to_it():
    x = eeg(1000)
    assert reasons(x, SFREQ, [-0.01, 0.0, 5.0, 5.01], 5.0) == [
        "outside recording", "", "", "outside recording",
    ]  # fmt: skip
    assert reasons(x, SFREQ, [0.0], 10.01) == ["outside recording"]


def test_a_slow_signal_is_judged_by_its_whole_window():
    slow = np.concatenate([np.zeros(30), eeg(30)]) + 1e4
    assert reasons(slow, 1 / 2.1, [0.0, 21.0], 63.0, flat=0, piece=None) == ["flat", ""]


def test_a_channel_that_carries_nothing_is_named():
    data = eeg(3, 100)
    check_channels(Signal(data, SFREQ, ("Cz", "O1", "O2"), "uV"), "sub-01/scan-01")
    data[1] = 7
    with pytest.raises(InputError, match=r"sub-01/scan-01: channel 'O1' is flat.* 7 uV"):
        check_channels(Signal(data, SFREQ, ("Cz", "O1", "O2"), "uV"), "sub-01/scan-01")
    data[1] = np.nan
    with pytest.raises(InputError, match=r"'O1' holds no finite value"):
        check_channels(Signal(data, SFREQ, ("Cz", "O1", "O2"), "uV"), "sub-01/scan-01")
