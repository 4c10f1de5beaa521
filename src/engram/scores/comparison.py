"""Stage `compare`: scores, separability and cost of backbones, all on the same rows."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError
from engram.measures.fingerprint import identification
from engram.measures.inference import holm
from engram.measures.neighbours import purity, silhouette
from engram.measures.similarity import linear_cka, stratified
from engram.scores import gains
from engram.store import json_file

ROWS = 2000  # most rows that spaces are measured on
NEIGHBOURS = 10
BLOCK = 1024  # rows read at once
NO_STATE = ""  # of rows that have a number

#: What is kept of the first metric of an experiment.
SCORE = (
    "metric", "value", "low", "high", "chance", "control", "p", "subjects",
    "baseline", "difference", "difference_low", "difference_high", "difference_p",
)  # fmt: skip

#: What stands beside it, with what is gained over the baseline.
BESIDE = ("auc", "pearson_r", "mae")


def compare(scores, features, costs, y, comparison, spec):
    """Measure the members of a comparison.

    Args:
        scores: JSON files of `evaluate`, one a member, in the order of the members.
        features: feature stores of all members, source by source, one member after the other.
        costs: JSON files of `extract`, one a feature store.
        y: label stores.
        comparison: JSON file to write; what it holds says `build`.
        spec: dict with `members`, each with experiment, title, sources (name and number of
            stores of each; none if it is compared by its scores alone), is_baseline, control_of
            and role ("model", "random" weights or "baseline", which has none).

    Raises:
        InputError: the stores share too few usable rows, or a model and its control ran at
            different precisions.
    """
    members = spec["members"]
    counts = [[count for _, count in member["sources"]] for member in members]
    features, costs = iter(features), map(_read, costs)
    found = build(
        [member | {"sources": [source for source, _ in member["sources"]]} for member in members],
        [_read(path) for path in scores],
        [_grouped(features, of_sources) for of_sources in counts],
        [_grouped(costs, of_sources) for of_sources in counts],
        y,
    )
    json_file.write(found, comparison)


def _read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _grouped(items, counts):
    """The next of `items`, as many as the first of `counts` says, then those after, and so on."""
    return [list(itertools.islice(items, count)) for count in counts]


def build(members, scores, features, costs, y) -> dict:
    """Everything that table and figures of a comparison show.

    Args:
        members: dicts with experiment, title, sources, is_baseline, control_of and role; a member
            without sources has scores and nothing else.
        scores: for each member, its scores as `evaluate` writes them.
        features: for each member and each of its sources, the paths of the feature stores.
        costs: for each member and each of its sources, what the extraction of each store took.
        y: paths of the label stores.

    Returns:
        dict with `rows` (how many were measured, and of what), `members` (best score first),
        `best_baseline` (see `gains.weigh_best`) and `cka` (experiments in the order given, and the
        matrix).

    Raises:
        InputError: the stores share fewer than 4 rows that are usable in all of them, or a
            model and its control ran at different precisions.
    """
    table, spaces, facts = load(features, y)
    _refuse_unlike_twins(members, facts)
    described = [
        {
            **member,
            **facts_of,
            **_scored(scored),
            **separability(space, table),
            "found_again": identification(standardised(space), table)
            if space is not None
            else None,
            "cost": cost(sources) if sources else None,
        }
        for member, facts_of, scored, space, sources in zip(
            members, facts, scores, spaces, costs, strict=True
        )
    ]
    rivals = [m for m in described if not m["is_baseline"]]
    raw = [np.nan if m["difference_p"] is None else m["difference_p"] for m in rivals]
    for member, p in zip(rivals, holm(raw), strict=True):
        member["difference_p_holm"] = p
    paired = {m["experiment"]: gains.paired(s) for m, s in zip(members, scores, strict=True)}
    settings = scores[0]["settings"]
    gains.weigh_weights(described, paired, settings)
    best = gains.weigh_best(described, paired, settings, scores[0]["metrics"][0]["metric"])
    spaced = [i for i, space in enumerate(spaces) if space is not None]
    return {
        "rows": {
            "measured": len(table),
            "subjects": table["subject"].nunique(),
            "scans": len(table.groupby(["subject", "scan"])),
            "neighbours": NEIGHBOURS,
        },
        "members": sorted(described, key=gains.rank),
        "best_baseline": best,
        "cka": {
            "experiments": [members[i]["experiment"] for i in spaced],
            "titles": [members[i]["title"] for i in spaced],
            "values": linear_cka([spaces[i] for i in spaced]),
        },
    }


def _refuse_unlike_twins(members, facts):
    """A number format must not pass for what published weights gain over random ones."""
    by_name = {m["experiment"]: (m, f["precision"]) for m, f in zip(members, facts, strict=True)}
    for control, ran in by_name.values():
        of, other = by_name.get(control["control_of"], (None, ran))
        if of and (ran != other or len(ran) > 1):
            raise InputError(
                f"{of['experiment']} ran in {' and '.join(other)}, its control "
                f"{control['experiment']} in {' and '.join(ran)}: their difference would not be "
                "that of their weights; set the same `precision`, fp32 or bf16, for both backbones"
            )


def _scored(scores):
    """The first metric of an experiment, what stands beside it, and its flags."""
    first = scores["metrics"][0]
    beside = [
        {key: row[key] for key in ("metric", "value", "difference")}
        for row in scores["metrics"]
        if row["metric"] in BESIDE
    ]
    return {**{key: first[key] for key in SCORE}, "beside": beside, "flags": scores["flags"]}


# ---- reading ---------------------------------------------------------------------------


def load(features, y) -> tuple[pd.DataFrame, list[np.ndarray], list[dict]]:
    """The rows that all stores hold and none excludes, at most `ROWS`, by name.

    Where there are more, the share of every subject and state is kept. Numbers have no states.

    Args:
        features: for each space and each source side by side in it, the paths of the stores.
        y: paths of the stores of labels or numbers.

    Returns:
        (table with subject, scan, onset, start, stop and state, n rows; for each space float32
        (n, d), None if it has no sources; for each space dim, d, and what the headers say of its
        weights, a text, and of its precision, a list).

    Raises:
        InputError: fewer than 4 such rows.
    """
    labels = store.load(y)
    stores = [[[store.open(path) for path in paths] for paths in space] for space in features]
    sources = [these for space in stores for these in space]
    tables = [labels.table, *(pd.concat([s.table for s in these]) for these in sources)]
    at = store.align(*tables)
    excluded = [t["exclude"].to_numpy(str)[i] != "" for t, i in zip(tables, at, strict=True)]
    usable = at[0][~np.logical_or.reduce(excluded)]
    table = labels.table.iloc[usable][["subject", "scan", "onset"]].copy()
    for column, furthest in (("start", np.minimum), ("stop", np.maximum)):
        seconds = [t[column].to_numpy()[i] for t, i in zip(tables, at, strict=True)]
        table[column] = furthest.reduce(seconds)[~np.logical_or.reduce(excluded)]
    table["state"] = NO_STATE
    if "classes" in labels.header:
        table["state"] = np.array(labels.header["classes"])[labels.array[usable].astype(int)]
    table = table.iloc[stratified(table["subject"] + "/" + table["state"], ROWS)]
    spaces = [_side_by_side(space, table.index) for space in stores]
    spaced = [space for space in spaces if space is not None]
    finite = np.logical_and.reduce([np.isfinite(space).all(axis=1) for space in spaced])
    if np.count_nonzero(finite) < 4:
        raise InputError(
            f"{sources[0][0].path}: {np.count_nonzero(finite)} rows are usable in all features "
            "that are compared, too few to measure"
        )
    facts = [_facts(space, these) for space, these in zip(spaces, stores, strict=True)]
    return table[finite], [None if s is None else s[finite] for s in spaces], facts


def _facts(space, sources):
    headers = [this.header for these in sources for this in these]
    weights = dict.fromkeys(header.get("weights", "none") for header in headers)
    return {
        "dim": None if space is None else space.shape[1],
        "weights": ", ".join(weights) or "none",
        "precision": sorted({header.get("precision", "fp64") for header in headers}),
    }


def _side_by_side(sources, names):
    """The rows `names` of several sources, float32 (n, d of all); None of no sources."""
    if not sources:
        return None
    return np.concatenate([_values(these, names) for these in sources], axis=1)


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
        space: (n, d), or None.
        table: n rows with subject, scan and state.

    Returns:
        `silhouette`: state; state_within, mean over subjects of the value within each; subject.
        `purity`: for state and subject, (value, chance), the shares of the 10 nearest rows
        that carry the row's own label, and of all rows that could have been among them.
        NaN where there is nothing to tell apart, or no space.
    """
    nowhere = (np.nan, np.nan)
    if space is None:
        nothing = dict.fromkeys(("state", "state_within", "subject"), np.nan)
        return {"silhouette": nothing, "purity": dict.fromkeys(("state", "subject"), nowhere)}
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
            "state": purity(x, state, own=scan, k=NEIGHBOURS) if len({*state}) > 1 else nowhere,
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


def cost(sources) -> dict:
    """What the features of all units took together.

    Args:
        sources: for each source one dict a store: images, seconds, peak_mib, device, precision,
            bytes_per_row.
    """
    parts = [part for source in sources for part in source]
    images, seconds = (sum(part[key] for part in parts) for key in ("images", "seconds"))
    return {
        "images": images,
        "seconds": seconds,
        "rate": images / seconds if seconds else np.nan,
        "peak_mib": max(part["peak_mib"] for part in parts),
        "device": _each(parts, "device"),
        "precision": _each(parts, "precision"),
        "bytes_per_row": sum(source[0]["bytes_per_row"] for source in sources),
    }


def _each(parts, key):
    return ", ".join(sorted({str(part[key]) for part in parts}))
