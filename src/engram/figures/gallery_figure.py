"""Pictures that were seen, and the five that the EEG of all subjects comes nearest to."""

import numpy as np
import pandas as pd

from engram.figures import style, visible
from engram.measures import ranking

BY_LOT, GOOD, BAD = "drawn by lot", "from the best quarter", "from the worst quarter"


def mean_similarity(predicted) -> pd.DataFrame:
    """Similarity of each picture seen (index) to every candidate (columns), sorted by name.

    The mean over all rows of that picture, of whatever subject, and over the real runs.

    Args:
        predicted: similarities (n, runs, m); header with candidates and runs; table with
            `stimulus`, the picture seen, and `fewer`, 0 where all repetitions are averaged.
    """
    real = [i for i, run in enumerate(predicted.header["runs"]) if not run["shuffled"]]
    whole = predicted.table["fewer"].to_numpy() == 0
    mean = predicted.array[whole][:, real].astype(np.float64).mean(1)
    frame = pd.DataFrame(mean, columns=predicted.header["candidates"])
    return frame.groupby(predicted.table["stimulus"].to_numpy()[whole]).mean()


def examples(predicted, n=8, nearest=5, seed=0) -> list[dict]:
    """Some pictures seen: half drawn by lot, a quarter of the best ranked, a quarter of the worst.

    Args:
        predicted: as for `mean_similarity`.
        n: how many at most.
        nearest: how many of the nearest candidates.
        seed: of the lot.

    Returns:
        dicts of `name`, `why`, `rank` (float, 1 is best), `nearest` (names, nearest first) and
        `concept`, all names that occur mapped to their concept.
    """
    similarity = mean_similarity(predicted)
    truth = similarity.columns.get_indexer(similarity.index)
    rank = pd.Series(ranking.ranks(similarity.to_numpy(), truth), similarity.index)
    concepts = dict(zip(predicted.table["stimulus"], predicted.table["concept"], strict=True))
    found = []
    for name, why in _drawn(rank, n, np.random.default_rng(seed)):
        order = np.argsort(-similarity.loc[name].to_numpy(), kind="stable")[:nearest]
        near = list(similarity.columns[order])
        found.append(
            {
                "name": name,
                "why": why,
                "rank": float(rank[name]),
                "nearest": near,
                "concept": {one: concepts.get(one, "") for one in (name, *near)},
            }
        )
    return found


def _drawn(rank, n, rng):
    """(name, why) of up to `n` names, none twice."""
    mixed = rank.iloc[rng.permutation(len(rank))]
    lot, rest = mixed.iloc[: n // 2], mixed.iloc[n // 2 :]
    ordered = rest.sort_values(kind="stable")
    quarter = max(len(ordered) // 4, min(n // 4, len(ordered) // 2))
    for why, names in (
        (BY_LOT, lot.index),
        (GOOD, ordered.index[:quarter]),
        (BAD, ordered.index[len(ordered) - quarter :]),
    ):
        count = len(names) if why == BY_LOT else min(n // 4, len(names))
        yield from ((names[i], why) for i in rng.permutation(len(names))[:count])


def gallery_figure(chosen, rows, header, simulated=False):
    """Figure of two columns of examples: the picture seen, then the nearest, the true one framed.

    Args:
        chosen: from `examples`.
        rows: pixels by picture name, from `visible.load`.
        header: of the view.
        simulated: written on the figure if so.
    """
    across = max(len(one["nearest"]) for one in chosen)
    half = (len(chosen) + 1) // 2
    width = 2 * (SIDE + APART + across * (SIDE + GAP)) + BETWEEN + 2 * EDGE
    height = half * LINE + EDGE + (TITLE if simulated else 0)
    made = style.figure(width, height)
    made.set_layout_engine("none")  # pictures of one size, whatever is written beside them
    if simulated:
        look = {"color": style.PINK, "fontweight": "bold", "va": "top"}
        made.text(EDGE / width, 1 - EDGE / height, "SIMULATED DATA", **look)
    for place, one in enumerate(chosen):
        column, line = divmod(place, half)
        left = EDGE + column * (width - 2 * EDGE + BETWEEN) / 2
        _example(made, left, (half - 1 - line) * LINE + WORDS, one, rows, header)
    return made


#: Inches: of a picture, between pictures, after the one seen, between the two columns of
#: examples, around everything, for words below and above a picture, and of a whole line.
SIDE, GAP, APART, BETWEEN, EDGE = 0.78, 0.06, 0.14, 0.3, 0.08
WORDS, TITLE = 0.23, 0.24
LINE = SIDE + WORDS + TITLE + 0.06


def _example(made, left, bottom, one, rows, header):
    """Draw one example, its first picture `left` and `bottom` inches into the figure."""
    width, height = made.get_size_inches()

    def axes(x):
        return made.add_axes(((left + x) / width, bottom / height, SIDE / width, SIDE / height))

    seen = axes(0)
    _picture(seen, rows[one["name"]], header, f"seen: rank {one['rank']:g}")
    seen.set_title(f"{one['concept'][one['name']]}, {one['why']}", fontsize=8)
    for place, name in enumerate(one["nearest"]):
        frame = style.GREEN if name == one["name"] else None
        beside = axes(SIDE + APART + place * (SIDE + GAP))
        _picture(beside, rows[name], header, str(place + 1), frame)


def _picture(axes, row, header, text, frame=None):
    """Draw one picture, with words below it and, if it is the true one, a frame."""
    axes.imshow(visible.coloured(row, header), interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(text, fontsize=7.5, labelpad=4, color=style.INK)
    axes.spines[:].set_visible(frame is not None)
    if frame:
        axes.spines[:].set(color=frame, linewidth=3.5)
        axes.xaxis.label.set(color=frame, fontweight="bold")
