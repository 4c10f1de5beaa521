"""A simulated Natural Scenes Dataset: drawn pictures, and betas that carry a known code of each.

Nothing here is a recording of a person; every header made from it says `simulated`.  The files
are those of the published dataset (MAT design, NIfTI and HDF5 betas, NIfTI masks, HDF5 stimuli,
COCO's captions and the curated ones), smaller, and are read by the same reader.

Model.  A picture is a colour gradient with a shape on it, of which its captions tell.  Its `code`
is a vector of 12 numbers: the mean colours of its four quarters, which are the features of the
backbone `pixels` with `grid: 2`, standardised over all pictures that are not shared.  With the
patterns B of a subject, a voxel responds in a trial with

    x = baseline + effect * sum_k code_k B_k + noise     (percent signal change)

with noise of variance 1, independent across voxels and trials.  The code's share of it has the
variance `snr` w, w being exponential with mean 1 over voxels, and 0 for one voxel in ten.
`predicted` says how well the code can be told from the averages of repetitions: by ridge
regression that learns from the same training trials, and by a linear decoder that knows B.
"""

import dataclasses
import gzip
import hashlib
import io
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
from scipy.io import savemat

from engram.datasets import nsd
from engram.errors import InputError
from engram.measures import ranking
from engram.readers.nsd import SCALE

DEVICE = "cpu"
COLUMNS = ("file",)  # a job knows of a raw file its name alone

VOLUME = (10, 11, 9)
AFFINE = np.array([[1.8, 0, 0, -9.0], [0, 1.8, 0, -8.1], [0, 0, 1.8, -6.3], [0, 0, 0, 1]])
CELLS = 2  # along each side of a picture
DIMENSIONS = 3 * CELLS**2
WIDTH = 3  # standard deviations, of the interval that is predicted
SILENT = 0.1  # share of the voxels that hear nothing of the pictures
ALPHAS = tuple(10 ** (i / 2) for i in range(-2, 13))  # of ridge regression in `predicted`

#: Labels of regions by file: that of each file is given to a part of the voxels of `nsdgeneral`.
#: Regions overlap between files; V3 and one of the face regions are empty.
REGIONS = {
    "prf-visualrois": (1, 2, 3, 4, 7),
    "prf-eccrois": (1, 2, 3, 4, 5),
    "floc-faces": (1, 2, 4),
    "floc-words": (1, 2),
    "floc-places": (1,),
    "floc-bodies": (1, 3),
}

COLOURS = {
    "red": (0.85, 0.1, 0.1),
    "green": (0.1, 0.65, 0.2),
    "blue": (0.1, 0.2, 0.85),
    "yellow": (0.95, 0.85, 0.1),
    "white": (0.97, 0.97, 0.97),
    "black": (0.03, 0.03, 0.03),
}
SHAPES = ("circle", "square", "bar")
PLACES = ("top left", "top right", "bottom left", "bottom right")
SENTENCES = (
    "A {colour} {shape} at the {place}.",
    "There is a {shape} at the {place}, and it is {colour}.",
    "One {colour} {shape} on a soft background.",
    "{colour} {shape}, {place} of the picture",
    "A picture with a {shape}.",
)


@dataclass(frozen=True)
class Options:
    """Options of the simulation.

    Attributes:
        sessions: numbers of the sessions, for `files`: "1", "2", ...
        subjects: units whose photographs the unit `stimuli` holds; there are `people` of them.
        people: subjects of the design.
        planned: sessions of each subject; the trials are shared out evenly, and the protocol
            `nsd37` lacks the last three.
        images, shared_images, repetitions: of a subject, of all subjects, trials of an image.
        voxels: in `nsdgeneral` of the first subject; each further one has three fewer.
        effect: factor of what the pictures do to the voxels; 0 is none at all.
        snr: mean over voxels of the variance of the code's part in one trial, noise having 1.
        subject_effect: 0 gives all subjects patterns that are as alike as can be, 1 their own.
        size: height and width of the pictures, pixels.
        seed: everything random follows from the seed and the name of the unit.
    """

    sessions: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=lambda: ["subj01", "subj02"])
    people: int = 2
    planned: int = 8
    images: int = 160
    shared_images: int = 40
    repetitions: int = 3
    voxels: int = 200
    effect: float = 1.0
    snr: float = 0.1
    subject_effect: float = 1.0
    size: int = 64
    seed: int = 0


