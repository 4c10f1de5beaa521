"""Runs of Weights & Biases: read back from their files, and as a server on loopback gets them."""

import base64
import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import forked
import pandas as pd
import pytest
import retrieving
import study
from PIL import Image
from wandb_runs import Offline, Server

from engram import store, tracking
from engram.errors import InputError

ROOT = Path(__file__).parents[1]
KEY = "0123456789abcdef" * 3  # of a length that is taken for a key
SVG = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
STAGE = """
import json, sys
from engram.errors import InputError
from engram.tracking import track
try:
    track(**json.load(open("arguments.json")))
except InputError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Finished experiments of both kinds, their models and figures, in a git checkout."""
    folder = tmp_path_factory.mktemp("checkout-of-someone")
    study.write(folder)
    retrieving.write(folder)
    for name in ("clip", "things_nice"):
        (folder / f"{name}.safetensors").write_bytes(f"model {name}".encode())
    (folder / "curves.svg").write_text(SVG)
    Image.new("RGB", (30, 20), "teal").save(folder / "gallery.png")
    (folder / ".git/refs").mkdir(parents=True)
    (folder / ".git/objects").mkdir()
    (folder / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (folder / ".git/config").write_text('[remote "origin"]\n\turl = https://planted.example/x\n')
    return folder


def arguments(name, out="tracking", mode="offline", checkpoint=False, figures=True):
    return {
        "scores": f"scores/{name}.json",
        "predictions": f"predictions/{name}.h5",
        "model": [f"{name}.safetensors"] if checkpoint else [],
        "figures": ["curves.svg", "gallery.png"] if figures else [],
        "tracking": f"{out}/{name}.json",
        "spec": {
            "experiment": name,
            "configured": {"x": "spectrogram/clip", "head": "adapter"},
            "group": "A study",
            "wandb": {"project": "brain", "entity": None, "mode": mode, "checkpoint": checkpoint},
        },
    }


def track(folder, given, url, key=KEY, **options):
    """Run the stage as a job does, in a process of its own; the network is a server here."""
    (folder / "arguments.json").write_text(json.dumps(given))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "HOME": str(folder / "home")}
    environment |= {"USER": "someone", "LOGNAME": "someone", "NETRC": str(folder / "netrc")}
    environment |= {"WANDB_BASE_URL": url, "HTTP_PROXY": url, "HTTPS_PROXY": url}
    environment |= {"WANDB_API_KEY": key} if key else {}
    command = [forked.python(), "-c", STAGE]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": 120} | options
    return subprocess.run(command, cwd=folder, env=environment, text=True, **options)


def tracked(folder, given):
    return json.loads((folder / given["tracking"]).read_text())


@pytest.fixture(scope="module", params=["clip", "things_nice"])
def offline(request, made):
    """An experiment of either kind and its offline run, its file, and what the network saw."""
    given = arguments(request.param, f"tracking-{request.param}", checkpoint=True)
    with Server() as server:
        done = track(made, given, server.url)
    assert done.returncode == 0, done.stdout
    written = tracked(made, given)
    return request.param, Offline(made / written["folder"]), written, server, done.stdout


# ---- what stands in a run -----------------------------------------------------------------


def points(folder, name):
    """{(epoch, key): value} of every curve, from the files of the experiment."""
    header = store.open(folder / f"predictions/{name}.h5").header
    rows = pd.DataFrame(header["curves"]).to_dict("records")
    rows = [row | header["runs"][row["run"]] for row in rows]
    return {
        (row["epoch"], f"{column}/{row['fold']} seed {row['seed']}" + control): value
        for row in rows
        for control in [" control" if row["shuffled"] else ""]
        for column, value in row.items()
        if column not in ("fold", "run", "seed", "shuffled", "epoch")
    }


def test_every_point_of_every_curve_stands_in_the_run(made, offline):
    name, run, *_ = offline
    found = {
        (row["_step"], key): value
        for row in run.history
        for key, value in row.items()
        if not key.startswith(("figures/", "_", "epoch"))
    }
    assert found == points(made, name)
    assert len(found) > 1000
    assert all(row["epoch"] == row["_step"] for row in run.history)


