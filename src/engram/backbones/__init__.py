"""Backbones: frozen models that turn each row of a view into a feature vector.

A component has `load(options, weights, view, device)`, which gives a backbone: a callable
with `width`, `batch`, `facts` and `check()`, that maps `batch` images, (batch, h, w) or
(batch, h, w, 3), to float32 features (batch, width).
"""

from pathlib import Path

import numpy as np

from engram import components, store
from engram.errors import InputError
from engram.progress import progress

#: Axes of one image, by what a view holds.
AXES = {"spectrogram": 2, "picture": 3}

#: Facts about the view that those who use its features need.
INHERITED = ("what", "modality", "regions", "simulated", "lag_s", "support_s")

#: Batches in one part of an extraction: what a killed job may lose.
PART_BATCHES = 16


def extract(view, weights, features, spec, made_by, device):
    """Stage `extract`: write the features of one view under one frozen backbone.

    The store has the view's rows and table, and an array float32 (n, d), or (n, region, d)
    for a view with regions.  An interrupted extraction goes on where it stopped and gives
    identical bytes: rows are always cut into the same batches, and the last is padded.
    A region of a row that holds NaN has NaN for features.

    Args:
        view: path of the view store.
        weights: path of the weights file; None or empty if the backbone has none.
        features: path of the feature store to write.
        spec: dict with `backbone`: its `kind` and options.
        made_by: provenance of the job, for the header.
        device: "cpu" or "cuda".

    Raises:
        InputError: the view is of another kind, model or weights do not fit, or a row that
            is not excluded gives features that are not finite.
        RuntimeError: the weights changed during the extraction.
    """
    source = store.open(view)
    if source.header.get("what") not in AXES:
        raise InputError(f"{view}: a backbone needs {' or '.join(AXES)} rows")
    image = source.shape[-AXES[source.header["what"]] :]
    lead = source.shape[1 : -len(image)]
    module, options = components.options("backbones", spec["backbone"])
    backbone = module.load(options, Path(weights) if weights else None, source.header, device)
    header = {
        "what": "features",
        "kind": spec["backbone"]["kind"],
        "view": {key: source.header[key] for key in INHERITED if key in source.header},
        "made_by": made_by,
        **backbone.facts,
    }
    shape = (len(source), *lead, backbone.width)
    part_rows = backbone.batch * max(1, PART_BATCHES // int(np.prod(lead)))
    with store.resume(features, source.table, shape, np.float32, header, part_rows) as parts:
        _fill(parts, source, backbone, image)


def _fill(parts, source, backbone, image):
    """Encode the parts that are missing, and verify the weights afterwards."""
    missing = parts.missing()
    regions = int(np.prod(source.shape[1 : -len(image)]))
    total, todo = len(source) * regions, sum(stop - start for start, stop in missing) * regions
    what = f"{parts.path.parent.name}/{parts.path.stem}"
    with progress(total, what, "images", done=total - todo) as bar:
        for start, stop in missing:
            rows = source[start:stop]
            values = _encode(backbone, rows.reshape(-1, *image), bar)
            values = values.reshape(*rows.shape[: -len(image)], backbone.width)
            _refuse_unusable(source, start, values)
            parts[start:stop] = values
    try:
        backbone.check()
    except RuntimeError:
        parts.clear()
        raise


def _encode(backbone, images, bar):
    """Features (m, d) of images (m, ...), in batches of one size."""
    values = np.empty((len(images), backbone.width), np.float32)
    for start in range(0, len(images), backbone.batch):
        batch = images[start : start + backbone.batch]
        padding = np.repeat(batch[-1:], backbone.batch - len(batch), axis=0)
        encoded = backbone(np.concatenate([batch, padding]))
        values[start : start + len(batch)] = encoded[: len(batch)]
        bar.update(len(batch))
    if images.dtype.kind == "f":
        values[np.isnan(images).any(axis=tuple(range(1, images.ndim)))] = np.nan
    return values


def _refuse_unusable(source, start, values):
    table = source.table.iloc[start : start + len(values)]
    used = table["exclude"] == "" if "exclude" in table else np.ones(len(table), bool)
    bad = table.index[used & ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))]
    if len(bad):
        raise InputError(
            f"{source.path}: features of {len(bad)} rows are not finite, first "
            f"{', '.join(bad[:3])}; exclude these rows in the view or correct their values"
        )
