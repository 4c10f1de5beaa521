"""What is read is what was recorded: signals, times and marks that are known here."""

import datetime
import struct
import warnings

import edfio
import mne
import numpy as np
import pandas as pd
import pytest
import scipy.io
from eeglab73 import write_set73

from engram import store, views
from engram.datasets import eeg_recordings, read
from engram.errors import InputError
from engram.readers import channels, recordings
from engram.recording import Windows

SFREQ, SECONDS = 128, 40
NAMES = ("Fp1", "Cz", "Oz")
EVENTS = [(5.0, 10.0, "closed"), (20.0, 10.0, "open")]
DATA = np.random.default_rng(0).normal(0, 20, (3, SECONDS * SFREQ)).round(2)


def recorded(path, **options):
    row = {"subject": "s", "scan": "a", "file": path.name, "path": str(path)}
    (found,) = eeg_recordings.read("s", [row], eeg_recordings.Options(**options))
    return found


def eeg(path, **options):
    return recorded(path, **options).signals["eeg"]


def events(recording):
    return [tuple(event) for event in recording.events.itertuples(index=False)]


def said(recording):
    return " ".join(recording.origin["recorded"]["a"]["said"])


def refused(path, words, **options):
    with pytest.raises(InputError, match=words) as caught:
        recorded(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path.parent))
    assert "\n" not in message


# ---- writing ------------------------------------------------------------------------------


def edf(path, data=DATA, names=NAMES, unit="uV", marks=EVENTS, span=500.0, rates=None):
    units = [unit] * len(names) if isinstance(unit, str) else unit
    parts = [
        edfio.EdfSignal(x, rate, label=name, physical_dimension=of, physical_range=(-span, span))
        for x, name, of, rate in zip(data, names, units, rates or [SFREQ] * len(names), strict=True)
    ]
    edfio.Edf(parts, annotations=[edfio.EdfAnnotation(*mark) for mark in marks]).write(path)
    return path


def bdf(path):
    parts = [
        edfio.BdfSignal(x, SFREQ, label=name, physical_dimension="uV", physical_range=(-500, 500))
        for x, name in zip(DATA, NAMES, strict=True)
    ]
    edfio.Bdf(parts, annotations=[edfio.EdfAnnotation(*mark) for mark in EVENTS]).write(path)
    return path


def raw(names=NAMES, marks=EVENTS, date=None, kinds="eeg", scale=1e-6, first_samp=0):
    info = mne.create_info(list(names), SFREQ, kinds, verbose="error")
    made = mne.io.RawArray(DATA[: len(names)] * scale, info, first_samp=first_samp, verbose="error")
    made.set_meas_date(date)
    if marks:
        made.set_annotations(mne.Annotations(*zip(*marks, strict=True)))
    return made


def fif(path, made=None, **how):
    (made or raw()).save(path, verbose="error", **how)
    return path


def brainvision(
    path, markers=None, encoding="utf-8", page="UTF-8", number="INT_16", order="MULTIPLEXED",
    unit="µV", names=NAMES,
):  # fmt: skip
    """0.01 units a step; markers are (type, description, s, s), by default the events."""
    lines = "".join(f"Ch{i + 1}={name},,0.01,{unit}\n" for i, name in enumerate(names))
    codepage = f"Codepage={page}\n" if page else ""
    common = f"[Common Infos]\n{codepage}DataFile={path.stem}.eeg\n"
    path.write_text(
        f"Brain Vision Data Exchange Header File Version 1.0\n\n{common}"
        f"MarkerFile={path.stem}.vmrk\nDataFormat=BINARY\nDataOrientation={order}\nNumberOfChannels={len(names)}\n"
        f"DataPoints={DATA.shape[1]}\nSamplingInterval={1e6 / SFREQ}\n\n"
        f"[Binary Infos]\nBinaryFormat={number}\n\n[Channel Infos]\n{lines}",
        "utf-8",
    )
    markers = markers or [("Comment", text, onset, length) for onset, length, text in EVENTS]
    marks = "".join(
        f"Mk{i + 2}={kind},{text},{round(onset * SFREQ) + 1},{round(length * SFREQ)},0\n"
        for i, (kind, text, onset, length) in enumerate(markers)
    )
    path.with_suffix(".vmrk").write_bytes(
        f"Brain Vision Data Exchange Marker File, Version 1.0\n\n{common}\n[Marker Infos]\n"
        f"Mk1=New Segment,,1,1,0,20200101120000000000\n{marks}".encode(encoding)
    )
    values = DATA[: len(names)] / 0.01
    values = values if number == "IEEE_FLOAT_32" else values.round()
    values = values if order == "VECTORIZED" else values.T
    kind = {"INT_16": "<i2", "INT_32": "<i4", "IEEE_FLOAT_32": "<f4"}[number]
    values.astype(kind).tofile(path.with_suffix(".eeg"))
    return path


