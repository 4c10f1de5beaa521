"""Which times and channels an encoder looks at: what is lost when they are set to zero."""

import itertools

import numpy as np

TIME_WINDOWS = 20  # pieces of the epoch that are set to zero in turn


def importance(top1, array, header) -> dict:
    """Top-1 of each subject after a piece of time, or a channel, was set to zero.

    Args:
        top1: function of epochs (n, channel, time) that gives {subject: share found}.
        array: test epochs.
        header: of their store: times (s) and channels.

    Returns:
        full: {subject: top-1}; time: starts and width in seconds, and channel: names, each with
        top1: {subject: one value a piece}.
    """

    def without(cut):
        eeg = array.copy()
        eeg[:, *cut] = 0
        return top1(eeg)

    n_channels, n_times = array.shape[1:]
    edges = np.linspace(0, n_times, min(TIME_WINDOWS, n_times) + 1).astype(int)
    times = np.asarray(header["times"], float)
    windows = [without((slice(None), slice(a, b))) for a, b in itertools.pairwise(edges)]
    channels = [without((c, slice(None))) for c in range(n_channels)]
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


def merged(parts) -> dict:
    """The importance of several folds, whose subjects differ, in one."""
    first, *others = parts
    for part in others:
        first["full"] |= part["full"]
        for kind in ("time", "channel"):
            first[kind]["top1"] |= part[kind]["top1"]
    return first
