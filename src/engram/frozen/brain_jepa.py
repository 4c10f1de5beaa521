"""What frozen use and pretraining of Brain-JEPA share: size, gradients and values of a row."""

import numpy as np

from engram.errors import InputError
from engram.frozen import backbone
from engram.models import brain_jepa
from engram.readers import gradients


def size(options) -> tuple[int, int, int]:
    """Width, depth and heads of the encoder that `Options` of the backbone ask for.

    Raises:
        InputError: there is no such model, or the width does not divide.
    """
    backbone.known_name(options.model, [*brain_jepa.SIZES], "Brain-JEPA")
    named = zip(
        (options.width, options.depth, options.heads), brain_jepa.SIZES[options.model], strict=True
    )
    width, depth, heads = (default if own is None else own for own, default in named)
    if min(width, depth, heads) < 1 or width % heads or width % 4:
        raise InputError(
            f"backbone brain_jepa: width {width}, depth {depth}, heads {heads}; the width divides "
            "by 4 and by the heads"
        )
    return width, depth, heads


def encoder(options, places) -> brain_jepa.Encoder:
    """The encoder that the options ask for; `places` are the gradients (regions, components)."""
    return brain_jepa.Encoder(places, options.windows, *size(options))


def given_gradients(options, view) -> np.ndarray:
    """Gradients (regions, components) from the file that the options name.

    Random weights do without one: sine and cosine of the number of a region tell it apart, as in
    the published `add_w: origin`.

    Raises:
        InputError: the options name no file, or it does not fit the regions of the view.
    """
    regions = view["channels"]
    if options.gradients:
        return gradients.read(options.gradients, regions)
    if options.weights == "random":
        return brain_jepa.sine_cosine(len(regions), options.components).numpy()
    raise InputError(
        "backbone brain_jepa: needs gradients of the regions, which these weights do not hold; "
        "give `gradients` the published file, or one computed from your own connectivity"
    )


def check(options, view):
    """Refuse rows that the model cannot take.

    Raises:
        InputError: says how many frames a row has and how many it should have.
    """
    frames = options.windows * brain_jepa.PATCH
    if options.windows < 1 or (options.clip is not None and options.clip < frames):
        raise InputError(
            f"backbone brain_jepa: {options.windows} windows are {frames} frames, of a clip of "
            f"{options.clip}; correct `windows` or `clip`"
        )
    wanted = options.clip or frames
    if view["frames"] != wanted:
        raise InputError(
            f"backbone brain_jepa: rows have {view['frames']} frames, it takes {wanted}; set "
            f"`length: {wanted}` of the view, or `windows` or `clip` of the backbone"
        )


def check_alike(path, view):
    """Refuse a view whose values are others than those that weights were pretrained on.

    Raises:
        InputError: names the first fact that differs.
    """
    learnt, _ = gradients.learnt(path)
    for key in ("tr", "unit", "normalisation", "band"):
        if key in learnt and key in view and learnt[key] != view[key]:
            raise InputError(
                f"{path}: was pretrained on series with {key}: {learnt[key]}, but those of the "
                f"view have {key}: {view[key]}; render the view alike"
            )


class Normalisation:
    """Brings series (..., regions, frames) to the values that a model was trained on.

    Args:
        kind: `view`, `global` or `robust`; see `Options`.
        centre, scale: of each region, (regions,), for `robust`.

    Raises:
        InputError: `robust` without them.
    """

    def __init__(self, kind, centre=None, scale=None):
        if kind == "robust" and (centre is None or scale is None):
            raise InputError(
                "backbone brain_jepa: `normalisation: robust` needs the median and the "
                "interquartile range of the subjects' means, which these weights do not hold; the "
                "published ones were not published; use `normalisation: global`"
            )
        self.kind, self.centre, self.scale = kind, centre, scale

    def __call__(self, series) -> np.ndarray:
        if self.kind == "robust":
            return (series - self.centre[:, None]) / self.scale[:, None]
        if self.kind == "global":
            spread = series.std((-2, -1), keepdims=True)
            return (series - series.mean((-2, -1), keepdims=True)) / np.where(spread, spread, 1)
        return series
