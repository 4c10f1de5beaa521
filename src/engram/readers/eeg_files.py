"""One file of a recording: its channels, their samples in uV, and what it says of time."""

import re
from dataclasses import dataclass
from pathlib import Path

import mne
import numpy as np

from engram.errors import InputError
from engram.readers import channels, recorded_events, recordings, units

RATED = ("RawEDF", "RawBDF", "RawGDF")  # each channel has a rate of its own


@dataclass(frozen=True)
class Samples:
    """Samples of some channels, on the clock of the recording.

    Attributes:
        data: float64 (channel, time), uV or the numbers of the file; NaN in gaps.
        sfreq: samples per second (Hz).
        channels: list of `engram.readers.channels.Channel`.
        timeline: `engram.readers.recorded_events.Timeline`.
    """

    data: np.ndarray
    sfreq: float
    channels: list[channels.Channel]
    timeline: recorded_events.Timeline


class EegFile:
    """A recording in any format that MNE reads.

    Attributes:
        channels: list of `engram.readers.channels.Channel`, in the order of the file.
        noticed: warnings of MNE as it opened the file.
        said: what a user has to know of it, filled as it is read.
    """

    def __init__(
        self, path, *, encoding=None, types=None, rename=None, stated=None, bids=None, markers=None
    ):
        """Open a file.

        Args:
            path: of the file.
            encoding, types, rename, stated: options of the dataset; `stated` are its `unit`.
            bids: `engram.readers.bids_channels.read` of the table beside it, or None.
            markers: path of the file of markers that a BrainVision header names, or None.

        Raises:
            InputError: MNE cannot read it, or would make up values, times or rates.
        """
        self.path, self.encoding, self.markers = path, encoding, markers
        self.stated, self.bids, self.said = stated, bids or {}, []
        self.raw, self.noticed = recordings.opened(path, encoding)
        if not self._rated():  # those of EDF and GDF are heard when the channels are chosen
            self._hear(self.noticed)
        self.channels = channels.listed(
            self.raw,
            doubled=recordings.doubled(self.noticed),
            typed=Path(path).suffix.lower() in recordings.TYPED,
            bids=bids,
            types=types,
            rename=rename,
        )
        self._say_unknown("types", types)
        self._say_unknown("rename", rename)
        self._say_unknown("unit", stated if isinstance(stated, dict) else None)
        self._say_cut_off()

    def eeg(self, names=None):
        """The channels of the EEG.

        Args:
            names: of the channels; None takes those that are EEG.

        Returns:
            list of Channel; the same of those left out as bad; and why each channel that could
            be meant is left out, by key.

        Raises:
            InputError: a name is none, no channel is EEG, or all of them are marked bad.
        """
        if names is not None:
            found = self.named(names)
            for one in found:
                if one.kind not in ("eeg", "unknown"):
                    self.said.append(f"{one.label} looks like {one.kind}; `channels` asks for it")
            others = [c for c in self.channels if c.kind == "eeg"]
        else:
            found = channels.ordered(self._named_eeg())
            others = self.channels
        left = {c.key: c.kind for c in others if c.key not in {f.key for f in found}}
        good, bad = ([one for one in found if one.bad == is_bad] for is_bad in (False, True))
        left |= {one.key: "marked bad" for one in bad}
        if not good:
            what = ", ".join(one.label for one in found)
            raise InputError(
                f"{self.path}: every EEG channel ({what}) is marked bad, in the file or in its "
                "channels.tsv; correct the mark, or take the recording off the manifest"
            )
        return good, bad, left

    def named(self, names):
        """The channels of these names.

        Raises:
            InputError: a name is none.
        """
        return channels.asked(self.path, self.channels, names)

    def _named_eeg(self):
        """Channels that are EEG by their kind; where there are none, those without a kind."""
        found = [one for one in self.channels if one.kind == "eeg"]
        if found:
            return found
        unknown = [one for one in self.channels if one.kind == "unknown"]
        volts = [one for one in unknown if self._is_voltage(one)]
        if not unknown:
            kinds = ", ".join(f"{one.label} ({one.kind})" for one in self.channels)
            raise InputError(
                f"{self.path}: no channel is EEG; there is {kinds}; name those that are in "
                "`channels`, or say their kind in `types` of the dataset"
            )
        return volts or unknown

    def _is_voltage(self, channel):
        try:
            return bool(self._scale(self.raw, channel))
        except InputError:
            return False

    def microvolts(self, chosen) -> Samples:
        """Samples of some channels, doubled ones once.

        Raises:
            InputError: a unit is unknown, rates differ, doubled channels differ, or the samples
                cannot be read.
        """
        raw = self._reopened(chosen)
        found = [self._scale(raw, one) for one in chosen]
        for one, (_, unit) in zip(chosen, found, strict=True):
            if unit:
                self._say(f"{one.label} is read in {unit}, which the file does not say")
        scales = np.array([factor for factor, _ in found])
        data, timeline = self._read(raw, chosen)
        kept = self._once(chosen, data)
        data = data[kept] if len(kept) < len(data) else data
        data *= scales[kept, None]
        return Samples(data, float(raw.info["sfreq"]), [chosen[i] for i in kept], timeline)

    def outline(self, chosen) -> Samples:
        """As `microvolts`, but no sample is read: `data` is (0, time).

        Raises:
            InputError: a unit is unknown, or rates differ.
        """
        raw = self._reopened(chosen)
        for one in chosen:
            self._scale(raw, one)
        timeline = self._timeline(raw)
        data = timeline.spread(np.empty((0, raw.n_times)), raw.info["sfreq"])
        return Samples(data, float(raw.info["sfreq"]), [*chosen], timeline)

    def numbers(self, channel) -> Samples:
        """Samples of one channel as the file holds them, whatever their unit."""
        raw = self._reopened([channel])
        data, timeline = self._read(raw, [channel])
        _, factor = units.of_file(raw, channel.key)
        return Samples(data / factor, float(raw.info["sfreq"]), [channel], timeline)

    def _scale(self, raw, channel):
        beside = self.bids.get(channel.label, {}).get("units")
        return units.scale(self.path, raw, channel, self.stated, beside)

    # ---- reading ------------------------------------------------------------------------

    def _rated(self):
        return type(self.raw).__name__ in RATED

    def _reopened(self, chosen):
        """With these channels alone where MNE would upsample them to the fastest of all."""
        if not self._rated():
            return self.raw
        header = self.raw._raw_extras[0]
        counts = dict(zip(self.raw.ch_names, header["n_samps"][header["sel"]], strict=True))
        found = {one.key: int(counts[one.key]) for one in chosen}
        if len(set(found.values())) > 1:
            raise InputError(
                f"{self.path}: channels of different sampling rates ("
                + ", ".join(f"{key}: {count} samples a record" for key, count in found.items())
                + "); name those of one rate in `channels`"
            )
        gdf = type(self.raw).__name__ == "RawGDF"
        if gdf and len(set(counts.values())) == 1:
            self._hear(self.noticed)
            return self.raw
        keys = list(dict.fromkeys(one.key for one in chosen))
        how = {} if gdf else {"exclude_after_unique": True}
        raw, noticed = recordings.opened(self.path, self.encoding, include=keys, **how)
        self._hear(noticed)
        if set(raw.ch_names) != set(keys):
            raise InputError(
                f"{self.path}: two channels share a label, and rates differ; give each a label of "
                "its own"
            )
        return raw

    def _read(self, raw, chosen):
        """(samples as MNE scales them, with NaN in gaps; timeline)."""
        data, noticed = recordings.read(self.path, raw, [one.key for one in chosen])
        self._hear(noticed)
        timeline = self._timeline(raw)
        return timeline.spread(data, raw.info["sfreq"]), timeline

    def _timeline(self, raw):
        timeline = recorded_events.timeline(
            self.path, raw, encoding=self.encoding, markers=self.markers
        )
        for line in timeline.said:
            self._say(line)
        return timeline

    def _once(self, chosen, data):
        """Indices of the channels, one of each name.

        Raises:
            InputError: two of a name differ.
        """
        first = {}
        for i, one in enumerate(chosen):
            j = first.setdefault(one.name, i)
            if np.array_equal(data[i], data[j], equal_nan=True):
                if i != j and chosen[i].key != chosen[j].key:
                    self._say(f"{one.key} holds the same samples as {chosen[j].key}, left out")
                continue
            raise InputError(
                f"{self.path}: two channels are called {one.name!r} and differ (MNE calls them "
                f"{chosen[j].key} and {one.key}); choose one in `channels`, or give them names of "
                "their own in `rename` of the dataset"
            )
        return list(first.values())

    # ---- saying -------------------------------------------------------------------------

    def _hear(self, noticed):
        own_clock = Path(self.path).suffix.lower() in recordings.EDF
        for line in recordings.sorted_out(self.path, noticed):
            if not (own_clock and "annotation(s)" in line):
                self._say(line)

    def _say(self, line):
        if line not in self.said:
            self.said.append(line)

    def _say_unknown(self, option, given):
        """Names in an option that no channel has; other files of the dataset may have them."""
        for name in given or {}:
            old = {one.key for one in self.channels} | {one.label for one in self.channels}
            if option == "rename":
                old |= set(map(self._original, self.raw.ch_names))
            if name not in old and not channels.matching(self.channels, name):
                self._say(f"`{option}` names {name}, which no channel of this file is called")

    def _original(self, key):
        return re.sub(r"-\w$", "", key)

    def _say_cut_off(self):
        """MNE takes as many whole records or samples as a file has."""
        facts = self.raw._raw_extras[0]
        match type(self.raw).__name__:
            case "RawEDF" | "RawBDF":
                with open(self.path, "rb") as file:
                    file.seek(236)
                    declared, there, what = file.read(8), int(facts["n_records"]), "records"
            case "RawBrainVision":
                header = Path(self.path).read_bytes()
                declared = re.search(rb"(?m)^DataPoints=(\d+)", header)
                declared = declared[1] if declared else b""
                there, what = int(facts["n_samples"]), "samples"
            case _:
                return
        declared = declared.decode("latin-1").strip()
        if declared and declared != str(there):
            self._say(f"{there} {what} are there, but the header says {declared}; is it cut off?")


def resampled(data, sfreq, wanted):
    """Channels at another rate, each stretch between gaps by itself; NaN stays NaN."""
    n = round(data.shape[1] * wanted / sfreq)
    found = np.full((len(data), n), np.nan)
    info = mne.create_info(1, sfreq, "eeg", verbose="error")
    for row, series in zip(found, data, strict=True):
        known = np.concatenate([[False], np.isfinite(series), [False]])
        edges = np.flatnonzero(known[1:] != known[:-1])
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            at = round(start * wanted / sfreq)
            length = min(round((stop - start) * wanted / sfreq), n - at)
            if length > 0:
                piece = mne.io.RawArray(series[None, start:stop], info, verbose="error")
                values = piece.resample(wanted, verbose="error").get_data()
                row[at : at + length] = values[0, :length]
    return found
