"""The layers of the package, enforced with the import walker that computes fingerprints."""

import ast
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from engram.planning import provenance

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/engram"
#: Rooms by floor, from the top: each may use those on lower floors and none beside it.
FLOORS = (
    {"__main__"},
    {"cli"},
    {"trained"},
    {"tasks"},
    {"heads", "backbones", "decoders", "objectives", "downloads"},
    {"datasets", "views", "contrastive", "sources", "frozen", "images", "checkpoints", "pickled"},
    {"training", "figures", "scores", "cards", "recording", "tracking"},
    {"readers", "signals", "store", "models", "planning", "measures", "job", "web", "splits"},
    {"credentials", "disk", "flags", "hdf5_files", "precision", "progress", "scratch", "tables"}
    | {"torchvision_compat"},
    {"errors"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))
INSIDE = [path for path in MODULES if path != PACKAGE / "__init__.py"]


def room(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", INSIDE, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_uses_what_lies_below_it(path):
    own = room(path)
    used = {room(found) for found in provenance.imports(path)} - {"__init__", own}
    assert {other for other in used if FLOOR[other] <= FLOOR[own]} == set()


def test_planning_needs_the_standard_library_alone():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "import engram.planning.plan, engram.planning.provenance;"
        "print(*{name.partition('.')[0] for name in sys.modules} - {'engram'}"
        " - set(sys.stdlib_module_names))"
    )
    command = [sys.executable, "-S", "-c", code, str(PACKAGE.parent)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) <= {"__main__", "sitecustomize"}


def test_one_module_imports_wandb_and_one_stage_reaches_it():
    assert [path.stem for path in MODULES if "wandb" in third_party(path)] == ["tracking"]
    scripts = (ROOT / "workflow/scripts").glob("*.py")
    reaching = [s.stem for s in scripts if " tracking@" in provenance.fingerprint(s)]
    assert reaching == ["track"]


def test_scripts_only_bind_names():
    for script in (ROOT / "workflow/scripts").glob("*.py"):
        tree = ast.parse(script.read_text())
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.For | ast.If)]
        assert "snakemake.config" not in script.read_text()
        assert "snakemake.wildcards" not in script.read_text()
        assert len(script.read_text().splitlines()) <= 30


def test_a_stage_is_one_word():
    scripts = {path.stem for path in (ROOT / "workflow/scripts").glob("*.py")}
    environments = {path.stem for path in (ROOT / "envs").glob("*.yaml")}
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert scripts == environments
    for name in scripts:
        assert f"rule {name}:" in rules or f'f"{name}_{{' in rules
        assert f'"../scripts/{name}.py"' in rules


