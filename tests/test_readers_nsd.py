"""Files in the layout of the Natural Scenes Dataset, written by the libraries that it uses."""

import gzip
import tracemalloc

import h5py
import nibabel
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from engram.errors import InputError
from engram.readers import nsd

SHAPE, TRIALS = (9, 10, 8), 90
AFFINE = np.array([[1.8, 0, 0, -7.2], [0, 1.8, 0, -8.1], [0, 0, 1.8, -6.3], [0, 0, 0, 1]])
SMALL = {"subjects": 2, "images": 60, "shared": 12, "repetitions": 3}
PICTURES = (20, 425, 425, 3)


def write_nifti(path, values, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(values, affine, dtype=values.dtype), path)
    return path


def write_hdf5(path, name, values, **layout):
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values, **layout)
    return path


def design(subjects=8, images=10_000, shared=1_000, repetitions=3):
    """Fields as MATLAB has them: 1-based doubles, (1, n) rows."""
    rng = np.random.default_rng(0)
    stimuli = rng.permutation(shared + subjects * (images - shared)) + 1
    common, rest = np.sort(stimuli[:shared]), stimuli[shared:].reshape(subjects, -1)
    order = rng.permutation(np.repeat(np.arange(images) + 1, repetitions))
    return {
        "masterordering": order[None].astype(float),
        "subjectim": np.hstack([np.tile(common, (subjects, 1)), rest]).astype(float),
        "sharedix": common[None].astype(float),
    }


@pytest.fixture
def labels():
    """-1, 0 and 1 to 3, unlike under every permutation of the axes."""
    return np.random.default_rng(1).integers(-1, 4, SHAPE).astype(np.int16)


@pytest.fixture
def volumes():
    values = np.random.default_rng(2).integers(-9000, 9000, (*SHAPE, TRIALS)).astype(np.int16)
    values[0, 0, 0, 0], values[0, 0, 1, 1] = -32768, 32767
    return values


@pytest.fixture
def mask(tmp_path, labels):
    labels[0, 0, :3] = 1
    return nsd.read_mask(write_nifti(tmp_path / "nsdgeneral.nii.gz", labels))


@pytest.fixture
def betas(tmp_path, volumes):
    """The same responses as both files that are published."""
    return (
        write_nifti(tmp_path / "betas_session01.nii.gz", volumes),
        write_hdf5(
            tmp_path / "betas_session01.hdf5",
            "betas",
            volumes.transpose(3, 2, 1, 0),
            chunks=(TRIALS, 1, 1, 1),
        ),
    )


# --- the design


@pytest.mark.parametrize("counts", [{}, SMALL], ids=["published", "small"])
def test_design_follows_the_two_tables_trial_by_trial(tmp_path, counts):
    fields = design(**counts)
    savemat(tmp_path / "nsd_expdesign.mat", fields, do_compression=True)
    found = nsd.read_design(tmp_path / "nsd_expdesign.mat", **counts)
    common = set(fields["sharedix"][0].astype(int))
    subjects, trials = len(fields["subjectim"]), fields["masterordering"].size
    assert found.trials.shape == (subjects, trials)
    for trial in range(0, trials, 7):
        image = int(fields["masterordering"][0, trial])
        shown = [int(fields["subjectim"][subject, image - 1]) for subject in range(subjects)]
        assert (found.trials[:, trial] + 1).tolist() == shown
        assert found.shared[trial] == (shown[0] in common)
    assert (found.shared_ids + 1).tolist() == sorted(common)
    assert set(found.trials[:, found.shared].ravel()) == set(found.shared_ids)


def order_repeats(fields):
    fields["masterordering"][0, :2] = fields["masterordering"][0, 2]


def ids_from_zero(fields):
    fields["subjectim"] -= 1


def stimulus_beyond(fields):
    fields["subjectim"][0, 20] = 109


def half_an_id(fields):
    fields["sharedix"][0, 3] += 0.5


def shared_differs(fields):
    fields["subjectim"][1, [3, 30]] = fields["subjectim"][1, [30, 3]]


def shown_to_both(fields):
    fields["subjectim"][1, 20] = fields["subjectim"][0, 20]


