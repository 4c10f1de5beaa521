"""Names of regions from the files that atlases are published with; every bad one by its line."""

import numpy as np
import pytest
from test_roi_series import csv, row, series
from test_timeseries import noise, recording, rendered, whole

from engram.datasets import roi_series
from engram.errors import InputError
from engram.planning.plan import Plan
from engram.readers import region_names
from engram.readers.atlases import ATLASES
from engram.views import timeseries

SEVEN, TIAN = ATLASES["schaefer400_7n"], ATLASES["tian_s3"]


def lut(names):
    return "".join(f"{i}\t{name}\t120\t{i % 256}\t131\t0\n" for i, name in enumerate(names, 1))


#: Files as they are published, their names and numbers.
PUBLISHED = {
    "Schaefer2018_400Parcels_7Networks_order.txt": (lut(SEVEN), SEVEN, range(1, 401)),
    "Schaefer2018_400Parcels_7Networks_order_info.txt": (
        "".join(f"{name}\n{i} 120 18 131 255\n" for i, name in enumerate(SEVEN, 1)),
        SEVEN,
        range(1, 401),
    ),
    "Schaefer2018_400Parcels_7Networks_order.lut": (
        "#$Id: made by hand $\n\n  0            NONE   0   0   0   0\n"
        + "".join(f"{i:3d}  {name}  120  18 131   0\n" for i, name in enumerate(SEVEN, 1)),
        SEVEN,
        range(1, 401),
    ),
    "Schaefer2018_400Parcels_7Networks_order_FSLMNI152_2mm.Centroid_RAS.csv": (
        "ROI Label,ROI Name,R,A,S\n"
        + "".join(f"{i},{name},-32,-42,-20\n" for i, name in enumerate(SEVEN, 1)),
        SEVEN,
        range(1, 401),
    ),
    "Tian_Subcortex_S3_3T_label.txt": ("\n".join(TIAN) + "\n", TIAN, None),
    "labels_64_dictionary.csv": (
        "Component,Difumo_names,Yeo_networks7,Yeo_networks17,GM,WM,CSF\n"
        "1,Superior frontal sulcus,DefaultB,DorsAttnB,0.7,0.1,0.2\n"
        '2,"Fusiform gyrus, left",VisCent,VisCent,0.8,0.1,0.1\n',
        ("Superior frontal sulcus", "Fusiform gyrus, left"),
        (1, 2),
    ),
    "atlas-own_dseg.tsv": (
        "index\tname\tcolor\n0\tBackground\t#000000\n7\tInsula\t#ff0000\n2\tCuneus\t#00ff00\n",
        ("Insula", "Cuneus"),
        (7, 2),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_read(tmp_path, name):
    text, names, numbers = PUBLISHED[name]
    (tmp_path / name).write_text(text)
    found = region_names.read(str(tmp_path / name))
    assert found.names == tuple(names)
    assert found.numbers == (None if numbers is None else tuple(numbers))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no region; it needs a line a region"),
        ("name\n", "names no region"),
        ("Cuneus\nInsula\nCuneus\n", "lines 1 and 3: the name 'Cuneus' comes twice; give each"),
        ("index,name\n1,Cuneus\n1,Insula\n", "lines 2 and 3: the number 1 comes twice"),
        ("index,name\n1,Cuneus\ntwo,Insula\n", "line 3: 'two' is no number of a region"),
        ("index,name\n1,Cuneus\n2,\n", "line 3: a region without a name; fill it in"),
        ("1,Cuneus\n2,Insula,left\n", "line 1: neither a name alone nor a number and a name"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        region_names.read(str(tmp_path / "own.csv"))
    assert str(error.value).startswith(str(tmp_path / "own.csv"))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InputError, match="none.csv: No such file"):
        region_names.read("none.csv")


def test_rows_come_in_the_order_of_a_file(tmp_path):
    data = noise()
    (tmp_path / "own.csv").write_text("region\nInsula\nCuneus\n")
    rows = rendered(data, regions=[str(tmp_path / "own.csv"), "Thalamus"], standardize="off")
    np.testing.assert_array_equal(rows.array[0], data[[3, 1, 0]].astype(np.float32))
    assert rows.header["channels"] == ["Insula", "Cuneus", "Thalamus"]
    found = recording(data)
    options = timeseries.Options(regions=[str(tmp_path / "own.csv"), "Insula"])
    with pytest.raises(InputError, match="region 'Insula' is named twice"):
        timeseries.render(found, whole(found), options)


def test_a_file_names_the_regions_of_a_table_in_its_order(tmp_path):
    data = series()
    np.savetxt(tmp_path / "a.csv", data, delimiter=",")
    (tmp_path / "own.txt").write_text("1 Insula 0 0 0 0\n2 Cuneus 0 0 0 0\n3 Thalamus 0 0 0 0\n")
    options = roi_series.Options(tr=2.0, axes=["roi", "time"], atlas=[str(tmp_path / "own.txt")])
    (found,) = roi_series.read("s1", [row(tmp_path / "a.csv")], options)
    assert found.signals["fmri"].channels == ("Insula", "Cuneus", "Thalamus")

    csv(tmp_path / "named.csv", data)
    with pytest.raises(InputError, match="names its regions Thalamus.* but the dataset states Ins"):
        roi_series.read("s1", [row(tmp_path / "named.csv")], options)
    with pytest.raises(InputError, match="no atlas 'difumo'; there is .*, or a file of names"):
        roi_series.read(
            "s1", [row(tmp_path / "a.csv")], roi_series.Options(tr=2.0, atlas=["difumo"])
        )


def test_files_of_names_are_inputs_of_the_views_that_they_touch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("own.csv", "order.tsv"):
        (tmp_path / name).write_text("name\nCuneus\n")
    config = {
        "datasets": {
            "here": {"kind": "roi_series", "atlas": ["tian_s3", "own.csv"]},
            "cohort": {"kind": "roi_cohort", "atlases": {"a": "own.csv", "b": "buckner7"}},
            "eeg": {"kind": "eeg_recordings"},
        },
        "views": {
            "ordered": {"kind": "timeseries", "regions": ["order.tsv", "Insula"]},
            "plain": {"kind": "timeseries"},
            "age": {"kind": "fact", "column": "age"},
        },
    }
    plan = Plan(config)
    assert plan.beside("here", "ordered") == ["own.csv", "order.tsv"]
    assert plan.beside("cohort", "plain") == ["own.csv"]
    assert plan.beside("eeg", "age") == []
    config["views"]["ordered"]["regions"] = ["orders.tsv"]
    with pytest.raises(InputError, match=r"ordered.regions: no file orders.tsv .there is 'or"):
        Plan(config).beside("here", "ordered")
