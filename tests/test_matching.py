"""Scores of similarities made by hand: every score, gain and test against a reference."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import retrieving
from scipy import stats

from engram import store
from engram.errors import InputError
from engram.scores.pairing import mcnemar, pairing, wilcoxon


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    retrieving.write(folder, experiments=tuple(retrieving.EXPERIMENTS))
    return folder


def hits(folder, name):
    """Share of real runs that find each picture by counting, (subjects, pictures) by name."""
    rows = store.open(folder / f"predictions/{name}.h5").load()
    candidates = rows.header["candidates"]
    found = {}
    for row, values in zip(rows.table.itertuples(), rows.array, strict=True):
        if row.fewer:
            continue
        real = [values[i] for i, run in enumerate(retrieving.RUNS) if not run["shuffled"]]
        best = [candidates[np.argmax(one)] == row.stimulus for one in real]
        found.setdefault(row.subject, {})[row.stimulus] = sum(best) / len(best)
    return pd.DataFrame(found).T


# ---- gain over a baseline ---------------------------------------------------------------


def test_gains_are_paired_by_subject(folder):
    scored = retrieving.scores(folder, "things_nice")
    paired, top1 = scored["paired"], retrieving.metrics(scored)["top1"]
    this, other = hits(folder, "things_nice"), hits(folder, "things_plain")
    gain = {s: this.loc[s].mean() - other.loc[s].mean() for s in retrieving.subjects()}
    assert paired["subjects"] == pytest.approx(gain)
    assert top1["difference"] == pytest.approx(np.mean(list(gain.values())))
    assert top1["difference_low"] < top1["difference"] < top1["difference_high"]
    assert top1["baseline"] == pytest.approx(other.to_numpy().mean())
    assert (top1["difference_p"] < 0.05) == (top1["difference_low"] > 0)
    assert paired["wilcoxon"] == pytest.approx(by_every_sign(list(gain.values())))


def test_mcnemar_counts_pictures_that_one_alone_finds(folder):
    found = retrieving.scores(folder, "things_published")["paired"]["mcnemar"]
    this, other = hits(folder, "things_published"), hits(folder, "things_nice")
    raw, up = {}, {}
    for subject in retrieving.subjects():
        a, b = (
            {name for name, share in one.loc[subject].items() if share > 0.5}
            for one in (this, other)
        )
        raw[subject] = binomial(len(a - b), len(b - a))
        up[subject] = len(a) > len(b)
    assert found["p"] == pytest.approx(raw)
    ordered = sorted(raw, key=raw.get)
    significant = set()
    for place, subject in enumerate(ordered):  # Holm's steps stop at the first that fails
        if raw[subject] * (len(ordered) - place) >= 0.05:
            break
        significant.add(subject)
    assert found["better"] == sum(up[s] for s in significant) > 0
    assert found["worse"] == sum(not up[s] for s in significant)


def binomial(gained, lost):
    """Two-sided p of a fair coin by adding up what is as unlikely as what was seen."""
    n = gained + lost
    chances = [math.comb(n, i) / 2**n for i in range(n + 1)]
    return sum(chance for chance in chances if chance <= chances[gained] * (1 + 1e-9))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (6, 0), (9, 2), (2, 9), (5, 5)])
def test_mcnemar_is_a_fair_coin(gained, lost):
    this = np.array([True] * gained + [False] * lost + [True, False])
    other = np.array([False] * gained + [True] * lost + [True, False])
    assert mcnemar(this, other) == pytest.approx(min(binomial(gained, lost), 1))


def by_every_sign(differences):
    """Wilcoxon's p by going through all signs of the ranks; ties share their ranks."""
    kept = np.array([d for d in np.round(differences, 12) if d])
    ranks = stats.rankdata(abs(kept))
    seen = abs((ranks * np.sign(kept)).sum())
    sums = [abs((ranks * s).sum()) for s in itertools.product((-1, 1), repeat=len(kept))]
    return np.mean([total >= seen - 1e-9 for total in sums])


@pytest.mark.parametrize(
    "differences",
    [
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        [0.05, -0.1, 0.15, 0.2, -0.25, 0.3],
        [0.05, 0.1 - 0.05, 0.05, 0.2, -0.05],  # ties but for rounding
        [0.1, 0.0, 0.2, 0.3, *[0.3 - 0.1 - 0.2] * 2],  # zero, and zero but for rounding
        [0.1],
    ],
)
def test_wilcoxon_by_every_sign(differences):
    assert wilcoxon(differences) == pytest.approx(by_every_sign(differences))


