"""The command `engram`, as a user types it."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import save_file

from engram import store
from engram.backbones import extract
from engram.backbones.timm import timm
from engram.cli import main
from engram.errors import InputError
from engram.readers.folders import Images, Texts
from engram.store import Rows

ROOT = Path(__file__).parents[1]
VIT = {"kind": "timm", "model": "test_vit.r160_in1k", "batch": 8, "precision": "fp32"}


def engram(capsys, *arguments):
    """Exit status, stdout and stderr of the command."""
    status = main([str(a) for a in arguments]) or 0
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with a view of 40 rows and its features under a model with weights from a file."""
    monkeypatch.chdir(tmp_path)
    names = [f"sub-01/scan-01/window-{i:04d}" for i in range(40)]
    table = pd.DataFrame({"subject": "sub-01", "exclude": ""}, index=names)
    rows = np.random.default_rng(0).normal(0, 8, (40, 30, 20)).astype(np.float16)
    header = {"what": "spectrogram", "axes": 2, "limits": [-20, 20], "cmap": "viridis"}
    store.write("results/view.h5", Rows(rows, table, header))
    save_file(timm.create_model(VIT["model"], num_classes=0).state_dict(), "w.safetensors")
    spec = {"backbone": VIT | {"weights": "w.safetensors"}}
    extract(
        "results/view.h5",
        "w.safetensors",
        "results/f.h5",
        spec,
        {"spec": spec, "threads": 1},
        "cpu",
    )
    return tmp_path


def test_stores_lists_what_lies_there(made, capsys):
    (made / "results/broken.h5").write_bytes(b"no store")
    status, out, _ = engram(capsys, "stores")
    lines = {Path(line.split()[0]).name: line for line in out.splitlines()}
    assert status == 0
    assert lines["store"].split() == ["store", "holds", "rows", "size"]
    assert lines["f.h5"].split()[1:6] == ["features", "40", "x", "64", "float32"]
    assert "unreadable" in lines["broken.h5"]


def test_show_prints_header_table_and_rows(made, capsys):
    status, out, _ = engram(capsys, "show", "results/f.h5", "--rows", 2)
    assert status == 0
    assert '"model": "test_vit.r160_in1k"' in out
    assert out.count("window-0001") == 2
    assert "window-0002" not in out


def test_a_sound_store_is_called_sound_after_rows_are_encoded_again(made, capsys):
    status, out, _ = engram(capsys, "verify", "results/f.h5", "results/view.h5", "--share", 0.5)
    assert status == 0
    assert "results/f.h5: 40 rows, every checksum fits; 24 rows encoded again agree" in out
    assert "results/view.h5: 40 rows, every checksum fits\n" in out


def test_a_flipped_byte_is_found(made, capsys):
    content = bytearray((made / "results/f.h5").read_bytes())
    row = store.open("results/f.h5")[17].tobytes()
    content[content.index(row) + 5] ^= 1
    (made / "results/f.h5").write_bytes(content)
    status, out, _ = engram(capsys, "verify", "results/f.h5")
    assert status == 1
    assert "NOT SOUND" in out


def test_values_that_no_checksum_could_tell_are_found_by_encoding_again(made, capsys):
    found = store.open("results/f.h5").load()
    swapped = np.roll(found.array, 1, axis=0)
    store.write("results/f.h5", Rows(swapped, found.table, found.header))
    status, out, _ = engram(capsys, "verify", "results/f.h5", "--quick")
    assert status == 0
    status, out, _ = engram(capsys, "verify", "results/f.h5", "--share", 1)
    assert status == 1
    assert "rows encoded again differ" in out


def test_other_weights_under_the_same_name_are_found(made, capsys):
    save_file(timm.create_model(VIT["model"], num_classes=0).state_dict(), "w.safetensors")
    status, out, _ = engram(capsys, "verify", "results/f.h5")
    assert status == 1
    assert "weights are no longer those" in out


