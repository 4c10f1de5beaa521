"""Responses of voxels to photographs, a row an image: averaged over its repetitions, z-scored.

Sessions are read one after the other, so that memory is that of the rows and of one session:
sums of int16 trials are exact in float32.  Nothing is estimated from test images but, if asked
for, the mean and the standard deviation of a whole session (`session_all`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.progress import progress
from engram.recording import Responses
from engram.store import Rows
from engram.views import _regions

DEVICE = "cpu"
GIVES = "betas"
OF = Responses
TARGETS = "features"  # as y: a vector a row, like those of a backbone

BLOCK = 256  # rows at a time in double precision

#: What `zscore` does, for the header.
ZSCORES = {
    "training": "each voxel over the averages of the training images",
    "session": "each voxel over the training trials of its session",
    "session_all": "each voxel over all trials of its session, test trials included",
    "none": "none",
}


OF_TRIALS = ("session", "session_all")  # what is z-scored before trials are averaged


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        protocol: trials that are used. "nsd37": without the last three sessions, which were held
            back until 2023; published scores up to then. "nsd40": all. Scores of one do not
            compare with those of the other.
        zscore: "training": each voxel by mean and standard deviation of the averages of the
            training images; "session": trials before they are averaged, by those of the training
            trials of their session; "session_all": by those of all trials of the session, as often
            published; "none".
        average: false makes every trial a row, int16 as published, 300 times the percent signal
            change; only with `zscore: none`.
        regions: add patterns that are 1 in a region of visual cortex and 0 elsewhere, and as many
            voxels drawn at random after each, where the dataset has their files: prf-visualrois,
            prf-eccrois, floc-faces, -words, -places, -bodies. Head `ridge` says what latents they
            lead to; they take no other part. Only with `zscore: training`.
    """

    protocol: Literal["nsd37", "nsd40"] = "nsd37"
    zscore: Literal["training", "session", "session_all", "none"] = "training"
    average: bool = True
    regions: bool = False


def render(responses, windows, options) -> Rows:
    """Responses of one subject: training images, then test images, each sorted by name.

    Returns:
        Rows: float32 (n, voxel), named `subj01/train/nsd-00046`; or int16, in the order of the
        trials, named `subj01/train/nsd-00046/repetition-2`. Columns of the table: subject, split,
        concept (the image), stimulus, repetitions (averaged into the row), session (of single
        trials) and exclude. Voxels that never change over the training rows are left out; their
        names stand in the header, `recorded.constant`. Behind the images patterns of regions, if
        asked for, see `engram.views._regions`.

    Raises:
        InputError: a session is missing or damaged, there is no image of a split, no voxel changes,
            or no region has voxels enough.
    """
    if options.regions and (options.zscore != "training" or not options.average):
        raise InputError(
            "betas: patterns of regions are in standard deviations of the averages of training "
            "images; set `zscore: training` with `regions: true`"
        )
    trials = chosen(responses, options.protocol)
    if not options.average:
        return _single(responses, trials, options)
    images, rows = _images(responses, trials)
    array = np.zeros((len(images), len(responses.voxels)), np.float32)
    for at, values in standardised(responses, trials, options.zscore):
        for row, trial in zip(rows[at], values, strict=True):
            array[row] += trial
    scaled = images["repetitions"].to_numpy() * (
        1 if options.zscore in OF_TRIALS else responses.scale
    )
    array /= scaled[:, None].astype(np.float32)
    trained = array[: (images["split"] == "train").sum()]
    constant = (trained == trained[0]).all(0)
    _refuse_constant(responses, constant)
    if constant.any():
        array = array[:, ~constant]
    unit = responses.unit
    if options.zscore == "training":
        _zscore(array, len(trained))
        unit = "SD of the training images"
    elif options.zscore in OF_TRIALS:
        unit = "SD of the session"
    header = _header(responses, trials, constant, unit, options)
    if not options.regions:
        return Rows(array, images, header)
    own, table, facts = _regions.patterns(responses.subject, responses.voxels[~constant])
    if not len(own):
        raise InputError(
            f"{responses.name}: no region has {_regions.FEWEST} voxels; name files of regions in "
            f"`files` of the dataset, such as prf-visualrois, or leave out `regions`"
        )
    header["recorded"]["regions"] = facts
    return Rows(np.concatenate([array, own]), pd.concat([images, table]), header)


def chosen(responses, protocol) -> pd.DataFrame:
    """The trials that a protocol uses, all of whose sessions have to be there.

    Raises:
        InputError: a session is missing, or a split has no trial.
    """
    last = responses.protocols[protocol]
    missing = [number for number in range(1, last + 1) if number not in responses.sessions]
    if missing:
        raise InputError(
            f"{responses.name}: protocol {protocol} takes sessions 1 to {last}, and session "
            f"{missing[0]} is not there ({len(missing)} missing); name it in `sessions` of the "
            "dataset, or choose another protocol"
        )
    trials = responses.trials[responses.trials["session"] <= last]
    for split in ("train", "test"):
        if split not in set(trials["split"]):
            raise InputError(f"{responses.name}: no trial of split {split} in protocol {protocol}")
    return trials


