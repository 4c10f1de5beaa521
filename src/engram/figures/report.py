"""Stage report: the page that shows a whole study."""

import collections
import json
from pathlib import Path

from engram import store
from engram.figures import page


def report(scores, predictions, figures, report, spec, comparisons=(), cards=()):
    """Write the page that shows a whole study, in one file that needs no network.

    Args:
        scores: JSON files of `evaluate`, each named after its experiment, in the order shown.
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
    headers = {Path(path).stem: store.open(path).header for path in predictions}
    html = page.render(_read(scores), headers, found, spec, _read(comparisons), _read(cards))
    with store.replaced(report) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _read(paths):
    """What JSON files hold, by their names without suffix."""
    return {Path(path).stem: json.loads(Path(path).read_text("utf-8")) for path in paths}
