"""A minute of a recording with its marks: annotations, bad stretches, windows left out."""

import numpy as np

from engram.figures import style

MINUTE, LONG = 60.0, 600.0  # s that are drawn, of EEG and of slower signals
SLOW = 10.0  # Hz
MOST_CHANNELS = 16
MOST_LANES = 6
COLUMNS = 1200  # points of a trace at most, two each: its smallest and largest value there
SPREADS = 6.0  # robust standard deviations between the axes of two channels
LANE = 0.22  # inches
LETTERS = 12.0  # of a text in an inch
WIDTH, LEFT, RIGHT, TOP, BOTTOM, GAP = 9.0, 1.6, 0.15, 0.3, 0.5, 0.1  # inches


def draw(path, signals, events, bad, excluded):
    """Write the picture of the minute with most marks.

    Args:
        path: PNG to write.
        signals: by name, each with data (channel, time), sfreq (Hz), channels, unit, start (s);
            the first is drawn.
        events, bad: tables with onset, duration (s), description.
        excluded: by view, table of the windows left out, with onset, duration (s), exclude.
    """
    signal = next(iter(signals.values()))
    length = LONG if signal.sfreq < SLOW else MINUTE
    start = _start(length, signal, events, bad, excluded)
    lanes = _lanes(events, bad, excluded, (start, start + length))
    shown = _shown(signal, excluded)
    above, below = max(0.9, LANE * len(shown)), max(LANE * len(lanes), 0.05)
    with style.styled():
        made = style.figure(WIDTH, TOP + above + GAP + below + BOTTOM)
        made.set_layout_engine("none")  # measuring texts takes longer than drawing
        traces = _axes(made, BOTTOM + below + GAP, above)
        marks = _axes(made, BOTTOM, below)
        _traces(traces, signal, shown, (start, start + length))
        _marks(marks, lanes, (start, start + length))
        for axes in (traces, marks):
            axes.set_xlim(start, start + length)
        marks.set_xlabel("seconds from the start of the recording")
        style.save(made, path, dpi=100)


def _axes(made, bottom, height):
    """Axes at so many inches from the bottom."""
    whole = made.get_figheight()
    return made.add_axes(
        [LEFT / WIDTH, bottom / whole, (WIDTH - LEFT - RIGHT) / WIDTH, height / whole]
    )


def _start(length, signal, events, bad, excluded):
    """Start (s) of the stretch in which most marks begin or end, the first of equals."""
    last = signal.start + signal.data.shape[1] / signal.sfreq
    edges = [events["onset"], bad["onset"], bad["onset"] + bad["duration"]]
    edges += [table["onset"] for table in excluded.values()]
    edges = np.concatenate([np.asarray(one, float) for one in edges])
    starts = np.arange(0, max(last - length, 0) + 1e-9, length / 2)
    inside = (edges > starts[:, None]) & (edges < starts[:, None] + length)
    return float(starts[inside.sum(1).argmax()])


