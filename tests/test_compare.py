"""Stage compare: spaces measured on the same rows, against closed forms and brute force."""

import itertools
import json

import comparing
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import study
from sklearn.metrics import silhouette_score

from engram import store
from engram.errors import InputError
from engram.figures import page
from engram.figures.compare import draw
from engram.figures.comparison_figure import comparison_figure, places
from engram.measures.inference import holm
from engram.measures.similarity import centred_gram, linear_cka, stratified
from engram.scores import comparison, gains
from engram.scores.comparison import compare as measure
from engram.store import Rows


def compare(comparison, figure, cka, drawn=False, **inputs):
    """The stage, as its script runs it; without its figures unless they are looked at."""
    measure(**inputs, comparison=comparison)
    if drawn:
        draw(comparison, figure, cka)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---- how alike spaces are -------------------------------------------------------------


def of_features(x, y):
    """Biased linear CKA by its formula on features (Kornblith et al. 2019, eq. 4)."""
    x, y = x - x.mean(0), y - y.mean(0)
    square = np.linalg.norm(y.T @ x) ** 2
    return square / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def by_distinct_rows(x, y):
    """Unbiased HSIC as the U-statistic it is: the mean over all four different rows."""
    k, m = x @ x.T, y @ y.T
    fours = itertools.permutations(range(len(x)), 4)
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in fours]
    return np.mean(terms)


def test_biased_cka_is_the_formula_on_features(rng):
    x, y = rng.normal(3, 2, (40, 6)), rng.normal(size=(40, 9))
    y[:, 0] += x[:, 0]
    found = linear_cka([x, y], debiased=False)
    np.testing.assert_allclose(found, [[1, of_features(x, y)], [of_features(x, y), 1]], rtol=1e-10)


def test_debiased_hsic_is_the_mean_over_different_rows(rng):
    n = 7
    x, y = rng.normal(5, 1, (n, 3)), rng.normal(size=(n, 2))
    y[:, 0] += x[:, 1]
    found = centred_gram(x) @ centred_gram(y) / (n * (n - 3))
    assert found == pytest.approx(by_distinct_rows(x, y), rel=1e-9)
    cross = by_distinct_rows(x, y) / np.sqrt(by_distinct_rows(x, x) * by_distinct_rows(y, y))
    assert linear_cka([x, y])[0, 1] == pytest.approx(cross, rel=1e-9)


@pytest.mark.parametrize("debiased", [True, False])
def test_rotation_scale_and_shift_change_nothing(rng, debiased):
    x, y = rng.normal(size=(50, 8)), rng.normal(size=(50, 5))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    found = linear_cka([x, 3.7 * x @ rotation + 11, y], debiased)
    assert found[0, 1] == pytest.approx(1, abs=1e-12)
    assert found[0, 2] == pytest.approx(found[1, 2], abs=1e-12)


def test_independent_spaces_are_unlike_once_the_bias_is_gone(rng):
    x, y = rng.normal(size=(200, 400)), rng.normal(size=(200, 400))
    assert abs(linear_cka([x, y])[0, 1]) < 0.02
    assert linear_cka([x, y], debiased=False)[0, 1] > 0.5


def test_tokens_are_part_of_a_row(rng):
    x, y = rng.normal(size=(30, 4, 3)), rng.normal(size=(30, 5))
    flat = linear_cka([x.reshape(30, 12), y])
    np.testing.assert_allclose(linear_cka([x.astype(np.float32), y]), flat, rtol=1e-5)


def test_a_constant_space_is_like_nothing(rng):
    found = linear_cka([np.full((9, 2), 0.1), rng.normal(size=(9, 2))])
    assert np.isnan(found[0]).all()
    assert found[1, 1] == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 4"):
        linear_cka([np.zeros((3, 2))])


