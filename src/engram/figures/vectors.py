"""Figures of experiments whose y is vectors, and their scalars for TensorBoard."""

import numpy as np

from engram.figures import style, voxel_maps
from engram.figures.subjects import number, scalars, subjects_figure

__all__ = ["draw", "scalars"]

LOADS = False  # predictions are large, and what is drawn stands in the scores
UNLIKE = "mean_rank"  # has an axis of its own


def draw(scored, predicted, view, importance, figures):
    """Draw `subjects`, every score of every subject, and `targets`, r over all targets.

    Args: as for `engram.figures.plot.plot`, read; of these only `scored` is needed, and `view`,
        the stores of voxels, where these are predicted.
    """
    shown = [row for row in scored["metrics"] if row["metric"] != UNLIKE]
    style.save(subjects_figure({**scored, "metrics": shown}), figures["subjects"])
    style.save(targets_figure(scored, view), figures["targets"])


def targets_figure(scored, voxels=()):
    """How many targets of each subject are predicted how well, and R2 of each layer, if known.

    Of voxels R2 beside the noise ceiling, and where they lie.
    """
    layers, of_voxels = scored["layers"], scored["voxels"]
    made = style.figure(6.4, 3)
    if of_voxels:
        made = style.figure(6.4, 3 + 1.9 * len(of_voxels))
        heights = [3, 1.9 * len(of_voxels)]
        panels, below = made.subfigures(2, 1, height_ratios=heights)
        voxel_maps.draw(below, of_voxels, voxels)
        panels = panels.subplots(1, 2)
        voxel_maps.ceilings(panels[1], of_voxels, voxels, style.colours(of_voxels))
    else:
        panels = np.atleast_1d(made.subplots(1, 2 if layers else 1))
    bins, counts = scored["distribution"]["bins"], scored["distribution"]["counts"]
    shades = style.colours(counts)
    for subject, values in counts.items():
        panels[0].stairs(values, bins, color=shades[subject], label=subject, linewidth=1.4)
    panels[0].axvline(0, color=style.INK, linewidth=1, linestyle="--")
    panels[0].set(xlabel="Pearson r over test images", ylabel="targets")
    panels[0].legend()
    if layers:
        at = [layer["layer"] for layer in layers]
        for subject in counts:
            each = [layer["subjects"][subject][0] for layer in layers]
            values = [value if number(value) else np.nan for value in each]
            panels[1].plot(at, values, color=shades[subject], marker=".", linewidth=1)
        panels[1].axhline(0, color=style.INK, linewidth=1, linestyle="--")
        panels[1].set(xlabel="layer, coarsest first", ylabel="R²")
    return made
