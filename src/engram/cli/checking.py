"""Looking at recordings before a run: which, in which order, and what is said of them."""

import collections
import concurrent.futures as futures
import itertools
import multiprocessing
import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from threadpoolctl import threadpool_limits

from engram import disk
from engram.cli import checked, looking
from engram.errors import InputError
from engram.figures import check_page
from engram.planning import manifest
from engram.planning.automatic import completed
from engram.planning.plan import Plan
from engram.progress import progress

STUDIES, MANIFESTS = (".yaml", ".yml"), (".csv", ".tsv", ".txt")

#: What recordings without a study are looked at with.
WINDOWS = {"length": 30, "step": 15}
VIEWS = {"eeg": {"spectrogram": {"kind": "multitaper"}}, "fmri": {"series": {"kind": "timeseries"}}}
KINDS = {("eeg",): "eeg_recordings", ("fmri",): "roi_series", ("eeg", "fmri"): "paired"}

FILES = "recordings"  # the dataset of those that no manifest lists


def check(config, targets, output, *, jobs=None, quick=False, pictures=True) -> int:
    """Say of recordings what a run would find, and write it down as a page.

    Args:
        config: gives the merged configuration of some studies.
        targets: paths of studies, of manifests, or of recordings.
        output: folder for the page and its pictures.
        jobs: processes; None is one a core.
        quick: read headers alone.
        pictures: whether to draw.

    Returns:
        How many things a run would refuse.

    Raises:
        InputError: targets are of several sorts, or one is not there.
    """
    output = Path(output)
    plan = _plan(config, targets)
    pictures = output if pictures else None
    asked, early, waiting = [], [], collections.Counter()
    names = plan.datasets() if plan.config["experiments"] else [*plan.config["datasets"]]
    for dataset in names:
        if dataset == FILES:
            asked += _files(targets, plan.config, quick, pictures)
        else:
            _ask(plan, dataset, quick, pictures, asked, early, waiting)
    disk.folder(output)
    looked = [*early]
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(asked))
    with progress(len(asked), "check", "recordings") as bar:
        for found in _each(asked, jobs):
            looked += found
            bar.update()
    looked.sort(key=lambda one: (names.index(one.dataset), one.name))
    whole = {name: _takes_all(plan, name) for name in names} if quick else None
    found = checked.gathered(plan, looked, names, waiting, whole)
    found["title"] = plan.config.get("title", "Recordings")
    found["targets"] = [str(target) for target in targets]
    check_page.write(output / "index.html", found)
    checked.show(found, output / "index.html")
    return found["refusals"]


# ---- what is asked for --------------------------------------------------------------------


def _plan(config, targets):
    """The plan of studies, or one with each manifest, or all recordings, as a dataset."""
    targets = [Path(target) for target in targets]
    for target in targets:
        if not target.exists():
            raise InputError(f"{target}: no such file; name a study, a manifest or recordings")
    sorts = {_sort(target) for target in targets}
    if len(sorts) > 1:
        raise InputError(
            f"{', '.join(map(str, targets))}: are {' and '.join(sorted(sorts))}; check one sort at "
            "a time"
        )
    if sorts == {"studies"}:
        return Plan(completed(config(targets)))
    datasets, views = {}, {}
    if sorts == {"recordings"}:
        datasets[FILES] = {"kind": KINDS["eeg",], "folder": "", "windows": WINDOWS}
        views = VIEWS["eeg"]
    for target in targets if sorts == {"manifests"} else ():
        listed = manifest.read(target, target.stat().st_mtime_ns)
        columns = next(iter(listed.values()))[0]
        of = tuple(column for column in VIEWS if column in columns) or ("eeg",)
        datasets[_named(target, datasets)] = {
            "kind": KINDS[of],
            "folder": str(target.parent),
            "manifest": str(target.absolute()),
            "windows": WINDOWS,
        }
        for column in of:
            views |= VIEWS[column]
    empty = {family: {} for family in ("backbones", "heads", "experiments")}
    return Plan({"run": [], "datasets": datasets, "views": views, **empty})


def _named(target, taken):
    """The name of a file, and a number behind it if that is taken."""
    names = (target.stem + f"-{i}" * (i > 0) for i in itertools.count())
    return next(name for name in names if name not in taken)


def _sort(target):
    if target.suffix.lower() in STUDIES:
        return "studies"
    return "manifests" if target.suffix.lower() in MANIFESTS else "recordings"


