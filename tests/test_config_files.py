"""Configurations as people write them: each read as it was meant, or refused with file and line."""

import copy
import re
from pathlib import Path

import checkouts
import pytest
from snakemake.cli import parse_config
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from engram.cli import configuration as of_command
from engram.errors import InputError
from engram.planning import config_files, configuration

ROOT = Path(__file__).parents[1]
SCHEMA = load_configfile(ROOT / "workflow/schemas/config.schema.yaml")
VOCABULARY = [ROOT / "config/config.yaml", ROOT / "config/backbones.yaml"]


@pytest.fixture(scope="module")
def vocabulary():
    config = {}
    for file in VOCABULARY:
        update_config(config, load_configfile(file))
    return config


@pytest.fixture
def study(tmp_path, vocabulary):
    """Lays a study over the vocabulary, as the workflow does; its configuration."""

    def read(content, *given):
        file = tmp_path / "mine.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        config_files.check(file)
        config, laid_over = copy.deepcopy(vocabulary), parse_config(given)
        update_config(config, load_configfile(file))
        update_config(config, laid_over)
        try:
            configuration.check(config, SCHEMA)
        except InputError as error:
            raise InputError(config_files.located(str(error), [file], laid_over)) from None
        return config

    return read


@pytest.fixture
def refused(study):
    """The one line in which a study is refused."""

    def read(content, *given):
        with pytest.raises(InputError) as caught:
            study(content, *given)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return read


STATE = "views: {state: {classes: [%s]}}\n"
UNITS = "datasets: {simulated: {%s}}\n"


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("no", "false"), ("yes", "true"), ("on", "true"), ("Off", "false"), ("010", "8"),
        ("-010", "-8"), ("01", "1"), ("1_000", "1000"), ("12:30:00", "45000"), ("1:30", "90"),
        ("0x10", "16"), ("0b11", "3"), ("1_0.5", "10.5"), ("1:30.5", "90.5"),
        ("2020-01-01", "a date"), ("2020-01-01 10:00:00", "a date"),
    ],
)  # fmt: skip
def test_a_value_that_yaml_turns_into_another_is_refused(study, refused, written, taken):
    text = "title: x\n" + STATE % f"{written}, awake"
    assert f"mine.yaml, line 2: YAML takes {written} for {taken}; write" in refused(text)
    quoted = study(text.replace(written, f"'{written}'"))
    assert quoted["views"]["state"]["classes"] == [written, "awake"]


@pytest.mark.parametrize("key", ["no", "1", "1.5", "~", "2020-01-01", "true", "[a, b]"])
def test_a_key_is_text(refused, key):
    text = f"title: x\nviews:\n  state:\n    events:\n      ? {key}\n      : [a]\n"
    assert "mine.yaml, line 5: a key is text; put " in refused(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("limits: [-15, +25]", [-15, 25]), ("limits: [-1.5e+1, 25.]", [-15.0, 25.0]),
        ("limits: [-0.5, .5]", [-0.5, 0.5]), ("limits: recording", "recording"),
        ("detrend: 'off'", "off"), ("channels: ~", None), ("channels:", None),
        ("standardize: True", True), ("channels: [n, y, 1e3, '08', 08, ok]",
                                      ["n", "y", "1e3", "08", "08", "ok"]),
    ],
)  # fmt: skip
def test_what_looks_like_what_it_is_stays(study, text, value):
    key = text.partition(":")[0]
    assert study(f"views:\n  spectrogram:\n    {text}\n")["views"]["spectrogram"][key] == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title: a\nrun: [eeg_clip]\ntitle: b\n", "line 3: `title` again, after line 1"),
        ("views:\n  state:\n    seed: 1\n    seed: 2\n", "line 4: `seed` again, after line 3"),
        ("title: a\n'title': b\n", "line 2: `title` again"),
        ('{"title": "a",\n\t"title": "b"}', "line 2: `title` again"),
        ("title: a\n\trun: []\n", "line 2: no YAML: .*indent with blanks"),
        ("title: a: b\n", "line 1: no YAML: .*quote texts that hold `: `"),
        ("title: @a\n", "line 1: no YAML"),
        ("title: *a\n", "line 1: no YAML: found undefined alias"),
        ("title: a\n---\ntitle: b\n", "line 2: no YAML"),
        ("- title\n", "line 1: is no configuration; write `key: value`"),
        ("title\n", "line 1: is no configuration"),
        ("run: []\ntitle: café\n".encode("latin-1"), "line 2: is not UTF-8"),
        ("title: a\n".encode("utf-16"), "line 1: is not UTF-8"),
    ],
)
def test_a_file_that_says_no_clear_thing_is_refused(refused, content, message):
    assert re.search(r"mine\.yaml, " + message, refused(content))


