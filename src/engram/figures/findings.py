"""What was found: one sentence a question, made from its numbers and fixed rules.

A question is a data set, a target and what scores hold for, such as new subjects.  Rules:

- Scores that are no estimate for new data (`engram.flags.inflated`) take no part.
- Something is told only where p against chance, adjusted over the experiments of the question
  (Holm 1979), is at most `LEVEL` and the interval lies above chance and 0.
- The experiment named is the best of those without a baseline that reach this, else the best that
  does; a gain is said to be one under the same rule, adjusted over all gains.
- "Adds nothing beyond the margin" needs a test of equivalence; without it, no gain was shown.
- What changes the reading follows: a control as high, a rival as good, what is left without it.
"""

import math

from engram.figures.questions import NAMES, scope, words
from engram.figures.subjects import number, title
from engram.flags import FLAGS, inflated, ordered
from engram.measures.inference import holm

LEVEL = 0.05
CONTROL = 0.025  # p below which a control is not at chance
AS_HIGH = 0.9  # share of a score above chance that a control as high as the score has

#: By what a gain is paired where it is not the score itself.
OF = {"mae": " of error", "accuracy": " in accuracy"}


def found(experiments) -> list[dict]:
    """What was found, for each question of some experiments on one data set and target.

    Args:
        experiments: dicts with name, task, title, target, flags, config and scores.

    Returns:
        dicts question and answer, both sentences.
    """
    by_scope = {}
    honest = [this for this in experiments if not inflated(this["flags"])]
    for this in honest:
        by_scope.setdefault(this["scores"]["generalises_to"], []).append(this)
    if not honest:
        first = experiments[0]
        return [{"question": f"{words(first).question}?", "answer": _nothing(experiments)}]
    told = [{"question": question(of), "answer": _sentence(of)} for of in by_scope.values()]
    left = len(experiments) - len(honest)
    if left:
        told[-1]["answer"] += (
            f" {left} more experiment{'s' * (left > 1)}, marked, say{'s' * (left == 1)} nothing "
            "of new data."
        )
    return told


def question(experiments) -> str:
    """What experiments ask, with their scope where they share it."""
    scopes = {scope(this["scores"]["generalises_to"]) for this in experiments}
    where = f", {scopes.pop()}" if len(scopes) == 1 else ""
    return f"{words(experiments[0]).question}{where}?"


def _nothing(experiments):
    marks = ordered(flag for this in experiments for flag in this["flags"])
    marks = [FLAGS[name].text for name in marks if FLAGS[name].inflates]
    return f"Nothing is said of new data: {', '.join(marks)}."


# ---- one question -------------------------------------------------------------------------


def _sentence(members):
    said = words(members[0])
    rows = {this["name"]: row for this in members if (row := _row(this, said.metric))}
    scored = [this for this in members if this["name"] in rows]
    where, data = scope(members[0]["scores"]["generalises_to"]), simulated(members)
    untold = f"{data}{_small(said.untold)}" if data else said.untold
    if not scored:
        return f"{untold} {where}: no score is defined."
    ps = adjusted([rows[this["name"]]["p"] for this in scored])
    told = [this for this, p in zip(scored, ps, strict=True) if above(rows[this["name"]], p)]
    if not told:
        return f"{untold} {where} ({_best(said, scored, rows, ps)})."
    this = _named(told, rows)
    row = rows[this["name"]]
    head = f"{data}{call(this)} {said.told} {where} ({_score(said, row)})"
    return (
        "; ".join([head, *_added(this, scored, rows, said), *doubts(this, row, said.digits)]) + "."
    )


def _row(this, metric):
    """The line of a score, None if it has no value."""
    rows = (row for row in this["scores"]["metrics"] if row["metric"] == metric)
    return next((row for row in rows if number(row["value"])), None)


def adjusted(ps) -> list[float]:
    """p values after Holm, in their order; NaN where there is none."""
    return holm([p if number(p) else math.nan for p in ps]).tolist()


def above(row, p) -> bool:
    """Whether a score is shown to be above chance, and above 0.

    R² of models of moved numbers lies below 0: a score between the two is worse than that of saying
    the mean of the training rows.
    """
    return (
        number(p) and p <= LEVEL and number(row["low"]) and row["low"] > max(row["chance"] or 0, 0)
    )


