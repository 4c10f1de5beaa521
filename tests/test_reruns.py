"""Which stages feel an edit of a module: computed from the imports, without running anything."""

from pathlib import Path

from engram.planning import components, provenance
from engram.planning.plan import FAMILIES, Plan
from engram.planning.specs import OF_TASK

SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"
PUBLISHERS = components.PUBLISHERS
TARGETS = {
    "classes": "vigall",
    "pairs": "picture/timm",
    "pictures": "photograph",
    "values": "fact",
    "vectors": "picture/timm",
}
TABLE = Path(__file__).parent / "data" / "reruns.txt"


def name(path):
    return ".".join(path.relative_to(provenance.ROOT).with_suffix("").parts)


def every_component():
    """A plan in which each component has an entry, called by its kind, and each head a use."""
    config = {family: {k: {"kind": k} for k in components.kinds(family)} for family in FAMILIES}
    published = {one: {"kind": "eeg_recordings", "source": {one: "x"}} for one in PUBLISHERS}
    config["datasets"] |= published
    for this in config["datasets"].values():
        this |= {"units": ["unit"], "files": ["file"]}
    config["experiments"] = {
        f"{head}-{task}": {"dataset": "osf", "x": "epochs", "y": TARGETS[task], "head": head}
        for head in config["heads"]
        for task in components.constant(f"engram.heads.{head}", "TASKS")
    }
    trains = [kind for kind in config["backbones"] if is_torch(kind)]
    config["heads"] |= {f"finetune_{b}": {"kind": "finetune", "backbone": b} for b in trains}
    config["experiments"] |= {
        head: {"dataset": "osf", "x": "epochs", "y": "vigall", "head": head}
        for head in config["heads"]
        if head.startswith("finetune_")
    }
    config["experiments"]["latents"] = {
        "dataset": "osf", "x": "epochs", "y": "picture/vdvae", "head": "ridge"
    }  # fmt: skip
    config["experiments"] |= made_of(config)
    config["predict"] = {name: {"model": name, "files": []} for name in config["experiments"]}
    config["experiments"] |= {
        f"{experiment}-applied": {"dataset": "osf", "model": experiment}
        for experiment in Plan(config).known
        if is_kept(Plan(config), experiment)
    }
    config["decoders"] = {kind: decoder(kind) for kind in components.kinds("decoders")}
    for kind in components.kinds("objectives"):
        pretrain = {"objective": kind, "view": "timeseries", "datasets": ["osf"]}
        backbone = components.constant(f"engram.objectives.{kind}", "BACKBONE")
        own = {"kind": backbone, "weights": "pretrained", "pretrain": pretrain}
        config["backbones"][f"{kind}_own"] = own
    return Plan(config)


def made_of(config):
    """Experiments whose models are made of every dataset, view and backbone."""
    given = [{"dataset": kind} for kind in components.kinds("datasets")]
    given += [{"x": kind} for kind in config["views"]]
    given += [{"x": f"multitaper/{kind}"} for kind in config["backbones"]]
    usual = {"dataset": "osf", "x": "multitaper", "y": "vigall", "head": "linear"}
    return {f"made_of_{i}": usual | one for i, one in enumerate(given)}


def is_kept(plan, experiment):
    """Whether the model of an experiment can be applied to another data set."""
    kind = plan.config["heads"][plan.known[experiment]["head"]]["kind"]
    task = f"engram.tasks.{plan.task(experiment)}"
    kept = components.defines(f"engram.heads.{kind}", "predict")
    return kept and components.defines(task, "applied")


def decoder(kind):
    """A decoder that reads latents, or the pictures of `vdvae`, with random weights."""
    module = f"engram.decoders.{kind}"
    named = {"latents": "latents", "pictures": "vdvae"}
    reads = {key: named[what] for key, what in components.constant(module, "READS").items()}
    weights = components.constant(module, "WEIGHTS") or ()
    return {"kind": kind} | reads | dict.fromkeys(weights, "random")


def is_torch(kind):
    return "precision" in components.fields("backbones", kind)


def simulates(kind):
    return "\ndef make(" in provenance.locate(f"engram.datasets.{kind}").read_text("utf-8")


def jobs():
    """(stage, names of one job), so that each component is loaded by each stage that may."""
    plan = every_component()
    datasets, views = plan.config["datasets"], plan.config["views"]
    yield from (("listing", {"dataset": one}) for one in PUBLISHERS)
    fetched = [one for one in datasets if one in PUBLISHERS or simulates(one)]
    yield from (("download", {"shelf": "raw", "name": one, "file": "file"}) for one in fetched)
    for dataset, view in [*((one, "vigall") for one in datasets), *(("osf", one) for one in views)]:
        yield "render", {"dataset": dataset, "unit": "unit", "view": view}
    yield from (("extract", {"backbone": one}) for one in plan.config["backbones"])
    yield from (("pretrain", {"backbone": one}) for one in plan.pretrained())
    yield from (("predict", {"predicted": one}) for one in plan.predicted())
    of_unit = {"dataset": "osf", "unit": "unit"}
    yield from (("decode", {**of_unit, "decoder": one}) for one in plan.decoders)
    yield from (("apply", {"experiment": experiment}) for experiment in plan.applied())
    for experiment in plan.trained():
        of_task = [stage for stage in OF_TASK if stage not in ("occlude", "apply")]
        of_task += ["occlude"] * plan.of_task(experiment, "OCCLUDED")
        yield from ((stage, {"experiment": experiment}) for stage in of_task)


def reached():
    """Files that the jobs of each stage can run, by their script or a component loaded by name."""
    plan, loaded = every_component(), {script.stem: set() for script in SCRIPTS.glob("*.py")}
    for stage, names in jobs():
        loaded[stage] |= set(plan.modules(stage, **names))
    return {
        stage: provenance.reached(SCRIPTS / f"{stage}.py", modules)
        for stage, modules in loaded.items()
    }


def felt_by():
    """Stages that reach each module."""
    table = {name(path): set() for path in provenance.ROOT.rglob("*.py")}
    for stage, paths in reached().items():
        for path in paths:
            if path.is_relative_to(provenance.ROOT):
                table[name(path)].add(stage)
    return table


def lines(table):
    return [
        f"{module}: {' '.join(sorted(stages))}".rstrip() for module, stages in sorted(table.items())
    ]


def test_an_edit_is_felt_by_the_stages_in_the_table_and_no_others():
    found, expected = lines(felt_by()), TABLE.read_text(encoding="utf-8").splitlines()
    assert found == expected, "\n".join(sorted(set(found) ^ set(expected)))
