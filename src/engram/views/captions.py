"""What each photograph that was shown is called or described by, as rows of text."""

from dataclasses import dataclass

import numpy as np

from engram.errors import InputError
from engram.recording import Stimuli
from engram.store import Rows

DEVICE = "cpu"
GIVES = "text"
OF = Stimuli

COLUMNS = ("split", "concept", "caption")


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        every: where a photograph has several captions, all of them, one a line, instead of the
            first.
    """

    every: bool = False


def render(stimuli, windows, options) -> Rows:
    """The caption of every photograph; no image file is read.

    Returns:
        Rows: UTF-8, uint8 (n, bytes of the longest caption), padded with zeros, named as in the
        table of the stimuli; columns split, concept, caption and exclude, which leaves out
        photographs without a caption.

    Raises:
        InputError: the stimuli have no captions.
    """
    if "caption" not in stimuli.table:
        raise InputError(
            f"{stimuli.name}: this dataset has no captions of its photographs; choose another view"
        )
    several = options.every and "captions" in stimuli.table
    texts = stimuli.table["captions" if several else "caption"].fillna("").astype(str).str.strip()
    encoded = np.array([text.encode() for text in texts], bytes)
    table = stimuli.table[[c for c in COLUMNS if c in stimuli.table]].assign(
        caption=texts, exclude=np.where(texts == "", "no caption", "")
    )
    header = {
        "what": GIVES,
        "axes": 1,
        "modality": "text",
        "encoding": "UTF-8",
        "captions": "all, one a line" if several else "the first",
        **stimuli.origin,
    }
    return Rows(encoded.view(np.uint8).reshape(len(texts), encoded.itemsize), table, header)