def test_the_interval_of_a_gain_is_of_subjects_and_pictures():
    """Mean squares of a crossed design, by sums over the cells."""
    rng = np.random.default_rng(0)
    this, other = (pd.DataFrame(rng.random((6, 30)) < share) * 1.0 for share in (0.6, 0.4))
    gain = (this - other).to_numpy().copy()
    gain += 0.3 * rng.normal(size=(6, 1)) + 0.3 * rng.normal(size=30)
    mean = gain.mean()
    subjects = sum(30 * (gain[i].mean() - mean) ** 2 for i in range(6)) / 5
    pictures = sum(6 * (gain[:, j].mean() - mean) ** 2 for j in range(30)) / 29
    rest = sum(
        (gain[i, j] - gain[i].mean() - gain[:, j].mean() + mean) ** 2
        for i in range(6)
        for j in range(30)
    ) / (5 * 29)

    def half(tail):
        parts = stats.t.ppf(tail, 5) ** 2 * subjects, stats.t.ppf(tail, 29) ** 2 * (pictures - rest)
        return np.sqrt(sum(parts) / 180)

    found = pairing(pd.DataFrame(gain), pd.DataFrame(np.zeros((6, 30))), shared=False)
    assert found["interval"] == pytest.approx([mean - half(0.975), mean + half(0.975)])
    assert half(1 - found["p"] / 2) == pytest.approx(abs(mean))


def test_what_is_equal_differs_in_nothing():
    same = pd.DataFrame([[1.0, 0.5], [0.0, 1.0]], ["a", "b"], ["x", "y"])
    found = pairing(same, same, shared=True)
    assert (found["gain"], found["p"], found["wilcoxon"]) == (0, 1, 1)
    assert found["mcnemar"] == {"p": {"a": 1, "b": 1}, "better": 0, "worse": 0}


def test_a_baseline_on_other_pictures_is_refused(folder, tmp_path):
    for name in ("things_plain", "things_nice"):
        rows = store.open(folder / f"predictions/{name}.h5").load()
        keep = slice(1, None) if name == "things_plain" else slice(None)
        part = type(rows)(rows.array[keep], rows.table.iloc[keep], rows.header)
        store.write(tmp_path / f"predictions/{name}.h5", part)
    with pytest.raises(InputError, match="things_plain.h5: has other test rows"):
        retrieving.scores(tmp_path, "things_nice")


# ---- what goes along with the scores ------------------------------------------------------


def test_mean_ranks_stand_beside_chance(folder):
    rows = store.open(folder / "predictions/things_nice.h5").load()
    candidates = rows.header["candidates"]
    of_runs = [[], [], []]
    whole = (rows.table["fewer"] == 0).to_numpy()
    for stimulus, values in zip(rows.table["stimulus"][whole], rows.array[whole], strict=True):
        for run, one in enumerate(values):
            of_runs[run].append(1 + (one > one[candidates.index(stimulus)]).sum())
    found = retrieving.metrics(retrieving.scores(folder, "things_nice"))["mean_rank"]
    assert found["value"] == pytest.approx(np.mean(of_runs[:2]))
    assert found["control"] == pytest.approx(np.mean(of_runs[2]))
    assert found["chance"] == 20.5
    assert found["low"] < found["value"] < found["high"]


def test_fewer_repetitions_are_scored_like_all_of_them(folder):
    rows = store.open(folder / "predictions/things_plain.h5").load()
    found = retrieving.scores(folder, "things_plain")["repetitions"]
    candidates = rows.header["candidates"]
    assert found["counts"] == retrieving.COUNTS
    for at, count in enumerate(retrieving.COUNTS):
        fewer = 0 if count == retrieving.COUNTS[-1] else count
        of_subject = {s: [] for s in retrieving.subjects()}
        for row, values in zip(rows.table.itertuples(), rows.array, strict=True):
            if row.fewer == fewer:
                own = values[:2, [candidates.index(row.stimulus)]]
                of_subject[row.subject].append(((values[:2] > own).sum(1) < 5).mean())
        each = {s: np.mean(hits) for s, hits in of_subject.items()}
        assert {s: v[at] for s, v in found["top5"].items()} == pytest.approx(each)
        low, high = found["interval"]["top5"][at]
        assert low <= np.mean(list(each.values())) <= high


