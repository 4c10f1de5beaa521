"""What a retrieval experiment rests on: top-1 lost without a time window or a channel."""

import numpy as np

from engram.figures import style

MOST = 20  # channels shown


def importance_figure(found):
    """Figure of two panels: the drop in top-1 over time, and by channel, largest first.

    Args:
        found: what stage `occlude` measured, read back; None if it was not measured.
    """
    found = found or {}
    panels = [name for name in ("time", "channel") if found.get(name)]
    if not panels:
        return style.words("not measured for this experiment")
    channels = len(found["channel"]["names"]) if "channel" in panels else 0
    made = style.figure(10.6, max(2.8, 0.9 + 0.17 * min(channels, MOST)))
    drawn = made.subplots(1, len(panels), squeeze=False)[0]
    for axes, name in zip(drawn, panels, strict=True):
        {"time": _time, "channel": _channels}[name](axes, found)
        axes.set_axisbelow(True)
    return made


def _time(axes, found):
    time = found["time"]
    middle = np.array(time["starts"], float) + time["width"] / 2
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    if time["low"]:
        look = {"color": style.BLUE, "alpha": 0.2, "linewidth": 0}
        axes.fill_between(middle, time["low"], time["high"], **look)
    axes.plot(middle, time["lost"], color=style.BLUE, marker="o", markersize=3.5, linewidth=1.4)
    axes.grid(color=style.FAINT, linewidth=0.6)
    axes.set_xlabel("seconds from picture onset (middle of the window)")
    axes.set_ylabel("top-1 lost")
    axes.set_title(f"Without {1000 * time['width']:.0f} ms of EEG")


def _channels(axes, found):
    names = np.array(found["channel"]["names"])
    mean = np.array(found["channel"]["lost"])
    order = np.argsort(-mean, kind="stable")[:MOST]
    places = np.arange(len(order))
    axes.barh(places, mean[order], color=style.BLUE, height=0.7)
    if found["channel"]["low"]:
        low, high = (np.array(found["channel"][end])[order] for end in ("low", "high"))
        axes.hlines(places, low, high, color=style.INK, linewidth=1)
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    axes.set_yticks(places, names[order], fontsize=7.5)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=style.FAINT, linewidth=0.6)
    axes.set_xlabel("top-1 lost")
    some = f": the {len(order)} of {len(names)} that cost most" if len(names) > MOST else ""
    axes.set_title(f"Without one channel{some}")
