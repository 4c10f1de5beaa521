"""Simulated EEG, EOG and fMRI of subjects who drift between alert and drowsy.

Nothing here is a recording of a person; every header made from it says `simulated`.

Model.  The state alternates; each stay lasts 30 to 300 s.  EEG channel c is

    x_c(t) = sqrt(S) * [ background_c(t) + a_c A(t) alpha(t) + b_c B(t) theta(t) ] + line + blinks

with independent 1/f backgrounds, one alpha rhythm at the individual frequency, strongest at
the back, and one theta rhythm, strongest at the front.  In dB, A and B are a subject's
constant, plus a slow fluctuation that knows nothing of the state (Gaussian, exponential
autocorrelation), plus what drowsiness does: alpha falls by 3 to 10 dB, theta rises by 3 to
6 dB, both fixed within a subject.  Slow eye movements come with drowsiness, blinks go.
Regions of the brain carry low-pass noise; drowsiness adds a 0.05-Hz oscillation, strongest
in thalamus and occipital cortex, behind a haemodynamic response that peaks after 5 s.
Rhythms and noise are Gaussian, shaped in the frequency domain.

Every subject has a fact `trait`, a number of mean 50 and standard deviation 10, and `group`, "low"
or "high", the side of 50 it lies on.  The gain of a subject's signals, Gaussian, explains a share
`trait_r2` of the variance of `trait`, so that no rule explains more, and one that knows the gain
explains just as much; of `group` it knows a share 1/2 + arcsin(sqrt(trait_r2)) / pi.

The rhythms' fluctuations make the states overlap, so that no rule is perfect: `bayes` is
the best that a rule which sees one window can do.
"""

import dataclasses
import hashlib
import zipfile
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import fft, stats

from engram.errors import InputError
from engram.recording import Recording, Signal

DEVICE = "cpu"

STATES = ("alert", "drowsy")
FILED = ("eeg", "eog", "fmri", "onset", "duration", "state")  # arrays of a scan
SFREQ = 128.0  # Hz, EEG and EOG
TR = 2.1  # s
DWELL = (30.0, 300.0)  # s, shortest and longest stay in a state
TRAIT = (50.0, 10.0)  # mean and standard deviation of the fact `trait`
GAIN = 0.7  # dB, standard deviation between subjects
FADE = 2.0  # s, from one state to the other

#: EEG channels: weight of the alpha rhythm, of the theta rhythm, of blinks (amplitudes).
CHANNELS = {
    "Fp1": (0.25, 0.8, 1.0),
    "F3": (0.35, 1.0, 0.3),
    "C3": (0.5, 0.9, 0.0),
    "T7": (0.4, 0.5, 0.0),
    "P3": (0.8, 0.7, 0.0),
    "O1": (1.0, 0.5, 0.0),
    "O2": (1.0, 0.5, 0.0),
}
EEG_CHANNELS = 7  # of them, for the plan
BLINK_FREE = tuple(name for name, weights in CHANNELS.items() if not weights[2])

#: Regions (DiFuMo-64 names): weight of the 0.05-Hz oscillation.
REGIONS = {
    "Thalamus": 1.0,
    "Calcarine cortex posterior": 0.9,
    "Cuneus": 0.8,
    "Superior frontal gyrus": 0.35,
    "ventricles": 0.5,
}

ALPHA_POWER, ALPHA_WIDTH = 64.0, 0.6  # uV^2 at weight 1; standard deviation of the peak, Hz
THETA_POWER, THETA_WIDTH, THETA_PEAK = 25.0, 0.8, 5.5
FLUCTUATION = (4.0, 2.5)  # dB, standard deviation of alpha and theta within a state
FLUCTUATION_TIME = 10.0  # s, time constant of its autocorrelation
BLINK_RATE = 12.0  # a minute when alert
BLINK_HEIGHT, SLOW_EYE_HEIGHT = 120.0, 180.0  # uV
LINE_FREQUENCY, LINE_HEIGHT = 50.0, 2.0  # Hz, uV


