"""The best rule for the simulated recordings, which tests measure classifiers against."""

import numpy as np

from engram.datasets import simulated_vigilance as simulated

SEGMENT = 2.5  # s; short beside the fluctuations, long beside the width of the peaks
BAND = (3.0, 20.0)  # Hz, where the state shows


def bayes(recording, onsets, length, options, scan=0, theta=0.5) -> np.ndarray:
    """Probability that each window is published as alert, given the EEG of that window.

    Everything about the subject is known (`simulated_vigilance.subject`); unknown are the state
    path within the window (constant, or one switch: no stay is shorter than 30 s) and the
    fluctuation of both rhythms.  Both are averaged over: a forward-backward recursion over
    segments of 2.5 s whose hidden variable is the pair of fluctuations on a grid, with the
    Whittle likelihood of the blink-free channels (Whittle 1953; Dahlhaus 2000 for several
    channels).  The window is alert if the state is for at least a share `theta` of it.

    Exact up to the grid, the Whittle approximation, the two seconds that a change of state
    takes, and a step of 2.5 s in the time of the switch.

    Args:
        recording: of `simulated_vigilance.read`.
        onsets: start of each window, s, shape (n,).
        length: of the windows, s; at most 30.
        options: that the recording was made with.
        scan: its index.

    Returns:
        (n,) float64.

    Raises:
        ValueError: the windows are longer than 30 s.
    """
    if length > simulated.DWELL[0]:
        raise ValueError(f"windows of {length} s may hold more than one switch")
    grid, start, kernel = _fluctuations()
    k = round(length / SEGMENT)
    likelihood = _likelihood(recording, onsets, k, options, scan, grid)
    forward = [_forward(likelihood[s], start, kernel) for s in (0, 1)]
    backward = [_backward(likelihood[s], kernel) for s in (0, 1)]
    stay = [_mean_dwell(options, scan, s) for s in (0, 1)]
    rate = 1 / sum(stay)  # of switches in one direction, 1/s
    alert = total = 0.0
    for s in (0, 1):
        pure = forward[s][:, k].sum((1, 2)) * (stay[s] * rate - (k - 1) * SEGMENT * rate)
        total, alert = total + pure, alert + pure * (s == 0)
        for i in range(1, k):
            path = (forward[s][:, i] * backward[1 - s][:, i]).sum((1, 2)) * SEGMENT * rate
            share = (i + 0.5) / k - theta if s == 0 else (1 - theta) - (i - 0.5) / k
            total, alert = total + path, alert + path * np.clip(share * k, 0, 1)
    posterior = alert / total
    return posterior + options.label_noise * (1 - 2 * posterior)


def _fluctuations(points=25, width=3.0):
    """Grid of unit fluctuations (g,), their stationary weights, and the step between segments."""
    grid = np.linspace(-width, width, points)
    start = np.exp(-(grid**2) / 2)
    keep = np.exp(-SEGMENT / simulated.FLUCTUATION_TIME)
    kernel = np.exp(-((grid[:, None] * keep - grid) ** 2) / (2 * (1 - keep**2)))
    return grid, start / start.sum(), kernel / kernel.sum(1, keepdims=True)


def _mean_dwell(options, scan, state):
    u = (np.arange(10_000) + 0.5) / 10_000
    return simulated.dwell(u, options, scan, state).mean()


def _likelihood(recording, onsets, k, options, scan, grid):
    """Whittle likelihood (state, window, segment, g, g), scaled alike for both states."""
    this = simulated.subject(recording.subject, options)
    used = [list(simulated.CHANNELS).index(name) for name in simulated.BLINK_FREE]
    periodograms, frequencies = _periodograms(recording.signals["eeg"], onsets, k, used)
    scores = []
    for state in (0, 1):
        alpha, theta = simulated.rhythm_levels(this, options, state)
        levels = [
            (alpha + simulated.FLUCTUATION[0] * a, theta + simulated.FLUCTUATION[1] * b)
            for a in grid
            for b in grid
        ]
        density = simulated.cross_spectra(this, options, scan, frequencies, levels)
        density = density[..., used, :][..., used]
        inverse = np.linalg.inv(density).reshape(len(levels), -1)
        constant = np.linalg.slogdet(density)[1].sum(-1)
        scores.append(-constant - periodograms.reshape(len(onsets), k, -1) @ inverse.T)
    scores = np.array(scores).reshape(2, len(onsets), k, len(grid), len(grid))
    return np.exp(scores - scores.max(axis=(0, 3, 4), keepdims=True))


def _periodograms(signal, onsets, k, used):
    """Real parts of the cross-periodograms (window, segment, f, channel, channel), and f."""
    n = round(SEGMENT * signal.sfreq)
    starts = np.round(np.asarray(onsets) * signal.sfreq).astype(int)
    windows = np.stack([signal.data[used, i : i + k * n] for i in starts]).astype(float)
    segments = windows.reshape(len(starts), len(used), k, n)
    frequencies = np.fft.rfftfreq(n, 1 / signal.sfreq)
    keep = (frequencies >= BAND[0]) & (frequencies <= BAND[1])
    x = np.fft.rfft(segments)[..., keep]
    power = np.einsum("wckf,wdkf->wkfcd", x, x.conj()).real
    return power * 2 / (n * signal.sfreq), frequencies[keep]


def _forward(likelihood, start, kernel):
    """p(segments before i, fluctuation at i), shape (window, k + 1, g, g)."""
    windows, k, *shape = likelihood.shape
    out = np.empty((windows, k + 1, *shape))
    out[:, 0] = np.outer(start, start)
    for i in range(k):
        seen = out[:, i] * likelihood[:, i]
        out[:, i + 1] = kernel.T @ seen @ kernel
    return out


def _backward(likelihood, kernel):
    """p(segments from i on | fluctuation at i), shape (window, k + 1, g, g)."""
    windows, k, *shape = likelihood.shape
    out = np.ones((windows, k + 1, *shape))
    for i in range(k - 1, -1, -1):
        out[:, i] = likelihood[:, i] * (kernel @ out[:, i + 1] @ kernel.T)
    return out
