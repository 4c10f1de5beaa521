"""Captions of photographs through the stages render and extract, against the text tower itself."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import yaml

from engram import backbones, cli, store, views
from engram.errors import InputError
from engram.planning import configuration, plan
from engram.recording import Stimuli

ROOT = Path(__file__).parents[1]
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
    assert found.header["view"]["what"] == "text"
    assert found.header["view"]["simulated"] is True


def test_a_study_names_captions_under_a_text_tower_as_any_other_source():
    config = cli.configuration([ROOT / "config/studies/things_eeg2.yaml"])
    targets = ["stimulus/clip_base", "caption/clip_text_vitb32"]
    this = config["experiments"]["things_clip"] | {"y": targets}
    config["experiments"] = {
        "things_pixels": config["experiments"]["things_pixels"], "words": this
    }  # fmt: skip
    config["run"] = ["words"]
    schema = (ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8")
    schema = yaml.safe_load(schema)
    configuration.check(config, schema)
    found = plan.Plan(config)
    shown = ["results/views/things_eeg2/stimuli/stimulus.h5"]
    assert found.y("words")[1] == (
        "results/features/things_eeg2/stimuli/caption/clip_text_vitb32.h5"
    )
    names = {"dataset": "things_eeg2", "unit": "stimuli", "view": "caption"}
    assert found.modules("render", **names) == [
        "engram.datasets.things_eeg2",
        "engram.views.captions",
    ]
    assert found.pictures("words") == shown
    targets.reverse()  # a person looks at the photographs still
    assert plan.Plan(config).pictures("words") == shown
    this["y"] = targets[:1]
    message = "experiment 'words': its figures show pictures, and caption/clip_.* gives none; add"
    with pytest.raises(InputError, match=message):
        configuration.check(config, schema)


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
