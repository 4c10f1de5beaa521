"""The files of a configuration, as they are written: where a key stands, what YAML makes of it.

A configuration that is merged no longer tells `no` from `false`, `010` from 8, or which of two
equal keys was first. Needs PyYAML, as Snakemake does.
"""

import re
from datetime import date
from pathlib import Path

import yaml

from engram.errors import InputError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Values in a file, those that are referred to counted each time.
MOST_NODES = 1_000_000

#: Levels of lists and keys: thousands end the process where a tree is made of them.
DEEPEST = 100

STR, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"

#: Values that are what they look like, by what YAML 1.1 takes them for; others turn into
#: something else: `no` into false, 010 into 8, 1_000 into 1000, 12:30:00 into 45000.
PLAIN = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF|nan|NaN|NAN)",
    "timestamp": r"(?!)",
}


def load(path) -> dict:
    """The configuration in a file, YAML or JSON; nothing if the file is empty.

    Raises:
        InputError: see `check`.
    """
    check(path)
    return yaml.load(Path(path).read_bytes(), LOADER) or {}


def check(path):
    """Refuse a file in which YAML reads something else than what stands there.

    Raises:
        InputError: it is no YAML in UTF-8 with keys at its top, a key occurs twice or is no text,
            or a value turns into another; the message names the line.
    """
    root = _nodes(Path(path))
    if root is None:
        return
    _count_nodes(path, root, {})
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}, line 1: is no configuration; write `key: value` at the top")
    _check_node(path, root, set())


def _nodes(path):
    """The tree of nodes of a file, each with its line, or None if the file holds nothing."""
    try:
        text = path.read_bytes().decode()
        if text.lstrip().startswith("{"):  # JSON may be indented with tabs
            text = text.replace("\t", " ")
        _refuse_deep(path, text)
        return yaml.compose(text, LOADER)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; correct --configfile") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: is not UTF-8; save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{path}{line}: no YAML: {error.problem}; indent with blanks alone, and quote texts "
            "that hold `: ` or start with a sign"
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: no YAML: {' '.join(str(error).split())}") from None


def _refuse_deep(path, text):
    depth = 0
    for event in yaml.parse(text, LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1
            raise InputError(f"{path}, line {line}: nests more than {DEEPEST} levels; write fewer")


def _count_nodes(path, node, counts):
    """How many nodes a node becomes where each that is referred to is written out."""
    line = node.start_mark.line + 1
    if counts.setdefault(id(node)) is None and isinstance(node, yaml.CollectionNode):
        counts[id(node)] = 0  # until its own are counted
        below = node.value
        if isinstance(node, yaml.MappingNode):
            below = [one for pair in below for one in pair]
        counts[id(node)] = 1 + sum(_count_nodes(path, one, counts) for one in below)
    elif counts[id(node)] == 0:
        raise InputError(f"{path}, line {line}: refers to itself; write it out")
    if (counts[id(node)] or 1) > MOST_NODES:
        raise InputError(
            f"{path}, line {line}: stands for more than {MOST_NODES} values; write fewer "
            "references (*name)"
        )
    return counts[id(node)] or 1


def _check_node(path, node, seen):
    """Check a node and all below, each once however often it is referred to."""
    if node in seen:
        return
    seen.add(node)
    if isinstance(node, yaml.ScalarNode):
        _check_value(path, node)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_node(path, item, seen)
    else:
        lines = {}
        for key, value in node.value:
            _check_key(path, key, lines)
            _check_node(path, value, seen)


def _check_key(path, key, lines):
    line = key.start_mark.line + 1
    if key.tag not in (STR, MERGE):
        raise InputError(f"{path}, line {line}: a key is text; put {_source(key)} in quotes")
    if key.value in lines:
        raise InputError(
            f"{path}, line {line}: `{key.value}` again, after line {lines[key.value]}; YAML takes "
            "the last alone: join them, or take one out"
        )
    lines[key.value] = line


def _check_value(path, node):
    kind = node.tag.rpartition(":")[2]
    if kind in PLAIN and not node.style and not re.fullmatch(PLAIN[kind], node.value):
        value = yaml.SafeLoader("").construct_object(node)
        raise InputError(
            f"{path}, line {node.start_mark.line + 1}: YAML takes {node.value} for {_said(value)}; "
            f"write that if it is meant, or put '{node.value}' in quotes"
        )


def _said(value):
    if isinstance(value, date):
        return "a date"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _source(node):
    return f"`{node.value}`" if isinstance(node, yaml.ScalarNode) else "it"


# ---- where a key stands ---------------------------------------------------------------


def located(message, files, given=None) -> str:
    """A message about a key, behind the file and the line that the key was read from.

    Args:
        message: starts with the key: "views.spectrogram.window: ...", "run[2]: ...".
        files: those that were read, each laid over those before.
        given: what the command line laid over them.
    """
    key = re.match(r"[\w-]+(?:\.[\w-]+|\[\d+\])*(?=:)", message)
    steps = re.findall(r"[\w-]+", key[0]) if key else []
    if steps and _depth(given or {}, steps) == len(steps):
        return f"--config: {message}"
    found = [(*_place(_nodes(Path(file)), steps), i) for i, file in enumerate(files)]
    depth, line, i = max(found, default=(0, 0, 0), key=lambda place: (place[0], place[2]))
    return f"{files[i]}, line {line}: {message}" if depth else message


def _depth(value, steps):
    """How many steps lead into a dict."""
    for depth, step in enumerate(steps):
        if not isinstance(value, dict) or step not in value:
            return depth
        value = value[step]
    return len(steps)


def _place(node, steps):
    """How many steps lead into a tree of nodes, and to which line."""
    line = 0
    for depth, step in enumerate(steps):
        if isinstance(node, yaml.MappingNode):
            below = {key.value: (key, value) for key, value in node.value}.get(step)
        elif isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
            below = (node.value[int(step)],) * 2
        else:
            below = None
        if below is None:
            return depth, line
        line, node = below[0].start_mark.line + 1, below[1]
    return len(steps), line
