"""The views `epochs` and `photograph` against brute force and Pillow."""

import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageFilter

from engram import backbones, store, views
from engram.errors import InputError
from engram.recording import Recording, Stimuli, Trials

CHANNELS = ("Oz", "P3", "P4")


def trials(part="train", n=5, repetitions=4, seed=0, **changed):
    """Noise around 0, 3 channels, 20 samples from -0.05 s at 100 Hz; channels out of order."""
    names = [f"{part}/{i:05d}_thing/thing_{i:02d}" for i in range(1, n + 1)]
    facts = {"split": part, "concept": [name.split("/")[1] for name in names], "stimulus": names}
    table = pd.DataFrame({**facts, "repetitions": repetitions}, index=names)
    data = np.random.default_rng(seed).standard_normal((n, repetitions, 3, 20))
    known = {"data": data, "table": table, "sfreq": 100.0, "channels": CHANNELS, "start": -0.05}
    known |= {"order": ("P3", "P4", "Oz"), "unit": "noise", "origin": {"dataset": "x"}}
    return Trials("sub-01", part, **(known | changed))


def rendered(folder, given, kind="epochs", **options):
    spec = {"unit": "sub-01", "view": {"kind": kind, **options}, "windows": None}
    views.render(given, folder / "view.h5", spec, {})
    return store.open(folder / "view.h5").load()


# ---- epochs -------------------------------------------------------------------------------


def test_repetitions_are_averaged_and_channels_put_in_order(tmp_path):
    given = [trials(), trials("test", 2, 8)]
    rows = rendered(tmp_path, given)
    expected = np.concatenate([one.data.mean(1)[:, [1, 2, 0]] for one in given])
    assert rows.array.dtype == np.float32
    assert_allclose(rows.array, expected, atol=1e-6)
    assert rows.table.index[0] == "sub-01/train/00001_thing/thing_01"
    assert rows.table.index[-1] == "sub-01/test/00002_thing/thing_02"
    assert rows.table["stimulus"].tolist() == [n[len("sub-01/") :] for n in rows.table.index]
    assert rows.table["repetitions"].tolist() == [4] * 5 + [8] * 2
    assert rows.table["split"].tolist() == ["train"] * 5 + ["test"] * 2
    assert rows.table["concept"].iloc[1] == "00002_thing"
    assert set(rows.table["exclude"]) == {""}


def test_the_header_says_what_the_axes_are(tmp_path):
    header = rendered(tmp_path, [trials()], clip=3).header
    assert (header["what"], header["axes"]) == ("epochs", 2)
    assert (header["sfreq"], header["channels"]) == (100, ["P3", "P4", "Oz"])
    assert_allclose(header["times"], np.arange(-5, 15) / 100)
    assert (header["unit"], header["clip"], header["dataset"]) == ("noise", 3, "x")


def test_splits_may_be_averaged_differently(tmp_path):
    given = [trials(), trials("test", 2, 8)]
    rows = rendered(tmp_path, given, average={"train": 0, "test": 3})
    assert rows.table.index[1] == "sub-01/train/00001_thing/thing_01/repetition-02"
    assert len(rows.table) == 22
    expected = given[0].data.reshape(20, 3, 20)[:, [1, 2, 0]]
    assert_allclose(rows.array[:20], expected, atol=1e-6)
    assert_allclose(rows.array[20:], given[1].data[:, :3].mean(1)[:, [1, 2, 0]], atol=1e-6)
    assert rows.table["repetitions"].tolist() == [1] * 20 + [3] * 2
    assert rows.table["stimulus"].iloc[3] == "train/00001_thing/thing_01"


def test_repetitions_that_are_missing_count_for_nothing(tmp_path):
    one = trials()
    one.data[2, 2:] = np.nan
    table = one.table.assign(repetitions=[4, 4, 2, 4, 4])
    rows = rendered(tmp_path, [trials(data=one.data, table=table)])
    assert_allclose(rows.array[2], one.data[2, :2].mean(0)[[1, 2, 0]], atol=1e-6)
    assert rows.table["repetitions"].tolist() == [4, 4, 2, 4, 4]
    single = rendered(tmp_path, [trials(data=one.data, table=table)], average={"train": 0})
    assert len(single.table) == 18
    assert "sub-01/train/00003_thing/thing_03/repetition-03" not in single.table.index