@pytest.mark.parametrize(
    "content",
    ["title: a\n".encode("utf-8-sig"), '{\n\t"title": "a"\n}', "title: &t a\nstudy: *t\n"],
)
def test_other_ways_to_write_a_study(study, content):
    assert study(content)["title"] == "a"


def test_merged_keys_are_what_yaml_makes_of_them(study):
    text = "views:\n  a: &a {kind: multitaper, signal: eeg, fmax: 20}\n  b: {<<: *a, fmax: 30}\n"
    assert study(text)["views"]["b"] == {"kind": "multitaper", "signal": "eeg", "fmax": 30}


def test_what_two_keys_refer_to_stays_with_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("views: {a: &a {kind: multitaper, signal: eeg}, b: *a}\n")
    Path("b.yaml").write_text("views: {a: {signal: fmri}}\n")
    views = of_command([Path("a.yaml"), Path("b.yaml")])["views"]
    assert [views[name]["signal"] for name in "ab"] == ["fmri", "eeg"]


# ---- values of the wrong type ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STATE % "true, 2", r"1: views.state.classes: .*each item text, got \[true, 2\]; put"),
        (STATE % "~, a", r"1: views.state.classes: expected a list, each item text"),
        ("heads:\n  linear: {c: [1e-3]}\n", r"2: heads.linear.c: .*a number.*; write 0\.001 in a"),
        ("heads:\n  adapter:\n    base_lr: 1e-7\n", r"3: .*base_lr: .*; write 1\.0e-07 in a file"),
        ("heads: {adapter: {base_lr: '3'}}\n", r"1: .*expected a number, got '3'; write 3 in"),
        ("heads: {adapter: {base_lr: 1.0e9}}\n", "1: .*a number, .*; write 1000000000"),
        ("heads: {adapter: {base_lr: .nan}}\n", "1: .*expected a number, got NaN"),
        ("heads: {adapter: {base_lr: -.inf}}\n", "1: .*expected a number, got -Infinity"),
        ("heads: {adapter: {base_lr: NaN}}\n", "1: .*expected a number, got 'NaN'$"),
        ("heads: {adapter: {epochs: 3.0}}\n", "1: .*expected a whole number, got 3.0"),
        ("heads: {adapter: {standardize: 'true'}}\n", "1: .*expected true or false, got 'true'; w"),
        ("views: {spectrogram: {limits: [1, 2, 3]}}\n", r"1: .*of 2 items, each a number or 'rec"),
        ("title:\n", "1: title: expected text, got nothing"),
        ("run: []\nexperiments:\n", "2: experiments: expected keys with values, got nothing"),
        ("maps: eeg_clip\n", "1: maps: expected a list, got 'eeg_clip'"),
        ("run:\n  - eeg_clip\n  - 1\n", r"3: run\[1\]: expected text, got 1; put it in quotes"),
        ("store: hdf5\n", "1: store: expected 'h5' or 'zarr', got 'hdf5'; did you mean 'h5'"),
        ("evaluation: {confidence: 95}\n", "1: evaluation.confidence: has to be less than 1"),
        ("evaluation: {permutations: 3}\n", "1: evaluation.permutations: has to be 100 or more"),
        ("tracking: {wandb: {project: ''}}\n", "1: tracking.wandb.project: expected name of the"),
        (UNITS % "windows: {length: 20 s, step: 1}", "1: .*windows.length: expected a number"),
        (UNITS % "windows: {length: 0, step: 1}", "1: .*windows.length: has to be more than 0"),
        ("datasets: {a: {kind: simulated_vigilance, windows: {length: 1}}}\n", "1: .*`step` is"),
        ("experiments:\n  eeg_clip:\n    x: [spectrogram, 3]\n", r"3: .*x\[1\]: expected text"),
        ("experiments: {eeg_clip: {x: {choose: [1, 2]}}}\n", r"1: .*choose\[0\]: expected text or"),
        ("experiments: {eeg_clip: {x: spectrogram/}}\n", "1: experiments.eeg_clip: no backbone ''"),
        ("experiments: {eeg_clip: {y: [state, state]}}\n", "1: .*'state' is listed twice"),
        ("experiments: {new: {x: state}}\n", r"1: experiments.new: `dataset` is missing: a name"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_says_what_was_expected(refused, text, message):
    assert re.search("mine.yaml, line " + message, refused(text))


# ---- names ------------------------------------------------------------------------------

ENTRIES = {
    "datasets": "{kind: simulated_vigilance, units: [a], files: ['{unit}.npz']}",
    "views": "{kind: multitaper, signal: eeg}",
    "backbones": "{kind: pixels}",
    "heads": "{kind: linear}",
    "experiments": "{dataset: simulated, x: spectrogram, y: state, head: cnn, baseline: none}",
    "comparisons": "{dataset: simulated, view: spectrogram, y: state, head: linear, "
    "baseline: eeg_bandpower, backbones: [bandpower]}",
    "checkpoints": "{url: 'https://host/file', licence: MIT}",
}


@pytest.mark.parametrize("family", ENTRIES)
def test_names_that_break_paths_or_patterns_are_refused(study, refused, family):
    entry = ENTRIES[family]
    bad = ["a/b", "..", ".a", "a b", "{a}", "", "-a", "a.h5", "a:1", "a*", "a\\\\b", "a\\n"]
    for name in [*bad, "é" * 51]:
        line = refused(f'title: x\n{family}: {{"{name}": {entry}}}\n')
        assert f"mine.yaml, line 2: {family}: " in line
        assert "cannot be a name: " in line
    for name in ("größe", "_a-1", "é" * 50):
        assert name in study(f"{family}: {{{name}: {entry}}}\n")[family]
    twins = refused(f"{family}:\n  twin: {entry}\n  Twin: {entry}\n")
    assert "mine.yaml, line 3: " in twins
    assert "differs from 'twin' in nothing but case" in twins


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"datasets: {{weights: {ENTRIES['datasets']}}}\n", "datasets.weights: the name is taken"),
        (f"experiments: {{None: {ENTRIES['experiments']}}}\n", "experiments.None: the name is tak"),
        (f"comparisons: {{EEG_clip: {ENTRIES['comparisons']}}}\n", "'EEG_clip' is a name in exper"),
        ("study: Views\n", "study: 'Views' cannot name its folder"),
        ("study: " + "x" * 101 + "\n", "study: 'x*' cannot name its folder"),
        (UNITS % "units: [a, A]", "datasets.simulated.units: 'a' and 'A' are one folder"),
        (UNITS % "units: [a, a]", "datasets.simulated.units: 'a' and 'a' are one folder"),
        (UNITS % "units: [a/b]", "datasets.simulated.units: 'a/b': use letters"),
        (UNITS % "units: ['a ']", "datasets.simulated.units: 'a ': use letters"),
        (UNITS % "units: [1.5, a]", r"datasets.simulated.units\[0\]: expected text or a whole"),
        (UNITS % "shared: {SUB-01: [a.zip]}", "simulated.shared: 'sub-01' and 'SUB-01' are one"),
        (UNITS % "files: ['{uint}.npz']", "files: '{uint}.npz': .*did you mean 'unit'"),
        (UNITS % "files: ['{}.npz']", "files: '{}.npz': in braces stands `unit`"),
        (UNITS % "files: ['{unit.npz']", "files: '{unit.npz': .*close every brace"),
        (UNITS % "files: [a.npz]", "files: all units have the same files"),
        (UNITS % "folder: ~/raw", "folder: '~/raw': `~` is no folder here"),
        (UNITS % "folder: 'C:\\raw'", "folder: .*: write / between folders"),
        (UNITS % "folder: 'raw/<study>'", "folder: .*: the workflow takes what stands in <>"),
        ("datasets: {a: {kind: simulated_vigilance, units: [a]}}\n", "a: needs a `manifest`, or"),
    ],
)
def test_names_that_mean_two_things_are_refused(refused, text, message):
    assert re.search("mine.yaml, line 1: .*" + message, refused(text))


