"""Write what stands in the schema and in the Options of each component for people and editors.

config/README.md has it as tables, workflow/schemas/config.editor.json as a schema of the whole
configuration, with which an editor completes keys and marks misspelt ones.

python docs/options.py          write them
python docs/options.py --check  fail if they are out of date
"""

import ast
import json
import re
import sys
from pathlib import Path

import yaml

from engram.planning import component_checks, components, plan

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "config/README.md"
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
EDITOR = ROOT / "workflow/schemas/config.editor.json"
MARK = "<!-- tables: written by docs/options.py -->"

#: Names of types in JSON schemas.
TYPES = {
    "float": "number", "int": "integer", "str": "string", "bool": "boolean", "dict": "object",
    "list": "array", "tuple": "array",
}  # fmt: skip


def tables() -> str:
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    experiments = schema["properties"]["experiments"]["additionalProperties"]["properties"]
    comparisons = schema["properties"]["comparisons"]["additionalProperties"]["properties"]
    predict = schema["properties"]["predict"]["additionalProperties"]["properties"]
    evaluation = schema["properties"]["evaluation"]["properties"]
    tracking = schema["properties"]["tracking"]["properties"]["wandb"]["properties"]
    checkpoints = schema["properties"]["checkpoints"]["additionalProperties"]["properties"]
    backbones = schema["$defs"]["backbones"]["additionalProperties"]["properties"]
    sections = [
        section("`experiments.<name>`", from_schema(experiments)),
        section("`checkpoints.<name>`", from_schema(checkpoints)),
        section("`backbones.<name>`, of every kind", from_schema(backbones)),
        section("`backbones.<name>.pretrain`", from_schema(backbones["pretrain"]["properties"])),
        contract(backbones["takes"]["properties"]),
        section("`datasets.<name>.source`", from_schema(schema["$defs"]["source"]["properties"])),
        section("`comparisons.<name>`", from_schema(comparisons)),
        section("`predict.<name>`", from_schema(predict)),
        section("`evaluation`", from_schema(evaluation)),
        section("`tracking.wandb`", from_schema(tracking)),
    ]
    for family in (*plan.FAMILIES, "objectives"):
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


def contract(keys):
    """What every kind of backbone takes, a line each; as `takes` of a backbone may change it."""
    lines = [
        "### What backbones take\n",
        "Rows of another kind are refused before anything runs. What else differs is converted",
        "where that is defined (order by name, rate, scale, unit) or refused; `takes` of a",
        "backbone overrides what its kind declares.\n",
        "| kind | rows, and what their view has to state | what the rows have to be |",
        "|---|---|---|",
    ]
    for kind in components.kinds("backbones"):
        whats, others = components.taken({"backbone": {"kind": kind}})
        rows = " or ".join(
            f"{what} ({', '.join(f'`{fact}`' for fact in facts)})" if facts else what
            for what, facts in whats.items()
        )
        asked = "; ".join(f"`{key}`: {said(others[key])}" for key in keys if key in others)
        lines.append(f"| `{kind}` | {rows} | {asked or 'any'} |")
    return "\n".join([*lines, ""])


def said(value):
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def from_schema(properties):
    for key, facts in properties.items():
        yield key, f"`{facts['default']}`" if "default" in facts else "", facts["description"]


def from_options(title, family, kind):
    """The section of a component, after those of the shared options that it extends."""
    meaning, beside = {}, None
    *shared, own = components.options_classes(family, kind)
    for options in shared:
        text = options.doc
        meaning |= described(text)
        heading = text.partition(".")[0]
        yield section(heading, fields(options, meaning), beside)
        beside = heading
    yield section(title, fields(own, meaning | described(own.doc)), beside)


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


