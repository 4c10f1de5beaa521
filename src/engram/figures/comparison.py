"""What a comparison of backbones says: scores, separability and cost, all on the same rows."""

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError
from engram.measures.inference import holm
from engram.measures.neighbours import purity, silhouette
from engram.measures.similarity import linear_cka, stratified

ROWS = 2000  # most rows that spaces are measured on
NEIGHBOURS = 10
BLOCK = 1024  # rows read at once

#: What is kept of the first metric of an experiment.
SCORE = (
    "metric", "value", "low", "high", "chance", "control", "p", "subjects",
    "baseline", "difference", "difference_low", "difference_high", "difference_p",
)  # fmt: skip


def build(members, scores, features, costs, y) -> dict:
    """Everything that table and figures of a comparison show.

    Args:
        members: dicts with experiment, title, source, is_baseline and control_of.
        scores: for each member, its scores as `evaluate` writes them.
        features: for each member, the paths of its feature stores.
        costs: for each member, what the extraction of each of its stores took.
        y: paths of the label stores.

    Returns:
        dict with `rows` (how many were measured, and of what), `members` (best score first)
        and `cka` (experiments in the order given, and the matrix).

    Raises:
        InputError: the stores share fewer than 4 rows that are usable in all of them.
    """
    table, spaces, facts = load(features, y)
    described = [
        {
            **member,
            **facts_of,
            **_scored(scored),
            **separability(space, table),
            "cost": cost(parts),
        }
        for member, facts_of, scored, space, parts in zip(
            members, facts, scores, spaces, costs, strict=True
        )
    ]
    rivals = [m for m in described if not m["is_baseline"]]
    raw = [np.nan if m["difference_p"] is None else m["difference_p"] for m in rivals]
    for member, p in zip(rivals, holm(raw), strict=True):
        member["difference_p_holm"] = p
    return {
        "rows": {
            "measured": len(table),
            "subjects": table["subject"].nunique(),
            "scans": len(table.groupby(["subject", "scan"])),
            "neighbours": NEIGHBOURS,
        },
        "members": sorted(described, key=_rank),
        "cka": {
            "experiments": [m["experiment"] for m in members],
            "titles": [m["title"] for m in members],
            "values": linear_cka(spaces),
        },
    }


def _rank(member):
    return -np.inf if member["value"] is None else -member["value"], member["title"]


def _scored(scores):
    """The first metric of an experiment, its AUC and its flags."""
    first = scores["metrics"][0]
    auc = next((row["value"] for row in scores["metrics"] if row["metric"] == "auc"), None)
    return {**{key: first[key] for key in SCORE}, "auc": auc, "flags": scores["flags"]}


# ---- reading ---------------------------------------------------------------------------


def load(features, y) -> tuple[pd.DataFrame, list[np.ndarray], list[dict]]:
    """The rows that all stores hold and none excludes, at most `ROWS`, by name.

    Where there are more, the share of every subject and state is kept.

    Args:
        features: for each space, the paths of its stores.
        y: paths of the label stores.

    Returns:
        (table with subject, scan and state, n rows; for each space float32 (n, d); for each
        space dim, d, and weights, what its header says of them).

    Raises:
        InputError: fewer than 4 such rows.
    """
    labels = store.load(y)
    stores = [[store.open(path) for path in paths] for paths in features]
    tables = [labels.table, *(pd.concat([s.table for s in these]) for these in stores)]
    at = store.align(*tables)
    excluded = [t["exclude"].to_numpy(str)[i] != "" for t, i in zip(tables, at, strict=True)]
    usable = at[0][~np.logical_or.reduce(excluded)]
    table = labels.table.iloc[usable][["subject", "scan"]].copy()
    classes = np.array(labels.header["classes"])
    table["state"] = classes[labels.array[usable].astype(int)]
    table = table.iloc[stratified(table["subject"] + "/" + table["state"], ROWS)]
    spaces = [_values(these, table.index) for these in stores]
    finite = np.logical_and.reduce([np.isfinite(space).all(axis=1) for space in spaces])
    if np.count_nonzero(finite) < 4:
        raise InputError(
            f"{features[0][0]}: {np.count_nonzero(finite)} rows are usable in all features that "
            "are compared, too few to measure"
        )
    facts = [
        {"dim": space.shape[1], "weights": these[0].header.get("weights", "none")}
        for space, these in zip(spaces, stores, strict=True)
    ]
    return table[finite], [space[finite] for space in spaces], facts


def _values(stores, names):
    """The rows `names` of several stores that hold them all, float32 (n, d)."""
    width = int(np.prod(stores[0].shape[1:]))
    values = np.empty((len(names), width), np.float32)
    for this in stores:
        to = names.get_indexer(this.table.index)
        for start in range(0, len(this), BLOCK):
            block = to[start : start + BLOCK]
            if (block >= 0).any():
                read = this[start : start + BLOCK][block >= 0]
                values[block[block >= 0]] = read.reshape(len(read), width)
    return values


# ---- measuring -------------------------------------------------------------------------


def separability(space, table) -> dict:
    """How far a space groups its rows by state, and how far by subject.

    Distances are angles (cosine) between rows whose features were standardised over the rows
    that are measured.  Nearest neighbours by state are looked for outside the row's own scan,
    whose windows overlap; by subject every other row counts.

    Args:
        space: (n, d).
        table: n rows with subject, scan and state.

    Returns:
        `silhouette`: state; state_within, mean over subjects of the value within each; subject.
        `purity`: for state and subject, (value, chance), the shares of the 10 nearest rows
        that carry the row's own label, and of all rows that could have been among them.
        NaN where there is nothing to tell apart.
    """
    x = standardised(space)
    state, subject = (table[key].to_numpy(str) for key in ("state", "subject"))
    scan = (table["subject"] + "/" + table["scan"]).to_numpy(str)
    own = [subject == name for name in np.unique(subject)]
    within = [silhouette(standardised(space[rows]), state[rows]) for rows in own]
    within = [value for value in within if not np.isnan(value)]
    return {
        "silhouette": {
            "state": silhouette(x, state),
            "state_within": float(np.mean(within)) if within else np.nan,
            "subject": silhouette(x, subject),
        },
        "purity": {
            "state": purity(x, state, own=scan, k=NEIGHBOURS),
            "subject": purity(x, subject, k=NEIGHBOURS),
        },
    }


def standardised(space) -> np.ndarray:
    """Features with mean 0 and variance 1 over the rows, float64 (n, d); constant ones are 0."""
    x = np.asarray(space, np.float64)
    rounding = np.finfo(np.float32).eps * np.abs(x).max(axis=0)
    x = x - x.mean(axis=0)
    spread = x.std(axis=0)
    return np.divide(x, spread, out=np.zeros_like(x), where=spread > rounding)


def cost(parts) -> dict:
    """What the features of all units took together.

    Args:
        parts: one dict a store: images, seconds, peak_mib, device, precision, bytes_per_row.
    """
    images, seconds = (sum(part[key] for part in parts) for key in ("images", "seconds"))
    return {
        "images": images,
        "seconds": seconds,
        "rate": images / seconds if seconds else np.nan,
        "peak_mib": max(part["peak_mib"] for part in parts),
        "device": _each(parts, "device"),
        "precision": _each(parts, "precision"),
        "bytes_per_row": parts[0]["bytes_per_row"],
    }


def _each(parts, key):
    return ", ".join(sorted({str(part[key]) for part in parts}))
