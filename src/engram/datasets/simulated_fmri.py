"""A simulated cohort of resting-state fMRI whose subjects have a known sex and age.

Nothing here is a recording of a person; every header made from it says `simulated`.

Model.  A subject has a sex of -1 or 1 and an age, Gaussian with mean 0 and variance 1.  Nine
networks have white signals whose correlations are S = A A' with a diagonal of 1, where

    A = I + B + effect * 0.25 / 3 * (sex * D_s + age * D_a) + 0.15 F

with symmetric Gaussian matrices: B (standard deviation 0.3), D_s and D_a of all subjects and F of
the subject alone.  Three factors in each network have fixed Gaussian loadings (0.8) on its regions,
and standard deviations exp(effect * (sex * e_s + age * e_a) + 0.3 * noise), where e is -0.15, 0 or
0.15 with chances 1/4, 1/2, 1/4.  A region is 0.8 |N(1, 0.2)| times its network, plus the factors,
plus a signal of the whole brain (0.4, times a log-normal gain of the subject): convolved with a
double-gamma haemodynamic response, brought to variance 1, with white noise of variance 1 added,
filtered to 0.01 to 0.1 Hz (Butterworth of order 4, forward and backward) and standardised.

Traits are in the second moments alone: the mean of a series says nothing, and connectivity is the
best that can be done.
"""

import dataclasses
import functools
import gzip
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy import signal, stats

from engram.datasets import roi_cohort, roi_series
from engram.errors import InputError
from engram.readers.atlases import ATLASES, named, network, same

DEVICE = "cpu"

TR = 2.0  # s
BAND = (0.01, 0.1)  # Hz
ORDER = 4
FACTORS = 3  # of a network
BURN_IN = 16  # frames before the scan, as long as the response
PADDED = 20  # frames by which the shorter scans of a cohort are shorter

#: Arrays of a cohort file and the atlas of each; tables of a scan and the atlas of each.
ARRAYS = {
    "timeseries/schaefer400": "schaefer400_7n",
    "timeseries/tian3": "tian_s3",
    "timeseries/buckner7": "buckner7",
}
TABLES = {
    "fMRI.Tian_Subcortex_S3_3T.csv.gz": "tian_s3",
    "fMRI.Schaefer17n400p.csv.gz": "schaefer400_17n",
}


@dataclass(frozen=True)
class Options:
    """Options of the simulation.

    Attributes:
        subjects: in each unit of a cohort; a unit of tables is one subject.
        scans: scans of a subject; the second and later ones are 20 frames shorter.
        frames: of a scan, 2 s each.
        per_network: regions of each of the nine networks, the first ones; null takes all 457.
        effect: influence of sex and age; 0 none at all.
        conditions: facts that hold for the whole scan; sex becomes the event "sex:1" or "sex:-1".
        seed: everything random follows from the seed, the name of the unit and that of the subject.
    """

    subjects: int = 50
    scans: int = 1
    frames: int = 180
    per_network: int | None = None
    effect: float = 1.0
    conditions: list[str] | None = None
    seed: int = 0


# ---- files ------------------------------------------------------------------------------


def make(path, row, options):
    """Simulate one file of a unit: a cohort (`.h5`) or a table of its one subject (`.csv.gz`).

    Equal options and unit give equal bytes, whatever other units exist.

    Raises:
        InputError: a file of that name is none of the two layouts.
    """
    if row["file"].endswith(".h5"):
        _write_cohort(path, row["unit"], options)
    elif Path(row["file"]).name in TABLES:
        _write_table(path, row["unit"], Path(row["file"]).name, options)
    else:
        raise InputError(
            f"{row['file']}: simulated are cohorts, '{{unit}}.h5', and tables of a subject, "
            f"{', '.join('{unit}/' + name for name in TABLES)}; correct `files` of the dataset"
        )


