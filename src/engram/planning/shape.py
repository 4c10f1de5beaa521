"""The shape of a configuration: keys and types, checked against its schema in plain words.

Standard library only, like `engram.planning.plan`.
"""

import ast
import difflib
import json
import math
import operator
import re

from engram.errors import InputError

#: What a value is called that has a type of a JSON schema.
WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "keys with values",
    "null": "null",
}

#: The same by the name of a type in an annotation.
TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "dict": "object",
}


#: Bounds of a number in a JSON schema: what a value has to fulfil, and how that is said.
BOUNDS = {
    "minimum": (operator.ge, "{} or more"),
    "exclusiveMinimum": (operator.gt, "more than {}"),
    "exclusiveMaximum": (operator.lt, "less than {}"),
}


def check(value, schema, where="", root=None):
    """Refuse a value that does not have the shape of a JSON schema.

    Of the schema are read: $ref, anyOf, type, enum, required, properties, additionalProperties,
    items, minItems, minLength, minProperties, minimum, exclusiveMinimum, exclusiveMaximum and
    pattern.

    Args:
        value: as YAML gives it.
        schema: the JSON schema, a dict.
        where: the key that holds the value, e.g. "views.spectrogram".
        root: the schema in which a `$ref` is looked up, by default `schema`.

    Raises:
        InputError: names the key, what is expected there and what to write.
    """
    root = schema if root is None else root
    schema = _fitting(value, _alternatives(schema, root), where)
    if "enum" in schema and value not in schema["enum"]:
        raise InputError(f"{where}: {expected(_one_of(schema['enum']), value)}")
    if isinstance(value, dict):
        _check_keys(value, schema, where, root)
    elif isinstance(value, list):
        _check_items(value, schema, where, root)
    elif isinstance(value, str):
        fits = re.search(schema.get("pattern", ""), value)
        if not fits or len(value) < schema.get("minLength", 0):
            raise InputError(f"{where}: {expected(schema['description'], value)}")
    elif isinstance(value, int | float):
        _check_range(value, schema, where)


def filled(value, schema, root=None):
    """A value that fits a JSON schema, with the defaults of its properties where it has no key.

    What is deprecated is left out: studies that still say it are read, and nothing is made again.
    """
    root = schema if root is None else root
    schema = _fitting(value, _alternatives(schema, root), "")
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties") or {}
        value = {
            key: filled(item, known.get(key, others), root)
            for key, item in value.items()
            if not known.get(key, {}).get("deprecated")
        }
        for key, one in known.items():
            if "default" in one:
                value.setdefault(key, one["default"])
        return value
    if isinstance(value, list):
        return [filled(item, schema.get("items", {}), root) for item in value]
    return value


def _alternatives(schema, root):
    """The schemas of which a value has to fit one, without references."""
    if "$ref" in schema:
        return _alternatives(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return [found for one in schema["anyOf"] for found in _alternatives(one, root)]
    types = schema.get("type")
    return [schema | {"type": kind} for kind in types] if isinstance(types, list) else [schema]


def _fitting(value, alternatives, where):
    for schema in alternatives:
        if "type" not in schema or _is(value, schema["type"]):
            return schema
    words = " or ".join(dict.fromkeys(WORDS[schema["type"]] for schema in alternatives))
    raise InputError(f"{where or 'configuration'}: {expected(words, value)}")


def _is(value, kind):
    """Whether a value of YAML has a type of JSON schemas; a number is finite."""
    match kind:
        case "number":
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and math.isfinite(value)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "null":
            return value is None
    named = {"string": str, "boolean": bool, "array": list, "object": dict}
    return isinstance(value, named[kind])


def _check_keys(value, schema, where, root):
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    if len(value) < schema.get("minProperties", 0):
        raise InputError(f"{where}: needs {schema['minProperties']} or more keys, has {len(value)}")
    for key, item in value.items():
        if not isinstance(key, str):
            raise InputError(f"{where or 'configuration'}: a key is text; write {str(key)!r}")
        below = f"{where}.{key}" if where else key
        if key not in known and others is False:
            raise InputError(f"{below}: unknown key{did_you_mean(key, known)}")
        check(item, known.get(key, others or {}), below, root)
    for key in schema.get("required", ()):
        if key not in value:
            wanted = known.get(key, {}).get("description", "")
            prefix = f"{where}: " if where else ""
            raise InputError(f"{prefix}`{key}` is missing{': ' if wanted else ''}{wanted}")


def _check_items(value, schema, where, root):
    if len(value) < schema.get("minItems", 0):
        raise InputError(f"{where}: needs {schema['minItems']} or more, has {len(value)}")
    for i, item in enumerate(value):
        check(item, schema.get("items", {}), f"{where}[{i}]", root)


def _check_range(value, schema, where):
    for key, (within, words) in BOUNDS.items():
        if key in schema and not within(value, schema[key]):
            raise InputError(f"{where}: has to be {words.format(schema[key])}, is {value}")


# ---- options of a component -----------------------------------------------------------


def check_option(value, annotation, where):
    """Refuse a value that does not have the type that the source text of an annotation says.

    Args:
        value: as YAML gives it.
        annotation: of a field of `Options`, parsed (`ast.expr`).
        where: the key that holds the value.

    Raises:
        InputError: names the key, what is expected there and what to write.
    """
    if not _fits(annotation, value):
        raise InputError(f"{where}: {expected(in_words(annotation), value)}")


def _fits(annotation, value):
    match annotation:
        case ast.BinOp(left=left, right=right):
            return _fits(left, value) or _fits(right, value)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id=name) if name in TYPES:
            return _is(value, TYPES[name])
        case ast.Subscript(value=ast.Name(id="Literal"), slice=allowed):
            return value in _literals(allowed)
        case ast.Subscript(value=ast.Name(id="list" | "tuple"), slice=item):
            return isinstance(value, list) and _items_fit(item, value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, item])):
            return isinstance(value, dict) and all(
                _fits(key, k) and _fits(item, v) for k, v in value.items()
            )
    return True