def sizes(options) -> nsd.Sizes:
    """How large the simulated experiment is.

    Raises:
        InputError: trials cannot be shared out among sessions, or a number is out of range.
    """
    trials, rest = divmod(options.images * options.repetitions, max(options.planned, 1))
    if rest or options.planned <= nsd.HELD_BACK or not 0 < options.shared_images < options.images:
        raise InputError(
            f"simulated_nsd: {options.images} images, {options.shared_images} of them shared, "
            f"{options.repetitions} repetitions and {options.planned} sessions; sessions have to be"
            f" more than {nsd.HELD_BACK} and of equal length, and some images shared, some not"
        )
    if not 0 < options.voxels - 3 * (options.people - 1) <= options.voxels <= np.prod(VOLUME) // 2:
        raise InputError(
            f"simulated_nsd: {options.voxels} voxels; there have to be some for each subject, and "
            f"at most half of a volume of {' x '.join(map(str, VOLUME))}"
        )
    if options.size < CELLS or options.size % CELLS:
        raise InputError(
            f"simulated_nsd: size {options.size}; pictures have an even number of pixels"
        )
    pictures = options.shared_images + options.people * (options.images - options.shared_images)
    return nsd.Sizes(
        sessions=(options.planned,) * options.people,
        trials=trials,
        images=options.images,
        shared=options.shared_images,
        repetitions=options.repetitions,
        pictures=(pictures, options.size, options.size, 3),
    )


# ---- files --------------------------------------------------------------------------------


def make(path, row, options):
    """Simulate one of the published files.

    Equal options and unit give equal bytes, whatever other units exist.

    Raises:
        InputError: there is no published file of this name.
    """
    name, unit = Path(row["file"]).name, row["unit"]
    makers = {
        nsd.DESIGN: lambda: _save_design(path, options),
        nsd.STIMULI: lambda: _save_hdf5(path, "imgBrick", pictures(options)),
        nsd.TABLE: lambda: _coco(options)[0].to_csv(path),
        "captions_train2017.json": lambda: _save_captions(path, "train2017", options),
        "captions_val2017.json": lambda: _save_captions(path, "val2017", options),
        nsd.CURATED: lambda: _save_curated(path, options),
        f"{nsd.MASK}.nii.gz": lambda: _save_nifti(path, mask(unit, options)),
    }
    for region in REGIONS:
        makers[f"{region}.nii.gz"] = lambda region=region: _save_nifti(
            path, regions(unit, region, options)
        )
    for number in range(1, options.planned + 1):
        for text in {f"{number}", f"{number:02d}"}:
            makers[f"betas_session{text}.nii.gz"] = lambda number=number: _save_nifti(
                path, betas(unit, number, options)
            )
            makers[f"betas_session{text}.hdf5"] = lambda number=number: _save_betas(
                path, betas(unit, number, options)
            )
    if name not in makers:
        raise InputError(f"{row['file']}: the simulation makes {', '.join(makers)}; name these")
    makers[name]()


def read(unit, rows, options):
    """The responses of a simulated subject, or the pictures of the unit `stimuli`.

    Raises:
        InputError: a file is not what `make` wrote.
    """
    chosen = nsd.Options(sessions=options.sessions, subjects=options.subjects)
    (found,) = nsd.read(unit, rows, chosen, sizes(options))
    origin = {"simulated": True, "simulation": dataclasses.asdict(options)}
    if unit in options.subjects:
        origin["code"] = {"kind": "pixels", "grid": CELLS}  # features that hold it
        origin["attainable"] = {
            protocol: predicted(unit, sessions, options)
            for protocol, sessions in found.protocols.items()
        }
    return [dataclasses.replace(found, origin=found.origin | origin)]


def _save_nifti(path, values):
    """A gzipped NIfTI file without the time at which it was made."""
    image = nibabel.Nifti1Image(values, AFFINE, dtype=values.dtype)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        packed.write(image.to_bytes())


