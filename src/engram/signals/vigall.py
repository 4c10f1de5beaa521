"""VIGALL-like vigilance stages of every second of EEG.

Follows the algorithm of VIGALL 2.1 (Hegerl, Sander, Ulke, Böttger, Hensch, Huang, Mauche and
Olbrich, University of Leipzig, 2016), with these differences, which is why nothing here is
called VIGALL alone:

- Lobes are groups of electrodes (`LOBES`) under average reference, not sources: a value is
  the mean power of a band-passed signal in uV^2.  Ratios between values are as published; the
  absolute threshold, whose unit is another, is `c` times the occipital alpha power of the
  best 10 s.  Results depend on c: compare 0.1, 0.2 and 0.4.
- Bad seconds come from amplitude, flatness and jump rules and from given intervals.
- Sleep onset (C) comes from given marks only; without marks it never occurs.
- Band-pass filters of 48 dB/octave are Butterworth filters of order 4 run forwards and
  backwards: zero phase, order 8 in all, -6 dB at the edges.

The reduced form needs one or two channels.  It knows A (alpha), B (delta-theta) and 0 only.

Stages and arousal scores (`SCORES`) assume that the eyes are closed: 0 active wakefulness;
A1, A2, A3 relaxed, alpha moving to the front; B1 drowsy with slow eye movements; B2/3 theta
and delta; C sleep onset; X unclassified.
"""

import numpy as np
import pandas as pd
from scipy import fft, signal

from engram.errors import InputError

LOBES = {
    "occipital": ("O1", "O2", "Oz"),
    "parietal": ("P3", "P4", "Pz", "P7", "P8"),
    "temporal": ("T7", "T8", "TP9", "TP10"),
    "frontal": ("Fp1", "Fp2", "F3", "F4", "Fz", "F7", "F8"),
}
IAF_CHANNELS = ("O1", "O2")

#: Arousal score of a stage.  A and B of the reduced form stand for A1-A3 and for B2/3.
SCORES = {
    "0": 7.0, "A1": 6.0, "A2": 5.0, "A3": 4.0, "B1": 3.0, "B2/3": 2.0, "C": 1.0, "X": np.nan,
    "A": 5.0, "B": 2.0,
}  # fmt: skip
ALERT = ("0", "A1", "A2", "A3", "A")
DROWSY = ("B1", "B2/3", "C", "B")

DELTA_THETA = (3.0, 7.0)  # Hz
SLOW_EYE_BAND = (0.001, 0.5)  # Hz
SLOW_EYE_RANGE, SLOW_EYE_TIME = 200.0, 6.0  # uV, s
SEARCHED = 900  # s from the start in which the individual alpha frequency is looked for
IAF_WINDOW = 10  # s
LOWEST_SFREQ = 40.0  # Hz; alpha may reach 15.9 Hz
SLEEP_ONSET_SECONDS = 29  # that may follow a mark


