"""Stage map: the latent map of one experiment."""

from pathlib import Path

from engram import store
from engram.figures import latent_map, style, tensorboard
from engram.figures.map_figure import map_figure
from engram.store import json_file


def map(latents, predictions, view, picture, data, events, known=()):
    """Draw the latent map of one experiment: UMAP fitted on its training rows.

    Args:
        latents: store of `train`, the space that the head of the first fold classifies in; or of
            `apply`, a space of two data sets.
        predictions: store of `train` or `apply`.
        view: stores of the view whose rows are the pictures behind the points.
        known: the same of the data that an applied model was trained on; else none.
        picture: PNG to write, coloured by state, subject, scan and time.
        data: JSON to write, what the report needs to draw the map.
        events: TensorBoard event file to write, the picture under the published tag.

    Raises:
        InputError: too few training rows, or the stores name different rows.
    """
    rows = store.open(latents).load(), store.open(predictions).load()
    built = latent_map.build(*rows, view, known)
    json_file.write(built, data)
    with style.styled():
        style.save(map_figure(built), picture)
    tag = f"UMAP 2d visualization of {built['modality']}_feats"
    tensorboard.write_events(events, [], [(tag, 0, Path(picture).read_bytes())])