def eeglab(path, marks=None, names=NAMES, data=None, scale=1.0, **more):
    """MATLAB's v5; marks are (latency, duration, type) in samples from 1."""
    marks = [(o * SFREQ + 1, n * SFREQ, d) for o, n, d in EVENTS] if marks is None else marks
    fields = [("latency", object), ("duration", object), ("type", object)]
    facts = {
        "setname": "x", "nbchan": len(names), "trials": 1, "pnts": DATA.shape[1],
        "srate": float(SFREQ), "xmin": 0.0, "xmax": SECONDS - 1 / SFREQ,
        "data": (DATA[: len(names)] * scale).astype("f4") if data is None else data,
        "chanlocs": np.array([(name,) for name in names], dtype=[("labels", object)]),
        "event": np.array([tuple(mark) for mark in marks], dtype=fields),
    }  # fmt: skip
    scipy.io.savemat(path, {"EEG": facts | more}, oned_as="row")
    return path


def eeglab73(path, names=NAMES):
    marks = [(d, o * SFREQ + 1, n * SFREQ) for o, n, d in EVENTS]
    write_set73(path, DATA[: len(names)], SFREQ, names, marks)
    return path


def gdf(path, unit="uV"):
    """GDF 1.25, one record a second, 16 bits, 0.01 units a step, events in samples."""
    n, kept = len(NAMES), len(EVENTS)
    head = b"GDF 1.25" + b"X X".ljust(80) + b"".ljust(80) + b"2020010112000000"
    head += struct.pack("<q", 256 * (n + 1)) + bytes(24) + bytes(20)
    head += struct.pack("<qIII", SECONDS, 1, 1, n)
    head += b"".join(name.encode().ljust(16, b"\0") for name in NAMES) + bytes(80 * n)
    head += unit.encode().ljust(8, b"\0") * n
    head += struct.pack(f"<{2 * n}d", *[-327.68] * n, *[327.67] * n)
    head += struct.pack(f"<{2 * n}q", *[-32768] * n, *[32767] * n) + bytes(80 * n)
    head += struct.pack(f"<{2 * n}i", *[SFREQ] * n, *[3] * n) + bytes(32 * n)
    values = (DATA / 0.01).round().astype("<i2").reshape(n, SECONDS, SFREQ)
    at = np.array([mark[0] * SFREQ + 1 for mark in EVENTS], "<u4")
    length = np.array([mark[1] * SFREQ for mark in EVENTS], "<u4")
    table = bytes([3, 0, 0, 0]) + struct.pack("<I", kept) + at.tobytes()
    table += np.array([769, 770], "<u2").tobytes() + np.zeros(kept, "<u2").tobytes()
    path.write_bytes(head + values.transpose(1, 0, 2).tobytes() + table + length.tobytes())
    return path


# ---- every format is read alike -----------------------------------------------------------

#: How to write a file, its name, what may be lost of a value, uV.
FORMATS = {
    "edf": (edf, "a.edf", 1000 / 65535 / 2),
    "bdf": (bdf, "a.bdf", 1000 / 2**24),
    "fif": (fif, "a_raw.fif", 1e-5),
    "eeglab": (eeglab, "a.set", 1e-5),
    "eeglab 7.3": (eeglab73, "a.set", 1e-5),
}
BRAINVISION = [
    (number, order)
    for number in ("INT_16", "INT_32", "IEEE_FLOAT_32")
    for order in ("MULTIPLEXED", "VECTORIZED")
]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_signal_and_its_events_are_those_that_were_written(tmp_path, kind):
    write, name, lost = FORMATS[kind]
    found = recorded(write(tmp_path / name))
    np.testing.assert_allclose(found.signals["eeg"].data, DATA, rtol=0, atol=lost * 1.01)
    assert found.signals["eeg"].channels == NAMES
    assert (found.signals["eeg"].sfreq, found.duration) == (SFREQ, SECONDS)
    assert events(found) == EVENTS
    assert said(found) == ""


@pytest.mark.parametrize(("number", "order"), BRAINVISION)
def test_so_are_those_of_brainvision(tmp_path, number, order):
    found = recorded(brainvision(tmp_path / "a.vhdr", number=number, order=order))
    np.testing.assert_allclose(found.signals["eeg"].data, DATA, rtol=0, atol=1e-5)
    assert events(found) == [(o, n, f"Comment/{d}") for o, n, d in EVENTS]


@pytest.mark.parametrize("write", [eeglab, eeglab73])
def test_one_channel_of_eeglab_is_read(tmp_path, write):
    found = recorded(write(tmp_path / "a.set", names=NAMES[:1]))
    np.testing.assert_allclose(found.signals["eeg"].data, DATA[:1], rtol=0, atol=1e-5)
    assert events(found) == EVENTS


def test_so_are_those_of_gdf(tmp_path):
    found = recorded(gdf(tmp_path / "a.gdf"))
    np.testing.assert_allclose(found.signals["eeg"].data, DATA, rtol=0, atol=1e-5)
    assert events(found) == [(5, 10, "769"), (20, 10, "770")]
    refused(gdf(tmp_path / "b.gdf", unit="mV"), "no known unit")  # MNE knows uV alone


# ---- one clock ----------------------------------------------------------------------------

