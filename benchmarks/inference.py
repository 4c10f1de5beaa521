"""Do intervals hold the truth, and do tests reject it no more often than they say?

    python benchmarks/inference.py [--studies 500] [--case classes] [--case blocked]

Studies are simulated from one population, a linear classifier is trained with subjects left out or
on time blocks of all of them, and its predictions are scored by `engram.scores`. Truth is the mean
over all studies. Prints one JSON object a line: case, engine (`engram`, trained again on moved
labels; `fixed`, as it scores heads that are not; `reference`, plain Student's t and the null of
fixed predictions as it is), coverage of 95 % intervals, rejected: shares of studies with p <= .05
and <= .01 where two equal heads are compared (`gain`) and where nothing is there (`chance`),
control_alarms: shares in which the control there is said to be above chance, seconds.
"""

import argparse
import itertools
import json
import time

import numpy as np
import pandas as pd

from engram import splits
from engram.measures import inference, ranking
from engram.scores import classification, summary
from engram.scores.caveats import CONTROL
from engram.scores.settings import Settings

FEATURES = 6
ROWS = 40  # of a subject
LEVELS = (0.05, 0.01)
REFITS = 99  # series of labels that are trained on again
PERMUTATIONS = 199  # of labels under fixed predictions


# ---- studies ----------------------------------------------------------------------------


def labels(rng, subjects, classes, unbalanced):
    """States that last 4 to 11 windows, the first three times as long if `unbalanced`."""
    y = np.empty((subjects, ROWS), int)
    for s in range(subjects):
        series, state = [], rng.integers(classes)
        while len(series) < ROWS:
            lasts = rng.integers(4, 12) * (3 if unbalanced and state == 0 else 1)
            series += [state] * lasts
            state = (state + rng.integers(1, classes)) % classes
        y[s] = series[:ROWS]
    return y