def test_a_sample_keeps_the_share_of_every_stratum():
    strata = np.repeat(["a", "b", "c"], [600, 300, 101])
    strata = strata[np.random.default_rng(1).permutation(len(strata))]
    chosen = stratified(strata, 100)
    assert len(set(chosen)) == 100
    assert (np.diff(chosen) > 0).all()
    for name, share in (("a", 60), ("b", 30), ("c", 10)):
        assert abs((strata[chosen] == name).sum() - share) <= 1
    np.testing.assert_array_equal(chosen, stratified(strata, 100))
    assert (chosen != stratified(strata, 100, seed=1)).any()
    np.testing.assert_array_equal(stratified(strata, 2000), np.arange(1001))


# ---- how a space groups its rows --------------------------------------------------------


def table(subjects=3, scans=2, windows=10):
    rows = itertools.product(range(subjects), range(scans), range(windows))
    names = [(f"sub-{a}", f"scan-{b}", ("x", "y")[(a + c) % 2]) for a, b, c in rows]
    return pd.DataFrame(names, columns=["subject", "scan", "state"])


def test_separability_is_brute_force_on_standardised_features(rng):
    rows = table()
    space = rng.normal(4, (1, 10, 100), (len(rows), 3)) + (rows["state"] == "y").to_numpy()[:, None]
    found = comparison.separability(space, rows)
    z = (space - space.mean(0)) / space.std(0)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    shares = {"state": [], "subject": []}
    for i in range(len(rows)):
        same_scan = (rows[["subject", "scan"]] == rows.loc[i, ["subject", "scan"]]).all(axis=1)
        for key, allowed in (("state", ~same_scan), ("subject", rows.index != i)):
            others = np.flatnonzero(allowed)
            nearest = others[np.argsort(-(unit[others] @ unit[i]))[:10]]
            same = (rows[key] == rows.loc[i, key]).to_numpy()
            shares[key].append((same[nearest].mean(), same[others].mean()))
    for key in shares:
        assert found["purity"][key] == pytest.approx(np.mean(shares[key], axis=0))
    for key in ("state", "subject"):
        expected = silhouette_score(z, rows[key], metric="cosine")
        assert found["silhouette"][key] == pytest.approx(expected)
    within = []
    for name in set(rows["subject"]):
        own = (rows["subject"] == name).to_numpy()
        z = (space[own] - space[own].mean(0)) / space[own].std(0)
        within.append(silhouette_score(z, rows["state"][own], metric="cosine"))
    assert found["silhouette"]["state_within"] == pytest.approx(np.mean(within))


def test_what_cannot_be_told_apart_is_undefined(rng):
    rows = table(subjects=1, scans=1).assign(state="x")
    found = comparison.separability(rng.normal(size=(10, 2)), rows)
    assert np.isnan([*found["silhouette"].values(), *found["purity"]["state"]]).all()


def test_constant_features_count_for_nothing(rng):
    space = rng.normal(size=(500, 2)).astype(np.float32)
    constant = np.full((500, 1), 0.1, np.float32)
    found = comparison.standardised(np.hstack([space, constant]))
    assert (found[:, 2] == 0).all()
    np.testing.assert_allclose(found[:, :2].std(0), 1, rtol=1e-9)


def test_the_cost_of_all_units_is_added_up():
    part = {"peak_mib": 10.0, "device": "cpu", "precision": "fp32", "bytes_per_row": 8}
    parts = [part | {"images": 10, "seconds": 1.0}]
    parts.append(part | {"images": 30, "seconds": 4.0, "peak_mib": 30.0, "device": "cuda"})
    found = comparison.cost([parts])
    assert (found["images"], found["seconds"], found["rate"]) == (40, 5.0, 8.0)
    assert (found["peak_mib"], found["device"], found["bytes_per_row"]) == (30.0, "cpu, cuda", 8)
    assert comparison.cost([parts[:1], parts[1:]]) == found | {"bytes_per_row": 16}


# ---- stores ---------------------------------------------------------------------------


@pytest.fixture
def members():
    return four()


