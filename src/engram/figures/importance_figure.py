"""What a retrieval experiment rests on: top-1 lost without a time window or a channel."""

import numpy as np

from engram.figures import style

MOST = 20  # channels shown


def importance_figure(found):
    """Figure of two panels: the drop in top-1 over time, and by channel, largest first.

    Args:
        found: the `importance` of the scores; None if it was not measured.
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


def drops(full, without) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over subjects of the top-1 that is lost, and its 95 % interval (t distribution).

    Args:
        full: top-1 by subject.
        without: by subject, top-1 (k,) after each of k parts was set to zero.

    Returns:
        mean, low, high: (k,) each; low and high are NaN for one subject.
    """
    from scipy import stats

    each = np.array([full[name] - np.array(without[name], float) for name in sorted(without)])
    mean = each.mean(0)
    if len(each) < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf(0.975, len(each) - 1) * each.std(0, ddof=1) / np.sqrt(len(each))
    return mean, mean - half, mean + half


def _time(axes, found):
    time = found["time"]
    mean, low, high = drops(found["full"], time["top1"])
    middle = np.array(time["starts"], float) + time["width"] / 2
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    axes.fill_between(middle, low, high, color=style.BLUE, alpha=0.2, linewidth=0)
    axes.plot(middle, mean, color=style.BLUE, marker="o", markersize=3.5, linewidth=1.4)
    axes.grid(color=style.FAINT, linewidth=0.6)
    axes.set_xlabel("seconds from picture onset (middle of the window)")
    axes.set_ylabel("top-1 lost")
    axes.set_title(f"Without {1000 * time['width']:.0f} ms of EEG")


def _channels(axes, found):
    names = np.array(found["channel"]["names"])
    mean, low, high = drops(found["full"], found["channel"]["top1"])
    order = np.argsort(-mean, kind="stable")[:MOST]
    places = np.arange(len(order))
    axes.barh(places, mean[order], color=style.BLUE, height=0.7)
    axes.hlines(places, low[order], high[order], color=style.INK, linewidth=1)
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    axes.set_yticks(places, names[order], fontsize=7.5)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=style.FAINT, linewidth=0.6)
    axes.set_xlabel("top-1 lost")
    some = f": the {len(order)} of {len(names)} that cost most" if len(names) > MOST else ""
    axes.set_title(f"Without one channel{some}")
