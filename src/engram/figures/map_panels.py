"""The latent map on the page: four linked Bokeh panels with the pictures behind the points."""

import numpy as np

from engram.figures.map_figure import panels, sample

TOOLTIP = """
<div class="point" style="font: 13px/1.45 system-ui, sans-serif; max-width: 240px">
  <img src="@image{safe}" alt="the window behind this point"
       style="display: block; width: 224px; border-radius: 4px; margin-bottom: 4px">
  <b>@subject</b> @scan, from @onset{0.} s<br>
  true: <b>@state</b><br>
  @said<br>
  @role
</div>
"""


def document(data, most) -> tuple[dict, list[dict]]:
    """A Bokeh document of the four panels, and what the page says beside each.

    Args:
        data: from `latent_map.build`, through JSON.
        most: most points to show.

    Returns:
        (JSON of the document, one dict a panel: title, root (id of its root model), key
        (meaning of the colours), continuous (whether the key is a scale)).
    """
    from bokeh.document import Document
    from bokeh.models import ColumnDataSource, Range1d

    kept = sample(np.arange(len(data["points"]["x"])), most)
    columns = {name: [values[i] for i in kept] for name, values in data["points"].items()}
    columns["role"] = [
        _role(*pair) for pair in zip(columns["fitted"], columns["part"], strict=True)
    ]
    columns["said"] = [
        _said(*pair) for pair in zip(columns["predicted"], columns["probability"], strict=True)
    ]
    columns["size"] = [5 if fitted else 7 for fitted in columns["fitted"]]
    columns["edge"] = [0.0 if fitted else 0.9 for fitted in columns["fitted"]]
    coloured = panels(data)
    for place, (_, colours, _) in enumerate(coloured):
        columns[f"colour{place}"] = [colours[i] for i in kept]
    source = ColumnDataSource(columns)
    ranges = [Range1d(*_range(columns[axis])) for axis in "xy"]
    made, described = Document(), []
    for place, (title, _, key) in enumerate(coloured):
        panel = _panel(source, ranges, f"colour{place}")
        made.add_root(panel)
        described.append(
            {"title": title, "root": panel.id, "key": key, "continuous": title == "time in scan"}
        )
    return made.to_json(deferred=False), described


def _role(fitted, part):
    return "the map was fitted on it" if fitted else f"placed into the map ({part} row)"


def _said(predicted, probability):
    return f"predicted: {predicted} ({probability:.2f})" if predicted else "trained on"


def _range(values):
    margin = 0.05 * max(np.ptp(values), 1e-6)
    return float(np.min(values) - margin), float(np.max(values) + margin)


def _panel(source, ranges, colour):
    from bokeh.models import HoverTool
    from bokeh.plotting import figure

    panel = figure(
        x_range=ranges[0],
        y_range=ranges[1],
        sizing_mode="scale_width",
        aspect_ratio=1,
        min_width=200,
        tools="pan,wheel_zoom,box_zoom,reset",
        active_scroll=None,
        output_backend="canvas",
        toolbar_location="below",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
    )
    panel.axis.visible = False
    panel.grid.visible = False
    panel.toolbar.logo = None
    panel.toolbar.autohide = True
    points = panel.scatter(
        "x",
        "y",
        source=source,
        size="size",
        fill_color=colour,
        fill_alpha=0.8,
        line_color="#6b7280",
        line_alpha="edge",
        line_width=1,
        hover_fill_color=colour,
        hover_fill_alpha=1,
        hover_line_color="#d1242f",
        hover_line_alpha=1,
    )
    points.hover_glyph.line_width = 2
    points.hover_glyph.size = 12
    panel.add_tools(HoverTool(renderers=[points], tooltips=TOOLTIP, limit=1))
    return panel