def four():
    return [
        comparing.member("clip", 0.78, state=3),
        comparing.member("clip_random", 0.6, weights="random", of="clip", rate=20),
        comparing.member("dino", 0.8, d=12, title="DINO"),
        comparing.member("bandpower", 0.71, d=5, baseline=True, weights="none"),
    ]


def rewritten(path, change):
    """Write the store at `path` again, its rows changed."""
    rows = store.open(path).load()
    array, rows_table = change(rows.array.copy(), rows.table.copy())
    store.write(path, Rows(array, rows_table, rows.header))


def test_rows_are_the_same_for_all_and_matched_by_name(tmp_path, members):
    files = comparing.write(tmp_path, members)
    features = [[files["features"][i : i + 6]] for i in range(0, 24, 6)]
    before, spaces, facts = comparison.load(features, files["y"])
    assert len(before) == 120
    assert [f["dim"] for f in facts] == [8, 8, 12, 5]
    assert [f["weights"] for f in facts] == ["x.safetensors", "random", "x.safetensors", "none"]

    def spoilt(array, rows):
        array[3] = np.nan
        rows.iloc[5, rows.columns.get_loc("exclude")] = "artefact"
        order = np.random.default_rng(2).permutation(len(rows))[:-1]
        return array[order], rows.iloc[order]

    rewritten(features[1][0][0], spoilt)
    dropped = np.random.default_rng(2).permutation(20)[-1]
    after, again, _ = comparison.load(features, files["y"])
    names = [f"sub-01/scan-01/window-{i:04d}" for i in {3, 5, int(dropped)}]
    assert set(before.index) - set(after.index) == set(names)
    kept = before.index.isin(after.index)
    for one, other in zip(spaces, again, strict=True):
        np.testing.assert_array_equal(one[kept], other)


def test_many_rows_are_sampled(tmp_path, members, monkeypatch):
    monkeypatch.setattr(comparison, "ROWS", 30)
    files = comparing.write(tmp_path, members[:1])
    found, spaces, _ = comparison.load([[files["features"]]], files["y"])
    assert len(found) == len(spaces[0]) == 30
    counts = found.groupby(["subject", "state"]).size()
    assert counts.between(2, 3).all()


def test_too_few_usable_rows_are_refused(tmp_path, members):
    files = comparing.write(tmp_path, members[:1], subjects=1)
    rewritten(files["features"][0], lambda array, rows: (array * np.nan, rows))
    with pytest.raises(InputError, match=r"clip\.h5: 0 rows are usable in all"):
        comparison.load([[files["features"]]], files["y"])


def test_the_stage_writes_what_it_found(tmp_path, members):
    files = comparing.write(tmp_path, members)
    paths = comparing.outputs(tmp_path)
    compare(**files, **paths, drawn=True)
    found = json.loads(paths["comparison"].read_text())
    assert [m["experiment"] for m in found["members"]] == [
        "vision-dino", "vision-clip", "bandpower", "vision-clip_random",
    ]  # fmt: skip
    by_name = {m["experiment"]: m for m in found["members"]}
    raw = [0.03125] * 3  # what every member's scores say; the baseline is no rival of itself
    rivals = ("vision-clip", "vision-clip_random", "vision-dino")
    assert [by_name[m]["difference_p_holm"] for m in rivals] == pytest.approx(holm(raw))
    assert by_name["vision-clip_random"]["cost"]["rate"] == pytest.approx(20)
    assert by_name["vision-dino"]["cost"]["bytes_per_row"] == 48
    clip, random = (by_name[m]["purity"]["state"][0] for m in rivals[:2])
    assert clip > random
    cka = np.array(found["cka"]["values"], float)
    assert found["cka"]["experiments"] == [*rivals, "bandpower"]
    np.testing.assert_allclose(cka, cka.T)
    np.testing.assert_allclose(np.diagonal(cka), 1)
    for name in ("figure", "cka"):
        text = paths[name].read_text()
        assert text.startswith("<?xml")
        assert "DINO" in text
    first = {name: path.read_bytes() for name, path in paths.items()}
    compare(**files, **paths, drawn=True)
    assert {name: path.read_bytes() for name, path in paths.items()} == first


