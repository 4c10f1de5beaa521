"""Stage compare: several backbones over one view, side by side."""

import itertools
import json
from pathlib import Path

from engram.figures import style
from engram.figures.comparison import build
from engram.figures.comparison_figure import cka_figure, comparison_figure
from engram.store import json_file


def compare(scores, features, costs, y, comparison, figure, cka, spec):
    """Measure the members of a comparison and draw them.

    Args:
        scores: JSON files of `evaluate`, one a member, in the order of the members.
        features: feature stores of all members, source by source, one member after the other.
        costs: JSON files of `extract`, one a feature store.
        y: label stores.
        comparison: JSON file to write; what it holds says `comparison.build`.
        figure: SVG to write, scores and neighbours of each member.
        cka: SVG to write, how alike the spaces are.
        spec: dict with `members`, each with experiment, title, sources (name and number of
            stores of each; none if it is compared by its scores alone), is_baseline and
            control_of.

    Raises:
        InputError: the stores share too few usable rows, or a model and its control ran at
            different precisions.
    """
    members = spec["members"]
    counts = [[count for _, count in member["sources"]] for member in members]
    features, costs = iter(features), map(_read, costs)
    found = build(
        [member | {"sources": [source for source, _ in member["sources"]]} for member in members],
        [_read(path) for path in scores],
        [_grouped(features, of_sources) for of_sources in counts],
        [_grouped(costs, of_sources) for of_sources in counts],
        y,
    )
    json_file.write(found, comparison)
    found = _read(comparison)
    with style.styled():
        style.save(comparison_figure(found), figure)
        style.save(cka_figure(found["cka"]), cka)


def _read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _grouped(items, counts):
    """The next of `items`, as many as the first of `counts` says, then those after, and so on."""
    return [list(itertools.islice(items, count)) for count in counts]
