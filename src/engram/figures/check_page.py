"""The page of `engram check`: what recordings hold and what a run would refuse of them."""

import html
import json
import re

import engram
from engram import store
from engram.figures import page

FEW = 6  # subjects that are named


def write(path, found):
    """Write the page, and beside it what stands on it as JSON.

    Args:
        path: HTML file; pictures are named from its folder.
        found: dict of plain data, see `engram.cli.checking`.
    """
    with store.replaced(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    environment = page.environment()
    environment.filters |= {"clock": clock, "few": few, "share": share, "keys": keys}
    text = environment.get_template("check.html").render(
        **found, version=engram.__version__, summary=_summary(found)
    )
    with store.replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _summary(found):
    recordings = len(found["recordings"])
    hours = sum(dataset["hours"] for dataset in found["datasets"])
    refused = found["refusals"]
    said = f"A run would refuse {refused} thing{'s' * (refused != 1)}"
    if not refused:
        said = "Nothing would be refused" if recordings else "No recording is here to be looked at"
    how = "Headers alone were read, so that samples, labels and experiments were not looked at."
    more = f" {how}" if found["quick"] else ""
    return f"{recordings} recording{'s' * (recordings != 1)}, {hours:.2f} hours. {said}.{more}"


def in_words(dataset) -> str:
    """One line on a dataset, for a terminal."""
    words = (
        f"{dataset['name']}: {dataset['subjects']} subjects, {dataset['scans']} scans, "
        f"{dataset['hours']:.2f} hours"
    )
    if dataset["not_here"]:
        words += f"; {dataset['not_here']} files are not here yet: a run fetches or makes them"
    if dataset["no_windows"]:
        words += f"; {dataset['no_windows']} units are cut before, not looked at"
    return words


def clock(seconds) -> str:
    """Seconds as h:mm:ss, or mm:ss; a dash where they are not known."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def few(names) -> str:
    """The first names of many."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"{', '.join(names[:FEW])}{more}"


def share(part, whole) -> str:
    """A share in per cent, that says 0 and 100 only of none and all."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "< 1 %"
    return "> 99 %" if 99 < percent < 100 else f"{percent:.0f} %"


def keys(text) -> str:
    """A sentence as HTML, with what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))
