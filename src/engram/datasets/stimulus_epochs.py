"""Trials x stimuli in any files that MNE reads as epochs: THINGS-MEG, and experiments like it.

A subject is a unit of files of epochs (`-epo.fif`, `_epo.fif`, EEGLAB's `.set`).  What a trial
was stands in the metadata of the epochs, or in tables (CSV, TSV), one a file of epochs, in their
order; a line is a trial, or an epoch before bad ones were dropped.

    files: ["{unit}-epo.fif", "{unit}_trials.csv"]
    trial_columns: {stimulus: image_path, split: trial_type, concept: category}
    splits: {train: exp, test: test}

Of a file that MNE has split, every part is named; the first leads to the others.

The photographs are the unit `stimuli`: folders or zip archives, and tables with the same columns
that say which are shown, e.g. those of one subject.  Without a table the folders say it:
`exp/aardvark/aardvark_01b.jpg`.

    shared: {stimuli: [trials.csv, images.zip]}

A stimulus goes by the name of its file, without folder and suffix, in trials, tables and
photographs alike.  Its trials are its repetitions, in the order they were recorded.

Epochs stay in their files until a view asks for a block of them.  Making the view of a subject of
THINGS-MEG, 20 048 conditions of 271 channels and 201 samples, needs the 4.4 GB of its rows and
about 0.5 GB more.  EEGLAB's files are read as a whole, in double precision.
"""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mne
import numpy as np
import pandas as pd

from engram.errors import InputError, printable
from engram.readers import claims, guards, trial_tables
from engram.readers.folders import IMAGES
from engram.recording import Stimuli, Trials, members

DEVICE = "cpu"

TABLES = trial_tables.SUFFIXES
EPOCHS = (".fif", ".gz", ".set")
#: Kinds of channels: from the unit of MNE to the one of the trials.
UNITS = {
    **dict.fromkeys(("eeg", "seeg", "ecog", "dbs"), (1e6, "uV")),
    "mag": (1e15, "fT"),
    "grad": (1e13, "fT/cm"),
}


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        trial_columns: columns of the metadata or tables: `stimulus`, path or name of the
            photograph; `split`; and, if there are such columns, `concept`; `exclude`, which leaves
            a trial out unless it is empty, 0 or false; `event`, the code of the trial's event,
            which is checked against the code in the file of epochs.
        splits: the value of the column `split` for training and test trials; trials of other
            values, such as catch trials, are left out and counted.
        concept_pattern: regular expression whose first group, in the name of a stimulus, is its
            concept, if there is no column of it. Without either each stimulus is its own concept.
        drop_test_concepts: leave out training trials of concepts that are tested.
        unlisted: photographs that no table lists are an error, or are left out: "refuse", "skip".
        picks: kinds of channels (mag, grad, meg, eeg, ...) or their names. Bad channels are out.
        unit_of_values: of values that are no longer physical, e.g. after z-scoring; they are taken
            as they stand. Null: physical values, given in uV, fT or fT/cm.
    """

    trial_columns: dict[Literal["stimulus", "split", "concept", "exclude", "event"], str]
    splits: dict[Literal["train", "test"], str] = field(
        default_factory=lambda: {"train": "train", "test": "test"}
    )
    concept_pattern: str | None = None
    drop_test_concepts: bool = False
    unlisted: Literal["refuse", "skip"] = "refuse"
    picks: list[str] = field(default_factory=lambda: ["meg", "eeg"])
    unit_of_values: str | None = None


def read(unit, rows, options) -> list[Trials] | list[Stimuli]:
    """The training and the test trials of a subject, or the photographs.

    Conditions stand sorted by name; channels in the order of `picks` if all are names, else sorted.

    Raises:
        InputError: a file cannot be read, lacks a column, trial, channel or photograph, has one
            twice, or training and test share a concept.
    """
    trial_tables.check(options)
    paths = [Path(row["path"]) for row in rows]
    if all(path.suffix in (*TABLES, *EPOCHS) for path in paths):
        return _trials(unit, paths, options)
    return [_stimuli(unit, paths, options)]


# ---- epochs -----------------------------------------------------------------------------


class Epochs:
    """Epochs that stay in their files: an array (condition, repetition, channel, time).

    A slice of conditions is read when it is asked for; missing repetitions hold NaN.

    Args:
        files: mne.Epochs with the same clock.
        at: int (condition, repetition, 2): number of the file and of the epoch in it; -1 where
            there is no such repetition.
        channels: names of those to read, in this order.
        scales: what each of them is multiplied by.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, files, at, channels, scales):
        self.files, self.at, self.scales = files, at, np.asarray(scales)[:, None]
        self.picks = [[one.ch_names.index(name) for name in channels] for one in files]
        self.shape = (*at.shape[:2], len(channels), len(files[0].times))

    def __len__(self):
        return len(self.at)

    def __getitem__(self, conditions: slice) -> np.ndarray:
        at = self.at[conditions]
        values = np.full((*at.shape[:2], *self.shape[2:]), np.nan, self.dtype)
        for number, (one, picks) in enumerate(zip(self.files, self.picks, strict=True)):
            here = at[..., 0] == number
            if here.any():
                values[here] = self._read(one, picks, at[here][:, 1]) * self.scales
        return values

    def _read(self, one, picks, epochs):
        try:
            return one.get_data(picks, epochs, copy=False, verbose="error")
        except Exception as error:  # so do they while they read samples
            raise _unreadable(one.filename, error) from None


