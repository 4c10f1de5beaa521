"""What a model takes, what a view gives, and the way from one to the other.

The kind of a backbone declares in `TAKES` what its rows have to be; the header of a view states
what they are.  What differs is converted where that is defined, and refused otherwise: a model
gives numbers for any input of the right shape, and wrong ones for one in other units, at another
rate or with its regions in another order.

Keys of `TAKES` beside `what`; one that is not there, or null, is left open:

- `modality`: of the recording, several if the model takes any of them
- `channels`: names of channels or regions, or of atlases, in the order of the model
- `coverage`: share of `channels` that has to be there; those that are missing are zero
- `unit`: of the values: a voltage, or the beginning of the unit, e.g. dB
- `tr`: s between samples
- `band`: [low, high] Hz that were passed
- `normalisation`: `none`; mean 0 and variance 1 of each channel over its `scan` or over the `row`;
  or of all channels of a row together, `global`
- `frames`: samples of a row, at least
"""

import numpy as np

from engram.errors import InputError
from engram.readers import atlases
from engram.signals.series import EPSILON, resampled, standardized

#: uV in one of each unit of voltage.
VOLTS = {"V": 1e6, "mV": 1e3, "uV": 1.0, "nV": 1e-3}


class Fitted:
    """A backbone whose rows are those of a view, made what it takes.

    Attributes:
        shape, dtype, batch: of the backbone.
        facts: of the backbone, with `input`, what was converted and how much of it is there.
    """

    def __init__(self, backbone, fit):
        self.backbone, self.fit = backbone, fit
        self.shape, self.dtype, self.batch = backbone.shape, backbone.dtype, backbone.batch
        self.facts = backbone.facts | {"input": fit.facts()}

    def __call__(self, rows):
        """Features (batch, *shape) of rows of the view."""
        return self.backbone(self.fit(rows))

    def check(self):
        """Verify that the weights are still those that were loaded."""
        self.backbone.check()


class Fit:
    """The rows of a view as a backbone takes them.

    Attributes:
        view: header that a view of the converted rows would have.
        converted: what is done to the rows, in words, in this order.
    """

    def __init__(self, view):
        self.view, self.converted, self._steps = dict(view), [], []

    def __call__(self, rows) -> np.ndarray:
        """Rows (n, ...) as they are taken."""
        for step in self._steps:
            rows = step(rows)
        return rows

    def facts(self) -> dict:
        """What stands under `input` in the header of features."""
        counted = {key: self.view[key] for key in ("coverage", "missing") if key in self.view}
        return counted | {"converted": self.converted}

    def convert(self, words, step, **stated):
        """Do `step` to all rows, after which the header states something else."""
        self.converted.append(words)
        self._steps.append(step)
        self.view |= stated


def fit(takes, view, name) -> Fit:
    """How the rows of a view become what a backbone takes.

    Args:
        takes: dict with the keys above.
        view: header of the view.
        name: of the backbone, for messages.

    Raises:
        InputError: the view gives something else that cannot be converted; one line says both.
    """
    found = Fit(view)
    try:
        for key, meet in MEETING.items():
            if takes.get(key) is not None:
                _refuse_unstated(view, key)
                meet(found, takes[key], takes)
    except InputError as error:
        raise InputError(f"backbone {name}: {error}") from None
    return found


def _refuse_unstated(view, key):
    """Refuse to convert by a fact that the header of a view does not state."""
    fact = STATED.get(key)
    if fact and fact not in view:
        raise InputError(
            f"takes rows of a certain `{key}`, but this {view['what']} states no `{fact}`; take "
            f"`{key}` out of `takes`, or choose another view"
        )


def _modality(found, modalities, takes):
    modality = found.view.get("modality")
    if modality not in modalities:
        raise InputError(f"takes {' or '.join(modalities)}, but the view holds {modality}")