def editor() -> dict:
    """A schema of the configuration for editors, in words that draft 7 has too.

    A study is an overlay: it may give any part of what the whole has to have.
    """
    schema = _without_required(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    pretrain = schema["$defs"]["backbones"]["additionalProperties"]["properties"]["pretrain"]
    pretrain["properties"] |= {
        key: facts
        for kind in components.kinds("objectives")
        for key, facts in options_schema("objectives", kind).items()
    }
    pretrain["additionalProperties"] = False
    for family in plan.FAMILIES:
        found = schema["$defs"]["backbones" if family == "backbones" else "components"]
        common = found["additionalProperties"]["properties"]
        schema["properties"][family] = {
            "type": "object",
            "additionalProperties": of_family(family, common),
        }
    del schema["$defs"]["backbones"], schema["$defs"]["components"]
    return schema | {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Written by docs/options.py.",
    }


def _without_required(schema):
    if isinstance(schema, dict):
        return {k: _without_required(v) for k, v in schema.items() if k != "required"}
    return [_without_required(v) for v in schema] if isinstance(schema, list) else schema


def of_family(family, described_keys):
    """Schema of a component: its keys are those of its kind, or of any kind where it has none."""
    kinds = {kind: options_schema(family, kind) for kind in components.kinds(family)}
    keys = component_checks.COMMON_KEYS[family]
    common = {key: described_keys.get(key, {"type": "string"}) for key in keys}
    common["kind"] = {"enum": list(kinds), "description": f"a file in `src/engram/{family}`"}
    either = {}
    for options in kinds.values():
        for key, facts in options.items():
            bare = {k: v for k, v in facts.items() if k not in ("description", "default")}
            either.setdefault(key, {"anyOf": []})
            if bare not in either[key]["anyOf"]:
                either[key]["anyOf"].append(bare)
    has_kind = {"required": ["kind"]}
    branches = [{"if": {"not": has_kind}, "then": _only(either, common)}]
    branches += [
        {
            "if": has_kind | {"properties": {"kind": {"const": kind}}},
            "then": _only(options, common),
        }
        for kind, options in kinds.items()
    ]
    return {"type": "object", "properties": common, "allOf": branches}


def _only(options, common):
    return {"properties": options | dict.fromkeys(common, True), "additionalProperties": False}


def options_schema(family, kind):
    """The options of a component by name: type, meaning, default."""
    meaning, found = {}, {}
    for options in components.options_classes(family, kind):
        meaning |= described(options.doc)
        for node in options.body:
            if isinstance(node, ast.AnnAssign):
                key = node.target.id
                found[key] = {"description": meaning[key], **typed(node.annotation)}
                if isinstance(node.value, ast.Constant):
                    found[key]["default"] = node.value.value
    return found


def typed(annotation):
    """JSON schema of the values that `configuration.check` takes for an annotation."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            return {"anyOf": [typed(left), typed(right)]}
        case ast.Constant(value=None):
            return {"type": "null"}
        case ast.Name(id=name):
            return {"type": TYPES[name]}
        case ast.Subscript(value=ast.Name(id="Literal"), slice=allowed):
            return {"enum": list(ast.literal_eval(ast.Tuple(_several(allowed), ast.Load())))}
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return {"type": "array", "items": typed(item)}
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=items)):
            n = len(items)
            return {"type": "array", "items": typed(items[0]), "minItems": n, "maxItems": n}
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, item])):
            names = {"propertyNames": typed(key)} if isinstance(key, ast.Subscript) else {}
            return {"type": "object", "additionalProperties": typed(item), **names}
    raise ValueError(f"no JSON schema for {ast.unparse(annotation)}")


def _several(node):
    return node.elts if isinstance(node, ast.Tuple) else [node]


def compact(text):
    """JSON whose innermost lists and objects, such as an option, stand on one line each."""
    for innermost in (r"\[[^][{}]*\]", r"\{[^{}]*\}"):
        text = re.sub(innermost, lambda found: re.sub(r"\n *", " ", found[0]), text)
    return text


def main():
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    written = {
        PAGE: f"{head}{MARK}\n\n{tables()}",
        EDITOR: compact(json.dumps(editor(), indent=1, sort_keys=True)) + "\n",
    }
    for path, text in written.items():
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} is out of date: run `make format`")


if __name__ == "__main__":
    main()
