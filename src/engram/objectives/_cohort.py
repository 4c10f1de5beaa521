"""The subjects that a backbone is pretrained on, and their scans."""

import numpy as np
import torch

from engram import store
from engram.errors import InputError
from engram.frozen import fitted
from engram.store import differences

NEEDED = 2  # subjects; one alone has no spread


class Cohort:
    """Scans of subjects, read when they are asked for or kept in memory.

    Args:
        views: {dataset: [path, ...]} of the view stores.
        spec: of the job, with `subjects`, "subject" or "dataset/subject", to take, or None for all,
            and with `backbone` and `takes`, which say what scans are converted to.
        memory_gb: scans are kept if all of them fit into so much.

    Attributes:
        view: header of the stores, as if they held the converted scans.
        converted: what is done to scans, in words.
        names: "dataset/subject" of each subject.

    Raises:
        InputError: the stores differ in what they state, hold no series, lack a subject that is
            asked for, or give fewer than two.
    """

    def __init__(self, views, spec, memory_gb):
        stores = {name: [store.open(path) for path in paths] for name, paths in views.items()}
        every = [one for found in stores.values() for one in found]
        _check(every)
        self.fit = fitted.fit(spec, every[0].header)
        self.view = self.fit.view if self.fit else every[0].header
        self.converted = self.fit.converted if self.fit else []
        subjects, scans = spec["subjects"], {}
        asked = set(subjects or ())
        for dataset, found in stores.items():
            for one in found:
                for subject, scan in _scans(one):
                    if subjects is None or not asked.isdisjoint((subject, f"{dataset}/{subject}")):
                        scans.setdefault((dataset, subject), []).append(scan)
        _refuse_missing(asked, scans)
        self.datasets = {
            dataset: sorted(subject for other, subject in scans if other == dataset)
            for dataset in stores
        }
        self.scans = list(scans.values())
        self.names = [f"{dataset}/{subject}" for dataset, subject in scans]
        size = sum(_bytes(scan) for found in self.scans for scan in found)
        self.kept = {} if size <= memory_gb * 2**30 else None

    def __len__(self):
        return len(self.scans)

    def subjects(self):
        """The scans of one subject after the other, iterables of float32 (roi, time)."""
        for found in self.scans:
            yield (self._read(*scan) for scan in found)

    def draw(self, at, generator) -> list[np.ndarray]:
        """One scan, float32 (roi, time), of each subject at positions `at`, drawn at random."""
        drawn = torch.rand(len(at), generator=generator, dtype=torch.float64).tolist()
        return [self._read(*found[int(x * len(found))]) for found, x in self._of(at, drawn)]

    def _of(self, at, drawn):
        return [(self.scans[i], x) for i, x in zip(at.tolist(), drawn, strict=True)]

    def _read(self, one, row, frames):
        key = one.path, row
        if self.kept is not None and key in self.kept:
            return self.kept[key]
        scan = np.asarray(one[row], np.float32)[:, :frames]
        if self.fit:
            scan = np.asarray(self.fit(scan[None])[0], np.float32)
        if self.kept is not None:
            self.kept[key] = scan
        return scan


def _refuse_missing(asked, found):
    lacking = sorted(asked - {subject for _, subject in found} - set(map("/".join, found)))
    if lacking:
        raise InputError(
            f"pretrain: no usable scan of {len(lacking)} of {len(asked)} `subjects`, first "
            f"{lacking[0]}; correct the list, or render the view of their dataset"
        )
    if len(found) < NEEDED:
        raise InputError(f"pretrain: {len(found)} subject has usable scans; at least {NEEDED}")


def _scans(one):
    """(subject, (store, row, frames)) of each usable row, without zeros behind a short scan."""
    table = one.table
    subjects, frames = table["subject"].tolist(), table["frames"].tolist()
    for row in np.flatnonzero(table["exclude"] == ""):
        yield subjects[row], (one, int(row), frames[row])


def _bytes(scan):
    one, _, frames = scan
    return 4 * one.shape[1] * frames


def _check(stores):
    first = stores[0]
    for other in stores:
        what = other.header.get("what")
        if what != "timeseries":
            raise InputError(
                f"{other.path}: a backbone is pretrained on series of regions, but this view holds "
                f"{what}; name a view of kind 'timeseries'"
            )
        one, two = (_facts(each.header) for each in (first, other))
        if found := differences.said(one, two):
            raise InputError(
                f"{first.path} and {other.path} differ in {found}, and cannot be pretrained on "
                "together; render them alike"
            )


def _facts(header):
    """What scans of one pretraining share; their lengths and where they come from may differ."""
    return {key: header[key] for key in ("channels", "tr", "unit", "normalisation", "band")}