def differences(found, of, control):
    """What the scores of a comparison say of two members, paired by subject by hand."""
    subjects = {m["experiment"]: m["subjects"] for m in found["members"]}
    return np.array([subjects[of][s] - subjects[control][s] for s in sorted(subjects[of])])


@pytest.mark.parametrize("subjects", [6, 12])
def test_published_minus_random_weights_is_paired_by_subject(tmp_path, members, subjects):
    members[2:2] = [comparing.member("dino_random", 0.76, weights="random", of="dino", d=12)]
    files = comparing.write(tmp_path, members, subjects)
    compare(**files, **(paths := comparing.outputs(tmp_path)))
    found = json.loads(paths["comparison"].read_text())
    gains = {m["experiment"]: m["gain"] for m in found["members"] if m["gain"]}
    assert set(gains) == {"vision-clip", "vision-dino"}
    raw = []
    for name, gain in gains.items():
        gained = differences(found, name, f"{name}_random")
        assert gain["difference"] == pytest.approx(gained.mean())
        assert list(gain["subjects"].values()) == pytest.approx(gained)
        n = len(gained)
        error = gained.std(ddof=1) * np.sqrt(1 / n + 1 / (n - 1))
        raw.append(2 * scipy.stats.t.sf(abs(gained.mean()) / error, n - 1))
        assert gain["p"] == pytest.approx(raw[-1])
        whole = scipy.stats.t.interval(0.95, n - 1, gained.mean(), error)
        assert (gain["low"], gain["high"]) == pytest.approx(whole)
    assert [gain["p_holm"] for gain in gains.values()] == pytest.approx(holm(raw))


def test_models_are_held_to_the_best_baseline_that_is_not_inflated(tmp_path):
    """By hand: Student's t with the variance of Nadeau and Bengio, noncentral t, and two tests."""
    members = [
        comparing.member("clip", 0.80, margin=0.05),
        comparing.member("clip_random", 0.95, weights="random", of="clip"),
        comparing.member("dino", 0.70),
        comparing.member("seen", 0.70, flags=["seen"]),
        comparing.member("covariance", 0.78, role="baseline"),
        comparing.member("leaky", 0.99, role="baseline", flags=["leaks"]),
        comparing.member("bandpower", 0.60, baseline=True),
    ]
    compare(**comparing.write(tmp_path, members), **(paths := comparing.outputs(tmp_path)))
    found = json.loads(paths["comparison"].read_text())
    assert found["best_baseline"] == "vision-covariance"
    over = {m["experiment"]: m["over_best"] for m in found["members"] if m["over_best"]}
    assert set(over) == {"vision-clip", "vision-dino"}
    raw = []
    for name, gain in over.items():
        gained = differences(found, name, "vision-covariance")
        n, difference = len(gained), gained.mean()
        error = gained.std(ddof=1) * np.sqrt(1 / n + 1 / (n - 1))
        raw.append(2 * scipy.stats.t.sf(abs(difference) / error, n - 1))
        assert gain["baseline"] == "vision-covariance"
        assert gain["difference"] == pytest.approx(difference)
        whole = scipy.stats.t.interval(0.95, n - 1, difference, error)
        assert (gain["low"], gain["high"], gain["p"]) == pytest.approx((*whole, raw[-1]))
        beyond = scipy.stats.t.isf(0.025, n - 1)
        power = scipy.stats.nct.sf(beyond, n - 1, gain["detectable"] / error)
        assert power == pytest.approx(0.8, abs=1e-6)
        sides = (scipy.stats.t.sf((difference + 0.05) / error, n - 1),
                 scipy.stats.t.cdf((difference - 0.05) / error, n - 1))  # fmt: skip
        assert gain["equivalence_p"] == pytest.approx(max(sides))
        assert list(gain["subjects"].values()) == pytest.approx(gained)
    assert [gain["p_holm"] for gain in over.values()] == pytest.approx(holm(raw))


