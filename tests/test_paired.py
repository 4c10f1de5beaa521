"""EEG and fMRI of one scan on one clock: against cutting by hand, and each bad line by name."""

import mne
import numpy as np
import pandas as pd
import pytest

from engram import datasets, store, views
from engram.errors import InputError
from engram.planning import component_checks, dataset_checks
from engram.planning.plan import Plan

SFREQ, TR, FRAMES = 100.0, 2.0, 40
BEGIN = 7.3  # s of EEG before the first volume
NAMES = ["Thalamus", "Cuneus"]
HEADER = "subject,scan,eeg,fmri,offset,labels\n"
DATASET = {
    "kind": "paired", "manifest": "scans.csv", "windows": {"length": 10, "step": 5},
    "fmri": {"kind": "roi_series", "tr": TR},
}  # fmt: skip
VIEWS = {
    "eeg": {"kind": "multitaper", "signal": "eeg", "fmax": 40},
    "fmri": {"kind": "timeseries", "standardize": "off"},
    "slow": {
        "kind": "multitaper", "signal": "fmri", "regions": ["Cuneus"], "window": 20, "step": 2,
        "time_bandwidth": 2, "n_tapers": 3, "fmin": 0.05, "fmax": 0.2, "lag": 4,
    },
    "state": {"kind": "annotations", "classes": ["a", "b"]},
    "vigall": {"kind": "vigall", "eog": None},
}  # fmt: skip


def series(seed=0, frames=FRAMES):
    return np.random.default_rng(seed).normal(100, 1, (len(NAMES), frames)).astype(np.float32)


def triggers(count=FRAMES, tr=TR, begin=BEGIN):
    return [(begin + i * tr, 0.0, "Response/R128") for i in range(count)]


class Study:
    """A folder of EEG files, tables and a manifest."""

    def __init__(self, folder):
        self.folder, self.lines, self.options = folder, [], {}

    def eeg(self, name, events=(), seconds=90.0, seed=0):
        values = np.random.default_rng(seed).normal(0, 2e-5, (2, round(seconds * SFREQ)))
        info = mne.create_info(["O1", "O2"], SFREQ, "eeg")
        raw = mne.io.RawArray(values, info, verbose="error")
        if events:
            raw.set_annotations(mne.Annotations(*map(list, zip(*events, strict=True))))
        raw.save(self.folder / name, verbose="error", overwrite=True)
        return values

    def fmri(self, name, **how):
        values = series(**how)
        pd.DataFrame(values.T, columns=NAMES).to_csv(self.folder / name, index=False)
        return values

    def line(self, *cells):
        self.lines.append(",".join(cells))

    def plan(self):
        (self.folder / "scans.csv").write_text(HEADER + "\n".join(self.lines) + "\n")
        dataset = DATASET | {"folder": str(self.folder)} | self.options
        component_checks.check_component("datasets", "here", dataset)
        return Plan({"datasets": {"here": dataset}, "views": VIEWS})

    def read(self, unit="s1", view="eeg"):
        plan = self.plan()
        spec = plan.spec("render", dataset="here", unit=unit, view=view)
        return datasets.read(spec, plan.raw("here", unit)), spec

    def render(self, view, unit="s1"):
        recordings, spec = self.read(unit, view)
        path = self.folder / f"{unit}-{view}.h5"
        views.render(recordings, path, spec, {})
        return store.open(path).load()


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


@pytest.fixture
def paired(study):
    """One scan of both, the EEG with triggers, some of it marked bad."""
    study.values = study.eeg("a_raw.fif", [*triggers(), (40.0, 2.0, "BAD jump"), (12, 9, "a")])
    study.series = study.fmri("a.csv")
    study.line("s1", "one", "a_raw.fif", "a.csv", "", "")
    study.options = {"triggers": "R128"}
    return study


# ---- one clock --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "cell"),
    [({"triggers": "R128"}, ""), ({"triggers": "Response/R128"}, ""), ({"offset": BEGIN}, ""),
     ({"first_volume": "R128"}, ""), ({"triggers": "R9"}, str(BEGIN))],
)  # fmt: skip
def test_both_are_cut_to_the_time_that_both_have_however_the_offset_is_said(paired, options, cell):
    paired.options = options
    paired.lines = [f"s1,one,a_raw.fif,a.csv,{cell},"]
    (found,), _ = paired.read()
    assert found.duration == pytest.approx(FRAMES * TR)
    eeg, fmri = found.signals["eeg"], found.signals["fmri"]
    first = round(BEGIN * SFREQ)
    np.testing.assert_allclose(
        eeg.data, 1e6 * paired.values[:, first : first + round(80 * SFREQ)], rtol=1e-4, atol=1e-4
    )
    assert eeg.start == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(fmri.data, paired.series, rtol=1e-5)
    assert (fmri.start, fmri.sfreq, fmri.unit) == (pytest.approx(0), 1 / TR, "BOLD")
    event = found.events[found.events["description"] == "a"].iloc[0]
    assert (event["onset"], event["duration"]) == (pytest.approx(12 - BEGIN), pytest.approx(9))
    assert found.bad["onset"].tolist() == [pytest.approx(40 - BEGIN)]
    told = found.origin["recorded"]["one"]
    assert (told["fmri_begins_s"], told["both_s"]) == (BEGIN, 80)


