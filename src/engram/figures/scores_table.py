"""All scores of a study as one tidy table, for pandas and for spreadsheets."""

import numpy as np
import pandas as pd

from engram.flags import inflated
from engram.measures.inference import holm

#: What says which question a score answers; one line a score of an experiment.
QUESTION = (
    *("experiment", "title", "dataset", "x", "y", "head", "task", "generalises_to"),
    *("comparison", "automatic", "flags", "subjects", "rows", "seeds"),
)
#: p values, each adjusted over the experiments that answer one question.
TESTED = ("p", "difference_p")


def table(scored, spec) -> pd.DataFrame:
    """A line a score of every experiment, in the order of the study.

    Args:
        scored: scores by experiment, as `engram.scores.evaluation` writes them.
        spec: `experiments` and `members`, their configuration by name, the latter with the
            `comparison` that they belong to.

    Returns:
        Columns `QUESTION` (x and y as the study names them; flags of `engram.flags`, with a space
        between two; rows: windows, trials or pictures that are scored), all of
        `engram.scores.evaluation.COLUMNS` but the values of single subjects, p_kind (see `null`
        there), and `p_holm` and `difference_p_holm`, by Holm over the experiments of one
        comparison, or of those outside of comparisons, that have the same data set, y, metric and
        scope, those whose flags inflate them apart.
    """
    known = spec.get("members", {}) | spec["experiments"]
    lines = [
        _question(name, known[name], result) | _score(row) | {"p_kind": _kind(result, row)}
        for name, result in scored.items()
        if name in known
        for row in result["metrics"]
    ]
    found = pd.DataFrame(lines).replace({None: np.nan})
    inflates = found["flags"].map(lambda flags: inflated(flags.split()))
    family = [found[key] for key in ("comparison", "dataset", "y", "generalises_to", "metric")]
    for name in TESTED:
        found[name] = found[name].astype(float)
        adjusted = found.groupby([*family, inflates], dropna=False)[name].transform(holm)
        found.insert(found.columns.get_loc(name) + 1, f"{name}_holm", adjusted)
    return found


def _question(name, config, result):
    sample = result["sample"]
    values = (
        *(name, config.get("title", name), config["dataset_title"]),
        *(_named(config["x"]), _named(config["y"]), config["head"], result["task"]),
        *(result["generalises_to"], config.get("comparison", "")),
        *(bool(config.get("automatic")), " ".join(result["flags"]), sample["subjects"]),
        sample.get("windows", sample.get("rows", sample.get("images"))),
        len({run["seed"] for run in result["runs"] if not run.get("shuffled")}),
    )
    return dict(zip(QUESTION, values, strict=True))


def _score(row):
    return {key: value for key, value in row.items() if key != "subjects"}


def _kind(result, row):
    return result["null"]["kind"] if result["null"] and row["p"] is not None else None


def _named(source):
    """x or y as one text: " + " joins sources side by side, " or " those to choose from."""
    if isinstance(source, dict):
        return " or ".join(map(_named, source["choose"]))
    return source if isinstance(source, str) else " + ".join(source)
