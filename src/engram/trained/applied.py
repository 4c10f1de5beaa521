"""A folder of what a model says of recordings: a table, a picture of each, a summary.

A call that was interrupted goes on where it stopped: of a recording whose files, model and code are
the same nothing is done again. A second call waits for the first.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from engram import disk, store
from engram.errors import InputError
from engram.job import digest
from engram.progress import progress
from engram.store import json_file
from engram.trained import found, is_store, pictures, summary
from engram.trained.recordings import Way

NOTE = "applied.json"  # of which model the results in a folder are
TABLE = "predictions.csv"

UNLIKE = 1.0  # see `engram.trained.Model.unlike`


@dataclass(frozen=True)
class Applied:
    """What was made of some recordings.

    Attributes:
        table: a line a window: recording, onset, duration (s), class and the probability of each,
            or value, their spread over folds and seeds, how unlike the window is, and whether it
            is `usable`: "yes", or why not.
        recordings: a dict a recording, see `engram.trained.summary.of_recording`.
        failed: {file: what is wrong with it}.
    """

    table: pd.DataFrame
    recordings: list[dict]
    failed: dict[str, str]


def apply(model, files, out, device="cpu", settings=None, gallery=None) -> Applied:
    """Apply a model to recordings without labels.

    Under `out` come `predictions.csv`; `summary.html`; `pictures/`, one a recording; and
    `recordings/`, the stores in between.

    Args:
        model: `engram.trained.Model`.
        files: paths of recordings, of folders that are searched for them, or of stores of rows.
        out: a folder, made if need be.
        device: "cpu" or "cuda".
        settings: options of the dataset that are laid over those of the recipe, e.g. {"tr": 2.0}.
        gallery: stores of features of pictures, the nearest of which a model of pictures names.

    Raises:
        InputError: `out` holds results of another model, the recipe cannot be followed, or none
            of the files can be used. A file that cannot be used beside others is in `failed`.
    """
    if model.facts["task"] not in summary.SAYS:
        raise InputError(
            f"{model.path.name}: says {model.facts['task']}, which are no table for a person; use "
            "`engram.load_model` in Python"
        )
    _claim(model, Path(out))
    with disk.held(Path(out) / TABLE):
        return _apply(Way(model, device, settings, gallery), files, out)


def _apply(way, files, out):
    model = way.model
    if not all(map(is_store, files)):
        way.check()
    paths, failed = found.recordings(files, way.needs)
    several, done = len(paths) + len(failed) > 1, []
    for line in failed.values() if several else ():
        print(f"error: {line}", file=sys.stderr)
    with progress(len(paths), model.path.stem, "recordings") as bar:
        for name, path in paths.items():
            try:
                done.append(_one(way, path, name, Path(out)))
            except InputError as error:
                failed[str(path)] = str(error) if str(path) in str(error) else f"{path}: {error}"
                if several:
                    print(f"error: {failed[str(path)]}", file=sys.stderr)
            bar.update(1)
    if not done:
        none = f"none of {len(failed)} can be used; each is said above"
        raise InputError(none if several else next(iter(failed.values())))
    applied = Applied(
        pd.concat([table for table, _ in done], ignore_index=True),
        [one for table, facts in done for one in summary.of_recordings(table, facts, model)],
        failed,
    )
    with store.replaced(Path(out) / TABLE) as temporary:
        applied.table.to_csv(temporary, index=False, float_format="%.6g")
    summary.write(Path(out) / "summary.html", model, applied)
    return applied


def lines(table, name, classes) -> pd.DataFrame:
    """Lines of `predictions.csv` from a table of `Model.predict`.

    Args:
        table: of one recording, or of several scans. Rows that are no windows in time have their
            name, `row`, in place of `onset` and `duration`.
        name: of the recording; scans stand behind it where there are several.
        classes: of the model, none where it says a number or pictures.
    """
    lines = pd.DataFrame({"recording": name}, index=table.index)
    if "onset" in table:
        scans = [row.split("/")[-2] for row in table.index]
        several = len({row.rpartition("/")[0] for row in table.index}) > 1
        lines["recording"] = [f"{name}/{scan}" for scan in scans] if several else name
        lines[["onset", "duration"]] = table[["onset", "duration"]]
    else:
        lines["row"] = table.index
    pictures = [c for c in table if c.startswith(("picture_", "similarity_"))]
    what = ["class", *(f"p_{name}" for name in classes)] if classes else pictures or ["value"]
    said = [*what, "spread", "unlike"]
    lines[said] = table.reindex(columns=said)  # of rows that are all left out nothing is said
    unlike = np.where(lines["unlike"] > UNLIKE, "unlike", "yes")
    lines["usable"] = np.where(table["exclude"] == "", unlike, table["exclude"])
    return lines.reset_index(drop=True)


def _claim(model, out):
    """Note whose results a folder holds, or refuse that of another model."""
    note = {"model": str(model.path), "sha256": digest(model.path)}
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is no folder; name one for the results")
    if (out / NOTE).is_file():
        before = json.loads((out / NOTE).read_text(encoding="utf-8"))
        if not set(before.values()) & set(note.values()):
            raise InputError(
                f"{out}: holds results of another model, {before['model']}; name another folder, "
                "or delete this one"
            )
    elif (out / TABLE).exists():
        raise InputError(f"{out}: holds a {TABLE} of something else; name another folder")
    disk.folder(out)
    json_file.write(note, out / NOTE)


def _one(way, path, name, out):
    """(lines, facts) of one file; those of an earlier call if nothing has changed."""
    folder, shown = out / "recordings" / name, out / "pictures"
    rows = is_store(path)
    inputs = {str(path): digest(path)} if rows else way.inputs(path)
    inputs |= {str(one): digest(one) for one in way.gallery or ()}
    key = store.canonical([digest(way.model.path), inputs, way.settings, way.code])
    if not _is_done(folder, key, shown):
        disk.folder(folder)
        (folder / NOTE).unlink(missing_ok=True)
        recordings = [] if rows else way.read(path, name)
        made = way.made_of_store(path, folder) if rows else way.made(recordings, folder, inputs)
        table = lines(made.table, name, way.model.classes)
        names = dict.fromkeys(table["recording"]) if "onset" in table else {}
        files = {one: f"{found.safe(one)}.png" for one in names}
        for one, file in files.items():
            own = (table["recording"] == one).to_numpy()
            pictures.draw(table[own], made.view, made.table.index[own], way.model, shown / file)
        with store.replaced(folder / TABLE) as temporary:
            table.to_csv(temporary, index=False)
        facts = {"key": key, "file": str(path), "said": made.said, "pictures": files}
        json_file.write(facts, folder / NOTE)
    text = {"recording": str, "class": str, "usable": str}
    table = pd.read_csv(folder / TABLE, dtype=text)
    return table, json.loads((folder / NOTE).read_text(encoding="utf-8"))


def _is_done(folder, key, shown):
    if not (folder / NOTE).is_file():
        return False
    facts = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    return facts["key"] == key and all(
        (shown / one).is_file() for one in facts["pictures"].values()
    )