def test_without_a_baseline_nothing_is_held_to_one(tmp_path):
    members = [comparing.member("clip"), comparing.member("dino", role="baseline", flags=["leaks"])]
    compare(**comparing.write(tmp_path, members), **(paths := comparing.outputs(tmp_path)))
    found = json.loads(paths["comparison"].read_text())
    assert found["best_baseline"] is None
    assert [m["over_best"] for m in found["members"]] == [None, None]


def test_a_subject_without_a_score_is_in_no_pair():
    settings = {"confidence": 0.95}
    mine, theirs = {"a": 0.9, "b": None, "c": 0.5, "d": 0.7}, {"c": 0.6, "a": 0.6, "b": 0.1}
    found = gains.paired_gain(mine, theirs, settings)
    assert found["subjects"] == pytest.approx({"a": 0.3, "c": -0.1})
    assert found["difference"] == pytest.approx(0.1)
    alone = gains.paired_gain({"a": 0.9}, {"a": 0.6}, settings)
    assert alone["difference"] == pytest.approx(0.3)
    assert np.isnan([alone["low"], alone["high"], alone["p"]]).all()
    assert np.isnan(gains.paired_gain({"a": 0.9}, {"b": 0.6}, settings)["difference"])


@pytest.mark.parametrize("format_", ["bf16", "fp32"])
def test_a_model_and_its_control_run_at_one_precision(tmp_path, members, format_):
    for spec, made in members:
        made["precision"] = "fp32" if spec["control_of"] else "bf16"
    members[1][1]["precision"] = format_
    files = comparing.write(tmp_path, members)
    if format_ == "bf16":
        compare(**files, **comparing.outputs(tmp_path))
        return
    message = r"vision-clip ran in bf16, its control vision-clip_random in fp32: .*`precision`"
    with pytest.raises(InputError, match=message):
        compare(**files, **comparing.outputs(tmp_path))


def test_a_model_that_ran_at_two_precisions_is_not_compared_with_its_control(tmp_path, members):
    files = comparing.write(tmp_path, members)
    for path in (files["features"][0], files["features"][6]):
        rows = store.open(path).load()
        store.write(path, Rows(rows.array, rows.table, rows.header | {"precision": "bf16"}))
    with pytest.raises(InputError, match=r"in bf16 and fp32, its control .* in bf16 and fp32"):
        compare(**files, **comparing.outputs(tmp_path))


def test_sources_side_by_side_are_one_space(tmp_path, members):
    both = comparing.member("clip", 0.9, d=4, views=["spectrogram", "fmri"])
    files = comparing.write(tmp_path, [both, members[3]])
    one, other = files["features"][:6], files["features"][6:12]
    table, (space, _), (facts, _) = comparison.load([[one, other], [one]], files["y"])
    expected = [
        pd.concat([pd.DataFrame(s[:], s.table.index) for s in map(store.open, paths)])
        for paths in (one, other)
    ]
    np.testing.assert_array_equal(space, pd.concat(expected, axis=1).loc[table.index])
    assert facts == {"dim": 8, "weights": "x.safetensors", "precision": ["fp32"]}
    compare(**files, **(paths := comparing.outputs(tmp_path)))
    member = json.loads(paths["comparison"].read_text())["members"][0]
    assert (member["dim"], member["cost"]["images"], member["cost"]["bytes_per_row"]) == (
        8,
        240,
        32,
    )


def test_a_guest_stands_in_the_table_by_its_scores_alone(tmp_path, members):
    guest = comparing.member("cnn", 0.9, views=[], weights="none", title="CNN end to end")
    files = comparing.write(tmp_path, [*members, guest])
    compare(**files, **(paths := comparing.outputs(tmp_path)), drawn=True)
    found = json.loads(paths["comparison"].read_text())
    first = found["members"][0]
    assert (first["experiment"], first["value"], first["cost"]) == ("vision-cnn", 0.9, None)
    assert first["difference_p_holm"] == pytest.approx(holm([0.03125] * 4)[0])
    assert "vision-cnn" not in found["cka"]["experiments"]
    assert len(found["cka"]["values"]) == 4
    assert "CNN end to end" in paths["figure"].read_text()
    spec = {"title": "Study", "experiments": {}, "comparisons": {"vision": comparing.CONFIG}}
    line = page.render({}, {}, {}, spec, {"vision": found}).partition(">CNN end to end")[2]
    assert "0.900" in line.partition("</tr>")[0]


