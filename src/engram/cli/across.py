"""What a run would say of many recordings together: stores that differ, folds, experiments.

Views without what backbones would see are written as stores under the paths of a run, in a folder
that lasts as long as the question, and the tasks load them as they would in training.
"""

import collections
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engram import store, views
from engram.errors import InputError
from engram.frozen import fitted
from engram.planning import components
from engram.store import Rows, differences

#: Tasks whose rows are windows of recordings.
TASKS = ("classes", "values")


@dataclass(frozen=True)
class Experiment:
    """What is known of an experiment before it is run.

    Attributes:
        names: of it and of others that ask the same of the same views.
        rows, subjects: that are usable.
        classes: (rows, subjects) by class; empty where y is numbers.
        folds: how many.
        excluded: {reason: rows left out}.
        refused: what training would say, or None.
    """

    names: list[str]
    rows: int = 0
    subjects: int = 0
    classes: dict = field(default_factory=dict)
    folds: int = 0
    excluded: dict = field(default_factory=dict)
    refused: str | None = None


def of_units(looked, modules) -> list[tuple[str, str]]:
    """(unit, message) of recordings of one unit that do not go together.

    Args:
        looked: list of `engram.cli.looking.Looked`.
        modules: of its kind, by dataset.
    """
    found = []
    for (dataset, unit), scans in _grouped(looked, "dataset", "unit").items():
        scans = [scan for scan in scans if scan.files]
        rows = [{"path": scan.files[0]} for scan in scans]
        module = modules[dataset]
        if hasattr(module, "refuse_parts"):
            found += _said(unit, module.refuse_parts, rows)
        read = [(row, s) for row, s in zip(rows, scans, strict=True) if "eeg" in s.signals]
        if hasattr(module, "refuse_rates") and read:
            rates = [scan.signals["eeg"]["sfreq"] for _, scan in read]
            found += _said(unit, module.refuse_rates, [row for row, _ in read], rates)
        if found and found[-1][0] == unit:
            continue
        for view in dict.fromkeys(view for scan in scans for view in scan.parts):
            of_view = [scan for scan in scans if view in scan.parts]
            for scan in of_view[1:]:
                pair = (part for one in (of_view[0], scan) for part in (one.name, _rows(one, view)))
                found += _said(unit, views.refuse_difference, *pair)
    return list(dict.fromkeys(found))


def _rows(scan, view):
    part = scan.parts[view]
    return Rows(part.array, part.table, store.stated(part.header))


def _said(unit, check, *given):
    try:
        check(*given)
    except InputError as error:
        return [(unit, str(error))]
    return []


def differing(looked, quick_views=None) -> list[tuple[str, str, str, list]]:
    """What recordings of a dataset differ in: (dataset, view, message, [(facts, subjects)]).

    What a header states of all rows of a view has to be equal wherever rows of stores meet.

    Args:
        looked: list of `engram.cli.looking.Looked`.
        quick_views: where nothing was rendered: by dataset, whether a view takes all channels.
    """
    found = []
    for dataset, scans in _grouped(looked, "dataset").items():
        for view, headers in _headers(scans, (quick_views or {}).get(dataset)).items():
            groups, stated = collections.defaultdict(dict), {}
            for subject, header in headers:
                key = store.canonical(header)
                stated[key] = header
                groups[key][subject] = None
            if len(stated) > 1:
                first, other, *_ = stated.values()
                sides = [(_sketch(stated[key]), [*groups[key]]) for key in stated]
                found.append((dataset, view, differences.said(first, other), sides))
    return found


def _headers(scans, whole):
    """[(subject, what is stated)] by view; or, where nothing was rendered, by signal."""
    found = collections.defaultdict(list)
    for scan in scans:
        for view, part in scan.parts.items():
            facts = store.stated(part.header) | {"shape of a row": list(part.shape)}
            found[view].append((scan.subject, facts))
        for name, signal in scan.signals.items() if not scan.parts else ():
            facts = {"sfreq": signal["sfreq"], "unit": signal["unit"]}
            if whole:
                facts["channels"] = sorted({*signal["channels"], *signal["bad"]})
            found[name].append((scan.subject, facts))
    return found


def _sketch(header):
    """The facts of a header that differ most often, in a few words."""
    channels, rate = header.get("channels") or [], header.get("settings", {}).get("sfreq")
    rate = rate or header.get("sfreq")
    words = [f"{rate:g} Hz"] if rate else []
    if channels:
        few = ", ".join(channels[:4]) + (", …" if len(channels) > 4 else "")
        words.append(f"{len(channels)} channel{'s' * (len(channels) > 1)} ({few})")
    if classes := header.get("classes"):
        words.append(", ".join(map(str, classes)))
    return "; ".join([*words, str(header.get("unit", ""))]).rstrip("; ")