DATE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize("date", [None, DATE])
@pytest.mark.parametrize("first_samp", [0, 1000])
def test_events_of_a_fif_count_from_its_first_sample(tmp_path, date, first_samp):
    cropped = raw(date=date, first_samp=first_samp).crop(3.0)
    once = fif(tmp_path / "a_raw.fif", cropped)
    assert events(recorded(once)) == [(2, 10, "closed"), (17, 10, "open")]
    again = mne.io.read_raw(once, preload=True, verbose="error").crop(10.0)
    found = recorded(fif(tmp_path / "b_raw.fif", again))
    assert events(found) == [(0, 2, "closed"), (7, 10, "open")]
    np.testing.assert_allclose(found.signals["eeg"].data, DATA[:, 13 * SFREQ :], rtol=0, atol=1e-4)


def test_what_a_crop_leaves_of_an_event_before_is_none(tmp_path):
    """MNE keeps an event that ends where the crop begins, of 0 s."""
    path = fif(tmp_path / "a_raw.fif", raw().crop(15.0))
    found = recorded(path)
    assert events(found) == [(5, 10, "open")]
    assert "1 event(s) of 0 s at the edge" in said(found)
    points = [(0.0, 0.0, "go"), (9.0, 0.0, "go"), (12.0, 5.0, "rest")]
    assert events(recorded(fif(tmp_path / "b_raw.fif", raw(marks=points)))) == points


def test_a_clock_of_the_annotations_of_their_own_is_kept(tmp_path):
    made = raw(marks=[], date=DATE)
    later = DATE + datetime.timedelta(seconds=4)
    made.set_annotations(mne.Annotations([1.0], [2.0], ["x"], orig_time=later))
    assert events(recorded(fif(tmp_path / "a_raw.fif", made))) == [(5, 2, "x")]


def discontinuous(path, starts, marks=(), flag=b"EDF+D"):
    """An EDF+ whose records, 1 s each, say that they begin at `starts`."""
    parts = [
        edfio.EdfSignal(x, SFREQ, label=name, physical_dimension="uV", physical_range=(-500, 500))
        for x, name in zip(DATA, NAMES, strict=True)
    ]
    filler = [edfio.EdfAnnotation(0.0, 1.0, "x" * 40)]
    edfio.Edf(parts, annotations=filler, data_record_duration=1).write(path)
    content = bytearray(path.read_bytes())
    content[192:197] = flag
    header = int(content[184:192])
    size = (len(content) - header) // SECONDS
    signals = 2 * SFREQ * len(NAMES)
    for i, start in enumerate(starts):
        text = b"+%f\x14\x14\x00" % start
        for onset, duration, name in marks:
            if start <= onset < start + 1:
                text += b"+%f\x15%f\x14%s\x14\x00" % (onset, duration, name)
        at = header + i * size + signals
        content[at : at + size - signals] = text.ljust(size - signals, b"\0")
    path.write_bytes(content)
    return path


def test_gaps_of_an_edf_keep_the_clock(tmp_path):
    """10 s are missing after 15 s; an event may begin in the gap's shadow and end behind it."""
    starts = [7.25 + k + 10 * (k >= 15) for k in range(SECONDS)]
    marks = [(9.25, 10, b"a"), (20.25, 15, b"b"), (40.25, 30, b"c")]
    path = discontinuous(tmp_path / "a.edf", starts, marks)
    found = recorded(path)
    signal = found.signals["eeg"].data
    assert (found.duration, signal.shape[1]) == (SECONDS + 10, (SECONDS + 10) * SFREQ)
    np.testing.assert_allclose(signal[:, : 15 * SFREQ], DATA[:, : 15 * SFREQ], atol=0.01)
    np.testing.assert_allclose(signal[:, 25 * SFREQ :], DATA[:, 15 * SFREQ :], atol=0.01)
    assert np.isnan(signal[:, 15 * SFREQ : 25 * SFREQ]).all()
    assert events(found) == [(2, 10, "a"), (13, 15, "b"), (33, 17, "c")]
    assert found.bad.to_numpy().tolist() == [[15, 10, "gap"]]
    half = recorded(path, sfreq=64.0).signals["eeg"].data
    assert np.flatnonzero(np.isnan(half[0])).tolist() == list(range(15 * 64, 25 * 64))
    assert "1 gap(s), 10 s in all" in said(found)


def test_records_of_an_edf_that_cannot_be_are_refused(tmp_path):
    refused(discontinuous(tmp_path / "a.edf", [0] * SECONDS), "record 2 begins before record 1 end")
    far = [k + 10**6 * (k > 5) for k in range(SECONDS)]
    refused(discontinuous(tmp_path / "b.edf", far), "spread over 1.00004e.06 s; split the file")
    path = discontinuous(tmp_path / "c.edf", range(SECONDS))
    path.write_bytes(path.read_bytes().replace(b"+7.000000", b" " * 9))
    refused(path, "not every record says when it begins")
    adjoining = discontinuous(tmp_path / "d.edf", [0] * SECONDS, flag=b"EDF+C")
    np.testing.assert_allclose(eeg(adjoining).data, DATA, atol=0.01)


