r"""The Natural Scenes Dataset: photographs seen at 7 T, a response a voxel and trial.

Allen et al. (2022), s3://natural-scenes-dataset, region us-east-2, no account needed.  It is under
an agreement that has to be accepted first: https://naturalscenesdataset.org; nothing of it may be
passed on.

A subject is a unit of the design, the mask `nsdgeneral` and the betas of its sessions, NIfTI or
their HDF5 twins, which are faster to read; other masks beside them give the labels of regions.
The photographs are the unit `stimuli`; captions come from COCO, or from the curated file.

    terms: the Natural Scenes Dataset Terms and Conditions, https://naturalscenesdataset.org
    units: [subj01, subj02, subj05, subj07]
    sessions: ["01", "02", ..., "40"]
    files:
      - nsddata/experiments/nsd/nsd_expdesign.mat
      - nsddata/ppdata/{unit}/func1pt8mm/roi/nsdgeneral.nii.gz
      - "nsddata_betas/ppdata/{unit}/func1pt8mm/betas_fithrf_GLMdenoise_RR/\
         betas_session{sessions}.hdf5"
    shared:
      stimuli:
        - nsddata/experiments/nsd/nsd_expdesign.mat
        - nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5
        - nsddata/experiments/nsd/nsd_stim_info_merged.csv
        - captions_train2017.json
        - captions_val2017.json
    by_hand: [captions_train2017.json, captions_val2017.json]

Stimuli are called by their split and 0-based id, `test/nsd-02950`: all that every subject saw
test.  Nothing is held but what is asked for: a session of betas, a photograph.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.readers import coco
from engram.readers import nsd as files
from engram.recording import Responses, Stimuli

DEVICE = "cpu"

#: A job knows of a raw file its name alone.
COLUMNS = ("file",)

DESIGN = "nsd_expdesign.mat"
MASK = "nsdgeneral"
STIMULI = "nsd_stimuli.hdf5"
TABLE = "nsd_stim_info_merged.csv"
CURATED = "COCO_73k_annots_curated.npy"

#: Sessions at the end that were not public before August 2023: the protocol `nsd37` lacks them.
HELD_BACK = 3


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        sessions: numbers of the sessions, for `files`: "01", "02", ...; the photographs are those
            that were shown in them.
        subjects: units whose photographs the unit `stimuli` holds, each once.
    """

    sessions: list[str]
    subjects: list[str] = field(default_factory=lambda: ["subj01", "subj02", "subj05", "subj07"])


@dataclass(frozen=True)
class Sizes:
    """How large the experiment is.

    Attributes:
        sessions: of each subject.
        trials: in a session.
        images, shared, repetitions: of a subject, of all subjects, trials of an image.
        pictures: shape of all photographs.
    """

    sessions: tuple[int, ...] = (40, 40, 32, 30, 40, 32, 40, 30)
    trials: int = files.TRIALS
    images: int = 10_000
    shared: int = 1_000
    repetitions: int = 3
    pictures: tuple[int, ...] = files.PICTURES


def read(unit, rows, options, sizes=Sizes()) -> list[Responses] | list[Stimuli]:
    """The responses of a subject or, of the unit `stimuli`, the photographs.

    Args:
        sizes: of a smaller experiment with the same files.

    Raises:
        InputError: a file is missing, damaged or no match for the others, or a photograph has no
            caption.
    """
    paths = {row["file"]: Path(row["path"]) for row in rows}
    subjects = {name: number(name, sizes) for name in options.subjects}
    design = files.read_design(
        _one(unit, paths, DESIGN),
        len(sizes.sessions), sizes.images, sizes.shared, sizes.repetitions,
    )  # fmt: skip
    if any(Path(file).name == STIMULI for file in paths):
        return [_stimuli(unit, paths, design, subjects.values(), options, sizes)]
    if unit not in subjects:
        raise InputError(
            f"unit {unit} is not one of `subjects` ({', '.join(subjects)}), so that the stimuli "
            "lack its photographs; add it to `subjects` of the dataset"
        )
    return [_responses(unit, paths, design, subjects[unit], sizes)]


def number(unit, sizes) -> int:
    """Row of a subject in the design, from 0.

    Raises:
        InputError: there is no subject of this name.
    """
    found = re.fullmatch(r"subj0?(\d+)", unit)
    if not found or not 1 <= int(found[1]) <= len(sizes.sessions):
        raise InputError(
            f"{unit!r} is no subject; they are called subj01 to subj{len(sizes.sessions):02d}"
        )
    return int(found[1]) - 1


def _one(unit, paths, name):
    found = [path for file, path in paths.items() if Path(file).name == name]
    if len(found) != 1:
        raise InputError(
            f"unit {unit} needs one file {name}; name it in `files` or `shared` of the dataset"
        )
    return found[0]


# ---- photographs --------------------------------------------------------------------------


