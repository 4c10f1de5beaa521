"""Stage extract: named features, resumed to the same bytes, from weights that never change."""

import io
import json
import re
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from engram import store
from engram.backbones import extract
from engram.backbones.timm import timm
from engram.errors import InputError
from engram.frozen.backbone import Frozen
from engram.progress import progress
from engram.store import Rows

VIT = "test_vit.r160_in1k"
FREQUENCIES = np.arange(35, 0.4, -0.75)
HEADER = {
    "what": "spectrogram",
    "axes": 2,
    "modality": "eeg",
    "unit": "dB re 1 uV^2/Hz",
    "regions": None,
    "frequencies": FREQUENCIES.tolist(),
    "limits": [-20, 20],
    "cmap": "viridis",
    "lag_s": 0.0,
    "support_s": [2.0, 2.0],
    "simulated": True,
}
MADE_BY = {"threads": 1, "device": "cpu"}


def write_view(path, array, header=HEADER, **columns):
    names = [f"sub-01/scan-01/window-{i:04d}" for i in range(len(array))]
    table = pd.DataFrame({"subject": "sub-01", "exclude": "", "digest": names}, index=names)
    store.write(path, Rows(array, table.assign(**columns), header))
    return path


def noise(*shape):
    rows = np.random.default_rng(0).normal(0, 8, (*shape, len(FREQUENCIES), 20))
    return rows.astype(np.float16)


def run(view, features, file=None, **backbone):
    extract(view, file, features, {"backbone": backbone}, MADE_BY, "cpu")
    return store.open(features)


@pytest.fixture
def view(tmp_path):
    return write_view(tmp_path / "spectrogram.h5", noise(37))


@pytest.fixture
def calls(monkeypatch):
    """Number of images of every call of a torch backbone; raises at the call `at`."""
    seen, forward = [], Frozen.__call__

    class Calls(list):
        at = None

    seen = Calls()

    def counted(self, rows):
        if len(seen) == seen.at:
            raise KeyboardInterrupt
        seen.append(len(rows))
        return forward(self, rows)

    monkeypatch.setattr(Frozen, "__call__", counted)
    return seen


def test_features_carry_names_table_and_what_made_them(view, tmp_path):
    found = run(view, tmp_path / "features.h5", kind="timm", model=VIT, seed=3)
    source = store.open(view)
    pd.testing.assert_frame_equal(found.table, source.table)
    assert found.shape == (37, 64)
    assert found.dtype == np.float32
    header = found.header
    assert header["what"] == "features"
    assert header["kind"] == "timm"
    assert (header["weights"], header["seed"]) == ("random", 3)
    assert header["view"] == {key: HEADER[key] for key in HEADER if key != "made_by"}
    assert header["made_by"] == MADE_BY | {"from": {"view": str(view), "weights": None}}
    assert re.fullmatch("[0-9a-f]{64}", header["weights_sha256"])
    assert re.fullmatch("[0-9a-f]{16}", header["fingerprint"])


def test_each_row_is_the_feature_of_that_row(view, tmp_path):
    found = run(view, tmp_path / "features.h5", kind="bandpower", statistic="mean")
    linear = 10 ** (store.open(view)[:].astype(float) / 10)
    alpha = (FREQUENCIES >= 8) & (FREQUENCIES < 12)
    expected = [10 * np.log10(np.mean(row[alpha])) for row in linear]
    np.testing.assert_allclose(
        found[:][:, found.header["columns"].index("alpha")], expected, rtol=1e-5
    )
    assert found.header["weights"] == "none"


def test_every_region_is_encoded(tmp_path):
    array = noise(11, 3)
    regions = HEADER | {"regions": ["a", "b", "c"]}
    all_at_once = run(
        write_view(tmp_path / "all.h5", array, regions), tmp_path / "f.h5", kind="timm", model=VIT
    )
    assert all_at_once.shape == (11, 3, 64)
    for region in range(3):
        one = write_view(tmp_path / f"{region}.h5", array[:, region])
        alone = run(one, tmp_path / f"f{region}.h5", kind="timm", model=VIT)
        np.testing.assert_allclose(all_at_once[:][:, region], alone[:], rtol=1e-4, atol=1e-5)


def test_pictures_are_encoded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), np.uint8)
    view = write_view(tmp_path / "picture.h5", pixels, {"what": "picture", "axes": 3})
    found = run(view, tmp_path / "features.h5", kind="timm", model=VIT)
    other = write_view(
        tmp_path / "swapped.h5", pixels[..., ::-1].copy(), {"what": "picture", "axes": 3}
    )
    swapped = run(other, tmp_path / "swapped_features.h5", kind="timm", model=VIT)
    assert found.shape == (5, 64)
    assert np.abs(found[:] - swapped[:]).max() > 1e-3


