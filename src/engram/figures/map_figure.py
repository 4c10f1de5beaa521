"""The latent map as a picture: four panels, coloured by state, subject, scan and time."""

import matplotlib
import numpy as np

from engram.figures import style


def sample(positions, most) -> np.ndarray:
    """All of `positions`, or `most` of them by lot, in ascending order."""
    if len(positions) <= most:
        return np.sort(positions)
    return np.sort(np.random.default_rng(0).choice(positions, most, replace=False))


def panels(data) -> list[tuple[str, list[str], dict[str, str]]]:
    """The panels: title, colour of each point, and what the colours mean.

    Of two data sets there is one more, which of them a point is of.
    """
    points = data["points"]
    scans = [f"{a} {b}" for a, b in zip(points["subject"], points["scan"], strict=True)]
    made = []
    for title, values in (
        ("state", points["state"]),
        ("subject", points["subject"]),
        ("scan", scans),
        *([("data set", points["dataset"])] if "dataset" in points else []),
    ):
        key = style.colours(data["classes"] if title == "state" else values)
        made.append((title, [key[value] for value in values], key))
    onset = np.asarray(points["onset"], float)
    scaled = (onset - onset.min()) / max(np.ptp(onset), 1e-9)
    shades = [matplotlib.colors.to_hex(c) for c in matplotlib.colormaps["viridis"](scaled)]
    ends = {f"{onset.min():.0f} s": "#440154", f"{onset.max():.0f} s": "#fde725"}
    return [*made, ("time in scan", shades, ends)]


def map_figure(data):
    """Figure of the panels; rows that the map was fitted on are paler."""
    drawn = panels(data)
    made = style.figure(2.75 * len(drawn), 3.4)
    points = data["points"]
    x, y, fitted = (np.asarray(points[key]) for key in ("x", "y", "fitted"))
    for axes, (title, colours, key) in zip(made.subplots(1, len(drawn)), drawn, strict=True):
        colours = np.asarray(colours)
        for part, alpha, edge in ((fitted, 0.55, "none"), (~fitted, 0.95, style.INK)):
            axes.scatter(
                x[part],
                y[part],
                c=colours[part],
                s=12,
                alpha=alpha,
                edgecolors=edge,
                linewidths=0.4,
            )
        axes.set_title(title)
        axes.set_facecolor(style.CARD)
        axes.margins(0.08)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        if len(key) <= len(style.PALETTE):
            entries = [axes.scatter([], [], color=c, s=16, label=name) for name, c in key.items()]
            axes.legend(
                handles=entries,
                loc="upper center",
                bbox_to_anchor=(0.5, 0),
                ncols=min(len(key), 4),
                handletextpad=0.1,
                columnspacing=0.8,
            )
    return made