def _channels(found, wanted, takes):
    wanted, there = atlases.named(wanted), found.view["channels"]
    lacking = set(found.view.get("missing", ()))
    known = {atlases.same(n): i for i, n in enumerate(there) if n not in lacking}
    at = np.array([known.get(atlases.same(name), -1) for name in wanted])
    missing = [name for name, i in zip(wanted, at, strict=True) if i < 0]
    least, have = takes.get("coverage", 1.0), len(wanted) - len(missing)
    if have < max(1, least * len(wanted) - 1e-9):
        raise InputError(
            f"takes {len(wanted)} channels, of which the view has {have}, first missing "
            f"{missing[0]!r}; below a coverage of {least:g} the model would see too little"
        )
    stated = {
        "channels": list(wanted),
        "missing": missing,
        "coverage": [have, len(wanted)],
    }
    if len(at) == len(there) and (at[at >= 0] == np.arange(len(at))[at >= 0]).all():
        found.view |= stated
        return
    absent = at < 0

    def ordered(rows):
        rows = rows[:, at]
        rows[:, absent] = 0
        return rows

    found.convert(f"{have} of {len(there)} channels put in order by name", ordered, **stated)


def _tr(found, tr, takes):
    view = found.view
    if abs(tr * view["sfreq"] - 1) < 1e-6:
        return
    band, source = view.get("band"), 1 / view["sfreq"]
    _refuse_padded(view, f"takes a sample every {tr:g} s, the view has one every {source:g} s")
    like, sfreq = resampled(np.zeros(view["frames"]), view["sfreq"], tr, "polyphase")
    found.convert(
        f"resampled from a TR of {source:g} s to {tr:g} s (polyphase)",
        lambda rows, sfreq=view["sfreq"]: resampled(rows, sfreq, tr, "polyphase")[0],
        tr=tr,
        sfreq=sfreq,
        frames=len(like),
        band=band and [band[0], min(band[1], sfreq / 2)],
    )


def _band(found, band, takes):
    given = found.view.get("band")
    if given is None or not np.allclose(given, band, rtol=1e-3):
        has = f"passed {given[0]:g} to {given[1]:g} Hz" if given else "was not filtered"
        raise InputError(
            f"takes series of {band[0]:g} to {band[1]:g} Hz, but the view {has}; set `band: "
            f"[{band[0]:g}, {band[1]:g}]` of the view, or `takes: {{band: null}}` of the backbone"
        )


def _normalisation(found, wanted, takes):
    view = found.view
    given = view.get("normalisation", "none")
    whole = view.get("row") == "scan" and not view.get("settings", {}).get("length")
    if given == wanted or (whole and {given, wanted} == {"scan", "row"}):
        return
    if given != "none" and wanted in ("none", "global"):
        raise InputError(
            f"takes values whose normalisation is {wanted}, but each channel of the view has mean "
            "0 and variance 1, which cannot be undone; set `standardize: off` of the view"
        )
    if wanted == "scan" and not whole:
        raise InputError(
            "takes channels with mean 0 and variance 1 over the scan, of which a row is a part; "
            "set `standardize: scan` of the view"
        )
    _refuse_padded(view, f"takes values whose normalisation is {wanted}")
    step = _globally if wanted == "global" else standardized
    over = "all channels" if wanted == "global" else "each channel"
    found.convert(f"{over} of a row to mean 0, variance 1", step, normalisation=wanted, unit="z")


def _globally(rows):
    axes = (-2, -1)
    scale = rows.std(axes, keepdims=True) + EPSILON
    return (rows - rows.mean(axes, keepdims=True)) / scale


def _unit(found, unit, takes):
    given = found.view.get("unit")
    if given == unit or str(given).startswith(f"{unit} "):
        return
    if given not in VOLTS or unit not in VOLTS:
        raise InputError(f"takes values in {unit}, but those of the view are in {given}")
    factor = VOLTS[given] / VOLTS[unit]
    found.convert(f"from {given} to {unit}", lambda rows: rows * factor, unit=unit)


def _frames(found, least, takes):
    if found.view["frames"] < least:
        raise InputError(
            f"takes rows of {least} samples or more, but those of the view have "
            f"{found.view['frames']}; lengthen `windows` of the dataset"
        )


def _refuse_padded(view, difference):
    if view.get("settings", {}).get("pad"):
        raise InputError(
            f"{difference}; rows that were padded are not converted: set it in the view"
        )


#: What the header of a view has to state for a key to be met.
STATED = {"channels": "channels", "tr": "sfreq", "frames": "frames"}

#: How each key is met, in the order in which rows are converted.
MEETING = {
    "modality": _modality,
    "channels": _channels,
    "band": _band,
    "tr": _tr,
    "normalisation": _normalisation,
    "unit": _unit,
    "frames": _frames,
}