def test_what_lies_outside_of_a_recording_is_cut_off_and_said(tmp_path):
    marks = [(-2.0, 4.0, "early"), (39.0, 9.0, "late"), (60.0, 1.0, "never"), (-3, 3, "before")]
    found = recorded(edf(tmp_path / "a.edf", marks=marks))
    assert sorted(events(found)) == [(0, 2, "early"), (39, 1, "late")]
    assert "2 event(s) outside" in said(found)
    assert "2 event(s) that reach beyond" in said(found)


def test_seams_are_no_events_and_no_window_holds_one(tmp_path):
    """A boundary of EEGLAB lasts as long as what was cut out, but takes no time itself."""
    marks = [(0.5, 0, "boundary"), (10 * SFREQ + 1, 99999, "boundary"), (20 * SFREQ + 1, 10, "x")]
    found = recorded(eeglab(tmp_path / "a.set", marks))
    assert events(found) == [(20, 10 / SFREQ, "x")]
    assert found.bad.to_numpy().tolist() == [[10, 0, "cut"]]
    markers = [("New Segment", "", 10, 0), ("Stimulus", "x", 20, 1)]
    found = recorded(brainvision(tmp_path / "a.vhdr", markers))
    assert events(found) == [(20, 1, "Stimulus/x")]
    assert found.bad.to_numpy().tolist() == [[10, 0, "cut"]]
    refused(tmp_path / "a.vhdr", "cut out after 10 s, .* `protocol`", protocol=[[0, 30, "x"]])


def test_skips_of_a_fif_are_no_data(tmp_path):
    made = raw(marks=[(10.0, 5.0, "BAD_ACQ_SKIP"), (20.0, 1.0, "x")])
    found = recorded(fif(tmp_path / "a_raw.fif", made, buffer_size_sec=1.0))
    gone = np.isnan(found.signals["eeg"].data)
    assert np.flatnonzero(gone.any(axis=0)).tolist() == list(range(10 * SFREQ, 15 * SFREQ))
    assert (20, 1, "x") in events(found)


# ---- units --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "size"),
    [("uV", 1), ("UV", 1), ("mV", 1e-3), ("mv", 1e-3), ("V", 1e-6), ("nV", 1e3), ("microV", 1)],
)
def test_a_unit_of_voltage_is_understood_however_it_is_spelt(tmp_path, unit, size):
    path = edf(tmp_path / "a.edf", DATA * size, unit=unit, span=500 * size)
    np.testing.assert_allclose(eeg(path).data, DATA, rtol=0, atol=0.01)


@pytest.mark.parametrize("unit", ["", "%", "degC", "MV", "Ohm", "uVrms"])
def test_a_unit_that_is_none_or_unknown_is_refused_until_it_is_said(tmp_path, unit):
    path = edf(tmp_path / "a.edf", unit=unit)
    refused(path, r"a\.edf: channel 'Fp1' has (the|no) .*unit.* in `unit`")
    told = recorded(path, unit=dict.fromkeys(("FP1", "Cz", "oz"), "uV"))
    np.testing.assert_allclose(told.signals["eeg"].data, DATA, rtol=0, atol=0.01)
    assert "Fp1 is read in uV, which the file does not say" in said(told)


def test_a_unit_for_all_is_for_those_that_have_none(tmp_path):
    path = edf(tmp_path / "a.edf", unit=["", "mV", "uV"])
    found = eeg(path, unit="uV").data / [[1], [1000], [1]]
    np.testing.assert_allclose(found, DATA, rtol=0, atol=0.01)
    with pytest.raises(InputError, match="unit: 'foo' is none of V, mV, uV, nV"):
        recorded(path, unit="foo")


def test_a_unit_by_name_overrides_that_of_the_file(tmp_path):
    path = edf(tmp_path / "a.edf", unit="V")
    refused(path, "standard deviation of 1.99e.07 uV")
    found = recorded(path, unit=dict.fromkeys((*NAMES, "Pz"), "uV"))
    np.testing.assert_allclose(found.signals["eeg"].data, DATA, rtol=0, atol=0.01)
    assert "`unit` names Pz, which no channel of this file is called" in said(found)


