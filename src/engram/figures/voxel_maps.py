"""Where in the brain voxels are predicted, as flat pictures, and how near to their ceilings."""

import numpy as np
from scipy.spatial import cKDTree

from engram import store
from engram.figures import style

SHOWN = 2000  # voxels of a subject in the panel of ceilings
VIEWS = (("from the left", 1, 2), ("from the front", 0, 2), ("from above", 0, 1))
AXES = ("x", "y", "z")


def ceilings(axes, r2, voxels, shades):
    """R2 of each voxel over its noise ceiling; none can lie above the line but by chance.

    Args:
        axes: to draw into.
        r2: {subject: (p,)}, None of a voxel that does not change.
        voxels: paths of the stores of the view `voxels`.
        shades: {subject: colour}.
    """
    rng = np.random.default_rng(0)
    for subject, ceiling, values, _ in _read(r2, voxels):
        some = rng.permutation(len(values))[:SHOWN]
        axes.scatter(
            ceiling[some], values[some], s=4, alpha=0.4, linewidths=0, color=shades[subject],
            rasterized=True,
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=style.INK, linewidth=1, linestyle="--")
    axes.set(xlabel="noise ceiling of a voxel", ylabel="R²", xlim=(0, 1), ylim=(-0.3, 1))


def draw(made, r2, voxels):
    """Three flat pictures of each subject, the largest R2 along the line of sight.

    Voxels lie where the affine of their volume puts them, in mm: in the space of the subject, so
    that no outline of a template fits them.

    Args:
        made: figure or part of one to draw into.
        r2, voxels: as of `ceilings`.
    """
    found = list(_read(r2, voxels))
    panels = made.subplots(len(found), len(VIEWS), squeeze=False)
    most = max(np.nanmax(values, initial=0.1) for _, _, values, _ in found)
    for row, (subject, _, values, places) in zip(panels, found, strict=True):
        for axes, (title, across, up) in zip(row, VIEWS, strict=True):
            picture, extent = flat(values, places, across, up)
            shown = axes.imshow(
                picture, extent=extent, origin="lower", cmap="viridis", vmin=0, vmax=most,
                interpolation="nearest",
            )  # fmt: skip
            axes.set(xlabel=f"{AXES[across]} (mm)", ylabel=f"{AXES[up]} (mm)")
            axes.set_title(f"{subject}, {title}", fontsize=8)
            axes.tick_params(labelsize=7)
    made.colorbar(shown, ax=panels, label="R², largest along the line of sight", shrink=0.8)


def flat(values, places, across, up) -> tuple[np.ndarray, list[float]]:
    """The largest value along the third axis on a grid as fine as the voxels.

    Args:
        values: (p,); NaN is no value.
        places: mm (p, 3).
        across, up: axes of the picture.

    Returns:
        (rows, columns), from below and from the left, NaN where no voxel is; and its extent in mm,
        [left, right, bottom, top].
    """
    edge = cKDTree(places).query(places, 2)[0][:, 1].min() if len(places) > 1 else 1.0
    low = places.min(0)
    at = np.round((places - low) / edge).astype(int)
    picture = np.full(at.max(0)[[up, across]] + 1, np.nan)
    for row, column, value in zip(at[:, up], at[:, across], values, strict=True):
        picture[row, column] = np.fmax(picture[row, column], value)
    ends = [(low[axis] - edge / 2, low[axis] + edge * (n - 0.5)) for axis, n in
            ((across, picture.shape[1]), (up, picture.shape[0]))]  # fmt: skip
    return picture, [float(end) for pair in ends for end in pair]


def _read(r2, voxels):
    """(subject, noise ceiling (p,), R2 (p,), places (p, 3)) of each subject."""
    stores = [store.open(path) for path in voxels]
    for subject, values in r2.items():
        (own,) = (one for one in stores if one.table["subject"].iloc[0] == subject)
        used = np.flatnonzero(own.table["exclude"] == "")
        places = own.table[[*AXES]].to_numpy(float)[used]
        yield subject, own[used].astype(float), np.array(values, float), places
