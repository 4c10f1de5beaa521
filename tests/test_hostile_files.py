"""Files of every other kind that mean harm or lie, by the doors that users take: one line each."""

import io
import json
import struct

import h5py
import hostile
import numpy as np
import pytest
from eeglab73 import write_set73
from PIL import Image
from safetensors.numpy import save_file

from engram.datasets import osf_vigilance
from engram.planning import config_files
from engram.readers import images, nsd, picture_stacks, recordings, roi_series

SECRET = np.arange(48, dtype="f8").reshape(6, 8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(call, *words, **bounds):
    said = hostile.tried(call, **bounds)
    assert said.startswith("InputError: ")
    assert len(said.splitlines()) == 1
    for word in words:
        assert word in said


# ---- HDF5 behind every reader ---------------------------------------------------------


def elsewhere(path, name, kind):
    """An array that lies in another file, by each way that HDF5 knows."""
    with h5py.File("secret.h5", "w") as file:
        file["a"] = SECRET
    SECRET.tofile("secret.bin")
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if kind == "link":
            file[name] = h5py.ExternalLink("secret.h5", "/a")
        elif kind == "stored":
            file.create_dataset(name, (6, 8), "f8", external=[("secret.bin", 0, SECRET.nbytes)])
        else:
            layout = h5py.VirtualLayout((6, 8), "f8")
            layout[:] = h5py.VirtualSource("secret.h5", "a", (6, 8))
            file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("kind", ["link", "stored", "virtual"])
def test_no_reader_of_hdf5_follows_a_file_out_of_it(kind):
    elsewhere("a.h5", "x", kind)
    names = tuple("abcdef")
    one_line(lambda: roi_series.load("a.h5", names=names, axes=["roi", "time"]), "a.h5", "x ")
    elsewhere("b.hdf5", "imgBrick", kind)
    one_line(lambda: nsd.read_stimuli("b.hdf5", [0], (6, 8)), "b.hdf5", "imgBrick ")

    def stack():
        with picture_stacks.Stack("b.hdf5") as opened:
            opened.picture("imgBrick/0", "one")

    one_line(stack, "b.hdf5", "imgBrick ")
    write_set73("c.set", np.zeros((2, 500)), 100, ["Fp1", "Oz"], [])
    elsewhere("c.set", "EEG/data", kind)
    one_line(lambda: recordings.opened("c.set"), "c.set", "EEG/data ")


def test_values_that_were_never_written_are_no_zeros():
    with h5py.File("a.h5", "w") as file:
        file.create_dataset("x", (4, 100), "f8", chunks=(4, 50))[:, :50] = np.ones((4, 50))
    one_line(
        lambda: roi_series.load("a.h5", names=tuple("abcd"), axes=["roi", "time"]), "never written"
    )


# ---- NumPy ----------------------------------------------------------------------------


def lying(path):
    with open(path, "wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (1 << 40,)}
        np.lib.format.write_array_header_1_0(file, header)


def archive(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(3))


NPY = {
    "archive": archive,
    "records": lambda path: np.save(path, np.zeros(3, [("a", "i4")])),
    "texts": lambda path: np.save(path, np.array(["0", "1"])),
    "a header of 2^40": lying,
    "nothing": lambda path: open(path, "wb").close(),
}


@pytest.mark.parametrize("kind", NPY)
def test_labels_and_series_that_are_no_arrays_of_numbers(kind):
    NPY[kind]("vigall.npy")
    Image.fromarray(np.zeros((8, 90, 3), "u1")).save("s01_eeg_spectrogram.png")
    rows = [{"file": f, "path": f} for f in ("s01_eeg_spectrogram.png", "vigall.npy")]
    options = osf_vigilance.Options()
    one_line(lambda: osf_vigilance.read("sub01-scan01", rows, options), "vigall.npy")
    one_line(
        lambda: roi_series.load("vigall.npy", names=("a",), axes=["roi", "time"]), "vigall.npy"
    )


# ---- pictures -------------------------------------------------------------------------


def icon(pixels):
    """An icon of 256 pixels by its header, that holds a PNG of many more."""
    content = io.BytesIO()
    Image.new("L", (pixels, pixels)).save(content, "PNG", compress_level=1)
    png = content.getvalue()
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 8, len(png), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + png


@pytest.mark.parametrize("name", ["a.ico", "a.png"])
def test_a_picture_just_under_the_limit_of_pillow_is_not_decoded(name):
    content = icon(13_000)
    with open(name, "wb") as file:
        file.write(content if name == "a.ico" else content[22:])
    one_line(lambda: images.read(name, name), "20 megapixels", memory=300 << 20)


EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


def test_no_program_is_run_to_read_a_picture(folder, monkeypatch):
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {folder}/ran\nexit 1\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (folder / "a.png").write_text(EPS)
    one_line(lambda: images.read("a.png", "a.png"), "a.png: not a readable image")
    assert not (folder / "ran").exists()


# ---- texts ----------------------------------------------------------------------------


def references(n):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(1, n):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join(lines)


YAML = {
    references(12): "stands for more than 1000000 values",
    "a: &a [*a]": "refers to itself",
    "a: &a {b: {c: *a}}": "refers to itself",
    "a: " + "[" * 100_000: "nests more than 100 levels",
    "- " * 100_000 + "x": "nests more than 100 levels",
    '{"a": ' * 100_000: "nests more than 100 levels",
}


@pytest.mark.parametrize("text", YAML, ids=range(len(YAML)))
def test_a_study_that_explodes_is_one_line(folder, text):
    (folder / "study.yaml").write_text(text)
    one_line(lambda: config_files.load("study.yaml"), "study.yaml, line ", YAML[text])
    said = hostile.command("check", "study.yaml", "--quick", "--no-pictures")
    assert said.splitlines()[-1].startswith("error: study.yaml, line ")


def test_what_a_study_refers_to_is_read_as_before(folder):
    (folder / "study.yaml").write_text("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: []}\n")
    assert config_files.load("study.yaml") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": []}}


def test_a_million_columns_and_nul_are_one_line(folder):
    from engram import tables

    (folder / "a.csv").write_text(",".join(f"c{i}" for i in range(10**6)) + "\n1\n")
    said = hostile.tried(lambda: print(len(tables.read("a.csv").columns)), memory=2 << 30)
    assert said == "1000000"
    (folder / "b.csv").write_bytes(b"a,b\n1,\x00\n")
    one_line(lambda: tables.read("b.csv"), "b.csv")


# ---- models ---------------------------------------------------------------------------

MODELS = {
    "no model": None,
    "no JSON": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "nothing": "{}",
    "no such head": json.dumps({"task": "classes", "head": {"kind": "os"}}),
    "a path for a head": json.dumps({"task": "classes", "head": {"kind": "../../evil"}}),
    "a list for a head": json.dumps({"task": "classes", "head": ["cnn"], "kept": {}}),
    "nothing kept": json.dumps({"task": "classes", "head": {"kind": "cnn"}, "kept": []}),
    "no contract": json.dumps({"task": "classes", "head": {"kind": "cnn"}, "kept": {}}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_lies_is_one_line(folder, kind):
    metadata = {"engram": MODELS[kind]} if MODELS[kind] is not None else None
    save_file({"a": np.zeros(1, "f4")}, "a.safetensors", metadata)
    (folder / "a.edf").write_bytes(b"0")
    said = hostile.command("apply", "a.safetensors", "a.edf", "-o", "out")
    assert said.startswith("error: a.safetensors: ")
    assert len(said.splitlines()) == 1
    assert not (folder / "out").exists()


# ---- engram features ------------------------------------------------------------------


@pytest.fixture
def study(folder):
    (folder / "study.yaml").write_text(
        "backbones: {coarse: {kind: pixels, grid: 2}, fine: {kind: pixels, grid: 4}}\n"
    )
    for i, size in enumerate([(64, 64), (90, 30)]):
        pixels = np.zeros((*size[::-1], 3), "u1")
        pixels[:, size[0] // 2 :, i] = 255
        Image.fromarray(pixels).save(f"{i}.png")
    return ["--configfile", "study.yaml", "-o", "a.h5"]


def features(*files, backbone="coarse", more=()):
    return hostile.command("features", *files, "--backbone", backbone, *more)


def test_pixels_read_files_of_any_size(study):
    from engram import store

    assert "Error" not in features("0.png", "1.png", more=study)
    found = store.open("a.h5")[:].reshape(2, 3, 2, 2)
    halves = np.array([[0, 1], [0, 1]])
    np.testing.assert_allclose(found[0], [halves, 0 * halves, 0 * halves], atol=0.02)
    np.testing.assert_allclose(found[1], [0 * halves, halves, 0 * halves], atol=0.02)


def test_features_of_something_else_are_not_replaced_unasked(study, folder):
    assert "error" not in features("0.png", more=study)
    before = (folder / "a.h5").read_bytes()
    said = features("0.png", backbone="fine", more=study)
    assert said.startswith("error: a.h5: holds features of another backbone")
    assert "--force" in said
    assert features("1.png", more=study).startswith("error: a.h5: holds features of other files")
    assert (folder / "a.h5").read_bytes() == before
    assert "error" not in features("0.png", more=study)
    assert "error" not in features("0.png", backbone="fine", more=[*study, "--force"])
    assert (folder / "a.h5").read_bytes() != before


def test_a_file_that_is_no_store_is_not_replaced_either(study, folder):
    (folder / "a.h5").write_text("my thesis")
    assert features("0.png", more=study).startswith("error: a.h5: not a readable store")
    assert (folder / "a.h5").read_text() == "my thesis"