@pytest.mark.parametrize("hair", [4e-7, -3e-3])
def test_an_offset_between_two_samples_moves_no_window(paired, hair):
    """Times in files are rounded: no column of a spectrogram may be lost, no frame be another."""
    paired.options = {"offset": BEGIN}
    exact = {view: paired.render(view) for view in ("eeg", "slow", "fmri")}
    paired.options = {"offset": BEGIN + hair}
    for view, rows in exact.items():
        found = paired.render(view)
        np.testing.assert_array_equal(found.array, rows.array)
        pd.testing.assert_frame_equal(found.table, rows.table)


def test_an_eeg_that_begins_later_or_ends_sooner_shortens_the_recording_alone(study):
    """Frames before it are kept for what is computed from them."""
    values = study.eeg("a_raw.fif", seconds=50)
    table = study.fmri("a.csv")
    study.line("s1", "one", "a_raw.fif", "a.csv", "-5", "")
    (found,), _ = study.read()
    assert found.duration == 50
    assert found.signals["eeg"].data.shape == values.shape
    assert found.signals["fmri"].start == -5
    assert found.signals["fmri"].data.shape == table.shape
    rows = study.render("fmri").array
    first = np.round((np.arange(9) * 5 + 5) / TR).astype(int)  # frame at which a window begins
    np.testing.assert_allclose(rows, [table[:, i : i + 5] for i in first], rtol=1e-5)


def test_volumes_that_the_table_lacks_at_its_start_are_counted(paired):
    paired.eeg("a_raw.fif", triggers(FRAMES + 3), seconds=100)
    paired.options["dropped"] = 3
    (found,), _ = paired.read()
    assert found.origin["recorded"]["one"]["fmri_begins_s"] == pytest.approx(BEGIN + 3 * TR)


def test_triggers_may_be_codes_of_a_channel(study):
    code = np.zeros(9000)
    code[(np.round((BEGIN + TR * np.arange(FRAMES)) * SFREQ)).astype(int)] = 5
    values = np.vstack([np.random.default_rng(0).normal(0, 2e-5, (1, 9000)), code])
    info = mne.create_info(["O1", "TRIG"], SFREQ, ["eeg", "stim"])
    mne.io.RawArray(values, info, verbose="error").save(study.folder / "a_raw.fif", verbose="error")
    study.fmri("a.csv")
    study.line("s1", "one", "a_raw.fif", "a.csv", "", "")
    study.options = {"triggers": "TRIG:5", "eeg": {"event_channels": ["TRIG"]}}
    (found,), _ = study.read()
    assert found.origin["recorded"]["one"]["fmri_begins_s"] == BEGIN


# ---- views ------------------------------------------------------------------------------


def test_views_of_both_have_the_same_rows_and_what_is_bad_in_the_eeg_stays_there(paired):
    made = {view: paired.render(view) for view in ("eeg", "fmri", "slow", "state")}
    names = [list(one.table.index) for one in made.values()]
    assert names == [names[0]] * 4
    assert len(names[0]) == 15
    bad = made["eeg"].table.query("exclude == 'BAD jump'")
    assert bad["onset"].tolist() == [25.0, 30.0]  # 32.7 to 34.7 s of the shared time
    assert (made["fmri"].table["exclude"] == "").all()
    assert "BAD jump" not in set(made["state"].table["exclude"])  # not made from the EEG
    assert "BAD jump" not in set(made["slow"].table["exclude"])
    assert {"", "outside recording"} >= set(made["slow"].table["exclude"])  # no threshold in uV
    np.testing.assert_allclose(made["fmri"].array[1], paired.series[:, 2:7], rtol=1e-5)
    labels = dict(zip(names[0], made["state"].array, strict=True))
    assert labels["s1/one/window-0001"] == 0  # 5 to 15 s: "a" covers 4.7 to 13.7 s


def test_a_line_with_one_file_serves_the_views_of_that_one(study):
    study.eeg("a_raw.fif")
    study.fmri("b.csv")
    study.line("s1", "one", "a_raw.fif", "", "", "")
    study.line("s2", "one", "", "b.csv", "", "")
    assert len(study.render("eeg").table) == 17
    assert len(study.render("fmri", "s2").table) == 15
    with pytest.raises(InputError, match="s1/one: no signal 'fmri'; there is eeg"):
        study.render("fmri")