def _named(told, rows):
    """The experiment that a sentence is about."""
    without = [this for this in told if not number(rows[this["name"]]["difference"])]
    return max(without or told, key=lambda this: rows[this["name"]]["value"])


def _best(said, scored, rows, ps):
    """The best score and its p, where none is shown to be above chance."""
    this, p = max(zip(scored, ps, strict=True), key=lambda one: rows[one[0]["name"]]["value"])
    who = f"best of {len(scored)}: " * (len(scored) > 1) + call(this)
    return f"{who}, {_score(said, rows[this['name']])}; {_tested(this, p, sum(map(number, ps)))}"


def _tested(this, p, tests):
    """The p of one of some tests, and why a small one says nothing or none can be small."""
    if not number(p):
        return "not tested against chance"
    if p <= LEVEL:
        return f"p {_p(p)}, but the interval does not lie above chance"
    floor = (this["scores"].get("null") or {}).get("floor") or this["scores"].get("p_min")
    if not number(floor) or tests * floor <= LEVEL:
        return f"p {_p(p)}"
    return f"p {_p(p)}, which cannot be below {_p(min(tests * floor, 1))}"


def _score(said, row):
    name = NAMES.get(said.metric, title(said.metric).lower())
    text = f"{name} {value(row['value'], said.digits)}"
    if number(row["low"]) and number(row["high"]):
        text += f", {value(row['low'], said.digits)} to {value(row['high'], said.digits)}"
    if number(row["chance"]) and said.metric != "r2":
        text += f"; chance {value(row['chance'], said.digits)}"
    return text


# ---- gains --------------------------------------------------------------------------------


def _added(this, scored, rows, said):
    """What experiments add to their baselines, as clauses: one or none."""
    itself = number(rows[this["name"]]["difference"])
    others = [one for one in scored if number(rows[one["name"]]["difference"])]
    others = [this] if itself else others
    if not others:
        return []
    baselines = {one["scores"]["baseline"] for one in others}
    titles = {one["name"]: call(one) for one in scored}
    over = titles.get(baselines.pop(), "its baseline") if len(baselines) == 1 else "its baseline"
    over = "it" if over == titles[this["name"]] else over
    gains = [gain(call(one), one, rows[one["name"]], _settings(one)) for one in others]
    return [added(gains, over, said.digits, itself)]


def _settings(this):
    return this["scores"].get("settings") or {}


def gain(who, this, row, settings) -> dict:
    """A gain, as `added` reads it.

    Args:
        who: what gains, in words; this: dict with its flags; row: a score; settings: with margin.
    """
    keys = ("difference", "difference_low", "difference_high", "difference_p")
    return {
        "who": who,
        "random": "random_weights" in this["flags"],
        "margin": settings.get("margin"),
        **{key.removeprefix("difference_"): row[key] for key in keys},
        **{key: row.get(key) for key in ("detectable", "equivalence_p")},
    }


def added(gains, over, digits=2, itself=False, others="others") -> str:
    """What was gained over something, as a clause.

    Args:
        gains: dicts who, difference, low, high, p, detectable, equivalence_p, margin and random,
            whether its weights are random.
        over: what it is gained over, in words.
        digits: of numbers.
        itself: whether the only gain is that of the subject of the sentence.
        others: what gains, in the plural.
    """
    ps, n = adjusted([one["p"] for one in gains]), len(gains)
    for one, p in zip(gains, ps, strict=True):
        sure = number(p) and p <= LEVEL and number(one["low"])
        one["more"], one["less"] = sure and one["low"] > 0, sure and one["high"] < 0
    best = max(gains, key=lambda one: (one["more"], one["difference"]))
    who, numbers = "it" if itself else best["who"], interval(best, digits)
    if more := sum(one["more"] for one in gains):
        if n == 1:
            return f"{who} adds to {over} ({numbers})"
        return f"{more} of {n} {others} add{'s' * (more == 1)} to {over} (most {who}, {numbers})"
    if all(one["less"] for one in gains):
        if n == 1:
            return f"{who} falls short of {over} ({numbers})"
        return f"all {n} {others} fall short of {over} (least {who}, {numbers})"
    return _nothing_added(gains, best, who, over, digits, others)