def another_shape(fields):
    fields["masterordering"] = fields["masterordering"][:, :-1]


def no_field(fields):
    del fields["sharedix"]


def words(fields):
    fields["sharedix"] = np.array([["a"] * 12], object)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (order_repeats, "`masterordering` does not show each image 3 times"),
        (ids_from_zero, "`subjectim` has values that are not whole numbers 1..108"),
        (stimulus_beyond, "`subjectim` has values that are not whole numbers 1..108"),
        (half_an_id, "`sharedix` has values that are not whole numbers 1..108"),
        (shared_differs, "the first 12 of `subjectim` are not `sharedix`"),
        (shown_to_both, "one that is not shared to several"),
        (another_shape, r"`masterordering` is float64 \(1, 179\), not numbers \(1, 180\)"),
        (no_field, "it has no field `sharedix`"),
        (words, "`sharedix` is object"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_design_that_contradicts_itself_is_refused(tmp_path, change, told):
    path = tmp_path / "nsd_expdesign.mat"
    fields = design(**SMALL)
    change(fields)
    savemat(path, fields)
    with pytest.raises(InputError, match=told) as caught:
        nsd.read_design(path, **SMALL)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_newer_matlab_format_is_refused(tmp_path):
    path = write_hdf5(
        tmp_path / "nsd_expdesign.mat", "subjectim", np.ones((8, 3)), track_times=True
    )
    with pytest.raises(InputError, match="nsd_expdesign.mat: not readable"):
        nsd.read_design(path)


# --- masks


def test_mask_is_the_positive_labels_in_c_order(tmp_path, labels):
    path = write_nifti(tmp_path / "prf-visualrois.nii.gz", labels)
    found = nsd.read_mask(path)
    voxels = [
        i for i, xyz in enumerate(np.ndindex(SHAPE)) if nibabel.load(path).get_fdata()[xyz] > 0
    ]
    assert found.index.tolist() == voxels
    assert found.volume.dtype == bool
    assert np.array_equal(found.volume, labels > 0)
    assert np.allclose(found.affine, nibabel.load(path).affine)


@pytest.mark.parametrize("dtype", [">i2", "u1", "f4", "f8"])
def test_mask_of_some_labels_in_any_number_format(tmp_path, labels, dtype):
    labels = np.abs(labels).astype(dtype)
    found = nsd.read_mask(write_nifti(tmp_path / "floc.nii", labels), labels=[1, 3])
    assert np.array_equal(found.volume, (labels == 1) | (labels == 3))


def test_masks_that_are_none_are_refused(tmp_path, labels):
    path = tmp_path / "nsdgeneral.nii.gz"
    bad = {
        r"its shape is \(9, 10, 8, 2\)": np.stack([labels, labels], -1),
        "not whole numbers": np.where(labels > 0, 0.5, 0).astype(np.float32),
        "no voxel has a positive label; its labels are \\[-1, 0\\]": np.minimum(labels, 0),
    }
    for told, values in bad.items():
        with pytest.raises(InputError, match=f"nsdgeneral.nii.gz: .*{told}"):
            nsd.read_mask(write_nifti(path, values))
    with pytest.raises(InputError, match=r"no voxel has one of \[7\]"):
        nsd.read_mask(write_nifti(path, labels), labels=[7])


def test_a_scaled_volume_is_refused(tmp_path, labels):
    image = nibabel.Nifti1Image(labels, AFFINE)
    image.header.set_slope_inter(2, 0)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    with pytest.raises(InputError, match="its values are scaled by"):
        nsd.read_mask(tmp_path / "scaled.nii.gz")


def test_a_header_that_asks_for_everything_is_refused(tmp_path, labels):
    path = write_nifti(tmp_path / "huge.nii", labels)
    data = bytearray(path.read_bytes())
    data[42:48] = np.array([32767] * 3, "<i2").tobytes()
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"its shape is \(32767, 32767, 32767\)"):
        nsd.read_mask(path)


# --- betas


