"""Stage `track`: one run of Weights & Biases an experiment, where the configuration asks for it.

Nothing else of this package imports `wandb`.  Its key is found by itself, in the environment
or in a netrc file; no function here sees it.
"""

import hashlib
import json
import math
import os
import re
import shutil
from pathlib import Path

import pandas as pd

from engram import store
from engram.errors import InputError
from engram.planning import components
from engram.store import canonical

#: Facts about a metric that go along with its value.
FACTS = (
    *("low", "high", "chance", "control", "seed_sd", "subject_sd", "p"),
    *("baseline", "difference", "difference_low", "difference_high", "difference_p"),
)

#: Nothing that names the machine, its user or its code, no questions, and an end to trying again
#: where there is no network.
SETTINGS = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "host": "engram",
    "program": "engram",
    "save_code": False,
    "show_info": False,  # without which a missing key is asked for
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_viewer": True,
    "x_graphql_retry_max": 3,
    "x_save_requirements": False,
}


def track(scores, predictions, model, figures, tracking, spec):
    """Log one experiment as one run, and write down which.

    The id of the run follows from the experiment and what is logged: the same results
    overwrite their run, other results become another one.

    Args:
        scores: JSON file of `evaluate`.
        predictions: store of `train`; its header holds hyperparameters and curves.
        model: paths of the model to log: one or none.
        figures: paths of SVG and PNG files to log.
        tracking: JSON file to write: run, project, entity, mode, url (online) and folder,
            which `wandb sync` uploads if the mode was offline.  Runs lie beside it.
        spec: dict with experiment (its name), configured (what the configuration says of it),
            group, and wandb: project, entity, mode.

    Raises:
        InputError: wandb is not installed, or the server does not let the run in.
    """
    chosen = spec["wandb"]
    online = chosen["mode"] == "online"
    if online and os.environ.get("ENGRAM_OFFLINE", "") not in ("", "0"):
        raise InputError("tracking.wandb.mode: online, but ENGRAM_OFFLINE=1; use `mode: offline`")
    wandb = _wandb()
    scored = json.loads(Path(scores).read_text("utf-8"))
    header = store.open(predictions).header
    points = curves(header["curves"], scored["runs"])
    summary = metrics(scored)
    config = settings(scored, header) | {"experiment": spec["configured"]}
    logged = canonical([spec["experiment"], config, summary, sorted(points.items())])
    run_id = hashlib.sha256(logged.encode()).hexdigest()[:16]
    folder = Path(tracking).parent
    earlier = list(folder.glob(f"wandb/*run-*-{run_id}"))
    try:
        run = _started(wandb, spec, id=run_id, config=config, notes=scored["warnings"], dir=folder)
        _log(wandb, run, points, summary, model, figures)
        run.finish()
    except wandb.Error as error:
        raise InputError(
            f"tracking.wandb: {str(error).rstrip('.')}; log in with `wandb login`, or set "
            "`mode: offline`, which sends nothing"
        ) from None
    here = Path(run.settings.sync_dir)
    for old in earlier:
        if old.name != here.name:
            shutil.rmtree(old)
    made = {
        "experiment": spec["experiment"],
        "run": run_id,
        "project": run.project,
        "entity": run.entity if online else chosen["entity"],
        "mode": chosen["mode"],
        "url": run.url if online else None,
        "folder": str(here),
    }
    with store.replaced(tracking) as temporary:
        temporary.write_text(json.dumps(made, indent=1), encoding="utf-8")


def _wandb():
    """The library, told before its import to report no errors of its own."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    try:
        import wandb
    except ImportError:
        raise InputError(
            "tracking.wandb: the package wandb is not installed; run `pip install -e .[wandb]`, "
            "or take `tracking` out of the configuration"
        ) from None
    return wandb


def _started(wandb, spec, config, notes, **options):
    wandb.setup(wandb.Settings(**SETTINGS))
    return wandb.init(
        **{key: spec["wandb"][key] for key in ("project", "entity", "mode")},
        name=spec["experiment"],
        group=spec["group"],
        job_type=config["task"],
        tags=config["flags"],
        notes="\n".join(notes),
        config=config,
        **options,
    )


def _log(wandb, run, points, summary, model, figures):
    run.define_metric("*", summary="none")  # the summary is of the scores alone
    for epoch, values in sorted(points.items()):
        run.log({"epoch": epoch, **values}, step=epoch)
    shown = {f"figures/{Path(path).stem}": _figure(wandb, Path(path)) for path in figures}
    if shown:
        run.log(shown, step=max(points, default=0))
    run.summary.update(summary)
    for path in model:
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", run.name), type="model")
        # not copied: the models of a study can be large
        artifact.add_file(os.path.abspath(path), policy="immutable", skip_cache=True)
        run.log_artifact(artifact)


def _figure(wandb, path):
    if path.suffix == ".svg":
        return wandb.Html(path.read_text("utf-8"), inject=False)
    return wandb.Image(str(path))


def curves(rows, runs) -> dict[int, dict[str, float]]:
    """Training curves as {epoch: {"column/fold seed 0": value}}; points that are NaN left out.

    Args:
        rows: {column: values}, one a fold, run and epoch; a run is its place in `runs`.
        runs: dicts with seed and shuffled.
    """
    table = pd.DataFrame(rows)
    if not len(table):
        return {}
    table = table.join(pd.DataFrame(runs), on="run").drop(columns="run")
    found = {}
    for row in table.to_dict("records"):
        who = f"{row.pop('fold')} seed {row.pop('seed')}" + " control" * row.pop("shuffled")
        values = found.setdefault(int(row.pop("epoch")), {})
        values |= {f"{column}/{who}": float(v) for column, v in row.items() if _finite(v)}
    return found


def metrics(scored) -> dict[str, float]:
    """Every score as {"auc": 0.7, "auc/low": 0.6, "auc/chance": 0.5, ...}; gaps are left out.

    Args:
        scored: the scores of an experiment.
    """
    found = {}
    for row in scored["metrics"]:
        found[row["metric"]] = row["value"]
        found |= {f"{row['metric']}/{key}": row[key] for key in FACTS}
    return {name: float(value) for name, value in found.items() if _finite(value)}


def settings(scored, header) -> dict:
    """What a run is told apart by: hyperparameters, flags, sample and versions.

    Args:
        scored: the scores of an experiment.
        header: of its predictions store.
    """
    made_by, sample = header["made_by"], scored["sample"]
    return {
        **components.hyperparameters(made_by["spec"]),
        **{key: scored[key] for key in ("task", "flags", "generalises_to")},
        **{key: scored[key] for key in ("candidates",) if key in scored},
        "sample": {key: value for key, value in sample.items() if isinstance(value, int)},
        "versions": made_by["versions"],
    }  # fmt: skip


def _finite(value):
    return value is not None and math.isfinite(value)
