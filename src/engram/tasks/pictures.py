"""How alike are decoded pictures to what was seen? Pictures of test images, one a row, compared.

Nothing is trained. Beside each picture stands the image that was seen; the control puts other test
images of the same subject there, so that what any picture scores is known of every measure.
"""

import numpy as np

from engram.errors import InputError
from engram.splits import Fold
from engram.store import Rows
from engram.tasks import linked
from engram.training import Run, Task

#: What the plan reads without importing this module; see `engram.tasks`.
TARGETS = "pictures"
FOLDS = {"within": "new pictures, a known subject"}
FIGURES = {"subjects": "subjects.svg", "gallery": "gallery.json"}
SHOWS = "both"
PROBED = None
MAPPED = False
COMPARED = False
OCCLUDED = False
MEMORY_MB = 8_000
RUNTIME = "4h"

#: What has to be the same of the backbones of both sides.
MADE = ("kind", "model", "weights_sha256", "seed", "layer", "pooling", "preprocessing")

EXCHANGES = 8  # how many other images each picture is compared with


def load(x, y, experiment) -> tuple[Task, dict]:
    """The pictures of all subjects in folds, one a subject, and the images that were seen.

    The first run compares each picture with its image. In the others, the control, the images of a
    subject stand in a ring, drawn at random, and each picture is compared with the image one, two
    ... places after its own; the column `place` says where that is.

    Args:
        x: {source: [path, ...]}: a view of pictures with columns subject, split, stimulus and
            exclude, a store a subject, and features of it, `view/backbone`.
        y: the same of the images, named as `stimulus` says.
        experiment: dict with folds, `within`, and seeds, 1.

    Returns:
        Task whose `x` and `targets`, pictures first, are `linked.Linked`; its `y` is the row among
        the targets that belongs to each row; and {reason: rows left out}.

    Raises:
        InputError: see `linked.sides`; or x and y differ in their backbones or what made their
            features, a side has no view of pictures, or a subject has fewer than two test images.
    """
    how = experiment.get("folds", "within")
    how = how["kind"] if isinstance(how, dict) else how
    if how not in FOLDS:
        raise InputError(f"folds: {how!r}; pictures are of one subject: use within")
    if experiment.get("seeds", 1) != 1:
        raise InputError("seeds: pictures are compared once; a decoder has a `seed` of its own")
    pairs = _pairs(x, y)
    found = [linked.sides({a: x[a]}, {b: y[b]}) for a, b in pairs]
    _refuse_unlike(found, pairs)
    seen = found[0].table
    rows = np.flatnonzero(seen["split"].to_numpy(str) == "test")
    table, target = seen.iloc[rows].copy(), found[0].target[rows]
    folds, table["place"] = _folds(table)
    shifts = range(min(EXCHANGES, min(table.groupby("subject")["stimulus"].nunique()) - 1) + 1)
    runs = [Run(shift, shift > 0, _moved(table, target, folds, shift)) for shift in shifts]
    names = [name for name, _ in pairs]
    task = Task(
        x=[one.x[name].rows(rows) for one, name in zip(found, names, strict=True)],
        sources=names,
        headers=[one.headers[name] for one, name in zip(found, names, strict=True)],
        y=target,
        classes=[],
        table=table,
        folds=folds,
        runs=runs,
        targets=[one.y for one in found],
        facts=_facts(found[0], pairs[0]),
    )
    return task, found[0].excluded


def predictions(outputs, task, header) -> list[Rows]:
    """How alike each picture is to its image, and to others, float32 (n, runs, measures).

    The header has the names of the `measures`.

    Args:
        outputs: (tested, runs, measures), as `engram.training.Fit` has them.
        task: from `load`.
        header: what all tasks write.
    """
    columns = ["subject", "split", "concept", "stimulus", "place"]
    table = task.table.iloc[task.tested].reindex(columns=columns, fill_value="")
    return [Rows(outputs, table.assign(fold=task.tested_by), header)]


# ---- rows -------------------------------------------------------------------------------


def _pairs(x, y):
    """(source of x, source of y), the views of pictures first, then those of each backbone."""
    sides = []
    for side, sources in (("x", x), ("y", y)):
        views = [source for source in sources if "/" not in source]
        if len(views) != 1:
            raise InputError(
                f"{side}: {', '.join(sources)}; name one view of pictures, and features of it"
            )
        others = {s.partition("/")[2]: s for s in sources if s.startswith(f"{views[0]}/")}
        sides.append({"": views[0]} | others)
    if sides[0].keys() != sides[1].keys() or any(
        len(side) < len(sources) for side, sources in zip(sides, (x, y), strict=True)
    ):
        raise InputError(
            f"{', '.join(x)} and {', '.join(y)}: both sides need features of the same backbones"
        )
    return [(source, sides[1][name]) for name, source in sides[0].items()]


def _refuse_unlike(found, pairs):
    """Features of another model, or of other rows."""
    for one, (name, other) in zip(found, pairs, strict=True):
        if not one.decodes:
            raise InputError(
                f"{name}: has to be pictures with the columns subject and stimulus, as a decoder "
                "draws them; exchange x and y"
            )
        if list(one.table.index) != list(found[0].table.index):
            raise InputError(f"{name}: has other rows than {pairs[0][0]}; make it again")
        a, b = (one.headers[source] for source in (name, other))
        changed = [key for key in MADE if a.get(key) != b.get(key)]
        if changed and one is not found[0]:
            raise InputError(
                f"{name} and {other} are features of different models: {changed[0]} is "
                f"{a.get(changed[0])} and {b.get(changed[0])}; extract both alike"
            )
    for name, header in found[0].headers.items():
        if header.get("what") != "picture" or header.get("axes") != 3:
            raise InputError(f"{name}: is no view of pictures, but holds {header.get('what')!r}")


def _folds(table):
    """A fold a subject, and where each row stands in the ring of its subject."""
    subject = table["subject"].to_numpy(str)
    place, folds = np.empty(len(table), int), []
    if not len(table):
        raise InputError("no usable picture of split 'test'; decode test images")
    for name in dict.fromkeys(subject):
        rows = np.flatnonzero(subject == name)
        codes = table["stimulus"].iloc[rows].factorize(sort=True)[0]
        if codes.max() < 1:
            raise InputError(f"subject {name}: one test image; two are needed to compare")
        place[rows] = np.random.default_rng(0).permutation(codes.max() + 1)[codes]
        nobody = np.empty(0, int)
        folds.append(Fold(str(name), nobody, nobody, rows))
    return folds, place


def _moved(table, target, folds, shift):
    """Row of the image that stands `shift` places after that of each row, int (n,)."""
    place, moved = table["place"].to_numpy(), target.copy()
    for fold in folds:
        ring = np.empty(place[fold.test].max() + 1, int)
        ring[place[fold.test]] = target[fold.test]
        moved[fold.test] = np.roll(ring, -shift)[place[fold.test]]
    return moved


def _facts(both, pair):
    """What scores should know beside, JSON-able."""
    told = both.headers[pair[0]]
    return {
        "protocol": told.get("protocol"),
        "zscore": told.get("zscore"),
        "decoder": {key: told.get(key) for key in ("decoder", "of", "seed")},
    }
