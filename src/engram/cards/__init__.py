"""Cards: what a kept model is, what it reached in new subjects, what it must not be used for.

Everything on a card follows from what the file of the model states and from the scores of its
experiment; nothing is written by hand, and no parameter is read.
"""

import json
from pathlib import Path

from engram import store
from engram.cards import facts as of_card
from engram.cards.limits import not_for
from engram.cards.page import markdown
from engram.cards.words import sections, use
from engram.errors import InputError
from engram.readers import pretrained_weights


def card(model, scores, facts, page, spec, made_by):
    """Stage `card`: write the card of one model, once as JSON and once to read.

    Args:
        model: path of the file of stage `train`, of which only the header is read.
        scores: path of the scores of the same experiment.
        facts: JSON file to write, see `engram.cards.facts.describe`; beside these it has
            `not_for`, what the model must not be used for, each with the reason `because`;
            `sections`, lines of words on the rest; and `use`, examples.
        page: Markdown file to write, with front matter that a model hub reads.
        spec: dict with `experiment`, `title`, `data` (what its owner says of the data set) and
            `licences` of weights, by source.
        made_by: provenance of the job; the digest of `model` stands among its inputs.

    Raises:
        InputError: no model was kept in the file.
    """
    known = pretrained_weights.facts(model)
    if "kept" not in known:
        raise InputError(f"{model}: holds no model for use; train it again with this version")
    scored = json.loads(Path(scores).read_text("utf-8"))
    found = of_card.describe(known, scored, spec, str(model), made_by["inputs"][str(model)])
    found["not_for"] = [{"because": why, "text": text} for why, text in not_for(found)]
    found |= {"sections": sections(found), "use": use(found)}
    _write(facts, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False))
    _write(page, markdown(found))


def _write(path, text):
    with store.replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
