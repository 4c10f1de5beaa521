"""NIfTI images whose headers lie, by the doors that users take: one line, in bounded memory."""

import gzip
import struct
from pathlib import Path

import hostile
import nibabel as nib
import numpy as np
import pytest

from engram.datasets import bold_images
from engram.readers import nsd


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


GRID, FRAMES = (4, 5, 3), 20
#: Where a header of NIfTI-1 says what.
AT = {"dim": 40, "datatype": 70, "bitpix": 72, "pixdim": 76, "vox_offset": 108, "scl_slope": 112,
      "scl_inter": 116, "quatern": 256, "srow": 280, "qform": 252,
      "magic": 344, "sform": 254}  # fmt: skip


def nifti(values, spoil=(), tr=2.0):
    """The bytes of an image whose header is overwritten: ((field, struct format, values), ...)."""
    image = nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))
    if values.ndim == 4:
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((2, 2, 2, tr))
    content = bytearray(image.to_bytes())
    for field, form, *said in spoil:
        struct.pack_into("<" + form, content, AT[field], *said)
    return bytes(content)


def scan():
    return np.random.default_rng(0).normal(1000, 20, (*GRID, FRAMES)).astype("f4")


def atlas():
    return (np.arange(np.prod(GRID)).reshape(GRID) % 3).astype("i2")


def bold(scan_name="bold.nii", atlas_name="atlas.nii", beside=None, **options):
    """Reads a scan as stage `render` does."""
    for name, values in (("bold.nii", scan()), ("atlas.nii", atlas())):
        if name in (scan_name, atlas_name) and not Path(name).exists():
            Path(name).write_bytes(nifti(values))
    Path("names.txt").write_text("Cuneus\nInsula\n")
    options = bold_images.Options(images=[atlas_name], atlas=["names.txt"], **options)
    row = {"subject": "s", "scan": "a", "file": scan_name, "path": scan_name}
    row["confounds_path"] = beside
    return bold_images.read("s", [row], options)


