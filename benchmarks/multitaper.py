"""Speed and memory of multitaper spectrograms, beside other ways to compute them.

Case A: 8 h of one channel at 200 Hz. Case B: 700 s of 32 channels at 250 Hz. Windows of 4 s
every 1 s, 5 tapers of time-half-bandwidth 3, 0.5 to 35 Hz, linear detrending; the signal is
simulated noise with a tone. Every engine runs alone, on one thread, in a process of its own.

Prints one JSON object a line:
  seconds, cpu_seconds   best of up to three runs, by CPU seconds (user + system)
  rate                   windows of one channel per CPU second
  peak_mib               most memory of the process: Python, libraries, signal and result too
  max_rel_diff           largest relative difference to engram_float64, null where the engine
                         computes another definition (see `note`)
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

WINDOW, STEP, TIME_BANDWIDTH, TAPERS = 4, 1, 3.0, 5
FMIN, FMAX = 0.5, 35.0
CASES = {
    "A": {"channels": 1, "seconds": 8 * 3600, "sfreq": 200},
    "B": {"channels": 32, "seconds": 700, "sfreq": 250},
}
QUICK = {
    "A": {"channels": 1, "seconds": 600, "sfreq": 200},
    "B": {"channels": 4, "seconds": 60, "sfreq": 250},
}
NOTES = {
    "engram_float64": "",
    "engram_float32": "float32 signal and result",
    "scipy_spectrogram": "scipy.signal.spectrogram once a taper",
    "scipy_shorttimefft": "scipy.signal.ShortTimeFFT once a taper: no detrending, padded edges",
    "mne_epochs": "psd_array_multitaper, all windows as epochs: mean removed, no padding",
    "reference": "loop over windows in plain NumPy, one complex transform a taper",
    "fft_limit_float64": "hardware limit: the same real transforms alone, on data in cache",
    "fft_limit_float32": "hardware limit in float32",
}


def simulate(channels, seconds, sfreq):
    """uV, float64 (channel, time)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((channels, seconds, sfreq))
    x *= 10
    x += 20 * np.sin(2 * np.pi * 10 / sfreq * np.arange(sfreq))
    return x.reshape(channels, -1)


def geometry(sfreq):
    size = WINDOW * sfreq
    return size, STEP * sfreq, 1 << (size - 1).bit_length()


def tapers(size):
    from scipy.signal.windows import dpss

    return dpss(size, TIME_BANDWIDTH, TAPERS)


# ---- engines: (channel, time) -> (channel, times, freqs), or None -----------------------------


def engram(x, sfreq):
    from engram.signals.multitaper import spectrogram

    return spectrogram(
        x, sfreq, window=WINDOW, step=STEP, time_bandwidth=TIME_BANDWIDTH, n_tapers=TAPERS,
        fmin=FMIN, fmax=FMAX,
    )[0]  # fmt: skip


def scipy_spectrogram(x, sfreq):
    from scipy.signal import spectrogram

    size, hop, nfft = geometry(sfreq)
    total = 0
    for taper in tapers(size):
        freqs, _, power = spectrogram(
            x, sfreq, window=taper, noverlap=size - hop, nfft=nfft, detrend="linear"
        )
        total = total + power[:, (freqs >= FMIN) & (freqs <= FMAX)]
    return (total / TAPERS).swapaxes(1, 2)


def scipy_shorttimefft(x, sfreq):
    from scipy.signal import ShortTimeFFT

    size, hop, nfft = geometry(sfreq)
    total = 0
    for taper in tapers(size):
        transform = ShortTimeFFT(
            taper, hop, sfreq, fft_mode="onesided2X", mfft=nfft, scale_to="psd"
        )
        shown = (transform.f >= FMIN) & (transform.f <= FMAX)
        total = total + transform.spectrogram(x)[:, shown]
    return (total / TAPERS).swapaxes(1, 2)