def test_brainvision_and_fif_state_units_too(tmp_path):
    header = brainvision(tmp_path / "a.vhdr", unit="mV")
    np.testing.assert_allclose(eeg(header).data, DATA * 1e3, rtol=1e-5)
    refused(brainvision(tmp_path / "b.vhdr", unit="°C"), "the unit '°C', which is no voltage")
    refused(brainvision(tmp_path / "c.vhdr", unit="XX"), "no known unit")
    made = raw(scale=1.0)
    for channel in made.info["chs"]:
        channel["unit_mul"] = -6
    path = fif(tmp_path / "a_raw.fif", made)
    refused(path, "no known unit")
    np.testing.assert_allclose(eeg(path, unit="uV").data, DATA, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_values_that_no_eeg_has_are_refused(tmp_path, scale):
    path = fif(tmp_path / "a_raw.fif", raw(scale=scale))
    refused(path, r"a_raw\.fif: channel 'Fp1' has a standard deviation of 1.99e.*`unit`")


def test_codes_of_an_event_channel_are_those_of_the_file(tmp_path):
    codes = np.repeat([0.0, 3, 7, 3], SECONDS * SFREQ // 4)
    path = edf(tmp_path / "a.edf", [DATA[0], codes], ("Oz", "Trig"), marks=[])
    found = recorded(path, event_channels=["Trig"], channels=["Oz"])
    assert events(found) == [
        (0, 10, "Trig:0"), (10, 10, "Trig:3"), (20, 10, "Trig:7"), (30, 10, "Trig:3")
    ]  # fmt: skip


# ---- channels -----------------------------------------------------------------------------

POLYSOMNOGRAPHY = [
    "EEG Fpz-Cz", "EOG horizontal", "Resp oro-nasal", "EMG submental", "Temp rectal", "EKG1",
    "Event marker", "ACC X", "SpO2", "Pulse", "Status", "GSR", "VEOG", "E1-M2", "Chin1-Chin2",
]  # fmt: skip


def test_what_is_no_eeg_by_its_name_is_left_out_and_said(tmp_path):
    data = np.random.default_rng(1).normal(0, 20, (len(POLYSOMNOGRAPHY), SECONDS * SFREQ))
    path = edf(tmp_path / "a.edf", data, POLYSOMNOGRAPHY)
    found = recorded(path)
    assert found.signals["eeg"].channels == ("Fpz-Cz",)
    left = found.origin["recorded"]["a"]["left_out"]
    assert list(left) == POLYSOMNOGRAPHY[1:]
    assert left["EKG1"] == "ecg"
    both = recorded(path, types={"EEG Fpz-Cz": "ecg", "GSR": "eeg"}, rename={"GSR": "Cz"})
    assert both.signals["eeg"].channels == ("Cz",)
    assert recorded(path, channels=["EKG1"]).signals["eeg"].channels == ("EKG1",)
    no_eeg = edf(tmp_path / "b.edf", data[1:], POLYSOMNOGRAPHY[1:])
    refused(no_eeg, r"b\.edf: no channel is EEG; there is EOG horizontal \(eog\)")


def test_names_without_meaning_are_eeg_if_there_is_no_better(tmp_path):
    unknown = edf(tmp_path / "a.edf", names=("Ch1", "Ch2", "ECG"))
    assert eeg(unknown).channels == ("Ch1", "Ch2")
    beside = recorded(edf(tmp_path / "b.edf", names=("Ch1", "Oz", "ECG")))
    assert beside.signals["eeg"].channels == ("Oz",)
    assert beside.origin["recorded"]["a"]["left_out"] == {"Ch1": "unknown", "ECG": "ecg"}


def test_a_format_with_kinds_is_believed_but_for_names_that_say_otherwise(tmp_path):
    made = raw(("Foo", "ECG", "Oz"), kinds=["eeg", "eeg", "misc"])
    assert eeg(fif(tmp_path / "a_raw.fif", made)).channels == ("Foo",)


@pytest.mark.parametrize(
    "spelt",
    ["EEG Fp1-REF", "EEG FP1-LE", "Fp1.", "fp1", "POL Fp1", "EEG:Fp1", "FP1-A1A2", "EEG Fp1 - Ref"],
)
def test_an_electrode_has_one_name(spelt):
    assert channels.electrode(spelt) == "Fp1"
    assert channels.kind(spelt) == "eeg"


def test_older_names_and_pairs():
    old = ["T3", "T4", "EEG T5-REF", "t6", "EEG FPZ-CZ", "C3:A2", "T3-P3"]
    new = ["T7", "T8", "P7", "P8", "Fpz-Cz", "C3-A2", "T7-P3"]
    assert [channels.electrode(name) for name in old] == new


@pytest.mark.parametrize(
    "montage", ["biosemi64", "biosemi128", "biosemi256", "GSN-HydroCel-128", "colin27_1005"]
)
def test_names_of_caps_are_electrodes(montage):
    """A1 of BioSemi is no earlobe, and E1 of EGI no eye."""
    names = mne.channels.make_standard_montage(montage).ch_names
    cap = channels.is_cap(names)
    assert {channels.kind(name, cap) for name in names} == {"eeg"}
    if cap:
        assert [channels.electrode(name, cap) for name in names] == names
    assert channels.kind("EXG1", cap) == channels.kind("AUX1", cap) == "misc"


def test_files_in_any_order_and_spelling_agree(tmp_path):
    one = eeg(edf(tmp_path / "a.edf", names=("EEG FP1-REF", "EEG T3-REF", "EEG O1-REF")))
    two = eeg(edf(tmp_path / "b.edf", DATA[[2, 0, 1]], ("O1..", "Fp1.", "T7..")))
    assert one.channels == two.channels == ("Fp1", "T7", "O1")
    np.testing.assert_array_equal(one.data, two.data)
    picked = eeg(tmp_path / "b.edf", channels=["O1", "T3"])
    assert picked.channels == ("O1", "T3")
    np.testing.assert_array_equal(picked.data, one.data[[2, 1]])


def test_doubled_channels_are_one_if_they_are_equal(tmp_path):
    names = ("T8-P8", "T8-P8", "Oz")
    equal = recorded(edf(tmp_path / "a.edf", DATA[[0, 0, 2]], names))
    np.testing.assert_allclose(equal.signals["eeg"].data, DATA[[0, 2]], atol=0.01)
    assert equal.signals["eeg"].channels == ("T8-P8", "Oz")
    assert "same samples" in said(equal)
    differ = edf(tmp_path / "b.edf", names=names)
    refused(differ, r"b\.edf: two channels are called 'T8-P8' and differ .*`rename`")
    second = eeg(differ, channels=["T8-P8-1"])
    np.testing.assert_allclose(second.data, DATA[[1]], atol=0.01)
    renamed = eeg(differ, rename={"T8-P8-0": "T7-P7"})
    assert renamed.channels == ("T7-P7", "T8-P8", "Oz")
    refused(edf(tmp_path / "c.edf", names=("T3", "T7", "Oz")), "two channels are called 'T7'")


# ---- rates --------------------------------------------------------------------------------


def test_nothing_is_made_up_above_what_was_recorded(tmp_path):
    path = edf(tmp_path / "a.edf")
    refused(path, r"a\.edf: 128 samples per second, fewer than `sfreq`.* above 64 Hz", sfreq=256.0)


def test_slower_channels_beside_the_eeg_do_not_matter(tmp_path):
    path = edf(tmp_path / "a.edf", [DATA[0], DATA[1, ::2]], ("Oz", "ECG"), rates=[128, 64])
    np.testing.assert_allclose(eeg(path).data, DATA[:1], atol=0.01)


# ---- marks --------------------------------------------------------------------------------


def excluded(recording, view, folder, **options):
    """The column `exclude` of windows of 5 s, as they are stored."""
    spec = {"view": {"kind": view, **options}, "windows": {"length": 5, "step": 5}, "unit": "s"}
    views.render([recording], folder / f"{view}.h5", spec, {})
    found = store.open(folder / f"{view}.h5")
    return found.table["exclude"].tolist(), np.array(found[:])


def test_marks_leave_windows_out_of_every_view_alike(tmp_path):
    marks = [
        (0.0, 20.0, "closed"),
        (20.0, 20.0, "open"),
        (6.0, 6.0, "BAD_muscle"),
        (24.0, 1, "bad"),
    ]
    found = recorded(fif(tmp_path / "a_raw.fif", raw(marks=[*marks, (31.0, 0.0, "EDGE")])))
    reasons = ["", "BAD_muscle", "BAD_muscle", "", "bad", "", "EDGE", ""]
    labels, values = excluded(found, "annotations", tmp_path, classes=["open", "closed"])
    assert labels == reasons
    assert values.tolist() == [1, -1, -1, 1, -1, 0, -1, 0]
    options = {"amplitude": 1e4, "jump": 1e4}
    assert excluded(found, "multitaper", tmp_path, **options)[0] == reasons
    kept = recorded(tmp_path / "a_raw.fif", reject_by_annotation=False)
    assert kept.bad.empty


MARKS = [(5.0, 0.0, "closed"), (20.0, 0.0, "open"), (30.0, 0.0, "stop"), (12.0, 0.0, "blink")]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.edf", lambda path: edf(path, marks=MARKS)),
        ("a_raw.fif", lambda path: fif(path, raw(marks=MARKS))),
        ("a.vhdr", lambda path: brainvision(path, [("", d, o, 1 / SFREQ) for o, _, d in MARKS])),
        ("a.set", lambda path: eeglab(path, [(o * SFREQ + 1, 1, d) for o, _, d in MARKS])),
    ],
)
def test_markers_last_until_the_next_whatever_the_format_calls_their_length(tmp_path, name, write):
    """No duration, or one sample."""
    found, prefix = recorded(write(tmp_path / name)), "/" if name == "a.vhdr" else ""
    means = {name: [prefix + name] for name in ("open", "closed")}
    options = {"classes": ["open", "closed"], "events": means}
    with pytest.raises(InputError, match="s/a: 2 of 2 events have no duration, first .*closed"):
        excluded(found, "annotations", tmp_path, **options)
    options |= {"duration": "until_next", "ends": [prefix + "stop"], "min_valid": 1.0}
    reasons, values = excluded(found, "annotations", tmp_path, **options)
    assert reasons == ["unlabelled", *[""] * 5, *["unlabelled"] * 2]
    assert values.tolist() == [-1, 1, 1, 1, 0, 0, -1, -1]


