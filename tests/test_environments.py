"""The environments of the stages against what their jobs can import, and against the lock file."""

import ast
import importlib.metadata
import re
import sys
import tomllib

import pytest
import test_reruns
from checkouts import ROOT

STAGES = sorted(path.stem for path in (ROOT / "envs").glob("*.yaml"))

#: What Snakemake itself needs to start a script.
ALWAYS = {"snakemake"}

#: Functions that import, or look for, what their first argument names.
BY_NAME = {"import_module", "find_spec", "__import__"}

#: What a library imports by name for a module that uses it, and does not bring along.
PLUGINS = {"readers.recordings": {"pymatreader"}}  # MNE, for EEGLAB

#: What a module imports by name only where a library that brings it along was imported.
BROUGHT = {"torchvision_compat": {"torch"}}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(stage):
    return dict(re.findall(r"- (\S+)==(\S+)", (ROOT / f"envs/{stage}.yaml").read_text()))


def imported(path):
    """Top-level names that a file imports, anywhere in it, by a statement or by a name given."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and called(node) in BY_NAME:
            named = node.args[0]
            yield from [named.value.partition(".")[0]] if isinstance(named, ast.Constant) else []


def called(call):
    return ast.unparse(call.func).rpartition(".")[2]


@pytest.fixture(scope="module")
def reached():
    return test_reruns.reached()


@pytest.fixture(scope="module")
def distributions():
    """Names of the distributions that have a top-level name, by that name."""
    found = importlib.metadata.packages_distributions()
    return {name: {normal(one) for one in ones} for name, ones in found.items()}


def optional():
    """Distributions that a person may install, and that no environment has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"].items()
    return {normal(name) for extra, names in extras if extra != "test" for name in names} - {
        normal(line.partition("==")[0])
        for line in (ROOT / "requirements.lock").read_text().splitlines()
    }


def needed(paths, distributions):
    """Distributions that files import, each with a file that does."""
    found = dict.fromkeys(ALWAYS, "Snakemake")
    for path in paths:
        module = test_reruns.name(path) if path.is_relative_to(ROOT / "src") else path.name
        names = set(imported(path)) - sys.stdlib_module_names - {"engram"}
        for name in names - BROUGHT.get(module, set()) - optional():
            (distribution,) = distributions[name]
            found[distribution] = module
        found |= dict.fromkeys(PLUGINS.get(module, ()), module)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_an_environment_has_what_its_stage_can_import_and_nothing_more(
    stage, reached, distributions
):
    wanted, pinned = needed(reached[stage], distributions), set(map(normal, pins(stage)))
    missing = {f"{name}, for {why}" for name, why in wanted.items() if name not in pinned}
    assert (missing, pinned - wanted.keys()) == (set(), set())


@pytest.mark.parametrize("stage", STAGES)
def test_an_environment_pins_what_the_lock_pins(stage):
    lock = (ROOT / "requirements.lock").read_text().split()
    assert pins(stage)
    assert {f"{name}=={version}" for name, version in pins(stage).items()} <= set(lock)