def forget():
    """Let the walker read every file again."""
    for cached in vars(provenance).values():
        getattr(cached, "cache_clear", lambda: None)()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules: main imports helper, other stands alone."""
    root = tmp_path / "engram"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "helper.py").write_text("def f():\n    return 1\n")
    (root / "other.py").write_text("x = 1\n")
    (tmp_path / "main.py").write_text("from engram.helper import f\n")
    monkeypatch.setattr(provenance, "ROOT", root)
    monkeypatch.chdir(tmp_path)  # what is known of modules is kept there
    (tmp_path / ".snakemake").mkdir()

    def words():
        forget()
        return set(provenance.fingerprint(tmp_path / "main.py").split())

    yield root, words
    forget()


def test_a_fingerprint_follows_imports_and_nothing_else(package):
    root, words = package
    before = words()
    assert {word.split("@")[0] for word in before} == {"main.py", "helper", "__init__"}
    (root / "other.py").write_text("x = 2\n")
    assert words() == before
    (root / "helper.py").write_text("def f():\n    return 2\n")
    assert {word.split("@")[0] for word in words() - before} == {"helper"}


@pytest.mark.parametrize(
    "code",
    [
        "from engram import helper\n",
        "import engram.helper\n",
        "import json, engram.helper\n",
        "from engram import other as o, helper\n",
        "def f():\n    from engram import helper\n    return helper\n",
        "def f():\n    from engram.helper import f\n    return f\n",
        "try:\n    import engram.helper as h\nexcept ImportError:\n    h = None\n",
        "from engram import other\n",  # which imports helper itself
    ],
)
def test_every_way_to_import_is_followed(package, code):
    root, words = package
    (root / "other.py").write_text("def g():\n    from engram import helper\n    return helper\n")
    (root.parent / "main.py").write_text(code)
    before = words()
    assert "helper" in {word.split("@")[0] for word in before}
    (root / "helper.py").write_text("def f():\n    return 2\n")
    assert {word.split("@")[0] for word in words() - before} == {"helper"}


def test_modules_loaded_by_name_count_with_what_they_import(package):
    root, _ = package
    (root / "other.py").write_text("from engram import helper\n")
    (root.parent / "main.py").write_text("x = 1\n")
    forget()
    words = provenance.fingerprint(root.parent / "main.py", ["engram.other"])
    assert {word.split("@")[0] for word in words.split()} == {
        "main.py", "other", "helper", "__init__"
    }  # fmt: skip
    assert words.split() == sorted(words.split())


def test_every_module_loaded_by_name_counts(package):
    root, _ = package
    (root.parent / "main.py").write_text("x = 1\n")
    forget()
    words = provenance.fingerprint(root.parent / "main.py", ["engram.helper", "engram.other"])
    names = [word.split("@")[0] for word in words.split()]
    assert sorted(names) == ["__init__", "helper", "main.py", "other"]


def test_a_package_around_a_module_is_part_of_it(package):
    root, words = package
    (root / "inner").mkdir()
    (root / "inner/__init__.py").write_text("from engram import other\n")
    (root / "inner/leaf.py").write_text("x = 1\n")
    (root.parent / "main.py").write_text("from engram.inner.leaf import x\n")
    assert {word.split("@")[0] for word in words()} == {
        "main.py", "inner.leaf", "inner.__init__", "other", "__init__"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("script", "component"),
    [("render", "views.epochs"), ("extract", "backbones.bandpower"), ("train", "heads.linear"),
     ("evaluate", None)],
)  # fmt: skip
def test_a_fingerprint_names_all_that_python_imports(script, component):
    """Against Python's own importer."""
    path = ROOT / f"workflow/scripts/{script}.py"
    modules = [f"engram.{component}"] if component else []
    imported = [
        ast.unparse(node)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "engram" in ast.unparse(node)
    ]
    code = "\n".join(
        ["import sys; sys.path.insert(0, sys.argv[1])", *imported,
         *(f"import {m}" for m in modules),
         "for n, m in sys.modules.items():",
         "    if n.partition('.')[0] == 'engram' and m.__file__: print(m.__file__)"]
    )  # fmt: skip
    command = [forked.python(), "-c", code, str(PACKAGE.parent)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    names = {".".join(Path(f).relative_to(PACKAGE).with_suffix("").parts) for f in found}
    words = {word.split("@")[0] for word in provenance.fingerprint(path, modules).split()}
    assert len(names) > 3
    assert names <= words


def test_a_module_that_has_not_changed_is_not_parsed_in_the_next_run(package, monkeypatch):
    root, words = package
    before = words()
    (root.parent / ".snakemake/engram_modules.json").write_text("damaged")
    assert words() == before
    with monkeypatch.context() as patched:
        patched.delattr(provenance.ast, "parse")
        assert words() == before
        (root / "helper.py").write_text("def f():\n    return 2\n")
        with pytest.raises(AttributeError, match="parse"):
            words()
    assert words() != before


def test_a_fingerprint_ignores_comments_docstrings_and_layout(package):
    root, words = package
    before = words()
    (root / "helper.py").write_text(
        '"""Doc."""\n\n\ndef f():\n    """Doc."""\n    return (1)  # c\n'
    )
    assert words() == before
    (root / "helper.py").write_text("class A:\n    async def f():\n        return 1\n")
    before = words()
    (root / "helper.py").write_text(
        'class A:\n    """Doc."""\n    async def f():\n        "Doc."\n        return 1\n'
    )
    assert words() == before
    (root / "helper.py").write_text("class A:\n    async def f():\n        return 2\n")
    assert words() != before


def test_a_declared_version_stands_for_the_code(package):
    root, words = package
    (root / "helper.py").write_text("CODE_VERSION = 3\ndef f(): return 1\n")
    before = words()
    assert "helper@v3" in before
    (root / "helper.py").write_text("CODE_VERSION = 3\ndef f(): return 2\n")
    assert words() == before
    (root / "helper.py").write_text("CODE_VERSION = 4\ndef f(): return 2\n")
    assert "helper@v4" in words()


def test_relative_imports_are_refused(package):
    root, words = package
    (root / "helper.py").write_text("from . import other\n")
    with pytest.raises(SyntaxError, match="relative import"):
        words()


def third_party(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        yield from {n.partition(".")[0] for n in names} - set(sys.stdlib_module_names)
