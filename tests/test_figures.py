"""Figures: what they show is what the stores and scores say."""

import base64
import io
import json

import numpy as np
import pandas as pd
import pytest
import sklearn
import study
from PIL import Image
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from engram import store
from engram.errors import InputError
from engram.figures import latent_map, style, visible
from engram.figures.confusion import confusion_figure
from engram.figures.curves import curves_figure
from engram.figures.examples import choose, examples_figure
from engram.figures.map_figure import panels
from engram.figures.subjects import subjects_figure
from engram.measures import neighbours
from engram.measures.inference import holm
from engram.store import Rows, json_file


@pytest.fixture
def rng():
    return np.random.default_rng(1)


# ---- statistics -----------------------------------------------------------------------


def test_holm_follows_its_definition():
    # sorted: 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04, then never less than the one before
    adjusted = holm([0.01, 0.04, np.nan, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])
    assert np.isnan(holm([np.nan])).all()


@pytest.mark.parametrize("k", [1, 5, 20])
def test_purity_counts_neighbours_of_the_same_label(rng, k):
    latent, labels = rng.standard_normal((90, 6)), rng.integers(3, size=90)
    search = NearestNeighbors(n_neighbors=k, metric="cosine").fit(latent)
    nearest = search.kneighbors(return_distance=False)
    expected = (labels[nearest] == labels[:, None]).mean()
    found, chance = neighbours.purity(latent, labels, k=k)
    assert found == pytest.approx(expected, abs=1e-12)
    assert chance == pytest.approx(np.mean([(labels == y).sum() - 1 for y in labels]) / 89)


def test_purity_of_blocks_of_rows_is_that_of_all_at_once(rng):
    latent, labels = rng.standard_normal((300, 6)), rng.integers(3, size=300)
    pairs = np.arange(300) // 2
    whole = neighbours.purity(latent, labels, pairs, k=7)
    with sklearn.config_context(working_memory=0.05):  # MiB, of which all distances take 0.7
        assert neighbours.purity(latent, labels, pairs, k=7) == pytest.approx(whole)


def test_a_silhouette_of_one_group_or_of_single_rows_is_undefined(rng):
    latent = rng.standard_normal((9, 2))
    assert np.isnan(neighbours.silhouette(latent, np.zeros(9)))
    assert np.isnan(neighbours.silhouette(latent, np.arange(9)))


def test_purity_can_leave_out_neighbours_of_the_same_subject(rng):
    latent, labels, subject = rng.standard_normal((40, 4)), np.arange(40) % 2, np.arange(40) // 10
    unit = latent / np.linalg.norm(latent, axis=1, keepdims=True)
    shares = []
    for i in range(40):
        others = np.flatnonzero(subject != subject[i])
        nearest = others[np.argsort(-(unit[others] @ unit[i]))[:7]]
        shares.append((labels[nearest] == labels[i]).mean())
    found, chance = neighbours.purity(latent, labels, subject, k=7)
    assert found == pytest.approx(np.mean(shares))
    assert chance == pytest.approx(0.5)


def test_where_few_rows_can_be_neighbours_all_of_them_are(rng):
    """Chance and purity are then the same share, of each row's own possible neighbours."""
    latent, labels, own = (
        rng.standard_normal((7, 3)),
        np.array([0, 0, 0, 1, 1, 0, 1]),
        [0] * 4 + [1] * 3,
    )
    share = [(labels[np.array(own) != own[i]] == labels[i]).mean() for i in range(7)]
    found, chance = neighbours.purity(latent, labels, own)
    assert found == pytest.approx(np.mean(share))
    assert chance == pytest.approx(np.mean(share))


def test_twenty_neighbours_are_asked_unless_said_otherwise(rng):
    latent, labels = rng.standard_normal((90, 6)), rng.integers(3, size=90)
    assert neighbours.purity(latent, labels) == neighbours.purity(latent, labels, k=20)
    assert neighbours.purity(latent, labels) != neighbours.purity(latent, labels, k=10)


