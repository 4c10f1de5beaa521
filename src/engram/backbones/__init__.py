"""Backbones: frozen models that turn each row of a view into a feature vector.

A component has `load(options, weights, view, device)`, which gives a backbone: a callable
with `shape`, `dtype`, `batch`, `facts` and `check()`, that maps `batch` rows of a view to
float32 features (batch, *shape), an array or a tensor.
"""

import json
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from engram import components, store
from engram.errors import InputError
from engram.progress import progress

#: Axes of one image or text, by what a view holds.
AXES = {"spectrogram": 2, "picture": 3, "text": 1}

#: Facts about the view that those who use its features need.
INHERITED = ("what", "modality", "regions", "simulated", "lag_s", "support_s")

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
        spec: dict with `backbone`: its `kind` and options.
        made_by: provenance of the job, for the header.
        device: "cpu" or "cuda".
        cost: path of a JSON file for what the extraction took; see `Cost`.

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
    shape = (len(source), *lead, *backbone.shape)
    part_rows = _part_rows(backbone, lead)
    spent = Cost(backbone, device, made_by)
    with store.resume(features, source.table, shape, backbone.dtype, header, part_rows) as parts:
        _fill(parts, source, backbone, image, spent)
    if cost:
        spent.write(cost, Path(features).stat().st_size / max(len(source), 1))


def _part_rows(backbone, lead):
    batch_bytes = backbone.batch * int(np.prod(backbone.shape)) * np.dtype(backbone.dtype).itemsize
    batches = max(1, min(PART_BATCHES, PART_BYTES // batch_bytes))
    return max(1, backbone.batch * batches // int(np.prod(lead)))


def _fill(parts, source, backbone, image, cost):
    """Encode the parts that are missing, and verify the weights afterwards."""
    missing = parts.missing()
    regions = int(np.prod(source.shape[1 : -len(image)]))
    total, todo = len(source) * regions, sum(stop - start for start, stop in missing) * regions
    what = f"{parts.path.parent.name}/{parts.path.stem}"

    def finish(start, stop, values):
        _refuse_unusable(source, start, values)
        parts[start:stop] = values

    with (
        progress(total, what, "images", done=total - todo) as bar,
        cost.of(todo),
        _Behind() as behind,
    ):
        for (start, stop), rows in behind.ahead(lambda span: source[slice(*span)], missing):
            values = _encode(backbone, rows.reshape(-1, *image), bar)
            behind.do(finish, start, stop, values.reshape(len(rows), *parts.shape[1:]))
    try:
        backbone.check()
    except RuntimeError:
        parts.clear()
        raise


class _Behind:
    """A reader one step ahead of a loop, and a writer one step behind it."""

    def __enter__(self):
        self.reader, self.writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.last = None
        return self

    def ahead(self, read, spans):
        """(span, read(span)) of each span; the next is read while the caller works."""
        coming = [self.reader.submit(read, span) for span in spans[:1]]
        for i, span in enumerate(spans):
            rows = coming.pop().result()
            coming += [self.reader.submit(read, following) for following in spans[i + 1 : i + 2]]
            yield span, rows

    def do(self, function, *arguments):
        """Call `function` behind the caller, after what it was given before has ended."""
        self._wait()
        self.last = self.writer.submit(function, *arguments)

    def _wait(self):
        if self.last:
            self.last.result()

    def __exit__(self, kind, error, traceback):
        self.reader.shutdown(cancel_futures=True)
        self.writer.shutdown()
        if kind is None:
            self._wait()


def _encode(backbone, images, bar):
    """Features (m, *shape) of images (m, ...), in batches of one size."""
    encoded = []
    for start in range(0, len(images), backbone.batch):
        batch = images[start : start + backbone.batch]
        padding = np.repeat(batch[-1:], backbone.batch - len(batch), axis=0)
        encoded.append(backbone(np.concatenate([batch, padding]))[: len(batch)])
        bar.update(len(batch))
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

    def __init__(self, backbone, device, made_by):
        self.facts = {
            "device": device,
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