def test_a_control_stands_below_the_member_it_belongs_to(tmp_path, members):
    files = comparing.write(tmp_path, members)
    compare(**files, **(paths := comparing.outputs(tmp_path)))
    rows = places(json.loads(paths["comparison"].read_text())["members"])
    assert rows.pop("vision-clip_random") - rows["vision-clip"] == pytest.approx(0.36)
    assert sorted(rows.values()) == [0, 1, 2]


def test_a_member_is_found_again_in_the_other_half_of_its_scans(tmp_path, members):
    members[0][1]["subject"], members[2][1]["subject"] = 5.0, 0.0
    files = comparing.write(tmp_path, members)
    compare(**files, **(paths := comparing.outputs(tmp_path)))
    found = {m["experiment"]: m for m in json.loads(paths["comparison"].read_text())["members"]}
    again = {name: m["found_again"] for name, m in found.items()}
    assert again["vision-clip"]["accuracy"] == 1
    assert again["vision-dino"]["accuracy"] < 0.7
    assert all((one["chance"], one["subjects"]) == (1 / 6, 6) for one in again.values())
    features = [[files["features"][i : i + 6]] for i in range(0, 24, 6)]
    rows, (clip, *_), _ = comparison.load(features, files["y"])
    z = (clip - clip.mean(0)) / clip.std(0)
    late = (rows["onset"] > 15 * 9.5).to_numpy()
    early = (rows["stop"] <= rows["start"][late].min()).to_numpy()
    means = [
        pd.DataFrame(z[at]).groupby(rows["subject"].to_numpy(str)[at]).mean()
        for at in (early, late)
    ]
    r = np.corrcoef(*(m.to_numpy() for m in means))[:6, 6:]
    hits = (r.argmax(0) == np.arange(6)).mean(), (r.argmax(1) == np.arange(6)).mean()
    assert again["vision-clip"]["accuracy"] == pytest.approx(np.mean(hits))


def numbers(files):
    """The files of a comparison whose y is an age: stores of numbers, scores with errors."""
    for path in files["y"]:
        rows = store.open(path).load()
        ages = np.full(len(rows.array), 30.0 + int(path.parent.name[-2:]))
        header = {"what": "values", "column": "age", "unit": "years"}
        store.write(path, Rows(ages, rows.table, header))
    for i, path in enumerate(files["scores"]):
        scores = json.loads(path.read_text())
        row = scores["metrics"][0] | {"subjects": {}, "low": -0.5, "high": 0.9}
        errors = {f"sub-{s + 1:02d}": 2.0 + i + 0.1 * s * (-1) ** s for s in range(6)}
        scores["metrics"] = [
            row | {"metric": "r2"},
            row | {"metric": "pearson_r", "value": 0.66},
            row | {"metric": "mae", "value": 2.0 + i, "difference": -0.4, "subjects": errors},
        ]
        path.write_text(json.dumps(scores | {"task": "values"}))
    return files


