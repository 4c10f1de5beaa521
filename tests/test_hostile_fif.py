"""FIF files whose tags lie: one line each, in bounded memory and time."""

import contextlib
import gzip
import io
import shutil
import struct
from pathlib import Path

import hostile
import mne
import numpy as np
import pytest
from mne.io.constants import FIFF

from engram.datasets import eeg_recordings, stimulus_epochs

NAMES, RATE = ["Fp1", "Cz", "Oz"], 100
DIRECTORY = 102  # kind of a tag, of type 32


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A recording of 20 s as MNE saves it, with an annotation."""
    path = tmp_path_factory.mktemp("fif") / "a_raw.fif"
    info = mne.create_info(NAMES, RATE, "eeg", verbose="error")
    data = np.random.default_rng(0).normal(0, 15e-6, (3, 20 * RATE))
    raw = mne.io.RawArray(data, info, verbose="error")
    raw.set_annotations(mne.Annotations([1], [2], ["open"]))
    raw.save(path, verbose="error")
    return path.read_bytes()


def eeg(path="x_raw.fif"):
    row = {"subject": "s", "scan": "a", "file": str(path), "path": str(path)}
    options = eeg_recordings.Options()
    eeg_recordings.outline("s", [row], options)
    return eeg_recordings.read("s", [row], options)[0]


def tags(content):
    """(kind, type, size, place) of each tag, in the order of the file."""
    at = 0
    while at + 16 <= len(content):
        kind, form, size, following = struct.unpack_from(">4i", content, at)
        yield kind, form, size, at
        if following < 0:
            return
        at = at + 16 + size if following == 0 else following


def place(content, kind):
    return next(at for this, _, _, at in tags(content) if this == kind)


def spoilt(content, kind, form, *values, at=16):
    """The same with values, or parts of its head (`at`), in the first tag of a kind."""
    content = bytearray(content)
    struct.pack_into(">" + form, content, place(content, kind) + at, *values)
    return bytes(content)


def indexed(content, entries):
    """The same with another directory at its end: (kind, type, size, place) of each tag."""
    packed = b"".join(struct.pack(">4i", *one) for one in entries)
    head = struct.pack(">4i", DIRECTORY, 32, len(packed), -1)
    return spoilt(content, FIFF.FIFF_DIR_POINTER, "i", len(content)) + head + packed


def with_buffers(content, times):
    """A directory that leads to the samples again and again."""
    found = [one for one in tags(content) if one[0] not in (DIRECTORY, FIFF.FIFF_NOP)]
    at = next(i for i, one in enumerate(found) if one[0] == FIFF.FIFF_DATA_BUFFER)
    return indexed(content, [*found[:at], *times * [found[at]], *found[at + 1 :]])


def inserted(content, kind, *new):
    """Tags put before the first of a kind, and no directory, so that tags are read in turn."""
    content = spoilt(content, FIFF.FIFF_DIR_POINTER, "i", -1)
    at = place(content, kind)
    made = b"".join(struct.pack(">4i", *one[:2], len(one[2]), 0) + one[2] for one in new)
    return content[:at] + made + content[at:]


def with_next(content, name):
    """A recording that names its next part."""
    number = struct.pack(">i", 1)
    return inserted(
        content,
        FIFF.FIFF_BLOCK_END,
        (FIFF.FIFF_BLOCK_START, 3, struct.pack(">i", FIFF.FIFFB_REF)),
        (FIFF.FIFF_REF_ROLE, 3, struct.pack(">i", FIFF.FIFFV_ROLE_NEXT_FILE)),
        (FIFF.FIFF_REF_FILE_NAME, 10, name.encode()),
        (FIFF.FIFF_REF_FILE_NUM, 3, number),
        (FIFF.FIFF_BLOCK_END, 3, struct.pack(">i", FIFF.FIFFB_REF)),
    )


BLOCK = (FIFF.FIFF_BLOCK_START, 3, struct.pack(">i", FIFF.FIFFB_PROCESSED_DATA))
SAMPLES, LAST = FIFF.FIFF_DATA_BUFFER, 2**31 - 1
LIES = {
    "directory at the start": lambda c: spoilt(c, FIFF.FIFF_DIR_POINTER, "i", 16),
    "tags in a circle": lambda c: spoilt(
        spoilt(c, FIFF.FIFF_DIR_POINTER, "i", -1), FIFF.FIFF_NCHAN, "i", 32, at=12
    ),
    "a tag that leads to itself": lambda c: spoilt(
        spoilt(c, FIFF.FIFF_DIR_POINTER, "i", -1),
        FIFF.FIFF_NCHAN, "i", place(c, FIFF.FIFF_NCHAN), at=12,
    ),
    "the same samples 100000 times": lambda c: with_buffers(c, 100_000),
    "a buffer of 2 GiB": lambda c: indexed(
        c, [(k, f, LAST if k == SAMPLES else s, a) for k, f, s, a in tags(c)]
    ),
    "a buffer of no bytes": lambda c: indexed(
        c, [(k, f, 0 if k == SAMPLES else s, a) for k, f, s, a in tags(c)]
    ),
    "a buffer of -1 bytes": lambda c: indexed(
        c, [(k, f, -1 if k == SAMPLES else s, a) for k, f, s, a in tags(c)]
    ),
    "a buffer of another type": lambda c: indexed(
        c, [(k, 10 if k == SAMPLES else f, s, a) for k, f, s, a in tags(c)]
    ),
    "tags elsewhere": lambda c: indexed(c, [(k, f, s, LAST - 8) for k, f, s, a in tags(c)]),
    "tags at a negative place": lambda c: indexed(c, [(k, f, s, -a) for k, f, s, a in tags(c)]),
    "a text of 2 GiB": lambda c: spoilt(c, FIFF.FIFF_CH_INFO, "i", LAST, at=8),
    "a billion channels": lambda c: spoilt(c, FIFF.FIFF_NCHAN, "i", 10**9),
    "no channels": lambda c: spoilt(c, FIFF.FIFF_NCHAN, "i", 0),
    "negative channels": lambda c: spoilt(c, FIFF.FIFF_NCHAN, "i", -1),
    "NaN rate": lambda c: spoilt(c, FIFF.FIFF_SFREQ, "f", np.nan),
    "rate 0": lambda c: spoilt(c, FIFF.FIFF_SFREQ, "f", 0),
    "negative rate": lambda c: spoilt(c, FIFF.FIFF_SFREQ, "f", -100),
    "infinite rate": lambda c: spoilt(c, FIFF.FIFF_SFREQ, "f", np.inf),
    "huge rate": lambda c: spoilt(c, FIFF.FIFF_SFREQ, "f", 1e38),
    "tiny rate": lambda c: spoilt(c, FIFF.FIFF_SFREQ, "f", 1e-38),
    "NaN calibration": lambda c: spoilt(c, FIFF.FIFF_CH_INFO, "ff", np.nan, np.nan, at=28),
    "a skip of 2 thousand million buffers": lambda c: inserted(
        c, SAMPLES, (SAMPLES, FIFF.FIFFT_FLOAT, bytes(1200)),
        (FIFF.FIFF_DATA_SKIP, 3, struct.pack(">i", LAST)),
    ),
    "blocks within blocks": lambda c: inserted(c, FIFF.FIFF_BLOCK_END, *100_000 * [BLOCK]),
    "next part by absolute name": lambda c: with_next(c, str(Path("other/a_raw.fif").absolute())),
    "next part above": lambda c: with_next(c, "../y/other/a_raw.fif"),
    "next part below": lambda c: with_next(c, "other/a_raw.fif"),
    "next part not there": lambda c: with_next(c, "none_raw.fif"),
    "next part is itself": lambda c: with_next(c, "x_raw.fif"),
    "next part a device": lambda c: with_next(c, "/dev/zero"),
    "next part without a name": lambda c: with_next(c, ""),
    "no FIF": lambda c: b"no FIF\n" * 100,
    "empty": lambda c: b"",
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_fif_file_that_lies(lie, original):
    Path("y/other").mkdir(parents=True)
    Path("other").mkdir()
    for folder in ("other", "y/other"):
        Path(folder, "a_raw.fif").write_bytes(original)
    Path("x_raw.fif").write_bytes(LIES[lie](original))
    hostile.one_line(hostile.tried(eeg, seconds=10), "x_raw.fif")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.3, 0.5, 0.9])
def test_a_fif_file_that_is_cut_off(share, original):
    Path("x_raw.fif").write_bytes(original[: int(share * len(original))])
    hostile.one_line(hostile.tried(eeg), "x_raw.fif")


def test_parts_in_a_circle(original):
    for name, other in (("x_raw.fif", "y_raw.fif"), ("y_raw.fif", "x_raw.fif")):
        Path(name).write_bytes(with_next(original, other))
    hostile.one_line(hostile.tried(eeg, seconds=10), "y_raw.fif", "x_raw.fif")


COMPRESSED = {
    "zeros behind": lambda c: hostile.zeros("x_raw.fif.gz", c, 2 << 30),
    "a tag of 2 GiB": lambda c: hostile.zeros(
        "x_raw.fif.gz", spoilt(c, FIFF.FIFF_CH_INFO, "i", LAST, at=8), 2 << 30
    ),
    "cut off": lambda c: Path("x_raw.fif.gz").write_bytes(gzip.compress(c)[:-200]),
    "checksum": lambda c: Path("x_raw.fif.gz").write_bytes(gzip.compress(c)[:-8] + bytes(8)),
    "not compressed": lambda c: Path("x_raw.fif.gz").write_bytes(c),
}


@pytest.mark.parametrize("lie", COMPRESSED)
def test_a_compressed_fif_file_that_lies(lie, original):
    COMPRESSED[lie](original)
    hostile.one_line(hostile.tried(lambda: eeg("x_raw.fif.gz")), "x_raw.fif.gz")


def test_fif_as_it_should_be(original):
    """Split, compressed, and a link to where DataLad keeps files."""
    Path("x_raw.fif").write_bytes(original)
    info = mne.create_info(NAMES, RATE, "eeg", verbose="error")
    data = np.random.default_rng(0).normal(0, 15e-6, (3, 2000 * RATE))
    mne.io.RawArray(data, info, verbose="error").save(
        "z_raw.fif", split_size="2MB", verbose="error"
    )
    assert Path("z_raw-1.fif").is_file()
    Path("x_raw.fif.gz").write_bytes(gzip.compress(original))
    Path("kept").mkdir()
    shutil.move("x_raw.fif", "kept/1234.fif")
    Path("x_raw.fif").symlink_to("kept/1234.fif")
    for name, seconds in (("x_raw.fif", 20), ("x_raw.fif.gz", 20), ("z_raw.fif", 2000)):
        assert eeg(name).duration == seconds


@pytest.mark.parametrize("at", [LAST, -1])
def test_fif_without_a_directory_is_read_tag_by_tag(at, original):
    Path("x_raw.fif").write_bytes(spoilt(original, FIFF.FIFF_DIR_POINTER, "i", at))
    assert eeg().duration == 20


# ---- epochs ---------------------------------------------------------------------------


def epochs(path="x-epo.fif"):
    """Reads trials as stage `render` does."""
    options = stimulus_epochs.Options({"stimulus": "s", "split": "t"}, picks=["eeg"])
    Path("t.csv").write_text("s,t\n" + "".join(f"a{i},train\nb{i},test\n" for i in range(10)))
    with contextlib.redirect_stderr(io.StringIO()):  # how many trials there are
        found = stimulus_epochs.read("s", [{"path": str(path)}, {"path": "t.csv"}], options)
    return [one.data[:] for one in found]


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    path = tmp_path_factory.mktemp("epochs") / "a-epo.fif"
    info = mne.create_info(NAMES, RATE, "eeg", verbose="error")
    data = np.random.default_rng(0).normal(0, 15e-6, (20, 3, 50))
    mne.EpochsArray(data, info, verbose="error").save(path, verbose="error")
    return path.read_bytes()


OF_EPOCHS = {
    "a billion samples": lambda c: spoilt(c, FIFF.FIFF_LAST_SAMPLE, "i", 10**9),
    "samples backwards": lambda c: spoilt(c, FIFF.FIFF_LAST_SAMPLE, "i", -(10**9)),
    "NaN rate": lambda c: spoilt(c, FIFF.FIFF_SFREQ, "f", np.nan),
    "epochs of 2 GiB": lambda c: spoilt(c, FIFF.FIFF_EPOCH, "i", LAST, at=8),
    "next part above": lambda c: with_next(c, "../other-epo.fif"),
    "next part is itself": lambda c: with_next(c, "x-epo.fif"),
    "tags in a circle": LIES["tags in a circle"],
    "cut off": lambda c: c[: len(c) // 2],
}


@pytest.mark.parametrize("lie", OF_EPOCHS)
def test_a_file_of_epochs_that_lies(lie, cut):
    Path("x-epo.fif").write_bytes(OF_EPOCHS[lie](cut))
    hostile.one_line(hostile.tried(epochs, seconds=10), "x-epo.fif")


def test_a_compressed_file_of_epochs_that_inflates(cut):
    hostile.zeros("x-epo.fif.gz", cut, 2 << 30)
    hostile.one_line(hostile.tried(lambda: epochs("x-epo.fif.gz")), "x-epo.fif.gz")


def test_epochs_as_they_should_be(cut):
    Path("x-epo.fif").write_bytes(cut)
    assert [one.shape for one in epochs()] == [(10, 1, 3, 50)] * 2
