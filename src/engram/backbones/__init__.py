"""Backbones: frozen models that turn each row of a view into a feature vector.

A component has `TAKES`, what its rows have to be: `what`, the kinds of rows, each with the facts
that the header of its view has to state; and the keys of `engram.frozen.contract`. It has
`load(options, weights, view, device)`, which gives a backbone: a callable with `shape`, `dtype`,
`batch`, `facts` and `check()`, that maps `batch` such rows to float32 features (batch, *shape), an
array or a tensor.
"""

import json
import resource
import time
from pathlib import Path

import numpy as np

from engram import store
from engram.errors import InputError
from engram.frozen import fitted
from engram.planning import components
from engram.progress import progress
from engram.readers.pretrained_weights import subjects_seen
from engram.store.overlap import Overlap

#: Batches in one part of an extraction, what a killed job may lose; fewer if they are large.
PART_BATCHES = 16
PART_BYTES = 64 << 20


def extract(view, weights, features, spec, made_by, device, cost=None):
    """Stage `extract`: write the features of one view under one frozen backbone.

    The store has the view's rows and table, and an array (n, d) or (n, token, d); for a view
    with regions (n, region, ...).  An interrupted extraction goes on where it stopped and
    gives identical bytes: rows are always cut into the same batches, and the last is padded.
    A region of a row that holds NaN has NaN for features.

    While a part is encoded, the next is read and the one before is written.  Beside the model
    and one batch, memory holds three parts of at most 16 batches, or 64 MiB of features each.

    Args:
        view: path of the view store.
        weights: path of the weights file; None or empty if the backbone has none.
        features: path of the feature store to write.
        spec: dict with `backbone`, its `kind` and options; `takes`, where its rows have to be
            something else than the `TAKES` of its kind; and what tells which subjects the weights
            have seen, see `engram.readers.pretrained_weights`.
        made_by: provenance of the job, for the header.
        device: "cpu" or "cuda".
        cost: path of a JSON file for what the extraction took; see `Cost`.

    Raises:
        InputError: the view is of another kind, model or weights do not fit, or a row that
            is not excluded gives features that are not finite.
        RuntimeError: the weights changed during the extraction.
    """
    source = store.open(view)
    backbone = load(source, spec, weights, device)
    encode(
        source,
        backbone,
        features,
        spec,
        made_by,
        cost,
        made_from={"view": str(view), "weights": str(weights) if weights else None},
        seen=subjects_seen(weights, spec, source.table.get("subject", ())),
    )


def load(source, spec, weights, device):
    """The backbone that `spec` asks for, which takes the rows of `source`, converted if need be.

    Args:
        source: has `path`, and `header` like that of a view store.
        spec, weights, device: as for `extract`.

    Raises:
        InputError: the rows are not what the backbone takes, or model or weights do not fit.
    """
    if "axes" not in source.header:
        raise InputError(
            f"{source.path}: a backbone needs spectrograms, pictures, texts or others that state "
            f"their `axes`, but the view holds {source.header.get('what')}; choose another view"
        )
    module, options = components.options("backbones", spec["backbone"])
    weights = Path(weights) if weights else None
    try:
        fit = fitted.fit(spec, source.header)
        if fit is None:
            return module.load(options, weights, source.header, device)
        backbone = module.load(options, weights, fit.view, device)
        return components.module("frozen", "contract").Fitted(backbone, fit)
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from None


