"""Components by family and kind: each is one file, its options the fields of a dataclass.

Standard library only: a dry run reads the options of a component without importing it.
"""

import ast
import importlib
from functools import cache

from engram.errors import InputError
from engram.planning import provenance

CODE_VERSION = 1  # every stage imports this; raise when what it loads changes

#: Where data can be published; each a module of `engram.sources`.
PUBLISHERS = ("osf", "s3", "huggingface", "github", "http", "google_drive")


def publisher(source) -> str:
    """Which of `PUBLISHERS` the `source` of a dataset names."""
    return next(name for name in PUBLISHERS if name in source)


def module(family, name):
    """The module of a family that a job names; only here the package imports by name."""
    return importlib.import_module(f"engram.{family}.{name}")


def component(family, kind):
    """The module of a component.

    Raises:
        InputError: there is no such component; the message lists those there are.
    """
    known = kinds(family)
    if kind not in known:
        raise InputError(f"{family}: no kind {kind!r}; there is {', '.join(known)}")
    return module(family, kind)


def options(family, spec):
    """(module, Options instance) of the component that `spec`, a dict with a `kind`, asks for."""
    this = component(family, spec["kind"])
    return this, this.Options(**{key: spec[key] for key in spec if key != "kind"})


def parts(family, spec) -> list[dict]:
    """A component, and those whose options stand in one of its own: each its kind and options."""
    within = constant(f"engram.{family}.{spec['kind']}", "OPTIONS_OF") or {}
    return [spec, *({"kind": kinds[0], **(spec.get(name) or {})} for name, kinds in within.items())]


def kinds(family) -> list[str]:
    """The components of a family, by the files that hold them."""
    return list(_kinds(family))


@cache
def _kinds(family):
    files = (provenance.ROOT / family).glob("[!_]*.py")
    return sorted(path.stem for path in files if "\nclass Options" in provenance.text(path))


def fields(family, kind) -> dict[str, tuple[ast.expr, bool]]:
    """The options of a component, read without importing it: annotation, whether required."""
    return {
        node.target.id: (node.annotation, node.value is None)
        for options in options_classes(family, kind)
        for node in options.body
        if isinstance(node, ast.AnnAssign)
    }


def defaults(family, kind) -> dict:
    """What the options of a component are where none is given, read without importing it."""
    return {
        node.target.id: _value(node.value)
        for options in options_classes(family, kind)
        for node in options.body
        if isinstance(node, ast.AnnAssign) and node.value is not None
    }


def _value(node):
    """Value of a literal, or of `field(default_factory=...)` with a lambda, list or dict."""
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    factory = node.keywords[0].value
    if isinstance(factory, ast.Lambda):
        return ast.literal_eval(factory.body)
    return {"list": [], "dict": {}}[factory.id]


def taken(spec) -> tuple[dict, dict]:
    """What a backbone takes, read without importing it.

    Args:
        spec: of an extraction: `backbone`, and `takes`, which overrides what its kind declares.

    Returns:
        Kinds of rows, each with the facts that their view has to state; and what else is asked.
    """
    takes = constant(f"engram.backbones.{spec['backbone']['kind']}", "TAKES")
    takes = takes | spec.get("takes", {})
    return takes["what"], {k: v for k, v in takes.items() if k != "what" and v is not None}


def hyperparameters(spec) -> dict:
    """The spec of a training job, with every option of its head that was left at its default.

    That of a job which applies a model names the experiment that has them.
    """
    if "head" not in spec:
        return spec
    head = spec["head"]
    return {**spec, "head": defaults("heads", head["kind"]) | head}


def options_classes(family, kind) -> list[ast.ClassDef]:
    """The class `Options` of a component, after those that it extends, the furthest first.

    Raises:
        InputError: a class that is extended stands nowhere.
    """
    return _extended(provenance.ROOT / family / f"{kind}.py", "Options")


def _extended(path, name):
    own = _class(path, name)
    if own is None:
        raise InputError(f"{path}: has no class {name}; import the one that `Options` extends")
    chain = []
    for base in own.bases:
        module, _, extends = _full_name(path, ast.unparse(base)).rpartition(".")
        chain += _extended(provenance.locate(module) if module else path, extends)
    return [*chain, own]


def _full_name(path, written):
    """A dotted name by what the file imports: `stacked.Options` is one of engram.training."""
    first, dot, rest = written.partition(".")
    for node in provenance.statements(path, r"from \S+ import "):
        for alias in node.names:
            if first == (alias.asname or alias.name):
                return f"{node.module}.{alias.name}{dot}{rest}"
    return written


def _class(path, name):
    return next(iter(provenance.statements(path, rf"class {name}\b")), None)


@cache
def defines(module, name) -> bool:
    """Whether a module has or imports a function called `name`, read without importing it."""
    path = provenance.locate(module)
    imported = provenance.statements(path, r"from \S+ import ")
    names = {alias.asname or alias.name for node in imported for alias in node.names}
    return name in names or bool(provenance.statements(path, rf"def {name}\("))


@cache
def constant(module, name):
    """Value of a constant of the module called `module`, read without importing it, or None."""
    found = provenance.statements(provenance.locate(module), f"{name} = ")
    return ast.literal_eval(found[0].value) if found else None