def test_channels_and_seconds_are_chosen(tmp_path):
    one = trials()
    rows = rendered(tmp_path, [one], channels=["Oz", "P3"], tmin=0.0, tmax=0.1)
    assert_allclose(rows.array, one.data.mean(1)[:, [0, 1], 5:16], atol=1e-6)
    assert rows.header["channels"] == ["Oz", "P3"]
    assert_allclose(rows.header["times"], np.arange(11) / 100)


def test_outliers_are_clipped_before_averaging_and_counted(tmp_path):
    one = trials()
    one.data[0, 1, 0, 3:5] = [-300, 50]
    one.data[4, 0, 2, 0] = 20
    rows = rendered(tmp_path, [one], clip=10)
    assert_allclose(rows.array, one.data.clip(-10, 10).mean(1)[:, [1, 2, 0]], atol=1e-6)
    assert rows.table["clipped"].tolist() == [2, 0, 0, 0, 1]


def test_each_repetition_and_channel_is_normalised_before_averaging(tmp_path):
    one = trials()
    one.data[:, 2] *= 100
    rows = rendered(tmp_path, [one], normalise=True)
    centred = one.data - one.data.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).sum(-1, keepdims=True))
    assert_allclose(rows.array, unit.mean(1)[:, [1, 2, 0]], atol=1e-6)
    assert (rows.header["unit"], rows.header["normalise"]) == ("L2 norm over time", True)
    single = rendered(tmp_path, [one], normalise=True, average={"train": 0}).array
    assert_allclose((single**2).sum(-1), 1, atol=1e-5)


def test_a_constant_channel_excludes_its_row(tmp_path):
    one = trials()
    one.data[3, 1, 2] = 4
    rows = rendered(tmp_path, [one], normalise=True)
    assert rows.table["exclude"].tolist() == ["", "", "", "constant channel", ""]
    assert np.isfinite(rows.array).all()


def test_blocks_of_trials_give_what_all_at_once_give(tmp_path, monkeypatch):
    from engram.views import epochs

    whole = rendered(tmp_path, [trials()], clip=1, normalise=True)
    monkeypatch.setattr(epochs, "BLOCK", 2 * trials().data[:1].nbytes)
    blocks = rendered(tmp_path, [trials()], clip=1, normalise=True)
    assert_array_equal(whole.array, blocks.array)
    assert whole.table.equals(blocks.table)


def broken(value):
    one = trials()
    one.data[1, 2, 0, 0] = value
    return one


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (broken(np.nan), {}, r"sub-01/train: train/00002_thing/thing_02 holds values that are not"),
        (broken(np.inf), {"clip": 5}, r"not finite"),
        (trials(), {"channels": ["Oz", "O9"]}, r"no channel O9; there is Oz, P3, P4"),
        (trials(), {"channels": ["Oz", "Oz"]}, r"names a channel twice"),
        (trials(), {"average": {"test": 4}}, r"`average` of the view needs a number .* for train"),
        (trials(), {"average": {"train": 5}}, r"00001_thing/thing_01 has 4 repetitions, but .* 5"),
        (trials(), {"tmin": -0.2}, r"epochs last from -0.05 to 0.14 s; `tmin: -0.2`"),
        (trials(), {"tmin": 0.1, "tmax": 0.0}, r"do not lie in them"),
    ],
)
def test_what_cannot_be_rendered_is_refused(tmp_path, given, options, said):
    with pytest.raises(InputError, match=said):
        rendered(tmp_path, [given], **options)
    assert not list(tmp_path.iterdir())


def test_parts_with_different_clocks_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"sub-01/train and sub-01/test differ in `sfreq`"):
        rendered(tmp_path, [trials(), trials("test", 2, sfreq=200.0)])