def test_gaps_leave_windows_out(tmp_path):
    starts = [k + 10 * (k >= 17) for k in range(SECONDS)]
    found = recorded(discontinuous(tmp_path / "a.edf", starts), reject_by_annotation=False)
    options = {"amplitude": 1e4, "jump": 1e4}
    found, _ = excluded(found, "multitaper", tmp_path, **options)
    assert found == ["", "", "", "gap", "gap", "gap", "", "", "", ""]


def test_channels_that_are_marked_bad_are_left_out(tmp_path):
    made = raw()
    made.info["bads"] = ["Cz"]
    path = fif(tmp_path / "a_raw.fif", made)
    found = recorded(path)
    assert found.signals["eeg"].channels == ("Fp1", "Oz")
    assert found.origin["recorded"]["a"]["left_out"] == {"Cz": "marked bad"}
    assert found.signals["eeg"].bad == ("Cz",)
    assert eeg(path, channels=["Cz", "Oz"]).channels == ("Oz",)
    refused(path, r"a_raw\.fif: every EEG channel \(Cz\) is marked bad", channels=["Cz"])


def test_the_table_of_channels_beside_a_recording_counts(tmp_path):
    path = edf(tmp_path / "sub-01_task-x_eeg.edf", unit=["uV", "", "uV"], names=("FP1", "Cz", "X1"))
    table = tmp_path / "sub-01_task-x_channels.tsv"
    rows = [("Fp1", "EEG", "uV", "bad"), ("Cz", "EEG", "µV", "good"), ("X1", "EEG", "n/a", "n/a")]
    columns = ["name", "type", "units", "status"]
    pd.DataFrame(rows, columns=columns).to_csv(table, sep="\t", index=False)
    np.testing.assert_allclose(eeg(path).data, DATA[1:], atol=0.01)
    assert eeg(path).channels == ("Cz", "X1")
    pd.DataFrame(rows, columns=columns).to_csv(table, sep=";", index=False, encoding="utf-16")
    assert eeg(path).channels == ("Cz", "X1")
    table.write_text("label\tstatus\nCz\tbad\n")
    refused(path, "_channels.tsv: a line has no `name`")


