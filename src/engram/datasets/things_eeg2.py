"""THINGS-EEG2: ten subjects who saw 16 540 training and 200 test photographs (OSF 3jk45).

Gifford et al. (2022), CC-BY-4.0.  A subject is a unit of two files, and `image_metadata.npy`
says which photograph each row belongs to.  The photographs are the unit `stimuli`: the two
published zip archives, or the folders that were in them.

    files: ["{unit}/preprocessed_eeg_training.npy", "{unit}/preprocessed_eeg_test.npy",
            image_metadata.npy]
    shared: {stimuli: [image_metadata.npy, training_images.zip, test_images.zip]}

With `recordings: raw` epochs are made here from the recordings, see `engram.signals.epoching`:

    sessions: [ses-01, ses-02, ses-03, ses-04]
    files: ["{unit}/{sessions}/raw_eeg_training.npy", "{unit}/{sessions}/raw_eeg_test.npy",
            image_metadata.npy]

Everything is published as pickles; they are read without running them
(`engram.readers.array_pickles`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.readers import array_pickles
from engram.recording import Stimuli, Trials, members
from engram.signals import epoching

DEVICE = "cpu"

SPLITS = {"train": "training", "test": "test"}  # in names of rows: in names of files
METADATA = "image_metadata.npy"
MOST = {"train": 2, "test": 20}  # repetitions of an image in a session

#: Every electrode from front to back: the order of channels for all subjects.
# fmt: off
CHANNELS = (
    "Fp1", "Fp2", "AF7", "AF3", "AFz", "AF4", "AF8", "F7", "F5", "F3", "F1", "F2",
    "F4", "F6", "F8", "FT9", "FT7", "FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6",
    "FT8", "FT10", "T7", "C5", "C3", "C1", "Cz", "C2", "C4", "C6", "T8", "TP9",
    "TP7", "CP5", "CP3", "CP1", "CPz", "CP2", "CP4", "CP6", "TP8", "TP10", "P7", "P5",
    "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8",
    "O1", "Oz", "O2",
)
# fmt: on
PUBLISHED_WHITENING = "as published; the authors' covariance includes test trials"
POSTERIOR = tuple(name for name in CHANNELS if name[0] in "OP")
CUTS = {"original": (epoching.ORIGINAL, POSTERIOR), "nice": (epoching.NICE, CHANNELS)}


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        recordings: "preprocessed" reads published epochs, "raw" makes them from recordings.
        cut: of raw recordings. "original": 17 posterior channels, -0.2 to 0.8 s, 100 Hz, noise
            covariance across repetitions; "nice": 63 channels, 0 to 1 s, 250 Hz, across time.
        whiten_with: trials that the noise covariance of raw recordings is estimated from;
            "both" is what the authors published, and lets test trials shape training data.
        seed: of the choice and the order of repetitions of raw recordings.
        sessions: names of the sessions, for `files`; any number of them.
    """

    recordings: Literal["preprocessed", "raw"] = "preprocessed"
    cut: Literal["original", "nice"] = "original"
    whiten_with: Literal["training", "both"] = "training"
    seed: int = 20200220
    sessions: list[str] = field(default_factory=list)


def read(unit, rows, options) -> list[Trials] | list[Stimuli]:
    """The trials of a subject, training and test, or, of the unit `stimuli`, the photographs.

    Trials keep the order of `image_metadata.npy`; channels stand in the order of `CHANNELS`.

    Raises:
        InputError: a file is missing, damaged, or no match for the others.
    """
    paths = {row["file"]: row["path"] for row in rows}
    images = _images(_only(unit, paths, METADATA))
    if any("training_images" in file for file in paths):
        return [_stimuli(unit, paths, images)]
    if options.recordings == "raw":
        return _from_raw(unit, paths, images, options)
    found = [
        _preprocessed(unit, _only(unit, paths, f"preprocessed_eeg_{name}.npy"), split, images)
        for split, name in SPLITS.items()
    ]
    for what in ("channels", "sfreq", "start"):
        one, other = (getattr(trials, what) for trials in found)
        if one != other:
            raise InputError(
                f"{unit}: training and test differ in {what}: {_short(one)} and {_short(other)}; "
                "fetch both files from one source"
            )
    return found