@dataclass(frozen=True)
class Options:
    """Options of the simulation.

    Attributes:
        effect: influence of the state on every signal; 1 as described above, 0 none at all.
        subject_effect: spread between subjects (gain, alpha gain, peak frequency, 1/f slope).
        session_confound: in every second scan drowsiness is rarer, the gain higher and the
            spectrum flatter; at 1 by 3 dB, and 40 instead of 60 % drowsy. 0 is off.
        label_noise: share of 30-s epochs whose published state is the wrong one.
        scans: scans of a subject.
        duration: seconds of a scan.
        trait_r2: share of the variance of `trait` between subjects that the gain of their signals
            explains; 0 none, 1 all.
        seed: everything random follows from the seed and the name of the unit.
    """

    effect: float = 1.0
    subject_effect: float = 1.0
    session_confound: float = 0.0
    label_noise: float = 0.0
    scans: int = 2
    duration: float = 690.0
    trait_r2: float = 0.8
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """What is fixed within a subject.

    Attributes:
        iaf: individual alpha frequency, Hz.
        gain, alpha, theta: of all signals, of the alpha and of the theta rhythm, dB.
        slope: exponent of the 1/f background.
        alpha_drop, theta_rise: what drowsiness does to the rhythms at effect 1, dB.
    """

    iaf: float
    gain: float
    alpha: float
    theta: float
    slope: float
    alpha_drop: float
    theta_rise: float


# ---- files ------------------------------------------------------------------------------


def make(path, row, options):
    """Simulate all scans of one unit, a subject, into one .npz file without pickles.

    Equal options and unit give equal bytes, whatever other units exist.
    """
    arrays = {}
    for index in range(options.scans):
        for name, values in simulate(row["unit"], index, options).items():
            arrays[f"{_scan(index)}/{name}"] = values
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def read(unit, rows, options):
    """The scans of one simulated subject.

    Signals: "eeg" (uV, 128 Hz), "eog" (HEOG, uV, 128 Hz), "fmri" (%, one sample each 2.1 s).
    Events: the published state, "alert" or "drowsy".

    Raises:
        InputError: the file is not one that `make` wrote.
    """
    (row,) = rows
    try:
        with np.load(row["path"], allow_pickle=False) as file:
            arrays = dict(file)
        return [_recording(unit, i, arrays, options) for i in range(options.scans)]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{row['path']}: not what the simulation of {unit} wrote ({error}); "
            "delete it so that it is simulated again"
        ) from None


