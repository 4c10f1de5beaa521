"""Write the tables of config/README.md from the schema and from the Options of each component.

python docs/options.py          write them
python docs/options.py --check  fail if they are out of date
"""

import ast
import re
import sys
from pathlib import Path

import yaml

from engram.planning import components, plan

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "config/README.md"
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
MARK = "<!-- tables: written by docs/options.py -->"


def tables() -> str:
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    experiments = schema["properties"]["experiments"]["additionalProperties"]["properties"]
    comparisons = schema["properties"]["comparisons"]["additionalProperties"]["properties"]
    evaluation = schema["properties"]["evaluation"]["properties"]
    tracking = schema["properties"]["tracking"]["properties"]["wandb"]["properties"]
    checkpoints = schema["properties"]["checkpoints"]["additionalProperties"]["properties"]
    backbones = schema["$defs"]["backbones"]["additionalProperties"]["properties"]
    sections = [
        section("`experiments.<name>`", from_schema(experiments)),
        section("`checkpoints.<name>`", from_schema(checkpoints)),
        section("`backbones.<name>`, of every kind", from_schema(backbones)),
        section("`datasets.<name>.source`", from_schema(schema["$defs"]["source"]["properties"])),
        section("`comparisons.<name>`", from_schema(comparisons)),
        section("`evaluation`", from_schema(evaluation)),
        section("`tracking.wandb`", from_schema(tracking)),
    ]
    for family in plan.FAMILIES:
        for kind in components.kinds(family):
            sections += from_options(f"`{family}`, kind `{kind}`", family, kind)
    return "\n".join(dict.fromkeys(sections))


def section(title, rows, beside=None):
    lines = [f"| `{key}` | {default} | {text} |" for key, default, text in rows]
    if not lines:
        lines = ["No options of its own.", ""]
    else:
        lines = ["| key | default | meaning |", "|---|---|---|", *lines, ""]
    if beside:
        link = re.sub(r"[^\w -]", "", beside.lower()).replace(" ", "-")
        lines = [f"Has the [{beside[0].lower()}{beside[1:]}](#{link}).", "", *lines]
    return "\n".join([f"### {title}\n", *lines])


def from_schema(properties):
    for key, facts in properties.items():
        yield key, f"`{facts['default']}`" if "default" in facts else "", facts["description"]


def from_options(title, family, kind):
    """The section of a component, after those of the shared options that it extends."""
    meaning, beside = {}, None
    *shared, own = components.options_classes(family, kind)
    for options in shared:
        text = ast.get_docstring(options)
        meaning |= described(text)
        heading = text.partition(".")[0]
        yield section(heading, fields(options, meaning), beside)
        beside = heading
    yield section(title, fields(own, meaning | described(ast.get_docstring(own))), beside)


def fields(options, meaning):
    """(key, default, meaning) of the fields that a class itself has, those required first."""
    rows = []
    for node in options.body:
        if isinstance(node, ast.AnnAssign):
            key, value = node.target.id, node.value
            default = shortened(f"`{ast.unparse(value)}`") if value else "required"
            rows.append((key, escaped(default), escaped(meaning[key])))
    return sorted(rows, key=is_optional)


def is_optional(row):
    return row[1] != "required"


def described(docstring):
    """What the `Attributes:` of a docstring say, by name; "a, b: text" describes both."""
    text = docstring.partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {
        name: re.sub(r"\s+", " ", meaning)
        for names, meaning in entries
        for name in names.split(", ")
    }


def shortened(default):
    found = re.fullmatch(r"`field\(default_factory=(?:lambda: )?(.*)\)`", default)
    return f"`{found[1]}`".replace("`list`", "`[]`").replace("`dict`", "`{}`") if found else default


def escaped(text):
    return text.replace("|", "\\|")


def main():
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    page = f"{head}{MARK}\n\n{tables()}"
    if "--check" in sys.argv:
        if page != PAGE.read_text(encoding="utf-8"):
            sys.exit(f"{PAGE.name} is out of date: run `make format`")
    else:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