def _only(unit, paths, name):
    found = [path for file, path in paths.items() if file.endswith(name)]
    if len(found) != 1:
        raise InputError(f"unit {unit} needs one file {name}; name it in `files` of the dataset")
    return found[0]


def _short(value):
    text = " ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _taken(path, content, keys):
    """Values of a dict by key."""
    missing = [key for key in keys if key not in content] if isinstance(content, dict) else keys
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)} in it; this is another file")
    return [content[key] for key in keys]


# ---- photographs --------------------------------------------------------------------------


def _images(path) -> dict[str, pd.DataFrame]:
    """The images in the order of the rows of the EEG, by split, indexed by name.

    Columns: split, concept, file, things: the number and name of the concept in THINGS.
    """
    content = array_pickles.load(path)
    tables = {}
    for split in SPLITS:
        concepts, files, things = _taken(
            path,
            content,
            [f"{split}_img_{what}" for what in ("concepts", "files", "concepts_THINGS")],
        )
        if not len(concepts) == len(files) == len(things) > 0:
            raise InputError(f"{path}: lists of different lengths; fetch the file again")
        names = [
            f"{split}/{concept}/{Path(file).stem}"
            for concept, file in zip(concepts, files, strict=True)
        ]
        tables[split] = pd.DataFrame(
            {"split": split, "concept": concepts, "file": files, "things": things}, index=names
        )
        if not tables[split].index.is_unique:
            raise InputError(f"{path}: an image is listed twice; fetch the file again")
    shared = sorted(set(tables["train"]["things"]) & set(tables["test"]["things"]))
    if shared:
        raise InputError(f"{path}: {shared[0]} is a concept of training and of test images")
    return tables


def _stimuli(unit, paths, images):
    parts = []
    for split, name in SPLITS.items():
        found = [path for file, path in paths.items() if f"{name}_images" in Path(file).name]
        if len(found) != 1:
            raise InputError(f"unit {unit} needs one archive or folder {name}_images")
        parts.append(_located(images[split], found[0], f"{name}_images"))
    return Stimuli(unit, pd.concat(parts), {"dataset": "THINGS-EEG2"})


def _located(table, source, folder):
    """Where each image of a table lies in an archive or folder, which has to hold these alone."""
    there = {"/".join(Path(member).parts[-2:]): member for member in members(source)}
    wanted = [
        f"{concept}/{file}" for concept, file in zip(table["concept"], table["file"], strict=True)
    ]
    missing = [image for image in wanted if image not in there]
    more = sorted(set(there) - set(wanted))
    if missing or more:
        what = f"lacks {missing[0]}" if missing else f"holds {more[0]}, which is not listed"
        raise InputError(
            f"{source}: {what}; {METADATA} lists {len(wanted)} images of {folder}, "
            f"{len(there)} are there: fetch both from one source"
        )
    captions = [things[6:].replace("_", " ") for things in table["things"]]
    return table[["split", "concept", "things"]].assign(
        caption=captions, source=str(source), member=[there[image] for image in wanted]
    )


# ---- published epochs ---------------------------------------------------------------------


def _preprocessed(unit, path, split, images):
    content = array_pickles.load(path)
    data, names, times = _taken(path, content, ["preprocessed_eeg_data", "ch_names", "times"])
    if np.ndim(data) != 4 or np.dtype(data.dtype).kind != "f":
        raise InputError(f"{path}: the epochs are no array (image, repetition, channel, time)")
    table = images[split]
    if len(data) != len(table):
        raise InputError(
            f"{path}: {len(data)} images, but {METADATA} lists {len(table)} of {split}; "
            "fetch both from one source"
        )
    names = _named(path, names, data.shape[2])
    sfreq, start = _clock(path, np.asarray(times, float), data.shape[3])
    table = table.assign(repetitions=data.shape[1])
    return _trials(unit, split, data, names, table, sfreq, start, PUBLISHED_WHITENING)


