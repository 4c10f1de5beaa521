"""Stage `retrieve`: how well test rows find their pictures, beside chance and a baseline."""

import json

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError
from engram.measures import inference, ranking
from engram.scores.pairing import pairing

FLAGS = ("simulated", "random_weights", "leaks")
INTERVALS = ("top1", "top3", "top5", "mrr", "mean_rank")
OF_SUBJECTS = ("top1", "top3", "top5", "mrr")


def retrieve(predictions, baseline, scores, spec):
    """Score the similarities of one experiment and write the scores file, JSON.

    Seeds are averaged within each test row, rows within subjects; intervals resample subjects
    and pictures, because all subjects saw the same pictures.

    Args:
        predictions: path of a store float32 (n, runs, m), see `engram.alignment.align`.
        baseline: paths of the predictions to compare with: one or none.
        scores: path to write.
        spec: dict with experiment, baseline (its name or None) and generalises_to.

    Raises:
        InputError: a true picture is no candidate, or the baseline has other test rows.
    """
    this = _read(predictions)
    header = this.header
    result = {
        "experiment": spec["experiment"],
        "what": "retrieval",
        "generalises_to": spec["generalises_to"],
        **{key: bool(header.get(key)) for key in FLAGS},
        **{key: header[key] for key in ("protocol", "runs", "sources", "curves", "chosen")},
        "candidates": len(header["candidates"]),
        "metrics": _metrics(this),
        "reverse": _reverse(this),
        "p": ranking.permutation(this.mean, this.truth)[2],
        "subjects": _subjects(this),
        "paired": _paired(this, baseline, spec["baseline"]),
        "repetitions": header.get("repetitions"),
        "attainable": header.get("attainable"),
        "importance": header["importance"],
    }
    result["warnings"] = _warnings(result)
    with store.replaced(scores) as temporary:
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")


class _read:
    """Similarities with the rank of the true picture of every row under every run.

    Attributes:
        ranks: float (n, runs); real: bool (runs,); table; header; truth int (n,).
        mean: float (n, m), similarity averaged over the real runs.
    """

    def __init__(self, path):
        rows = store.open(path).load()
        self.table, self.header = rows.table, rows.header
        self.truth = pd.Index(self.header["candidates"]).get_indexer(self.table["stimulus"])
        if (self.truth < 0).any():
            raise InputError(
                f"{path}: row {self.table.index[self.truth < 0][0]} shows no candidate"
            )
        runs = rows.array.shape[1]
        found = [ranking.ranks(rows.array[:, r], self.truth) for r in range(runs)]
        self.ranks = np.stack(found, 1)
        self.real = np.array([not run["shuffled"] for run in self.header["runs"]])
        self.mean = rows.array[:, self.real].mean(1)
        self.similarity = rows.array

    def matrix(self, values):
        """Values (n,) as (subjects, pictures), both sorted; a row that is missing is NaN."""
        frame = self.table.assign(value=values)
        return frame.pivot_table(index="subject", columns="stimulus", values="value")


def _metrics(this):
    n = len(this.header["candidates"])
    runs = [ranking.scores(this.ranks[:, r], n) for r in range(len(this.real))]
    chance = ranking.chance(n)
    found = {}
    for name in runs[0]:
        of_seeds = [run[name] for run, real in zip(runs, this.real, strict=True) if real]
        of_control = [run[name] for run, real in zip(runs, this.real, strict=True) if not real]
        by_subject = [_subject_scores(this, s, n)[name] for s in np.unique(this.table["subject"])]
        found[name.replace("-", "_")] = {
            "value": float(np.mean(by_subject)),
            "interval": _interval(this, name),
            "chance": chance[name],
            "seed_sd": float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else None,
            "subject_sd": float(np.std(by_subject, ddof=1)) if len(by_subject) > 1 else None,
            "control": float(np.mean(of_control)),
            "predicted": _predicted(this.header.get("attainable"), name),
        }
    return found