@pytest.mark.parametrize("twin", [0, 1], ids=["nifti", "hdf5"])
def test_betas_are_those_that_nibabel_reads(betas, mask, twin, volumes):
    expected = nibabel.load(betas[0]).get_fdata()[mask.volume].T
    assert np.array_equal(nsd.read_raw_betas(betas[twin], mask, TRIALS), expected)
    found = nsd.read_betas(betas[twin], mask, trials=TRIALS)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, expected / 300, rtol=1e-6)
    for column, flat in enumerate(mask.index[:20]):
        x, y, z = np.unravel_index(flat, SHAPE)
        assert found.values[5, column] == np.float32(volumes[x, y, z, 5]) / np.float32(300)


@pytest.mark.parametrize("twin", [0, 1], ids=["nifti", "hdf5"])
def test_sessions_are_z_scored_and_constant_voxels_reported(tmp_path, mask, volumes, twin):
    volumes[0, 0, 0], volumes[0, 0, 1] = 0, -32768
    path = [tmp_path / "b.nii.gz", tmp_path / "b.hdf5"][twin]
    if twin:
        write_hdf5(path, "betas", volumes.transpose(3, 2, 1, 0))
    else:
        write_nifti(path, volumes)
    found = nsd.read_betas(path, mask, zscore=True, trials=TRIALS)
    plain = nsd.read_betas(path, mask, trials=TRIALS)
    still = [0, 1]
    assert np.flatnonzero(found.constant).tolist() == np.flatnonzero(plain.constant).tolist()
    assert np.flatnonzero(found.constant).tolist() == still
    assert np.all(found.values[:, still] == 0)
    assert np.all(plain.values[:, 1] == np.float32(-32768 / 300))
    percent = volumes[mask.volume].T[:, 2:] / 300
    centred = percent - percent.sum(axis=0) / TRIALS
    sd = np.sqrt((centred**2).sum(axis=0) / (TRIALS - 1))
    np.testing.assert_allclose(found.values[:, 2:], centred / sd, atol=2e-6)


@pytest.mark.parametrize("block", [1, 7, 90, 1000])
def test_blocks_do_not_change_the_values(betas, mask, block):
    found = nsd.read_raw_betas(betas[0], mask, TRIALS, block=block)
    assert np.array_equal(found, nsd.read_raw_betas(betas[1], mask, TRIALS))


def test_byte_order_and_compression_of_the_file_do_not_matter(tmp_path, betas, mask, volumes):
    swapped = nibabel.Nifti1Image(volumes, AFFINE).header.as_byteswapped(">")
    path = tmp_path / "big.nii"
    nibabel.save(nibabel.Nifti1Image(volumes.astype(">i2"), AFFINE, swapped), path)
    assert nibabel.load(path).header.endianness == ">"
    found = nsd.read_raw_betas(path, mask, TRIALS)
    assert found.dtype == np.dtype("int16")
    assert np.array_equal(found, nsd.read_raw_betas(betas[0], mask, TRIALS))


def peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_the_result_and_a_block(tmp_path):
    shape, trials = (32, 32, 32), 200
    volumes = np.zeros((*shape, trials), np.int16)
    volumes[1:3] = np.arange(trials)
    labels = np.zeros(shape, np.int16)
    labels[1:3, :5, :5] = 1
    mask = nsd.read_mask(write_nifti(tmp_path / "m.nii.gz", labels))
    nifti = write_nifti(tmp_path / "b.nii.gz", volumes)
    hdf5 = write_hdf5(tmp_path / "b.hdf5", "betas", volumes.transpose(3, 2, 1, 0))
    volume, result = 2 * labels.size, 2 * trials * len(mask.index)
    for path, block in [(nifti, 4), (nifti, 40), (hdf5, 1)]:
        used = peak(lambda p=path, b=block: nsd.read_raw_betas(p, mask, trials, b))
        # gzip's reader holds a block twice while the last one is still named
        assert used < result + (3 * block + 8) * volume
        assert used < volumes.nbytes


