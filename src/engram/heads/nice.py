"""NICE and its relatives: an EEG encoder aligned with image features by InfoNCE.

Song et al. (2024). Decoding natural images from EEG for object recognition. ICLR.
"""

from dataclasses import dataclass

from engram import contrastive

LEARNS = "pictures"  # y is the features of pictures, not labels


@dataclass(frozen=True)
class Options(contrastive.options.Options):
    """Options.

    Attributes:
        validation_concepts: training concepts held out to choose the epoch on; at most a fifth.
        select_on: `validation`, the held-out concepts; `test` repeats the published protocol,
            which chooses the epoch on the images it is scored on, and is labelled wherever a
            score shows.
    """

    validation_concepts: int = 74
    select_on: str = "validation"


def fit(eeg, targets, rows, options, seeds, device, control) -> list[contrastive.Model]:
    """One model a seed, and the control; see `engram.contrastive.fit`."""
    return contrastive.fit(eeg, targets, rows, options, seeds, device, control)