def mne_epochs(x, sfreq):
    from mne.time_frequency import psd_array_multitaper

    size, hop, _ = geometry(sfreq)
    epochs = np.lib.stride_tricks.sliding_window_view(x, size, axis=1)[:, ::hop]
    power, _ = psd_array_multitaper(
        epochs, sfreq, fmin=FMIN, fmax=FMAX, bandwidth=2 * TIME_BANDWIDTH / WINDOW,
        normalization="full", verbose="error",
    )  # fmt: skip
    return power


def reference(x, sfreq):
    from scipy.signal import detrend

    size, hop, nfft = geometry(sfreq)
    columns = tapers(size).T
    freqs = np.arange(nfft) * sfreq / nfft
    shown = (freqs >= FMIN) & (freqs <= FMAX)
    power = np.empty((len(x), (x.shape[1] - size) // hop + 1, shown.sum()))
    for channel, series in enumerate(x):
        for i in range(power.shape[1]):
            window = detrend(series[i * hop : i * hop + size])
            spectrum = np.fft.fft(columns * window[:, None], nfft, axis=0)
            mean = (spectrum.real**2 + spectrum.imag**2).mean(1)
            power[channel, i] = 2 * mean[shown] / sfreq
    return power


def fft_limit(x, sfreq):
    from scipy import fft

    size, hop, nfft = geometry(sfreq)
    batch = 16
    data = np.zeros((batch, TAPERS, nfft), x.dtype)
    data[..., :size] = x[0, :size]
    windows = len(x) * ((x.shape[1] - size) // hop + 1)
    for _ in range(-(-windows // batch)):
        fft.rfft(data)


ENGINES = {
    "engram_float64": engram,
    "engram_float32": engram,
    "scipy_spectrogram": scipy_spectrogram,
    "scipy_shorttimefft": scipy_shorttimefft,
    "mne_epochs": mne_epochs,
    "reference": reference,
    "fft_limit_float64": fft_limit,
    "fft_limit_float32": fft_limit,
}
SAME_DEFINITION = ("engram_float64", "engram_float32", "scipy_spectrogram", "reference")


def measure(case, name, setting):
    """One engine on one case, in this process."""
    engine, sfreq = ENGINES[name], setting["sfreq"]
    engine(simulate(1, 2 * WINDOW, sfreq).astype(name[-7:] if "float" in name else float), sfreq)
    x = simulate(**setting)
    if name.endswith("float32"):
        x = x.astype(np.float32)
    times, result = [], None
    while len(times) < 3 and sum(cpu for cpu, _ in times) < 5:
        del result
        cpu, wall = time.process_time(), time.perf_counter()
        result = engine(x, sfreq)
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    difference = None
    if name in SAME_DEFINITION:
        expected = engram(
            x.astype(np.float64) if name != "engram_float32" else simulate(**setting), sfreq
        )
        difference = float(np.abs(result / expected - 1).max())
    size, hop, _ = geometry(sfreq)
    windows = setting["channels"] * ((setting["seconds"] * sfreq - size) // hop + 1)
    cpu, wall = min(times)
    return {
        "case": case,
        "engine": name,
        "seconds": round(wall, 4),
        "cpu_seconds": round(cpu, 4),
        "rate": round(windows / cpu),
        "peak_mib": round(peak),
        "max_rel_diff": difference,
        "note": NOTES[name],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short signals: seconds, not minutes")
    parser.add_argument("--case", choices=CASES, help="this case only")
    parser.add_argument("--engine", choices=ENGINES, help="this engine only, in this process")
    arguments = parser.parse_args()
    cases = QUICK if arguments.quick else CASES
    for case in [arguments.case] if arguments.case else cases:
        if arguments.engine:
            print(json.dumps(measure(case, arguments.engine, cases[case])), flush=True)
            continue
        for name in ENGINES:
            command = [sys.executable, __file__, "--case", case, "--engine", name]
            threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
            subprocess.run(
                command + ["--quick"] * arguments.quick, env={**os.environ, **threads}, check=True
            )


if __name__ == "__main__":
    main()