def _save_hdf5(path, name, values, chunks=None):
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values, chunks=chunks, track_times=False)


def _save_betas(path, values):
    """As published: axes the other way round, and a chunk a voxel in all trials."""
    _save_hdf5(path, "betas", values.transpose(3, 2, 1, 0), (values.shape[3], 1, 1, 1))


def _save_design(path, options):
    order, seen, shared = design(options)
    content = io.BytesIO()
    fields = {"masterordering": order[None], "subjectim": seen, "sharedix": shared[None]}
    savemat(content, {name: values + 1.0 for name, values in fields.items()})
    text = b"MATLAB 5.0 MAT-file, simulated".ljust(116)  # SciPy writes the time there
    Path(path).write_bytes(text + content.getvalue()[116:])


def _save_captions(path, part, options):
    table, captions = _coco(options)
    photographs = table[table["cocoSplit"] == part]
    annotations = [
        {"image_id": int(number), "id": 10 * int(number) + i, "caption": text}
        for number, stimulus in zip(photographs["cocoId"], photographs["nsdId"], strict=True)
        for i, text in enumerate(captions[stimulus])
    ]
    Path(path).write_text(json.dumps({"annotations": annotations[::-1]}))


def _save_curated(path, options):
    _, captions = _coco(options)
    table = [(*texts, *[""] * (len(SENTENCES) - len(texts))) for texts in captions]
    with open(path, "wb") as file:  # np.save would add a suffix to the name
        np.save(file, np.array(table, dtype=str))


def _coco(options):
    """(table of the stimuli, captions of each); every seventh has three instead of five."""
    n = sizes(options).pictures[0]
    _, _, shared = design(options)
    table = pd.DataFrame(
        {
            "cocoId": 9 + 7 * np.arange(n)[::-1],
            "cocoSplit": np.where(np.arange(n) % 5, "train2017", "val2017"),
            "nsdId": np.arange(n),
            "shared1000": np.isin(np.arange(n), shared),
        }
    )
    captions = [
        tuple(text.format(**words) for text in SENTENCES[: 5 if i % 7 else 3])
        for i, words in enumerate(looks(options)[1])
    ]
    return table, captions


def _rng(name, options, *stream):
    """A generator of its own for every purpose, so that no option moves another one's draws."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint32)
    entropy = [options.seed, *map(int, words)]
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=stream))


# ---- what is shown ------------------------------------------------------------------------


def design(options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order of the images (trial,), stimulus of each (subject, image), shared stimuli; from 0."""
    rng, this = _rng("design", options), sizes(options)
    stimuli = rng.permutation(this.pictures[0])
    shared, rest = np.sort(stimuli[: options.shared_images]), stimuli[options.shared_images :]
    own = rest.reshape(options.people, -1)
    order = rng.permutation(np.repeat(np.arange(options.images), options.repetitions))
    return order, np.hstack([np.tile(shared, (options.people, 1)), own]), shared


def looks(options) -> tuple[np.ndarray, list[dict]]:
    """Numbers that say how each picture looks, (n, 16), and the words for it.

    Corner colours (4 x 3), height and width of the place of the shape, its radius, its brightness.
    """
    rng, n = _rng("pictures", options), sizes(options).pictures[0]
    numbers = rng.uniform(size=(n, 16))
    kinds = rng.integers(len(SHAPES), size=n), rng.integers(len(COLOURS), size=n)
    words = [
        {
            "shape": SHAPES[shape],
            "colour": list(COLOURS)[colour],
            "place": PLACES[2 * (y >= 0.5) + (x >= 0.5)],
        }
        for shape, colour, (y, x) in zip(*kinds, numbers[:, 12:14], strict=True)
    ]
    return numbers, words


@lru_cache(maxsize=4)
def _pictures(options):
    numbers, words = looks(options)
    return np.stack([_drawn(n, w, options.size) for n, w in zip(numbers, words, strict=True)])


def pictures(options) -> np.ndarray:
    """All pictures, uint8 RGB (n, size, size, 3)."""
    return _pictures(_key(options))