def _trials(unit, paths, options):
    table, files = _subject(paths, options)
    table = trial_tables.apart(unit, table, options)
    _say(unit, table)
    channels, scales, units = _channels(files, options)
    first = next(iter(files.values()))
    found = []
    for split in trial_tables.SPLITS:
        at, conditions = _grouped(unit, table, split)
        found.append(
            Trials(
                subject=unit,
                part=split,
                data=Epochs(list(files.values()), at, channels, scales),
                table=conditions,
                sfreq=float(first.info["sfreq"]),
                channels=channels,
                order=channels,
                start=round(float(first.times[0]), 6),
                unit=options.unit_of_values or units,
            )
        )
    return found


def _subject(paths, options):
    """(one line a trial of all files, {path: epochs that are still in their file})."""
    tables = [path for path in paths if path.suffix in TABLES]
    named = [path for path in paths if path.suffix in EPOCHS]
    firsts = [path for path in named if _first_part(path) == path]
    lost = [path for path in named if _first_part(path) not in firsts]
    if lost or (tables and len(tables) != len(firsts)) or not firsts:
        raise InputError(
            f"{lost[0]}: the first part of this file is missing; name every part in `files`"
            if lost
            else f"{paths[0]}: {len(firsts)} files of epochs and {len(tables)} tables; a subject "
            "needs one table a file, or none if the epochs carry metadata"
        )
    files = {path: _open(path) for path in firsts}
    parts = []
    for number, (path, epochs) in enumerate(files.items()):
        where, lines = _lines(path, epochs, tables[number] if tables else None)
        part = trial_tables.describe(where, lines, options)
        if "event" in options.trial_columns:
            codes = trial_tables.column(where, lines, options, "event")
            _check_events(path, epochs, part, codes)
        parts.append(part.assign(file=number, epoch=np.arange(len(part))))
    return pd.concat(parts, ignore_index=True), files


def _first_part(path):
    """The file that leads to this one, where MNE has split epochs into several; or itself."""
    name = re.sub(r"([-_]epo)-\d+(?=\.fif)", r"\1", path.name)
    return path.with_name(re.sub(r"_split-\d+(?=_epo\.fif)", "_split-01", name))


