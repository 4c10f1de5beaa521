"""The code a job can run, as a value that Snakemake can compare.

Snakemake's own `code` trigger looks at the mtime of the script file and at nothing the
script imports.  `fingerprint` names every module of this package that a job can reach,
with a digest that ignores comments, docstrings and layout.  Rules pass it as a param, so
a stale job says which module changed.  Standard library only: a dry run imports this.
"""

import ast
import contextlib
import hashlib
import json
import os
import re
from functools import cache
from pathlib import Path

CODE_VERSION = 1  # every stage reaches this and computes nothing with it

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT.name

#: What is known of files by their content, kept from one run to the next: parsing takes longer.
KEPT = Path(".snakemake/engram_modules.json")


def fingerprint(script, modules=()) -> str:
    """Modules reachable from the file `script` and from `modules`, as "name@digest" words.

    Files are read once a process: a study asks for thousands of jobs of a few kinds.
    """
    return _fingerprint(Path(script), tuple(modules))


@cache
def _fingerprint(script, modules):
    files = reached(script, modules)
    words = sorted(f"{_name(path)}@{_facts(path)['version']}" for path in files)
    _keep()
    return " ".join(words)


def reached(script, modules=()) -> set[Path]:
    """Files of this package that a job of `script`, which loads `modules` by name, can run."""
    found, todo = set(), [Path(script), *(path for name in modules for path in _around(name))]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += imports(path)
    return found


@cache
def imports(path) -> tuple[Path, ...]:
    """Files of this package that the file `path` imports, and the packages around them."""
    found = [file for name in _facts(path)["imports"] for file in _around(name)]
    return tuple(dict.fromkeys(found))


def _imported(path):
    """Names of this package that a module imports, anywhere in it."""
    found = []
    for node in _statements(tree(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise SyntaxError(f"{path}:{node.lineno}: relative import; write it absolute")
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] == PACKAGE]


@cache
def _facts(path):
    """What a module imports and the version of its code."""
    key = hashlib.sha256((text(Path(__file__)) + text(path)).encode()).hexdigest()
    if key not in _kept():
        _kept()[key] = {"imports": _imported(path), "version": _version(path)}
    return _kept()[key]


@cache
def _kept():
    try:
        return json.loads(KEPT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _keep():
    """Write what is known where Snakemake keeps its own notes, if there is anything new."""
    known = json.dumps(_kept())
    with contextlib.suppress(OSError):  # no such folder, or not ours to write in
        if not KEPT.is_file() or KEPT.read_text(encoding="utf-8") != known:
            beside = KEPT.with_suffix(f".{os.getpid()}")
            beside.write_text(known, encoding="utf-8")
            beside.replace(KEPT)


def _around(name):
    """Files of a module and of the packages around it, which Python imports first."""
    parts = name.split(".")
    prefixes = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return [path for path in map(locate, prefixes) if path]


@cache
def locate(name) -> Path | None:
    """File of the module called `name`, if this package has it."""
    path = ROOT.parent.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def text(path) -> str:
    """Source of a module."""
    return path.read_text(encoding="utf-8")


@cache
def tree(path) -> ast.Module:
    """A module, parsed once a process; docstrings stand beside its code, in `doc` of a node."""
    return _documented(ast.parse(text(path)))


@cache
def statements(path, pattern) -> list[ast.stmt]:
    """Statements at the top of a module that begin like a regular expression, parsed alone.

    Whole modules take ten times as long, and every dry run asks for the options of components.
    """
    ends = r"(?:\n(?:[ \t)\]}].*)?)*"  # up to the next line that begins a statement
    found = re.finditer(rf"^(?:{pattern}).*{ends}", text(path), re.MULTILINE)
    return [node for match in found for node in _documented(ast.parse(match[0])).body]


def _documented(module):
    """The module, with each docstring beside the code."""
    for node in (module, *_statements(module)):
        documented = isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        )
        node.doc = ast.get_docstring(node) if documented else None
        if node.doc is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return module


def _statements(node):
    """Every statement below a node, at any depth; expressions hold none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from _statements(child)


def _version(path):
    """Version that a module declares as `CODE_VERSION = n`, or else a digest of its code."""
    module = tree(path)
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CODE_VERSION":
            return f"v{ast.literal_eval(node.value)}"
    return hashlib.sha256(ast.unparse(module).encode()).hexdigest()[:8]


def _name(path):
    try:
        return ".".join(path.relative_to(ROOT).with_suffix("").parts)
    except ValueError:
        return path.name
