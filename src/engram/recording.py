"""What a dataset reads and a view renders.

`Recording` is a continuous scan with its events, `Trials` are epochs of one subject that were cut
before, `Responses` are one value a trial and voxel, `Stimuli` are the photographs that were shown.
"""

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from engram.errors import InputError
from engram.readers import images
from engram.readers.picture_stacks import SUFFIXES, Stack

#: What zipfile raises of a member that is missing, damaged or packed in a way it does not know.
UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    NotImplementedError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Signal:
    """Evenly sampled channels that share a clock.

    Attributes:
        data: float32 or float64 array (channel, time), in `unit`.
        sfreq: samples per second (Hz).
        channels: one name a row of `data`.
        unit: physical unit of the values, e.g. "uV".
        start: seconds between the start of the recording and the first sample.
        bad: names of channels that are left out because they are marked bad in this recording.
    """

    data: np.ndarray
    sfreq: float
    channels: tuple[str, ...]
    unit: str
    start: float = 0.0
    bad: tuple[str, ...] = ()

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
        events: table with onset (s), duration (s; 0 if it is not known) and description;
            intervals may overlap.
            Everything known about time stands here: annotations of the file, device
            stages, protocol blocks, conditions that hold for the whole recording.
        bad: table like `events`: stretches that no view is to use, the description saying why;
            one without duration is a seam, which no window may hold; a column `but_for`, if
            there is one, names a signal that can be used all the same.
        labels: published labels, one value a window, shape (n_windows,).
        facts: what is known of the subject or scan beside, by name: texts of a manifest, numbers.
        origin: facts for the header of what is rendered, e.g. {"simulated": True}.
    """

    subject: str
    scan: str
    duration: float
    signals: dict[str, Signal] = field(default_factory=dict)
    pictures: dict[str, dict[str, Picture]] = field(default_factory=dict)
    events: pd.DataFrame = field(default_factory=no_events)
    bad: pd.DataFrame = field(default_factory=no_events)
    labels: np.ndarray | None = None
    facts: dict[str, str | float] = field(default_factory=dict)
    origin: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.subject}/{self.scan}"


@dataclass(frozen=True)
class Trials:
    """Epochs of one subject around stimuli, one row a condition.

    Attributes:
        subject: identifier.
        part: names these trials among those of the subject, e.g. "test".
        data: float32 or float64 array (n, repetition, channel, time), in `unit`; it may lie in
            files, mapped into memory or behind an object with the shape, dtype and slices of an
            array, so read slices of conditions.  Repetitions that are missing stand at the end
            and hold NaN.
        table: n conditions, indexed by name (`train/00001_aardvark/aardvark_01b`), with columns
            split ("train" or "test"), concept, stimulus (name in the table of `Stimuli`) and
            repetitions (how many there are).
        sfreq: samples per second (Hz).
        channels: names of the channels of `data`, in the order of the file.
        order: the same names in the order that rows get, equal for every subject.
        start: seconds between the stimulus and the first sample.
        unit: of the values, e.g. "uV", or "noise" where noise has variance 1.
        origin: facts for the header of what is rendered, e.g. {"simulated": True}.
    """

    subject: str
    part: str
    data: np.ndarray
    table: pd.DataFrame
    sfreq: float
    channels: tuple[str, ...]
    order: tuple[str, ...]
    start: float
    unit: str
    origin: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.subject}/{self.part}"

    @property
    def times(self) -> np.ndarray:
        """Seconds between the stimulus and each sample, shape (time,)."""
        return self.start + np.arange(self.data.shape[-1]) / self.sfreq


@dataclass(frozen=True)
class Responses:
    """Responses of the voxels of one subject to photographs: one value a trial and voxel.

    Attributes:
        subject: identifier.
        sessions: by number from 1, int16 (trial, voxel), read when it is asked for; 1 / `scale`
            of `unit`.
        trials: a line a trial in the order they were shown, with columns session, split ("train"
            or "test") and stimulus (name in the table of `Stimuli`).
        voxels: a line a column of the values, indexed by name (`subj01/voxel-0012345`), with
            columns x, y, z (mm), and one for each file of regions: its label, int.
        protocols: how many sessions, from the first on, a published protocol takes, by name.
        scale: by which values are divided.
        unit: of the values then, e.g. "percent signal change".
        origin: facts for the header of what is rendered, e.g. {"simulated": True}.
    """

    subject: str
    sessions: Mapping[int, np.ndarray]
    trials: pd.DataFrame
    voxels: pd.DataFrame
    protocols: dict[str, int]
    scale: float
    unit: str
    origin: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.subject


@dataclass(frozen=True)
class Stimuli:
    """The photographs of an experiment, read when they are asked for.

    Attributes:
        name: for messages.
        table: indexed by stimulus name (`train/00001_aardvark/aardvark_01b`), with columns split,
            concept, source (path of a zip archive, a folder or an HDF5 file) and member (path of
            the image file in it, or `dataset/row`); and, if there are any, caption, and captions
            where a photograph has several, one a line.
        origin: facts for the header of what is rendered, e.g. {"simulated": True}.
    """

    name: str
    table: pd.DataFrame
    origin: dict = field(default_factory=dict)

    def pictures(self) -> Iterator[Image.Image]:
        """Each photograph, upright RGB (`engram.readers.images`), in the order of the table.

        Raises:
            InputError: a file is missing or damaged.
        """
        listed = zip(self.table["source"], self.table["member"], self.table.index, strict=True)
        for source, rows in groupby(listed, key=itemgetter(0)):
            with Stack(source) if str(source).endswith(SUFFIXES) else _Source(source) as opened:
                for _, member, name in rows:
                    yield opened.picture(member, f"{self.name}: {name}")


def members(source) -> list[str]:
    """Paths of the files in a zip archive or folder, sorted, without what macOS leaves.

    Raises:
        InputError: the archive is not readable, or encrypted.
    """
    if Path(source).is_dir():
        files = (path for path in Path(source).rglob("*") if path.is_file())
        found = [path.relative_to(source).as_posix() for path in files]
    else:
        found = _archived(source)
    kept = (f for f in found if not Path(f).name.startswith(".") and "__MACOSX" not in f)
    return sorted(kept)


def _archived(source):
    try:
        with zipfile.ZipFile(source) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{source}: not a readable zip archive ({error})") from None
    if any(info.flag_bits & 1 for info in files):
        raise InputError(f"{source}: is encrypted; unpack it, and name the folder instead")
    return [info.filename for info in files]


class _Source:
    """A zip archive or a folder, whose files are read alike."""

    def __init__(self, path):
        self.path = Path(path)

    def __enter__(self):
        try:
            self.archive = None if self.path.is_dir() else zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{self.path}: not a readable zip archive ({error})") from None
        return self

    def __exit__(self, *_):
        if self.archive:
            self.archive.close()

    def picture(self, member, name):
        return images.read(io.BytesIO(self._read(member)), name)

    def _read(self, member):
        try:
            size = self._size(member)
            if size > images.MOST_BYTES:
                raise InputError(
                    f"{self.path}: {member} has {size >> 20} MiB, more than any picture of 20 "
                    "megapixels; take it out"
                )
            return self.archive.read(member) if self.archive else (self.path / member).read_bytes()
        except UNREADABLE as error:
            raise InputError(
                f"{self.path}: {member} cannot be read ({error}); fetch the file again"
            ) from None

    def _size(self, member):
        """Bytes once unpacked; zipfile does not unpack more than it says here."""
        if self.archive:
            return self.archive.getinfo(member).file_size
        return (self.path / member).stat().st_size


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