HUGE = ("dim", "8h", 4, *3 * [32767], 32767, 1, 1, 1)
SPOILT = {
    "huge": [HUGE],
    "longer than the file": [("dim", "5h", 4, *GRID, 30_000)],
    "negative axes": [("dim", "5h", 4, 4, -5, 3, FRAMES)],
    "no axes": [("dim", "h", 0)],
    "too many axes": [("dim", "h", 9)],
    "NaN offset": [("vox_offset", "f", np.nan)],
    "negative offset": [("vox_offset", "f", -1e9)],
    "infinite offset": [("vox_offset", "f", np.inf)],
    "offset behind the file": [("vox_offset", "f", 3e38)],
    "offset within the header": [("vox_offset", "f", 16)],
    "NaN size of voxels": [("pixdim", "8f", *8 * [np.nan])],
    "NaN place": [("srow", "12f", *12 * [np.nan])],
    "NaN quaternion": [("sform", "h", 0), ("qform", "h", 1), ("quatern", "3f", *3 * [np.nan])],
    "complex": [("datatype", "hh", 32, 64)],
    "colours": [("datatype", "hh", 128, 24)],
    "unknown type": [("datatype", "hh", 4444, 7)],
    "NaN intercept": [("scl_slope", "ff", 2, np.nan)],
    "infinite slope": [("scl_slope", "ff", np.inf, 0)],
    "no magic": [("magic", "4s", b"n+0")],
    "NaN TR": [("pixdim", "5f", 1, 2, 2, 2, np.nan)],
    "infinite TR": [("pixdim", "5f", 1, 2, 2, 2, np.inf)],
    "negative TR": [("pixdim", "5f", 1, 2, 2, 2, -2)],
}


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("lie", SPOILT)
def test_a_bold_image_whose_header_lies(lie, name):
    content = nifti(scan(), SPOILT[lie])
    Path(name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    hostile.one_line(hostile.tried(lambda: bold(name)), name)


#: Of an atlas the sizes of voxels and the time of frames say nothing.
OF_ATLAS = [lie for lie in SPOILT if not lie.endswith(("TR", "voxels"))]


@pytest.mark.parametrize("lie", OF_ATLAS)
def test_an_atlas_whose_header_lies(lie):
    Path("x.nii.gz").write_bytes(gzip.compress(nifti(atlas(), SPOILT[lie])))
    hostile.one_line(hostile.tried(lambda: bold(atlas_name="x.nii.gz")), "x.nii.gz")


@pytest.mark.parametrize("lie", OF_ATLAS)
def test_a_mask_whose_header_lies(lie):
    """Of the dataset NSD."""
    Path("x.nii.gz").write_bytes(gzip.compress(nifti(atlas(), SPOILT[lie])))
    hostile.one_line(hostile.tried(lambda: nsd.read_mask("x.nii.gz")), "x.nii.gz")


def changed(change, values):
    """An image in the ways that a file, not its header, can be wrong."""
    content = nifti(values)
    packed = gzip.compress(content)
    extended = bytearray(content[:348] + b"\1\0\0\0" + bytes(16) + content[352:])
    if change == "endless":
        hostile.zeros("x.nii.gz", content, 3 << 30)
    elif change == "large":  # consistent with itself: 2 GiB of zeros
        hostile.zeros(
            "x.nii.gz", nifti(values[..., :1], [("dim", "5h", 4, 1024, 1024, 512, 2)]), 2 << 30
        )
    elif change.startswith("extension"):
        struct.pack_into("<f", extended, AT["vox_offset"], 368)
        struct.pack_into("<i", extended, 352, int(change.split()[-1]))
        hostile.zeros("x.nii.gz", bytes(extended), 3 << 30)
    else:
        Path("x.nii.gz").write_bytes({
            "cut off": packed[:-40],
            "checksum": packed[:-8] + b"abcd" + packed[-4:],
            "values missing": gzip.compress(content[:-40]),
            "empty": b"",
            "text": b"no image\n" * 60,
            "pickle": b"\x80\x04cos\nsystem\n.",
            "header alone": gzip.compress(content[:348]),
            "half a header": gzip.compress(content[:100]),
        }[change])  # fmt: skip


CHANGES = ["endless", "extension 0", "extension 2147483632", "extension -16", "cut off",
           "checksum", "values missing", "empty", "text", "pickle", "header alone",
           "half a header"]  # fmt: skip


@pytest.mark.parametrize("change", [*CHANGES, "large"])
def test_a_bold_image_that_is_none(change):
    changed(change, scan())
    hostile.one_line(hostile.tried(lambda: bold("x.nii.gz")), "x.nii.gz")


@pytest.mark.parametrize("change", CHANGES)
def test_an_atlas_that_is_none(change):
    changed(change, atlas())
    hostile.one_line(hostile.tried(lambda: bold(atlas_name="x.nii.gz")), "x.nii.gz")


@pytest.mark.parametrize("change", CHANGES)
def test_a_mask_that_is_none(change):
    changed(change, atlas())
    hostile.one_line(hostile.tried(lambda: nsd.read_mask("x.nii.gz")), "x.nii.gz")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_there_are_no_zeros(value):
    """nilearn takes them for 0, which pulls the mean of a region there; outside they may stand."""
    inside, outside = (tuple(np.argwhere(atlas() == number)[0]) for number in (1, 0))
    values = scan()
    values[(*outside, 3)] = value
    Path("bold.nii").write_bytes(nifti(values))
    found = bold()[0].signals["fmri"].data
    np.testing.assert_allclose(found[0], scan()[atlas() == 1].mean(0), rtol=1e-5)
    values[(*inside, 3)] = value
    Path("bold.nii").write_bytes(nifti(values))
    hostile.one_line(hostile.tried(bold), "bold.nii", "1 voxels")