def encode(source, backbone, features, spec, made_by, cost=None, made_from=None, seen=()):
    """Write the features of any rows that can be read like those of a store.

    Args:
        source: has `path`, `header`, `table`, `shape`, and gives rows by slice; `axes` in its
            header is the number of axes of one image, at the end of `shape`.
        backbone: what `load` gives.
        features, spec, made_by, cost: as for `extract`.
        made_from: paths of the `view` and the `weights`, for the header.
        seen: subjects that the weights have seen, for the header.
    """
    lead = source.shape[1 : len(source.shape) - source.header["axes"]]
    header = {
        "what": "features",
        "kind": spec["backbone"]["kind"],
        "view": store.stated(source.header),
        "made_by": made_by | {"from": made_from or {}},
        **backbone.facts,
        **({"seen": seen} if seen else {}),
    }
    shape = (len(source.table), *lead, *backbone.shape)
    part_rows = _part_rows(backbone, lead)
    spent = Cost(backbone, made_by)
    with store.resume(features, source.table, shape, backbone.dtype, header, part_rows) as parts:
        _fill(parts, source, backbone, spent)
    if cost:
        spent.write(cost, Path(features).stat().st_size / max(len(source.table), 1))


def images_of(source, rows) -> np.ndarray:
    """Images (m, ...) of rows (n, ...) of a source: those of every region, one after the other."""
    return rows.reshape(-1, *source.shape[len(source.shape) - source.header["axes"] :])


def _part_rows(backbone, lead):
    batch_bytes = backbone.batch * int(np.prod(backbone.shape)) * np.dtype(backbone.dtype).itemsize
    batches = max(1, min(PART_BATCHES, PART_BYTES // batch_bytes))
    return max(1, backbone.batch * batches // int(np.prod(lead)))


def _fill(parts, source, backbone, cost):
    """Encode the parts that are missing, and verify the weights afterwards."""
    missing = parts.missing()
    regions = int(np.prod(parts.shape[1 : len(parts.shape) - len(backbone.shape)]))
    total, todo = parts.shape[0] * regions, sum(stop - start for start, stop in missing) * regions
    what = f"{parts.path.parent.name}/{parts.path.stem}"

    def finish(start, stop, values):
        _refuse_unusable(source, start, values)
        parts[start:stop] = values

    bar = progress(total, what, "images", done=total - todo)
    with bar, cost.of(todo), Overlap() as overlap:
        for (start, stop), rows in overlap.ahead(lambda span: source[slice(*span)], missing):
            values = in_batches(backbone, images_of(source, rows), bar.update)
            overlap.behind(finish, start, stop, values.reshape(len(rows), *parts.shape[1:]))
    try:
        backbone.check()
    except RuntimeError:
        parts.clear()
        raise


def in_batches(backbone, images, count=lambda n: None):
    """Features (m, *shape) of images (m, ...), in batches of one size; `count` hears of each."""
    encoded = []
    for start in range(0, len(images), backbone.batch):
        batch = images[start : start + backbone.batch]
        padding = np.repeat(batch[-1:], backbone.batch - len(batch), axis=0)
        encoded.append(backbone(np.concatenate([batch, padding]))[: len(batch)])
        count(len(batch))
    values = np.concatenate(
        [np.asarray(one.cpu() if hasattr(one, "cpu") else one) for one in encoded]
    )
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


class Cost:
    """What an extraction takes: images, wall and CPU seconds, images/s, peak memory (MiB).

    Only images that this run encoded count, not those that an interrupted one had finished.
    """

    def __init__(self, backbone, made_by):
        self.facts = {
            "device": made_by.get("device"),
            "threads": made_by.get("threads"),
            "precision": backbone.facts.get("precision", "fp64"),
        }

    def of(self, images):
        """Count the seconds of the block as those that `images` images take."""
        self.facts["images"] = images
        return self

    def __enter__(self):
        self.start = time.perf_counter(), time.process_time()

    def __exit__(self, *error):
        seconds, cpu_seconds = (
            time.perf_counter() - self.start[0],
            time.process_time() - self.start[1],
        )
        self.facts |= {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "rate": self.facts["images"] / seconds,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    def write(self, path, bytes_per_row):
        with store.replaced(path) as temporary:
            temporary.write_text(
                json.dumps(self.facts | {"bytes_per_row": bytes_per_row}, indent=1)
            )
