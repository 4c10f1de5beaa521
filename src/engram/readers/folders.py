"""Image and text files as the rows of a view, read when they are asked for."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from engram.errors import InputError
from engram.readers import images

#: Headers of views of such rows.
PICTURE = {"what": "picture", "axes": 3}
TEXT = {"what": "text", "axes": 1}

#: Suffixes of the files that a folder of images is searched for.
IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

#: Most bytes of one text; longer ones are refused.
TEXT_BYTES = 4096


class Images:
    """Image files as rows of pictures.

    Each becomes upright RGB (`engram.readers.images`) and is resized to `size` as a whole, by
    Pillow, antialiased.

    Args:
        paths: image files; a folder stands for the images in it, sorted by name.
        size: (height, width) in pixels.
        interpolation: "bicubic", "bilinear" or "lanczos".

    Attributes:
        path: for messages.
        header: that of a view of pictures.
        table: path and digest of each file, indexed by file name, or by path if names repeat.
        shape: (n, height, width, 3).

    Raises:
        InputError: a file is missing, or there is none.
    """

    def __init__(self, paths, size, interpolation="bicubic"):
        found = (file for path in paths for file in _listed(Path(path), IMAGES))
        self.files = list(dict.fromkeys(found))
        if not self.files:
            raise InputError(f"{', '.join(map(str, paths))}: no image; known are {sorted(IMAGES)}")
        self.path, self.header = self.files[0].parent, PICTURE
        self.method = Image.Resampling[interpolation.upper()]
        self.shape = (len(self.files), *size, 3)
        self.table = _table(self.files, [_digest(file) for file in self.files])

    def __len__(self):
        return len(self.files)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Pictures of a range of files, uint8 (n, height, width, 3).

        Raises:
            InputError: a file is no image, or damaged.
        """
        return np.stack([self._read(file) for file in self.files[rows]])

    def _read(self, file):
        height, width = self.shape[1:3]
        upright = images.read(file, file)
        return np.asarray(upright.resize((width, height), self.method))


class Texts:
    """The lines of text files as rows of text; attributes as for `Images`.

    Rows are uint8 (n, bytes): UTF-8, padded with zeros.

    Args:
        paths: text files, one text a line; empty lines are rows too.

    Raises:
        InputError: a file is missing, empty, no UTF-8, or a line is longer than 4096 bytes.
    """

    def __init__(self, paths):
        self.path, self.header = Path(paths[0]), TEXT
        lines = {f"{path}:{i}": line for path in paths for i, line in enumerate(_lines(path), 1)}
        encoded = [line.encode() for line in lines.values()]
        width = max(map(len, encoded), default=0)
        if not lines or width > TEXT_BYTES:
            raise InputError(f"{self.path}: needs lines of text, each at most {TEXT_BYTES} bytes")
        self.rows = np.array(encoded, bytes).view(np.uint8).reshape(len(lines), -1)
        self.shape = self.rows.shape
        self.table = pd.DataFrame({"text": list(lines.values())}, index=list(lines))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.rows[rows]


def _listed(path, suffixes):
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    if not path.is_file():
        raise InputError(f"{path}: no such file; correct its name")
    return [path]


def _lines(path):
    try:
        return Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable UTF-8 text file ({error})") from None


def _digest(file):
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def _table(files, digests):
    names = [file.name for file in files]
    names = names if len(set(names)) == len(names) else [str(file) for file in files]
    return pd.DataFrame({"file": [str(file) for file in files], "digest": digests}, index=names)
