"""Pictures beside what was seen: nothing is trained, every picture is measured."""

import functools
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engram import training
from engram.errors import InputError
from engram.measures import pictures
from engram.planning import components
from engram.progress import progress

DEVICE = "cpu"
TASKS = ("pictures",)

#: Options that name backbones under which both sides are compared.
BACKBONES = ("features", "distances")


@dataclass(frozen=True)
class Options:
    """Options of the head.

    Attributes:
        features: backbones by whose features each picture has to be told apart from the other
            test images (two-way identification).
        distances: backbones by whose features its distance is measured: 1 - Pearson's r, or what
            the backbone is made for.
        dialect: of the pixel measures, which are named after it: `bd`, pictures as they are
            (Brain-Diffuser); `mindeye`, both brought to 256 pixels before.
        size: pixels of a side that pictures are compared at; 425 in every publication.
        rank_by: the measure by which the report shows the best and the worst pictures; by default
            the first, PixCorr.
    """

    features: list[str] = field(default_factory=list)
    distances: list[str] = field(default_factory=list)
    dialect: Literal["bd", "mindeye"] = "bd"
    size: int = 425
    rank_by: str | None = None


def fit(task, options, device) -> training.Fit:
    """Measure every test picture against its image, and against others in the control.

    Raises:
        InputError: features of a backbone are not among the sources, `rank_by` is none of the
            measures, or `size` is too small.
    """
    if options.size < pictures.LEAST:
        raise InputError(f"heads: size is {options.size}; at least {pictures.LEAST} pixels")
    found = {}
    for fold in progress(task.folds, "compare every subject", "subjects"):
        one = _pixels(task, fold, options) | _features(task, fold, options)
        for name, values in one.items():
            shape = (len(task.tested), len(task.runs))
            found.setdefault(name, np.empty(shape, np.float32))
            found[name][np.searchsorted(task.tested, fold.test)] = values
    ranked = options.rank_by or next(iter(found))
    if ranked not in found:
        raise InputError(f"heads: rank_by is {ranked!r}; there is {', '.join(found)}")
    outputs = np.stack(list(found.values()), -1)
    return training.Fit(
        outputs=outputs,
        validation=np.zeros((len(task.folds), len(task.runs))),
        state={},
        latent=outputs[:, 0],
        header={
            "measures": [*found],
            "comparison": {"dialect": options.dialect, "size": options.size},
            "rank_by": ranked,
        },
    )


def _pixels(task, fold, options):
    """{measure: float (rows, runs)} of one subject.

    Rows are taken in the order of the ring, so that an image is read once and forgotten when all
    pictures that it is compared with have passed.
    """

    @functools.lru_cache(maxsize=len(task.runs) + 1)
    def image(target):
        return read(task.targets[0], target)

    def read(source, row):
        (rgb,) = source.of(np.array([row]))[:1]
        return pictures.picture(rgb, options.size, options.dialect)

    names = pictures.PIXEL_MEASURES[options.dialect]
    found = np.empty((len(names), len(fold.test), len(task.runs)))
    order = np.argsort(task.table["place"].to_numpy()[fold.test], kind="stable")
    for i in progress(order, f"pixels of {fold.name}", "pictures"):
        told = read(task.x[0], fold.test[i])
        for r, run in enumerate(task.runs):
            seen = image(int(run.y[fold.test[i]]))
            values = (pictures.pixcorr(told, seen), *pictures.ssim(told, seen))
            found[:, i, r] = values[: len(names)]
    return dict(zip(names, found, strict=True))


def _features(task, fold, options):
    """{measure: float (rows, runs)} of one subject: two-way identification and distances."""
    at = {source.partition("/")[2]: i for i, source in enumerate(task.sources)}
    images = np.unique(task.y[fold.test])
    owns = [np.searchsorted(images, run.y[fold.test]) for run in task.runs]
    found = {}
    for name in dict.fromkeys([*options.features, *options.distances]):
        if name not in at:
            raise InputError(f"heads: no features of {name!r}; there is {', '.join(at) or 'none'}")
        told, true = task.x[at[name]].of(fold.test), task.targets[at[name]].of(images)
        how = components.constant(f"engram.backbones.{task.headers[at[name]]['kind']}", "ALIKE_BY")
        how = how or "correlation"
        alike = pictures.similarity(told, true, how)
        if name in options.features:
            found[f"{name}_two_way"] = np.stack([pictures.two_way(alike, own) for own in owns], 1)
        if name in options.distances:
            own = np.stack(owns, 1)
            found[f"{name}_distance"] = pictures.distance(np.take_along_axis(alike, own, 1), how)
    return found
