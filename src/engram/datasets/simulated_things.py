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
average.  `attainable` is what the best possible decoder reaches.
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

DEVICE = "cpu"

CHANNELS = "Pz P3 P7 O1 Oz O2 P4 P8 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2"  # in the published order
TIMES = np.round(np.arange(-20, 80) / 100, 2)  # s
SFREQ = 100.0  # Hz
CORRELATION = 0.5  # of the noise in neighbouring samples
DIMENSIONS = 12
SPLITS = ("train", "test")
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
    train_concepts: int = 100
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
    best = attainable(options, options.test_repetitions)
    origin = {
        "simulated": True,
        "simulation": dataclasses.asdict(options),
        "attainable": {f"top{k}": [one.low, one.high] for k, one in best.items()},
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
    return np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in _jpegs(split, options)])


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
    return found * np.sqrt(options.snr / np.trace(_precision(found)) * DIMENSIONS)


def noise(rng, shape) -> np.ndarray:
    """Gaussian, variance 1, independent but for neighbouring samples of the last axis."""
    white = rng.standard_normal(shape)
    white[..., 1:] *= np.sqrt(1 - CORRELATION**2)
    return signal.lfilter([1], [1, -CORRELATION], white)


def _precision(found):
    """Inverse covariance of the error of a matched filter for these patterns, (k, k)."""
    whitened = found.copy()
    whitened[..., 1:] -= CORRELATION * found[..., :-1]
    whitened[..., 1:] /= np.sqrt(1 - CORRELATION**2)
    flat = whitened.reshape(len(found), -1)
    return flat @ flat.T


# ---- the best decoder ---------------------------------------------------------------------


@dataclass(frozen=True)
class Attainable:
    """Accuracy of the best decoder, for one k.

    Attributes:
        mean: expected share of test pictures among the k most likely.
        low, high: 95 % of studies of one subject lie between.
    """

    mean: float
    low: float
    high: float


def attainable(options, repetitions, unit="sub-01", draws=400) -> dict[int, Attainable]:
    """Top-1 and top-5 accuracy of a decoder that knows the patterns, the noise and the codes.

    It picks the most likely of all test pictures given the average of some repetitions, one
    trial a picture.  Given the model, twelve numbers a trial say all there is about the code
    (what the matched filter measures), so that they are simulated instead of epochs.  No decoder
    does better on average; a trained one does worse, as it has to estimate the patterns.

    Args:
        options: Options of the simulation.
        repetitions: averaged in a test trial.
        unit: the subject.
        draws: simulated studies.

    Returns:
        Attainable for k = 1 and k = 5.
    """
    codes = code("test", options)
    precision = options.effect**2 * repetitions * _precision(patterns(unit, options))
    values, vectors = np.linalg.eigh(precision)
    seen = codes @ vectors * np.sqrt(values.clip(0))  # where the error is white
    rng = _rng("attainable", options)
    hits = np.empty((2, draws))
    for draw in range(draws):
        measured = seen + rng.standard_normal(seen.shape)
        score = measured @ seen.T - (seen**2).sum(1) / 2
        ranks = (score > np.diag(score)[:, None]).sum(1)
        ties = (score == np.diag(score)[:, None]).sum(1)
        hits[:, draw] = [_share(ranks, ties, k) for k in (1, 5)]
    low, high = np.quantile(hits, [0.025, 0.975], axis=1)
    return {
        k: Attainable(float(hits[i].mean()), float(low[i]), float(high[i]))
        for i, k in enumerate((1, 5))
    }


def _share(ranks, ties, k):
    """Mean probability of being among the first k, equal scores being ordered by chance."""
    return np.clip((k - ranks) / ties, 0, 1).mean()
