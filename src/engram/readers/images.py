"""The one reader of image files: what Pillow opens becomes upright RGB of 8 bits.

- The EXIF orientation is applied.
- What is transparent stands on white, whatever colours lie hidden below it.
- Of 16 bits a channel the upper eight are taken, of 12 likewise. Values of 32 bits, signed ones and
  fractions have no white that all would agree on: they are refused.
- Palettes, CMYK, YCbCr and L*a*b* become RGB as Pillow converts them. Colour profiles and gamma are
  not applied: published code does not, and models saw their training pictures so.
- A file of several pictures, animated or of several pages, is refused, except for the previews that
  cameras append to a JPEG.
"""

import re
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from engram.errors import InputError

#: Most pixels of a picture; larger ones are refused before they are decoded.
MOST_PIXELS = 20_000_000

#: Most bytes of an image file: as many pixels of four channels of 16 bits, and some more.
MOST_BYTES = 192 << 20

#: Pillow refuses more than twice as many, in a picture within a picture too, as icons are.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2

#: Others run a program (EPS), or give their size only once they are decoded.
FORMATS = (
    *("BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "PSD", "TGA", "TIFF", "WEBP"),
    *("AVIF", "DIB", "PCX", "QOI", "SGI"),
)

#: Pillow warns of pictures that are refused here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

WHOLE = ("MPO", "PSD")  # formats whose further frames are previews or layers of the first
SIGNED, WHITE_IS_ZERO = 2, 0
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0 tags


def read(file, name) -> Image.Image:
    """The picture in a file, upright RGB.

    Args:
        file: path, or binary file object.
        name: for messages.

    Raises:
        InputError: the file is no image, damaged, larger than 20 megapixels, holds several
            pictures, or values without a white.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_frames(image, name)
            tags = getattr(image, "tag_v2", {})
            lies = str(image.tile[0][3]) if image.tile else ""
            return _rgb(ImageOps.exif_transpose(image), tags, lies, image.format, name)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: not a readable image (Pillow does not know it); replace it or leave it out"
        ) from None
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))[0]
        raise InputError(
            f"{name}: {pixels} pixels are more than 20 megapixels; shrink the picture"
        ) from None
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{name}: not a readable image ({reason[0]}); replace it or leave it out"
        ) from None


def _check_frames(image, name):
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in WHOLE:
        raise InputError(f"{name}: holds {frames} pictures; save the one that is meant by itself")


def _rgb(image, tags, lies, form, name):
    """`image` in RGB; its TIFF tags, and how its values lie in the file, as Pillow names it."""
    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PPM", "PNG")):
        return _of_sixteen_bits(image, tags)
    if image.mode in ("I", "F") or SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise InputError(
            f"{name}: holds values of 32 bits, signed ones or fractions, whose white nothing "
            "states; save it with 8 or 16 bits a channel"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    if "transparency" in image.info and image.mode in ("L", "RGB"):
        image.info["transparency"] = _key(image.info["transparency"], lies)
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return _on_white(image.convert("RGB"), image.getchannel("A"))


def _of_sixteen_bits(image, tags):
    values = np.asarray(image).astype(np.int64)
    bits = tags.get(BITS, (16,))[0]
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts those of 8 bits alone
        grey = 255 - grey
    rgb, key = Image.fromarray(grey).convert("RGB"), image.info.get("transparency")
    if key is None:
        return rgb
    return _on_white(rgb, Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))


def _key(key, lies):
    """The transparent colour of a PNG in 8 bits: Pillow leaves it in the bits of the file."""
    if isinstance(key, int):
        return key * {"L;2": 85, "L;4": 17}.get(lies, 1)
    return tuple(value >> 8 for value in key) if ";16" in lies else key


def _on_white(rgb, alpha):
    page = Image.new("RGB", rgb.size, "white")
    page.paste(rgb, mask=alpha)
    return page
