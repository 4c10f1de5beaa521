"""Which pictures of a gallery are nearest to epochs, by a model that was aligned with pictures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError
from engram.planning import components

NEAREST = 5
BYTES = 256 << 20  # of similarities that are held
LEAST, MOST = 16, 1024  # epochs at once


@dataclass(frozen=True)
class Asked:
    """What the head of pairs is asked beside epochs.

    Attributes:
        targets: features (m, d) of the pictures, one array an image encoder.
        subjects: of each epoch, str (n,); None: unknown.
        trained: of each model the subjects it was fitted on, in the order of its rows.
    """

    targets: list
    subjects: np.ndarray | None
    trained: list


def predict(model, x, gallery, device) -> pd.DataFrame:
    """The pictures of a gallery that are nearest to each epoch; see `Model.predict`.

    Epochs are read, and similarities held, block by block. Where there is a model a subject, an
    epoch is asked of that of its subject.

    Raises:
        InputError: no gallery was given, epochs or gallery are not what the model was fitted on, or
            there is no model of a subject.
    """
    names, targets = _gallery(model, gallery)
    epochs, table = _epochs(model, x)
    usable = np.flatnonzero(table["exclude"] == "")
    found = [table.iloc[:0]]
    for rows, own in _of_models(model, table, usable):
        size = BYTES // (4 * len(names) * len(model.facts["kept"]["seeds"]))
        size = min(max(size, LEAST), MOST)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            values = np.asarray(epochs[some], np.float32)
            _refuse_infinite(model, values, table.index[some])
            told = _nearest(model, own, values, _subjects(table, some), targets, names, device)
            told["unlike"] = model.unlike([values])
            found.append(pd.DataFrame(told, index=table.index[some]))
    columns = pd.concat(found[1:]) if len(found) > 1 else pd.DataFrame(index=table.index[:0])
    return table.join(columns)


def _nearest(model, own, values, subjects, targets, names, device):
    """Columns of the table, for some epochs, by the models called `own`; None: all."""
    head, options = components.options("heads", model.facts["head"])
    trained, k = model.facts["kept"]["subjects_of"], min(NEAREST, len(names))
    state, of_models = model.kept_of(own)
    asked = Asked(targets, subjects, [trained["models"][m] for m in of_models])
    similarity = head.predict(state, [values], asked, options, device).mean(0)
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    top = np.take_along_axis(similarity, best, 1)
    shown, at = np.unique(best[:, 0], return_inverse=True)
    state, of_folds = model.folds_of(own)
    asked = Asked([part[shown] for part in targets], subjects,
                  [trained["folds"][f] for f in of_folds])  # fmt: skip
    of_best = head.predict(state, [values], asked, options, device)[:, np.arange(len(at)), at]
    told = {}
    for i in range(k):
        told |= {f"picture_{i + 1}": names[best[:, i]], f"similarity_{i + 1}": top[:, i]}
    return told | {"spread": of_best.std(0)}


# ---- what is given ----------------------------------------------------------------------


def _gallery(model, gallery):
    """Names of the usable pictures, and their features by every encoder."""
    wanted = list(model.facts["labels"])
    if gallery is None:
        raise InputError(
            f"{model.path.name}: tells pictures apart; give `gallery`, stores of "
            f"{', '.join(wanted)} of the pictures to choose among"
        )
    given = gallery if isinstance(gallery, dict) else dict.fromkeys(wanted[:1], gallery)
    if {*given} != {*wanted}:
        raise InputError(
            f"{model.path.name}: was aligned with {', '.join(wanted)}; give `gallery` as "
            "{source: path} of each"
        )
    loaded = []
    for source in wanted:
        paths = [given[source]] if isinstance(given[source], str | Path) else list(given[source])
        for path in paths:
            model.check(source, store.open(path).header, path, "labels")
        loaded.append(store.load(paths))
    at = store.align(*(rows.table for rows in loaded))
    usable = np.ones(len(at[0]), bool)
    for rows, i in zip(loaded, at, strict=True):
        usable &= (rows.table["exclude"].iloc[i] == "").to_numpy()
    if not usable.any():
        raise InputError(f"{given[wanted[0]]}: no usable picture")
    features = [
        rows.array[i[usable]].reshape(usable.sum(), -1) for rows, i in zip(loaded, at, strict=True)
    ]
    return loaded[0].table.index[at[0][usable]].to_numpy(), features


def _epochs(model, x):
    """Rows that are read when asked for, and their table."""
    (source,) = model.sources
    x = x[source] if isinstance(x, dict) else x
    if isinstance(x, np.ndarray):
        model.check_shape(source, x, "the rows")
        return x, pd.DataFrame({"exclude": ""}, index=[f"row-{i:06d}" for i in range(len(x))])
    paths = [x] if isinstance(x, str | Path) else list(x)
    for path in paths:
        model.check(source, store.open(path).header, path)
    found = store.Stacked(paths)
    model.check_shape(source, found, paths[0])
    return found, found.table


def _subjects(table, rows):
    return table["subject"].to_numpy(str)[rows] if "subject" in table else None


def _of_models(model, table, usable):
    """(rows, name of the model that they are asked of); None: all models."""
    names = model.facts["kept"]["models"]
    if len(names) == 1:
        yield usable, None
        return
    subjects = _subjects(table, usable)
    others = set() if subjects is None else {*subjects.tolist()} - {*names}
    if subjects is None or others:
        of = min(others) if others else "an unknown subject"
        raise InputError(
            f"{model.path.name}: has a model a subject, of {', '.join(names)}, and none of {of}; "
            "train with `folds: pooled` or `leave_one_subject_out` for new subjects"
        )
    for name in names:
        if (subjects == name).any():
            yield usable[subjects == name], name


def _refuse_infinite(model, values, names):
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        raise InputError(
            f"{model.path.name}: {(~finite).sum()} epochs hold NaN or infinite values, first "
            f"{names[~finite][0]}; exclude them"
        )
