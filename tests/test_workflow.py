"""The workflow as a user runs it: from nothing to the report, then again after each change."""

import functools
import hashlib
import html
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import checkouts
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file
from wandb_runs import Offline

from engram import store
from engram.backbones.timm import timm
from engram.frozen import checkpoints


def snakemake(folder, *arguments, check=True):
    """Run Snakemake in `folder` with its own copy of the package; return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    given = ["--configfile", "tiny.yaml", "--cores", "2", *arguments]
    done = checkouts.snakemake(folder, *given, environment=environment)
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A checkout in which the tiny study has run to its report."""
    folder = checkouts.copy(tmp_path_factory.mktemp("checkout"))
    shutil.copy(checkouts.ROOT / ".test/config/config.yaml", folder / "tiny.yaml")
    snakemake(folder)
    return folder


@pytest.fixture
def checkout(finished, tmp_path):
    """A copy of the finished checkout that a test may edit, with its mtimes."""
    folder = tmp_path / "checkout"
    shutil.copytree(finished, folder, symlinks=True)
    return folder


def stale(folder, *arguments):
    """Jobs that a dry run lists, as "rule" or "rule: wildcards" words, without the target."""
    text = snakemake(folder, "--dry-run", *arguments)
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", text, re.MULTILINE)
    jobs = set()
    for rule, body in blocks:
        wildcards = re.search(r"wildcards: (.*)", body)
        values = re.findall(r"=([^,\n]+)", wildcards[1]) if wildcards else []
        jobs.add(" ".join([rule.partition("_")[0], *values]))  # plot_classes: stage plot
    return jobs - {"all"}


def edit(folder, path, old, new):
    file = folder / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_the_study_ends_in_a_report_that_says_it_is_simulated(finished):
    page = (finished / "results/tiny/report.html").read_text()
    assert "simulated" in page.lower()
    assert "random weights" in page.lower()


def test_a_kept_model_has_a_card_in_the_report(finished):
    facts = json.loads((finished / "results/tiny/models/bands.json").read_text())
    page = (finished / "results/tiny/report.html").read_text()
    model = (finished / "results/tiny/models/bands.safetensors").read_bytes()
    assert facts["file"]["sha256"] == hashlib.sha256(model).hexdigest()
    assert all(html.escape(one["text"], quote=False) in page for one in facts["not_for"])


def test_the_comparison_stands_in_the_report(finished):
    page = (finished / "results/tiny/report.html").read_text()
    table = page.partition('class="compared"')[2].partition("</table>")[0]
    assert "tiny_vit" in table
    assert "bands" in table
    assert 'id="vit"' in page
    assert 'id="which-tiny_vit"' not in page


def test_all_scores_stand_in_one_table(finished):
    table = pd.read_csv(finished / "results/tiny/scores.csv")
    folder = finished / "results/tiny/scores"
    assert {*table["experiment"]} == {path.stem for path in folder.glob("*.json")}
    assert not table.duplicated(["experiment", "metric"]).any()
    for name, own in table.groupby("experiment"):
        rows = json.loads((folder / f"{name}.json").read_text())["metrics"]
        assert own["metric"].tolist() == [row["metric"] for row in rows]
        for key in ("value", "low", "high", "p", "difference_p"):
            shown = [np.nan if row[key] is None else row[key] for row in rows]
            np.testing.assert_allclose(own[key].astype(float), shown, rtol=1e-12)
    compared = table[table["comparison"] == "which"]
    assert {"which-tiny_vit"} <= {*compared["experiment"]}
    assert (table["flags"].str.contains("simulated")).all()


def test_the_methods_say_what_was_done(finished):
    text = (finished / "results/tiny/methods.md").read_text()
    scored = json.loads((finished / "results/tiny/scores/vit.json").read_text())
    sample = scored["sample"]
    assert f"{sample['subjects']} subjects, {sample['scans']} scans" in text
    for told in ("`spectrogram/tiny_vit`", "kind multitaper", "random weights", "torch 2."):
        assert told in text


def test_features_say_what_made_them(finished):
    features = store.open(next(finished.glob("results/features/*/*/spectrogram/tiny_vit.h5")))
    made_by = features.header["made_by"]
    assert made_by["spec"]["backbone"]["kind"] == "timm"
    assert any(word.startswith("backbones.timm@") for word in made_by["code"])
    assert made_by["versions"]["torch"]
    assert len(next(iter(made_by["inputs"].values()))) == 64