def test_members_that_predict_numbers_are_paired_by_the_error_of_each_subject(tmp_path, members):
    files = numbers(comparing.write(tmp_path, members))
    compare(**files, **(paths := comparing.outputs(tmp_path)), drawn=True)
    found = json.loads(paths["comparison"].read_text())
    (gain,) = [m["gain"] for m in found["members"] if m["gain"]]
    assert gain["difference"] == pytest.approx(1)  # years that the control errs more, in each
    assert list(gain["subjects"].values()) == pytest.approx([1.0] * 6)
    assert gain["p"] == gain["p_holm"] == 0  # the same in each
    for member in found["members"]:
        assert member["metric"] == "r2"
        assert [one["metric"] for one in member["beside"]] == ["pearson_r", "mae"]
        assert member["purity"]["state"] == [None, None]
        assert member["purity"]["subject"][0] > 0
        assert member["found_again"]["subjects"] == 6
    assert "Error less than by random weights" in paths["figure"].read_text()
    assert "same state" not in paths["figure"].read_text()
    spec = {"title": "Study", "experiments": {}, "comparisons": {"vision": comparing.CONFIG}}
    text = page.render({}, {}, {}, spec, {"vision": found})
    assert "trained weights gain over random ones (clip, +1.00 of error" in text
    line = text.partition('<th scope="row">clip')[2].partition("</tr>")[0]
    over = {m["title"]: m["over_best"] for m in found["members"]}["clip"]
    gained = f"{over['difference']:+.3f} of error".replace("-", "−")
    assert [w for w in ("r 0.660", "MAE 2.000", gained, "+1.000") if w not in line] == []


def of_subjects(files, left=("accuracy",)):
    """The files when every subject has one class: these metrics alone are of a subject."""
    for path in files["scores"]:
        scored = json.loads(path.read_text())
        for row in scored["metrics"]:
            row["subjects"] = row["subjects"] if row["metric"] in left else {}
        path.write_text(json.dumps(scored))
    return files


def test_where_a_class_is_of_the_subject_twins_are_paired_by_accuracy(tmp_path, members):
    members.append(comparing.member("dino_random", 0.7, weights="random", of="dino", d=12))
    files = of_subjects(comparing.write(tmp_path, members))
    compare(**files, **(paths := comparing.outputs(tmp_path)), drawn=True)
    found = json.loads(paths["comparison"].read_text())
    each = {}
    for path in files["scores"]:
        (row,) = [r for r in json.loads(path.read_text())["metrics"] if r["metric"] == "accuracy"]
        each[path.stem] = row["subjects"]
    gains = {m["experiment"]: m["gain"] for m in found["members"] if m["gain"]}
    assert gains.keys() == {"vision-clip", "vision-dino"}
    for name, gain in gains.items():
        by_hand = [each[name][s] - each[f"{name}_random"][s] for s in each[name]]
        assert gain["metric"] == "accuracy"
        assert gain["difference"] == pytest.approx(np.mean(by_hand))
    spec = {"title": "Study", "experiments": {}, "comparisons": {"vision": comparing.CONFIG}}
    text = page.render({}, {}, {}, spec, {"vision": found})
    assert " in accuracy" in text.partition("trained weights ")[2].partition("</p>")[0]
    assert text.count("<small>in accuracy</small>") == 2
    for gain in gains.values():  # each subject a whole win: what would hide the interval
        gain["subjects"] = dict.fromkeys(gain["subjects"], 1.0)
    assert comparison_figure(found).axes[1].get_xlim()[1] < 0.9


def test_a_gain_that_is_of_no_subject_is_left_out(tmp_path, members):
    members.append(comparing.member("dino_random", 0.7, weights="random", of="dino", d=12))
    files = of_subjects(comparing.write(tmp_path, members), left=())
    compare(**files, **(paths := comparing.outputs(tmp_path)), drawn=True)
    found = json.loads(paths["comparison"].read_text())
    assert [m["gain"]["difference"] for m in found["members"] if m["gain"]] == [None, None]
    spec = {"title": "Study", "experiments": {}, "comparisons": {"vision": comparing.CONFIG}}
    assert "gain over random ones (" not in page.render({}, {}, {}, spec, {"vision": found})


# ---- the report -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What stage `compare` writes of four members."""
    folder = tmp_path_factory.mktemp("made")
    paths = comparing.outputs(folder)
    compare(**comparing.write(folder, four()), **paths, drawn=True)
    return paths


