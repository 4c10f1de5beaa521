"""Tasks: the questions that an experiment asks, a module each; and stage `train`, which asks them.

A task has two doors, `load(x, y, experiment)`, the rows with their folds and runs, and
`predictions(outputs, task, header)`, what is written: a list of Rows, first those that were tested.
`null(outputs, task)` is what is kept of models of moved labels (`engram.tasks.null`), and
`strata(y, table)` by what subjects are dealt out to folds.
Where a model can be applied to another data set, it has two more: `usable(x, y)`, the rows without
folds and runs, and `applied(task, facts, known)`, these rows as the model knows them.
What else is known of it stands in constants that the plan reads without importing the module:

- `TARGETS`: what y is, "labels", "numbers" or "pictures" (a view) or "features" (a view under a
  backbone);
- `FOLDS`: ways to split, the default first, each with what it generalises to;
- `FIGURES`: files that stage `plot` draws; `SHOWS`: whose pictures these show, "x", "y",
  "both" or None;
- `PROBED`: the side that scores read beside predictions: "x", to ask what else the inputs know,
  "y", where predictions do not hold what is true, or None; `MAPPED`: the latents can be mapped;
  `OCCLUDED`: what the model looks at is measured; `COMPARED`: a comparison can consist of it;
- `LEARNING`: ways to split under which fewer subjects can be trained on, see `engram.tasks.fewer`;
- `MEMORY_MB`, `RUNTIME`: what training asks of a cluster.
"""

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from engram import flags, store
from engram.planning import components
from engram.store import Rows
from engram.tasks import fewer
from engram.tasks.null import refitted
from engram.tasks.refit import keeps, refit
from engram.training import of_view

SHOWN = 5  # names of missing channels in a sentence


def train(x, y, model, predictions, latents, spec, made_by, device, null=None):
    """Stage `train`: every fold and every run of one experiment, and the model kept for use.

    Runs are the seeds of the experiment and one control, whose labels are moved away from
    their rows. If the experiment gives several inputs to choose from, each fold uses the one
    with the best mean validation score of the seeds. The model that is kept is fitted on all
    subjects, see `engram.tasks.refit`; `engram.trained` reads the file again.

    Args:
        x, y: paths of the stores of each source, {source: [path, ...]}.
        model, predictions, latents: paths to write.
        spec: dict with `task`, `experiment` (folds, seeds, train_subjects), `candidates` (lists of
            sources), `head` (kind and options) and `recipe`, what makes the rows of each source.
        made_by: provenance of the job, for the headers.
        device: "cpu" or "cuda".
        null: path to write what models of moved labels say, see `engram.tasks.null`; None: none is
            made.

    Raises:
        InputError: the rows do not suit the task or the head.
    """
    kind = components.module("tasks", spec["task"])
    head, options = components.options("heads", spec["head"])
    task, excluded = kind.load(x, y, spec["experiment"])
    candidates, sizes = spec["candidates"], spec["experiment"].get("train_subjects")
    orders = fewer.orders(task, sizes) if sizes else None  # refused before anything is trained
    fits = [head.fit(task.of(sources), options, device) for sources in candidates]
    best = _best(fits, task.runs)
    header = {
        "what": "predictions",
        "task": spec["task"],
        "runs": [{"seed": run.seed, "shuffled": run.shuffled} for run in task.runs],
        "excluded": excluded,
        "flags": flags.ordered([*flags_of(x, y, task), *_of_split(spec, task), *fits[0].flags]),
        "sources": task.sources,
        "inputs": inputs_of(x),
        "targets": [*y],
        "facts": _facts(y),
        "chosen": _chosen(fits, best, task.folds, candidates),
        "curves": _curves(fits, best, task.folds),
        **task.facts,
        **fits[0].header,
        "made_by": made_by,
    }
    predicted = kind.predictions(_outputs(fits, best, task), task, header)
    if sizes:

        def outputs(this):
            found = [head.fit(this.of(sources), options, device) for sources in candidates]
            return _outputs(found, _best(found, this.runs), this)

        predicted[0] = fewer.beside(predicted[0], outputs, task, sizes, orders)
    header = predicted[0].header
    store.write(latents, *_latents(fits[best[0]], task, header, candidates[best[0]]))
    kept = None
    if keeps(head, options):
        kept = refit(head, options, kind, task, fits, candidates, device)
        if kept[0]:
            kept[0].update(_digests(x, kept[1]["sources"], task.table.index))
    _write_model(model, fits, kept, header | _known(x, y, spec), [fold.name for fold in task.folds])
    if null:
        store.write(null, refitted(head, options, kind, task, candidates, device, header))
    store.write(predictions, *predicted)


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