def _predicted(attainable, name):
    """Interval in which a simulation expects a score, of as many repetitions as it rests on."""
    if not attainable or name not in attainable:
        return None
    return [attainable[name][end][-1] for end in ("low", "high")]


def _subject_scores(this, subject, n, real=True):
    """Scores of one subject, the mean over its runs."""
    rows = (this.table["subject"] == subject).to_numpy()
    runs = np.flatnonzero(this.real == real)
    each = [ranking.scores(this.ranks[rows, r], n) for r in runs]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def _values(this, name):
    """What each row contributes to a score, mean over the real runs, (n,)."""
    ranks = this.ranks[:, this.real]
    if name in ("mrr", "mean_rank"):
        return (1 / ranks if name == "mrr" else ranks).mean(1)
    return (ranks <= int(name[3:])).mean(1)


def _interval(this, name):
    if name not in INTERVALS:
        return None
    values = this.matrix(_values(this, name)).to_numpy()
    return None if np.isnan(values).any() else list(inference.bootstrap(values))


def _reverse(this):
    """From pictures to EEG, within each subject."""
    n = len(this.header["candidates"])
    found = {f"top{k}": [] for k in (1, 5) if k <= n}
    for subject in np.unique(this.table["subject"]):
        rows = np.flatnonzero(this.table["subject"] == subject)
        order = rows[np.argsort(this.truth[rows])]
        ranks = ranking.ranks(this.mean[np.ix_(order, this.truth[order])].T)
        for name, values in found.items():
            values.append(float((ranks <= int(name[3:])).mean()))
    chance = ranking.chance(n)
    return {
        name: {"value": float(np.mean(values)), "interval": None, "chance": chance[name]}
        for name, values in found.items()
    }


def _subjects(this):
    n = len(this.header["candidates"])
    found = []
    for subject in np.unique(this.table["subject"]):
        real = _subject_scores(this, subject, n)
        found.append(
            {
                "subject": str(subject),
                "n": int((this.table["subject"] == subject).sum()),
                **{name: real[name] for name in OF_SUBJECTS if name in real},
                "control": _subject_scores(this, subject, n, real=False)["top1"],
            }
        )
    return found


def _paired(this, baseline, name):
    """Top-1 beside that of another image encoder, on the same test rows of the same subjects."""
    if not baseline:
        return None
    other = _read(baseline[0])
    own, others = (one.matrix(_values(one, "top1")) for one in (this, other))
    if (own - others).isna().to_numpy().any():
        raise InputError(f"{baseline[0]}: has other test rows; give a baseline on the same data")
    return {"baseline": name, **pairing(own, others)}


def _warnings(result):
    found = []
    if result["leaks"]:
        found.append(
            "The epoch of every model was chosen on the test pictures, as published; the scores "
            "are optimistic. See the clean protocol beside it."
        )
    control, chance = (result["metrics"]["top1"][key] for key in ("control", "chance"))
    rows = sum(subject["n"] for subject in result["subjects"])
    if control > chance + 4 * np.sqrt(chance * (1 - chance) / rows):
        found.append(f"The control, trained on shuffled pairs, finds {control:.1%}: above chance.")
    if result["protocol"] == "clean":
        found += filter(None, (_unpredicted(*item) for item in result["metrics"].items()))
    if len(result["subjects"]) < 5:
        found.append("Fewer than five subjects: intervals over subjects are wide and rough.")
    return found


def _unpredicted(name, row):
    """A warning if a score lies outside what the simulation predicts for it."""
    if not row["predicted"]:
        return None
    low, high = row["predicted"]
    if low <= row["value"] <= high:
        return None
    side = "below" if row["value"] < low else "above"
    return (
        f"{name.replace('top', 'Top-')} is {row['value']:.3f}, {side} the {low:.3f} to {high:.3f} "
        "that the simulation predicts for a head trained on one subject."
    )