def test_subjects_with_different_channels_do_not_stand_side_by_side(tmp_path):
    paths = []
    for i, order in enumerate([("P3", "P4", "Oz"), ("Oz", "P3", "P4")]):
        paths.append(tmp_path / f"{i}.h5")
        spec = {"unit": "x", "view": {"kind": "epochs"}, "windows": None}
        views.render([trials(order=order)], paths[-1], spec, {})
    with pytest.raises(InputError, match=r"differ in `channels`"):
        store.load(paths)


def test_a_view_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"sub-01/a: .*'epochs' is made of Trials, .* Recording"):
        rendered(tmp_path, [Recording("sub-01", "a", 10.0)])
    with pytest.raises(InputError, match=r"'vigall' is made of Recording, .* holds Trials"):
        rendered(tmp_path, [trials()], kind="vigall")


# ---- photographs --------------------------------------------------------------------------


def jpeg(picture, **options):
    content = io.BytesIO()
    picture.save(content, "jpeg", quality=95, **options)
    return content.getvalue()


def picture(mode="RGB", size=(60, 40), seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


FILES = {
    "a": jpeg(picture()),
    "grey": jpeg(picture("L", seed=1)),
    "cmyk": jpeg(picture("CMYK", seed=2)),
    "odd": jpeg(picture(size=(33, 71), seed=3)),
}


@pytest.fixture(params=["folder", "archive"])
def stimuli(request, tmp_path):
    """A function that puts files into a folder or an archive."""

    def made(files):
        table = pd.DataFrame(
            {"split": "train", "concept": "thing", "member": [f"thing/{n}.jpg" for n in files]},
            index=[f"train/thing/{name}" for name in files],
        )
        if request.param == "archive":
            source = tmp_path / "images.zip"
            with zipfile.ZipFile(source, "w") as archive:
                for name, content in files.items():
                    archive.writestr(f"thing/{name}.jpg", content)
        else:
            source = tmp_path / "images"
            (source / "thing").mkdir(parents=True)
            for name, content in files.items():
                (source / f"thing/{name}.jpg").write_bytes(content)
        return Stimuli("stimuli", table.assign(source=str(source)), {"dataset": "x"})

    return made


def test_photographs_are_whole_and_in_colour(tmp_path, stimuli):
    rows = rendered(tmp_path, [stimuli(FILES)], "photograph", size=[24, 32])
    assert (rows.array.shape, rows.array.dtype) == ((4, 24, 32, 3), np.uint8)
    for row, content in zip(rows.array, FILES.values(), strict=True):
        opened = Image.open(io.BytesIO(content)).convert("RGB")
        assert_array_equal(row, np.asarray(opened.resize((32, 24), Image.Resampling.BICUBIC)))
    assert (rows.array[1] == rows.array[1][..., :1]).all()
    assert rows.table.index.tolist() == [f"train/thing/{name}" for name in FILES]
    assert (rows.header["what"], rows.header["axes"]) == ("picture", 3)
    assert rows.header["dataset"] == "x"


@pytest.mark.parametrize("method", ["bilinear", "lanczos"])
def test_photographs_are_resized_as_asked(tmp_path, stimuli, method):
    rows = rendered(tmp_path, [stimuli(FILES)], "photograph", size=[24, 32], interpolation=method)
    opened = Image.open(io.BytesIO(FILES["odd"]))
    expected = opened.resize((32, 24), Image.Resampling[method.upper()])
    assert_array_equal(rows.array[3], np.asarray(expected))
    assert rows.header["interpolation"] == method


def test_photographs_are_blurred_after_resizing(tmp_path, stimuli):
    given = stimuli(FILES)
    rows = rendered(tmp_path, [given], "photograph", size=[24, 32], blur=2.0)
    sharp = Image.open(io.BytesIO(FILES["a"])).resize((32, 24), Image.Resampling.BICUBIC)
    assert_array_equal(rows.array[0], np.asarray(sharp.filter(ImageFilter.GaussianBlur(2))))
    assert rows.header["blur"] == 2
    plain = rendered(tmp_path, [given], "photograph", size=[24, 32])
    assert (
        np.diff(rows.array[0].astype(int), axis=0).std()
        < np.diff(plain.array[0].astype(int), axis=0).std()
    )


def test_photographs_of_one_split(tmp_path, stimuli):
    given = stimuli(FILES)
    given.table["split"] = ["test", *["train"] * (len(given.table) - 1)]
    rows = rendered(tmp_path, [given], "photograph", size=[8, 8], split="test")
    every = rendered(tmp_path, [given], "photograph", size=[8, 8])
    assert list(rows.table.index) == list(given.table.index[:1])
    np.testing.assert_array_equal(rows.array[0], every.array[0])
    given.table["split"] = "train"
    with pytest.raises(InputError, match="has no photograph of split 'test'"):
        rendered(tmp_path, [given], "photograph", size=[8, 8], split="test")


def test_photographs_are_turned_as_they_say(tmp_path, stimuli):
    turned = picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = rendered(
        tmp_path, [stimuli({"a": jpeg(turned, exif=exif)})], "photograph", size=[60, 40]
    )
    upright = np.asarray(Image.open(io.BytesIO(jpeg(turned))).rotate(-90, expand=True))
    assert_allclose(rows.array[0].astype(int), upright, atol=2)


@pytest.mark.parametrize("content", [b"", b"no image", FILES["a"][:200]])
def test_damaged_photographs_are_named(tmp_path, stimuli, content):
    with pytest.raises(InputError, match=r"stimuli: train/thing/b: not a readable image"):
        rendered(tmp_path, [stimuli(FILES | {"b": content})], "photograph", size=[8, 8])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_in_an_archive_is_named(tmp_path, method):
    content = bytes(1000) + np.random.default_rng(0).bytes(1000)
    with zipfile.ZipFile(tmp_path / "images.zip", "w", method) as archive:
        archive.writestr("thing/a.jpg", content)
    damaged = bytearray((tmp_path / "images.zip").read_bytes())
    damaged[45 if method else 500] ^= 255
    (tmp_path / "images.zip").write_bytes(damaged)
    facts = {"split": "train", "concept": "thing", "member": "thing/a.jpg"}
    table = pd.DataFrame(facts | {"source": str(tmp_path / "images.zip")}, index=["train/a"])
    with pytest.raises(InputError, match=r"images.zip: thing/a.jpg cannot be read .* fetch the fi"):
        list(Stimuli("stimuli", table).pictures())


def test_a_photograph_that_is_gone_is_named(tmp_path, stimuli):
    given = stimuli(FILES)
    table = given.table.assign(member=["thing/a.jpg", "thing/z.jpg", "thing/a.jpg", "thing/a.jpg"])
    with pytest.raises(InputError, match=r"images.*: thing/z.jpg cannot be read"):
        rendered(tmp_path, [Stimuli("stimuli", table)], "photograph", size=[8, 8])


@pytest.mark.parametrize("options", [{"size": [0, 8]}, {"size": [8, 8], "blur": -1.0}])
def test_sizes_and_blurs_out_of_range_are_refused(tmp_path, stimuli, options):
    with pytest.raises(InputError, match="`size` has to be pixels"):
        rendered(tmp_path, [stimuli(FILES)], "photograph", **options)


def test_photographs_are_what_backbones_encode(tmp_path, stimuli):
    rendered(tmp_path, [stimuli(FILES)], "photograph", size=[48, 48])
    spec = {"backbone": {"kind": "timm", "model": "test_vit", "weights": "random"}}
    backbones.extract(tmp_path / "view.h5", None, tmp_path / "f.h5", spec, {}, "cpu")
    features = store.open(tmp_path / "f.h5")
    assert features.table.index.tolist() == [f"train/thing/{name}" for name in FILES]
    assert np.isfinite(features[:]).all()
    assert len(np.unique(features[:], axis=0)) == 4
