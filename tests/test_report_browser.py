"""The report in a real browser: it renders, the map answers, nothing leaves the page."""

import json
import re

import comparing
import numpy as np
import picturing
import pytest
import retrieving
import study

from engram.figures import latent_map
from engram.figures.compare import draw
from engram.figures.map import map as draw_map
from engram.figures.plot import plot
from engram.figures.report import report
from engram.scores.comparison import compare as measure

pytestmark = pytest.mark.browser

FIGURES = ("subjects", "confusion", "curves", "examples")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """A report made of stores, with a map whose points need no UMAP."""
    folder = tmp_path_factory.mktemp("study")
    spec, figures = study.write(folder), []
    view = sorted(folder.glob("views/*/spectrogram.h5"))
    for name in spec["experiments"]:
        paths = {figure: folder / f"figures/{name}/{figure}.svg" for figure in FIGURES}
        stores = (folder / f"scores/{name}.json", folder / f"predictions/{name}.h5")
        events = folder / f"figures/{name}/events.out.tfevents.0.engram"
        plot(*stores, view, [], paths | {"events": events}, {"task": "classes"})
        figures += paths.values()
    drawn = [folder / "figures/clip/map.png", folder / "figures/clip/map.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_map, "place", on_a_grid)
        draw_map(
            folder / "latents/clip.h5", folder / "predictions/clip.h5", view, *drawn,
            folder / "figures/clip/events.out.tfevents.1.engram",
        )  # fmt: skip
    members = [
        comparing.member("clip", 0.78, title="a model with a name that is much longer than others"),
        comparing.member("clip_random", 0.6, weights="random", of="clip"),
        comparing.member("bandpower", 0.71, baseline=True),
    ]
    compared = comparing.outputs(folder)
    measure(**comparing.write(folder / "compared", members), comparison=compared["comparison"])
    draw(**compared)
    report(
        [folder / f"scores/{name}.json" for name in spec["experiments"]],
        [folder / f"predictions/{name}.h5" for name in spec["experiments"]],
        [*figures, *drawn, compared["figure"], compared["cka"]], folder / "report.html",
        spec | {"comparisons": {"vision": comparing.CONFIG}}, [compared["comparison"]],
    )  # fmt: skip
    return folder / "report.html"


def on_a_grid(latent, train, shown):
    """Rows one beside the other, so that the test knows where each point is."""
    points = np.stack([shown % 12, shown // 12], axis=1).astype(float)
    return points, train[shown], {"fitted_rows": int(train.sum())}


@pytest.fixture(scope="module")
def visited(page, html):
    """The page with the report open, and what it complained about and asked for."""
    problems, requests = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None
    )
    page.on("request", lambda request: requests.append(request.url))
    page.goto(html.as_uri())
    page.locator("#clip > details > summary").click()  # nobody scrolls to the map
    page.wait_for_selector(".panels .plot canvas")
    page.wait_for_timeout(300)
    return page, problems, requests


def test_headline_table_is_visible(visited):
    page, _, _ = visited
    line = page.locator(".headline tbody tr", has_text="CLIP + adapter")
    assert line.is_visible()
    # 0.780 and its interval; the gain over band power, whose p is the only one of its family
    for expected in ("0.780", "0.720 to 0.840", "0.500", "0.710", "+0.070", "0.031"):
        assert expected in line.inner_text()
    assert line.locator("circle.dot").count() == 6


def test_comparison_fits_the_page(visited):
    page, _, _ = visited
    table = page.locator("table.compared")
    assert table.is_visible()
    assert table.evaluate("t => t.parentElement.scrollWidth <= t.parentElement.clientWidth")
    assert table.locator("tbody tr").count() == 3


def test_every_picture_loads(visited):
    page, _, _ = visited
    widths = page.eval_on_selector_all("figure img", "images => images.map(i => i.naturalWidth)")
    # two experiments: dots, confusion; one set of curves; one of examples; one comparison: two
    assert len(widths) == 8
    assert min(widths) > 100


def test_four_panels_are_drawn(visited):
    page, _, _ = visited
    assert page.locator(".panels .plot canvas").count() >= 4


def test_pointing_at_the_map_shows_the_window_behind(visited, html):
    page, _, _ = visited
    tooltip = point_somewhere(page, page.locator(".panels .plot").nth(1))
    points = json.loads((html.parent / "figures/clip/map.json").read_text())["points"]
    said = re.search(r"(sub-\d\d) scan-01, from (\d+) s", tooltip.inner_text())
    row = [points["subject"], points["onset"]]
    behind = list(zip(*row, strict=True)).index((said[1], float(said[2])))
    assert f"true: {points['state'][behind]}" in tooltip.inner_text()
    image = tooltip.locator("img")
    assert image.get_attribute("src") == points["image"][behind]
    assert image.evaluate("async image => (await image.decode(), image.naturalWidth)") > 0


def point_somewhere(page, panel):
    """Move over a panel until a tooltip shows."""
    panel.scroll_into_view_if_needed()
    box = panel.bounding_box()
    for step in range(400):
        across, down = (step % 20 + 0.5) / 20, (step // 20 + 0.5) / 20
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        page.wait_for_timeout(20)
        if page.locator(".point").count():
            return page.locator(".point").first
    raise AssertionError("no tooltip anywhere in the panel")


def test_two_screens_show_what_was_found_and_every_row(page, html):
    """The comparison stands above it: its place is taken off."""
    other = page.context.browser.new_page(viewport={"width": 1280, "height": 900})
    other.goto(html.as_uri())
    top = other.locator("article").first.bounding_box()["y"]
    assert top - other.locator("section.comparison").bounding_box()["height"] < 1800
    assert not other.locator("article .pair").first.is_visible()  # until it is opened
    other.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_show_numbers_and_scroll_nothing_sideways(page, html, scheme):
    other = page.context.browser.new_page(color_scheme=scheme)
    other.set_viewport_size({"width": 390, "height": 800})
    other.goto(html.as_uri())
    line = other.locator(".headline tbody tr", has_text="CLIP + adapter")
    for said in ("0.780", "0.720 to 0.840", "+0.070"):
        box = line.locator("td.n", has_text=said).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    for fold in other.locator("details").all():
        fold.evaluate("fold => fold.open = true")
    other.wait_for_selector(".panels .plot canvas")
    assert other.evaluate("document.documentElement.scrollWidth") <= 390
    sideways = """all => all.filter(e => e.scrollWidth > e.clientWidth + 1)
        .map(e => e.getAttribute('aria-label'))"""
    assert other.eval_on_selector_all(".scroll", sideways) == []
    other.close()


def test_a_link_opens_what_it_leads_to(page, html):
    other = page.context.browser.new_page(viewport={"width": 1280, "height": 900})
    other.goto(html.as_uri())
    fold = other.locator("#clip > details")
    other.locator(".headline tbody a", has_text="CLIP + adapter").first.click()
    other.wait_for_function("document.querySelector('#clip > details').open")
    assert fold.locator(".pair").is_visible()
    other.close()


def test_print_shows_every_fold(page, html):
    other = page.context.browser.new_page(viewport={"width": 1280, "height": 900})
    other.goto(html.as_uri())
    other.evaluate("dispatchEvent(new Event('beforeprint'))")
    other.emulate_media(media="print")
    other.wait_for_selector(".panels .plot canvas")
    assert other.locator("details:not([open])").count() == 0
    assert other.locator("#clip .provenance pre").first.is_visible()
    other.evaluate("dispatchEvent(new Event('afterprint'))")
    assert other.locator("details[open]").count() == 0
    other.close()


def test_nothing_complains_and_nothing_leaves_the_page(visited, html):
    _, problems, requests = visited
    assert problems == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [html.as_uri()]


# ---- retrieval --------------------------------------------------------------------------


def test_retrieval_fits_wide_and_narrow_screens(page, tmp_path):
    spec = retrieving.write(tmp_path, experiments=tuple(retrieving.EXPERIMENTS))
    report(
        [tmp_path / f"scores/{name}.json" for name in spec["experiments"]],
        [tmp_path / f"predictions/{name}.h5" for name in spec["experiments"]],
        [], tmp_path / "report.html", spec,
    )  # fmt: skip
    problems, other = [], page.context.browser.new_page(viewport={"width": 1280, "height": 900})
    other.on("console", lambda message: problems.append(message.text))
    other.on("pageerror", lambda error: problems.append(str(error)))
    other.goto((tmp_path / "report.html").as_uri())
    for table in other.locator("table.headline").all():
        assert table.is_visible()
        assert table.evaluate("t => t.parentElement.scrollWidth <= t.parentElement.clientWidth")
    lines = other.locator("table.pairs tbody tr", has_text="over NICE").locator(".gain, .loss")
    assert lines.count() == 4  # one a subject
    other.set_viewport_size({"width": 390, "height": 800})
    assert other.evaluate("document.documentElement.scrollWidth") <= 390
    other.close()
    assert problems == []


# ---- pictures ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """A report on two decoders, one of which starts from the other's pictures."""
    folder, names = tmp_path_factory.mktemp("pictures"), ("layout", "final")
    paths = picturing.write(folder, {"layout": 0.3, "final": 0.6}, ("subj01",), ("pixels",))
    told = {n: picturing.compared(folder, paths, n, n, backbones=("pixels",)) for n in names}
    return picturing.page(folder, paths, told, {"final": "layout"}, {"final": ["layout"]})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_to_look_at_fit_and_tell_their_scores(page, looked, scheme):
    problems, other = [], page.context.browser.new_page(color_scheme=scheme)
    other.on("console", lambda message: problems.append(message.text))
    other.on("pageerror", lambda error: problems.append(str(error)))
    other.set_viewport_size({"width": 1280, "height": 900})
    other.goto(looked.as_uri())
    other.locator("#final > details > summary").click()
    card = other.locator("#final .card").first
    for width in (1280, 400):
        other.set_viewport_size({"width": width, "height": 900})
        assert other.evaluate("document.documentElement.scrollWidth") <= width
        other.mouse.move(0, 0)
        assert not card.locator(".told").is_visible()
        card.hover()
        scores = card.locator(".told")
        assert scores.is_visible()
        assert "SSIM of columns" in scores.inner_text()
        box = scores.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        colours = scores.evaluate(
            "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
        )
        assert len(set(colours)) == 2
    sides = card.locator("img").evaluate_all("all => all.map(i => [i.naturalWidth, i.clientWidth])")
    assert len(sides) == 3  # seen, where it started, final
    assert all(natural == 144 and shown > 90 for natural, shown in sides)
    other.close()
    assert problems == []
