"""Figures of experiments that compare pictures: every subject, and pictures to look at."""

import numpy as np

from engram import store
from engram.errors import InputError
from engram.figures import style, visible
from engram.figures.subjects import scalars, subjects_figure
from engram.store import json_file

__all__ = ["draw", "scalars"]

EACH = 4  # pictures of a kind
SEED = 0  # of the lot
SIDE = 144  # pixels of a picture


def draw(scored, predicted, view, importance, figures):
    """Draw `subjects`, every score of every subject, and gather `gallery`, pictures to look at.

    Args: as for `engram.figures.plot.plot`, read; `view` holds the stores of the pictures, seen and
        decoded: those that are neither are what the decoded ones started from.
    """
    style.save(subjects_figure(scored), figures["subjects"])
    json_file.write(gallery(predicted, view), figures["gallery"])


def gallery(predicted, view) -> dict:
    """The best, median and worst pictures by a named measure, and some drawn by lot.

    Args:
        predicted: array (n, runs, measures), table with subject and stimulus.
        view: paths of the stores, named after their views.

    Returns:
        dict with rank_by, seed; columns, names of the views from what was seen to what was decoded;
        lines, each with why, subject, stimulus, scores ((measure, value), ...) and pictures, a data
        address a column; and regions, see `of_regions`.

    Raises:
        InputError: a view lacks one of the pictures, or is none.
    """
    names, ranked = predicted.header["measures"], predicted.header["rank_by"]
    values = predicted.array[:, 0]
    chosen = choose(predicted.table, values[:, names.index(ranked)], ranked)
    seen, decoded = predicted.header["targets"][0], predicted.header["sources"][0]
    stores = {}
    for path in view:
        stores.setdefault(_stem(path), []).append(path)
    columns = [seen, *(name for name in stores if name not in (seen, decoded)), decoded]
    shown = predicted.table.iloc[[row for _, row in chosen]]
    pictures = {
        name: _loaded(stores[name], shown["stimulus"] if name == seen else shown.index)
        for name in columns
    }
    lines = []
    for why, row in chosen:
        one = predicted.table.iloc[row]
        found = [
            visible.thumbnail(
                rows[one["stimulus"] if name == seen else one.name], header, SIDE, SIDE
            )
            for name, (rows, header) in pictures.items()
        ]
        scores = [[name, float(value)] for name, value in zip(names, values[row], strict=True)]
        line = {"why": why, "subject": one["subject"], "stimulus": one["stimulus"]}
        lines.append(line | {"scores": scores, "pictures": found})
    return {
        "rank_by": ranked,
        "seed": SEED,
        "columns": columns,
        "lines": lines,
        "regions": of_regions(stores[decoded]),
    }


def of_regions(paths) -> list[dict]:
    """What a decoder draws for the pattern of each region, beside as many voxels drawn at random.

    Args:
        paths: stores of decoded pictures, a subject each. Behind the test images stand those of
            patterns of regions, if there are any, each followed by that of its control.

    Returns:
        dict a region: its name, and lines with subject and two pictures, data addresses.
    """
    found = {}
    for this in map(store.open, paths):
        at = np.flatnonzero(this.table["exclude"] == "region")
        for own, control in zip(at[::2], at[1::2], strict=True):
            one = this.table.iloc[own]
            drawn = [visible.thumbnail(this[i], this.header, SIDE, SIDE) for i in (own, control)]
            line = {"subject": one["subject"], "pictures": drawn}
            found.setdefault(one["concept"], []).append(line)
    return [{"region": name, "lines": lines} for name, lines in found.items()]


def _loaded(paths, names):
    rows, header = visible.load(paths, names)
    if missing := set(names) - set(rows):
        raise InputError(f"{paths[0]}: lacks the picture {min(missing)}; make the view again")
    return rows, header


def _stem(path):
    return str(path).rpartition("/")[2].partition(".")[0]


def choose(table, values, measure) -> list[tuple[str, int]]:
    """(why, row) of the best, median and worst rows by a measure, and of rows drawn by lot.

    In each kind an image comes once, of the subject that comes first.

    Args:
        table: n rows with stimulus.
        values: float (n,).
        measure: its name; of distances the least is best.
    """
    sign = 1 if measure.endswith("_distance") else -1
    order = np.argsort(sign * values, kind="stable")
    nearest = np.argsort(np.abs(values - np.median(values)), kind="stable")
    by_lot = np.random.default_rng(SEED).permutation(len(table))
    stimulus, found = table["stimulus"].to_numpy(str), []
    for why, rows in (("best", order), ("median", nearest), ("worst", order[::-1]),
                      ("drawn by lot", by_lot)):  # fmt: skip
        _, first = np.unique(stimulus[rows], return_index=True)
        found += [(why, int(rows[i])) for i in np.sort(first)[:EACH]]
    return found