def features(rng, y, effect, copies=1):
    """Offsets of subjects, autocorrelated noise, and an effect that differs between subjects."""
    n, d = len(y), FEATURES * copies
    directions = np.eye(FEATURES)[: y.max() + 1]
    directions = directions - directions.mean(0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    noise = rng.standard_normal((n, ROWS, d))
    for t in range(1, ROWS):
        noise[:, t] = 0.8 * noise[:, t - 1] + 0.6 * noise[:, t]
    gain = 2 * effect * (1 + 0.5 * rng.standard_normal((n, 1, 1)))
    return gain * np.tile(directions, copies)[y] + rng.standard_normal((n, 1, d)) + noise


def left_out(n, groups):
    """Folds that leave out groups of subjects: (known, test) rows of each."""
    of_row = np.repeat(np.arange(n) % groups, ROWS)
    return [(np.flatnonzero(of_row != g), np.flatnonzero(of_row == g)) for g in range(groups)]


def blocked(n, blocks=5, gap=2):
    """Folds of time blocks of every subject, without the windows next to them."""
    at = np.tile(np.arange(ROWS), n)
    folds = []
    for first in range(0, ROWS, ROWS // blocks):
        last = first + ROWS // blocks
        test = (at >= first) & (at < last)
        near = (at >= first - gap) & (at < last + gap)
        folds.append((np.flatnonzero(~near), np.flatnonzero(test)))
    return folds


def predicted(x, series, folds, classes):
    """Probabilities (rows, m, classes) of linear discriminants of m series of labels (m, rows)."""
    x = x.reshape(-1, x.shape[-1])
    found = np.empty((len(x), len(series), classes))
    for known, test in folds:
        mean, sd = x[known].mean(0), x[known].std(0)
        z = (x[known] - mean) / sd
        own = (series[:, None, known] == np.arange(classes)[:, None]).astype(float)
        count = own.sum(2)
        means = own @ z / np.maximum(count, 1)[..., None]
        between = np.einsum("mk,mki,mkj->mij", count, means, means)
        within = (z.T @ z - between) / len(z) + 0.1 * np.eye(z.shape[1])
        weights = np.linalg.solve(within, means.transpose(0, 2, 1))
        offset = 0.5 * (means.transpose(0, 2, 1) * weights).sum(1)
        scores = ((x[test] - mean) / sd) @ weights - offset[:, None]
        scores = np.where(count[:, None] > 0, scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        found[test] = (scores / scores.sum(-1, keepdims=True)).swapaxes(0, 1)
    return found


def table(n, folds):
    """Facts of the rows, with the fold that tests each."""
    fold = np.empty(n * ROWS, object)
    for i, (_, test) in enumerate(folds):
        fold[test] = f"fold-{i}"
    subject = np.repeat([f"sub-{s:02d}" for s in range(n)], ROWS)
    window = np.tile(np.arange(ROWS), n)
    return pd.DataFrame({"subject": subject, "scan": "a", "window": window, "fold": fold})


def predictions(probabilities, y, facts, moved=None, null=None):
    """As `engram.scores.classification.read` gives them; of two runs the second is the control."""
    real = np.array([True, False])[: probabilities.shape[1]]
    moved = y if moved is None else moved
    return classification.Predictions(probabilities, y, moved, facts, {}, real, null)


# ---- classes ----------------------------------------------------------------------------


def classes(studies):
    for n in (4, 6, 12, 20):
        for k, unbalanced in itertools.product((2, 4), (False, True)):
            case = f"classes {k}, subjects {n}" + ", unbalanced" * unbalanced
            yield f"{case}, left out", _classes(studies, k, n, unbalanced, left_out(n, n))
    yield "classes 2, subjects 20, 5 groups", _classes(studies, 2, 20, False, left_out(20, 5))


def blocks(studies):
    for n in (4, 6, 12, 20):
        for k, unbalanced in ((2, False), (4, True)):
            case = f"classes {k}, subjects {n}" + ", unbalanced" * unbalanced
            yield f"{case}, blocked", _classes(studies, k, n, unbalanced, blocked(n))


def _classes(studies, k, n, unbalanced, folds):
    rng, facts = np.random.default_rng(0), table(n, folds)
    found = {"engram": [], "fixed": [], "reference": []}
    for _ in range(studies):
        y = labels(rng, n, k, unbalanced)
        while any(len(np.unique(y.ravel()[known])) < k for known, _ in folds):
            y = labels(rng, n, k, unbalanced)
        x = features(rng, y, 0.6, copies=2)
        pair = [
            predictions(predicted(part, y.reshape(1, -1), folds, k), y.ravel(), facts)
            for part in (x[..., :FEATURES], x[..., FEATURES:])
        ]
        row = _line(summary.summarise(pair[0], pair, Settings(permutations=1)))
        mine = [row["value"], row["low"], row["high"], row["difference_p"]]
        refitted, widened, plain, control = _chance(rng, features(rng, y, 0.0), y, folds, k, facts)
        found["engram"].append([*mine, refitted, control])
        found["fixed"].append([*mine, widened, np.nan])
        found["reference"].append([*_plain(pair), plain, np.nan])
    return {engine: np.array(rows, float) for engine, rows in found.items()}


def _chance(rng, x, y, folds, k, facts):
    """p of features that know nothing: refitted, fixed and widened, fixed; and of the control."""
    y = y.ravel()
    moved = splits.control(y, facts, rng)
    arranged = inference.arrangements(y, facts, REFITS, rng).astype(int)
    said = predicted(x, np.stack([y, moved, *arranged]), folds, k)
    null = classification.Null(said[:, 2:], arranged)
    this = predictions(said[:, :2], y, facts, moved, null)
    row = _line(summary.summarise(this, None, Settings(permutations=PERMUTATIONS)))
    arranged = inference.arrangements(y, facts, PERMUTATIONS, rng)
    _, codes = summary._groups(this, False)
    fixed = classification.null_scores(arranged, said[:, :1], codes)["balanced_accuracy"].mean(1)
    p = [inference.permutation_p(row["value"], fixed, by) for by in (inference.WIDENED, 1.0)]
    return row["p"], *p, row["control_p"]


def _line(found):
    return found["metrics"][0]


def _plain(pair):
    """What Student's t of independent subjects would say."""
    one, other = (summary._by_subject(these, False)["balanced_accuracy"] for these in pair)
    one, other = (values[~np.isnan(values)] for values in (one, other))
    low, high = inference.t_interval(one)
    return [one.mean(), low, high, inference.t_test(one - other, False)]


# ---- retrieval --------------------------------------------------------------------------


def retrieval(studies):
    for n in (2, 3, 6, 10):
        yield f"retrieval, subjects {n}", _retrieval(studies, n)


def _retrieval(studies, n, pictures=50):
    """Subjects who share responses to pictures; a gain of nothing, and similarity of nothing."""
    rng = np.random.default_rng(0)
    rows, plain = [], []
    for _ in range(studies):
        easy, able = rng.normal(size=pictures), 0.5 * rng.normal(size=(n, 1))
        hits = [rng.random((n, pictures)) < 1 / (1 + np.exp(-easy - able)) for _ in range(2)]
        low, high, _ = inference.crossed(hits[0], (0, 1))
        gain = inference.crossed(hits[0] * 1.0 - hits[1], (-1, 1))[2]
        common = rng.normal(size=(pictures, pictures))
        found = np.concatenate([common + rng.normal(size=common.shape) for _ in range(n)])
        truth = np.tile(np.arange(pictures), n)
        p = ranking.permutation(found, truth, resamples=200)[2]
        rows.append([hits[0].mean(), low, high, gain, p, np.nan])
        low, high = inference.t_interval(hits[0].mean(1))
        gain = inference.t_test(hits[0].mean(1) - hits[1].mean(1), False)
        plain.append([hits[0].mean(), low, high, gain, _by_row(rng, found, truth), np.nan])
    return {"engram": np.array(rows, float), "reference": np.array(plain, float)}


def _by_row(rng, similarity, truth, resamples=200):
    """p of pictures exchanged row by row, as if subjects had nothing in common."""
    best = similarity.argmax(1)
    null = [(best == rng.permutation(truth)).mean() for _ in range(resamples)]
    return (1 + (np.array(null) >= (best == truth).mean() - 1e-12).sum()) / (1 + resamples)


# ---- output -----------------------------------------------------------------------------


def said(case, engine, rows, seconds):
    value, low, high, gain, chance, control = rows.T
    truth = value.mean()
    return {
        "case": case,
        "engine": engine,
        "studies": len(rows),
        "value": round(float(truth), 3),
        "coverage": round(float(((low <= truth) & (truth <= high)).mean()), 3),
        "gain_rejected": [round(float((gain <= level).mean()), 3) for level in LEVELS],
        "chance_rejected": [round(float((chance <= level).mean()), 3) for level in LEVELS],
        "control_alarms": None
        if np.isnan(control).all()
        else round(float((control <= CONTROL).mean()), 3),
        "seconds": round(seconds, 1),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = {"classes": classes, "blocked": blocks, "retrieval": retrieval}
    parser.add_argument("--case", choices=cases, action="append")
    parser.add_argument("--studies", type=int, default=500)
    given = parser.parse_args()
    for name in given.case or cases:
        start = time.perf_counter()
        for case, engines in cases[name](given.studies):
            seconds = time.perf_counter() - start
            for engine, found in engines.items():
                print(json.dumps(said(case, engine, found, seconds)), flush=True)
            start = time.perf_counter()


if __name__ == "__main__":
    main()
