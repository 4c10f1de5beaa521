"""The card to read: Markdown with front matter as model hubs read it."""

import json

from engram.cards.words import data, interval, number, p_value, score

#: Columns of the table of scores.
COLUMNS = ("score", "value", "chance", "p", "SD over seeds", "baseline", "gain", "p of the gain")


def markdown(card) -> str:
    """The page of a card.

    Args:
        card: its facts, with `not_for` and `sections`.
    """
    parts = [
        _front(card),
        f"# {card['title']}",
        _lead(card),
        *_list("What must be known", [flag["text"] for flag in card["flags"]]),
        *_list("What it must not be used for", [one["text"] for one in card["not_for"]]),
        *(part for section in card["sections"] for part in _section(section)),
        _scores(card["reached"]),
        *_list("What limits its scores", card["warnings"]),
        _use(card["use"]),
    ]
    return "\n\n".join(parts) + "\n"


def _front(card):
    """YAML; every value is JSON, which is YAML too."""
    licence = card["data"].get("licence")
    tags = ["engram", card["task"], card["data"]["name"], *(f["name"] for f in card["flags"])]
    facts = {
        **({"license": "other", "license_name": licence} if licence else {}),
        "tags": list(dict.fromkeys(tags)),
        "datasets": [card["data"].get("published_as") or card["data"]["name"]],
    }
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items())
    return "\n".join(["---", *lines, "---"])


def _lead(card):
    return (
        f"The model that experiment `{card['experiment']}` keeps for use, of {data(card)}. "
        f"File `{card['file']['name']}`, SHA-256 `{card['file']['sha256']}`; all that stands here, "
        f"and more, in `{card['experiment']}.json`."
    )


def _list(title, lines):
    return [f"## {title}", "\n".join(f"- {line}" for line in lines)] if lines else []


def _section(section):
    lines = "\n".join(f"| {label} | {_cell(text)} |" for label, text in section["lines"])
    return f"## {section['title']}", f"| | |\n|---|---|\n{lines}"


def _cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def _scores(reached):
    lines = []
    for row in reached["metrics"]:
        gained = "–" if row["difference"] is None else f"{row['difference']:+.3f}"
        cells = (
            score(row["metric"]),
            number(row["value"]) + interval(row["low"], row["high"]),
            number(row["chance"]),
            _p(row["p"]),
            number(row["seed_sd"]),
            number(row["baseline"]),
            gained.replace("-", "−") + interval(row["difference_low"], row["difference_high"]),
            _p(row["difference_p"]),
        )
        lines.append(" | ".join(cells))
    head = " | ".join(COLUMNS)
    rule = "|".join("---" for _ in COLUMNS)
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {line} |" for line in lines)])


def _p(p):
    return "–" if p is None else p_value(p).removeprefix("p ").removeprefix("= ")


def _use(use):
    python, console = f"```python\n{use['python']}\n```", f"```console\n{use['console']}\n```"
    return f"## Use\n\n{python}\n\nFrom the command line, of recordings or stores:\n\n{console}"
