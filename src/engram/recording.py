"""What a dataset reads and a view renders: one recording with its signals and its events."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Signal:
    """Evenly sampled channels that share a clock.

    Attributes:
        data: float32 or float64 array (channel, time), in `unit`.
        sfreq: samples per second (Hz).
        channels: one name a row of `data`.
        unit: physical unit of the values, e.g. "uV".
        start: seconds between the start of the recording and the first sample.
    """

    data: np.ndarray
    sfreq: float
    channels: tuple[str, ...]
    unit: str
    start: float = 0.0

    @property
    def stop(self) -> float:
        """Seconds between the start of the recording and the end of the last sample."""
        return self.start + self.data.shape[1] / self.sfreq


@dataclass(frozen=True)
class Picture:
    """A published picture whose horizontal axis is time.

    Attributes:
        pixels: uint8 array (height, width, 3), RGB.
        seconds_per_pixel: seconds that one column covers.
    """

    pixels: np.ndarray
    seconds_per_pixel: float


def no_events() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "onset": pd.Series(dtype=float),
            "duration": pd.Series(dtype=float),
            "description": pd.Series(dtype=str),
        }
    )


@dataclass(frozen=True)
class Recording:
    """One continuous scan of one subject.

    Attributes:
        subject, scan: identifiers; together they name the recording.
        duration: seconds covered by the recording; windows are cut from [0, duration].
        signals: by modality ("eeg", "fmri", "eog", ...).
        pictures: by modality, then by channel or region name.
        events: table with onset (s), duration (s) and description; intervals may overlap.
            Everything known about time stands here: annotations of the file, device
            stages, protocol blocks, conditions that hold for the whole recording.
        labels: published labels, one value a window, shape (n_windows,).
        origin: facts for the header of what is rendered, e.g. {"simulated": True}.
    """

    subject: str
    scan: str
    duration: float
    signals: dict[str, Signal] = field(default_factory=dict)
    pictures: dict[str, dict[str, Picture]] = field(default_factory=dict)
    events: pd.DataFrame = field(default_factory=no_events)
    labels: np.ndarray | None = None
    origin: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.subject}/{self.scan}"


@dataclass(frozen=True)
class Windows:
    """The windows that every view of a dataset shares: `length` seconds every `step` seconds."""

    length: float
    step: float

    def onsets(self, recording: Recording) -> np.ndarray:
        """Start of each full window, seconds, shape (n_windows,)."""
        n = int(np.floor((recording.duration - self.length) / self.step + 1e-9)) + 1
        return np.arange(max(n, 0)) * self.step

    def table(
        self, recording: Recording, support: tuple[float, float] = (0.0, 0.0)
    ) -> pd.DataFrame:
        """Facts about each window of `recording`, indexed by row name.

        `support` widens [start, stop], the seconds of data a row is computed from, at both
        ends; splits within a recording keep train and test rows from sharing support.

        Columns: subject, scan, window, onset, duration, start, stop (s), exclude ("" = usable,
        otherwise the reason why the row is left out of training and scores).
        """
        onsets = self.onsets(recording)
        return pd.DataFrame(
            {
                "subject": recording.subject,
                "scan": recording.scan,
                "window": np.arange(len(onsets)),
                "onset": onsets,
                "duration": float(self.length),
                "start": onsets - support[0],
                "stop": onsets + self.length + support[1],
                "exclude": "",
            },
            index=[f"{recording.name}/window-{i:04d}" for i in range(len(onsets))],
        )


@dataclass(frozen=True)
class Rows:
    """Named rows on their way into a store.

    Attributes:
        array: (n, ...) values.
        table: n rows of facts, indexed by row name.
        header: JSON-able facts about all rows, equal for every recording of a unit.
    """

    array: np.ndarray
    table: pd.DataFrame
    header: dict

    @staticmethod
    def stack(parts: list["Rows"]) -> "Rows":
        return Rows(
            np.concatenate([part.array for part in parts]),
            pd.concat([part.table for part in parts]),
            parts[0].header,
        )