def told_by(path) -> dict:
    """Options that a file of a simulation tells itself: scans, and the duration of one (s).

    Raises:
        InputError: the file is not one that `make` wrote.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            samples = file[f"{_scan(0)}/eeg"].shape[1]
            return {
                "scans": sum(name.endswith("/eeg") for name in file),
                "duration": samples / SFREQ,
            }
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not what the simulation wrote ({error})") from None


def _recording(unit, index, arrays, options):
    scan = _scan(index)
    arrays = {name: arrays[f"{scan}/{name}"] for name in FILED}
    events = pd.DataFrame(
        {
            "onset": arrays["onset"],
            "duration": arrays["duration"],
            "description": np.array(STATES)[arrays["state"]],
        }
    )
    signals = {
        "eeg": Signal(arrays["eeg"], SFREQ, tuple(CHANNELS), "uV"),
        "eog": Signal(arrays["eog"], SFREQ, ("HEOG",), "uV"),
        "fmri": Signal(arrays["fmri"], 1 / TR, tuple(REGIONS), "%"),
    }
    origin = {"simulated": True, "simulation": dataclasses.asdict(options)}
    return Recording(
        unit,
        scan,
        options.duration,
        signals,
        events=events,
        facts=facts(unit, options),
        origin=origin,
    )


def _scan(index):
    return f"scan-{index + 1:02d}"


# ---- the model --------------------------------------------------------------------------


def subject(unit, options) -> Subject:
    """The parameters of a unit, drawn from the seed and its name."""
    rng, spread = _rng(unit, options), options.subject_effect
    return Subject(
        iaf=float(np.clip(rng.normal(10, 0.5 * spread), 8, 12)),
        gain=rng.normal(0, GAIN) * spread,
        alpha=rng.normal(0, 0.7) * spread,
        theta=rng.normal(0, 0.2) * spread,
        slope=1.2 + rng.normal(0, 0.035) * spread,
        alpha_drop=3 + 7 * rng.beta(8, 6),
        theta_rise=3 + 3 * rng.beta(8, 6),
    )


def facts(unit, options) -> dict:
    """`trait`, a number, and `group`, "low" or "high", of a unit.

    Raises:
        InputError: the share that the gain explains is no share.
    """
    if not 0 <= options.trait_r2 <= 1:
        raise InputError(f"trait_r2 is {options.trait_r2}; it must be a share, 0 to 1")
    gain = subject(unit, dataclasses.replace(options, subject_effect=1.0)).gain / GAIN
    own = _rng(unit, options, 0).standard_normal()
    mean, sd = TRAIT
    trait = mean + sd * (np.sqrt(options.trait_r2) * gain + np.sqrt(1 - options.trait_r2) * own)
    return {"trait": float(trait), "group": "high" if trait > mean else "low"}


def psd(unit, state, frequencies, options, scan=0) -> np.ndarray:
    """Expected power density of each EEG channel in one state, without line and blinks.

    Args:
        unit: name of the subject.
        state: "alert" or "drowsy".
        frequencies: Hz, shape (f,).
        scan: index of the scan; matters with a session confound.

    Returns:
        (channel, f), uV^2/Hz; the fluctuations, log-normal, are averaged over.
    """
    this = subject(unit, options)
    levels = np.array(rhythm_levels(this, options, STATES.index(state)))
    mean = levels + np.log(10) / 20 * np.square(FLUCTUATION)
    density = cross_spectra(this, options, scan, frequencies, [mean])[0]
    return np.diagonal(density, axis1=-2, axis2=-1).T


def rhythm_levels(this, options, state):
    """Alpha and theta in dB, fluctuations apart; `state` is 0 alert, 1 drowsy, or between."""
    drowsy = options.effect * state
    return this.alpha - this.alpha_drop * drowsy, this.theta + this.theta_rise * drowsy


def cross_spectra(this, options, scan, frequencies, levels):
    """Cross-spectral densities (level, f, channel, channel) at pairs of alpha and theta in dB."""
    weights = np.array([*CHANNELS.values()])
    gain, slope = _session(this, options, scan)
    power = 10 ** (np.asarray(levels) / 10)
    alpha = _peak(frequencies, this.iaf, ALPHA_WIDTH, ALPHA_POWER)
    theta = _peak(frequencies, THETA_PEAK, THETA_WIDTH, THETA_POWER)
    rhythms = np.einsum("l,f,c,d->lfcd", power[:, 0], alpha, weights[:, 0], weights[:, 0])
    rhythms += np.einsum("l,f,c,d->lfcd", power[:, 1], theta, weights[:, 1], weights[:, 1])
    noise = _background(frequencies, slope)[:, None, None] * np.eye(len(CHANNELS))
    return 10 ** (gain / 10) * (rhythms + noise)


def _session(this, options, scan):
    """Gain (dB) and 1/f slope of a scan."""
    side = options.session_confound * (-1) ** scan
    return this.gain - 1.5 * side, this.slope + 0.1 * side


def _peak(frequencies, centre, width, power):
    """One-sided density of a rhythm with a Gaussian peak."""
    return power * stats.norm.pdf(frequencies, centre, width)


def _background(frequencies, slope):
    """1 uV^2/Hz at 10 Hz, falling with frequency, flat below 0.5 Hz, over a floor."""
    return (10 / np.maximum(frequencies, 0.5)) ** slope + 0.02


# ---- one scan ---------------------------------------------------------------------------


def simulate(unit, scan, options) -> dict[str, np.ndarray]:
    """One scan: eeg (7, n) and eog (1, n) float32, fmri (5, m) float32, and the intervals of
    the published state: onset and duration (s), state (index into `STATES`)."""
    this = subject(unit, options)
    switches, first = _path(_rng(unit, options, scan, 0), options, scan)
    n = round(options.duration * SFREQ)
    drowsy = _smooth_state(switches, first, n)
    slow = _rng(unit, options, scan, 1)
    fluctuation = [sd * _fluctuation(slow, n) for sd in FLUCTUATION]
    levels = [a + b for a, b in zip(rhythm_levels(this, options, drowsy), fluctuation, strict=True)]
    gain, _ = _session(this, options, scan)
    eeg = _eeg(_rng(unit, options, scan, 2), this, options, scan, levels)
    eeg += _blinks(_rng(unit, options, scan, 3), options, drowsy)
    eog = _eog(_rng(unit, options, scan, 4), options, drowsy)
    fmri = _fmri(_rng(unit, options, scan, 5), options, switches, first)
    published = _published(_rng(unit, options, scan, 6), options, switches, first)
    fmri *= 10 ** (gain / 20)
    signals = {"eeg": eeg, "eog": eog, "fmri": fmri}
    return {name: x.astype(np.float32) for name, x in signals.items()} | published


def _rng(unit, options, *stream):
    """A generator of its own for every purpose, so that no knob moves another one's draws."""
    words = np.frombuffer(hashlib.sha256(unit.encode()).digest(), np.uint32)
    entropy = [options.seed, *map(int, words)]
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=stream))


