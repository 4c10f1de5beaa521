"""Event files, read back with TensorBoard's own reader."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event

from engram.errors import InputError
from engram.figures import tensorboard

NAME = "events.out.tfevents.0.engram"
SCALARS = [("Train/loss", 0, 0.75), ("Train/loss", 3, 0.5), ("Test/mF1", 3, 1 / 3)]


def png(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def read(path):
    return EventAccumulator(str(path), size_guidance={"images": 0, "scalars": 0}).Reload()


def test_scalars_come_back(tmp_path):
    tensorboard.write_events(tmp_path / NAME, SCALARS)
    found = read(tmp_path)
    assert found.Tags()["scalars"] == ["Train/loss", "Test/mF1"]
    assert [(e.step, e.value) for e in found.Scalars("Train/loss")] == [(0, 0.75), (3, 0.5)]
    (event,) = found.Scalars("Test/mF1")
    assert (event.step, event.value, event.wall_time) == (3, np.float32(1 / 3), 0.0)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_images_come_back(tmp_path):
    pictures = [png(30, 20), png(7, 9, seed=1)]
    images = (("Map", step, picture) for step, picture in enumerate(pictures))
    tensorboard.write_events(tmp_path / NAME, SCALARS[:1], images)
    found = read(tmp_path)
    assert found.Tags()["images"] == ["Map"]
    assert [e.encoded_image_string for e in found.Images("Map")] == pictures
    assert [(e.step, e.width, e.height) for e in found.Images("Map")] == [(0, 30, 20), (1, 7, 9)]
    assert len(found.Scalars("Train/loss")) == 1


def test_the_web_application_takes_them(tmp_path):
    """TensorBoard's server rewrites events as tensors that carry a plugin's name."""
    from tensorboard import data_compat
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    tensorboard.write_events(tmp_path / NAME, SCALARS[:1], [("Map", 0, png(4, 4))])
    events = list(EventFileLoader(str(tmp_path / NAME)).Load())
    assert events[0].file_version == "brain.Event:2"
    plugins = [
        value.metadata.plugin_data.plugin_name
        for event in events[1:]
        for value in data_compat.migrate_event(
            Event.FromString(event.SerializeToString())
        ).summary.value
    ]
    assert plugins == ["scalars", "images"]


def test_tables_come_back_as_text(tmp_path):
    settings = {"head": {"kind": "linear", "c": [0.1, 1.0]}, "x": "μV"}
    tensorboard.write_events(tmp_path / NAME, SCALARS, tables=[("hyperparameters", settings)])
    found = read(tmp_path)
    assert found.PluginTagToContent("text").keys() == {"hyperparameters"}
    (event,) = found.Tensors("hyperparameters")
    fence, *lines, end = event.tensor_proto.string_val[0].decode().splitlines()
    assert (event.step, fence, end) == (0, "```", "```")
    assert json.loads("".join(lines)) == settings


def test_equal_content_is_equal_bytes(tmp_path):
    for name in ("a", "b"):
        tensorboard.write_events(tmp_path / name, SCALARS, [("Map", 0, png(3, 3))])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_wall_time_can_be_given(tmp_path):
    tensorboard.write_events(tmp_path / NAME, SCALARS, wall_time=1.7e9)
    assert {e.wall_time for e in read(tmp_path).Scalars("Train/loss")} == {1.7e9}


@pytest.mark.parametrize("data", [b"GIF89a" + bytes(40), b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_png_is_refused(tmp_path, data):
    with pytest.raises(InputError, match=r"tfevents.0.engram: the image 'Map' is not a PNG"):
        tensorboard.write_events(tmp_path / NAME, SCALARS, [("Map", 0, data)])
    assert not list(tmp_path.iterdir())
