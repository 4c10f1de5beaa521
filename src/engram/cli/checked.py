"""What is said of recordings before a run: counts, reasons, everything that would be refused."""

import collections
import tempfile

import numpy as np

from engram.cli import across
from engram.errors import printable
from engram.figures import check_page
from engram.planning import components
from engram.tasks.rows import BY_CHANNEL, remedy

MOST_LINES = 40  # of recordings on a terminal; the page has all


def gathered(plan, looked, names, waiting, whole=None) -> dict:
    """Everything that the page and the terminal show, as plain data.

    Args:
        plan: of all that was asked for.
        looked: what was seen of each recording.
        names: of the datasets, in the order shown.
        waiting: {(dataset, why): recordings that were not looked at}.
        whole: of a look at headers alone, by dataset whether a view takes all channels.
    """
    kinds = {name: plan.config["datasets"][name]["kind"] for name in names}
    modules = {name: components.component("datasets", kind) for name, kind in kinds.items()}
    units = across.of_units(looked, modules)
    differing = across.differing(looked, whole)
    experiments = []
    if whole is None and looked and plan.config["experiments"]:
        with tempfile.TemporaryDirectory() as folder:
            experiments = across.of_experiments(plan, looked, folder)
    refused = [
        {"where": one.name, "what": what, "text": text, "sides": []}
        for one in looked
        for what, text in one.refused
    ]
    refused += [{"where": unit, "what": "unit", "text": text, "sides": []} for unit, text in units]
    refused += [
        {
            "where": dataset,
            "what": view,
            "text": f"recordings differ in {text}",
            "sides": [{"is": facts, "subjects": subjects} for facts, subjects in sides],
        }
        for dataset, view, text, sides in differing
    ]
    refused += [
        {"where": ", ".join(one.names), "what": "experiment", "text": one.refused, "sides": []}
        for one in experiments
        if one.refused
    ]
    return {
        "quick": whole is not None,
        "refused": refused,
        "refusals": len(refused),
        "datasets": [_dataset(plan, name, looked, waiting) for name in names],
        "experiments": [_experiment(plan, one) for one in experiments],
        "recordings": [_recording(one) for one in looked],
    }


def _dataset(plan, name, looked, waiting):
    this = [one for one in looked if one.dataset == name]
    read = [one for one in this if np.isfinite(one.duration)]
    return {
        "name": name,
        "title": plan.config["datasets"][name].get("title", name),
        "kind": plan.config["datasets"][name]["kind"],
        "windows": plan.config["datasets"][name].get("windows"),
        "subjects": len({one.subject for one in this}),
        "scans": len(this),
        "hours": sum(one.duration for one in read) / 3600,
        "not_here": waiting[name, "not here"],
        "no_windows": waiting[name, "no windows"],
        "signals": _signals(read),
        "views": [_view(name, [one.parts[name] for one in read if name in one.parts])
                  for name in dict.fromkeys(view for one in read for view in one.parts)],
        "classes": [line for view in dict.fromkeys(v for one in read for v in one.parts)
                    for line in _classes(view, read)],
    }  # fmt: skip


def _signals(read):
    """One line for each rate, unit and set of channels that recordings have, most common first."""
    found = collections.defaultdict(list)
    for one in read:
        for name, signal in one.signals.items():
            channels = tuple(sorted({*signal["channels"], *signal["bad"]}))
            found[name, signal["sfreq"], signal["unit"], channels].append(one)
    ordered = sorted(found.items(), key=lambda item: (item[0][0], -len(item[1])))
    return [
        {
            "name": name,
            "sfreq": sfreq,
            "unit": unit,
            "channels": list(channels),
            "recordings": len(scans),
            "subjects": list(dict.fromkeys(scan.subject for scan in scans)),
        }
        for (name, sfreq, unit, channels), scans in ordered
    ]


def _view(name, parts):
    """Windows of a view, and how many are left out by which reason and channel."""
    windows, reasons, channels = (
        0,
        collections.Counter(),
        collections.defaultdict(collections.Counter),
    )
    for part in parts:
        windows += len(part.table)
        left_out = part.table[part.table["exclude"] != ""]
        reasons.update(left_out["exclude"])
        for reason, names in zip(
            left_out["exclude"], left_out.get("bad_channels", ()), strict=False
        ):
            if reason in BY_CHANNEL:
                channels[reason].update(filter(None, names.split(", ")))
    return {
        "name": name,
        "windows": windows,
        "left_out": sum(reasons.values()),
        "reasons": [
            {
                "reason": reason,
                "windows": n,
                "channels": channels[reason].most_common(3),
                "remedy": remedy(reason, name),
            }
            for reason, n in reasons.most_common()
        ],
    }