def _shown(signal, excluded):
    """Positions of the channels that are drawn: those that leave out most windows first."""
    names = list(signal.channels)
    named = [one for table in excluded.values() for one in table.get("bad_channels", ())]
    blamed = [name for names_ in named for name in names_.split(", ") if name]
    rank = {name: -blamed.count(name) for name in {*blamed}}
    order = sorted(range(len(names)), key=lambda i: rank.get(names[i], 0))
    worst = [i for i in order if names[i] in rank][: MOST_CHANNELS // 2]
    rest = [i for i in range(len(names)) if i not in worst]
    free = min(MOST_CHANNELS - len(worst), len(rest))
    spaced = [rest[round(i)] for i in np.linspace(0, len(rest) - 1, free)] if free else []
    return sorted({*worst, *spaced})


def _traces(axis, signal, shown, span):
    first, stop = (max(0, round((at - signal.start) * signal.sfreq)) for at in span)
    data = signal.data[:, first:stop][shown]
    centre = np.array([_finite(np.nanmedian, row) for row in data])
    spread = np.array([_finite(_robust, row) for row in data])
    step = SPREADS * (np.median(spread[spread > 0]) if (spread > 0).any() else 1.0)
    for lane, (row, middle) in enumerate(zip(data, centre, strict=True)):
        at, values = _envelope((row - middle) / step, signal.sfreq)
        at = at + signal.start + first / signal.sfreq
        axis.plot(at, np.clip(values, -1.4, 1.4) - lane, color=style.BLUE, lw=0.5)
    axis.set_yticks(-np.arange(len(shown)), [str(signal.channels[i])[:18] for i in shown])
    axis.set_ylim(-len(shown) + 0.3, 0.7)
    axis.tick_params(axis="y", length=0, labelsize=7 if len(shown) > 8 else 8)
    axis.tick_params(axis="x", bottom=False, labelbottom=False)
    axis.spines["bottom"].set_visible(False)
    left = len(signal.channels) - len(shown)
    scale = f"{step:.3g} {signal.unit} from one channel to the next"
    if len(signal.channels) == 1:
        axis.set_ylim(-1.4, 1.4)
        scale = f"{2.8 * step:.3g} {signal.unit} from bottom to top"
    axis.set_title(scale + (f"; {left} more channels are not drawn" if left else ""))


def _finite(measure, row):
    return float(measure(row)) if np.isfinite(row).any() else 0.0


def _robust(row):
    return 1.4826 * np.nanmedian(np.abs(row - np.nanmedian(row)))


def _envelope(row, sfreq):
    """Times (s) and values of a trace, thinned to its extremes."""
    size = -(-len(row) // COLUMNS)
    if size < 3:
        return np.arange(len(row)) / sfreq, row
    row = row[: len(row) // size * size].reshape(-1, size)
    ends = np.stack([row.min(1), row.max(1)], 1).ravel()
    return np.repeat(np.arange(len(row)) * size / sfreq, 2), ends


def _lanes(events, bad, excluded, span):
    """(name, colour, [(onset, duration, text)]) of what reaches into the stretch."""
    found = [("annotations", style.GREEN, _within(events, "description", span))]
    found.append(("bad", style.PALETTE[4], _within(bad, "description", span)))
    for view, table in excluded.items():
        found.append((f"left out: {view}", style.ORANGE, _within(table, "exclude", span)))
    lanes = []
    for name, colour, marks in found:
        rows = []
        for mark in marks:  # those that overlap stand below each other
            row = next((r for r in rows if r[-1][0] + _width(r[-1], span) <= mark[0]), None)
            rows.append([mark]) if row is None else row.append(mark)
        lanes += [(name if i == 0 else "", colour, row) for i, row in enumerate(rows[:MOST_LANES])]
    return lanes


def _width(mark, span):
    return max(mark[1], (span[1] - span[0]) / 20)


def _within(table, text, span):
    reach = (table["onset"] < span[1]) & (table["onset"] + table["duration"] >= span[0])
    chosen = table[reach].sort_values("onset", kind="stable")
    return list(zip(chosen["onset"], chosen["duration"], chosen[text], strict=True))


def _marks(axis, lanes, span):
    length = span[1] - span[0]
    for lane, (_, colour, marks) in enumerate(lanes):
        for onset, duration, text in marks:
            begin, stop = max(onset, span[0]), min(onset + duration, span[1])
            width = max(stop - begin, length / 400)
            axis.barh(-lane, width, left=begin, height=0.8, color=colour, alpha=0.35)
            axis.plot([begin, begin], [-lane - 0.4, -lane + 0.4], color=colour, lw=1.2)
            room = int(max(width / length, 0.05) * (WIDTH - LEFT - RIGHT) * LETTERS)
            shown = text if len(text) <= room else f"{text[: room - 1]}…"
            axis.text(begin + length / 400, -lane, shown, va="center", fontsize=7, clip_on=True)
    axis.set_yticks(-np.arange(len(lanes)), [name[:26] for name, *_ in lanes])
    axis.set_ylim(-len(lanes) + 0.4, 0.6)
    axis.tick_params(axis="y", length=0, labelsize=7)
    axis.spines["left"].set_visible(False)
