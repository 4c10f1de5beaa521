"""What all tests share: one Python to fork from, a quiet collector, the browser if there is one."""

import gc
import os
import shutil
import sys

import forked
import pytest

#: UMAP compiles for 25 s what runs for 10 s on the few rows of a test. Read when it is imported.
os.environ["NUMBA_DISABLE_JIT"] = "1"

#: At its first loop numba sets the threads of the whole process, PyTorch's too, which then wait for
#: each other on a machine whose cores are all in use: the tests behind took three times as long.
os.environ["NUMBA_NUM_THREADS"] = "1"

import engram  # noqa: F401 - before PyTorch, for how its threads wait

gc.disable()  # until all tests are imported

#: What a test writes need not outlive a power cut, and a disk answers in milliseconds.
os.fsync = lambda descriptor: None

#: Files whose tests take minutes, the longest first: with several workers they start first.
LONG = (
    *("test_workflow.py", "test_retrieval_study.py", "test_published.py", "test_dreamsim.py"),
    *("test_vision_weights.py", "test_null.py"),
)

LEFT_OUT = "no Chromium: the browser test of the report is left out"


def chromium() -> str | None:
    """Path of the browser: the variable ENGRAM_CHROMIUM, or what is on the path."""
    return os.environ.get("ENGRAM_CHROMIUM") or shutil.which("chromium")


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs Chromium")
    if config.getoption("numprocesses", None):  # not in a worker
        os.environ[forked.SHARED] = forked.start()


def pytest_collection_modifyitems(config, items):
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))
    if chromium() or os.environ.get("ENGRAM_REQUIRE_BROWSER") == "1":
        return
    without = [item for item in items if item.get_closest_marker("browser")]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


def pytest_collection_finish(session):
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def imports_kept():
    """What was imported so far is there to stay: garbage collections need not walk it each time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    deselected = terminalreporter.stats.get("deselected", [])
    if any(item.get_closest_marker("browser") for item in deselected) and not chromium():
        terminalreporter.write_line(LEFT_OUT)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Compare with libraries in fp32, on processors that have bf16 too."""
    if backbone := sys.modules.get("engram.frozen.backbone"):
        monkeypatch.setattr(backbone, "multiplies_bf16", lambda device: False)


@pytest.fixture(scope="session")
def page():
    """A blank page of a headless browser."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    if not path:
        pytest.fail(
            "ENGRAM_REQUIRE_BROWSER=1, but there is no Chromium: install it or set ENGRAM_CHROMIUM"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
            ],
        )
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()