def test_a_mask_of_elsewhere_is_refused(tmp_path, betas, mask, labels):
    moved = AFFINE.copy()
    moved[0, 3] += 1.8
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    for affine in (moved, flipped):
        other = nsd.read_mask(write_nifti(tmp_path / "other.nii.gz", labels, affine))
        with pytest.raises(InputError, match=r"session01.nii.gz: its affine .*other.nii.gz"):
            nsd.read_betas(betas[0], other, trials=TRIALS)
    turned = write_nifti(tmp_path / "turned.nii.gz", labels.transpose(2, 1, 0))
    for path in betas:
        with pytest.raises(InputError, match=f"{path.name}: it holds .*not int16"):
            nsd.read_betas(path, nsd.read_mask(turned), trials=TRIALS)
        with pytest.raises(InputError, match=r"take the file that the dataset publishes"):
            nsd.read_betas(path, mask)  # 90 trials, not 750
    assert mask.volume.shape == SHAPE


def test_other_number_formats_and_datasets_are_refused(tmp_path, mask, volumes):
    floats = write_nifti(tmp_path / "f.nii.gz", volumes.astype(np.float32))
    with pytest.raises(InputError, match="f.nii.gz: it holds float32"):
        nsd.read_betas(floats, mask, trials=TRIALS)
    named = write_hdf5(tmp_path / "n.hdf5", "data", volumes.transpose(3, 2, 1, 0))
    with pytest.raises(InputError, match="n.hdf5: it has no dataset `betas`"):
        nsd.read_betas(named, mask, trials=TRIALS)


# --- pictures and captions


@pytest.fixture
def pictures(tmp_path):
    values = np.random.default_rng(3).integers(0, 256, PICTURES, dtype=np.uint8)
    return write_hdf5(tmp_path / "nsd_stimuli.hdf5", "imgBrick", values), values


@pytest.mark.parametrize("ids", [[7], [19, 0, 3, 3, 18, 0], range(20), np.array([5, 2], "u2"), []])
def test_pictures_come_in_the_order_that_is_asked_for(pictures, ids):
    path, values = pictures
    found = nsd.read_stimuli(path, ids, PICTURES)
    assert found.dtype == np.uint8
    assert found.shape == (len(ids), *PICTURES[1:])
    for picture, i in zip(found, ids, strict=True):
        assert np.array_equal(picture, values[i])


def test_pictures_take_the_memory_of_those_asked_for(pictures):
    used = peak(lambda: nsd.read_stimuli(pictures[0], [18, 4], PICTURES))
    assert used < 2 * 425 * 425 * 3 + 200_000


@pytest.fixture
def captions(tmp_path):
    values = np.full((20, 5), "", "<U40")
    for i in range(20):
        values[i, : 1 + i % 5] = [f"Straße {i}, {k}" for k in range(1 + i % 5)]
    np.save(tmp_path / "captions.npy", values)
    return tmp_path / "captions.npy", values


def test_captions_leave_out_what_is_empty(captions):
    path, values = captions
    found = nsd.read_captions(path, [9, 0, 9, 12], (20, 5))
    assert [len(texts) for texts in found] == [5, 1, 5, 3]
    assert found[3] == tuple(values[12, :3].tolist())
    assert all(type(text) is str for texts in found for text in texts)


def test_a_stimulus_without_a_caption_is_refused(tmp_path):
    values = np.array([["a", ""], ["", " "]])
    np.save(tmp_path / "c.npy", values)
    assert nsd.read_captions(tmp_path / "c.npy", [0], (2, 2)) == [("a",)]
    with pytest.raises(InputError, match="c.npy: stimulus 1 has no caption"):
        nsd.read_captions(tmp_path / "c.npy", [0, 1], (2, 2))


@pytest.mark.parametrize("ids", [[-1], [0, 20], [1.5], [[1, 2]], ["1"], [True]])
def test_ids_that_the_file_does_not_have_are_refused(pictures, captions, ids):
    with pytest.raises(InputError, match=r"nsd_stimuli.hdf5: .*0\.\.19"):
        nsd.read_stimuli(pictures[0], ids, PICTURES)
    with pytest.raises(InputError, match=r"captions.npy: .*0\.\.19"):
        nsd.read_captions(captions[0], ids, (20, 5))


