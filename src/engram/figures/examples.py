"""Example rows of each class, drawn by lot, with their axes."""

import textwrap

import numpy as np

from engram.figures import style, visible


def choose(table, classes, n=5, seed=0) -> dict[str, list[str]]:
    """Names of up to `n` rows of every class, drawn by lot, of as many subjects as possible.

    Args:
        table: rows with columns `subject` and `y` (class index), indexed by name.
        classes: names of the classes.
    """
    rng = np.random.default_rng(seed)
    mixed = table.iloc[rng.permutation(len(table))]
    chosen = {}
    for y, name in enumerate(classes):
        rows = mixed[mixed["y"] == y]
        turn = rows.groupby("subject").cumcount()  # first of each subject, then second, ...
        chosen[name] = list(rows.index[np.argsort(turn, kind="stable")][:n])
    return chosen


def examples_figure(chosen, rows, header):
    """Figure of chosen rows: one line a class and region.

    Args:
        chosen: row names by class, from `choose`.
        rows: images by row name, from `visible.load`.
        header: of the view.
    """
    lines = [
        (state, region, [(name, visible.regions(rows[name], header)[region]) for name in found])
        for state, names in chosen.items()
        if (found := [name for name in names if name in rows])
        for region in visible.regions(rows[found[0]], header)
    ]
    columns = max(len(images) for _, _, images in lines)
    made = style.figure(1.4 + 1.84 * columns, 0.7 + 1.5 * len(lines))
    grid = made.subplots(len(lines), columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat:
        axes.set_visible(False)
    for across, (state, region, images) in zip(grid, lines, strict=True):
        for axes, (name, image) in zip(across, images, strict=False):
            axes.set_visible(True)
            mappable = _draw_one(axes, image, header)
            axes.set_title(name.rpartition("/")[0], fontsize=7.5, fontweight="normal")
        where = "\n" + textwrap.fill(region, 16) if region else ""
        across[0].set_ylabel(state + where, fontweight="normal" if region else "bold")
    if header["what"] == "spectrogram":
        unit = header["unit"].replace("uV", "µV").replace("^2", "²")
        made.colorbar(mappable, ax=grid, label=unit, aspect=30, pad=0.01)
        made.supxlabel("seconds from the onset of the window", fontsize=9)
        made.supylabel("frequency (Hz)", fontsize=9)
    if header["what"] == "timeseries":
        made.supxlabel("seconds from the onset of the window", fontsize=9)
        what = "channels" if header.get("modality") == "eeg" else "regions"
        made.supylabel(f"{what}, in standard deviations from black to white", fontsize=9)
    return made


def _draw_one(axes, image, header):
    axes.spines[:].set_visible(False)
    if header["what"] == "picture":
        axes.set_xticks([])
        axes.set_yticks([])
        return axes.imshow(image, aspect="auto", interpolation="none")
    low, high = header["limits"]
    return axes.imshow(
        image.astype(np.float32), extent=_extent(image.shape, header), vmin=low, vmax=high,
        cmap=header.get("cmap", "viridis"), origin="upper", aspect="auto", interpolation="none",
    )  # fmt: skip


def _extent(shape, header):
    """Edges of the picture: left, right (s), bottom, top (Hz), half a cell beyond the centres.

    Of series: seconds, and regions from the top.
    """
    if header["what"] == "timeseries":
        return (0, shape[1] * header["tr"], shape[0], 0)
    times, frequencies = np.asarray(header["times"]), np.asarray(header["frequencies"])
    high, low = frequencies[0], frequencies[-1]
    cell_x = (times[-1] - times[0]) / max(shape[1] - 1, 1)
    cell_y = (high - low) / max(shape[0] - 1, 1)
    return (times[0] - cell_x / 2, times[-1] + cell_x / 2, low - cell_y / 2, high + cell_y / 2)