def _open(path):
    """Epochs of a file, not yet read."""
    try:
        claims.refuse(path)
        with guards.guarded(path):
            if path.suffix == ".set":
                return mne.read_epochs_eeglab(path, verbose="error")
            return mne.read_epochs(path, preload=False, verbose="error")
    except InputError:
        raise
    except Exception as error:  # MNE's readers raise whatever a broken file makes them
        raise _unreadable(path, error) from None


def _unreadable(path, error):
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"{path}: not epochs that MNE can read ({reason[0]}); fetch the file again, and every "
        "part of it"
    )


def _lines(path, epochs, table_path):
    """(where they stand, what is known of each epoch)."""
    if table_path is None:
        if epochs.metadata is None:
            raise InputError(
                f"{path}: the epochs carry no metadata; name a table (CSV or TSV) of the trials in "
                "`files`"
            )
        return path, epochs.metadata
    table = trial_tables.load(table_path)
    if len(table) == len(epochs):
        return table_path, table
    if len(table) == len(epochs.drop_log):  # of all epochs, bad ones among them
        return table_path, table.iloc[epochs.selection]
    raise InputError(
        f"{table_path}: {len(table)} lines for {len(epochs)} epochs in {path}; the table needs a "
        "line for each"
    )


def _check_events(path, epochs, table, codes):
    """Refuse epochs whose event is not the one in the line of the table."""
    names = {code: name for name, code in epochs.event_id.items()}
    for i in np.flatnonzero(table["reason"] == ""):
        code = int(epochs.events[i, 2])
        if codes[i] not in (str(code), names.get(code)):
            raise InputError(
                f"{path}: epoch {i + 1} has the event {code}, but its line says {codes[i]}; "
                "epochs and trials are not in the same order"
            )


def _say(unit, table):
    """Print how many trials are used, and why others are not."""
    out = table["reason"][table["reason"] != ""].value_counts().sort_index()
    counts = ", ".join(f"{n} ({reason})" for reason, n in out.items())
    used = f"{unit}: {len(table) - out.sum()} of {len(table)} trials"
    print(printable(f"{used}; left out: {counts or 'none'}"), file=sys.stderr)


def _grouped(unit, table, split):
    """(file and epoch of each repetition (n, repetition, 2), table of the n conditions)."""
    used = table[(table["reason"] == "") & (table["split"] == split)]
    if not len(used):
        raise InputError(
            f"{unit}: no trial of split {split} is left; correct `splits.{split}` of the dataset"
        )
    groups = used.groupby("stimulus", sort=True)
    counts = groups.size().to_numpy()
    at = np.full((len(counts), counts.max(), 2), -1)
    at[groups.ngroup(), groups.cumcount()] = used[["file", "epoch"]].to_numpy()
    first = groups.first()
    names = [f"{split}/{stimulus}" for stimulus in first.index]
    facts = {"split": split, "concept": first["concept"].to_numpy(), "stimulus": names}
    return at, pd.DataFrame({**facts, "repetitions": counts}, index=names)


def _channels(files, options):
    """(names, factors, unit) of the channels to read; the same in all files."""
    (path, first), *others = files.items()
    chosen = _picked(path, first, options)
    for other_path, other in others:
        odd = sorted(set(chosen) ^ set(_picked(other_path, other, options)))
        if odd:
            raise InputError(
                f"{path} and {other_path}: only one has the channel {odd[0]} (or it is marked bad "
                "in one); choose channels that both have with `picks` of the dataset"
            )
        clocks = [(one.info["sfreq"], len(one.times), round(one.tmin, 6)) for one in (first, other)]
        if clocks[0] != clocks[1]:
            raise InputError(
                f"{path} and {other_path}: epochs differ in sampling rate, length or start "
                f"({clocks[0]} and {clocks[1]}); resample and cut them alike"
            )
    names = [name for name in options.picks if name in chosen]
    names = tuple(names if len(names) == len(chosen) else sorted(chosen))
    scales = [1.0 if options.unit_of_values else UNITS[chosen[name]][0] for name in names]
    return names, scales, ", ".join(sorted({UNITS[kind][1] for kind in chosen.values()}))


