"""Tables of ROI series in every format, published layouts, and each kind of bad file by name."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import savemat

from engram import datasets
from engram.datasets import roi_cohort, roi_series, roi_tensors
from engram.errors import InputError
from engram.planning.plan import Plan
from engram.readers import roi_series as reader
from engram.readers.atlases import ATLASES, named, network, same
from engram.recording import Windows
from engram.views import multitaper

NAMES = ["Thalamus", "Cuneus", "Precuneus"]


def series(regions=3, frames=40, seed=0):
    return np.random.default_rng(seed).normal(100, 2, (regions, frames)).astype(np.float32)


def csv(path, data, names=NAMES, turned=False, header=None, **how):
    """A table with the names where people put them: before the rows, or above the columns."""
    if turned:
        pd.DataFrame(data.T, columns=names).to_csv(path, index=False, **how)
    else:
        frame = pd.DataFrame(data, index=pd.Index(names, name="label_name"), columns=header)
        frame.to_csv(path, **how)
    return path


def write(path, data):
    """The same (roi, time) numbers without names in any format; the keys to read them by."""
    known = {"names": NAMES, "axes": ["roi", "time"]}
    if path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".mat":
        savemat(path, {"ROISignals": data, "TR": 2.0, "subject": "s1"})
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["a/cortex"] = np.stack([data + 1, data])
            file["a/age"] = np.arange(2.0)
        known["index"] = 1
    else:
        np.savetxt(path, data, delimiter="\t" if ".tsv" in path.name else ",")
    return known


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.npy", "a.mat", "a.h5"])
def test_any_format_holds_the_same_numbers(tmp_path, name):
    data = series()
    found = reader.load(tmp_path / name, **write(tmp_path / name, data))
    assert found.names == tuple(NAMES)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, data, rtol=1e-6)


def matlab73(path, data):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["ROISignals"] = data.T  # MATLAB writes its arrays the other way round
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def test_matlab_7_3_is_read_as_matlab_shows_it(tmp_path):
    data = series()
    found = reader.load(matlab73(tmp_path / "a.mat", data), names=NAMES, axes=["roi", "time"])
    np.testing.assert_array_equal(found.values, data)


@pytest.mark.parametrize("write", [matlab73, lambda path, data: np.save(path, data)])
def test_a_scan_is_chosen_along_the_first_axis_in_every_format(tmp_path, write):
    data = np.stack([series(), -series(), 2 * series()])
    path = tmp_path / ("a.mat" if write is matlab73 else "a.npy")
    write(path, data)
    found = reader.load(path, names=NAMES, axes=["roi", "time"], index=1)
    np.testing.assert_array_equal(found.values, -series())
    for index in (3, -1):
        with pytest.raises(InputError, match=f"no scan {index}; there are 3"):
            reader.load(path, names=NAMES, axes=["roi", "time"], index=index)


@pytest.mark.parametrize("header", [range(40), [f"t_{i}" for i in range(40)]])
def test_names_in_the_first_column_make_rows_regions(tmp_path, header):
    data = series()
    found = reader.load(csv(tmp_path / "a.csv", data, header=header))
    assert found.names == tuple(NAMES)
    np.testing.assert_allclose(found.values, data, rtol=1e-6)


def test_names_in_the_first_line_make_columns_regions(tmp_path):
    data = series()
    np.testing.assert_allclose(
        reader.load(csv(tmp_path / "a.csv", data, turned=True)).values, data, rtol=1e-6
    )
    pd.DataFrame(data.T, columns=NAMES).to_csv(tmp_path / "b.csv")  # with the index of pandas
    assert reader.load(tmp_path / "b.csv").names == tuple(NAMES)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("index", [True, False])
def test_lines_and_columns_that_only_count_are_no_data(tmp_path, header, index):
    data = series()
    for axes, table in ((["roi", "time"], data), (["time", "roi"], data.T)):
        pd.DataFrame(table).to_csv(tmp_path / "a.csv", header=header, index=index)
        found = reader.load(tmp_path / "a.csv", names=NAMES, axes=axes)
        np.testing.assert_allclose(found.values, data, rtol=1e-6)


def test_padding_at_the_end_of_all_regions_is_cut(tmp_path):
    data = series()
    data[:, 33:] = np.nan
    assert reader.load(csv(tmp_path / "a.csv", data)).values.shape == (3, 33)


def bad(change):
    data = series()
    change(data)
    return data


@pytest.mark.parametrize(
    ("write_it", "keys", "message"),
    [
        (lambda p: np.savetxt(p, series(), delimiter=","), {}, "which are the regions"),
        (
            lambda p: np.savetxt(p, series(), delimiter=","),
            {"axes": ["roi", "time"]},
            "names of its 3 regions are unknown",
        ),
        (
            lambda p: np.savetxt(p, series(), delimiter=","),
            {"axes": ["time", "roi"]},
            "40 regions of 3 frames .* look exchanged",
        ),
        (
            lambda p: np.savetxt(p, series(), delimiter=","),
            {"axes": ["time", "roi"], "names": NAMES},
            "40 regions of 3 frames, but 3 names; the axes look exchanged",
        ),
        (
            lambda p: csv(p, series()),
            {"axes": ["time", "roi"]},
            r"first column names the regions, .*\[roi, time\], but `axes`",
        ),
        (
            lambda p: csv(p, series(), header=["x", "y", *range(38)]),
            {},
            "which are the regions",
        ),
        (
            lambda p: csv(p, series()),
            {"names": ["Cuneus", "Thalamus", "Precuneus"]},
            "names its regions Thalamus.* but the dataset states Cuneus",
        ),
        (lambda p: csv(p, series(), ["a", "b", "a"]), {}, "region 'a' comes twice"),
        (
            lambda p: csv(p, bad(lambda x: x.__setitem__((1, 7), np.nan))),
            {},
            "1 of 40 values of region 'Cuneus' .* first at frame 7",
        ),
        (
            lambda p: csv(p, bad(lambda x: x.__setitem__((1, slice(30, 40)), np.nan))),
            {},
            "10 of 40 values of region 'Cuneus'",
        ),
        (
            lambda p: csv(p, bad(lambda x: x.__setitem__((1, 7), np.inf))),
            {},
            "1 of 40 values of region 'Cuneus' are NaN or infinite",
        ),
        (
            lambda p: csv(p, bad(lambda x: x.__setitem__((1, 7), np.nan)), na_rep="n/a"),
            {},
            "1 of 40 values of region 'Cuneus'",
        ),
        (
            lambda p: csv(p, bad(lambda x: x.__setitem__(2, 5))),
            {},
            "region 'Precuneus' never changes",
        ),
        (
            lambda p: csv(p, series(frames=2), header=[0, 1], columns=[0]),
            {},
            "holds 1 frames",
        ),
        (lambda p: p.write_bytes(b"\x00\x01"), {}, "not a readable table|no table"),
    ],
)
def test_a_bad_table_is_refused_by_name(tmp_path, write_it, keys, message):
    write_it(tmp_path / "a.csv")
    with pytest.raises(InputError, match=message) as error:
        reader.load(tmp_path / "a.csv", **keys)
    assert str(tmp_path / "a.csv") in str(error.value)


def test_a_region_that_changes_once_is_taken(tmp_path):
    data = series()
    data[2, :39] = 5
    np.testing.assert_allclose(reader.load(csv(tmp_path / "a.csv", data)).values, data, rtol=1e-6)


def test_an_array_of_python_objects_is_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, None]], object), allow_pickle=True)
    with pytest.raises(InputError, match="a.npy: not a readable table of numbers"):
        reader.load(tmp_path / "a.npy", names=NAMES, axes=["roi", "time"])


def test_names_of_the_first_edition_of_an_atlas_are_those_of_the_atlas(tmp_path):
    names = [name.replace("THA-VPm", "THA-MPm") for name in ATLASES["tian_s3"]]
    path = csv(tmp_path / "a.csv", series(50, 8), names, header=range(8))
    assert reader.load(path, names=ATLASES["tian_s3"]).names == ATLASES["tian_s3"]


def test_an_image_is_no_table(tmp_path):
    with pytest.raises(InputError, match="not a table of ROI series; .*by the kind `bold_images`"):
        reader.load(tmp_path / "a.nii.gz")


def test_one_of_several_entries_has_to_be_named(tmp_path):
    savemat(tmp_path / "a.mat", {"left": series(), "right": series()})
    with pytest.raises(InputError, match="several entries; there is left, right"):
        reader.load(tmp_path / "a.mat", names=NAMES, axes=["roi", "time"])


# ---- atlases ----------------------------------------------------------------------------


def test_the_two_orders_of_schaefer_are_the_same_parcels():
    seven, seventeen = ATLASES["schaefer400_7n"], ATLASES["schaefer400_17n"]
    assert sorted(map(same, seventeen)) == sorted(seven)
    assert sum(same(a) == b for a, b in zip(seventeen, seven, strict=True)) == 4
    assert all(same(a).split("_")[1] == a.split("_")[1] for a in seventeen)  # hemispheres


def test_networks_have_as_many_regions_as_published():
    of_region = [network(name) for name in named(["schaefer400_7n", "tian_s3", "buckner7"])]
    sizes = {name: of_region.count(name) for name in dict.fromkeys(of_region)}
    assert [*sizes.values()] == [61, 77, 46, 47, 26, 52, 91, 50, 7]


# ---- datasets ---------------------------------------------------------------------------


def row(path, **facts):
    return {"subject": "s1", "scan": "a", "file": path.name, "path": str(path), **facts}


def test_a_manifest_gives_recordings_with_their_conditions(tmp_path):
    data = series()
    csv(tmp_path / "a.csv", data)
    options = roi_series.Options(tr=1.5, conditions=["sex"])
    (found,) = roi_series.read("s1", [row(tmp_path / "a.csv", sex="F")], options)
    fmri = found.signals["fmri"]
    assert (found.name, found.duration, fmri.unit) == ("s1/a", 60.0, "BOLD")
    assert (fmri.sfreq, fmri.channels) == (1 / 1.5, tuple(NAMES))
    assert found.events["description"].tolist() == ["sex:F"]
    (tmp_path / "l.csv").write_text("onset,duration,label\n3,6,face\n")
    labelled = row(tmp_path / "a.csv", sex="F", labels_path=str(tmp_path / "l.csv"))
    (found,) = roi_series.read("s1", [labelled], options)
    assert found.events.to_numpy().tolist() == [[3, 6, "face"], [0, 60, "sex:F"]]


@pytest.mark.parametrize(
    ("tr", "of_row", "message"),
    [
        (None, {}, "the TR is unknown"),
        (2.0, {"tr": "1.5"}, "the TR is 1.5 s by the manifest, but 2 s by the data"),
        (2000, {}, "a TR of 2000 s"),
        (None, {"tr": "two"}, "tr 'two' in the manifest is no number"),
    ],
)
def test_a_tr_is_stated_once_in_seconds(tmp_path, tr, of_row, message):
    csv(tmp_path / "a.csv", series())
    with pytest.raises(InputError, match=message):
        roi_series.read("s1", [row(tmp_path / "a.csv", **of_row)], roi_series.Options(tr=tr))


def test_a_folder_of_tables_is_one_scan(tmp_path):
    """The layout of Brain-JEPA: subcortex, then cortex in the order of 17 networks."""
    folder, files = tmp_path / "1000001", ["fMRI.Tian.csv.gz", "fMRI.Schaefer17n400p.csv.gz"]
    folder.mkdir()
    atlases = ["tian_s3", "schaefer400_17n"]
    parts = [series(50, 8), series(400, 8, seed=1)]
    for file, atlas, data in zip(files, atlases, parts, strict=True):
        csv(folder / file, data, list(ATLASES[atlas]), header=range(8))
    options = roi_series.Options(tr=0.735, tables=files, atlas=atlases)
    (found,) = roi_series.read("s1", [row(folder)], options)
    assert found.signals["fmri"].channels == named(atlases)
    np.testing.assert_allclose(found.signals["fmri"].data, np.concatenate(parts), rtol=1e-6)

    csv(folder / "short.csv", series(400, 7), list(ATLASES[atlases[1]]), header=range(7))
    uneven = roi_series.Options(tr=0.735, tables=[files[0], "short.csv"], atlas=atlases)
    with pytest.raises(InputError, match="differ in their frames: .*Tian.* has 8, .*short.* has 7"):
        roi_series.read("s1", [row(folder)], uneven)

    exchanged = roi_series.Options(tr=0.735, tables=files[::-1], atlas=atlases)
    with pytest.raises(InputError, match="names its regions 17Networks_LH_VisCent_ExStr_1"):
        roi_series.read("s1", [row(folder)], exchanged)


def test_a_job_has_the_tables_of_a_folder_and_the_files_beside_a_scan_as_inputs(tmp_path):
    """Each under the path of its own line, whichever lines name labels; an edit of any is felt."""
    scans = [series(seed=seed) for seed in (0, 1)]
    for scan, data in zip("ab", scans, strict=True):
        (tmp_path / scan).mkdir()
        csv(tmp_path / scan / "x.csv", data)
    (tmp_path / "labels.csv").write_text("window,label\n0,1\n")
    (tmp_path / "list.csv").write_text("subject,scan,fmri,labels\ns,a,a,labels.csv\ns,b,b,\n")
    here = {
        "kind": "roi_series", "folder": str(tmp_path), "manifest": "list.csv",
        "tables": ["x.csv"], "tr": 2.0, "windows": "scan",
    }  # fmt: skip
    plan = Plan({"datasets": {"here": here}, "views": {"v": {"kind": "timeseries"}}})
    raw = plan.raw("here", "s")
    names = ["a", "labels.csv", "b", "a/x.csv", "b/x.csv"]
    assert raw == [str(tmp_path / name) for name in names]
    found = datasets.read(plan.spec("render", dataset="here", unit="s", view="v"), raw)
    for one, data in zip(found, scans, strict=True):
        np.testing.assert_allclose(one.signals["fmri"].data, data, rtol=1e-6)
    (tmp_path / "b/x.csv").unlink()
    with pytest.raises(InputError, match="datasets.here: .*b/x.csv is missing"):
        plan.raw("here", "s")


def test_bold_is_drawn_as_a_spectrogram_and_knows_no_microvolts(tmp_path):
    """A region that swings 1000 about 10,000, as raw BOLD may, is no artefact."""
    times = 2.0 * np.arange(400)
    data = 1e4 + 500 * np.sin(2 * np.pi * 0.05 * times) + series(3, 400)
    csv(tmp_path / "a.csv", data)
    (found,) = roi_series.read("s1", [row(tmp_path / "a.csv")], roi_series.Options(tr=2.0))
    options = multitaper.Options(
        signal="fmri",
        regions=["Cuneus"],
        window=60,
        step=2,
        time_bandwidth=2,
        n_tapers=3,
        fmin=0.01,
        fmax=0.2,
        standardize=True,
    )
    rows = multitaper.render(found, Windows(60, 60), options)
    used = (rows.table["exclude"] == "").to_numpy()
    assert used.sum() >= len(used) - 2
    mean = rows.array[used].astype(float).mean((0, 1, 3))
    peak = rows.header["frequencies"][int(mean.argmax())]
    assert peak == pytest.approx(0.05, abs=0.01)


# ---- cohorts ----------------------------------------------------------------------------

COHORT = roi_cohort.Options(
    tr=2.0,
    atlases={"timeseries/cortex": "own", "timeseries/buckner7": "buckner7"},
    names={"timeseries/cortex": NAMES},
    conditions=["sex"],
    facts=["age"],
)


def cohort(path, change=None):
    """Three scans of two subjects, the second shorter, in half precision."""
    x = np.random.default_rng(0).normal(size=(3, 10, 30)).astype(np.float16)
    x[1, :, 24:] = np.nan
    if change:
        change(x)
    with h5py.File(path, "w") as file:
        file["timeseries/cortex"], file["timeseries/buckner7"] = x[:, :3], x[:, 3:]
        file["long_subject_id"] = np.array(["b", "b", "a"], "S")
        file["sex"], file["age"] = np.array(["F", "F", "M"], "S"), np.array([30.5, 30.5, np.nan])
    return x


def read_cohort(path, unit="cohort"):
    return roi_cohort.read(unit, [{"file": path.name, "path": str(path)}], COHORT)


def test_a_cohort_gives_its_scans_without_padding(tmp_path):
    x = cohort(tmp_path / "a.h5")
    found = read_cohort(tmp_path / "a.h5")
    assert [one.name for one in found] == ["b/scan-01", "b/scan-02", "a/scan-01"]
    assert [one.signals["fmri"].data.shape[1] for one in found] == [30, 24, 30]
    np.testing.assert_array_equal(found[1].signals["fmri"].data, x[1, :, :24].astype(np.float32))
    assert found[0].signals["fmri"].channels == (*NAMES, *ATLASES["buckner7"])
    assert found[2].events["description"].tolist() == ["sex:M"]
    assert found[0].facts == {"age": 30.5}


def test_parts_of_a_cohort_hold_each_subject_once(tmp_path):
    cohort(tmp_path / "a.h5")
    parts = [read_cohort(tmp_path / "a.h5", f"part-{i}-of-2") for i in (1, 2)]
    assert [[one.name for one in part] for part in parts] == [
        ["b/scan-01", "b/scan-02"],
        ["a/scan-01"],
    ]
    with pytest.raises(InputError, match="no such part of 2 subjects"):
        read_cohort(tmp_path / "a.h5", "part-3-of-3")


def test_a_cohort_that_lacks_an_array_or_has_its_axes_exchanged_is_refused(tmp_path):
    x = cohort(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["sex"]
    with pytest.raises(InputError, match="no array 'sex'; there is age, long_subject_id, timeser"):
        read_cohort(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["sex"] = np.array(["F", "F", "M"], "S")
        del file["timeseries/buckner7"]
        file["timeseries/buckner7"] = x[:, 3:].swapaxes(1, 2)
    with pytest.raises(InputError, match="has 30 regions, but buckner7 has 7; the axes look exch"):
        read_cohort(tmp_path / "a.h5")


def test_a_scan_of_a_cohort_with_a_gap_is_named(tmp_path):
    cohort(tmp_path / "a.h5", lambda x: x.__setitem__((2, 1, 5), np.nan))
    with pytest.raises(InputError, match="a, scan-01: 1 of 30 values of region 'Cuneus'"):
        read_cohort(tmp_path / "a.h5")


def test_the_first_region_alone_does_not_decide_where_a_scan_ends(tmp_path):
    cohort(tmp_path / "a.h5", lambda x: x.__setitem__((0, 0, slice(20, 30)), np.nan))
    with pytest.raises(InputError, match="10 of 30 values of region 'Thalamus'"):
        read_cohort(tmp_path / "a.h5")


def test_a_length_that_contradicts_the_series_is_refused(tmp_path):
    cohort(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["ts_len"] = [30, 30, 30]
    with pytest.raises(InputError, match="b, scan-02: ts_len is 30, but the series hold 24"):
        read_cohort(tmp_path / "a.h5")


# ---- pairs of torch files -------------------------------------------------------------------


def pair(folder, x, y):
    rows = []
    for name, content in (("hca_train_x.pt", x), ("hca_train_y.pt", y)):
        torch.save(content, folder / name)
        rows.append({"unit": "train", "file": name, "path": str(folder / name)})
    return rows


@pytest.mark.parametrize("as_list", [False, True])
def test_pairs_of_torch_files_are_scans_and_labels(tmp_path, as_list):
    x = torch.randn(3, 450, 20, generator=torch.Generator().manual_seed(0))
    rows = pair(tmp_path, list(x) if as_list else x, torch.tensor([0, 1, 1]))
    found = roi_tensors.read("train", rows, roi_tensors.Options(tr=0.735))
    assert [one.subject for one in found] == ["train-00001", "train-00002", "train-00003"]
    assert found[0].signals["fmri"].channels == named(["tian_s3", "schaefer400_17n"])
    np.testing.assert_array_equal(found[2].signals["fmri"].data, x[2].numpy())
    assert found[1].facts == {"label": 1}
    assert found[1].events["description"].tolist() == ["label:1"]


class Stranger:
    pass


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.randn(3, 450, 20), [0, 1], "3 scans, but 2 labels"),
        (torch.randn(1, 20, 450), [0], "20 regions of 450 frames, .* look exchanged"),
        ([Stranger()], [0], "not a file of tensors alone"),
        ({"x": torch.randn(3)}, [0], "holds a dict"),
    ],
)
def test_a_bad_pair_of_torch_files_is_refused(tmp_path, x, y, message):
    with pytest.raises(InputError, match=message):
        roi_tensors.read("train", pair(tmp_path, x, y), roi_tensors.Options(tr=0.735))
