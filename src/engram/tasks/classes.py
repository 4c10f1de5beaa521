"""Stage `train`: which class has each row? All folds and seeds of one experiment in one job."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from engram import splits, store
from engram.errors import InputError
from engram.planning.components import options as component_options
from engram.store import Rows
from engram.training import Run, Task, of_view

DEFAULT_SEEDS = 3
DEFAULT_FOLDS = "leave_one_subject_out"


def train(x, y, model, predictions, latents, spec, made_by, device):
    """Stage `train`: every fold and every run of one experiment.

    Runs are the seeds of the experiment and one control, whose labels are shifted in time
    away from their rows (`splits.control`). If the experiment gives several inputs to
    choose from, each fold uses the one with the best mean validation score of the seeds.

    Args:
        x: paths of the stores of each source, {source: [path, ...]}.
        y: paths of the label stores.
        model, predictions, latents: paths to write.
        spec: dict with `experiment` (dataset, x, y, head, folds, seeds, ...), `candidates`
            (lists of sources) and `head` (kind and options).
        made_by: provenance of the job, for the headers.
        device: "cpu" or "cuda".

    Raises:
        InputError: stores share no row, hold values that are not finite or rows without
            class, or the folds are not possible or leak.
    """
    task, excluded = load(x, y)
    how = spec["experiment"].get("folds", DEFAULT_FOLDS)
    folds = splits.make(task.table, task.y, how, seed=0)
    splits.check(folds, task.table, task.y, how, task.classes)
    runs = _runs(task, spec["experiment"].get("seeds", DEFAULT_SEEDS))
    task = replace(task, folds=folds, runs=runs)
    module, options = component_options("heads", spec["head"])
    candidates = spec["candidates"]
    fits = [module.fit(_only(task, sources), options, device) for sources in candidates]
    best = _best(fits, runs)
    header = {
        "what": "predictions",
        "classes": task.classes,
        "runs": [{"seed": run.seed, "shuffled": run.shuffled} for run in runs],
        "excluded": excluded,
        "leaks": (how["kind"] if isinstance(how, dict) else how) == "random_windows",
        **_warnings(x, y),
        "sources": task.sources,
        "chosen": _chosen(fits, best, folds, candidates),
        "curves": _curves(fits, best, folds),
        "made_by": made_by,
    }
    store.write(latents, _latents(fits[best[0]], task, header, candidates[best[0]]))
    _write_model(model, fits, header, [fold.name for fold in folds])
    store.write(predictions, _predictions(fits, best, task, header))


def load(x, y) -> tuple[Task, dict]:
    """The usable rows of all stores, side by side by name and sorted by name.

    Rows that a store excludes or lacks are left out and counted.

    Args:
        x: {source: [path, ...]}.
        y: paths of the label stores.

    Returns:
        Task without folds and runs, and {reason: rows left out}.

    Raises:
        InputError: as for `train`.
    """
    for source, paths in x.items():
        for path in paths:
            if not Path(path).with_suffix("").as_posix().endswith(f"/{source}"):
                raise InputError(f"{path}: the path says that this is no store of {source}")
    labels = _labels(y)
    sources = {source: store.load(paths) for source, paths in x.items()}
    labels = _taken(labels, np.argsort(labels.table.index.to_numpy(dtype=str)))
    at = store.align(labels.table, *(rows.table for rows in sources.values()))
    lacking = _lacking(labels, sources)
    labels, *found = (_taken(r, i) for r, i in zip([labels, *sources.values()], at, strict=True))
    reason = _reasons([labels, *found])
    usable = np.flatnonzero(reason == "")
    if not len(usable):
        raise InputError(f"{y[0]}: no usable row; all are left out: {_counted(reason)}")
    labels, *found = (_taken(rows, usable) for rows in (labels, *found))
    _check_values(labels, dict(zip(sources, found, strict=True)), y[0])
    table = _supported(labels.table, [rows.table for rows in found])
    task = Task(
        x=[rows.array for rows in found],
        sources=list(sources),
        headers=[rows.header for rows in found],
        y=labels.array.astype(int),
        classes=labels.header["classes"],
        table=table,
        folds=[],
        runs=[],
    )
    return task, _counted(np.concatenate([reason, lacking]))


def _supported(table, others):
    """`table` with the seconds that a row rests on in any store, so that none is on both sides."""
    tables = [one for one in (table, *others) if {"start", "stop"} <= {*one.columns}]
    if not tables:
        return table
    return table.assign(
        start=np.min([one["start"].to_numpy() for one in tables], axis=0),
        stop=np.max([one["stop"].to_numpy() for one in tables], axis=0),
    )


def _labels(paths):
    labels = store.load(paths)
    for path in paths:
        header = store.open(path).header
        if header.get("what") != "labels":
            raise InputError(f"{path}: holds {header.get('what')!r}, expected labels")
        if header["classes"] != labels.header["classes"]:
            raise InputError(
                f"{path}: classes {header['classes']}, but {paths[0]} has "
                f"{labels.header['classes']}; render both again with one configuration"
            )
    return labels


def _taken(rows, at):
    return Rows(rows.array[at], rows.table.iloc[at], rows.header)


def _lacking(labels, sources):
    """Why rows of the labels stand in no store of a source, one reason a row."""
    reason = np.full(len(labels.table), "", object)
    for source, rows in sources.items():
        absent = ~labels.table.index.isin(rows.table.index)
        reason[absent & (reason == "")] = f"not in {source}"
    return reason[reason != ""]


def _reasons(stores):
    """Why each row is left out, "" if it is not: the first reason that a store gives."""
    reason = np.full(len(stores[0].table), "", object)
    for rows in stores:
        given = rows.table["exclude"].to_numpy(dtype=object)
        reason = np.where(reason == "", given, reason)
    return reason


def _counted(reasons):
    return {str(k): int(n) for k, n in pd.Series(reasons[reasons != ""]).value_counts().items()}


def _check_values(labels, sources, path):
    bad = labels.table.index[(labels.array < 0) | (labels.array >= len(labels.header["classes"]))]
    if len(bad):
        raise InputError(f"{path}: row {bad[0]} has no class and gives no reason to exclude it")
    for source, rows in sources.items():
        if rows.array.dtype.kind != "f":
            continue
        finite = np.isfinite(rows.array).reshape(len(rows.array), -1).all(1)
        if not finite.all():
            raise InputError(
                f"{source}: {(~finite).sum()} usable rows hold NaN or infinite values, first "
                f"{rows.table.index[~finite][0]}; correct them, or exclude the rows in the view"
            )


def _runs(task, seeds):
    control = splits.control(task.y, task.table, np.random.default_rng(0))
    return [*(Run(seed, False, task.y) for seed in range(seeds)), Run(0, True, control)]


def _only(task, sources):
    """The task with these sources alone."""
    at = [task.sources.index(source) for source in sources]
    return replace(
        task,
        x=[task.x[i] for i in at],
        sources=list(sources),
        headers=[task.headers[i] for i in at],
    )


def _best(fits, runs):
    """Candidate with the best mean validation score of the seeds, int array (folds,)."""
    seeds = [not run.shuffled for run in runs]
    return np.argmax([fit.validation[:, seeds].mean(1) for fit in fits], axis=0)


def _chosen(fits, best, folds, candidates):
    """What was chosen on validation rows, {choice: {fold: value}}."""
    chosen = {
        name: {
            fold.name: fits[i].facts[name][f]
            for f, (fold, i) in enumerate(zip(folds, best, strict=True))
        }
        for name in fits[0].facts
    }
    if len(fits) > 1:
        chosen["x"] = {fold.name: candidates[i] for fold, i in zip(folds, best, strict=True)}
    return chosen


def _curves(fits, best, folds):
    """Training curves of the chosen candidate of each fold, {column: values}."""
    names = [fold.name for fold in folds]
    parts = [
        fit.curves[fit.curves["fold"].isin([n for n, b in zip(names, best, strict=True) if b == i])]
        for i, fit in enumerate(fits)
        if len(fit.curves)
    ]
    return pd.concat(parts).to_dict("list") if parts else {}


def _warnings(x, y):
    """What a reader of any score must know, from the headers of all stores."""
    of_x = [store.open(path).header for paths in x.values() for path in paths]
    of_y = [store.open(path).header for path in y]
    eeg = any(of_view(header, "modality") == "eeg" for header in of_x)
    return {
        "simulated": any(bool(of_view(header, "simulated")) for header in of_x),
        "random_weights": any(header.get("weights") == "random" for header in of_x),
        "circular": eeg and any(header.get("derived_from") == "eeg" for header in of_y),
    }


# ---- what is written --------------------------------------------------------------------


def _predictions(fits, best, task, header):
    """Out-of-fold probabilities, each fold by its candidate.

    The table says of each row its class, its class in the control run, and its fold.
    """
    probabilities = np.zeros_like(fits[0].probabilities)
    fold_of = np.empty(len(task.y), object)
    for fold, i in zip(task.folds, best, strict=True):
        probabilities[fold.test] = fits[i].probabilities[fold.test]
        fold_of[fold.test] = fold.name
    moved = next(run.y for run in task.runs if run.shuffled)
    facts = task.table.assign(y=task.y, y_shuffled=moved, fold=fold_of)
    return Rows(probabilities, facts, header)


def _latents(fit, task, header, sources):
    """The latent space of the first fold, with the part that each row plays in that fold."""
    part = np.full(len(task.y), "purged", object)
    for name in ("train", "validation", "test"):
        part[getattr(task.folds[0], name)] = name
    kept = ("classes", "simulated", "random_weights", "circular", "made_by")
    facts = {"what": "latents", "sources": list(sources), "fold": task.folds[0].name}
    return Rows(
        np.asarray(fit.latent, np.float32),
        task.table.assign(y=task.y, part=part),
        facts | {key: header[key] for key in kept},
    )


def _write_model(path, fits, header, folds):
    """Parameters as safetensors; of several candidates each has its number before its names."""
    tensors = {
        f"{i}/{name}" if len(fits) > 1 else name: np.ascontiguousarray(values)
        for i, fit in enumerate(fits)
        for name, values in fit.state.items()
    }
    facts = {key: header[key] for key in header if key not in ("what", "curves")}
    metadata = {"engram": store.canonical(facts | {"folds": folds})}
    with store.replaced(path) as temporary:
        save_file(tensors, temporary, metadata)