def test_a_view_of_what_units_share_needs_it(refused):
    line = refused("views: {state: {unit: stimuli}}\n")
    assert "view 'state' is made of the unit 'stimuli', which dataset 'simulated' does not" in line


def test_whole_numbers_are_units_too(study):
    assert study(UNITS % "units: [1, 22]")["datasets"]["simulated"]["units"] == [1, 22]


# ---- where a key was read ----------------------------------------------------------------


def test_the_last_file_that_holds_a_key_is_named(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("views:\n  state:\n    kind: annotations\n    min_valid: x\n")
    second.write_text("views:\n  state: {}\n")
    files = [first, second]

    def line(key, given=None):
        return config_files.located(f"{key}: no", files, given).replace(f"{tmp_path}/", "")

    assert line("views.state.min_valid") == "first.yaml, line 4: views.state.min_valid: no"
    assert line("views.state") == "second.yaml, line 2: views.state: no"
    assert line("views.other.kind") == "second.yaml, line 1: views.other.kind: no"
    assert line("heads.linear") == "heads.linear: no"
    given = {"views": {"state": {"min_valid": "y"}}}
    assert line("views.state.min_valid", given) == "--config: views.state.min_valid: no"
    assert line("raw/list.csv, line 3") == "raw/list.csv, line 3: no"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "evaluation={permutations: 300}",
            "--config: evaluation.permutations: .*; write 300 in a file",
        ),
        ("title=123", "--config: title: expected text, got 123"),
        ("run=eeg_clip", "--config: run: expected a list"),
        ("study=a/b", "--config: study: 'a/b' cannot name its folder"),
    ],
)
def test_what_the_command_line_lays_over_is_checked_too(refused, given, message):
    assert re.search("^" + message, refused("title: x\n", given))