def flags_of(x, y, task):
    """What a reader of any score must know, from the headers of all stores."""
    of_x = [store.open(path).header for paths in x.values() for path in paths]
    of_y = [store.open(path).header for paths in y.values() for path in paths]
    if any(bool(of_view(header, "simulated")) for header in of_x):
        yield "simulated"
    if any(header.get("weights") == "random" for header in [*of_x, *of_y]):
        yield "random_weights"
    tested = set(task.table["subject"].iloc[task.tested])
    yield from (flag for header in of_x for flag in of_view(header, "flags") or ())
    seen = [header.get("seen", ()) for header in [*of_x, *of_y]]
    if any(isinstance(one, str) or tested.intersection(one) for one in seen):
        yield "seen"
    if any(of_view(header, "missing") or header.get("input", {}).get("missing") for header in of_x):
        yield "incomplete"
    if any(of_view(header, "transductive") for header in of_x):
        yield "transductive"
    eeg = any(of_view(header, "modality") == "eeg" for header in of_x)
    if eeg and any(header.get("derived_from") == "eeg" for header in of_y):
        yield "circular"


def _facts(y):
    """Types of the facts of scans that the rows of y carry, by name."""
    path = next(path for paths in y.values() for path in paths)
    return of_view(store.open(path).header, "facts") or {}


def inputs_of(x):
    """What is missing in the rows of each source and what was converted, sentences by source."""
    headers = {source: store.open(paths[0]).header for source, paths in x.items()}
    return {source: said for source, header in headers.items() if (said := [*_said(header)])}


def _said(header):
    counted = header.get("input", {})
    there, of = counted.get("coverage") or of_view(header, "coverage") or (0, 0)
    missing = counted.get("missing") or of_view(header, "missing")
    if there < of:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        yield f"{there} of {of} channels, without {', '.join(missing[:SHOWN])}{more}"
    yield from counted.get("converted", ())


def _of_split(spec, task):
    how = spec["experiment"].get("folds")
    how = how["kind"] if isinstance(how, dict) else how
    if how == "random_windows":
        yield "leaks"
    if how == "blocked" and task.classes:
        scans = task.table.assign(y=task.y).groupby(["subject", "scan"])["y"]
        if (scans.nunique() == 1).all():
            yield "recording"


# ---- what is written --------------------------------------------------------------------


def _outputs(fits, best, task):
    """Outputs of the tested rows, each fold by its candidate."""
    if len(fits) == 1:
        return fits[0].outputs
    outputs = np.zeros_like(fits[0].outputs)
    for fold, i in zip(task.folds, best, strict=True):
        at = np.searchsorted(task.tested, fold.test)
        outputs[at] = fits[i].outputs[at]
    return outputs


def _latents(fit, task, header, sources):
    """The latent space of all rows, with the part of each in the first fold, or of tested rows.

    Behind them what the head says of others, if it does.
    """
    rows, part = np.arange(len(task.table)), np.full(len(task.table), "purged", object)
    for name in ("train", "validation", "test"):
        part[getattr(task.folds[0], name)] = name
    if len(fit.latent) != len(rows):
        rows, part = task.tested, np.full(len(task.table), "test", object)
    kept = ("classes", "widths", "protocol", "zscore", "target", "flags", "made_by")
    facts = {"what": "latents", "sources": list(sources), "fold": task.folds[0].name}
    facts |= {key: header[key] for key in kept if key in header} | fit.of_latent
    table = task.table.iloc[rows].assign(y=task.y[rows], part=part[rows])
    yield Rows(np.asarray(fit.latent, np.float32), table, facts)
    if fit.behind:
        array, others = fit.behind
        yield Rows(array, others[[*task.table.columns]].assign(y=-1, part="behind"), facts)


def _known(x, y, spec):
    """What a model states of the rows that it was fitted on."""
    return {
        "head": spec["head"],
        "recipe": spec.get("recipe", {}),
        "contract": {source: store.stated(store.open(p[0]).header) for source, p in x.items()},
        "labels": {target: store.stated(store.open(p[0]).header) for target, p in y.items()},
    }


def _digests(x, sources, names):
    """Digests of the rows that a model was fitted on, uint64, by which they are found again."""
    for source in sources:
        tables = [store.open(path).table for path in x[source]]
        found = [one["digest"][one.index.isin(names)] for one in tables if "digest" in one]
        digests = [int(digest, 16) for digest in pd.concat(found)] if found else []
        yield f"familiar/{source}/digests", np.array(digests, np.uint64)


def _write_model(path, fits, kept, header, folds):
    """Parameters as safetensors; of several candidates each has its number before its names."""
    tensors = {
        f"{i}/{name}" if len(fits) > 1 else name: np.ascontiguousarray(values)
        for i, fit in enumerate(fits)
        for name, values in fit.state.items()
    }
    facts = {key: header[key] for key in header if key not in ("what", "curves")}
    if kept:
        tensors |= {name: np.ascontiguousarray(values) for name, values in kept[0].items()}
        facts["kept"] = kept[1]
    metadata = {"engram": store.canonical(facts | {"folds": folds})}
    with store.replaced(path) as temporary:
        save_file(tensors, temporary, metadata)
