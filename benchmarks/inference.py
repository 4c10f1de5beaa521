"""Do intervals hold the truth, and do tests reject it no more often than they say?

    python benchmarks/inference.py [--studies 500] [--case classes] [--case retrieval]

Studies are simulated from one population, a linear classifier is trained with subjects left out,
and its predictions are scored by `engram.scores`. Truth is the mean over all studies. Prints one
JSON object a line: case, engine (`engram`; `reference`, plain Student's t and the null as it is),
coverage of 95 % intervals, rejected: shares of studies with p <= .05 and <= .01 where two equal
heads are compared (`gain`) and where nothing is there (`chance`), seconds.
"""

import argparse
import json
import time

import numpy as np
import pandas as pd

from engram.measures import inference, ranking
from engram.scores import classification, summary
from engram.scores.settings import Settings

FEATURES = 6
ROWS = 40  # of a subject
LEVELS = (0.05, 0.01)


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


def predicted(x, y, groups):
    """Probabilities (n, rows, classes) of linear discriminants that left out each group."""
    n, classes = len(x), y.max() + 1
    found = np.empty((*y.shape, classes))
    for g in range(groups):
        test = np.arange(n) % groups == g
        rows, own = x[~test].reshape(-1, x.shape[2]), y[~test].ravel()
        mean, sd = rows.mean(0), rows.std(0)
        z = (rows - mean) / sd
        means = np.stack([z[own == c].mean(0) for c in range(classes)])
        rest = z - means[own]
        weights = np.linalg.solve(rest.T @ rest / len(z) + 0.1 * np.eye(z.shape[1]), means.T)
        scores = (x[test] - mean) / sd @ weights - 0.5 * (means * weights.T).sum(1)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        found[test] = scores / scores.sum(-1, keepdims=True)
    return found


def predictions(probabilities, y, groups):
    """As `engram.scores.classification.read` gives them."""
    n = len(y)
    subject = np.repeat([f"sub-{s:02d}" for s in range(n)], ROWS)
    fold = np.repeat([f"fold-{s % groups}" for s in range(n)], ROWS)
    facts = {"subject": subject, "scan": "a", "window": np.tile(np.arange(ROWS), n), "fold": fold}
    flat = probabilities.reshape(n * ROWS, 1, -1)
    return classification.Predictions(
        flat, y.ravel(), y.ravel(), pd.DataFrame(facts), {}, np.ones(1, bool)
    )


# ---- classes ----------------------------------------------------------------------------


def classes(studies):
    settings = Settings(permutations=400)
    for k in (2, 4):
        for n, groups in ((4, 4), (6, 6), (12, 12), (20, 20), (20, 5)):
            for unbalanced in (False, True):
                case = f"classes {k}, subjects {n}, folds {groups}"
                case += ", unbalanced" if unbalanced else ""
                yield case, *_classes(studies, k, n, groups, unbalanced, settings)


def _classes(studies, k, n, groups, unbalanced, settings):
    rng = np.random.default_rng(0)
    rows, plain = [], []
    for _ in range(studies):
        y = labels(rng, n, k, unbalanced)
        while len(np.unique(y)) < k:
            y = labels(rng, n, k, unbalanced)
        x = features(rng, y, 0.6, copies=2)
        pair = [predictions(predicted(part, y, groups), y, groups)
                for part in (x[..., :FEATURES], x[..., FEATURES:])]  # fmt: skip
        nothing = predictions(predicted(features(rng, y, 0.0), y, groups), y, groups)
        row = _line(summary.summarise(pair[0], pair, Settings(permutations=1)))
        chance = _line(summary.summarise(nothing, None, settings))
        rows.append([row["value"], row["low"], row["high"], row["difference_p"], chance["p"]])
        plain.append(_plain(pair, nothing, settings))
    return np.array(rows, float), np.array(plain, float)


def _line(found):
    return found["metrics"][0]


def _plain(pair, nothing, settings):
    """What Student's t and the null as it is would say."""
    one, other = (summary._by_subject(these, False)["balanced_accuracy"] for these in pair)
    low, high = inference.t_interval(one)
    of = summary._by_subject(nothing, False)["balanced_accuracy"].mean()
    arranged = inference.arrangements(
        nothing.y, nothing.table, settings.permutations, np.random.default_rng(1)
    )
    _, codes = summary._groups(nothing, False)
    null = classification.null_scores(arranged, nothing.probabilities, codes)
    p = inference.permutation_p(of, null["balanced_accuracy"].mean(1))
    return [one.mean(), low, high, inference.t_test(one - other, False), p]


# ---- retrieval --------------------------------------------------------------------------


def retrieval(studies):
    for n in (2, 3, 6, 10):
        yield f"retrieval, subjects {n}", *_retrieval(studies, n)


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
        rows.append([hits[0].mean(), low, high, gain, p])
        low, high = inference.t_interval(hits[0].mean(1))
        gain = inference.t_test(hits[0].mean(1) - hits[1].mean(1), False)
        plain.append([hits[0].mean(), low, high, gain, _by_row(rng, found, truth)])
    return np.array(rows, float), np.array(plain, float)


def _by_row(rng, similarity, truth, resamples=200):
    """p of pictures exchanged row by row, as if subjects had nothing in common."""
    best = similarity.argmax(1)
    null = [(best == rng.permutation(truth)).mean() for _ in range(resamples)]
    return (1 + (np.array(null) >= (best == truth).mean() - 1e-12).sum()) / (1 + resamples)


# ---- output -----------------------------------------------------------------------------


def said(case, engine, rows, seconds):
    value, low, high, gain, chance = rows.T
    truth = value.mean()
    return {
        "case": case,
        "engine": engine,
        "studies": len(rows),
        "value": round(float(truth), 3),
        "coverage": round(float(((low <= truth) & (truth <= high)).mean()), 3),
        "gain_rejected": [round(float((gain <= level).mean()), 3) for level in LEVELS],
        "chance_rejected": [round(float((chance <= level).mean()), 3) for level in LEVELS],
        "seconds": round(seconds, 1),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = {"classes": classes, "retrieval": retrieval}
    parser.add_argument("--case", choices=cases, action="append")
    parser.add_argument("--studies", type=int, default=500)
    given = parser.parse_args()
    for name in given.case or cases:
        start = time.perf_counter()
        for case, rows, plain in cases[name](given.studies):
            seconds = time.perf_counter() - start
            for engine, found in (("engram", rows), ("reference", plain)):
                print(json.dumps(said(case, engine, found, seconds)), flush=True)
            start = time.perf_counter()


if __name__ == "__main__":
    main()