def standardised(responses, trials, zscore):
    """(positions in `trials`, values (trial, voxel)) of each session.

    Values are int16 as published; or float32, each voxel with mean 0 and sd 1 (n - 1) over the
    trials that `zscore` names, and 0 where it does not change over them.
    """
    session = trials["session"].to_numpy()
    train = trials["split"].to_numpy() == "train"
    for number in progress(np.unique(session), responses.name, "sessions"):
        at = np.flatnonzero(session == number)
        values = responses.sessions[number]
        if zscore not in OF_TRIALS:
            yield at, values
            continue
        part = values if zscore == "session_all" else values[train[at]]
        if len(part) < 2:
            raise InputError(
                f"{responses.name}: session {number} has {len(part)} training trials, too few for "
                f"`zscore: {zscore}`; choose another"
            )
        mean, sd = part.mean(0, dtype=float), part.std(0, ddof=1, dtype=float)
        still = (part == part[0]).all(0)
        scaled = (values - mean) / np.where(still, 1, sd)
        scaled[:, still] = 0
        yield at, scaled.astype(np.float32)


def _images(responses, trials):
    """(table of the images, training before test; row of each trial, int (n,))."""
    names = trials["stimulus"].astype(str)
    counts = trials.assign(test=trials["split"] == "test").groupby(["test", "stimulus"]).size()
    stimuli = counts.index.get_level_values("stimulus")
    splits = np.where(counts.index.get_level_values("test"), "test", "train")
    table = _table(responses, stimuli, splits, counts.to_numpy())
    table.index = [f"{responses.subject}/{name}" for name in stimuli]
    return table, pd.Index(stimuli).get_indexer(names)


def _table(responses, stimuli, splits, repetitions):
    return pd.DataFrame(
        {
            "subject": responses.subject,
            "split": splits,
            "concept": list(stimuli),
            "stimulus": list(stimuli),
            "repetitions": repetitions,
            "exclude": "",
        }
    )


def _single(responses, trials, options):
    """Every trial a row, as published."""
    if options.zscore != "none":
        raise InputError(
            "betas: single trials stay as they are published; set `zscore: none` with "
            "`average: false`"
        )
    array = np.empty((len(trials), len(responses.voxels)), np.int16)
    for at, values in standardised(responses, trials, "none"):
        array[at] = values
    trained = np.flatnonzero(trials["split"].to_numpy() == "train")
    constant = np.ones(array.shape[1], bool)
    for i in trained:
        constant &= array[i] == array[trained[0]]
    _refuse_constant(responses, constant)
    if constant.any():
        array = array[:, ~constant]
    table = _table(responses, trials["stimulus"], trials["split"].to_numpy(), 1)
    table["session"] = trials["session"].to_numpy()
    number = trials.groupby("stimulus").cumcount() + 1
    table.index = [
        f"{responses.subject}/{name}/repetition-{i}"
        for name, i in zip(trials["stimulus"], number, strict=True)
    ]
    unit = f"{responses.unit} / {responses.scale:g}"
    return Rows(array, table, _header(responses, trials, constant, unit, options))


def _refuse_constant(responses, constant):
    if constant.all():
        raise InputError(
            f"{responses.name}: none of {len(constant)} voxels changes over the training images; "
            "fetch the betas and the mask again"
        )


def _zscore(array, trained):
    """Each column by mean and sd (n - 1) of the first `trained` rows, in place."""
    if trained < 2:
        raise InputError("betas: z-scores need at least two training images; set `zscore: none`")
    mean = array[:trained].mean(0, dtype=float)
    blocks = [array[i : i + BLOCK] for i in range(0, len(array), BLOCK)]
    squares = sum(
        ((array[i : min(i + BLOCK, trained)] - mean) ** 2).sum(0) for i in range(0, trained, BLOCK)
    )
    sd = np.sqrt(squares / (trained - 1))
    for block in blocks:
        block[:] = (block - mean) / sd


def _header(responses, trials, constant, unit, options):
    return {
        "what": GIVES,
        "axes": 1,
        "modality": "fmri",
        "unit": unit,
        "protocol": options.protocol,
        "zscore": ZSCORES[options.zscore],
        "average": options.average,
        "recorded": {
            "subject": responses.subject,
            "sessions": int(trials["session"].nunique()),
            "trials": len(trials),
            "voxels": len(constant),
            "constant": responses.voxels.index[constant].tolist(),
        },
        **responses.origin,
    }