def test_finding_nothing_to_do_imports_no_model_library(finished):
    command = [sys.executable, "-X", "importtime", "-m", "snakemake", "--configfile", "tiny.yaml"]
    done = subprocess.run(
        [*command, "--cores", "1"],
        cwd=finished,
        env=os.environ | {"PYTHONPATH": str(finished / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Nothing to be done" in done.stdout + done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "engram.planning.plan" in imported
    assert not {"torch", "timm", "h5py", "sklearn"} & imported


# ---- studies beside each other ----------------------------------------------------------

OWN = {  # what a study makes of views and features
    *(f"{stage} {name}" for stage in ("train", "evaluate") for name in ("bands", "vit")),
    *("train which-tiny_vit", "evaluate which-tiny_vit", "compare which"),
    *("card bands", "card vit", "plot bands", "plot vit", "map vit", "report"),
}


def test_a_second_study_shares_views_and_features_and_overwrites_nothing(checkout):
    (checkout / "second.yaml").write_text("heads: {linear: {c: [0.001]}}\n")
    second = ("--configfile", "tiny.yaml", "second.yaml")
    assert stale(checkout, *second) == OWN
    before = digests(checkout / "results")
    snakemake(checkout, "results/second/scores/bands.json", *second)
    after = digests(checkout / "results")
    assert after.items() >= before.items()
    assert {path.parts[0] for path in after.keys() - before.keys()} == {"second"}
    assert (checkout / "results/second/logs/train/bands.log").is_file()
    assert stale(checkout) == set()


def digests(folder):
    """SHA-256 of every file below `folder`, by its path there."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


# ---- the edit matrix: for each kind of edit, the jobs that run again --------------------

SUBJECTS = ["sub-01", "sub-02", "sub-03"]
COMPARED = {"train which-tiny_vit", "evaluate which-tiny_vit", "compare which"}


def experiment_jobs(*names, stages=("train", "evaluate", "card", "plot")):
    return {f"{stage} {name}" for stage in stages for name in names}


def test_comments_and_a_branch_switch_rerun_nothing(checkout):
    edit(checkout, "src/engram/heads/linear.py", '"""Head', '"""A remark. Head')
    edit(checkout, "src/engram/heads/linear.py", "\nfrom", "\n# a remark\nfrom")
    edit(checkout, "workflow/scripts/train.py", "\nfrom", "\n# a remark\nfrom")
    for path in [*checkout.glob("src/**/*.py"), *checkout.glob("workflow/**/*")]:
        if path.is_file():
            path.write_bytes(path.read_bytes())
    assert stale(checkout) == set()


def test_touched_files_moved_clocks_and_another_folder_rerun_nothing(checkout, tmp_path):
    moved = checkout.rename(tmp_path / "un dossier déplacé [1]")
    assert stale(moved) == set()
    files = [path for top in ("resources", "results") for path in moved.glob(f"{top}/**/*.*")]
    for path in files:
        os.utime(path, times=(978_307_200,) * 2)  # of 2001, on a disk that was restored
    assert stale(moved) == set()
    for path in moved.glob("resources/raw/**/*.npz"):
        assert path.stat().st_size > 1_000_000
        path.touch()
    os.utime(moved / "results/views/tiny/sub-01/spectrogram.h5", times=(4_102_444_800,) * 2)
    assert stale(moved) == set()


def test_results_copied_away_from_their_checkout_rerun_nothing_until_a_layout_changes(
    checkout, tmp_path
):
    for part in (".snakemake", "resources", "results"):  # with new times, in any order
        shutil.copytree(checkout / part, tmp_path / "away" / part, copy_function=shutil.copyfile)
    assert stale(checkout, "--directory", tmp_path / "away") == set()
    edit(checkout, "src/engram/figures/report.css", "{", "{ ")
    assert stale(checkout, "--directory", tmp_path / "away") == {"report"}


def test_a_backbone_module_reruns_its_features_and_what_follows(checkout):
    with (checkout / "src/engram/backbones/timm.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    assert stale(checkout) == {
        *(f"extract tiny {subject} spectrogram tiny_vit" for subject in SUBJECTS),
        *experiment_jobs("vit"),
        *COMPARED,
        "map vit",
        "report",
    }


def test_a_title_reruns_what_shows_it(checkout):
    edit(checkout, "tiny.yaml", "bands: {dataset", "bands: {title: Bands, dataset")
    assert stale(checkout) == {"card bands", "compare which", "report"}


def test_a_head_option_reruns_its_training_and_what_follows(checkout):
    edit(checkout, "tiny.yaml", "epochs: 2", "epochs: 3")
    assert stale(checkout) == {*experiment_jobs("vit"), "map vit", "report"}


def test_a_view_option_reruns_the_view_and_what_follows(checkout):
    edit(checkout, "tiny.yaml", "fmax: 30", "fmax: 32")
    assert stale(checkout) == {
        *(f"render tiny {subject} spectrogram" for subject in SUBJECTS),
        *(f"extract tiny {s} spectrogram {b}" for s in SUBJECTS for b in ("bandpower", "tiny_vit")),
        *experiment_jobs("bands", "vit"),
        *COMPARED,
        "map vit",
        "report",
    }


def test_a_new_subject_is_computed_and_the_old_are_kept(checkout):
    edit(checkout, "tiny.yaml", "sub-03]", "sub-03, sub-04]")
    assert stale(checkout) == {
        "download raw tiny sub-04.npz",
        "render tiny sub-04 spectrogram",
        "render tiny sub-04 state",
        "extract tiny sub-04 spectrogram bandpower",
        "extract tiny sub-04 spectrogram tiny_vit",
        *experiment_jobs("bands", "vit"),
        *COMPARED,
        "map vit",
        "report",
    }


def test_a_new_backbone_of_a_comparison_is_computed_and_the_old_are_kept(checkout):
    edit(
        checkout,
        "tiny.yaml",
        "backbones:\n",
        "backbones:\n  other_vit: {kind: timm, model: test_vit2.r160_in1k}\n",
    )
    edit(checkout, "tiny.yaml", "backbones: [tiny_vit]", "backbones: [tiny_vit, other_vit]")
    assert stale(checkout) == {
        *(f"extract tiny {subject} spectrogram other_vit" for subject in SUBJECTS),
        *experiment_jobs("which-other_vit", stages=("train", "evaluate")),
        "compare which",
        "report",
    }


def test_plot_code_reruns_plots(checkout):
    path = checkout / "src/engram/figures/confusion.py"
    path.write_text(path.read_text() + "\nCHANGED = True\n")
    jobs = stale(checkout)
    assert {"plot vit", "plot bands", "report"} <= jobs
    assert not [job for job in jobs if job.split()[0] in {"render", "extract", "train", "evaluate"}]


# ---- weights -----------------------------------------------------------------------------


def publish(checkout, tmp_path, server_url):
    """Weights of the tiny model at an address, and a study whose backbone uses them."""
    model = timm.create_model("test_vit.r160_in1k")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    sha256 = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    with (checkout / "tiny.yaml").open("a") as file:
        file.write(
            f"checkpoints:\n  there: {{url: {server_url}/model.safetensors, "
            f"sha256: '{sha256[:12]}', licence: MIT}}\n"
        )
    edit(checkout, "tiny.yaml", "weights: random}", "weights: published, checkpoint: there}")
    return model


@pytest.fixture
def server(tmp_path):
    """Address of a web server whose folder is `tmp_path`."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as this:
        threading.Thread(target=this.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{this.server_port}"
        this.shutdown()


def test_published_weights_are_fetched_verified_and_used(checkout, tmp_path, server):
    model = publish(checkout, tmp_path, server)
    features = "results/features/tiny/sub-01/spectrogram/tiny_vit.h5"
    snakemake(checkout, features)
    assert (checkout / "resources/weights/there/model.safetensors").is_file()
    header = store.open(checkout / features).header
    assert header["weights"] == "model.safetensors"
    model.reset_classifier(0)
    assert header["weights_sha256"] == checkpoints.digest(model)


def test_what_was_fetched_survives_a_rerun_and_is_not_fetched_again(checkout, tmp_path, server):
    publish(checkout, tmp_path, server)
    weights = "resources/weights/there/model.safetensors"
    snakemake(checkout, weights)
    fetched = (checkout / weights).read_bytes()
    (tmp_path / "model.safetensors").unlink()  # the publisher has it no longer
    snakemake(checkout, weights, "--forcerun", "download")
    assert (checkout / weights).read_bytes() == fetched
    edit(checkout, "tiny.yaml", "licence: MIT}", "licence: MIT, bytes: 3}")
    snakemake(checkout, weights, check=False)  # now it has to be fetched, and cannot be
    assert (checkout / weights).read_bytes() == fetched


def test_weights_of_another_digest_are_refused_and_not_kept(checkout, tmp_path, server):
    publish(checkout, tmp_path, server)
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    text = snakemake(checkout, "results/features/tiny/sub-01/spectrogram/tiny_vit.h5", check=False)
    assert "error: " in text
    assert "sha256" in text
    assert not (checkout / "resources/weights/there/model.safetensors").exists()


# ---- tracking ----------------------------------------------------------------------------


def test_tracking_adds_one_job_an_experiment_and_reruns_nothing(checkout):
    edit(checkout, "tiny.yaml", "title: Tiny\n", "title: Tiny\ntracking: {wandb: {}}\n")
    assert stale(checkout) == {"track bands", "track vit", "track which-tiny_vit"}


def test_a_tracked_experiment_has_a_run_and_the_key_is_written_nowhere(checkout, monkeypatch):
    key = "0123456789abcdef" * 3
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("HOME", str(checkout / "home"))
    asked = "title: Tiny\ntracking: {wandb: {project: brain, checkpoint: true}}\n"
    edit(checkout, "tiny.yaml", "title: Tiny\n", asked)
    printed = snakemake(checkout, "results/tiny/tracking/vit.json")
    written = json.loads((checkout / "results/tiny/tracking/vit.json").read_text())
    run = Offline(checkout / written["folder"])
    scored = json.loads((checkout / "results/tiny/scores/vit.json").read_text())
    scores = {row["metric"]: row["value"] for row in scored["metrics"]}
    assert run.summary.items() >= scores.items()
    assert (run.run.project, run.run.run_group) == ("brain", "Tiny")
    assert run.config["experiment"]["x"] == "spectrogram/tiny_vit"
    assert run.config["head"].items() >= {"epochs": 2, "dropout": 0.2}.items()
    assert run.artifacts[0].manifest.contents[0].path == "vit.safetensors"
    assert {"figures/map.path", "figures/curves.path"} <= run.history[-1].keys()
    files = [path for path in checkout.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("logs/track" in str(path) for path in files)
    assert not [path for path in files if key in path.read_text("latin1")]
    assert key not in printed
    edit(checkout, "tiny.yaml", "project: brain", "project: mind")
    assert stale(checkout, "results/tiny/tracking/vit.json") == {"track vit"}


# ---- mistakes ----------------------------------------------------------------------------


def test_a_misspelt_key_is_one_clear_line(checkout):
    edit(checkout, "tiny.yaml", "epochs: 2", "epcohs: 2")
    text = snakemake(checkout, "--dry-run", check=False)
    assert "heads.quick.epcohs: unknown key of kind 'adapter'; did you mean 'epochs'?" in text
    assert "Traceback" not in text


def test_an_error_in_a_job_is_one_line_in_its_log_and_leaves_nothing_half_written(checkout):
    edit(checkout, "tiny.yaml", "signal: eeg", "signal: meg")
    text = snakemake(checkout, "--keep-going", check=False)
    log = (checkout / "results/logs/render/tiny/sub-01/spectrogram.log").read_text()
    assert "error: " in log
    assert "meg" in log
    assert "Traceback" not in log
    assert "error: " in text
    assert not list(checkout.glob("results/views/tiny/*/spectrogram*"))


# ---- features shared between workflows -----------------------------------------------------


def test_workflows_share_features_until_the_code_that_makes_them_changes(
    checkout, tmp_path, monkeypatch
):
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    features = "results/features/tiny/sub-01/spectrogram/tiny_vit.h5"
    (checkout / features).unlink()
    other = shutil.copytree(checkout, tmp_path / "other", symlinks=True)

    def run(folder):
        snakemake(folder, "--cache", "extract", "--", features)
        return folder / features

    first, second = run(checkout), run(other)
    assert second.is_symlink()
    assert second.read_bytes() == first.read_bytes()

    second.unlink()
    with (other / "src/engram/frozen/pictures.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    assert run(other).resolve() != first.resolve()
