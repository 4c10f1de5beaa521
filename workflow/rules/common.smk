import os
import sys
from pathlib import Path

import yaml
from snakemake.utils import validate

ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
sys.path.insert(0, str(ROOT / "src"))  # Snakemake hands this path on to every script

from engram.planning.configuration import check
from engram.errors import InputError
from engram.planning.plan import Plan
from engram.planning.provenance import fingerprint

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"


def checked_plan():
    """The plan of the configuration, or one line that says what is wrong in it."""
    try:
        check(config, yaml.safe_load(SCHEMA.read_text()))
        validate(config, str(SCHEMA))
        this = Plan(config)
        for dataset in dict.fromkeys(
            this.known[e]["dataset"] for e in this.experiments()
        ):
            for unit in (*this.units(dataset), *this.shared(dataset)):
                this.raw(dataset, unit)
        return this
    except InputError as error:
        sys.exit(f"error in the configuration: {error}")


plan = checked_plan()


def spec(stage):
    """Params function: the configuration that a job of `stage` depends on."""

    def of_job(wildcards):
        return plan.spec(stage, **wildcards)

    return of_job


def code(stage):
    """Params function: the code that a job of `stage` can run."""
    script = ROOT / f"workflow/scripts/{stage}.py"

    def of_job(wildcards):
        return fingerprint(script, plan.modules(stage, **wildcards))

    return of_job


def gpu(stage):
    """Resource function: GPUs that a job of `stage` asks for."""

    def of_job(wildcards):
        return plan.gpus(stage, **wildcards)

    return of_job


def growing(megabytes):
    """Resource function: more memory at every attempt."""

    def of_attempt(wildcards, attempt):
        return megabytes * attempt

    return of_attempt


def connections(wildcards):
    """Resource function: connections to a publisher that a download makes."""
    return plan.connections(wildcards.shelf, wildcards.name)


def listed(wildcards):
    """The listing that a download needs first: that of a dataset with a publisher."""
    return plan.listed(wildcards.shelf, wildcards.name)


def lock(wildcards):
    return plan.lock(wildcards.shelf, wildcards.name)


def raw_files(wildcards):
    return plan.raw(wildcards.dataset, wildcards.unit)


def weights(wildcards):
    return plan.weights(wildcards.backbone)


def x_stores(wildcards):
    return plan.x(wildcards.experiment)


def y_stores(wildcards):
    return plan.y(wildcards.experiment)


def picture_stores(wildcards):
    return plan.pictures(wildcards.experiment)


def candidate_stores(wildcards):
    return plan.candidate_pictures(wildcards.experiment)


def experiments_that(retrieve):
    """Constraint of the wildcard `experiment`: those that look for pictures, or the others."""
    names = [name for name in plan.known if plan.is_retrieval(name) == retrieve]
    return "|".join(names) or "(?!)"  # which matches nothing


def page_templates():
    """What the report is laid out with; not Python, so the `code` param does not see it."""
    folder = os.path.relpath(ROOT / "src/engram/figures")
    return sorted(
        str(path)
        for path in Path(folder).iterdir()
        if path.suffix in (".html", ".css", ".js")
    )


def baseline_predictions(wildcards):
    return plan.baseline_predictions(wildcards.experiment)


def compared_scores(wildcards):
    names = plan.compared_sources(wildcards.comparison)
    return [f"results/scores/{name}.json" for name in names]


def compared_features(wildcards):
    return plan.compared_features(wildcards.comparison)


def compared_costs(wildcards):
    return [
        str(Path(path).with_suffix(".json")) for path in compared_features(wildcards)
    ]


def compared_labels(wildcards):
    return plan.y(next(iter(plan.members(wildcards.comparison))))


def tracked_model(wildcards):
    return plan.tracked_model(wildcards.experiment)


def tracked_figures(wildcards):
    return plan.tracked_figures(wildcards.experiment)


wildcard_constraints:
    shelf="raw|weights",
    name="[^/]+",
    dataset="|".join(config["datasets"]),
    view="|".join(config["views"]),
    backbone="|".join(config["backbones"]),
    experiment="|".join(plan.known),
    comparison="|".join(config.get("comparisons", {})),
    unit="[^/]+",