def _items_fit(annotation, values):
    """Items of a list, each of one type, or as many as the annotation of a tuple names."""
    if not isinstance(annotation, ast.Tuple):
        return all(_fits(annotation, value) for value in values)
    first, *others = annotation.elts
    if others and ast.unparse(others[0]) == "...":
        return all(_fits(first, value) for value in values)
    both = zip(annotation.elts, values, strict=False)
    return len(values) == len(annotation.elts) and all(_fits(a, v) for a, v in both)


def _literals(node):
    return [ast.literal_eval(n) for n in (node.elts if isinstance(node, ast.Tuple) else [node])]


def in_words(annotation) -> str:
    """What an annotation asks for: `list[int] | None` is "a list of whole numbers or null"."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            return f"{in_words(left)} or {in_words(right)}"
        case ast.Constant(value=None):
            return "null"
        case ast.Name(id=name) if name in TYPES:
            return WORDS[TYPES[name]]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=allowed):
            return _one_of(_literals(allowed))
        case ast.Subscript(value=ast.Name(id="list" | "tuple"), slice=item):
            return f"a list, {_items_in_words(item)}"
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, item])):
            return f"keys, each {in_words(key)}, with values, each {in_words(item)}"
    return ast.unparse(annotation)


def _items_in_words(annotation):
    if not isinstance(annotation, ast.Tuple):
        return f"each item {in_words(annotation)}"
    first, *others = annotation.elts
    if others and ast.unparse(others[0]) == "...":
        return f"each item {in_words(first)}"
    return f"of {len(annotation.elts)} items, each {in_words(first)}"


def _one_of(values):
    return " or ".join(map(repr, values))


# ---- words ----------------------------------------------------------------------------


def expected(words, value) -> str:
    """What is wrong with a value where `words` say what is expected, and what to write."""
    return f"expected {words}, got {_said(value)}{_remedy(words, value)}"


def _said(value):
    """A value as YAML writes it."""
    if value is None:
        return "nothing"
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def _remedy(words, value):
    scalars = value if isinstance(value, list) else [value]
    texts = [one for one in scalars if isinstance(one, str)]
    numbers = [number for number in map(_number, texts) if number]
    if "number" in words and numbers:
        return (
            f"; write {', '.join(numbers)} in a file: YAML takes 1e-3 and what stands in quotes "
            "for text, and --config what is nested"
        )
    if "true or false" in words and {"true", "false"}.intersection(texts):
        return "; write it in a file: YAML takes what stands in quotes for text, as --config does"
    if "text" in words and any(isinstance(one, int | float) for one in scalars):
        return "; put it in quotes to make it text"
    allowed = re.findall(r"'([^']*)'", words)
    return did_you_mean(texts[0], allowed) if allowed and texts else ""


def _number(text):
    """A text as YAML writes a number, if it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    if number == int(number) and abs(number) < 1e15:
        return str(int(number))
    mantissa, e, exponent = repr(number).partition("e")
    return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else repr(number)


def did_you_mean(name, known) -> str:
    """The end of an error message: the known name that is closest to `name`, or all of them."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(map(str, known))}" if known else ""


def check_name(where, name, known, what):
    """Refuse a name that is none of those that are known.

    Args:
        where: the key that names it.
        name, known: the name, and all that there are.
        what: it is, in words.

    Raises:
        InputError: names the key and suggests what was meant.
    """
    if name not in known:
        raise InputError(f"{where}: no {what} {name!r}{did_you_mean(name, known)}")