def test_every_score_stands_in_the_summary_beside_its_chance_and_control(made, offline):
    name, run, *_ = offline
    scored = json.loads((made / f"scores/{name}.json").read_text())
    facts = ("low", "high", "chance", "control", "seed_sd", "subject_sd", "p", "baseline",
             "difference", "difference_low", "difference_high", "difference_p")  # fmt: skip
    expected = {}
    for row in scored["metrics"]:
        expected[row["metric"]] = row["value"]
        known = [fact for fact in facts if row[fact] is not None]
        expected |= {f"{row['metric']}/{fact}": row[fact] for fact in known}
    assert len(expected) > 50
    assert run.summary == expected


def test_hyperparameters_flags_and_names_stand_in_the_run(made, offline):
    name, run, *_ = offline
    retrieval = name == "things_nice"
    assert run.config["task"] == ("pairs" if retrieval else "classes")
    assert run.config["head"].items() >= {"kind": "adapter", "dropout": 0.2, "epochs": 20}.items()
    assert run.config["experiment"] == {"x": "spectrogram/clip", "head": "adapter"}
    assert run.config["versions"] == study.MADE_BY["versions"]
    assert run.config["sample"]["subjects"] == (4 if retrieval else 6)
    assert run.config["generalises_to"].startswith("new")
    flags = ["simulated"] if retrieval else ["simulated", "random_weights"]
    assert list(run.run.tags) == run.config["flags"] == flags
    warnings = json.loads((made / f"scores/{name}.json").read_text())["warnings"]
    assert run.run.notes == "\n".join(warnings) != ""
    named = (run.run.project, run.run.display_name, run.run.run_group, run.run.job_type)
    assert named == ("brain", name, "A study", run.config["task"])


def test_figures_and_the_model_go_along_if_asked_for(made, offline):
    name, run, written, *_ = offline
    (html,) = (made / written["folder"] / "files/media/html/figures").glob("curves_*.html")
    (png,) = (made / written["folder"] / "files/media/images/figures").glob("gallery_*.png")
    assert html.read_text() == SVG
    assert png.read_bytes() == (made / "gallery.png").read_bytes()
    assert run.history[-1]["figures/gallery.path"].endswith(png.name)
    (artifact,) = run.artifacts
    assert (artifact.name, artifact.type) == (name, "model")
    (entry,) = artifact.manifest.contents
    assert (entry.path, entry.size) == (f"{name}.safetensors", len(f"model {name}"))


def test_the_file_says_where_the_run_is(made, offline):
    name, run, written, *_ = offline
    assert written["folder"].startswith(f"tracking-{name}/wandb/offline-run-")
    del written["folder"]
    assert written == {"experiment": name, "run": run.run.run_id, "project": "brain",
                       "entity": None, "mode": "offline", "url": None}  # fmt: skip


# ---- what does not -------------------------------------------------------------------------


def test_offline_nothing_asks_the_network(offline):
    *_, server, _ = offline
    assert server.requests == []


def holding(folder, key=KEY):
    """Files that hold the key, as it is or as the header of a request holds it."""
    words = (key, base64.b64encode(f"api:{key}".encode()).decode())
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(word in path.read_text("latin1") for word in words)]


def test_a_key_is_written_nowhere(made, offline):
    *_, printed = offline
    assert holding(made) == []
    assert KEY not in printed


def test_a_run_does_not_name_the_machine(offline):
    _, run, *_ = offline
    assert run.run.host == "engram"
    assert not run.run.HasField("git")
    assert "someone" not in str(run.run)


