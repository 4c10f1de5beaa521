"""What a model must not be used for, as far as it follows from what is known of it."""

from engram.cards.words import counted, data, interval, listed, number, p_value, score
from engram.flags import FLAGS

LEVEL = 0.05  # p above which a score is that of chance
RANDOM = "random_weights"

#: Flags under which the score is none of new data, each with what it is not to be used for.
INFLATED = {
    "leaks": "Expecting its score of new recordings: training windows share data or scans with "
    "those that tested, so the score is inflated.",
    "seen": "Expecting its score of new subjects: the weights of the backbone have seen subjects "
    "that tested, without their labels.",
    "published_protocol": "Expecting its score of new data: the epoch was chosen on the test data, "
    "as published.",
    "test_statistics": "Expecting its score of new data: what is predicted is scaled by the test "
    "set, as published.",
}


def not_for(card):
    """Yield (because, sentence), the gravest first.

    Args:
        card: see `engram.cards.facts.describe`.
    """
    flags = [flag["name"] for flag in card["flags"]]
    yield from _at_all(card, flags)
    for flag in flags:
        if FLAGS[flag].inflates:
            otherwise = f"Expecting its score of new data: {FLAGS[flag].text}."
            yield flag, INFLATED.get(flag, otherwise)
    if "simulated" in flags:
        yield (
            "simulated",
            "Conclusions about people, or recordings of people: all that it was trained and tested "
            "on is simulated.",
        )
    if "circular" in flags:
        yield (
            "circular",
            "Measuring what its labels stand for: they were derived from the same EEG that it "
            "reads, so it has learnt the rule that made them.",
        )
    yield from _of_people(card)
    yield from _of_baseline(card)
    yield from _of_rows(card)
    yield from _of_what_it_says(card)
    yield from _of_owners(card, flags)


def _at_all(card, flags):
    """Reasons to use it for nothing."""
    if RANDOM in flags:
        yield (
            RANDOM,
            "Anything: its backbone has random weights. It shows that the chain runs, and no more.",
        )
    reached = card["reached"]
    row = reached["metrics"][0]
    value, chance, p = row["value"], row["chance"], row["p"]
    if value is None or p is None:
        yield (
            "unmeasured",
            "Anything: whether it is better than chance could not be measured.",
        )
    elif p > LEVEL or (chance is not None and value <= chance):
        yield (
            "chance",
            f"Anything: its {score(row['metric'])} of {number(value)} is no better than chance "
            f"({number(chance)}; {p_value(p)}).",
        )


def _of_people(card):
    reached = card["reached"]
    if "new subjects" not in reached["generalises_to"]:
        yield (
            "known_subjects",
            f"People on whom it was not trained: it was tested on {reached['generalises_to']}, "
            "never on new subjects.",
        )
    yield (
        "decisions",
        "Decisions about a person, clinical ones among them: what is known of it rests on "
        f"{counted(reached['sample']['subjects'], 'subject')} of one data set, tested "
        f"{reached['tested']}.",
    )


def _of_baseline(card):
    reached = card["reached"]
    row = reached["metrics"][0]
    gained, p = row["difference"], row["difference_p"]
    if gained is None or (gained > 0 and p is not None and p <= LEVEL):
        return
    signed = f"{gained:+.3f}".replace("-", "−")
    gain = f"{signed}{interval(row['difference_low'], row['difference_high'])}; {p_value(p)}"
    yield (
        "baseline",
        f"A task that {reached['baseline']} can do: over this baseline {score(row['metric'])} "
        f"changes by {gain}.",
    )


def _of_rows(card):
    told = (
        " Where the column unlike of its predictions is above 1, a row is farther from the "
        "training rows than 99 in 100 rows of new subjects of that data set, and what is said of "
        "it means nothing."
    )
    unlike = f"Rows unlike those of {data(card)}, the one data set that it knows."
    yield "unlike", unlike + told * card["reached"]["refitted"]
    whole = [one["source"] for one in card["takes"] if one["view"].get("transductive")]
    if whole:
        yield (
            "whole_scan",
            f"Recordings that are not over: rows of {listed(whole)} are scaled by the whole scan.",
        )


def _of_what_it_says(card):
    this, models = card["predicts"], card["fit"]["models"]
    if this["what"] == "classes":
        yield (
            "classes",
            f"Telling anything but {listed(this['classes'])}: whatever a row is, it is called one "
            "of these.",
        )
    elif this["what"] == "number":
        unit = f" {this['unit']}" if this["unit"] else ""
        yield (
            "range",
            f"People whose {this['column']} is not within {number(this['low'], 2)} to "
            f"{number(this['high'], 2)}{unit}, where it was trained.",
        )
    elif this["what"] == "pictures":
        yield (
            "gallery",
            "Telling what was seen where it may not be in the gallery: one of its pictures is "
            "always nearest.",
        )
    if len(models) > 1:
        yield (
            "own_models",
            f"Rows of one subject through the model of another: {listed(models)} have one each.",
        )


def _of_owners(card, flags):
    licences = {}
    if "simulated" not in flags:
        stated = filter(None, (card["data"].get("licence"), card["data"].get("terms")))
        licences["the data"] = "; ".join(stated) or "not stated here, ask its owner"
    for one in card["takes"]:
        if licence := one.get("backbone", {}).get("licence"):
            licences[f"the weights of {one['backbone']['name']}"] = licence
    if licences:
        found = "; ".join(f"of {of}: {licence}" for of, licence in licences.items())
        yield "licences", f"What the licences forbid of what it was made from: {found}."
