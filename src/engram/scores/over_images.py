"""Scores that are means over test images and subjects: their intervals, null, and gains.

Every score is a mean over rows of what each adds to it. The same images are shown to all subjects,
so that intervals and gains draw subjects and images anew, both with replacement.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.measures import inference
from engram.scores.settings import SEED


@dataclass(frozen=True)
class Measured:
    """Scores of one subject.

    One that is to be tested against chance has `null(rng, permutations)`, which gives
    {score: float (permutations,)}, what it would score if its images were exchanged.

    Attributes:
        images: names of the k images; own: int (n,), that of each row.
        influence: {score: float (n,)}, what each row adds to a score, with the score as its mean.
        seeds, control: {score: float (runs,)}.
    """

    images: list
    own: np.ndarray
    influence: dict
    seeds: dict
    control: dict


def metrics(subjects, others, chosen, chance, limits, less=()) -> list[dict]:
    """A line a score, with the keys of `engram.scores.evaluation.COLUMNS` that are known.

    Args:
        subjects: {name: Measured}; others: those of the baseline, or None.
        chosen: Settings.
        chance: maps (score, subjects, its null) to what chance scores.
        limits: maps a score to (lowest, highest) value possible; its interval is cut there.
        less: scores of which less is better.
    """
    null = _null(subjects, chosen.permutations)
    found = []
    for name in next(iter(subjects.values())).influence:
        each = {s: one.influence[name].mean() for s, one in subjects.items()}
        value = np.mean(list(each.values()))
        matrix = _matrix(subjects, name)
        low, high, _ = _interval(matrix, chosen, limits(name))
        seeds = np.mean([one.seeds[name] for one in subjects.values()], 0)
        control = [one.control[name] for one in subjects.values()]
        sign = -1 if name in less else 1
        line = {
            "metric": name,
            "value": value,
            "low": low,
            "high": high,
            "interval": "crossed t" if low is not None else None,
            "chance": chance(name, subjects, null[name]),
            **_band(name, null[name], chosen),
            "p": inference.permutation_p(sign * value, sign * null[name]),
            "control": np.mean(control) if np.size(control) else None,
            "seed_sd": seeds.std(ddof=1) if len(seeds) > 1 else None,
            "subject_sd": np.std(list(each.values()), ddof=1) if len(each) > 1 else None,
            "subjects": each,
        }
        if others:
            line |= _gained(matrix, _matrix(others, name), chosen)
        found.append(line)
    return found


def fixed(permutations) -> dict:
    """What scores say of a null that exchanges images under predictions as they are."""
    return {"kind": "fixed", "n": permutations, "floor": 1 / (1 + permutations)}


def refuse_other_rows(table, other, path):
    """Refuse a baseline that tests other rows.

    Args:
        table, other: of the predictions and of those of the baseline, with `subject`.
        path: of the latter.

    Raises:
        InputError: it has rows that this one lacks, or the reverse.
    """
    rows = [set(zip(one["subject"], one.index, strict=True)) for one in (table, other)]
    if rows[0] != rows[1]:
        raise InputError(f"{path}: has other test rows; give a baseline on the same data")


def _null(subjects, permutations):
    """Every score when the images are exchanged, {score: (m,)}.

    Alike for all subjects who saw the same images: they respond alike to these, so that one
    exchange does alike to their scores.
    """
    parts = {}
    for one in subjects.values():
        rng = np.random.default_rng(SEED)
        for name, values in one.null(rng, permutations).items():
            parts.setdefault(name, []).append(values)
    return {name: np.mean(of_subjects, 0) for name, of_subjects in parts.items()}


def _band(name, null, chosen):
    """The middle of the null; of R², whose chance is the training mean, it lies far below that."""
    if name.startswith("r2"):
        return {}
    low, high = inference.percentile_interval(null, chosen.confidence)
    return {"null_low": low, "null_high": high}


def _matrix(subjects, name):
    """What every image adds to a score, (subjects, images), repetitions averaged."""
    parts = {
        subject: pd.Series(one.influence[name]).groupby(one.own).mean().set_axis(one.images)
        for subject, one in subjects.items()
    }
    return pd.DataFrame(parts).T


def _interval(matrix, chosen, limits=(-np.inf, np.inf)):
    if matrix.isna().to_numpy().any():  # subjects were shown others
        return None, None, None
    return inference.crossed(matrix.to_numpy(), limits, chosen.confidence)


def _gained(matrix, other, chosen):
    gain = matrix - other
    low, high, p = _interval(gain, chosen)
    of_subjects = gain.mean(axis=1).to_numpy()
    return {
        "baseline": other.mean(axis=1).mean(),
        "difference": of_subjects.mean(),
        "difference_low": low,
        "difference_high": high,
        "difference_p": p,
        **(inference.claims(gain.to_numpy(), chosen.margin) if p is not None else {}),
    }
