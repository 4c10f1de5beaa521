"""Decoded pictures beside what was seen, from stores to scores: brute force and planted effects."""

import json

import numpy as np
import pandas as pd
import picturing
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from engram import store
from engram.errors import InputError
from engram.figures import pictures as drawn_pictures
from engram.figures import visible
from engram.measures import pictures
from engram.scores.evaluation import COLUMNS
from engram.store import Rows

DECODERS = {"same": 1.0, "good": 0.3, "poor": 0.1, "nothing": 0.0, "other": -0.6}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(folder, paths of stores, predictions by decoder)"""
    folder = tmp_path_factory.mktemp("pictures")
    paths = picturing.write(folder, DECODERS)
    return folder, paths, {name: picturing.compared(folder, paths, name, name) for name in DECODERS}


@pytest.fixture(scope="module")
def scores(study):
    folder, _, told = study
    found = {"poor": picturing.scored(folder, "poor", told["poor"])}
    for name in ("same", "good", "nothing", "other"):
        found[name] = picturing.scored(folder, name, told[name], told["poor"])
    return found


def by_name(scores):
    return {row["metric"]: row for row in scores["metrics"]}


def test_every_picture_has_every_measure_of_its_image_and_of_others(study):
    _, paths, told = study
    told = store.open(told["good"]).load()
    n = picturing.IMAGES
    assert told.array.shape == (2 * n, 9, 7)
    assert told.header["measures"] == [
        "pixcorr", "ssim", "ssim_columns", "pixels_two_way", "pixels_distance",
        "quarters_two_way", "quarters_distance",
    ]  # fmt: skip
    seen = store.open(paths["photograph"][0]).load()
    decoded = store.open(paths["good"][1]).load()
    features = [store.open(paths[f"{v}/pixels"][-1])[:] for v in ("photograph", "good")]
    rows = np.corrcoef(features[1].reshape(n, -1), features[0].reshape(n, -1))[:n, n:]
    others = np.zeros((9, n), int)
    place = told.table["place"].iloc[n:].to_numpy()
    for shift in range(9):
        others[shift] = [np.flatnonzero(place == (place[j] + shift) % n)[0] for j in range(n)]
    for shift in (0, 1, 8):
        for j in range(n):
            i = others[shift][j]
            a, b = decoded.array[j], seen.array[i]
            assert_allclose(
                told.array[n + j, shift, :5],
                [
                    np.corrcoef(a.ravel(), b.ravel())[0, 1],
                    *pictures.ssim(*(pictures.picture(one, picturing.SIDE) for one in (a, b))),
                    np.mean([rows[j, k] < rows[j, i] for k in range(n) if k != i]),
                    1 - rows[j, i],
                ],
                atol=2e-5,
            )
    assert len({tuple(one) for one in others.T}) == n
    assert all(len(set(one)) == 9 for one in others.T)


def test_a_picture_of_itself_has_the_best_score_of_every_measure(scores):
    for name, row in by_name(scores["same"]).items():
        assert set(row) == set(COLUMNS)
        assert row["value"] == pytest.approx(0 if name.endswith("distance") else 1, abs=1e-5)
        assert row["p"] == pytest.approx(1 / 1001)


def test_pictures_that_know_nothing_or_another_image_are_at_chance(scores):
    for decoder in ("nothing", "other"):
        for name, row in by_name(scores[decoder]).items():
            assert row["p"] > 0.01
            assert abs(row["value"] - row["chance"]) < 0.25
            if name.endswith("two_way"):
                assert row["chance"] == 0.5
    assert "pixels_two_way is not above chance" in " ".join(scores["nothing"]["warnings"])


def test_a_planted_effect_is_found_with_its_interval_and_gain(scores, study):
    """In order of the shares of the true picture; intervals from the sums of a crossed design."""
    told = store.open(study[2]["good"]).load()
    poor = store.open(study[2]["poor"]).load()
    for m, (name, row) in enumerate(by_name(scores["good"]).items()):
        values, worse = (one.array[:, 0, m].reshape(2, -1) for one in (told, poor))
        sign = -1 if name.endswith("distance") else 1
        assert sign * row["difference"] > 0
        assert row["value"] == pytest.approx(values.mean(), abs=1e-6)
        assert row["difference"] == pytest.approx((values - worse).mean(), abs=1e-6)
        least, most = (0, np.inf) if sign < 0 else (0 if name.endswith("two_way") else -1, 1)
        assert least <= row["low"] <= row["value"] <= row["high"] <= most
        gain = values - worse
        residual = gain - gain.mean(1, keepdims=True) - gain.mean(0) + gain.mean()
        rest = (residual**2).sum() / 11
        images = max(2 * gain.mean(0).var(ddof=1) - rest, 0) / 24
        t = scipy.stats.t.ppf(0.975, [1, 11])
        half = np.sqrt(t[0] ** 2 * gain.mean(1).var(ddof=1) / 2 + t[1] ** 2 * images)
        expected = gain.mean() - half, gain.mean() + half
        assert_allclose([row["difference_low"], row["difference_high"]], expected, rtol=1e-4)
        assert row["p"] < 0.01
        assert row["control"] == pytest.approx(row["chance"], abs=0.1)


def test_the_null_is_that_of_shuffling_the_similarity_matrix(study, scores):
    """Its mean and spread against whole permutations of the images, by brute force."""
    _, paths, told = study
    n, rng, null = picturing.IMAGES, np.random.default_rng(4), []
    values = store.open(told["nothing"]).load()
    true = store.open(paths["photograph/pixels"][0])[:].reshape(n, -1)
    alike = [
        np.corrcoef(store.open(path)[:].reshape(n, -1), true)[:n, n:]
        for path in paths["nothing/pixels"]
    ]
    for _ in range(400):
        each = []
        for rows in alike:
            own = rows[np.arange(n), rng.permutation(n)][:, None]
            each.append((rows < own).sum() / (n * (n - 1)))
        null.append(np.mean(each))
    observed = by_name(scores["nothing"])["pixels_two_way"]
    assert values.array[:, 0, 3].mean() == pytest.approx(observed["value"], abs=1e-6)
    expected = (1 + (np.array(null) >= observed["value"]).sum()) / 401
    assert observed["p"] == pytest.approx(expected, abs=0.12)
    band = np.quantile(null, [0.025, 0.975])
    assert [observed["null_low"], observed["null_high"]] == pytest.approx(band, abs=np.std(null))


def test_dialects_and_sizes_have_names_of_their_own_and_never_meet(study):
    folder, paths, told = study
    other = picturing.compared(folder, paths, "detour", "good", dialect="mindeye")
    found = picturing.scored(folder, "detour", other)
    assert [*by_name(found)][:3] == ["pixcorr_mindeye", "ssim_mindeye", "pixels_two_way"]
    with pytest.raises(InputError, match="compared by another dialect or size"):
        picturing.scored(folder, "good", told["good"], other)


def test_flags_of_decoded_pictures_stand_with_the_scores(scores):
    assert scores["good"]["flags"] == ["simulated"]
    assert scores["good"]["protocol"] == "nsd40"
    assert scores["good"]["decoder"] == {"decoder": "good", "of": {}, "seed": 0}


def test_the_page_shows_every_score_and_pictures_to_look_at(study, tmp_path):
    """Of a decoder beside its baseline, with the pictures that it started from."""
    _, paths, told = study
    chosen = {name: told[name] for name in ("poor", "good")}
    file = picturing.page(tmp_path, paths, chosen, {"good": "poor"}, {"good": ["nothing"]})
    text = file.read_text("utf-8")
    for name in chosen:
        found = json.loads((tmp_path / f"scores/{name}.json").read_text("utf-8"))
        for row in found["metrics"]:
            for value in (row["value"], row["chance"], *row["subjects"].values()):
                assert f"{value:.3f}".replace("-", "−") in text
    assert "Are decoded pictures like what was seen, in new pictures?" in text
    assert "quarters 2-way" in text.partition('class="found"')[2].partition("</ul>")[0]
    assert "simulated data" in text
    assert "over Decoder poor" in text
    assert text.count('class="card"') == 2 * 16

    shown = json.loads((tmp_path / "figures/good/gallery.json").read_text("utf-8"))
    assert (shown["rank_by"], shown["columns"]) == ("pixcorr", ["photograph", "nothing", "good"])
    values = store.open(told["good"]).load()
    pixcorr = dict(
        zip(zip(values.table["subject"], values.table["stimulus"], strict=True),
            values.array[:, 0, 0], strict=True)
    )  # fmt: skip
    for line in shown["lines"]:
        key = line["subject"], line["stimulus"]
        assert dict(line["scores"])["pixcorr"] == pytest.approx(pixcorr[key])
        assert len(line["pictures"]) == 3
    kinds = {why: [one for one in shown["lines"] if one["why"] == why] for why in ("best", "worst")}
    ends = [kinds[why][0]["subject"] for why in kinds], [kinds[w][0]["stimulus"] for w in kinds]
    assert pixcorr[ends[0][0], ends[1][0]] == max(pixcorr.values())
    assert pixcorr[ends[0][1], ends[1][1]] == min(pixcorr.values())
    assert shown["lines"][0]["pictures"][0] == thumbnail(paths["photograph"][0], ends[1][0])
    row = f"{ends[0][0]}/{ends[1][0]}"
    own = int(ends[0][0] == "subj02")
    assert shown["lines"][0]["pictures"][2] == thumbnail(paths["good"][own], row)


def test_pictures_of_regions_stand_beside_their_controls(study, tmp_path):
    """Of a subject without a region nothing stands there."""
    paths = study[1]

    def with_regions(rows):
        subject = rows.table["subject"].iloc[0]
        names = ["V1", "random V1", "V2", "random V2"][: 4 if subject == "subj01" else 2]
        table = pd.DataFrame(
            {"subject": subject, "split": "region", "concept": names, "exclude": "region"},
            index=[f"{subject}/region/{name}" for name in names],
        ).reindex(columns=rows.table.columns, fill_value="")  # fmt: skip
        noise = np.random.default_rng(0).integers(0, 256, (len(names), *rows.array.shape[1:]))
        array = np.concatenate([rows.array, noise.astype(np.uint8)])
        return Rows(array, pd.concat([rows.table, table]), rows.header)

    changed = rewritten(tmp_path, paths, "good", with_regions)["good"]
    assert drawn_pictures.of_regions(paths["good"]) == []
    found = drawn_pictures.of_regions(changed)
    assert [(one["region"], len(one["lines"])) for one in found] == [("V1", 2), ("V2", 1)]
    expected = [thumbnail(changed[1], f"subj02/region/{name}") for name in ("V1", "random V1")]
    assert found[0]["lines"][1] == {"subject": "subj02", "pictures": expected}


def thumbnail(path, name):
    rows, header = visible.load([path], [name])
    return visible.thumbnail(rows[name], header, 144, 144)


def rewritten(folder, paths, source, change):
    """Paths in which the stores of one source are changed."""
    made = []
    for i, path in enumerate(paths[source]):
        made.append(folder / f"{i}.h5")
        store.write(made[-1], change(store.open(path).load()))
    return paths | {source: made}


def test_what_does_not_fit_is_refused(study, tmp_path):
    _, paths, _ = study

    def refused(message, paths=paths, x="good", **given):
        with pytest.raises(InputError, match=message):
            picturing.compared(tmp_path, paths, "e", x, **given)

    refused("rank_by is 'beauty'; there is pixcorr", rank_by="beauty")
    refused("size is 5; at least 11", size=5)
    refused("no features of 'clip'; there is , pixels, quarters", features=["clip"])
    refused("subjects differ|use within", experiment={"folds": "pooled"})
    refused("one side has to be responses", x="photograph")
    refused("a decoder has a `seed` of its own", experiment={"seeds": 2})
    few = rewritten(
        tmp_path / "a", paths, "good/pixels", lambda r: Rows(r.array[1:], r.table[1:], r.header)
    )
    refused("good/pixels: has other rows than good", few)
    other = rewritten(
        tmp_path / "b", paths, "good/pixels",
        lambda r: Rows(r.array, r.table, r.header | {"model": "another"}),
    )  # fmt: skip
    refused("features of different models: model is another and None", other)
    one = rewritten(
        tmp_path / "c",
        paths,
        "good",
        lambda r: Rows(r.array, r.table.assign(split="train"), r.header),
    )
    refused("no usable picture of split 'test'", one)
