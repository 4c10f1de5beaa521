"""Headers of GDF, Neuroscan, Persyst, Nihon Kohden and CTF that lie: one line each, and no wait."""

import math
import struct
from pathlib import Path

import hostile
import numpy as np
import pytest

from engram.datasets import eeg_recordings
from engram.errors import InputError

NAMES, RATE, SECONDS = ("Fp1", "Cz", "Oz"), 100, 20
N, BIG = len(NAMES), 2**31 - 1
VALUES = np.random.default_rng(0).integers(-500, 500, (SECONDS * RATE, N)).astype("<i2")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def eeg(path):
    row = {"subject": "s", "scan": "a", "file": str(path), "path": str(path)}
    return eeg_recordings.read("s", [row], eeg_recordings.Options())[0]


def packed(size, fields):
    """Bytes, zero but for (format, value) by their place."""
    found = bytearray(size)
    for place, (form, value) in fields.items():
        struct.pack_into(form, found, place, value)
    return bytes(found)


def refused(path):
    with pytest.raises(InputError) as caught:
        eeg(path)
    hostile.one_line(f"InputError: {caught.value}", path)


# ---- files, whose headers say what `said` overwrites ------------------------------------


def gdf(path="x.gdf", **said):
    """https://arxiv.org/abs/cs/0608052; of version 1.25 or 2.20."""
    f = {
        "version": 1.25, "signals": N, "records": SECONDS, "seconds": 1, "parts": 1, "bytes": 1024,
        "low": -200.0, "high": 200.0, "least": -32768, "most": 32767, "samples": RATE, "type": 3,
        "events": 1,
    } | said  # fmt: skip
    old = f["version"] < 1.9
    head = {0: ("8s", f"GDF {f['version']:.2f}".encode()), 236: ("<q", f["records"]),
            244: ("<I", f["seconds"]), 248: ("<I", f["parts"]),
            184: ("<q", f["bytes"]) if old else ("<H", f["bytes"] // 256),
            252: ("<I" if old else "<H", f["signals"])}  # fmt: skip
    names = b"".join(name.encode().ljust(16, b"\0") for name in NAMES)
    unit = [b"uV      "] * N if old else [bytes(6)] * N + [struct.pack("<H", 4275)] * N
    ranges = [("d", "low"), ("d", "high"), ("q" if old else "d", "least"),
              ("q" if old else "d", "most")]  # fmt: skip
    facts = [names, bytes(80 * N), *unit, *(struct.pack(form, f[key]) * N for form, key in ranges),
             bytes(80 * N), struct.pack("<i", f["samples"]) * N, struct.pack("<i", f["type"]) * N,
             bytes(32 * N)]  # fmt: skip
    values = VALUES.reshape(SECONDS, RATE, N).transpose(0, 2, 1).tobytes()
    count = f["events"].to_bytes(4, "little")
    rate = RATE.to_bytes(3, "little") if old else struct.pack("<f", RATE)
    table = b"\1" + (rate + count if old else count[:3] + rate) + struct.pack("<IH", 501, 769)
    Path(path).write_bytes(packed(256, head) + b"".join(facts) + values + table)
    return path


def cnt(path="x.cnt", **said):
    """http://paulbourke.net/dataformats/eeg/"""
    end = 900 + 75 * N + VALUES.nbytes
    f = {"signals": N, "rate": RATE, "samples": len(VALUES), "events": end, "kind": 1, "length": 8,
         "scale": 204.8} | said  # fmt: skip
    head = packed(900, {370: ("<H", f["signals"]), 376: ("<H", f["rate"]),
                        864: ("<i", f["samples"]), 886: ("<i", f["events"])})  # fmt: skip
    for i, name in enumerate(NAMES):
        place = {19: ("<f", 0.1 * i), 23: ("<f", 0.1)}
        head += packed(75, {0: ("10s", name.encode()), 59: ("<f", 0.1), 71: ("<f", f["scale"])}
                       | place)  # fmt: skip
    event = struct.pack("<HBci", 7, 0, b"\0", 900 + 75 * N + 2 * N * 501)
    table = struct.pack("<Bii", f["kind"], f["length"], 0) + event
    Path(path).write_bytes(head + VALUES.tobytes() + table)
    return path


def persyst(path="x.lay", names=NAMES, places=(1, 2, 3), comment="5,0,0,100,mark", **said):
    f = {"File": "x.dat", "FileType": "Interleaved", "SamplingRate": RATE, "HeaderLength": 0,
         "Calibration": 0.1, "WaveformCount": len(names), "DataType": 0} | said  # fmt: skip
    channels = [f"{name}-Ref={place}" for name, place in zip(names, places, strict=True)]
    patient = ["First=", "Last=", "Sex=", "Hand=", "BirthDate=01/01/80",
               "TestDate=01/01/2020", "TestTime=00:00:00"]  # fmt: skip
    lines = ["[FileInfo]", *(f"{key}={value}" for key, value in f.items()), "[ChannelMap]",
             *channels, "[Patient]", *patient, "[Comments]", comment]  # fmt: skip
    Path(path).write_text("\n".join(lines) + "\n")
    Path("x.dat").write_bytes(VALUES.tobytes())
    return path


def nihon(path="x.eeg", labels="0000=Fp1\n0017=Cz\n0008=Oz\n", **said):
    f = {"controls": 1, "control": 0x400, "blocks": 1, "block": 0x1800, "rate": RATE,
         "tenths": 10 * SECONDS, "signals": N, "log": 0x200, "events": 1, "date": b"20200101000000",
         "clock": b"000005"} | said  # fmt: skip
    version, at = ("16s", b"EEG-1100C V01.00"), 0x1800
    head = packed(at + 0x27 + 10 * N, {
        0: version, 0x81: version, 0x91: ("B", f["controls"]), 0x92: ("<I", f["control"]),
        0x411: ("B", f["blocks"]), 0x412: ("<I", f["block"]), 0x17FE: ("B", 1),
        at + 0x1A: ("<H", f["rate"]), at + 0x1C: ("<I", f["tenths"]),
        at + 0x26: ("B", f["signals"]), at + 0x27: ("B", 0), at + 0x31: ("B", 17),
        at + 0x3B: ("B", 8)})  # fmt: skip
    values = np.pad(VALUES.astype("i4") + 0x8000, [(0, 0), (0, 1)]).astype("<u2")
    Path(path).write_bytes(head + values.tobytes())
    Path("x.21E").write_text(f"[ELECTRODE]\n{labels}")
    Path("x.PNT").write_bytes(packed(0x60, {0: version, 0x40: ("14s", f["date"])}))
    log = {0: version, 0x91: ("B", 1), 0x92: ("<I", f["log"]), 0x201: version,
           0x212: ("B", f["events"]), 0x214: ("4s", b"mark"),
           0x228: ("6s", f["clock"])}  # fmt: skip
    Path("x.LOG").write_bytes(packed(0x214 + 45, log))
    return path


MARKS = """NUMBER OF MARKERS:
1

NAME:
mark

NUMBER OF SAMPLES:
1

LIST OF SAMPLES:
TRIAL NUMBER\t\tTIME FROM SYNC POINT (in seconds)
+0\t\t+5.0
"""


def ctf(path="x.ds", marks=MARKS, **said):
    f = {"samples": len(VALUES), "signals": N, "rate": float(RATE), "text": 0, "filters": 0,
         "corrections": 0, "scale": 1e7} | said  # fmt: skip
    Path(path).mkdir(exist_ok=True)
    head = packed(1844, {
        0: ("8s", b"MEG42RS"), 778: ("20s", b"12:00"), 1033: ("20s", b"01-Jan-2020"),
        1288: (">i", f["samples"]), 1292: (">h", f["signals"]), 1296: (">d", f["rate"]),
        1836: (">i", f["text"])})  # fmt: skip
    signal = struct.pack(">hhiddddhhi", 9, 0, 0, 1.0, f["scale"], 1.0, 0.0, 1, 0, 0)
    names = b"".join(name.encode().ljust(32, b"\0") for name in NAMES)
    rest = struct.pack(">h", f["filters"]) + names + N * (signal + bytes(16 * 80))
    (Path(path) / "x.res4").write_bytes(head + rest + struct.pack(">h", f["corrections"]))
    (Path(path) / "x.meg4").write_bytes(b"MEG41CP\0" + VALUES.astype(">i4").T.tobytes())
    (Path(path) / "MarkerFile.mrk").write_text(marks)
    return path


@pytest.mark.parametrize(
    ("write", "scale", "said"),
    [
        (gdf, 400 / 65535, {}), (gdf, 400 / 65535, {"version": 2.2}), (cnt, 0.1, {}),
        (persyst, 0.1, {}), (nihon, 6399.902 / 65535, {}), (ctf, 0.1, {}),
    ],
)  # fmt: skip
def test_a_file_as_it_should_be(write, scale, said):
    found = eeg(write(**said))
    assert [name.title() for name in found.signals["eeg"].channels] == [*NAMES]
    data = found.signals["eeg"].data
    assert np.allclose(data - data.mean(), scale * (VALUES - VALUES.mean()).T, atol=0.01)
    assert np.allclose(found.events["onset"], 5, atol=0.011)
    assert len(found.events) == 1


# ---- lies -----------------------------------------------------------------------------

NAN, INF = math.nan, math.inf
LIES = {
    gdf: [{"signals": 0}, {"signals": 4}, {"signals": 65535}, {"records": 0}, {"records": -5},
          {"records": 10**6}, {"records": 2**62}, {"seconds": 0}, {"parts": 0},
          {"parts": 2**32 - 1}, {"bytes": 256}, {"bytes": 2**40}, {"low": NAN}, {"high": INF},
          {"high": -200.0}, {"least": 32767}, {"samples": BIG}, {"samples": -100}, {"samples": 0},
          {"type": 99}, {"events": 1000}],
    cnt: [{"signals": 0}, {"signals": 4}, {"signals": 65535}, {"rate": 0}, {"samples": BIG},
          {"samples": 3}, {"samples": 4000}, {"events": 0}, {"events": -5}, {"events": 10**8},
          {"events": 1000}, {"kind": 9}, {"length": 5}, {"scale": NAN}, {"scale": INF},
          {"scale": 0.0}],
    persyst: [{"File": "../other.dat"}, {"File": "/etc/passwd"}, {"File": "/dev/zero"},
              {"File": "..\\other.dat"}, {"File": "none.dat"}, {"File": "."}, {"File": ""},
              {"File": "x.lay"}, {"SamplingRate": 0}, {"SamplingRate": "nan"},
              {"SamplingRate": "inf"}, {"SamplingRate": -100}, {"SamplingRate": "1e300"},
              {"Calibration": "nan"}, {"Calibration": "inf"}, {"Calibration": 0},
              {"WaveformCount": 10**9}, {"WaveformCount": 0}, {"WaveformCount": "1" * 5000},
              {"DataType": 5}, {"comment": "nan,0,0,1,mark"}, {"comment": "1,2"},
              {"HeaderLength": 512}, {"FileType": "Sequential"}, {"places": (2, 1, 3)}],
    nihon: [{"controls": 0}, {"controls": 255}, {"control": 0}, {"control": 2**32 - 1},
            {"blocks": 0}, {"blocks": 255}, {"block": 0}, {"block": 2**32 - 1}, {"signals": 0},
            {"signals": 255}, {"rate": 0}, {"tenths": 0}, {"tenths": 400}, {"tenths": 2**32 - 1},
            {"events": 255}, {"log": 2**32 - 1}, {"clock": b"99999x"}, {"date": b"nan"},
            {"labels": "no number\n"}, {"labels": "-1000=X\n"}],
    ctf: [{"samples": 0}, {"samples": -2000}, {"signals": 0}, {"signals": -3}, {"signals": 32767},
          {"rate": 0.0}, {"rate": NAN}, {"rate": INF}, {"rate": -1.0}, {"text": BIG},
          {"filters": 32767}, {"corrections": 32767}, {"scale": 0.0}, {"scale": NAN},
          {"marks": MARKS.replace("+5", "nan")}, {"marks": MARKS[:-14]}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("write", "lie"),
    [(write, lie) for write, lies in LIES.items() for lie in lies],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:40],
)
def test_a_header_that_lies(write, lie, tmp_path):
    (tmp_path.parent / "other.dat").write_bytes(VALUES.tobytes())
    refused(write(**lie))
    if write is gdf and "bytes" not in lie and isinstance(lie.get("least", 0), int):
        refused(gdf(version=2.2, **lie))


ENDLESS = {
    "4 billion signals of GDF": lambda: gdf(signals=2**32 - 1),
    "4 billion events of GDF": lambda: gdf(events=2**32 - 1),
    "channels of Persyst": lambda: persyst(names=[*map(str, range(20_000))],
                                           places=range(20_000)),
    "comments of Persyst": lambda: persyst(comment="5,1,0,100,mark\n" * 300_000),
    "blanks of Persyst": lambda: persyst(File="x" + " " * 300_000 + "y"),
    "blanks of its FileType": lambda: persyst(FileType="x" + " " * 300_000 + "y"),
    "blanks of Nihon Kohden": lambda: nihon(labels="\n" * 300_000 + "x\n"),
    "electrode 30 million of Nihon Kohden": lambda: nihon(labels="30000000=X\n"),
    "no heading in CTF": lambda: ctf(marks="nothing"),
    "a billion markers of CTF": lambda: ctf(marks=MARKS.replace("\n1\n", "\n1000000000\n", 1)),
    "markers of CTF in another order": lambda: ctf(marks=MARKS.replace("NAME", "NAMELY")),
}  # fmt: skip


@pytest.mark.parametrize("lie", ENDLESS)
def test_what_would_take_for_ever_or_all_memory(lie):
    path = ENDLESS[lie]()
    said = hostile.tried(lambda: eeg(path), seconds=5)
    hostile.one_line(said, path)
    assert "Unable to allocate" not in said


@pytest.mark.parametrize("write", LIES)
def test_a_file_that_is_cut_off(write):
    path = write()
    file = {"x.ds": "x.ds/x.res4", "x.lay": "x.dat"}.get(path, path)
    whole = Path(file).read_bytes()
    sizes = (0, 1, 100, 256, 700, 1000, 1100, 1850, 6000)
    for size in sizes[:2] if file == "x.dat" else sizes:  # what is left of that is a recording
        Path(file).write_bytes(whole[:size])
        if size < len(whole):
            refused(path)