# ---- text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "text"), [("latin-1", "müde"), ("cp1252", "“müde”"), ("shift-jis", "眠い")]
)
def test_text_in_another_encoding_is_read_once_it_is_said(tmp_path, encoding, text):
    path, content = edf(tmp_path / "a.edf", marks=[(3.0, 1.0, "X" * 7)]), text.encode(encoding)
    path.write_bytes(path.read_bytes().replace(b"X" * 7, content + b"\x14" * (7 - len(content))))
    refused(path, r"a\.edf: text that is not UTF-8 .*`encoding`")
    refused(path, "`encoding` of the dataset does not fit", encoding="ascii")
    assert events(recorded(path, encoding=encoding)) == [(3, 1, text)]
    markers = [("Comment", text, 3, 1)]
    header = brainvision(tmp_path / "a.vhdr", markers, encoding, page="")
    refused(header, "text that is not UTF-8 .*`encoding`")
    assert events(recorded(header, encoding=encoding)) == [(3, 1, f"Comment/{text}")]


def test_utf_8_goes_before_what_is_said(tmp_path):
    path = edf(tmp_path / "a.edf", marks=[(3.0, 1.0, "müde")])
    assert events(recorded(path, encoding="latin-1")) == [(3, 1, "müde")]
    ansi = brainvision(tmp_path / "a.vhdr", [("Comment", "müde", 3, 1)], "cp1252", page="ANSI")
    found = recorded(ansi)
    assert events(found) == [(3, 1, "Comment/müde")]
    assert "read as cp1252" in said(found)


# ---- damaged files ------------------------------------------------------------------------


def patched(path, at, text):
    """With a field of the header replaced; of that many bytes, padded."""
    content = bytearray(path.read_bytes())
    content[at : at + 8] = text.encode().ljust(8)
    path.write_bytes(content)
    return path


def field(position):
    """Where 8 bytes of the first channel's header stand, one of the signals and the annotations."""
    return 256 + position * (len(NAMES) + 1)


@pytest.mark.parametrize(
    ("position", "text", "words"),
    [(104, "500", "physical minimum and maximum"), (120, "32767", "digital minimum and maximum")],
)
def test_a_range_of_nothing_is_refused_for_the_channel_that_has_it(tmp_path, position, text, words):
    path = patched(edf(tmp_path / "a.edf"), field(position), text)
    refused(path, rf"a\.edf: .*{words} of a channel are equal.*Fp1")
    np.testing.assert_allclose(eeg(path, channels=["Cz"]).data, DATA[[1]], atol=0.01)


def test_a_record_without_length_is_refused(tmp_path):
    path = patched(edf(tmp_path / "a.edf"), 244, "0")
    refused(path, "a record lasts 0 s, so that the sampling rate is unknown")


def test_what_is_odd_about_a_header_but_readable_is_said(tmp_path):
    path = patched(edf(tmp_path / "a.edf"), 236, "-1")
    found = recorded(path)
    np.testing.assert_allclose(found.signals["eeg"].data, DATA, atol=0.01)
    assert "the header says -1" in said(found)
    found = recorded(patched(edf(tmp_path / "b.edf"), 168, "00.00.00"))
    assert "Invalid measurement date" in said(found)
    commas = patched(edf(tmp_path / "c.edf"), field(104), "-500,0")
    np.testing.assert_allclose(eeg(commas).data, DATA, atol=0.01)