def test_labels_count_from_the_first_sample_of_the_eeg(paired):
    (paired.folder / "l.csv").write_text("onset,duration,label\n57.3,20,b\n")
    paired.lines = ["s1,one,a_raw.fif,a.csv,,l.csv"]
    labels = paired.render("state")  # 50 to 70 s of the time that both have
    assert np.flatnonzero(labels.array == 1).tolist() == [9, 10, 11, 12, 13]


# ---- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "options", "message"),
    [
        (triggers(), {}, "a_raw.fif: nothing says where .*a.csv begins in it; state `offset`"),
        (triggers(), {"triggers": "S1"}, "no event 'S1', which `triggers` names; there is Resp"),
        (triggers(38), {"triggers": "R128"}, "'R128' comes 38 times, but .*a.csv has 40 frames;"),
        (triggers(41), {"triggers": "R128", "dropped": 2}, "41 times, .* 40 frames and 2 `dr"),
        (triggers(tr=2.1), {"triggers": "R128"}, "comes each 2.1 s, but .*a.csv has a TR of 2 s"),
        ([*triggers()[:9], *triggers()[10:]], {"triggers": "R128"},
         "number 10 comes 4 s after number 9, at 23.300 s, with a TR of 2 s: one is missing"),
        (triggers(tr=2.0299), {"triggers": "R128"}, "'R128' comes each 2.03 s"),
        (triggers(120, tr=2.01, begin=0), {"triggers": "R128"}, "drifts by 1.19 s against a TR"),
        (triggers(), {"triggers": "R128", "offset": 1.0}, "`offset` and `triggers` both say where"),
        (triggers(), {"offset": 95.0}, "lasts 90 s, and .*a.csv lies from 95 to 175 s of it: they "
                                       "share no time"),
        ([*triggers(), (30.0, 0.0, "boundary")], {"offset": 1.0},
         "a_raw.fif: samples were cut out after 30 s, so that its seconds fit"),
        (triggers(), {"offset": 1.0, "dropped": -1}, "dropped: -1 volumes"),
    ],
)  # fmt: skip
def test_what_does_not_bring_both_together_is_refused(study, events, options, message):
    study.eeg("a_raw.fif", events, seconds=250 if len(events) > 100 else 90)
    study.fmri("a.csv")
    study.line("s1", "one", "a_raw.fif", "a.csv", "", "")
    study.options = options
    with pytest.raises(InputError, match=message):
        study.read()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s1,one,,,,", "scans.csv, line 2: no value for `eeg` nor `fmri`; every line needs one"),
        ("s1,one,a_raw.fif,a.csv,early,", "offset 'early' in the manifest is no number"),
        ("s1,one,a_raw.fif,,0,\ns1,two,a_raw.fif,b.csv,0,", "lines 2 and 3: the same file a_raw"),
        ("s1,one,,a.csv,0,\ns1,two,b_raw.fif,a.csv,0,", "lines 2 and 3: the same file a.csv"),
        ("s1,one,gone_raw.fif,a.csv,0,", "gone_raw.fif is missing"),
    ],
)  # fmt: skip
def test_a_line_that_does_not_say_it_is_refused(study, line, message):
    study.eeg("a_raw.fif")
    study.fmri("a.csv")
    study.lines = [line]
    with pytest.raises(InputError, match=message):
        study.read()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmri": {"kind": "nsd"}}, "datasets.here.fmri.kind: no kind 'nsd'; there is roi_series"),
        ({"fmri": {"kind": "roi_series", "tr": "2"}}, "datasets.here.fmri.tr: expected a number"),
        ({"eeg": {"chanels": ["O1"]}}, "here.eeg.chanels: unknown key .* did you mean 'channels'"),
        ({"fmri": {"kind": "bold_images"}}, "datasets.here.fmri: `images` is missing"),
        ({"fmri": {"atlas": ["gone.csv"]}}, "datasets.here.atlas: no file gone.csv"),
    ],
)  # fmt: skip
def test_options_of_the_parts_are_checked_like_those_of_their_kinds(paired, options, message):
    paired.options |= options
    with pytest.raises(InputError, match=message):
        paired.plan().named_files("datasets", "here")


def test_pairs_are_listed_in_a_manifest():
    dataset = {"kind": "paired", "units": ["a"], "files": ["{unit}.fif", "{unit}.csv"]}
    with pytest.raises(InputError, match=r"datasets.x: kind 'paired' needs a `manifest` with the"):
        dataset_checks.check_dataset("datasets.x", dataset)


def test_a_job_feels_the_kinds_of_its_parts_and_no_other_column(paired):
    plan = paired.plan()
    modules = plan.modules("render", dataset="here", unit="s1", view="eeg")
    assert {"engram.datasets.paired", "engram.datasets.roi_series"} <= set(modules)
    (row,) = plan.spec("render", dataset="here", unit="s1", view="eeg")["rows"]
    assert row.keys() == {"subject", "scan", "eeg", "fmri", "offset", "labels"}
