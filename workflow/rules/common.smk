import hashlib
import inspect
import os
import re
import sys
from pathlib import Path

from snakemake.utils import update_config

here = Path(workflow.current_basedir.get_path_or_uri(secret_free=True))
if here.is_dir():  # a module from a repository needs the package installed
    # Snakemake hands this path on to every script.
    sys.path.insert(0, str(here.parents[1] / "src"))

import engram
from engram.planning import clusters, components, config_files
from engram.planning.automatic import completed
from engram.planning.configuration import check
from engram.errors import InputError
from engram.planning.plan import Plan
from engram.planning.provenance import fingerprint
from engram.planning.shape import filled
from engram.planning.targets import check_asked

ROOT = Path(engram.__file__).parents[2]
if not (ROOT / "workflow").is_dir():
    sys.exit(
        "error: the installed package `engram` has no workflow beside it; install it from a "
        "checkout: pip install -e FOLDER"
    )
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"

vocabulary = [ROOT / "config/config.yaml", ROOT / "config/backbones.yaml"]
own = "config/config.yaml"  # of the folder in which a study runs
asked = list(workflow.overwrite_configfiles)  # on the command line
around = [file for file in workflow.configfiles if file not in asked]  # a module
here_too = [own] if os.path.isfile(own) else []
# Each is laid over those before.
files = list(
    dict.fromkeys(map(os.path.relpath, [*vocabulary, *here_too, *around, *asked]))
)


def refuse(error):
    sys.exit(f"error in the configuration: {error}")


try:
    for file in files:
        config_files.check(file)
except InputError as error:
    refuse(error)

if here_too:

    configfile: own


given = config  # in a module that of the workflow around it
config = {}
for file in vocabulary:
    update_config(config, config_files.load(file))
update_config(config, given)
if asked:
    config.setdefault("study", Path(asked[-1]).stem)


def checked_plan():
    """The plan of the configuration, or one line that says what is wrong in it."""
    schema = config_files.load(SCHEMA)
    try:
        check(config, schema)
        this = Plan(completed(filled(config, schema)))
        check_asked(this, sys.argv[1:])  # Snakemake reads its targets after this
        for dataset in this.datasets():
            for unit in (*this.units(dataset), *this.shared(dataset)):
                this.raw(dataset, unit)
            for view in this.config["views"]:
                this.beside(dataset, view)
        for name in this.predicted():
            this.predicted_recordings(name)
        return this
    except InputError as error:
        refuse(config_files.located(str(error), files, workflow.config_settings.config))


plan = checked_plan()


def signed(function):
    """Lay down the signature of a function: Snakemake asks for it at every call."""
    function.__signature__ = inspect.signature(function)
    return function


def spec(stage):
    """Params function: the configuration that a job of `stage` depends on."""

    @signed
    def of_job(wildcards):
        return plan.spec(stage, **wildcards)

    return of_job


def code(stage, layouts=()):
    """Params function: the code that a job of `stage` can run, and how it lays out its pages.

    Layouts lie in these folders of the package. They are no inputs: their paths would be those of
    this checkout, and results that are looked at from another one would be made again.
    """
    script = ROOT / f"workflow/scripts/{stage}.py"
    around = [word for folder in layouts for word in digests(folder)]

    @signed
    def of_job(wildcards):
        words = fingerprint(script, plan.modules(stage, **wildcards))
        return " ".join([words, *around])

    return of_job


def digests(folder):
    """What in a folder of the package lays out pages, as "folder/file@digest" words."""
    files = sorted((ROOT / "src/engram" / folder).iterdir())
    return [
        f"{folder}/{file.name}@{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
        for file in files
        if file.suffix in (".html", ".css", ".js")
    ]


def gpu(stage):
    """Resource function: GPUs that a job of `stage` asks for."""

    @signed
    def of_job(wildcards):
        return plan.gpus(stage, **wildcards)

    return of_job


def batch(stage, gpus=False):
    """Group of a job: those of one rule that ask the same, which a cluster takes several at a time."""

    @signed
    def of_job(wildcards):
        if workflow.local_exec and not workflow.remote_exec:
            return None
        if not gpus:
            return stage
        return f"{stage}_{'gpu' if plan.gpus(stage, **wildcards) else 'cpu'}"

    return of_job


def refuse_what_never_starts():
    """End the run with a line for each rule whose jobs no partition of the cluster can start."""
    file = getattr(workflow.executor_settings, "partition_config", None)
    if file:
        try:
            partitions = clusters.read_partitions(file)
        except InputError as error:
            sys.exit(f"error: {error}")
        jobs = (job for job in workflow.dag.needrun_jobs() if not job.is_local)
        lines = clusters.never(map(asked, jobs), partitions, file)
        if lines:
            sys.exit("\n".join(f"error: {line}" for line in lines))


