"""Simulated THINGS-EEG2: drawn pictures, and epochs that carry a known code of each picture.

Nothing here is a recording of a person; every header made from it says `simulated`.  The files
are those of the published dataset (pickled dicts, zip archives of JPEG images), smaller, and are
read by the same reader.

Model.  A picture is a colour gradient with a grating and a shape on it; pictures of a concept
look alike.  Its `code` is a vector of 12 numbers: the means of the four lowest cosine components
of each colour, standardised over the training pictures.  Of the subject's patterns P, each an
electrode map times a time course between 50 and 450 ms, a trial holds

    x(channel, time) = effect * sum_k code_k P_k(channel, time) + noise

with noise of variance 1, independent across channels (as after whitening), of which neighbouring
samples correlate by 0.5.  P is scaled so that a matched filter that knows it measures each
component of the code in a single trial with a signal-to-noise ratio (variances) of `snr` on
average.  `predicted` says what can be reached: by the best decoder, and by one that is fitted.
"""

import dataclasses
import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import signal

from engram.datasets import things_eeg2
from engram.errors import InputError
from engram.measures.ranking import repetition_counts
from engram.readers import images

DEVICE = "cpu"

CHANNELS = "Pz P3 P7 O1 Oz O2 P4 P8 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2"  # in the published order
TIMES = np.round(np.arange(-20, 80) / 100, 2)  # s
SFREQ = 100.0  # Hz
CORRELATION = 0.5  # of the noise in neighbouring samples
DIMENSIONS = 12
SPLITS = ("train", "test")
TOP = (1, 5)
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Options:
    """Options of the simulation.

    Attributes:
        effect: factor of what the pictures do to the EEG; 0 is none at all.
        snr: of each component of the code in one trial, for a matched filter; variances.
        subject_effect: 0 gives all subjects the same electrode maps, 1 maps of their own.
        train_concepts, train_images, train_repetitions: structure of the training part.
        test_concepts, test_repetitions: structure of the test part, one image a concept.
        size: height and width of the pictures, pixels.
        seed: everything random follows from the seed and the name of the unit.
    """

    effect: float = 1.0
    snr: float = 0.3
    subject_effect: float = 0.5
    train_concepts: int = 200
    train_images: int = 5
    train_repetitions: int = 4
    test_concepts: int = 200
    test_repetitions: int = 20
    size: int = 64
    seed: int = 0


# ---- files --------------------------------------------------------------------------------


def make(path, row, options):
    """Simulate one of the published files: epochs, list of images, or archive of images.

    Equal options and unit give equal bytes, whatever other units exist.

    Raises:
        InputError: there is no published file of this name.
    """
    name = Path(row["file"]).name
    makers = {"image_metadata.npy": lambda: _save(path, _metadata(options))}
    for split, published in things_eeg2.SPLITS.items():
        makers[f"{published}_images.zip"] = lambda split=split: _zip(path, split, options)
        makers[f"preprocessed_eeg_{published}.npy"] = lambda split=split: _save(
            path, _epochs(row["unit"], split, options)
        )
    if name not in makers:
        raise InputError(f"{row['file']}: the simulation makes {', '.join(makers)}; name these")
    makers[name]()


def read(unit, rows, options):
    """The trials of a simulated subject, or the pictures of the unit `stimuli`.

    Raises:
        InputError: a file is not what `make` wrote.
    """
    origin = {
        "simulated": True,
        "simulation": dataclasses.asdict(options),
        "attainable": predicted(options, repetition_counts(options.test_repetitions)),
    }
    found = things_eeg2.read(unit, rows, things_eeg2.Options())
    return [dataclasses.replace(one, origin=origin) for one in found]


def _save(path, content):
    with open(path, "wb") as file:
        np.save(file, np.array(content, dtype=object))


def _metadata(options):
    content = {}
    for split in SPLITS:
        names = _names(split, options)
        content[f"{split}_img_concepts"] = [concept for concept, _ in names]
        content[f"{split}_img_files"] = [file for _, file in names]
        first = 1 if split == "train" else options.train_concepts + 1
        content[f"{split}_img_concepts_THINGS"] = [
            f"{int(concept[:5]) - 1 + first:05d}{concept[5:]}" for concept, _ in names
        ]
    return content


def _names(split, options):
    """(concept, file) of each picture of a split; concepts are numbered from 1 in each."""
    images = options.train_images if split == "train" else 1
    return [
        (f"{i:05d}_{split}thing{i}", f"{split}thing{i}_{number:02d}s.jpg")
        for i in range(1, _concepts(split, options) + 1)
        for number in range(1, images + 1)
    ]