def _path(rng, options, scan):
    """Times of the switches, from long before the scan to its end, and the state before them."""
    first, time, switches = int(rng.integers(2)), -6 * DWELL[1], []
    while time < options.duration:
        state = (first + len(switches)) % 2
        time += dwell(rng.uniform(), options, scan, state)
        switches.append(time)
    return np.array(switches), first


def dwell(u, options, scan, state):
    """Length of a stay from a uniform number: long ones likelier, the more so (or less) in a
    state that the session confound favours (or not)."""
    side = options.session_confound * (-1) ** scan * (-1) ** state
    return DWELL[0] + (DWELL[1] - DWELL[0]) * u ** (0.5 * 2**side)


def _state(switches, first, times):
    return (first + np.searchsorted(switches, times, side="right")) % 2


def _smooth_state(switches, first, n):
    """0 alert, 1 drowsy, at every EEG sample, faded over `FADE` seconds."""
    rate = 16
    times = (np.arange(-FADE * rate, n / SFREQ * rate + FADE * rate) + 0.5) / rate
    width = np.hanning(int(FADE * rate) + 2)
    faded = np.convolve(_state(switches, first, times), width / width.sum(), "same")
    return np.interp(np.arange(n) / SFREQ, times, faded)


def _fluctuation(rng, n):
    """Unit-variance Gaussian with autocorrelation exp(-|t| / FLUCTUATION_TIME), (n,)."""
    seconds = int(np.ceil(n / SFREQ)) + 2
    keep = np.exp(-1 / FLUCTUATION_TIME)
    steps = rng.standard_normal(seconds) * np.sqrt(1 - keep**2)
    steps[0] /= np.sqrt(1 - keep**2)
    values = np.empty(seconds)
    last = 0.0
    for i, step in enumerate(steps):
        values[i] = last = keep * last + step
    return np.interp(np.arange(n) / SFREQ, np.arange(seconds), values)


def _shaped(rng, density, shape, sfreq):
    """Gaussian noise (..., n) with the one-sided power density that `density(f)` gives."""
    n = shape[-1]
    frequencies = fft.rfftfreq(n, 1 / sfreq)
    noise = fft.rfft(rng.standard_normal(shape))
    return fft.irfft(noise * np.sqrt(density(frequencies) * sfreq / 2), n)


