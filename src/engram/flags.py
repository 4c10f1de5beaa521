"""What a reader must know beside a score: one table for scores, figures and tracking."""

from typing import NamedTuple


class Flag(NamedTuple):
    """One flag.

    Attributes:
        text: what is shown.
        tone: "bad" (do not believe the score), "warn" or "note".
        inflates: whether a score under it is no estimate for new data; headlines leave it out.
    """

    text: str
    tone: str
    inflates: bool = False


#: By name, in the order in which they are shown.
FLAGS = {
    "published_protocol": Flag("protocol: published, epoch chosen on test data", "bad", True),
    "test_statistics": Flag("protocol: published, latents scaled by the test set", "bad", True),
    "random_part": Flag("shortcut: a random part of the voxels", "warn"),
    "first_layers": Flag("shortcut: the first layers alone", "warn"),
    "block_by_block": Flag("shortcut: a small network, trained block by block", "warn"),
    "leaks": Flag("LEAKS: random windows", "bad", True),
    "recording": Flag("the label is the recording", "bad", True),
    "trained_on": Flag("LEAKS: rows that the model was trained on", "bad", True),
    "seen": Flag("seen unlabelled in pretraining", "bad", True),
    "simulated": Flag("simulated data", "note"),
    "published_probe": Flag("protocol: published probe", "note"),
    "random_weights": Flag("random weights", "warn"),
    "control": Flag("the control scores as high", "warn"),
    "incomplete": Flag("channels missing", "warn"),
    "circular": Flag("labels from the same EEG", "warn"),
    "transductive": Flag("scaled by the whole scan", "note"),
}


def ordered(names) -> list[str]:
    """The given names of flags, each once, in the order of the table."""
    given = set(names)
    return [name for name in FLAGS if name in given]


def inflated(flags) -> bool:
    """Whether a score under these flags says nothing of new data."""
    return any(FLAGS[name].inflates for name in flags)