def _names(ids, shared):
    """Names of stimuli, by split: all that every subject sees test."""
    splits = np.where(np.isin(ids, shared), "test", "train")
    return [f"{split}/nsd-{i:05d}" for split, i in zip(splits, ids, strict=True)], splits


def _stimuli(unit, paths, design, subjects, options, sizes):
    path = _one(unit, paths, STIMULI)
    files.read_stimuli(path, [], sizes.pictures)  # refuses another file before anything is made
    shown = np.zeros(design.trials.shape[1], bool)
    for session in map(_session_of, options.sessions):
        shown[sizes.trials * (session - 1) : sizes.trials * session] = True
    ids = np.unique(design.trials[list(subjects)][:, shown])
    names, splits = _names(ids, design.shared_ids)
    facts = {
        "split": splits,
        "concept": names,
        "source": str(path),
        "member": [f"imgBrick/{i}" for i in ids],
    }
    captions = _captions(unit, paths, ids, sizes)
    if captions:
        facts["caption"] = [texts[0] for texts in captions]
        facts["captions"] = ["\n".join(texts) for texts in captions]
    table = pd.DataFrame(facts, index=names).sort_values("split", kind="stable")
    return Stimuli(unit, table, {"dataset": "NSD"})


def _captions(unit, paths, ids, sizes):
    """Captions of each stimulus, None if no file of captions is named."""
    named = {Path(file).name: path for file, path in paths.items()}
    from_coco = [path for name, path in named.items() if name.startswith("captions_")]
    if CURATED in named and (from_coco or TABLE in named):
        raise InputError(f"unit {unit}: captions come from {CURATED} or from COCO; name one source")
    if CURATED in named:
        return files.read_captions(named[CURATED], ids, (sizes.pictures[0], coco.MOST))
    if from_coco:
        return coco.read_captions(_one(unit, paths, TABLE), from_coco, ids.tolist())
    return None


# ---- responses ----------------------------------------------------------------------------


class Sessions(Mapping):
    """Betas of each session, by its number from 1, read when they are asked for.

    Args:
        paths: files by number.
        mask: `engram.readers.nsd.Mask`.
        trials: in a session.
    """

    def __init__(self, paths, mask, trials):
        self.paths, self.mask, self.trials = paths, mask, trials

    def __getitem__(self, number) -> np.ndarray:
        """int16 (trial, voxel), 300 times the percent signal change."""
        return files.read_raw_betas(self.paths[number], self.mask, self.trials)

    def __contains__(self, number):  # what Mapping has would read the session
        return number in self.paths

    def __iter__(self):
        return iter(self.paths)

    def __len__(self):
        return len(self.paths)


def _responses(unit, paths, design, subject, sizes):
    masks = {_stem(file): path for file, path in paths.items() if "/roi/" in f"/{file}"}
    if MASK not in masks:
        raise InputError(f"unit {unit} needs the mask {MASK}; name it in `files` of the dataset")
    mask = files.read_mask(masks.pop(MASK))
    sessions = _by_session(unit, paths)
    last = sizes.sessions[subject]
    trials = sizes.trials * last
    ids = design.trials[subject, :trials]
    names, splits = _names(ids, design.shared_ids)
    facts = {
        "session": np.repeat(np.arange(1, last + 1), sizes.trials),
        "split": splits,
        "stimulus": names,
    }
    return Responses(
        subject=unit,
        sessions=Sessions(sessions, mask, sizes.trials),
        trials=pd.DataFrame(facts),
        voxels=_voxels(unit, mask, masks),
        protocols={"nsd37": last - HELD_BACK, "nsd40": last},
        scale=files.SCALE,
        unit="percent signal change",
        origin={"dataset": "NSD"},
    )


def _stem(file):
    return Path(file).name.partition(".")[0]


def _by_session(unit, paths):
    """Files of betas by the number of their session."""
    found = {}
    for file, path in paths.items():
        if _stem(file).startswith("betas_session"):
            session = _session_of(_stem(file).removeprefix("betas_session"))
            if session in found:
                raise InputError(
                    f"unit {unit}: {found[session]} and {path} are one session; name it once"
                )
            found[session] = path
    if not found:
        raise InputError(f"unit {unit} needs files betas_session...; name them in `files`")
    return dict(sorted(found.items()))


def _session_of(text):
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise InputError(f"{text!r} is no number of a session; they are 01, 02, ...")
    return int(text)


def _voxels(unit, mask, regions):
    """A line a voxel: place in mm, and the label that each file of regions gives it."""
    at = np.argwhere(mask.volume)
    place = at @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    table = pd.DataFrame(
        place.round(3), columns=["x", "y", "z"], index=[f"{unit}/voxel-{i:07d}" for i in mask.index]
    )
    for name, path in regions.items():
        table[name] = files.read_labels(path, mask)
    return table
