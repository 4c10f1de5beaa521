"""The part of the report on comparisons of backbones, for `comparison.html`."""

from engram.figures import findings
from engram.figures.findings import LEVEL, above, added, adjusted, call, value
from engram.figures.questions import NAMES
from engram.figures.subjects import number, title
from engram.flags import inflated


def found(comparison) -> dict:
    """What a comparison found: question, its title, and answer, a sentence.

    Said is what is gained over the best baseline, and what weights gain over random ones.

    Args:
        comparison: dict with title and members, as `engram.scores.comparison.build` describes
            them, and best_baseline, if it is known.
    """
    return {"question": comparison["title"], "answer": _answer(comparison)}


def _answer(comparison):
    honest = [m for m in comparison["members"] if number(m["value"]) and not inflated(m["flags"])]
    if not honest:
        return "Nothing is said of new data."
    data, name = findings.simulated(honest), _metric(honest[0])
    ps = adjusted([m["p"] for m in honest])
    told = [m for m, p in zip(honest, ps, strict=True) if above(m, p)]
    best = max(told or honest, key=lambda m: m["value"])
    numbers = f"{name} {value(best['value'])}"
    if number(best["low"]):
        numbers += f", {value(best['low'])} to {value(best['high'])}"
    if told:
        others = any(m["value"] > best["value"] for m in honest)
        head = f"{call(best)} scores highest{' of those above chance' * others} ({numbers})"
    else:
        none = "no backbone" if data else "No backbone"
        head = f"{none} was shown to be above chance (best {call(best)}, {numbers})"
    return data + "; ".join([head, *_over_best(comparison, honest), *_over_random(honest)]) + "."


def _metric(member):
    return NAMES.get(member["metric"], title(member["metric"]).lower())


def _over_best(comparison, honest):
    """Gains over the best baseline or, where none was looked for, over the one that is named."""
    members = {m["experiment"]: m for m in comparison["members"]}
    best = comparison.get("best_baseline")
    if best:
        own = [(m, m["over_best"]) for m in honest if m.get("over_best")]
        gains = [
            {"who": call(m), "random": "random_weights" in m["flags"], **gain}
            for m, gain in own if number(gain["difference"])
        ]  # fmt: skip
        over = f"the best baseline, {call(members[best])}"
    else:
        gains = [findings.gain(call(m), m, m, {}) for m in honest if number(m["difference"])]
        over = next((call(m) for m in members.values() if m["is_baseline"]), "the baseline")
    return [added(gains, over, others="models")] if gains else []


def _over_random(honest):
    """What trained weights gain over random ones."""
    gains = [
        {"who": call(m), **m["gain"]}
        for m in honest if m["gain"] and number(m["gain"]["difference"])
    ]  # fmt: skip
    if not gains:
        return []
    ps = adjusted([gain["p"] for gain in gains])
    sure = [g for g, p in zip(gains, ps, strict=True) if number(p) and p <= LEVEL and g["low"] > 0]
    best = max(sure or gains, key=lambda gain: gain["difference"])
    best_of = "best " * (len(gains) > 1)
    numbers = f"{best['who']}, {findings.interval(best)}"
    if not sure:
        return [f"trained weights were not shown to gain over random ones ({best_of}{numbers})"]
    share = f" in {len(sure)} of {len(gains)}" if len(gains) > 1 else ""
    return [f"trained weights gain over random ones{share} ({best_of}{numbers})"]
