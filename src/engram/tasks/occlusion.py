"""Stage `occlude`: which times and channels a model looks at, by what is lost without them."""

import itertools
import json

import numpy as np
import pandas as pd
from safetensors import safe_open

from engram import store
from engram.measures.inference import t_interval
from engram.planning import components

TIME_WINDOWS = 20  # pieces of the epoch that are set to zero in turn


def occlude(x, y, model, importance, spec, device):
    """Set a piece of time, or a channel, of all test epochs to zero, and count what is still found.

    Of every fold the model of the first seed is asked; nothing is trained again.

    Args:
        x, y, spec, device: as for `engram.tasks.train`.
        model: the file that it wrote.
        importance: JSON file to write. full: {subject: top-1}; time: starts and width in
            seconds, channel: names, each with top1, {subject: one value a piece}, and lost, low
            and high, the mean of what is lost over subjects and its 95 % interval, a piece.

    Raises:
        InputError: as for `engram.tasks.train`.
    """
    head, options = components.options("heads", spec["head"])
    task, _ = components.module("tasks", spec["task"]).load(x, y, spec["experiment"])
    with safe_open(model, "np") as file:
        names = [n for n in file.keys() if not n.startswith(("kept/", "familiar/"))]  # noqa: SIM118
        state = {name: file.get_tensor(name) for name in names}
        chosen = json.loads(file.metadata()["engram"])["chosen"].get("x")
    parts = []
    for f, fold in enumerate(task.folds):
        of_x = spec["candidates"].index(chosen[fold.name]) if chosen else 0
        this = task.of(spec["candidates"][of_x])
        own = _of_candidate(state, of_x if chosen else None)
        trained = head.restored(this, own, f, 0, options, device)
        rows = fold.test[task.table["fewer"].to_numpy()[fold.test] == 0]
        top1 = _top1(head, trained, this, f, rows)
        parts.append(_without(top1, this.x[0][rows], this.headers[0]))
    with store.replaced(importance) as temporary:
        found = _with_losses(_merged(parts))
        temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _of_candidate(state, number):
    if number is None:
        return state
    prefix = f"{number}/"
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def _top1(head, model, task, f, rows):
    """Function of test epochs: the share that finds its picture, by subject."""
    table, truth = task.table.iloc[rows], pd.Index(task.choices).get_indexer(task.y[rows])
    subject = table["subject"].to_numpy(str)

    def of(eeg):
        found = head.predicted(model, eeg, task, f, rows).argmax(1) == truth
        return {str(s): float(found[subject == s].mean()) for s in np.unique(subject)}

    return of


def _without(top1, array, header):
    """Top-1 of each subject after a piece of time, or a channel, was set to zero.

    Args:
        top1: function of epochs (n, channel, time) that gives {subject: share found}.
        array: test epochs.
        header: of their store: times (s) and channels.
    """

    def cut(part):
        eeg = array.copy()
        eeg[:, *part] = 0
        return top1(eeg)

    n_channels, n_times = array.shape[1:]
    edges = np.linspace(0, n_times, min(TIME_WINDOWS, n_times) + 1).astype(int)
    times = np.asarray(header["times"], float)
    windows = [cut((slice(None), slice(a, b))) for a, b in itertools.pairwise(edges)]
    channels = [cut((c, slice(None))) for c in range(n_channels)]
    return {
        "full": top1(array),
        "time": {
            "starts": [float(times[a]) for a in edges[:-1]],
            "width": float((times[-1] - times[0]) / max(n_times - 1, 1) * n_times / len(windows)),
            "top1": _by_subject(windows),
        },
        "channel": {"names": list(header["channels"]), "top1": _by_subject(channels)},
    }


def _by_subject(found):
    return {subject: [one[subject] for one in found] for subject in found[0]}


def _merged(parts):
    """The importance of several folds, whose subjects differ, in one."""
    first, *others = parts
    for part in others:
        first["full"] |= part["full"]
        for kind in ("time", "channel"):
            first[kind]["top1"] |= part[kind]["top1"]
    return first


def _with_losses(found):
    """Beside the top-1 of every subject the mean loss over subjects, with its interval."""
    subjects = sorted(found["full"])
    full = np.array([found["full"][subject] for subject in subjects])
    for kind in ("time", "channel"):
        without = np.array([found[kind]["top1"][subject] for subject in subjects])
        lost = full[:, None] - without
        ends = [t_interval(piece) for piece in lost.T] if len(subjects) > 1 else []
        found[kind] |= {
            "lost": lost.mean(0).tolist(),
            "low": [low for low, _ in ends] or None,
            "high": [high for _, high in ends] or None,
        }
    return found