def _named(path, names, n) -> tuple[str, ...]:
    """Names of n channels, each one of the 63."""
    names = tuple(map(str, names))
    unknown = [name for name in names if name not in CHANNELS]
    if unknown or len(names) != n or len(set(names)) != n:
        raise InputError(
            f"{path}: {len(names)} channel names for {n} channels"
            + (f", among them {unknown[0]}, which is not one of the 63" if unknown else "")
            + "; fetch the file again"
        )
    return names


def _clock(path, times, n):
    """(sfreq, start) of n samples.

    The code of NICE-EEG drops the 50 samples before the stimulus and keeps their times.
    """
    if (len(times), n) == (300, 250):
        times = times[50:]
    steps = np.diff(times)
    if len(times) != n or n < 2 or not np.allclose(steps, steps[0], atol=1e-6) or steps[0] <= 0:
        raise InputError(
            f"{path}: {len(times)} times for {n} samples, or not evenly spaced; fetch it again"
        )
    return float(np.round((n - 1) / (times[-1] - times[0]), 3)), float(np.round(times[0], 6))


def _trials(unit, split, data, names, table, sfreq, start, whitening):
    table = table.assign(stimulus=table.index)
    order = tuple(name for name in CHANNELS if name in names)
    origin = {"dataset": "THINGS-EEG2", "whitening": whitening}
    return Trials(unit, split, data, table, sfreq, names, order, start, "noise", origin)


# ---- epochs from recordings ---------------------------------------------------------------


def _from_raw(unit, paths, images, options):
    """Training and test trials of any number of sessions."""
    files = {split: _by_session(unit, paths, f"raw_eeg_{n}.npy") for split, n in SPLITS.items()}
    if list(files["train"]) != list(files["test"]):
        raise InputError(f"unit {unit}: training and test come from different sessions")
    sessions = [
        _session({split: files[split][name] for split in SPLITS}, options)
        for name in files["train"]
    ]
    cut, channels = CUTS[options.cut]
    whitening = {"training": "training trials", "both": "training and test trials"}
    found = []
    for split in SPLITS:
        conditions, data, counts = epoching.merge([one[split] for one in sessions], options.seed)
        if conditions[0] < 1 or conditions[-1] > len(images[split]):
            raise InputError(
                f"unit {unit}: {split} images {conditions[0]} to {conditions[-1]} were shown, but "
                f"{METADATA} lists {len(images[split])}; fetch both from one source"
            )
        table = images[split].iloc[conditions - 1].assign(repetitions=counts)
        facts = (cut.sfreq, cut.keep, whitening[options.whiten_with])
        found.append(_trials(unit, split, data, channels, table, *facts))
    return found


def _by_session(unit, paths, name):
    """Paths of the files of this name, by the folder that names their session."""
    found = {Path(f).parent.name: path for f, path in paths.items() if Path(f).name == name}
    if not found:
        raise InputError(f"unit {unit} needs files {name}; name them in `files` of the dataset")
    return found


def _session(paths, options):
    """(conditions, whitened epochs, repetitions) of one session, by split."""
    cut, _ = CUTS[options.cut]
    found = {split: _epochs(path, split, options) for split, path in paths.items()}
    used = list(SPLITS) if options.whiten_with == "both" else ["train"]
    covariances = [
        _within(paths[split], epoching.noise_covariance, *found[split][1:], cut.across)
        for split in used
    ]
    root = _within(paths["train"], epoching.inverse_root, np.mean(covariances, axis=0))
    return {
        split: (conditions, epoching.whiten(array, root), repetitions)
        for split, (conditions, array, repetitions) in found.items()
    }


def _epochs(path, split, options):
    """(conditions, epochs, repetitions) of one recording."""
    cut, channels = CUTS[options.cut]
    content = array_pickles.load(path)
    data, names, sfreq = _taken(path, content, ["raw_eeg_data", "ch_names", "sfreq"])
    array, codes = _within(path, epoching.epochs, data, list(names), float(sfreq), channels, cut)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds values that are not finite; fetch the file again")
    return epoching.by_condition(array, codes, MOST[split], options.seed)


def _within(path, function, *args):
    """What a function gives, its error naming the file."""
    try:
        return function(*args)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