def stage(
    eeg, eog=None, *, c=0.2, reduced=False, marks=(), bad=(), amplitude=300.0, flat=0.5, jump=100.0
) -> pd.DataFrame:
    """Stages of every full second of a recording.

    Args:
        eeg: Signal in uV, EEG channels only; every lobe of `LOBES` needs a channel, the
            occipital O1 or O2.
        eog: Signal in uV, horizontal EOG: one channel, or two whose difference is taken.
            Without it B1 cannot be told from 0, and such seconds are B1, as published.
        c: absolute alpha threshold over the occipital alpha power of the best 10 s.
        reduced: use the reduced form on all (one or two) channels of `eeg`; no EOG needed.
        marks: times (s) of sleep onset, K-complexes or spindles.
        bad: intervals (start, stop) in s that are not to be classified.
        amplitude, flat, jump: limits of `artefacts`, uV.

    Returns:
        Table with one row a second: onset (s); stage; score (`SCORES`); slow_eye (bool);
        alpha_<lobe> and delta_theta_<lobe> (uV^2), <lobe> being "channels" in the reduced form.
        Its `attrs` hold iaf (Hz), alpha_threshold and delta_theta_threshold (uV^2).
        If no 10 s of the recording show an alpha rhythm there is no threshold: these are NaN,
        and seconds without a mark are X.

    Raises:
        InputError: wrong unit, sampling rate too low, channels or data missing.
    """
    _check(eeg, eog, c)
    lobes, searched = _channels(eeg.channels, reduced)
    onsets = eeg.start + np.arange(int(eeg.data.shape[1] / eeg.sfreq + 1e-9))
    marked = touched(onsets, [(time, time) for time in marks])
    unusable = artefacts(eeg.data, eeg.sfreq, amplitude, flat, jump) | touched(onsets, bad)
    data = _filled(eeg.data)
    if not reduced:
        data -= data.mean(axis=0)
    alpha, delta_theta, attrs = _powers(data, eeg.sfreq, lobes, searched, ~(unusable | marked), c)
    threshold = attrs["alpha_threshold"]
    slow_eye = np.zeros(len(onsets), bool)
    if reduced:
        stages = decide_reduced(alpha[0], delta_theta[0], threshold)
    elif eog is None:
        stages = decide(alpha, delta_theta, threshold)
    else:
        slow_eye = touched(onsets, slow_eye_movements(eog))
        stages = decide(alpha, delta_theta, threshold, slow_eye)
        unusable |= (onsets < eog.start - 1e-9) | (onsets + 1 > eog.stop + 1e-9)
    stages[unusable | np.isnan(threshold)] = "X"
    stages = sleep_onset(stages, marked)
    scores = [SCORES[name] for name in stages]
    columns = {"onset": onsets, "stage": stages, "score": scores, "slow_eye": slow_eye}
    for name, values in (("alpha", alpha), ("delta_theta", delta_theta)):
        columns |= {f"{name}_{lobe}": row for lobe, row in zip(lobes, values, strict=True)}
    table = pd.DataFrame(columns)
    table.attrs = attrs
    return table


def _check(eeg, eog, c):
    for what, one in (("EEG", eeg), ("EOG", eog)):
        if one is not None and one.unit != "uV":
            raise InputError(f"{what} in {one.unit!r}; VIGALL-like staging needs uV")
    if eeg.sfreq < LOWEST_SFREQ:
        raise InputError(f"EEG at {eeg.sfreq:g} Hz; staging needs at least {LOWEST_SFREQ:g} Hz")
    if eeg.data.shape[1] < eeg.sfreq:
        raise InputError("less than one second of EEG")
    if eog is not None and len(eog.channels) not in (1, 2):
        raise InputError(f"{len(eog.channels)} EOG channels; give one, or two to take apart")
    if not c > 0:
        raise InputError(f"c is {c}; it must be above 0")


def _channels(channels, reduced):
    """Rows by lobe, and the rows that the alpha frequency is taken from."""
    if reduced:
        if len(channels) not in (1, 2):
            raise InputError(f"{len(channels)} channels; the reduced form takes one or two")
        return {"channels": [*range(len(channels))]}, [*range(len(channels))]
    lobes = {
        lobe: [channels.index(name) for name in names if name in channels]
        for lobe, names in LOBES.items()
    }
    searched = [channels.index(name) for name in IAF_CHANNELS if name in channels]
    needed = {**lobes, "occipital": searched}
    lacking = [lobe for lobe, rows in needed.items() if not rows]
    if lacking:
        names = {**LOBES, "occipital": IAF_CHANNELS}
        raise InputError(
            "no channel for "
            + ", ".join(f"{lobe} (one of {' '.join(names[lobe])})" for lobe in lacking)
            + f"; the EEG has {', '.join(channels)}"
        )
    return lobes, searched