def shifted(folder, tmp_path, name, low, high):
    """Scores of an experiment whose simulation predicts another top-1."""
    rows = store.open(folder / f"predictions/{name}.h5").load()
    top1 = rows.header["attainable"]["top1"]
    top1 |= {"low": [*top1["low"][:-1], low], "high": [*top1["high"][:-1], high]}
    baseline = retrieving.configured(name).get("baseline")
    for one in filter(None, (baseline,)):
        store.write(
            tmp_path / f"predictions/{one}.h5", store.open(folder / f"predictions/{one}.h5").load()
        )
    store.write(tmp_path / f"predictions/{name}.h5", rows)
    return retrieving.scores(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "low", "high", "side"),
    [
        ("things_nice", 0.9, 0.95, "below"),
        ("things_nice", 0.0, 0.01, "above"),
        ("things_nice", 0.0, 1.0, None),
        ("things_published", 0.0, 0.01, None),  # says already that it is too high
    ],
)
def test_clean_scores_outside_of_what_is_predicted_are_warned_of(
    folder, tmp_path, name, low, high, side
):
    scored = shifted(folder, tmp_path, name, low, high)
    assert scored["predicted"]["top1"] == [low, high]
    assert "mrr" not in scored["predicted"]
    said = [text for text in scored["warnings"] if text.startswith("Top-1") and "predicts" in text]
    value = retrieving.metrics(scored)["top1"]["value"]
    expected = f"Top-1 is {value:.3f}, {side} the {low:.3f} to {high:.3f} that the simulation"
    assert [text.startswith(expected) for text in said] == ([True] if side else [])


def test_measured_data_predict_nothing(folder, tmp_path):
    rows = store.open(folder / "predictions/things_plain.h5").load()
    rows.header["attainable"] = None
    store.write(tmp_path / "predictions/things_plain.h5", rows)
    assert retrieving.scores(tmp_path, "things_plain")["predicted"] == {}


@pytest.mark.parametrize(("pictures", "there"), [(2, {"top1"}), (4, {"top1", "top3"})])
def test_a_few_candidates_have_no_top5(tmp_path, pictures, there):
    retrieving.write(tmp_path, pictures=pictures)
    scored = retrieving.scores(tmp_path, "things_nice")
    names = retrieving.metrics(scored).keys()
    assert names & {"top1", "top3", "top5"} == there
    assert names & {"reverse_top1", "reverse_top5"} == {"reverse_top1"}


# ---- by brute force, from the similarities themselves ------------------------------------


def stored(folder, array, pictures, count):
    """Scores of similarities (subjects * pictures, runs, pictures) made up by a test.

    Those of fewer repetitions are as they were: noise of their own.
    """
    rows = retrieving.predictions(np.random.default_rng(0), pictures, count)
    whole = of_all(rows)
    values = rows.array.copy()
    values[: len(array)] = array
    store.write(folder / "predictions/things_plain.h5", type(rows)(values, rows.table, rows.header))
    return retrieving.scores(folder, "things_plain"), whole


def of_all(rows):
    """The rows that rest on all repetitions; they stand before all others."""
    n = (rows.table["fewer"] == 0).sum()
    return type(rows)(rows.array[:n], rows.table.iloc[:n], rows.header)


def shown(rows):
    """Column of the picture that each row shows."""
    return np.array([rows.header["candidates"].index(name) for name in rows.table["stimulus"]])


def test_the_control_changes_nothing_but_the_control(tmp_path):
    rng = np.random.default_rng(3)
    array = rng.normal(size=(24, 3, 8))
    honest, rows = stored(tmp_path, array, 8, 3)
    array[:, 2] = 100 * rng.normal(size=(24, 8))
    array[np.arange(24), 2, shown(rows)] = 1000
    leaking, _ = stored(tmp_path, array, 8, 3)
    assert retrieving.metrics(leaking)["top1"]["control"] == 1
    assert retrieving.metrics(leaking)["mean_rank"]["control"] == 1
    for result in (honest, leaking):
        del result["warnings"]
        for row in result["metrics"]:
            del row["control"]
    assert leaking == honest


def test_pictures_find_their_eeg_by_counting_down_the_columns(tmp_path):
    rng = np.random.default_rng(4)
    array = rng.normal(size=(40, 3, 10))
    found, rows = stored(tmp_path, array, 10, 4)
    truth = shown(rows)
    array[np.arange(40), :2, truth] += 1.0
    array[[0, 10, 20, 30]] += [[3.0], [3.0], [0.0]]  # one trial a subject is close to everything
    found, _ = stored(tmp_path, array, 10, 4)
    down, across = {1: [], 5: []}, []
    for row, subject in enumerate(rows.table["subject"]):
        own = array[(rows.table["subject"] == subject).to_numpy(), :2, truth[row]]
        closer = (own > array[row, :2, truth[row]]).sum(0)  # of each seed
        across.append((array[row, :2].argmax(1) == truth[row]).mean())
        for k, hits in down.items():
            hits.append((closer < k).mean())
    found = retrieving.metrics(found)
    for k, hits in down.items():
        row, each = found[f"reverse_top{k}"], np.reshape(hits, (4, 10)).mean(1)
        assert row["value"] == pytest.approx(np.mean(hits))
        assert row["chance"] == k / 10
        assert [*row["subjects"].values()] == pytest.approx(each)
    assert np.mean(down[1]) < np.mean(across) - 0.1


