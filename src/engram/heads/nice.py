"""NICE and its relatives: an EEG encoder aligned with image features by InfoNCE.

Song et al. (2024). Decoding natural images from EEG for object recognition. ICLR.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engram import contrastive, training
from engram.errors import InputError

TASKS = ("pairs",)
SELECT_ON = ("validation", "test")


@dataclass(frozen=True)
class Options(contrastive.options.Options):
    """Options.

    Attributes:
        select_on: `validation`, the held-out concepts; `test` repeats the published protocol,
            which chooses the epoch on the images it is scored on, and is labelled wherever a
            score shows.
    """

    select_on: str = "validation"


def fit(task, options, device) -> training.Fit:
    """One model a fold and run, see `engram.contrastive.fit`.

    Under `select_on: test` the validation rows train too, as published. Where the task has
    `chosen`, nothing validates: training stops after its `epoch`, with the rates of all.

    Raises:
        InputError: there is more than one source, or an option does not suit the rows.
    """
    _check(task, options)
    models, latents = [], []
    outputs = np.zeros((len(task.tested), len(task.runs), len(task.choices)), np.float32)
    for f, fold in enumerate(task.folds):
        of_fold = _trained(task, f, options, device)
        models.append(of_fold)
        if not len(fold.test):
            continue
        at = np.searchsorted(task.tested, fold.test)
        test = task.x[0][fold.test]
        for r, model in enumerate(of_fold):
            outputs[at, r] = predicted(model, test, task, f, fold.test)
        subject = _known(task.table, fold.test, fold.train)
        latents.append((at, contrastive.vectors(of_fold[0], test, subject)))
    return training.Fit(
        outputs=outputs,
        validation=np.array([[model.score for model in of_fold] for of_fold in models]),
        state=_state(models),
        latent=_placed(latents) if latents else np.zeros((0, 0), np.float32),
        curves=_curves(task, models),
        facts={"epoch": [[model.epoch for model in of_fold] for of_fold in models]},
        flags=("published_protocol",) * (options.select_on == "test"),
    )


def predict(state, x, known, options, device) -> np.ndarray:
    """Similarity of epochs to the pictures of a gallery, float32 (models, n, pictures).

    Args:
        state: as `Fit.state`, with one axis of models for folds and runs.
        x: epochs (n, channel, time), a list of one.
        known: `engram.trained.nearest.Asked`: the pictures, and whose epochs these are.
    """
    (epochs,), found = x, []
    sizes = (*epochs.shape[1:], [part.shape[1] for part in known.targets])
    for m, trained in enumerate(known.trained):
        one = {name: values[m] for name, values in state.items()}
        model = contrastive.restored(one, sizes, options, 0, device)
        subject = None if known.subjects is None else _numbers(known.subjects, trained)
        found.append(contrastive.similarity(model, epochs, known.targets, subject))
    return np.stack(found)


def restored(task, state, f, r, options, device) -> contrastive.Model:
    """The model of the fold and run at positions `f` and `r`, from the state of a fit."""
    return contrastive.restored(
        {name: values[f, r] for name, values in state.items()},
        sizes=(*task.x[0].shape[1:], [part.shape[1] for part in task.targets]),
        options=options,
        seed=task.runs[r].seed,
        device=device,
    )


def predicted(model, x, task, f, rows) -> np.ndarray:
    """Similarity of epochs to the choices, float32 (m, choices).

    Args:
        model: of the fold at position `f`.
        x: (m, channel, time), the epochs of `rows` or what was made of them.
        task: Task.
        rows: int (m,).
    """
    subject = _known(task.table, rows, task.folds[f].train)
    return contrastive.similarity(model, x, [part[task.choices] for part in task.targets], subject)


def _check(task, options):
    if options.select_on not in SELECT_ON:
        raise InputError(f"head: select_on is {options.select_on!r}; use validation or test")
    if options.select_on == "test" and options.sub_average:
        raise InputError("head: sub_average needs `select_on: validation`; leave one of them out")
    if len(task.x) > 1:
        raise InputError(
            f"head: aligns one source of epochs with pictures, not {', '.join(task.sources)}; "
            "name one `x`, or let it choose between them (x: {choose: [...]})"
        )


# ---- one fold -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Some:
    """Some rows of `x`, (n, ...), or several of them side by side, (n, repetition, ...)."""

    x: object
    at: np.ndarray

    @property
    def shape(self):
        return (*self.at.shape, *self.x.shape[1:])

    def __getitem__(self, rows):
        at = self.at[rows]
        return self.x[at.ravel()].reshape(*at.shape, *self.x.shape[1:])


def _trained(task, f, options, device):
    """The models of one fold, one a run."""
    fold = task.folds[f]
    train, validation = fold.train, fold.validation
    if options.select_on == "test":
        train = np.sort(np.concatenate([train, validation]))
        validation = fold.test[task.table["fewer"].to_numpy()[fold.test] == 0]
    parts = [_grouped(task, rows, options) for rows in (train, validation) if len(rows)]
    at, n = np.concatenate(parts), len(parts[0])
    first = at if at.ndim == 1 else at[:, 0]
    rows = contrastive.Rows(
        image=task.y[first],
        train=np.arange(n),
        validation=np.arange(n, len(at)),
        concept=task.table["concept"].iloc[first].factorize()[0],
        subject=_known(task.table, first, fold.train),
    )
    eeg = _Some(task.x[0], at)
    size = np.prod(eeg.shape) * 4 / 2**30
    print(f"fold {fold.name}: {len(at)} epochs, at most {size:.2f} GiB in memory")
    seeds = [run.seed for run in task.runs if not run.shuffled]
    control = next((run.labels(f)[first] for run in task.runs if run.shuffled), None)
    until = task.chosen["epoch"] + 1 if task.chosen else 0
    return contrastive.fit(eeg, task.targets, rows, options, seeds, device, control, until)


def _grouped(task, rows, options):
    """Rows (n,), or under `sub_average` those of one subject and picture, (n, repetition)."""
    if not options.sub_average:
        return rows
    table = task.table.iloc[rows]
    groups = table.groupby(["subject", "stimulus"], sort=False, observed=True).indices.values()
    counts = {len(group) for group in groups}
    if len(counts) > 1:
        raise InputError(
            f"{task.sources[0]}: pictures have {min(counts)} to {max(counts)} repetitions; "
            "`sub_average` needs the same number of each"
        )
    return rows[np.stack(list(groups))]


def _known(table, rows, trained):
    """Number of the subject of each row among those trained on, (m,); None if one was not there."""
    subject = table["subject"].to_numpy(str)
    return _numbers(subject[rows], pd.unique(subject[trained]))


def _numbers(subjects, trained):
    found = pd.Index(trained).get_indexer(subjects)
    return None if (found < 0).any() else found


# ---- what is kept ---------------------------------------------------------------------


def _state(models):
    """Parameters by name, (folds, runs, ...)."""
    states = [[model.state() for model in of_fold] for of_fold in models]
    return {
        name: np.stack([[one[name].numpy() for one in of_fold] for of_fold in states])
        for name in states[0][0]
    }


def _placed(parts):
    """Arrays (m, d), each with the places of its rows, as one."""
    at, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return values[np.argsort(at)]


def _curves(task, models):
    parts = [
        model.curves.drop(columns="seed").assign(fold=fold.name, run=r)
        for fold, of_fold in zip(task.folds, models, strict=True)
        for r, model in enumerate(of_fold)
    ]
    return pd.concat(parts, ignore_index=True)