def _concepts(split, options):
    return options.train_concepts if split == "train" else options.test_concepts


def _zip(path, split, options):
    folder = f"{things_eeg2.SPLITS[split]}_images"
    with zipfile.ZipFile(path, "w") as archive:
        names = _names(split, options)
        for (concept, file), content in zip(names, _jpegs(split, options), strict=True):
            archive.writestr(zipfile.ZipInfo(f"{folder}/{concept}/{file}"), content)


def _epochs(unit, split, options):
    codes = code(split, options)
    repetitions = options.train_repetitions if split == "train" else options.test_repetitions
    evoked = options.effect * np.tensordot(codes, patterns(unit, options), 1)
    rng = _rng(unit, options, 1 + SPLITS.index(split))
    data = evoked[:, None] + noise(rng, (len(codes), repetitions, *evoked.shape[1:]))
    return {"preprocessed_eeg_data": data, "ch_names": CHANNELS.split(), "times": TIMES}


def _rng(name, options, *stream):
    """A generator of its own for every purpose, so that no option moves another one's draws."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint32)
    entropy = [options.seed, *map(int, words)]
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=stream))


# ---- pictures -----------------------------------------------------------------------------


def _jpegs(split, options):
    """The pictures of a split as JPEG files."""
    images = options.train_images if split == "train" else 1
    for concept in range(_concepts(split, options)):
        look = _rng(split, options, concept).uniform(size=LOOKS)
        for image in range(images):
            rng = _rng(split, options, concept, image)
            own = look + 0.35 * (rng.uniform(size=LOOKS) - 0.5)
            content = io.BytesIO()
            picture = Image.fromarray(_drawn(own, options.size))
            picture.save(content, "jpeg", quality=JPEG_QUALITY)
            yield content.getvalue()


LOOKS = 20  # numbers that say how a picture looks


def _drawn(look, size):
    """A picture, uint8 (size, size, 3), from numbers about 0 to 1.

    Corner colours (4 x 3), angle, frequency and contrast of the grating, position, radius,
    brightness and roundness of the shape.
    """
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    corners = look[:12].reshape(4, 3)
    weights = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], -1)
    angle, frequency, contrast, cy, cx, radius, brightness, roundness = look[12:]
    wave = np.sin(2 * np.pi * (3 + 6 * frequency) * (np.cos(angle * 3) * x + np.sin(angle * 3) * y))
    far = np.maximum(abs(y - cy), abs(x - cx)) if roundness > 0.5 else np.hypot(y - cy, x - cx)
    picture = weights @ corners + 0.15 * contrast * wave[..., None]
    picture = np.where((far < 0.1 + 0.15 * radius)[..., None], brightness, picture)
    return (255 * picture.clip(0, 1)).astype(np.uint8)


def thumbnail_code(pictures) -> np.ndarray:
    """What the EEG knows of a picture, before it is standardised: 4 cosine components a colour.

    Args:
        pictures: uint8 (n, height, width, 3).

    Returns:
        (n, 12): of each colour (on the scale 0..1) the mean of its product with 1, with the
        half cosine from left to right, from top to bottom, and with the product of both.
    """
    height, width = pictures.shape[1:3]
    down, across = (
        np.stack([np.ones(n), np.cos(np.pi * (np.arange(n) + 0.5) / n)]) / n
        for n in (height, width)
    )
    found = np.einsum("nhwc,ih,jw->ncij", pictures / 255, down, across, optimize=True)
    return found.reshape(len(pictures), DIMENSIONS)


@lru_cache(maxsize=4)
def code(split, options) -> np.ndarray:
    """The code of each picture of a split, standardised over the training pictures, (n, 12)."""
    raw = {name: thumbnail_code(_pictures(name, options)) for name in {"train", split}}
    return (raw[split] - raw["train"].mean(0)) / raw["train"].std(0)


def _pictures(split, options):
    """As a reader of the JPEG files sees them, uint8 (n, size, size, 3)."""
    jpegs = _jpegs(split, options)
    return np.stack([np.asarray(images.read(io.BytesIO(jpeg), split)) for jpeg in jpegs])


# ---- EEG ----------------------------------------------------------------------------------


def patterns(unit, options) -> np.ndarray:
    """What one unit of each component of the code does to a trial, (12, 17, 100), at effect 1."""
    common, own = (_rng(name, options, 0) for name in ("patterns", unit))
    shape = (DIMENSIONS, len(CHANNELS.split()))
    share = options.subject_effect
    maps = (1 - share) * common.normal(size=shape) + share * own.normal(size=shape)
    centre = common.uniform(0.1, 0.35, DIMENSIONS)[:, None]
    width = common.uniform(0.02, 0.05, DIMENSIONS)[:, None]
    courses = np.exp(-((TIMES - centre) ** 2) / (2 * width**2)) * ((TIMES >= 0.05) & (TIMES < 0.45))
    found = maps[:, :, None] * courses[:, None]
    power = (_whitened(found) ** 2).sum() / DIMENSIONS
    return found * np.sqrt(options.snr / power)


def noise(rng, shape) -> np.ndarray:
    """Gaussian, variance 1, independent but for neighbouring samples of the last axis."""
    white = rng.standard_normal(shape)
    white[..., 1:] *= np.sqrt(1 - CORRELATION**2)
    return signal.lfilter([1], [1, -CORRELATION], white)


# ---- what a decoder reaches ---------------------------------------------------------------


def predicted(options, counts, draws=100) -> dict:
    """Top-1 and top-5 accuracy on one subject, of the best decoder and of a fitted linear one.

    `best` knows the patterns, the noise and the codes, and picks the most likely of all test
    pictures given the average of some repetitions: no decoder does better on average. `linear`
    knows the noise and the codes, but estimates the patterns by least squares from the training
    trials. A head, which has to learn from the same trials, is expected between both. Given the
    model, both are functions of whitened epochs, which are simulated anew in each draw, subject
    and training noise included.

    Args:
        options: Options of the simulation.
        counts: numbers of test repetitions that are averaged.
        draws: simulated subjects.

    Returns:
        `counts`, and for `top1` and `top5` one value a count of `low`, the 2.5 % quantile of
        linear over subjects, the means `linear` and `best`, and `high`, the 97.5 % quantile of
        best.
    """
    codes = code("test", options)
    design = np.column_stack([code("train", options), np.ones(_shown("train", options))])
    inverse = np.linalg.pinv(design)  # of fewer pictures than unknowns: the smallest solution
    left, singular, _ = np.linalg.svd(inverse, full_matrices=False)
    root, seen = left * singular / np.sqrt(options.train_repetitions), inverse @ design
    rng = _rng("predicted", options)
    hits = {name: np.empty((len(counts), len(TOP), draws)) for name in ("linear", "best")}
    for draw in range(draws):
        true = options.effect * _whitened(patterns(f"draw-{draw}", options))
        fitted = seen[:, :-1] @ true + root @ rng.standard_normal((root.shape[1], true.shape[1]))
        single = rng.standard_normal((len(codes), true.shape[1]))  # noise of one repetition
        for name, assumed, off in (("best", true, 0.0), ("linear", fitted[:-1], fitted[-1])):
            expected = codes @ assumed
            score = (codes @ true - off) @ expected.T - (expected**2).sum(1) / 2
            noisy = single @ expected.T
            for i, count in enumerate(counts):
                hits[name][i, :, draw] = _found(score + noisy / np.sqrt(count))
    return {"counts": list(counts)} | {
        f"top{k}": {
            "low": np.quantile(hits["linear"][:, i], 0.025, axis=1).tolist(),
            "linear": hits["linear"][:, i].mean(1).tolist(),
            "best": hits["best"][:, i].mean(1).tolist(),
            "high": np.quantile(hits["best"][:, i], 0.975, axis=1).tolist(),
        }
        for i, k in enumerate(TOP)
    }


def _shown(split, options):
    return _concepts(split, options) * (options.train_images if split == "train" else 1)


def _found(score):
    """Top-1 and top-5 of log-likelihoods of all pictures (columns), row i showing picture i."""
    own = np.diag(score)[:, None]
    above, ties = (score > own).sum(1), (score == own).sum(1)
    return [np.clip((k - above) / ties, 0, 1).mean() for k in TOP]  # ties ordered by chance


def _whitened(found):
    """Patterns (k, channel, time) where the noise is white and of variance 1, (k, d)."""
    whitened = found.copy()
    whitened[..., 1:] -= CORRELATION * found[..., :-1]
    whitened[..., 1:] /= np.sqrt(1 - CORRELATION**2)
    return whitened.reshape(len(found), -1)
