"""Image files of every mode, written here byte by byte, against the colours that were written."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageCms

from engram.errors import InputError
from engram.readers import images
from engram.readers.folders import Images
from engram.recording import Stimuli

RNG = np.random.default_rng(0)
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types of PNG


def read(content):
    return np.asarray(images.read(io.BytesIO(content), "a.img"))


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values, bits, colour, *chunks, size=None):
    """A PNG of unsigned samples (height, width) or (height, width, channel)."""
    height, width = size or values.shape[:2]
    lines = values.reshape(len(values), -1)
    if bits == 16:
        packed = [line.astype(">u2").tobytes() for line in lines]
    else:
        each = [np.unpackbits(line.astype(np.uint8)[:, None], axis=1)[:, -bits:] for line in lines]
        packed = [np.packbits(line).tobytes() for line in each]
    data = zlib.compress(b"".join(b"\0" + line for line in packed))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    parts = [header, *(chunk(*one) for one in chunks), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values, bits, photometric, order="<", **tags):
    """An uncompressed TIFF of one strip; further tags by number, `t274=6`."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: width, 257: height, 258: [bits] * samples, 259: 1, 262: photometric, 273: 8,
        277: samples, 278: height, 279: len(data), **{int(k[1:]): v for k, v in tags.items()},
    }  # fmt: skip
    entries, more, at = b"", b"", 8 + len(data)
    for tag, value in sorted(tags.items()):
        value = np.atleast_1d(value)
        kind = 4 if tag in (273, 279) else 3
        packed = value.astype(order + ("u4" if kind == 4 else "u2")).tobytes()
        if len(packed) > 4:
            more, packed = more + packed, struct.pack(order + "I", at + len(more))
        entries += struct.pack(order + "HHI", tag, kind, len(value)) + packed.ljust(4, b"\0")
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    directory = struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)
    return mark + struct.pack(order + "I", at + len(more)) + data + more + directory


def grey(values):
    """Grey (h, w) as RGB."""
    return np.repeat(np.asarray(values)[..., None], 3, -1)


def on_white(colours, alpha):
    """Colours (h, w, 3) that cover white as alpha (h, w), 0 to 255, says."""
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def saved(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def drawn(bits, *shape):
    return RNG.integers(0, 2**bits, shape or (5, 7))


# ---- PNG ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_any_depth_reaches_from_black_to_white(bits):
    values = drawn(bits)
    values[0, :2] = 0, 2**bits - 1
    expected = values >> 8 if bits == 16 else values * 255 // (2**bits - 1)
    assert_array_equal(read(png(values, bits, GREY)), grey(expected))


@pytest.mark.parametrize("factor", [256, 257])
def test_what_was_widened_to_16_bits_comes_back(factor):
    values = np.arange(256).reshape(16, 16)
    assert_array_equal(read(png(values * factor, 16, GREY)), grey(values))
    colours = np.stack([values, values.T, values[::-1]], -1)
    assert_array_equal(read(png(colours * factor, 16, RGB)), colours)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white(bits):
    values = drawn(bits)
    values[0, :2] = 0, 1
    expected = values >> 8 if bits == 16 else values * 255 // (2**bits - 1)
    for key in (0, 1):
        shown = np.where(values == key, 255, expected)
        content = png(values, bits, GREY, (b"tRNS", struct.pack(">H", key)))
        assert_array_equal(read(content), grey(shown))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white(bits):
    values = drawn(bits, 5, 7, 3)
    key = values[2, 3] = values[4, 0]
    expected = values >> (bits - 8)
    expected[(values == key).all(-1)] = 255
    content = png(values, bits, RGB, (b"tRNS", struct.pack(">HHH", *key)))
    assert_array_equal(read(content), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [2, 4])
def test_what_is_transparent_stands_on_white(bits, channels):
    values = drawn(bits, 5, 7, channels)
    values[0, :, -1], values[1, :, -1] = 0, 2**bits - 1
    eight = values >> (bits - 8)
    colours = grey(eight[..., 0]) if channels == 2 else eight[..., :3]
    found = read(png(values, bits, GREY_ALPHA if channels == 2 else RGBA))
    assert np.abs(found - on_white(colours, eight[..., -1])).max() <= 0.5
    assert_array_equal(found[0], 255)
    assert_array_equal(found[1], colours[1])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("alpha", [None, [0], [0, 128, 255, 77]])
def test_a_palette_gives_its_colours_and_their_transparency(bits, alpha):
    alpha = alpha and alpha[: 2**bits]
    values, palette = drawn(bits), drawn(8, 2**bits, 3)
    values[0, :2] = 0, 1
    chunks = [(b"PLTE", palette.astype(np.uint8).tobytes())]
    opaque = np.full(2**bits, 255)
    if alpha:
        chunks.append((b"tRNS", bytes(alpha)))
        opaque[: len(alpha)] = alpha
    found = read(png(values, bits, PALETTE, *chunks))
    assert np.abs(found - on_white(palette[values], opaque[values])).max() <= 0.5


def test_gamma_and_profile_are_not_applied():
    values = drawn(8, 5, 7, 3)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    more = [(b"gAMA", struct.pack(">I", 100000)), (b"iCCP", b"p\0\0" + zlib.compress(profile))]
    assert_array_equal(read(png(values, 8, RGB, *more)), values)


# ---- TIFF --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "white_is_zero", "order"),
    [(8, False, "<"), (8, True, ">"), (16, False, "<"), (16, False, ">"), (16, True, "<")],
)
def test_grey_of_a_tiff_is_read_in_its_sense(bits, white_is_zero, order):
    values = drawn(bits).astype(f"u{bits // 8}")
    expected = values >> (bits - 8)
    expected = 255 - expected if white_is_zero else expected
    assert_array_equal(read(tiff(values, bits, int(not white_is_zero), order)), grey(expected))


