"""One recording as a run would take it: what it holds, what views make of it, what is refused.

Nothing is judged here: recordings are read by `engram.datasets` and rendered by `engram.views`, and
what these refuse is kept as they say it.
"""

import contextlib
import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from engram import datasets, views
from engram.errors import InputError
from engram.figures import recording_figure
from engram.planning import components


@dataclass(frozen=True)
class Asked:
    """A line of a manifest, or the files of a unit, and all views that are made of it.

    Attributes:
        dataset, unit: names.
        rows: of the spec of stage `render`.
        paths: of the raw files, in the order of `rows`.
        specs: of stage `render`, by view; all have the same dataset and windows.
        quick: whether headers alone are read.
        pictures: folder for pictures, or None.
    """

    dataset: str
    unit: str
    rows: list[dict]
    paths: list[str]
    specs: dict[str, dict]
    quick: bool = False
    pictures: Path | None = None

    @property
    def name(self) -> str:
        row = self.rows[0]
        return f"{row['subject']}/{row['scan']}" if "scan" in row else self.unit


@dataclass(frozen=True)
class Part:
    """The rows of a recording in a view, without what a backbone would see.

    Attributes:
        table, header: as in the store.
        labels: array (n,) of a view of labels or numbers, else None.
        shape, dtype: of the array, without its first axis.
    """

    table: pd.DataFrame
    header: dict
    labels: np.ndarray | None
    shape: tuple
    dtype: str

    @property
    def array(self):
        """Of the shape and type of the rows; takes no memory where it holds no labels."""
        if self.labels is not None:
            return self.labels
        return np.broadcast_to(np.zeros((), self.dtype), (len(self.table), *self.shape))


@dataclass(frozen=True)
class Looked:
    """What is found of one recording.

    Attributes:
        dataset, unit, name, subject, files: which it is.
        duration: s; NaN if it cannot be read.
        signals: channels, rate (Hz), unit and channels marked bad, by signal.
        recorded: what the reader says of the file, see `engram.datasets.eeg_recordings`.
        events, bad: (description, how many, seconds in all), the longest first.
        parts: Part by view.
        refused: (what, message) of all that a run would stop at.
        picture: path of the file in the folder of pictures, or None.
    """

    dataset: str
    unit: str
    name: str
    subject: str
    files: list[str]
    duration: float = np.nan
    signals: dict = field(default_factory=dict)
    recorded: dict = field(default_factory=dict)
    events: list = field(default_factory=list)
    bad: list = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    refused: list = field(default_factory=list)
    picture: str | None = None


def look(asked: Asked) -> list[Looked]:
    """What is found of each recording in the files; whatever goes wrong is a refusal."""
    silent = io.StringIO()
    with contextlib.redirect_stderr(silent), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recordings, refused = _tried(_read, asked)
        if refused:
            return [unread(asked, refused)]
        return [_looked(asked, recording) for recording in recordings]


def unread(asked, message) -> Looked:
    """What is known of a recording that cannot be read."""
    subject = asked.rows[0].get("subject", asked.unit)
    return Looked(
        asked.dataset,
        asked.unit,
        asked.name,
        subject,
        asked.paths,
        refused=[("read", message)],
    )


def _tried(work, *given):
    """(result, None), or (None, what a run would say)."""
    try:
        return work(*given), None
    except InputError as error:
        return None, str(error)
    except Exception as error:  # a run would stop here too, with a traceback
        return None, f"unexpected {type(error).__name__}: {error}"


def _read(asked):
    spec = next(iter(asked.specs.values())) | {"rows": asked.rows}
    module = components.component("datasets", spec["dataset"]["kind"])
    if not (asked.quick and hasattr(module, "outline")):
        return datasets.read(spec, asked.paths)
    _, options = components.options("datasets", spec["dataset"])
    rows = [row | {"path": path} for row, path in zip(asked.rows, asked.paths, strict=False)]
    return module.outline(asked.unit, rows, options)


def _looked(asked, recording):
    parts, refused = {}, {}
    for view, spec in {} if asked.quick else asked.specs.items():
        rows, message = _tried(views.rendered, [recording], spec)
        if message:
            refused.setdefault(message, []).append(view)
        else:
            parts[view] = _part(rows[0])
    picture = None
    if asked.pictures and recording.signals and not asked.quick:
        picture, _ = _tried(_drawn, asked, recording, parts)
    return Looked(
        dataset=asked.dataset,
        unit=asked.unit,
        name=recording.name,
        subject=recording.subject,
        files=asked.paths,
        duration=recording.duration,
        signals={
            name: {
                "channels": list(signal.channels),
                "sfreq": signal.sfreq,
                "unit": signal.unit,
                "bad": list(signal.bad),
            }
            for name, signal in recording.signals.items()
        },
        recorded=recording.origin.get("recorded", {}).get(recording.scan, {}),
        events=_counted(recording.events),
        bad=_counted(recording.bad),
        parts=parts,
        refused=[(", ".join(of), message) for message, of in refused.items()],
        picture=picture,
    )


def _part(rows):
    labels = rows.array if rows.header["what"] in ("labels", "values") else None
    return Part(rows.table, rows.header, labels, rows.array.shape[1:], rows.array.dtype.str)


def _counted(events):
    found = events.groupby("description", sort=True)["duration"].agg(["size", "sum"])
    found = found.sort_values(["sum", "size"], ascending=False, kind="stable")
    return [(str(name), int(n), float(s)) for name, n, s in found.itertuples()]


def _drawn(asked, recording, parts):
    file = Path(asked.dataset, recording.subject, f"{recording.scan}.png")
    (asked.pictures / file).parent.mkdir(parents=True, exist_ok=True)
    excluded = {
        view: part.table.loc[part.table["exclude"] != ""]
        for view, part in parts.items()
        if {"onset", "duration", "exclude"} <= {*part.table}
    }
    recording_figure.draw(
        asked.pictures / file, recording.signals, recording.events, recording.bad, excluded
    )
    return file.as_posix()
