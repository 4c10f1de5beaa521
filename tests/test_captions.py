"""Captions of photographs through the stages render and extract, against the text tower itself."""

import json

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch

from engram import backbones, store, views
from engram.errors import InputError
from engram.recording import Stimuli

CAPTIONS = ["aardvark", "A dog, asleep in the café.", "", "two zebras " * 60, "雪の中の家"]
NAMES = [f"train/{i:05d}_x/x_01" for i in range(len(CAPTIONS))]
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def stimuli(captions=CAPTIONS, **columns):
    table = pd.DataFrame(
        {"split": "train", "concept": "x", "source": "nowhere.zip", "member": "x.jpg"} | columns,
        index=NAMES[: len(captions)],
    )
    return Stimuli("stimuli", table.assign(caption=captions), {"simulated": True})


def rendered(path, given):
    spec = {"unit": "stimuli", "view": {"kind": "captions"}, "windows": None}
    views.render([given], path, spec, {"code": "x"})
    return store.open(path)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A small CLIP that OpenCLIP knows by its name, and the file of its weights."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = open_clip.create_model("tiny-clip").eval()
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    return model, tmp_path / "tiny.pt"


def test_captions_become_features_of_the_text_tower(tiny, tmp_path):
    model, weights = tiny
    rendered(tmp_path / "captions.h5", stimuli())
    chosen = {"kind": "clip_text", "model": "tiny-clip", "weights": str(weights), "batch": 2}
    backbones.extract(
        tmp_path / "captions.h5", weights, tmp_path / "features.h5",
        {"backbone": chosen | {"precision": "fp32"}}, {"threads": 1}, "cpu",
    )  # fmt: skip
    found = store.open(tmp_path / "features.h5")
    with torch.inference_mode():
        expected = model.encode_text(open_clip.tokenize(CAPTIONS)).numpy()
    np.testing.assert_allclose(found[:], expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(expected, axis=0).min() > 1e-3
    assert found.table.index.tolist() == NAMES
    assert found.table["exclude"].tolist() == ["", "", "no caption", "", ""]
    assert found.header["view"] == {"what": "text", "simulated": True}


def test_rows_are_utf8_padded_with_zeros(tmp_path):
    found = rendered(tmp_path / "captions.h5", stimuli())
    longest = max(len(text.strip().encode()) for text in CAPTIONS)
    assert found.shape == (len(CAPTIONS), longest)
    assert found[:].dtype == np.uint8
    texts = [row.tobytes().rstrip(b"\0").decode() for row in found[:]]
    assert texts == [text.strip() for text in CAPTIONS]
    assert found.table["caption"].tolist() == texts
    assert found.header["axes"] == 1


def test_a_missing_caption_leaves_its_photograph_out(tmp_path):
    found = rendered(tmp_path / "captions.h5", stimuli(["a dog", None, " "]))
    assert found.table["exclude"].tolist() == ["", "no caption", "no caption"]


def test_photographs_without_captions_are_refused(tmp_path):
    given = Stimuli("stimuli", stimuli().table.drop(columns="caption"))
    with pytest.raises(InputError, match="stimuli: this dataset has no captions"):
        rendered(tmp_path / "captions.h5", given)