def _views_of(plan, dataset):
    """Views that are made of a dataset: those of its experiments, or all there are."""
    if not plan.config["experiments"]:
        kind = plan.config["datasets"][dataset]["kind"]
        columns = next(columns for columns in KINDS if KINDS[columns] == kind)
        return [view for column in columns for view in VIEWS[column]]
    found = []
    for name in plan.experiments():
        sources = [*plan.sources(name), *plan.targets(name)]
        if plan.known[name]["dataset"] == dataset:
            found += [source.partition("/")[0] for source in sources]
        for backbone in {source.partition("/")[2] for source in sources} - {""}:
            if dataset in plan.pretraining_datasets(backbone):
                found.append(plan.backbone(backbone)["pretrain"]["view"])
    known = plan.config["views"]
    return [v for v in dict.fromkeys(found) if v in known and "unit" not in known[v]]


def _ask(plan, dataset, quick, pictures, asked, early, waiting):
    """Add to `asked` what can be looked at, to `early` what is missing; count what is not here."""
    if not plan.config["datasets"][dataset].get("windows"):
        waiting[dataset, "no windows"] += len(plan.units(dataset))
        return
    views = _views_of(plan, dataset)
    for view in views:
        plan.beside(dataset, view)
    for unit in plan.units(dataset):
        specs = {v: plan.spec("render", dataset=dataset, unit=unit, view=v) for v in views}
        for some, rows in _lines(plan.rows(dataset, unit), specs):
            try:
                paths = [path for row in some for path in plan.raw_of(dataset, row)[0]]
            except InputError as error:
                one = looking.Asked(dataset, unit, rows, [], specs)
                early.append(looking.unread(one, str(error)))
                continue
            if all(Path(path).exists() for path in paths):
                asked.append(looking.Asked(dataset, unit, rows, paths, specs, quick, pictures))
            else:
                waiting[dataset, "not here"] += 1


def _files(targets, config, quick, pictures):
    """Recordings that no manifest lists; each is a subject of its own."""
    this, found = config["datasets"][FILES], []
    for target in map(Path, targets):
        name = _named(target, [one.unit for one in found])
        rows = [{"subject": name, "scan": "scan-01", "file": str(target)}]
        specs = {
            view: {
                "dataset": {"kind": this["kind"]},
                "windows": this["windows"],
                "view": options,
                "unit": name,
                "rows": rows,
            }
            for view, options in config["views"].items()
        }
        found.append(looking.Asked(FILES, name, rows, [str(target)], specs, quick, pictures))
    return found


def _lines(rows, specs):
    """(rows of the plan, rows of the spec) of each recording, or of a unit that is not listed."""
    merged = []
    for of_views in zip(*(spec["rows"] for spec in specs.values()), strict=True):
        facts = {k: v for row in of_views for k, v in row.get("facts", {}).items()}
        merged.append(of_views[0] | ({"facts": facts} if facts else {}))
    if rows and "scan" in rows[0]:
        return [([row], [one]) for row, one in zip(rows, merged, strict=True)]
    return [(rows, merged)]


def _takes_all(plan, dataset):
    """Whether a view of a dataset is made of all channels of its recordings."""
    found = [plan.config["views"][name] for name in _views_of(plan, dataset)]
    return any(one["kind"] == "multitaper" and not (one.get("channels") or one.get("regions"))
               for one in found)  # fmt: skip


# ---- the work ------------------------------------------------------------------------------


def _each(asked, jobs):
    """What is found of each, as it comes; one that ends its process is refused alone."""
    if jobs <= 1:
        yield from map(looking.look, asked)
        return
    left = iter(asked)
    while True:
        lost = yield from _in_a_pool(left, jobs)
        for one in lost:
            yield from _alone(one)
        if not lost:
            return


def _in_a_pool(left, jobs):
    """Work until all is done or a process dies; returns what was lost then."""
    context = multiprocessing.get_context("spawn")
    one_thread = {"initializer": threadpool_limits, "initargs": (1,)}  # or they would fight
    with futures.ProcessPoolExecutor(jobs, mp_context=context, **one_thread) as pool:
        running = {pool.submit(looking.look, one): one for one in itertools.islice(left, 2 * jobs)}
        while running:
            done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in done:
                try:
                    found = future.result()
                except BrokenProcessPool:
                    return list(running.values())
                del running[future]
                yield found
                if (one := next(left, None)) is not None:
                    running[pool.submit(looking.look, one)] = one
    return []


def _alone(one):
    if (yield from _in_a_pool(iter([one]), 1)):
        said = f"{one.paths[0]}: reading it ended the process; it is damaged, or memory is short"
        yield [looking.unread(one, said)]
