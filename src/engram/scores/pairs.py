"""Scores of experiments whose y is pictures: how well test rows find the one that was seen."""

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError
from engram.measures import inference, ranking
from engram.scores import caveats, over_images
from engram.scores.pairing import pairing
from engram.scores.settings import settings

INTERVALS = ("top1", "top3", "top5", "mrr", "mean_rank")
PAIRINGS = 1000  # of pictures with what was seen, for p


def score(predictions, baseline, x, spec) -> dict:
    """Scores of similarities, see `engram.scores.evaluation.evaluate`.

    Every number is the mean over seeds of what a single one finds, in both directions and in p.
    Seeds are averaged within each test row, rows within subjects; in intervals subjects and
    pictures are random, because all subjects saw the same pictures.

    Args:
        predictions: path of a store float32 (n, runs, m), see `engram.tasks.pairs`.
        baseline: paths of the predictions to compare with: one or none.
        x: not needed.
        spec: its `evaluation` holds fields of `Settings`, of which `margin` is used.

    Returns:
        dict with metrics; candidates, how many pictures there were; sample; paired, further
        tests of the difference to the baseline (see `engram.scores.pairing`); repetitions,
        what is found by how many of them; attainable and predicted, what a simulation expects.

    Raises:
        InputError: a true picture is no candidate, or the baseline has other test rows.
    """
    every = _read(predictions)
    this = every.some(every.table["fewer"].to_numpy() == 0)
    paired = _paired(this, baseline, settings(spec["evaluation"]).margin)
    attainable = this.header.get("attainable")
    metrics = _metrics(this, paired)
    predicted = {row["metric"]: _predicted(attainable, row["metric"]) for row in metrics}
    return {
        "metrics": metrics,
        "null": over_images.fixed(PAIRINGS),
        "candidates": len(this.header["candidates"]),
        "sample": {
            "subjects": int(this.table["subject"].nunique()),
            "rows": len(this.table),
            "excluded": this.header["excluded"],
        },
        "paired": paired and {key: paired[key] for key in ("subjects", "wilcoxon", "mcnemar")},
        "repetitions": _repetitions(every),
        "attainable": attainable,
        "near_copies": this.header.get("near_copies"),
        "predicted": {name: interval for name, interval in predicted.items() if interval},
    }


class _Similarities:
    """Similarities with the rank of the true picture of every row under every run.

    Attributes:
        similarity: float (n, runs, m); table; header; truth int (n,), the true candidate.
        ranks: float (n, runs); real: bool (runs,).
        shared: whether models of subjects were trained on each other's data.
    """

    def __init__(self, similarity, table, header, truth, ranks):
        self.similarity, self.table, self.header = similarity, table, header
        self.truth, self.ranks = truth, ranks
        self.real = np.array([not run["shuffled"] for run in header["runs"]])
        self.shared = header.get("shared", False)

    def some(self, rows):
        """Those of some rows, bool (n,)."""
        parts = self.truth[rows], self.ranks[rows]
        return _Similarities(self.similarity[rows], self.table[rows], self.header, *parts)

    def matrix(self, values):
        """Values (n,) as (subjects, pictures), both sorted; a row that is missing is NaN."""
        frame = self.table.assign(value=values)
        return frame.pivot_table(index="subject", columns="stimulus", values="value")


def _read(path):
    rows = store.open(path).load()
    truth = pd.Index(rows.header["candidates"]).get_indexer(rows.table["stimulus"])
    if (truth < 0).any():
        raise InputError(f"{path}: row {rows.table.index[truth < 0][0]} shows no candidate")
    ranks = [ranking.ranks(rows.array[:, r], truth) for r in range(rows.array.shape[1])]
    return _Similarities(rows.array, rows.table, rows.header, truth, np.stack(ranks, 1))


def _metrics(this, paired):
    n, subjects = len(this.header["candidates"]), np.unique(this.table["subject"].to_numpy(str))
    runs = [ranking.scores(this.ranks[:, r], n) for r in range(len(this.real))]
    of_subjects = {s: _subject_scores(this, s, n) for s in subjects}
    chance, found = ranking.chance(n), []
    for name in runs[0]:
        each = {s: of_subjects[s][name] for s in subjects}
        of_seeds, of_control = (
            np.array([run[name] for run, own in zip(runs, this.real, strict=True) if own == real])
            for real in (True, False)
        )
        low, high = _interval(this, name, n)
        found.append(
            {
                "metric": name.replace("-", "_"),
                "value": np.mean(list(each.values())),
                "low": low,
                "high": high,
                "interval": "crossed t" if low is not None else None,
                "chance": chance[name],
                "control": of_control.mean(),
                "seed_sd": of_seeds.std(ddof=1) if len(of_seeds) > 1 else None,
                "subject_sd": np.std(list(each.values()), ddof=1) if len(each) > 1 else None,
                "subjects": each,
            }
        )
        if name == "top1":
            found[-1] |= _tested(this, paired, found[-1]["value"])
    return found + _reverse(this, subjects)


