"""Recordings whose headers lie, by the doors that users take: one line each, in bounded memory."""

from pathlib import Path

import hostile
import numpy as np
import pandas as pd
import pytest

from engram import store
from engram.datasets import eeg_recordings


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- EDF and BDF ----------------------------------------------------------------------

NAMES, RATE, RECORDS = ("Fp1", "Cz", "Oz"), 100, 20


def eeg(path, **options):
    """Reads a recording as stage `render` does, and its header as `engram check --quick`."""
    row = {"subject": "s", "scan": "a", "file": str(path), "path": str(path)}
    found = eeg_recordings.read("s", [row], eeg_recordings.Options(**options))[0]
    return found, outlined(path, **options)


def outlined(path, **options):
    row = {"subject": "s", "scan": "a", "file": str(path), "path": str(path)}
    return eeg_recordings.outline("s", [row], eeg_recordings.Options(**options))


def edf(path="x.edf", lists=None, **said):
    """A file whose header says what `said` overwrites; `lists` are annotations of each record."""
    names = [*NAMES, *(["EDF Annotations"] if lists else [])]
    wide, n = (3 if path.endswith("bdf") else 2), len(names)
    room = -(-max(map(len, lists or [b""])) // wide)
    facts = {
        "version": b"\xffBIOSEMI" if wide == 3 else "0", "patient": "X X X X",
        "recording": "Startdate X X X X", "date": "01.01.20", "time": "00.00.00",
        "bytes": 256 * (n + 1), "reserved": f"{path[-3:].upper()}+C" if lists else "",
        "records": RECORDS, "duration": 1, "signals": n, "labels": names, "transducers": [""] * n,
        "units": ["uV"] * n, "lowest": [-200] * n, "highest": [200] * n, "least": [-32768] * n,
        "most": [32767] * n, "filters": [""] * n,
        "samples": [*[RATE] * len(NAMES), *([room] if lists else [])], "rest": [""] * n,
    } | said  # fmt: skip
    widths = [8, 80, 80, 8, 8, 8, 44, 8, 8, 4, 16, 80, 8, 8, 8, 8, 8, 80, 8, 32]
    head = b""
    for width, fact in zip(widths, facts.values(), strict=True):
        for one in fact if isinstance(fact, list) else [fact]:
            text = one if isinstance(one, bytes) else str(one).encode("latin-1")
            head += text.ljust(width)[:width]
    rng, body = np.random.default_rng(0), b""
    for i in range(RECORDS):
        values = rng.integers(-5000, 5000, (len(NAMES), RATE)).astype("<i4").view("u1")
        body += values.reshape(-1, 4)[:, :wide].tobytes()
        body += (lists[i] if lists else b"").ljust(room * wide, b"\0") if lists else b""
    Path(path).write_bytes(head + body)
    return path


EDF = {
    "a million signals": {"signals": 9999},
    "no signals": {"signals": 0},
    "negative signals": {"signals": -3},
    "signals that are no number": {"signals": "many"},
    "a billion samples": {"samples": [10**8 - 1] * 3},
    "negative samples": {"samples": [10**7, -(10**7) + 100, 100]},
    "samples cancel": {"samples": [100, 0, -100]},
    "no samples": {"samples": [0, 0, 0]},
    "duration 0": {"duration": 0},
    "negative duration": {"duration": -1},
    "NaN duration": {"duration": "nan"},
    "infinite duration": {"duration": "inf"},
    "tiny duration": {"duration": "1e-300"},
    "huge duration": {"duration": "1e300"},
    "duration is no number": {"duration": "1 s"},
    "records are no number": {"records": "1e3"},
    "NaN records": {"records": "nan"},
    "header too short": {"bytes": 256},
    "header too long": {"bytes": 99_999_999},
    "negative header": {"bytes": -1024},
    "NaN range": {"lowest": ["nan"] * 3},
    "infinite range": {"highest": ["inf"] * 3},
    "range of one value": {"lowest": [200] * 3},
    "digital range of one value": {"least": [32767] * 3},
    "huge range": {"highest": ["1e308"] * 3, "lowest": ["-1e308"] * 3},
    "range is no number": {"lowest": ["low"] * 3},
    "range of NUL bytes": {"highest": [bytes(8)] * 3},
    "no labels": {"labels": [bytes(16)] * 3},
}


@pytest.mark.parametrize("name", ["x.edf", "x.bdf"])
@pytest.mark.parametrize("lie", EDF)
def test_an_edf_header_that_lies(lie, name):
    edf(name, **EDF[lie])
    hostile.one_line(hostile.tried(lambda: eeg(name)), name)


def test_a_file_of_edf_as_it_should_be_and_records_that_nobody_counted():
    for name in ("x.edf", "x.bdf"):
        for records in (RECORDS, -1):
            found, _ = eeg(edf(name, records=records))
            assert found.duration == RECORDS


@pytest.mark.parametrize("size", [0, 8, 255, 256, 300, 1023, 1024, 1100])
def test_an_edf_file_that_is_cut_off(size):
    edf()
    Path("x.edf").write_bytes(Path("x.edf").read_bytes()[:size])
    hostile.one_line(hostile.tried(lambda: eeg("x.edf")), "x.edf")


def lists(*texts, rest=b""):
    """Annotations of each record: when it begins, and the texts in the first."""
    found = [b"+%d\x14\x14\0" % i for i in range(RECORDS)]
    found[0] += b"".join(texts)
    return [one + rest for one in found]


LISTS = {
    "endless onset": lists(b"+" + b"1" * 100_000 + b"\x14a\x14\0"),
    "infinite onset": lists(b"+" + b"9" * 400 + b"\x14a\x14\0"),
    "endless duration": lists(b"+1\x15" + b"9" * 400 + b"\x14a\x14\0"),
}


@pytest.mark.parametrize("lie", LISTS)
def test_annotations_of_edf_that_lie(lie):
    edf(lists=LISTS[lie])
    hostile.one_line(hostile.tried(lambda: eeg("x.edf")), "x.edf")


@pytest.mark.parametrize(
    "text", [b"+1\x14", b"+1.5\x14", b"+1\x152\x14x", b"+1\x14\0", b"\x14\x14"]
)
def test_annotations_of_edf_take_no_longer_than_they_are_long(text):
    """A list that never ends, begun again and again."""
    edf(lists=[b"+0\x14\x14\0" + 100_000 * text, *lists()[1:]])
    found = hostile.tried(lambda: print(eeg("x.edf")[0].duration), seconds=5)
    assert found.splitlines()[-1] == str(float(RECORDS))


def test_more_annotations_of_edf_than_anyone_made():
    edf(lists=[b"+0\x14a\x14\0" * 60_000] * RECORDS)
    hostile.one_line(hostile.tried(lambda: eeg("x.edf")), "x.edf", "annotations")


# ---- BrainVision ----------------------------------------------------------------------


def brainvision(path="x.vhdr", more="", **said):
    """A recording of 10 s, whose header says what `said` overwrites and `more`, put first."""
    facts = {
        "DataFile": "x.eeg", "MarkerFile": "x.vmrk", "DataFormat": "BINARY",
        "DataOrientation": "MULTIPLEXED", "NumberOfChannels": 3, "SamplingInterval": 10_000,
        "BinaryFormat": "INT_16", "Resolution": "0.1", "Codepage": "UTF-8",
    } | said  # fmt: skip
    common = [f"{key}={facts[key]}" for key in [*facts][:6]]
    channels = [f"Ch{i}={name},,{facts['Resolution']},µV" for i, name in enumerate(NAMES, 1)]
    lines = ["Brain Vision Data Exchange Header File Version 1.0", more, "[Common Infos]",
             f"Codepage={facts['Codepage']}", *common, "[Binary Infos]",
             f"BinaryFormat={facts['BinaryFormat']}", "[Channel Infos]", *channels]  # fmt: skip
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    values = np.random.default_rng(0).integers(-500, 500, (10 * RATE, 3)).astype("<i2")
    Path("x.eeg").write_bytes(values.tobytes())
    Path("x.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Marker Infos]\n"
        "Mk1=New Segment,,1,1,0,20200101120000000000\nMk2=Stimulus,S 1,100,1,0\n"
    )


BRAINVISION = {
    "data above": {"DataFile": "../other.eeg"},
    "data by absolute name": {"DataFile": "/etc/passwd"},
    "data of a device": {"DataFile": "/dev/zero"},
    "data below and above": {"DataFile": "a/../../other.eeg"},
    "data with backslashes": {"DataFile": "..\\other.eeg"},
    "data in small letters": {"more": "[Common infos]\ndatafile=../other.eeg\n"},
    "data twice": {"more": "DataFile=../other.eeg"},
    "data behind a colon": {"more": "[Other]\nDataFile: ../other.eeg"},
    "no data": {"DataFile": "none.eeg"},
    "data behind blanks": {"DataFile": "x" + 300_000 * " " + ".eeg"},
    "data is a folder": {"DataFile": "."},
    "markers above": {"MarkerFile": "../other.vmrk"},
    "markers by absolute name": {"MarkerFile": "/etc/passwd"},
    "markers not there": {"MarkerFile": "none.vmrk"},
    "a billion channels": {"NumberOfChannels": 10**9},
    "10^5000 channels": {"NumberOfChannels": "1" + "0" * 5000},
    "no channels": {"NumberOfChannels": 0},
    "negative channels": {"NumberOfChannels": -3},
    "channels that are no number": {"NumberOfChannels": "nan"},
    "more channels than named": {"NumberOfChannels": 5},
    "interval 0": {"SamplingInterval": 0},
    "NaN interval": {"SamplingInterval": "nan"},
    "negative interval": {"SamplingInterval": -10_000},
    "infinite interval": {"SamplingInterval": "inf"},
    "tiny interval": {"SamplingInterval": "1e-300"},
    "NaN resolution": {"Resolution": "nan"},
    "infinite resolution": {"Resolution": "inf"},
    "resolution 0": {"Resolution": "0"},
    "resolution is no number": {"Resolution": "high"},
    "unknown orientation": {"DataOrientation": "DIAGONAL"},
    "unknown format": {"BinaryFormat": "INT_128"},
    "codec that is none": {"Codepage": "zlib"},
    "text": {"DataFormat": "ASCII"},
}


@pytest.mark.parametrize("lie", BRAINVISION)
def test_a_header_of_brainvision_that_lies(lie, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path.parent / "other.eeg").write_bytes(bytes(6000))
    (tmp_path.parent / "other.vmrk").write_text("Mk1=Comment,secret,1,1,0\n")
    brainvision(**BRAINVISION[lie])
    found = hostile.tried(lambda: eeg("x.vhdr"), seconds=10)
    hostile.one_line(found, "x.vhdr" if "x.vhdr" in found else "x.vmrk")
    assert "secret" not in found
    brainvision(**BRAINVISION[lie])
    hostile.one_line(hostile.tried(lambda: outlined("x.vhdr"), seconds=10), "x.vhdr")


MARKERS = {
    "nothing": b"",
    "bytes": bytes(1000),
    "a sample that is no number": b"[Marker Infos]\nMk1=Stimulus,S 1,first,1,0\n",
    "too few parts": b"[Marker Infos]\nMk1=Stimulus\n",
    "a sample of 400 digits": b"[Marker Infos]\nMk1=Stimulus,S 1," + b"9" * 400 + b",1,0\n",
}


@pytest.mark.parametrize("lie", MARKERS)
def test_markers_of_brainvision_that_lie(lie):
    brainvision()
    Path("x.vmrk").write_bytes(MARKERS[lie])
    hostile.one_line(hostile.tried(lambda: eeg("x.vhdr"), seconds=10), "x.vmrk")


def test_brainvision_as_it_should_be_linked_as_datalad_does(tmp_path):
    brainvision()
    kept = tmp_path.parent / "kept"
    kept.mkdir(exist_ok=True)
    for name in ("x.vhdr", "x.eeg", "x.vmrk"):
        Path(name).rename(kept / f"{name}-1234")
        Path(name).symlink_to(kept / f"{name}-1234")
    found, _ = eeg("x.vhdr")
    assert found.duration == 10
    assert [*found.events["description"]] == ["Stimulus/S 1"]


# ---- text of others -------------------------------------------------------------------

#: Clears a terminal, goes to its next line, and runs in a browser; 15 bytes, as a label has 16.
EVIL = "\x1b[2J\nOK <b>\x9b1m"


def harmless(said):
    """Printed lines without escapes, and none that a file made."""
    assert all(line.isprintable() for line in said.split("\n")), said
    assert not any(line.startswith("OK ") for line in said.split("\n")), said


@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_what_a_file_says_neither_runs_nor_forges_a_line(quick, tmp_path):
    """Labels, annotations, and names in a manifest, on the terminal, the page and the log."""
    mark = b"+1\x14" + EVIL.encode() + b"<script>alert(1)</script>\x14\0"
    edf(lists=lists(mark), labels=[EVIL, "Cz", "Oz", "EDF Annotations"], units=["uV"] * 3 + [""])
    said = hostile.command("check", "x.edf", "--jobs", "1", *quick, memory=2 << 30)
    assert "1 recording" in Path("check/index.html").read_text()
    harmless(said)
    page = Path("check/index.html").read_text()
    assert "<script>alert" not in page
    assert "OK <b>" not in page
    harmless(hostile.tried(lambda: eeg("x.edf")))
    edf("y.edf", labels=[EVIL, EVIL, "EOG"], units=["uV", "uV", "X" + EVIL[:4]])
    harmless(hostile.command("check", "y.edf", "--jobs", "1", memory=2 << 30))


def test_what_a_store_says_forges_no_line():
    table = pd.DataFrame({"concept": [EVIL]}, index=[EVIL])
    header = {"what": "picture", "axes": 1, EVIL: EVIL}
    store.write("x.h5", store.Rows(np.zeros((1, 3), "f4"), table, header))
    said = hostile.command("show", "x.h5")
    assert ascii(EVIL)[1:8] in said
    harmless(said)
