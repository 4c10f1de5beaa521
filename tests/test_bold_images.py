"""Means of regions of BOLD images against brute force, and every file that does not fit."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from engram.datasets import bold_images
from engram.errors import InputError

SHAPE, FRAMES, AFFINE = (4, 5, 3), 30, np.diag([2.0, 2.0, 2.0, 1.0])
NAMES = {1: "Thalamus", 2: "Cuneus", 7: "Insula"}


def files(folder, atlas=None, affine=AFFINE, unit="sec", tr=2.0, names=NAMES, confounds=None):
    """The files of a scan, its data and its atlas."""
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
    found = ["bold.nii.gz", "atlas.nii.gz", "atlas.tsv"]
    if confounds is not None:
        confounds.to_csv(folder / "confounds.tsv", sep="\t", index=False, na_rep="n/a")
        found.append("confounds.tsv")
    return [{"file": name, "path": str(folder / name)} for name in found], data, atlas


def read(rows, **options):
    (found,) = bold_images.read("sub-01_task-rest", rows, bold_images.Options(**options))
    return found


def test_a_region_is_the_mean_of_its_voxels(tmp_path):
    rows, data, atlas = files(tmp_path)
    found = read(rows)
    fmri = found.signals["fmri"]
    assert (found.subject, found.scan, fmri.sfreq) == ("sub-01", "task-rest", 0.5)
    assert fmri.channels == tuple(NAMES.values())
    for series, number in zip(fmri.data, NAMES, strict=True):
        expected = [data[..., t][atlas == number].mean() for t in range(FRAMES)]
        np.testing.assert_allclose(series, expected, rtol=1e-5)


def test_maps_that_overlap_are_fitted_by_least_squares(tmp_path):
    rows, data, _ = files(tmp_path, names={2: "Insula", 0: "Cuneus", 1: "Thalamus"})
    maps = np.random.default_rng(2).uniform(0, 1, (*SHAPE, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(maps, AFFINE), tmp_path / "atlas-own_probseg.nii.gz")
    rows[1]["path"] = str(tmp_path / "atlas-own_probseg.nii.gz")
    found = read(rows).signals["fmri"]
    expected = np.linalg.lstsq(maps.reshape(-1, 3), data.reshape(-1, FRAMES), rcond=None)[0]
    assert found.channels == ("Insula", "Cuneus", "Thalamus")
    np.testing.assert_allclose(found.data, expected[[2, 0, 1]], rtol=1e-4)


def test_a_tr_in_milliseconds_is_read_as_seconds(tmp_path):
    assert read(files(tmp_path, unit="msec", tr=735.0)[0]).signals["fmri"].sfreq == 1 / 0.735


def test_what_confounds_explain_is_removed_and_the_mean_stays(tmp_path):
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"trans_x": rng.normal(size=FRAMES), "trans_x_derivative1": np.nan})
    table.loc[1:, "trans_x_derivative1"] = np.diff(table["trans_x"])
    rows, _, _ = files(tmp_path, confounds=table)
    raw = read(rows).signals["fmri"].data
    clean = read(rows, confounds=[*table]).signals["fmri"].data
    np.testing.assert_allclose(clean.mean(-1), raw.mean(-1), rtol=1e-5)
    design = np.column_stack([np.ones(FRAMES), table.fillna(0)])
    expected = raw.T - design @ np.linalg.lstsq(design, raw.T, rcond=None)[0]
    np.testing.assert_allclose(clean - clean.mean(-1, keepdims=True), expected.T, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"affine": np.diag([3.0, 2.0, 2.0, 1.0])}, {}, "lie elsewhere in space; resample"),
        ({"atlas": np.ones((4, 5, 4), np.int16)}, {}, r"a grid of \(4, 5, 4\), but"),
        ({"names": {1: "Thalamus", 2: "Cuneus"}}, {}, "has no name for region 7"),
        ({"unit": "unknown"}, {}, "does not say the TR"),
        ({}, {"tr": 1.5}, "header says a TR of 2 s, the dataset 1.5 s"),
        ({}, {"confounds": ["trans_x"]}, "0 tables of confounds, expected one"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, options, message):
    rows, _, _ = files(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        read(rows, **options)


def test_a_missing_atlas_is_said(tmp_path):
    rows, _, _ = files(tmp_path)
    with pytest.raises(InputError, match="atlas image of three axes, or .*: 0 files, expected"):
        read([rows[0], rows[2]])
