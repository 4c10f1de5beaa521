"""`engram data`: a published project on loopback, listed, fetched in part, verified."""

from pathlib import Path

import pytest
from server import Osf, Server

from engram.cli import main

TREE = {
    "SampleData": {
        "sub-01": {"a.npy": b"first", "b.npy": b"second" * 1000},
        "sub-02": {"a.npy": b"third"},
        "notes.txt": (b"no checksum is published", {}),
    }
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study whose dataset is published on loopback, and the server of its contents."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("ENGRAM_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)
    with Server() as api, Server() as storage:
        project = Osf(api, storage)
        project.node("abcde", TREE)
        Path("study.yaml").write_text(
            "datasets:\n"
            "  there: {kind: osf_vigilance, units: [sub01-scan01], files: [x], "
            f"licence: CC-BY-4.0, source: {{osf: abcde, base: '{project.base}'}}}}\n"
        )
        yield api, storage


def engram(capsys, *arguments):
    status = main(["data", *arguments, "--configfile", "study.yaml"]) or 0
    out, err = capsys.readouterr()
    return status, out, err


def test_one_subject_is_fetched_verified_and_not_fetched_again(study, capsys):
    _, storage = study
    assert engram(capsys, "fetch", "there", "--include", "SampleData/sub-01")[0] == 0
    folder = Path("resources/raw/there/SampleData")
    assert (folder / "sub-01/b.npy").read_bytes() == b"second" * 1000
    assert not (folder / "sub-02").exists()
    asked = len(storage.requests)
    assert engram(capsys, "fetch", "there", "--include", "SampleData/sub-01")[0] == 0
    assert len(storage.requests) == asked
    status, _, err = engram(capsys, "verify", "there")
    assert status == 0
    assert "2 files here, 0 of them not as published" in err


def test_the_listing_is_asked_for_once_and_shown(study, capsys):
    api, _ = study
    status, out, _ = engram(capsys, "list", "there")
    assert status == 0
    assert "SampleData/sub-02/a.npy" in out
    assert "none published" in out
    asked = len(api.requests)
    engram(capsys, "list", "there")
    assert len(api.requests) == asked
    out = engram(capsys, "list")[1]
    line = next(line for line in out.splitlines() if line.startswith("there"))
    for word in ("osf: abcde", "CC-BY-4.0", "4 files in config/locks/there.csv"):
        assert word in line


def test_a_first_download_records_the_checksum_that_nobody_published(study, capsys):
    engram(capsys, "fetch", "there", "--include", "**/notes.txt")
    assert "none published" not in engram(capsys, "list", "there")[1]
    notes = Path("resources/raw/there/SampleData/notes.txt")
    notes.write_bytes(b"something else, as long as it")
    status, out, _ = engram(capsys, "verify", "there")
    assert status == 1
    assert "notes.txt" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fetch", "ther"), "no dataset 'ther'; did you mean 'there'"),
        (("fetch",), "name a dataset"),
        (("fetch", "simulated"), "has no `source`"),
        (("fetch", "there", "--include", "sub-99"), "no file fits sub-99"),
        (("fetch", "there", "--offline"), "offline"),
    ],
)
def test_a_mistake_is_one_line(study, capsys, arguments, message):
    status, _, err = engram(capsys, *arguments)
    assert status == 1
    assert message in err.splitlines()[-1]


def test_data_under_an_agreement_is_not_fetched_unasked(study, capsys):
    text = Path("study.yaml").read_text()
    Path("study.yaml").write_text(text.replace("licence:", "terms: https://example.org, licence:"))
    status, _, err = engram(capsys, "fetch", "there")
    assert status == 1
    assert "under an agreement: https://example.org; accept it there" in err
    accepted = text.replace("licence:", "terms: x, terms_accepted: true, licence:")
    Path("study.yaml").write_text(accepted)
    assert engram(capsys, "fetch", "there")[0] == 0
