"""Event files that TensorBoard shows, written without torch or TensorFlow."""

import json
import struct

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from engram.errors import InputError
from engram.store import replaced

PNG = b"\x89PNG\r\n\x1a\n"
RGB = 3  # colour space of a PNG as TensorBoard's format numbers them


def write_events(path, scalars=(), images=(), tables=(), wall_time=0.0):
    """Write one event file, absent or complete; equal content gives equal bytes.

    Args:
        path: the file; TensorBoard reads it if its name contains "tfevents".
        scalars: iterable of (tag, step, value).
        images: iterable of (tag, step, bytes of a PNG); figures are images.
        tables: iterable of (tag, dict), e.g. hyperparameters; a table is shown as text, at step 0.
        wall_time: seconds since 1970 that every event carries.

    Raises:
        InputError: an image is not a PNG.
    """
    with replaced(path) as temporary, open(temporary, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
        for tag, step, value in scalars:
            _write(writer, wall_time, step, Summary.Value(tag=tag, simple_value=value))
        for tag, step, png in images:
            _write(writer, wall_time, step, Summary.Value(tag=tag, image=_image(path, tag, png)))
        for tag, table in tables:
            text = json.dumps(table, indent=1, ensure_ascii=False)
            _write(writer, wall_time, 0, text_pb(tag, f"```\n{text}\n```").value[0])


def _write(writer, wall_time, step, value):
    event = Event(wall_time=wall_time, step=step, summary=Summary(value=[value]))
    writer.write(event.SerializeToString())


def _image(path, tag, png):
    if not png.startswith(PNG) or len(png) < 24:
        raise InputError(f"{path}: the image {tag!r} is not a PNG")
    width, height = struct.unpack(">II", png[16:24])
    return Summary.Image(height=height, width=width, colorspace=RGB, encoded_image_string=png)