def test_online_the_server_gets_that_and_no_more(made, offline):
    name, run, _, *_ = offline
    given = arguments(name, f"online-{name}", mode="online")
    with Server() as server:
        done = track(made, given, server.url)
    assert done.returncode == 0, done.stdout
    written = tracked(made, given)
    assert written["run"] == run.run.run_id
    assert written["url"] == f"{server.url}/lab/brain/runs/{run.run.run_id}"
    history = server.streamed("wandb-history.jsonl")
    found = {(row["_step"], key): value for row in history for key, value in row.items()
             if not key.startswith(("figures/", "_", "epoch"))}  # fmt: skip
    assert found == points(made, name)
    files = server.uploaded()
    summary = json.loads(files.pop("wandb-summary.json"))
    assert {k: v for k, v in summary.items() if k[0] != "_"} == run.summary
    assert {Path(file).suffix for file in files} == {".html", ".png", ".yaml"}
    first = next(server.upserts())
    config = {key: one["value"] for key, one in json.loads(first.pop("config")).items()}
    ours = config.pop("_wandb")
    assert config == run.config
    assert not {"e", "code_path"} & ours.keys()  # facts about the machine
    assert first == {"name": run.run.run_id, "project": "brain", "groupName": "A study",
                     "displayName": name, "jobType": config["task"], "program": "engram",
                     "notes": run.run.notes, "tags": list(run.run.tags)}  # fmt: skip
    for _, _, headers, body in server.requests:
        shown = body + str({k: v for k, v in headers.items() if k != "Authorization"})
        assert not [word for word in (KEY, "someone", "planted") if word in shown]
    assert holding(made) == []
    assert KEY not in done.stdout


# ---- again ---------------------------------------------------------------------------------


def test_the_same_results_take_the_place_of_their_run_and_others_do_not(made):
    given, path = arguments("bandpower", "again", figures=False), made / "scores/bandpower.json"
    before = path.read_text()

    def go():
        done = track(made, given, "http://127.0.0.1:9")
        assert done.returncode == 0, done.stdout
        runs = sorted(folder.name for folder in made.glob("again/wandb/offline-run-*"))
        return tracked(made, given)["run"], runs

    first, runs = go()
    assert [name.rpartition("-")[2] for name in runs] == [first]
    second, again = go()
    assert second == first
    assert [name.rpartition("-")[2] for name in again] == [first]
    path.write_text(before.replace("0.012", "0.013"))
    third, both = go()
    path.write_text(before)
    assert third != first
    assert {name.rpartition("-")[2] for name in both} == {first, third}


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "too-short-a-secret"])
def test_online_without_a_key_is_an_error_and_no_question(made, key):
    given, (ours, theirs) = arguments("bandpower", "keyless", mode="online"), pty.openpty()
    with Server() as server:
        done = track(made, given, server.url, key=key, stdin=theirs, stderr=theirs)
    os.close(theirs)
    said = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 1
    assert "error: tracking.wandb: " in said
    assert "API key" in said
    assert "too-short-a-secret" not in said
    assert "`mode: offline`" in said
    assert server.requests == []
    assert not (made / given["tracking"]).exists()


def test_online_without_network_on_purpose_is_refused(monkeypatch):
    monkeypatch.setenv("ENGRAM_OFFLINE", "1")
    with pytest.raises(InputError, match=r"tracking.wandb.mode: online, but ENGRAM_OFFLINE=1"):
        tracking.track(**arguments("clip", mode="online"))


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        InputError, match=r"wandb is not installed; run `pip install -e .\[wandb\]`"
    ):
        tracking.track(**arguments("clip"))


# ---- pure ----------------------------------------------------------------------------------


def test_points_that_are_not_finite_are_left_out():
    rows = {"fold": ["a", "a"], "run": [1, 0], "epoch": [0, 0], "loss": [0.5, math.nan],
            "validation_loss": [None, 2.0]}  # fmt: skip
    runs = [{"seed": 4, "shuffled": False}, {"seed": 0, "shuffled": True}]
    assert tracking.curves(rows, runs) == {
        0: {"loss/a seed 0 control": 0.5, "validation_loss/a seed 4": 2.0}
    }
    assert tracking.curves({}, runs) == {}