def asked(job):
    """What a job asks of a cluster, its memory before the profile's limit; in a batch all its time."""
    given = {"threads": job.threads, "rulename": job.rule.name}
    given |= {"input": job.input, "attempt": 1, "async_run": workflow.async_run}
    memory = job.rule.resources.get("mem_mb").evaluate(job.wildcards, **given).value
    batch = workflow.dag.get_job_group(job)
    minutes = (batch or job).resources.get("runtime", 0)
    return clusters.Ask(
        job.rule.name,
        job.resources.get("gpu", 0),
        job.threads,
        memory,
        minutes,
        batch.groupid if batch and len(batch.jobs) > 1 else "",
    )


def growing(megabytes):
    """Resource function: more memory at every attempt."""

    @signed
    def of_attempt(wildcards, attempt):
        return megabytes * attempt

    return of_attempt


@signed
def connections(wildcards):
    """Resource function: connections to a publisher that a download makes."""
    return plan.connections(wildcards.shelf, wildcards.name)


@signed
def listed(wildcards):
    """The listing that a download needs first: that of a dataset with a publisher."""
    return plan.listed(wildcards.shelf, wildcards.name)


@signed
def lock(wildcards):
    return plan.lock(wildcards.shelf, wildcards.name)


@signed
def raw_files(wildcards):
    return plan.raw(wildcards.dataset, wildcards.unit)


@signed
def beside(wildcards):
    return plan.beside(wildcards.dataset, wildcards.view)


@signed
def weights(wildcards):
    return plan.weights(wildcards.backbone)


@signed
def named_files(wildcards):
    return plan.named_files("backbones", wildcards.backbone)


@signed
def pretrain_views(wildcards):
    return plan.pretrain_views(wildcards.backbone)


@signed
def decoder_sources(wildcards):
    return plan.decoder_sources(**wildcards)


@signed
def decoder_weights(wildcards):
    return plan.decoder_weights(wildcards.decoder)


@signed
def x_stores(wildcards):
    return plan.x(wildcards.experiment)


@signed
def y_stores(wildcards):
    return plan.y(wildcards.experiment)


@signed
def applied_model(wildcards):
    return plan.own(f"models/{plan.model(wildcards.experiment)}.safetensors")


def of_model(stores):
    """Input function: stores that the model of an experiment was trained on, if it applies one."""

    @signed
    def of_job(wildcards):
        return plan.of_model(wildcards.experiment, stores)

    return of_job


@signed
def head_weights(wildcards):
    return plan.head_weights(wildcards.experiment)


@signed
def probed_stores(wildcards):
    return plan.probed(wildcards.experiment)


@signed
def picture_stores(wildcards):
    return plan.pictures(wildcards.experiment)


@signed
def importance(wildcards):
    return plan.importance(wildcards.experiment)


def drawn(task):
    """The figures of experiments that ask one question; the first goes into Snakemake's report."""
    folder = "results/<study>/figures/{experiment}"
    figures = components.constant(f"engram.tasks.{task}", "FIGURES")
    paths = {name: f"{folder}/{file}" for name, file in figures.items()}
    first = next(iter(paths))
    paths[first] = report(
        paths[first],
        caption=f"../report/{task}.rst",
        category="Figures",
        labels={"experiment": "{experiment}", "figure": first},
    )
    return paths


@signed
def training_memory(wildcards, attempt):
    """Resource function: what the task says, more at every attempt."""
    return plan.of_task(wildcards.experiment, "MEMORY_MB") * attempt


@signed
def training_time(wildcards):
    return plan.of_task(wildcards.experiment, "RUNTIME")


@signed
def baseline_predictions(wildcards):
    return plan.baseline_predictions(wildcards.experiment)


@signed
def null_stores(wildcards):
    return plan.null(wildcards.experiment)


def compared_scores(wildcards):
    names = plan.compared_sources(wildcards.comparison)
    return [plan.own(f"scores/{name}.json") for name in names]


def compared_features(wildcards):
    return plan.compared_features(wildcards.comparison)


def compared_costs(wildcards):
    return [
        str(Path(path).with_suffix(".json")) for path in compared_features(wildcards)
    ]


def compared_labels(wildcards):
    return plan.y(next(iter(plan.members(wildcards.comparison))))


@signed
def predicting_model(wildcards):
    return plan.predicting_model(wildcards.predicted)


@signed
def predicting_card(wildcards):
    return plan.predicting_card(wildcards.predicted)


@signed
def predicted_recordings(wildcards):
    return plan.predicted_recordings(wildcards.predicted)


@signed
def predicting_weights(wildcards):
    return plan.predicting_weights(wildcards.predicted)


def tracked_model(wildcards):
    return plan.tracked_model(wildcards.experiment)


def tracked_figures(wildcards):
    return plan.tracked_figures(wildcards.experiment)


def alternatives(names):
    """A pattern that matches names, or nothing where there are none."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    shelf="raw|weights",
    name="[^/]+",
    dataset="|".join(plan.config["datasets"]),
    view="|".join(plan.config["views"]),
    backbone="|".join(plan.config["backbones"]),
    decoder="|".join(plan.decoders),
    experiment="|".join(plan.known),
    comparison="|".join(plan.config.get("comparisons", {})),
    predicted="|".join(plan.predicted()),
    unit="[^/]+",