def _powers(data, sfreq, lobes, searched, usable, c):
    """Alpha and delta-theta, (lobe, second) each, with the frequency and the thresholds."""
    delta_theta = _lobe_powers(data, sfreq, DELTA_THETA, lobes)
    found = individual_alpha(data[searched], sfreq, usable)
    if found is None:
        iaf, threshold, alpha = np.nan, np.nan, np.full_like(delta_theta, np.nan)
    else:
        iaf, first = found
        alpha = _lobe_powers(data, sfreq, (iaf - 2, iaf + 2), lobes)
        threshold = float(c * alpha[0, first : first + IAF_WINDOW].mean())
    thresholds = {"alpha_threshold": threshold, "delta_theta_threshold": 2 * threshold}
    return alpha, delta_theta, {"iaf": iaf, **thresholds}


# ---- individual alpha frequency and thresholds ------------------------------------------


def individual_alpha(data, sfreq, usable) -> tuple[float, int] | None:
    """Individual alpha frequency, and where alpha was strongest.

    Plain spectra of 10-s windows (0.1-Hz bins) are taken every second of the first 900 s.
    A window shows alpha if its power at the power-weighted centre of 8.0-13.9 Hz exceeds its
    mean power in 3.0-6.4 Hz.  Among these the one with the largest sum of f P(f) counts; the
    frequency is the centre of the 2-Hz band, lower edge 8.0-11.9 Hz, that holds most power,
    truncated to 0.1 Hz.

    Args:
        data: (channel, time); spectra are averaged over channels.
        sfreq: Hz.
        usable: bool (second,); windows that touch an unusable second are passed over.

    Returns: (Hz, first second of the window), or None if no window shows alpha.
    """
    last = min(len(usable), SEARCHED) - IAF_WINDOW
    seconds = np.array([s for s in range(last + 1) if usable[s : s + IAF_WINDOW].all()], dtype=int)
    if not len(seconds):
        return None
    n = round(IAF_WINDOW * sfreq)
    begins = np.minimum(np.rint(seconds * sfreq).astype(int), data.shape[1] - n)
    power = np.array(
        [(np.abs(fft.rfft(data[:, b : b + n])[:, :140]) ** 2).mean(axis=0) for b in begins]
    )
    frequencies = np.arange(140) / 10
    alpha, at = power[:, 80:140], frequencies[80:140]
    total = np.maximum(alpha.sum(axis=1), np.finfo(float).tiny)
    centre = np.clip(np.rint(10 * (alpha @ at) / total).astype(int), 80, 139)
    shown = power[:, 30:65].mean(axis=1) < power[np.arange(len(power)), centre]
    if not shown.any():
        return None
    best = int(np.argmax(np.where(shown, alpha @ at, -1)))
    edge = max(range(80, 120), key=lambda low: power[best, low : low + 21].sum())
    band = power[best, edge : edge + 21]
    tenths = np.arange(edge, edge + 21) @ band / band.sum()
    return float(np.floor(tenths + 1e-6) / 10), int(seconds[best])


def current_density_threshold(alpha) -> int:
    """Absolute alpha threshold of VIGALL 2.1, in its unit (LORETA current density x 1e11).

    50000 (M / 40000)^q with q = ln 3 / ln 112.5, truncated; that for delta-theta is twice it.
    Other units need another rule: on sensors `stage` uses c M.

    Args:
        alpha: M, mean occipital alpha in the window that `individual_alpha` chooses.
    """
    return int(50_000 * (alpha / 40_000) ** (np.log(3) / np.log(112.5)))


# ---- decisions --------------------------------------------------------------------------


