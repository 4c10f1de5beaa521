"""Files that are read with a recording, against what MNE says that it read."""

import mne
import numpy as np
import pytest

from engram.errors import InputError
from engram.planning import plan
from engram.planning.companions import channels_table, companions, markers

HEADER = """Brain Vision Data Exchange Header File Version 1.0

[Common Infos]
Codepage={codepage}
DataFile={data}
MarkerFile={marks}
DataFormat=BINARY
DataOrientation=MULTIPLEXED
NumberOfChannels=1
SamplingInterval=10000

[Binary Infos]
BinaryFormat=INT_16

[Channel Infos]
Ch1=Oz,,0.1,µV
"""
MARKS = """Brain Vision Data Exchange Marker File, Version 1.0

[Marker Infos]
Mk1=New Segment,,1,1,0,20200101120000000000
"""


def brainvision(folder, data="a.eeg", marks="a.vmrk", codepage="UTF-8"):
    """A header in `folder` that names these files, which are there."""
    header = folder / "a.vhdr"
    encoding = "utf-8" if codepage == "UTF-8" else "cp1252"
    text = HEADER.format(data=data, marks=marks, codepage=codepage)
    header.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    for name in (data, marks):
        (folder / name.replace("$b", "a")).parent.mkdir(exist_ok=True)
    (folder / data.replace("$b", "a")).write_bytes(np.zeros(1000, "<i2").tobytes())
    (folder / marks.replace("$b", "a")).write_text(MARKS)
    return header


def names(found):
    return sorted(path.name for path in found)


@pytest.mark.parametrize("codepage", ["UTF-8", "ANSI"])
def test_a_header_names_its_data_and_markers(tmp_path, codepage):
    header = brainvision(tmp_path, "data of a.eeg", "marks.vmrk", codepage)
    read = mne.io.read_raw(header, verbose="error")
    assert [path.name for path in read.filenames] == ["data of a.eeg"]
    assert names(companions(header)) == ["data of a.eeg", "marks.vmrk"]


def test_a_header_may_stand_for_its_own_name(tmp_path):
    assert names(companions(brainvision(tmp_path, "$b.eeg", "$b.vmrk"))) == ["a.eeg", "a.vmrk"]


@pytest.mark.parametrize("name", ["../a.eeg", "/etc/hostname", "..\\a.eeg"])
def test_a_header_that_points_outside_of_its_folder_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.eeg").write_bytes(b"")
    header = brainvision(tmp_path / "in")
    header.write_text(header.read_text().replace("DataFile=a.eeg", f"DataFile={name}"))
    with pytest.raises(InputError, match=r"a.vhdr: DataFile names .* outside of its folder"):
        companions(header)


def test_a_renamed_companion_is_named(tmp_path):
    header = brainvision(tmp_path)
    (tmp_path / "a.vmrk").unlink()
    with pytest.raises(InputError, match=r"a.vhdr: MarkerFile names 'a.vmrk', which is not there"):
        companions(header)


@pytest.mark.parametrize("naming", ["neuromag", "bids"])
def test_a_split_file_has_the_parts_that_are_read(tmp_path, naming):
    rng = np.random.default_rng(0)
    info = mne.create_info(8, 1000.0, "eeg", verbose="error")
    raw = mne.io.RawArray(rng.normal(size=(8, 150_000)), info, verbose="error")
    stem = "sub-01_meg.fif" if naming == "bids" else "a_raw.fif"
    written = raw.save(
        tmp_path / stem, split_size="2MB", split_naming=naming, fmt="double", verbose="error"
    )
    first = sorted(tmp_path.glob("*split-01*"))[0] if naming == "bids" else tmp_path / stem
    (tmp_path / "other_raw.fif").write_bytes(b"")
    parts = {path.name for path in mne.io.read_raw(first, verbose="error").filenames}
    assert len(parts) > 2, written
    assert {first.name, *names(companions(first))} == parts


def test_files_of_the_same_stem_and_of_a_folder(tmp_path):
    for name in ("a.set", "a.fdt", "b.set", "c.edf", "d.EEG", "d.21E"):
        (tmp_path / name).write_bytes(b"")
    assert names(companions(tmp_path / "a.set")) == ["a.fdt"]
    assert companions(tmp_path / "b.set") == []
    assert companions(tmp_path / "c.edf") == []
    assert names(companions(tmp_path / "d.EEG")) == ["d.21E"]
    for folder in ("scan.ds", "pictures"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub/x.res4").write_bytes(b"")
    assert names(companions(tmp_path / "scan.ds")) == ["x.res4"]
    assert companions(tmp_path / "pictures") == []


def test_companions_are_inputs_behind_what_the_manifest_names(tmp_path):
    brainvision(tmp_path)
    (tmp_path / "b.edf").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("")
    (tmp_path / "list.csv").write_text(
        "subject,scan,file,labels\ns1,1,a.vhdr,labels.csv\ns1,2,b.edf,\n"
    )
    mine = {"kind": "eeg_recordings", "folder": str(tmp_path), "manifest": "list.csv"}
    found = plan.Plan({"datasets": {"mine": mine}}).raw("mine", "s1")
    assert found == [
        str(tmp_path / name) for name in ("a.vhdr", "labels.csv", "b.edf", "a.eeg", "a.vmrk")
    ]


@pytest.mark.parametrize(
    ("recording", "table"),
    [
        ("sub-01_task-a1.5_eeg.edf", "sub-01_task-a1.5_channels.tsv"),
        ("sub-01_split-02_meg.fif", "sub-01_channels.tsv"),
        ("sub-01_eeg.fif.gz", "sub-01_channels.tsv"),
        ("sub-01_eeg.vhdr", "sub-01_channels.tsv"),
    ],
)
def test_the_table_of_channels_that_bids_puts_beside_it_is_read_with_it(tmp_path, recording, table):
    path = brainvision(tmp_path).rename(tmp_path / recording)
    assert channels_table(path) is None
    assert table not in names(companions(path))
    (tmp_path / table).write_text("name\nOz\n")
    assert channels_table(path) == tmp_path / table
    (tmp_path / (events := table.replace("channels", "events"))).write_text("onset\n")
    assert {table, events} <= set(names(companions(path)))


def test_markers_are_the_file_that_a_header_names(tmp_path):
    assert markers(brainvision(tmp_path, marks="other.vmrk")) == tmp_path / "other.vmrk"
    assert markers(tmp_path / "a.edf") is None