def test_purity_of_a_single_subject_is_undefined_among_others(rng):
    found, chance = neighbours.purity(rng.standard_normal((9, 2)), np.arange(9) % 2, np.zeros(9))
    assert np.isnan(found)
    assert np.isnan(chance)


def test_purity_where_no_two_rows_have_a_label_is_undefined(rng):
    assert np.isnan(neighbours.purity(rng.standard_normal((9, 2)), np.arange(9))).all()


def test_a_space_that_knows_the_subject_alone_says_so(rng):
    subject = np.repeat(["a", "b", "c"], 30)
    latent = 20 * np.eye(3)[np.repeat(np.arange(3), 30)] + rng.standard_normal((90, 3))
    table = pd.DataFrame({"subject": subject, "state": np.tile(["x", "y"], 45)})
    by_state, by_state_elsewhere, by_subject = neighbours.summary(latent, table)
    assert by_subject["purity"] == 1
    assert by_subject["silhouette"] > 0.9
    assert abs(by_state["purity"] - 0.5) < 0.1
    state = table["state"].to_numpy()
    assert by_state["silhouette"] == pytest.approx(
        silhouette_score(latent, state, metric="cosine"), abs=1e-12
    )
    assert by_subject["silhouette"] == pytest.approx(
        silhouette_score(latent, subject, metric="cosine"), abs=1e-12
    )
    assert by_state_elsewhere["silhouette"] is None
    elsewhere = neighbours.purity(latent, state, subject)
    assert (by_state_elsewhere["purity"], by_state_elsewhere["chance"]) == elsewhere
    assert elsewhere[0] != by_state["purity"]
    assert abs(by_state_elsewhere["purity"] - 0.5) < 0.1


# ---- pictures -------------------------------------------------------------------------


def tone(hertz, regions=None):
    """One row of a view, loud at one frequency, and the header of the view."""
    rows = study.table(subjects=1, windows=1)
    made = study.spectrograms(rows, np.random.default_rng(0), regions)
    frequencies = np.array(made.header["frequencies"])
    image = np.full((35, 27), -10.0)
    image[np.abs(frequencies - hertz) < 1.5] = 18
    row = np.stack([image] * len(regions)) if regions else image
    return row.astype(np.float16), made.header


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))), float)


def test_limits_are_the_ends_of_the_colour_map():
    row, header = tone(5)
    image = visible.coloured(row, header)
    assert set(map(tuple, image.reshape(-1, 3))) == {(68, 1, 84), (253, 231, 36)}
    outside = visible.coloured(np.array([[-99.0, 99.0]]), header)
    assert outside.tolist() == [[[68, 1, 84], [253, 231, 36]]]


@pytest.mark.parametrize(("hertz", "half"), [(3, "bottom"), (33, "top")])
def test_low_frequencies_are_at_the_bottom_of_a_thumbnail(hertz, half):
    brightness = decoded(visible.thumbnail(*tone(hertz))).mean(axis=(1, 2))
    assert brightness[:10].mean() != brightness[-10:].mean()
    assert (np.argmax(brightness) > len(brightness) / 2) == (half == "bottom")


def test_regions_stand_one_above_the_other():
    row, header = tone(3, regions=["Thalamus", "Cuneus"])
    row[1] = -10  # the second region is silent
    image = decoded(visible.thumbnail(row, header))
    upper, lower = image[:96], image[98:]
    assert image.shape == (194, 128, 3)
    assert upper.mean() > lower.mean() + 5
    assert "from top: Thalamus, Cuneus" in visible.legend(header)


def test_published_pictures_of_regions_stand_one_above_the_other():
    row = np.zeros((2, 57, 90, 3), np.uint8)
    row[0] = 255
    header = {"what": "picture", "regions": ["Thalamus", "Cuneus"]}
    image = decoded(visible.thumbnail(row, header))
    assert image.shape == (194, 128, 3)
    assert image[:90].mean() > 250
    assert image[104:].mean() < 5
    assert visible.legend(header).endswith("from top: Thalamus, Cuneus")
    drawn = examples_figure({"alert": ["a/1"]}, {"a/1": row}, header)
    assert [axes.get_ylabel() for axes in drawn.axes] == ["alert\nThalamus", "alert\nCuneus"]
    one = row[:1]  # a single region has an axis of its own too
    assert list(visible.regions(one, header | {"regions": ["Thalamus"]})) == ["Thalamus"]
    assert list(visible.regions(row[0], {"what": "picture", "regions": None})) == [""]


