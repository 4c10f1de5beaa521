"""Means of regions of BOLD images against brute force, and every file that does not fit."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from engram.datasets import bold_images
from engram.errors import InputError
from engram.readers.atlases import ATLASES

SHAPE, FRAMES, AFFINE = (4, 5, 3), 30, np.diag([2.0, 2.0, 2.0, 1.0])
NAMES = {1: "Thalamus", 2: "Cuneus", 7: "Insula"}


def files(folder, atlas=None, affine=AFFINE, unit="sec", tr=2.0, names=NAMES, confounds=None):
    """A scan as a manifest lists it, its data and its atlas."""
    rng = np.random.default_rng(0)
    data = rng.normal(1000, 20, (*SHAPE, FRAMES)).astype(np.float32)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", unit)
    image.header.set_zooms((2.0, 2.0, 2.0, tr))
    nib.save(image, folder / "bold.nii.gz")
    if atlas is None:
        atlas = rng.choice([0, 1, 2, 7], SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(atlas, affine), folder / "atlas.nii.gz")
    pd.DataFrame({"index": names.keys(), "name": names.values()}).to_csv(
        folder / "atlas.tsv", sep="\t", index=False
    )
    row = {"subject": "sub-01", "scan": "task-rest", "file": "bold.nii.gz"}
    row["path"] = str(folder / "bold.nii.gz")
    if confounds is not None:
        confounds.to_csv(folder / "confounds.tsv", sep="\t", index=False, na_rep="n/a")
        row["confounds_path"] = str(folder / "confounds.tsv")
    return row, data, atlas


def read(row, image="atlas.nii.gz", **options):
    folder = Path(row["path"]).parent
    options = {"images": [str(folder / image)], "atlas": [str(folder / "atlas.tsv")]} | options
    (found,) = bold_images.read("sub-01", [row], bold_images.Options(**options))
    return found


def test_a_region_is_the_mean_of_its_voxels(tmp_path):
    row, data, atlas = files(tmp_path)
    found = read(row)
    fmri = found.signals["fmri"]
    assert (found.subject, found.scan, fmri.sfreq) == ("sub-01", "task-rest", 0.5)
    assert fmri.channels == tuple(NAMES.values())
    for series, number in zip(fmri.data, NAMES, strict=True):
        expected = [data[..., t][atlas == number].mean() for t in range(FRAMES)]
        np.testing.assert_allclose(series, expected, rtol=1e-5)


@pytest.mark.parametrize("first", [0, 1])
def test_maps_that_overlap_are_fitted_by_least_squares(tmp_path, first):
    """Maps are counted from 0, or from 1 as those of DiFuMo are."""
    names = {first + 2: "Insula", first: "Cuneus", first + 1: "Thalamus"}
    row, data, _ = files(tmp_path, names=names)
    maps = np.random.default_rng(2).uniform(0, 1, (*SHAPE, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(maps, AFFINE), tmp_path / "maps.nii.gz")
    found = read(row, "maps.nii.gz").signals["fmri"]
    expected = np.linalg.lstsq(maps.reshape(-1, 3), data.reshape(-1, FRAMES), rcond=None)[0]
    assert found.channels == ("Insula", "Cuneus", "Thalamus")
    np.testing.assert_allclose(found.data, expected[[2, 0, 1]], rtol=1e-4)


def test_atlases_by_name_and_by_file_are_put_one_below_the_other(tmp_path):
    """A known atlas numbers its regions from 1 in its published order."""
    networks = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 8
    row, data, _ = files(tmp_path)
    nib.save(nib.Nifti1Image(networks.astype(np.int16), AFFINE), tmp_path / "networks.nii.gz")
    images = [str(tmp_path / f"{name}.nii.gz") for name in ("networks", "atlas")]
    found = read(row, images=images, atlas=["buckner7", str(tmp_path / "atlas.tsv")])
    fmri = found.signals["fmri"]
    assert fmri.channels == (*ATLASES["buckner7"], *NAMES.values())
    np.testing.assert_allclose(fmri.data[2], data[networks == 3].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(fmri.data[7:], read(row).signals["fmri"].data)


def test_files_of_a_unit_are_a_scan_like_a_line_of_a_manifest(tmp_path):
    table = pd.DataFrame({"trans_x": np.random.default_rng(1).normal(size=FRAMES)})
    row, _, _ = files(tmp_path, confounds=table)
    expected = read(row, confounds=["trans_x"])
    images, atlas = [str(tmp_path / "atlas.nii.gz")], [str(tmp_path / "atlas.tsv")]
    options = bold_images.Options(images=images, atlas=atlas, confounds=["trans_x"])
    named = [{"file": one, "path": str(tmp_path / one)} for one in ("bold.nii.gz", "confounds.tsv")]
    (found,) = bold_images.read("sub-01_task-rest", named, options)
    assert found.name == expected.name == "sub-01/task-rest"
    np.testing.assert_array_equal(found.signals["fmri"].data, expected.signals["fmri"].data)
    with pytest.raises(InputError, match="a unit is one BOLD image and at most one table"):
        bold_images.read("sub-01_task-rest", named[1:], options)


def test_a_tr_in_milliseconds_is_read_as_seconds(tmp_path):
    assert read(files(tmp_path, unit="msec", tr=735.0)[0]).signals["fmri"].sfreq == 1 / 0.735


def test_what_confounds_explain_is_removed_and_the_mean_stays(tmp_path):
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"trans_x": rng.normal(size=FRAMES), "trans_x_derivative1": np.nan})
    table.loc[1:, "trans_x_derivative1"] = np.diff(table["trans_x"])
    row, _, _ = files(tmp_path, confounds=table)
    raw = read(row).signals["fmri"].data
    clean = read(row, confounds=[*table]).signals["fmri"].data
    np.testing.assert_allclose(clean.mean(-1), raw.mean(-1), rtol=1e-5)
    design = np.column_stack([np.ones(FRAMES), table.fillna(0)])
    expected = raw.T - design @ np.linalg.lstsq(design, raw.T, rcond=None)[0]
    np.testing.assert_allclose(clean - clean.mean(-1, keepdims=True), expected.T, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"affine": np.diag([3.0, 2.0, 2.0, 1.0])}, {}, "lie elsewhere in space; resample"),
        ({"atlas": np.ones((4, 5, 4), np.int16)}, {}, r"a grid of \(4, 5, 4\), but"),
        ({"names": {1: "Thalamus", 2: "Cuneus"}}, {}, "has no name for region 7 of .*atlas.nii"),
        ({"atlas": np.zeros(SHAPE, np.int16)}, {}, "atlas.nii.gz: holds no region"),
        ({"unit": "unknown"}, {}, "the TR is unknown; state `tr` of the dataset"),
        ({}, {"tr": 1.5}, "the TR is 1.5 s by the dataset, but 2 s by its header; correct one"),
        (
            {},
            {"confounds": ["trans_x"]},
            "no table of confounds; name it in the column",
        ),
        (
            {"confounds": pd.DataFrame({"trans_x": [1.0] * 9})},
            {"confounds": ["trans_x"]},
            "9 lines for 30 frames",
        ),
        (
            {"confounds": pd.DataFrame({"trans_x": ["high"] * FRAMES})},
            {"confounds": ["trans_x"]},
            "column 'trans_x' lacks values behind its first frame",
        ),
        ({}, {"images": []}, "0 `images` of atlases and 1 names in `atlas`; name one each"),
        ({}, {"atlas": ["harvard"]}, "no atlas 'harvard'; there is schaefer400_7n"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, options, message):
    row, _, _ = files(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        read(row, **options)


def test_an_image_of_three_axes_or_none_is_no_scan(tmp_path):
    row, _, _ = files(tmp_path)
    with pytest.raises(InputError, match="atlas.nii.gz: 3 axes, but a BOLD image has four"):
        read({**row, "path": str(tmp_path / "atlas.nii.gz")})
    with pytest.raises(InputError, match="atlas.tsv: not a readable NIfTI image"):
        read({**row, "path": str(tmp_path / "atlas.tsv")})


def test_the_tr_of_a_line_of_the_manifest_stands_in_for_the_header(tmp_path):
    row, _, _ = files(tmp_path, unit="unknown")
    assert read({**row, "tr": "0.8"}).signals["fmri"].sfreq == 1 / 0.8
