"""Files in the layout of NeuroBOLT, by the configuration that is shipped; pickles of pandas."""

import copyreg
import io
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import yaml

from engram import datasets, store, views
from engram.cli import main, manifests
from engram.errors import InputError
from engram.planning.plan import Plan
from engram.readers import array_pickles, roi_series

ROOT = Path(__file__).parents[1]
STUDY = yaml.safe_load((ROOT / "config/studies/neurobolt.yaml").read_text(encoding="utf-8"))
DATASET = STUDY["datasets"]["neurobolt"]
FRAMES, SFREQ, BEGIN = 60, 250, 4.0
OTHERS = ("EOG1", "EOG2", "EMG1", "EMG2", "EMG3", "ECG")
ROIS = (
    *STUDY["views"]["neurobolt_fmri_spectrogram"]["regions"],
    "Cingulate cortex posterior",
    "global signal clean",
)


def frame(seed=0, names=ROIS, frames=FRAMES):
    values = np.random.default_rng(seed).normal(size=(frames, len(names)))
    return pd.DataFrame(values, columns=pd.Index(names, dtype=object))


def write_set(path, seed=0):
    """EEGLAB, 32 channels named as the publishers' loader names them, a marker a volume."""
    names = [name.upper() for name in DATASET["eeg"]["channels"]] + list(OTHERS)
    rng = np.random.default_rng(seed)
    times = np.arange(round((BEGIN + FRAMES * 2.1 + 3) * SFREQ)) / SFREQ
    alpha = np.array([25 if name.startswith("O") else 5 for name in names])[:, None]
    data = rng.normal(0, 5, (len(names), len(times))) + alpha * np.sin(20 * np.pi * times)
    at = [(BEGIN + i * 2.1) * SFREQ + 1 for i in range(FRAMES)]
    event = np.array(
        [(float(one), 1.0, "R149") for one in at],
        dtype=[("latency", object), ("duration", object), ("type", object)],
    )
    labels = np.array([(name,) for name in names], dtype=[("labels", object)])
    facts = {
        "setname": "x", "nbchan": len(names), "trials": 1, "pnts": len(times), "xmin": 0.0,
        "srate": float(SFREQ), "xmax": times[-1], "data": data.astype("f4"), "chanlocs": labels,
        "event": event,
    }  # fmt: skip
    scipy.io.savemat(path, {"EEG": facts}, oned_as="row")
    return data


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neurobolt")
    for one in ("EEG", "fMRI_difumo"):
        (folder / one).mkdir()
    data = write_set(folder / "EEG/sub01-scan01_eeg_pp.set")
    table = frame()
    table.to_pickle(folder / "fMRI_difumo/sub01-scan01_difumo_roi.pkl")
    return folder, data, table


def test_the_shipped_study_reads_its_layout(twin, tmp_path):
    folder, data, table = twin
    patterns = {
        "eeg": "EEG/{subject}-{scan}_eeg_pp.set",
        "fmri": "fMRI_difumo/{subject}-{scan}_difumo_roi.pkl",
    }
    manifests.files(folder, patterns, tmp_path / "m.csv")
    dataset = DATASET | {"folder": str(folder), "manifest": str(tmp_path / "m.csv")}
    plan = Plan({"datasets": {"here": dataset | {"source": None}}, "views": STUDY["views"]})
    made = {}
    for view in STUDY["views"]:
        spec = plan.spec("render", dataset="here", unit="sub01", view=view)
        recordings = datasets.read(spec, plan.raw("here", "sub01"))
        views.render(recordings, tmp_path / f"{view}.h5", spec, {})
        made[view] = store.open(tmp_path / f"{view}.h5").load()
    (found,) = recordings
    assert found.name == "sub01/scan01"
    eeg, fmri = found.signals["eeg"], found.signals["fmri"]
    assert list(eeg.channels) == DATASET["eeg"]["channels"]
    first = round(BEGIN * SFREQ)
    np.testing.assert_allclose(eeg.data, data[:26, first : first + 31500], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fmri.data, table.to_numpy().T, rtol=1e-6)
    assert (fmri.channels, fmri.start, fmri.unit) == (ROIS, pytest.approx(0), "z")
    assert found.duration == pytest.approx(FRAMES * 2.1)
    labels, spectra = made["neurobolt_vigall"], made["neurobolt_fmri_spectrogram"]
    assert labels.header["derived_from"] == "eeg"
    assert list(labels.table.index) == list(spectra.table.index)
    assert spectra.array.shape[1] == 6
    assert (labels.array == 1).any()  # a steady alpha rhythm is awake


