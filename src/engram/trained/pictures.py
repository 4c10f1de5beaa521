"""A picture of one recording: what the model saw of it, and what it says, over time."""

from pathlib import Path

import numpy as np

from engram import store
from engram.figures import style, visible

COLUMNS = 3000  # most of the upper panel
DPI = 130


def draw(table, view, names, model, path):
    """Draw a recording.

    Args:
        table: its lines of `predictions.csv`.
        view: path of the store of what was seen, None if there is none.
        names: of its rows in that store.
        model: `engram.trained.Model`.
        path: of the picture to write.
    """
    seen = view is not None and store.open(view).header.get("what") in visible.SEEN
    heights = [1.5] * seen + [1.3, 0.6]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with style.styled():
        made = style.figure(10.6, 1.9 * sum(heights))
        panels = made.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        if seen:
            _seen(panels[0], table, view, names)
        _said(panels[-2], table, model.classes)
        _unlike(panels[-1], table)
        panels[0].set_title(table["recording"].iloc[0])
        start, stop = table["onset"].min(), (table["onset"] + table["duration"].fillna(1)).max()
        panels[-1].set_xlim(start / 60, stop / 60)
        panels[-1].set_xlabel("minutes")
        style.save(made, path, dpi=DPI)


# ---- panels -----------------------------------------------------------------------------


def _seen(axes, table, view, names):
    """Rows of the view side by side, each from its onset; of where they overlap the later one."""
    rows, header = visible.load([view], names)
    step, start, stop = _columns(table, rows, header)
    canvas = None
    for name, onset in zip(names, table["onset"], strict=True):
        images = visible.regions(rows[name], header).values()
        image = np.concatenate([visible.coloured(image, header) for image in images])
        times = _times(image, onset, table, header)
        if canvas is None:
            canvas = np.full((len(image), int(np.ceil((stop - start) / step)), 3), 255, np.uint8)
        at = ((times - start) / step).astype(int).clip(0, canvas.shape[1] - 1)
        canvas[:, at] = image
    lowest, highest, label = _height(header, len(canvas))
    extent = (start / 60, (start + canvas.shape[1] * step) / 60, lowest, highest)
    axes.imshow(canvas, aspect="auto", extent=extent, interpolation="nearest")
    axes.set_ylabel(label)


def _columns(table, rows, header):
    """(s between columns of the canvas, its start and its end)."""
    width = visible.coloured(
        next(iter(visible.regions(next(iter(rows.values())), header).values())), header
    ).shape[1]
    start, stop = table["onset"].min(), (table["onset"] + table["duration"]).max()
    step = header.get("seconds_per_column") or table["duration"].iloc[0] / width
    return max(step, (stop - start) / COLUMNS), start, stop


def _times(image, onset, table, header):
    """Seconds of the recording at the middle of each column of a row."""
    times = header.get("times")
    if times is None:
        n = image.shape[1]
        times = (np.arange(n) + 0.5) / n * table["duration"].iloc[0]
    return onset + np.asarray(times) - header.get("lag_s", 0.0)


def _height(header, n):
    if header["what"] == "spectrogram" and not header.get("regions"):
        frequencies = header["frequencies"]
        return min(frequencies), max(frequencies), "Hz"
    what = {"timeseries": "regions", "picture": "pixels"}.get(header["what"], "rows")
    return n, 0, what


def _said(axes, table, classes):
    """Probabilities, or the number, with the spread over folds and seeds."""
    x, usable = _middle(table), (table["usable"] == "yes").to_numpy()
    if classes:
        shown = classes[-1:] if len(classes) == 2 else classes
        colours = dict(zip(classes, style.colours([str(i) for i in range(len(classes))]).values(),
                           strict=True))  # fmt: skip
        if len(shown) == 1:
            colours = {shown[0]: style.BLUE}
        for name in shown:
            axes.plot(x, table[f"p_{name}"], color=colours[name], linewidth=1.2, label=name)
        best = table[[f"p_{name}" for name in classes]].max(axis=1)
        middle = table[f"p_{shown[0]}"] if len(shown) == 1 else best
        axes.set_ylim(-0.02, 1.02)
        axes.axhline(1 / len(classes), color=style.GREY, linewidth=0.8, linestyle=":")
        axes.set_ylabel(f"probability of\n{shown[0]}" if len(shown) == 1 else "probability")
    else:
        middle = table["value"]
        axes.plot(x, middle, color=style.BLUE, linewidth=1.2)
        axes.set_ylabel("number")
    if len(table) == 1:
        axes.plot(x, middle, "o", color=style.BLUE)
    axes.fill_between(x, middle - table["spread"], middle + table["spread"], color=style.BLUE,
                      alpha=0.2, linewidth=0, label="spread of folds and seeds")  # fmt: skip
    unlike = (table["usable"] == "unlike").to_numpy()
    _mark(axes, table, unlike, style.ORANGE, "unlike the training data")
    _mark(axes, table, ~usable & ~unlike, style.GREY, "not usable")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=8, borderaxespad=0.1)


def _unlike(axes, table):
    axes.plot(
        _middle(table), table["unlike"], color=style.INK, linewidth=1, marker=".", markersize=2
    )
    axes.axhline(1, color=style.ORANGE, linewidth=1)
    highest = table["unlike"].max()
    if highest > 10:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(1.5, 1.1 * (0 if np.isnan(highest) else highest)))
    axes.set_ylabel("unlike")


def _mark(axes, table, marked, colour, label):
    """Shade the windows that are marked, neighbours as one stretch."""
    if not marked.any():
        return
    onset = table["onset"].to_numpy(float)
    step = np.median(np.diff(onset)) if len(onset) > 1 else table["duration"].iloc[0]
    middle = _middle(table)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(int), [0]])))
    for first, last in zip(edges[::2], edges[1::2] - 1, strict=True):
        span = middle[first] - step / 120, middle[last] + step / 120
        axes.axvspan(*span, color=colour, alpha=0.25, linewidth=0, label=label)
        label = None


def _middle(table):
    """Minutes at the middle of each window."""
    return (table["onset"] + table["duration"].fillna(0) / 2).to_numpy(float) / 60
