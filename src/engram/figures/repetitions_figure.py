"""How much is found by how many repetitions of a test picture are averaged."""

import numpy as np

from engram.figures import style


def repetitions_figure(scored):
    """Figure of top-1 and top-5 by number of repetitions; a line a subject, the mean, chance.

    Args:
        scored: scores of a retrieval experiment, with `repetitions` and, if they are simulated,
            `attainable`.
    """
    found = scored.get("repetitions")
    if not found:
        return style.words("not measured for this experiment")
    if len(found["counts"]) < 2:
        return style.words(
            f"{found['counts'][0]} repetition of every test picture was compared: there is no curve"
        )
    panels = [k for k in (1, 5) if k <= scored["candidates"]]
    made = style.figure(10.6, 3.1)
    drawn = made.subplots(1, len(panels), squeeze=False)[0]
    for axes, k in zip(drawn, panels, strict=True):
        _panel(axes, k, found, scored)
    _legend(made, drawn[0], scored)
    return made


def _panel(axes, k, found, scored):
    counts, name = found["counts"], f"top{k}"
    attainable = scored.get("attainable")
    if attainable:
        at, ends = attainable["counts"], attainable[name]
        axes.fill_between(at, ends["low"], ends["high"], **PREDICTED)
        axes.plot(at, ends["best"], **BEST)
        axes.plot(at, ends["linear"], **LINEAR)
    each = np.array([found[name][subject] for subject in sorted(found[name])], float)
    for values in each:
        axes.plot(counts, values, **SUBJECT)
    axes.plot(counts, each.mean(0), **MEAN)
    if len(each) > 1:
        low, high = np.transpose(found["interval"][name])
        axes.vlines(counts, low, high, color=style.BLUE, linewidth=2.4)
    axes.axhline(k / scored["candidates"], **CHANCE)
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_ylim(0, min(axes.get_ylim()[1], 1.02))
    axes.grid(color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("repetitions averaged")
    axes.set_title(f"Top-{k} among {scored['candidates']} pictures")


SUBJECT = {"color": style.GREY, "linewidth": 0.8, "alpha": 0.6}
MEAN = {"color": style.BLUE, "linewidth": 1.6, "marker": "o", "markersize": 5, "zorder": 3}
CHANCE = {"color": style.INK, "linewidth": 1, "linestyle": (0, (3, 2))}
PREDICTED = {"color": style.GREEN, "alpha": 0.16, "linewidth": 0}
BEST = {"color": style.GREEN, "linewidth": 1.4}
LINEAR = {"color": style.GREEN, "linewidth": 1.4, "linestyle": (0, (1, 1.2))}


def _legend(made, axes, scored):
    entries = [
        axes.plot([], [], label="one subject", **SUBJECT)[0],
        axes.plot([], [], label="mean, 95 % interval over subjects", **MEAN)[0],
        axes.plot([], [], label="chance", **CHANCE)[0],
    ]
    if scored.get("attainable"):
        entries += [
            axes.plot([], [], label="best possible", **BEST)[0],
            axes.plot([], [], label="least squares", **LINEAR)[0],
            axes.fill_between([], [], [], label="what the simulation predicts", **PREDICTED),
        ]
    made.legend(handles=entries, loc="outside upper left", ncols=len(entries), columnspacing=1.2)