def _drawn(numbers, words, size):
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    weights = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], -1)
    picture = weights @ numbers[:12].reshape(4, 3)
    down, across = np.abs(y - 0.1 - 0.8 * numbers[12]), np.abs(x - 0.1 - 0.8 * numbers[13])
    far = {
        "circle": np.hypot(down, across),
        "square": np.maximum(down, across),
        "bar": np.maximum(down, across / 3),
    }[words["shape"]]
    colour = np.array(COLOURS[words["colour"]]) * (0.8 + 0.2 * numbers[15])
    picture = np.where((far < 0.06 + 0.1 * numbers[14])[..., None], colour, picture)
    return (255 * picture.clip(0, 1)).round().astype(np.uint8)


@lru_cache(maxsize=4)
def _code(options):
    half = options.size // CELLS
    cells = (_pictures(options) / 255).reshape(-1, CELLS, half, CELLS, half, 3).mean((2, 4))
    raw = cells.transpose(0, 3, 1, 2).reshape(len(cells), DIMENSIONS)
    trained = np.delete(raw, design(options)[2], axis=0)
    return (raw - trained.mean(0)) / trained.std(0)


def code(options) -> np.ndarray:
    """Mean colours of the quarters of every picture, standardised, (n, 12): colour by colour."""
    return _code(_key(options))


def _key(options):
    """Options without the lists, on which no picture depends: such a key can be kept."""
    return dataclasses.replace(options, sessions=(), subjects=())


# ---- what is measured ---------------------------------------------------------------------


def voxels(unit, options) -> int:
    """How many voxels `nsdgeneral` of a unit has."""
    return options.voxels - 3 * nsd.number(unit, sizes(options))


def mask(unit, options) -> np.ndarray:
    """nsdgeneral of a unit, int16 (x, y, z): 1 in it, 0 elsewhere in the cortex, -1 outside."""
    rng = _rng(unit, options, 0)
    labels = np.where(rng.uniform(size=VOLUME) < 0.5, 0, -1).astype(np.int16)
    labels.flat[rng.choice(labels.size, voxels(unit, options), replace=False)] = 1
    return labels


def regions(unit, name, options) -> np.ndarray:
    """Labels of the regions of one file, int16 (x, y, z)."""
    rng, general = _rng(unit, options, 1, list(REGIONS).index(name)), mask(unit, options)
    labels = rng.choice((0, *REGIONS[name]), size=VOLUME).astype(np.int16)
    return np.where(general < 0, -1, labels).astype(np.int16)


def patterns(unit, options) -> np.ndarray:
    """What one unit of each component of the code does to each voxel, (12, p), at effect 1."""
    return _patterns(unit, voxels(unit, options), options)


def _patterns(name, p, options):
    common, own = (_rng(one, options, 2) for one in ("patterns", name))
    both = [rng.normal(size=(DIMENSIONS, p)) for rng in (common, own)]
    found = (1 - options.subject_effect) * both[0] + options.subject_effect * both[1]
    hears = own.exponential(size=p) * (own.uniform(size=p) >= SILENT) / (1 - SILENT)
    return found / (code(options) @ found).std(0) * np.sqrt(options.snr * hears)


def betas(unit, number, options) -> np.ndarray:
    """Betas of a session, int16 (x, y, z, trial): 300 times the percent signal change."""
    this = sizes(options)
    inside = mask(unit, options) == 1
    trials = slice((number - 1) * this.trials, number * this.trials)
    order, seen, _ = design(options)
    shown = seen[nsd.number(unit, this)][order[trials]]
    values = _rng(unit, options, 3, number).normal(size=(*VOLUME, this.trials))
    evoked = options.effect * code(options)[shown] @ patterns(unit, options)
    baseline = _rng(unit, options, 4).uniform(0, 2, size=inside.sum())
    values[inside] += (evoked + baseline).T
    return (SCALE * values).round().astype(np.int16)


# ---- what a decoder reaches ---------------------------------------------------------------


