"""Which stages feel an edit of a module: computed from the imports, without running anything."""

from pathlib import Path

from engram.planning import provenance

SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"
TABLE = Path(__file__).parent / "data" / "reruns.txt"


def name(path):
    return ".".join(path.relative_to(provenance.ROOT).with_suffix("").parts)


def felt_by():
    """Stages whose script reaches each module, whatever components a job then loads by name."""
    table = {name(path): set() for path in provenance.ROOT.rglob("*.py")}
    for script in SCRIPTS.glob("*.py"):
        for path in provenance.reached(script):
            if path.is_relative_to(provenance.ROOT):
                table[name(path)].add(script.stem)
    return table


def lines(table):
    return [
        f"{module}: {' '.join(sorted(stages))}".rstrip() for module, stages in sorted(table.items())
    ]


def test_an_edit_is_felt_by_the_stages_in_the_table_and_no_others():
    found, expected = lines(felt_by()), TABLE.read_text(encoding="utf-8").splitlines()
    assert found == expected, "\n".join(sorted(set(found) ^ set(expected)))
