"""Stage report: the page that shows a whole study, its scores as a table, its methods in words."""

import collections
import json
from pathlib import Path

from engram import store
from engram.figures import page, scores_table
from engram.figures.methods import text


def report(scores, predictions, figures, report, spec, comparisons=(), cards=()):
    """Write the page that shows a whole study, in one file that needs no network.

    Args:
        scores: JSON files of `evaluate`, each named after its experiment, in the order shown; those
            that have no place of their own are left out.
        predictions: stores of `train`, named alike; only their headers are read.
        figures: files of `plot`, `map` and `compare`; the folder of each is named after its
            experiment or comparison.
        report: HTML file to write.
        spec: `title`, `experiments` and, if there are any, `comparisons`: the configuration of
            each, by name.
        comparisons: JSON files of `compare`, each named after its comparison.
        cards: JSON files of `card`, each named after its experiment.

    Raises:
        InputError: an experiment lacks its scores or its predictions.
    """
    found = collections.defaultdict(dict)
    for path in map(Path, figures):
        found[path.parent.name][path.name] = path
    headers = _headers(predictions)
    html = page.render(_read(scores), headers, found, spec, _read(comparisons), _read(cards))
    _write(report, html)


def written(scores, predictions, cards, table, methods, spec):
    """Write what a paper takes from a study: its scores as a table, its methods in words.

    Args:
        scores, predictions, cards: as for `report`, those of the members of comparisons among them.
        table: CSV file to write, see `engram.figures.scores_table.table`.
        methods: Markdown file to write, see `engram.figures.methods.text`.
        spec: `title`, `experiments` and `members` of comparisons: their configuration by name.
    """
    scored = _read(scores)
    _write(table, scores_table.table(scored, spec).to_csv(index=False))
    _write(methods, text(scored, _headers(predictions), spec, _read(cards)))


def _headers(predictions):
    return {Path(path).stem: store.open(path).header for path in predictions}


def _write(path, text):
    with store.replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read(paths):
    """What JSON files hold, by their names without suffix."""
    return {Path(path).stem: json.loads(Path(path).read_text("utf-8")) for path in paths}