def test_pictures_are_found_by_name(tmp_path, rng):
    rows = study.table(subjects=2, windows=6)
    made = study.spectrograms(rows, rng)
    order = rng.permutation(12)
    for number, own in enumerate(np.split(order, 2)):
        part = Rows(made.array[own], made.table.iloc[own], made.header)
        store.write(tmp_path / f"{number}.h5", part)
    wanted = [*rows.index[[9, 2]], "nobody"]
    found, _ = visible.load([tmp_path / "0.h5", tmp_path / "1.h5"], wanted)
    assert set(found) == set(wanted[:2])
    np.testing.assert_array_equal(found[wanted[0]], made.array[9])
    np.testing.assert_array_equal(found[wanted[1]], made.array[2])


def test_series_are_shown_a_region_a_line_whatever_their_unit(tmp_path, rng):
    table = study.table(subjects=1, windows=4).assign(y=[0, 0, 1, 1])
    series = 1e4 + 50 * rng.normal(size=(4, 5, 30)).astype(np.float32)
    header = {"what": "timeseries", "tr": 2.0, "channels": list("abcde"), "axes": 2}
    store.write(tmp_path / "rois.h5", Rows(series, table, header))
    rows, shown = visible.load([tmp_path / "rois.h5"], table.index)
    image = visible.coloured(rows[table.index[0]], shown)
    assert image.shape == (5, 30, 3)
    levels = image.mean((1, 2))  # every region about a middle grey
    assert ((levels > 100) & (levels < 155)).all()
    made = examples_figure(choose(table, study.CLASSES, n=2), rows, shown)
    axes = next(one for one in made.axes if one.get_visible())
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 60), (5, 0))


def test_a_view_that_is_no_picture_is_refused(tmp_path):
    table = study.table(subjects=1, windows=2)
    path = tmp_path / "labels.h5"
    store.write(path, Rows(np.zeros(2, np.int8), table, {"what": "labels"}))
    with pytest.raises(InputError, match=r"labels\.h5.*spectrograms, pictures or series"):
        visible.load([path], table.index)


def test_examples_are_of_their_class_and_of_many_subjects():
    table = study.table(subjects=6, windows=20)
    chosen = choose(table, study.CLASSES, n=5)
    for y, name in enumerate(study.CLASSES):
        rows = table.loc[chosen[name]]
        assert (rows["y"] == y).all()
        assert rows["subject"].nunique() == 5
    assert choose(table, study.CLASSES, n=5) == chosen
    unequal = table[(table["subject"] == "sub-01") | (table["window"] == 7)]
    assert unequal.loc[choose(unequal, ["drowsy"], n=4)["drowsy"], "subject"].nunique() == 4
    assert len(choose(table[table["subject"] == "sub-01"], study.CLASSES, n=99)["alert"]) == 10


def test_frequency_axis_of_examples_matches_the_rows():
    row, header = tone(10)
    name = "sub-01/scan-01/window-0000"
    axes = examples_figure({"alert": [name]}, {name: row}, header).axes[0]
    (image,) = axes.images
    left, right, bottom, top = image.get_extent()
    shown = image.get_array()
    loudest = int(np.argmax(shown.mean(axis=1)))
    assert image.origin == "upper"
    assert bottom < top
    assert top - (loudest + 0.5) * (top - bottom) / 35 == pytest.approx(
        header["frequencies"][loudest]
    )
    assert left + 0.5 * (right - left) / 27 == pytest.approx(header["times"][0])
    assert image.get_clim() == (-10, 18)


# ---- figures of one experiment ----------------------------------------------------------