def _classes(view, read):
    """Usable rows and subjects of each class of a view of labels; the range of numbers."""
    having = [(one.subject, one.parts[view]) for one in read if view in one.parts]
    having = [(subject, part) for subject, part in having if part.labels is not None]
    if not having:
        return []
    usable = [(s, p.labels[(p.table["exclude"] == "").to_numpy()]) for s, p in having]
    names = having[0][1].header.get("classes")
    if names is None:
        numbers = np.concatenate([labels for _, labels in usable])
        span = f"{numbers.min():g} to {numbers.max():g}" if len(numbers) else "none"
        subjects = {subject for subject, labels in usable if len(labels)}
        return [{"view": view, "class": span, "windows": len(numbers), "subjects": len(subjects)}]
    return [
        {
            "view": view,
            "class": name,
            "windows": int(sum((labels == i).sum() for _, labels in usable)),
            "subjects": len({subject for subject, labels in usable if (labels == i).any()}),
        }
        for i, name in enumerate(names)
    ]


def _experiment(plan, one):
    title = plan.known[one.names[0]].get("title", one.names[0])
    facts = {key: getattr(one, key) for key in ("names", "rows", "subjects", "folds", "refused")}
    classes = [{"class": c, "rows": n, "subjects": s} for c, (n, s) in one.classes.items()]
    asks = f"{' + '.join(plan.sources(one.names[0]))} → {' + '.join(plan.targets(one.names[0]))}"
    return facts | {"title": title, "asks": asks, "classes": classes, "excluded": one.excluded}


def _recording(one):
    signals = [
        {"name": name, **signal, "channels": signal["channels"]}
        for name, signal in one.signals.items()
    ]
    views = [_view(name, [part]) for name, part in one.parts.items()]
    labels = [line for view in one.parts for line in _classes(view, [one])]
    return {
        "dataset": one.dataset,
        "name": one.name,
        "file": one.files[0] if one.files else "",
        "duration": one.duration if np.isfinite(one.duration) else None,
        "signals": signals,
        "left_out": one.recorded.get("left_out", {}),
        "said": [
            *one.recorded.get("said", []),
            *(
                f"{what}: {', '.join(one.recorded[what])}"
                for what in ("deviating", "interpolated")
                if one.recorded.get(what)
            ),
        ],
        "events": one.events,
        "bad": one.bad,
        "views": views,
        "labels": labels,
        "refused": [text for _, text in one.refused],
        "picture": one.picture,
    }


def show(found, page):
    """Print what was found, as `gathered` has it, and where its page lies."""
    shown = found["recordings"]
    if len(shown) > MOST_LINES:
        shown = [one for one in shown if one["refused"]][:MOST_LINES]
    lines = [["recording", "channels", "Hz", "length", "windows left out", "labels", ""]]
    for one in shown:
        signals = one["signals"]
        lines.append(
            [
                printable(one["name"]),
                ", ".join(f"{len(s['channels'])} {s['name']}" for s in signals),
                ", ".join(f"{s['sfreq']:g}" for s in signals),
                check_page.clock(one["duration"]),
                ", ".join(f"{v['name']} {v['left_out']}/{v['windows']}" for v in one["views"]),
                printable(
                    ", ".join(f"{c['class']} {c['windows']}" for c in one["labels"] if c["windows"])
                ),
                "REFUSED" if one["refused"] else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines if shown else ():
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
    if len(shown) < len(found["recordings"]):
        print(f"{len(found['recordings']) - len(shown)} more recordings stand on the page")
    print()
    for dataset in found["datasets"]:
        print(check_page.in_words(dataset))
    for one in found["experiments"]:
        classes = ", ".join(f"{c['class']} {c['rows']} of {c['subjects']}" for c in one["classes"])
        what = f"{one['rows']} rows of {one['subjects']} subjects, {one['folds']} folds"
        said = "cannot run" if one["refused"] else f"{what}; {classes}".rstrip("; ")
        print(printable(f"{check_page.few(one['names'])}: {said}"))
    for one in found["refused"]:
        print(printable(f"REFUSED {one['where']} ({one['what']}): {one['text']}"))
        for side in one["sides"]:
            print(printable(f"    {side['is']}: {check_page.few(side['subjects'])}"))
    nothing = "nothing" if found["recordings"] else "no recording is here to be looked at; nothing"
    print(f"{found['refusals'] or nothing} would be refused; {page}")