def predicted(unit, sessions, options, draws=60) -> dict:
    """R2 and two-way identification of the code of test images, from averages of their trials.

    `known` is the linear decoder that knows patterns and noise, and mean and covariance of the
    code over training images: on average no linear decoder does better. `ridge` is ridge
    regression on the training images of the unit, as it was shown them, voxels z-scored, its
    penalty chosen among `ALPHAS` by leaving out one image. Patterns and noise are simulated anew
    in each draw.

    Args:
        unit: a subject.
        sessions: how many are used, from the first on.
        options: Options of the simulation.
        draws: simulated subjects.

    Returns:
        For `r2`, the mean over the 12 components of 1 - squared error / squared distance from the
        training mean, and `two_way`, the share of pairs in which the prediction correlates more
        with the code of its own image: the means `ridge` and `known`, `low`, three standard
        deviations over subjects below ridge, and `high`, as many above known.
    """
    return _predicted(unit, sessions, _key(options), draws)


@lru_cache(maxsize=16)
def _predicted(unit, sessions, options, draws):
    train, test = (_shown(unit, sessions, split, options) for split in ("train", "test"))
    rng, codes = _rng(unit, options, 5), code(options)
    hits = {name: [] for name in ("ridge", "known")}
    for draw in range(draws):
        found = options.effect * _patterns(f"draw-{draw}", voxels(unit, options), options)
        x, x_test = (codes[ids] @ found + _averaged(rng, n, found) for ids, n in (train, test))
        y, truth = codes[train[0]], codes[test[0]]
        known = _decoded(x_test, test[1], found, y)
        for name, told in (("known", known), ("ridge", _ridge(x, y, x_test))):
            hits[name].append([_r2(told, truth, y.mean(0)), _two_way(told, truth)])
    ridge, known = (np.array(hits[name]).T for name in ("ridge", "known"))
    return {
        score: {
            "low": float(ridge[i].mean() - WIDTH * ridge[i].std(ddof=1)),
            "ridge": float(ridge[i].mean()),
            "known": float(known[i].mean()),
            "high": float(min(known[i].mean() + WIDTH * known[i].std(ddof=1), 1)),
        }
        for i, score in enumerate(("r2", "two_way"))
    }


def _shown(unit, sessions, split, options):
    """(stimuli that a unit was shown in a split, how often each)."""
    this = sizes(options)
    order, seen, shared = design(options)
    ids, counts = np.unique(
        seen[nsd.number(unit, this)][order[: sessions * this.trials]], return_counts=True
    )
    of_split = np.isin(ids, shared) == (split == "test")
    return ids[of_split], counts[of_split]


def _averaged(rng, counts, found):
    return rng.normal(size=(len(counts), found.shape[1])) / np.sqrt(counts)[:, None]


def _decoded(x, counts, found, codes):
    """Best linear estimate of the code given averages of `counts` trials, (n, 12)."""
    mean, precision = codes.mean(0), np.linalg.inv(np.cov(codes.T, bias=True))
    surprise = (x - mean @ found) @ found.T
    gain = np.linalg.inv(precision + counts[:, None, None] * (found @ found.T))
    return mean + counts[:, None] * np.einsum("nk,nkl->nl", surprise, gain)


def _ridge(x, y, x_test):
    """Predictions of ridge regression with intercept, the error of leaving one out least."""
    mean, sd = x.mean(0), x.std(0, ddof=1)
    x, x_test, centre = (x - mean) / sd, (x_test - mean) / sd, y.mean(0)
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    projected = left.T @ (y - centre)
    errors = []
    for alpha in ALPHAS:
        shrunk = singular**2 / (singular**2 + alpha)
        # The intercept has the leverage 1 / n.
        leverage = (left**2) @ shrunk + 1 / len(x)
        residual = y - centre - left @ (shrunk[:, None] * projected)
        errors.append(((residual / (1 - leverage)[:, None]) ** 2).mean())
    alpha = ALPHAS[int(np.argmin(errors))]
    return centre + x_test @ right.T @ ((singular / (singular**2 + alpha))[:, None] * projected)


def _r2(told, truth, expected):
    return (1 - ((truth - told) ** 2).sum(0) / ((truth - expected) ** 2).sum(0)).mean()


def _two_way(told, truth):
    """Mean share of other images whose code correlates less with a prediction than its own."""
    both = [v - v.mean(1, keepdims=True) for v in (told, truth)]
    told, truth = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in both)
    ranks = ranking.ranks(told @ truth.T)
    return ranking.k_way(ranks, len(truth), 2).mean()