def test_p_is_that_of_all_pairings_of_what_single_seeds_find(tmp_path):
    rng = np.random.default_rng(12)
    array = rng.normal(size=(5, 3, 5))
    _, rows = stored(tmp_path, array, 5, 1)
    truth = shown(rows)
    array[np.arange(2), :2, truth[:2]] += 3  # two of five are found by both seeds
    array[np.arange(2, 5), 0, truth[2:]] += 2  # and the others by one alone
    array[np.arange(2, 5), 1, truth[2:]] -= 4
    array[:, 2] += 9 * np.eye(5)[truth]
    result, _ = stored(tmp_path, array, 5, 1)

    def exact(similarity):
        hits = similarity.argmax(2)
        orders = (np.array(order)[truth] for order in itertools.permutations(range(5)))
        found = [(hits == order[:, None]).sum() for order in orders]
        return np.mean([count >= (hits == truth[:, None]).sum() for count in found])

    expected = exact(array[:, :2])
    p = retrieving.metrics(result)["top1"]["p"]
    assert p == pytest.approx(expected, abs=4 * np.sqrt(expected / 1000) + 1 / 1000)
    assert abs(exact(array[:, :2].mean(1, keepdims=True)) - expected) > 0.05


@pytest.mark.parametrize(("found", "warned"), [(4, False), (8, False), (16, True), (80, True)])
def test_a_control_above_chance_is_warned_of(tmp_path, found, warned):
    rng = np.random.default_rng(5)
    array = rng.normal(size=(160, 3, 40))
    _, rows = stored(tmp_path, array, 40, 4)
    control = array[:, 2]
    control[np.arange(160), shown(rows)] = -100
    hits = rng.permutation(160)[:found]
    control[hits, shown(rows)[hits]] = 100
    result, _ = stored(tmp_path, array, 40, 4)
    unlikely = stats.binom.sf(found - 1, 160, 1 / 40) < 1e-4
    assert unlikely == warned
    assert retrieving.metrics(result)["top1"]["control"] == pytest.approx(found / 160)
    said = [text for text in result["warnings"] if "control" in text]
    expected = f"The control, trained on shuffled pairs, finds {found / 160:.1%}: above chance."
    assert said == ([expected] if warned else [])


def test_spreads_and_subjects_are_those_of_the_hits(folder):
    rows = of_all(store.open(folder / "predictions/things_nice.h5").load())
    scored = retrieving.scores(folder, "things_nice")
    ranks = np.array(
        [[1 + (one > one[t]).sum() for one in values]
         for t, values in zip(shown(rows), rows.array, strict=True)]
    )  # fmt: skip
    contributed = {f"top{k}": ranks <= k for k in (1, 3, 5)} | {"mrr": 1 / ranks}
    subject = rows.table["subject"].to_numpy()
    for name, values in contributed.items():
        by_subject = [values[subject == s, :2].mean() for s in np.unique(subject)]
        metric = retrieving.metrics(scored)[name]
        assert metric["value"] == pytest.approx(np.mean(by_subject))
        assert metric["subject_sd"] == pytest.approx(np.std(by_subject, ddof=1))
        assert metric["seed_sd"] == pytest.approx(np.std(values[:, :2].mean(0), ddof=1))
        assert metric["interval"] == "crossed t"
        assert metric["low"] < metric["value"] < metric["high"]
        assert [*metric["subjects"]] == retrieving.subjects()
        assert [*metric["subjects"].values()] == pytest.approx(by_subject)
        assert metric["control"] == pytest.approx(values[:, 2].mean())
    assert scored["sample"] == {"subjects": 4, "rows": 4 * 40, "excluded": {}}


def test_a_row_that_is_missing_leaves_no_interval_and_a_strange_one_is_refused(folder, tmp_path):
    rows = store.open(folder / "predictions/things_plain.h5").load()
    path = tmp_path / "predictions/things_plain.h5"
    store.write(path, type(rows)(rows.array[1:], rows.table.iloc[1:], rows.header))
    top1 = retrieving.metrics(retrieving.scores(tmp_path, "things_plain"))["top1"]
    assert top1["low"] is top1["high"] is top1["interval"] is None
    rows.table.iloc[3, rows.table.columns.get_loc("stimulus")] = "train/other"
    store.write(path, rows)
    with pytest.raises(InputError, match="thing3_01 shows no candidate"):
        retrieving.scores(tmp_path, "things_plain")


@pytest.mark.parametrize(("count", "warned"), [(4, True), (5, False)])
def test_a_few_subjects_are_warned_of(tmp_path, count, warned):
    array = np.random.default_rng(0).normal(size=(6 * count, 3, 6))
    warnings = stored(tmp_path, array, 6, count)[0]["warnings"]
    assert any("may be too narrow" in text for text in warnings) == warned