@pytest.fixture
def shown(made):
    """Arguments of `page.render` for a study that shows a comparison alone."""
    figures = {"vision": {path.name: path for path in (made["figure"], made["cka"])}}
    spec = {"title": "Study", "experiments": {}, "comparisons": {"vision": dict(comparing.CONFIG)}}
    return {}, {}, figures, spec, {"vision": json.loads(made["comparison"].read_text())}


def test_the_report_has_a_line_for_every_member(shown):
    text = page.render(*shown)
    (gain,) = [m["gain"] for m in shown[-1]["vision"]["members"] if m["gain"]]
    gained = f"{gain['difference']:+.3f}<small>{gain['low']:+.3f} to {gain['high']:+.3f}</small>"
    over = {m["title"]: m["over_best"] for m in shown[-1]["vision"]["members"]}["DINO"]
    over = f"{over['difference']:+.3f}<small>{over['low']:+.3f} to".replace("-", "−")
    lines = text.partition('class="compared"')[2].partition("</table>")[0].split("<tr")[2:]
    assert len(lines) == 4
    for line, words in zip(
        lines,
        (
            ("DINO", "0.800", "0.740 to 0.860", over, "48 B", "12 values"),
            ("clip", "0.780", "random 0.600", "x.safetensors", "40", gained),
            ("bandpower", "baseline", "0.710", "20 B"),
            ("clip_random", "control of clip", "random weights", "20", "cpu, fp32"),
        ),
        strict=True,
    ):
        assert [word for word in words if word not in line] == []
    assert "random weights" not in lines[0]
    assert "In simulated data, DINO scores highest (balanced accuracy 0.80, 0.74 to 0.86)" in text
    assert f"trained weights gain over random ones (clip, {gain['difference']:+.2f}" in text
    assert text.count("data:image/svg+xml;base64,") == 2


def test_a_row_that_nobody_named_is_called_automatic(shown):
    shown[3]["comparisons"]["vision"]["automatic"] = ["vision-clip_random"]
    lines = page.render(*shown).partition('class="compared"')[2].partition("</table>")[0]
    assert ["automatic baseline" in line for line in lines.split("<tr")[2:]] == [False] * 3 + [True]


def test_a_comparison_stands_before_the_experiments(shown, tmp_path):
    *_, figures, spec, compared = shown
    spec |= {"experiments": study.write(tmp_path)["experiments"]}
    scored = {p.stem: json.loads(p.read_text()) for p in tmp_path.glob("scores/*.json")}
    headers = {p.stem: store.open(p).header for p in tmp_path.glob("predictions/*.h5")}
    text = page.render(scored, headers, figures, spec, compared)
    assert text.index('id="comparison-vision"') < text.index('id="group-1"')
    assert 'id="vision-clip"' not in text


def test_a_comparison_that_was_not_made_is_refused(shown):
    with pytest.raises(InputError, match="nothing was measured for comparison 'vision'"):
        page.render(*shown[:-1], {})


def test_undefined_values_are_a_dash(shown):
    found = shown[-1]["vision"]
    for member in found["members"]:
        member |= dict.fromkeys(("value", "low", "high", "control", "difference"))
        member["beside"] = []
        member["found_again"] = dict.fromkeys(member["found_again"])
        member["purity"] = {"state": [None, None], "subject": [None, None]}
        member["silhouette"] = dict.fromkeys(member["silhouette"])
        member["cost"]["rate"] = None
        if member["gain"]:
            member["gain"] |= dict.fromkeys(("difference", "low", "high", "p", "p_holm"))
    assert page.render(*shown).count("– (–)") == 12


def test_of_subjects_with_one_row_nothing_is_said_of_the_same_subject(shown):
    found = shown[-1]["vision"]
    found["rows"]["measured"] = found["rows"]["subjects"]
    for member in found["members"]:
        member["purity"]["subject"] = [None, None]
        member["silhouette"] |= {"state_within": None, "subject": None}
    text = page.render(*shown)
    assert "same subject (one row each)" in text
    assert "(–)" not in text
