"""Whether a store is sound: its checksums, its rows, and a sample of them made again."""

from pathlib import Path

import numpy as np

from engram import store
from engram.backbones import images_of, in_batches, load
from engram.errors import InputError
from engram.job import digest

#: Largest 1 - cosine between a stored feature vector and the same one encoded again.
TOLERANCE = 1e-4


def recompute(features, share=0.01, seed=None) -> str:
    """Encode a sample of the rows of a feature store again and compare.

    Args:
        features: path of the store; view and weights are looked for where its header says.
        share: of the batches, at least one.
        seed: of the choice of batches; None for another choice at every call.

    Returns:
        How many rows agree, and how well.

    Raises:
        InputError: view or weights are missing or no longer those that were used, or a row
            comes out different.
    """
    stored = store.open(features)
    made_by = stored.header["made_by"]
    view, weights = made_by["from"]["view"], made_by["from"]["weights"]
    source = _unchanged(stored, view, weights)
    backbone = load(source, made_by["spec"], weights, "cpu")
    if backbone.facts.get("weights_sha256") != stored.header.get("weights_sha256"):
        raise InputError(f"{features}: the weights are no longer those it was made with")
    rows = max(1, backbone.batch // len(images_of(source, source[:1])))
    starts = np.arange(0, len(source), rows)
    chosen = np.random.default_rng(seed).permutation(starts)[: int(np.ceil(share * len(starts)))]
    worst, n = 0.0, 0
    for start in sorted(chosen):
        before = stored[start : start + rows]
        again = in_batches(backbone, images_of(source, source[start : start + rows]))
        worst = max(worst, _distance(before.reshape(len(again), -1), again.reshape(len(again), -1)))
        n += len(before)
    if worst > TOLERANCE:
        raise InputError(
            f"{features}: rows encoded again differ (1 - cosine is {worst:.2g}); delete it so "
            "that it is written again, or restore the package versions that its header names"
        )
    return f"{n} rows encoded again agree (1 - cosine at most {worst:.1g})"


def _unchanged(stored, view, weights):
    """The view a store was made from, after a look whether its inputs are still the same."""
    for path in filter(None, (view, weights)):
        if not Path(path).is_file():
            raise InputError(f"{stored.path}: {path}, which it was made from, is not there")
        expected = stored.header["made_by"].get("inputs", {}).get(path)
        if expected and digest(path) != expected:
            raise InputError(f"{stored.path}: {path} is no longer what it was made from")
    return store.open(view)


def _distance(one, other):
    """Largest 1 - cosine between rows of two arrays (n, d); rows that are NaN in both agree."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    both = np.isnan(one).all(axis=1) & np.isnan(other).all(axis=1)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (one * other).sum(axis=1) / norms
    same = both | (one == other).all(axis=1)
    return float(np.max(np.where(same, 0, np.nan_to_num(1 - cosine, nan=2.0)), initial=0))
