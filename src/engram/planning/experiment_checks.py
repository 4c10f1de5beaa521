"""What is wrong with an experiment or a comparison: its names, its rows, its split, its protocol.

Standard library only, like `engram.planning.plan`.
"""

from engram.errors import InputError
from engram.planning import applied, components, facts, plan
from engram.planning.shape import check_name, did_you_mean


def check_experiment(config, where, this):
    check_name(f"{where}.dataset", this["dataset"], config["datasets"], "dataset")
    check_name(f"{where}.head", this["head"], config["heads"], "head")
    targets = [this["y"]] if isinstance(this["y"], str) else this["y"]
    for sources in (*plan.candidates(this), targets):
        if twice := [source for source in sources if sources.count(source) > 1]:
            raise InputError(f"{where}: {twice[0]!r} is listed twice; take one out")
    seen_by = plan.seen_by(config["heads"][this["head"]])
    for source in [*(s for one in plan.candidates(this) for s in one), *targets]:
        view, _, backbone = source.partition("/")
        check_name(where, view, {**config["views"], **config.get("decoders", {})}, "view")
        _check_shared(config, where, this["dataset"], view)
        for name in seen_by if not backbone else ():
            check_name(f"heads.{this['head']}", name, config["backbones"], "backbone")
            _check_rows(config, where, view, name)
        if "/" in source:
            check_name(where, backbone, config["backbones"], "backbone")
            _check_rows(config, where, view, backbone)
    try:
        task = plan.task_of(this, config)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    for view in targets:
        if config["views"].get(view, {}).get("kind") == "fact":
            facts.check(plan.Plan(config), view, this["dataset"])
    facts.check_carried(plan.Plan(config), this["dataset"])
    if "voxels" in this:
        _check_voxels(config, where, this, task, targets)
    if this["baseline"] != "none":
        check_name(f"{where}.baseline", this["baseline"], config["experiments"], "experiment")
    ways = components.constant(f"engram.tasks.{task}", "FOLDS")
    how = this.get("folds", next(iter(ways)))
    kind = how["kind"] if isinstance(how, dict) else how
    check_name(f"{where}.folds", kind, ways, "way to split")
    if kind == "random_windows" and not this.get("i_know_this_leaks"):
        raise InputError(
            f"{where}.folds: random windows of one scan stand on both sides of the split; "
            "use leave_one_subject_out, or set `i_know_this_leaks: true` to see by how much"
        )
    learning = components.constant(f"engram.tasks.{task}", "LEARNING") or ()
    if "train_subjects" in this and kind not in learning:
        said = f"folds {kind} leave out no subjects" if learning else f"its task is {task}"
        raise InputError(
            f"{where}.train_subjects: {said}, so that fewer of them cannot be trained on; leave it "
            "out"
        )
    if backbone := config["heads"][this["head"]].get("backbone"):
        check_name(f"heads.{this['head']}.backbone", backbone, config["backbones"], "backbone")
    _check_protocol(config, where, this)


def _check_voxels(config, where, this, task, targets):
    """What is known of voxels stands beside responses that are predicted."""
    check_name(f"{where}.voxels", this["voxels"], config["views"], "view")
    if (kind := config["views"][this["voxels"]]["kind"]) != "voxels":
        raise InputError(f"{where}.voxels: name a view of kind voxels, not one of {kind}")
    if task != "vectors" or config["views"].get(targets[0], {}).get("kind") != "betas":
        raise InputError(
            f"{where}.voxels: y is {targets[0]!r}, whose numbers are no voxels; leave it out, or "
            "predict a view of kind betas"
        )


def _check_rows(config, where, view, backbone):
    """A view whose rows are not of the kind that a backbone takes."""
    given = plan.Plan(config).gives(view)
    whats, _ = components.taken({"backbone": plan.Plan(config).backbone(backbone)})
    if given not in whats:
        holds = f"{given} rows" if given else "no rows for a backbone"
        raise InputError(
            f"{where}: backbone {backbone!r} takes {' or '.join(whats)} rows, but the view "
            f"{view!r} holds {holds}; choose another view or backbone"
        )


def _check_shared(config, where, dataset, view):
    """The one store of a view that all units share is one that the dataset has."""
    unit = config["views"].get(view, {}).get("unit")
    shared = config["datasets"][dataset].get("shared", {})
    if unit is not None and unit not in shared:
        raise InputError(
            f"{where}: view {view!r} is made of the unit {unit!r}, which dataset {dataset!r} does "
            f"not have under `shared`{did_you_mean(unit, shared)}"
        )


def _check_protocol(config, where, this):
    """A model chosen on test pictures is shown beside one that was not, or not at all."""

    def clean(experiment):
        return config["heads"][experiment["head"]].get("select_on", "validation") != "test"

    if clean(this):
        return
    beside = config["experiments"].get(this["baseline"])
    if not (beside and clean(beside) and beside["dataset"] == this["dataset"]):
        raise InputError(
            f"{where}: head {this['head']!r} chooses its epoch on the test pictures; name as "
            "`baseline` an experiment on the same dataset that does not, to be shown beside it"
        )


def check_comparison(config, name):
    this, where = config["comparisons"][name], f"comparisons.{name}"
    backbones = this["backbones"]
    for backbone in backbones:
        check_name(f"{where}.backbones", backbone, config["backbones"], "backbone")
        if backbones.count(backbone) > 1:
            raise InputError(f"{where}.backbones: {backbone!r} is listed twice")
    first = next(iter(plan.Plan(config).members(name).values()))
    check_experiment(config, where, first)
    task = plan.task_of(first, config)
    if not components.constant(f"engram.tasks.{task}", "COMPARED"):
        raise InputError(
            f"{where}: its members ask {task}, but backbones are compared by how they tell classes "
            "or numbers; write one experiment a backbone, which the report shows in one table"
        )
    for guest in this.get("experiments", []):
        check_name(f"{where}.experiments", guest, config["experiments"], "experiment")
        if guest == this["baseline"]:
            raise InputError(
                f"{where}.experiments: {guest!r} is the baseline, which is shown anyway"
            )
        for key in ("dataset", "y", "baseline"):
            if applied.resolved(config["experiments"])[guest].get(key) != this[key]:
                raise InputError(
                    f"{where}.experiments: {guest!r} has another `{key}` than the comparison, so "
                    "that their scores do not compare"
                )