def decide(alpha, delta_theta, threshold, slow_eye=None) -> np.ndarray:
    """Stage of each second, before X and C.

    Args:
        alpha, delta_theta: (4, second), lobes in the order of `LOBES`, in one unit.
        threshold: absolute alpha threshold; that of delta-theta is twice as high.
        slow_eye: bool (second,), or None if slow eye movements were not looked for.

    Returns: (second,) of "0", "A1", "A2", "A3", "B1", "B2/3"; dtype object.
    """
    occipital, parietal, temporal, frontal = alpha
    is_a = (alpha >= threshold).any(axis=0) & (alpha >= 2 * delta_theta).any(axis=0)
    quiet = "B1" if slow_eye is None else np.where(slow_eye, "B1", "0")
    return np.select(
        [
            is_a & (occipital > alpha[1:].max(axis=0)),
            is_a & (np.maximum(temporal, parietal) > 4 * frontal),
            is_a,
            (delta_theta > 2 * threshold).any(axis=0),
        ],
        ["A1", "A2", "A3", "B2/3"],
        quiet,
    ).astype(object)


def decide_reduced(alpha, delta_theta, threshold) -> np.ndarray:
    """The same for one or two channels: (second,) of "A", "B" or "0"; inputs (second,)."""
    is_a = (alpha >= threshold) & (alpha >= 2 * delta_theta)
    return np.select([is_a, delta_theta > 2 * threshold], ["A", "B"], "0").astype(object)


def sleep_onset(stages, marked) -> np.ndarray:
    """Stages with C set: marked seconds, and the 29 after each as long as no A occurs.

    X is passed over: it stays, and the run goes on behind it.

    Args:
        stages: (second,), as `decide` gives them, with X.
        marked: bool (second,).
    """
    stages = np.array(stages, dtype=object)
    left = 0
    for second, mark in enumerate(marked):
        if mark:
            stages[second], left = "C", SLEEP_ONSET_SECONDS
        elif stages[second].startswith("A"):
            left = 0
        elif left:
            left -= 1
            stages[second] = "X" if stages[second] == "X" else "C"
    return stages


# ---- signals ----------------------------------------------------------------------------


def slow_eye_movements(eog) -> list[tuple[float, float]]:
    """Intervals (start, stop) in s that slow eye movements cover.

    The horizontal EOG is band-passed at 0.001-0.5 Hz.  Wherever its range over the last 6 s
    reaches 200 uV, a movement lasts from 6 s before to 6 s after.  (The published 50-Hz notch
    changes nothing behind this filter and is left out.)

    Args:
        eog: Signal in uV; one channel, or two whose difference is taken.
    """
    data = _filled(eog.data)
    x = data[0] - data[1] if len(data) == 2 else data[0]
    x = pd.Series(_band_passed(x - x.mean(), eog.sfreq, SLOW_EYE_BAND))
    last = x.rolling(round(SLOW_EYE_TIME * eog.sfreq) + 1, min_periods=1)
    times = eog.start + np.flatnonzero(last.max() - last.min() >= SLOW_EYE_RANGE) / eog.sfreq
    if not len(times):
        return []
    gaps = np.flatnonzero(np.diff(times) > 2 * SLOW_EYE_TIME)
    begins, ends = times[np.append(0, gaps + 1)], times[np.append(gaps, len(times) - 1)]
    return list(zip(begins - SLOW_EYE_TIME, ends + SLOW_EYE_TIME, strict=True))


def artefacts(data, sfreq, amplitude=300.0, flat=0.5, jump=100.0) -> np.ndarray:
    """Seconds in which a channel cannot be EEG, bool (second,).

    Args:
        data: (channel, time) in uV, before any filter; samples that are not finite are bad.
        sfreq: Hz.
        amplitude: largest range within a second, uV.
        flat: smallest range within a second, uV.
        jump: largest step between neighbouring samples, uV; both seconds of a step are bad.
    """
    edges = _edges(data.shape[1], sfreq)
    finite = np.isfinite(data).all(axis=0)
    bad = ~np.logical_and.reduceat(finite[: edges[-1]], edges[:-1])
    for x in _filled(data):
        inside = x[: edges[-1]]
        high = np.maximum.reduceat(inside, edges[:-1])
        span = high - np.minimum.reduceat(inside, edges[:-1])
        bad |= (span > amplitude) | (span < flat)
        steps = np.flatnonzero(np.abs(np.diff(inside)) > jump)
        bad[np.searchsorted(edges, [*steps, *(steps + 1)], side="right") - 1] = True
    return bad