def test_a_checkpoint_file_is_used_and_named(view, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model = timm.create_model(VIT)
    path = tmp_path / "vit.safetensors"
    save_file(model.state_dict(), path)
    spec = {"kind": "timm", "model": VIT, "weights": str(path)}
    found = run(view, tmp_path / "features.h5", str(path), **spec)
    drawn = run(view, tmp_path / "random.h5", [], kind="timm", model=VIT)
    assert found.header["weights"] == "vit.safetensors"
    assert found.header["weights_sha256"] != drawn.header["weights_sha256"]
    assert np.abs(found[:] - drawn[:]).max() > 1e-3


def test_every_call_has_the_same_number_of_images(view, tmp_path, calls):
    run(view, tmp_path / "features.h5", kind="timm", model=VIT, batch=8)
    assert calls == [8] * 5


def test_a_row_has_the_same_bytes_however_many_follow(tmp_path):
    array = noise(37)
    long = run(write_view(tmp_path / "a.h5", array), tmp_path / "fa.h5", kind="timm", model=VIT)
    short = run(
        write_view(tmp_path / "b.h5", array[:5]), tmp_path / "fb.h5", kind="timm", model=VIT
    )
    np.testing.assert_array_equal(long[:5], short[:])


def test_an_interrupted_extraction_continues_to_identical_bytes(tmp_path, calls):
    view = write_view(tmp_path / "spectrogram.h5", noise(75, 2))
    model, cost = {"kind": "timm", "model": VIT, "batch": 2}, tmp_path / "cost.json"
    run(view, tmp_path / "whole.h5", **model)
    needed = len(calls)
    assert needed == 75
    calls.clear()
    calls.at = 60
    with pytest.raises(KeyboardInterrupt):
        run(view, tmp_path / "again.h5", **model)
    assert not (tmp_path / "again.h5").exists()
    calls.clear()
    calls.at = None
    extract(view, None, tmp_path / "again.h5", {"backbone": model}, MADE_BY, "cpu", cost)
    assert 15 <= len(calls) < 32
    spent = json.loads(cost.read_text())
    assert spent["images"] == 2 * len(calls)
    assert spent["rate"] == pytest.approx(spent["images"] / spent["seconds"])
    size = (tmp_path / "again.h5").stat().st_size
    assert spent["bytes_per_row"] == pytest.approx(size / 75)
    assert (spent["device"], spent["threads"], spent["precision"]) == ("cpu", 1, "fp32")
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_parts_of_other_weights_are_not_continued(tmp_path, calls):
    view = write_view(tmp_path / "spectrogram.h5", noise(75))
    calls.at = 30
    with pytest.raises(KeyboardInterrupt):
        run(view, tmp_path / "features.h5", kind="timm", model=VIT, batch=2, seed=1)
    calls.at = None
    run(view, tmp_path / "features.h5", kind="timm", model=VIT, batch=2, seed=2)
    run(view, tmp_path / "expected.h5", kind="timm", model=VIT, batch=2, seed=2)
    assert (tmp_path / "features.h5").read_bytes() == (tmp_path / "expected.h5").read_bytes()


def test_weights_that_change_during_the_extraction_leave_nothing_behind(
    view, tmp_path, monkeypatch
):
    forward = Frozen.__call__

    def training(self, rows):
        next(self.model.parameters()).data.mul_(1.0001)
        return forward(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Frozen, "__call__", training)
        with pytest.raises(RuntimeError, match="changed while it was used"):
            run(view, tmp_path / "features.h5", kind="timm", model=VIT)
    assert not (tmp_path / "features.h5").exists()
    clean = run(view, tmp_path / "features.h5", kind="timm", model=VIT)
    expected = run(view, tmp_path / "expected.h5", kind="timm", model=VIT)
    np.testing.assert_array_equal(clean[:], expected[:])


@pytest.mark.parametrize("kind", [{"kind": "bandpower"}, {"kind": "timm", "model": VIT}])
@pytest.mark.parametrize("regions", [(), (2,)])
def test_a_row_without_data_is_refused_unless_it_is_excluded(kind, regions, tmp_path):
    array = noise(6, *regions)
    array[4, ..., 3, 7] = np.nan
    view = write_view(tmp_path / "bad.h5", array)
    with pytest.raises(InputError, match=r"bad\.h5: features of 1 rows .*window-0004"):
        run(view, tmp_path / "features.h5", **kind)
    assert not (tmp_path / "features.h5").exists()

    reason = [""] * 4 + ["artefact", ""]
    view = write_view(tmp_path / "excluded.h5", array, exclude=reason)
    found = run(view, tmp_path / "features.h5", **kind)[:]
    assert np.isnan(found[4]).all()
    assert np.isfinite(np.delete(found, 4, axis=0)).all()


def test_power_of_zero_is_refused_as_band_power(tmp_path):
    array = noise(3)
    array[1] = -np.inf
    with pytest.raises(InputError, match="window-0001"):
        run(write_view(tmp_path / "silent.h5", array), tmp_path / "features.h5", kind="bandpower")


def test_a_view_of_labels_is_refused(tmp_path):
    view = write_view(tmp_path / "state.h5", np.zeros(4, np.int8), {"what": "labels"})
    with pytest.raises(InputError, match=r"state\.h5: a backbone needs .* holds labels"):
        run(view, tmp_path / "features.h5", kind="bandpower")


def test_rows_of_a_kind_that_nobody_foresaw_are_cut_by_the_axes_that_the_view_states(tmp_path):
    array = noise(4, 3)
    known = run(write_view(tmp_path / "known.h5", array), tmp_path / "a.h5", kind="bandpower")
    header = HEADER | {"what": "scalogram"}
    view = write_view(tmp_path / "new.h5", array, header)
    spec = {"backbone": {"kind": "bandpower"}, "takes": {"what": {"scalogram": []}}}
    extract(view, None, tmp_path / "b.h5", spec, MADE_BY, "cpu")
    found = store.open(tmp_path / "b.h5")
    assert found.shape == (4, 3, 7)
    np.testing.assert_array_equal(found[:], known[:])


def test_a_view_without_rows_gives_a_store_without_rows(tmp_path):
    table = store.open(write_view(tmp_path / "full.h5", noise(1))).table.iloc[:0]
    with store.resume(tmp_path / "empty.h5", table, noise(0).shape, np.float16, HEADER):
        pass
    found = run(tmp_path / "empty.h5", tmp_path / "features.h5", kind="bandpower")
    assert found.shape == (0, 7)


def test_a_full_size_clip_runs(tmp_path):
    view = write_view(tmp_path / "spectrogram.h5", noise(2))
    spec = {"kind": "open_clip", "model": "ViT-B-32-quickgelu", "batch": 2}
    found = run(view, tmp_path / "features.h5", **spec)
    assert found.shape == (2, 512)
    assert found.header["preprocessing"]["size"] == [224, 224]
    assert np.abs(found[0:1] - found[1:2]).max() > 1e-3


# ---- progress -------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_log_file_is_lines(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr("engram.progress.SECONDS_BETWEEN_LINES", 0.01)
    with progress(40, "spectrogram/clip", "images", done=10) as bar:
        for _ in range(3):
            time.sleep(0.02)
            bar.update(10)
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert lines[0].startswith("spectrogram/clip: 25% 10/40 images [")
    assert lines[-1].startswith("spectrogram/clip: 100% 40/40 images [")
    assert re.search(r"images/s\]$", lines[-1])
    assert 4 <= len(lines) <= 5


def test_progress_in_a_log_file_is_rare(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress(range(1000), "folds")) == list(range(1000))
    assert len(log.getvalue().splitlines()) == 2


def test_progress_at_a_terminal_redraws_itself(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(progress(["a", "b"], "folds")) == ["a", "b"]
    assert "\r" in screen.getvalue()


@pytest.mark.parametrize(
    ("kind", "stated", "key"),
    [
        ({"kind": "bandpower"}, {"frequencies": (FREQUENCIES * 0.99).tolist()}, "view.frequencies"),
        ({"kind": "bandpower"}, {"settings": {"sfreq": 50.0}}, "view.settings"),
        ({"kind": "bandpower"}, {"unit": "dB re 1 V^2/Hz"}, "view.unit"),
        ({"kind": "timm", "model": VIT}, {"channels": ["Oz"]}, "view.channels"),
    ],
)
def test_features_of_views_that_state_other_facts_do_not_stand_side_by_side(
    tmp_path, kind, stated, key
):
    """The features have one shape: nothing but the header says that they mean another thing."""
    made = []
    for name, header in (("a", HEADER), ("b", HEADER | stated)):
        view = write_view(tmp_path / f"{name}.h5", noise(3), header)
        run(view, tmp_path / f"{name}-features.h5", **kind)
        made.append(tmp_path / f"{name}-features.h5")
    with pytest.raises(InputError, match=f"a-features.h5 and .*b-features.h5 differ in `{key}`"):
        store.load(made)


def test_what_a_backbone_refuses_is_said_with_the_view(tmp_path):
    view = write_view(tmp_path / "s3.h5", noise(3))
    with pytest.raises(InputError, match=r"s3\.h5: backbone bandpower, bands\.high: \[30, 80\] Hz"):
        run(view, tmp_path / "features.h5", kind="bandpower", bands={"high": [30, 80]})
