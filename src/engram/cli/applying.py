"""What a trained model says of recordings, outside the workflow."""

import sys

import numpy as np
import yaml

from engram.errors import InputError, printable
from engram.flags import FLAGS
from engram.trained import load_model
from engram.trained.applied import Applied, apply


def apply_model(model, files, out, device, settings, gallery=None) -> tuple[Applied, list[list]]:
    """Apply a model to recordings; what a user has to know goes to stderr.

    Args:
        model: path of its file.
        files: paths of recordings, folders of them, or stores.
        out: folder of the results.
        device: "cpu" or "cuda".
        settings: "OPTION=VALUE", with values as in YAML.
        gallery: paths of stores of features of pictures, for a model of pictures.

    Returns:
        What was made, and a table for a person, its head first.

    Raises:
        InputError: no file can be used, or the model cannot be applied.
    """
    model = load_model(model)
    for flag in model.facts.get("flags", []):
        print(f"warning: {model.path.name}: {FLAGS[flag].text}", file=sys.stderr)
    applied = apply(model, files, out, device, dict(map(_setting, settings)), gallery)
    for one in applied.recordings:
        for said in one["warnings"]:
            print(printable(f"warning: {one['name']} {said}"), file=sys.stderr)
    head = ["recording", "minutes", "usable", "unlike", *(model.classes or ["mean"])]
    return applied, [head, *(_line(one) for one in applied.recordings)]


def _setting(text):
    option, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: write OPTION=VALUE, e.g. tr=2.0")
    try:
        return option, yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {text}: is no value as in YAML; put a text into quotes") from None


def _line(one):
    shares = [one["usable"], one["unlike"], *one.get("shares", {}).values()]
    values = [_shown(share, ".0%") for share in shares]
    values += [] if "shares" in one else [_shown(one["value"], ".4g")]
    minutes = "" if np.isnan(one["minutes"]) else f"{one['minutes']:.1f}"
    return [one["name"], minutes, *values]


def _shown(value, form):
    """A number; a dash where no usable window says one, as on the page."""
    return "–" if np.isnan(value) else format(value, form)
