"""Folds against brute force; every kind of leak, planted, is refused."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from engram import splits
from engram.errors import InputError

WAYS = (
    "leave_one_subject_out",
    {"kind": "group_kfold", "n": 3},
    {"kind": "blocked", "n": 4},
    {"kind": "random_windows", "n": 5},
)


def rows(subjects=6, scans=2, windows=40, length=30.0, step=15.0, support=0.0):
    """Table of windows that overlap by half, in an order that says nothing."""
    names = [
        (f"sub-{s:02d}", f"scan-{c}", w)
        for s in range(subjects)
        for c in range(scans)
        for w in range(windows)
    ]
    table = pd.DataFrame(names, columns=["subject", "scan", "window"])
    table["start"] = table["window"] * step - support
    table["stop"] = table["window"] * step + length + support
    table.index = [f"{s}/{c}/window-{w:04d}" for s, c, w in names]
    return table.sample(frac=1, random_state=3)


def series(table, seed=0):
    """Two classes that take turns within each scan."""
    rng = np.random.default_rng(seed)
    scan = table.groupby(["subject", "scan"]).ngroup()
    at = rng.integers(20, size=len(table))[scan]
    return ((table["window"].to_numpy() + at) // 10) % 2


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_folds_test_each_row_once_and_pass_the_check(how):
    table = rows()
    y = series(table)
    folds = splits.make(table, y, how, seed=0)
    splits.check(folds, table, y, how)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(table)))
    for fold in folds:
        sides = [set(fold.train), set(fold.validation), set(fold.test)]
        assert all(sides)
        assert sum(map(len, sides)) == len(set.union(*sides))


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_of_a_published_split_each_side_takes_its_own_part_and_loses_nothing_else(how):
    table = rows()
    plain = splits.make(table, series(table), how, seed=0)
    part = np.where(np.random.default_rng(0).random(len(table)) < 0.3, "test", "train")
    folds = splits.make(table.assign(split=part), series(table), how, seed=0)
    for fold, whole in zip(folds, plain, strict=True):
        for side, own in (("train", "train"), ("validation", "train"), ("test", "test")):
            expected = [row for row in getattr(whole, side) if part[row] == own]
            assert [*getattr(fold, side)] == expected


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_same_seed_gives_the_same_folds(how):
    table = rows()
    y = series(table)
    one, two = (splits.make(table, y, how, seed=4) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert a.name == b.name
        for side in ("train", "validation", "test"):
            np.testing.assert_array_equal(getattr(a, side), getattr(b, side))


def test_leave_one_subject_out_keeps_subjects_apart_inside_too():
    table = rows(subjects=10)
    folds = splits.make(table, series(table), "leave_one_subject_out", seed=0)
    assert [fold.name for fold in folds] == sorted(set(table.subject))
    for fold in folds:
        train, inner, test = (
            set(table.subject.iloc[side]) for side in (fold.train, fold.validation, fold.test)
        )
        assert test == {fold.name}
        assert not train & inner
        assert not (train | inner) & test
        assert len(inner) == 2
        assert train | inner | test == set(table.subject)


def test_groups_are_of_even_size():
    table = rows(subjects=8)
    folds = splits.make(table, series(table), {"kind": "group_kfold", "n": 3}, seed=1)
    sizes = sorted(table.subject.iloc[fold.test].nunique() for fold in folds)
    assert sizes == [2, 3, 3]


@pytest.mark.parametrize("seed", range(30))
def test_validation_holds_every_class_if_any_choice_of_subjects_can(seed):
    rng = np.random.default_rng(seed)
    table = rows(subjects=6, scans=1, windows=8)
    subject = table.subject.to_numpy()
    y = rng.integers(0, 3, len(table))
    for name in rng.permutation(sorted(set(subject)))[: rng.integers(0, 6)]:
        y[subject == name] = rng.integers(0, 3)
    for fold in splits.make(table, y, "leave_one_subject_out", seed=seed):
        others = sorted(set(subject) - {fold.name})
        present = set(y[subject != fold.name])

        def covers(inner, y=y, others=others, present=present):
            rest = [s for s in others if s not in inner]
            return all(set(y[np.isin(subject, side)]) == present for side in (inner, rest))

        possible = any(
            covers(list(inner)) for k in range(1, len(others)) for inner in combinations(others, k)
        )
        assert possible == covers(sorted(set(subject[fold.validation])))


def test_no_more_subjects_validate_than_wanted_if_one_of_them_holds_every_class():
    table = rows(subjects=7, scans=1)
    y = series(table)
    y[table.subject.isin(["sub-00", "sub-03"])] = 1
    y[table.subject.isin(["sub-02", "sub-05"])] = 0
    for seed in range(10):
        for fold in splits.make(table, y, "leave_one_subject_out", seed=seed):
            assert table.subject.iloc[fold.validation].nunique() == 1


def test_too_few_subjects_are_named_with_a_remedy():
    table = rows(subjects=2)
    with pytest.raises(InputError, match=r"2 subjects.*at least 3.*blocked"):
        splits.make(table, series(table), "leave_one_subject_out", seed=0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "group_kfold", "n": 7}, "7 folds, but 6 subjects"),
        ({"kind": "blocked", "n": 2}, "at least 3"),
        ({"kind": "blocked", "n": 1}, "at least 2"),
        ("leave_one_out", "no way to split 'leave_one_out'"),
    ],
)
def test_impossible_ways_are_refused(how, message):
    table = rows()
    with pytest.raises(InputError, match=message):
        splits.make(table, series(table), how, seed=0)


def overlap(rows, a, b):
    """Whether two rows, of those of a table, share seconds of one scan, from the definition."""
    one, two = rows[a], rows[b]
    same = (one.subject, one.scan) == (two.subject, two.scan)
    return same and min(one.stop, two.stop) - max(one.start, two.start) > 1e-6


@pytest.mark.parametrize("support", [0.0, 22.0])
@pytest.mark.parametrize("n", [3, 5])
def test_blocks_drop_just_the_rows_that_share_seconds(support, n):
    table = rows(subjects=2, scans=1, windows=14 * n, support=support)
    y = np.tile([0, 1], len(table) // 2)
    facts = list(table.itertuples())
    for fold in splits.make(table, y, {"kind": "blocked", "n": n}, seed=0):
        assert len(fold.train)
        assert not any(overlap(facts, a, b) for a in fold.train for b in fold.test)
        assert not any(overlap(facts, a, b) for a in fold.train for b in fold.validation)
        assert not any(overlap(facts, a, b) for a in fold.validation for b in fold.test)
        kept = set(fold.train) | set(fold.validation) | set(fold.test)
        for dropped in set(range(len(table))) - kept:
            held_out = [*fold.test, *fold.validation]
            assert any(overlap(facts, dropped, other) for other in held_out)
        for name in set(table.subject):
            windows = np.sort(
                table["window"].iloc[fold.test][table.subject.iloc[fold.test] == name]
            )
            np.testing.assert_array_equal(np.diff(windows), 1)
            assert len(windows) == 14


@pytest.mark.parametrize("n", [4, 5, 6])
def test_the_block_that_validates_is_far_from_the_one_that_tests(n):
    table = rows(subjects=1, scans=1, windows=10 * n)
    for fold in splits.make(table, series(table), {"kind": "blocked", "n": n}, seed=0):
        window = table["window"].to_numpy()
        between = np.abs(window[fold.validation][:, None] - window[fold.test])
        assert between.min() > 10


def test_random_windows_leak_neighbours():
    table = rows()
    facts = list(table.itertuples())
    fold = splits.make(table, series(table), {"kind": "random_windows", "n": 5}, seed=0)[0]
    assert len(fold.test) == len(table) // 5
    assert len(fold.validation) / (len(fold.train) + len(fold.validation)) == pytest.approx(
        0.22, abs=0.01
    )
    assert any(overlap(facts, a, b) for a in fold.train for b in fold.test[:5])


@pytest.mark.parametrize("side", ["train", "validation"])
def test_check_refuses_a_subject_on_two_sides(side):
    table = rows()
    y = series(table)
    folds = splits.make(table, y, "leave_one_subject_out", seed=0)
    moved, kept = np.split(folds[0].test, [1])
    folds[0] = replace(folds[0], test=kept, **{side: np.append(getattr(folds[0], side), moved)})
    with pytest.raises(InputError, match=f"subject sub-00 in both {side} and test"):
        splits.check(folds, table, y, "leave_one_subject_out")


def test_check_refuses_a_subject_in_train_and_validation():
    table = rows()
    y = series(table)
    folds = splits.make(table, y, "leave_one_subject_out", seed=0)
    moved, kept = np.split(folds[2].validation, [1])
    folds[2] = replace(folds[2], validation=kept, train=np.append(folds[2].train, moved))
    with pytest.raises(InputError, match="in both train and validation"):
        splits.check(folds, table, y, "leave_one_subject_out")


def test_check_refuses_shared_seconds_and_rows():
    table = rows()
    y = series(table)
    how = {"kind": "blocked", "n": 4}
    folds = splits.make(table, y, how, seed=0)
    dropped = np.setdiff1d(
        np.arange(len(table)),
        np.concatenate([folds[0].train, folds[0].validation, folds[0].test]),
    )
    leaky = [replace(folds[0], train=np.append(folds[0].train, dropped)), *folds[1:]]
    with pytest.raises(InputError, match="seconds of row sub-.* in both train and"):
        splits.check(leaky, table, y, how)
    twice = [replace(folds[0], train=np.append(folds[0].train, folds[0].test[0])), *folds[1:]]
    with pytest.raises(InputError, match="row sub-.* in both train and test"):
        splits.check(twice, table, y, "random_windows")


def test_check_refuses_rows_tested_twice_or_never_and_empty_sides():
    table = rows()
    y = series(table)
    folds = splits.make(table, y, "leave_one_subject_out", seed=0)
    with pytest.raises(InputError, match="tested 0 times"):
        splits.check(folds[1:], table, y, "leave_one_subject_out")
    with pytest.raises(InputError, match="tested 2 times"):
        splits.check([*folds, folds[0]], table, y, "leave_one_subject_out")
    empty = [replace(folds[0], validation=np.array([], int)), *folds[1:]]
    with pytest.raises(InputError, match="fold sub-00: no validation rows"):
        splits.check(empty, table, y, "leave_one_subject_out")


def test_constant_subjects_work_where_training_has_both_classes_and_are_refused_where_not():
    table = rows(subjects=4)
    y = (table.subject.to_numpy() >= "sub-02").astype(int)
    with pytest.raises(InputError, match="fold sub-00: no training row of class drowsy"):
        splits.check(
            splits.make(table, (table.subject.to_numpy() > "sub-00").astype(int), WAYS[0], seed=0),
            table, (table.subject.to_numpy() > "sub-00").astype(int), WAYS[0],
            ["drowsy", "alert"],
        )  # fmt: skip
    folds = splits.make(table, y, "leave_one_subject_out", seed=0)
    splits.check(folds, table, y, "leave_one_subject_out")
    for fold in folds:
        assert set(y[fold.train]) == {0, 1}


def test_a_class_that_validation_alone_holds_is_missing_in_training():
    table = rows(subjects=3, scans=1, windows=6)
    subject = table.subject.to_numpy()
    one, two, three = (np.flatnonzero(subject == name) for name in sorted(set(subject)))
    folds = [splits.Fold("0", three, two, one), splits.Fold("1", three, one, two)]
    folds.append(splits.Fold("2", two, one, three))
    with pytest.raises(InputError, match="fold 0: no training row of class 1"):
        splits.check(folds, table, (subject == "sub-01").astype(int), "leave_one_subject_out")


def test_shift_rolls_each_scan_by_a_tenth_at_least():
    table = rows(subjects=2, windows=40)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, len(table))
    order = np.lexsort((table["window"], table["scan"], table["subject"]))
    series = y[order].reshape(-1, 40)
    found = set()
    for _ in range(100):
        moved = splits.circular_shift(y, table, rng)[order].reshape(-1, 40)
        for before, after in zip(series, moved, strict=True):
            by = [k for k in range(40) if (np.roll(before, k) == after).all()]
            assert len(by) == 1
            found.update(by)
    assert found == set(range(4, 37))


def test_shift_permutes_scans_whose_label_is_constant():
    table = rows(subjects=6, scans=2)
    y = (table.scan == sorted(set(table.scan))[0]).to_numpy(int)
    seen = set()
    for seed in range(30):
        moved = splits.circular_shift(y, table, np.random.default_rng(seed))
        of_scan = table.assign(moved=moved).groupby(["subject", "scan"])["moved"]
        assert (of_scan.nunique() == 1).all()
        assert of_scan.first().sum() == 6
        seen.add(tuple(of_scan.first()))
    assert len(seen) > 25


@pytest.mark.parametrize("dtype", [int, float])
def test_shift_permutes_subjects_whose_label_is_constant_and_keeps_their_scans_alike(dtype):
    table = rows(subjects=6, scans=2)
    subject = table.subject.factorize(sort=True)[0]
    y = (subject * 1.5).astype(dtype)
    seen = set()
    for seed in range(30):
        moved = splits.circular_shift(y, table, np.random.default_rng(seed))
        assert moved.dtype == y.dtype
        of_subject = table.assign(moved=moved).groupby("subject")["moved"]
        assert (of_subject.nunique() == 1).all()
        assert sorted(of_subject.first()) == sorted(set(y))
        seen.add(tuple(of_subject.first()))
    assert len(seen) > 25


def test_groups_of_subjects_share_out_those_with_the_same_classes():
    """Ten of 31 subjects have another class than the others, and each only its own."""
    table = rows(subjects=31, scans=1, windows=4)
    y = (table.subject.factorize()[0] % 7 < 2).astype(int)
    several = set()
    for seed in range(5):
        folds = splits.make(table, y, {"kind": "group_kfold", "n": 4}, seed=seed)
        of_fold = [table.assign(y=y).iloc[f.test].groupby("subject")["y"].first() for f in folds]
        assert {int(one.sum()) for one in of_fold} <= {2, 3}
        assert {len(one) for one in of_fold} == {7, 8}
        several.add(tuple(of_fold[0].index))
    assert len(several) == 5


def test_shift_follows_the_windows_and_not_the_order_of_rows():
    table = rows()
    y = series(table)
    order = np.random.default_rng(1).permutation(len(table))
    one = splits.circular_shift(y, table, np.random.default_rng(5))
    two = splits.circular_shift(y[order], table.iloc[order], np.random.default_rng(5))
    np.testing.assert_array_equal(one[order], two)
    assert (one != y).any()


def test_the_control_is_as_unrelated_to_the_labels_as_a_shift_can_be():
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "subject": np.repeat(["a", "b", "c", "d"], 45),
            "scan": "one",
            "window": np.tile(np.arange(45), 4),
        }
    )
    y = np.concatenate([np.cumsum(rng.uniform(size=45) < 0.1) % 2 for _ in range(4)])
    moved = splits.control(y, table, np.random.default_rng(0))
    for start in range(0, 180, 45):
        rows = slice(start, start + 45)
        assert np.bincount(moved[rows]).tolist() == np.bincount(y[rows]).tolist()
        related = [abs(np.corrcoef(np.roll(y[rows], s), y[rows])[0, 1]) for s in range(4, 42)]
        assert abs(np.corrcoef(moved[rows], y[rows])[0, 1]) == pytest.approx(min(related))


def test_of_the_shifts_that_are_allowed_the_control_takes_the_least_related():
    """Labels that change at once, whose best shift is anywhere, by brute force."""
    rng = np.random.default_rng(4)
    names = [(f"sub-{s:02d}", "one", w) for s in range(40) for w in range(30)]
    table = pd.DataFrame(names, columns=["subject", "scan", "window"])
    y = (rng.random(1200) < 0.3).astype(int)
    moved = splits.control(y, table, np.random.default_rng(0))
    used = set()
    for before, after in zip(y.reshape(40, 30), moved.reshape(40, 30), strict=True):
        share = before.mean()
        unrelated = 30 * (share**2 + (1 - share) ** 2)
        away = {s: abs((np.roll(before, s) == before).sum() - unrelated) for s in range(3, 28)}
        shift = [s for s in away if (np.roll(before, s) == after).all()]
        assert len(shift) == 1
        used.update(shift)
        assert away[shift[0]] == pytest.approx(min(away.values()))
    assert {min(used), max(used)} <= {*range(3, 28)}
    assert {3, 27} & used


def test_shifts_that_are_as_unrelated_are_drawn():
    names = [("a", "one", w) for w in range(40)]
    table = pd.DataFrame(names, columns=["subject", "scan", "window"])
    y = np.arange(40) // 4 % 2
    found = {tuple(splits.control(y, table, np.random.default_rng(seed))) for seed in range(20)}
    assert len(found) == 2  # ahead or behind by half a block


def test_the_control_permutes_scans_whose_label_is_constant():
    table = rows(subjects=6, scans=2, windows=10)
    y = (table.subject.to_numpy() >= "sub-02").astype(int)
    seen = set()
    for seed in range(20):
        moved = splits.control(y, table, np.random.default_rng(seed))
        of_scan = table.assign(moved=moved).groupby(["subject", "scan"])["moved"]
        assert (of_scan.nunique() == 1).all()
        assert of_scan.first().sum() == 8
        seen.add(tuple(of_scan.first()))
    assert len(seen) > 10


@pytest.mark.parametrize("length", [15.3, 30.5])
def test_blocks_drop_rows_that_share_half_a_second(length):
    table = rows(subjects=1, scans=2, windows=20, length=length)
    facts = list(table.itertuples())
    y = series(table)
    how = {"kind": "blocked", "n": 4}
    folds = splits.make(table, y, how, seed=0)
    for fold in folds:
        assert not any(overlap(facts, a, b) for a in fold.train for b in fold.test)
        assert not any(overlap(facts, a, b) for a in fold.validation for b in fold.test)
        assert not any(overlap(facts, a, b) for a in fold.train for b in fold.validation)
    used = np.concatenate([folds[0].train, folds[0].validation, folds[0].test])
    neighbours = np.setdiff1d(np.arange(len(table)), used)
    assert len(neighbours)
    leaky = [replace(folds[0], train=np.append(folds[0].train, neighbours)), *folds[1:]]
    with pytest.raises(InputError, match="seconds of row"):
        splits.check(leaky, table, y, how)


@pytest.mark.parametrize("length", [15.0, 0.1])  # multiples of 0.1 are rounded
def test_blocks_that_only_touch_lose_no_row(length):
    table = rows(subjects=2, scans=1, windows=20, length=length, step=length)
    for fold in splits.make(table, series(table), {"kind": "blocked", "n": 4}, seed=0):
        assert len(fold.train) + len(fold.validation) + len(fold.test) == len(table)


def test_a_long_row_reaches_over_those_that_follow_it():
    """Support is compared with the furthest end so far, not with that of the last start."""
    table = rows(subjects=1, scans=1, windows=12, length=10.0).sort_values("window")
    facts = list(table.itertuples())
    table.iloc[0, table.columns.get_loc("stop")] = 130.0
    y = np.arange(12) % 2
    for fold in splits.make(table, y, {"kind": "blocked", "n": 3}, seed=0):
        assert not any(overlap(facts, a, b) for a in fold.train for b in fold.test)


@pytest.mark.parametrize("how", ["leave_one_subject_out", {"kind": "group_kfold", "n": 3},
                                 "random_windows"], ids=str)  # fmt: skip
def test_another_seed_gives_other_folds(how):
    table = rows(subjects=9, windows=10)
    y = series(table)
    one, two = (splits.make(table, y, how, seed=seed) for seed in (1, 2))
    assert any(set(a.validation) != set(b.validation) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("kind", ["group_kfold", "blocked", "random_windows"])
def test_there_are_five_folds_unless_said_otherwise(kind):
    table = rows(subjects=7)
    for how in (kind, {"kind": kind}):
        assert len(splits.make(table, series(table), how, seed=0)) == 5


def test_the_same_seconds_of_another_scan_are_no_leak_and_those_of_the_same_one_are():
    table = rows(subjects=2, scans=2, windows=6).sort_index()
    y, how = np.arange(24) % 2, {"kind": "blocked", "n": 3}
    scans = np.arange(24).reshape(4, 6)  # two of either subject, at the same times
    folds = [splits.Fold(str(i), scans[i - 1], scans[i - 2], scans[i]) for i in range(4)]
    splits.check(folds, table, y, how)
    train, test = scans[0, :3], scans[0, 3:]  # windows 2 and 3 overlap by half
    for one in (
        splits.Fold("0", train, scans[1], test),
        splits.Fold("0", scans[1], train, test),
        splits.Fold("0", train, test, scans[1]),
    ):
        with pytest.raises(InputError, match="fold 0: seconds of row sub-00/scan-0/window-0002"):
            splits.check([one, *folds[1:]], table, y, how)
    for kind in ("group_kfold", "leave_one_subject_out"):
        with pytest.raises(InputError, match="subject sub-0"):
            splits.check(folds, table, y, kind)


def test_blocks_keep_the_same_seconds_of_another_scan():
    table = rows(subjects=1, scans=2, windows=12)
    table["stop"] = table["start"] + 15.0  # windows that only touch
    late = table["scan"] == "scan-1"
    table.loc[late, ["start", "stop"]] += 7.5  # no window ends where one of the other scan does
    for fold in splits.make(table, np.arange(24) % 2, {"kind": "blocked", "n": 3}, seed=0):
        assert [len(fold.train), len(fold.validation), len(fold.test)] == [8, 8, 8]


def test_a_subject_is_told_from_another_whose_scan_has_the_same_name():
    table = rows(subjects=3, scans=1, windows=20)
    y = np.random.default_rng(0).integers(0, 2, len(table))
    moved = splits.circular_shift(y, table, np.random.default_rng(0))
    for name in set(table.subject):
        own = (table.subject == name).to_numpy()
        assert np.bincount(moved[own]).tolist() == np.bincount(y[own]).tolist()
