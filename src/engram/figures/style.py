"""How figures look: plain axes, colours that colour-blind readers can tell apart, equal bytes."""

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engram import store

#: Qualitative palette of Okabe and Ito (2008), dark colours first, grey for its black.
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#999999",
)  # fmt: skip
BLUE, ORANGE, GREEN, PINK = PALETTE[:4]
INK, GREY, FAINT, CARD = "#1f2430", "#6b7280", "#d5d9e0", "#f7f8fa"

RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "engram",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}

# Text stays text, so the reader's own font shows; DejaVu, by which it was measured, is wide.
FONTS = "system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"


def styled():
    """Context in which figures are drawn and saved."""
    return matplotlib.rc_context(RC)


def figure(width, height) -> Figure:
    """An empty figure of `width` x `height` inches that arranges its own margins."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def words(text) -> Figure:
    """A figure that says why there is nothing to draw."""
    made = figure(6, 0.6)
    made.text(0.5, 0.5, text, ha="center")
    return made


def save(made: Figure, path, dpi=110):
    """Write a figure as its suffix says (.svg, .png); the same figure is always the same bytes."""
    suffix = str(path).rpartition(".")[2]
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
    with store.replaced(path) as temporary:
        made.savefig(
            temporary, format=suffix, dpi=dpi, metadata=metadata, transparent=suffix == "svg"
        )
        if suffix == "svg":
            text = temporary.read_text(encoding="utf-8")
            temporary.write_text(text.replace("'DejaVu Sans', sans-serif", FONTS), encoding="utf-8")


def colours(names) -> dict[str, str]:
    """A colour for each name: the palette, or when it is too short, viridis in mixed order."""
    names = sorted(set(names))
    if len(names) <= len(PALETTE):
        return dict(zip(names, PALETTE, strict=False))
    steps = np.random.default_rng(0).permutation(np.linspace(0, 1, len(names)))
    shades = matplotlib.colormaps["viridis"](steps)
    return {
        name: matplotlib.colors.to_hex(shade) for name, shade in zip(names, shades, strict=True)
    }