def test_every_subject_is_a_dot(rng):
    scored = study.scores("clip", study.table(), 0.8, rng, "bandpower")
    scored["metrics"][0]["subjects"]["sub-03"] = None
    axes = subjects_figure(scored).axes[0]
    places = np.concatenate([c.get_offsets() for c in axes.collections])
    for row_number, row in enumerate(scored["metrics"]):
        drawn = {round(x, 9) for x, y in places if abs(y - row_number) < 0.3}
        values = {round(v, 9) for v in [*row["subjects"].values(), row["value"]] if v is not None}
        assert values | {row["chance"], row["control"], 0.71} <= drawn
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "Balanced accuracy"
    assert "Brier score ↓" in names


def test_confusion_rows_add_up_to_all_of_a_class():
    (axes,) = confusion_figure([[30, 10], [0, 0]], study.CLASSES).axes
    texts = [text.get_text().strip() for text in axes.texts]
    assert texts == [
        "75 %",
        "30 windows",
        "25 %",
        "10 windows",
        "0 %",
        "0 windows",
        "0 %",
        "0 windows",
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == study.CLASSES


def test_curves_are_means_over_folds_without_the_control(rng):
    curves = study.curves(["a", "b", "c"], 2, rng)
    curves.loc[curves["run"] == 1, "validation_loss"] = 9.0
    axes = curves_figure(curves, [False, True]).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    real = curves[curves["run"] == 0]
    for label, column in (("train", "train_loss"), ("validation", "validation_loss")):
        expected = [real[real["epoch"] == epoch][column].mean() for epoch in range(12)]
        np.testing.assert_allclose(lines[label], expected)
    np.testing.assert_allclose(lines["validation, shuffled labels"], 9.0)


def test_the_same_figure_is_the_same_bytes(tmp_path, rng):
    scored = study.scores("clip", study.table(), 0.8, rng)
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        with style.styled():
            style.save(subjects_figure(scored), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert ">Balanced accuracy</text>" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("n", [2, 8, 30])
def test_colours_tell_names_apart(n):
    names = [f"sub-{i:02d}" for i in range(n)]
    found = style.colours(names)
    assert len(set(found.values())) == n
    assert style.colours(names[::-1]) == found


# ---- the latent map -----------------------------------------------------------------------


def clusters(rng, n=40):
    """Two clusters of rows, the last ten held out."""
    latent = np.repeat([[5.0, 0, 0], [0, 5, 0]], n // 2, axis=0) + 0.3 * rng.standard_normal((n, 3))
    train = np.arange(n) < n - 10
    return latent, train


@pytest.fixture
def short(monkeypatch):
    """Fewer rounds of UMAP than the 500 of its default, which takes seconds uncompiled."""
    monkeypatch.setitem(latent_map.UMAP, "n_epochs", 60)


@pytest.mark.usefixtures("short")
def test_the_map_is_fitted_on_training_rows_alone(rng):
    latent, train = clusters(rng)
    everyone = np.arange(40)
    points, fitted, settings = latent_map.place(latent, train, everyone)
    np.testing.assert_array_equal(fitted, train)
    published = {"n_neighbors": 20, "min_dist": 0.1, "metric": "cosine", "init": "random"}
    assert settings.items() >= (published | {"n_components": 2, "random_state": 0}).items()
    # other held-out rows, placed by the same fit, move no training row
    elsewhere = latent.copy()
    elsewhere[~train] = rng.standard_normal((10, 3))
    again, _, _ = latent_map.place(elsewhere, train, everyone)
    np.testing.assert_array_equal(again[train], points[train])
    # held-out rows of the second cluster lie nearer to it
    first, second = points[:20].mean(axis=0), points[20:30].mean(axis=0)
    distances = [np.linalg.norm(points[30:] - centre, axis=1) for centre in (first, second)]
    assert (distances[1] < distances[0]).all()


@pytest.mark.usefixtures("short")
def test_a_map_of_many_rows_is_fitted_on_some_training_rows(rng, monkeypatch):
    latent, train = clusters(rng)
    monkeypatch.setattr(latent_map, "FITTED", 20)
    _, fitted, settings = latent_map.place(latent, train, np.arange(40))
    assert fitted.sum() == settings["fitted_rows"] == 20
    assert not fitted[~train].any()


def test_too_few_training_rows_are_refused(rng):
    with pytest.raises(InputError, match="fewer than 4 training rows"):
        latent_map.place(rng.standard_normal((9, 2)), np.arange(9) < 3, np.arange(9))


@pytest.fixture
def stores(tmp_path, rng):
    """Latents and predictions of one experiment whose rows stand in different orders."""
    study.write(tmp_path, subjects=4, windows=8)
    latents = store.open(tmp_path / "latents/clip.h5").load()
    predictions = store.open(tmp_path / "predictions/clip.h5").load()
    order = rng.permutation(len(latents.array))
    mixed = Rows(predictions.array[order], predictions.table.iloc[order], predictions.header)
    return latents, mixed, sorted(tmp_path.glob("views/*/spectrogram.h5"))


def test_facts_of_a_point_are_joined_by_name(stores):
    latents, predictions, _ = stores
    table = latent_map.facts(latents, predictions)
    for name in latents.table.index[[0, 9, 31]]:
        own = predictions.array[predictions.table.index.get_loc(name), 0]  # run 1 is the control
        assert table.loc[name, "predicted"] == study.CLASSES[own.argmax()]
        assert table.loc[name, "probability"] == pytest.approx(own.max())
        assert table.loc[name, "state"] == study.CLASSES[predictions.table.loc[name, "y"]]


def test_rows_without_a_prediction_are_refused(stores):
    latents, predictions, _ = stores
    fewer = Rows(predictions.array[1:], predictions.table.iloc[1:], predictions.header)
    with pytest.raises(InputError, match="missing in the predictions"):
        latent_map.facts(latents, fewer)


def first_two(latent, train, shown):
    return latent[shown, :2], train[shown], {"fitted_rows": int(train.sum())}


def test_map_data_is_capped_complete_json(stores, tmp_path, monkeypatch):
    latents, predictions, view = stores
    monkeypatch.setattr(latent_map, "place", first_two)
    monkeypatch.setattr(latent_map, "SHOWN", 20)
    json_file.write(latent_map.build(latents, predictions, view), tmp_path / "map.json")
    data = json.loads((tmp_path / "map.json").read_text())
    points = data["points"]
    assert data["rows"] == 32
    assert {len(values) for values in points.values()} == {20}
    assert points["fitted"] == [part == "train" for part in points["part"]]
    assert data["simulated"] is True
    assert data["groups"][1]["silhouette"] is None
    assert data["modality"] == "eeg"
    latents.header["sources"] = ["spectrogram/clip", "fmri_spectrogram/clip"]
    assert latent_map.build(latents, predictions, view)["modality"] == "fused"
    for i in range(20):
        name = f"{points['subject'][i]}/scan-01/window-{points['onset'][i] / 15:04.0f}"
        place = latents.table.index.get_loc(name)
        assert points["x"][i] == pytest.approx(latents.array[place, 0], abs=1e-3)
        assert points["part"][i] == latents.table.loc[name, "part"]
        assert points["image"][i].startswith("data:image/webp;base64,")


def test_panels_are_coloured_by_what_they_are_called(stores, monkeypatch):
    latents, predictions, view = stores
    monkeypatch.setattr(latent_map, "place", first_two)
    data = latent_map.build(latents, predictions, view)
    made = {title: (colours, key) for title, colours, key in panels(data)}
    assert list(made) == ["state", "subject", "scan", "time in scan"]
    for title in ("state", "subject"):
        colours, key = made[title]
        assert colours == [key[value] for value in data["points"][title]]
    colours, _ = made["time in scan"]
    onset = data["points"]["onset"]
    assert colours[int(np.argmin(onset))] == "#440154"
    assert colours[int(np.argmax(onset))] == "#fde725"
