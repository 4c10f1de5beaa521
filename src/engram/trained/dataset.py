"""Stage `apply`: a model that was trained on one data set, put to another one."""

from dataclasses import replace

import numpy as np

from engram import flags, store
from engram.errors import InputError
from engram.measures import unlike
from engram.planning import components
from engram.splits import Fold
from engram.store import Rows
from engram.tasks import flags_of, inputs_of
from engram.trained import load_model
from engram.trained.differences import measured
from engram.training import Run

PART = "applied"  # the only fold, and the part of its rows in the latent map


def apply(x, y, known, model, predictions, latents, spec, made_by, device):
    """Predict all rows of a data set with the model of another one, whose scores are then as ever.

    Runs are the seeds of the model. There is no control: nothing is trained, so that moved labels
    cannot be trained on. The header of the predictions says under `applied` what model it was, and
    in what its data and these differ, see `engram.trained.differences`; the column `unlike` how
    unlike each row is.

    Latents are these rows and those that the model was fitted on in one space: that of its inputs,
    standardised, of wide ones the first principal components (`engram.measures.unlike.placed`).

    Args:
        x, y: paths of the stores of each source, {source: [path, ...]}.
        known: the same of what the model was trained on, a pair.
        model: path of the model.
        predictions, latents: paths to write.
        spec: dict with `task`, `model` and `dataset`, their names, and `leaks`, whether rows that
            were trained on are let in, to be labelled.
        made_by: provenance of the job, for the headers.
        device: "cpu" or "cuda".

    Raises:
        InputError: the model keeps nothing for use, or the rows are not what it was fitted on, are
            some that it was fitted on, or of a class that it cannot name.
    """
    this, kind = load_model(model), components.module("tasks", spec["task"])
    for source in this.sources:
        for path in x[source]:
            this.check(source, store.open(path).header, path)
    own, _ = kind.usable(_of(known[0], this), known[1])
    task, excluded = _usable(kind, x, y, this, own)
    shared = _remembered(this, task, x, spec["dataset"])
    if not spec["leaks"] and shared:
        raise InputError(
            f"{spec['dataset']}: {', '.join(shared[:5])} {'is' if len(shared) == 1 else 'are'} "
            f"among the rows that {spec['model']} was trained on; leave these subjects out, or set "
            "`i_know_this_leaks: true` to see what is remembered"
        )
    distance = this.unlike(task.x)
    header = {
        "what": "predictions",
        "task": spec["task"],
        "runs": [{"seed": run.seed, "shuffled": False} for run in task.runs],
        "excluded": excluded,
        "flags": flags.ordered(
            [*flags_of(_of(x, this), y, task), *_inherited(this), *["trained_on"] * bool(shared)]
        ),
        "sources": this.sources,
        "inputs": inputs_of(_of(x, this)),
        "targets": [*y],
        "chosen": {name: {PART: value} for name, value in this.facts["kept"]["chosen"].items()},
        "curves": {},
        "applied": {
            "model": spec["model"],
            "dataset": this.facts["recipe"]["dataset"].get("title", _dataset(this)),
            **{key: this.facts["kept"][key] for key in ("rule", "rows")},
            "subjects": len(this.facts["kept"]["subjects"]),
            "remembered": shared,
            **measured(this, task, own, _headers(_of(x, this)), _headers(y), distance),
        },
        **task.facts,
        "made_by": made_by,
    }
    outputs, _ = this.outputs(task.x, device)
    outputs = outputs.swapaxes(0, 1).astype(np.float32 if this.classes else np.float64)
    predicted = kind.predictions(
        outputs, replace(task, table=task.table.assign(unlike=distance)), header
    )
    store.write(latents, *_latents(this, task, own, spec["dataset"], predicted[0].header))
    store.write(predictions, *predicted)


def _of(paths, model):
    return {source: paths[source] for source in model.sources}


def _headers(paths):
    return {name: store.open(these[0]).header for name, these in paths.items()}


def _dataset(model):
    return model.facts["recipe"]["dataset"]["name"]


def _usable(kind, x, y, model, own):
    """The rows as one fold of the task, all tested, and those left out by reason."""
    task, excluded = kind.usable(_of(x, model), y)
    for source, values in zip(model.sources, task.x, strict=True):
        model.check_shape(source, values, x[source][0])
    try:
        task = kind.applied(task, model.facts, own)
    except InputError as error:
        raise InputError(f"{next(iter(y.values()))[0]}: {error}") from None
    none, seeds = np.zeros(0, int), model.facts["kept"]["seeds"]
    fold = Fold(PART, none, none, np.arange(len(task.table)))
    return replace(task, folds=[fold], runs=[Run(s, False, task.y) for s in seeds]), excluded


def _remembered(model, task, x, dataset):
    """Subjects with rows that the model was fitted on: of one name in one data set, or equal."""
    subjects = task.table["subject"].to_numpy(str)
    same = {*subjects} if dataset == _dataset(model) else set()
    found = same & {*model.facts["kept"]["subjects"]}
    for source in model.sources:
        digests = set(model.state.get(f"familiar/{source}/digests", np.zeros(0)).tolist())
        for table in (store.open(path).table for path in x[source]):
            if "digest" in table:
                used = table[table.index.isin(task.table.index)]
                equal = [int(digest, 16) in digests for digest in used["digest"]]
                found |= {*used["subject"][equal]}
    return sorted(found)


def _inherited(model):
    """Flags of the model that hold here too, but those of how its own scores were taken."""
    return [name for name in model.facts["flags"] if not flags.FLAGS[name].inflates]


def _latents(model, task, own, dataset, header):
    facts = {key: header[key] for key in ("classes", "flags", "made_by") if key in header}
    facts |= {"what": "latents", "sources": model.sources, "fold": PART}
    first = _dataset(model)
    columns = [name for name in task.table if name in own.table]
    for these, name, part in ((task, dataset, PART), (own, first, "train")):
        table = these.table[columns].assign(
            y=these.y, part=part, dataset=name, name=these.table.index
        )
        table.index = [f"{part}/{row}" for row in these.table.index]
        yield Rows(_placed(model, these.x), table, facts)


def _placed(model, x):
    """Rows of all sources side by side, float32 (n, d), see `unlike.placed`."""
    pairs = zip(model.sources, x, strict=True)
    return np.hstack([unlike.placed(model.familiar(s), values) for s, values in pairs])
