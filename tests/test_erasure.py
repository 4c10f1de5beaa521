"""What is left of inputs without the subject and confounds, and rows that are nearly copies."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scoring import experiment, inputs, switching, table
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score
from test_evaluate import scored
from test_rivals import question

from engram import store
from engram.measures import copies, erasure
from engram.scores import classification, sensitivity


def balanced(these, y):
    subjects = np.unique(these["subject"].to_numpy(str), return_inverse=True)[1]

    def each(answer):
        found = classification.scores_by_group(y[None], answer, subjects)
        return found["balanced_accuracy"][:, 0].mean(1)

    return question(these.assign(fold=these["subject"]), y, each=each)


def marked(rng, subjects=6, d=12, size=3.0):
    these = table(subjects=subjects, scans=1, windows=40)
    own = size * rng.standard_normal((subjects, d))
    return these, np.repeat(own, 40, axis=0) + rng.standard_normal((40 * subjects, d))


# ---- erasure -----------------------------------------------------------------------------


@pytest.mark.parametrize("d", [12, 300])
def test_after_erasure_no_linear_model_tells_the_training_subjects_apart(d):
    these, x = marked(np.random.default_rng(0), d=d)
    subjects = these["subject"].to_numpy(str)
    left = erasure.erased(x, *erasure.subject_axes(x, subjects))
    means = [left[subjects == name].mean(0) for name in np.unique(subjects)]
    np.testing.assert_allclose(means, np.tile(means[0], (6, 1)), atol=1e-7)
    for data, least, most in ((x, 0.99, 1), (left, 0, 0.35)):
        model = LogisticRegression(C=1e-3, max_iter=2000).fit(data, subjects)
        told = balanced_accuracy_score(subjects, model.predict(data))
        assert least <= told <= most


def test_erasure_takes_as_many_axes_as_subjects_less_one_and_no_more_than_half_the_features():
    for d, axes in ((12, 5), (6, 3)):
        these, x = marked(np.random.default_rng(1), d=d)
        _, take, put = erasure.subject_axes(x, these["subject"].to_numpy(str))
        assert take.shape == (d, axes)
        np.testing.assert_allclose(put @ take, np.eye(axes), atol=1e-8)  # once is enough


def test_confounds_are_taken_out_by_the_regression_of_scikit_learn_on_training_rows():
    rng = np.random.default_rng(2)
    z, train = rng.normal(size=(60, 3)), np.arange(40)
    x = z @ rng.normal(size=(3, 8)) + rng.normal(size=(60, 8))
    model = LinearRegression().fit(z[train], x[train])
    found = erasure.regressed(x, z, train)
    np.testing.assert_allclose(found, x - model.predict(z) + x[train].mean(0), atol=1e-10)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_the_share_of_subjects_is_not_raised_by_few_slow_rows(share):
    rng, found, naive = np.random.default_rng(3), [], []
    these = table(subjects=8, scans=2, windows=10)
    for _ in range(30):
        slow = gaussian_filter1d(rng.standard_normal((16, 30, 20)), 3, axis=1)[:, 10:20]
        slow = slow.reshape(160, 20) / slow.std() * np.sqrt(1 - share)
        x = slow + np.sqrt(share) * np.repeat(rng.standard_normal((8, 20)), 20, axis=0)
        found.append(erasure.subject_share(x, these))
        naive.append(x.reshape(8, 20, 20).mean(1).var(0).sum() / x.var(0).sum())
    assert np.mean(found) == pytest.approx(share, abs=0.06)
    if share < 0.5:
        assert np.mean(naive) > share + 0.1


# ---- what is left of a score ----------------------------------------------------------------


def left_of(found):
    return {", ".join(one["of"]): one for one in found["without"]}


def test_a_label_that_only_a_confound_carries_is_lost_without_it_and_another_one_is_kept():
    rng = np.random.default_rng(4)
    these = table(subjects=8, scans=1, windows=60)
    y = rng.integers(2, size=480)
    motion = y + 0.5 * rng.standard_normal(480)
    these = these.assign(motion=motion)
    noise = rng.standard_normal((480, 10))
    carried, own = noise.copy(), noise.copy()
    carried += 2 * np.outer(motion, rng.standard_normal(10))
    own[:, 0] += 2 * y + 0.1 * rng.standard_normal(480)
    independent = these.assign(motion=rng.standard_normal(480))
    through = sensitivity.sensitivity(balanced(these, y), carried, ["motion"])
    direct = sensitivity.sensitivity(balanced(independent, y), own, ["motion"])
    assert through["value"] > 0.75
    lost = left_of(through)["motion"]
    assert lost["low"] < 0.5 < lost["high"]
    assert lost["difference_low"] > 0.1
    assert lost["difference_p"] < 0.001
    assert direct["value"] > 0.75
    assert left_of(direct)["motion"]["value"] > direct["value"] - 0.02


def test_the_subject_is_taken_out_and_an_effect_of_every_subject_stays():
    rng = np.random.default_rng(5)
    these, x = marked(rng, subjects=8, d=40)
    y = np.tile(np.arange(40) // 5 % 2, 8)
    x[:, 0] += 5 * y
    found = sensitivity.sensitivity(balanced(these, y), x, [])
    assert found["subject_share"] == pytest.approx(0.87, abs=0.05)
    assert left_of(found)["subject"]["axes"] == 6
    assert left_of(found)["subject"]["value"] > max(0.7, found["value"] - 0.1)  # 6 of 40 axes


@pytest.mark.parametrize("of", [[], ["subject"], ["clock"], ["motion", "clock"]])
def test_what_is_taken_out_is_fitted_on_training_rows_alone(of):
    rng = np.random.default_rng(6)
    these, x = marked(rng)
    these = these.assign(motion=rng.standard_normal(240))
    y = rng.integers(2, size=240)
    asked = balanced(these, y)
    train, test = asked.folds[2]
    before, _ = sensitivity.without(asked, x, of, train)
    said = sensitivity._fitted(asked, before, train)(before[train])
    x, these, y = x.copy(), these.copy(), y.copy()
    x[test], y[test] = 1e3 * rng.standard_normal(x[test].shape), 1 - y[test]
    these.iloc[test, these.columns.get_indexer(["motion", "onset"])] = 1e6
    asked = balanced(these, y)
    after, _ = sensitivity.without(asked, x, of, train)
    np.testing.assert_array_equal(before[train], after[train])
    np.testing.assert_array_equal(said, sensitivity._fitted(asked, after, train)(after[train]))


@pytest.mark.parametrize("d", [5, 300])
def test_the_linear_model_is_the_ridge_of_scikit_learn(d):
    rng = np.random.default_rng(7)
    x, y, of_row = rng.normal(size=(80, d)), rng.normal(size=(80, 2)), rng.uniform(1, 2, 80)
    (model,) = sensitivity._ridges(x, y, of_row, [7.0])
    expected = Ridge(7.0).fit(x, y, of_row)
    np.testing.assert_allclose(model(x), expected.predict(x), atol=1e-8)


def test_sensitivity_and_copies_stand_in_the_scores_of_a_study(tmp_path):
    rng = np.random.default_rng(8)
    these = table(subjects=6)
    path = experiment(tmp_path, rng, these, switching(rng, these))
    x = inputs(tmp_path, rng, these, dims=40)
    one, two = (store.open(p).load() for p in x["spectrogram/clip"][:2])
    array = two.array.copy()
    array[:60] = one.array[:60] + 0.01 * rng.standard_normal((60, 40)).astype(np.float32)
    store.write(x["spectrogram/clip"][1], store.Rows(array, two.table, two.header))
    found = scored(tmp_path, path, x)
    assert [*left_of(found["sensitivity"])] == ["subject", "clock"]
    assert found["sensitivity"]["value"] == pytest.approx(0.5, abs=0.1)
    assert found["probes"]["near_copies"]["between"] == 60
    said = "60 pairs of rows of different subjects or sides of a fold are nearly the same, such as "
    assert [text for text in found["warnings"] if text.startswith(said)]


# ---- near copies -------------------------------------------------------------------------


def slowly(rng, these, d, width):
    """Series that hardly change from row to row, of subjects that differ."""
    n = len(these)
    x = gaussian_filter1d(rng.standard_normal((n // 40, 40, d)), width, axis=1)
    own = np.unique(these["subject"], return_inverse=True)[1]
    x = (x / x.std()).reshape(n, d) + rng.standard_normal((own.max() + 1, d))[own]
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


@pytest.mark.parametrize("d", [3, 20, 200])
@pytest.mark.parametrize("width", [0.1, 10])
def test_slow_series_and_overlapping_windows_are_no_copies(d, width):
    rng = np.random.default_rng(9)
    these = table(subjects=6, scans=2, windows=40)
    x = slowly(rng, these, d, width)
    assert copies.near_copies(x, these, rng)["pairs"] == 0
    blocked = these.assign(fold=these["window"] // 8)
    assert copies.near_copies(x, blocked, rng)["pairs"] == 0


@pytest.mark.parametrize("d", [20, 200])
def test_one_person_under_two_names_is_found_row_by_row(d, monkeypatch):
    monkeypatch.setattr(copies, "BLOCK", 100)
    rng = np.random.default_rng(10)
    these = table(subjects=6, scans=2, windows=40)
    x = slowly(rng, these, d, 0.1)
    x[400:] = x[:80] + 0.01 * rng.standard_normal((80, d))
    found = copies.near_copies(x, these, rng)
    assert (found["pairs"], found["between"], len(found["examples"])) == (80, 80, 5)
    for one, other in found["examples"]:
        assert other == one.replace("sub-00", "sub-05")


def test_a_scan_under_two_names_is_found_where_blocks_of_it_train_and_test():
    rng = np.random.default_rng(11)
    these = table(subjects=2, scans=2, windows=40)
    these = these.assign(fold=(these["window"] + 20 * (these["scan"] == "scan-1")) // 10 % 4)
    x = slowly(rng, these, 30, 0.1)
    x[40:80] = x[:40] + 0.01 * rng.standard_normal((40, 30))
    found = copies.near_copies(x, these, rng)
    assert (found["pairs"], found["between"]) == (40, 40)
