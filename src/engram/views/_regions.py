"""Regions of visual cortex as patterns of responses: 1 in a region and 0 elsewhere.

Labels are those of the Natural Scenes Dataset (Allen et al. 2022, data manual): early areas are in
`prf-visualrois`, dorsal and ventral parts apart; bands of eccentricity in `prf-eccrois`; categories
have any label of their file. Published code read V1 to V4 from `floc-faces`, whose labels are those
of face regions.
"""

import zlib

import numpy as np
import pandas as pd

#: Name, file and labels of each region; no labels: all that are positive.
REGIONS = (
    ("V1", "prf-visualrois", (1, 2)),
    ("V2", "prf-visualrois", (3, 4)),
    ("V3", "prf-visualrois", (5, 6)),
    ("hV4", "prf-visualrois", (7,)),
    ("0 to 0.5 degrees", "prf-eccrois", (1,)),
    ("0.5 to 1 degrees", "prf-eccrois", (2,)),
    ("1 to 2 degrees", "prf-eccrois", (3,)),
    ("2 to 4 degrees", "prf-eccrois", (4,)),
    ("beyond 4 degrees", "prf-eccrois", (5,)),
    ("faces", "floc-faces", ()),
    ("words", "floc-words", ()),
    ("places", "floc-places", ()),
    ("bodies", "floc-bodies", ()),
)

FEWEST = 20  # voxels of a region that is taken
CONTROL = "as many voxels as"


def patterns(subject, voxels) -> tuple[np.ndarray, pd.DataFrame, dict]:
    """Patterns of the regions, and of as many voxels drawn at random after each: its control.

    A voxel may be in several regions. A region with fewer than 20 voxels is left out and named in
    the log, as are regions whose file is not there and regions that share voxels.

    Args:
        subject: its name.
        voxels: a line a column of the responses, with a column of labels for each file.

    Returns:
        float32 (q, p); table of q rows, indexed by `subj01/region/V1`, with columns subject, split
        ("region"), concept (name of the region), stimulus (likewise, `region/V1`), repetitions (0)
        and exclude ("region"); and facts for the header: `voxels` of each region, `small` ones that
        were left out, `absent` files and what regions `share`, [one, other, voxels].
    """
    absent = list(dict.fromkeys(file for _, file, _ in REGIONS if file not in voxels))
    inside = {}
    for name, file, labels in REGIONS:
        if file in voxels:
            own = voxels[file].to_numpy()
            inside[name] = np.isin(own, labels) if labels else own > 0
    small = {name: int(own.sum()) for name, own in inside.items() if own.sum() < FEWEST}
    kept = {name: own for name, own in inside.items() if name not in small}
    found = {}
    for name, own in kept.items():
        rng = np.random.default_rng(zlib.crc32(f"{subject} {name}".encode()))
        found[name] = own
        found[f"{CONTROL} {name}"] = rng.permutation(own)
    for name in absent:
        print(f"{subject}: no file {name} among `files` of the dataset; without its regions")
    for name, count in small.items():
        print(f"{subject}: region {name} has {count} voxels, fewer than {FEWEST}; left out")
    shared = _shared(kept)
    for one, other, count in shared:
        print(f"{subject}: regions {one} and {other} share {count} voxels, which count in both")
    facts = {
        "voxels": {name: int(own.sum()) for name, own in kept.items()},
        "small": small,
        "absent": absent,
        "share": shared,
    }
    array = np.array([*found.values()], np.float32).reshape(len(found), len(voxels))
    return array, _table(subject, [*found]), facts


def _table(subject, names):
    stimuli = [f"region/{name}" for name in names]
    facts = {"subject": subject, "split": "region", "concept": names, "stimulus": stimuli}
    index = [f"{subject}/{name}" for name in stimuli]
    return pd.DataFrame(facts | {"repetitions": 0, "exclude": "region"}, index=index)


def _shared(regions):
    names = list(regions)
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    counts = [int((regions[one] & regions[other]).sum()) for one, other in pairs]
    return [[*pair, count] for pair, count in zip(pairs, counts, strict=True) if count]