def _nothing_added(gains, best, who, over, digits, others):
    numbers = interval(best, digits)
    equivalent = adjusted([one["equivalence_p"] for one in gains])
    if all(number(p) and p <= LEVEL for p in equivalent):
        margin = f" of {best['margin']:g}" if number(best.get("margin")) else ""
        if len(gains) == 1:
            return f"{who} adds nothing to {over} beyond the margin{margin} ({numbers})"
        none = f"none of {len(gains)} {others} adds to {over} beyond the margin{margin}"
        return f"{none} (best {who}, {numbers})"
    if number(best["detectable"]):
        numbers += f"; a gain of {value(best['detectable'], digits)} shows in 4 of 5 such studies"
    if len(gains) == 1:
        return f"{who} was not shown to add to {over} ({numbers})"
    kind = " with random weights" if all(one["random"] for one in gains) else ""
    return f"none of {len(gains)} {others}{kind} was shown to add to {over} (best {who}, {numbers})"


def interval(gain, digits=2) -> str:
    """A gain with its interval."""
    text = signed(gain["difference"], digits)
    text += OF.get(gain.get("metric"), "")
    if number(gain["low"]) and number(gain["high"]):
        text += f", {signed(gain['low'], digits)} to {signed(gain['high'], digits)}"
    return text


# ---- what changes the reading -------------------------------------------------------------


def doubts(this, row, digits=2) -> list[str]:
    """Clauses about what else explains a score.

    Args:
        this: an experiment; row: the score; digits: of numbers.
    """
    found = []
    if control_as_high(row):
        too = " too" if _reaches(row) else ", above chance"
        found.append(
            f"but trained on shuffled labels it reaches {value(row['control'], digits)}{too}"
        )
    for rival in this["scores"].get("rivals") or ():
        if explains(rival, row):
            found.append(
                f"but {rival['name']} alone reaches {value(rival['value'], digits)}, "
                "which it was not shown to exceed"
            )
    model = this["scores"].get("sensitivity") or {}
    chance = row["chance"] or 0
    at_first = number(model.get("low")) and model["low"] > chance
    for one in model.get("without") or () if at_first else ():
        if number(one["value"]) and number(one["low"]) and one["low"] <= chance:
            of = "the subject" if one["of"] == ["subject"] else ", ".join(one["of"])
            found.append(
                f"without {of} a linear model reaches {value(one['value'], digits)}, not shown to "
                "be above chance"
            )
    return found


def control_as_high(row) -> bool:
    """Whether training on moved labels scores so high that the score says little of the labels."""
    if not (number(row["control"]) and number(row["value"]) and number(row["chance"])):
        return False
    if number(row["control_p"]) and row["control_p"] <= CONTROL:
        return row["control"] > row["chance"]
    return _reaches(row)


def _reaches(row):
    """Whether the control has nearly all that the score is above chance."""
    gained = row["value"] - row["chance"]
    return gained > 0 and row["control"] - row["chance"] >= AS_HIGH * gained


def explains(rival, row) -> bool:
    """Whether a rival is above chance, and the score not shown to be above the rival."""
    if not number(rival["value"]):
        return False
    chance = row["chance"] or 0
    low = rival.get("low")
    above = low > chance if number(low) else rival["value"] > chance
    p, gained = rival.get("difference_p"), rival.get("difference")
    beaten = number(p) and p <= LEVEL and number(gained) and gained > 0
    return above and not beaten


# ---- words --------------------------------------------------------------------------------


def value(number_, digits=2) -> str:
    """A number with the minus sign of print."""
    return f"{number_:z.{digits}f}".replace("-", "−")


def signed(number_, digits=2) -> str:
    """A number with its sign."""
    return f"{number_:+z.{digits}f}".replace("-", "−")


def call(this) -> str:
    """The title of an experiment in a sentence, with its random weights."""
    named = "random" in this["title"].lower() or "random_weights" not in this["flags"]
    title = f"“{this['title']}”" if "," in this["title"] else this["title"]
    return title if named else f"{title} (random weights)"


def simulated(experiments) -> str:
    """How a sentence begins where all of them rest on simulated data."""
    return "In simulated data, " * all("simulated" in this["flags"] for this in experiments)


def _p(p):
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _small(text):
    return text[:1].lower() + text[1:]
