"""A comparison as figures: a row a backbone with scores, gains, neighbours; likeness of spaces."""

import numpy as np

from engram.figures import style
from engram.figures.subjects import heights, number, title

LONGEST = 34  # letters of a name beside a figure
WEIGHED = "Trained minus random weights"
TWIN = 0.36  # how far below its row a control stands


def comparison_figure(found):
    """Figure of two panels: the score of each member, and the neighbours of its rows.

    A member with random weights is hollow, and stands below the member whose control it is.
    Where there are controls, a panel between the two shows what trained weights gain over them.

    Args:
        found: a comparison, as `comparison.build` makes it, read back from JSON.
    """
    rows = places(found["members"])
    names = [m for m in found["members"] if rows[m["experiment"]] % 1 == 0]
    weighed = any(m["gain"] for m in found["members"])
    made = style.figure(12.0 if weighed else 9.6, 1.35 + 0.42 * len(names))
    panels = made.subplots(1, 2 + weighed, sharey=True, width_ratios=(3, 2, 2)[: 2 + weighed])
    left, right = panels[0], panels[-1]
    _scores(left, found["members"], rows)
    if weighed:
        _gains(panels[1], found["members"], rows)
    _neighbours(right, found["members"], rows, found["rows"]["neighbours"])
    for axes in panels:
        axes.grid(axis="x", color=style.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    left.set_yticks(range(len(names)), [shortened(m["title"]) for m in names])
    left.set_ylim(len(names) - 0.3, -0.6)
    _legend(made, left, found["members"], "outside upper left")
    return made


def places(members) -> dict[str, float]:
    """Row of each member, by experiment: whole numbers from the top; a control a bit below."""
    twins = {m["experiment"]: m["control_of"] for m in members if m["control_of"]}
    own = [m["experiment"] for m in members if m["experiment"] not in twins]
    rows = {name: float(row) for row, name in enumerate(own)}
    return rows | {name: rows[of] + TWIN for name, of in twins.items()}


def _scores(axes, members, rows):
    height = heights({name for m in members for name in m["subjects"]})
    for member in members:
        row, colour = rows[member["experiment"]], _colour(member)
        dots = [(v, row + 0.2 * height[s]) for s, v in member["subjects"].items() if number(v)]
        if dots and not member["control_of"]:
            axes.scatter(*zip(*dots, strict=True), s=9, color=style.GREY, alpha=0.55, linewidths=0)
        if number(member["low"]) and number(member["high"]):
            width = 1.2 if "random_weights" in member["flags"] else 2.4
            axes.plot([member["low"], member["high"]], [row, row], color=colour, linewidth=width)
        if number(member["value"]):
            axes.scatter(member["value"], row, s=40, zorder=3, **_mark(member, colour))
    chance = [m["chance"] for m in members if number(m["chance"])]
    if chance:
        axes.axvline(np.mean(chance), color=style.INK, linewidth=1, linestyle=(0, (3, 2)))
    for member in members:
        if member["is_baseline"] and number(member["value"]):
            axes.axvline(member["value"], color=style.ORANGE, linewidth=1, zorder=1)
    axes.set_title(title(members[0]["metric"]) if members else "")


def _gains(axes, members, rows):
    height = heights({name for m in members if m["gain"] for name in m["gain"]["subjects"]})
    for member in members:
        row, gain = rows[member["experiment"]], member["gain"]
        if not gain or not number(gain["difference"]):
            continue
        if gain["metric"] != "accuracy":  # of one row a subject, which is won, lost or neither
            dots = [(v, row + 0.2 * height[s]) for s, v in gain["subjects"].items()]
            axes.scatter(*zip(*dots, strict=True), s=9, color=style.GREY, alpha=0.55, linewidths=0)
        if number(gain["low"]) and number(gain["high"]):
            axes.plot([gain["low"], gain["high"]], [row, row], color=style.BLUE, linewidth=2.4)
        axes.scatter(gain["difference"], row, s=40, zorder=3, color=style.BLUE, linewidths=0)
    axes.axvline(0, color=style.INK, linewidth=1)
    errors = any(m["gain"] and m["gain"]["metric"] == "mae" for m in members)
    axes.set_title("Error less than by random weights" if errors else WEIGHED)


def _neighbours(axes, members, rows, k):
    for member in members:
        for key, (colour, marker, below) in KINDS.items():
            row = rows[member["experiment"]] + below
            value, chance = member["purity"][key]
            if number(value):
                axes.plot([chance, value], [row, row], color=colour, linewidth=1, alpha=0.5)
                axes.scatter(chance, row, s=45, marker="|", color=colour, linewidths=1.2)
                axes.scatter(value, row, s=32, marker=marker, zorder=3, **_mark(member, colour))
    axes.set_title(f"Share of the {k} nearest windows")


#: What neighbours can have in common: its colour, its mark, and how far below its row it stands.
KINDS = {"state": (style.GREEN, "o", -0.07), "subject": (style.PINK, "s", 0.07)}


def _colour(member):
    return style.ORANGE if member["is_baseline"] else style.BLUE


def _mark(member, colour):
    """A filled mark, or for random weights a hollow one."""
    if "random_weights" in member["flags"]:
        return {"facecolors": "white", "edgecolors": colour, "linewidths": 1.4}
    return {"color": colour, "linewidths": 0}


def _legend(made, axes, members, place):
    def entry(label, marker, **look):
        return axes.scatter([], [], marker=marker, label=label, **look)

    entries = [
        entry("one subject", "o", s=9, color=style.GREY, alpha=0.6),
        entry("mean, 95 % interval", "o", s=40, color=style.BLUE),
        axes.plot([], [], color=style.INK, lw=1, ls=(0, (3, 2)), label="chance")[0],
    ]
    if any("random_weights" in m["flags"] for m in members):
        look = {"facecolors": "white", "edgecolors": style.BLUE, "linewidths": 1.4}
        entries.insert(2, entry("random weights", "o", s=40, **look))
    if any(m["is_baseline"] for m in members):
        entries.append(axes.plot([], [], color=style.ORANGE, lw=1, label="baseline")[0])
    for key, (colour, marker, _) in KINDS.items():
        if not any(number(m["purity"][key][0]) for m in members):
            continue
        entries.append(entry(f"same {key}", marker, s=32, color=colour))
    entries.append(entry("by chance", "|", s=45, color=style.GREY, linewidths=1.2))
    made.legend(handles=entries, loc=place, ncols=len(entries), columnspacing=1.0)


def shortened(name) -> str:
    """A name of at most `LONGEST` letters: the middle of longer ones is left out."""
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"


def cka_figure(cka):
    """Heat map of how alike the spaces are; each value is written where there is room.

    Args:
        cka: dict with titles and values, the `cka` of a comparison.
    """
    values = np.array(cka["values"], float)
    names = [shortened(name) for name in cka["titles"]]
    cell = 0.46 if len(names) <= 14 else 0.3
    label = 0.2 + 0.07 * max(map(len, names))
    made = style.figure(label + cell * len(names) + 0.9, 0.75 * label + cell * len(names) + 0.1)
    made.set_layout_engine("compressed")
    axes = made.subplots()
    shown = axes.imshow(np.clip(values, 0, 1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(values) if len(names) <= 14 else ():
        colour = "white" if value > 0.55 else style.INK
        text = f"{value:z.2f}".replace("0.", ".", 1) if number(value) else "–"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = made.colorbar(shown, ax=axes, shrink=0.6, aspect=18)
    bar.outline.set_visible(False)
    bar.set_label("linear CKA, debiased")
    return made