def test_twelve_bits_reach_from_black_to_white():
    values = drawn(12, 4, 6)
    values[0, :2] = 0, 4095
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(4, 6, 2), axis=-1)[..., 4:]
    packed = np.packbits(bits.reshape(4, -1), axis=1)
    content = tiff(packed, 12, 1, t256=6)
    assert_array_equal(read(content), grey(values >> 4))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_of_a_tiff(bits, order):
    values = drawn(bits, 5, 7, 3).astype(f"u{bits // 8}")
    assert_array_equal(read(tiff(values, bits, 2, order)), values >> (bits - 8))


@pytest.mark.parametrize(("extra", "kind"), [(0, "unused"), (1, "associated"), (2, "alpha")])
def test_a_fourth_channel_is_what_the_file_says(extra, kind):
    values, alpha = drawn(8, 16, 16, 3), np.arange(256).reshape(16, 16)
    stored = values * alpha[..., None] // 255 if kind == "associated" else values
    content = tiff(np.dstack([stored, alpha]).astype(np.uint8), 8, 2, t338=extra)
    expected = values if kind == "unused" else on_white(values, alpha)
    assert np.abs(read(content) - expected).max() <= (2 if kind == "associated" else 0.5)


def test_grey_with_associated_alpha():
    values, alpha = drawn(8, 16, 16), np.arange(256).reshape(16, 16)
    content = tiff(np.dstack([values * alpha // 255, alpha]).astype(np.uint8), 8, 1, t338=1)
    assert np.abs(read(content) - on_white(grey(values), alpha)).max() <= 2


def test_a_palette_with_an_alpha_channel():
    values, alpha, palette = drawn(8), drawn(8), drawn(8, 3, 256)
    content = tiff(
        np.dstack([values, alpha]).astype(np.uint8), 8, 3, t338=2, t320=palette.ravel() * 257
    )
    assert np.abs(read(content) - on_white(palette.T[values], alpha)).max() <= 0.5


def test_cmyk_is_what_its_inks_leave():
    values = drawn(8, 5, 7, 4).astype(np.uint8)
    left = 255.0 - values
    expected = left[..., :3] * left[..., 3:] / 255
    assert np.abs(read(tiff(values, 8, 5)) - expected).max() <= 1
    jpeg = saved(Image.fromarray(np.full((16, 16, 4), (0, 255, 255, 0), np.uint8), "CMYK"), "JPEG")
    assert b"Adobe" in jpeg
    assert np.abs(read(jpeg).astype(int) - [255, 0, 0]).max() <= 2


def test_ycbcr_by_its_definition():
    values = np.stack([drawn(5) + 112, drawn(5) + 112, drawn(5) + 112], -1)
    y, cb, cr = np.moveaxis(values - [0, 128, 128], -1, 0)
    expected = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    content = saved(Image.fromarray(values.astype(np.uint8), "YCbCr"), "TIFF")
    assert np.abs(read(content) - expected).max() <= 1


def test_lab_by_its_definition():
    """L*a*b* of D50 to sRGB of D65, adapted after Bradford (IEC 61966-2-1, ICC.1)."""
    lab = np.stack([drawn(6) + 100, drawn(4) - 8, drawn(4) - 8], -1)
    level = lab[..., 0] * 100 / 255
    f = np.stack([level + 0, level, level], -1)
    f = (f + 16) / 116 + np.stack([lab[..., 1] / 500, 0 * level, -lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1, 0.8249]
    to_srgb = np.array([[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540],
                        [0.0719453, -0.2289914, 1.4052427]])  # fmt: skip
    linear = (xyz @ to_srgb.T).clip(0, 1)
    curve = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    content = tiff(lab.astype(np.uint8), 8, 8)
    assert np.abs(read(content) - 255 * curve).max() <= 2


@pytest.mark.parametrize(
    ("values", "form"),
    [(np.int32([[0, 255]]), 2), (np.uint32([[0, 255]]), 1), (np.float32([[0, 1]]), 3),
     (np.int16([[-1, 255]]), 2), (np.int8([[-1, 100]]), 2)],
)  # fmt: skip
def test_values_without_a_white_are_refused(values, form):
    with pytest.raises(InputError, match=r"a\.img: holds values of 32 bits, signed ones or fract"):
        read(tiff(values, 8 * values.itemsize, 1, t339=form))


# ---- other formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("most", [255, 256, 1023, 65535])
def test_a_pgm_reaches_from_black_to_white(most):
    values = np.linspace(0, most, 200).astype(int)[None]
    packed = values.astype(np.uint8 if most < 256 else ">u2").tobytes()
    found = read(b"P5\n%d 1\n%d\n" % (values.shape[1], most) + packed)
    assert np.abs(found[..., 0] - values * 255 / most).max() <= 1


def test_a_gif_of_one_picture_shows_its_colours_on_white():
    values = drawn(2)
    image = Image.fromarray(values.astype(np.uint8), "P")
    palette = np.array([[9, 8, 7], [250, 0, 0], [0, 250, 0], [0, 0, 250]])
    image.putpalette(palette.ravel().tolist())
    assert_array_equal(read(saved(image, "GIF")), palette[values])
    palette[2] = 255
    assert_array_equal(read(saved(image, "GIF", transparency=2)), palette[values])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_ordinary_pictures_are_what_pillow_decodes(mode, form):
    shape = (24, 32) if mode == "L" else (24, 32, 3)
    content = saved(Image.fromarray(drawn(8, *shape).astype(np.uint8), mode), form)
    with Image.open(io.BytesIO(content)) as opened:
        assert_array_equal(read(content), np.asarray(opened.convert("RGB")))


def turned(stored):
    """Upright pictures by EXIF orientation: what lies in row 0 and column 0 of the file."""
    return {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.swapaxes(0, 1), 6: stored[::-1].swapaxes(0, 1),
        7: stored[::-1, ::-1].swapaxes(0, 1), 8: stored[:, ::-1].swapaxes(0, 1),
    }  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright(orientation):
    stored = drawn(8, 5, 7, 3).astype(np.uint8)
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0%c\0\0\0\0\0\0\0" % orientation
    expected = turned(stored)[orientation]
    assert_array_equal(read(png(stored, 8, RGB, (b"eXIf", exif))), expected)
    assert_array_equal(read(tiff(stored, 8, 2, t274=orientation)), expected)
    deep = drawn(16).astype(np.uint16)
    expected = grey(turned(deep)[orientation] >> 8)
    assert_array_equal(read(png(deep, 16, GREY, (b"eXIf", exif))), expected)
    assert_array_equal(read(tiff(deep, 16, 1, ">", t274=orientation)), expected)


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PNG", "WEBP"])
def test_a_file_of_several_pictures_is_refused(form):
    pages = [Image.new("RGB", (8, 8), (30 * i, 0, 0)) for i in range(3)]
    content = saved(pages[0], form, save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"a\.img: holds 3 pictures"):
        read(content)


def test_the_preview_behind_a_photograph_is_no_picture_of_its_own():
    first, preview = (Image.new("RGB", (16, 16), colour) for colour in ("white", "black"))
    assert read(saved(first, "MPO", save_all=True, append_images=[preview])).min() > 250


@pytest.mark.parametrize("size", [(4001, 5000), (1, 20_000_001), (30_000, 30_000), (20_000, 5000)])
def test_a_bomb_is_refused_before_it_is_decoded(size):
    """The data is that of one pixel: decoding it would be another error."""
    content = png(np.zeros((1, 1), int), 8, GREY, size=size)
    pixels = f"{size[0] * size[1]} pixels"
    with pytest.raises(InputError, match=rf"a\.img: {pixels} .*20 megapixels") as raised:
        read(content)
    assert "\n" not in str(raised.value)


def test_twenty_megapixels_are_read():
    assert read(saved(Image.new("1", (5000, 4000)))).shape == (4000, 5000, 3)


def damaged():
    whole = {
        form: saved(Image.fromarray(drawn(8, 40, 40, 3).astype(np.uint8)), form)
        for form in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
    }
    for form, content in whole.items():
        yield from ((f"{form} cut to {n}", content[:n]) for n in (4, 30, len(content) // 2))
    yield "nothing", b""
    yield "text", b"not an image"
    yield "checksum", whole["PNG"].replace(b"IHDR", b"IHDX")
    yield "no data", b"".join([whole["PNG"][:33], chunk(b"IEND", b"")])
    yield "key cut", png(drawn(8), 8, GREY, (b"tRNS", b"\0"))
    yield "strip", tiff(drawn(8).astype(np.uint8), 8, 2, t279=1)


@pytest.mark.parametrize(
    ("what", "content"), [*damaged()], ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_damaged_file_is_one_line_with_its_name(what, content):
    with pytest.raises(InputError, match=r"a\.img: not a readable image") as raised:
        read(content)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.png: not a readable image"):
        images.read(tmp_path / "none.png", tmp_path / "none.png")


def test_a_folder_of_images_and_photographs_are_read_alike(tmp_path):
    (tmp_path / "a.png").write_bytes(png(drawn(16), 16, GREY))
    (tmp_path / "b.png").write_bytes(png(np.zeros((1, 1), int), 1, GREY, size=(9000, 9000)))
    rows = Images([tmp_path], (5, 7))
    assert_array_equal(rows[0:1][0], read((tmp_path / "a.png").read_bytes()))
    with pytest.raises(InputError, match=r"b\.png: 81000000 pixels"):
        rows[1:2]


# ---- archives ----------------------------------------------------------------------------------


def stimuli(source, member):
    table = pd.DataFrame({"source": [str(source)], "member": [member]}, index=["a"])
    return Stimuli("stimuli", table).pictures()


@pytest.mark.parametrize("packed", [True, False])
def test_a_member_that_no_picture_fills_is_not_unpacked(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(images, "MOST_BYTES", 3 << 20)
    source = tmp_path / ("a.zip" if packed else "folder")
    small = png(drawn(8, 16, 16), 8, GREY)
    if packed:
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", bytes(5 << 20))
            archive.writestr("b.png", small)
        assert source.stat().st_size < 1 << 20
    else:
        source.mkdir()
        (source / "a.png").write_bytes(bytes(5 << 20))
        (source / "b.png").write_bytes(small)
    assert next(stimuli(source, "b.png")).size == (16, 16)
    with pytest.raises(InputError, match=r"(a\.zip|folder): a\.png has 5 MiB, more than any pict"):
        next(stimuli(source, "a.png"))


def test_a_member_packed_in_an_unknown_way_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(100))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, at in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        content[content.index(mark) + at] = 9  # Deflate64
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip: a\.png cannot be read"):
        next(stimuli(tmp_path / "a.zip", "a.png"))