def of_experiments(plan, looked, folder) -> list[Experiment]:
    """What training would say of every experiment that is run, without what views hold.

    Args:
        plan: the Plan.
        looked: list of `engram.cli.looking.Looked`; what could not be read is left out.
        folder: empty, for stores.
    """
    stubs, found = _Stubs(plan, looked, Path(folder)), {}
    for name in plan.experiments():
        if plan.task(name) not in TASKS or plan.known[name]["dataset"] not in stubs.datasets:
            continue
        sources, targets = plan.sources(name), plan.targets(name)
        seen = sorted({source.partition("/")[0] for source in sources}), targets
        key = str((plan.known[name]["dataset"], seen, plan.task(name), _how(plan, name)))
        if refused := stubs.refused(plan.known[name]["dataset"], sources):
            found[name] = Experiment([name], refused=refused)
        elif key in found:
            found[key].names.append(name)
        else:
            found[key] = _experiment(plan, name, stubs)
    return [*found.values()]


def _how(plan, name):
    this = plan.known[name]
    return {key: this[key] for key in ("folds",) if key in this}


def _experiment(plan, name, stubs):
    task = components.module("tasks", plan.task(name))
    try:
        x = {source: stubs.written(name, source) for source in plan.sources(name)}
        y = {target: stubs.written(name, target) for target in plan.targets(name)}
        found, excluded = task.load(x, y, _how(plan, name) | {"seeds": 1})
    except InputError as error:
        return Experiment([name], refused=str(error).replace(f"{stubs.folder}/", ""))
    subjects = found.table["subject"].to_numpy(str)
    classes = {}
    for number, label in enumerate(found.classes):
        of = found.y == number
        classes[label] = int(of.sum()), len({*subjects[of]})
    return Experiment([name], len(subjects), len({*subjects}), classes, len(found.folds), excluded)


@dataclass(frozen=True)
class _Kind:
    """What a store of a run states of all its rows."""

    path: str
    header: dict
    shape: tuple


class _Stubs:
    """Stores of a run with rows of nothing, written when they are asked for."""

    def __init__(self, plan, looked, folder):
        self.plan, self.folder, self.units = plan, folder, _grouped(looked, "dataset", "unit")
        self.datasets = {dataset for dataset, _ in self.units}
        self.there = set()

    def written(self, experiment, source) -> list[str]:
        """Paths of the stores of a source, of all units that have rows of its view."""
        dataset, (view, _, backbone) = self.plan.known[experiment]["dataset"], source.partition("/")
        paths, kinds = [], []
        for unit in self.plan.units(dataset):
            parts = [s.parts[view] for s in self.units.get((dataset, unit), ()) if view in s.parts]
            if not parts:
                continue
            path = self.plan.store(dataset, unit, source)
            header, shape = store.stated(parts[0].header), parts[0].shape
            if backbone:
                header, shape = {"what": "features", "view": header}, ()
            kinds.append(_Kind(path, header, (len(parts), *shape)))
            paths.append(str(self.folder / path))
            self._write(self.folder / path, parts, header)
        if not paths:
            raise InputError(f"no recording of {dataset} could be read for {view}")
        store.refuse_different(kinds)
        return paths

    def _write(self, path, parts, header):
        if path in self.there:
            return
        arrays = (
            np.arange(len(part.table))[:, None] if part.labels is None else part.labels
            for part in parts
        )
        tables = (part.table for part in parts)
        store.write(path, *(Rows(a, t, header) for a, t in zip(arrays, tables, strict=True)))
        self.there.add(path)

    def refused(self, dataset, sources):
        """What extraction would say of rows of a view that a backbone does not take, or None."""
        for source in sources:
            view, _, backbone = source.partition("/")
            for (of, unit), scans in self.units.items() if backbone else ():
                if of != dataset:
                    continue
                part = next((s.parts[view] for s in scans if view in s.parts), None)
                try:
                    if part:
                        fitted.fit(self.plan.spec("extract", backbone=backbone), part.header)
                except InputError as error:
                    return f"{self.plan.store(dataset, unit, view)}: {error}"
        return None


def _grouped(looked, *names):
    found = collections.defaultdict(list)
    for one in looked:
        key = tuple(getattr(one, name) for name in names)
        found[key if len(names) > 1 else key[0]].append(one)
    return dict(found)