def _tested(this, paired, value):
    """What is known of top-1 alone: its p, and the gain over the baseline."""
    similarity = this.similarity[:, this.real].swapaxes(0, 1)
    _, null, p = ranking.permutation(similarity, this.truth, resamples=PAIRINGS)
    null_low, null_high = inference.percentile_interval(null, 0.95)
    tested = {"p": p, "null_low": null_low, "null_high": null_high}
    if not paired:
        return tested
    low, high = paired["interval"]
    return {
        **tested,
        "baseline": value - paired["gain"],
        "difference": paired["gain"],
        "difference_low": low,
        "difference_high": high,
        "difference_p": paired["p"],
        **paired["claims"],
    }


def _predicted(attainable, name):
    """Interval in which a simulation expects a score, of as many repetitions as it rests on."""
    if not attainable or name not in attainable:
        return None
    return [attainable[name][end][-1] for end in ("low", "high")]


def _subject_scores(this, subject, n):
    """Scores of one subject, the mean over the real runs."""
    rows = (this.table["subject"] == subject).to_numpy()
    each = [ranking.scores(this.ranks[rows, r], n) for r in np.flatnonzero(this.real)]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def _values(this, name):
    """What each row contributes to a score, mean over the real runs, (n,)."""
    ranks = this.ranks[:, this.real]
    if name in ("mrr", "mean_rank"):
        return (1 / ranks if name == "mrr" else ranks).mean(1)
    return (ranks <= int(name[3:])).mean(1)


def _interval(this, name, candidates):
    if name not in INTERVALS:
        return None, None
    values = this.matrix(_values(this, name)).to_numpy()
    if np.isnan(values).any():
        return None, None
    limits = (1, candidates) if name == "mean_rank" else (0, 1)
    return inference.crossed(values, limits, shared=this.shared)[:2]


def _reverse(this, subjects):
    """From pictures to EEG, within each subject; the mean over seeds, as in the other direction."""
    n, chance = len(this.header["candidates"]), ranking.chance(len(this.header["candidates"]))
    found = {f"top{k}": {} for k in (1, 5) if k <= n}
    for subject in subjects:
        rows = np.flatnonzero(this.table["subject"] == subject)
        order = rows[np.argsort(this.truth[rows])]
        columns = this.truth[order]
        ranks = np.stack(
            [
                ranking.ranks(this.similarity[np.ix_(order, [r], columns)][:, 0].T)
                for r in np.flatnonzero(this.real)
            ]
        )
        for name, values in found.items():
            values[subject] = (ranks <= int(name[3:])).mean()
    return [
        {
            "metric": f"reverse_{name}",
            "value": np.mean(list(values.values())),
            "chance": chance[name],
            "subjects": values,
        }
        for name, values in found.items()
    ]


def _repetitions(every):
    """Top-1 and top-5 by the number of test repetitions averaged: of each subject, and the mean.

    The interval of the mean is Student's t over subjects.
    """
    fewer, counts = every.table["fewer"].to_numpy(), every.header["counts"]
    found = {"counts": counts, "top1": {}, "top5": {}, "interval": {"top1": [], "top5": []}}
    for count in counts:
        this = every.some(fewer == (count if (fewer == count).any() else 0))
        subject = this.table["subject"].to_numpy(str)
        for name in ("top1", "top5"):
            hits = _values(this, name)
            each = {str(s): float(hits[subject == s].mean()) for s in np.unique(subject)}
            for s, value in each.items():
                found[name].setdefault(s, []).append(value)
            values = np.array(list(each.values()))
            ends = inference.interval(values, (0, 1), 0.95, this.shared)
            found["interval"][name].append(ends if len(values) > 1 else None)
    return found


def _paired(this, baseline, margin):
    """Top-1 beside that of another image encoder, on the same test rows of the same subjects."""
    if not baseline:
        return None
    other = _read(baseline[0])
    other = other.some(other.table["fewer"].to_numpy() == 0)
    own, others = (one.matrix(_values(one, "top1")) for one in (this, other))
    if (own - others).isna().to_numpy().any():
        raise InputError(f"{baseline[0]}: has other test rows; give a baseline on the same data")
    return pairing(own, others, this.shared, margin)


def warnings(result) -> list[str]:
    """Sentences about a finished scores dict."""
    found = []
    published = "published_protocol" in result["flags"]
    if published:
        found.append(
            "The epoch of every model was chosen on the test pictures, as published; the scores "
            "are optimistic. See the clean protocol beside it."
        )
    found += caveats.of_near_copies(
        result["near_copies"], "pictures", "training and test", "picture"
    )
    top1 = result["metrics"][0]
    control, chance, rows = top1["control"], top1["chance"], result["sample"]["rows"]
    if control > chance + 4 * np.sqrt(chance * (1 - chance) / rows):
        found.append(f"The control, trained on shuffled pairs, finds {control:.1%}: above chance.")
    if not published:
        found += filter(None, (_unpredicted(row, result["predicted"]) for row in result["metrics"]))
    if result["sample"]["subjects"] < 5:
        found.append(
            f"{result['sample']['subjects']} subjects say little of how subjects differ: intervals "
            "may be too narrow."
        )
    return found


def _unpredicted(row, predicted):
    """A warning if a score lies outside what the simulation predicts for it."""
    name, value = row["metric"], row["value"]
    low, high = predicted.get(name, (-np.inf, np.inf))
    if low <= value <= high:
        return None
    side = "below" if value < low else "above"
    return (
        f"{name.replace('top', 'Top-')} is {value:.3f}, {side} the {low:.3f} to {high:.3f} "
        "that the simulation predicts for a head trained on one subject."
    )
