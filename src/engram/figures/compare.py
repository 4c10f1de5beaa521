"""Stage `compare`, its pictures: several backbones over one view, side by side."""

import json
from pathlib import Path

from engram.figures import style
from engram.figures.comparison_figure import cka_figure, comparison_figure


def draw(comparison, figure, cka):
    """Draw what was measured.

    Args:
        comparison: JSON file that the stage wrote.
        figure: SVG to write, scores and neighbours of each member.
        cka: SVG to write, how alike the spaces are.
    """
    found = json.loads(Path(comparison).read_text(encoding="utf-8"))
    with style.styled():
        style.save(comparison_figure(found), figure)
        style.save(cka_figure(found["cka"]), cka)