def _picked(path, epochs, options):
    """{name: kind} of the chosen channels of a file."""
    kinds = dict(zip(epochs.ch_names, epochs.get_channel_types(), strict=True))
    wanted = {"mag", "grad"} if "meg" in options.picks else set()
    wanted |= set(options.picks)
    chosen = {
        name: kind
        for name, kind in kinds.items()
        if kind in UNITS and wanted & {name, kind} and name not in epochs.info["bads"]
    }
    known = {"meg", *UNITS, *chosen}
    missing = [pick for pick in options.picks if pick not in known]
    if missing or not chosen:
        raise InputError(
            f"{path}: no good channel {', '.join(missing or options.picks)}; there is "
            f"{', '.join(sorted(set(kinds.values())))}: {', '.join(list(kinds)[:5])}, ...; correct "
            "`picks` of the dataset"
        )
    return chosen


# ---- photographs ------------------------------------------------------------------------


def _stimuli(unit, paths, options):
    tables = [path for path in paths if path.suffix in TABLES]
    found = _photographs(path for path in paths if path not in tables)
    if tables:
        lines = [
            trial_tables.describe(path, trial_tables.load(path), options, of_trials=False)
            for path in tables
        ]
        listed = pd.concat(lines, ignore_index=True)
    else:
        listed = _by_folder(unit, found, options)
    names = set(listed["stimulus"])
    listed = trial_tables.apart(unit, listed, options)
    listed = listed[listed["reason"] == ""].drop_duplicates("stimulus")
    _check_photographs(unit, listed["stimulus"], names, found, options)
    sources, files = zip(*(found[name][0] for name in listed["stimulus"]), strict=True)
    table = listed[["split", "concept"]].assign(source=sources, member=files)
    table.index = [f"{s}/{n}" for s, n in zip(listed["split"], listed["stimulus"], strict=True)]
    return Stimuli(unit, table.sort_index())


def _photographs(sources):
    """{name: (source, member) of each photograph of this name}."""
    found = {}
    for source in sources:
        for member in members(source):
            if Path(member).suffix.lower() in IMAGES:
                name = trial_tables.stimulus_name(member)
                found.setdefault(name, []).append((str(source), member))
    return found


def _by_folder(unit, found, options):
    """What the folders of photographs say of them, as `trial_tables.describe`."""
    names = {value: split for split, value in options.splits.items()}
    lines = []
    for stimulus, places in found.items():
        for _, member in places:
            *above, last = Path(member).parts[:-1] or [""]
            split = next((names[part] for part in (*above, last) if part in names), None)
            if split:
                lines.append((stimulus, split, "", stimulus if last in names else last))
    if not lines:
        raise InputError(
            f"unit {unit}: no table says which photographs were shown, and none lies in a folder "
            f"{' or '.join(names)}; name a table (CSV or TSV) in `shared`"
        )
    return pd.DataFrame(lines, columns=["stimulus", "split", "reason", "concept"])


def _check_photographs(unit, wanted, listed, found, options):
    """Refuse photographs that are missing, there twice or, unless allowed, not listed."""
    missing = [name for name in wanted if name not in found]
    twice = [name for name in wanted if len(found.get(name, ())) > 1]
    more = sorted(set(found) - listed) if options.unlisted == "refuse" else []
    if missing:
        raise InputError(
            f"unit {unit}: no photograph {missing[0]} ({len(missing)} of {len(wanted)} are "
            "missing); fetch them, or correct the table"
        )
    if twice:
        places = " and ".join("/".join(place) for place in found[twice[0]])
        raise InputError(f"unit {unit}: photograph {twice[0]} is there twice: {places}")
    if more:
        raise InputError(
            f"unit {unit}: photograph {more[0]} is listed nowhere ({len(more)} such); set "
            "`unlisted: skip` to leave them out"
        )