def test_other_pictures_and_captions_are_refused(tmp_path, pictures, captions):
    with pytest.raises(InputError, match=r"it holds uint8 \(20, .*not uint8 \(73000, 425, 425, 3"):
        nsd.read_stimuli(pictures[0], [0])
    floats = write_hdf5(tmp_path / "f.hdf5", "imgBrick", np.zeros((2, 4, 4, 3)))
    with pytest.raises(InputError, match="f.hdf5: it holds float64"):
        nsd.read_stimuli(floats, [0], (2, 4, 4, 3))
    with pytest.raises(InputError, match=r"not text \(73000, 5\)"):
        nsd.read_captions(captions[0], [0])
    objects = np.array([["a", None]], object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    with pytest.raises(InputError, match="o.npy: not readable"):
        nsd.read_captions(tmp_path / "o.npy", [0], (1, 2))


# --- damage


@pytest.fixture
def readers(tmp_path, betas, mask, captions, labels):
    """Each file, and what reads it whole."""
    savemat(tmp_path / "d.mat", design(**SMALL))
    savemat(tmp_path / "z.mat", design(**SMALL), do_compression=True)
    small = write_hdf5(tmp_path / "s.hdf5", "imgBrick", np.full((20, 4, 4, 3), 7, np.uint8))
    whole = range(20)
    return {
        tmp_path / "nsdgeneral.nii.gz": nsd.read_mask,
        write_nifti(tmp_path / "plain.nii", labels): nsd.read_mask,
        betas[0]: lambda path: nsd.read_raw_betas(path, mask, TRIALS),
        betas[1]: lambda path: nsd.read_raw_betas(path, mask, TRIALS),
        tmp_path / "d.mat": lambda path: nsd.read_design(path, **SMALL),
        tmp_path / "z.mat": lambda path: nsd.read_design(path, **SMALL),
        small: lambda path: nsd.read_stimuli(path, whole, (20, 4, 4, 3)),
        captions[0]: lambda path: nsd.read_captions(path, whole, (20, 5)),
    }


def refused(read, path):
    with pytest.raises(InputError) as caught:
        read(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    return told


def test_files_that_end_early_are_refused(readers):
    for path, read in readers.items():
        read(path)
        data = path.read_bytes()
        ends = {0, 1, 2, 100, 347, 348, 352, len(data) // 2, *(len(data) - k for k in (1, 4, 8, 9))}
        for end in ends:
            path.write_bytes(data[:end])
            refused(read, path)
        path.unlink()
        assert "no such file" in refused(read, path)
        path.mkdir()
        refused(read, path)


def test_bytes_that_are_no_such_file_are_refused(readers):
    for path, read in readers.items():
        for data in (b"<html>not found</html>" * 60, bytes(4000), gzip.compress(bytes(4000))):
            path.write_bytes(data)
            refused(read, path)


def test_a_flipped_byte_of_a_gzipped_file_is_refused(readers, tmp_path):
    for name in ("nsdgeneral.nii.gz", "betas_session01.nii.gz"):
        path = tmp_path / name
        data = path.read_bytes()
        for at in np.linspace(40, len(data) - 1, 25).astype(int):
            path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
            refused(readers[path], path)


def test_flipped_bytes_are_read_or_refused(readers):
    """Formats without checksums may give other values, never another error."""
    rng = np.random.default_rng(4)
    told = 0
    for path, read in readers.items():
        data = path.read_bytes()
        for at in rng.integers(0, min(len(data), 3000), 60):
            changed = bytearray(data)
            changed[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            try:
                read(path)
            except InputError as error:
                told += str(error).startswith(f"{path}: ")
    assert told > 50


def test_a_file_that_goes_on_is_refused(betas, mask):
    data = gzip.decompress(betas[0].read_bytes())
    betas[0].write_bytes(gzip.compress(data + b"\0"))
    with pytest.raises(InputError, match="goes on behind its last value"):
        nsd.read_betas(betas[0], mask, trials=TRIALS)


def test_what_is_written_here_is_what_matlab_would_write(tmp_path):
    savemat(tmp_path / "d.mat", design())
    assert (tmp_path / "d.mat").read_bytes().startswith(b"MATLAB 5.0 MAT-file")
    shapes = {k: v.shape for k, v in loadmat(tmp_path / "d.mat").items() if k[0] != "_"}
    assert shapes == {
        "masterordering": (1, 30_000),
        "subjectim": (8, 10_000),
        "sharedix": (1, 1_000),
    }
