"""The simulated cohort: its layouts, its determinism, and that its traits are where it says."""

import h5py
import numpy as np
import pytest
from scipy import stats

from engram.backbones import connectome
from engram.datasets import roi_cohort, simulated_fmri
from engram.errors import InputError
from engram.readers.atlases import named, same

SMALL = simulated_fmri.Options(subjects=3, scans=2, frames=120, per_network=3, conditions=["sex"])


def files(folder, options, unit="group-01", names=("group-01.h5",)):
    rows = [{"unit": unit, "file": name, "path": str(folder / name)} for name in names]
    for row in rows:
        simulated_fmri.make(row["path"], row, options)
    return rows


def test_equal_options_give_equal_bytes(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files(tmp_path / folder, SMALL)
    one, other = ((tmp_path / folder / "group-01.h5").read_bytes() for folder in ("a", "b"))
    assert one == other


def test_a_cohort_is_written_and_read_in_the_published_layout(tmp_path):
    rows = files(tmp_path, SMALL)
    found = simulated_fmri.read("group-01", rows, SMALL)
    with h5py.File(rows[0]["path"]) as file:
        shapes = [file[key].shape for key in simulated_fmri.ARRAYS]
        assert shapes == [(6, 21, 120), (6, 3, 120), (6, 3, 120)]
        assert np.isnan(file["timeseries/tian3"][1, :, 100:]).all()
    assert [one.signals["fmri"].data.shape for one in found[:2]] == [(27, 120), (27, 100)]
    assert found[0].origin["simulated"] is True
    for one in found:
        sex, age = simulated_fmri.traits_of(one.subject, SMALL)
        assert one.facts == {"sex": sex, "age": pytest.approx(age)}
        assert one.events["description"].tolist() == [f"sex:{sex}"]
    np.testing.assert_allclose(
        found[0].signals["fmri"].data, simulated_fmri.simulate("group-01-0001", 0, SMALL), atol=2e-3
    )


def test_whole_cohorts_are_read_by_the_reader_of_published_ones(tmp_path):
    options = simulated_fmri.Options(subjects=1, frames=60)
    rows = files(tmp_path, options)
    (found,) = roi_cohort.read("group-01", rows, roi_cohort.Options(tr=2.0))
    assert found.signals["fmri"].channels == named(simulated_fmri.ARRAYS.values())


def test_tables_of_a_subject_hold_the_same_scan_in_another_order(tmp_path):
    options = simulated_fmri.Options(frames=60, conditions=["sex"])
    rows = files(tmp_path, options, "sub-01", tuple(simulated_fmri.TABLES))
    (found,) = simulated_fmri.read("sub-01", rows, options)
    fmri = found.signals["fmri"]
    assert fmri.channels == named(["tian_s3", "schaefer400_17n"])
    scan = simulated_fmri.simulate("sub-01", 0, options)
    at = {name: i for i, name in enumerate(named(simulated_fmri.ARRAYS.values()))}
    expected = scan[[at[same(name)] for name in fmri.channels]]
    np.testing.assert_allclose(fmri.data, expected, atol=1e-4)


def test_another_layout_is_refused(tmp_path):
    with pytest.raises(InputError, match="simulated are cohorts"):
        files(tmp_path, SMALL, names=("group-01.npy",))


def connectomes(effect, subjects=120):
    options = simulated_fmri.Options(per_network=4, effect=effect)
    names = [*named(simulated_fmri.ARRAYS.values())]
    held = [names[i] for i in simulated_fmri._positions(4)]
    view = {"what": "timeseries", "channels": held, "missing": []}
    fc = connectome.load(connectome.Options(), None, view, "cpu")
    units = [f"s-{i}" for i in range(subjects)]
    rows = np.stack([simulated_fmri.simulate(unit, 0, options) for unit in units])
    return fc(rows), np.array([simulated_fmri.traits_of(unit, options) for unit in units])


def test_traits_are_in_the_connectome_and_nowhere_without_an_effect():
    found = {}
    for effect in (1.0, 0.0):
        x, traits = connectomes(effect)
        p = stats.pearsonr(x, traits[:, :1], axis=0).pvalue
        found[effect] = (p < 0.01).mean()
    assert found[1.0] > 0.05
    assert found[0.0] < 0.03


def test_series_are_standardised_and_lie_in_their_band():
    scan = simulated_fmri.simulate("s", 0, SMALL)
    np.testing.assert_allclose(scan.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(scan.std(-1), 1, atol=1e-5)
    power = np.abs(np.fft.rfft(scan, axis=-1)) ** 2
    frequencies = np.fft.rfftfreq(scan.shape[-1], simulated_fmri.TR)
    assert power[:, frequencies > 0.13].sum() < 0.02 * power.sum()