def test_the_shipped_list_has_the_names_that_the_study_tells_how_to_find(tmp_path, capsys):
    listed = (ROOT / "config/studies/neurobolt.csv").read_text().splitlines()
    for line in listed[1:]:
        for file in line.split(",")[2:]:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
    (tmp_path / "README.md").touch()
    patterns = {
        "eeg": "EEG/{subject}-{scan}_eeg_pp.set",
        "fmri": "fMRI_difumo/{subject}-{scan}_difumo_roi.pkl",
    }
    options = [f"--{column}={pattern}" for column, pattern in patterns.items()]
    assert main(["manifest", "files", str(tmp_path), *options, "-o", f"{tmp_path}/m.csv"]) is None
    assert (tmp_path / "m.csv").read_text().splitlines() == listed
    assert "22 subjects, 22 scans, 22 of them with eeg and fmri; left out: 1 files" in (
        capsys.readouterr().err
    )
    assert main(["manifest", "files", str(tmp_path)]) == 1
    with pytest.raises(InputError, match=r"no file is called X/\{subject\}.set; correct --eeg"):
        manifests.files(tmp_path, {"eeg": "X/{subject}.set"})
    with pytest.raises(InputError, match=r"a.set: has no \{subject\}; put it where names"):
        manifests.files(tmp_path, {"eeg": "a.set"})
    with pytest.raises(InputError, match=r"gone: no such folder, nor a lock file"):
        manifests.files(tmp_path / "gone", patterns)


# ---- tables that pandas pickled ---------------------------------------------------------


@pytest.mark.parametrize(("protocol", "frames"), [(2, 30), (4, 30), (5, 30), (5, 20000)])
def test_a_pickled_table_is_what_pandas_reads(tmp_path, protocol, frames):
    """A large one is mapped, not read."""
    table = frame(frames=frames)
    table["later"] = np.arange(len(table))  # another type, so another block
    table.insert(0, "first", 1.5 * np.arange(len(table)))
    table.to_pickle(tmp_path / "a.pkl", protocol=protocol)
    found = array_pickles.load(tmp_path / "a.pkl")
    assert list(found.columns) == list(table.columns)
    np.testing.assert_array_equal(found.to_numpy(), table.to_numpy())
    assert roi_series.load(tmp_path / "a.pkl").names == tuple(table.columns)


class Old(pickle._Pickler):
    """Writes what stands for the classes of pandas before 1.3, by their names of then."""

    def save_global(self, obj, name=None):
        where = getattr(obj, "was", None)
        if where is None:
            return super().save_global(obj, name)
        self.write(pickle.GLOBAL + "{}\n{}\n".format(*where).encode())
        self.memoize(obj)
        return None

    dispatch = pickle._Pickler.dispatch | {type: save_global}


def stand_in(module, name):
    def save(self, protocol):
        return copyreg.__newobj__, (type(self),), self.state

    return type(name, (), {"was": (module, name), "__reduce_ex__": save})


def test_a_table_as_pandas_pickled_it_before_is_read(tmp_path):
    table = frame()
    frames = stand_in("pandas.core.frame", "DataFrame")()
    manager = stand_in("pandas.core.internals.managers", "BlockManager")()
    axes = [table.columns, pd.RangeIndex(len(table))]
    values = np.ascontiguousarray(table.to_numpy().T)
    blocks = [{"values": values, "mgr_locs": slice(0, len(ROIS), 1)}]
    manager.state = (axes, [values], [axes[0]], {"0.14.1": {"axes": axes, "blocks": blocks}})
    frames.state = {"_data": manager, "_typ": "dataframe", "_metadata": []}
    buffer = io.BytesIO()
    Old(buffer, 4).dump(frames)
    (tmp_path / "a.pkl").write_bytes(buffer.getvalue())
    found = array_pickles.load(tmp_path / "a.pkl")
    assert tuple(found.columns) == ROIS
    np.testing.assert_array_equal(found.to_numpy(), table.to_numpy())


class Run:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": Run()}), "asks for builtins.print, which is not part of an array"),
        (pickle.dumps(pd.Timestamp(0)), "asks for pandas.*timestamp"),
        (pickle.dumps({"a": 1.0}), "it holds no table of pandas"),
        (pickle.dumps(frame())[:200], "not a pickle of plain arrays"),
    ],
)
def test_a_pickle_that_is_no_table_or_wants_more_is_refused(tmp_path, content, message, capsys):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        roi_series.load(tmp_path / "a.pkl")
    assert capsys.readouterr().out == ""