def test_a_file_that_was_cut_off_is_said_to_be(tmp_path):
    path = edf(tmp_path / "a.edf")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = recorded(path)
    half = found.signals["eeg"].data.shape[1]
    assert half < DATA.shape[1]
    np.testing.assert_allclose(found.signals["eeg"].data, DATA[:, :half], atol=0.01)
    assert "records are there, but the header says 40" in said(found)
    header = brainvision(tmp_path / "a.vhdr")
    data = tmp_path / "a.eeg"
    data.write_bytes(data.read_bytes()[:-7])
    assert f"the header says {DATA.shape[1]}" in said(recorded(header))


def test_samples_that_are_missing_are_not_made_up(tmp_path):
    DATA.T.astype("<f4")[:1000].tofile(tmp_path / "a.fdt")
    refused(
        eeglab(tmp_path / "a.set", data="a.fdt"), r"a\.set: its samples cannot be read .*cut off"
    )
    path = fif(tmp_path / "a_raw.fif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, r"a_raw\.fif: .*cut off or damaged")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.mff", "pip install mffpy"),
        ("a.nedf", "pip install defusedxml"),
        ("a.cnt", "pip install antio"),
        ("a.xyz", "not the ending of a format that MNE reads"),
        ("a.edf", "not a recording that MNE can read .*copy it again"),
    ],
)
def test_advice_suits_the_cause(tmp_path, name, words):
    path = tmp_path / name
    if name == "a.mff":
        path.mkdir()
    else:
        path.write_bytes(b"no recording" * 100)
    refused(path, rf"{name}: .*{words}")


def test_the_file_that_names_the_others_is_to_be_listed(tmp_path):
    brainvision(tmp_path / "a.vhdr")
    for name in ("a.eeg", "a.vmrk"):
        refused(tmp_path / name, r"list a\.vhdr instead")
    refused(tmp_path / "b.edf", "a file is missing")
    edf(tmp_path / "b.edf").rename(tmp_path / "b.bdf")
    refused(tmp_path / "b.bdf", r"b\.bdf: holds EDF; let its name end in \.edf")
    epochs = eeglab(tmp_path / "c.set", trials=4, pnts=DATA.shape[1] // 4)
    refused(epochs, "kind stimulus_epochs")


# ---- what a user is told ------------------------------------------------------------------


def test_scans_of_one_subject_share_what_their_header_says(tmp_path):
    made = raw()
    made.info["bads"] = ["Cz"]
    fif(tmp_path / "a_raw.fif", made)
    edf(tmp_path / "b.edf")
    rows = [
        {"subject": "s", "scan": name, "file": file}
        for name, file in (("one", "a_raw.fif"), ("two", "b.edf"))
    ]
    paths = [tmp_path / row["file"] for row in rows]
    spec = {"dataset": {"kind": "eeg_recordings"}, "unit": "s", "rows": rows}
    one, two = read(spec, paths)
    assert one.origin == two.origin
    assert one.origin["recorded"]["one"]["left_out"] == {"Cz": "marked bad"}
    assert Windows(5, 5).table(one).index[0] == "s/one/window-0000"


def test_the_log_says_what_was_taken_and_what_was_left_out(tmp_path, capsys):
    path = edf(tmp_path / "a.edf", names=("Oz", "ECG", "Cz"))
    recorded(path)
    log = capsys.readouterr().err
    assert f"{path}: EEG: Cz, Oz; left out: ECG (ecg)" in log


@pytest.mark.parametrize(
    ("warning", "words"),
    [
        ("FIF raw buffer could not be read, acquisition error: 7 samples set to zero", "cannot be"),
        ("Could not decode log as utf-8", "`encoding`"),
        ("Unit furlong not recognized, not scaling.", "unit"),
    ],
)
def test_what_the_library_makes_up_is_refused(warning, words):
    with pytest.raises(InputError, match=f"a.eeg: .*{words}.*{warning}"):
        recordings.sorted_out("a.eeg", [warning])


def test_a_warning_that_nobody_knows_is_said_once():
    noticed = []
    with recordings.heard(noticed):
        warnings.warn("something\n odd", RuntimeWarning, stacklevel=1)
        warnings.warn("a function goes away", DeprecationWarning, stacklevel=1)
        mne.utils.logger.warning("something odd")
        mne.utils.logger.error("something else")
    assert recordings.sorted_out("a.edf", noticed) == ["MNE: something odd", "MNE: something else"]


def test_a_part_of_a_recording_is_no_recording_of_its_own(tmp_path):
    long = mne.io.RawArray(np.tile(DATA, (1, 40)) * 1e-6, raw().info, verbose="error")
    first = fif(tmp_path / "long_raw.fif", long, split_size="2MB")
    parts = [first, *sorted(tmp_path.glob("long_raw-*.fif"))]
    assert len(parts) > 1
    rows = [
        {"subject": "s", "scan": part.stem, "file": part.name, "path": str(part)} for part in parts
    ]
    with pytest.raises(InputError, match=r"long_raw-1\.fif: belongs to .*long_raw\.fif and is"):
        eeg_recordings.read("s", rows, eeg_recordings.Options())
    assert recorded(first).duration == 40 * SECONDS