def touched(onsets, intervals) -> np.ndarray:
    """Seconds [onset, onset + 1) that share time with an interval (start, stop); (second,)."""
    found = np.zeros(len(onsets), bool)
    for start, stop in intervals:
        found |= (start < onsets + 1) & ((stop > onsets) | (start >= onsets))
    return found


def _lobe_powers(data, sfreq, band, lobes):
    """Mean power of each lobe and second in a band, (lobe, second)."""
    edges = _edges(data.shape[1], sfreq)
    power = {}
    for row in {row for rows in lobes.values() for row in rows}:
        squared = _band_passed(data[row], sfreq, band)[: edges[-1]] ** 2
        power[row] = np.add.reduceat(squared, edges[:-1]) / np.diff(edges)
    return np.array([np.mean([power[row] for row in rows], axis=0) for rows in lobes.values()])


def _band_passed(x, sfreq, band):
    sos = signal.butter(4, band, "bandpass", fs=sfreq, output="sos")
    return signal.sosfiltfilt(sos, x, padlen=min(round(10 * sfreq), len(x) - 1))


def _edges(n, sfreq):
    """First sample of every full second and the end of the last, int (seconds + 1,)."""
    return np.rint(np.arange(int(n / sfreq + 1e-9) + 1) * sfreq).astype(int)


def _filled(data):
    """float64 copy with samples that are not finite interpolated, so that filters survive."""
    data = np.array(data, dtype=np.float64)
    for x in data:
        known = np.isfinite(x)
        if not known.all():
            at = np.flatnonzero(known)
            x[~known] = np.interp(np.flatnonzero(~known), at, x[known]) if len(at) else 0
    return data


# ---- windows ----------------------------------------------------------------------------


def window_labels(stages, onsets, length, theta=0.5, min_valid=0.5, ambiguous=None):
    """Alert or drowsy, window by window.

    A second belongs to a window if its middle does.  Its fraction is alert / (alert + drowsy)
    seconds, with {0, A1, A2, A3} alert and {B1, B2/3, C} drowsy; X is not valid.

    Args:
        stages: table with columns onset (s), stage and score, as `stage` gives it.
        onsets: of the windows, s, shape (n,).
        length: of the windows, s.
        theta: a window is alert (1) if its fraction is at least theta, else drowsy (0).
        min_valid: share of the window that must be valid seconds.
        ambiguous: None, or (low, high): fractions strictly between are excluded.

    Returns:
        labels: int8 (n,), -1 where excluded.
        fraction: float (n,), NaN without a valid second.
        score: mean arousal score of the valid seconds, float (n,), NaN without one.
        exclude: list of n reasons, "" where the window is usable.
    """
    middles = stages["onset"].to_numpy() + 0.5
    is_alert = stages["stage"].isin(ALERT).to_numpy()
    valid = is_alert | stages["stage"].isin(DROWSY).to_numpy()
    scores = stages["score"].to_numpy()
    fraction, score = np.full((2, len(onsets)), np.nan)
    labels, exclude = np.full(len(onsets), -1, np.int8), []
    for i, onset in enumerate(onsets):
        inside = valid & (middles >= onset - 1e-9) & (middles < onset + length - 1e-9)
        if inside.any():
            fraction[i], score[i] = is_alert[inside].mean(), scores[inside].mean()
        if not inside.any() or inside.sum() < min_valid * length - 1e-9:
            exclude.append("too few valid seconds")
        elif ambiguous is not None and ambiguous[0] < fraction[i] < ambiguous[1]:
            exclude.append("ambiguous")
        else:
            exclude.append("")
            labels[i] = fraction[i] >= theta
    return labels, fraction, score, exclude
