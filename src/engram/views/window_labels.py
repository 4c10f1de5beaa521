"""Published labels, one a window, that come with a recording."""

from dataclasses import dataclass, field

import numpy as np

from engram.errors import InputError
from engram.store import Rows

DEVICE = "cpu"


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        classes: names of the labels 0, 1, ...
        derived_from: the modality that the labels were made from, e.g. eeg; scores of features
            of the same modality are then marked as circular.
    """

    classes: list[str] = field(default_factory=lambda: ["drowsy", "alert"])
    derived_from: str | None = None


def render(recording, windows, options) -> Rows:
    """Labels of the windows of one recording.

    Returns:
        Rows: int8 (n,), index into the header's classes; -1 where the label is missing
        (negative), which is excluded as "unlabelled".

    Raises:
        InputError: the recording has no labels, or not one for each window.
    """
    table = windows.table(recording)
    if recording.labels is None:
        raise InputError(f"{recording.name}: the dataset has no label file for it")
    if len(recording.labels) != len(table):
        raise InputError(
            f"{recording.name}: {len(recording.labels)} labels in its label file, but "
            f"{len(table)} windows of {windows.length:g} s every {windows.step:g} s in "
            f"{recording.duration:g} s; correct the file, `windows` or the seconds of a unit"
        )
    if recording.labels.max() >= len(options.classes):
        raise InputError(
            f"{recording.name}: label {recording.labels.max()}, but `classes` names only "
            f"{', '.join(options.classes)}"
        )
    table["exclude"] = np.where(recording.labels < 0, "unlabelled", "")
    header = {"what": "labels", "classes": options.classes, **recording.origin}
    if options.derived_from:
        header["derived_from"] = options.derived_from
    return Rows(np.asarray(recording.labels, np.int8), table, header)
