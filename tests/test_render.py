"""The stage `render`, with recordings made here and the kind `vigall`."""

import hashlib
import io
import sys

import numpy as np
import pytest

from engram import store, views
from engram.errors import InputError
from engram.recording import Recording, Signal

LOBES = ("O1", "O2", "P3", "T7", "F3")
SPEC = {
    "unit": "sub-01",
    "view": {"kind": "vigall", "eog": None},
    "windows": {"length": 10, "step": 5},
}


def recording(scan, duration=40.0, origin=None, seed=0):
    """Occipital alpha in noise."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(duration * 100)) / 100
    alpha = np.outer([20, 20, 8, 5, 2], np.sin(2 * np.pi * 10 * times))
    eeg = Signal(alpha + rng.normal(0, 2, alpha.shape), 100, LOBES, "uV")
    return Recording("sub-01", scan, duration, {"eeg": eeg}, origin=origin or {})


def test_all_recordings_stand_in_one_store(tmp_path):
    path = tmp_path / "vigall.h5"
    views.render([recording("a"), recording("b", 22.0)], path, SPEC, {"code": ["x@1"]})
    found = store.open(path)
    table = found.table
    assert table.index.tolist() == [
        *(f"sub-01/a/window-{i:04d}" for i in range(7)),
        *(f"sub-01/b/window-{i:04d}" for i in range(3)),
    ]
    assert table["onset"].tolist() == [*range(0, 35, 5), 0, 5, 10]
    assert found[:].tolist() == [1] * 10
    assert found.dtype == np.int8
    assert found.header["made_by"] == {"code": ["x@1"]}
    assert found.header["classes"] == ["drowsy", "alert"]
    assert found.header["settings"]["eog"] is None
    assert set(table["digest"]) == {hashlib.sha256(b"\x01").hexdigest()[:16]}


def test_equal_recordings_give_equal_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        views.render([recording("a")], tmp_path / name, SPEC, {})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_recording_shorter_than_a_window_is_named(tmp_path):
    with pytest.raises(InputError, match=r"sub-01/b: 9 s are shorter than one window of 10 s"):
        views.render([recording("a"), recording("b", 9.0)], tmp_path / "v.h5", SPEC, {})
    assert not list(tmp_path.iterdir())


def test_recordings_that_state_different_facts_are_named(tmp_path):
    given = [recording("a"), recording("b"), recording("c", origin={"simulated": True})]
    with pytest.raises(InputError, match=r"sub-01/a and sub-01/c differ in `simulated`"):
        views.render(given, tmp_path / "v.h5", SPEC, {})


def test_rows_of_different_shapes_or_numbers_are_named(tmp_path, monkeypatch):
    from engram.views import vigall

    plain = vigall.render

    def wider(recording, windows, options):
        rows = plain(recording, windows, options)
        width = 2 if recording.scan == "b" else 1
        array = np.repeat(rows.array[:, None], width, 1)
        return type(rows)(array.astype("f4" if recording.scan == "c" else "i1"), rows.table, {})

    monkeypatch.setattr(vigall, "render", wider)
    with pytest.raises(InputError, match=r"sub-01/a and sub-01/c differ in `dtype`.*i1.*f4"):
        views.render([recording("a"), recording("c")], tmp_path / "v.h5", SPEC, {})
    with pytest.raises(InputError, match=r"sub-01/a and sub-01/b differ in `shape of a row`.*1.*2"):
        views.render([recording("a"), recording("b")], tmp_path / "v.h5", SPEC, {})
    views.render([recording("a")], tmp_path / "v.h5", SPEC, {})
    found = store.open(tmp_path / "v.h5")
    assert found.table["digest"].iloc[0] == hashlib.sha256(found[0:1].tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("recordings", "changed", "said"),
    [
        ([], {}, "sub-01 holds no recording"),
        ([recording("a")], {"windows": None}, "no `windows`"),
        ([recording("a")], {"view": {"kind": "vigal"}}, "no kind 'vigal'"),
    ],
)
def test_what_cannot_be_rendered_is_refused(tmp_path, recordings, changed, said):
    with pytest.raises(InputError, match=said):
        views.render(recordings, tmp_path / "v.h5", SPEC | changed, {})


def test_progress_in_a_log_is_whole_lines(tmp_path, monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    views.render([recording("a"), recording("b")], tmp_path / "v.h5", SPEC, {})
    assert "sub-01/vigall: 100% 2/2 scans" in log.getvalue().splitlines()[-1]
    assert "\r" not in log.getvalue()