def test_backbones_names_dimension_licence_and_place(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    status, out, _ = engram(capsys, "backbones")
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "random" in lines["clip_random"]
    for word in ("512", "224x224", "MIT", "https://"):
        assert word in lines["clip_vitb32"]


def pictures(folder, n=11):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        pixels = rng.integers(0, 256, (50 + i, 90, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"image-{i:03d}.png")
    return folder


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(f"backbones: {{vit: {VIT | {'weights': 'random', 'seed': 4}}}}\n")
    return "study.yaml"


def test_images_become_a_store_of_features(study, capsys):
    folder = pictures(Path("images"))
    arguments = ("features", "--configfile", study, "--backbone", "vit", folder, "-o", "out.h5")
    status, _, err = engram(capsys, *arguments)
    assert status == 0
    assert "vit has random weights" in err
    found = store.open("out.h5")
    assert list(found.table.index) == [f"image-{i:03d}.png" for i in range(11)]

    view = np.stack(
        [
            np.asarray(Image.open(file).resize((160, 160), Image.Resampling.BICUBIC))
            for file in sorted(folder.iterdir())
        ]
    )
    names = list(found.table.index)
    store.write("view.h5", Rows(view, pd.DataFrame(index=names), {"what": "picture", "axes": 3}))
    spec = {"backbone": VIT | {"seed": 4}}
    extract("view.h5", None, "expected.h5", spec, {}, "cpu")
    np.testing.assert_allclose(found[:], store.open("expected.h5")[:], rtol=1e-5, atol=1e-6)


def test_files_of_images_are_whole_upright_and_of_any_size(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    Image.fromarray(pixels).save(tmp_path / "a/2.JPG", exif=exif, quality=95)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "a/1.png")
    (tmp_path / "a/notes.txt").write_text("no image")
    Image.fromarray(pixels).save(tmp_path / "b/1.png")
    images = Images([tmp_path / "a", tmp_path / "b", tmp_path / "a/1.png"], (20, 12), "lanczos")
    names = ["a/1.png", "a/2.JPG", "b/1.png"]
    assert images.table["file"].tolist() == [str(tmp_path / name) for name in names]
    assert images.table.index.tolist() == images.table["file"].tolist()  # 1.png stands twice
    assert images.shape == (3, 20, 12, 3)
    for i, turned in ((0, False), (1, True), (2, False)):
        opened = Image.open(tmp_path / names[i]).convert("RGB")
        upright = opened.transpose(Image.Transpose.ROTATE_270) if turned else opened
        expected = upright.resize((12, 20), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(images[i : i + 1][0], np.asarray(expected))
    assert Images([tmp_path / "b"], (4, 4)).table.index.tolist() == ["1.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no image; known are"):
        Images([tmp_path / "empty"], (4, 4))


def test_lines_of_text_are_rows_by_file_and_number(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a dog\n\nfünf\n", "utf-8")
    texts = Texts([path])
    assert texts.table["text"].to_dict() == {
        f"{path}:1": "a dog",
        f"{path}:2": "",
        f"{path}:3": "fünf",
    }
    assert [bytes(row).rstrip(b"\0").decode() for row in texts[0:3]] == ["a dog", "", "fünf"]
    for content in ("", "x" * 4097):
        path.write_text(content)
        with pytest.raises(InputError, match="needs lines of text, each at most 4096 bytes"):
            Texts([path])
    path.write_text("x" * 4096)
    assert Texts([path]).shape == (1, 4096)


def test_a_damaged_image_is_named_and_what_was_encoded_is_kept(study, capsys):
    folder = pictures(Path("images"), 200)
    broken = folder / "image-190.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    arguments = ("features", "--configfile", study, "--backbone", "vit", folder, "-o", "out.h5")
    status, _, err = engram(capsys, *arguments)
    assert status == 1
    assert "image-190.png: not a readable image" in err
    assert not Path("out.h5").exists()
    broken.write_bytes(whole)
    status, _, err = engram(capsys, *arguments)
    assert status == 0
    assert "128/200" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("features", "--backbone", "vt", "a.png", "-o", "o.h5"), "did you mean 'vit'"),
        (("features", "--backbone", "vit", "a.png", "-o", "o.h5"), "a.png: no such file"),
        (
            ("features", "--backbone", "vit", "a.png", "-o", "o.h5", "--weights", "w.pt"),
            "w.pt: the weights of vit are not there",
        ),
        (("features", "--backbone", "vit", "study.yaml", "-o", "o.h5"), "study.yaml: not a readab"),
        (("show", "nothing.h5"), "nothing.h5"),
        (("stores", "nowhere"), "nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(study, capsys, arguments, message):
    config = ("--configfile", study) if arguments[0] == "features" else ()
    status, _, err = engram(capsys, *arguments, *config)
    assert status == 1
    assert message in err.splitlines()[-1]
    assert not Path("o.h5").exists()


def test_help_and_listing_import_no_torch():
    code = (
        "import sys; from engram.cli import main;main(['backbones']); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_plain_h5py_reads_what_the_command_wrote(study, capsys):
    folder = pictures(Path("images"), 3)
    engram(capsys, "features", "--configfile", study, "--backbone", "vit", folder, "-o", "out.h5")
    with h5py.File("out.h5") as file:
        assert file["rows"].shape == (3, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: a\ntitle: b\n", "study.yaml, line 2: `title` again, after line 1"),
        ("- title\n", "study.yaml, line 1: is no configuration"),
        ("title: a\nbackbones:\n  x: {like: clop}\n", "study.yaml, line 3: backbones.x.like: no b"),
        (None, "study.yaml: No such file or directory; correct --configfile"),
    ],
)
def test_a_study_that_is_wrong_is_one_line(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    if text:
        (tmp_path / "study.yaml").write_text(text)
    status, _, err = engram(capsys, "backbones", "--configfile", "study.yaml")
    assert status == 1
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