# ---- through Snakemake --------------------------------------------------------------------

OWN = """
run: [bands]
datasets:
  mine: {kind: eeg_recordings, folder: raw, manifest: list.csv, windows: {length: 20, step: 10}}
experiments:
  bands: {dataset: mine, x: spectrogram/bandpower, y: state, head: linear, baseline: none}
"""


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        (
            {"config/config.yaml": OWN + "run: []\n", "mine.yaml": "title: x\n"},
            ["--configfile", "mine.yaml"],
            "config/config.yaml, line 7: `run` again, after line 2; .*",
        ),
        (
            {"config/config.yaml": OWN, "mine.yaml": "heads:\n  linear: {c: 1e-3}\n"},
            ["--configfile", "mine.yaml"],
            r"mine.yaml, line 2: heads.linear.c: expected a list, .*; write 0\.001 in a file: .*",
        ),
        (
            {"config/config.yaml": OWN, "raw/list.csv": "subject;scan;file\na/b;1;a.edf\n"},
            [],
            "raw/list.csv, line 2: subject 'a/b': use letters, .*",
        ),
        (
            {
                "config/config.yaml": OWN,
                "raw/list.csv": "subject;scan;file\na;1;a.edf\n",
                "raw/a.edf": "",
                "results/demo/report.html": "",
            },
            ["results/demo/report.html", "--config", "study=mine"],
            "results/demo/report.html: belongs to the study 'demo', but this is 'mine'; .*",
        ),
    ],
)
def test_a_user_reads_one_line(tmp_path, files, arguments, message):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    started = ("--dry-run", "--cores", "1", "--snakefile", ROOT / "Snakefile")
    done = checkouts.snakemake(tmp_path, *arguments, *started)
    assert done.returncode == 1
    assert re.search(f"^error in the configuration: {message}$", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stdout
