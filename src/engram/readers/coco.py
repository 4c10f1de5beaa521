"""Captions of COCO's photographs (Lin et al. 2014), for those that the Natural Scenes Dataset took.

`nsd_stim_info_merged.csv` says which photograph of COCO a stimulus is cut from, COCO's own files
`captions_train2017.json` and `captions_val2017.json` how people described it.
"""

import json
from pathlib import Path

import pandas as pd

from engram.errors import InputError

#: Columns of the table: 0-based stimulus id, id of the photograph, and part of COCO.
COLUMNS = ("nsdId", "cocoId", "cocoSplit")

#: Captions that a stimulus keeps, the first by the number of their annotation.
MOST = 5


def read_captions(table, files, ids) -> list[tuple[str, ...]]:
    """Captions of each stimulus, one to five, in the order of `ids`.

    Args:
        table: path of `nsd_stim_info_merged.csv`.
        files: paths of COCO's `captions_*.json`; each names in its name the part of COCO,
            "train2017" or "val2017", of which it has the captions.
        ids: 0-based stimulus ids; they may repeat.

    Raises:
        InputError: a file is missing, damaged or another one, the table has no line or two for a
            stimulus, no file has its part of COCO, or it has no caption.
    """
    cut = _photographs(Path(table))
    unknown = [i for i in ids if i not in cut.index]
    if unknown:
        raise InputError(f"{table}: no stimulus {unknown[0]}; take the table of all 73000")
    wanted = cut.loc[list(ids)]
    captions = {}
    for part in sorted(set(wanted["cocoSplit"])):
        named = [Path(file) for file in files if part in Path(file).name]
        if len(named) != 1:
            raise InputError(
                f"{table}: {(wanted['cocoSplit'] == part).sum()} stimuli are of {part}, and "
                f"{len(named)} files hold its captions; name one file captions_{part}.json"
            )
        numbers = set(wanted["cocoId"][wanted["cocoSplit"] == part])
        captions |= {(part, n): texts for n, texts in _annotated(named[0], numbers).items()}
    both = zip(wanted["cocoSplit"], wanted["cocoId"], strict=True)
    found = [captions.get(key, ()) for key in both]
    if () in found:
        i = found.index(())
        photograph = f"{wanted['cocoSplit'].iloc[i]} {wanted['cocoId'].iloc[i]}"
        raise InputError(
            f"{table}: stimulus {ids[i]}, photograph {photograph} of COCO, has no caption; fetch "
            "COCO's captions again"
        )
    return found


def _photographs(path):
    """The table indexed by stimulus, with columns cocoId and cocoSplit."""
    try:
        table = pd.read_csv(path, usecols=list(COLUMNS), dtype={"cocoSplit": str})
        table = table.astype({"nsdId": int, "cocoId": int}).set_index("nsdId")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct its name or download it") from None
    except (ValueError, OSError) as error:  # pandas' and Unicode's errors are ValueErrors
        told = " ".join(str(error).split())
        raise InputError(
            f"{path}: no table with columns {', '.join(COLUMNS)} ({told}); download it again"
        ) from None
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise InputError(f"{path}: two lines of stimulus {twice}; download it again")
    return table


def _annotated(path, numbers):
    """Captions by the number of a photograph, for those asked for."""
    try:
        annotations = json.loads(path.read_bytes())["annotations"]
        listed = sorted(
            (int(one["image_id"]), int(one["id"]), " ".join(str(one["caption"]).split()))
            for one in annotations
            if one["image_id"] in numbers
        )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct its name or download it") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: no captions of COCO ({told}); download it again") from None
    found = {}
    for number, _, text in listed:
        if text:
            found.setdefault(number, []).append(text)
    return {number: tuple(texts[:MOST]) for number, texts in found.items()}
