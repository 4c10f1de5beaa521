"""The latent map: UMAP fitted on training rows, held-out rows placed into it."""

from pathlib import Path

import numpy as np
import pandas as pd

from engram import store
from engram.errors import InputError
from engram.figures import visible
from engram.figures.map_figure import sample
from engram.measures import neighbours
from engram.store import Rows

#: Settings of the published map (vigilance tutorial, 2025).
UMAP = {
    "n_components": 2,
    "n_neighbors": 20,
    "min_dist": 0.1,
    "metric": "cosine",
    "init": "random",
    "random_state": 0,
}
FITTED = 2000  # most training rows that the map is fitted on
SHOWN = 1500  # most points in the map
MEASURED = 5000  # most rows that purity and silhouette are computed on


def place(latent, train, shown) -> tuple[np.ndarray, np.ndarray, dict]:
    """Positions of rows in a plane, by UMAP (McInnes et al. 2018) fitted on training rows.

    Args:
        latent: all rows, shape (n, d).
        train: bool (n,), rows that may be fitted on; at most `FITTED` of them are.
        shown: positions of the rows to place.

    Returns:
        (points (len(shown), 2), whether each was fitted on, settings used).

    Raises:
        InputError: fewer than four training rows.
    """
    from umap import UMAP as Mapper

    if np.count_nonzero(train) < 4:
        raise InputError("latent map: fewer than 4 training rows, nothing to fit a map on")
    fitted = sample(np.flatnonzero(train), FITTED)
    settings = UMAP | {"n_neighbors": min(UMAP["n_neighbors"], len(fitted) - 1)}
    mapper = Mapper(**settings, n_jobs=1).fit(latent[fitted])
    points = np.zeros((len(latent), 2))
    points[fitted] = mapper.embedding_
    others = np.setdiff1d(shown, fitted)
    if len(others):
        points[others] = mapper.transform(latent[others])
    return points[shown], np.isin(shown, fitted), settings | {"fitted_rows": len(fitted)}


def facts(latents, predictions) -> pd.DataFrame:
    """What is known about each row of the latents, by name.

    Columns: subject, scan, onset (s), part, state (name of the true class), predicted (name
    of the class predicted out of fold, mean over seeds) and its probability.

    Where a model was applied to other data than its own, the column `dataset` says whose rows
    these are; of rows that it was trained on it predicts nothing.
    """
    if "dataset" in latents.table:
        return _of_both(latents, predictions)
    return _facts(latents, predictions)


def _of_both(latents, predictions):
    """Facts of rows of two data sets; a subject is told by that of its data set too."""
    table = latents.table
    new = (table["part"] != "train").to_numpy()
    own = table[new].set_index("name")
    found = _facts(Rows(latents.array[new], own, latents.header), predictions)
    classes = np.array(predictions.header["classes"])
    rest = table.loc[~new, ["subject", "scan", "onset", "part"]].assign(
        state=classes[table["y"].to_numpy()[~new]], predicted="", probability=0.0
    )
    both = pd.concat([found.set_axis(table.index[new]), rest]).loc[table.index]
    both = both.assign(dataset=table["dataset"])
    return both.assign(subject=both["dataset"] + " " + both["subject"].astype(str))


def _facts(latents, predictions):
    here, there = store.align(latents.table, predictions.table)
    if len(here) < len(latents.table):
        raise InputError("latent map: rows of the latents are missing in the predictions")
    classes = np.array(predictions.header["classes"])
    real = [i for i, run in enumerate(predictions.header["runs"]) if not run["shuffled"]]
    probability = predictions.array[there][:, real].mean(axis=1)
    table = latents.table[["subject", "scan", "onset", "part"]].copy()
    table["state"] = classes[latents.table["y"].to_numpy()]
    table["predicted"] = classes[probability.argmax(axis=1)]
    table["probability"] = probability.max(axis=1)
    return table


def build(latents, predictions, view, known=()) -> dict:
    """Everything the report needs to draw the map; JSON-able.

    Args:
        latents, predictions: `engram.store.Rows` of one experiment.
        view: stores of the view whose rows are the pictures behind the points.
        known: the same of what an applied model was trained on.
    """
    table = facts(latents, predictions)
    shown = sample(np.arange(len(table)), SHOWN)
    latent = np.asarray(latents.array, np.float64)
    points, fitted, settings = place(latent, (table["part"] == "train").to_numpy(), shown)
    measured = sample(np.arange(len(table)), MEASURED)
    these = table.iloc[shown]
    images, header = _images(latents.table.iloc[shown], view, known)
    return {
        "classes": predictions.header["classes"],
        "simulated": "simulated" in predictions.header["flags"],
        "settings": settings,
        "rows": len(table),
        "measured_rows": len(measured),
        "groups": neighbours.summary(latent[measured], table.iloc[measured]),
        "legend": visible.legend(header),
        "modality": _modality(latents.header["sources"], Path(view[0]).stem, header),
        "points": {
            "x": points[:, 0].round(3),
            "y": points[:, 1].round(3),
            "fitted": fitted,
            **{column: these[column].to_numpy() for column in these},
            "probability": these["probability"].to_numpy().astype(float).round(3),
            "image": images,
        },
    }


def _images(table, view, known):
    """The picture of each row, "" where there is none; and the header of the view."""
    own = (table["part"] != "train").to_numpy() if known else np.ones(len(table), bool)
    names = table["name"] if known else table.index.to_series()
    images, headers = np.full(len(table), "", object), []
    for paths, these in ((view, own), (known, ~own)):
        if these.any():
            rows, header = visible.load(paths, names[these])
            headers.append(header)
            images[these] = [
                visible.thumbnail(rows[name], header) if name in rows else ""
                for name in names[these]
            ]
    return images.tolist(), headers[0]


def _modality(sources, view, header):
    """What the latents stand for, as the published tag names it: "eeg", "fmri" or "fused"."""
    views = {source.partition("/")[0] for source in sources}
    if views == {view}:
        return header.get("modality", view)
    return "fused" if len(views) > 1 else views.pop()