def read(unit, rows, options):
    """The scans of one unit, from whichever layout its files have.

    Signals: "fmri", float32 (roi, time), one frame each 2 s, standardised. Facts: sex, age.

    Raises:
        InputError: a file is not one that `make` wrote.
    """
    origin = {"simulated": True, "simulation": dataclasses.asdict(options)}
    if rows[0]["file"].endswith(".h5"):
        names = {key: list(_held(ATLASES[atlas], options)) for key, atlas in ARRAYS.items()}
        reader = roi_cohort.Options(
            TR, ARRAYS, names, conditions=options.conditions, facts=["sex", "age"]
        )
        found = roi_cohort.read(unit, rows, reader)
        return [dataclasses.replace(one, origin=origin) for one in found]
    sex, age = traits_of(unit, options)
    rows = [{**row, "sex": str(sex), "age": str(age)} for row in rows]
    reader = roi_series.Options(tr=TR, unit="z", conditions=options.conditions)
    (found,) = roi_series.read(unit, rows, reader)
    return [dataclasses.replace(found, facts={"sex": sex, "age": age}, origin=origin)]


def _write_cohort(path, unit, options):
    """The arrays of all scans in half precision, one scan a chunk, padded with NaN."""
    subjects = [f"{unit}-{i + 1:04d}" for i in range(options.subjects)]
    n = options.subjects * options.scans
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        arrays = [
            file.create_dataset(
                key,
                (n, len(_held(ATLASES[atlas], options)), options.frames),
                np.float16,
                chunks=(1, len(_held(ATLASES[atlas], options)), options.frames),
                fillvalue=np.nan,
                track_times=False,
            )
            for key, atlas in ARRAYS.items()
        ]
        parts = np.cumsum([array.shape[1] for array in arrays])[:-1]
        lengths = [_frames(scan, options) for _ in subjects for scan in range(options.scans)]
        for i, frames in enumerate(lengths):
            subject, scan = subjects[i // options.scans], i % options.scans
            series = np.split(simulate(subject, scan, options), parts)
            for array, values in zip(arrays, series, strict=True):
                array[i, :, :frames] = values
        traits = np.repeat([traits_of(one, options) for one in subjects], options.scans, axis=0)
        known = {
            "long_subject_id": np.repeat(np.array(subjects, "S"), options.scans),
            "ts_len": np.array(lengths),
            "sex": traits[:, 0].astype(int),
            "age": traits[:, 1],
        }
        for key, values in known.items():
            file.create_dataset(key, data=values, track_times=False)


def _write_table(path, unit, table, options):
    """Regions in rows, their names in the first column; the parcels are named as published."""
    names = named(ARRAYS.values())
    held = [name for name in names if name in _held(names, options)]
    values = dict(zip(held, simulate(unit, 0, options), strict=True))
    wanted = _held(ATLASES[TABLES[table]], options)
    text = io.StringIO()
    text.write(",".join(["label_name", *map(str, range(options.frames))]) + "\n")
    for name in wanted:
        text.write(",".join([name, *(f"{v:.5g}" for v in values[same(name)])]) + "\n")
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write(text.getvalue().encode())


def _frames(scan, options):
    return options.frames - (PADDED if scan else 0)


# ---- the model --------------------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """What all subjects share.

    Attributes:
        of_region: index of the network of each region, (roi,).
        coupling: B, (network, network).
        by_sex, by_age: D_s and D_a, likewise.
        gains: of each region on its network, (roi,).
        loadings: of each region on the factors of its network, (roi, 3).
        factors_by_sex, factors_by_age: e_s and e_a, (network, 3).
    """

    of_region: np.ndarray
    coupling: np.ndarray
    by_sex: np.ndarray
    by_age: np.ndarray
    gains: np.ndarray
    loadings: np.ndarray
    factors_by_sex: np.ndarray
    factors_by_age: np.ndarray


@functools.cache
def population(seed) -> Population:
    """The parameters that a seed gives, of all 457 regions."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    networks = [network(name) for name in named(ARRAYS.values())]
    order = list(dict.fromkeys(networks))
    n, regions = len(order), len(networks)
    coupling, by_sex, by_age = (sd * _symmetric(rng, n) for sd in (0.3, 1.0, 1.0))
    effects = rng.choice([-0.15, 0.0, 0.15], p=[0.25, 0.5, 0.25], size=(2, n, FACTORS))
    return Population(
        of_region=np.array([order.index(one) for one in networks]),
        coupling=coupling,
        by_sex=by_sex,
        by_age=by_age,
        gains=0.8 * np.abs(rng.normal(1, 0.2, regions)),
        loadings=0.8 * rng.standard_normal((regions, FACTORS)),
        factors_by_sex=effects[0],
        factors_by_age=effects[1],
    )


def _symmetric(rng, n):
    drawn = np.triu(rng.standard_normal((n, n)))
    return drawn + np.triu(drawn, 1).T


def traits_of(subject, options) -> tuple[int, float]:
    """Sex (-1 or 1) and age of a subject."""
    rng = _rng(subject, options, 0)
    return int(rng.choice([-1, 1])), float(rng.normal())


def simulate(subject, scan, options) -> np.ndarray:
    """One scan, float32 (roi, time), standardised."""
    everyone, of_subject = population(options.seed), _rng(subject, options, 1)
    sex, age = traits_of(subject, options)
    n = len(everyone.coupling)
    trait = options.effect * (sex * everyone.by_sex + age * everyone.by_age)
    mixing = np.eye(n) + everyone.coupling + 0.25 / 3 * trait + 0.15 * _symmetric(of_subject, n)
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    trait = options.effect * (sex * everyone.factors_by_sex + age * everyone.factors_by_age)
    spread = np.exp(trait + 0.3 * of_subject.standard_normal((n, FACTORS)))
    gain = np.exp(0.3 * of_subject.standard_normal())

    rng, frames = _rng(subject, options, 2, scan), _frames(scan, options)
    time = frames + BURN_IN
    networks = mixing @ rng.standard_normal((n, time))
    factors = spread[..., None] * rng.standard_normal((n, FACTORS, time))
    held = _positions(options.per_network)
    of_region = everyone.of_region[held]
    series = everyone.gains[held, None] * networks[of_region]
    series += np.einsum("rf,rft->rt", everyone.loadings[held], factors[of_region])
    series += 0.4 * gain * rng.standard_normal(time)
    series = signal.lfilter(_response(), 1, series, axis=-1)[:, BURN_IN:]
    series /= series.std(-1, keepdims=True)
    series += rng.standard_normal(series.shape)
    sections = signal.butter(ORDER, BAND, "bandpass", fs=1 / TR, output="sos")
    series = signal.sosfiltfilt(sections, series, axis=-1)
    series -= series.mean(-1, keepdims=True)
    return (series / series.std(-1, keepdims=True)).astype(np.float32)


@functools.cache
def _response():
    """The double-gamma haemodynamic response at each frame of 32 s."""
    times = np.arange(0, 32, TR)
    return stats.gamma.pdf(times, 6) - stats.gamma.pdf(times, 16) / 6


def _rng(subject, options, *stream):
    """A generator of its own for every purpose, so that no option moves another one's draws."""
    words = np.frombuffer(hashlib.sha256(subject.encode()).digest(), np.uint32)
    entropy = [options.seed, *map(int, words)]
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=stream))


@functools.cache
def _positions(per_network):
    """Which of the 457 regions are simulated: all, or the first ones of each network."""
    networks = [network(name) for name in named(ARRAYS.values())]
    ranks = [networks[:i].count(one) for i, one in enumerate(networks)]
    return np.flatnonzero(np.array(ranks) < (per_network or len(networks)))


def _held(names, options):
    """Those of the given regions that are simulated, in their order."""
    everything = named(ARRAYS.values())
    held = {everything[i] for i in _positions(options.per_network)}
    return tuple(name for name in names if same(name) in held)