def _eeg(rng, this, options, scan, levels):
    n, weights = len(levels[0]), np.array([*CHANNELS.values()])
    gain, slope = _session(this, options, scan)
    signal = _shaped(rng, lambda f: _background(f, slope), (len(CHANNELS), n), SFREQ)
    peaks = [(this.iaf, ALPHA_WIDTH, ALPHA_POWER), (THETA_PEAK, THETA_WIDTH, THETA_POWER)]
    for column, (peak, level) in enumerate(zip(peaks, levels, strict=True)):
        rhythm = _shaped(rng, lambda f, peak=peak: _peak(f, *peak), (n,), SFREQ)
        signal += weights[:, column, None] * (rhythm * 10 ** (level / 20))
    line = np.sin(2 * np.pi * (LINE_FREQUENCY * np.arange(n) / SFREQ + rng.uniform()))
    return 10 ** (gain / 20) * signal + LINE_HEIGHT * line


def _blinks(rng, options, drowsy):
    """Blinks (channel, n) in uV: a quarter as many when drowsy."""
    n = len(drowsy)
    rate = BLINK_RATE / 60 / SFREQ * (1 - 0.75 * options.effect * drowsy)
    train = np.where(rng.uniform(size=n) < rate, rng.uniform(0.7, 1.3, n), 0)
    shape = np.hanning(int(0.35 * SFREQ))
    blinks = BLINK_HEIGHT * np.convolve(train, shape)[:n]
    return np.array([[weights[2]] for weights in CHANNELS.values()]) * blinks


def _eog(rng, options, drowsy):
    """Horizontal eye channel (1, n) in uV: noise, and slow eye movements when drowsy."""
    n = len(drowsy)
    phase = 2 * np.pi * np.cumsum(0.25 + 0.03 * _fluctuation(rng, n)) / SFREQ
    noise = _shaped(rng, lambda f: 20 * _background(f, 1.0) * (f < 30), (n,), SFREQ)
    return (0.5 * noise + SLOW_EYE_HEIGHT * options.effect * drowsy * np.sin(phase))[None]


def _fmri(rng, options, switches, first):
    """Region series (region, m) in percent, one sample each TR until the scan is covered."""
    m, rate = int(np.ceil(options.duration / TR)), 10
    response = stats.gamma.pdf(np.arange(0, 30, 1 / rate), 6) / rate  # peaks after 5 s
    times = np.arange(-30 * rate, m * TR * rate) / rate
    drowsy = np.convolve(_state(switches, first, times), response)[: len(times)]
    drowsy = np.interp(np.arange(m) * TR, times, drowsy)
    shape = (len(REGIONS), m)
    noise = 0.5 * _shaped(rng, lambda f: 1 / (0.04 * (1 + (f / 0.03) ** 2)), shape, 1 / TR)
    noise += 0.2 * rng.standard_normal(shape)
    wave = _shaped(rng, lambda f: _peak(f, 0.05, 0.006, 1.0), (m,), 1 / TR)
    weights = np.array([*REGIONS.values()])[:, None]
    return noise + 0.8 * options.effect * weights * drowsy * wave


def _published(rng, options, switches, first):
    """Intervals of the state as a scorer publishes it: some 30-s epochs are wrong."""
    epochs = np.arange(0, options.duration, 30.0)
    wrong = rng.uniform(size=len(epochs)) < options.label_noise
    inside = switches[(switches > 0) & (switches < options.duration)]
    edges = np.unique(np.concatenate([epochs, inside]))
    state = _state(switches, first, edges) ^ wrong[(edges // 30).astype(int)]
    new = np.concatenate([[True], state[1:] != state[:-1]])
    onset = edges[new]
    stop = np.append(onset[1:], options.duration)
    return {"onset": onset, "duration": stop - onset, "state": state[new].astype(np.int8)}
